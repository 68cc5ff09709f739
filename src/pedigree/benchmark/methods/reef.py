"""REEF (2410.14273): linear CKA of last-token states at one layer on shared prompts, with the biased estimator.

The paper takes 200 statements of TruthfulQA and layer 18 of 32; here 200 lines of source text the models were not
chosen by, and the layer at the same relative depth.
"""

from __future__ import annotations

from dataclasses import dataclass

from pedigree.benchmark.methods.interface import Answer, Described
from pedigree.benchmark.methods.matching import biased_cka
from pedigree.benchmark.methods.model import Model
from pedigree.benchmark.methods.prompts import PROMPTS, prompts

DEPTH = 18 / 32


@dataclass(frozen=True)
class Reef(Described):
    """Alignment of what two models make of the same prompts."""

    def ask(self, a: Model, b: Model) -> Answer:
        """CKA of the two tables of states."""
        tables = []
        for model in (a, b):
            states = model.last_states([model.encode(text) for text in prompts(PROMPTS)], "prompts")
            tables.append(states[round(DEPTH * model.n_layers)])
        return Answer(biased_cka(*tables))


METHOD = Reef("reef", "REEF, CKA (2025)", "2410.14273")
