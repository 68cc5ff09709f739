"""`pedigree bench make|run|score|report`: families with known truth, our methods and others, one table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pedigree.cli.errors import CANNOT_SAY, DONE
from pedigree.cli.files import GO_ON, check_free, write_file
from pedigree.cli.options import COMPUTE, INPUT, OUTPUT, ColorOption, ForceOption, JsonOption, QuietOption, offer
from pedigree.cli.output import Line, Output, Span
from pedigree.errors import MissingInput, UsageError

if TYPE_CHECKING:
    from pedigree.records.benchmark import Benchmark, Found, MethodScore

_Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the benchmark lies.", show_default=False)]
_Size = Annotated[
    str,
    typer.Option(
        metavar="SIZE", envvar="PEDIGREE_SIZE", rich_help_panel=INPUT, autocompletion=offer("nano", "pico", "micro"),
        help="nano: models of 200 k parameters; pico: of 60 k, for a first look; micro: of 600 k, shaped otherwise.",
    ),
]  # fmt: skip
_Only = Annotated[
    list[str] | None,
    typer.Option(
        metavar="WORD", help="Models whose name holds this word; may be given again.", envvar="PEDIGREE_ONLY",
        rich_help_panel=INPUT, show_default=False,
    ),
]  # fmt: skip
_Seed = Annotated[
    int,
    typer.Option(
        metavar="N", help="Draw all starts, texts and derivations anew; the reported benchmark has 0.",
        envvar="PEDIGREE_SEED", min=0, max=9999, rich_help_panel=INPUT,
    ),
]  # fmt: skip
_Methods = Annotated[
    list[str] | None,
    typer.Option(
        "--method", metavar="NAME", help="This method alone; may be given again.", envvar="PEDIGREE_METHOD",
        rich_help_panel=INPUT, show_default=False,
    ),
]  # fmt: skip
_Processes = Annotated[
    int,
    typer.Option(
        metavar="N", help="Processes, each with one thread.", envvar="PEDIGREE_WORKERS", min=1, max=64,
        rich_help_panel=COMPUTE,
    ),
]  # fmt: skip


def make(
    folder: _Folder, size: _Size = "nano", seed: _Seed = 0, only: _Only = None, workers: _Processes = 1,
    json: JsonOption = False, quiet: QuietOption = False, color: ColorOption = None,
) -> int:  # fmt: skip
    """Train the families and derive their members. What is there already is kept.

    [bold]Examples[/bold]

    pedigree bench make my-benchmark --size pico

    pedigree bench make my-benchmark --only llama-t0 --workers 2
    """
    out = Output(json=json, quiet=quiet, color=color)
    from pedigree.benchmark.families import foundry
    from pedigree.benchmark.families.members import members
    from pedigree.benchmark.families.sizes import scale_of

    scale = scale_of(size, seed)
    everyone = members(size, seed)
    asked = foundry.wanted(everyone, only or ())
    if not asked:
        raise UsageError("no model of that name", got=", ".join(only or ()), expected="part of a name", where="--only")
    there = set(foundry.made(folder, everyone, scale)) if folder.is_dir() else set()
    todo = [member for member in asked if member.name not in there]
    minutes = foundry.estimate(todo, scale) / 60 / workers
    out.note(f"{len(todo)} of {len(asked)} models are to be made: about {minutes:.0f} minutes on {workers} free cores")
    folder.mkdir(parents=True, exist_ok=True)
    GO_ON.append(f"finished models, if any, are in {folder}; the same command goes on from there")
    made = foundry.make(folder, everyone, asked, scale, workers=workers, told=out.progress())
    out.clear_status()
    if out.mode == "json":
        _show_step(
            out, step="make", folder=str(folder), size=size, asked=len(asked), done=len(made.names),
            failures=made.failures,
        )  # fmt: skip
    elif out.mode == "quiet":
        out.result(str(len(made.names)))
    else:
        out.result(f"{len(made.names)} of {len(asked)} models lie in {folder}")
    for name, why in made.failures.items():
        out.warn(f"{name} was not made: {why}")
    return DONE if made.names else CANNOT_SAY


def run(
    folder: _Folder, size: _Size = "nano", seed: _Seed = 0, only: _Only = None, methods: _Methods = None,
    workers: _Processes = 1, json: JsonOption = False, quiet: QuietOption = False, color: ColorOption = None,
) -> int:  # fmt: skip
    """Ask every method about every pair of models that is there. Answers that are there are kept.

    [bold]Examples[/bold]

    pedigree bench run my-benchmark --size pico

    pedigree bench run my-benchmark --method awm --method pedigree_standard
    """
    out = Output(json=json, quiet=quiet, color=color)
    from pedigree.benchmark import runs
    from pedigree.benchmark.exam import exam
    from pedigree.benchmark.methods import chosen_methods

    chosen = chosen_methods(methods or ())
    paper = exam(_there(folder), size, only or (), seed=seed)
    for method in chosen:
        if method.missing():
            out.note(f"{method.name} is left out: {method.missing()}")
    GO_ON.append(f"answers so far, if any, are in {folder}; the same command goes on from there")
    counts = runs.run(folder, paper.tasks, chosen, workers=workers, told=out.progress())
    out.clear_status()
    if out.mode == "json":
        _show_step(
            out, step="run", folder=str(folder), size=size, asked=len(paper.tasks), done=sum(counts.values()),
            answers=counts, failures={method.name: why for method in chosen if (why := method.missing())},
        )  # fmt: skip
    elif out.mode == "quiet":
        out.result(str(sum(counts.values())))
    else:
        made, in_all = paper.models()
        out.result(
            f"{sum(counts.values())} answers to {len(paper.tasks)} questions; {made} of {in_all} models are there"
        )
    return DONE if paper.tasks else CANNOT_SAY


def score(
    folder: _Folder, size: _Size = "nano", seed: _Seed = 0, only: _Only = None, methods: _Methods = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "--out", "-o", metavar="FILE", help="Write the record here too.", envvar="PEDIGREE_OUTPUT",
            rich_help_panel=OUTPUT, show_default=False,
        ),
    ] = None,
    json: JsonOption = False, quiet: QuietOption = False, color: ColorOption = None, force: ForceOption = False,
) -> int:  # fmt: skip
    """Hold the answers against the truth: one table on the test split, thresholds from the calibration split.

    [bold]Examples[/bold]

    pedigree bench score my-benchmark

    pedigree bench score my-benchmark -o scores.json
    """
    out = Output(json=json, quiet=quiet, color=color)
    if output is not None:
        check_free(output, force=force)
    from pedigree.benchmark.exam import exam
    from pedigree.benchmark.methods import chosen_methods
    from pedigree.benchmark.scoring import score as score_all
    from pedigree.forensics.comparison.record import producer

    chosen = chosen_methods(methods or ())
    paper = exam(_there(folder), size, only or (), seed=seed)
    asked = {"size": size, "seed": seed, "only": list(only or ()), "methods": [method.name for method in chosen]}
    record = score_all(folder, paper, chosen, asked).model_copy(update={"producer": producer()})
    if out.mode == "json":
        out.result(record.to_json())
    elif out.mode == "quiet":
        for method in record.result.methods:
            out.result(f"{method.name} {method.area.value}")
    else:
        out.lines(answer_lines(record))
    for name, why in record.result.skipped.items():
        out.warn(f"{name} has no score: {why}")
    for words in record.warnings:
        out.warn(words)
    if output is not None:
        out.note(write_file(output, record.to_json() + "\n", force=force))
    return DONE if record.result.methods else CANNOT_SAY


def report(
    scores: Annotated[Path, typer.Argument(metavar="SCORES", help="The record of bench score.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "--out", "-o", metavar="FILE", envvar="PEDIGREE_OUTPUT", rich_help_panel=OUTPUT,
            help="The page, must be named: HTML, or Markdown tables where it ends in .md.", show_default=False,
        ),
    ] = None,
    quiet: QuietOption = False, color: ColorOption = None, force: ForceOption = False,
) -> int:  # fmt: skip
    """Draw the leaderboard as a page with pictures, from the record alone.

    [bold]Examples[/bold]

    pedigree bench score my-benchmark -o scores.json

    pedigree bench report scores.json -o leaderboard.html
    """
    out = Output(quiet=quiet, color=color)
    if output is None:
        raise UsageError("where the page goes is missing", expected="-o FILE", fix="-o leaderboard.html")
    check_free(output, force=force)
    if not scores.is_file():
        raise MissingInput("there is no record of scores", where=str(scores), fix="pedigree bench score FOLDER -o FILE")
    from pedigree.records.benchmark import Benchmark
    from pedigree.report.benchmark_page import render_benchmark
    from pedigree.report.benchmark_table import benchmark_markdown

    record = Benchmark.from_json(scores.read_text(encoding="utf-8"), where=str(scores))
    text = benchmark_markdown(record) if output.suffix == ".md" else render_benchmark(record)
    out.note(write_file(output, text, force=force))
    return DONE


def _show_step(out: Output, **fields: Any) -> None:
    from pedigree.forensics.comparison.record import producer
    from pedigree.records.benchmark import BenchmarkStep

    out.result(BenchmarkStep(producer=producer(), **fields).to_json())


def _there(folder: Path) -> Path:
    if not folder.is_dir():
        raise MissingInput("there is no benchmark", where=str(folder), fix=f"pedigree bench make {folder}")
    return folder


def answer_lines(record: Benchmark) -> list[Line]:
    """How much was there, then a line for each method."""
    there = record.result.coverage
    head = (
        f"{there.models_made} of {there.models} models, {there.relatives} related and {there.strangers} unrelated pairs"
        f" of {there.families} test families"
    )
    lines: list[Line] = [[Span(head)], [Span("")]]
    lines.append(
        [Span(f"{'method':<32} {'area':>6} {'at 0 false':>10} {'found':>11} {'false':>9} {'seconds':>8}", "bold")]
    )
    lines += [[Span(_method_line(method))] for method in record.result.methods]
    return lines


def _method_line(method: MethodScore) -> str:
    area = "-" if method.area.value is None else f"{method.area.value:.3f}"
    best = "-" if method.zero_false.value is None else f"{method.zero_false.value:.0%}"
    found = method.by_verdict or method.by_threshold
    alarms = method.verdict_alarms or method.threshold_alarms
    wrong = f"{alarms.wrong}/{alarms.strangers}"
    seconds = "-" if method.seconds is None else f"{method.seconds:.3f}"
    return f"{method.title:<32} {area:>6} {best:>10} {_share(found):>11} {wrong:>9} {seconds:>8}"


def _share(found: Found) -> str:
    return f"{found.found}/{found.of}"


def bench_app(settings: dict[str, Any], epilog: str) -> typer.Typer:
    """The noun with its verbs."""
    group = typer.Typer(add_completion=False, rich_markup_mode="rich", context_settings=settings, epilog=epilog)

    @group.callback(invoke_without_command=True)
    def bench(context: typer.Context) -> None:
        """Families with known truth: how often methods are right, ours and those of others.

        [bold]Examples[/bold]

        pedigree bench make my-benchmark --size pico

        pedigree bench run my-benchmark --size pico

        pedigree bench score my-benchmark --size pico -o scores.json
        """
        if context.invoked_subcommand is None:
            raise UsageError("a verb is missing", where="pedigree bench", fix="pedigree bench --help")

    for name, command in (("make", make), ("run", run), ("score", score), ("report", report)):
        group.command(name, context_settings=settings, epilog=epilog, no_args_is_help=True)(command)
    return group
