"""Learned positions become rotary ones, over a stretch of training.

Law     start: a rotation whose angles are all multiplied by 0 turns nothing, so it can be put in beside the table of
        positions and the function stays. Training then moves `angles` from 0 to 1 while the table still acts, and after
        that `positions` from 1 to 0 (`training.anneal`; angles by equal factors from 0.001, positions evenly).
        finish: with `positions` at 0 the table adds nothing and is taken away.
        swap: both at once and without training; the function changes.
Source  2104.09864 (rotary positions); the path between both is derived for the project. No published budget is known:
        1 to 5 % of the tokens of pre-training is what to plan.

Shapes  T = positions, d = channels
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pedigree.model.config import ModelConfig
from pedigree.model.config_parts import GroupedAttention, Homotopy, Rope
from pedigree.surgery.exactness import Exactness
from pedigree.surgery.operator import Operator, Parameters, Step
from pedigree.surgery.rehousing import rehouse
from pedigree.surgery.retarget import model_of
from pedigree.surgery.symbolic import Symbolic

_TABLE = ("embed.position", None, None)


class PositionsParameters(Parameters):
    """start puts the rotation in at angle 0, finish takes the table away, swap does both; base and turning share."""

    op: Literal["start", "finish", "swap"] = "start"
    theta: float = Field(default=10000.0, gt=1)
    fraction: float = Field(default=1.0, gt=0, le=1)


def apply(symbolic: Symbolic, parameters: PositionsParameters, step: Step) -> Exactness:
    """One end of the path, or both."""
    model = model_of(symbolic, step)
    if not model.learned_positions:
        raise step.refuse("there is no table of positions", got="rotary positions", expected="learned positions")
    if parameters.op == "finish":
        _check_end(model, step)
        rehouse(symbolic, _without_table(symbolic, model, step), step)
        return Exactness.FP0
    if model.rope is not None:
        raise step.refuse("positions turn already", got="rotary beside learned positions", expected="learned only",
                          fix="op: finish, once training has moved the coefficients")  # fmt: skip
    if not isinstance(model.attention, GroupedAttention) or int(model.attention.head_dim * parameters.fraction) % 2:
        raise step.refuse("heads of an odd number of turning channels", got=model.attention, expected="an even number",
                          fix="another fraction")  # fmt: skip
    rope = Rope(theta=parameters.theta, fraction=parameters.fraction)
    if parameters.op == "swap":
        rehouse(symbolic, _without_table(symbolic, model.replace(rope=rope), step), step)
        return Exactness.NFP
    homotopy = (model.homotopy or Homotopy()).replace(angles=0.0)
    rehouse(symbolic, model.replace(rope=rope, homotopy=homotopy), step)
    return Exactness.FP0


def _check_end(model: ModelConfig, step: Step) -> None:
    """Refuse to take a table away that still acts."""
    now = model.homotopy or Homotopy()
    if model.rope is None or now.positions != 0 or now.angles != 1:
        raise step.refuse(
            "the table of positions still acts", got=f"angles {now.angles:g}, positions {now.positions:g}"
            if model.rope is not None else "no rotary positions", expected="angles 1, positions 0",
            fix="training.anneal of angles from 0 to 1 and of positions from 1 to 0; op: swap with allow: nfp",
        )  # fmt: skip


def _without_table(symbolic: Symbolic, model: ModelConfig, step: Step) -> ModelConfig:
    if model.query_layer != "none":
        raise step.refuse("the query layer has a table of positions too", got=model.query_layer, expected="none",
                          fix="put convert.query_layer before this step")  # fmt: skip
    del symbolic.parts[_TABLE]
    left = (model.homotopy or Homotopy()).replace(angles=1.0, positions=1.0)
    return model.replace(learned_positions=False, homotopy=left if left.moved else None)


CONVERT_POSITIONS = Operator(
    name="convert.positions",
    summary="learned positions become rotary ones: put in at angle 0 for training to turn, the table taken away after",
    classes={"start": Exactness.FP0, "finish": Exactness.FP0, "swap": Exactness.NFP},
    needs="training with `anneal` between start and finish",
    source="2104.09864",
    parameters=PositionsParameters,
    apply=apply,
    verbs=("fold",),
)
