"""The Merkle tree of RFC 9162 (and RFC 6962): roots, proofs, and their verification.

Level 0 holds the hashes of the leaves; node (level, i) covers the leaves [i * 2**level, (i + 1) * 2**level) and is kept
once all of them exist, so that a kept node never changes. Roots and proofs are folded from kept nodes.

Laws
1. Every hash has 32 bytes; a proof with another length of anything is refused.
2. The tree without leaves has the root SHA-256(""); nothing but the empty proof shows that it grew into another.
3. `verify_*` answer yes or no, and never raise for what a stranger hands in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

HASH_SIZE = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()
MAX_SIZE = 2**63 - 1  # leaves; what the databases count to
Place = tuple[int, int]
Nodes = Callable[[int, int], bytes]
"""The kept node at (level, index)."""


def leaf_hash(leaf: bytes) -> bytes:
    """Hash of a leaf, RFC 9162 section 2.1.1."""
    return hashlib.sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of an inner node, RFC 9162 section 2.1.1."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def kept_places(start: int, stop: int) -> Iterator[Place]:
    """The largest kept nodes that cover the leaves [start, stop), left to right; RFC 9162 splits at `start`."""
    while start < stop:
        level = (stop - start).bit_length() - 1
        if start:
            level = min(level, (start & -start).bit_length() - 1)
        yield level, start >> level
        start += 1 << level


def fold(hashes: Sequence[bytes]) -> bytes:
    """The root over neighbouring subtrees that shrink from left to right."""
    if not hashes:
        return EMPTY_ROOT
    root = hashes[-1]
    for left in reversed(hashes[:-1]):
        root = node_hash(left, root)
    return root


def subtree(nodes: Nodes, start: int, stop: int) -> bytes:
    """Hash of the subtree over the leaves [start, stop)."""
    return fold([nodes(*place) for place in kept_places(start, stop)])


def completed(index: int, leaf: bytes, nodes: Nodes) -> list[tuple[Place, bytes]]:
    """The nodes above level 0 that are complete once the leaf with this hash stands at `index`."""
    found, level, value = [], 0, leaf
    while index >> level & 1:
        value = node_hash(nodes(level, (index >> level) - 1), value)
        level += 1
        found.append(((level, index >> level), value))
    return found


def _split(size: int) -> int:
    """The largest power of two below `size`."""
    return 1 << ((size - 1).bit_length() - 1)


def inclusion_ranges(index: int, size: int) -> list[Place]:
    """The subtrees [start, stop) of an inclusion proof, nearest to the leaf first (RFC 9162 section 2.1.3.1)."""
    path, start, stop = [], 0, size
    while stop - start > 1:
        middle = start + _split(stop - start)
        if index < middle:
            path.append((middle, stop))
            stop = middle
        else:
            path.append((start, middle))
            start = middle
    return path[::-1]


def consistency_ranges(old: int, new: int) -> list[Place]:
    """The subtrees [start, stop) of a consistency proof (RFC 9162 section 2.1.4.1)."""
    if not 0 < old < new:
        return []
    path, start, stop, whole = [], 0, new, True
    while stop != old:
        middle = start + _split(stop - start)
        if old <= middle:
            path.append((middle, stop))
            stop = middle
        else:
            path.append((start, middle))
            start, whole = middle, False
    return ([] if whole else [(start, stop)]) + path[::-1]


def inclusion_proof(nodes: Nodes, index: int, size: int) -> list[bytes]:
    """Proof that a leaf stands at `index` in the tree of `size` leaves."""
    return [subtree(nodes, start, stop) for start, stop in inclusion_ranges(index, size)]


def consistency_proof(nodes: Nodes, old: int, new: int) -> list[bytes]:
    """Proof that the tree of `new` leaves begins with the tree of `old` leaves."""
    return [subtree(nodes, start, stop) for start, stop in consistency_ranges(old, new)]


def _well_formed(proof: Sequence[bytes], *hashes: bytes) -> bool:
    return len(proof) <= 64 and all(len(value) == HASH_SIZE for value in (*hashes, *proof))


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether the leaf with this hash stands at `index` in the tree of `size` leaves with this root."""
    if not 0 <= index < size <= MAX_SIZE or not _well_formed(proof, leaf, root):
        return False
    ranges = inclusion_ranges(index, size)
    if len(ranges) != len(proof):
        return False
    value = leaf
    for (start, _), other in zip(ranges, proof, strict=True):
        value = node_hash(value, other) if start > index else node_hash(other, value)
    return value == root


def verify_consistency(old: int, new: int, proof: Sequence[bytes], old_root: bytes, new_root: bytes) -> bool:
    """Whether the tree of `new` leaves with `new_root` begins with the tree of `old` leaves with `old_root`."""
    if not 0 <= old <= new <= MAX_SIZE or not _well_formed(proof, old_root, new_root):
        return False
    if old == new:
        return not proof and old_root == new_root and (new > 0 or new_root == EMPTY_ROOT)
    if old == 0:
        return not proof and old_root == EMPTY_ROOT
    ranges = consistency_ranges(old, new)
    if len(ranges) != len(proof):
        return False
    # The old tree is the subtrees that end at or before `old`; where it is one of them it leads no proof of its own.
    known = dict(zip(ranges, proof, strict=True))
    values = list(proof)
    if ranges[0][0] == 0 or ranges[0][1] != old:  # `old` is a whole subtree from the left: its root is known
        first_range, first = (0, old), old_root
    else:
        first_range, first = ranges[0], values.pop(0)
    begun, grown = first, first
    at = first_range
    for (start, stop), other in [(place, known[place]) for place in ranges if place != first_range]:
        if start >= at[1]:
            grown = node_hash(grown, other)
            at = (at[0], stop)
        else:
            begun, grown = node_hash(other, begun), node_hash(other, grown)
            at = (start, at[1])
    return begun == old_root and grown == new_root
