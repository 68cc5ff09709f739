"""`pedigree compare` on two fingerprints: what can be told without the weights.

It cannot say that two models are unrelated.
"""

from __future__ import annotations

from dataclasses import dataclass

from pedigree.benchmark.methods.interface import Answer, Described
from pedigree.benchmark.methods.model import Model
from pedigree.benchmark.methods.pedigree_standard import answer


@dataclass(frozen=True)
class OnFingerprints(Described):
    """Fingerprints of both models, compared."""

    def ask(self, a: Model, b: Model) -> Answer:
        """One comparison; the fingerprint of a model is made once."""
        from pedigree.forensics.fingerprints.fingerprint import Fingerprint, make_fingerprint
        from pedigree.forensics.fingerprints.fingerprint_compare import compare_fingerprints

        prints: list[Fingerprint] = []
        for model in (a, b):
            if "fingerprint" not in model.kept:
                model.kept["fingerprint"] = make_fingerprint(model.folder)
            prints.append(model.kept["fingerprint"])
        return answer(compare_fingerprints(prints[0], prints[1]))


METHOD = OnFingerprints("pedigree_fingerprint", "pedigree, fingerprints only", "this program, fingerprints")
