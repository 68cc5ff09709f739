"""Which files of a place are its weights, in the order of preference of the libraries that write them.

1. model.safetensors, its index, one other *.safetensors, or a complete set N-of-M
2. one *.gguf, or a complete set N-of-M
3. pytorch_model.bin, its index, or one *.bin, *.pt or *.pth
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pedigree.errors import MalformedFile, MissingInput, UnsafeFile, UsageError
from pedigree.weights.safetensors_header import RepeatedKey, check_density, is_text, shorten, unique_keys
from pedigree.weights.source import Source, confined_name, read_range

MAX_JSON_BYTES = 100_000_000
_AGAIN = "get the file again: it is damaged; weights are read without it where it is not there"

SUFFIXES = {".safetensors": "safetensors", ".gguf": "gguf", ".bin": "torch", ".pt": "torch", ".pth": "torch"}
MOST_BESIDE = 4
"""Files beside the chosen ones that are named."""

MOST_LOOKED_AT = 1000
"""Entries of a directory without weights among which a folder that has some is looked for."""

_USUAL_NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_NOT_WEIGHTS = re.compile(r"(^|[._-])(adapter|optimizer|scheduler|training_args|rng_state|scaler)", re.IGNORECASE)
_ADAPTER = re.compile(r"(^|[._-])adapter[^/]*\.(safetensors|bin|pt|npz)$", re.IGNORECASE)
_OF_SET = re.compile(r"^(?P<stem>.*?)-?(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.[a-z]+)$")


@dataclass(frozen=True, slots=True)
class Choice:
    """The weight files of a checkpoint.

    Attributes:
        format: "safetensors", "gguf" or "torch".
        files: names of the files, sorted.
        weight_map: tensor name -> file, from an index; None without one.
        notes: what was there and was not chosen.
    """

    format: str
    files: tuple[str, ...]
    weight_map: dict[str, str] | None = None
    notes: tuple[str, ...] = ()


def format_of(name: str) -> str | None:
    """The format that a file name promises, None for other files."""
    return next((kind for suffix, kind in SUFFIXES.items() if name.lower().endswith(suffix)), None)


def choose_file(source: Source, name: str) -> Choice:
    """The weight files that a named file stands for: itself, or the shards of an index, or the rest of its set.

    Raises:
        UsageError: not a weight file by its name.
    """
    if name.endswith(".index.json"):
        return _from_index(source, name)
    kind = format_of(name)
    if kind is None:
        raise UsageError(
            "not a weight file by its name",
            where=source.place(name),
            expected="a directory, or a name that ends in .index.json, " + ", ".join(SUFFIXES),
        )
    if kind == "gguf" and _OF_SET.match(name):
        return Choice(kind, _complete_set(source, [name]))
    match = _OF_SET.match(name)
    notes = (f"{source.place(name)} is one of {int(match['count'])} shards; the others were not read",) if match else ()
    return Choice(kind, (name,), notes=notes)


def choose(source: Source) -> Choice:
    """The weight files of a whole place.

    Raises:
        MissingInput: there are none, or a set N-of-M is incomplete.
        UsageError: there are several and nothing says which.
    """
    names = source.names()
    if names is None:
        found = next((name for name in _USUAL_NAMES if source.size(name) is not None), None)
        if found is None:
            raise MissingInput(
                "no weight files under their usual names",
                where=source.location,
                expected=" or ".join(_USUAL_NAMES),
                fix="name the weight file itself",
            )
        return choose_file(source, found)
    usual = [name for name in _USUAL_NAMES if name in names]
    for kind in ("safetensors", "gguf", "torch"):
        first = next((name for name in usual if f".{name}.".find(_mark(kind)) >= 0), None)
        if first is not None:
            choice = choose_file(source, first)
            return Choice(choice.format, choice.files, choice.weight_map, _beside(names, first, choice))
        others = [name for name in names if format_of(name) == kind and not _NOT_WEIGHTS.search(name)]
        if others:
            return Choice(kind, _one_or_set(source, others))
    adapter = next((name for name in names if _ADAPTER.search(name)), None)
    if adapter is not None:
        raise MissingInput(
            "an adapter alone, without the model that it changes",
            where=source.location,
            got=adapter,
            expected="the weights of a whole model",
            fix="merge the adapter into its base model, save that, and name the result",
        )
    raise MissingInput(
        "no weight files",
        where=source.location,
        got=", ".join(names[:8]) + (", ..." if len(names) > 8 else "") or "an empty directory",
        expected="*.safetensors, *.gguf, or pytorch_model*.bin",
        fix=f"name {below}"
        if (below := _folder_below(source.location))
        else "name the directory that holds the weights, or a weight file itself",
    )


def _folder_below(location: str) -> Path | None:
    """The one folder in a local directory that holds weights, as a training's directory has one; else None."""
    folder = Path(location)
    if not folder.is_dir():
        return None
    with os.scandir(folder) as entries:
        folders = [entry.path for entry in islice(entries, MOST_LOOKED_AT) if entry.is_dir(follow_symlinks=False)]
    found = [path for path in folders if any((Path(path) / name).is_file() for name in _USUAL_NAMES)]
    return Path(found[0]) if len(found) == 1 else None


