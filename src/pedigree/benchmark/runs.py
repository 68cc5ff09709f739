"""Asks methods about pairs, and keeps every answer: one line of JSON for each pair and method, appended as it comes.

    FOLDER/results/METHOD.jsonl

Laws
1. A line that is there and was made of the same models by the same code is not made again; a run that was stopped
   goes on where it was, and partial results are results.
2. Whatever a method raises is written down as its answer; the run goes on.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from pedigree.benchmark.memory import peak_above, start_watch
from pedigree.benchmark.methods import chosen_methods
from pedigree.benchmark.methods.interface import Method, TreeGrower, Unmerger
from pedigree.benchmark.methods.model import Model
from pedigree.errors import PedigreeError

RESULTS = "results"
KEPT_MODELS = 200
"""Models a process keeps open between questions."""
SHARED = ("interface.py", "matching.py", "model.py", "prompts.py")
CHUNK = 12
"""Pairs that a worker takes at once."""

Told = Callable[[str, float, str], None]
_RAISED = (
    PedigreeError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, OSError, IndexError, ArithmeticError,
    StopIteration,
)  # fmt: skip


@dataclass(frozen=True)
class Task:
    """One thing to ask.

    Args:
        kind: "pair" (models: A, B), "merge" (the merge, then candidates) or "tree" (any number).
        split: of all models.
        models: names.
        keys: addresses of their content, in the same order.
    """

    kind: str
    split: str
    models: tuple[str, ...]
    keys: tuple[str, ...]

    @property
    def address(self) -> str:
        """Of the question and the content it is asked of."""
        return hashlib.sha256(json.dumps([self.kind, self.models, self.keys]).encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Line:
    """One answer, as it is kept."""

    method: str
    code: str
    task: str
    kind: str
    split: str
    models: tuple[str, ...]
    seconds: float
    bytes: int | None = None
    memory: int | None = None
    score: float | None = None
    direction: float | None = None
    if_descent: float | None = None
    layer_map: list[int | None] | None = None
    verdict: str | None = None
    experts: list[list[int]] | None = None
    says: tuple[str, ...] = ()
    values: list[Any] | None = None
    flagged: bool | None = None
    why_not: str = ""


def code_of(method: Method) -> str:
    """Digest of the code behind a method: its file, what methods share and, of ours, the whole of forensics."""
    file = Path(inspect.getfile(type(method)))
    found = hashlib.sha256(file.read_bytes())
    for name in SHARED:
        found.update((Path(__file__).parent / "methods" / name).read_bytes())
    if method.name.startswith("pedigree"):
        for path in sorted((Path(__file__).parents[1] / "forensics").rglob("*.py")):
            found.update(path.read_bytes())
    return found.hexdigest()[:16]


def read_lines(folder: Path, method: str) -> Iterator[Line]:
    """Answers of a method that are there; a line that was cut short by a crash is passed over."""
    path = folder / RESULTS / f"{method}.jsonl"
    if not path.is_file():
        return
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            found = json.loads(text)
        except json.JSONDecodeError:
            continue
        found["models"], found["says"] = tuple(found["models"]), tuple(found.get("says") or ())
        yield Line(**found)


def latest(folder: Path, method: str, tasks: Iterable[Task]) -> dict[str, Line]:
    """Answers to these tasks by their address; of several the last one."""
    wanted = {task.address for task in tasks}
    return {line.task: line for line in read_lines(folder, method) if line.task in wanted}


def run(
    folder: Path, tasks: Sequence[Task], methods: Sequence[Method], *, workers: int = 1, told: Told | None = None
) -> dict[str, int]:
    """Ask every method everything that is not answered yet.

    Args:
        folder: of the benchmark, with its models.
        tasks: what to ask; their models are made.
        methods: whom; those that cannot run here are passed over.
        workers: processes.
        told: called with (stage, share done, message).

    Returns:
        Answers made now, by method.
    """
    (folder / RESULTS).mkdir(parents=True, exist_ok=True)
    batches: list[tuple[Path, str, list[Task]]] = []
    for method in methods:
        if method.missing():
            continue
        code = code_of(method)
        there = {task for task, line in latest(folder, method.name, tasks).items() if line.code == code}
        open_tasks = [task for task in tasks if task.address not in there and _can(method, task)]
        # In the order of a hash: a run that is stopped has then asked about a sample of all kinds of pairs.
        open_tasks.sort(key=lambda task: (task.kind == "pair", task.address))
        batches += [(folder, method.name, open_tasks[i : i + CHUNK]) for i in range(0, len(open_tasks), CHUNK)]
    total = sum(len(batch) for _, _, batch in batches)
    counts: dict[str, int] = {}
    done = 0
    for name, lines in _work(batches, workers):
        _append(folder, name, lines)
        counts[name] = counts.get(name, 0) + len(lines)
        done += len(lines)
        if told is not None:
            told("run", done / max(1, total), f"{done} of {total} answers, last {name}")
    return counts


def _can(method: Method, task: Task) -> bool:
    if task.kind == "merge":
        return isinstance(method, Unmerger)
    return task.kind == "pair" or isinstance(method, TreeGrower)


def _work(batches: Sequence[tuple[Path, str, list[Task]]], workers: int) -> Iterator[tuple[str, list[Line]]]:
    if workers <= 1:
        for batch in batches:
            yield batch[1], answer_all(*batch)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(answer_all, *batch): batch[1] for batch in batches}
        for future in as_completed(futures):
            yield futures[future], future.result()


def answer_all(folder: Path, name: str, tasks: Sequence[Task]) -> list[Line]:
    """Answers of one method, models kept between questions."""
    import torch

    torch.set_num_threads(1)
    (method,) = chosen_methods([name])
    code = code_of(method)
    lines = []
    for task in tasks:
        models = [_kept(method.name, folder / "models" / model) for model in task.models]
        lines.append(replace(ask(method, task, models), code=code))
    return lines


_KEPT: dict[tuple[str, Path], Model] = {}


def _kept(method: str, folder: Path) -> Model:
    """The model as this method knows it; methods share none, so that each pays for what it reads and computes."""
    key = (method, folder)
    if key not in _KEPT:
        if len(_KEPT) >= KEPT_MODELS:
            _KEPT.pop(next(iter(_KEPT))).forget()
        _KEPT[key] = Model(folder)
    return _KEPT[key]


def ask(method: Method, task: Task, models: Sequence[Model]) -> Line:
    """One question to one method, with what it cost: seconds, weight bytes, memory above what was held before."""
    empty = Line(method.name, "", task.address, task.kind, task.split, task.models, 0.0)
    watch = start_watch()
    start = time.perf_counter()
    try:
        found = _answered(method, task, models, empty)
    except _RAISED as error:
        sentence = error.sentence() if isinstance(error, PedigreeError) else f"{type(error).__name__}: {error}"
        found = replace(empty, why_not=sentence[:300])
    seconds = time.perf_counter() - start
    # What a pair on its own would need: models are kept between questions, and so is the count of what was read.
    read = found.bytes if found.bytes is not None else sum(model.bytes_read for model in models)
    return replace(found, seconds=round(seconds, 4), bytes=read or None, memory=peak_above(watch))


def _answered(method: Method, task: Task, models: Sequence[Model], empty: Line) -> Line:
    if task.kind == "merge" and isinstance(method, Unmerger):
        weights = method.weights(models[0], models[1:])
        return replace(empty, values=None if weights is None else [round(float(w), 6) for w in weights])
    if task.kind == "tree" and isinstance(method, TreeGrower):
        return replace(empty, values=[list(edge) for edge in method.edges(models)])
    answer = method.ask(*models)
    plain = {key: value for key, value in asdict(answer).items() if key not in ("score", "layer_map", "experts")}
    score = None if answer.score is None or not math.isfinite(answer.score) else round(float(answer.score), 8)
    return replace(
        empty, **plain, score=score,
        layer_map=None if answer.layer_map is None else list(answer.layer_map),
        experts=None if answer.experts is None else [list(row) for row in answer.experts],
    )  # fmt: skip


def _append(folder: Path, method: str, lines: Sequence[Line]) -> None:
    """Lines at the end of a method's file, on disk before the next ones are asked for."""
    import os

    text = "".join(json.dumps(_plain(line), sort_keys=True) + "\n" for line in lines)
    with (folder / RESULTS / f"{method}.jsonl").open("a", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _plain(line: Line) -> Mapping[str, Any]:
    """The fields that say something."""
    return {key: value for key, value in asdict(line).items() if value not in (None, "", ())}
