"""The engine: a plan becomes files. Read a tile, compute it, write it; nothing larger is held.

Each worker takes a tensor, goes through it tile by tile and hashes what it writes. A tensor that only changes its name
is copied as bytes. The result is made in `TARGET.partial` and renamed when everything is on disk; a run that was killed
goes on with the tensors that are missing.

Laws
1. The bytes of the result depend on the plan alone: not on workers, interruptions or the machine's load.
2. TARGET is absent or complete. Whatever happens, the source is not changed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pedigree.errors import InternalError, OutputExists, UsageError
from pedigree.records.canonical import readable_json
from pedigree.records.recorder import Recorder
from pedigree.surgery.companions import RECIPE, SIDECAR, companions, sidecar
from pedigree.surgery.direct import BLOCK, Arena, clone_range, sync_folder
from pedigree.surgery.holding import HoldingReader, Room
from pedigree.surgery.journal import NAME as JOURNAL
from pedigree.surgery.journal import Journal
from pedigree.surgery.nodes import Derived, Statistic, Work
from pedigree.surgery.plan import Plan, check_target, held_size, statistic_rows, tile_rows
from pedigree.surgery.reader import SliceReader
from pedigree.surgery.shards import Placed, Shard, index_text
from pedigree.surgery.storing import Output
from pedigree.surgery.writer import ShardFile, TensorOut
from pedigree.weights.allocator import keep_pages
from pedigree.weights.number_types import BITS, torch_type

Progress = Callable[[str, float, str], None]
RAW_BYTES = 8 << 20


@dataclass
class Outcome:
    """What a run did.

    Attributes:
        target: the folder of the result.
        digests: BLAKE3 of every written tensor by name; shared tensors are not read and have none.
        seconds: wall-clock time; `read_bytes`, `written_bytes` of this run, `resumed` tensors were there already.
    """

    target: Path
    digests: dict[str, str]
    seconds: float
    read_bytes: int
    written_bytes: int
    linked_bytes: int
    resumed: int
    notes: list[str] = field(default_factory=list)


def run(plan: Plan, recorder: Recorder, *, force: bool = False, progress: Progress | None = None) -> Outcome:
    """Make the files of a plan.

    Args:
        plan: what to make.
        recorder: told of the derivation; `NullRecorder` stamps the result unrecorded.
        force: replace a target that is there, and throw an interrupted run of another plan away.
        progress: told the stage, the share that is done, and bytes with speed.

    Raises:
        OutputExists, MissingInput, UsageError: as `check_target`, before anything is written.
        PedigreeError: a source cannot be read; what was written so far stays for the next run.
    """
    check_target(plan, force=force)
    begun = time.monotonic()
    partial = plan.partial
    partial.mkdir(exist_ok=True)
    execution = _Execution(plan, progress)
    try:
        journal = _journal(plan, execution, force=force)
    except BaseException:
        execution.close()
        raise
    try:
        resumed = len(journal.done)
        execution.work(journal)
        journal.flush()
        digests = dict(journal.done)
    except BaseException:
        with contextlib.suppress(OSError):  # what is finished need not be done again
            journal.flush()
        raise
    finally:
        journal.close()
        execution.close()
    notes = _finish(plan, recorder, digests)
    notes += [line for statistic in plan.statistics for line in statistic.told()]
    _settle(plan, force=force)
    outcome = Outcome(
        plan.target, digests, time.monotonic() - begun, execution.reader.bytes_read, execution.written,
        plan.linked_bytes, resumed, [*plan.composition.symbolic.notes, *notes],
    )  # fmt: skip
    recorder.derive(facts(plan, outcome))
    return outcome


def facts(plan: Plan, outcome: Outcome) -> dict[str, Any]:
    """What a recorder is told: enough to do the same again, bit for bit, and to check that it was."""
    composition = plan.composition
    recipe = composition.recipe
    checkpoints = {recipe.source: composition.source, **composition.others}
    added = composition.symbolic.adapters
    return {
        "trade": "surgery",
        "recipe": recipe.resolved(),
        # Moved moments come from the same recipe as the weights beside them, which it would make again.
        **({} if composition.symbolic.stem == "moments" else {"replay": recipe.exact_json()}),
        "made_with": made_with(),
        "operators": [
            {"operator": step.operator.name, "parameters": step.parameters.model_dump(mode="json"),
             "exactness": exactness.word}
            for step, exactness in zip(recipe.steps, composition.exactness, strict=True)
        ],
        "seed": recipe.seed,
        "exactness": composition.whole.word,
        "inputs": {place: {"header": c.header_digest(), "bytes": c.meter.total} for place, c in checkpoints.items()},
        **({"adapters": [{"path": place, "role": "adapter"} for place in added]} if added else {}),
        "output": {
            "location": str(outcome.target),
            "tensors": {
                placed.output.name: {
                    "dtype": placed.output.dtype, "shape": list(placed.output.shape),
                    "blake3": outcome.digests.get(placed.output.name), "file": shard.name,
                    "shared_with": str(shard.link) if shard.link else None,
                }
                for shard in plan.shards for placed in shard.tensors
            },
        },
        "plan": plan.digest,
    }  # fmt: skip


def made_with() -> dict[str, str]:
    """What the last bits of a product depend on beside the plan: library, processor, and the instructions it has."""
    import platform

    import torch

    return {
        "torch": torch.__version__, "machine": platform.machine(), "cpu": torch.backends.cpu.get_cpu_capability(),
    }  # fmt: skip


def _journal(plan: Plan, execution: _Execution, *, force: bool) -> Journal:
    try:
        return Journal(plan.partial, plan.digest, execution.sync)
    except UsageError as error:
        if not force or "another run" in error.what:
            raise
    shutil.rmtree(plan.partial)
    plan.partial.mkdir()
    return Journal(plan.partial, plan.digest, execution.sync)


class _Execution:
    """One run: the open files, the threads, and how far they are."""

    def __init__(self, plan: Plan, progress: Progress | None) -> None:
        self.plan = plan
        self.arena = Arena()
        self.reader = SliceReader(self.arena)
        self.written = 0
        self._room = Room(plan.held_bytes)
        self._progress = progress
        self._files: dict[str, ShardFile] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._done = 0
        self._begun = time.monotonic()
        self._total = max(1, plan.write_bytes)

    def work(self, journal: Journal) -> None:
        """Everything that is not in the journal yet."""
        for shard in self.plan.shards:
            if shard.link is not None:
                _link(shard.link, self.plan.partial / shard.name)
        left = []
        for shard, placed in self.plan.written:
            if placed.output.name in journal.done:
                self._done += placed.nbytes
            else:
                left.append((shard, placed))
        for shard in {shard.name: shard for shard, _ in left}.values():
            self._files[shard.name] = ShardFile(self.plan.partial / shard.name, shard.header, shard.size)
        with _one_thread_each():
            values = self._gather()
            work = Work(self.reader, values)
            # A tensor that is a large part of all goes first, or everybody would wait for its worker in the end.
            large = self._total / (4 * self.plan.workers)
            groups = _together(left)
            groups.sort(key=lambda group: group[0][1].nbytes < large)
            self._each(lambda group: self._tensors(group, work, journal), groups)

    def _gather(self) -> dict[Statistic, Any]:
        """Values of all statistics, those that need others behind these."""
        values: dict[Statistic, Any] = {}
        todo = list(self.plan.statistics)
        while todo:
            ready = [statistic for statistic in todo if all(other in values for other in _before(statistic))]
            if not ready:
                raise InternalError("statistics need each other", got=[s.name for s in todo])
            known = dict(values)
            found = self._each(lambda statistic: self._statistic(statistic, known), ready)  # noqa: B023 - joined here
            values.update(zip(ready, found, strict=True))
            todo = [statistic for statistic in todo if statistic not in values]
        return values

    def _statistic(self, statistic: Statistic, known: dict[Statistic, Any]) -> Any:
        if isinstance(statistic, Derived):
            return statistic.value([known[other] for other in statistic.needs()])
        return self._seen(statistic, Work(self.reader, known), statistic_rows(statistic.inputs()))

    def _seen(self, statistic: Statistic, work: Work, step: int) -> Any:
        """A statistic gathered in blocks of `step` rows."""
        nodes = statistic.inputs()
        state = statistic.start()
        size = nodes[0].shape[0]
        for start in range(0, size, step):
            self._check()
            rows = slice(start, min(size, start + step))
            tiles = [node.tile(rows, node.columns, work) for node in nodes]
            state = statistic.add(state, tiles, rows, work)
            self.arena.reset()
        return statistic.finish(state)

    def _tensors(self, group: list[tuple[Shard, Placed]], work: Work, journal: Journal) -> None:
        """One tensor, or several that are the same stored one."""
        if group[0][1].output.origin:
            self._copies(group, journal)
        else:
            self._tensor(*group[0], work, journal)

    def _tensor(self, shard: Shard, placed: Placed, work: Work, journal: Journal) -> None:
        from blake3 import blake3

        output = placed.output
        width = BITS[output.dtype] // 8
        columns = output.node.shape[1] if len(output.node.shape) == 2 else 1
        tile_bytes = tile_rows(output.node) * columns * width
        room = Arena()  # its buffer outlives the tiles
        buffer = room.take(min(tile_bytes, placed.nbytes) + 2 * BLOCK)
        out = TensorOut(self._files[shard.name], placed.offset, buffer, blake3())
        if id(output) in self.plan.own:
            size = held_size(output, self.plan.held_bytes)
            with self._room.taken(size, self._check):
                held = Work(HoldingReader(self.reader, size), work.values)
                for statistic in self.plan.own[id(output)]:
                    value = self._seen(statistic, held, tile_rows(output.node))
                    held = Work(held.reader, {**held.values, statistic: value})
                self._compute(output, held, out)
        else:
            self._compute(output, work, out)
        journal.add(output.name, out.finish(), placed.nbytes)

    def _compute(self, output: Output, work: Work, out: TensorOut) -> None:
        """Tile after tile, written as it comes."""
        kind = torch_type(output.dtype, output.name)
        size, step = output.node.shape[0], tile_rows(output.node)
        for start in range(0, size, step):
            self._check()
            rows = slice(start, min(size, start + step))
            tile = output.node.tile(rows, output.node.columns, work)
            out.append_tensor(tile, kind)
            self._advance(tile.numel() * kind.itemsize)
            del tile
            self.arena.reset()

    def _copies(self, group: list[tuple[Shard, Placed]], journal: Journal) -> None:
        """The bytes of a stored tensor, read and hashed once, written to every place that has them.

        On file systems that can, the blocks are shared and only hashed.
        """
        from blake3 import blake3

        room, digest = Arena(), blake3()
        output, size = group[0][1].output, group[0][1].nbytes
        outs = []
        for number, (shard, placed) in enumerate(group):
            file = self._files[shard.name]
            buffer = room.take(min(RAW_BYTES, size) + 2 * BLOCK)
            out = TensorOut(file, placed.offset, buffer, digest if number == 0 else None)
            outs.append((out, self._share(placed, file)))
        for start in range(0, size, RAW_BYTES):
            self._check()
            stop = min(size, start + RAW_BYTES)
            raw = self.reader.raw(output.checkpoint, output.origin, start, stop)
            for out, shared in outs:
                out.append_bytes(raw, write=not shared)
                self._advance(stop - start)
            self.arena.reset()
        found = [out.finish() for out, _ in outs]
        for _, placed in group:
            journal.add(placed.output.name, found[0], size)

    def _share(self, placed: Placed, file: ShardFile) -> bool:
        """Let the file share the blocks of the source, where both lie on a file system that can."""
        output = placed.output
        extent = output.checkpoint.extent(output.origin)
        path = output.checkpoint.local_file(extent.info.file)
        if path is None or placed.nbytes < RAW_BYTES:
            return False
        source = self.reader.descriptor(path)
        return clone_range(source, extent.offset, placed.nbytes, file.descriptor, placed.offset)

    def _check(self) -> None:
        if self._stop.is_set():
            raise _Stopped

    def _advance(self, count: int) -> None:
        with self._lock:
            self._done += count
            self.written += count
            if self._progress is not None:
                elapsed = max(1e-6, time.monotonic() - self._begun)
                self._progress(
                    "writing", min(1.0, self._done / self._total),
                    f"{self._done / 1e9:.2f} of {self._total / 1e9:.2f} GB, {self.written / 1e9 / elapsed:.2f} GB/s",
                )  # fmt: skip

    def _each(self, function: Callable[[Any], Any], items: list[Any]) -> list[Any]:
        """A function of every item on the workers; the first error, or Ctrl-C, stops all of them."""
        pool = ThreadPoolExecutor(self.plan.workers, thread_name_prefix="surgery", initializer=_single)
        futures: list[Future[Any]] = [pool.submit(function, item) for item in items]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        except BaseException:
            self._stop.set()
            raise
        finally:
            failed = any(f.done() and not f.cancelled() and f.exception() is not None for f in futures)
            if failed:
                self._stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
        errors = [f.exception() for f in futures if not f.cancelled() and f.exception() is not None]
        for error in errors:
            if error is not None and not isinstance(error, _Stopped):
                raise error
        return [future.result() for future in futures]

    def sync(self) -> None:
        """Force what was written to disk."""
        for file in self._files.values():
            file.sync()

    def close(self) -> None:
        """Close every file."""
        for file in self._files.values():
            file.close()
        self._files.clear()
        self.reader.close()


def _together(left: list[tuple[Shard, Placed]]) -> list[list[tuple[Shard, Placed]]]:
    """What is written, in order; copies of one stored tensor together, so that it is read once."""
    groups: dict[tuple[int, str], list[tuple[Shard, Placed]]] = {}
    for shard, placed in left:
        output = placed.output
        key = (id(output.checkpoint), output.origin) if output.origin else (id(output), "")
        groups.setdefault(key, []).append((shard, placed))
    return list(groups.values())


def _before(statistic: Statistic) -> list[Statistic]:
    """The statistics that one needs first."""
    if isinstance(statistic, Derived):
        return list(statistic.needs())
    return [other for node in statistic.inputs() for inner in node.walk() for other in inner.statistics()]


class _Stopped(Exception):
    """A worker gives up because the run is over."""


def _single() -> None:
    import torch

    torch.set_num_threads(1)


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """One thread inside every product: tiles are small, and the workers fill the machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    keep_pages(shared=True)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _link(source: Path, target: Path) -> None:
    """Share a file: a hard link, or a copy where the file systems differ."""
    if target.exists():
        if os.path.samefile(source, target) or target.stat().st_size == source.stat().st_size:
            return
        target.unlink()
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _finish(plan: Plan, recorder: Recorder, digests: dict[str, str]) -> list[str]:
    """Write everything beside the weights and force all of it to disk."""
    composition = plan.composition
    missing = [placed.output.name for _, placed in plan.written if placed.output.name not in digests]
    if missing:
        raise InternalError("tensors are missing from the journal", got=missing[:5])
    files, notes = companions(composition.symbolic, composition.source)
    index = index_text(plan.shards)
    if index is not None:
        files["model.safetensors.index.json"] = index.encode("utf-8")
    resolved = composition.recipe.resolved()
    files[RECIPE] = (readable_json(resolved) + "\n").encode("utf-8")
    names = [step.operator.name for step in composition.recipe.steps]
    files[SIDECAR] = sidecar(recorder.stamp, composition.whole.word, composition.recipe.digest(), names)
    for name, content in files.items():
        with (plan.partial / name).open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
    known = {JOURNAL, *files, *(shard.name for shard in plan.shards)}
    for entry in plan.partial.iterdir():
        if entry.name not in known and entry.is_file():
            entry.unlink()
    sync_folder(plan.partial)
    return notes


def _settle(plan: Plan, *, force: bool) -> None:
    """Rename the finished folder; what was there before is removed only after that."""
    old = plan.target.with_name(plan.target.name + ".old")
    if plan.target.exists():
        if not force:
            raise OutputExists("the target has appeared meanwhile", where=str(plan.target), fix="--force")
        if old.exists():
            shutil.rmtree(old)
        plan.target.rename(old)
    (plan.partial / JOURNAL).unlink(missing_ok=True)
    plan.partial.rename(plan.target)
    sync_folder(plan.target.parent)
    if old.exists():
        shutil.rmtree(old)
