"""A plan: everything about a run that is known before a byte of weights is read.

Source  the idea of a plan that can be printed, compared and refused is mergekit's (arcee-ai/mergekit, plan.py).
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pedigree.errors import MissingInput, OutputExists, UsageError
from pedigree.records.canonical import canonical_digest
from pedigree.surgery.companions import config_changes
from pedigree.surgery.composition import Composition
from pedigree.surgery.nodes import Derived, Leaf, Node, Statistic
from pedigree.surgery.shards import Placed, Shard, pack
from pedigree.surgery.storing import Output
from pedigree.weights.number_types import BITS

TILE_ELEMENTS = 5 << 18
"""Numbers of one tile, 2.5 MB in 16 bits: what is computed of it stays near the core, and many may be on their way."""
WIDE = 4
"""How many times larger the tiles are where a small one would cost more than its share, and those of statistics."""
HELD_BYTES = 320 << 20
"""Most bytes of inputs that all workers together hold between the looks at a tensor and its writing."""
LEAST_FREE = 16 << 20
PARTIAL = ".partial"


@dataclass(frozen=True, eq=False)
class Plan:
    """A run to be.

    Attributes:
        composition: the result on nodes.
        shards: files of the result.
        target: folder of the result; `partial` holds it while it is made.
        workers: threads.
        read_bytes: bytes of tensors that are read: once what is copied, however often; what is computed from once for
            every output it goes into.
        write_bytes: bytes written; `linked_bytes` are shared with the source instead.
        peak_bytes: memory of tiles and buffers of all workers, and of what statistics have to hold; the program itself
            not counted.
        statistics: what is gathered before anything is written, those that others are made from first.
        own: by the identity of an output what is gathered for it alone, right before it is written.
        held_bytes: most bytes of its inputs that are held meanwhile, by all workers together.
        digest: of recipe, sources and layout: a run that goes on has the same.
    """

    composition: Composition
    shards: tuple[Shard, ...]
    target: Path
    workers: int
    read_bytes: int
    write_bytes: int
    linked_bytes: int
    peak_bytes: int
    statistics: tuple[Statistic, ...]
    own: Mapping[int, tuple[Statistic, ...]]
    held_bytes: int
    digest: str

    @property
    def partial(self) -> Path:
        """The folder the result is made in."""
        return self.target.with_name(self.target.name + PARTIAL)

    @property
    def written(self) -> list[tuple[Shard, Placed]]:
        """Tensors to write with their files, in the order of the files."""
        return [(shard, placed) for shard in self.shards if shard.link is None for placed in shard.tensors]

    def config_changes(self) -> dict[str, list[object]]:
        """Settings that change."""
        return config_changes(self.composition.source.config, self.composition.symbolic.config.values)


def make_plan(composition: Composition, *, workers: int | None = None) -> Plan:
    """Lay out the result and count."""
    recipe = composition.recipe
    symbolic = composition.symbolic
    most = recipe.shard_bytes if symbolic.is_model else 1 << 62  # an adapter is read from one file
    shards = tuple(pack(composition.outputs, most, link=recipe.link, stem=symbolic.stem))
    written = [placed for shard in shards if shard.link is None for placed in shard.tensors]
    every = all_statistics([placed.output for placed in written])
    own = own_statistics([placed.output for placed in written], every)
    alone = {id(statistic) for group in own.values() for statistic in group}
    statistics = tuple(statistic for statistic in every if id(statistic) not in alone)
    depth = max((_live_tiles(placed.output.node) for placed in written if not placed.output.origin), default=1)
    widest = max((_tile_numbers(placed.output) for placed in written), default=0)
    widest = max([widest, *(_seen_numbers(one.inputs()) for one in statistics if one.inputs())])
    # Twice the cores, since some read and some write; twice as many again where tiles are small and none is gathered.
    count = workers or max(4, min(8, 2 * (os.cpu_count() or 2))) * (2 if widest <= TILE_ELEMENTS and not every else 1)
    return Plan(
        composition=composition,
        shards=shards,
        target=recipe.target,
        workers=count,
        read_bytes=_copied_bytes(written)
        + sum(_reads(placed.output, own) for placed in written if not placed.output.origin)
        + sum(_stored_bytes(node) for statistic in statistics for node in statistic.inputs()),
        write_bytes=sum(shard.size for shard in shards if shard.link is None),
        linked_bytes=sum(shard.size for shard in shards if shard.link is not None),
        peak_bytes=count * (widest * 4 * (depth + 2) + max((one.held_bytes() for one in statistics), default=0))
        + (HELD_BYTES if own else 0),
        statistics=statistics,
        own=own,
        held_bytes=HELD_BYTES if own else 0,
        digest=_digest(composition, shards),
    )


def all_statistics(outputs: Sequence[Output]) -> tuple[Statistic, ...]:
    """Statistics that the tensors need, those that others are made from first."""
    return _reached(output.node for output in outputs if not output.origin)


def own_statistics(outputs: Sequence[Output], every: Sequence[Statistic]) -> dict[int, tuple[Statistic, ...]]:
    """By the identity of an output the exact statistics that it alone needs, in order; see `Statistic.exact`."""
    if not any(statistic.exact for statistic in every):
        return {}
    before = _reached(node for statistic in every if not statistic.exact for node in statistic.inputs())
    shared = {id(statistic) for statistic in before}
    needed = {id(output): _reached([output.node]) for output in outputs if not output.origin}
    users = Counter(id(statistic) for group in needed.values() for statistic in group)
    own = {
        output: tuple(one for one in group if one.exact and users[id(one)] == 1 and id(one) not in shared)
        for output, group in needed.items()
    }
    return {output: group for output, group in own.items() if group}


def _reached(nodes: Iterable[Node]) -> tuple[Statistic, ...]:
    """Statistics below some nodes, those that others are made from first."""
    found: dict[int, Statistic] = {}

    def take(statistic: Statistic) -> None:
        if id(statistic) not in found:
            for other in statistic.needs() if isinstance(statistic, Derived) else ():
                take(other)
            for given in statistic.inputs():
                visit(given)
            found[id(statistic)] = statistic

    def visit(node: Node) -> None:
        for inner in node.walk():
            for statistic in inner.statistics():
                take(statistic)

    for node in nodes:
        visit(node)
    return tuple(found.values())


def tile_rows(node: Node) -> int:
    """Rows of one tile of a node."""
    small = all(inner.proportional and not (isinstance(inner, Leaf) and inner.turned) for inner in node.walk())
    return _rows_of(node, TILE_ELEMENTS if small else WIDE * TILE_ELEMENTS)


def statistic_rows(nodes: Sequence[Node]) -> int:
    """Rows that a statistic sees at once: sums are rounded at these places, so they are part of a result's bits."""
    return min(_rows_of(node, WIDE * TILE_ELEMENTS) for node in nodes)


