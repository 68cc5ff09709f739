"""Checkpoints: everything that decides the next step, whole on disk or not there.

    <run>/checkpoints/step-00000200/*.safetensors    weights, buffers and the state of the optimizer
    <run>/checkpoints/step-00000200/state.json       step, data, guard, scaler, settings; length and blake3 of each file

Laws
1. A checkpoint is written under a hidden name, forced to disk and renamed: killing the process at any moment leaves
   every older checkpoint whole.
2. A run that goes on from a checkpoint takes the same steps, bit for bit, as one that was never interrupted (same
   machine, same number of ranks).
3. A directory that is not whole is passed over; a checkpoint of other settings is refused, with the fields that differ.
4. Tensors are written by torch.distributed.checkpoint as safetensors: another number of ranks can read them, and
   nothing in a checkpoint can run.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save, save

from pedigree.errors import InputError, OtherSettings
from pedigree.training.ranks import Ranks

FORMAT = 1
_NAME = re.compile(r"step-(\d{8})")


@dataclass(frozen=True)
class Saved:
    """A checkpoint that is whole."""

    step: int
    path: Path
    state: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run.

    Args:
        directory: where they lie; made when the first one is written.
        ranks: who writes.
        keep: how many of the newest stay.
    """

    def __init__(self, directory: Path, ranks: Ranks, keep: int = 3) -> None:
        self.directory, self._ranks, self._keep = directory, ranks, keep
        self._pending: tuple[Future[Any], Path, dict[str, Any]] | None = None

    def whole(self) -> list[Saved]:
        """The whole checkpoints, oldest first; others are passed over."""
        found = (_read(path) for path in sorted(self.directory.glob("step-*")) if _NAME.fullmatch(path.name))
        return [saved for saved in found if saved is not None]

    def save(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
        """Save a state; with several ranks it is written while the run goes on.

        Args:
            tensors: everything that is a tensor, by name.
            state: everything else, plain JSON, with its `step`.

        Raises:
            InputError: it could not be written whole; the older ones stay as they are.
        """
        self.finish()
        target = self.directory / f"step-{state['step']:08d}"
        temporary = self.directory / f".{target.name}"
        if self._ranks.is_first:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        self._ranks.wait()
        writer = HuggingFaceStorageWriter(str(temporary), save_distributed=True)
        with _alone_is_fine(), self._written(temporary):
            if self._ranks.world > 1:
                future = async_save(dict(tensors), storage_writer=writer, process_group=self._ranks.background)
                self._pending = (_future(future), target, dict(state))
            else:
                save(dict(tensors), storage_writer=writer, no_dist=True)
                _seal(temporary, target, state)
                self._prune()
        return target

    def finish(self) -> None:
        """Wait for a state that is still being written, and put it in place."""
        if self._pending is None:
            return
        future, target, state = self._pending
        self._pending = None
        temporary = target.parent / f".{target.name}"
        with self._written(temporary):
            future.result()
            self._ranks.wait()
            if self._ranks.is_first:
                _seal(temporary, target, state)
                self._prune()
        self._ranks.wait()

    def load(self, saved: Saved, tensors: Mapping[str, Tensor]) -> None:
        """Fill `tensors` from a checkpoint, in place.

        Args:
            saved: which one.
            tensors: named as they were saved.
        """
        reader = HuggingFaceStorageReader(str(saved.path))
        with _alone_is_fine():
            load(dict(tensors), storage_reader=reader, no_dist=self._ranks.world == 1)

    def forget_after(self, step: int) -> None:
        """Remove the checkpoints of later steps: the run was rolled back behind them."""
        self.finish()
        if self._ranks.is_first:
            for path in self.directory.glob("step-*"):
                if int(path.name.removeprefix("step-")) > step:
                    _remove(path)
        self._ranks.wait()

    def clear(self) -> None:
        """Remove every checkpoint."""
        self.forget_after(-1)

    @contextmanager
    def _written(self, temporary: Path) -> Iterator[None]:
        """Where writing fails: the half of it goes away, and the error says what is left to go on from.

        The library's exception is no `Exception`, so nothing above would catch it.
        """
        try:
            yield
        except (CheckpointException, OSError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            whole = self.whole()
            left = f"from step {whole[-1].step:,}" if whole else "from the beginning"
            raise InputError(
                "a checkpoint could not be written", where=str(self.directory), got=_reason(error),
                fix=f"free some space or mend the folder; the same command goes on {left}",
            ) from error  # fmt: skip

    def _prune(self) -> None:
        for path in sorted(self.directory.glob("step-*"))[: -self._keep]:
            _remove(path)


def check_same(saved: Mapping[str, Any], here: Mapping[str, Any], *, where: Path) -> None:
    """Refuse a checkpoint of another model or other settings.

    Raises:
        OtherSettings: fields differ; names them.
    """
    there, now = _flat(saved), _flat(here)
    differing = [
        f"{name}: {there.get(name, 'nothing')!r} there, {now.get(name, 'nothing')!r} here"
        for name in sorted({*there, *now})
        if there.get(name, "nothing") != now.get(name, "nothing")
    ]
    if differing:
        more = f" and {len(differing) - 6} more" if len(differing) > 6 else ""
        raise OtherSettings(
            "the checkpoint belongs to another model or other settings", where=str(where),
            got="; ".join(differing[:6]) + more, expected="equal settings",
            fix="another output directory, or --fresh to begin anew",
        )  # fmt: skip


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """Nested settings as dotted names."""
    items: Iterator[tuple[Any, Any]]
    if isinstance(value, Mapping):
        items = iter(value.items())
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        items = iter(enumerate(value))
    else:
        return {path: list(value) if isinstance(value, tuple) else value}
    return {name: leaf for key, item in items for name, leaf in _flat(item, f"{path}.{key}".lstrip(".")).items()}


def _read(path: Path) -> Saved | None:
    """The checkpoint in a directory, None where it is not whole."""
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        step, files = int(state["step"]), state["files"]
        sound = state["format"] == FORMAT and bool(files) and f"step-{step:08d}" == path.name
        for name, facts in files.items():
            file = path / name
            sound = sound and file.stat().st_size == facts["bytes"] and _blake3(file) == facts["blake3"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return Saved(step, path, state) if sound else None


def _seal(temporary: Path, target: Path, state: Mapping[str, Any]) -> None:
    """Write the state beside the tensors, force all to disk, rename."""
    files = {}
    for path in sorted(temporary.glob("*.safetensors")):
        _sync(path)
        files[path.name] = {"bytes": path.stat().st_size, "blake3": _blake3(path)}
    text = json.dumps({"format": FORMAT, **state, "files": files}, indent=1)
    (temporary / "state.json").write_text(text, encoding="utf-8")
    _sync(temporary / "state.json")
    _sync(temporary)
    if target.exists():
        _remove(target)
    temporary.rename(target)
    _sync(target.parent)


def _remove(path: Path) -> None:
    """Remove a directory so that a half removed one is never taken for a checkpoint."""
    hidden = path.parent / f".gone-{path.name}"
    shutil.rmtree(hidden, ignore_errors=True)
    path.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _blake3(path: Path) -> str:
    return blake3().update_mmap(path).hexdigest()


def _reason(error: BaseException) -> str:
    """What the system said: with several ranks, to the first that failed."""
    if isinstance(error, CheckpointException):
        error = next((failure for failure, _ in error.failures.values()), error)
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return text.strip().splitlines()[-1][:200].lower()


def _future(answer: Any) -> Future[Any]:
    """The future in what `async_save` gives; its type has changed between releases."""
    future: Future[Any] = getattr(answer, "upload_completion", answer)
    return future


@contextmanager
def _alone_is_fine() -> Iterator[None]:
    """Without the warning that there is one process only."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield
