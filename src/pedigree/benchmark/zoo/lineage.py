"""Which trained weights went into which part of a model.

A trained root is the name of a training from a fresh start. A block's branch remembers the (root, block) pairs whose
trained weights it carries; the empty set means a fresh start that nobody trained before.

Law  the lineage of a derivative follows from its operator's arguments and its parents' lineages alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

Origin = frozenset[tuple[str, int]]


@dataclass(frozen=True)
class Block:
    """Origins of the two branches of a block."""

    attn: Origin = frozenset()
    mlp: Origin = frozenset()


@dataclass(frozen=True)
class Lineage:
    """Origins of a model.

    Args:
        start: identifier of the random start (architecture, sizes and seed); equal ids mean equal numbers.
        embed: roots whose trained embeddings it carries.
        blocks: origins of the blocks, in order.
    """

    start: str
    embed: frozenset[str]
    blocks: tuple[Block, ...]

    @staticmethod
    def of_root(root: str, start: str, n_layers: int) -> Lineage:
        """The lineage of a training from a fresh start."""
        blocks = tuple(Block(frozenset({(root, i)}), frozenset({(root, i)})) for i in range(n_layers))
        return Lineage(start=start, embed=frozenset({root}), blocks=blocks)

    def trained_as(self, name: str) -> Lineage:
        """After a training under `name`: parts which had no origin get this one."""
        blocks = tuple(
            Block(block.attn or frozenset({(name, i)}), block.mlp or frozenset({(name, i)}))
            for i, block in enumerate(self.blocks)
        )
        return replace(self, embed=self.embed or frozenset({name}), blocks=blocks)

    def arranged(self, order: Sequence[int]) -> Lineage:
        """After rearranging blocks."""
        return replace(self, blocks=tuple(self.blocks[source] for source in order))

    def without(self, part: str) -> Lineage:
        """After drawing a part afresh: "embed", "attn", "mlp" or "body"."""
        if part == "embed":
            return replace(self, embed=frozenset())
        if part == "body":
            return replace(self, blocks=tuple(Block() for _ in self.blocks))
        return replace(self, blocks=tuple(replace(block, **{part: frozenset()}) for block in self.blocks))

    def mixed_with(self, other: Lineage) -> Lineage:
        """After a merge with another model of the same depth."""
        blocks = tuple(Block(a.attn | b.attn, a.mlp | b.mlp) for a, b in zip(self.blocks, other.blocks, strict=True))
        return replace(self, embed=self.embed | other.embed, blocks=blocks)

    def spliced_with(self, other: Lineage, layers: Sequence[int]) -> Lineage:
        """After taking some blocks from another model."""
        chosen = set(layers)
        return replace(
            self,
            blocks=tuple(other.blocks[i] if i in chosen else block for i, block in enumerate(self.blocks)),
        )
