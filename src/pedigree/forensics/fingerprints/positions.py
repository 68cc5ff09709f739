"""Which coordinates, units, heads and tokens a fingerprint holds: the same in every model, chosen by a keyed hash.

The k smallest hashes of a range are taken, so the choices from two ranges have in common what falls into both: models
of other widths still share positions. The hash sees numbers and token texts only, never weights: nothing can be chosen
to please a hypothesis, and tests that are exact on all positions are exact on these. A salt keys the hash; who does not
know it can neither find the positions nor look tokens up.

Source  bottom-k sketches (Broder 1997).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

TOKEN_BYTES = 8


def digest_of(salt: str, *parts: object, size: int = 8) -> bytes:
    """Keyed hash of some words."""
    key = hashlib.sha256(salt.encode("utf-8")).digest()
    text = "\x1f".join(map(str, parts)).encode("utf-8")
    return hashlib.blake2b(text, key=key, digest_size=size).digest()


def salt_check(salt: str) -> str:
    """What a fingerprint says about its salt, so that the wrong one is noticed; empty without a salt."""
    if not salt:
        return ""
    # Slow on purpose: the check must not help to guess a weak salt.
    return hashlib.pbkdf2_hmac("sha256", salt.encode("utf-8"), b"pedigree/fingerprint", 200_000, 16).hex()


def choose(salt: str, kind: str, total: int, wanted: int, run: int = 1) -> list[int]:
    """At most `wanted` of `range(total)` in runs of `run`: those with the smallest hashes, in the order of hashes."""
    starts = sorted(range(0, total, run), key=lambda start: digest_of(salt, kind, start))
    chosen: list[int] = []
    for start in starts:
        if len(chosen) >= wanted:
            break
        chosen.extend(range(start, min(start + run, total)))
    return chosen[:wanted]


def choose_tokens(salt: str, tokens: Iterable[tuple[bytes, int]], wanted: int) -> list[tuple[bytes, int]]:
    """(hash, row) of the tokens with the smallest hashes, in order; equal texts have equal hashes in any model."""
    key = hashlib.sha256(salt.encode("utf-8")).digest()
    hashed = [
        (hashlib.blake2b(b"token\x1f" + text, key=key, digest_size=TOKEN_BYTES).digest(), row) for text, row in tokens
    ]
    return sorted(hashed)[:wanted]
