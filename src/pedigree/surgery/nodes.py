"""Nodes: a tensor that does not exist yet, as an expression over slices of stored ones.

Every node has a canonical shape ([rows, columns], or [n] for gains and biases), a number type, and can compute any
tile of itself: `tile(rows, cols, work)`. A tile is read, computed and written; nothing larger is ever held. Nodes that
only move numbers keep their type, bit for bit; nodes that compute do so in float32 (float64 where an input is), and
the result is rounded once, when it is written.

Law: a tile is a pure function of the node and its selection. Any division into tiles gives the same bits.

Shapes  R = selected rows, C = selected columns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from pedigree.errors import InternalError
from pedigree.surgery.randomness import Stream
from pedigree.surgery.selection import Index, Selection, everything, is_all, length, numbers, shares, take, through
from pedigree.weights.number_types import torch_type
from pedigree.weights.part import Part

if TYPE_CHECKING:
    import torch


class Reader(Protocol):
    """Reads stored numbers; the engine's goes past the page cache where that pays."""

    def rows(self, part: Part, start: int, stop: int) -> torch.Tensor | None:
        """Canonical rows of a part whose rows are stored one after the other; None where that is not so."""
        ...


@dataclass
class Work:
    """What is at hand while tiles are computed: the reader, and the values of statistics of an earlier pass."""

    reader: Reader | None = None
    values: Mapping[Statistic, Any] = field(default_factory=dict)


class Node(ABC):
    """A tensor to be: `shape`, `dtype` (safetensors name of the type its tiles come in), and its tiles."""

    shape: tuple[int, ...]
    dtype: str
    proportional: ClassVar[bool] = False
    """Whether a tile of few rows costs its share of the whole and no more, so that small tiles are as good."""

    @abstractmethod
    def tile(self, rows: Selection, cols: Selection | None, work: Work) -> torch.Tensor:
        """The selected rows (and columns; None for a vector), [R, C] or [R]."""

    def children(self) -> Sequence[Node]:
        """The nodes this one is computed from."""
        return ()

    def statistics(self) -> Sequence[Statistic]:
        """What has to be known of whole tensors before the first tile of this node."""
        return ()

    @property
    def columns(self) -> Selection | None:
        """The selection of all columns; None for a vector."""
        return everything(self.shape[1]) if len(self.shape) == 2 else None

    def all(self, work: Work) -> torch.Tensor:
        """The whole tensor; for vectors and other small ones."""
        return self.tile(everything(self.shape[0]), self.columns, work)

    def walk(self) -> Iterator[Node]:
        """This node and everything below it, each once."""
        seen: set[int] = set()
        stack: list[Node] = [self]
        while stack:
            node = stack.pop()
            if id(node) not in seen:
                seen.add(id(node))
                yield node
                stack.extend(node.children())


class Statistic(ABC):
    """A number or small tensor over whole nodes, gathered in a pass of its own, tile by tile in order.

    Statistics are told apart by identity. `name` and `parameters` go into the digest of a plan.
    """

    name: str
    exact: ClassVar[bool] = False
    """Whether its value is the same for every height of a tile. Where one tensor alone needs it, it is then gathered
    right before that tensor is written, from the same tiles."""

    @abstractmethod
    def inputs(self) -> Sequence[Node]:
        """The nodes that are read, all of one shape; tiles of the same rows come together."""

    @abstractmethod
    def start(self) -> Any:
        """The empty state."""

    @abstractmethod
    def add(self, state: Any, tiles: Sequence[torch.Tensor], rows: slice, work: Work) -> Any:
        """The state with one more block of rows of every input, all columns."""

    def finish(self, state: Any) -> Any:
        """What the nodes that need it see in `work.values`."""
        return state

    def held_bytes(self) -> int:
        """Bytes of whole tensors that are held while it is gathered; 0 where tiles are enough."""
        return 0

    def told(self) -> Sequence[str]:
        """What the user should know of what was found, one sentence each."""
        return ()


def computing(*dtypes: str) -> str:
    """The type to compute in: F64 where an input is F64, else F32."""
    return "F64" if "F64" in dtypes else "F32"


def as_type(tensor: torch.Tensor, dtype: str) -> torch.Tensor:
    """A tensor in a number type, rounded to nearest even where it gets fewer bits."""
    return tensor.to(torch_type(dtype, "a tile"))


def _present(cols: Selection | None) -> Selection:
    """The columns of a matrix; a vector was asked for them otherwise."""
    if cols is None:
        raise InternalError("columns of a vector are meant")
    return cols


