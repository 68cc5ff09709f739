"""Grouped attention becomes multi-head latent attention.

Law     one rotary key for all heads, a latent for the rest of the keys and for the values (`pedigree.surgery.latent`).
        The norm on the latent is put out of action: with an epsilon of 2^40 and a gain of 2^20 it gives back what it
        got, to the last bit. Queries are scaled by sqrt((e + e) / e), as scores are divided by the root of both parts.
Exact   with one key/value head and a latent of its width (convert.kv makes one). With more heads the part of their keys
        that is not shared loses its position, and the function changes; a latent narrower than the rank changes it too.
Source  2405.04434 (DeepSeek-V2), 2502.07864 (TransMLA).

Shapes  H = query heads, K = key/value heads, e = head dimension, C = latent
"""

from __future__ import annotations

import math

import numpy as np
from pydantic import Field

from pedigree.model.config_parts import GroupedAttention, LatentAttention
from pedigree.surgery.exactness import Exactness
from pedigree.surgery.latent import Factored, LatentQueries, Told
from pedigree.surgery.nodes import Fill
from pedigree.surgery.operator import Operator, Parameters, Step
from pedigree.surgery.operators.shape import head_shape, rows_of_heads
from pedigree.surgery.rehousing import rehouse
from pedigree.surgery.retarget import model_of
from pedigree.surgery.symbolic import Symbolic
from pedigree.surgery.verbs import index

_EPS, _GAIN = 2.0**40, 2.0**20
MOST_HELD = 8 << 30  # bytes of factors


class LatentParameters(Parameters):
    """Channels of the latent; by default as many as keys and values have together beside the shared key."""

    rank: int | None = Field(default=None, ge=1)


def apply(symbolic: Symbolic, parameters: LatentParameters, step: Step) -> Exactness:
    """Factor every layer."""
    model, shape = model_of(symbolic, step), head_shape(symbolic, step)
    a = model.attention
    if not isinstance(a, GroupedAttention):
        raise step.refuse("attention is latent already", got=a.kind)
    letters = "".join(letter for letter in "qkvo" if getattr(a, f"{letter}_bias"))
    if letters or a.q_norm or a.k_norm:
        raise step.refuse(
            "latent attention has no biases, and no norms on heads", got=f"biases on {letters}" if letters else "norms",
            expected="neither", fix="convert.biases: {fold: [v], drop: [...]} with allow: nfp, before this step",
        )  # fmt: skip
    if model.rope is None or model.rope.fraction != 1 or model.rope.layout != "half":
        raise step.refuse("whole heads must turn, in the half layout", got=model.rope, expected="rope of fraction 1",
                          fix="convert.positions first")  # fmt: skip
    dim, kv = shape.dim, shape.kv_heads
    full = min((2 * kv - 1) * dim, model.d_model)
    rank = parameters.rank or full
    held = 4 * symbolic.n_layers * ((rank + dim) * model.d_model + 2 * kv * dim * rank)
    if held > MOST_HELD:
        raise step.refuse(
            "the factors of all layers wait for the run in memory", got=f"{held / 1e9:.1f} GB",
            expected=f"at most {MOST_HELD / 1e9:.1f} GB",
            fix=f"rank: {max(1, int(rank * MOST_HELD / held))}, or convert.kv first",
        )  # fmt: skip
    read = tuple(head // shape.group for head in range(shape.heads))
    repeat = rows_of_heads(np.asarray(read, dtype=np.int64), 2 * dim)
    for layer in range(symbolic.n_layers):
        keys, values = (symbolic.parts.pop((role, layer, None)) for role in ("attn.k", "attn.v"))
        found = Factored(keys, values, dim, rank)
        symbolic.parts["attn.q", layer, None] = LatentQueries(
            symbolic.parts["attn.q", layer, None], found, read, dim, math.sqrt(2)
        )
        symbolic.parts["attn.kv_a", layer, None] = Told(found, lambda f: f.down_Ld, (rank + dim, model.d_model))
        symbolic.parts["norm.kv_a", layer, None] = Fill((rank,), _GAIN)
        up = Told(found, lambda f: f.up_RC, (kv * 2 * dim, rank))
        symbolic.parts["attn.kv_b", layer, None] = index(up, 0, repeat)
    latent = LatentAttention(
        n_heads=shape.heads, q_rank=None, kv_rank=rank, nope_dim=dim, rope_dim=dim, v_dim=dim, latent_eps=_EPS
    )
    symbolic.notes.append(f"cache of a token and layer: {rank + dim} numbers, {2 * kv * dim} before")
    rehouse(symbolic, model.replace(attention=latent), step)
    return Exactness.FP1 if kv == 1 and rank >= min(dim, model.d_model) else Exactness.NFP


CONVERT_LATENT = Operator(
    name="convert.latent",
    summary="grouped attention becomes latent attention: one rotary key for all heads, one latent for the rest",
    classes={"one key/value head": Exactness.FP1, "more": Exactness.NFP},
    needs="rotary positions, no biases",
    source="2405.04434, 2502.07864",
    parameters=LatentParameters,
    apply=apply,
    verbs=("fit", "fold"),
)
