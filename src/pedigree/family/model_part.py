"""The `model` of a step: a named member with changes, or all fields of a ModelConfig, at one size.

Law: changes beside `member` describe the real model. At pico size the member is shrunk with them on it, and what
`at: {pico: {model: ...}}` says is laid over the shrunken model. Explicit fields mean themselves at both sizes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, TypeGuard, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from pedigree.errors import UsageError
from pedigree.family.overlay import IDENTITIES, overlaid
from pedigree.model.config import ModelConfig
from pedigree.model.config_parts import Experts, MultiToken, Part
from pedigree.model.members import PICO, member, names, pico
from pedigree.records.places import Node, Path
from pedigree.records.problems import Problems, in_our_words, nearest, one_of, shown

# What a step that continues another may change: nothing that has weights or decides their shapes.
FREE_TO_CHANGE = frozenset({"name", "assumed", "n_positions", "rope", "dropout", "init"})
OWN_KEYS = ("member", "width")
# Counts that a plan goes through one by one: far beyond any model, and small enough to take no time.
LIMITS = {(ModelConfig, "n_layers"): 10_000, (MultiToken, "depth"): 64}


def part_problems(cls: type[BaseModel], node: Node, path: Path, problems: Problems, *, whole: bool) -> int:
    """Check every key below `node` against a config class by itself, nested parts included; the number of problems.

    Args:
        whole: whether required keys must be there (they need not where a member has them already).
    """
    before = problems.told
    if not isinstance(node.value, dict):
        problems.add(node.mark, "this must be a mapping", path=path)
        return 1
    for key, child in node.children.items():
        at = (*path, key)
        own = OWN_KEYS if cls is ModelConfig else ()
        if key in own:
            continue
        if key not in cls.model_fields:
            known = [*own, *cls.model_fields]
            problems.add(
                node.key_marks[key], "unknown key", path=at, got=repr(key)[:80], expected=one_of(known),
                fix=nearest(str(key), known),
            )  # fmt: skip
            continue
        spec = cls.model_fields[str(key)]
        inner = _part_of(spec, child)
        if inner is not None and isinstance(child.value, dict):
            part_problems(inner, child, at, problems, whole=whole or _names_another(child))
        else:
            _field_problems(spec, child, at, problems)
            limit = LIMITS.get((cls, str(key)))
            if limit is not None and isinstance(child.value, int) and child.value > limit:
                problems.add(child.mark, "no model has so many", path=at, got=child.value, expected=f"at most {limit}")
    if whole:
        for name, spec in cls.model_fields.items():
            if spec.is_required() and name not in node.children:
                _, mark = node.find(())
                problems.add(mark, f"the key {name!r} is missing", path=(*path, name))
    return problems.told - before


def _names_another(node: Node) -> bool:
    return any(key in node.children for key in IDENTITIES)


def _part_of(spec: FieldInfo, node: Node) -> type[Part] | None:
    """The config class that a nested mapping must fit; of several the one whose `kind` it names, else the first."""
    classes = [c for c in (spec.annotation, *get_args(spec.annotation)) if isinstance(c, type) and issubclass(c, Part)]
    kind = node.children.get("kind")
    for cls in classes:
        if kind is not None and kind.value == cls.model_fields["kind"].default:
            return cls
    return classes[0] if classes else None


def _field_problems(spec: FieldInfo, node: Node, path: Path, problems: Problems) -> None:
    kind: Any = spec.annotation
    for limit in spec.metadata:
        kind = Annotated[kind, limit]
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    try:
        adapter.validate_json(json.dumps(node.plain()), strict=True)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            problems.add(node.mark, path=path, **in_our_words(detail, ModelConfig))
    except UsageError as error:  # a part of wrong type
        problems.add(node.mark, error.what, path=path, got=error.got, expected=error.expected)


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`changes` over `base`, mappings key by key; a mapping that names another kind replaces the one below it."""
    result = dict(base)
    for key, value in changes.items():
        below = result.get(key)
        result[key] = merged(below, value) if _same_thing(below, value) else value
    return result


def _same_thing(below: object, value: object) -> TypeGuard[dict[str, Any]]:
    if not isinstance(below, Mapping) or not isinstance(value, Mapping):
        return False
    return all(word not in value or below.get(word, value[word]) == value[word] for word in IDENTITIES)


