"""The same model under the names and in the storage of another class.

Law     what is stored changes: names, fused or separate projections, transposed matrices, rotary channels side by side
        or in halves, experts one by one or in a stack. No number does. A class that does not compute exactly this model
        is refused, with what it lacks. Block scales of 8-bit storage are multiplied in by `cast`, which comes first.
"""

from __future__ import annotations

from pedigree.errors import UsageError
from pedigree.model.config import ModelConfig
from pedigree.surgery.exactness import Exactness
from pedigree.surgery.operator import Operator, Parameters, Step
from pedigree.surgery.rehousing import rehouse
from pedigree.surgery.retarget import model_of
from pedigree.surgery.symbolic import Symbolic


class LayoutParameters(Parameters):
    """The `model_type` of the class, such as llama, qwen2, glm4, PanguEmbedded, or pedigree_decoder for our own."""

    to: str


def apply(symbolic: Symbolic, parameters: LayoutParameters, step: Step) -> Exactness:
    """Name and store everything anew."""
    model = model_of(symbolic, step)
    rehouse(symbolic, _stored_as(model, parameters.to), step, parameters.to)
    return Exactness.FP0


def _stored_as(model: ModelConfig, model_type: str) -> ModelConfig:
    """The model with rotary channels where the class has them: their order is storage, and no part of the function."""
    from pedigree.model.hf_config import choose_dialect

    try:
        choose_dialect(model, model_type)
        return model
    except UsageError as error:
        if model.rope is None:
            raise
        other = "half" if model.rope.layout == "interleaved" else "interleaved"
        turned = model.replace(rope=model.rope.replace(layout=other))
        try:
            choose_dialect(turned, model_type)
        except UsageError:
            raise error from None
        return turned


CONVERT_LAYOUT = Operator(
    name="convert.layout",
    summary="the same model as another class stores it: names, fused or stacked matrices, order of rotary channels",
    classes={"": Exactness.FP0},
    needs="a class that computes exactly this model",
    source="",
    parameters=LayoutParameters,
    apply=apply,
    verbs=("index", "fold"),
)
