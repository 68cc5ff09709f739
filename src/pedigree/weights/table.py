"""Role tables: which tensor of an architecture plays which role, and how it is stored.

One JSON file per architecture in `data/`. A file holds

    name           the table's name, what `Anatomy.architecture` reports
    extends        another table whose tensors, facts and constants are taken over first
    model_types    values of `model_type` in config.json that hint at this table
    facts          norm, gain_offset, norm_placement, rope, mlp, activation, residual, embedding_scale, tied, ...
    facts_by_type  facts that hold for one model_type only
    facts_by_flag  facts that hold where a boolean of the config has a value: {"key": {"true": {...}}}
    tensors        name pattern -> role, for tensors a model of this kind has
    optional       the same, for tensors some models of this kind have, and for other spellings
    remove         patterns of the extended table that do not apply
    by_hint        true where the names are those of another table: chosen only when the config names it
    constants      buffers that are stored but never trained (masks, rotary tables)

A pattern is a tensor name without prefix and without `.weight`; `{i}` is the layer, `{e}` the expert, `{h}` the head
of a tensor stored per head. `.bias` twins need no entry of their own. Instead of a role a pattern may name a storage:

    {"roles": [...], "fused": "blocks" | "leading" | "per-head" | "per-group" |
     "alternating" | "quarters", "packed": true, "transposed": true,
     "swapped": true, "tail": true, "last": true, "second": true, "halves": [...], "axes": "..."}

Laws: loading is pure and cached; a name matches at most one pattern of a table; matching costs one dictionary lookup.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from typing import Any

from pedigree.errors import InternalError
from pedigree.weights.roles import Axis, axes_from, axes_of

SLOTS = {"{i}": "layer", "{e}": "expert", "{h}": "head"}
TWINS = frozenset({"weight", "bias", "gamma", "beta"})
_NOT_TABLES = frozenset({"roles.json"})
_FACT_KINDS = ("facts", "facts_by_type", "facts_by_flag")
_FUSIONS = frozenset({"", "blocks", "leading", "per-head", "per-group", "alternating", "quarters"})


@dataclass(frozen=True, slots=True)
class Entry:
    """How one pattern is stored: the roles its rows hold in order, and the layout they are in.

    Attributes:
        pattern: name pattern, without prefix and without ".weight".
        roles: roles in the order their rows are stored; empty for a constant.
        fused: "" (one role), "blocks" (role after role), "leading" (the same, as many rows each as the block has units;
            what follows has no role), "per-head" (head after head, the roles inside each),
            "quarters" (the same, for four groups of heads),
            "per-group" (KV head after KV head: its query heads, its key head, its value head) or "alternating"
            (one row of each role in turn).
        packed: axis 0 is the expert.
        transposed: stored [in, out]; None leaves it to the table and to the shapes.
        swapped: stored [heads, in, head dimension].
        tail: trailing axes merge into columns.
        last: belongs to one layer behind the numbered ones.
        second: belongs to a second stack, whose layers are counted on behind those of the first (a decoder behind its
            encoder).
        halves: roles, instead of `roles`, where there are twice as many rows as the inner width.
        axes: axes, where they differ from the role's.
        required: models of this kind have it.
    """

    pattern: str
    roles: tuple[str, ...]
    fused: str = ""
    packed: bool = False
    transposed: bool | None = None
    swapped: bool = False
    tail: bool = False
    last: bool = False
    second: bool = False
    halves: tuple[str, ...] = ()
    axes: tuple[Axis, ...] | None = None
    required: bool = True

    def axes_for(self, role: str) -> tuple[Axis, ...]:
        """Axes of one of the entry's roles."""
        return axes_of(role) if self.axes is None else self.axes


@dataclass(frozen=True, slots=True)
class Match:
    """A tensor name understood: its entry, where it is, and whether it is the bias twin."""

    name: str
    entry: Entry
    layer: int | None
    expert: int | None
    head: int | None
    bias: bool


@dataclass(frozen=True)
class Table:
    """The role table of one architecture, with its index for matching."""

    name: str
    model_types: frozenset[str]
    facts: Mapping[str, Any]
    facts_by_type: Mapping[str, Mapping[str, Any]]
    facts_by_flag: Mapping[str, Mapping[str, Mapping[str, Any]]]
    entries: tuple[Entry, ...]
    constants: tuple[Entry, ...]
    by_hint: bool
    index: Mapping[str, tuple[Entry, ...]] = field(repr=False, default_factory=dict)

    def facts_for(self, kinds: Iterable[str], flags: Mapping[str, bool]) -> dict[str, Any]:
        """The facts for the kinds a config calls itself (the first that is known counts), and for its booleans."""
        facts = dict(self.facts)
        facts |= next((self.facts_by_type[kind] for kind in kinds if kind in self.facts_by_type), {})
        for key, by_value in self.facts_by_flag.items():
            if key in flags:
                facts |= by_value.get(str(flags[key]).lower(), {})
        return facts

    def entry_for(self, key: str) -> Entry | None:
        """An entry for the skeleton of a stripped name, ignoring integers; for choosing among tables quickly."""
        if key in self.index:
            return self.index[key][0]
        stem, _, twin = key.rpartition(".")
        found = self.index.get(stem) if twin in TWINS else None
        return found[0] if found and found[0] not in self.constants else None

    def match(self, name: str, stripped: str) -> Match | None:
        """The role of a tensor, or None. `stripped` is the name without its prefixes."""
        found = self._look_up(stripped)
        if found is not None:
            return Match(name, *found, bias=False)
        stem, _, twin = stripped.rpartition(".")
        if twin not in TWINS or not stem:
            return None
        found = self._look_up(stem)
        if found is None or found[0] in self.constants:
            return None
        return Match(name, *found, bias=twin in ("bias", "beta"))

    def _look_up(self, stem: str) -> tuple[Entry, int | None, int | None, int | None] | None:
        words = stem.split(".")
        key = ".".join("#" if is_index(word) else word for word in words)
        for entry in self.index.get(key, ()):
            slots = _bind(entry.pattern, words)
            if slots is not None:
                return entry, slots.get("{i}"), slots.get("{e}"), slots.get("{h}")
        return None


