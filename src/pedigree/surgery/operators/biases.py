"""Biases folded into others, or dropped.

Laws    v       attention weights sum to 1, so a bias on values adds the constant W_o b_v: it goes into the bias of o.
        k       without rotation a bias on keys adds the same number to every score of a query, which the softmax does
                not see: it goes. Under rotary positions it does not fold, and is kept.
        norms   the bias b of a LayerNorm adds W b behind it, which goes into the bias of W; the norm keeps zeros.
        What is left (q, k under rotation, o, the feed-forward part, the final norm) is a constant that nothing else can
        add; to drop it changes the function, and has to be asked for by name.
Source  2305.14858; derived for the project.

Shapes  H = query heads, K = key/value heads, e = head dimension, G = H / K
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import model_validator

from pedigree.model.config import ModelConfig
from pedigree.model.config_parts import GroupedAttention
from pedigree.surgery.centering import Product
from pedigree.surgery.exactness import Exactness
from pedigree.surgery.nodes import Fill
from pedigree.surgery.operator import Operator, Parameters, Step
from pedigree.surgery.operators.norms import fold_norm_biases, with_reader_biases
from pedigree.surgery.operators.shape import head_shape, rows_of_heads
from pedigree.surgery.rehousing import rehouse
from pedigree.surgery.retarget import model_of
from pedigree.surgery.symbolic import Symbolic
from pedigree.surgery.verbs import index
from pedigree.weights.roles import BIAS

_FEED_FORWARD = ("mlp.gate", "mlp.up", "mlp.down", "moe.expert.gate", "moe.expert.up", "moe.expert.down",
                 "moe.shared.gate", "moe.shared.up", "moe.shared.down")  # fmt: skip


class BiasesParameters(Parameters):
    """fold: exact moves (v into o, k away, norms into what reads behind them). drop: biases that are taken away."""

    fold: tuple[Literal["v", "k", "norms"], ...] = ()
    drop: tuple[Literal["q", "k", "v", "o", "feed-forward", "final"], ...] = ()

    @model_validator(mode="after")
    def _does_something(self) -> BiasesParameters:
        if not self.fold and not self.drop:
            raise ValueError("give fold, drop or both")
        both = {*self.fold} & {*self.drop}
        if both:
            raise ValueError(f"{', '.join(sorted(both))}: fold or drop, not both")
        return self


def apply(symbolic: Symbolic, parameters: BiasesParameters, step: Step) -> Exactness:
    """Fold first, then drop."""
    model = model_of(symbolic, step)
    attention = model.attention
    if not isinstance(attention, GroupedAttention):
        raise step.refuse("latent attention has no biases", got=attention.kind, expected="grouped attention")
    for word in ("norms", "v", "k"):
        if word in parameters.fold:
            model = _FOLDS[word](symbolic, model, step)
    for word in parameters.drop:
        model = _dropped(symbolic, model, word, step)
    rehouse(symbolic, model, step)
    return Exactness.NFP if parameters.drop else Exactness.FP1


def _fold_norms(symbolic: Symbolic, model: ModelConfig, step: Step) -> ModelConfig:
    if model.norm.kind != "layer":
        raise step.refuse("RMS norms have no bias to fold", got=model.norm.kind, expected="layer norms")
    if model.homotopy is not None:
        raise step.refuse("the model stands between two mechanisms", got=model.homotopy.moved, expected="none",
                          fix="finish the conversion first")  # fmt: skip
    fold_norm_biases(symbolic, model, step)
    for key in list(symbolic.keys("norm.attn" + BIAS, "norm.mlp" + BIAS)):
        symbolic.parts[key] = Fill(symbolic.parts[key].shape, dtype=symbolic.parts[key].dtype)
    return with_reader_biases(model)


def _fold_v(symbolic: Symbolic, model: ModelConfig, step: Step) -> ModelConfig:
    shape = head_shape(symbolic, step)
    repeated = rows_of_heads(np.repeat(np.arange(shape.kv_heads), shape.group), shape.dim)
    if not _attention(model).v_bias:
        raise step.refuse("values have no bias", got="v_bias: false", fix="remove v from fold")
    for layer in range(symbolic.n_layers):
        bias = index(symbolic.parts.pop(("attn.v" + BIAS, layer, None)), 0, repeated)
        symbolic.parts["attn.o" + BIAS, layer, None] = Product(
            symbolic.parts["attn.o", layer, None], bias, symbolic.part("attn.o" + BIAS, layer)
        )
    return model.replace(attention=_attention(model).replace(v_bias=False, o_bias=True))


def _fold_k(symbolic: Symbolic, model: ModelConfig, step: Step) -> ModelConfig:
    a = _attention(model)
    if not a.k_bias:
        raise step.refuse("keys have no bias", got="k_bias: false", fix="remove k from fold")
    if model.rope is not None or a.k_norm:
        raise step.refuse(
            "a bias on keys that turn, or go through a norm, is not the same for all of them",
            got="rotary positions" if model.rope is not None else "a norm on keys", expected="neither",
            fix="fold k before convert.positions, keep it, or drop: [k] with allow: nfp",
        )  # fmt: skip
    for key in list(symbolic.keys("attn.k" + BIAS)):
        del symbolic.parts[key]
    return model.replace(attention=a.replace(k_bias=False))


_FOLDS = {"norms": _fold_norms, "v": _fold_v, "k": _fold_k}


def _dropped(symbolic: Symbolic, model: ModelConfig, word: str, step: Step) -> ModelConfig:
    """The biases of one place taken away."""
    if word == "final":
        if not model.norm.final_bias:
            raise step.refuse("only an RMS norm can go without its bias", got=model.norm.kind,
                              expected="a model that convert.norm made")  # fmt: skip
        del symbolic.parts["norm.final" + BIAS, None, None]
        return model.replace(norm=model.norm.replace(final_bias=False))
    roles = _FEED_FORWARD if word == "feed-forward" else (f"attn.{word}",)
    keys = list(symbolic.keys(*(role + BIAS for role in roles)))
    if not keys:
        raise step.refuse("there are no such biases", got=word, fix=f"remove {word} from drop")
    count = sum(symbolic.parts[key].shape[0] for key in keys)
    symbolic.notes.append(f"biases dropped: {word}, {count:,} numbers; `surgery plan --probe` says what it costs")
    for key in keys:
        del symbolic.parts[key]
    if word == "feed-forward":
        return model.replace(feed_forward=model.feed_forward.replace(bias=False))
    changes: dict[str, Any] = {f"{word}_bias": False}
    return model.replace(attention=_attention(model).replace(**changes))


def _attention(model: ModelConfig) -> GroupedAttention:
    """The grouped attention of a model that was checked to have it."""
    attention = model.attention
    if not isinstance(attention, GroupedAttention):
        raise TypeError(attention.kind)
    return attention


CONVERT_BIASES = Operator(
    name="convert.biases",
    summary="biases folded exactly (values into outputs, keys without rotation, norms into readers), or dropped",
    classes={"fold": Exactness.FP1, "drop": Exactness.NFP},
    needs="",
    source="2305.14858",
    parameters=BiasesParameters,
    apply=apply,
    verbs=("fold",),
)
