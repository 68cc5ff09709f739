"""A merge as it is asked for: method, models, slices of layers, settings; read from a mapping and checked all at once.

    merge:
      method: ties
      base: ./llama
      models:
        - {model: ./math, weight: 0.6, density: 0.5}
        - {model: ./code, weight: [0.2, 0.8]}        # a gradient over the layers
      settings: {lambda: 0.9}
      vocabulary: base                                # rows matched by token; default: by number, sizes must agree
      seed: 0

In place of `models`, `slices` takes ranges of layers: each slice is a list of sources {model, layers: [first, last]},
`last` exclusive; the slices are stacked. Embeddings are merged from the sources of the first slice, final norm and head
from those of the last.

Rules   unknown keys, missing settings, wrong numbers of models: all are refused together, each with its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pedigree.errors import PedigreeError, ProblemsFound, UsageError
from pedigree.surgery.merge.methods import METHODS, REQUIRED, Method

_KEYS = {"method", "base", "models", "slices", "settings", "vocabulary", "seed"}


@dataclass(frozen=True, slots=True)
class Source:
    """A model, or a range of its layers, with settings of its own.

    Attributes:
        model: where it lies.
        layers: first and last (exclusive); None is all of them.
        settings: by name.
    """

    model: str
    layers: tuple[int, int] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Slice:
    """Layers of the result, merged from sources of equally many layers."""

    sources: tuple[Source, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MergeRecipe:
    """A merge, complete.

    Attributes:
        method: how.
        base: location of the base model, None without one.
        slices: stacked one on the other; one slice without layers is a merge of whole models.
        settings: for everything that no slice or source says otherwise.
        vocabulary: None (rows by number), "base", or the model whose tokens the result has.
        seed: of the draws.
    """

    method: Method
    base: str | None
    slices: tuple[Slice, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    vocabulary: str | None = None
    seed: int = 0

    @property
    def models(self) -> tuple[str, ...]:
        """Every model that is read, the base first, each once."""
        named = [source.model for part in self.slices for source in part.sources]
        return tuple(dict.fromkeys(([self.base] if self.base else []) + named))

    def inputs(self, part: Slice) -> tuple[Source, ...]:
        """The sources of a slice that are merged: all, or all but the base where the method compares with it."""
        if self.method.base in ("required", "first"):
            return tuple(source for source in part.sources if source.model != self.base)
        return part.sources


def read_merge(raw: Mapping[str, Any], where: str) -> MergeRecipe:
    """A merge from a mapping.

    Args:
        raw: as above, without the outer `merge` key.
        where: file and key, for messages.

    Raises:
        ProblemsFound: what is wrong, all of it.
    """
    problems: list[PedigreeError] = [
        UsageError("unknown key", where=f"{where}.{key}", expected=", ".join(sorted(_KEYS)))
        for key in raw
        if key not in _KEYS
    ]
    method = METHODS.get(str(raw.get("method")))
    if method is None:
        problems.append(
            UsageError(
                "no such merge method", where=f"{where}.method", got=raw.get("method"), expected=", ".join(METHODS)
            )
        )
    if ("models" in raw) == ("slices" in raw):
        problems.append(UsageError("a merge names either models or slices", where=where, got=sorted(raw)))
    slices: list[Slice] = []
    if isinstance(raw.get("models"), list):
        slices.append(Slice(tuple(_sources(raw["models"], f"{where}.models", problems))))
    for number, part in enumerate(raw.get("slices") or []):
        slices.append(_slice(part, f"{where}.slices[{number}]", problems))
    settings = raw.get("settings") or {}
    if not isinstance(settings, Mapping):
        problems.append(UsageError("settings are a mapping", where=f"{where}.settings", got=f"{settings!r:.60}"))
        settings = {}
    if problems or method is None:
        raise ProblemsFound(where, problems)
    recipe = MergeRecipe(
        method, raw.get("base"), tuple(slices), settings, raw.get("vocabulary"), int(raw.get("seed", 0))
    )
    problems = check_merge(recipe, where)
    if problems:
        raise ProblemsFound(where, problems)
    return recipe


def check_merge(recipe: MergeRecipe, where: str) -> list[PedigreeError]:
    """What contradicts the method: base, number of models, settings it does not have or does not get."""
    method, problems = recipe.method, list[PedigreeError]()
    if method.base in ("required", "first") and recipe.base is None:
        problems.append(UsageError(f"{method.name} needs a base model", where=f"{where}.base", fix="base: MODEL"))
    if method.base == "none" and recipe.base is not None and method.name == "passthrough":
        problems.append(UsageError("passthrough has no base", where=f"{where}.base", got=recipe.base))
    least, most = method.inputs
    known = set(method.shared) | set(method.each)
    for number, part in enumerate(recipe.slices):
        place = f"{where}.slices[{number}]" if len(recipe.slices) > 1 else where
        n = len(recipe.inputs(part))
        if n < least or (most is not None and n > most):
            expected = f"{least}" if most == least else f"{least} or more" if most is None else f"{least} to {most}"
            problems.append(
                UsageError(f"{method.name} takes another number of models", where=place, got=n, expected=expected)
            )
        lengths = {source.layers[1] - source.layers[0] for source in part.sources if source.layers}
        if len(lengths) > 1:
            problems.append(
                UsageError("the sources of a slice have different numbers of layers", where=place, got=sorted(lengths))
            )
        for holder in (part.settings, *(source.settings for source in part.sources)):
            problems += _unknown(holder, known, place, method)
        problems += _missing(recipe, part, place)
    return problems + _unknown(recipe.settings, known, f"{where}.settings", method)


def _unknown(settings: Mapping[str, Any], known: set[str], where: str, method: Method) -> list[PedigreeError]:
    return [
        UsageError(f"{method.name} has no such setting", where=where, got=key, expected=", ".join(sorted(known)))
        for key in settings
        if key not in known
    ]


def _missing(recipe: MergeRecipe, part: Slice, where: str) -> list[PedigreeError]:
    problems: list[PedigreeError] = []
    given = {**recipe.settings, **part.settings}
    problems += [
        UsageError(
            f"{recipe.method.name} needs a setting", where=where, got=f"no {key}", fix=f"settings: {{{key}: ...}}"
        )
        for key, default in recipe.method.shared.items()
        if default is REQUIRED and key not in given
    ]
    for source in recipe.inputs(part):
        problems += [
            UsageError(f"{recipe.method.name} needs a setting", where=f"{where}: {source.model}", got=f"no {key}",
                       fix=f"{key}: 1.0")
            for key, default in recipe.method.each.items()
            if default is REQUIRED and key not in given and key not in source.settings
        ]  # fmt: skip
    return problems


def _slice(raw: Any, where: str, problems: list[PedigreeError]) -> Slice:
    if isinstance(raw, list):
        raw = {"sources": raw}
    if not isinstance(raw, Mapping) or set(raw) - {"sources", "settings"}:
        problems.append(UsageError("not a slice", where=where, got=f"{raw!r:.60}", expected="sources, settings"))
        return Slice(())
    return Slice(tuple(_sources(raw.get("sources"), f"{where}.sources", problems)), raw.get("settings") or {})


def _sources(raw: Any, where: str, problems: list[PedigreeError]) -> Sequence[Source]:
    if not isinstance(raw, list) or not raw:
        problems.append(UsageError("no models", where=where, got=f"{raw!r:.60}", expected="a list of models"))
        return ()
    found = []
    for number, entry in enumerate(raw):
        entry = {"model": entry} if isinstance(entry, str) else entry
        place = f"{where}[{number}]"
        if not isinstance(entry, Mapping) or not isinstance(entry.get("model"), str):
            problems.append(UsageError("no model is named", where=place, got=f"{entry!r:.60}", expected="model: PATH"))
            continue
        layers = entry.get("layers")
        if layers is not None and not _is_range(layers):
            problems.append(
                UsageError(
                    "not a range of layers", where=f"{place}.layers", got=layers, expected="[first, behind last]"
                )
            )
            layers = None
        settings = {key: value for key, value in entry.items() if key not in ("model", "layers")}
        found.append(Source(entry["model"], tuple(layers) if layers else None, settings))
    return found


def _is_range(layers: Any) -> bool:
    return (
        isinstance(layers, list | tuple)
        and len(layers) == 2
        and all(isinstance(n, int) and not isinstance(n, bool) for n in layers)
        and 0 <= layers[0] < layers[1]
    )
