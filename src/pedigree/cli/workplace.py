"""Where and how the steps of a recipe are made: what every command that makes a family hands to each step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pedigree.family.recipe import Family, Recipe
    from pedigree.training.progress import Beat
    from pedigree.training.run import Start


@dataclass(frozen=True)
class Workplace:
    """Where and how the steps of a recipe are trained.

    Attributes:
        recipe, family: what was read.
        output: folder of the family; each step has its own in it.
        overrides: `--set`, key path to value.
        start: how to treat checkpoints that are there.
        device: name of a device, or None.
        unrecorded: keep no record.
        progress: called with each sign of life.
        warn: told what could not be recorded.
        keeps_earlier: set aside what a step left before the recipe changed, rather than refuse; see `cli.earlier`.
    """

    recipe: Recipe
    family: Family
    output: Path
    overrides: Mapping[str, Any]
    start: Start
    device: str | None
    unrecorded: bool
    progress: Callable[[str, Beat], None] | None
    warn: Callable[[str], None] = lambda sentence: None
    keeps_earlier: bool = False

    @property
    def beside(self) -> Path:
        """Folder of the recipe, where its paths start."""
        return self.recipe.path.parent
