"""Problems of one recipe: all of them are collected, each with line and column, and raised together.

A section that a model of pydantic describes is checked by it; what it finds is told in our words at the place in the
file where the value, or the key that should not be there, stands.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from pedigree.errors import MalformedFile, ProblemsFound
from pedigree.family.places import Mark, Node, Path

Detail = Mapping[str, Any]  # one finding of pydantic
Model = TypeVar("Model", bound=BaseModel)
MAX_PROBLEMS = 50


@dataclass
class Problems:
    """The problems found in `file` so far."""

    file: str
    found: list[tuple[Mark, MalformedFile]] = field(default_factory=list)
    _known: set[tuple[Mark, str]] = field(default_factory=set)

    def add(
        self,
        mark: Mark,
        what: str,
        *,
        path: Path = (),
        got: object | None = None,
        expected: object | None = None,
        fix: str | None = None,
    ) -> None:
        """Add one problem at a place of the file; `path` names the key it is about."""
        keys = dotted(path)
        where = f"{self.file}:{mark.line}:{mark.column}" + (f" ({keys})" if keys else "")
        error = MalformedFile(what, where=where, got=got, expected=expected, fix=fix)
        if (mark, error.sentence()) not in self._known:  # the same place is looked at once for each size
            self._known.add((mark, error.sentence()))
            self.found.append((mark, error))

    def checked(self, model: type[Model], node: Node, root: Node, path: Path) -> Model | None:
        """`node`, which stands at `path` below `root`, as `model`; None, and its problems, where it does not fit."""
        return self.fitted(model, node.plain(), root, path)

    def fitted(self, model: type[Model], value: Any, root: Node, path: Path) -> Model | None:
        """`value` as `model`, or None and problems at the places below `path` that its keys have in the file."""
        result, details = validated(model, value)
        for detail in details:
            at = (*path, *tuple(detail["loc"]))
            node, key_mark = root.find(at)
            by_key = detail["type"] in ("extra_forbidden", "missing") or not root.reaches(at)
            self.add(key_mark if by_key else node.mark, path=at, **told(detail, model))
        return result

    def error(self) -> ProblemsFound:
        """Everything that was found, in the order of the file, as one error."""
        ordered = [error for _, error in sorted(self.found, key=lambda pair: pair[0])]
        return ProblemsFound(self.file, ordered[:MAX_PROBLEMS], total=len(ordered))

    def stop(self) -> None:
        """Raise everything that was found.

        Raises:
            ProblemsFound: there is at least one problem.
        """
        if self.found:
            raise self.error()


def dotted(path: Iterable[str | int]) -> str:
    """`models.base.training.steps`, or `mixture[2]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text if len(text) <= 120 else text[:116] + " ..."


def nearest(word: str, known: Iterable[str]) -> str | None:
    """`did you mean 'x'?` for the known word nearest to `word`, None where none is near."""
    by_plain = {name.lower().replace("-", "_"): name for name in known}
    close = difflib.get_close_matches(word.lower().replace("-", "_")[:100], list(by_plain), n=1, cutoff=0.55)
    return f"did you mean {by_plain[close[0]]!r}?" if close else None


def shown(value: object) -> str:
    """A value of the file, short enough for a message."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = "nothing" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 80 else text[:76] + " ..."


def validated(model: type[Model], value: Any) -> tuple[Model | None, list[Detail]]:
    """`value` as `model`, or what is wrong with it. Text is not taken for numbers, nor numbers for text."""
    try:
        return model.model_validate_json(json.dumps(value), strict=True), []
    except ValidationError as error:
        return None, list[Detail](error.errors(include_url=False))


def known_keys(model: type[BaseModel], path: Path) -> list[str]:
    """The keys that the part of `model` at `path` may have, as they are written in a recipe."""
    current: Any = model
    for part in path:
        if not (isinstance(current, type) and issubclass(current, BaseModel)):
            return []
        by_alias = {spec.alias or name: spec for name, spec in current.model_fields.items()}
        if part not in by_alias:
            return []
        current = _model_in(by_alias[str(part)].annotation)
    if not (isinstance(current, type) and issubclass(current, BaseModel)):
        return []
    return [spec.alias or name for name, spec in current.model_fields.items()]


def _model_in(annotation: Any) -> Any:
    """The model inside `Model | None` and the like."""
    if isinstance(annotation, type):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        found = _model_in(inner)
        if isinstance(found, type) and issubclass(found, BaseModel):
            return found
    return None


def told(detail: Detail, model: type[BaseModel]) -> dict[str, Any]:
    """One finding of pydantic in our words: the keyword arguments of `Problems.add` but for the place."""
    kind, path = detail["type"], tuple(detail["loc"])
    if kind == "extra_forbidden":
        known = known_keys(model, path[:-1])
        word = str(path[-1]) if path else ""
        some = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
        return {
            "what": "unknown key", "got": repr(word)[:80],
            "expected": f"one of {some}" if some else None, "fix": nearest(word, known),
        }  # fmt: skip
    if kind == "missing":
        return {"what": f"the key {str(path[-1])!r} is missing"}
    if kind in ("literal_error", "enum"):
        expected = str(detail.get("ctx", {}).get("expected", ""))
        options = [word.strip(" '") for word in expected.replace(" or ", ",").split(",")]
        got = detail.get("input")
        return {
            "what": "this word is not known here", "got": shown(got), "expected": expected,
            "fix": nearest(str(got), options) if isinstance(got, str) else None,
        }  # fmt: skip
    if kind == "value_error":
        return {"what": detail["msg"].removeprefix("Value error, "), "got": None}
    message = detail["msg"].removeprefix("Input should be ").removeprefix("a ")
    return {"what": "this value does not fit", "got": shown(detail.get("input")), "expected": message}
