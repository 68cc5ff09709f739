"""A mergekit YAML read as a merge of ours, so that files people have keep working and mean the same.

What differs is written into the translation rather than left to defaults: `rescale` of DARE and DELLA restores the L1
norm there. Arithmetic is float32 here whatever `dtype` says; `out_dtype`, or else `dtype`, is the type that is written.
Keys that have no counterpart are refused by name, all at once; nothing is dropped without a word.

Source  mergekit 0.1.5, configuration as its README documents it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pedigree.errors import PedigreeError, ProblemsFound, UsageError
from pedigree.surgery.merge.methods import METHODS
from pedigree.surgery.merge.recipe import MergeRecipe, read_merge

_TOP = {
    "merge_method", "models", "slices", "base_model", "parameters", "dtype", "out_dtype",
    "tokenizer_source", "tokenizer",
}  # fmt: skip
_DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "float64": "F64"}


@dataclass(frozen=True)
class Translation:
    """A mergekit file in our words.

    Attributes:
        merge: the recipe as a mapping, as it would be written under `merge:`.
        recipe: the same, read and checked.
        dtype: number type of the result (safetensors name); None keeps each tensor's.
        notes: what is said differently here, one sentence each.
    """

    merge: dict[str, Any]
    recipe: MergeRecipe
    dtype: str | None
    notes: tuple[str, ...]


def is_mergekit(raw: object) -> bool:
    """Whether a parsed YAML is a mergekit configuration: it names a `merge_method`."""
    return isinstance(raw, Mapping) and "merge_method" in raw


def translate(raw: Mapping[str, Any], where: str) -> Translation:
    """Read a mergekit configuration.

    Raises:
        ProblemsFound: keys, methods or values that have no counterpart here, each by name.
    """
    problems: list[PedigreeError] = [
        UsageError("this key of mergekit is not supported", where=f"{where}: {key}", expected=", ".join(sorted(_TOP)))
        for key in raw
        if key not in _TOP
    ]
    name = str(raw.get("merge_method"))
    if name not in METHODS:
        problems.append(
            UsageError("this method of mergekit is not supported", where=f"{where}: merge_method", got=name,
                       expected=", ".join(METHODS))
        )  # fmt: skip
    merge: dict[str, Any] = {"method": name}
    if raw.get("base_model"):
        merge["base"] = _model(raw["base_model"], f"{where}: base_model", problems)
    notes: list[str] = []
    settings = _settings(raw.get("parameters"), f"{where}: parameters", problems, notes)
    if name.startswith(("dare", "della")):
        settings.setdefault("rescale", "l1")
    if settings:
        merge["settings"] = settings
    if "models" in raw:
        listed = _list(raw["models"], f"{where}: models", problems)
        merge["models"] = [_source(entry, f"{where}: models", problems, notes) for entry in listed]
    if "slices" in raw:
        merge["slices"] = [
            _slice(part, f"{where}: slices[{n}]", problems, notes)
            for n, part in enumerate(_list(raw["slices"], f"{where}: slices", problems))
        ]
    _tokenizer(raw, merge, where, problems)
    if name == "passthrough":
        merge.pop("base", None)
    dtype = _dtype(raw, where, problems, notes)
    if problems:
        raise ProblemsFound(where, problems)
    return Translation(merge, read_merge(merge, where), dtype, tuple(notes))


def _list(raw: Any, where: str, problems: list[PedigreeError]) -> list[Any]:
    """A list as it is; anything else is a problem, and nothing."""
    if isinstance(raw, list):
        return raw
    problems.append(UsageError("this is no list", where=where, got=f"{raw!r:.60}", expected="- entries, one a line"))
    return []


def _source(raw: Any, where: str, problems: list[PedigreeError], notes: list[str]) -> dict[str, Any]:
    if not isinstance(raw, Mapping) or "model" not in raw:
        problems.append(UsageError("no model is named", where=where, got=f"{raw!r:.60}"))
        return {}
    problems += [
        UsageError("this key of mergekit is not supported", where=f"{where}: {key}")
        for key in raw
        if key not in ("model", "layer_range", "parameters")
    ]
    found: dict[str, Any] = {"model": _model(raw["model"], where, problems)}
    if "layer_range" in raw:
        found["layers"] = raw["layer_range"]
    return found | _settings(raw.get("parameters"), where, problems, notes)


def _slice(raw: Any, where: str, problems: list[PedigreeError], notes: list[str]) -> dict[str, Any]:
    if not isinstance(raw, Mapping):
        problems.append(UsageError("not a slice", where=where, got=f"{raw!r:.60}"))
        return {}
    problems += [
        UsageError("this key of mergekit is not supported", where=f"{where}: {key}")
        for key in raw
        if key not in ("sources", "parameters")
    ]
    return {
        "sources": [
            _source(entry, where, problems, notes) for entry in _list(raw.get("sources"), f"{where}.sources", problems)
        ],
        "settings": _settings(raw.get("parameters"), where, problems, notes),
    }


def _model(raw: Any, where: str, problems: list[PedigreeError]) -> str:
    if isinstance(raw, Mapping):
        raw = raw.get("path", raw)
    if not isinstance(raw, str):
        problems.append(UsageError("a model is named by its path here", where=where, got=f"{raw!r:.60}"))
        return ""
    if "+" in raw:
        problems.append(
            UsageError("an adapter inside the name of a model is not supported", where=where, got=raw,
                       fix="merge the adapter first: a step `lora.merge`")
        )  # fmt: skip
    return raw


def _settings(raw: Any, where: str, problems: list[PedigreeError], notes: list[str]) -> dict[str, Any]:
    """Parameters under our names."""
    if raw is None:
        return {}
    if not isinstance(raw, Mapping):
        problems.append(UsageError("parameters are a mapping", where=where, got=f"{raw!r:.60}"))
        return {}
    found = dict(raw)
    if "int8_mask" in found:
        del found["int8_mask"]
        notes.append("int8_mask changes memory there and nothing here")
    if "rescale" in found:
        found["rescale"] = {"True": "l1", "False": "none"}.get(str(found["rescale"]), found["rescale"])
    flatten, row_wise = found.pop("nuslerp_flatten", None), found.pop("nuslerp_row_wise", None)
    if flatten is False:
        # There, vectors along the last axis are called columns: each row of the stored matrix is one.
        found["unit"] = "column" if row_wise else "row"
    return found


def _tokenizer(raw: Mapping[str, Any], merge: dict[str, Any], where: str, problems: list[PedigreeError]) -> None:
    chosen = raw.get("tokenizer_source")
    declared = raw.get("tokenizer")
    if isinstance(declared, Mapping):
        problems += [
            UsageError("this key of mergekit is not supported", where=f"{where}: tokenizer.{key}")
            for key in declared
            if key != "source"
        ]
        chosen = declared.get("source", "union")
    elif declared is not None:
        problems.append(UsageError("a tokenizer is a mapping", where=f"{where}: tokenizer", got=f"{declared!r:.60}"))
    if chosen == "union":
        problems.append(
            UsageError("a union of vocabularies is not made by a merge here", where=f"{where}: tokenizer", got="union",
                       fix="concatenate first (`pedigree tokenizer concat`), or source: base")
        )  # fmt: skip
    elif chosen is not None:
        merge["vocabulary"] = "base" if chosen == "base" else _model(chosen, f"{where}: tokenizer", problems)


def _dtype(raw: Mapping[str, Any], where: str, problems: list[PedigreeError], notes: list[str]) -> str | None:
    wanted = raw.get("dtype") if raw.get("out_dtype") is None else raw["out_dtype"]
    if str(raw.get("dtype")) in ("bfloat16", "float16"):
        notes.append(f"dtype: {raw['dtype']} is the type of the arithmetic there; here it is float32, rounded once")
    if wanted is None:
        return None
    if str(wanted) not in _DTYPES:
        problems.append(
            UsageError(
                "unknown number type", where=f"{where}: dtype", got=f"{wanted!r:.60}", expected=", ".join(_DTYPES)
            )
        )
        return None
    return _DTYPES[str(wanted)]
