"""Each baseline against what its paper says of it: identity, a documented invariance, a documented hole, a number."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
from benchmark.zoo_specimens import specimen

from pedigree.benchmark.methods import all_methods, chosen_methods, match, reef, seedprints
from pedigree.benchmark.methods.ghostspec import monotone_path
from pedigree.benchmark.methods.interface import Answer, Method
from pedigree.benchmark.methods.matching import (
    biased_cka,
    fisher_log10,
    log10_p_of_rank_agreement,
    unbiased_cka,
)
from pedigree.benchmark.methods.model import Model
from pedigree.benchmark.methods.mother import arborescence
from pedigree.benchmark.methods.polar_trace import Trace, matched_trace, strength
from pedigree.benchmark.zoo import derive_gauge, derive_mixture, derive_survival
from pedigree.benchmark.zoo.snapshot import Snapshot
from pedigree.errors import UsageError

Made = dict[str, Model]
OPERATORS: dict[str, Callable[..., Snapshot]] = {
    "units": derive_gauge.permute_units,
    "heads": derive_gauge.permute_heads,
    "residual": derive_gauge.permute_residual,
    "turned": derive_gauge.rotate_residual,
    "attention": derive_gauge.rescale_attention,
    "gains": derive_gauge.scatter_gains,
    "tables": derive_survival.fresh_tables,
}
# method -> changes that leave its score where it was, changes that bring it down to what strangers have
CLAIMS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "sigma_curves": (("units", "heads", "residual", "tables"), ()),
    "raw_cosine": ((), ("residual", "turned")),
    # Permuted residual coordinates leave HuRef alone, flipped signs do not: the product of gate and up loses them.
    "huref": (("units", "heads", "attention"), ("tables",)),
    "reef": (("units", "heads", "residual", "turned", "attention", "gains"), ()),
    "csu": (("heads", "attention", "tables"), ("units", "turned", "residual")),
    "match": (("units", "heads", "residual", "turned", "attention", "gains"), ()),
    "awm": (("units", "heads", "residual"), ("turned", "tables")),
    "ghostspec": (("units", "heads", "residual", "attention", "tables"), ()),
    "polar_trace": (("heads", "residual"), ("tables",)),
    "seedprints": (("units", "heads", "attention"), ("residual", "turned")),
    "mother": (("units", "tables"), ("heads", "residual")),
}


@pytest.fixture(scope="module", autouse=True)
def fewer_inputs() -> Iterator[None]:
    """Forward passes are what costs time here; their number changes no claim."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reef, "PROMPTS", 60)
        patch.setattr(match, "PROMPTS", 60)
        patch.setattr(seedprints, "INPUTS", 80)
        seedprints.sequences.cache_clear()
        yield
    seedprints.sequences.cache_clear()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("methods")
    original = specimen("llama", folder / "original", 0)
    specimen("llama", folder / "stranger", 1)
    derive_mixture.add_noise(original, sigma=0.1, seed=3).save(folder / "noisy")
    for name, operator in OPERATORS.items():
        operator(original, seed=5).save(folder / name)
    return {path.name: Model(path) for path in folder.iterdir()}


def ask(made: Made, method: Method, other: str) -> float:
    answer = method.ask(made["original"], made[other])
    assert answer.score is not None, answer.why_not
    return answer.score


def test_every_baseline_of_the_issue_is_there_and_each_names_its_source() -> None:
    known = all_methods()
    assert set(CLAIMS) | {"modeldna", "pedigree_standard", "pedigree_fingerprint"} == set(known)
    assert all(method.source and method.title for method in known.values())
    assert next(iter(known)).startswith("pedigree")


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(UsageError, match="no such method"):
        chosen_methods(["astrology"])


@pytest.mark.parametrize("name", CLAIMS)
def test_nothing_scores_higher_than_identity_and_strangers_score_lower(name: str, made: Made) -> None:
    method = all_methods()[name]
    same, near, far = (ask(made, method, other) for other in ("original", "noisy", "stranger"))
    assert same >= near - 1e-9
    assert same > far


@pytest.mark.parametrize(("name", "change"), [(name, c) for name, (kept, _) in CLAIMS.items() for c in kept])
def test_a_documented_invariance_holds(name: str, change: str, made: Made) -> None:
    method = all_methods()[name]
    same, far = ask(made, method, "original"), ask(made, method, "stranger")
    assert abs(ask(made, method, change) - same) < 0.05 * (same - far)


@pytest.mark.parametrize(("name", "change"), [(name, c) for name, (_, lost) in CLAIMS.items() for c in lost])
def test_a_documented_hole_is_a_hole(name: str, change: str, made: Made) -> None:
    method = all_methods()[name]
    same, far = ask(made, method, "original"), ask(made, method, "stranger")
    assert ask(made, method, change) - far < 0.5 * (same - far)


