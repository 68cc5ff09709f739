"""Rules of the update: who is decayed, what Muon does, what a saved state gives back."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.training.tiny import TinyModel

from pedigree.errors import MalformedFile
from pedigree.training.config import OptimizerConfig, TrainingConfig
from pedigree.training.muon import Muon, orthogonalized
from pedigree.training.optimizer import Optimizers
from pedigree.training.schedule import rate_share


def steps(model: TinyModel, optimizers: Optimizers, n: int, first: int = 0) -> None:
    for i in range(first, first + n):
        generator = torch.Generator().manual_seed(i)
        for parameter in optimizers.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizers.step()


def test_vectors_and_tables_are_not_decayed() -> None:
    model = TinyModel()
    groups = Optimizers(model, OptimizerConfig()).groups()
    names = {parameter: name for name, parameter in model.named_parameters()}
    decayed = {names[p] for group in groups if group["weight_decay"] for p in group["params"]}
    spared = {names[p] for group in groups if not group["weight_decay"] for p in group["params"]}
    assert spared == {"embed.weight", "head.weight", "norm.weight", "layers.0.norm.weight", "layers.1.norm.weight"}
    assert decayed == set(names.values()) - spared
    groups = Optimizers(model, OptimizerConfig(decay_embeddings=True)).groups()
    assert {names[p] for g in groups if g["weight_decay"] for p in g["params"]} >= {"embed.weight", "head.weight"}


def test_frozen_weights_are_in_no_group() -> None:
    model = TinyModel()
    model.embed.weight.requires_grad_(False)
    assert not any(p is model.embed.weight for p in Optimizers(model, OptimizerConfig()).parameters())


@pytest.mark.parametrize("shape", [(1, 24, 40), (3, 40, 24), (2, 16, 16)])
def test_orthogonalized_matrices_have_singular_values_near_one(shape: tuple[int, int, int]) -> None:
    x_MRC = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    out_MRC = orthogonalized(x_MRC)
    values = torch.linalg.svdvals(out_MRC)
    assert values.min() > 0.3
    assert values.max() < 1.3
    # The singular vectors stay: the product with the input is near symmetric and positive.
    gram_MRR = out_MRC @ x_MRC.mT if shape[1] <= shape[2] else out_MRC.mT @ x_MRC
    assert torch.allclose(gram_MRR, gram_MRR.mT, atol=1e-3)


def test_muon_in_one_batch_is_muon_one_by_one() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(8, 12), (8, 12), (3, 8, 12), (12, 8)]
    together = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    alone = [torch.nn.Parameter(p.detach().clone()) for p in together]
    optimizers = [Muon(together, 0.1, 0.9, 0.01), *(Muon([p], 0.1, 0.9, 0.01) for p in alone)]
    for _ in range(3):
        for p, q in zip(together, alone, strict=True):
            p.grad = torch.randn(p.shape, generator=generator)
            q.grad = p.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for p, q in zip(together, alone, strict=True):
        assert torch.allclose(p, q, atol=1e-5)


def test_muon_moves_entries_as_far_as_adamw() -> None:
    model = TinyModel()
    moved = {}
    for name in ("adamw", "muon"):
        twin = copy.deepcopy(model)
        weight = twin.layers[0].now.weight.detach()
        before = weight.clone()
        steps(twin, Optimizers(twin, OptimizerConfig(name=name, lr=0.01, weight_decay=0.0)), 1)
        moved[name] = float((weight - before).square().mean().sqrt())
    # AdamW's first step moves every entry by the rate; the published factor makes Muon's 0.2 of that on average.
    assert moved["adamw"] == pytest.approx(0.01, rel=0.01)
    assert moved["muon"] == pytest.approx(0.002, rel=0.2)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_saved_state_goes_on_bit_for_bit(name: str) -> None:
    model, twin = TinyModel(), TinyModel()
    config = OptimizerConfig(name=name)
    optimizers = Optimizers(model, config)
    steps(model, optimizers, 5)
    twin.load_state_dict(model.state_dict())
    again = Optimizers(twin, config)
    again.load({key: value.clone() for key, value in optimizers.tensors().items()})
    steps(model, optimizers, 3, first=5)
    steps(twin, again, 3, first=5)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_state_of_zeros_is_no_state(name: str) -> None:
    model, twin = TinyModel(), TinyModel()
    plain, created = Optimizers(model, OptimizerConfig(name=name)), Optimizers(twin, OptimizerConfig(name=name))
    created.tensors()
    steps(model, plain, 2)
    steps(twin, created, 2)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_a_state_of_another_shape_is_refused() -> None:
    optimizers = Optimizers(TinyModel(), OptimizerConfig())
    tensors = {key: torch.zeros(3) for key in optimizers.tensors()}
    with pytest.raises(MalformedFile, match="the state of the optimizer does not fit"):
        optimizers.load(tensors)


# -- schedules --------------------------------------------------------------------------------------------------------


def schedule(**changes: object) -> TrainingConfig:
    sources = ({"kind": "python-stdlib"},)
    given = {"sources": sources, "tokens": 10_000, "sequence_length": 10, "batch_sequences": 10, "schedule": changes}
    return TrainingConfig.model_validate(given)


def test_the_rate_rises_and_falls_by_tokens_whatever_the_batch() -> None:
    config = schedule(name="cosine", warmup_tokens=1000, floor=0.1)
    assert rate_share(config, 500) == 0.5
    assert rate_share(config, 1000) == 1.0
    assert rate_share(config, 5500) == pytest.approx(0.55)
    assert rate_share(config, 10_000) == pytest.approx(0.1)
    larger = config.model_copy(update={"batch_sequences": 50})
    assert rate_share(larger, 5500) == rate_share(config, 5500)


def test_wsd_stays_and_falls_at_the_end() -> None:
    config = schedule(name="wsd", warmup_tokens=1000, decay_tokens=2000, floor=0.0)
    assert [rate_share(config, n) for n in (1000, 5000, 8000)] == [1.0, 1.0, 1.0]
    assert rate_share(config, 9000) == pytest.approx(0.5)
    assert rate_share(config, 10_000) == 0.0
    assert rate_share(schedule(name="constant"), 10_000) == 1.0
