"""From the rows of measured pairs to the numbers that ship with the package."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from pedigree.benchmark.bank.kinds import HEAVY, BankModel, Split, independent
from pedigree.forensics.comparison.bank import upper_95
from pedigree.forensics.comparison.operating_points import EXACT, flags, smallest_of_all

BENCHMARK = "bank-2"

FALSE_POSITIVE = ("identical", "related", "partly-related", "shared-initialization")
"""Verdicts that are wrong of an independent pair."""

QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5)
"""Levels at which the share of smaller p-values is written down."""

Row = dict[str, Any]


def summary(calibration: Sequence[Row], test: Sequence[Row]) -> dict[str, Any]:
    """The shipped numbers: errors of the test split, scores of both, and how p-values of independent pairs lie.

    Args:
        calibration, test: rows of the independent pairs of each split.
    """
    return {
        "benchmark": BENCHMARK,
        "families": dict(Counter(model.kind for model in independent())),
        "calibration": _counted("calibration", calibration),
        "test": _counted("test", test),
        "screen": screen(calibration, test),
        "scores": _scores(test),
        "uniformity": {
            "calibration": uniformity(calibration),
            "test": uniformity(test),
            "heavy": uniformity(_heavily_trained([*calibration, *test])),
        },
        "verdicts": dict(sorted(Counter(row["verdict"] for row in test).items())),
    }


def _heavily_trained(rows: Sequence[Row]) -> list[Row]:
    """Rows with a model that was trained for five times as long as the others, on the same texts in the same order."""
    heavy = {model.name for model in independent() if model.tokens >= HEAVY}
    return [row for row in rows if row["a"] in heavy or row["b"] in heavy]


def _counted(split: Split, rows: Sequence[Row]) -> dict[str, Any]:
    models = [model for model in independent() if model.split == split]
    kinds = {model.name: model.kind for model in models}
    wrong = [row for row in rows if row["verdict"] in FALSE_POSITIVE]
    same = sum(kinds[row["a"]] == kinds[row["b"]] for row in rows)
    return {
        "pairs": len(rows),
        "models": len(models),
        "same_kind": same,
        "false_positives": len(wrong),
        "wrong": [{key: row[key] for key in ("a", "b", "verdict", "reasons", "best_z")} for row in wrong],
        "verdicts": dict(sorted(Counter(row["verdict"] for row in rows).items())),
        "note": f"{len(rows)} pairs of {len(models)} models of {_kinds(models)} kinds, each from a random start of its "
        f"own; {same} pairs differ in nothing but the start; the pairs share models",
    }


def _kinds(models: Sequence[BankModel]) -> int:
    return len({model.kind for model in models})


def screen(calibration: Sequence[Row], test: Sequence[Row]) -> dict[str, Any]:
    """Thresholds of the screen, the largest values of the calibration split, and how many test pairs they flag."""
    told: dict[str, Any] = {
        name: max((numbers_of(row)[name] for row in calibration), default=math.inf)
        for name in ("best_z", "table_quiet")
    }
    wrong = [row for row in test if row["verdict"] in FALSE_POSITIVE or flags(numbers_of(row), told)]
    return {**told, "flagged": len(wrong), "pairs": len(test)}


def numbers_of(row: Row) -> dict[str, float]:
    """What the screen looks at, of a measured pair."""
    return {
        "exact_log10_p": smallest_of_all([row["log10_p"].get(name, 0.0) for name in EXACT]),
        "best_z": row["best_z"],
        "table_quiet": max((v for k, v in row["tables"].items() if k.endswith("-quiet")), default=0.0),
    }


def _scores(rows: Sequence[Row]) -> dict[str, list[float]]:
    taken: dict[str, Callable[[Row], float]] = {
        "best_z": lambda row: row["best_z"],
        "best_effect": lambda row: row["best_effect"],
        "exact_log10_p": lambda row: min(row["log10_p"].values(), default=0.0),
        "table_quiet": lambda row: numbers_of(row)["table_quiet"],
    }
    return {name: sorted(round(float(take(row)), 4) for row in rows) for name, take in taken.items()}


def uniformity(rows: Sequence[Row]) -> dict[str, Any]:
    """For each p-value the share of pairs at or below each level, for each kind of unit the moments of its scores.

    The exact tests give upper bounds: their shares have to stay at or below the level. The score of matched units is
    standardized under its own null: its deviation has to be about one.
    """
    found: dict[str, Any] = {}
    for name in sorted({name for row in rows for name in row["log10_p"]}):
        values = [row["log10_p"][name] for row in rows if name in row["log10_p"]]
        found[name] = {"pairs": len(values), **{str(q): share_below(values, q) for q in QUANTILES}}
    for name in sorted({name for row in rows for name in row["sign_z"]}):
        values = [_normal_tail(row["sign_z"][name]) for row in rows if name in row["sign_z"]]
        found[f"signs-{name}, normal tail"] = {
            "pairs": len(values),
            **{str(q): share_below(values, q) for q in QUANTILES},
        }
    for kind in ("ffn", "vo", "qk"):
        sums = [row["spread"][kind] for row in rows if kind in row["spread"]]
        n = sum(entry[0] for entry in sums)
        if n:
            mean = sum(entry[1] for entry in sums) / n
            deviation = math.sqrt(max(0.0, sum(entry[2] for entry in sums) / n - mean * mean))
            largest = max(row["z"][kind] for row in rows if kind in row["z"])
            found[f"matched-{kind}"] = {
                "layer_pairs": n, "mean": round(mean, 3), "deviation": round(deviation, 3), "largest": largest
            }  # fmt: skip
    return found


def share_below(log10_ps: Sequence[float], level: float) -> float:
    """Share of p-values, given as log10, at or below a level."""
    return round(sum(value <= math.log10(level) for value in log10_ps) / len(log10_ps), 4)


def _normal_tail(z: float) -> float:
    return math.log10(max(0.5 * math.erfc(z / math.sqrt(2.0)), 1e-300))


def kin_summary(rows: Sequence[Row], truth: Sequence[Any]) -> dict[str, Any]:
    """Errors on relatives: words that accuse or clear wrongly, and directions, by what the pair is."""
    wrong_words = [[row["a"], row["b"], row["verdict"]] for row, kin in zip(rows, truth, strict=True)
                   if row["verdict"] in kin.wrong]  # fmt: skip
    decided = [(row, kin) for row, kin in zip(rows, truth, strict=True)
               if row.get("direction", "undetermined") != "undetermined"]  # fmt: skip
    wrong_way = [[row["a"], row["b"], row["direction"], row["log_odds"]] for row, kin in decided
                 if row["direction"] != kin.direction]  # fmt: skip
    with_truth = sum(kin.direction != "undetermined" for kin in truth)
    return {
        "pairs": len(rows),
        "verdicts": dict(sorted(Counter(row["verdict"] for row in rows).items())),
        "wrong_words": wrong_words,
        "with_direction": with_truth,
        "decided": len(decided),
        "wrong_directions": wrong_way,
    }


NAMES = {
    "body-fixed-points": "fixed points, feed-forward units",
    "body-signs": "sign flips, all families",
    "embed-fixed-points": "fixed points, embedding coordinates",
    "head-fixed-points": "fixed points, output coordinates",
    "signs-ffn": "sign flips, feed-forward units",
    "signs-planes": "sign flips, query/key planes",
    "signs-vo": "sign flips, value/output dimensions",
    "signs-ffn, normal tail": "sign flips, feed-forward units, as a normal score",
    "signs-planes, normal tail": "sign flips, query/key planes, as a normal score",
    "signs-vo, normal tail": "sign flips, value/output dimensions, as a normal score",
    "matched-ffn": "matched feed-forward units",
    "matched-qk": "matched query/key dimensions",
    "matched-vo": "matched value/output dimensions",
}


def pages(bank: Row) -> str:
    """What the guide shows of a bank, in Markdown: errors, p-values of strangers, spread of their scores."""
    lines = ["| split | pairs | models | called related in any way | inconclusive | bound on the error rate |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for split in ("calibration", "test"):
        found = bank[split]
        unclear = found["verdicts"].get("inconclusive", 0)
        lines.append(
            f"| {split} | {found['pairs']} | {found['models']} | {found['false_positives']} | {unclear} | "
            f"{upper_95(found['false_positives'], found['pairs']):.4f} |"
        )
    shares = " | ".join(f"{level:g}" for level in QUANTILES)
    lines += ["", f"| p-value of strangers, test split | pairs | at most {shares} |", "|---|---|---|---|---|---|---|"]
    for split in ("test", "heavy"):
        for name, row in bank["uniformity"][split].items():
            if name in NAMES and not name.startswith("matched"):
                cells = " | ".join(f"{row[str(level)]:.3f}" for level in QUANTILES)
                lines.append(f"| {NAMES[name]}{_after(split)} | {row['pairs']} | {cells} |")
    lines += ["", "| score of strangers | layer pairs | mean | deviation | largest |", "|---|---|---|---|---|"]
    for split in ("test", "heavy"):
        for name, row in bank["uniformity"][split].items():
            if name.startswith("matched"):
                numbers = f"{row['layer_pairs']} | {row['mean']:.2f} | {row['deviation']:.2f} | {row['largest']:.1f}"
                lines.append(f"| {NAMES[name]}{_after(split)} | {numbers} |")
    return "\n".join(lines)


def _after(split: str) -> str:
    return ", after heavy training" if split == "heavy" else ""