@dataclass(frozen=True, eq=False)
class Leaf(Node):
    """A part of a stored checkpoint. Block scales of 8-bit storage are multiplied in (the type is then F32)."""

    part: Part
    shape: tuple[int, ...] = field(init=False)
    dtype: str = field(init=False)
    proportional: ClassVar[bool] = True  # but for turned storage, see `turned`

    def __post_init__(self) -> None:
        scaled = any(piece.scale is not None for piece in self.part.pieces)
        object.__setattr__(self, "shape", self.part.shape)
        object.__setattr__(self, "dtype", "F32" if scaled else self.part.dtype)

    @property
    def turned(self) -> bool:
        """Whether it is stored [in, out]: a tile then reads a little of every stored row."""
        return any(piece.transposed for piece in self.part.pieces)

    def tile(self, rows: Selection, cols: Selection | None, work: Work) -> torch.Tensor:
        """Read; only the selected rows are fetched (columns, where the storage is [in, out])."""
        turned = self.turned
        if isinstance(rows, slice) and work.reader is not None and not turned and self.dtype == self.part.dtype:
            found = work.reader.rows(self.part, rows.start, rows.stop)
            if found is not None:
                return found if cols is None else take(found, 1, cols)
        read = self.part.read if self.dtype != self.part.dtype else self.part.read_native
        picked = rows if isinstance(rows, slice) else rows.tolist()
        if cols is None or (is_all(cols, self.shape[1]) and not turned):
            return read(picked)
        return read(picked, numbers(cols).tolist())


@dataclass(frozen=True, eq=False)
class Fill(Node):
    """The same number everywhere."""

    proportional: ClassVar[bool] = True
    shape: tuple[int, ...]
    value: float = 0.0
    dtype: str = "F32"

    def tile(self, rows: Selection, cols: Selection | None, work: Work) -> torch.Tensor:
        """A constant tile."""
        import torch

        size = (length(rows),) if cols is None else (length(rows), length(cols))
        return torch.full(size, self.value, dtype=torch_type(self.dtype, "a constant"))


@dataclass(frozen=True, eq=False)
class Given(Node):
    """Numbers that are already at hand: a vector, or a small matrix."""

    proportional: ClassVar[bool] = True
    tensor: torch.Tensor
    dtype: str = "F32"
    shape: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.tensor.shape))

    def tile(self, rows: Selection, cols: Selection | None, work: Work) -> torch.Tensor:
        """A part of the tensor."""
        chosen = take(self.tensor, 0, rows)
        return as_type(chosen if cols is None else take(chosen, 1, cols), self.dtype)


@dataclass(frozen=True, eq=False)
class Random(Node):
    """Normal numbers, or uniform ones in [0, 1), from a stream, times `std` (or what a statistic gives)."""

    proportional: ClassVar[bool] = True
    shape: tuple[int, ...]
    stream: Stream
    kind: str = "normal"
    std: float | Statistic = 1.0
    dtype: str = "F32"

    def tile(self, rows: Selection, cols: Selection | None, work: Work) -> torch.Tensor:
        """Numbers that depend on the place alone."""
        draw = self.stream.normal if self.kind == "normal" else self.stream.uniform
        numbers_RC = draw(rows, slice(0, 1) if cols is None else cols)
        factor = self.std if isinstance(self.std, int | float) else float(work.values[self.std])
        numbers_RC = numbers_RC.mul_(factor)
        return as_type(numbers_RC[:, 0] if cols is None else numbers_RC, self.dtype)

    def statistics(self) -> Sequence[Statistic]:
        """The scale, where it has to be measured."""
        return (self.std,) if isinstance(self.std, Statistic) else ()


@dataclass(frozen=True, eq=False)
class Gather(Node):
    """Rows (axis 0) or columns (axis 1) of a node in a new order, some left out, some more than once."""

    proportional: ClassVar[bool] = True
    node: Node
    index: Index
    axis: int = 0
    shape: tuple[int, ...] = field(init=False)
    dtype: str = field(init=False)

    def __post_init__(self) -> None:
        old = self.node.shape
        if len(self.index) and not 0 <= int(self.index.min()) <= int(self.index.max()) < old[self.axis]:
            raise InternalError("an index leaves its tensor", got=int(self.index.max()), expected=f"< {old[self.axis]}")
        object.__setattr__(self, "shape", tuple(len(self.index) if a == self.axis else n for a, n in enumerate(old)))
        object.__setattr__(self, "dtype", self.node.dtype)

    def children(self) -> Sequence[Node]:
        """The node."""
        return (self.node,)

    def tile(self, rows: Selection, cols: Selection | None, work: Work) -> torch.Tensor:
        """The tile of the old places."""
        if self.axis == 0:
            return self.node.tile(through(self.index, rows), cols, work)
        return self.node.tile(rows, through(self.index, _present(cols)), work)


