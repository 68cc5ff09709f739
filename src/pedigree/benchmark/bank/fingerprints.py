"""What comparisons on fingerprints alone say of the pairs of the bank: their own error rate, and what they find.

Fingerprints are made once for each model; every independent pair of the test split is compared, and every pair of
relatives of that split. No threshold of the comparison was set on these pairs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pedigree.benchmark.bank.kinds import every
from pedigree.benchmark.bank.numbers import BENCHMARK
from pedigree.benchmark.bank.pairs import independent_pairs, kin_pairs
from pedigree.forensics.fingerprints.fingerprint import Fingerprint, make_fingerprint
from pedigree.forensics.fingerprints.fingerprint_compare import compare_fingerprints
from pedigree.forensics.scanning.sketch import frame_free_similarity

KIN = ("related", "partly-related", "identical")


def measure_fingerprints(directory: Path, most: int | None = None) -> dict[str, Any]:
    """Counts of verdicts, as `forensics/data/fingerprint_bank.json` holds them.

    Args:
        directory: the models of the bank.
        most: at most so many independent pairs; None for all.
    """
    made: dict[str, Fingerprint] = {}

    def one(name: str) -> Fingerprint:
        if name not in made:
            made[name] = make_fingerprint(directory / name)
        return made[name]

    def verdict(a: str, b: str) -> str:
        return compare_fingerprints(one(a), one(b)).result.verdict

    def forms(pairs: Iterable[tuple[str, str]]) -> list[float]:
        found = (frame_free_similarity(one(a), one(b)) for a, b in pairs)
        return sorted(round(value, 4) for value in found if value is not None)

    pairs = independent_pairs("test", most)
    strangers = Counter(verdict(a, b) for a, b in pairs)
    truth = kin_pairs("test")
    kin = Counter((pair.words == ("related",), verdict(pair.a, pair.b)) for pair in truth)
    alike = forms(pairs)
    models = {name for pair in pairs for name in pair}
    kinds = len({model.kind for model in every() if model.name in models})
    return {
        "benchmark": f"{BENCHMARK} on fingerprints",
        "test": {
            "pairs": len(pairs),
            "false_positives": sum(strangers[word] for word in KIN),
            "models": len(models),
            "verdicts": dict(sorted(strangers.items())),
            "note": f"{len(pairs)} pairs of {len(models)} models of {kinds} kinds, each from a random start of its "
            "own, compared on fingerprints alone; the pairs share models",
        },
        "forms": {
            "strangers": len(alike),
            "highest": alike[-1] if alike else None,
            "median": alike[len(alike) // 2] if alike else None,
            "descendants": forms((pair.a, pair.b) for pair in truth if pair.words == ("related",)),
        },
        "kin": {
            "descendants": _counted(kin, True),
            "one_start": _counted(kin, False),
        },
    }


def _counted(kin: Counter[tuple[bool, str]], related: bool) -> dict[str, int]:
    words: Iterable[tuple[str, int]] = ((word, n) for (is_kin, word), n in kin.items() if is_kin == related)
    return dict(sorted(words))
