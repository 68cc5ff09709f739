"""Many like tasks at once: here, in processes of this machine, or on a Ray cluster.

Every way gives the same results, one for each task, as they are done. A task whose worker died (out of memory, say)
is told as lost and stops nothing. The function has to be one that another process can import by its name, tasks and
results ones that can be pickled; they travel between processes of one user and are never read from files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing import get_context
from typing import Any, Generic, TypeVar

from pedigree.errors import UsageError

IN_FLIGHT = 2
"""Tasks handed out for each worker: the next is there when one is done, and few results wait to be taken."""

RAY_WITHOUT_REPORTS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_USAGE_STATS_PROMPT_ENABLED": "0"}

# Whatever one model provokes, in our code or in a library: it is said beside that model, and the others go on.
ANY_FAULT = (ArithmeticError, AttributeError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError)

ENDED = "the process that read it was ended by the system; memory may be short"

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Done(Generic[T, R]):
    """What became of one task.

    Attributes:
        task: which.
        result: of the function, None where the worker was lost.
        lost: why there is no result, None where there is one.
        node: of the cluster that did it; empty outside one.
    """

    task: T
    result: R | None = None
    lost: str | None = None
    node: str = ""


def spread_out(
    function: Callable[[T], R], tasks: Sequence[T], *, workers: int = 1, address: str | None = None
) -> Iterator[Done[T, R]]:
    """Do all tasks; results come as they are done.

    Args:
        function: what is done with each; what it raises ends the run, so it should turn faults into results.
        tasks: in the order they are begun.
        workers: processes on this machine; on a cluster that is started here, its processors.
        address: of a Ray cluster: "auto" for the one that this machine belongs to, "local" to start one here, or
            HOST:PORT; None for no cluster.

    Raises:
        UsageError: Ray is not installed, or the cluster does not answer.
    """
    if not tasks:
        return
    if address is not None:
        yield from _on_cluster(function, tasks, address, workers)
    elif workers > 1 and len(tasks) > 1:
        yield from _in_processes(function, tasks, workers)
    else:
        for task in tasks:
            yield Done(task, function(task))


# -- processes --------------------------------------------------------------------------------------------------------


def _in_processes(function: Callable[[T], R], tasks: Sequence[T], workers: int) -> Iterator[Done[T, R]]:
    """A pool that is replaced when a worker dies; the tasks it had in hand are tried again, one process for each."""
    waiting = list(reversed(tasks))
    while waiting:
        in_hand: dict[Future[R], T] = {}
        with _pool(workers) as pool:
            broken = False
            while (waiting or in_hand) and not broken:
                while waiting and len(in_hand) < IN_FLIGHT * workers:
                    try:
                        future = pool.submit(function, waiting[-1])
                    except BrokenProcessPool:
                        broken = True
                        break
                    in_hand[future] = waiting.pop()
                done, _ = wait(in_hand, return_when=FIRST_COMPLETED)
                for future in done:
                    if isinstance(future.exception(), BrokenProcessPool):
                        broken = True
                    else:
                        yield Done(in_hand.pop(future), future.result())
        for task in in_hand.values():
            yield _alone(function, task)


def _alone(function: Callable[[T], R], task: T) -> Done[T, R]:
    with _pool(1) as pool:
        future = pool.submit(function, task)
        if isinstance(future.exception(), BrokenProcessPool):
            return Done(task, lost=ENDED)
        return Done(task, future.result())


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


def _on_cluster(function: Callable[[T], R], tasks: Sequence[T], address: str, workers: int) -> Iterator[Done[T, R]]:
    with _cluster(address, workers) as ray:
        # One try more where a machine is lost; what a model provokes in the code is a result and not tried again.
        remote = ray.remote(num_cpus=1, max_retries=1, scheduling_strategy="SPREAD")(_on_node)
        most = IN_FLIGHT * max(1, int(ray.cluster_resources().get("CPU", 1)))
        waiting = list(reversed(tasks))
        in_hand: dict[Any, T] = {}
        while waiting or in_hand:
            while waiting and len(in_hand) < most:
                task = waiting.pop()
                in_hand[remote.remote(function, task)] = task
            done, _ = ray.wait(list(in_hand), num_returns=1)
            for reference in done:
                task = in_hand.pop(reference)
                try:
                    result, node = ray.get(reference)
                    yield Done(task, result, node=node)
                except ray.exceptions.RayError as error:
                    words = str(error).strip().splitlines() or [type(error).__name__]
                    yield Done(task, lost=f"its worker was lost: {words[0]}"[:500])


def _on_node(function: Callable[[Any], Any], task: Any) -> tuple[Any, str]:
    import ray

    return function(task), ray.get_runtime_context().get_node_id()


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