def is_index(word: str) -> bool:
    """Whether a word of a tensor name is a small non-negative integer (at most 6 digits)."""
    return word.isascii() and word.isdigit() and len(word) <= 6


def skeleton(pattern: str) -> str:
    """A pattern with every slot and every integer replaced by "#"."""
    return ".".join("#" if word in SLOTS or is_index(word) else word for word in pattern.split("."))


def make_table(
    name: str,
    entries: tuple[Entry, ...],
    facts: Mapping[str, Any],
    *,
    constants: tuple[Entry, ...] = (),
    by_hint: bool = False,
    model_types: frozenset[str] = frozenset(),
    facts_by_type: Mapping[str, Mapping[str, Any]] | None = None,
    facts_by_flag: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None,
) -> Table:
    """A table with its index built; used for the data files and for what is inferred at run time."""
    index: dict[str, list[Entry]] = {}
    for entry in (*entries, *constants):
        index.setdefault(skeleton(entry.pattern), []).append(entry)
    frozen = {key: tuple(found) for key, found in index.items()}
    return Table(
        name, model_types, facts, facts_by_type or {}, facts_by_flag or {}, entries, constants, by_hint, frozen
    )


@lru_cache(maxsize=1)
def tables() -> tuple[Table, ...]:
    """Every table of the package, sorted by name."""
    folder = resources.files("pedigree.weights").joinpath("data")
    raw: dict[str, dict[str, Any]] = {}
    for item in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if item.name.endswith(".json") and item.name not in _NOT_TABLES:
            record = json.loads(item.read_text("utf-8"))
            raw[record["name"]] = record
    return tuple(_build(name, raw) for name in sorted(raw))


def _build(name: str, raw: Mapping[str, dict[str, Any]]) -> Table:
    merged = _merge(name, raw, ())
    entries = tuple(
        _entry(pattern, value, required=kind == "tensors")
        for kind in ("tensors", "optional")
        for pattern, value in merged[kind].items()
    )
    constants = tuple(Entry(pattern, (), required=False) for pattern in merged["constants"])
    return make_table(
        name,
        entries,
        merged["facts"],
        constants=constants,
        by_hint=bool(raw[name].get("by_hint", False)),
        model_types=frozenset(raw[name].get("model_types", ())),
        facts_by_type=merged["facts_by_type"],
        facts_by_flag=merged["facts_by_flag"],
    )


def _merge(name: str, raw: Mapping[str, dict[str, Any]], seen: tuple[str, ...]) -> dict[str, Any]:
    """A record with what it extends folded in, nearest last."""
    if name in seen or name not in raw:
        raise InternalError("A role table extends a table that is not there", where=f"data/{name}.json", got=seen)
    record = raw[name]
    base = record.get("extends")
    parent: dict[str, Any] = (
        _merge(base, raw, (*seen, name))
        if base
        else {kind: {} for kind in _FACT_KINDS} | {"tensors": {}, "optional": {}, "constants": []}
    )
    gone = set(record.get("remove", ()))
    moved = gone | set(record.get("tensors", {})) | set(record.get("optional", {}))
    result: dict[str, Any] = {"constants": [*parent["constants"], *record.get("constants", ())]}
    for kind in ("tensors", "optional"):
        kept = {pattern: value for pattern, value in parent[kind].items() if pattern not in moved}
        result[kind] = kept | record.get(kind, {})
    for kind in _FACT_KINDS:
        result[kind] = parent[kind] | record.get(kind, {})
    return result


def _entry(pattern: str, value: str | dict[str, Any], *, required: bool) -> Entry:
    spec: dict[str, Any] = {"roles": [value]} if isinstance(value, str) else value
    entry = Entry(
        pattern,
        tuple(spec["roles"]),
        fused=spec.get("fused", ""),
        packed=spec.get("packed", False),
        transposed=spec.get("transposed"),
        swapped=spec.get("swapped", False),
        tail=spec.get("tail", False),
        last=spec.get("last", False),
        second=spec.get("second", False),
        halves=tuple(spec.get("halves", ())),
        axes=axes_from(spec["axes"]) if "axes" in spec else None,
        required=required,
    )
    if entry.fused not in _FUSIONS:
        raise InternalError("A role table names an unknown fusion", where=pattern, got=entry.fused)
    for role in (*entry.roles, *entry.halves):
        axes_of(role)
    return entry


def _bind(pattern: str, words: list[str]) -> dict[str, int] | None:
    """The integers a name puts into a pattern's slots; None where a literal integer differs."""
    slots: dict[str, int] = {}
    for expected, word in zip(pattern.split("."), words, strict=True):
        if expected in SLOTS:
            slots[expected] = int(word)
        elif expected != word:
            return None
    return slots
