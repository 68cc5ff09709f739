"""Comparison: paired intervals, the right to find no difference, overlaps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pedigree.errors import UsageError
from pedigree.tokenizers.comparison import compare_tokenizers, overlap_of, pair_ratios, verdict_of
from pedigree.tokenizers.compression import Measured
from pedigree.tokenizers.encoder import Encoder
from pedigree.tokenizers.reading import open_encoder
from pedigree.tokenizers.texts import Text, read_parallel


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.985, 1.015, "no difference"),
        (0.90, 0.97, "shorter"),
        (1.03, 1.20, "longer"),
        (0.97, 1.01, "cannot say"),
        (0.90, 1.20, "cannot say"),
        (0.97, 0.99, "cannot say"),
    ],
)
def test_an_interval_says_one_of_four_things(low: float, high: float, verdict: str) -> None:
    assert verdict_of(low, high, 0.02) == verdict


def test_verdicts_do_not_depend_on_who_is_named_first() -> None:
    turned = {"shorter": "longer", "longer": "shorter"}
    for low, high in ((0.981, 1.0), (0.9, 0.95), (0.97, 1.02), (1.01, 1.3)):
        forth, back = verdict_of(low, high, 0.02), verdict_of(1 / high, 1 / low, 0.02)
        assert back == turned.get(forth, forth)


def measured(name: str, tokens: list[int], group: str = "") -> Measured:
    text = Text(name, tuple("x" for _ in tokens), "line", name, group)
    counts = np.array(tokens, np.int64)
    return Measured(text, counts, np.ones_like(counts), np.zeros(1, np.int64))


def test_pairing_takes_out_what_both_share() -> None:
    rng = np.random.default_rng(1)
    long_and_short = rng.integers(1, 1000, 300).tolist()
    a = [measured("t", [2 * n for n in long_and_short])]
    b = [measured("t", long_and_short)]
    rows, overall = pair_ratios(a, b, "a", "b", margin=0.02, draws=200, seed=0)
    assert rows[0].low == pytest.approx(2)
    assert rows[0].high == pytest.approx(2)
    assert overall.verdict == "longer"


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Coverage of the 95 % interval over repeated draws of 100 units from one population."""
    rng = np.random.default_rng(5)
    hits, trials = 0, 200
    for trial in range(trials):
        base = rng.integers(5, 50, 100)
        other = base + rng.integers(0, 5, 100)  # on average 27 + 2 against 27 tokens
        rows, _ = pair_ratios(
            [measured("t", other.tolist())],
            [measured("t", base.tolist())],
            "a",
            "b",
            margin=0.02,
            draws=200,
            seed=trial,
        )
        hits += rows[0].low <= 29 / 27 <= rows[0].high
    assert 0.88 <= hits / trials <= 0.99


def test_parallel_texts_are_drawn_together() -> None:
    rng = np.random.default_rng(3)
    noise = rng.integers(1, 100, 200)
    up, down = noise.tolist(), (101 - noise).tolist()
    flat = [50] * 200
    # What one language gains in a sentence the other loses: drawn together their mean hardly moves.
    together = pair_ratios(
        [measured("x", up, "g"), measured("y", down, "g")], [measured("x", flat, "g"), measured("y", flat, "g")],
        "a", "b", margin=0.02, draws=300, seed=0,
    )[1]  # fmt: skip
    apart = pair_ratios(
        [measured("x", up), measured("y", down)], [measured("x", flat), measured("y", flat)],
        "a", "b", margin=0.02, draws=300, seed=0,
    )[1]  # fmt: skip
    assert together.high - together.low < 0.3 * (apart.high - apart.low)


def test_a_tokenizer_does_not_differ_from_itself(small: dict[str, Encoder], english: Text) -> None:
    record = compare_tokenizers([small["byte-level"], small["byte-level"]], [english], draws=100)
    assert record.result.overall[0].verdict == "no difference"
    assert record.result.overall[0].ratio == 1
    assert record.result.verdict[0].startswith("no difference between byte-level and byte-level#2 beyond 2.0%")
    assert record.result.overlap[0].jaccard == 1
    assert record.result.overlap[0].of_a == record.result.overlap[0].shared


def test_every_pair_is_compared_and_runs_are_the_same(small: dict[str, Encoder], english: Text, russian: Text) -> None:
    encoders = list(small.values())
    first, second = (compare_tokenizers(encoders, [english, russian], draws=100, seed=4).to_json() for _ in range(2))
    assert first == second
    record = compare_tokenizers(encoders, [english, russian], draws=100)
    assert len(record.result.overall) == 6
    assert len(record.result.ratios) == 12
    single = next(r for r in record.result.ratios if (r.b, r.text) == ("one-character", "eng/verse"))
    assert single.verdict == "shorter"


def test_overlap_is_of_bytes_not_of_spellings(small: dict[str, Encoder]) -> None:
    overlap = overlap_of(small["byte-level"], small["byte-fallback"], "a", "b")
    assert overlap.shared > 128
    assert b" the" in small["byte-level"].vocabulary()
    assert b" the" in small["byte-fallback"].vocabulary()


def test_what_cannot_be_compared_is_told(small: dict[str, Encoder], english: Text) -> None:
    pair = [small["byte-level"], small["unigram"]]
    with pytest.raises(UsageError, match="needs two tokenizers"):
        compare_tokenizers(pair[:1], [english])
    with pytest.raises(UsageError, match="needs texts"):
        compare_tokenizers(pair, [])
    with pytest.raises(UsageError, match="margin or draws out of range"):
        compare_tokenizers(pair, [english], margin=0.7)
    with pytest.raises(UsageError, match="margin or draws out of range"):
        compare_tokenizers(pair, [english], draws=5)


def test_qwen_1_and_2_do_not_differ(real: Path, shared_data: Path) -> None:
    """Row 12 of the mission: "no difference" is an answer."""
    texts = [t for t in read_parallel(shared_data / "corpora" / "ntrex128") if t.language in ("eng", "zho-CN", "rus")]
    record = compare_tokenizers([open_encoder(real / "qwen1"), open_encoder(real / "qwen2")], texts, draws=100)
    assert {ratio.verdict for ratio in record.result.ratios} == {"no difference"}
    against = compare_tokenizers([open_encoder(real / "qwen2"), open_encoder(real / "gpt2")], texts, draws=100)
    assert {r.text: r.verdict for r in against.result.ratios}["zho-CN/news"] == "shorter"
