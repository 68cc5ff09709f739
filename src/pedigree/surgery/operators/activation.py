"""Another activation: GELU lifted into SwiGLU, or one form of GELU taken for the other.

Laws    to: swiglu     gelu(u) is silu(c u) / c up to a bound that holds for every u: 0.0207 with the usual c = 1.702.
                       A slope of 1.774 makes the bound smallest (0.0143), one of 1.6 the error near zero; on inputs of
                       unit size 1.702 is nearest to the best (docs/LOG.md). So gate = c * up, and `up` becomes the
                       constant 1 / c: a matrix of zeros with a bias, which training can move.
        to: gelu-tanh, gelu-erf   the config names the other form; they differ by 4.8e-4 at most.
Source  1606.08415 (GELU), 2002.05202 (SwiGLU); the lift is derived for the project.

Shapes  f = inner width, d = channels
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pedigree.surgery.exactness import Exactness
from pedigree.surgery.nodes import Fill
from pedigree.surgery.operator import Operator, Parameters, Step
from pedigree.surgery.rehousing import rehouse
from pedigree.surgery.retarget import model_of
from pedigree.surgery.symbolic import Key, Symbolic
from pedigree.surgery.verbs import scale
from pedigree.weights.roles import BIAS

_PLACES = ("mlp", "moe.expert", "moe.shared")
_FORMS = {"gelu-tanh": "gelu_new", "gelu-erf": "gelu"}
_KEYS = ("activation_function", "hidden_act", "hidden_activation")


class ActivationParameters(Parameters):
    """What it becomes; slope: c of the lift."""

    to: Literal["swiglu", "gelu-tanh", "gelu-erf"] = "swiglu"
    slope: float = Field(default=1.702, gt=0.5, lt=4.0)


def apply(symbolic: Symbolic, parameters: ActivationParameters, step: Step) -> Exactness:
    """Lift every feed-forward network, or name the other form of GELU."""
    if parameters.to != "swiglu":
        return _named(symbolic, parameters.to, step)
    model = model_of(symbolic, step)
    if model.feed_forward.kind != "gelu":
        raise step.refuse("there is no GELU to lift", got=model.feed_forward.kind, expected="gelu")
    if model.feed_forward.series > 1:
        raise step.refuse("a series of activations is not lifted", got=f"series of {model.feed_forward.series}",
                          expected="the plain activation", fix="put convert.pi after this step")  # fmt: skip
    for place in _PLACES:
        for key in list(symbolic.keys(f"{place}.up")):
            _lift(symbolic, place, key, parameters.slope)
    rehouse(symbolic, model.replace(feed_forward=model.feed_forward.replace(kind="swiglu", bias=True)), step)
    return Exactness.FPE


def _lift(symbolic: Symbolic, place: str, key: Key, slope: float) -> None:
    _, layer, expert = key
    up, bias = symbolic.parts[key], symbolic.parts.get((key[0] + BIAS, layer, expert))
    inner, width = up.shape
    symbolic.parts[f"{place}.gate", layer, expert] = scale(up, slope)
    symbolic.parts[f"{place}.gate" + BIAS, layer, expert] = Fill((inner,)) if bias is None else scale(bias, slope)
    symbolic.parts[key] = Fill((inner, width), dtype=up.dtype)
    symbolic.parts[key[0] + BIAS, layer, expert] = Fill((inner,), 1 / slope)
    symbolic.parts.setdefault((f"{place}.down" + BIAS, layer, expert), Fill((width,)))


def _named(symbolic: Symbolic, to: str, step: Step) -> Exactness:
    for level in symbolic.config.levels():
        for key in _KEYS:
            if level.get(key) in ("gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast"):
                same = level[key] == _FORMS[to] or (to == "gelu-tanh" and level[key] != "gelu")
                level[key] = _FORMS[to]
                return Exactness.FP0 if same else Exactness.FPE
    raise step.refuse(
        "the config names no GELU", got=symbolic.config.kind, expected=f"gelu, under {' or '.join(_KEYS)}"
    )


CONVERT_ACTIVATION = Operator(
    name="convert.activation",
    summary="GELU lifted into SwiGLU (error at most 0.0207 a unit), or one form of GELU taken for the other",
    classes={"swiglu": Exactness.FPE, "gelu-tanh": Exactness.FPE, "gelu-erf": Exactness.FPE},
    needs="",
    source="1606.08415, 2002.05202",
    parameters=ActivationParameters,
    apply=apply,
    verbs=("fold",),
)