def _rows_of(node: Node, numbers: int) -> int:
    columns = node.shape[1] if len(node.shape) == 2 else 1
    return max(1, numbers // max(1, columns))


def _tile_numbers(output: Output) -> int:
    if output.origin:
        return TILE_ELEMENTS
    columns = output.node.shape[1] if len(output.node.shape) == 2 else 1
    return min(tile_rows(output.node), output.node.shape[0]) * columns


def _seen_numbers(nodes: Sequence[Node]) -> int:
    columns = nodes[0].shape[1] if len(nodes[0].shape) == 2 else 1
    return min(statistic_rows(nodes), nodes[0].shape[0]) * columns


def _live_tiles(node: Node) -> int:
    """Tiles that are held at once while one tile of a node is computed, the largest of its branches last."""
    children = node.children()
    return 1 if not children else len(children) + max(_live_tiles(child) for child in children)


def held_size(output: Output, most: int) -> int:
    """Bytes that are held between the looks at the inputs of a tensor and its writing; 0 where it is read anew."""
    size = _stored_bytes(output.node)
    return size if size <= most else 0


def _copied_bytes(written: Sequence[Placed]) -> int:
    """Bytes of the stored tensors that are copied."""
    found = {(id(one.output.checkpoint), one.output.origin): one.nbytes for one in written if one.output.origin}
    return sum(found.values())


def _reads(output: Output, own: Mapping[int, tuple[Statistic, ...]]) -> int:
    times = 1 if held_size(output, HELD_BYTES) else 1 + len(own.get(id(output), ()))
    return times * _stored_bytes(output.node)


def _stored_bytes(root: Node) -> int:
    """Bytes of everything stored that a node is computed from."""
    total = 0
    for node in root.walk():
        if isinstance(node, Leaf):
            count = 1
            for length in node.shape:
                count *= length
            total += count * BITS.get(node.part.dtype, 16) // 8
    return total


def _digest(composition: Composition, shards: Sequence[Shard]) -> str:
    checkpoints = {composition.recipe.source: composition.source, **composition.others}
    sources = {}
    for place, checkpoint in checkpoints.items():
        times = [
            (file, str(path.stat().st_size), str(path.stat().st_mtime_ns))
            for file in checkpoint.file_bytes
            if (path := checkpoint.local_file(file)) is not None
        ]
        sources[place] = [checkpoint.header_digest(), times]
    layout = [
        [shard.name, str(shard.size), str(shard.link), [p.output.name for p in shard.tensors]] for shard in shards
    ]
    return canonical_digest({"recipe": composition.recipe.digest(), "sources": sources, "layout": layout})


def check_target(plan: Plan, *, force: bool) -> None:
    """Refuse a target that is in the way, or has no room.

    Raises:
        OutputExists: the folder is there and `force` is off.
        MissingInput: the folder above is not there.
        UsageError: the disk is too small, or the target is a source.
    """
    target = plan.target
    sources = [plan.composition.recipe.source, *plan.composition.others]
    if any("://" not in place and Path(place).resolve() == target.resolve() for place in sources):
        raise UsageError("the target is one of the sources", where=str(target), fix="another target.dir")
    if not target.parent.is_dir():
        raise MissingInput("the folder of the target does not exist", where=str(target.parent), fix="make it first")
    if target.exists() and not force:
        raise OutputExists("the target is already there", where=str(target), fix="--force, or another target.dir")
    already = 0
    if plan.partial.is_dir():
        already = sum(entry.stat().st_blocks * 512 for entry in plan.partial.iterdir() if entry.is_file())
    free = shutil.disk_usage(target.parent).free
    needed = plan.write_bytes - already + LEAST_FREE
    if free < needed:
        raise UsageError(
            "the disk has too little room", where=str(target.parent), got=f"{free:,} bytes free",
            expected=f"{needed:,} bytes ({plan.write_bytes:,} are written, {plan.linked_bytes:,} shared)",
            fix="free some space, or another target.dir",
        )  # fmt: skip
