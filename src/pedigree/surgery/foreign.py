"""Recipes of either kind: ours, or a mergekit YAML, recognized by its `merge_method`.

A mergekit file says nothing of where its result goes: that is a folder named like the file, beside it, unless one is
named. Its base model (or its first one) becomes the source, whose tokenizer and config the result has.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from pedigree.errors import UsageError
from pedigree.records.problems import Problems
from pedigree.records.yaml_tree import parse_tree, read_text
from pedigree.surgery.catalog import BY_NAME
from pedigree.surgery.merge.mergekit_file import Translation, is_mergekit, translate
from pedigree.surgery.operators.merge import SOURCE
from pedigree.surgery.recipe import PlannedStep, SurgeryRecipe, placed, read_recipe

_SHARD_BYTES = 5 * 10**9
_TYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def read_any_recipe(
    path: str | os.PathLike[str], target: str | os.PathLike[str] | None = None
) -> tuple[SurgeryRecipe, tuple[str, ...]]:
    """Read a recipe of ours or of mergekit.

    Args:
        path: the file.
        target: folder of the result, in place of the one the file names.

    Returns:
        The recipe, and notes on what a mergekit file says differently here.

    Raises:
        MissingInput: there is no such file.
        ProblemsFound: everything that is wrong with it.
    """
    file = Path(path)
    problems = Problems(str(file))
    text = read_text(file, problems)
    root = None if text is None else parse_tree(text, problems)
    problems.stop()
    raw = None if root is None else root.plain()
    if isinstance(raw, dict) and is_mergekit(raw):
        translation = translate(raw, str(file))
        return _recipe(file, translation, target), translation.notes
    recipe = read_recipe(file)
    return (recipe if target is None else replace(recipe, target=Path(target))), ()


def _recipe(file: Path, translation: Translation, target: str | os.PathLike[str] | None) -> SurgeryRecipe:
    folder = str(file.parent)
    own = translation.recipe.vocabulary
    source = own if own not in (None, "base") else translation.recipe.models[0]
    merge = _renamed(translation.merge, str(source))
    steps = [PlannedStep(BY_NAME["merge"], BY_NAME["merge"].parameters.model_validate(merge))]
    if translation.dtype is not None:
        cast = BY_NAME["cast"]
        steps.append(PlannedStep(cast, cast.parameters.model_validate({"to": _TYPES[translation.dtype]})))
    place = Path(target) if target is not None else file.with_suffix("")
    if place.resolve() == file.resolve():
        raise UsageError("the target is the recipe", where=str(file), fix="name a folder")
    return SurgeryRecipe(
        path=str(file),
        source=placed(str(source), folder),
        allow_pickle=False,
        models={},
        target=place,
        shard_bytes=_SHARD_BYTES,
        seed=0,
        link=True,
        allow_nfp=True,  # whoever writes a merge means one
        steps=tuple(steps),
        verify_tokens=256,
        folder=folder,
    )


def _renamed(value: Any, source: str) -> Any:
    """The merge with the source's own path replaced by its name, wherever a model is named."""
    if isinstance(value, dict):
        return {
            key: SOURCE if key in ("model", "base", "vocabulary") and inner == source else _renamed(inner, source)
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [_renamed(inner, source) for inner in value]
    return value