def test_curves_of_standard_deviations_are_forged_by_scales_that_keep_the_function(made: Made, tmp_path: Path) -> None:
    """Section 2.1: factors between Q and K, and between V and O, move a stranger's curves to where one wants them."""
    method = all_methods()["sigma_curves"]
    source, victim = Snapshot.load(made["stranger"].folder), Snapshot.load(made["original"].folder)
    moved = {}
    for layer in range(source.n_layers):
        stem = f"model.layers.{layer}.self_attn."
        for reader, other in (("v", "o"), ("q", "k")):
            names = [f"{stem}{letter}_proj.weight" for letter in (reader, other)]
            factor = victim.tensors[names[0]].std() / source.tensors[names[0]].std()
            moved |= {names[0]: source.tensors[names[0]] * factor, names[1]: source.tensors[names[1]] / factor}
    source.changed(moved).save(tmp_path / "forged")
    honest, forged = ask(made, method, "stranger"), method.ask(made["original"], Model(tmp_path / "forged")).score
    assert forged is not None
    assert forged > honest + 0.1


@pytest.mark.parametrize(("width", "published"), [(4096, 0.953), (256, 0.56)])
def test_biased_alignment_of_noise_is_as_large_as_published(width: int, published: float) -> None:
    """Section 3.1: p / (p + n) for independent noise of p features on n = 200 inputs."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(200, width, generator=generator) for _ in range(2))
    assert biased_cka(x, y) == pytest.approx(published, abs=0.02)
    assert abs(unbiased_cka(x, y)) < 0.03


@pytest.mark.parametrize(("width", "published"), [(64, 0.022), (256, 0.0066)])
def test_the_null_of_unbiased_alignment_is_as_wide_as_published(width: int, published: float) -> None:
    """Section 2.5: standard deviation about 1.3 / d for d x d Gaussians; AWM's 0.0028 is that of d near 4096."""
    generator = torch.Generator().manual_seed(1)
    found = [
        unbiased_cka(*(torch.randn(width, width, generator=generator) for _ in range(2)))
        for _ in range(60 if width < 100 else 20)
    ]
    assert float(torch.tensor(found).std()) == pytest.approx(published, rel=0.5)


@pytest.mark.parametrize(("share", "published"), [(0.005, -0.5), (0.02, -1.8), (0.05, -6.9)])
def test_rank_agreement_of_few_survivors_is_as_weak_as_published(share: float, published: float) -> None:
    """Section 9.4: Spearman on 11,008 matched units of which a share is in place."""
    import numpy as np

    generator = np.random.default_rng(2)
    found = []
    for _ in range(9):
        order = generator.permutation(11_008)
        kept = generator.choice(11_008, round(share * 11_008), replace=False)
        rest = np.setdiff1d(np.arange(11_008), kept)
        order[kept] = kept
        order[rest] = generator.permutation(rest)
        found.append(log10_p_of_rank_agreement(np.arange(11_008), order))
    assert float(np.median(found)) == pytest.approx(published, abs=max(0.8, 0.35 * abs(published)))


@pytest.mark.parametrize(("n", "x"), [(896, 0.121), (4096, 0.063)])
def test_the_bound_of_traces_passes_twenty_decades_where_it_is_published_to(n: int, x: float) -> None:
    """Section 2.6: log p <= log n! + n log 2 - n^2 x^2 / 2, thresholds for 1e-20."""
    assert strength(Trace((x + 0.002) * n, n, n, n)) > 20
    assert strength(Trace((x - 0.004) * n, n, n, n)) < 20


def test_the_bound_of_traces_holds_for_random_isometries_of_low_rank() -> None:
    """More units than residual width: the map between units has the rank of the width alone."""
    generator = torch.Generator().manual_seed(3)
    a, b = (torch.randn(200, 16, generator=generator, dtype=torch.float64) for _ in range(2))
    assert strength(matched_trace(a @ b.T)) == 0.0
    assert strength(matched_trace(a @ a.T)) > 20


def test_fisher_joins_p_values_and_survives_tiny_ones() -> None:
    assert fisher_log10([math.log10(0.5)] * 2) == pytest.approx(math.log10(0.5966), abs=0.01)
    assert fisher_log10([-300.0] * 4) < -1000


def test_the_path_keeps_order_and_takes_the_nearest() -> None:
    distance = torch.tensor([[0.0, 1, 1, 1], [1, 1, 0, 1], [1, 1, 1, 0]])
    assert monotone_path(distance) == [0, 2, 3]


def test_the_arborescence_undoes_a_cycle() -> None:
    """Cheapest lines alone would join 1 and 2 to each other and leave 0 out."""
    inf = float("inf")
    cost = [[inf, 5.0, 6.0], [9.0, inf, 1.0], [9.0, 1.0, inf]]
    assert arborescence(cost) == [(0, 1), (1, 2)]


def test_what_cannot_be_compared_has_no_score_and_a_reason(made: Made, tmp_path: Path) -> None:
    """Networks without a gate would have to be distilled into ones that have it; that is not done."""
    specimen("gpt2", tmp_path / "other")
    answer: Answer = all_methods()["match"].ask(made["original"], Model(tmp_path / "other"))
    assert answer.score is None
    assert "gate" in answer.why_not
