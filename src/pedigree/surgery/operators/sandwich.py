"""Norms behind the branches, put in or taken away over a stretch of training.

Law     a branch is added as (1 - a) y + a norm(y). in: norms are put in with a = 0, where they do not act, whatever
        their gains; training moves `post_norms` from 0 to 1 (`training.anneal`). out: an ordinary sandwich stands at
        a = 1; training moves it to 0, and then the norms are taken away.
        A norm divides each token's branch by its own size, so no choice of gains makes the step exact; gains near the
        size of the branches keep the path short.
Source  2504.07866 (depth-scaled sandwich norm); the path is derived for the project.

Shapes  d = channels, L = layers
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pedigree.model.config_parts import Homotopy
from pedigree.surgery.exactness import Exactness
from pedigree.surgery.nodes import Fill
from pedigree.surgery.operator import Operator, Parameters, Step
from pedigree.surgery.rehousing import rehouse
from pedigree.surgery.retarget import model_of
from pedigree.surgery.symbolic import Symbolic
from pedigree.weights.roles import BIAS

_POST = ("norm.attn.post", "norm.mlp.post")


class SandwichParameters(Parameters):
    """in or out; gains of norms that are put in: behind attention and behind the feed-forward part.

    Without numbers they are those of depth-scaled sandwich norm, 0.283 / sqrt(L) and 0.432 / sqrt(L).
    """

    op: Literal["in", "out"]
    gain_attention: float | None = Field(default=None, gt=0)
    gain_feed_forward: float | None = Field(default=None, gt=0)


def apply(symbolic: Symbolic, parameters: SandwichParameters, step: Step) -> Exactness:
    """Put them in where they do not act, or take away those that no longer do."""
    model = model_of(symbolic, step)
    now = model.homotopy or Homotopy()
    if parameters.op == "out":
        if not model.norm.sandwich:
            raise step.refuse("there are no norms behind the branches", got=model.norm.placement, expected="a sandwich")
        if now.post_norms != 0:
            raise step.refuse(
                "the norms behind the branches still act", got=f"post_norms {now.post_norms:g}",
                expected="post_norms 0", fix="training.anneal of post_norms from 1 to 0 first",
            )  # fmt: skip
        for key in list(symbolic.keys(*_POST, *(role + BIAS for role in _POST))):
            del symbolic.parts[key]
        left = now.replace(post_norms=1.0)
        changed = model.replace(norm=model.norm.replace(placement="pre"), homotopy=left if left.moved else None)
        rehouse(symbolic, changed, step)
        return Exactness.FP0
    if model.norm.sandwich:
        raise step.refuse("norms stand behind the branches already", got=model.norm.placement, expected="pre")
    scaled = model.norm.replace(placement="depth-scaled-sandwich")
    root = float(model.n_layers**-0.5)
    gains = (
        parameters.gain_attention or scaled.c_attention * root,
        parameters.gain_feed_forward or scaled.c_feed_forward * root,
    )
    for layer in range(symbolic.n_layers):
        for role, gain in zip(_POST, gains, strict=True):
            symbolic.parts[role, layer, None] = Fill((model.d_model,), gain)
            if model.norm.kind == "layer":
                symbolic.parts[role + BIAS, layer, None] = Fill((model.d_model,))
    plain = parameters.gain_attention is not None or parameters.gain_feed_forward is not None
    norm = scaled.replace(placement="sandwich") if plain else scaled
    rehouse(symbolic, model.replace(norm=norm, homotopy=now.replace(post_norms=0.0)), step)
    return Exactness.FP0


CONVERT_SANDWICH = Operator(
    name="convert.sandwich",
    summary="norms behind the branches put in where they do not act yet, or taken away when they no longer do",
    classes={"in": Exactness.FP0, "out": Exactness.FP0},
    needs="training with `anneal` of post_norms after in, before out",
    source="2504.07866",
    parameters=SandwichParameters,
    apply=apply,
    verbs=("pad", "fold"),
)
