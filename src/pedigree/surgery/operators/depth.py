"""More layers, fewer layers, layers in another order.

Law     identity: a copied block whose attention output and down projection are zero adds nothing, so the function is
        the old one bit for bit, and both matrices have a gradient at once. Every other order changes the function.
Source  LLaMA-Pro 2401.02415 (identity), 2405.15319 (stack, interpose), SOLAR 2312.15166.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from pydantic import model_validator

from pedigree.surgery.exactness import Exactness
from pedigree.surgery.nodes import Fill
from pedigree.surgery.operator import Operator, Parameters, Step
from pedigree.surgery.settings import reindex_layers, shown_order
from pedigree.surgery.symbolic import Symbolic
from pedigree.weights.roles import BIAS, MTP

WRITERS = (
    "attn.o", "mlp.down", "moe.expert.down", "moe.shared.down", *(f"shortcut.{number}.leave" for number in range(4)),
)  # fmt: skip
"""Roles that write what a block adds to the residual stream."""
_BEHIND = ("norm.attn.post", "norm.mlp.post", "norm.block.post")


class DepthParameters(Parameters):
    """Which layers, and how.

    identity: copies of the layers in `after` (numbers, or "every N") behind themselves, adding nothing.
    stack, interpose: all layers `times` over, one whole model after the other, or each behind itself.
    solar: the model twice, without the last `cut` layers of the first and the first `cut` of the second copy.
    order: layers taken by number.
    """

    op: Literal["identity", "stack", "interpose", "solar", "order"]
    after: str | tuple[int, ...] | None = None
    times: int | None = None
    cut: int | None = None
    order: tuple[int, ...] | None = None

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> DepthParameters:
        needed = {"identity": "after", "stack": "times", "interpose": "times", "solar": "cut", "order": "order"}[
            self.op
        ]
        for name in ("after", "times", "cut", "order"):
            given = getattr(self, name) is not None
            if given != (name == needed):
                raise ValueError(f"op {self.op} takes {needed}" + (f", not {name}" if given else ", which is missing"))
        return self


def apply(symbolic: Symbolic, parameters: DepthParameters, step: Step) -> Exactness:
    """Layers in the new order; those added by `identity` write nothing."""
    n = symbolic.n_layers
    added: set[int] = set()
    if parameters.op == "identity":
        order, added = _with_copies(n, parameters.after or (), step)
    else:
        order = _order(n, parameters, step)
    take_layers(symbolic, order, step)
    for layer in added:
        _silence(symbolic, layer, step)
    return Exactness.FP0 if order == list(range(n)) or parameters.op == "identity" else Exactness.NFP


def _with_copies(n: int, after: str | Sequence[int], step: Step) -> tuple[list[int], set[int]]:
    """The order with a copy behind each of some layers, and the new numbers of the copies."""
    if isinstance(after, str):
        found = re.fullmatch(r"every (\d{1,4})", after.strip())
        if found is None or not 0 < int(found.group(1)) <= n:
            raise step.refuse("this does not say after which layers", got=repr(after),
                              expected=f"a list of layers, or `every N` with N from 1 to {n}")  # fmt: skip
        after = list(range(int(found.group(1)) - 1, n, int(found.group(1))))
    check_layers(n, after, step)
    order: list[int] = []
    added: set[int] = set()
    for layer in range(n):
        order.append(layer)
        for _ in range(sum(place == layer for place in after)):
            added.add(len(order))
            order.append(layer)
    return order, added


def _order(n: int, parameters: DepthParameters, step: Step) -> list[int]:
    if parameters.op in ("stack", "interpose"):
        times = parameters.times or 0
        if not 1 <= times <= 64:
            raise step.refuse("so many copies make no sense", got=times, expected="times from 1 to 64")
        return list(range(n)) * times if parameters.op == "stack" else [i for i in range(n) for _ in range(times)]
    if parameters.op == "solar":
        cut = parameters.cut or 0
        if not 0 <= cut < n:
            raise step.refuse("so many layers cannot be left out", got=cut, expected=f"cut from 0 to {n - 1}")
        return [*range(n - cut), *range(cut, n)]
    order = list(parameters.order or ())
    check_layers(n, order, step)
    if not order:
        raise step.refuse("a model needs layers", got="an empty order")
    return order


def check_layers(n: int, layers: Sequence[int], step: Step) -> None:
    """Refuse layer numbers that the model does not have."""
    wrong = [layer for layer in layers if not 0 <= layer < n]
    if wrong:
        raise step.refuse("there are no such layers", got=shown_order(wrong), expected=f"0 to {n - 1}")


def take_layers(symbolic: Symbolic, order: Sequence[int], step: Step) -> None:
    """New layer i is old layer order[i], with its config."""
    if symbolic.n_layers == 0:
        raise step.refuse("the layers of this model are not known", got=symbolic.anatomy.architecture)
    n_old = symbolic.n_layers
    symbolic.notes += reindex_layers(symbolic.config, order, n_old)
    by_layer: dict[int, list[tuple[str, int | None]]] = {}
    for role, layer, expert in symbolic.parts:
        if layer is not None and not role.startswith(MTP):
            by_layer.setdefault(layer, []).append((role, expert))
    parts = {key: node for key, node in symbolic.parts.items() if key[1] is None or key[0].startswith(MTP)}
    for new, old in enumerate(order):
        for role, expert in by_layer.get(old, ()):
            parts[role, new, expert] = symbolic.parts[role, old, expert]
    stored = [one for one in symbolic.stored if one.layer is None or one.prediction]
    held: dict[int, list[int]] = {}
    for place, one in enumerate(symbolic.stored):
        if one.layer is not None and not one.prediction:
            held.setdefault(one.layer, []).append(place)
    for new, old in enumerate(order):
        stored.extend(symbolic.stored[place].at_layer(new) for place in held.get(old, ()))
    symbolic.parts, symbolic.stored, symbolic.n_layers = parts, stored, len(order)


def _silence(symbolic: Symbolic, layer: int, step: Step) -> None:
    """Zeros in everything a layer adds to the stream: weights and biases of its writers, or the gains behind them."""
    keys = symbolic.layer_keys(layer)
    behind = [key for key in keys if key[0].removesuffix(BIAS) in _BEHIND]
    writers = [key for key in keys if key[0].removesuffix(BIAS) in WRITERS]
    found = {key[0].removesuffix(BIAS) for key in writers}
    has_attention = "attn.o" in found
    has_feed_forward = bool(found & {"mlp.down", "moe.expert.down"})
    if not (has_attention and has_feed_forward):
        raise step.refuse("the projections that write the residual stream are not all known", got=sorted(found),
                          expected="attn.o, and mlp.down or moe.expert.down")  # fmt: skip
    if symbolic.anatomy.norm_placement in ("post",):
        raise step.refuse("a block with its norm behind the sum cannot add nothing", got="norms behind the residual",
                          fix="use op: interpose, and allow: nfp")  # fmt: skip
    # A norm on the branch output maps zero to its bias, which then has to be zero too.
    for key in [*writers, *(key for key in behind if key[0].endswith(BIAS))]:
        node = symbolic.parts[key]
        symbolic.parts[key] = Fill(node.shape, dtype=node.dtype)


GROW_DEPTH = Operator(
    name="grow.depth",
    summary="more layers: copies that add nothing, the stack repeated, each layer repeated, or any order",
    classes={"identity": Exactness.FP0, "stack": Exactness.NFP, "interpose": Exactness.NFP, "solar": Exactness.NFP,
             "order": Exactness.NFP},
    needs="",
    source="2401.02415, 2405.15319, 2312.15166",
    parameters=DepthParameters,
    apply=apply,
    verbs=("index", "pad"),
)  # fmt: skip
