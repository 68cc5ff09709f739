"""Comparison of tokenizers: what the same texts cost under each, with intervals, and what the vocabularies share.

Question  Does A need fewer tokens than B for this text?
Statistic ratio of tokens, A over B, on the same units (lines or documents); below 1 A is shorter
Interval  95 %, percentile bootstrap over units, paired: one draw of units serves both tokenizers. Units of parallel
          texts are drawn together, since translations of one sentence are not independent
Answer    "no difference" when the whole interval lies within the margin around 1; "shorter" or "longer" when it lies
          beyond the margin on one side; "cannot say" otherwise. The margin is the caller's and is stated
Assumes   units are independent of each other; neighboring lines of a book are not quite: its interval is too narrow
Overall   geometric mean of the ratios, each text counting the same
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

from pedigree.errors import UsageError
from pedigree.records.comparison import Producer
from pedigree.records.tokenizer import (
    Difference,
    Overlap,
    Ratio,
    TokenizerComparison,
    TokenizerComparisonResult,
)
from pedigree.tokenizers.audit import compression_records, text_input, tokenizer_input
from pedigree.tokenizers.compression import Measured, Progress, measure
from pedigree.tokenizers.encoder import Encoder
from pedigree.tokenizers.texts import Text

Numbers = npt.NDArray[np.float64]


def compare_tokenizers(
    encoders: Sequence[Encoder],
    texts: Sequence[Text],
    *,
    margin: float = 0.02,
    draws: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
    producer: Producer | None = None,
) -> TokenizerComparison:
    """Compare every pair of tokenizers on every text.

    Args:
        margin: ratios within 1 - margin .. 1 / (1 - margin) count as no difference.
        draws: bootstrap draws.
        seed: of the draws.

    Raises:
        UsageError: fewer than two tokenizers, no text, or a margin that is none.
    """
    if len(encoders) < 2:
        raise UsageError("a comparison needs two tokenizers", got=len(encoders), fix="name another one")
    if not texts:
        raise UsageError("a comparison needs texts", fix="--text FILE or --ntrex DIR")
    if not 0 <= margin < 0.5 or draws < 100:
        raise UsageError(
            "margin or draws out of range", got=(margin, draws), expected="0 <= margin < 0.5, draws >= 100"
        )
    names = _names(encoders)
    measured = {name: measure(encoder, texts, progress) for name, encoder in zip(names, encoders, strict=True)}
    ratios: list[Ratio] = []
    overall: list[Ratio] = []
    for a, b in combinations(names, 2):
        each, together = pair_ratios(measured[a], measured[b], a, b, margin=margin, draws=draws, seed=seed)
        ratios += each
        overall.append(together)
    overlap = [
        overlap_of(x, y, names[i], names[j]) for (i, x), (j, y) in combinations(enumerate(encoders), 2)
    ]  # fmt: skip
    return TokenizerComparison(
        producer=producer or Producer(),
        tokenizers=[
            tokenizer_input(encoder).model_copy(update={"name": name})
            for name, encoder in zip(names, encoders, strict=True)
        ],
        texts=[text_input(text) for text in texts],
        result=TokenizerComparisonResult(
            verdict=[pair_sentence(ratio, margin) for ratio in overall],
            compression={name: compression_records(rows) for name, rows in measured.items()},
            ratios=ratios,
            overall=overall,
            overlap=overlap,
            margin=margin,
            draws=draws,
            seed=seed,
        ),
    )


def _names(encoders: Sequence[Encoder]) -> list[str]:
    seen: dict[str, int] = {}
    names = []
    for encoder in encoders:
        seen[encoder.name] = seen.get(encoder.name, 0) + 1
        names.append(encoder.name if seen[encoder.name] == 1 else f"{encoder.name}#{seen[encoder.name]}")
    return names


def pair_ratios(
    a: Sequence[Measured], b: Sequence[Measured], name_a: str, name_b: str, *, margin: float, draws: int, seed: int
) -> tuple[list[Ratio], Ratio]:
    """Ratios of one pair of tokenizers: for each text, and over all of them."""
    rng = np.random.default_rng(seed)
    drawn: dict[tuple[str, int], list[npt.NDArray[np.int64]]] = {}
    rows: list[Ratio] = []
    logs = []
    for m, n in zip(a, b, strict=True):
        units = len(m.text.units)
        key = (m.text.group or f"\0{len(rows)}", units)
        if key not in drawn:
            drawn[key] = _weights(rng, units, draws)
        log_ratios = np.log(_sums(drawn[key], m.tokens)) - np.log(_sums(drawn[key], n.tokens))
        point = float(np.log(max(1, m.tokens.sum())) - np.log(max(1, n.tokens.sum())))
        logs.append((point, log_ratios))
        rows.append(_ratio(name_a, name_b, m.text.name, point, log_ratios, units, margin))
    point = float(np.mean([point for point, _ in logs]))
    draws_D = np.mean(np.stack([log for _, log in logs]), axis=0)
    units = sum(len(m.text.units) for m in a)
    return rows, _ratio(name_a, name_b, "", point, draws_D, units, margin)


def _weights(rng: np.random.Generator, units: int, draws: int) -> list[npt.NDArray[np.int64]]:
    """How often each unit is drawn, for each draw."""
    return [np.bincount(rng.integers(0, units, units), minlength=units) for _ in range(draws)]


def _sums(weights: Sequence[npt.NDArray[np.int64]], tokens: npt.NDArray[np.int64]) -> Numbers:
    """Tokens in all, for each draw."""
    return np.array([max(1, int(drawn @ tokens)) for drawn in weights], np.float64)


def _ratio(a: str, b: str, text: str, point: float, draws: Numbers, units: int, margin: float) -> Ratio:
    low, high = (float(x) for x in np.exp(np.quantile(draws, [0.025, 0.975])))
    return Ratio(
        a=a, b=b, text=text, ratio=float(np.exp(point)), low=low, high=high, units=units,
        verdict=verdict_of(low, high, margin),
    )  # fmt: skip


def verdict_of(low: float, high: float, margin: float) -> Difference:
    """What an interval says about A."""
    floor, ceiling = 1 - margin, 1 / (1 - margin)
    if floor <= low and high <= ceiling:
        return "no difference"
    if high < floor:
        return "shorter"
    return "longer" if low > ceiling else "cannot say"


def pair_sentence(ratio: Ratio, margin: float) -> str:
    """The verdict on one pair over all texts."""
    interval = f"ratio {ratio.ratio:.3f}, 95 % interval {ratio.low:.3f} to {ratio.high:.3f}"
    if ratio.verdict == "no difference":
        return f"no difference between {ratio.a} and {ratio.b} beyond {margin:.1%} ({interval})"
    if ratio.verdict == "cannot say":
        return f"{ratio.a} and {ratio.b} cannot be told apart at a margin of {margin:.1%} ({interval})"
    return f"{ratio.a} is {ratio.verdict} than {ratio.b} ({interval})"


def overlap_of(x: Encoder, y: Encoder, name_x: str, name_y: str) -> Overlap:
    """Surfaces that both vocabularies hold."""
    a, b = set(x.vocabulary()), set(y.vocabulary())
    shared = len(a & b)
    return Overlap(
        a=name_x, b=name_y, shared=shared, of_a=len(a), of_b=len(b), jaccard=shared / max(1, len(a | b))
    )  # fmt: skip
