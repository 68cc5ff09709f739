"""Where each layer of the result comes from, and the numbers of the method there.

Law     a merge of whole models has layer i from layer i of every model; slices are stacked in their order.
        Settings are taken from the nearest holder: the source, the slice, the recipe, the method's default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pedigree.errors import UsageError
from pedigree.surgery.merge.methods import REQUIRED, Numbers
from pedigree.surgery.merge.recipe import MergeRecipe, Slice, Source
from pedigree.surgery.merge.settings import Place, value_at
from pedigree.surgery.merge.tensor_merge import TensorMerge


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a tensor of the result comes from.

    Attributes:
        part: the slice.
        inputs: (source, layer in it; None outside the layers) of everything that is merged; the base of "slerp" is
            the first.
        base: layer in the base, for methods that compare with one: (True, layer); (False, None) without one.
        depth_layer: layer within the slice, for gradients; None outside the layers.
        n_layers: layers of the slice.
    """

    part: Slice
    inputs: tuple[tuple[Source, int | None], ...]
    base: tuple[bool, int | None]
    depth_layer: int | None
    n_layers: int


def layer_origins(recipe: MergeRecipe, depth_of: Callable[[str], int]) -> list[Origin]:
    """The origin of every layer of the result, in order.

    Args:
        recipe: checked.
        depth_of: number of layers of a model.

    Raises:
        UsageError: models of different depth are merged whole, or a range leaves its model.
    """
    found: list[Origin] = []
    for number, part in enumerate(recipe.slices):
        where = f"slice {number}" if len(recipe.slices) > 1 else "models"
        ranges = [_range(source, depth_of, where) for source in part.sources]
        # Whole models: the base counts too. In slices it is met at the layers of the first source.
        if recipe.base and all(source.layers is None for source in part.sources):
            ranges.append((0, depth_of(recipe.base)))
        lengths = {stop - start for start, stop in ranges}
        if len(lengths) != 1:
            raise UsageError(
                "models of different depth cannot be merged layer by layer",
                where=where,
                got=sorted(lengths),
                expected="equal numbers of layers",
                fix="choose ranges of layers: slices",
            )
        length = lengths.pop()
        starts = {id(source): start for source, (start, _) in zip(part.sources, ranges, strict=False)}
        for offset in range(length):
            layers = {key: start + offset for key, start in starts.items()}
            found.append(_origin(recipe, part, layers, offset, length))
    return found


def outer_origin(recipe: MergeRecipe, depth_of: Callable[[str], int], *, first: bool) -> Origin:
    """The origin of what lies outside the layers: before them (`first`) or behind them."""
    part = recipe.slices[0 if first else -1]
    start, stop = _range(part.sources[0], depth_of, "models")
    return _origin(recipe, part, {}, None, stop - start)


def tensor_merge(recipe: MergeRecipe, origin: Origin, name: str, role: str | None, shape: Sequence[int]) -> TensorMerge:
    """The method with its numbers for one tensor of the result.

    Args:
        name: of the tensor in the result; it also names the draws.
        role: its role, None where it has none.
        shape: of the tensor.

    Raises:
        UsageError: a setting that is needed has no value here.
    """
    place = Place(name, role, origin.depth_layer, origin.n_layers)
    part = origin.part

    def value(key: str, default: Any, holders: Sequence[Mapping[str, Any]]) -> Any:
        for holder in holders:
            if key in holder:
                found = value_at(holder[key], place, key)
                if found is not None:
                    return found
        if default is REQUIRED:
            raise UsageError(
                "a setting has no value for a tensor", where=name, got=key, fix="add a case without filter"
            )
        return default

    method = recipe.method
    shared = {key: value(key, default, (part.settings, recipe.settings)) for key, default in method.shared.items()}
    sources = recipe.inputs(part)
    each = {
        key: [value(key, default, (source.settings, part.settings, recipe.settings)) for source in sources]
        for key, default in method.each.items()
    }
    return method.build(Numbers(shared, each, tuple(shape), (recipe.seed, name)))


def _origin(recipe: MergeRecipe, part: Slice, layers: Mapping[int, int], depth: int | None, length: int) -> Origin:
    inputs = [(source, layers.get(id(source))) for source in recipe.inputs(part)]
    compares = recipe.base is not None and recipe.method.base in ("required", "optional", "first")
    if not compares:
        return Origin(part, tuple(inputs), (False, None), depth, length)
    own = next((source for source in part.sources if source.model == recipe.base), None)
    base_layer = layers.get(id(own or part.sources[0]))
    if recipe.method.base == "first":
        base = Source(str(recipe.base), None if own is None else own.layers)
        return Origin(part, ((base, base_layer), *inputs), (False, None), depth, length)
    return Origin(part, tuple(inputs), (True, base_layer), depth, length)


def _range(source: Source, depth_of: Callable[[str], int], where: str) -> tuple[int, int]:
    depth = depth_of(source.model)
    start, stop = source.layers or (0, depth)
    if stop > depth:
        raise UsageError(
            "a range of layers leaves its model", where=f"{where}: {source.model}", got=f"{start} to {stop}",
            expected=f"within 0 to {depth}",
        )  # fmt: skip
    return start, stop
