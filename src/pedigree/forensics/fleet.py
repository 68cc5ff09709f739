"""Fingerprints of many models at once: here, in processes of this machine, or on a Ray cluster.

Every way gives the same outcomes, one for each task, as they are done. A model that cannot be read is an outcome with
an error; so is one whose worker died (out of memory, say). Workers hold one model at a time and hand back the bytes of
a fingerprint; only the caller writes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing import get_context
from typing import Any

from pedigree.errors import PedigreeError, UsageError
from pedigree.forensics.fingerprint_compare import load
from pedigree.forensics.sketch import sketch
from pedigree.weights.checkpoint import open_checkpoint

IN_FLIGHT = 2
"""Tasks handed out for each worker: the next is there when one is done, and few results wait to be written."""

RAY_WITHOUT_REPORTS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_USAGE_STATS_PROMPT_ENABLED": "0"}

# Whatever one model provokes, in our code or in a library: it is said beside that model, and the others go on.
ANY_FAULT = (ArithmeticError, AttributeError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class Task:
    """One model to fingerprint.

    Attributes:
        location: the model, or a fingerprint file.
        salt: of the fingerprint.
        allow_pickle: read torch files (weights only).
        header_digest, stamp: of what is there already, "" where nothing is; equal ones are not read again.
    """

    location: str
    salt: str = ""
    allow_pickle: bool = False
    header_digest: str = ""
    stamp: str = ""


@dataclass(frozen=True)
class Made:
    """A fingerprint as it travels and is kept.

    Attributes:
        data, digest: the file's content, and its digest.
        facts: its metadata.
        vector: its search vector, float32.
        stamp: of the files it was made from; empty for a fingerprint file.
    """

    data: bytes
    digest: str
    facts: dict[str, Any]
    vector: bytes
    stamp: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of one task.

    Attributes:
        location: of the task.
        made: the fingerprint, None where there is none or nothing new.
        error: why it could not be made, in one sentence.
        node: where it was made; empty outside a cluster.
    """

    location: str
    made: Made | None = None
    error: str | None = None
    node: str = ""


def carry_out(task: Task) -> Outcome:
    """Do one task in this process."""
    try:
        if task.header_digest and _is_unchanged(task):
            return Outcome(task.location)
        return Outcome(task.location, _make(task))
    except PedigreeError as error:
        return Outcome(task.location, error=error.sentence())
    except ANY_FAULT as error:
        return Outcome(task.location, error=f"could not be read: {type(error).__name__}: {error}"[:500])


def _make(task: Task) -> Made:
    found = load(task.location, salt=task.salt, allow_pickle=task.allow_pickle)
    data = found.to_bytes()
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    return Made(data, digest, found.facts, sketch(found).tobytes(), found.stamp)


def _is_unchanged(task: Task) -> bool:
    """Whether headers and stamps of the weight files are those of what is there; reads no weights."""
    try:
        with open_checkpoint(task.location, allow_pickle=task.allow_pickle) as checkpoint:
            same = checkpoint.header_digest() == task.header_digest
            return same and task.stamp in ("", checkpoint.stamp())
    except PedigreeError:
        return True  # the model is gone, or the entry is a fingerprint file: what was taken of it stays


def carry_out_all(tasks: Sequence[Task], *, workers: int = 1, address: str | None = None) -> Iterator[Outcome]:
    """Do all tasks; outcomes come as they are done.

    Args:
        tasks: in the order they are begun.
        workers: processes on this machine; on a cluster that is started here, its processors.
        address: of a Ray cluster: "auto" for the one that this machine belongs to, "local" to start one here, or
            HOST:PORT; None for no cluster.

    Raises:
        UsageError: Ray is not installed, or the cluster does not answer.
    """
    if address is not None:
        yield from _on_cluster(tasks, address, workers)
    elif workers > 1:
        yield from _in_processes(tasks, workers)
    else:
        yield from map(carry_out, tasks)


# -- processes --------------------------------------------------------------------------------------------------------


def _in_processes(tasks: Sequence[Task], workers: int) -> Iterator[Outcome]:
    """A pool that is replaced when a worker dies; the tasks it had in hand are tried again, one process for each."""
    waiting = list(reversed(tasks))
    while waiting:
        in_hand: dict[Future[Outcome], Task] = {}
        with _pool(workers) as pool:
            broken = False
            while (waiting or in_hand) and not broken:
                while waiting and len(in_hand) < IN_FLIGHT * workers:
                    try:
                        future = pool.submit(carry_out, waiting[-1])
                    except BrokenProcessPool:
                        broken = True
                        break
                    in_hand[future] = waiting.pop()
                done, _ = wait(in_hand, return_when=FIRST_COMPLETED)
                for future in done:
                    if isinstance(future.exception(), BrokenProcessPool):
                        broken = True
                    else:
                        del in_hand[future]
                        yield future.result()
        for task in in_hand.values():
            yield _alone(task)


def _alone(task: Task) -> Outcome:
    with _pool(1) as pool:
        future = pool.submit(carry_out, task)
        if isinstance(future.exception(), BrokenProcessPool):
            return Outcome(task.location, error="the process that read it was ended by the system; memory may be short")
        return future.result()


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    # Fresh processes: torch's threads do not survive a fork.
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


# -- a cluster --------------------------------------------------------------------------------------------------------


def has_ray() -> bool:
    """Whether Ray is installed (extra `fleet`)."""
    try:
        return find_spec("ray") is not None
    except (ImportError, ValueError):
        return False


def _on_cluster(tasks: Sequence[Task], address: str, workers: int) -> Iterator[Outcome]:
    with _cluster(address, workers) as ray:
        # One try more where a machine is lost; what a model provokes in the code is an outcome and not tried again.
        remote = ray.remote(num_cpus=1, max_retries=1, scheduling_strategy="SPREAD")(_on_node)
        most = IN_FLIGHT * max(1, int(ray.cluster_resources().get("CPU", 1)))
        waiting = list(reversed(tasks))
        in_hand: dict[Any, Task] = {}
        while waiting or in_hand:
            while waiting and len(in_hand) < most:
                task = waiting.pop()
                in_hand[remote.remote(task)] = task
            done, _ = ray.wait(list(in_hand), num_returns=1)
            for reference in done:
                task = in_hand.pop(reference)
                try:
                    yield ray.get(reference)
                except ray.exceptions.RayError as error:
                    words = str(error).strip().splitlines() or [type(error).__name__]
                    yield Outcome(task.location, error=f"its worker was lost: {words[0]}"[:500])


def _on_node(task: Task) -> Outcome:
    import ray

    found = carry_out(task)
    return Outcome(found.location, found.made, found.error, ray.get_runtime_context().get_node_id())


@contextmanager
def _cluster(address: str, workers: int) -> Iterator[Any]:
    """Ray, connected; what was connected before stays so."""
    if not has_ray():
        raise UsageError("Ray is not installed", fix="pip install 'llm-pedigree[fleet]'")
    # Read when Ray is imported: nothing is to be reported to its makers.
    os.environ.update(RAY_WITHOUT_REPORTS)
    import ray

    if ray.is_initialized():
        yield ray
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": None}
    try:
        if address == "local":
            ray.init(address="local", num_cpus=workers, **{**options, "include_dashboard": False})
        else:
            ray.init(address=address, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UsageError(
            "the Ray cluster does not answer", where=address, got=str(error).splitlines()[0] if str(error) else "",
            expected="auto, local or HOST:PORT", fix="ray start --head --disable-usage-stats",
        ) from error  # fmt: skip
    try:
        yield ray
    finally:
        ray.shutdown()
