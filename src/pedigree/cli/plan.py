"""`pedigree plan RECIPE`: what a recipe would make and what it would take, before anything is allocated."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from pedigree.cli.errors import DONE
from pedigree.cli.options import COMPUTE, INPUT, ColorOption, JsonOption, check_word, offer, parse_size
from pedigree.cli.output import Output
from pedigree.cli.version import producer
from pedigree.errors import UsageError

if TYPE_CHECKING:
    from pedigree.family.devices import Device
    from pedigree.family.memory import Recompute
    from pedigree.family.sections import Size
    from pedigree.records.plan import Plan

# Repeated from pedigree.family, whose import would slow every start; a test holds them together.
SIZE_WORDS = ("pico", "real")
RECOMPUTE_WORDS = ("none", "selective", "full")


OnlyOption = Annotated[
    list[str] | None,
    typer.Option(
        "--only", metavar="NAME", help="Plan this step only; may be given again.", envvar="PEDIGREE_ONLY",
        rich_help_panel=INPUT, show_default=False,
    ),
]  # fmt: skip
SizeOption = Annotated[
    str | None,
    typer.Option(
        "--size", metavar="SIZE", help="pico or real; by default what the recipe means.", envvar="PEDIGREE_SIZE",
        rich_help_panel=INPUT, show_default=False, autocompletion=offer(*SIZE_WORDS),
    ),
]  # fmt: skip


def _compute(metavar: str, words: str, variable: str) -> Any:
    """An option of the group Compute."""
    return typer.Option(
        metavar=metavar, help=words, envvar=f"PEDIGREE_{variable}", rich_help_panel=COMPUTE, show_default=False
    )


MeshOption = Annotated[
    str | None, _compute("AXES", "Devices along each axis: dp=64,tp=8,ep=2,pp=5; also vpp, zero, noop, micro.", "MESH")
]
DeviceOption = Annotated[
    str | None, _compute("NAME", "ascend-910a, ascend-910b, a100-80gb, h100, h200; cpu is measured.", "DEVICE")
]
RateOption = Annotated[
    float | None, _compute("RATE", "Peak operations per second of a device, such as 989e12.", "PEAK_FLOPS")
]
MemoryOption = Annotated[str | None, _compute("SIZE", "Memory of a device, such as 80GB.", "MEMORY")]
ShareOption = Annotated[
    float | None, _compute("SHARE", "Share of the peak that training reaches, such as 0.4.", "EFFICIENCY")
]
RecomputeOption = Annotated[
    str | None, _compute("WORD", "Activations computed again: none, selective or full.", "RECOMPUTE")
]


def plan(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML file, one family.", show_default=False)],
    only: OnlyOption = None,
    size: SizeOption = None,
    json: JsonOption = False,
    color: ColorOption = None,
    mesh: MeshOption = None,
    device: DeviceOption = None,
    peak_flops: RateOption = None,
    memory: MemoryOption = None,
    efficiency: ShareOption = None,
    recompute: RecomputeOption = None,
) -> int:
    """Plan a family at its true size: parameters, operations, memory, time. Nothing is allocated.

    [bold]Examples[/bold]

    pedigree plan recipes/quickstart.yaml --device cpu

    pedigree plan recipes/dense-230b.yaml --size real --mesh dp=32,tp=8,pp=12,zero=1

    pedigree plan recipes/pangu-pro-moe.yaml --size real --only general --json
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
    read = read_recipe(recipe, out.progress())
    out.clear_status()
    show(plan_recipe(read, options), out)
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

    plan = plan.model_copy(update={"producer": producer()})
    if out.mode == "json":
        out.result(plan.to_json())
    else:
        from pedigree.cli.plan_table import plan_lines

        out.lines(plan_lines(plan, width=out.width))
    for warning in plan.warnings:
        out.warn(warning)
