"""A plan for a terminal: at most 25 lines of at most 100 columns, and two for each model that operators make.

One step in full, several as a table.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

from pedigree.cli.output import Line, Span, shorten
from pedigree.records.plan import OperationPlan, Plan, StepPlan
from pedigree.report.numbers import bytes_text, percent_text, seconds_text
from pedigree.report.plain_text import printable

MAX_LINES = 25
_LABEL = 13
_SCALES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
_OPERATIONS = ((1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"), (1e3, "kFLOP"))
_PARTS = {
    "embedding": "embedding", "positions": "positions", "head": "head", "attention": "attention",
    "feed_forward": "feed-forward", "experts": "experts", "shared_experts": "shared experts", "router": "router",
    "shortcuts": "shortcuts", "norms": "norms", "mtp": "multi-token (apart)",
}  # fmt: skip


def count_words(count: float) -> str:
    """A count at four significant digits: 71.99 B, 1.085 T, 412.3 k."""
    for scale, name in _SCALES:
        if count >= 0.99995 * scale:
            return f"{count / scale:.4g} {name}"
    return f"{count:.0f}"


def operation_words(count: float) -> str:
    """Floating-point operations: 100.3 GFLOP; 1.30e+24 FLOP beyond the units."""
    if count >= 1e15:
        return f"{count:.2e} FLOP".replace("e+", "e")
    for scale, name in _OPERATIONS:
        if count >= scale:
            return f"{count / scale:.4g} {name}"
    return f"{count:.0f} FLOP"


def time_words(seconds: float) -> str:
    """A long time span: 42 s, 3 min 5 s, 7.2 hours, 61 days, 12 years."""
    for size, name in ((365.25 * 86400, "years"), (86400, "days"), (3600, "hours")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.3g} {name}"
    return seconds_text(seconds)


def plan_lines(plan: Plan, *, width: int) -> list[Line]:
    """The plan as lines of `width` columns."""
    result = plan.result
    count = len(result.steps) + len(result.operations)
    many = f"{count} steps" if count != 1 else "1 step"
    head = f"{result.family} at {result.size} size, {many}" + (f": {result.about}" if result.about else "")
    first: Line = [Span(shorten(head, width), "bold")]
    if len(result.steps) == 1:
        body = _step_lines(result.steps[0], width)
    else:
        body = _table(result.steps, width) if result.steps else []
    lines = [first, *body][:MAX_LINES]
    for operation in result.operations:
        lines += _operation_lines(operation, width)
    for one in result.evaluations:
        words = f"{one.name}: {', '.join(one.models)} on {one.corpus}, up to {one.tokens:,} tokens of each domain"
        lines += _labelled("measured", words, width)
    return lines


def _operation_lines(operation: OperationPlan, width: int) -> list[Line]:
    """One model that operators make: two lines."""
    origin = " and ".join(dict.fromkeys(operation.parents.values()))
    done = ", ".join(f"{one['operator']} {one['exactness']}" for one in operation.operators)
    words = f"{operation.name} from {origin}: {done}; {operation.exactness} in all"
    size = f"{count_words(operation.parameters.total)} parameters, {operation.shape}"
    return [*_labelled("operators", words, width, 1), *_labelled("", size, width, 1)]


def _labelled(label: str, text: str, width: int, most: int = 2, style: str = "") -> list[Line]:
    room = width - _LABEL
    glued = re.sub(r"(?<=\d) (?=[A-Za-z])", "\N{NO-BREAK SPACE}", printable(text))  # a number keeps its unit
    lines = textwrap.wrap(glued, room, break_on_hyphens=False) or [""]
    lines = [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]
    if len(lines) > most:
        lines = [*lines[: most - 1], shorten(" ".join(lines[most - 1 :]), room)]
    labels = [label, *[""] * (len(lines) - 1)]
    return [[Span(f"{name:<{_LABEL}}", "bold"), Span(line, style)] for name, line in zip(labels, lines, strict=True)]


def _step_lines(step: StepPlan, width: int) -> list[Line]:
    p, ops, memory = step.parameters, step.operations, step.memory
    parts = ", ".join(f"{_PARTS[key]} {count_words(n)}" for key, n in p.by_part.items())
    origin = " from " + ", ".join(step.parents.values()) if step.parents else " from random weights"
    lines = _labelled("step", f"{step.name}: {step.kind}{origin}, {step.digest[:19]}", width, 1)
    lines += _labelled("model", f"{step.member}: {step.shape}", width)
    lines += _labelled("assumed", step.assumed, width, 1) if step.assumed else []
    bare = f" ({count_words(p.active_without_embedding)} without the embedding)"
    lines += _labelled("parameters", f"{count_words(p.total)} in all, {count_words(p.active)} active{bare}", width)
    lines += _labelled("by part", parts, width, 3)
    words = f"{operation_words(ops.training)} a token in training; forward {operation_words(ops.forward)}: "
    words += (
        f"matrices {operation_words(ops.matrices)}, attention {operation_words(ops.attention)} at {ops.context} tokens"
    )
    lines += _labelled("operations", words, width)
    words = (
        f"{count_words(step.tokens)} of {step.corpus} in {step.steps:,} steps of {count_words(step.tokens_per_step)}"
    )
    lines += _labelled("tokens", f"{words}; {operation_words(ops.run)} in all", width)
    lines += _labelled("mesh", _mesh_words(step), width)
    lines += _labelled(
        "memory", f"{bytes_text(memory.total)} a device{_of(memory.available)}: " + _memory_words(step), width
    )
    choices = ", ".join(f"{key} {bytes_text(size)}" for key, size in memory.activations_by_recompute.items())
    lines += _labelled("recompute", f"{memory.recompute}; activations with {choices}", width)
    serving = step.serving
    words = f"weights {bytes_text(serving.weights)} in 16 bits, cache {bytes_text(serving.cache_per_token)} a token, "
    words += f"{bytes_text(serving.cache_at_context)} at {serving.context} tokens"
    lines += _labelled("serving", words, width)
    lines += _labelled("time", _time_words(step), width)
    return lines


def _mesh_words(step: StepPlan) -> str:
    mesh = step.mesh
    devices = "1 device" if mesh.devices == 1 else f"{mesh.devices:,} devices"
    axes = f"dp={mesh.dp} tp={mesh.tp} ep={mesh.ep} pp={mesh.pp} zero={mesh.zero} micro={mesh.micro}"
    axes += "".join(f" {key}={size}" for key, size in (("vpp", mesh.vpp), ("noop", mesh.noop)) if size > (key == "vpp"))
    return f"{devices}: {axes}, {step.precision}"


def _of(available: int | None) -> str:
    return f" of {bytes_text(available)}" if available else ""


def _memory_words(step: StepPlan) -> str:
    memory = step.memory
    parts = ("weights", "gradients", "optimizer", "gathered", "activations", "logits")
    named = [f"{part} {bytes_text(getattr(memory, part))}" for part in parts if getattr(memory, part)]
    stage = f" (stage {memory.stage + 1} of {step.mesh.pp})" if step.mesh.pp > 1 else ""
    return ", ".join(named) + stage


def _time_words(step: StepPlan) -> str:
    time = step.time
    if time is None:
        return "unknown; --device NAME or --peak-flops gives an estimate"
    waiting = f", stages wait {percent_text(time.bubble)}" if time.bubble else ""
    rate = f"{step.mesh.devices:,} x {time.device} at {percent_text(time.efficiency)} of {time.peak / 1e12:.4g} TFLOP/s"
    return f"about {time_words(time.seconds)} on {rate}{waiting}"


_COLUMNS = ("step", "parameters", "active", "a token", "tokens", "in all", "a device", "time")


def _table(steps: Sequence[StepPlan], width: int) -> list[Line]:
    """One row for each step, the rest told below where there are too many."""
    rows = [_row(step) for step in steps]
    shown = rows[: MAX_LINES - 4]
    widths = [max(len(row[i]) for row in [_COLUMNS, *shown]) for i in range(len(_COLUMNS))]
    others = sum(widths[1:]) + 2 * (len(widths) - 1)
    widths[0] = min(widths[0], max(8, width - others))

    def line(row: Sequence[str], style: str = "") -> Line:
        cells = [f"{shorten(row[0], widths[0]):<{widths[0]}}"]
        cells += [f"{cell:>{size}}" for cell, size in zip(row[1:], widths[1:], strict=True)]
        return [Span("  ".join(cells)[:width], style)]

    lines = [line(_COLUMNS, "bold"), *(line(row) for row in shown)]
    if len(rows) > len(shown):
        lines.append([Span(f"and {len(rows) - len(shown)} more (--json has all)")])
    known = [step.time.seconds for step in steps if step.time is not None]
    total = f"in all: {operation_words(sum(step.operations.run for step in steps))}"
    total += f", about {time_words(sum(known))} one after the other" if known else ""
    lines.append([Span(total)])
    lines.append([Span(f"--only {shorten(steps[-1].name, 40)} shows one step in full")])
    return lines


def _row(step: StepPlan) -> tuple[str, ...]:
    return (
        step.name, count_words(step.parameters.total), count_words(step.parameters.active),
        operation_words(step.operations.training), count_words(step.tokens), operation_words(step.operations.run),
        bytes_text(step.memory.total), time_words(step.time.seconds) if step.time else "-",
    )  # fmt: skip
