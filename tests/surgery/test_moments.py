"""Moments that move along: training on after a move is the move of training on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pedigree.errors import PedigreeError
from pedigree.model.decoder import Decoder
from pedigree.model.hf_checkpoint import export_checkpoint, import_checkpoint
from pedigree.model.members import member
from pedigree.records.recorder import JsonlRecorder, NullRecorder, read_events
from pedigree.surgery.composition import compose
from pedigree.surgery.engine import run
from pedigree.surgery.moments import carry
from pedigree.surgery.plan import make_plan
from pedigree.surgery.recipe import read_recipe
from pedigree.training.carried_state import read_carried
from pedigree.training.config import OptimizerConfig
from pedigree.training.optimizer import Optimizers

VOCABULARY = 60
CONFIG = OptimizerConfig(lr=3e-3, weight_decay=0.0)


def batch(number: int) -> Tensor:
    return torch.randint(0, VOCABULARY, (4, 17), generator=torch.Generator().manual_seed(number))


def trained(model: Decoder, state: Mapping[str, Tensor] | None, steps: range) -> Optimizers:
    """Some steps of AdamW, from a state or from none; dropout and schedule are off."""
    model.train()
    optimizers = Optimizers(model, CONFIG)
    if state is not None:
        optimizers.load({name: state.get(name, torch.zeros_like(own)) for name, own in optimizers.tensors().items()})
    for number in steps:
        tokens = batch(number)
        optimizers.zero_grad()
        loss = model(tokens[:, :-1], targets_BT=tokens[:, 1:]).loss
        assert loss is not None
        torch.autograd.backward(loss)
        optimizers.step()
    return optimizers


def source(place: Path, name: str, steps: int = 12, **changes: Any) -> Decoder:
    """A model trained some steps in `place/model`, its state as a run saves it in `place/state`."""
    config = member(f"{name}-pico").replace(vocab_size=VOCABULARY, n_layers=2, d_model=32, **changes)
    model = Decoder(config, seed=3)
    optimizers = trained(model, None, range(steps))
    export_checkpoint(model, place / "model", force=True)
    tensors = {f"model.{n}": t.detach().clone() for n, t in model.state_dict().items()}
    tensors |= {f"optimizer.{n}": t.clone() for n, t in optimizers.tensors().items()}
    (place / "state").mkdir(exist_ok=True)
    save_file(tensors, place / "state" / "shard-00001-model-00001-of-00001.safetensors")
    return model


def moved(place: Path, steps: list[Any], **more: Any) -> tuple[Decoder, dict[str, Tensor], list[str]]:
    """The operated model, its carried state, and what was told."""
    recipe = {"surgery": 1, "source": {"model": "./model", "optimizer": "./state"},
              "target": {"dir": "./out", "seed": 4}, "steps": steps, **more}  # fmt: skip
    (place / "r.yaml").write_text(json.dumps(recipe))
    composition = compose(read_recipe(place / "r.yaml"))
    try:
        notes = carry(composition, NullRecorder(), force=True)
        run(make_plan(composition), NullRecorder(), force=True)
    finally:
        composition.close()
    return import_checkpoint(place / "out"), read_carried(place / "out.optimizer"), notes


def apart(a: Decoder, b: Decoder) -> float:
    tokens = batch(99)
    with torch.no_grad():
        one, two = (m.eval()(tokens, return_logits=True).logits for m in (a, b))
    return float((one - two).abs().max() / one.std())


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("llama-3-8b", ["launder.permute"]),
        ("qwen2.5-14b", ["launder.permute"]),
        ("pangu-alpha-13b", [{"launder.permute": {"spaces": ["inner", "heads"]}}]),
        ("mixtral-8x7b", [{"launder.permute": {"spaces": ["residual", "heads"]}}]),
    ],
)
def test_training_on_after_a_permutation_is_the_permutation_of_training_on(
    tmp_path: Path, name: str, steps: list[Any]
) -> None:
    model = source(tmp_path, name)
    other, state, _ = moved(tmp_path, steps)
    before = {n: t.clone() for n, t in load_file(next((tmp_path / "state").glob("*"))).items()}
    assert apart(model, other) < 1e-5
    trained(model, {n.removeprefix("optimizer."): t for n, t in before.items() if "optimizer." in n}, range(12, 18))
    fresh = import_checkpoint(tmp_path / "out")
    trained(other, state, range(12, 18))
    trained(fresh, None, range(12, 18))
    assert apart(model, other) < 2e-4
    assert apart(model, fresh) > 20 * apart(model, other)  # dropping the moments is not the same


def test_first_moments_move_as_gradients_do(tmp_path: Path) -> None:
    """Gradients of the operated model, against what the rule makes of those of the source: copies, scales and pads."""
    model = source(tmp_path, "llama-3-8b")
    steps = [{"grow.ffn": {"to": 2 * model.config.feed_forward.d_inner, "op": "copy"}},
             {"launder.rescale": {"octaves": 2}}]  # fmt: skip
    tokens = batch(50)
    gradients = []
    for place in (tmp_path / "model", None):
        if place is None:
            tensors = load_file(next((tmp_path / "state").glob("*")))
            for parameter_name, gradient in gradients[0].items():  # the state is the gradient itself
                tensors[f"optimizer.exp_avg.{parameter_name}"] = gradient
                tensors[f"optimizer.exp_avg_sq.{parameter_name}"] = gradient.square()
            save_file(tensors, next((tmp_path / "state").glob("*")))
            one, state, _ = moved(tmp_path, steps)
        else:
            one = import_checkpoint(place)
        loss = one.train()(tokens[:, :-1], targets_BT=tokens[:, 1:]).loss
        assert loss is not None
        torch.autograd.backward(loss)
        gradients.append({n: p.grad for n, p in one.named_parameters()})
    assert gradients[1]["layers.0.ffn.up.weight"].shape[0] == 2 * model.config.feed_forward.d_inner
    for name, gradient in gradients[1].items():
        size = gradient.abs().max()
        assert torch.allclose(state[f"exp_avg.{name}"], gradient, atol=float(1e-4 * size), rtol=1e-4), name
        assert torch.allclose(state[f"exp_avg_sq.{name}"], gradient.square(), atol=float(1e-4 * size**2), rtol=1e-3), (
            name
        )


def test_fresh_tensors_begin_at_zero_and_count_their_steps_from_there(tmp_path: Path) -> None:
    model = source(tmp_path, "llama-3-8b")
    _, state, notes = moved(tmp_path, [{"grow.depth": {"op": "identity", "after": [0]}}, {"grow.ffn": {"to": 240}}])
    inner = model.config.feed_forward.d_inner
    before = load_file(next((tmp_path / "state").glob("*")))
    assert torch.equal(
        state["exp_avg.layers.0.ffn.up.weight"][:inner], before["optimizer.exp_avg.layers.0.ffn.up.weight"]
    )
    assert not state["exp_avg.layers.0.ffn.up.weight"][inner:].any()
    for name in (
        "attn.o.weight",
        "attn.q.weight",
        "ffn.down.weight",
        "ffn_norm.weight",
    ):  # the copy has learned nothing
        assert not state[f"exp_avg.layers.1.{name}"].any()
        assert (float(state[f"step.layers.1.{name}"]), float(state[f"step.layers.2.{name}"])) == (0.0, 12.0)
    assert torch.equal(
        state["exp_avg_sq.layers.2.attn.q.weight"], before["optimizer.exp_avg_sq.layers.1.attn.q.weight"]
    )
    assert any("tensors begins at zero" in note for note in notes)


def test_what_was_moved_once_moves_again(tmp_path: Path) -> None:
    model = source(tmp_path, "llama-3-8b", steps=3)
    _, first, _ = moved(tmp_path, ["launder.permute"])
    (tmp_path / "model").rename(tmp_path / "gone")
    (tmp_path / "state").rename(tmp_path / "gone-too")
    (tmp_path / "out").rename(tmp_path / "model")
    (tmp_path / "out.optimizer").rename(tmp_path / "state")
    _, second, _ = moved(tmp_path, [{"grow.ffn": {"to": 240}}])
    inner = model.config.feed_forward.d_inner
    for kind in ("exp_avg", "exp_avg_sq"):
        name = f"{kind}.layers.1.ffn.up.weight"
        assert torch.equal(second[name][:inner], first[name])
        assert torch.equal(second[f"{kind}.embed.weight"], first[f"{kind}.embed.weight"])
    assert {float(value) for name, value in second.items() if name.startswith("step.")} == {3.0}


def test_what_moved_is_recorded_and_goes_on_after_an_interruption(tmp_path: Path) -> None:
    source(tmp_path, "llama-3-8b", steps=2)
    moved(tmp_path, ["launder.permute"])
    composition = compose(read_recipe(tmp_path / "r.yaml"))
    try:
        assert carry(composition, NullRecorder()) == [f"optimizer: its state is in {tmp_path}/out.optimizer already"]
        recorder = JsonlRecorder(tmp_path / "record.jsonl")
        carry(composition, recorder, force=True)
    finally:
        composition.close()
    facts = next(event for event in read_events(tmp_path / "record.jsonl") if "recipe" in str(event))
    assert "exp_avg_sq.layers.0.attn.q.weight" in json.dumps(facts, default=str)
    assert '"replay"' not in json.dumps(facts, default=str)  # it would make the weights again, not their moments
    assert (tmp_path / "out.optimizer" / "surgery.json").exists()


def test_a_state_that_does_not_belong_to_the_model_is_refused(tmp_path: Path) -> None:
    source(tmp_path, "llama-3-8b", steps=1)
    (tmp_path / "empty").mkdir()
    save_file({"model.embed.weight": torch.zeros(2, 2)}, tmp_path / "empty" / "shard-00001.safetensors")
    (tmp_path / "state").rename(tmp_path / "kept")
    (tmp_path / "empty").rename(tmp_path / "state")
    with pytest.raises(PedigreeError, match="no state of an optimizer"):
        moved(tmp_path, ["launder.permute"])