def model_of(
    base: Node | None, over: Node | None, size: str, vocabulary: int | None, root: Node, path: Path, problems: Problems
) -> ModelConfig | None:
    """The model of a step that starts from random weights, or None and problems.

    Args:
        base: the step's `model`.
        over: the `model` of its `at` part for this size.
        vocabulary: entries of its tokenizer, which a pico model takes over where it names no `vocab_size`.
        root: the file at this size, in which places are looked up.
        path: where the model stands in it.
    """
    node = overlaid(base, over)
    if node is None:
        return None
    if part_problems(ModelConfig, node, path, problems, whole="member" not in node.children):
        return None
    shrinks = size == "pico" and "member" in node.children
    if "width" in node.children and not shrinks:
        problems.add(
            node.key_marks["width"], "the width is the dial of a member at pico size", path=(*path, "width"),
            fix="name d_model, or put it under `at: {pico: {model: ...}}`",
        )  # fmt: skip
        return None
    try:
        if not shrinks:
            return _changed({}, node)
        anew = over is not None and "member" in over.children
        config = _shrunk(node, vocabulary) if base is None or anew else _shrunk(base, vocabulary, node)
        return config if over is None else _changed(config.to_dict(), over)
    except UsageError as error:
        told_at(error, root, path, problems)
        return None


def continued(config: ModelConfig, node: Node | None, path: Path, root: Node, problems: Problems) -> ModelConfig | None:
    """The model of a step that continues another: the other's, with changes that touch no weight."""
    if node is None:
        return config
    if "member" in node.children:
        problems.add(
            node.key_marks["member"], "a step that continues another has its model from it", path=(*path, "member"),
            fix="remove member, or remove `from`",
        )  # fmt: skip
        return None
    if part_problems(ModelConfig, node, path, problems, whole=False):
        return None
    try:
        result = _changed(config.to_dict(), node)
    except UsageError as error:
        told_at(error, root, path, problems)
        return None
    free = FREE_TO_CHANGE - ({"n_positions"} if config.learned_positions else set())
    before, after = config.to_dict(), result.to_dict()
    for key in (key for key in after if after[key] != before[key] and key not in free):
        problems.add(
            node.key_marks.get(key, node.mark), "a continued model keeps the shape of its parent", path=(*path, key),
            got=shown(after[key]), fix="growing and converting are steps of their own",
        )  # fmt: skip
        return None
    return result


def told_at(error: UsageError, root: Node, path: Path, problems: Problems) -> None:
    """Add an error of the model room at the place of the part it names."""
    owner, _, fields = (error.where or "").partition(".")
    inside = _PATHS.get(owner, ())
    at = (*path, *inside, *(fields.split(".") if fields else ()))
    if owner not in _PATHS:
        at = (*path, "member") if root.reaches((*path, "member")) else path
    node, key_mark = root.find(at)
    mark = node.mark if root.reaches(at) else key_mark
    problems.add(mark, error.what, path=at, got=error.got, expected=error.expected, fix=error.fix)


def _paths() -> dict[str, Path]:
    """Where each class of config stands below a ModelConfig."""
    found: dict[str, Path] = {"ModelConfig": ()}
    for owner, prefix in ((ModelConfig, ()), (Experts, ("experts",))):
        for name, spec in owner.model_fields.items():
            for cls in (spec.annotation, *get_args(spec.annotation)):
                if isinstance(cls, type) and issubclass(cls, Part):
                    found.setdefault(cls.__name__, (*prefix, name))
    return found


_PATHS = _paths()


def _changed(base: Mapping[str, Any], node: Node) -> ModelConfig:
    """A config from `base`, or from the member that `node` names, with the other fields of `node` on it."""
    changes = {key: value for key, value in node.plain().items() if key not in OWN_KEYS}
    if "member" in node.children and not base:
        base = _member(node).to_dict()
    return ModelConfig.model_validate(merged(base, changes))


def _member(node: Node) -> ModelConfig:
    name = str(node.children["member"].value)
    if name.endswith(PICO):
        raise UsageError(
            "A recipe names members at their real size", got=name, expected=name.removesuffix(PICO),
            fix=f"member: {name.removesuffix(PICO)}, and --size pico",
        )  # fmt: skip
    if name not in names():
        raise UsageError(
            "no member of the family has this name", got=repr(name)[:80], expected=one_of(names()),
            fix=nearest(name, names()),
        )  # fmt: skip
    return member(name)


def _shrunk(node: Node, vocabulary: int | None, dial: Node | None = None) -> ModelConfig:
    """The pico sibling of what `node` describes; the width is that of `dial` where it names one."""
    full = _changed({}, node)
    width = (dial or node).children.get("width")
    if width is None:
        return pico(full, vocab_size=vocabulary)
    if not isinstance(width.value, int) or isinstance(width.value, bool):
        raise UsageError("A pico width is a whole number", where="ModelConfig.width", got=shown(width.value))
    try:
        return pico(full, width.value, vocab_size=vocabulary)
    except UsageError as error:
        raise UsageError(
            error.what, where="ModelConfig.width", got=error.got, expected=error.expected, fix=error.fix
        ) from error
