"""`pedigree plan RECIPE`: what a recipe would make and what it would take, before anything is allocated."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from pedigree.cli.errors import DONE
from pedigree.cli.options import COMPUTE, INPUT, ColorOption, JsonOption, check_word, parse_size
from pedigree.cli.output import Output
from pedigree.errors import UsageError

if TYPE_CHECKING:
    from pedigree.family.devices import Device
    from pedigree.family.memory import Recompute
    from pedigree.family.sections import Size
    from pedigree.records.plan import Plan

# Repeated from pedigree.family, whose import would slow every start; a test holds them together.
SIZE_WORDS = ("pico", "real")
RECOMPUTE_WORDS = ("none", "selective", "full")


def plan(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML file, one family.", show_default=False)],
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Plan this step only; may be given again.", envvar="PEDIGREE_ONLY",
            rich_help_panel=INPUT, show_default=False,
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="pico or real; by default what the recipe means.", envvar="PEDIGREE_SIZE",
            rich_help_panel=INPUT, show_default=False,
        ),
    ] = None,
    json: JsonOption = False,
    color: ColorOption = None,
    mesh: Annotated[
        str | None,
        typer.Option(
            metavar="AXES", help="dp=..,tp=..,ep=..,pp=..; also vpp, zero, noop, micro.", envvar="PEDIGREE_MESH",
            rich_help_panel=COMPUTE, show_default=False,
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="ascend-910a, ascend-910b, a100-80gb, h100, h200; cpu is measured.",
            envvar="PEDIGREE_DEVICE", rich_help_panel=COMPUTE, show_default=False,
        ),
    ] = None,
    peak_flops: Annotated[
        float | None,
        typer.Option(
            metavar="RATE", help="Peak operations per second of a device, such as 989e12.",
            envvar="PEDIGREE_PEAK_FLOPS", rich_help_panel=COMPUTE, show_default=False,
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="Memory of a device, such as 80GB.", envvar="PEDIGREE_MEMORY",
            rich_help_panel=COMPUTE, show_default=False,
        ),
    ] = None,
    efficiency: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE", help="Share of the peak that training reaches, such as 0.4.",
            envvar="PEDIGREE_EFFICIENCY", rich_help_panel=COMPUTE, show_default=False,
        ),
    ] = None,
    recompute: Annotated[
        str | None,
        typer.Option(
            metavar="WORD", help="Activations computed again: none, selective or full.",
            envvar="PEDIGREE_RECOMPUTE", rich_help_panel=COMPUTE, show_default=False,
        ),
    ] = None,
) -> int:  # fmt: skip
    """Plan a family at its true size: parameters, operations, memory, time. Nothing is allocated.

    [bold]Examples[/bold]

    pedigree plan recipes/quickstart.yaml --device cpu

    pedigree plan recipes/pangu-ultra.yaml --size real --mesh dp=128,tp=8,pp=8,noop=2,zero=1 --device ascend-910b

    pedigree plan recipes/pangu-pro-moe.yaml --size real --only pangu-pro-moe --json
    """
    from pedigree.family.mesh import parse_mesh
    from pedigree.family.plan import PlanOptions, plan_recipe
    from pedigree.family.recipe import read_recipe

    out = Output(json=json, color=color)
    if efficiency is not None and not 0 < efficiency <= 1:
        raise UsageError("this is no share", where="--efficiency", got=efficiency, expected="above 0, at most 1")
    options = PlanOptions(
        size=cast("Size | None", check_word(size, SIZE_WORDS, option="--size") if size else None),
        only=tuple(only or ()),
        mesh=parse_mesh(mesh) if mesh else None,
        device=chosen_device(device, peak_flops, memory),
        recompute=cast(
            "Recompute | None", check_word(recompute, RECOMPUTE_WORDS, option="--recompute") if recompute else None
        ),
        efficiency=efficiency,
    )
    show(plan_recipe(read_recipe(recipe), options), out)
    return DONE


def chosen_device(name: str | None, peak: float | None, memory: str | None) -> Device | None:
    """The device that is meant: one of the table, changed where a rate or a memory is given, or one made of these.

    Raises:
        UsageError: no such device, or a rate or memory that is none.
    """
    from dataclasses import replace

    from pedigree.family.devices import DEFAULT_EFFICIENCY, Device, device

    if peak is not None and not 0 < peak < float("inf"):
        raise UsageError("this is no rate", where="--peak-flops", got=peak, expected="operations per second")
    size = parse_size(memory, option="--memory") if memory else None
    if name is None and peak is None and size is None:
        return None
    if name is None and peak is None:
        raise UsageError(
            "a memory alone is no device", where="--memory", got=memory, fix="--device NAME, or --peak-flops beside it"
        )
    base = device(name) if name is not None else Device("this device", None, {}, DEFAULT_EFFICIENCY)
    base = base if peak is None else replace(base, peak={"any": peak}, note="as given")
    return base if size is None else replace(base, memory=size)


def show(plan: Plan, out: Output) -> None:
    """Print the plan in the mode of `out`, warnings on stderr."""
    from pedigree.cli.version import installed_version

    producer = plan.producer.model_copy(update={"version": installed_version("llm-pedigree") or "unknown"})
    plan = plan.model_copy(update={"producer": producer})
    if out.mode == "json":
        out.result(plan.to_json())
    else:
        from pedigree.cli.plan_table import plan_lines

        out.lines(plan_lines(plan, width=out.width))
    for warning in plan.warnings:
        out.warn(warning)