def _beside(names: Sequence[str], first: str, choice: Choice) -> tuple[str, ...]:
    """A note for each file beside the chosen ones that may be weights, too."""
    read = {first, *choice.files}
    others = [name for name in names if name not in read and (format_of(name) or name in _USUAL_NAMES)]
    others = [name for name in others if not _NOT_WEIGHTS.search(name)]
    notes = [f"{name} is there too and was not read" for name in others[:MOST_BESIDE]]
    return (*notes, f"and {len(others) - MOST_BESIDE} more files") if len(others) > MOST_BESIDE else tuple(notes)


def _mark(kind: str) -> str:
    return {"safetensors": ".safetensors.", "gguf": ".gguf.", "torch": ".bin."}[kind]


def _one_or_set(source: Source, found: Sequence[str]) -> tuple[str, ...]:
    if len(found) == 1 and not _OF_SET.match(found[0]):
        return (found[0],)
    if all(_OF_SET.match(name) for name in found):
        return _complete_set(source, found)
    raise UsageError(
        "several weight files and nothing says which one is meant",
        where=source.location,
        got=", ".join(found[:8]) + (", ..." if len(found) > 8 else ""),
        fix=f"name one, for example {source.location.rstrip('/')}/{found[0]}",
    )


def _complete_set(source: Source, found: Sequence[str]) -> tuple[str, ...]:
    """All names of the set `stem-00001-of-0000M` that the found names belong to."""
    matches = [match for name in found if (match := _OF_SET.match(name))]
    kinds = {(match["stem"], match["count"], match["suffix"]) for match in matches}
    if len(kinds) != 1:
        raise UsageError(
            "files of more than one set of shards",
            where=source.location,
            got=", ".join(found[:8]),
            fix="name the index, or one file of the set that is meant",
        )
    prefix = matches[0].string[: matches[0].start("number")]
    count, suffix = matches[0]["count"], matches[0]["suffix"]
    wanted = tuple(f"{prefix}{number:05d}-of-{count}{suffix}" for number in range(1, int(count) + 1))
    for name, size in zip(wanted, source.each(source.size, wanted), strict=True):
        if size is None:
            raise _missing_shard(source, name, f"one of the {int(count)} files of the set")
    return wanted


def _missing_shard(source: Source, name: str, expected: str) -> MissingInput:
    return MissingInput(
        "a shard is missing",
        where=source.place(name),
        got="no such file",
        expected=expected,
        fix=f"get {name} from where the checkpoint came",
    )


def read_json(
    source: Source, name: str, max_bytes: int = MAX_JSON_BYTES, *, unique: bool = False
) -> dict[str, Any] | None:
    """A JSON object from a file of the place, None where the file is absent.

    Args:
        source: the place.
        name: file name there.
        max_bytes: a larger file is refused.
        unique: refuse objects that have one key twice.

    Raises:
        MalformedFile: too large, not UTF-8, not JSON, or not an object.
    """
    size = source.size(name)
    if size is None:
        return None
    where = source.place(name)
    if size > max_bytes:
        raise MalformedFile("the file is too large", where=where, got=f"{size} bytes", expected=f"up to {max_bytes}")
    text = bytes(read_range(source, name, 0, size))
    check_density(text, where)
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=unique_keys if unique else None)
    except RepeatedKey as error:
        raise MalformedFile("a key occurs twice", where=where, got=repr(error.args[0])) from error
    except (ValueError, RecursionError) as error:
        raise MalformedFile("the file is not JSON", where=where, got=str(error), fix=_AGAIN) from error
    if not isinstance(value, dict):
        raise MalformedFile("the file is not a JSON object", where=where, got=type(value).__name__, fix=_AGAIN)
    return value


def _from_index(source: Source, name: str) -> Choice:
    where = source.place(name)
    index = read_json(source, name, unique=True)
    if index is None:
        raise MissingInput("no such file", where=where)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise MalformedFile("the index has no weight map", where=f"{where}, field weight_map", got=shorten(weight_map))
    for tensor, file in weight_map.items():
        if not isinstance(file, str) or not is_text(tensor) or not is_text(file):
            raise MalformedFile(
                "the index does not map a name to a name",
                where=f"{where}, field weight_map[{tensor!r}]",
                got=shorten(file),
            )
    files = sorted(set(weight_map.values()))
    for file in files:
        confined_name(file, f"{where}, field weight_map")
    kinds = {format_of(file) for file in files}
    if len(kinds) != 1 or None in kinds:
        raise UnsafeFile(
            "the shards of an index are not of one known format",
            where=f"{where}, field weight_map",
            got=", ".join(files[:4]),
        )
    for file, size in zip(files, source.each(source.size, files), strict=True):
        if size is None:
            n_tensors = sum(1 for value in weight_map.values() if value == file)
            raise _missing_shard(source, file, f"the file that {name} says holds {n_tensors} tensors")
    return Choice(str(kinds.pop()), tuple(files), weight_map)