@dataclass(frozen=True, eq=False)
class Join(Node):
    """Nodes one after the other along an axis; the type is that of the first."""

    proportional: ClassVar[bool] = True
    nodes: tuple[Node, ...]
    axis: int = 0
    shape: tuple[int, ...] = field(init=False)
    dtype: str = field(init=False)

    def __post_init__(self) -> None:
        first = self.nodes[0].shape
        for node in self.nodes:
            if len(node.shape) != len(first) or any(
                a != b for axis, (a, b) in enumerate(zip(node.shape, first, strict=True)) if axis != self.axis
            ):
                raise InternalError("tensors of different shapes are joined", got=node.shape, expected=first)
        total = sum(node.shape[self.axis] for node in self.nodes)
        object.__setattr__(self, "shape", tuple(total if a == self.axis else n for a, n in enumerate(first)))
        object.__setattr__(self, "dtype", self.nodes[0].dtype)

    def children(self) -> Sequence[Node]:
        """The joined nodes."""
        return self.nodes

    def tile(self, rows: Selection, cols: Selection | None, work: Work) -> torch.Tensor:
        """Tiles of the blocks that the selection meets, put together."""
        import torch

        selection = rows if self.axis == 0 else _present(cols)
        blocks: list[torch.Tensor] = []
        places: list[Index] = []
        for number, inside, place in shares(selection, [node.shape[self.axis] for node in self.nodes]):
            at = (inside, cols) if self.axis == 0 else (rows, inside)
            blocks.append(as_type(self.nodes[number].tile(at[0], at[1], work), self.dtype))
            if place is not None:
                places.append(place)
        if not blocks:
            return self.nodes[0].tile(slice(0, 0), cols, work) if self.axis == 0 else _no_columns(self, rows)
        joined = blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=self.axis)
        if len(places) > 1:
            joined = take(joined, self.axis, np.argsort(np.concatenate(places), kind="stable"))
        return joined


def _no_columns(node: Node, rows: Selection) -> torch.Tensor:
    import torch

    return torch.empty((length(rows), 0), dtype=torch_type(node.dtype, "an empty tile"))


@dataclass(frozen=True, eq=False)
class Computed(Node):
    """Base of nodes that compute another node's numbers anew, in its shape and in the type it is computed in."""

    node: Node
    shape: tuple[int, ...] = field(init=False)
    dtype: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", self.node.shape)
        object.__setattr__(self, "dtype", computing(self.node.dtype))

    def children(self) -> Sequence[Node]:
        """The node."""
        return (self.node,)


@dataclass(frozen=True, eq=False)
class Scale(Computed):
    """A node times a factor for every row (axis 0) or column (axis 1), or one for all; and plus an offset.

    `factor` is a number or a vector node. Gains of Gemma are stored less 1: w -> factor * (w + offset) - offset.
    """

    proportional: ClassVar[bool] = True
    factor: float | Node
    axis: int = 0
    offset: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.factor, Node) and self.factor.shape != (self.shape[self.axis],):
            raise InternalError("factors do not fit", got=self.factor.shape, expected=(self.shape[self.axis],))

    def children(self) -> Sequence[Node]:
        """The node, and the vector of factors."""
        return (self.node, self.factor) if isinstance(self.factor, Node) else (self.node,)

    def tile(self, rows: Selection, cols: Selection | None, work: Work) -> torch.Tensor:
        """The tile, multiplied."""
        tile = as_type(self.node.tile(rows, cols, work), self.dtype)
        if isinstance(self.factor, Node):
            chosen = rows if self.axis == 0 else _present(cols)
            factor = as_type(self.factor.tile(chosen, None, work), self.dtype)
            by = factor if cols is None or self.axis == 1 else factor[:, None]
            return (tile + self.offset) * by - self.offset if self.offset else tile * by
        return (tile + self.offset) * self.factor - self.offset if self.offset else tile * self.factor


@dataclass(frozen=True)
class At:
    """Where a tile lies: what a blending function may want to know beside the tiles themselves."""

    rows: Selection
    cols: Selection | None
    shape: tuple[int, ...]
    work: Work


Blending = Callable[[Sequence[Any], At], Any]
"""Tiles of all inputs (float32, or float64 where an input is), where they lie -> the tile of the result."""


@dataclass(frozen=True, eq=False)
class Blend(Node):
    """Nodes of one shape, combined element by element by a function of their tiles.

    The function must give the same numbers whatever the tiles are; what it needs of whole tensors it takes from
    `at.work.values[statistic]`, random numbers from `Stream(...)` at `at.rows`, `at.cols`.
    """

    proportional: ClassVar[bool] = True
    nodes: tuple[Node, ...]
    function: Blending
    needs: tuple[Statistic, ...] = ()
    shape: tuple[int, ...] = field(init=False)
    dtype: str = field(init=False)

    def __post_init__(self) -> None:
        if any(node.shape != self.nodes[0].shape for node in self.nodes):
            raise InternalError("tensors of different shapes are blended", got=[node.shape for node in self.nodes])
        object.__setattr__(self, "shape", self.nodes[0].shape)
        object.__setattr__(self, "dtype", computing(*(node.dtype for node in self.nodes)))

    def children(self) -> Sequence[Node]:
        """The inputs."""
        return self.nodes

    def statistics(self) -> Sequence[Statistic]:
        """What the function needs."""
        return self.needs

    def tile(self, rows: Selection, cols: Selection | None, work: Work) -> torch.Tensor:
        """The function of the inputs' tiles."""
        tiles = [as_type(node.tile(rows, cols, work), self.dtype) for node in self.nodes]
        return as_type(self.function(tiles, At(rows, cols, self.shape, work)), self.dtype)


