"""A decomposition as a YAML file for mergekit, so that anybody can make the merge again and compare.

Source  the configuration format of mergekit (merge_method, models, parameters with filters and gradients).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from pedigree.forensics.merges.decomposition import Decomposition
from pedigree.forensics.merges.stacked_layers import ranges_of
from pedigree.weights.anatomy import Anatomy

DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
FILTERS = (("attn", "self_attn"), ("mlp", "mlp"))
OUTSIDE = {"embed": "embed_tokens", "head": "lm_head"}
DIGITS = 4

ALIKE = 0.005
"""Weights of the components of a layer that differ less are one weight of the layer."""

WITHOUT_WEIGHTS = ("karcher", "model_stock", "sce", "arcee_fusion", "nearswap")
WITHOUT_BASE = ("linear", "karcher")
"""Methods that take no weights, and such as a base would be one more parent of."""


def write_recipe(found: Decomposition, anatomies: Sequence[Anatomy], dtype: str) -> str:
    """The YAML text of a decomposition that is a merge.

    Args:
        found: the decomposition.
        anatomies: of the child, then of the sources.
        dtype: number type of the result.
    """
    anatomy = anatomies[0]
    recipe: dict[str, Any] = {"merge_method": found.method}
    base = next((s.location for s in found.sources if s.role == "base"), None)
    active = [(n, s) for n, s in enumerate(found.sources, start=1) if s.role == "parent" and s.weight]
    if found.method == "passthrough":
        return _slices(found, anatomy, dtype)
    if found.method == "slerp":
        recipe["base_model"] = active[0][1].location
        recipe["models"] = [{"model": s.location} for _, s in active]
        second = active[1][0]
        recipe["parameters"] = {"t": _values(found, anatomy, second, active[1][1].weight)}
    else:
        if base is not None and found.method not in WITHOUT_BASE:
            recipe["base_model"] = base
        recipe["models"] = []
        for number, source in active:
            entry: dict[str, Any] = {"model": source.location}
            if found.method not in WITHOUT_WEIGHTS:
                entry["parameters"] = {"weight": _values(found, anatomy, number, source.weight), **found.each}
                if source.density is not None:
                    entry["parameters"]["density"] = round(source.density, DIGITS)
            recipe["models"].append(entry)
        parameters: dict[str, float | bool] = {"normalize": True} if found.method == "linear" else {}
        parameters |= found.parameters
        if parameters:
            recipe["parameters"] = parameters
    taking = [anatomies[n].vocab_size for n, s in enumerate(found.sources, start=1) if s.weight]
    if len({anatomy.vocab_size, *taking}) > 1:
        recipe["tokenizer"] = {"source": _vocabulary(found, anatomies, taking)}
    if dtype in DTYPES:
        recipe["dtype"] = DTYPES[dtype]
    return yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=120)


def _vocabulary(found: Decomposition, anatomies: Sequence[Anatomy], taking: Sequence[int]) -> str:
    """Whose vocabulary the result has: that of all, or that of a source with as many rows."""
    rows = anatomies[0].vocab_size
    if rows >= max(taking):
        return "union"
    return next(
        (s.location for s, a in zip(found.sources, anatomies[1:], strict=True) if a.vocab_size == rows), "union"
    )


def _values(found: Decomposition, anatomy: Anatomy, number: int, overall: float) -> Any:
    """One number, or lists over the layers: one for all tensors of a layer, or one for each component; what stands
    outside the layers has its own number, all else the overall one."""
    if not found.groups:
        return round(overall, DIGITS)
    layers = range(anatomy.n_layers)
    curves: dict[str, list[float]] = {}
    for component, name in FILTERS:
        by_layer = {g.layer: g.mixture.weight(number) for g in found.groups if g.component == component}
        if set(by_layer) >= set(layers):
            curves[name] = [round(by_layer[j], DIGITS) for j in layers]
    outside = {g.component: round(g.mixture.weight(number), DIGITS) for g in found.groups if g.layer is None}
    out: list[dict[str, Any]] = [{"filter": OUTSIDE[c], "value": w} for c, w in outside.items() if c in OUTSIDE]
    one = [sum(values) / len(values) for values in zip(*curves.values(), strict=True)] if curves else []
    if all(max(abs(v - w) for v, w in zip(curve, one, strict=True)) < ALIKE for curve in curves.values()) and one:
        return [*out, {"value": [round(w, DIGITS) for w in one]}]
    out += [{"filter": name, "value": curve} for name, curve in curves.items()]
    rest = sum(outside.values()) / len(outside) if outside else overall
    return [*out, {"value": round(rest, DIGITS)}]


def _slices(found: Decomposition, anatomy: Anatomy, dtype: str) -> str:
    """Whole layers from one source each; where attention and feed-forward disagree the larger one decides."""
    stack = list(found.stack)
    for layer in range(anatomy.n_layers if not stack else 0):
        mine = [g for g in found.groups if g.layer == layer]
        if mine:
            stack.append((max(mine, key=lambda g: g.energy).mixture.sources[0], layer))
    slices = [
        {"sources": [{"model": found.sources[n - 1].location, "layer_range": [first, behind]}]}
        for n, first, behind in ranges_of(stack)
    ]
    recipe: dict[str, Any] = {"merge_method": "passthrough", "slices": slices}
    if dtype in DTYPES:
        recipe["dtype"] = DTYPES[dtype]
    return yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=120)
