"""`pedigree.record`: work done with other programs, captured while it is done.

    with pedigree.record("run.yaml"):
        model = AutoModelForCausalLM.from_pretrained("base")
        Trainer(...).train()
        model.save_pretrained("out")

What is loaded and saved through safetensors, torch and transformers inside the block is noticed: their functions are
wrapped wherever a loaded module holds them, so import those libraries before the block. At its end, folders under the
working directory in which weight files are new are looked for as well; what nobody announced is a gap.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pedigree.errors import MalformedFile, MissingInput
from pedigree.ledger.place import FOLDER, LedgerPlace
from pedigree.ledger.recorder import LedgerRecorder
from pedigree.records.recorder import JsonlRecorder

# Module, its function, and whether its first path is read or written.
WRAPPED: tuple[tuple[str, str, str], ...] = (
    ("safetensors", "safe_open", "read"), ("safetensors.torch", "load_file", "read"),
    ("safetensors.torch", "load_model", "read"), ("safetensors.numpy", "load_file", "read"),
    ("safetensors.torch", "save_file", "written"), ("safetensors.torch", "save_model", "written"),
    ("safetensors.numpy", "save_file", "written"), ("torch", "load", "read"), ("torch", "save", "written"),
)  # fmt: skip
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".npz")
KEYS = ("name", "operation", "inputs", "outputs", "data", "parameters", "note")
MAX_ENTRIES = 200_000  # files that are looked at for undeclared weights


@dataclass
class Observed:
    """Paths of weights that were read and written inside the block."""

    read: dict[str, None] = field(default_factory=dict)
    written: dict[str, None] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, how: str, path: Any) -> None:
        """Remember a path; what is no path is passed over."""
        if isinstance(path, str | os.PathLike):
            with self.lock:
                (self.read if how == "read" else self.written)[os.path.abspath(os.fspath(path))] = None


def read_declaration(path: str | os.PathLike[str] | None) -> dict[str, Any]:
    """What a run declares of itself; everything in it is optional.

    Raises:
        MissingInput: there is no such file.
        MalformedFile: it is no mapping, or has a key that means nothing.
    """
    if path is None:
        return {}
    place = Path(path)
    if not place.is_file():
        raise MissingInput("there is no such declaration of a run", where=str(place), fix="a YAML file, or no argument")
    try:
        value = yaml.safe_load(place.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise MalformedFile("this is no YAML", where=str(place), got=str(error).splitlines()[0]) from error
    unknown = sorted(set(value) - set(KEYS)) if isinstance(value, dict) else [type(value).__name__]
    if unknown:
        raise MalformedFile("a run declares something unknown", where=str(place), got=unknown, expected=", ".join(KEYS))
    return dict(value)


@contextmanager
def record(declaration: str | os.PathLike[str] | None = None) -> Iterator[LedgerRecorder]:
    """Record what is trained inside the block.

    Args:
        declaration: a YAML file with any of `name`, `operation`, `inputs`, `outputs`, `data`, `parameters`, `note`.

    Yields:
        The recorder, for whoever wants to tell it more: `beat({"step": ..., "loss": ...})`.
    """
    told = read_declaration(declaration)
    place = LedgerPlace.find()
    recorder = LedgerRecorder(place, JsonlRecorder(place.keys.parent / "spool.jsonl", at_once=False))
    data = [{"path": str(item), "role": "dataset"} for item in told.get("data") or ()]
    declared = [*_listed(told.get("inputs")), *data]
    recorder.run_start({"step": 0, "name": told.get("name") or "recorded", "declared": told, "inputs": declared})
    seen, before, outcome = Observed(), weight_files(Path.cwd()), "stopped by an error"
    try:
        with observed(seen):
            yield recorder
        outcome = "finished"
    finally:
        _finish(recorder, told, declared, seen, before, outcome)


def _finish(
    recorder: LedgerRecorder,
    told: Mapping[str, Any],
    declared: list[dict[str, Any]],
    seen: Observed,
    before: Mapping[str, tuple[int, int]],
    outcome: str,
) -> None:
    """Tell what was read and written, and what of it nobody announced."""
    inside = {os.path.abspath(str(item)) for item in told.get("outputs") or ()}
    written = {_artifact_of(path) for path in seen.written} | inside
    read = {_artifact_of(path) for path in seen.read} - written
    announced = {os.path.abspath(str(item.get("path"))) for item in declared}
    unannounced = sorted(path for path in read if not _covered(path, announced))
    now = weight_files(Path.cwd())
    swept = sorted({_artifact_of(path) for path, facts in now.items() if before.get(path) != facts} - written)
    gaps = [f"read and not declared: {Path(path).name}" for path in unannounced]
    gaps += [f"written past the wrappers: {Path(path).name}" for path in swept]
    recorder.run_end({"outcome": outcome, "gaps": gaps})
    inputs = [*declared, *({"path": path, "role": "init"} for path in unannounced)]
    for output in sorted(path for path in written | set(swept) if os.path.exists(path)):
        recorder.derive({
            "operation": str(told.get("operation") or "train"), "name": Path(output).name, "inputs": inputs,
            "outputs": [output], "parameters": told.get("parameters") or {}, "note": told.get("note") or "",
            "gaps": gaps,
        })  # fmt: skip
    recorder.close()


def _listed(value: Any) -> list[dict[str, Any]]:
    items = value if isinstance(value, list) else [value] if value else []
    return [dict(item) if isinstance(item, dict) else {"path": str(item), "role": "init"} for item in items]


def _artifact_of(path: str) -> str:
    """The folder of a weight file that has a config beside it, else the file itself."""
    folder = os.path.dirname(path)
    return folder if os.path.isfile(os.path.join(folder, "config.json")) else path


def _covered(path: str, announced: set[str]) -> bool:
    return any(path == item or path.startswith(item + os.sep) or os.path.dirname(item) == path for item in announced)


@contextmanager
def observed(seen: Observed) -> Iterator[None]:
    """Wrap the functions that load and save, wherever they are held by a loaded module, until the block ends."""
    undo: list[tuple[dict[str, Any], str, Any]] = []
    for module_name, name, how in WRAPPED:
        original = getattr(sys.modules.get(module_name), name, None)
        if original is None:
            continue
        wrapper = _wrapper(original, how, seen)
        for module in list(sys.modules.values()):
            names = getattr(module, "__dict__", None)
            if isinstance(names, dict):
                for held in [key for key, value in list(names.items()) if value is original]:
                    undo.append((names, held, original))
                    names[held] = wrapper
    try:
        yield
    finally:
        for names, held, original in reversed(undo):
            names[held] = original


def _wrapper(original: Callable[..., Any], how: str, seen: Observed) -> Callable[..., Any]:
    @functools.wraps(original, updated=())
    def wrapper(*arguments: Any, **named: Any) -> Any:
        result = original(*arguments, **named)
        for value in (*arguments, *named.values()):
            if isinstance(value, str | os.PathLike) and os.path.isfile(value):
                seen.note(how, value)
                break
        return result

    return wrapper


def weight_files(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of the weight files below a folder; hidden folders are passed over."""
    found: dict[str, tuple[int, int]] = {}
    count = 0
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name != FOLDER]
        for name in files:
            count += 1
            if count > MAX_ENTRIES:
                return found
            path = os.path.join(place, name)
            if name.endswith(WEIGHTS) and os.path.isfile(path):
                status = os.stat(path)
                found[path] = (status.st_size, status.st_mtime_ns)
    return found
