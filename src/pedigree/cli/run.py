"""`pedigree run RECIPE`: a whole family is made, its members compared, and one page says what the weights show."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from pedigree.cli.errors import DONE, SAYS_NO
from pedigree.cli.files import GO_ON, write_file
from pedigree.cli.interruption import INTERRUPTED
from pedigree.cli.options import DANGEROUS, INPUT, ColorOption, JsonOption, QuietOption, check_word
from pedigree.cli.output import Output, Span
from pedigree.cli.plan import SIZE_WORDS, SizeOption
from pedigree.cli.recording import UnrecordedOption
from pedigree.cli.train import SAME_COMMAND, DeviceOption, FolderOption, show_step, status
from pedigree.cli.version import producer
from pedigree.errors import InternalError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pedigree.cli.workplace import Workplace
    from pedigree.family.edges import Lineage, Pair
    from pedigree.family.recipe import Family
    from pedigree.family.sections import Size
    from pedigree.family.steps import Member
    from pedigree.records.family_run import EdgeResult, FamilyRun, MemberEvaluation, MemberResult
    from pedigree.training.run import Start

PAGE, RECORD, REPORTS = "family.html", "family.json", "compare"

OnlyOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME", help="This model and what it is made from; may be given again.", envvar="PEDIGREE_ONLY",
        rich_help_panel=INPUT, show_default=False,
    ),
]  # fmt: skip
CompareOption = Annotated[
    bool,
    typer.Option(
        "--compare/--no-compare", help="Compare parents with children once all are made.", envvar="PEDIGREE_COMPARE",
        rich_help_panel=INPUT,
    ),
]  # fmt: skip
FreshOption = Annotated[
    bool,
    typer.Option(
        "--fresh", help="Make everything anew, over what is there.", envvar="PEDIGREE_FRESH", rich_help_panel=DANGEROUS
    ),
]  # fmt: skip


def run(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML file, one family.", show_default=False)],
    only: OnlyOption = None,
    size: SizeOption = None,
    output: FolderOption = None,
    compare: CompareOption = True,
    json: JsonOption = False,
    quiet: QuietOption = False,
    color: ColorOption = None,
    device: DeviceOption = None,
    fresh: FreshOption = False,
    unrecorded: UnrecordedOption = False,
) -> int:
    """Make a family: train, operate, evaluate, compare every edge of its tree. What is there and unchanged is kept.

    [bold]Examples[/bold]

    pedigree run recipes/quickstart.yaml

    pedigree run recipes/quickstart.yaml --only quickstart --no-compare
    """
    from pedigree.cli.evaluate_steps import check_evaluations, evaluate_members
    from pedigree.cli.train_checks import check_steps, placed
    from pedigree.cli.workplace import Workplace
    from pedigree.family.recipe import read_recipe
    from pedigree.weights.known_files import hashed_once

    begun = time.monotonic()
    out = Output(json=json, quiet=quiet, color=color)
    read = read_recipe(recipe, out.progress())
    out.clear_status()
    family = read.family(cast("Size | None", check_word(size, SIZE_WORDS, option="--size") if size else None))
    folder = output or Path("runs") / family.name
    start: Start = "fresh" if fresh else "auto"
    place = Workplace(
        read, family, folder, {}, start, device, unrecorded, status(out), out.warn, keeps_earlier=not fresh
    )  # fmt: skip
    wanted = _wanted(family, only or [])
    check_steps(place, [family.steps[name] for name in wanted if name in family.steps], wanted)
    check_evaluations(place)
    GO_ON.append(f"what is made, if anything, is in {folder}; {SAME_COMMAND}")
    with hashed_once():
        with placed(folder):
            members, outcome = _make(place, wanted, out)
        evaluations = evaluate_members(place, members, out) if outcome == DONE else []
    edges: list[EdgeResult] = []
    if compare and outcome == DONE:
        edges = _compare(place, members, out)
    record = _record(place, members, evaluations, edges, time.monotonic() - begun)
    _finish(record, folder, out)
    if outcome == INTERRUPTED:
        return outcome
    wrong = any(edge.finding == "contradicted" and edge.standing != ["claimed"] for edge in edges)
    return outcome or (SAYS_NO if wrong else DONE)


def _wanted(family: Family, only: Sequence[str]) -> list[str]:
    """The steps to make: those asked for with everything they are made from, in order."""
    for name in only:
        if name not in family.members:
            check_word(name, family.members, option="--only")
    needed = lineage_of(family)
    wanted = set().union(*(needed.ancestors(name) for name in only)) if only else set(family.members)
    return [name for name in family.members if name in wanted]


def lineage_of(family: Family) -> Lineage:
    """Who is made from whom, and what is said."""
    from pedigree.family.edges import Lineage

    return Lineage(
        {name: tuple(step.parents.values()) for name, step in family.members.items()},
        {name: step.claims for name, step in family.members.items() if step.claims is not None},
    )


def _make(place: Workplace, names: Sequence[str], out: Output) -> tuple[list[MemberResult], int]:
    """Every step in its turn; the members, and how it ended."""
    members = []
    for name in names:
        member = _one(place, place.family.members[name], out)
        members.append(member)
        if member.outcome in ("interrupted", "stopped"):
            return members, INTERRUPTED if member.outcome == "interrupted" else SAYS_NO
    return members, DONE


def _one(place: Workplace, step: Member, out: Output) -> MemberResult:
    """One model, trained or made by operators."""
    from pedigree.cli.surgery_steps import operate, show_operated
    from pedigree.cli.train_steps import train_step
    from pedigree.family.steps import Operation, Step
    from pedigree.model.sizes import parameters
    from pedigree.records.family_run import MemberResult

    common = MemberResult(
        name=step.name, kind=step.kind, about=step.about, digest=step.digest, outcome="made",
        parents=dict(step.parents), claims=None if step.claims is None else list(step.claims),
        parameters=parameters(step.model).with_mtp,
    )  # fmt: skip
    if isinstance(step, Operation):
        done = operate(place, step, out)
        out.clear_status()
        if out.mode in ("human", "plain"):
            show_operated(step, done, out)
        return common.model_copy(
            update={
                "operators": [one.operator.name for one in step.steps],
                "outcome": "unchanged" if done.skipped else "made",
                "seconds": done.seconds, "scores": done.scores, "model": str(done.model),
                "sentence": "; ".join(filter(None, [f"{step.whole}: {_EXACTNESS[step.whole]}", done.experts])),
            }
        )  # fmt: skip
    if not isinstance(step, Step):
        raise InternalError("a kind of step that cannot be made", where=step.name, got=step.kind)
    result = train_step(place, step)
    out.clear_status()
    if out.mode in ("human", "plain"):
        show_step(result, out)
    outcome = "made" if result.outcome == "finished" else result.outcome
    return common.model_copy(
        update={
            "outcome": "unchanged" if result.skipped else outcome, "tokens": result.tokens,
            "seconds": round(result.seconds, 1), "scores": result.scores, "model": result.model,
            "report": result.report, "sentence": str((result.experts or {}).get("sentence", "")),
        }
    )  # fmt: skip


_EXACTNESS = {
    "FP0": "the function is kept bit for bit",
    "FP1": "the function is kept in real arithmetic",
    "FP-epsilon": "the function is kept within a known bound",
    "NFP": "the function is changed",
}


def _compare(place: Workplace, members: list[MemberResult], out: Output) -> list[EdgeResult]:
    """Every pair of the family whose members are made; claims are judged in place."""
    from pedigree.family.edges import claim_of, pairs_of

    made = {member.name: member for member in members}
    pairs = pairs_of(lineage_of(place.family), place.family.compare.pairs, roots=place.family.compare.roots)
    edges = []
    for pair in pairs:
        if pair.a in made and pair.b in made:
            edge = _edge(pair, made, place.output / REPORTS, out)
            edges.append(edge)
            if out.mode in ("human", "plain"):
                _show_edge(edge, out)
    for at, member in enumerate(members):
        if member.claims is not None:
            finding, why = claim_of(member.name, member.claims, edges)
            members[at] = member.model_copy(update={"claim": finding, "claim_because": why})
    return edges


def _edge(pair: Pair, made: dict[str, MemberResult], folder: Path, out: Output) -> EdgeResult:
    from pedigree.cli.compare import run_compare
    from pedigree.family.edges import edge_of
    from pedigree.report.page import render_comparison

    begun = time.monotonic()
    comparison = run_compare(str(made[pair.a].model), str(made[pair.b].model), out)
    folder.mkdir(parents=True, exist_ok=True)
    report = folder / f"{pair.a}--{pair.b}.html"
    report.write_text(render_comparison(comparison), encoding="utf-8")
    return edge_of(pair, comparison, time.monotonic() - begun, f"{REPORTS}/{report.name}")


def _show_edge(edge: EdgeResult, out: Output) -> None:
    from pedigree.cli.answer import VERDICT_STYLES
    from pedigree.report import words
    from pedigree.report.family_page import FINDING_SENTENCES

    mark = words.VERDICT_MARKS[edge.verdict][0 if out.unicode else 1]
    note = "" if edge.finding == "corroborated" else f"  ({FINDING_SENTENCES[edge.finding]})"
    names = f"{edge.a} / {edge.b}"
    out.lines([(Span(f"{names:<44}"), Span(f" {mark} {edge.verdict}", VERDICT_STYLES[edge.verdict]), Span(note))])


def _record(
    place: Workplace,
    members: list[MemberResult],
    evaluations: list[MemberEvaluation],
    edges: list[EdgeResult],
    seconds: float,
) -> FamilyRun:
    from pedigree.records.family_run import FamilyResult, FamilyRun, FamilyRunInputs
    from pedigree.records.training_run import RecipeInput

    family = place.family
    return FamilyRun(
        producer=producer(),
        inputs=FamilyRunInputs(recipe=RecipeInput(path=str(place.recipe.path), digest=place.recipe.digest)),
        result=FamilyResult(
            family=family.name, about=family.about, size=family.size, members=members, evaluations=evaluations,
            edges=edges, page=str(place.output / PAGE), seconds=round(seconds, 1),
        ),
    )  # fmt: skip


def _finish(record: FamilyRun, folder: Path, out: Output) -> None:
    """The page and the record beside the models, and the last lines of the terminal."""
    from pedigree.report.family_page import FINDING_SENTENCES, render_family

    folder.mkdir(parents=True, exist_ok=True)
    page = folder / PAGE
    write_file(page, render_family(record), force=True)
    write_file(folder / RECORD, record.to_json() + "\n", force=True)
    result = record.result
    if out.mode == "json":
        out.result(record.to_json())
        return
    if out.mode == "quiet":
        out.result(str(page))
        return
    for member in result.members:
        if member.claim is not None:
            said = f"from {', '.join(member.claims)}" if member.claims else "trained from scratch"
            out.result(f"{member.name}: said to be {said}; {FINDING_SENTENCES[member.claim]}: {member.claim_because}")
    agree = sum(edge.finding == "corroborated" for edge in result.edges)
    out.result(f"{len(result.members)} models, {agree} of {len(result.edges)} edges as made or said; page in {page}")
