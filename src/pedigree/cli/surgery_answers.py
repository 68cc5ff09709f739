"""What the commands of `pedigree surgery` print for people, and the records behind it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pedigree.cli.output import Line, Span
from pedigree.records.damage import Damage
from pedigree.records.surgery import (
    LayerDrift,
    OperatorList,
    PlannedTensor,
    SurgeryBytes,
    SurgeryCheck,
    SurgeryPlan,
    SurgeryRun,
    SurgeryStep,
)

if TYPE_CHECKING:
    from pedigree.surgery.engine import Outcome
    from pedigree.surgery.plan import Plan

MOST_ROWS = 24
_STYLE = {"FP0": "green", "FP1": "green", "FP-epsilon": "yellow", "NFP": "yellow", "pass": "green", "fail": "bold red"}


def plan_record(plan: Plan) -> SurgeryPlan:
    """The record of a plan."""
    composition = plan.composition
    tensors = [
        PlannedTensor(
            name=placed.output.name, dtype=placed.output.dtype, shape=list(placed.output.shape), file=shard.name,
            bytes=placed.nbytes, kind=_kind(shard.link is not None, bool(placed.output.origin)),
        )
        for shard in plan.shards for placed in shard.tensors
    ]  # fmt: skip
    return SurgeryPlan(
        recipe=composition.recipe.resolved(),
        target=str(plan.target),
        exactness=composition.whole.word,
        steps=[
            SurgeryStep(operator=step.operator.name, parameters=step.parameters.model_dump(mode="json"),
                        exactness=found.word)
            for step, found in zip(composition.recipe.steps, composition.exactness, strict=True)
        ],
        bytes=SurgeryBytes(
            read=plan.read_bytes, written=plan.write_bytes, shared=plan.linked_bytes, peak_memory=plan.peak_bytes,
            seconds_at_1_gb_per_s=(plan.read_bytes + plan.write_bytes) / 1e9,
        ),
        tensors=tensors,
        config_changes=plan.config_changes(),
        digest=plan.digest,
        warnings=list(composition.symbolic.notes),
    )  # fmt: skip


def _kind(shared: bool, same: bool) -> Literal["shared", "copied", "computed"]:
    return "shared" if shared else "copied" if same else "computed"


def run_record(plan: Plan, outcome: Outcome, stamp: Mapping[str, Any]) -> SurgeryRun:
    """The record of a run."""
    return SurgeryRun(
        target=str(outcome.target), exactness=plan.composition.whole.word,
        seconds=outcome.seconds, read=outcome.read_bytes, written=outcome.written_bytes, shared=outcome.linked_bytes,
        resumed_tensors=outcome.resumed, digests=outcome.digests, plan=plan.digest, record=dict(stamp),
        warnings=outcome.notes,
    )  # fmt: skip


def operator_lines(record: OperatorList) -> list[Line]:
    """A table of operators."""
    width = max(len(one.name) for one in record.operators)
    lines: list[Line] = []
    for one in record.operators:
        lines.append([Span(f"{one.name:{width}}  ", "bold cyan"), Span(one.summary)])
        classes = [Span(" " * (width + 2))]
        for variant, word in one.classes.items():
            classes += [Span(f"{variant} " if variant else ""), Span(word, _STYLE[word]), Span("  ")]
        rest = [f"needs {one.needs}" if one.needs else "", one.source]
        lines.append([*classes, Span("  ".join(word for word in rest if word), "dim")])
    return lines


def plan_lines(record: SurgeryPlan) -> list[Line]:
    """A plan, short: steps, bytes, what changes."""
    lines: list[Line] = [
        [Span("exactness  ", "bold"), Span(record.exactness, _STYLE[record.exactness]),
         Span("  the smallest of its steps" if len(record.steps) > 1 else "")],
    ]  # fmt: skip
    for number, step in enumerate(record.steps, start=1):
        told = ", ".join(f"{key} {_short(value)}" for key, value in step.parameters.items() if value is not None)
        lines.append([Span(f"  {number}. "), Span(step.operator, "cyan"), Span(f"  {told}  "),
                      Span(step.exactness, _STYLE[step.exactness])])  # fmt: skip
    b = record.bytes
    lines += [
        [Span("bytes      ", "bold"), Span(f"{_gb(b.read)} read, {_gb(b.written)} written, {_gb(b.shared)} shared")],
        [
            Span("memory     ", "bold"),
            Span(f"{_gb(b.peak_memory)} for tiles and what has to be held at once"),
        ],
        [Span("time       ", "bold"), Span(f"{b.seconds_at_1_gb_per_s:.0f} s on a disk of 1 GB/s each way")],
    ]
    kinds = {kind: sum(t.kind == kind for t in record.tensors) for kind in ("computed", "copied", "shared")}
    lines.append([Span("tensors    ", "bold"), Span(", ".join(f"{n} {kind}" for kind, n in kinds.items() if n))])
    for key, (old, new) in list(record.config_changes.items())[:MOST_ROWS]:
        lines.append([Span("config     ", "bold"), Span(f"{key}: {_short(old)} -> {_short(new)}")])
    lines.append([Span("target     ", "bold"), Span(record.target)])
    return lines + (damage_lines(record.damage) if record.damage is not None else [])


def damage_lines(damage: Damage) -> list[Line]:
    """The forecast: rows, then one line for each text."""
    lines: list[Line] = []
    if damage.rows_copied is not None and damage.rows_made is not None:
        lines.append([Span("rows       ", "bold"),
                      Span(f"{damage.rows_copied:,} copied, {damage.rows_made:,} made up")])  # fmt: skip
    if damage.controls_new:
        lines.append([Span("           "), Span(f"new control tokens: {', '.join(damage.controls_new[:MOST_ROWS])}")])
    for text in damage.texts:
        told = f"{text.text}: {text.bytes_per_token_before:.2f} -> {text.bytes_per_token_after:.2f} bytes per token"
        if text.copied_share is not None:
            told += f", {text.copied_share:.1%} of tokens on copied rows"
        if text.bits_per_byte_before is not None and text.bits_per_byte_after is not None:
            told += f", {text.bits_per_byte_before:.3f} -> {text.bits_per_byte_after:.3f} bits per byte"
        if text.kl is not None:
            told += f", KL {text.kl:.3g} nats per token"
        lines.append([Span("damage     ", "bold"), Span(told)])
    if damage.why_not:
        lines.append([Span("           "), Span(f"models not run: {damage.why_not}", "dim")])
    return lines


def run_lines(record: SurgeryRun) -> list[Line]:
    """What a run did."""
    speed = (record.read + record.written) / 1e9 / max(record.seconds, 1e-9)
    lines: list[Line] = [
        [Span("wrote ", "bold"), Span(record.target)],
        [Span(f"{_gb(record.read)} read, {_gb(record.written)} written, {_gb(record.shared)} shared in "
              f"{record.seconds:.1f} s ({speed:.2f} GB/s both ways)")],
        [Span("exactness "), Span(record.exactness, _STYLE[record.exactness])],
    ]  # fmt: skip
    if record.resumed_tensors:
        lines.append([Span(f"{record.resumed_tensors} tensors were there from an earlier run")])
    return lines


def check_lines(record: SurgeryCheck) -> list[Line]:
    """What a comparison with the source says."""
    lines: list[Line] = [
        [Span(record.verdict, _STYLE.get(record.verdict, "bold")), Span(f"  {record.exactness}: {record.reason}")]
    ]
    d = record.drift
    if d is not None:
        lines.append([Span(
            f"{record.tokens} tokens: largest {d.largest:.3g}, rms {d.rms:.3g}, logits spread {d.old_spread:.3g}, "
            f"KL {d.kl:.3g} nats, same first choice {100 * d.top1_agreement:.1f} %"
        )])  # fmt: skip
    return lines + _layer_lines(record)


def _layer_lines(record: SurgeryCheck) -> list[Line]:
    """Where the two part, and the layers around it; one line where they do not."""
    if not record.layers:
        return []
    how = "each on the stream of the source" if record.layers[0].same_inputs else "by inner products of the streams"
    largest = max(record.layers, key=lambda one: one.error)
    told = f"{len(record.layers) - 1} layers, {how}: largest error {largest.error:.2g} at {_layer_name(largest)}"
    if record.departs_at is None:
        return [[Span(told)]]
    first = _layer_name(record.layers[record.departs_at + 1])
    lines: list[Line] = [[Span(told)], [Span("departs ", "bold red"), Span(f"first at {first}")]]
    for one in record.layers[max(0, record.departs_at) : record.departs_at + 5]:  # the one before it, and three behind
        mark = "departs" if one.error > one.limit else "kept"
        lines.append([Span(f"  {_layer_name(one):<28} error {one.error:.2g}, allowed {one.limit:.2g}  {mark}")])
    return lines


def _layer_name(one: LayerDrift) -> str:
    if one.layer < 0:
        return "the embeddings"
    if one.source is None:
        return f"layer {one.layer}, which adds nothing"
    return f"layer {one.layer}" + (f", of layer {one.source}" if one.source != one.layer else "")


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 10**8 else f"{size / 1e6:.2f} MB"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:36] + " ..."
