"""The query layer of PanGu-alpha becomes an ordinary last layer.

Law     its queries are (1 - q) LN(h) + q p, p the second table of positions, and where the final norm stands in front
        of it, that norm acts with weight q there and 1 - q behind the layer. q = 1 is the layer as it was trained, so
        nothing has to be put in: training moves `queries` from 1 to 0 (`training.anneal`). No change of weights makes
        the two equal: p depends on the place alone, and the stream holds no clean copy of it.
        finish: at q = 0 the layer is ordinary, in both topologies; the second table is taken away.
        swap: at once, without training; the function changes.
Source  2104.12369 (PanGu-alpha); the path is derived for the project.
"""

from __future__ import annotations

from typing import Literal

from pedigree.model.config_parts import Homotopy
from pedigree.surgery.exactness import Exactness
from pedigree.surgery.operator import Operator, Parameters, Step
from pedigree.surgery.rehousing import rehouse
from pedigree.surgery.retarget import model_of
from pedigree.surgery.symbolic import Symbolic


class QueryLayerParameters(Parameters):
    """finish: after training has moved `queries` to 0. swap: at once."""

    op: Literal["finish", "swap"] = "finish"


def apply(symbolic: Symbolic, parameters: QueryLayerParameters, step: Step) -> Exactness:
    """Take the second table away."""
    model = model_of(symbolic, step)
    if model.query_layer == "none":
        raise step.refuse("there is no query layer", got=symbolic.anatomy.architecture, expected="PanGu-alpha")
    now = model.homotopy or Homotopy()
    if parameters.op == "finish" and now.queries != 0:
        raise step.refuse(
            "the query layer still takes queries from its table", got=f"queries {now.queries:g}", expected="queries 0",
            fix="training.anneal of queries from 1 to 0; or op: swap with allow: nfp",
        )  # fmt: skip
    del symbolic.parts["embed.query", None, None]
    left = now.replace(queries=1.0)
    rehouse(symbolic, model.replace(query_layer="none", homotopy=left if left.moved else None), step)
    return Exactness.FP0 if parameters.op == "finish" else Exactness.NFP


CONVERT_QUERY_LAYER = Operator(
    name="convert.query_layer",
    summary="the query layer of PanGu-alpha becomes an ordinary last layer, after training has moved it there",
    classes={"finish": Exactness.FP0, "swap": Exactness.NFP},
    needs="training with `anneal` of queries before finish",
    source="2104.12369",
    parameters=QueryLayerParameters,
    apply=apply,
    verbs=("fold",),
)
