"""The laws of the decoder, held by every member: sizes, start, causality, documents, cache, gradients."""

from __future__ import annotations

import math

import pytest
import torch
from model.pico import KINDS, MEMBERS, config, decoder, domains, logits, tokens

from pedigree.errors import UsageError
from pedigree.model.cache import Cache
from pedigree.model.config import ModelConfig
from pedigree.model.decoder import Decoder
from pedigree.model.members import member, names
from pedigree.model.sizes import cache_bytes, parameters

EXACT = 2e-5


@pytest.mark.parametrize("name", MEMBERS)
def test_every_pico_member_has_the_closed_form_size_starts_near_chance_and_trains(name: str) -> None:
    model = Decoder(member(name))
    assert sum(p.numel() for p in model.parameters()) == parameters(model.config).with_mtp
    ids = tokens(model, 2, 33)
    inputs, targets = ids[:, :-1], ids[:, 1:]
    out = model(inputs, targets_BT=targets, domain_BT=domains(model, inputs))
    assert out.loss is not None
    assert out.cross_entropy is not None
    assert out.cross_entropy.item() == pytest.approx(math.log(model.config.vocab_size), abs=0.25)
    assert out.loss.item() == pytest.approx(out.cross_entropy.item() + sum(v.item() for v in out.aux.values()))
    out.loss.backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name


@pytest.mark.parametrize("name", names())
def test_the_closed_form_is_exact_at_true_size_too(name: str) -> None:
    with torch.device("meta"):
        model = Decoder(member(name))
    sizes = parameters(member(name))
    assert sum(p.numel() for p in model.parameters()) == sizes.with_mtp
    assert sum(p.numel() for p in model.mtp.parameters()) == sizes.mtp
    experts = sum(p.numel() for n, p in model.named_parameters() if ".experts." in n and not n.startswith("mtp"))
    assert experts == sizes.experts


def test_each_part_of_the_closed_form_is_the_part_that_is_built() -> None:
    for name in MEMBERS:
        model, sizes = Decoder(member(name)), parameters(member(name))
        built = dict.fromkeys(("attention", "router", "shortcuts", "norms", "shared_experts"), 0)
        for key, parameter in model.named_parameters():
            if key.startswith("mtp."):
                continue
            part = "attention" if ".attn." in key else "norms" if "norm." in key else None
            part = "router" if ".router." in key else "shortcuts" if ".shortcuts." in key else part
            part = "shared_experts" if ".shared" in key else part
            if part:
                built[part] += parameter.numel()
        assert built == {part: getattr(sizes, part) for part in built}, name


@pytest.mark.parametrize("name", KINDS)
def test_no_token_sees_a_later_one(name: str) -> None:
    model = decoder(name)
    ids = tokens(model, 2, 24)
    changed = ids.clone()
    changed[:, 15:] = (changed[:, 15:] + 1) % model.config.vocab_size
    before, after = logits(model, ids), logits(model, changed)
    assert torch.allclose(before[:, :15], after[:, :15], atol=EXACT)
    assert not torch.allclose(before[:, 15:], after[:, 15:], atol=1e-3)


@pytest.mark.parametrize("name", KINDS)
def test_a_packed_row_computes_what_its_documents_compute_alone(name: str) -> None:
    model = decoder(name)
    ids = tokens(model, 1, 30)
    document = torch.tensor([[7] * 11 + [3] * 12 + [7] * 7])
    packed = logits(model, ids, document_BT=document)
    alone = [logits(model, part) for part in ids.split([11, 12, 7], dim=1)]
    assert torch.allclose(packed, torch.cat(alone, 1), atol=EXACT)
    assert not torch.allclose(packed, logits(model, ids), atol=1e-3)


