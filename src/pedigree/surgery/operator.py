"""What an operator is, and what it is given.

An operator is a short function from a symbolic checkpoint to a changed one. It reads no weights: it replaces nodes in
`symbolic.parts`, edits dimensions and config, and returns how exact it was. Declared in a file of
`pedigree.surgery.operators` and listed in `pedigree.surgery.catalog`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from pedigree.errors import UsageError
from pedigree.surgery.exactness import Exactness
from pedigree.surgery.symbolic import Key, Symbolic


class Parameters(BaseModel):
    """Base of the parameters of an operator: unknown keys are errors, every default is a plain value."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")


class Antisymmetric(Parameters):
    """Noise on copies that sums to zero over the copies of one unit: the function stays, the copies part."""

    antisym: float = 0.3
    """Standard deviation of the noise over that of the weights (10 dB is 0.32)."""


@dataclass(frozen=True)
class Step:
    """Where an operator stands in a recipe, and what it may ask for.

    Attributes:
        number: from 0.
        name: the operator's name.
        seed: of the recipe; random numbers are keyed by it and by `stream`.
        open: opens another checkpoint of the recipe as nodes, by its name under `models` or by its place.
        folder: where relative places in parameters begin.
    """

    number: int
    name: str
    seed: int
    open: Callable[[str], Symbolic]
    folder: str = "."

    def stream(self, key: Key, word: str = "") -> str:
        """The name of the random numbers of a part in this step."""
        role, layer, expert = key
        return f"{self.number}/{self.name}/{role}/{layer}/{expert}/{word}"

    def refuse(self, what: str, *, got: object, expected: object | None = None, fix: str | None = None) -> UsageError:
        """An error that names this step."""
        return UsageError(what, where=f"step {self.number + 1}, {self.name}", got=got, expected=expected, fix=fix)


@dataclass(frozen=True)
class Operator:
    """One operator of the catalog.

    Attributes:
        name: as a recipe writes it, "grow.ffn".
        summary: what it does, one line.
        classes: exactness by variant ("zero" -> FP0), what `pedigree surgery ops` shows; the worst case of each.
        needs: what it needs beside the checkpoint, "" for nothing.
        source: where it comes from, by arXiv id.
        parameters: its model.
        apply: changes the symbolic checkpoint it is given, and says how exact that was.
        verb: which of the seven verbs it is made of, for `ops`.
    """

    name: str
    summary: str
    classes: Mapping[str, Exactness]
    needs: str
    source: str
    parameters: type[Parameters]
    apply: Callable[[Symbolic, Any, Step], Exactness]
    verbs: tuple[Literal["index", "pad", "rebase", "fold", "blend", "fit", "perturb"], ...] = ()
