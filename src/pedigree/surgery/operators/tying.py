"""The head gets a matrix of its own, or becomes the embedding.

Laws    untie: a copy is the same matrix, so nothing changes; the model is V * d numbers larger.
        tie: the head becomes the embedding (or both become one of them, or their mean). Exact only where they were
        equal; how far they are apart is measured and told.

Shapes  V = vocabulary, d = channels
"""

from __future__ import annotations

from typing import Literal

from pedigree.errors import PedigreeError
from pedigree.surgery.exactness import Exactness
from pedigree.surgery.nodes import Node, Work
from pedigree.surgery.operator import Operator, Parameters, Step
from pedigree.surgery.rehousing import rehouse
from pedigree.surgery.retarget import model_of
from pedigree.surgery.symbolic import Symbolic
from pedigree.surgery.verbs import blend, scale

_EMBED, _HEAD = ("embed", None, None), ("head", None, None)
_SAMPLED_ROWS = 2048


class UntieParameters(Parameters):
    """There is one way."""


class TieParameters(Parameters):
    """Which table stays: that of the embedding, that of the head, or their mean."""

    keep: Literal["embed", "head", "mean"] = "embed"


def untie(symbolic: Symbolic, parameters: UntieParameters, step: Step) -> Exactness:
    """A head of its own with the numbers of the embedding."""
    model = model_of(symbolic, step)
    if not model.tied:
        raise step.refuse("the head is untied already", got="tied: false", expected="a tied head")
    symbolic.parts[_HEAD] = symbolic.parts[_EMBED]
    if symbolic.anatomy.embedding_scale == "sqrt-d":
        raise step.refuse("the class scales the embedding", got=symbolic.anatomy.architecture)
    rehouse(symbolic, model.replace(tied=False), step)
    return Exactness.FP0


def tie(symbolic: Symbolic, parameters: TieParameters, step: Step) -> Exactness:
    """One table at both ends."""
    model = model_of(symbolic, step)
    if model.tied:
        raise step.refuse("the head is tied already", got="tied: true", expected="an untied head")
    embed, head = symbolic.parts[_EMBED], symbolic.parts.pop(_HEAD)
    symbolic.notes.append(f"tied: {_apart(embed, head)}")
    if parameters.keep == "head":
        symbolic.parts[_EMBED] = head
    elif parameters.keep == "mean":
        symbolic.parts[_EMBED] = scale(blend((embed, head), lambda tiles, at: tiles[0] + tiles[1]), 0.5)
    rehouse(symbolic, model.replace(tied=True), step)
    return Exactness.NFP


def _apart(embed: Node, head: Node) -> str:
    """How far two tables are apart, on their first rows; before they exist, that it is not known."""
    sample = slice(0, min(_SAMPLED_ROWS, embed.shape[0]))
    try:
        a, b = (node.tile(sample, node.columns, Work()).double() for node in (embed, head))
    except PedigreeError:
        return "how far embedding and head are apart is measured when they exist"
    difference = float((a - b).norm() / a.norm()) if float(a.norm()) else float("nan")
    cosine = float((a * b).sum() / (a.norm() * b.norm())) if float(a.norm() * b.norm()) else float("nan")
    return (
        f"|embed - head| is {difference:.3g} of |embed|, cosine {cosine:.3f}, on the first {sample.stop:,} of "
        f"{embed.shape[0]:,} rows"
    )


CONVERT_UNTIE = Operator(
    "convert.untie", "a head with numbers of its own, equal to those of the embedding", {"": Exactness.FP0},
    "a tied head", "", UntieParameters, untie, ("fold",),
)  # fmt: skip
CONVERT_TIE = Operator(
    "convert.tie", "one table for embedding and head; how far they are apart is told", {"": Exactness.NFP},
    "an untied head", "1608.05859", TieParameters, tie, ("fold", "blend"),
)  # fmt: skip