def test_positions_run_on_through_documents_when_asked() -> None:
    model = decoder("pangu-alpha-13b-pico")
    ids, document = tokens(model, 1, 12), torch.tensor([[0] * 5 + [1] * 7])
    restarted = logits(model, ids, document_BT=document)
    model.restart_positions = False
    running = logits(model, ids, document_BT=document)
    assert torch.allclose(restarted[:, :5], running[:, :5], atol=EXACT)
    assert not torch.allclose(restarted[:, 5:], running[:, 5:], atol=1e-3)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("steps", [(9, 1, 1, 1), (5, 4, 3), (1, 11)])
def test_a_cache_gives_what_the_whole_sequence_gives(name: str, steps: tuple[int, ...]) -> None:
    model = decoder(name)
    ids, cache = tokens(model, 2, 12), Cache(12)
    parts = [logits(model, part, cache=cache) for part in ids.split(steps, dim=1)]
    assert torch.allclose(torch.cat(parts, 1), logits(model, ids), atol=EXACT)
    assert cache.n_bytes() == cache_bytes(model.config, tokens=2 * 12, bytes_per_number=4)


def test_a_full_cache_and_a_packed_cache_are_refused() -> None:
    model = decoder("llama-2-7b-pico")
    ids = tokens(model, 1, 6)
    with pytest.raises(UsageError, match="cache is full"):
        logits(model, ids, cache=Cache(5))
    with pytest.raises(UsageError, match="one document"):
        logits(model, ids, cache=Cache(6), document_BT=torch.zeros_like(ids))


def test_more_tokens_than_learned_positions_are_refused() -> None:
    model = decoder("pangu-alpha-13b-pico", n_positions=8)
    with pytest.raises(UsageError, match="table of positions"):
        logits(model, tokens(model, 1, 9))


def test_ids_of_another_shape_are_refused() -> None:
    model = decoder("llama-2-7b-pico")
    ids = tokens(model, 1, 6)
    with pytest.raises(UsageError, match="differ"):
        model(ids, targets_BT=ids[:, 1:])
    with pytest.raises(UsageError, match="document_BT"):
        model(ids, document_BT=ids[:, 1:])


def test_a_tied_head_is_the_embedding_table() -> None:
    tied, untied = decoder("pangu-alpha-13b-pico"), decoder("llama-2-7b-pico")
    assert tied.head_weight is tied.embed.weight
    assert tied.head is None
    assert not [n for n, _ in tied.named_parameters() if n.startswith("head")]
    assert untied.head_weight is not untied.embed.weight
    ids = tokens(tied, 1, 8)
    tied(ids, targets_BT=ids).loss.backward()
    grad = tied.embed.weight.grad
    assert grad is not None
    unseen = [i for i in range(tied.config.vocab_size) if i not in ids]
    assert grad[unseen].abs().sum() > 0, "rows of tokens that only the head saw must move"


@pytest.mark.parametrize("name", KINDS)
def test_the_loss_without_logits_is_the_loss_of_the_logits(name: str) -> None:
    model = decoder(name)
    ids = tokens(model, 2, 17)
    targets = ids[:, 1:].clone()
    targets[0, 3:6] = -100
    out = model(ids[:, :-1], targets_BT=targets, domain_BT=domains(model, targets), return_logits=True)
    expected = torch.nn.functional.cross_entropy(out.logits.flatten(0, 1), targets.flatten())
    assert out.cross_entropy.item() == pytest.approx(expected.item(), abs=1e-5)
    assert out.n_targets.item() == targets.numel() - 3


def test_a_batch_without_targets_has_loss_zero_and_no_gradient() -> None:
    model = decoder("llama-2-7b-pico")
    ids = tokens(model, 1, 6)
    out = model(ids, targets_BT=torch.full_like(ids, -100))
    assert out.loss.item() == 0
    out.loss.backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("name", KINDS)
def test_recomputed_blocks_give_the_same_gradients(name: str) -> None:
    model = decoder(name).train()
    ids = tokens(model, 2, 17)

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        inputs = ids[:, :-1]
        model(inputs, targets_BT=ids[:, 1:], domain_BT=domains(model, inputs)).loss.backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    plain = gradients()
    model.checkpointing = True
    again = gradients()
    assert len(plain) == len(again) > 0
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


