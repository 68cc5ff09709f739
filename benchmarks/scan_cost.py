"""Bytes and dollars for a thousand models: what a fingerprint and a glance read, by size of model, times stated prices.

    python benchmarks/scan_cost.py --measure          # asks a local hub for five shapes; writes scan_cost.json
    python benchmarks/scan_cost.py --write            # works the costs out and writes them into docs/guide/scanning.md
    python benchmarks/scan_cost.py --share 7b=1 --price-per-gb 0 --price-per-core-hour 0.02

Bytes are what the hub sent, processor seconds what the kernel counted for the command, start included.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
MEASURED = HERE / "scan_cost.json"
PAGE = ROOT / "docs" / "guide" / "scanning.md"
BEGIN, END = "<!-- begin: python benchmarks/scan_cost.py --write -->", "<!-- end -->"

SHARES = {"0.5b": 0.36, "1.5b": 0.2, "3b": 0.12, "7b": 0.26, "14b": 0.06}
"""Of a thousand models (assumed: nobody counts the Hub by size; most uploads are tunings of small bases)."""

PER_GB, PER_CORE_HOUR = 0.09, 0.0408
PRICES = (
    "$0.09 a GB is what a large cloud asks for bytes that leave it, up to 10 TB a month (AWS, internet egress; "
    "www.egresscost.com/aws), and $0.0408 an hour of one core is half of its general machine with two (m7g.large, "
    "$0.0816, us-east-1, June 2026; www.factualminds.com, Amazon EC2 On-Demand pricing); both looked up on 2026-11-29. "
    "Reading from the Hub itself costs the reader nothing but patience: the first price falls on whoever serves."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, or work out and print or write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--measure", action="store_true", help="measure bytes and seconds by size (minutes)")
    parser.add_argument("--size", action="append", choices=list(SHARES), help="measure these sizes only")
    parser.add_argument("--write", action="store_true", help="write the block of docs/guide/scanning.md")
    parser.add_argument("--share", action="append", metavar="SIZE=SHARE", help="other shares of sizes")
    parser.add_argument("--price-per-gb", type=float, default=PER_GB, metavar="DOLLARS")
    parser.add_argument("--price-per-core-hour", type=float, default=PER_CORE_HOUR, metavar="DOLLARS")
    options = parser.parse_args(arguments)
    if options.measure:
        known = json.loads(MEASURED.read_text(encoding="utf-8")) if options.size and MEASURED.is_file() else None
        MEASURED.write_text(json.dumps(measure(options.size or list(SHARES), known), indent=1) + "\n", encoding="utf-8")
        return 0
    measured = json.loads(MEASURED.read_text(encoding="utf-8"))
    if options.write:
        text = PAGE.read_text(encoding="utf-8")
        head, rest = text.split(BEGIN)
        PAGE.write_text(head + block(measured) + rest.split(END, 1)[1], encoding="utf-8")
        return 0
    words = [pair.split("=") for pair in options.share or ()]
    shares = {size: float(share) for size, share in words} or SHARES
    print(table(measured, shares, options.price_per_gb, options.price_per_core_hour))
    return 0


def measure(sizes: Sequence[str], known: dict[str, Any] | None = None) -> dict[str, Any]:
    """Bytes sent and processor seconds of `fingerprint` and of a glance at one model more, by size."""
    from drawn_checkpoint import SHAPES, DrawnCheckpoint
    from drawn_hub import DrawnHub, Link

    out: dict[str, Any] = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "sizes": dict((known or {}).get("sizes", {}))}
    for size in sizes:
        models = {"org/a": DrawnCheckpoint(SHAPES[size], "parent"), "org/b": DrawnCheckpoint(SHAPES[size], "child")}
        row: dict[str, Any] = {"like": SHAPES[size].like, "bytes": models["org/a"].weight_bytes}
        with DrawnHub(models, Link()) as hub, tempfile.TemporaryDirectory() as home:
            environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "HF_ENDPOINT": hub.url, "HOME": home}
            for name, words in (
                ("fingerprint", ["fingerprint", "hf://org/a", "-o", f"{home}/a.fingerprint"]),
                ("glance", ["compare", "hf://org/a", "hf://org/b", "--depth", "glance", "--quiet"]),
            ):
                before, sent, asked = _children_s(), hub.sent, hub.requests
                subprocess.run(
                    [sys.executable, "-m", "pedigree", *words], env=environment, check=True, stdout=subprocess.DEVNULL
                )
                # A glance reads two models; in a scan one of them is the candidate.
                models_read = 2 if name == "glance" else 1
                row[name] = {
                    "sent": (hub.sent - sent) // models_read,
                    "requests": (hub.requests - asked) // models_read,
                    "core_s": round(_children_s() - before, 1),
                }
            row["fingerprint"]["file"] = Path(f"{home}/a.fingerprint").stat().st_size
        out["sizes"][size] = row
        print(size, row, file=sys.stderr, flush=True)
    return out


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def per_thousand(measured: Mapping[str, Any], shares: Mapping[str, float], what: str) -> tuple[float, float]:
    """Gigabytes and core hours of a thousand models of these shares."""
    total = sum(shares.values())
    rows = [(share / total, measured["sizes"][size][what]) for size, share in shares.items()]
    return sum(s * r["sent"] for s, r in rows) * 1e3 / 1e9, sum(s * r["core_s"] for s, r in rows) * 1e3 / 3600


def table(measured: Mapping[str, Any], shares: Mapping[str, float], per_gb: float, per_core_hour: float) -> str:
    """By size, and a thousand models together, as Markdown."""
    total = sum(shares.values())
    lines = [
        "| size | shaped like | of a thousand | weights | fingerprint reads | its file | a glance reads | requests |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for size, share in shares.items():
        row = measured["sizes"][size]
        print_, glance = row["fingerprint"], row["glance"]
        lines.append(
            f"| {size} | {row['like']} | {1000 * share / total:.0f} | {row['bytes'] / 1e9:.1f} GB "
            f"| {print_['sent'] / 1e6:.0f} MB | {print_['file'] / 1e6:.1f} MB | {glance['sent'] / 1e6:.0f} MB "
            f"| {print_['requests']:,} / {glance['requests']:,} |"
        )
    whole = sum(share / total * measured["sizes"][size]["bytes"] for size, share in shares.items()) * 1e3 / 1e9
    lines += ["", "| a thousand models | read | core hours | transfer | processor | together |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: |")
    for words, what in (("a fingerprint of each", "fingerprint"), ("a glance at each", "glance")):
        gb, hours = per_thousand(measured, shares, what)
        cost = gb * per_gb, hours * per_core_hour
        lines.append(f"| {words} | {gb:,.0f} GB | {hours:.1f} | ${cost[0]:.2f} | ${cost[1]:.2f} | ${sum(cost):.2f} |")
    lines.append(f"| all weights, for comparison | {whole:,.0f} GB | - | ${whole * per_gb:,.2f} | - | - |")
    return "\n".join(lines)


def block(measured: Mapping[str, Any]) -> str:
    """The block of the guide, marks included."""
    shown = table(measured, SHARES, PER_GB, PER_CORE_HOUR)
    return (
        f"{BEGIN}\n{shown}\n\nBytes are what a hub on this machine sent, requests what it answered "
        f"(fingerprint / glance), measured on {measured['date']}; a glance counts one\nof its two models. "
        f"Processor seconds are those of whole commands, start included: `library add` pays the start once.\n"
        f"The shares of sizes are assumed, not counted. Prices: {PRICES}\n{END}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