@dataclass(frozen=True, eq=False)
class Turn(Node):
    """A node with rows and columns exchanged."""

    node: Node
    shape: tuple[int, ...] = field(init=False)
    dtype: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", (self.node.shape[1], self.node.shape[0]))
        object.__setattr__(self, "dtype", self.node.dtype)

    def children(self) -> Sequence[Node]:
        """The node."""
        return (self.node,)

    def tile(self, rows: Selection, cols: Selection | None, work: Work) -> torch.Tensor:
        """The tile of the exchanged selection, turned."""
        return self.node.tile(_present(cols), rows, work).T


@dataclass(frozen=True, eq=False)
class Round(Node):
    """A node rounded to a number type: what a file of that type would hold."""

    proportional: ClassVar[bool] = True
    node: Node
    dtype: str
    shape: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", self.node.shape)

    def children(self) -> Sequence[Node]:
        """The node."""
        return (self.node,)

    def tile(self, rows: Selection, cols: Selection | None, work: Work) -> torch.Tensor:
        """The rounded tile."""
        return as_type(self.node.tile(rows, cols, work), self.dtype)


class Derived(Statistic):
    """A statistic made from others, without a pass of its own."""

    @abstractmethod
    def needs(self) -> Sequence[Statistic]:
        """The statistics it is made from."""

    @abstractmethod
    def value(self, values: Sequence[Any]) -> Any:
        """What it is, from their values in the same order."""

    def inputs(self) -> Sequence[Node]:
        """Nothing is read."""
        return ()

    def start(self) -> Any:
        """No state."""
        return None

    def add(self, state: Any, tiles: Sequence[torch.Tensor], rows: slice, work: Work) -> Any:
        """No pass."""
        return state


@dataclass(frozen=True, eq=False)
class Pick(Node):
    """`count` rows (axis 0) or columns (axis 1) of a node, chosen by a statistic that gives their numbers in order."""

    node: Node
    chosen: Statistic
    count: int
    axis: int = 0
    shape: tuple[int, ...] = field(init=False)
    dtype: str = field(init=False)

    def __post_init__(self) -> None:
        old = self.node.shape
        object.__setattr__(self, "shape", tuple(self.count if a == self.axis else n for a, n in enumerate(old)))
        object.__setattr__(self, "dtype", self.node.dtype)

    def children(self) -> Sequence[Node]:
        """The node."""
        return (self.node,)

    def statistics(self) -> Sequence[Statistic]:
        """The choice."""
        return (self.chosen,)

    def tile(self, rows: Selection, cols: Selection | None, work: Work) -> torch.Tensor:
        """The tile of the chosen places."""
        chosen: Index = work.values[self.chosen]
        if self.axis == 0:
            return self.node.tile(through(chosen, rows), cols, work)
        return self.node.tile(rows, through(chosen, _present(cols)), work)


@dataclass(frozen=True, eq=False)
class OneOf(Node):
    """One of several nodes of one shape: that at a place of the numbers that a statistic gives."""

    nodes: tuple[Node, ...]
    chosen: Statistic
    place: int
    shape: tuple[int, ...] = field(init=False)
    dtype: str = field(init=False)

    def __post_init__(self) -> None:
        if any(node.shape != self.nodes[0].shape for node in self.nodes):
            raise InternalError("nodes to choose from differ in shape", got=[node.shape for node in self.nodes])
        object.__setattr__(self, "shape", self.nodes[0].shape)
        object.__setattr__(self, "dtype", self.nodes[0].dtype)

    def children(self) -> Sequence[Node]:
        """One of them: no more is read."""
        return self.nodes[:1]

    def statistics(self) -> Sequence[Statistic]:
        """The choice, and what any of the others needs."""
        others = [statistic for node in self.nodes[1:] for inner in node.walk() for statistic in inner.statistics()]
        return (self.chosen, *others)

    def tile(self, rows: Selection, cols: Selection | None, work: Work) -> torch.Tensor:
        """The tile of the chosen one."""
        return self.nodes[int(work.values[self.chosen][self.place])].tile(rows, cols, work)
