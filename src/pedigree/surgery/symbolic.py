"""A symbolic checkpoint: every part of a model as a node, and how the parts will be stored.

`read_symbolic` looks at headers only. Operators change `parts` (canonical matrices [out, in] by role, layer, expert),
the dimensions and the config; nothing is read until the engine runs. What no operator touched is copied byte for byte
under its old name.

Laws
1. A checkpoint that no operator touched is written again with the same tensors, bit for bit.
2. Parts are stored as the architecture stores them (fused, transposed, interleaved, packed); operators never see it.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from pedigree.surgery.nodes import Leaf, Node
from pedigree.surgery.selection import Index, Selection, length, take
from pedigree.surgery.settings import Settings
from pedigree.weights.anatomy import Anatomy, read_anatomy
from pedigree.weights.assembly import Key
from pedigree.weights.checkpoint import Checkpoint
from pedigree.weights.part import Piece
from pedigree.weights.prefix import strip_prefixes
from pedigree.weights.roles import MTP
from pedigree.weights.table import Match, tables

__all__ = ["Key", "Loose", "Stored", "Symbolic", "read_symbolic"]


WHOLE_NUMBERS = {"moe.router.table": "I64"}
"""Roles whose numbers are no weights, and their type."""


@dataclass(frozen=True, eq=False)
class Loose(Node):
    """A stored tensor without a role, seen as [items of axis 0, everything else]."""

    proportional: ClassVar[bool] = True
    checkpoint: Checkpoint
    name: str
    shape: tuple[int, ...] = field(init=False)
    dtype: str = field(init=False)

    def __post_init__(self) -> None:
        info = self.checkpoint.tensors[self.name]
        rows = info.shape[0] if info.shape else 1
        count = 1
        for size in info.shape:
            count *= size
        object.__setattr__(self, "shape", (rows, count // rows if rows else 0))
        object.__setattr__(self, "dtype", info.dtype)

    def tile(self, rows: Selection, cols: Selection | None, work: Any) -> Any:
        """Items of axis 0, flattened."""
        if not self.checkpoint.tensors[self.name].shape:
            tensor = self.checkpoint.read(self.name)
        elif isinstance(rows, slice):
            tensor = self.checkpoint.read_rows(self.name, rows.start, rows.stop)
        else:
            tensor = self.checkpoint.read_index(self.name, rows)
        tensor = tensor.reshape(length(rows), -1)
        return tensor if cols is None else take(tensor, 1, cols)


@dataclass(frozen=True)
class Stored:
    """One tensor of the file to be.

    Attributes:
        template: its name, `{i}` where the layer number stands.
        layer: layer number, None outside the layers; of prediction layers the number counted from 0.
        prediction: whether the layer is one behind the numbered ones, which predicts further tokens.
        keys: the parts it holds, expert after expert, in the order of their rows; empty for a tensor without a role.
        rows: for each key the stored (oriented) row of each of its rows, None where they follow each other from the
            end of the key before.
        match: what the role table says of it; None without a role.
        transposed, swapped, packed, vector, tail: as in `pedigree.weights.part.Piece`.
        shape: its shape in the source.
        origin: its name in the source.
        leaves: the nodes of its parts as they were read: while they are still those, the tensor is copied.
        loose: its node, for a tensor without a role.
        dtype: number type of a new tensor that keeps one of its own, as tables of whole numbers do.
    """

    template: str
    layer: int | None
    prediction: bool
    keys: tuple[Key, ...]
    rows: tuple[Index | None, ...]
    match: Match | None
    transposed: bool
    swapped: bool
    packed: bool
    vector: bool
    tail: bool
    shape: tuple[int, ...]
    origin: str
    leaves: tuple[Node, ...]
    loose: Node | None = None
    dtype: str | None = None

    def at_layer(self, layer: int) -> Stored:
        """The same tensor of another layer."""
        return replace(self, layer=layer, keys=tuple((role, layer, expert) for role, _, expert in self.keys))


@dataclass
class Symbolic:
    """A checkpoint that does not exist yet. Operators get a copy of their own and change it.

    Attributes:
        checkpoint: the opened source.
        anatomy: what the source was; dimensions below are those of the result.
        parts: node of every part by (role, layer, expert).
        stored: every tensor of the file to be.
        config: config.json of the result.
        n_layers, d_model, n_heads, n_kv_heads, head_dim, vocab_size: dimensions of the result.
        tied: whether the head is the embedding.
        dtype: number type every float tensor is written in; None keeps that of the source.
        kept_types: roles that keep the type of the source all the same.
        files: further files of the result by name; bytes, or None for one that is left out.
        notes: what the user should know, one sentence each.
        adapters: places of the adapters that were read; they belong to the record as the source does.
        stem: what the files of the result are called; "model", or "adapter_model" where it is no model, but what one
            adds to another.
    """

    checkpoint: Checkpoint
    anatomy: Anatomy
    parts: dict[Key, Node]
    stored: list[Stored]
    config: Settings
    n_layers: int
    d_model: int
    n_heads: int | None
    n_kv_heads: int | None
    head_dim: int | None
    vocab_size: int
    tied: bool
    dtype: str | None = None
    kept_types: frozenset[str] = frozenset()
    files: dict[str, bytes | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    adapters: list[str] = field(default_factory=list)
    stem: str = "model"

    @property
    def is_model(self) -> bool:
        """Whether the result is a model of its own."""
        return self.stem == "model"

    def copy(self) -> Symbolic:
        """A copy that can be changed without changing this one; nodes are shared."""
        return replace(
            self,
            parts=dict(self.parts),
            stored=list(self.stored),
            config=self.config.copy(),
            files=dict(self.files),
            notes=list(self.notes),
            adapters=list(self.adapters),
        )

    def part(self, role: str, layer: int | None = None, expert: int | None = None) -> Node | None:
        """The node of a part, None where there is none."""
        return self.parts.get((role, layer, expert))

    def keys(self, *roles: str, layer: int | None = None) -> Iterator[Key]:
        """Keys of parts of these roles, prediction layers left out; of one layer where it is given."""
        for key in list(self.parts):
            if key[0] in roles and (layer is None or key[1] == layer):
                yield key

    def layer_keys(self, layer: int) -> list[Key]:
        """Keys of all parts of a numbered layer."""
        return [key for key in self.parts if key[1] == layer and not key[0].startswith(MTP)]

    def axes(self, key: Key) -> tuple[Any, ...]:
        """Space and part of each axis of a part."""
        from pedigree.weights.roles import axes_of

        part = self.anatomy.by_key.get(key)
        return part.axes if part is not None else axes_of(key[0])

    def name_of(self, stored: Stored) -> str:
        """The name a stored tensor gets."""
        if stored.layer is None:
            return stored.template
        number = stored.layer + self.n_layers if stored.prediction else stored.layer
        return stored.template.replace("{i}", str(number))

    def holders(self) -> dict[Key, Stored]:
        """For every part the tensor that holds it."""
        return {key: stored for stored in self.stored for key in stored.keys}


def read_symbolic(checkpoint: Checkpoint) -> Symbolic:
    """A checkpoint as nodes; reads headers only."""
    anatomy = read_anatomy(checkpoint)
    parts: dict[Key, Node] = {key: Leaf(part) for key, part in anatomy.by_key.items()}
    return Symbolic(
        checkpoint=checkpoint,
        anatomy=anatomy,
        parts=parts,
        stored=_stored(checkpoint, anatomy, parts),
        config=Settings(copy.deepcopy(dict(checkpoint.config or {}))),
        n_layers=anatomy.n_layers,
        d_model=anatomy.d_model,
        n_heads=anatomy.n_heads,
        n_kv_heads=anatomy.n_kv_heads,
        head_dim=anatomy.head_dim,
        vocab_size=anatomy.vocab_size,
        tied=anatomy.tied,
    )


def _stored(checkpoint: Checkpoint, anatomy: Anatomy, parts: Mapping[Key, Node]) -> list[Stored]:
    """Every tensor of the source, in the order in which the files hold them."""
    table = next((table for table in tables() if table.name == anatomy.architecture), None)
    stripped, _ = strip_prefixes(checkpoint.tensors)
    held: dict[str, list[tuple[Key, Piece]]] = {}
    for key, part in anatomy.by_key.items():
        for piece in part.pieces:
            held.setdefault(piece.source, []).append((key, piece))
    result: list[Stored] = []
    openings: set[str] = set()
    for name in sorted(checkpoint.tensors, key=lambda n: _place(checkpoint, n)):
        match = table.match(name, stripped[name]) if table is not None and name in stripped else None
        template = _template(name, stripped.get(name, name), match)
        if "{i}" in template:
            openings.add(template[: template.index("{i}")])
        result.append(_one(checkpoint, anatomy, parts, name, template, match, held.get(name, [])))
    return [_with_layer(stored, openings, anatomy.n_layers) for stored in result]


def _place(checkpoint: Checkpoint, name: str) -> tuple[str, int]:
    extent = checkpoint.extent(name)
    return extent.info.file, extent.offset


def _template(name: str, stripped: str, match: Match | None) -> str:
    """A name with `{i}` in the place of its layer number, where the role table knows one."""
    if match is None or match.layer is None or match.entry.last or "{i}" not in match.entry.pattern.split("."):
        return name
    words = name.split(".")
    ahead = len(words) - len(stripped.split("."))
    at = ahead + match.entry.pattern.split(".").index("{i}")
    if at >= len(words) or words[at] != str(match.layer):
        return name
    words[at] = "{i}"
    return ".".join(words)


def _one(
    checkpoint: Checkpoint,
    anatomy: Anatomy,
    parts: Mapping[Key, Node],
    name: str,
    template: str,
    match: Match | None,
    held: list[tuple[Key, Piece]],
) -> Stored:
    shape = tuple(checkpoint.tensors[name].shape)
    if not held:
        layer = match.layer if match is not None and "{i}" in template else None
        return Stored(
            template, layer, False, (), (), None, False, False, False, False, False, shape, name, (),
            Loose(checkpoint, name),
        )  # fmt: skip
    packed = match is not None and match.entry.packed
    per_expert = 1
    if packed and len(shape) > 1:
        per_expert = shape[1]

    def first_row(item: tuple[Key, Piece]) -> tuple[int, int]:
        (_, _, expert), piece = item
        first = int(piece.order[0]) if piece.order is not None else piece.start
        return (expert or 0) if packed else 0, first

    held = sorted(held, key=first_row)
    rows = []
    for (_, _, expert), piece in held:
        ahead = (expert or 0) * per_expert if packed and piece.lead is None else 0
        rows.append(None if piece.order is None else piece.order - ahead)
    keys = tuple(key for key, _ in held)
    piece = held[0][1]
    prediction = keys[0][0].startswith(MTP)
    if "{i}" not in template:
        prediction = False
    return Stored(
        template, keys[0][1] if "{i}" in template else None, prediction, keys, tuple(rows), match,
        piece.transposed, piece.swapped, packed, piece.vector, piece.tail, shape, name,
        tuple(parts[key] for key in keys), dtype=WHOLE_NUMBERS.get(keys[0][0]),
    )  # fmt: skip


def _with_layer(stored: Stored, openings: set[str], n_layers: int) -> Stored:
    """A tensor without a role put into its layer, where its name begins as those of its neighbours do."""
    if stored.keys or stored.layer is not None:
        return stored
    for opening in openings:
        found = re.match(re.escape(opening) + r"(\d{1,6})(?=\.)", stored.template)
        if found is not None:
            number = int(found.group(1))
            template = opening + "{i}" + stored.template[found.end() :]
            behind = number >= n_layers
            return replace(stored, template=template, layer=number - n_layers * behind, prediction=behind)
    return stored
