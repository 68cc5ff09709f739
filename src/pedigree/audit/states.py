"""The saved states of a recorded run: it began with the parent's numbers and ended with the child's, or it did not.

A run saves its state before the first step and after the last; the log holds the digest of each `state.json`, which
holds those of its files. Matrices are compared by type, shape and digest of their bytes, whatever they are called. A
format that stacks or turns matrices shows fewer equal ones, but keeps its tables: none at all means other weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pedigree.errors import PedigreeError
from pedigree.records.audit import Answer, AuditCheck

if TYPE_CHECKING:
    from pedigree.audit.claims import Claim
    from pedigree.audit.places import Model

Print = tuple[str, tuple[int, ...], str]  # number type, shape, digest of the bytes
Prints = dict[Path, Mapping[str, Print]]
FOLDER = "checkpoints"
FEWEST = 2  # matrices that could be equal
MAX_STATE = 64 << 20  # bytes of state.json
_BLOCK = 4 << 20


def states_check(claim: Claim, parent: Model | None, child: Model | None, prints: Prints) -> AuditCheck | None:
    """Hold the first and the last saved state of the run against parent and child; None where none is here.

    Args:
        claim: what is said of the child.
        parent: the declared parent, None where it is a random start or not at hand.
        child: the model itself.
        prints: digests of tensors that were read before; new ones are added.
    """
    if child is None or not claim.states or child.state == "changed":
        return None
    told = []
    steps = sorted(claim.states)
    for step, model, words in ((steps[0], parent, "began"), (steps[-1], child, "ended")):
        folder = child.folder.absolute().parent / FOLDER / f"step-{step:08d}"
        if model is None or not (folder / "state.json").is_file() or (words == "began" and step != 0):
            continue
        if not _is_recorded(folder, claim.states[step]):
            return AuditCheck(
                check="states", answer="doubtful", lie="changed-files",
                sentence=f"the state saved at step {step} is not the one that was recorded",
            )  # fmt: skip
        equal, possible = _shared(model.folder, folder, prints)
        if possible < FEWEST:
            continue
        if equal == 0:
            return AuditCheck(
                check="states", answer="disagrees", lie="hidden-step",
                sentence=f"the recorded run {words} with weights of which none of {possible} is that of {model.name}",
            )  # fmt: skip
        told.append(f"{words} with the weights of {model.name} ({equal} of {possible} matrices, number for number)")
    if not told:
        return None
    answer: Answer = "agrees" if len(told) == 2 else "note"
    return AuditCheck(check="states", answer=answer, sentence=f"the recorded run {' and '.join(told)}")


def _is_recorded(folder: Path, digest: str) -> bool:
    """Whether a state is the recorded one, down to its files."""
    from blake3 import blake3

    try:
        with (folder / "state.json").open("rb") as stream:
            data = stream.read(MAX_STATE)
        if hashlib.sha256(data).hexdigest() != digest:
            return False
        files = json.loads(data)["files"]
        return all(
            "/" not in name and blake3().update_mmap(folder / name).hexdigest() == facts["blake3"]
            for name, facts in files.items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


def _shared(model: Path, state: Path, prints: Prints) -> tuple[int, int]:
    """How many matrices of a model are in a state, of how many that have one of their type and shape there."""
    try:
        mine, there = _prints(model, prints), _prints(state, prints)
    except PedigreeError:
        return 0, 0
    shapes = {(kind, shape) for kind, shape, _ in there.values()}
    known = set(there.values())
    possible = [one for one in mine.values() if len(one[1]) > 1 and one[:2] in shapes]
    return sum(one in known for one in possible), len(possible)


def _prints(place: Path, prints: Prints) -> Mapping[str, Print]:
    """Type, shape and digest of every tensor that is a weight; states of optimizers are passed over."""
    from blake3 import blake3

    from pedigree.weights.checkpoint import open_checkpoint

    if place not in prints:
        found: dict[str, Print] = {}
        with open_checkpoint(place) as checkpoint:
            for name in _weights(checkpoint.tensors):
                info, tree = checkpoint.tensors[name], blake3()
                for block in checkpoint.stored_blocks(name, _BLOCK):
                    tree.update(block)
                found[name] = (info.dtype, tuple(info.shape), tree.hexdigest())
        prints[place] = found
    return prints[place]


def _weights(names: Iterable[str]) -> list[str]:
    return [name for name in names if not name.startswith("optimizer.") and ".exp_avg" not in f".{name}"]
