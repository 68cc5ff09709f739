"""Mixtures of experts against a reference that loops over tokens, for every router; losses, statistics, balance."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model.pico import decoder, tokens
from torch import Tensor

from pedigree.errors import UsageError
from pedigree.model.balance import Routing, moved_bias
from pedigree.model.config import ModelConfig
from pedigree.model.context import Context, build_context
from pedigree.model.experts import grouped_product, padded_product
from pedigree.model.mixture import Mixture
from pedigree.model.router import LearnedRouter, RandomRouter

WIDTH, VOCABULARY = 32, 50
ROUTERS: dict[str, dict[str, Any]] = {
    "softmax": {"router": "softmax", "n_experts": 6, "top_k": 2},
    "softmax renormalized": {"router": "softmax", "n_experts": 6, "top_k": 2, "renormalize": True},
    "softmax shared and gated": {
        "router": "softmax",
        "n_experts": 6,
        "top_k": 3,
        "d_shared": 24,
        "shared_gate": True,
    },
    "sigmoid": {"router": "sigmoid", "n_experts": 8, "top_k": 3, "renormalize": True, "scale": 2.5, "d_shared": 16},
    "sigmoid in groups with bias": {
        "router": "sigmoid",
        "n_experts": 12,
        "top_k": 3,
        "n_groups": 4,
        "topk_groups": 2,
        "renormalize": True,
        "scale": 2.5,
        "expert_bias": True,
    },
    "grouped": {"router": "grouped", "n_experts": 12, "top_k": 4, "n_groups": 4, "learned_scale": True, "d_shared": 40},
    "grouped, two of each": {"router": "grouped", "n_experts": 12, "top_k": 6, "n_groups": 3},
    "random": {"router": "random", "n_experts": 12, "top_k": 1, "n_groups": 3},
}


def mixture(router: str, kind: str = "swiglu", bias: bool = False, **more: Any) -> Mixture:
    """A mixture with every parameter and buffer drawn at random."""
    config = ModelConfig.model_validate(
        {
            "vocab_size": VOCABULARY,
            "d_model": WIDTH,
            "n_layers": 1,
            "n_positions": 64,
            "rope": {},
            "attention": {"kind": "gqa", "n_heads": 2, "n_kv_heads": 2, "head_dim": 8},
            "feed_forward": {"kind": kind, "bias": bias, "d_inner": 8},
            "experts": {"d_expert": 20, **ROUTERS[router], **more},
        }
    )
    layer, generator = Mixture(config), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.25)
        if isinstance(layer.router, RandomRouter):
            layer.router.table.copy_(torch.randint(4, (VOCABULARY,), generator=generator))
        elif layer.router.expert_bias is not None:
            layer.router.expert_bias.copy_(torch.randn(layer.part.n_experts, generator=generator))
    return layer


def inputs(n: int = 40) -> tuple[Tensor, Context]:
    """Two sequences of n / 2 states, and what else a block gets."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(VOCABULARY, (2, n // 2), generator=generator)
    config = ModelConfig.model_validate(
        {
            "vocab_size": VOCABULARY,
            "d_model": WIDTH,
            "n_layers": 1,
            "n_positions": 64,
            "rope": {},
            "attention": {"kind": "gqa", "n_heads": 2, "n_kv_heads": 2, "head_dim": 8},
            "feed_forward": {"d_inner": 8},
        }
    )
    domain = torch.tensor([[0], [2]]).expand_as(ids)
    context = build_context(config, ids, document_BT=None, domain_BT=domain, cache=None, restart_positions=True)
    return torch.randn(2, n // 2, WIDTH, generator=generator), context


def chosen_by_hand(layer: Mixture, x_d: Tensor, token: int, domain: int) -> list[tuple[int, Tensor]]:
    """Experts and weights of one token, step by step as the papers write it."""
    e = layer.part
    if isinstance(layer.router, RandomRouter):
        return [(domain * e.per_group + int(layer.router.table[token]), torch.ones(()))]
    logits = layer.router.weight @ x_d
    scores = logits.sigmoid() if e.router == "sigmoid" else logits.exp() / logits.exp().sum()
    bias = layer.router.expert_bias
    rank = (scores if bias is None else scores + bias).tolist()
    groups = [list(range(g * e.per_group, (g + 1) * e.per_group)) for g in range(e.n_groups)]
    if e.router == "grouped":
        quota = e.top_k // e.n_groups
        kept = [i for group in groups for i in sorted(group, key=lambda i: -rank[i])[:quota]]
    else:
        best = sorted(groups, key=lambda group: -sum(sorted((rank[i] for i in group), reverse=True)[:2]))
        allowed = [i for group in best[: e.topk_groups] for i in group]
        kept = sorted(allowed, key=lambda i: -rank[i])[: e.top_k]
    total = sum(scores[i] for i in kept) if e.renormalize else 1.0
    factors = layer.router.scale
    return [(i, scores[i] / total * e.scale * (1.0 if factors is None else factors[i])) for i in kept]


def feed_forward_by_hand(layer: Mixture, expert: int, x_d: Tensor) -> Tensor:
    """One expert on one token."""
    stack = layer.experts
    inner = stack.enter[expert] @ x_d
    if stack.enter_bias is not None:
        inner = inner + stack.enter_bias[expert]
    if stack.kind == "swiglu":
        gate, up = inner.chunk(2)
        inner = torch.nn.functional.silu(gate) * up
    else:
        inner = torch.nn.functional.gelu(inner, approximate="tanh")
    out = stack.down[expert] @ inner
    return out if stack.down_bias is None else out + stack.down_bias[expert]


def by_hand(layer: Mixture, x_BTd: Tensor, context: Context) -> Tensor:
    """The whole mixture, token by token."""
    rows = []
    domains = context.domain_BT.flatten().tolist() if context.domain_BT is not None else []
    for x_d, token, domain in zip(x_BTd.flatten(0, 1), context.tokens_BT.flatten().tolist(), domains, strict=True):
        y_d = torch.zeros_like(x_d)
        for expert, weight in chosen_by_hand(layer, x_d, token, domain):
            y_d = y_d + weight * feed_forward_by_hand(layer, expert, x_d)
        if layer.shared is not None:
            common = layer.shared(x_d)
            y_d = y_d + (common if layer.shared_gate is None else common * layer.shared_gate(x_d).sigmoid())
        rows.append(y_d)
    return torch.stack(rows).view_as(x_BTd)


@pytest.mark.parametrize(("kind", "bias"), [("swiglu", False), ("gelu", True), ("swiglu", True)])
@pytest.mark.parametrize("router", ROUTERS)
def test_every_router_equals_the_loop_over_tokens_gradients_included(router: str, kind: str, bias: bool) -> None:
    layer = mixture(router, kind, bias)
    x, context = inputs()
    x.requires_grad_()
    fast, _ = layer(x, context)
    slow = by_hand(layer, x, context)
    assert torch.allclose(fast, slow, atol=1e-5)
    direction = torch.randn(slow.shape, generator=torch.Generator().manual_seed(3))
    wanted = [x, *layer.parameters()]
    fast_grads = torch.autograd.grad(fast, wanted, direction)
    slow_grads = torch.autograd.grad(slow, wanted, direction, allow_unused=True)
    for mine, theirs in zip(fast_grads, slow_grads, strict=True):
        assert torch.allclose(mine, torch.zeros_like(mine) if theirs is None else theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("load", [[3, 0, 5, 2], [0, 0, 10, 0], [10, 0, 0, 0], [1, 2, 3, 4]])
def test_grouped_and_padded_products_equal_the_loop_over_experts(load: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(10, 16, generator=generator), torch.randn(4, 24, 16, generator=generator)
    parts = [part @ weight[i].T for i, part in enumerate(x.split(load))]
    for product in (grouped_product, padded_product):
        assert torch.allclose(product(x, weight, torch.tensor(load)), torch.cat(parts), atol=1e-5)


@pytest.mark.parametrize("router", ["grouped", "grouped, two of each"])
def test_grouped_routing_loads_every_group_alike_by_construction(router: str) -> None:
    layer = mixture(router)
    x, context = inputs()
    _, record = layer(x * 10, context)
    routing = Routing(record.load_E[None], record.probability_E[None], record.entropy[None], 40)
    assert routing.imbalance_L(layer.part.n_groups).item() == 0
    other = mixture("softmax", n_experts=12, top_k=4)
    _, plain = other(x * 10, context)
    routing = Routing(plain.load_E[None], plain.probability_E[None], plain.entropy[None], 40)
    assert routing.imbalance_L(4).item() > 0


@pytest.mark.parametrize("scope", ["batch", "sequence", "group"])
@pytest.mark.parametrize("router", ["softmax", "sigmoid", "grouped"])
def test_the_balance_loss_is_its_formula(router: str, scope: str) -> None:
    layer = mixture(router, balance={"scope": scope, "coefficient": 0.3, "z_coefficient": 0.7})
    x, context = inputs()
    _, record = layer(x, context)
    assert isinstance(layer.router, LearnedRouter)
    e, n = layer.part, 40
    choice = layer.router(x.flatten(0, 1))
    p = choice.probability_NE
    assert p is not None
    assert choice.logits_NE is not None
    assert torch.allclose(p.sum(-1), torch.ones(n))
    pieces = [slice(0, 20), slice(20, 40)] if scope == "sequence" else [slice(0, 40)]
    expected = []
    for piece in pieces:
        size = piece.stop - piece.start
        f = [e.n_experts / (e.top_k * size) * (choice.experts_NK[piece] == i).sum() for i in range(e.n_experts)]
        expected.append(0.3 * sum(f[i] * p[piece, i].mean() for i in range(e.n_experts)))
    assert record.balance_loss.item() == pytest.approx(sum(expected).item() / len(pieces), rel=1e-5)
    z = 0.7 * choice.logits_NE.exp().sum(-1).log().square().mean()
    assert record.z_loss.item() == pytest.approx(z.item(), rel=1e-5)
    assert torch.autograd.grad(record.balance_loss, layer.router.weight)[0].abs().sum() > 0


def test_perfect_balance_costs_the_coefficient() -> None:
    layer = mixture("softmax", balance={"scope": "batch", "coefficient": 0.25})
    with torch.no_grad():
        layer.router.weight.zero_()  # type: ignore[union-attr]
    x, context = inputs()
    assert layer(x, context)[1].balance_loss.item() == pytest.approx(0.25, rel=1e-5)


def test_statistics_count_every_choice_and_join() -> None:
    model = decoder("pangu-pro-moe-72b-pico")
    ids = tokens(model, 2, 16)
    first, second = (model(part).routing for part in ids.split(1))
    together = model(ids).routing
    joined = first.joined(second)
    assert torch.equal(joined.load_LE, together.load_LE)
    assert torch.allclose(joined.mean_probability_LE, together.mean_probability_LE, atol=1e-5)
    assert together.load_LE.sum(-1).tolist() == [2 * 16 * model.config.experts.top_k] * model.config.n_sparse
    assert torch.allclose(together.mean_probability_LE.sum(-1), torch.ones(model.config.n_sparse), atol=1e-5)
    assert (together.mean_entropy_L > 0).all()
    assert (together.peak_L >= 1).all()
    assert (together.load_entropy_L <= torch.log(torch.tensor(16.0)) + 1e-5).all()


def test_the_selection_bias_moves_towards_unused_experts_and_never_changes_weights() -> None:
    assert moved_bias(torch.zeros(3), torch.tensor([9, 0, 3]), 0.5).tolist() == pytest.approx([-0.5, 0.5, 0.5])
    model = decoder("deepseek-v3-pico")
    ids = tokens(model, 2, 16)
    before = [m.router.expert_bias.clone() for m in model.mixtures()]
    assert not any(bias.any() for bias in before)
    load = model(ids, targets_BT=ids).routing.load_LE
    model.update_expert_biases(load)
    rate = model.config.experts.balance.bias_rate
    for m, load_E in zip(model.mixtures(), load, strict=True):
        expected = rate * torch.sign(load_E.float().mean() - load_E)
        assert torch.allclose(m.router.expert_bias, expected)
    assert "expert_bias" not in " ".join(name for name, _ in model.named_parameters())
    router = next(model.mixtures()).router
    x = torch.randn(8, model.config.d_model, generator=torch.Generator().manual_seed(0))
    router.expert_bias.zero_()
    plain = router(x)
    router.expert_bias.fill_(5.0)
    assert torch.equal(router(x).weights_NK, plain.weights_NK), "a bias equal for all must change nothing"


def test_a_few_bias_steps_even_out_a_skewed_load() -> None:
    layer = mixture("sigmoid", expert_bias=True, balance={"bias_rate": 0.05})
    router = layer.router
    assert isinstance(router, LearnedRouter)
    assert router.expert_bias is not None
    x = torch.randn(200, WIDTH, generator=torch.Generator().manual_seed(0)) + 0.5

    def peak() -> float:
        load = torch.bincount(router(x).experts_NK.flatten(), minlength=8).float()
        router.expert_bias.copy_(moved_bias(router.expert_bias, load, 0.05))  # type: ignore[union-attr]
        return float(load.max() / load.mean())

    peaks = [peak() for _ in range(60)]
    assert peaks[0] > 1.5
    assert min(peaks[-5:]) < 1.2


def test_random_routing_asks_for_domains() -> None:
    model = decoder("pangu-sigma-pico")
    ids = tokens(model, 1, 8)
    with pytest.raises(UsageError, match="domain of each token"):
        model(ids)
    load = model(ids, domain_BT=torch.full_like(ids, 2)).routing.load_LE
    assert load[:, 8:12].sum() == load.sum(), "domain 2 is served by the third group of four"


def test_random_tables_differ_from_layer_to_layer_and_are_saved() -> None:
    model = decoder("moe-38b-pico")
    tables = [m.router.table for m in model.mixtures()]
    assert not torch.equal(tables[0], tables[1])
    assert any(name.endswith("router.table") for name in model.state_dict())


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("load", [[60, 64, 70, 62], [250, 0, 3, 3]], ids=["even", "skewed"])
def test_half_types_multiply_the_same_whatever_the_load(kind: torch.dtype, load: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(256, 48, generator=generator).to(kind).requires_grad_()
    weight = torch.randn(4, 32, 48, generator=generator).to(kind).requires_grad_()
    out = grouped_product(rows, weight, torch.tensor(load))
    assert out.dtype == kind
    wide, heavy = (t.detach().double().requires_grad_() for t in (rows, weight))
    expected = torch.cat([part @ w.T for part, w in zip(wide.split(load), heavy, strict=True)])
    out.float().square().sum().backward()
    expected.square().sum().backward()
    pairs = [(out, expected), (rows.grad, wide.grad), (weight.grad, heavy.grad)]
    for mine, theirs in pairs:
        assert mine is not None
        assert theirs is not None
        assert (mine - theirs).norm() < 1e-2 * theirs.norm()