@pytest.mark.parametrize("name", ["pangu-ultra-moe-718b-pico", "pangu-alpha-13b-pico", "moe-38b-pico"])
def test_building_on_meta_and_filling_later_gives_the_same_numbers(name: str) -> None:
    whole = Decoder(member(name), seed=3)
    with torch.device("meta"):
        late = Decoder(member(name))
    assert all(p.device.type == "meta" for p in late.parameters())
    late.to_empty(device="cpu")
    late.reset_parameters(3)
    state, late_state = whole.state_dict(), late.state_dict()
    assert state.keys() == late_state.keys()
    assert all(torch.equal(state[key], late_state[key]) for key in state)


def test_dropout_acts_in_training_only() -> None:
    model = decoder("pangu-alpha-13b-pico", dropout=0.5)
    ids = tokens(model, 1, 8)
    assert torch.equal(logits(model, ids), logits(model, ids))
    model.train()
    assert not torch.equal(logits(model, ids), logits(model, ids))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", KINDS)
def test_half_types_compute_nearly_the_same_and_the_loss_is_float32(name: str, dtype: torch.dtype) -> None:
    model = decoder(name, noise=0.02)
    ids = tokens(model, 2, 17)
    inputs, targets = ids[:, :-1], ids[:, 1:]
    full = model(inputs, targets_BT=targets, domain_BT=domains(model, inputs)).cross_entropy
    with torch.autocast("cpu", dtype=dtype):
        cast = model(inputs, targets_BT=targets, domain_BT=domains(model, inputs))
    cast.loss.backward()
    assert cast.cross_entropy.dtype == torch.float32
    assert cast.cross_entropy.item() == pytest.approx(full.item(), abs=0.03)
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())
    half = model.to(dtype)(inputs, targets_BT=targets, domain_BT=domains(model, inputs))
    assert half.cross_entropy.dtype == torch.float32
    assert half.cross_entropy.item() == pytest.approx(full.item(), abs=0.05)
    half.loss.backward()


@pytest.mark.parametrize("name", ["llama-3-8b-pico", "pangu-pro-moe-72b-pico", "pangu-ultra-moe-718b-pico"])
def test_a_few_steps_learn_a_text_by_heart(name: str) -> None:
    model = Decoder(config(name, vocab_size=256)).train()
    ids = tokens(model, 1, 33)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        out = model(ids[:, :-1], targets_BT=ids[:, 1:])
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        losses.append(out.cross_entropy.item())
    assert losses[-1] < 0.25 * losses[0]


def test_blocks_come_in_order_and_multi_token_ones_last() -> None:
    model = decoder("pangu-ultra-moe-718b-pico")
    blocks = [*model.blocks()]
    assert len(blocks) == model.config.n_layers + 1
    assert blocks[-1] is model.mtp[0].block
    assert len([*model.mixtures()]) == model.config.n_sparse + 1


def test_equal_configs_build_equal_names_and_shapes() -> None:
    first = member("deepseek-v3-pico")
    second = ModelConfig.from_json(first.to_json())
    shapes = [{k: v.shape for k, v in Decoder(c).state_dict().items()} for c in (first, second)]
    assert shapes[0] == shapes[1]


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # of the tracer, about itself
@pytest.mark.parametrize("name", ["llama-3-8b-pico", "pangu-ultra-moe-718b-pico"])
def test_compiled_blocks_compute_the_same(name: str) -> None:
    model = decoder(name)
    ids = tokens(model, 2, 17)

    def run() -> tuple[float, list[torch.Tensor]]:
        model.zero_grad()
        out = model(ids[:, :-1], targets_BT=ids[:, 1:])
        out.loss.backward()
        return out.loss.item(), [p.grad.clone() for p in model.parameters() if p.grad is not None]

    loss, gradients = run()
    for block in model.blocks():
        block.compile(backend="aot_eager", dynamic=False)
    again, compiled = run()
    assert again == pytest.approx(loss, rel=1e-5)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(gradients, compiled, strict=True))
