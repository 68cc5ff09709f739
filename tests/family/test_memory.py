"""Memory on one device: the worked examples of the literature, laws of sharding, and a real step of training."""

from __future__ import annotations

from typing import Any

import pytest

from pedigree.family.memory import CHUNK_BYTES, activation_bytes, layer_load, memory
from pedigree.family.mesh import Mesh
from pedigree.model.members import member, names, pico
from pedigree.model.sizes import parameters
from pedigree.training.config import TrainingConfig

GIB = 2**30


def training(**changes: Any) -> TrainingConfig:
    values = {"sources": [{"kind": "arithmetic"}], "tokens": 10**12, "precision": "bf16", "sequence_length": 4096}
    return TrainingConfig.model_validate({**values, "batch_sequences": 2048, **changes})


@pytest.mark.parametrize(
    ("name", "kib", "gib", "full_gib"),
    [
        ("pangu-alpha-13b", 170, 26.6, 1.6),
        ("moe-38b", 170, 26.6, 1.6),
        ("dense-38b-v2", 214, 66.9, 3.1),
        ("dense-71b", 340, 74.4, 4.4),
        ("pangu-ultra-135b", 364, 133.7, 8.8),
        ("dense-230b", 512, 168.0, 10.5),
        ("pangu-pro-moe-72b", 319, 59.7, 1.9),
        ("pangu-ultra-moe-718b", 606, 144.4, 3.6),
    ],
)
def test_activations_are_the_worked_examples(name: str, kib: float, gib: float, full_gib: float) -> None:
    model, config = member(name), training()
    each = activation_bytes(model, model.n_layers - 1, config, "none")
    assert each / 1024 == pytest.approx(kib, abs=0.6)
    assert each * 4096 * model.n_layers / GIB == pytest.approx(gib, abs=0.06)
    full = activation_bytes(model, model.n_layers - 1, config, "full")
    assert full * 4096 * model.n_layers / GIB == pytest.approx(full_gib, abs=0.06)
    selective = activation_bytes(model, model.n_layers - 1, config, "selective")
    assert full < selective < each


def test_ultra_on_its_published_mesh_is_the_worked_example() -> None:
    mesh = Mesh(dp=128, tp=8, pp=8, noop=2, zero=1, micro=1)
    count = memory(member("pangu-ultra-135b"), training(batch_sequences=2048), mesh, "none")
    # 133.9 B parameters on 64 devices: 12.6 GB of weights and gradients; the fullest stage has a table besides.
    assert (count.weights + count.gradients) / 1e9 == pytest.approx(12.6 + 6 * 153376 * 12288 / 8 / 1e9, rel=0.01)
    assert count.optimizer / 1e9 == pytest.approx(0.2, abs=0.02)
    assert count.activations / GIB == pytest.approx(133.7 / 64 * 96 / 94 * 8, rel=0.01)
    assert count.stage == 0


@pytest.mark.parametrize("name", names())
def test_one_device_holds_every_parameter_once(name: str) -> None:
    model = member(name)
    count = memory(model, training(precision="fp32"), Mesh(micro=1), "none")
    p = parameters(model)
    assert count.weights == pytest.approx(4 * p.with_mtp, rel=1e-6)
    assert count.gradients == count.weights
    assert count.optimizer == 2 * count.weights
    assert count.gathered == 0


@pytest.mark.parametrize("name", ["pangu-ultra-135b", "pangu-pro-moe-72b", "pangu-ultra-moe-718b", "pangu-alpha-13b"])
@pytest.mark.parametrize(("zero", "bytes_each"), [(0, 18), (3, 16)])
def test_states_take_sixteen_or_eighteen_bytes_a_parameter(name: str, zero: int, bytes_each: int) -> None:
    model = member(name)
    count = memory(model, training(), Mesh(zero=zero, micro=1), "none")
    states = count.weights + count.gradients + count.optimizer
    assert states == pytest.approx(bytes_each * parameters(model).with_mtp, rel=1e-6)


