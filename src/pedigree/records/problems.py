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
from pedigree.records.places import Mark, Node, Path

Detail = Mapping[str, Any]  # one finding of pydantic
Model = TypeVar("Model", bound=BaseModel)
MAX_PROBLEMS = 50
NAME_RULE = "small letters, digits and . _ -, a letter or digit first, 64 at most"
_IN_OUR_WORDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "tuple_type": "a list",
    "list_type": "a list",
    "too_short": "at least one entry",
}


@dataclass
class Problems:
    """The problems found in `file` so far."""

    file: str
    found: list[tuple[Mark, MalformedFile]] = field(default_factory=list)
    told: int = 0
    """How often something was added, the same problem at another size included."""
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
        self.told += 1
        if (mark, error.sentence()) not in self._known:  # the same place is looked at once for each size
            self._known.add((mark, error.sentence()))
            self.found.append((mark, error))

    def fitted(self, model: type[Model], value: Any, root: Node, path: Path) -> Model | None:
        """`value` as `model`, or None and problems at the places below `path` that its keys have in the file."""
        result, details = validated(model, value)
        for detail in details:
            at = (*path, *tuple(detail["loc"]))
            node, key_mark = root.find(at)
            by_key = detail["type"] in ("extra_forbidden", "missing") or not root.reaches(at)
            self.add(key_mark if by_key else node.mark, path=at, **in_our_words(detail, model))
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


def one_of(names: Iterable[str]) -> str:
    """`one of a, b, c`, cut where there are many."""
    known = list(names)
    return "one of " + ", ".join(known[:12]) + (f" and {len(known) - 12} more" if len(known) > 12 else "")


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


def in_our_words(detail: Detail, model: type[BaseModel]) -> dict[str, Any]:
    """One finding of pydantic in our words: the keyword arguments of `Problems.add` but for the place."""
    kind, path = detail["type"], tuple(detail["loc"])
    if kind == "extra_forbidden":
        known = known_keys(model, path[:-1])
        word = str(path[-1]) if path else ""
        return {
            "what": "unknown key", "got": repr(word)[:80],
            "expected": one_of(known) if known else None, "fix": nearest(word, known),
        }  # fmt: skip
    if kind == "missing" and isinstance(path[-1], int):
        return {"what": "this value does not fit", "expected": f"more entries than {path[-1]}"}
    if kind == "missing":
        return {"what": f"the key {str(path[-1])!r} is missing"}
    got = detail.get("input")
    if kind in ("literal_error", "enum"):
        expected = str(detail.get("ctx", {}).get("expected", ""))
        options = [word.strip(" '") for word in expected.replace(" or ", ",").split(",")]
        return {
            "what": "this is not known here", "got": shown(got), "expected": expected,
            "fix": nearest(str(got), options) if isinstance(got, str) else None,
        }  # fmt: skip
    if kind == "value_error":
        return {"what": detail["msg"].removeprefix("Value error, ")}
    if kind == "string_pattern_mismatch":
        return {"what": "this is not a name", "got": shown(got), "expected": NAME_RULE}
    expected = _IN_OUR_WORDS.get(kind) or detail["msg"].removeprefix("Input should be ")
    return {"what": "this value does not fit", "got": shown(got), "expected": expected}
