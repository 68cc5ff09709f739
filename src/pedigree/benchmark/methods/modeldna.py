"""modelDNA (package `modeldna`, Apache-2.0), run as it is where it is installed: its probability is the score."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pedigree.benchmark.methods.interface import Answer, Described
from pedigree.benchmark.methods.model import Model

_RELATIVES = ("EXACT_COPY", "QUANTIZED_COPY", "FINE_TUNE", "SAME_LINEAGE", "LIKELY_MERGE")
_UNSURE = ("SAME_FAMILY_UNRESOLVED", "INSUFFICIENT")
_REFUSALS = (ValueError, KeyError, TypeError, RuntimeError, AttributeError, IndexError, OSError, ArithmeticError)


@dataclass(frozen=True)
class ModelDna(Described):
    """The package's own pairwise comparison and merge decomposition."""

    def missing(self) -> str:
        """Said where the package is not installed."""
        return "" if importlib.util.find_spec("modeldna") else "the package modeldna is not installed"

    def ask(self, a: Model, b: Model) -> Answer:
        """Its verdict about B with A as the only reference."""
        scan: Any = importlib.import_module("modeldna.scan")
        try:
            _, _, _, verdict = scan.compare_pair(str(b.folder), str(a.folder), mode="full")
        except _REFUSALS as error:
            return Answer(None, why_not=f"the package refuses: {error}"[:200])
        word = str(verdict.verdict.value)
        probability = verdict.probability
        if probability is None and verdict.best is not None:
            probability = verdict.best.probability
        said = "relative" if word in _RELATIVES else "unsure" if word in _UNSURE else "stranger"
        if probability is None:
            return Answer(None, verdict=said, why_not=f"the package abstains: {word}")
        return Answer(float(probability), verdict=said)

    def weights(self, model: Model, parents: Sequence[Model]) -> list[float] | None:
        """Weights of the parents by its least squares."""
        merge: Any = importlib.import_module("modeldna.merge")
        places = [str(parent.folder) for parent in parents]
        try:
            found = merge.decompose_targets(str(model.folder), places, mode="full")
        except _REFUSALS:
            return None
        return [float(found.alphas.get(place, 0.0)) for place in places]


METHOD = ModelDna("modeldna", "modelDNA (2026)", "package modeldna 0.1; its technical report")
