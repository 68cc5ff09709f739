"""`pedigree ledger verify`: the whole ledger, or one model with the proof that it carries."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pedigree.cli.errors import DONE, SAYS_NO
from pedigree.cli.ledger_options import (
    FAIL_ON_VERDICT,
    STYLES,
    VERDICT_WORDS,
    CheckpointOption,
    LedgerOption,
    MaxAgeOption,
    fail_words,
    open_store,
    print_json,
    read_checkpoints,
    short,
)
from pedigree.cli.ledger_policy import PolicyOption, judged, ruling_lines, rulings_dict
from pedigree.cli.ledger_replay import InputsOption, ReplayOption, TrainingOption, applied, replayed
from pedigree.cli.options import DANGEROUS, OUTPUT, ColorOption, JsonOption, QuietOption, offer
from pedigree.cli.output import Line, Output, Span
from pedigree.errors import InputError, MissingInput, UsageError

if TYPE_CHECKING:
    from pedigree.ledger.directory import Found
    from pedigree.ledger.note import Checkpoint
    from pedigree.ledger.verdict import Edge
    from pedigree.ledger.verification import Verification

SHOWN = 12  # edges and problems that a terminal gets of each


def verify(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="DIR", help="A model; without it the whole ledger is checked.", show_default=False),
    ] = None,
    policy: PolicyOption = None,
    replay: ReplayOption = False,
    training: TrainingOption = 0,
    inputs: InputsOption = None,
    ledger: LedgerOption = None,
    checkpoint: CheckpointOption = None,
    max_age: MaxAgeOption = None,
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            metavar="VERDICT", help=FAIL_ON_VERDICT, envvar="PEDIGREE_LEDGER_FAIL_ON", rich_help_panel=OUTPUT,
            autocompletion=offer(*VERDICT_WORDS),
            show_default=False,
        ),
    ] = None,
    forget: Annotated[
        bool,
        typer.Option(
            "--no-memory", help="Neither use nor keep what this machine has seen of the ledger.",
            envvar="PEDIGREE_NO_MEMORY", rich_help_panel=DANGEROUS,
        ),
    ] = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
    color: ColorOption = None,
) -> int:  # fmt: skip
    """Check signatures, places in the tree, keys, order, files; one verdict for each edge, never a bare pass.

    [bold]Examples[/bold]

    pedigree ledger verify

    pedigree ledger verify path/to/model

    pedigree ledger verify path/to/model --policy policy.yaml

    pedigree ledger verify --checkpoint kept-elsewhere.txt --max-age 7
    """
    from pedigree.ledger.memory import Memory

    out = Output(json=json, quiet=quiet, color=color)
    words, outside = fail_words(fail_on), read_checkpoints(checkpoint)
    if policy is not None and folder is None:
        raise UsageError("a policy is about one model", where="--policy", expected="a directory as well")
    memory = None if forget else Memory()
    found = _look(folder, out) if folder is not None else None
    again = replay or bool(training)
    whole = again or (policy is not None and _is_here(found, ledger))
    report, source = _check(found, ledger, outside, max_age, memory, from_proof=not whole)
    if again:
        behind = None if folder is None else {edge.entry for edge in report.edges}
        applied(report, replayed(open_store(ledger), report, behind, inputs or (), training, out))
    rulings, rules = judged(policy, found, report) if policy is not None and found is not None else ([], "")
    if memory is not None and not report.problems and source == "ledger":
        _remember(report, ledger, memory, out)
    verdict = report.verdict
    if out.mode == "json":
        about = {"directory": None if folder is None else str(folder), "source": source}
        result = report.to_dict()
        if found is not None:
            result["artifact"] = found.artifact.id
        if policy is not None:
            result["policy"] = rulings_dict(rulings, rules)
        print_json(out, "ledger verify", about, result)
    elif out.mode == "quiet":
        out.result(verdict)
    else:
        out.lines(verification_lines(report, found, source))
        if policy is not None:
            out.lines(ruling_lines(rulings, rules))
    return SAYS_NO if verdict in words or not all(ruling.passes for ruling in rulings) else DONE


def _look(folder: Path, out: Output) -> Found:
    from pedigree.ledger.directory import look_at

    if not folder.exists():
        raise MissingInput("no such file or directory", where=str(folder))
    found = look_at(folder)
    out.clear_status()
    return found


def _check(
    found: Found | None,
    place: str | None,
    outside: list[Checkpoint],
    max_age: float | None,
    memory: Any,
    *,
    from_proof: bool,
) -> tuple[Verification, str]:
    """The verification, and whether it was made from the ledger or from the proof in the sidecar."""
    if found is not None and found.proof is not None and from_proof:
        from pedigree.ledger.directory import file_problems, registered_manifest
        from pedigree.ledger.proof import verify_proof

        known = memory.recall(str(found.proof.get("origin"))) if memory else None
        seen, pinned = ([known.note], known.root_keys) if known else ([], ())
        report = verify_proof(found.proof, found.digest, outside, seen=seen, max_age_days=max_age, pinned=pinned)
        if any(item.word == "other-artifact" for item in report.problems):
            # A proof holds no manifest: which file differs is known to the ledger alone, where that is here.
            here = _is_here(found, place) and found.claimed is not None
            manifest = registered_manifest(open_store(place), str(found.claimed)) if here else None
            report.problems += file_problems(found, manifest, registered=False)
        return report, "proof"
    from pedigree.ledger.verification import verify as verify_store

    store = open_store(place)
    origin = _origin(store.head().note)
    known = memory.recall(origin) if memory else None
    seen = [known.note] if known else []
    seen += found.notes if found else []
    report = verify_store(store, outside, seen=seen, max_age_days=max_age, pinned=known.root_keys if known else ())
    if found is not None:
        _narrow(report, found, store)
    return report, "ledger"


def _is_here(found: Found | None, place: str | None) -> bool:
    """Whether the ledger that a proof was made from is here: it knows more than the proof does."""
    if found is None or found.proof is None:
        return False
    try:
        return _origin(open_store(place).head().note) == found.proof.get("origin")
    except InputError:
        return False


def _origin(note: str) -> str:
    return note.partition("\n")[0]


def _narrow(report: Verification, found: Found, store: Any) -> None:
    """Keep the edges behind one artifact, and add what its files say."""
    from pedigree.ledger.directory import edges_behind, file_problems, registered_manifest
    from pedigree.ledger.lineage import Lineage

    graph = Lineage.of_entries(report.entries)
    registered = graph.maker(found.digest) is not None
    digest = found.digest if registered or found.claimed is None else found.claimed
    manifest = registered_manifest(store, found.claimed) if found.claimed else None
    report.problems += file_problems(found, manifest, registered)
    report.edges = edges_behind(report.edges, digest, graph)
    life = set(graph.closure(digest))
    report.problems = [item for item in report.problems if item.entry is None or item.entry in life]


def _remember(report: Verification, place: str | None, memory: Any, out: Output) -> None:
    from pedigree.ledger.note import Checkpoint

    note = Checkpoint.from_note(open_store(place).head().note)
    if not memory.remember(note, report.root_keys):
        out.warn(f"what was seen of this ledger could not be kept in {memory.path}")


def verification_lines(report: Verification, found: Found | None, source: str) -> list[Line]:
    """The answer for a terminal: verdict first, then what was checked, problems, edges, and what was not checked."""
    verdict = report.verdict
    head = f"{report.size:,} entries of {report.origin}" if report.origin else f"{report.size:,} entries"
    lines: list[Line] = [(Span(verdict, STYLES[verdict]), Span("   " + head))]
    if found is not None:
        lines.append(_row("files", f"{found.artifact.bytes:,} bytes, {found.artifact.id[:23]}..."))
    n_leaves = report.size if source == "ledger" else len(report.entries)
    others = f"{report.outside} checkpoints from before or elsewhere"
    lines.append(_row("checked", f"{n_leaves:,} leaves, {report.signatures:,} signatures, {others}"))
    held = "no checkpoint held outside covers anything: the owner could write it anew"
    if report.anchored:
        held = f"the first {report.anchored:,} entries are under a checkpoint held outside"
    lines.append(_row("tier", f"{report.tier}, {held}"))
    for problem in report.problems[:SHOWN]:
        lines.append((Span(f"{'problem':<12}", "bold"), Span(f"{problem.verdict:<13}", STYLES[problem.verdict]),
                      Span(problem.sentence)))  # fmt: skip
    if len(report.problems) > SHOWN:
        lines.append(_row("", f"and {len(report.problems) - SHOWN} more problems (--json has all)"))
    lines += [edge_line(edge) for edge in report.edges[-SHOWN:]]
    if len(report.edges) > SHOWN:
        lines.append(_row("", f"and {len(report.edges) - SHOWN} edges before these (--json has all)"))
    lines += [_row("" if i else "not checked", sentence) for i, sentence in enumerate(report.not_checked)]
    return lines


def edge_line(edge: Edge) -> Line:
    """One edge: verdict, what was made from what, and why the verdict is no better."""
    child = f"{edge.child_name or 'unnamed'} {short(edge.child)}"
    parent = f"{edge.parent_name or 'unnamed'} {short(edge.parent)}".strip()
    text = f"{child} <- {edge.operation} <- {parent}   entry {edge.entry}"
    if edge.verdict not in ("VERIFIED", "DECLARED"):
        text += f"; {edge.why}"
    return (Span(f"{'edge':<12}", "bold"), Span(f"{edge.verdict:<13}", STYLES[edge.verdict]), Span(text))


def _row(label: str, text: str) -> Line:
    return (Span(f"{label:<12}", "bold"), Span(text))
