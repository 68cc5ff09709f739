"""Norms behind the branches, put in or taken away over a stretch of training.

Law     a branch is added as (1 - a) y + a norm(y). in: norms are put in with a = 0, where they do not act, whatever
        their gains; training moves `post_norms` from 0 to 1 (`training.anneal`). out: an ordinary sandwich stands at
        a = 1; training moves it to 0, and then the norms are taken away. fold: at once, each norm becomes the constant
        that is nearest to it on a text, in the rows of what writes the branch; the function changes.
        A norm divides each token's branch by its own size, so no choice of gains makes the step exact; gains near the
        size of the branches, which a text gives, keep the path short.
Source  2504.07866 (depth-scaled sandwich norm); the path is derived for the project.

Shapes  d = channels, L = layers
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from pedigree.model.config import ModelConfig
from pedigree.model.config_parts import Homotopy
from pedigree.surgery.exactness import Exactness
from pedigree.surgery.nodes import Fill
from pedigree.surgery.operator import Operator, Parameters, Step
from pedigree.surgery.rehousing import rehouse
from pedigree.surgery.retarget import model_of
from pedigree.surgery.symbolic import Symbolic
from pedigree.surgery.verbs import scale
from pedigree.weights.roles import BIAS

if TYPE_CHECKING:
    from pedigree.surgery.branch_sizes import BranchSize

    Sizes = list[tuple[BranchSize, BranchSize]]

_POST = ("norm.attn.post", "norm.mlp.post")
_WRITERS = (("attn.o",), ("mlp.down", "moe.expert.down", "moe.shared.down"))


class SandwichParameters(Parameters):
    """in, out or fold; gains of norms that are put in, behind attention and behind the feed-forward part.

    Without numbers they are the sizes of the branches on a `text`, or without one those of depth-scaled sandwich norm,
    0.283 / sqrt(L) and 0.432 / sqrt(L).
    """

    op: Literal["in", "out", "fold"]
    gain_attention: float | None = Field(default=None, gt=0)
    gain_feed_forward: float | None = Field(default=None, gt=0)
    text: str | None = None
    tokens: int = Field(default=4096, ge=256)

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> SandwichParameters:
        if self.op == "fold" and self.text is None:
            raise ValueError("fold needs a text: the constants are the sizes of the branches on it")
        if self.op == "out" and self.text is not None:
            raise ValueError("out takes away what no longer acts, and needs no text")
        return self


def apply(symbolic: Symbolic, parameters: SandwichParameters, step: Step) -> Exactness:
    """Put them in where they do not act, take away those that no longer do, or fold them."""
    model = model_of(symbolic, step)
    if parameters.op == "in":
        return _put_in(symbolic, model, parameters, step)
    if not model.norm.sandwich:
        raise step.refuse("there are no norms behind the branches", got=model.norm.placement, expected="a sandwich")
    now = model.homotopy or Homotopy()
    if parameters.op == "out" and now.post_norms != 0:
        raise step.refuse(
            "the norms behind the branches still act", got=f"post_norms {now.post_norms:g}", expected="post_norms 0",
            fix="training.anneal of post_norms from 1 to 0 first; or op: fold with a text and allow: nfp",
        )  # fmt: skip
    if parameters.op == "fold":
        _fold(symbolic, model, parameters, step)
    for key in list(symbolic.keys(*_POST, *(role + BIAS for role in _POST))):
        del symbolic.parts[key]
    left = now.replace(post_norms=1.0)
    changed = model.replace(norm=model.norm.replace(placement="pre"), homotopy=left if left.moved else None)
    rehouse(symbolic, changed, step)
    return Exactness.FP0 if parameters.op == "out" else Exactness.NFP


def _put_in(symbolic: Symbolic, model: ModelConfig, parameters: SandwichParameters, step: Step) -> Exactness:
    if model.norm.sandwich:
        raise step.refuse("norms stand behind the branches already", got=model.norm.placement, expected="pre")
    scaled = model.norm.replace(placement="depth-scaled-sandwich")
    root = float(model.n_layers**-0.5)
    sizes = None if parameters.text is None else _sizes(symbolic, parameters, step)
    given = (parameters.gain_attention, parameters.gain_feed_forward)
    for layer in range(symbolic.n_layers):
        for at, (role, depth) in enumerate(zip(_POST, (scaled.c_attention, scaled.c_feed_forward), strict=True)):
            measured = depth * root if sizes is None else sizes[layer][at].mean
            gain = given[at]
            symbolic.parts[role, layer, None] = Fill((model.d_model,), measured if gain is None else gain)
            if model.norm.kind == "layer":
                symbolic.parts[role + BIAS, layer, None] = Fill((model.d_model,))
    plain = sizes is not None or any(gain is not None for gain in given)
    norm = scaled.replace(placement="sandwich") if plain else scaled
    homotopy = (model.homotopy or Homotopy()).replace(post_norms=0.0)
    rehouse(symbolic, model.replace(norm=norm, homotopy=homotopy), step)
    return Exactness.FP0


def _fold(symbolic: Symbolic, model: ModelConfig, parameters: SandwichParameters, step: Step) -> None:
    """Rows of the writers times gain and constant: c g y stands for g y / rms(y)."""
    if model.norm.kind != "rms" or model.shortcut is not None or model.homotopy is not None:
        raise step.refuse("only RMS norms behind plain branches are folded", got=f"{model.norm.kind} norms",
                          expected="RMS norms, no shortcuts, no path that is under way")  # fmt: skip
    for layer, sizes in enumerate(_sizes(symbolic, parameters, step)):
        for role, writers, size in zip(_POST, _WRITERS, sizes, strict=True):
            constant = size.mean / size.mean_square if size.mean_square else 1.0
            factor = scale(symbolic.parts[role, layer, None], constant)
            for key in list(symbolic.keys(*writers, *(name + BIAS for name in writers), layer=layer)):
                symbolic.parts[key] = scale(symbolic.parts[key], factor, 0)


def _sizes(symbolic: Symbolic, parameters: SandwichParameters, step: Step) -> Sizes:
    """Sizes of the branches of the source on the text."""
    from pedigree.surgery.branch_sizes import branch_sizes
    from pedigree.surgery.influence import tokens_of

    if step.number:
        raise step.refuse(
            "branches are measured on the source", got=f"step {step.number + 1}", expected="the first step",
            fix="put it first",
        )  # fmt: skip
    place = Path(step.folder, parameters.text or "").expanduser()
    found = branch_sizes(symbolic.checkpoint, tokens_of(symbolic.checkpoint, place, parameters.tokens))
    worst = max(size.variation for pair in found for size in pair)
    mean = sum(size.variation for pair in found for size in pair) / (2 * len(found))
    symbolic.notes.append(
        f"size of the branches over tokens: varies by {mean:.2f} of its mean on average, {worst:.2f} at worst"
    )
    return found


CONVERT_SANDWICH = Operator(
    name="convert.sandwich",
    summary="norms behind the branches put in where they do not act yet, taken away when they no longer do, or folded",
    classes={"in": Exactness.FP0, "out": Exactness.FP0, "fold": Exactness.NFP},
    needs="training with `anneal` of post_norms after in, before out; a text for fold",
    source="2504.07866",
    parameters=SandwichParameters,
    apply=apply,
    verbs=("pad", "fold", "fit"),
)