def test_each_stage_of_zero_spreads_one_more_state() -> None:
    model = member("pangu-ultra-135b")
    counts = [memory(model, training(), Mesh(dp=64, zero=zero, micro=1), "none") for zero in range(4)]
    assert counts[1].optimizer == pytest.approx(counts[0].optimizer / 64)
    assert counts[1].gradients == counts[0].gradients
    assert counts[2].gradients == pytest.approx(counts[0].gradients / 64)
    assert counts[2].weights == counts[0].weights
    assert counts[3].weights == pytest.approx(2 * counts[0].weights / 64)
    assert [count.gathered > 0 for count in counts] == [False, False, False, True]


def test_experts_are_spread_over_what_expert_parallelism_leaves() -> None:
    model = member("pangu-ultra-moe-718b")
    wide, narrow = (layer_load(model, 10, Mesh(dp=64, ep=ep)) for ep in (1, 16))
    assert narrow.expert == wide.expert / 16
    assert narrow.inner == wide.inner
    whole = memory(model, training(), Mesh(dp=64, ep=1, micro=1), "none")
    spread = memory(model, training(), Mesh(dp=64, ep=16, micro=1), "none")
    assert spread.weights == pytest.approx(whole.weights, rel=1e-6)  # in pieces over 64 devices either way
    assert spread.gathered < whole.gathered


def test_key_heads_that_are_fewer_than_parts_are_held_several_times() -> None:
    model = member("pangu-ultra-135b")  # 96 heads, 8 key heads of 128
    eight, sixteen = (layer_load(model, 0, Mesh(tp=tp)) for tp in (8, 16))
    key_and_value = 2 * 12288 * 128
    assert sixteen.inner == pytest.approx(eight.inner / 2 + key_and_value / 2)


def test_muon_keeps_one_moment_for_matrices_and_pure_keeps_half() -> None:
    model = member("llama-2-7b")
    adam = memory(model, training(precision="fp32"), Mesh(micro=1), "none")
    muon = memory(model, training(precision="fp32", optimizer={"name": "muon"}), Mesh(micro=1), "none")
    p = parameters(model)
    outer = p.embedding + p.head + p.norms
    assert muon.optimizer == pytest.approx(4 * (p.total - outer) + 8 * outer, rel=1e-6)
    assert adam.optimizer == 8 * p.total
    pure = memory(model, training(pure=True), Mesh(micro=1), "none")
    assert pure.weights + pure.gradients + pure.optimizer == 8 * p.total


def test_the_first_stage_holds_the_most_micro_batches_and_never_more_than_there_are() -> None:
    model = member("dense-71b")
    many = memory(model, training(), Mesh(pp=8, micro=1, zero=1), "none")
    one = memory(model, training(batch_sequences=1), Mesh(pp=8, micro=1, zero=1), "none")
    assert many.stage == 0
    each = activation_bytes(model, 0, training(), "none") * 4096 * 7
    assert many.activations == pytest.approx(8 * each)
    assert one.activations == pytest.approx(each)


def test_the_chunks_of_the_cross_entropy_are_those_of_the_model() -> None:
    from pedigree.model import cross_entropy

    assert CHUNK_BYTES == cross_entropy.CHUNK_BYTES_ELSEWHERE


@pytest.mark.parametrize("name", ["llama-3-8b", "pangu-alpha-13b", "pangu-ultra-135b", "pangu-ultra-moe-718b"])
def test_kept_activations_of_a_real_pass_are_near_the_count(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What autograd keeps for one block in float32, found as the difference of two depths.

    With the fused attention of accelerators, which the count is for; short rows on a CPU keep their weights, too.
    """
    import torch

    monkeypatch.setattr("pedigree.model.attention.is_short", lambda *_: False)

    from pedigree.model.decoder import Decoder

    config = pico(member(name), 128, vocab_size=256, n_positions=64)
    settings = training(precision="fp32", sequence_length=64, batch_sequences=4)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(256, (4, 64), generator=generator)

    def kept(n_layers: int) -> int:
        model = Decoder(config.replace(n_layers=n_layers))
        weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        seen: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                seen[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            output = model(tokens, targets_BT=tokens)
        assert output.loss is not None
        return sum(seen.values())

    n = config.n_layers
    measured = (kept(n + 2) - kept(n)) / 2 / tokens.numel()
    counted = activation_bytes(config, n - 1, settings, "none")
    assert 0.9 < measured / counted < 1.4, f"measured {measured:.0f}, counted {counted:.0f} bytes a token"
