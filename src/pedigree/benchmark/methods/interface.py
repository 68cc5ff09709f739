"""What a method of the benchmark is: one object that scores two models, and says honestly what it cannot tell.

A method lives in one file of this folder and exports `METHOD`. It is found by being there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from pedigree.benchmark.methods.model import Model


@dataclass(frozen=True)
class Answer:
    """What a method says of two models.

    Args:
        score: larger means more related; comparable over pairs of one method alone. None: it cannot compare these two.
        direction: above 0 in favor of A as the ancestor, below 0 of B; None: it does not tell.
        layer_map: for each layer of B its layer of A or None; None as a whole: it does not tell.
        verdict: relative, stranger, twin or unsure, by the method's own rule; None: it has none.
        experts: share of B's experts traced to the layer of A that they come from, by the method's own account, as
            rows (layer of B, expert, layer of A); None: it does not tell.
        says: transformations named.
        bytes: weight bytes read, where the method counts them itself; None leaves it to the caller.
        why_not: why there is no score.
    """

    score: float | None
    direction: float | None = None
    layer_map: Sequence[int | None] | None = None
    verdict: str | None = None
    experts: Sequence[tuple[int, int, int]] | None = None
    says: tuple[str, ...] = ()
    bytes: int | None = None
    why_not: str = ""


@runtime_checkable
class Method(Protocol):
    """A way to tell whether two models are related."""

    @property
    def name(self) -> str:
        """Short name, the file's."""
        ...

    @property
    def title(self) -> str:
        """For tables, with the year where it is published."""
        ...

    @property
    def source(self) -> str:
        """Paper and section, or what it is."""
        ...

    def missing(self) -> str:
        """Why the method cannot run here; empty where it can."""
        ...

    def ask(self, a: Model, b: Model) -> Answer:
        """Score two models; B is the one explained in terms of A."""
        ...


@runtime_checkable
class Unmerger(Protocol):
    """A method that also takes merges apart."""

    def weights(self, model: Model, parents: Sequence[Model]) -> Sequence[float] | None:
        """Weight of each candidate in the model; None where it cannot tell."""
        ...


@runtime_checkable
class TreeGrower(Protocol):
    """A method that also draws a tree of several models."""

    def edges(self, models: Sequence[Model]) -> Sequence[tuple[int, int] | tuple[int, int, int]]:
        """Lines (ancestor, descendant) between positions in the list, or (one, other, 0) where the order is open.

        Positions behind the end of the list are ancestors that are not among the models.
        """
        ...


@dataclass(frozen=True)
class Described:
    """The constant parts of a method, to be inherited.

    Args:
        name, title, source: as in `Method`.
    """

    name: str
    title: str
    source: str

    def missing(self) -> str:
        """Nothing is missing."""
        return ""
