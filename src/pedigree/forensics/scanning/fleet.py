"""Fingerprints of many models at once: here, in processes of this machine, or on a Ray cluster.

Every way gives the same outcomes, one for each task, as they are done. A model that cannot be read is an outcome with
an error; so is one whose worker died (out of memory, say). Workers hold one model at a time and hand back the bytes of
a fingerprint; only the caller writes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pedigree.errors import PedigreeError
from pedigree.forensics.fingerprints.fingerprint_compare import load
from pedigree.forensics.scanning.sketch import sketch
from pedigree.forensics.spread import ANY_FAULT, spread_out
from pedigree.weights.checkpoint import open_checkpoint


@dataclass(frozen=True)
class Task:
    """One model to fingerprint.

    Attributes:
        location: the model, or a fingerprint file.
        salt: of the fingerprint.
        allow_pickle: read torch files (weights only).
        header_digest, stamp: of what is there already, "" where nothing is; equal ones are not read again.
        renews: whether a fingerprint of an older version is there, which stays where the model cannot be read.
    """

    location: str
    salt: str = ""
    allow_pickle: bool = False
    header_digest: str = ""
    stamp: str = ""
    renews: bool = False


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
        return _failed(task, error.sentence())
    except ANY_FAULT as error:
        return _failed(task, f"could not be read: {type(error).__name__}: {error}"[:500])


def _failed(task: Task, why: str | None) -> Outcome:
    return Outcome(task.location, error=None if task.renews else why)


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
        workers, address: where, see `spread.spread_out`.

    Raises:
        UsageError: Ray is not installed, or the cluster does not answer.
    """
    for done in spread_out(carry_out, tasks, workers=workers, address=address):
        outcome = done.result if done.result is not None else _failed(done.task, done.lost)
        yield replace(outcome, node=done.node)
