"""The products that one token goes through, operator by operator, at the true size.

Law: the operations of all operators are those of `pedigree.model.sizes.operations`, forward and multi-token prediction.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from pedigree.model.config import ModelConfig
from pedigree.model.config_parts import LatentAttention


@dataclass(frozen=True)
class Operator:
    """A product of one token with a matrix of `rows` outputs and `columns` inputs, `times` over the whole model.

    Attention products have as many rows as the context has tokens; a causal token meets half of them.
    """

    name: str
    rows: int
    columns: int
    times: int
    causal: bool = False

    @property
    def operations(self) -> int:
        """Floating-point operations for one token."""
        return (1 if self.causal else 2) * self.rows * self.columns * self.times


def operators(model: ModelConfig, context: int) -> list[Operator]:
    """Every product of a forward pass, from the first layer to the head, those of multi-token prediction last."""
    main = [*_layers(model, context, range(model.n_layers)), Operator("head", model.vocab_size, model.d_model, 1)]
    if model.mtp is None:
        return main
    depth, d = model.mtp.depth, model.d_model
    extra = [
        Operator("join", d, 2 * d, 1),
        *_layers(model, context, range(model.n_layers, model.n_layers + 1)),
        main[-1],
    ]
    return main + [replace(one, name=f"mtp.{one.name}", times=one.times * depth) for one in extra]


def _layers(model: ModelConfig, context: int, layers: range) -> Iterator[Operator]:
    """The operators of these layers; equal ones are counted together."""
    n_sparse = sum(model.is_sparse(layer) for layer in layers)
    yield from _attention(model, context, len(layers))
    yield from _shortcut(model, len(layers))
    if n_sparse < len(layers):
        yield from _feed_forward(model, "mlp", model.feed_forward.d_inner, len(layers) - n_sparse)
    e = model.experts
    if e is None or not n_sparse:
        return
    if e.router != "random":
        yield Operator("moe.router", e.n_experts, model.d_model, n_sparse)
    yield from _feed_forward(model, "moe.expert", e.d_expert, n_sparse * e.top_k)
    if e.d_shared:
        yield from _feed_forward(model, "moe.shared", e.d_shared, n_sparse)
        if e.shared_gate:
            yield Operator("moe.shared.weight", 1, model.d_model, n_sparse)


def _attention(model: ModelConfig, context: int, times: int) -> Iterator[Operator]:
    a, d = model.attention, model.d_model
    if isinstance(a, LatentAttention):
        if a.q_rank is None:
            yield Operator("attn.q", a.n_heads * a.qk_dim, d, times)
        else:
            yield Operator("attn.q_down", a.q_rank, d, times)
            yield Operator("attn.q_up", a.n_heads * a.qk_dim, a.q_rank, times)
        yield Operator("attn.kv_down", a.kv_rank + a.rope_dim, d, times)
        yield Operator("attn.kv_up", a.n_heads * (a.nope_dim + a.v_dim), a.kv_rank, times)
    else:
        yield Operator("attn.q", a.n_heads * a.head_dim, d, times)
        yield Operator("attn.k", a.n_kv_heads * a.head_dim, d, times)
        yield Operator("attn.v", a.n_kv_heads * a.head_dim, d, times)
    yield Operator("attn.scores", context, a.n_heads * a.qk_dim, times, causal=True)
    yield Operator("attn.values", context, a.n_heads * a.v_dim, times, causal=True)
    yield Operator("attn.o", d, a.n_heads * a.v_dim, times)


def _shortcut(model: ModelConfig, times: int) -> Iterator[Operator]:
    if model.shortcut is not None:
        narrow = model.d_model // model.shortcut.reduction
        yield Operator("shortcut.down", narrow, model.d_model, times * model.shortcut.count)
        yield Operator("shortcut.up", model.d_model, narrow, times * model.shortcut.count)


def _feed_forward(model: ModelConfig, name: str, inner: int, times: int) -> Iterator[Operator]:
    if model.feed_forward.kind == "swiglu":
        yield Operator(f"{name}.gate", inner, model.d_model, times)
    yield Operator(f"{name}.up", inner, model.d_model, times)
    yield Operator(f"{name}.down", model.d_model, inner, times)
