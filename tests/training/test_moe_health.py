"""The report on experts: clones have no effect, a dead expert is counted, trained experts are worth something."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.training.tiny import settings, write_text
from tests.training.tiny_run import make_run

from pedigree.errors import UsageError
from pedigree.model.config import ModelConfig
from pedigree.model.decoder import Decoder
from pedigree.training.config import SourceConfig
from pedigree.training.fit import ModelFacts
from pedigree.training.moe_health import MoeHealth, moe_health
from pedigree.training.run import Run

CPU = torch.device("cpu")


def small_mixture() -> ModelConfig:
    return ModelConfig.model_validate(
        {
            "vocab_size": 257, "d_model": 32, "n_layers": 2, "n_positions": 64, "rope": {},
            "attention": {"kind": "gqa", "n_heads": 2, "n_kv_heads": 1, "head_dim": 16},
            "feed_forward": {"kind": "swiglu", "d_inner": 64},
            "experts": {
                "n_experts": 4, "top_k": 2, "d_expert": 32, "first_dense": 1, "router": "sigmoid", "expert_bias": True,
                "renormalize": True, "balance": {"bias_rate": 0.001},
            },
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A small mixture trained on sentences and on sums for a few seconds."""
    place = tmp_path_factory.mktemp("experts")
    write_text(place / "text.txt", 400)
    sources = (
        SourceConfig(kind="text", path=str(place / "text.txt"), document="line", domain="en", held_out=0.1),
        SourceConfig(kind="arithmetic", domain="sums", max_documents=200, held_out=0.1),
    )
    config = settings(
        place, sources=sources, tokens=32 * 8 * 150, batch_sequences=8, optimizer={"lr": 0.02},
        evaluation={"max_tokens": 1500},
    )  # fmt: skip
    model = Decoder(small_mixture(), seed=1)
    run = make_run(place, place / "out", config, model, facts=ModelFacts({}, 257))
    run.start()
    run.work()
    return run


def examined(run: Run) -> MoeHealth:
    assert isinstance(run.model, Decoder)
    return moe_health(run.model, run.texts, run.config, run.vocabulary, CPU)


def test_the_report_describes_every_sparse_layer(trained: Run) -> None:
    health = examined(trained)
    (layer,) = health.layers
    assert sum(layer.load) == pytest.approx(1.0, abs=1e-4)
    assert layer.peak == pytest.approx(4 * max(layer.load), rel=1e-3)
    assert 0 < layer.load_entropy <= 1
    assert layer.router_entropy is not None
    assert 0 < layer.router_entropy <= 1
    assert layer.domain_bits is not None
    assert layer.together is not None
    assert layer.together[0] != layer.together[1]
    assert health.n_tokens > 1000
    assert trained.model.training  # type: ignore[attr-defined]
    assert examined(trained) == health


def test_trained_experts_are_worth_something_and_clones_are_not(trained: Run) -> None:
    health = examined(trained)
    assert health.effect > 0.05
    assert "no MoE effect" not in health.sentence
    assert isinstance(trained.model, Decoder)
    kept = {name: value.clone() for name, value in trained.model.state_dict().items()}
    with torch.no_grad():
        for mixture in trained.model.mixtures():
            for weight_Eoi in (mixture.experts.enter, mixture.experts.down):
                weight_Eoi.copy_(weight_Eoi.mean(0).expand_as(weight_Eoi).clone())
    clones = examined(trained)
    trained.model.load_state_dict(kept)
    assert clones.effect == pytest.approx(0, abs=1e-4)
    assert clones.sentence.startswith("this MoE has no MoE effect: its experts are interchangeable")
    assert clones.layers[0].divergence == pytest.approx(0, abs=1e-6)
    assert clones.layers[0].knock_out == pytest.approx(0, abs=1e-4)


def test_an_expert_without_tokens_is_dead(trained: Run) -> None:
    assert isinstance(trained.model, Decoder)
    (mixture,) = trained.model.mixtures()
    bias = mixture.router.expert_bias
    assert isinstance(bias, torch.Tensor)
    kept = bias.clone()
    bias[2] = -100.0
    health = examined(trained)
    bias.copy_(kept)
    assert health.layers[0].dead == 1
    assert health.layers[0].load[2] == 0


def test_a_dense_model_is_not_examined(tmp_path: Path, trained: Run) -> None:
    dense = Decoder(small_mixture().replace(experts=None))
    with pytest.raises(UsageError, match="the model has no experts"):
        moe_health(dense, trained.texts, trained.config, trained.vocabulary, CPU)
