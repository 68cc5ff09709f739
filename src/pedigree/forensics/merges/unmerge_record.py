"""From a decomposition to the record that is printed and stored."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from pedigree.forensics.comparison.measure import Progress
from pedigree.forensics.comparison.record import describe, producer
from pedigree.forensics.merges.decomposition import Decomposition
from pedigree.forensics.merges.merge_groups import Group
from pedigree.forensics.merges.unmerge import unmerge
from pedigree.records.comparison import ReadRecord
from pedigree.records.unmerging import MergeGroup, UnmergeResult, Unmerging
from pedigree.weights.anatomy import Anatomy
from pedigree.weights.checkpoint import Checkpoint


def unmerge_record(
    model: str | Path,
    parents: Sequence[str | Path],
    *,
    base: str | Path | None = None,
    whole: bool = False,
    allow_pickle: bool = False,
    progress: Progress | None = None,
) -> Unmerging:
    """The record of a decomposition; arguments and errors as `pedigree.forensics.merges.unmerge.unmerge`."""
    found, opened, seconds = unmerge(
        model, parents, base=base, whole=whole, allow_pickle=allow_pickle, progress=progress
    )
    inputs = [describe(checkpoint, anatomy) for checkpoint, anatomy in opened]
    read = ReadRecord(
        bytes=sum(checkpoint.meter.read for checkpoint, _ in opened),
        of=sum(checkpoint.meter.total for checkpoint, _ in opened),
        seconds=round(seconds, 3),
    )
    return Unmerging(
        producer=producer(),
        created=datetime.now(UTC).replace(microsecond=0).isoformat().replace("+00:00", "Z"),
        inputs={
            "model": inputs[0],
            "parents": inputs[1 : 1 + len(parents)],
            "base": inputs[-1] if base is not None else None,
        },
        options={"whole": whole, "allow_pickle": allow_pickle},
        result=UnmergeResult(
            verdict=found.verdict,
            method=found.method,
            also_possible=found.also_possible,
            sources=found.sources,
            explained=found.explained,
            groups=[_group(group, len(found.sources)) for group in found.groups],
            reasons=found.reasons,
            recipe=found.recipe,
            read=read,
            not_checked=_not_checked(found, base is not None),
        ),
        warnings=[*_reader_notes(opened), *found.warnings],
    )


def _reader_notes(opened: Sequence[tuple[Checkpoint, Anatomy]]) -> list[str]:
    """What is odd about the files, such as weight files that were not read."""
    return [f"{checkpoint.location}: {note}" for checkpoint, _ in opened for note in checkpoint.notes]


def _group(group: Group, n_sources: int) -> MergeGroup:
    return MergeGroup(
        layer=group.layer,
        component=group.component,
        weights=[group.mixture.weight(number) for number in range(1, n_sources + 1)],
        t=group.t,
        residual_share=group.mixture.residual / max(group.energy, 1e-300),
    )


def _not_checked(found: Decomposition, has_base: bool) -> list[str]:
    out = [
        "parents that were not among the candidates",
        "norm gains, biases and other vectors take no part in the weights",
    ]
    if found.left_out:
        out.append(f"{len(found.left_out)} tensors without a counterpart of the same shape in every source")
    if not found.whole:
        out.append("512 rows of each tensor were read; --depth full reads all")
    if not has_base:
        out.append("methods that mask changes (TIES, DARE) need --base to be seen")
    return out
