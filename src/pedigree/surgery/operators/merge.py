"""Several models into one: every method of `pedigree.surgery.merge`, tensor by tensor, role by role.

Law     a merge of copies of one model with weights that sum to 1 is that model; passthrough of a whole model is it, bit
        for bit. Anything else does not keep the function of any input.
Needs   models of one architecture and one shape (their vocabularies may differ where `vocabulary` says so). Block
        scales of 8-bit storage are multiplied in before anything is merged.
Source  by method: `pedigree.surgery.merge.methods`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field

from pedigree.errors import PedigreeError, ProblemsFound, UsageError
from pedigree.surgery.exactness import Exactness
from pedigree.surgery.merge.layering import Origin, layer_origins, outer_origin, tensor_merge
from pedigree.surgery.merge.matched_rows import MatchedRows, matched_rows
from pedigree.surgery.merge.merged_node import Merged
from pedigree.surgery.merge.recipe import MergeRecipe, read_merge
from pedigree.surgery.nodes import Leaf, Node
from pedigree.surgery.operator import Operator, Parameters, Step
from pedigree.surgery.operators import cast
from pedigree.surgery.operators.depth import take_layers
from pedigree.surgery.symbolic import Key, Loose, Symbolic
from pedigree.tokenizers.encoder import Encoder
from pedigree.tokenizers.reading import open_encoder
from pedigree.weights.number_types import WIDE_FLOATS
from pedigree.weights.scales import is_constant

SOURCE = "source"
"""The name of the recipe's own source among the models."""
_BEFORE = ("embed", "positions", "norm.embed")
_VOCABULARY = ("embed", "head", "head.bias", "mtp.embed", "mtp.head")
_MOST_PROBLEMS = 12


class MergeParameters(Parameters):
    """What is merged, and how; `source` among the models is the recipe's own.

    Keys are those of `pedigree.surgery.merge.recipe`.
    """

    method: str
    base: str | None = None
    models: tuple[str | dict[str, Any], ...] | None = None
    slices: tuple[Any, ...] | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    vocabulary: str | None = None


def apply(symbolic: Symbolic, parameters: MergeParameters, step: Step) -> Exactness:
    """Replace every part by its merge."""
    raw = {key: value for key, value in parameters.model_dump(mode="json").items() if value not in (None, {})}
    recipe = read_merge(raw | {"seed": step.seed}, f"step {step.number + 1}, {step.name}")
    models = {name: symbolic.copy() if name == SOURCE else step.open(name) for name in (*recipe.models, SOURCE)}
    _same_kind(models, step)
    if any(_scaled(node) for node in symbolic.parts.values()):
        cast.apply(symbolic, cast.CastParameters(to="bfloat16"), step)
    _all_have_roles(symbolic, step)
    tables = _tables(recipe, models, step)

    def depth_of(name: str) -> int:
        return models[name].n_layers

    origins = layer_origins(recipe, depth_of)
    order = [_template(origin, recipe, symbolic.n_layers) for origin in origins]
    if order != list(range(symbolic.n_layers)):
        take_layers(symbolic, order, step)
    outer = {first: outer_origin(recipe, depth_of, first=first) for first in (True, False)}
    problems: list[PedigreeError] = []
    holders = symbolic.holders()
    for key in list(symbolic.parts):
        role, layer, _ = key
        inside = layer is not None and not role.startswith("mtp.")
        origin = origins[layer] if inside and layer is not None else outer[role in _BEFORE]
        name = symbolic.name_of(holders[key]) if key in holders else role
        merged = _merged(key, origin, recipe, models, tables, name)
        if isinstance(merged, PedigreeError):
            problems.append(merged)
        else:
            symbolic.parts[key] = merged
    if problems:
        raise ProblemsFound(f"step {step.number + 1}, {step.name}", problems[:_MOST_PROBLEMS], len(problems))
    whole = recipe.method.name == "passthrough" and order == list(range(len(order))) and "scale" not in str(raw)
    return Exactness.FP0 if whole and recipe.models == (SOURCE,) else Exactness.NFP


def _same_kind(models: Mapping[str, Symbolic], step: Step) -> None:
    """Refuse models that do not have the same parts by role."""
    own = models[SOURCE]
    for name, other in models.items():
        for word in ("d_model", "n_heads", "n_kv_heads", "head_dim", "tied"):
            if getattr(own, word) != getattr(other, word):
                raise step.refuse(
                    f"{name} has another shape", got=f"{word} {getattr(other, word)}",
                    expected=f"{word} {getattr(own, word)}, as the source has it",
                )  # fmt: skip


