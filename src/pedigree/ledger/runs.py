"""Runs, event by event: whether what was told of a run could have happened in that order.

start before everything else; steps go forward but for a recorded roll-back; tokens grow in step with the steps;
a run that goes on does so from a state that was recorded; after its end only its weights are told of
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from pedigree.ledger.entry import Entry
from pedigree.ledger.verdict import Problem

_AFTER_END = ("derive", "ckpt.save", "release", "eval", "run.input", "artifact.import", "exception")
_ALONE = ("derive", "artifact.import", "exception")  # surgery, a new tokenizer: done at once, without a start


def run_problems(entries: Sequence[Entry]) -> list[Problem]:
    """What is out of order, in all runs, and datasets that changed under one name."""
    runs: dict[str, list[Entry]] = defaultdict(list)
    states: dict[str, int] = {}
    problems = []
    for entry in entries:
        if entry.leaf.run is not None:
            runs[entry.leaf.run].append(entry)
        if entry.leaf.kind == "ckpt.save":
            for digest in entry.leaf.subjects:
                states.setdefault(digest, entry.index)
        if entry.leaf.kind == "run.start" and entry.said is not None:
            problems += _start_problems(entry, states)
    for run in runs.values():
        problems += _order_problems(run)
    return problems + _dataset_problems(entries)


def _start_problems(entry: Entry, states: Mapping[str, int]) -> list[Problem]:
    said = entry.said
    resumed = [] if said is None else [parent for parent in said.parents if parent.role == "state"]
    step = _number(entry.facts, "step") or 0
    if step and not resumed:
        return [Problem("UNKNOWN", "hidden-step", f"a run goes on from step {step} of nothing recorded", entry.index)]
    return [
        Problem("UNKNOWN", "hidden-step", "a run goes on from a state that was never recorded", entry.index)
        for parent in resumed
        if parent.digest not in states
    ]


def _order_problems(run: Sequence[Entry]) -> list[Problem]:
    problems = []
    if run[0].leaf.kind != "run.start" and any(entry.leaf.kind not in _ALONE for entry in run):
        problems.append(Problem("SUSPECT", "no-start", "a run is told of before its start", run[0].index))
    last, ratio, ended = -1, None, False
    for entry in run:
        kind = entry.leaf.kind
        if ended and kind not in _AFTER_END:
            problems.append(Problem("SUSPECT", "after-end", f"{kind} after the end of its run", entry.index))
        if kind == "run.end":
            ended = True
        if kind == "run.decision" and "roll-back" in str(entry.facts.get("action")):
            last = -1
        if kind not in ("run.beat", "ckpt.save") or ended:
            continue
        step = _step(entry)
        if step is None:
            continue
        if step < last:
            problems.append(Problem("SUSPECT", "steps-go-back", f"step {step} after step {last}", entry.index))
        last = max(last, step)
        # A beat is told in the middle of a step or after it: a state of `step` holds the tokens of as many steps.
        tokens = _number(entry.facts, "tokens") if kind == "ckpt.save" else None
        if tokens and step:
            if ratio is not None and tokens * ratio[1] != ratio[0] * step:
                problems.append(
                    Problem("SUSPECT", "tokens", f"{tokens} tokens do not fit to {step} steps", entry.index)
                )
            ratio = ratio or (tokens, step)
    return problems


def _dataset_problems(entries: Sequence[Entry]) -> list[Problem]:
    """A name that stood for other bytes before: nothing wrong by itself, and worth knowing.

    What a training names is a text as its tokenizer cut it, so only uses with one tokenizer can be held against each
    other.
    """
    known: dict[tuple[str, str], str] = {}
    problems = []
    for entry in entries:
        parents = entry.said.parents if entry.said else ()
        tokenizer = next((parent.digest for parent in parents if parent.role == "tokenizer"), "")
        for parent in parents:
            if parent.role == "dataset" and parent.name:
                before = known.setdefault((parent.name, tokenizer), parent.digest)
                if before != parent.digest:
                    sentence = f"the dataset {parent.name!r} holds other bytes than when it was used before"
                    problems.append(Problem("UNKNOWN", "dataset-changed", sentence, entry.index))
                    known[parent.name, tokenizer] = parent.digest
    return problems


_STEP = re.compile(rb'"step":"([0-9]{1,18})"')


def _step(entry: Entry) -> int | None:
    """The step that an event is about; of a sign of life without reading all it says: there are very many."""
    if entry.told is None:
        return _number(entry.facts, "step")
    match = _STEP.search(entry.told)
    return int(match[1]) if match else None


def _number(facts: Mapping[str, Any], name: str) -> int | None:
    try:
        return int(facts[name])
    except (KeyError, TypeError, ValueError):
        return None
