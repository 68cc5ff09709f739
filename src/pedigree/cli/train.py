"""`pedigree train RECIPE`: the models of a recipe are trained, guarded and recorded; interrupted work goes on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from pedigree.cli.errors import DONE, SAYS_NO
from pedigree.cli.files import GO_ON
from pedigree.cli.interruption import INTERRUPTED
from pedigree.cli.options import COMPUTE, DANGEROUS, INPUT, OUTPUT, ColorOption, JsonOption, QuietOption, check_word
from pedigree.cli.output import Output
from pedigree.cli.plan import SIZE_WORDS, SizeOption
from pedigree.cli.recording import UnrecordedOption
from pedigree.cli.version import producer
from pedigree.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pedigree.family.recipe import Family
    from pedigree.family.sections import Size
    from pedigree.records.training_run import StepResult
    from pedigree.training.progress import Beat
    from pedigree.training.run import Start

# The options belong to it: they say which step, which settings, which folder. Those that begin anew do not.
SAME_COMMAND = "the same command, without --fresh or --force, goes on from there"


OnlyOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME", help="Train this step only; may be given again.", envvar="PEDIGREE_ONLY",
        rich_help_panel=INPUT, show_default=False,
    ),
]  # fmt: skip
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Another training setting, such as optimizer.lr=0.001; recorded.",
        envvar="PEDIGREE_SET", rich_help_panel=INPUT, show_default=False,
    ),
]  # fmt: skip
FolderOption = Annotated[
    Path | None,
    typer.Option(
        "--out", "--output", "-o", metavar="DIR", help="Folder of the family; by default runs/FAMILY.",
        envvar="PEDIGREE_OUT", rich_help_panel=OUTPUT, show_default=False,
    ),
]  # fmt: skip
DeviceOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="cpu, cuda, npu, mps; by default what is here.", envvar="PEDIGREE_TORCH_DEVICE",
        rich_help_panel=COMPUTE, show_default=False,
    ),
]  # fmt: skip
ForceOption = Annotated[
    bool,
    typer.Option(
        "--force", help="Train steps anew that are finished and unchanged; as --fresh.", envvar="PEDIGREE_FORCE",
        rich_help_panel=DANGEROUS,
    ),
]  # fmt: skip
ResumeOption = Annotated[
    bool | None,
    typer.Option(
        "--resume/--fresh", help="Demand a checkpoint to go on from, or begin anew over what is there.",
        envvar="PEDIGREE_RESUME", rich_help_panel=DANGEROUS, show_default=False,
    ),
]  # fmt: skip


def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML file, one family.", show_default=False)],
    only: OnlyOption = None,
    size: SizeOption = None,
    settings: SetOption = None,
    output: FolderOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    color: ColorOption = None,
    device: DeviceOption = None,
    resume: ResumeOption = None,
    force: ForceOption = False,
    unrecorded: UnrecordedOption = False,
) -> int:
    """Train the models of a recipe, from their newest checkpoints; what is done and unchanged is kept.

    [bold]Examples[/bold]

    pedigree train recipes/quickstart.yaml

    pedigree train recipes/quickstart.yaml --set tokens=50000 --fresh

    torchrun --nproc-per-node 2 -m pedigree train recipes/quickstart.yaml
    """
    from pedigree.cli.train_checks import check_steps, placed
    from pedigree.cli.train_steps import parse_overrides, train_step
    from pedigree.cli.workplace import Workplace
    from pedigree.family.recipe import read_recipe
    from pedigree.training.ranks import leave_ranks
    from pedigree.weights.known_files import hashed_once

    is_first = os.environ.get("RANK", "0") == "0"
    out = Output(json=json and is_first, quiet=quiet or not is_first, color=color)
    read = read_recipe(recipe, out.progress())
    out.clear_status()
    family = read.family(cast("Size | None", check_word(size, SIZE_WORDS, option="--size") if size else None))
    overrides = parse_overrides(settings or [])
    if force and resume:
        raise UsageError("a step is either trained anew or gone on with", where="--force", got="--resume as well")
    resume = False if force else resume
    start: Start = "auto" if resume is None else "resume" if resume else "fresh"
    place = Workplace(
        read, family, output or Path("runs") / family.name, overrides, start, device, unrecorded, status(out), out.warn
    )
    GO_ON.append(f"finished steps, and states of others, are in {place.output} if there are any; {SAME_COMMAND}")
    results: list[StepResult] = []
    steps = [family.steps[name] for name in _wanted(family, only or [])]
    check_steps(place, steps)
    for step in steps:
        with hashed_once(), placed(place.output):
            result = train_step(place, step)
        out.clear_status()
        results.append(result)
        if is_first and out.mode in ("human", "plain"):
            show_step(result, out)
        if result.outcome != "finished":
            break
    leave_ranks()
    if is_first and out.mode == "json":
        out.result(_record(recipe, read.digest, overrides, results))
    elif is_first and out.mode == "quiet":
        out.result(results[-1].outcome)
    return _code(results[-1])


def _wanted(family: Family, only: list[str]) -> list[str]:
    """The steps to train, in the order in which they can be."""
    for name in only:
        if name not in family.steps:
            check_word(name, family.steps, option="--only")
    return [name for name in family.steps if not only or name in only]


def status(out: Output) -> Callable[[str, Beat], None] | None:
    """What keeps the one status line."""
    line = out.progress()
    if line is None:
        return None

    def show(step: str, beat: Beat) -> None:
        share = f", {100 * beat.utilization:.0f} % of matmul rate" if beat.utilization is not None else ""
        line(
            f"{step} {beat.step}/{beat.steps}",
            beat.step / beat.steps,
            f"{beat.tokens:,} tokens  loss {beat.loss:.3f}  gradient {beat.grad_norm:.2f}  "
            f"{beat.tokens_per_second:,.0f} tokens/s{share}",
        )

    return show


def show_step(result: StepResult, out: Output) -> None:
    """One run in a few lines."""
    if result.skipped:
        out.result(f"{result.step}: unchanged since it was trained, in {result.model}; --fresh trains it anew")
        return
    share = f", {100 * result.utilization:.0f} % of the measured matmul rate" if result.utilization is not None else ""
    out.result(
        f"{result.step}: {result.outcome} at step {result.steps:,}, {result.tokens:,} tokens, loss {result.loss:.3f} "
        f"({result.tokens_per_second:,.0f} tokens/s{share})"
    )
    if result.scores:
        scores = ", ".join(f"{score.domain} {score.bits_per_byte:.3f}" for score in result.scores)
        out.result(f"  bits per byte on held-out text: {scores}")
    if result.arithmetic:
        shares = ", ".join(f"{name} {100 * value:.0f} %" for name, value in result.arithmetic.items())
        out.result(f"  sums that are right: {shares}")
    if result.experts is not None:
        out.result(f"  {result.experts['sentence']}")
    told = [decision for decision in result.decisions if decision["action"] != "clip"]
    for decision in told[:3]:
        out.result(f"  guard: step {decision['step']}: {decision['action']}, {decision['why']}")
    if len(told) > 3:
        out.result(f"  guard: {len(told) - 3} more decisions, in {result.output}/run.jsonl")
    if result.model:
        out.result(f"  weights in {result.model}, report in {result.report}")


def _record(recipe: Path, digest: str, overrides: dict[str, object], results: list[StepResult]) -> str:
    from pedigree.records.training_run import RecipeInput, TrainingInputs, TrainingRun

    record = TrainingRun(
        producer=producer(),
        inputs=TrainingInputs(recipe=RecipeInput(path=str(recipe), digest=digest, overrides=overrides)),
        result=results,
    )
    return record.to_json()


def _code(result: StepResult) -> int:
    if result.outcome == "finished":
        return DONE
    if result.outcome == "stopped":
        return SAYS_NO
    GO_ON.append(f"step {result.steps:,} is saved in {result.output}; {SAME_COMMAND}")
    return INTERRUPTED
