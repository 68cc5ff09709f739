"""The benchmark's numbers as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

Row = Mapping[str, Any]

COLUMNS = ("size", "pair", "what", "seconds", "of reading", "processor", "peak memory", "of it private")
COLUMNS += ("bytes read", "of both", "from disk", "answer")
PAIRS = {
    "child": "every number of the parent plus noise of a tenth of its spread, as fine-tuning would leave",
    "deepened": "a child with one new layer in its middle",
    "disguised": "a child with gains folded, residual stream rotated, feed-forward units and heads in another order",
    "stranger": "same shapes and tokenizer, other numbers",
}
SHAPES = {"0.5b": "Qwen2.5-0.5B", "1.5b": "Qwen2.5-1.5B", "7b": "Llama-2-7B"}
YARDSTICK = "reading both once"
TIMES = 5.0
"""How many times faster than the fastest peer that gets the same pairs right a comparison is meant to be."""

Seconds = Mapping[tuple[str, str], float]


def yardsticks(rows: Iterable[Row]) -> dict[tuple[str, str], float]:
    """Seconds for reading both sides once, by size and pair."""
    return {(row["size"], row["pair"]): row["seconds"] for row in rows if row["what"] == YARDSTICK}


def render_table(rows: Sequence[Row], *, base: Seconds, header: bool = True) -> str:
    """Rows as a Markdown table; `base` gives the seconds of the yardstick for each (size, pair)."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)] if header else []
    for row in rows:
        seconds = base.get((row["size"], row["pair"]))
        cells = [
            row["size"],
            row["pair"],
            row["what"],
            _number(row["seconds"], "{:.1f}"),
            _ratio(row["seconds"], seconds),
            _number(row.get("processor_seconds"), "{:.1f}"),
            _bytes(row["peak_bytes"]),
            _bytes(row["private_bytes"]),
            _bytes(row["asked_bytes"]),
            _percent(row["asked_bytes"], row["total_bytes"]),
            _bytes(row["disk_bytes"]),
            row["answer"].replace("|", "/"),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def render_page(context: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """The whole page: how it was measured, where, the tables, the promises held against them."""
    base = yardsticks(rows)
    tables = []
    for size, group in groupby(rows, key=lambda row: row["size"]):
        of_size = list(group)
        repeats = max(row["repeats"] for row in of_size)
        counted = "one run each" if repeats == 1 else f"medians of {repeats} runs"
        tables.append(f"## {size}: two checkpoints, {_bytes(of_size[0]['total_bytes'])} together, {counted}\n")
        tables.append(render_table(of_size, base=base) + "\n")
    versions = ", ".join(f"{name} {version}" for name, version in context["versions"].items())
    shown = {row["pair"] for row in rows}
    pairs = "\n".join(f"- **{name}**: {words}." for name, words in PAIRS.items() if name in shown)
    return _PAGE.format(
        **{key: context[key] for key in ("commit", "date", "cpu", "cores", "system", "python", "load", "command")},
        memory=_bytes(context["memory_bytes"]),
        versions=versions,
        pairs=pairs,
        promises=_promises(rows, base),
        claim=_claim(rows),
        shapes=" and ".join(SHAPES.get(size, size) for size in dict.fromkeys(row["size"] for row in rows)),
        peers=_peers(rows),
        tables="\n".join(tables),
    )


_PAGE = """# What a comparison costs

Written by `{command}`; not by hand.

Commit {commit}, {date}. {cpu}, {cores} cores, {memory} of memory, {system}, Python {python}, {versions}.
Load average from {load[0]} to {load[1]} during the run, its own work included. Above the number of cores others were
using the machine: compare the lines of one pair, not seconds of two pages.

## How it was measured

Synthetic bfloat16 checkpoints with the shapes, file layout and tokenizer size of {shapes} are
written to disk. Their numbers are Gaussian, which is enough for cost and says nothing about accuracy. Pairs, each with
the same parent:

{pairs}

Each line is a fresh process, imports included, started after `posix_fadvise(DONTNEED)` on all files of both sides: the
page cache is cold. Programs and libraries are warm. Thread settings are each program's own.

- *of reading*: seconds as a multiple of those for reading the weight files of both sides once, from start to end,
  in the same run.
- *processor*: seconds on processors, of all threads and of the kernel for them: the least disturbed by others.
- *peak memory*: most resident memory, counted by the kernel; pages of memory-mapped files, which it may take back at
  any time, are included. *Of it private*: the part that is not such pages, sampled every 10 ms.
- *bytes read*: what the program says it read, tokenizers and headers included; over HTTP, what the server sent.
- *from disk*: what the kernel fetched from storage for the process, its read-ahead included; over HTTP the server
  reads.

A peer that gives a score and no word is taken to say *related* above a mean cosine of 0.1, AWM's z of 3, a p-value of
1e-6 (CSU, MATCH, polar trace), an invariant cosine of 0.5 (HuRef) or an alignment of 0.8 (REEF). Of the published
methods AWM is the released program, the others are those of `pedigree bench`, on whole tensors; they are stopped at a
time limit.

## Promises

{promises}

{claim}

## Peers that give the same answers

{peers}

{tables}"""


def _promises(rows: Sequence[Row], base: Seconds) -> str:
    """The stated limits on the largest size measured, each beside its worst number."""
    sizes = [row["size"] for row in rows]
    size = sizes[-1] if sizes else ""
    standard = [r for r in rows if r["size"] == size and r["what"] == "pedigree, standard" and r["asked_bytes"]]
    http = [r for r in rows if r["size"] == size and r["what"] == "pedigree, glance over HTTP" and r["asked_bytes"]]
    found: list[tuple[str, float, float, str]] = []
    whole = [r for r in rows if r["what"] == "pedigree, auto" and r["size"] == size and r["asked_bytes"]]
    full = [r for r in rows if r["what"] == "pedigree, full" and r["asked_bytes"]]
    if whole:
        found.append(("by default: peak memory, GB", max(r["peak_bytes"] for r in whole) / 1e9, 2.0, "{:.2f}"))
    if full:
        worst = max(r["peak_bytes"] for r in full) / 1e9
        found.append(("full, largest of any size: peak memory, GB", worst, 2.0, "{:.2f}"))
    if standard:
        found.append(("standard: peak memory, GB", max(r["peak_bytes"] for r in standard) / 1e9, 2.0, "{:.2f}"))
        share = max(100 * r["asked_bytes"] / r["total_bytes"] for r in standard)
        found.append(("standard: share of the bytes read, %", share, 10.0, "{:.2f}"))
        times = max(r["seconds"] / base[r["size"], r["pair"]] for r in standard)
        found.append(("standard: seconds as a multiple of reading both once", times, 1.0, "{:.2f}"))
    if http:
        share = max(100 * r["asked_bytes"] / r["total_bytes"] for r in http)
        found.append(("glance over HTTP: share of the bytes sent, %", share, 1.0, "{:.3f}"))
    lines = [f"| on {size} | worst measured | limit | |", "| --- | --- | --- | --- |"]
    for words, value, limit, form in found:
        kept = "kept" if value < limit else "**not kept**"
        lines.append(f"| {words} | {form.format(value)} | < {limit:g} | {kept} |")
    return "\n".join(lines)


OURS = "pedigree, auto"


def _claim(rows: Sequence[Row]) -> str:
    """The fastest peer that answers right, pair by pair and over all pairs of a size, and its time over ours."""
    lines = [f"| size | pair | ours | fastest peer that is right | theirs | times ours, {TIMES:g} wanted | |"]
    lines.append("| --- | --- | ---: | --- | ---: | ---: | --- |")
    for size in dict.fromkeys(row["size"] for row in rows):
        of_size = [row for row in rows if row["size"] == size]
        ours = {row["pair"]: row for row in of_size if row["what"] == OURS}
        peers = dict.fromkeys(row["what"] for row in of_size if not row["what"].startswith(("pedigree", YARDSTICK)))
        if not ours or not peers:
            continue
        right = {
            peer: {row["pair"]: row["seconds"] for row in of_size if row["what"] == peer and row.get("right")}
            for peer in peers
        }
        for pair, row in ours.items():
            able = {peer: seconds[pair] for peer, seconds in right.items() if pair in seconds}
            lines.append(_claim_line(size, pair, row["seconds"] if row.get("right") else None, able))
        whole = {peer: sum(seconds.values()) for peer, seconds in right.items() if set(ours) <= set(seconds)}
        own = sum(row["seconds"] for row in ours.values()) if all(row.get("right") for row in ours.values()) else None
        lines.append(_claim_line(size, f"all {len(ours)}", own, whole))
    return "\n".join(lines)


def _claim_line(size: str, pair: str, own: float | None, able: Mapping[str, float]) -> str:
    said = _number(own, "{:.1f}") if own is not None else "not right"
    if not able:
        return f"| {size} | {pair} | {said} | none | - | - | {'no peer is right' if own is not None else '-'} |"
    peer = min(able, key=lambda name: able[name])
    if own is None:
        return f"| {size} | {pair} | {said} | {peer} | {able[peer]:.1f} | - | **not kept** |"
    times = able[peer] / own
    kept = "kept" if times >= TIMES else "**not kept**"
    return f"| {size} | {pair} | {said} | {peer} | {able[peer]:.1f} | {times:.1f} | {kept} |"


def _peers(rows: Sequence[Row]) -> str:
    """For every peer the pairs that it gets right, and its seconds on them as a multiple of ours."""
    lines = ["| size | peer | right on | seconds | ours on the same | times ours |"]
    lines.append("| --- | --- | --- | ---: | ---: | ---: |")
    for size in dict.fromkeys(row["size"] for row in rows):
        of_size = [row for row in rows if row["size"] == size]
        ours = {row["pair"]: row["seconds"] for row in of_size if row["what"] == OURS and row.get("right")}
        peers = dict.fromkeys(row["what"] for row in of_size if not row["what"].startswith(("pedigree", YARDSTICK)))
        for peer in peers:
            lines.append(_peer_line(size, peer, [row for row in of_size if row["what"] == peer], ours))
    return "\n".join(lines)


def _peer_line(size: str, peer: str, rows: Sequence[Row], ours: Mapping[str, float]) -> str:
    right = [row for row in rows if row.get("right") and row["pair"] in ours]
    stopped = sum(row.get("right") is None for row in rows)
    names = f"{len(right)} of {len(rows)}: {', '.join(row['pair'] for row in right)}" if right else "none"
    names += f"; no answer on {stopped}" if stopped else ""
    theirs, own = sum(row["seconds"] for row in right), sum(ours[row["pair"]] for row in right)
    cells = [size, peer, names, *((f"{theirs:.1f}", f"{own:.1f}", f"{theirs / own:.1f}") if right else ("-",) * 3)]
    return "| " + " | ".join(cells) + " |"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _ratio(value: float | None, base: float | None) -> str:
    return "-" if value is None or not base else f"{value / base:.2f}"


def _percent(value: int | None, total: int) -> str:
    return "-" if value is None or not total else f"{100 * value / total:.2f} %"


def _bytes(value: int | None) -> str:
    if value is None:
        return "-"
    return f"{value / 1e9:.2f} GB" if value >= 1e9 else f"{value / 1e6:.1f} MB"
