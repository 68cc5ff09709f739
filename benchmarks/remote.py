"""`pedigree compare` at a glance on checkpoints of 14 B parameters behind a hub that is slow, refuses, breaks and lies.

    python benchmarks/remote.py --write                       # writes benchmarks/remote.md
    python benchmarks/remote.py --size tiny --link honest     # seconds: does the script still work?

The checkpoints lie nowhere: each byte is worked out when it is asked for (`drawn_checkpoint.py`), by a hub with a
token and a storage host behind it (`drawn_hub.py`). Every line is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from compare import ROOT, _machine
from drawn_checkpoint import SHAPES, DrawnCheckpoint
from drawn_hub import DrawnHub, Link
from measurement import run_cold

HERE = Path(__file__).resolve().parent
TOKEN = "hf_of_the_benchmark"
PLAIN = Link(token=TOKEN)
LINKS: dict[str, tuple[Link, str]] = {
    "honest": (PLAIN, "answers at once"),
    "far": (replace(PLAIN, latency_s=0.05), "50 ms before each answer"),
    "slow": (replace(PLAIN, latency_s=0.02, bytes_per_s=2.5e7), "200 Mbit/s for all connections together, 20 ms"),
    "breaks": (replace(PLAIN, reset_every=25), "one answer of 25 ends after half of its body"),
    "refuses": (replace(PLAIN, refuse_every=150), "one answer of 150 is 429 with Retry-After: 1, or 503"),
    "all of it": (
        replace(PLAIN, latency_s=0.02, bytes_per_s=2.5e7, reset_every=25, refuse_every=150),
        "slow, far, breaking and refusing at once",
    ),
    "no token": (replace(PLAIN, token="another"), "wants a token that the client does not have"),
    "lying length": (replace(PLAIN, lie="length"), "Content-Length contradicts Content-Range"),
    "lying range": (replace(PLAIN, lie="range"), "sends other bytes than were asked for, and says so"),
    "no ranges": (replace(PLAIN, lie="whole"), "sends the whole file, status 200"),
    "changed": (replace(PLAIN, lie="tag"), "the ETag changes on the way, as when the file is replaced"),
}
HONEST = ("honest", "far", "slow", "breaks", "refuses", "all of it")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for and print it; 1 where an honest link brought no right answer."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--size", choices=sorted(SHAPES), default="14b")
    parser.add_argument("--link", choices=list(LINKS), action="append", help="default: all; may be given again")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    parser.add_argument("--write", action="store_true", help="write benchmarks/remote.md from this run")
    options = parser.parse_args(arguments)
    chosen = list(dict.fromkeys(options.link or LINKS))
    started, loads = datetime.now(UTC), [os.getloadavg()[0]]
    models = {kind: DrawnCheckpoint(SHAPES[options.size], kind) for kind in ("parent", "child", "stranger")}
    rows = []
    for name in chosen:
        for kind in ("child", "stranger") if name == "honest" else ("child",):
            rows.append(_measure(models, name, kind))
            loads.append(os.getloadavg()[0])
            print(_line(rows[-1]), flush=True)
    words = " ".join(f"--link '{name}'" for name in options.link or ())
    context = {
        **_machine(),
        "date": f"{started:%Y-%m-%d}",
        "load": [round(min(loads), 1), round(max(loads), 1)],
        "command": f"python benchmarks/remote.py --size {options.size} {words}".strip() + " --write",
        "size": options.size,
        "total": 2 * models["parent"].weight_bytes,
    }
    if options.json:
        options.json.write_text(json.dumps({"context": context, "rows": rows}, indent=2))
    if options.write:
        (HERE / "remote.md").write_text(render(context, rows), encoding="utf-8")
    return int(any(row["link"] in HONEST and row["kind"] == "child" and row["answer"] != "related" for row in rows))


def _measure(models: dict[str, DrawnCheckpoint], name: str, kind: str) -> dict[str, Any]:
    link, _ = LINKS[name]
    repositories = {"org/parent": models["parent"], "org/other": models[kind]}
    with tempfile.TemporaryDirectory(prefix="pedigree-benchmark-home-") as home, DrawnHub(repositories, link) as hub:
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "HOME": home, "HF_HOME": home}
        environment |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN}
        command = [sys.executable, "-m", "pedigree", "compare", "hf://org/parent", "hf://org/other"]
        cost = run_cold([*command, "--depth", "glance", "--json"], [], environment=environment, limit_s=900)
    record = json.loads(cost.stdout) if cost.stdout.startswith("{") else None
    said = record["result"]["verdict"] if record else _first_line(cost.stderr) or cost.failure()
    digests = [record["inputs"][side].get("digest") for side in "ab"] if record else []
    return {
        "link": name, "kind": kind, "seconds": cost.seconds, "peak_bytes": cost.peak_bytes, "answer": said,
        "exit_code": cost.exit_code, "sent": hub.sent, "read": record["result"]["read"]["bytes"] if record else None,
        "requests": hub.requests, "resets": hub.resets, "refusals": hub.refusals, "leaks": hub.leaks,
        "digests": digests,
    }  # fmt: skip


def _first_line(text: str) -> str:
    line = text.strip().splitlines()[0] if text.strip() else ""
    return re.sub(r"^error: ", "", line)[:160]


COLUMNS = ("hub", "B is", "seconds", "requests", "broken", "refused", "token seen by storage", "sent", "of both",
           "peak memory", "answer")  # fmt: skip


def _line(row: dict[str, Any], total: int | None = None) -> str:
    share = "" if total is None else f"{100 * row['sent'] / total:.3f} %"
    cells = [row["link"], row["kind"], f"{row['seconds']:.1f}", f"{row['requests']:,}", str(row["resets"])]
    cells += [str(row["refusals"]), str(row["leaks"]), f"{row['sent'] / 1e6:.1f} MB", share]
    cells += [f"{row['peak_bytes'] / 1e6:.0f} MB", f"{row['answer']} (exit code {row['exit_code']})".replace("|", "/")]
    return "| " + " | ".join(cells) + " |"


def render(context: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    """The whole page."""
    total = context["total"]
    table = "\n".join(
        ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS), *(_line(row, total) for row in rows)]
    )
    hubs = "\n".join(
        f"- **{name}**: {words}." for name, (_, words) in LINKS.items() if name in {r["link"] for r in rows}
    )
    honest = [row for row in rows if row["link"] in HONEST]
    promises = []
    if honest:
        worst = max(100 * row["sent"] / total for row in honest)
        promises.append(f"| share of the bytes sent, % | {worst:.3f} | < 1 | {_kept(worst < 1)} |")
        seen = {tuple(row["digests"]) for row in honest if row["kind"] == "child"}
        kept = _kept(len(seen) == 1 and all(next(iter(seen))))
        promises.append(f"| different digests of what was read of one pair | {len(seen)} | 1 | {kept} |")
    leaks = sum(row["leaks"] for row in rows)
    promises.append(f"| answers of storage that saw the token | {leaks} | 0 | {_kept(leaks == 0)} |")
    versions = ", ".join(f"{name} {version}" for name, version in context["versions"].items())
    load = context["load"]
    return f"""# A comparison over the network

Written by `{context["command"]}`; not by hand.

Commit {context["commit"]}, {context["date"]}. {context["cpu"]}, {context["cores"]} cores, {context["system"]}, Python
{context["python"]}, {versions}. Load average from {load[0]} to {load[1]}; the hub that works the bytes out takes part
of the same processor.

`pedigree compare hf://org/parent hf://org/other --depth glance` on two checkpoints shaped like
{SHAPES[context["size"]].like}, {total / 1e9:.1f} GB together, behind a hub that wants a token and redirects to a
storage host. Numbers are Gaussian: enough for cost, nothing about accuracy. A glance cannot clear a stranger;
`inconclusive` is its right answer there.

{hubs}

| | measured | limit | |
| --- | --- | --- | --- |
{chr(10).join(promises)}

{table}

A connection that ends early is asked again from where it ended; bytes that came twice are in *sent* and not in what the
program counts. Where the hub lies or withholds, the answer is one sentence and exit code 2.
"""


def _kept(kept: bool) -> str:
    return "kept" if kept else "**not kept**"


if __name__ == "__main__":
    raise SystemExit(main())
