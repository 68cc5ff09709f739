"""`pedigree surgery`: operators on checkpoints of any size, planned, run, resumed and verified."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pedigree.cli.errors import CANNOT_SAY, DONE, SAYS_NO
from pedigree.cli.files import GO_ON
from pedigree.cli.options import COMPUTE, INPUT, OUTPUT, ColorOption, ForceOption, JsonOption, QuietOption
from pedigree.cli.output import Output
from pedigree.cli.recording import UnrecordedOption, recorder_for
from pedigree.cli.version import producer
from pedigree.errors import UsageError

if TYPE_CHECKING:
    from pedigree.records.comparison import Record

RecipeArgument = Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML file of steps.", show_default=False)]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Threads; by default two to four for each core, 4 to 16.", envvar="PEDIGREE_WORKERS", min=1,
        max=64, rich_help_panel=COMPUTE, show_default=False,
    ),
]  # fmt: skip
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "--output",
        "-o",
        metavar="DIR",
        help="Where the result goes, in place of what the recipe says.",
        envvar="PEDIGREE_OUT",
        rich_help_panel=OUTPUT,
        show_default=False,
    ),
]


def ops(json: JsonOption = False, color: ColorOption = None) -> int:
    """Every operator: what it does, how exact it is, what it needs, where it comes from.

    [bold]Examples[/bold]

    pedigree surgery ops

    pedigree surgery ops --json
    """
    from pedigree.cli.surgery_answers import operator_lines
    from pedigree.records.surgery import OperatorFacts, OperatorList
    from pedigree.surgery.catalog import OPERATORS

    out = Output(json=json, color=color)
    facts = [
        OperatorFacts(
            name=one.name, summary=one.summary, classes={name: kind.word for name, kind in one.classes.items()},
            needs=one.needs, source=one.source, verbs=list(one.verbs), parameters=one.parameters.model_json_schema(),
        )
        for one in OPERATORS
    ]  # fmt: skip
    return _print(OperatorList(operators=facts, producer=producer()), out, operator_lines)


def plan(
    recipe: RecipeArgument,
    probe: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Text to forecast the damage on, with its name as the domain; may be given again.",
            envvar="PEDIGREE_PROBE",
            rich_help_panel=INPUT,
            show_default=False,
        ),
    ] = None,
    out_dir: OutOption = None,
    workers: WorkersOption = None,
    json: JsonOption = False,
    color: ColorOption = None,
) -> int:
    """What a recipe would do: tensors, bytes, memory, exactness, config. Only headers are read, but for --probe.

    The recipe is one of ours or a mergekit YAML.

    [bold]Examples[/bold]

    pedigree surgery plan swap.yaml --probe english.txt --probe chinese.txt

    pedigree surgery plan grow.yaml

    pedigree surgery plan grow.yaml --json
    """
    from pedigree.cli.surgery_answers import plan_lines, plan_record
    from pedigree.surgery.composition import compose
    from pedigree.surgery.foreign import read_any_recipe
    from pedigree.surgery.moments import carried
    from pedigree.surgery.plan import make_plan

    out = Output(json=json, color=color)
    asked, notes = read_any_recipe(recipe, out_dir)
    composition = compose(asked)
    try:
        record = plan_record(make_plan(composition, workers=workers))
        if asked.optimizer is not None:
            moved = carried(composition, asked.optimizer)
            notes = (*notes, *moved.symbolic.notes, f"optimizer: its state goes to {moved.recipe.target}")
            moved.source.close()
        if probe:
            from pedigree.surgery.forecast import forecast
            from pedigree.tokenizers.texts import read_text

            damage = forecast(composition, [read_text(file) for file in probe], progress=out.progress())
            record = record.model_copy(update={"damage": damage})
    finally:
        composition.close()
    record = record.model_copy(update={"warnings": [*notes, *record.warnings]})
    return _print(record.model_copy(update={"producer": producer()}), out, plan_lines)


def run(
    recipe: RecipeArgument,
    out_dir: OutOption = None,
    workers: WorkersOption = None,
    unrecorded: UnrecordedOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
    color: ColorOption = None,
    force: ForceOption = False,
) -> int:
    """Do what a recipe says. The same command goes on after an interruption; the target is absent or complete.

    [bold]Examples[/bold]

    pedigree surgery run grow.yaml

    pedigree surgery run grow.yaml --force --json
    """
    from pedigree.cli.surgery_answers import run_lines, run_record
    from pedigree.surgery.composition import compose
    from pedigree.surgery.engine import run as run_plan
    from pedigree.surgery.foreign import read_any_recipe
    from pedigree.surgery.moments import carry
    from pedigree.surgery.plan import check_target, make_plan

    out = Output(json=json, quiet=quiet, color=color)
    asked, notes = read_any_recipe(recipe, out_dir)
    for note in notes:
        out.note(note)
    composition = compose(asked)
    try:
        planned = make_plan(composition, workers=workers)
        check_target(planned, force=force)
        GO_ON.append(f"finished tensors are in {planned.partial}; the same command goes on from there")
        lines = planned.target.with_name(planned.target.name + ".jsonl")
        with recorder_for(lines, out.warn, unrecorded=unrecorded) as recorder:
            told = carry(composition, recorder, workers=workers, force=force, progress=out.progress())
            outcome = run_plan(planned, recorder, force=force, progress=out.progress())
            outcome.notes.extend(told)
        GO_ON.pop()
        record = run_record(planned, outcome, recorder.stamp)
    finally:
        composition.close()
    code = _print(record.model_copy(update={"producer": producer()}), out, run_lines, str(planned.target))
    if recorder.stamp.get("record") != "unrecorded":
        out.note(f"record: {planned.target.with_name(planned.target.name + '.jsonl')}")
    return code


def verify(
    target: Annotated[Path, typer.Argument(metavar="DIR", help="What surgery run has made.", show_default=False)],
    source: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE",
            help="The source, where it has moved.",
            envvar="PEDIGREE_SOURCE",
            rich_help_panel=INPUT,
            show_default=False,
        ),
    ] = None,
    tokens: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Tokens to compare on.",
            envvar="PEDIGREE_TOKENS",
            min=1,
            max=16384,
            rich_help_panel=COMPUTE,
        ),
    ] = 256,
    seed: Annotated[
        int,
        typer.Option(metavar="N", help="Seed of the random tokens.", envvar="PEDIGREE_SEED", rich_help_panel=COMPUTE),
    ] = 0,
    json: JsonOption = False,
    quiet: QuietOption = False,
    color: ColorOption = None,
) -> int:
    """Run source and result layer by layer on the same tokens, and hold the difference against the claim.

    [bold]Examples[/bold]

    pedigree surgery verify grown

    pedigree surgery verify grown --tokens 4096 --json
    """
    from pedigree.cli.surgery_answers import check_lines
    from pedigree.surgery.verify import verify as hold_against

    out = Output(json=json, quiet=quiet, color=color)
    record = hold_against(target, source=source, tokens=tokens, seed=seed, progress=out.progress())
    _print(record.model_copy(update={"producer": producer()}), out, check_lines, record.verdict)
    return {"fail": SAYS_NO, "not-testable": CANNOT_SAY}.get(record.verdict, DONE)


def _print(record: Record, out: Output, lines: Callable[..., Any], short: str = "") -> int:
    """Print a record in the mode that was asked for."""
    out.clear_status()
    if out.mode == "json":
        out.result(record.to_json())
    elif out.mode == "quiet":
        out.result(short)
    else:
        out.lines(lines(record))
    for warning in getattr(record, "warnings", ()):
        out.warn(warning)
    return DONE


COMMANDS: tuple[Callable[..., int], ...] = (ops, plan, run, verify)


def surgery_app(settings: dict[str, Any], epilog: str) -> typer.Typer:
    """The noun with its verbs."""
    group = typer.Typer(add_completion=False, rich_markup_mode="rich", context_settings=settings, epilog=epilog)

    @group.callback(invoke_without_command=True)
    def surgery(context: typer.Context) -> None:
        """Grow, narrow, cast and change checkpoints of any size, exactly where it can be exact.

        [bold]Examples[/bold]

        pedigree surgery ops

        pedigree surgery plan grow.yaml
        """
        if context.invoked_subcommand is None:
            raise UsageError("a verb is missing", where="pedigree surgery", fix="pedigree surgery --help")

    for command in COMMANDS:
        group.command(context_settings=settings, epilog=epilog, no_args_is_help=command is not ops)(command)
    return group
