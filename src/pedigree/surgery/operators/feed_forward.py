"""A wider feed-forward network.

Law     zero: new units whose down columns are zero add nothing, bit for bit. copy and split: a unit and its copies
        share the down column, so that the shares sum to it; exact in real arithmetic. Two copies with equal shares
        get equal gradients for ever; noise that sums to zero over the copies parts them and keeps the function.
Source  Net2Net 1511.05641; noise HyperCloning 2409.12903, uneven shares LEMON 2310.07999.

Shapes  f = old inner width, F = new one
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from pedigree.surgery.exactness import Exactness
from pedigree.surgery.nodes import Fill, Given, Join, Node
from pedigree.surgery.operator import Antisymmetric, Operator, Parameters, Step
from pedigree.surgery.randomness import choices
from pedigree.surgery.selection import Index
from pedigree.surgery.spread import Spread
from pedigree.surgery.symbolic import Key, Symbolic
from pedigree.surgery.verbs import fresh, index, pad, perturb, scale
from pedigree.weights.roles import BIAS

READERS = ("mlp.gate", "mlp.up")
SERIES = ("mlp.series.slope", "mlp.series.shift")


class GrowFfnParameters(Parameters):
    """The new inner width, and what the new units are.

    zero: fresh units (as large as the old ones) that write nothing. copy: units drawn evenly from the old ones, the
    down columns divided by the number of copies. split: the same with shares of 0.7 and 0.3.
    """

    to: int
    op: Literal["zero", "copy", "split"] = "zero"
    noise: Antisymmetric | None = None


def apply(symbolic: Symbolic, parameters: GrowFfnParameters, step: Step) -> Exactness:
    """Widen every dense feed-forward network."""
    layers = sorted({key[1] for key in symbolic.keys("mlp.down") if key[1] is not None})
    if not layers:
        raise step.refuse("the model has no dense feed-forward network", got=symbolic.anatomy.mlp)
    if parameters.noise is not None and parameters.op == "zero":
        raise step.refuse("fresh units need no noise", got="op: zero with noise", fix="remove noise, or op: copy")
    old = {symbolic.parts["mlp.down", layer, None].shape[1] for layer in layers}
    if len(old) != 1 or parameters.to < max(old):
        raise step.refuse("this is not wider", got=f"inner width {sorted(old)}", expected=f"fewer than {parameters.to}",
                          fix="prune.ffn makes it narrower")  # fmt: skip
    for layer in layers:
        _widen(symbolic, layer, parameters, step)
    symbolic.config.set("d_inner", parameters.to)
    return Exactness.FP0 if parameters.op == "zero" or parameters.to == max(old) else Exactness.FP1


def _widen(symbolic: Symbolic, layer: int, parameters: GrowFfnParameters, step: Step) -> None:
    down_key: Key = ("mlp.down", layer, None)
    down = symbolic.parts[down_key]
    n_old, n_new = down.shape[1], parameters.to - down.shape[1]
    if parameters.op == "zero":
        for role in READERS:
            key = (role, layer, None)
            if key in symbolic.parts:
                node = symbolic.parts[key]
                rows = fresh((n_new, node.shape[1]), step.seed, step.stream(key), Spread(node), dtype=node.dtype)
                symbolic.parts[key] = pad(node, 0, n_new, rows)
            _pad_bias(symbolic, (role + BIAS, layer, None), n_new)
        for role in SERIES:
            if (role, layer, None) in symbolic.parts:
                symbolic.parts[role, layer, None] = _plain_terms(symbolic.parts[role, layer, None], role, n_new)
        if ("norm.mlp.down", layer, None) in symbolic.parts:
            raise step.refuse("a norm over the inner units sees new ones", got="norm.mlp.down", fix="op: copy")
        symbolic.parts[down_key] = pad(down, 1, n_new)
        return
    source = np.concatenate([np.arange(n_old), choices(step.seed, step.stream(down_key, "units"), n_old, n_new)])
    for role in (*READERS, *(role + BIAS for role in READERS)):
        key = (role, layer, None)
        if key in symbolic.parts:
            symbolic.parts[key] = index(symbolic.parts[key], 0, source)
    for role in SERIES:
        if (role, layer, None) in symbolic.parts:
            symbolic.parts[role, layer, None] = index(symbolic.parts[role, layer, None], 1, source)
    copied = scale(index(down, 1, source), _vector(_shares(source, n_old, uneven=parameters.op == "split")), 1)
    if parameters.noise is not None:
        copied = perturb(copied, _noise(down, source, n_old, parameters.noise, step, down_key))
    symbolic.parts[down_key] = copied


def _plain_terms(node: Node, role: str, count: int) -> Node:
    """A series activation with units more whose activation is the plain one: first slope 1, all else 0."""
    terms = node.shape[0]
    first = Fill((1, count), 1.0 if role == SERIES[0] else 0.0, node.dtype)
    return pad(node, 1, count, Join((first, Fill((terms - 1, count), dtype=node.dtype))))


def _pad_bias(symbolic: Symbolic, key: Key, count: int) -> None:
    if key in symbolic.parts:
        symbolic.parts[key] = pad(symbolic.parts[key], 0, count)


def _shares(source: Index, n_old: int, *, uneven: bool) -> np.ndarray:
    """What part of the down column each unit keeps; the parts of one unit's copies sum to 1."""
    count = np.bincount(source, minlength=n_old)
    shares = 1.0 / count[source]
    if uneven:
        # 0.7 for the first, 0.3 shared by its copies.
        first = np.zeros(len(source), dtype=bool)
        first[:n_old] = True
        several = count[source] > 1
        shares = np.where(several, np.where(first, 0.7, 0.3 / np.maximum(count[source] - 1, 1)), 1.0)
    return shares


def _vector(values: np.ndarray) -> Node:
    import torch

    return Given(torch.from_numpy(values.astype(np.float32)))


def _noise(down: Node, source: Index, n_old: int, noise: Antisymmetric, step: Step, key: Key) -> Node:
    """Noise [d, F] that sums to zero over the copies of each unit: N for one of a pair, -N for the other.

    Of an odd number of copies the last stays clean.
    """
    seen = np.zeros(n_old, dtype=np.int64)
    count = np.bincount(source, minlength=n_old)
    sign = np.zeros(len(source), dtype=np.float64)
    pair = np.zeros(len(source), dtype=np.int64)
    for place, unit in enumerate(source.tolist()):
        rank = seen[unit]
        seen[unit] += 1
        if rank < count[unit] // 2 * 2:
            sign[place] = 1.0 if rank % 2 == 0 else -1.0
        pair[place] = unit + n_old * (rank // 2)
    rounds = int(pair.max()) // n_old + 1
    base = fresh((down.shape[0], n_old * rounds), step.seed, step.stream(key, "noise"), Spread(down, noise.antisym))
    return scale(index(base, 1, pair), _vector(sign), 1)


GROW_FFN = Operator(
    name="grow.ffn",
    summary="a wider feed-forward network: fresh units that write nothing, or copies that share what a unit writes",
    classes={"zero": Exactness.FP0, "copy": Exactness.FP1, "split": Exactness.FP1},
    needs="",
    source="1511.05641, 2409.12903, 2310.07999",
    parameters=GrowFfnParameters,
    apply=apply,
    verbs=("pad", "index", "perturb"),
)
