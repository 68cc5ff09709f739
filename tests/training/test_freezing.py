"""Frozen weights: bit-identical after training, under every optimizer, tied tables and routers included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.tiny import settings, write_text
from tests.training.tiny_run import make_run

from pedigree.errors import InternalError, UsageError
from pedigree.model.decoder import Decoder
from pedigree.model.members import member
from pedigree.training.config import FreezeRule
from pedigree.training.fit import ModelFacts
from pedigree.training.freezing import check_still, freeze, frozen_digests, layer_of, role_of
from pedigree.training.run import Run


def model_of(name: str) -> Decoder:
    return Decoder(member(f"{name}-pico").replace(vocab_size=257), seed=3)


def trained(
    place: Path, model: Decoder, rules: list[dict[str, Any]], **changes: Any
) -> tuple[Run, dict[str, torch.Tensor]]:
    """A short run with large weight decay, and the state before it."""
    write_text(place / "text.txt", 60)
    decay = {"lr": 0.02, "weight_decay": 0.5, "decay_embeddings": True}
    given = {"tokens": 32 * 8 * 4, "freeze": rules, "optimizer": decay, **changes}
    run = make_run(place, place / "out", settings(place, **given), model, facts=ModelFacts({}, 257))
    run.start()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run.work()
    return run, before


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_loaded_layers_stay_to_the_bit_and_the_rest_moves(tmp_path: Path, optimizer: str) -> None:
    model = model_of("deepseek-v3")
    rules: list[dict[str, Any]] = [{"layers": [0, 1]}, {"roles": ["embed", "router"]}]
    decay = {"name": optimizer, "lr": 0.02, "weight_decay": 0.5, "decay_embeddings": True}
    _, before = trained(tmp_path, model, rules, optimizer=decay)
    after = model.state_dict()
    for name, value in before.items():
        held = layer_of(name) in (0, 1) or role_of(name) in ("embed", "router")
        same = torch.equal(value, after[name])
        # A norm's gain may be too small a target to move in four steps; matrices and selection biases must.
        if held or value.ndim >= 2:
            assert same == held, name


def test_a_router_that_is_not_frozen_moves_its_bias(tmp_path: Path) -> None:
    model = model_of("deepseek-v3")
    _, before = trained(tmp_path, model, [{"roles": ["attention"]}])
    names = [name for name in before if name.endswith("router.expert_bias")]
    assert names
    assert all(not torch.equal(before[name], model.state_dict()[name]) for name in names if name.startswith("layers"))


def test_one_table_for_both_ends_is_frozen_as_one(tmp_path: Path) -> None:
    model = model_of("llama-3-8b")
    tied = Decoder(model.config.replace(tied=True), seed=3)
    _, before = trained(tmp_path, tied, [{"roles": ["embed"]}])
    assert torch.equal(before["embed.weight"], tied.head_weight)
    with pytest.raises(UsageError, match="no weight of this model") as caught:
        freeze(tied, (FreezeRule(roles=("head",)),))
    assert caught.value.fix is not None
    assert "embed" in caught.value.fix


def test_what_was_frozen_goes_into_the_record_and_survives_a_resumption(tmp_path: Path) -> None:
    model = model_of("llama-3-8b")
    rules: list[dict[str, Any]] = [{"layers": [1]}]
    _, before = trained(tmp_path, model, rules)
    again = model_of("llama-3-8b")
    run, _ = trained(tmp_path, again, rules)  # nothing left to do: goes on from the last checkpoint
    assert torch.equal(again.state_dict()["layers.1.attn.q.weight"], before["layers.1.attn.q.weight"])
    lines = (tmp_path / "out" / "run.jsonl").read_text(encoding="utf-8")
    assert '"frozen"' in lines
    assert run.config.freeze[0].layers == (1,)


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ([{"layers": [99]}], "no weight of this model"),
        ([{"roles": ["router"]}], "no weight of this model"),
        ([{"layers": [*range(64)]}, {"roles": ["embed", "norm", "head"]}], "nothing to train"),
    ],
)
def test_rules_that_mean_nothing_or_everything_are_refused(rules: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        freeze(model_of("llama-3-8b"), tuple(map(FreezeRule.model_validate, rules)))


def test_a_changed_weight_is_noticed() -> None:
    model = model_of("llama-3-8b")
    names = freeze(model, (FreezeRule(roles=("norm",)),))
    before = frozen_digests(model, names)
    check_still(before, frozen_digests(model, names))
    with torch.no_grad():
        model.norm.weight.view(-1)[0] += 1e-6
    with pytest.raises(InternalError, match="changed during training"):
        check_still(before, frozen_digests(model, names))


def test_every_weight_of_every_member_has_a_role() -> None:
    from pedigree.model.members import names

    for name in names():
        with torch.device("meta"):
            model = Decoder(member(f"{name}-pico"))
        assert [n for n, _ in model.named_parameters() if role_of(n) is None] == []


def test_recipes_that_freeze_nothing_keep_their_digests(tmp_path: Path) -> None:
    plain = settings(tmp_path)
    assert "freeze" not in plain.decisive()
    assert settings(tmp_path, freeze=[{"layers": [0]}]).digest() != plain.digest()