def _all_have_roles(symbolic: Symbolic, step: Step) -> None:
    """Refuse trained tensors without a role: they would stay the source's, unmerged, and nobody would know."""
    names = [
        stored.origin
        for stored in symbolic.stored
        if isinstance(stored.loose, Loose) and stored.loose.dtype in WIDE_FLOATS and not is_constant(stored.origin)
    ]
    if names or not symbolic.parts:
        raise step.refuse(
            "tensors without a role cannot be merged", got=", ".join(names[:4]) or symbolic.anatomy.architecture,
            expected="an architecture with a role table",
        )  # fmt: skip


def _scaled(node: Node) -> bool:
    return isinstance(node, Leaf) and any(piece.scale is not None for piece in node.part.pieces)


def _template(origin: Origin, recipe: MergeRecipe, n_layers: int) -> int:
    """The layer of the source whose storage a layer of the result takes after: its own where it is an input."""
    own = next((layer for source, layer in origin.inputs if source.model == SOURCE), None)
    layer = own if own is not None else origin.inputs[0][1]
    return min(layer or 0, n_layers - 1)


def _merged(
    key: Key,
    origin: Origin,
    recipe: MergeRecipe,
    models: Mapping[str, Symbolic],
    tables: Callable[[str, Key, Node], Node],
    name: str,
) -> Node | PedigreeError:
    """The merge of one part, or why there is none."""
    role, _, expert = key
    places = [(source.model, layer) for source, layer in origin.inputs]
    has_base, base_layer = origin.base
    if has_base and recipe.base is not None:
        places.append((recipe.base, base_layer))
    nodes: list[Node] = []
    for model, layer in places:
        at = (role, layer if layer is not None else key[1], expert)
        node = models[model].parts.get(at)
        if node is None:
            return UsageError(f"{model} has no such part", where=name, got=_said(at), fix="leave that model out")
        nodes.append(tables(model, key, node))
    shapes = {node.shape for node in nodes}
    if len(shapes) > 1:
        fix = "vocabulary: base (rows matched by token)" if role in _VOCABULARY else None
        return UsageError("shapes differ", where=name, got=", ".join(map(str, sorted(shapes))), fix=fix)
    build = partial(tensor_merge, recipe, origin, name, role, nodes[0].shape)
    method = build()  # settings are checked now, not when the tile is due
    if method.looks == 0 and recipe.method.name == "passthrough" and getattr(method, "scale", None) is None:
        return nodes[0]
    base = nodes.pop() if has_base else None
    return Merged(tuple(nodes), base, build)


def _said(key: Key) -> str:
    role, layer, expert = key
    return role + ("" if layer is None else f" of layer {layer}") + ("" if expert is None else f", expert {expert}")


def _tables(recipe: MergeRecipe, models: Mapping[str, Symbolic], step: Step) -> Callable[[str, Key, Node], Node]:
    """How the tables of a model are brought to the vocabulary of the result."""
    if recipe.vocabulary is None:
        return lambda model, key, node: node
    chosen = recipe.base or recipe.models[0] if recipe.vocabulary == "base" else recipe.vocabulary
    if chosen not in models:
        raise step.refuse("no such model", got=chosen, expected=", ".join(models))
    if chosen != SOURCE and models[chosen].vocab_size != models[SOURCE].vocab_size:
        raise step.refuse("the tables of the result are laid out as the source's", got=f"vocabulary: {chosen}",
                          fix=f"make {chosen} the source of the recipe")  # fmt: skip
    encoders: dict[str, Encoder] = {}
    rows: dict[str, Any] = {}

    def encoder(model: str) -> Encoder:
        if model not in encoders:
            encoders[model] = open_encoder(Path(models[model].checkpoint.location))
        return encoders[model]

    def bring(model: str, key: Key, node: Node) -> Node:
        reference = models[chosen].parts.get((key[0], key[1], key[2]))
        if model == chosen or key[0] not in _VOCABULARY or reference is None:
            return node
        if model not in rows:
            rows[model] = matched_rows(encoder(model), encoder(chosen), reference.shape[0])
        return MatchedRows(node, reference, rows[model])

    return bring


MERGE = Operator(
    name="merge",
    summary="several models of one shape into one: linear, slerp, task vectors (TIES, DARE, DELLA), stock, slices",
    classes={"passthrough of one whole model": Exactness.FP0, "every other": Exactness.NFP},
    needs="other models",
    source="2203.05482, 2212.04089, 2306.01708, 2311.03099, 2406.11617, 2312.06795, 2403.19522",
    parameters=MergeParameters,
    apply=apply,
    verbs=("blend", "index"),
)
