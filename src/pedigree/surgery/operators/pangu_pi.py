"""The modules of PanGu-pi put in so that nothing changes yet.

Laws    series: sum over i of s(a_i x + b_i) with a_1 = 1 and all else 0 is s(x), since s(0) = 0 for silu and gelu.
        shortcut: a bottleneck whose second matrix is zero adds zero; its first one is drawn, so that the second has a
        gradient at once.
Source  2312.17276 (PanGu-pi).

Shapes  n = terms of the series, f = inner width, b = width of the bottleneck, d = channels
"""

from __future__ import annotations

from pydantic import Field, model_validator

from pedigree.model.config_parts import Shortcut
from pedigree.surgery.exactness import Exactness
from pedigree.surgery.nodes import Fill, Join
from pedigree.surgery.operator import Operator, Parameters, Step
from pedigree.surgery.rehousing import rehouse
from pedigree.surgery.retarget import model_of
from pedigree.surgery.spread import Spread
from pedigree.surgery.symbolic import Symbolic
from pedigree.surgery.verbs import fresh

_MOST_SHORTCUTS = 4


class PiParameters(Parameters):
    """series: terms of the activation, 1 for none. shortcuts: bottlenecks beside attention, d / reduction wide."""

    series: int = Field(default=2, ge=1, le=16)
    shortcuts: int = Field(default=1, ge=0, le=_MOST_SHORTCUTS)
    reduction: int = Field(default=32, ge=1)

    @model_validator(mode="after")
    def _does_something(self) -> PiParameters:
        if self.series == 1 and not self.shortcuts:
            raise ValueError("series: 1 and shortcuts: 0 change nothing")
        return self


def apply(symbolic: Symbolic, parameters: PiParameters, step: Step) -> Exactness:
    """Put the modules into every layer."""
    model = model_of(symbolic, step)
    if model.shortcut is not None or model.feed_forward.series > 1:
        raise step.refuse("the model has modules of this kind already", got=f"series of {model.feed_forward.series}",
                          expected="a plain activation and no shortcuts")  # fmt: skip
    changed = model.replace(feed_forward=model.feed_forward.replace(series=parameters.series))
    if parameters.shortcuts:
        changed = changed.replace(shortcut=Shortcut(count=parameters.shortcuts, reduction=parameters.reduction))
    width = model.d_model // parameters.reduction
    for layer in range(symbolic.n_layers):
        if parameters.series > 1:
            inner = symbolic.parts["mlp.up", layer, None].shape[0]
            rest = Fill((parameters.series - 1, inner))
            symbolic.parts["mlp.series.slope", layer, None] = Join((Fill((1, inner), 1.0), rest))
            symbolic.parts["mlp.series.shift", layer, None] = Fill((parameters.series, inner))
        beside = symbolic.parts["attn.o", layer, None]
        for number in range(parameters.shortcuts):
            key = (f"shortcut.{number}.enter", layer, None)
            symbolic.parts[key] = fresh((width, model.d_model), step.seed, step.stream(key), Spread(beside))
            symbolic.parts[f"shortcut.{number}.leave", layer, None] = Fill((model.d_model, width))
    rehouse(symbolic, changed, step)
    return Exactness.FP0


CONVERT_PI = Operator(
    name="convert.pi",
    summary="series activation and augmented shortcuts of PanGu-pi, put in so that they add nothing yet",
    classes={"": Exactness.FP0},
    needs="a dense feed-forward part, no query layer",
    source="2312.17276",
    parameters=PiParameters,
    apply=apply,
    verbs=("pad",),
)
