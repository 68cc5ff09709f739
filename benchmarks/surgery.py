"""What `pedigree surgery` costs on checkpoints of real sizes, beside mergekit and the disk itself, measured in one run.

    python benchmarks/surgery.py --size 3b --mergekit VENV/bin/mergekit-yaml      # prints a table
    python benchmarks/surgery.py --size 3b --size 7b --write                      # and writes benchmarks/surgery.md
    python benchmarks/surgery.py --size tiny                                      # seconds: does the script still work?

A checkpoint is written to disk (`checkpoints.py`), operated on, and every result is deleted again; a folder that was
there before (`--workdir`) is used and kept. Every measurement is a process of its own, started after the source was
dropped from the page cache. Before and after each pair of programs the disk is measured on the same file system, with
direct reads of the source and direct writes of as much as the programs write; the bound is read time plus write time.

A task is added by one entry of TASKS: a surgery recipe's steps, and what mergekit is told for the same result (None
where it has no such operation).
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from checkpoints import SHAPES, Shape, write_checkpoint
from measurement import run_cold

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PAGE = HERE / "surgery.md"
PROBE_BYTES = 2 << 30
CHUNK = 8 << 20
LIMIT_S = 1800.0


@dataclass(frozen=True)
class Task:
    """One operation: the steps of our recipe, and mergekit's configuration for the same result.

    `second` says that a child of the source is read too; its folder is beside that of the source, with `-child` behind
    its name (`other` in our recipe). `changes` says that the function of the model may change.
    """

    name: str
    steps: Callable[[Shape], list[dict[str, Any]]]
    mergekit: Callable[[Shape, Path], dict[str, Any]] | None
    second: bool = False
    changes: bool = False


def _inserted(shape: Shape, source: Path) -> dict[str, Any]:
    """LLaMA-Pro by mergekit: each fourth layer once more with its two output projections scaled by zero."""
    slices: list[dict[str, Any]] = []
    zero = [{"filter": "o_proj", "value": 0.0}, {"filter": "down_proj", "value": 0.0}, {"value": 1.0}]
    for layer in range(shape.layers):
        slices.append({"sources": [{"model": str(source), "layer_range": [layer, layer + 1]}]})
        if layer % 4 == 3:
            again = {"model": str(source), "layer_range": [layer, layer + 1], "parameters": {"scale": zero}}
            slices.append({"sources": [again]})
    return {"slices": slices, "merge_method": "passthrough", "dtype": "bfloat16"}


def _cast(shape: Shape, source: Path) -> dict[str, Any]:
    return {
        "models": [{"model": str(source)}],
        "merge_method": "passthrough",
        "dtype": "bfloat16",
        "out_dtype": "float16",
    }


def _merged(method: str, settings: dict[str, Any]) -> Callable[[Shape, Path], dict[str, Any]]:
    """Parent and child by mergekit; of methods with a base the parent is that."""

    def told(shape: Shape, source: Path) -> dict[str, Any]:
        del shape
        models = [{"model": str(source)}, {"model": str(_child(source))}]
        if method == "linear":
            models = [{**model, "parameters": {"weight": 0.5}} for model in models]
            return {"merge_method": method, "models": models, "dtype": "float32", "out_dtype": "bfloat16"}
        child = {**models[1], "parameters": settings}
        return {"merge_method": method, "base_model": str(source), "models": [models[0], child], "dtype": "float32",
                "out_dtype": "bfloat16"}  # fmt: skip

    return told


def _linear(shape: Shape) -> list[dict[str, Any]]:
    del shape
    models = [{"model": name, "weight": 0.5} for name in ("source", "other")]
    return [{"merge": {"method": "linear", "models": models}}]


def _ties(shape: Shape) -> list[dict[str, Any]]:
    del shape
    child = {"model": "other", "weight": 1.0, "density": 0.5}
    return [{"merge": {"method": "ties", "base": "source", "models": [child]}}]


def _child(source: Path) -> Path:
    return source.with_name(source.name + "-child")


def _respelled(source: Path, shape: Shape) -> Path:
    """Another tokenizer of the same size beside the source, which has three of four tokens of the first."""
    place = source.with_name(source.name + "-tokenizer")
    place.mkdir(exist_ok=True)
    told = json.loads((source / "tokenizer.json").read_text("utf-8"))
    vocab = told["model"]["vocab"]
    pairs = [pair if isinstance(pair, list) else pair.split(" ", 1) for pair in told["model"].get("merges", [])]
    used = {part for pair in pairs for part in pair}
    changed = {token: token + "\u0120\u0120" for token, number in vocab.items() if number % 4 == 3 and token not in used
               and len(token) > 1}  # fmt: skip
    told["model"]["vocab"] = {changed.get(token, token): number for token, number in vocab.items()}
    told["model"]["merges"] = [pair for pair in pairs if "".join(pair) not in changed]
    (place / "tokenizer.json").write_text(json.dumps(told, ensure_ascii=False), encoding="utf-8")
    del shape
    return place


TASKS = (
    Task("cast to float16", lambda shape: [{"cast": {"to": "float16"}}], _cast),
    Task("identity insertion", lambda shape: [{"grow.depth": {"op": "identity", "after": "every 4"}}], _inserted),
    Task("FFN widening by 1/4", lambda shape: [{"grow.ffn": {"to": shape.ffn + shape.ffn // 4}}], None),
    Task("linear merge", _linear, _merged("linear", {}), second=True, changes=True),
    Task("TIES", _ties, _merged("ties", {"weight": 1.0, "density": 0.5}), second=True, changes=True),
    Task("upcycling to 4 experts", lambda shape: [{"moe.upcycle": {"experts": 4, "shared": shape.ffn // 16}}], None),
    Task(
        "vocabulary swap",
        lambda shape: [{"vocab.swap": {"tokenizer": "TOKENIZER", "init": "subtoken"}}],
        None,
        changes=True,
    ),
)


@dataclass(frozen=True)
class Row:
    """One line: seconds and memory of a program (or the disk's bound), bytes of its input and output."""

    size: str
    task: str
    program: str
    seconds: float | None
    peak_bytes: int | None
    read_bytes: int
    written_bytes: int
    note: str = ""


# -- the disk ---------------------------------------------------------------------------------------------------------


def disk_speed(folder: Path, source: Path) -> tuple[float, float]:
    """Bytes per second of direct reads of the source and of direct writes beside it, 4 threads, syncing included."""
    files = sorted(source.glob("*.safetensors"), key=lambda path: -path.stat().st_size)
    size = min(PROBE_BYTES, files[0].stat().st_size // CHUNK * CHUNK)
    if size < CHUNK:
        return float("nan"), float("nan")
    reading = _through(files[0], os.O_RDONLY | os.O_DIRECT, size, write=False)
    probe = folder / "probe.bin"
    handle = os.open(probe, os.O_WRONLY | os.O_CREAT)
    os.posix_fallocate(handle, 0, size)
    os.close(handle)
    try:
        writing = _through(probe, os.O_WRONLY | os.O_DIRECT, size, write=True)
    finally:
        probe.unlink()
    return size / reading, size / writing


def _through(path: Path, flags: int, size: int, *, write: bool) -> float:
    handle = os.open(path, flags)
    start = time.monotonic()

    def part(first: int) -> None:
        buffer = mmap.mmap(-1, CHUNK)
        for offset in range(first * CHUNK, size, 4 * CHUNK):
            if write:
                os.pwrite(handle, buffer, offset)
            else:
                os.preadv(handle, [buffer], offset)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(part, range(4)))
    if write:
        os.fsync(handle)
    seconds = time.monotonic() - start
    os.close(handle)
    return seconds


# -- the programs -----------------------------------------------------------------------------------------------------


def measure(size: str, source: Path, folder: Path, mergekit: Path | None, tasks: Sequence[Task]) -> list[Row]:
    """All tasks on one checkpoint."""
    shape = SHAPES[size]
    rows = []
    for task in tasks:
        speeds = [disk_speed(folder, source)]
        ours, written = _ours(size, task, shape, source, folder)
        speeds.append(disk_speed(folder, source))
        reading, writing = (statistics.mean(speed[n] for speed in speeds) for n in (0, 1))
        spread = " to ".join(f"{1e-9 * value:.2f}" for value in sorted(speed[1] for speed in speeds))
        bound = ours.read_bytes / reading + written / writing
        rows.append(
            Row(size, task.name, "disk", bound, None, ours.read_bytes, written,
                f"reads {reading / 1e9:.2f} GB/s, writes {writing / 1e9:.2f} GB/s ({spread})")
        )  # fmt: skip
        rows.append(ours)
        if task.mergekit is not None and mergekit is not None:
            rows.append(_theirs(size, task, shape, source, folder, mergekit))
        for row in [row for row in rows if row.task == task.name]:
            print(json.dumps(asdict(row)), flush=True)
    return rows


def _ours(size: str, task: Task, shape: Shape, source: Path, folder: Path) -> tuple[Row, int]:
    target, recipe = folder / "ours", folder / "ours.yaml"
    told: dict[str, Any] = {
        "surgery": 1, "source": {"model": str(source)}, "target": {"dir": str(target)}, "steps": task.steps(shape),
    }  # fmt: skip
    sources = [source]
    if task.second:
        sources.append(_child(source))
        told["models"] = {"other": str(_child(source))}
    if task.changes:
        told["allow"] = "nfp"
    text = json.dumps(told)
    if "TOKENIZER" in text:
        text = text.replace("TOKENIZER", str(_respelled(source, shape)))
    recipe.write_text(text)
    command = [sys.executable, "-m", "pedigree", "surgery", "run", str(recipe), "--json", "--unrecorded"]
    cost = run_cold(command, sources, environment=os.environ, limit_s=LIMIT_S)
    if cost.exit_code != 0:
        raise SystemExit(f"our own run failed: {cost.failure()}")
    seconds = cost.seconds + _synced(target)
    # Files that are shared with the source are neither read nor written.
    shared = {path.stat().st_ino for path in source.glob("*.safetensors")}
    written = sum(path.stat().st_size for path in target.glob("*.safetensors") if path.stat().st_ino not in shared)
    shutil.rmtree(target)
    # What it read by its own count, where files stay as they are; never more than all of the sources once.
    read = min(int(json.loads(cost.stdout)["read"]), sum(_weights(one) for one in sources))
    return Row(size, task.name, "pedigree", seconds, cost.peak_bytes, read, written), written


def _synced(folder: Path) -> float:
    """Seconds until the files of a folder are on disk: a program that leaves them in the page cache is not done."""
    start = time.monotonic()
    for path in folder.glob("*.safetensors"):
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
    return time.monotonic() - start


def _theirs(size: str, task: Task, shape: Shape, source: Path, folder: Path, mergekit: Path) -> Row:
    target, recipe = folder / "theirs", folder / "theirs.yaml"
    told = task.mergekit(shape, source) if task.mergekit is not None else {}
    recipe.write_text(json.dumps(told))
    command = [str(mergekit), str(recipe), str(target), "--no-copy-tokenizer", "--quiet"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    sources = [source, _child(source)] if task.second else [source]
    cost = run_cold(command, sources, environment=environment, limit_s=LIMIT_S)
    seconds = cost.seconds + _synced(target)
    written, read = _weights(target) if target.is_dir() else 0, sum(_weights(one) for one in sources)
    shutil.rmtree(target, ignore_errors=True)
    if cost.exit_code != 0:
        return Row(size, task.name, "mergekit", None, None, read, written, cost.failure())
    return Row(size, task.name, "mergekit", seconds, cost.peak_bytes, read, written)


def _weights(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


# -- the page ---------------------------------------------------------------------------------------------------------


def table(rows: Sequence[Row]) -> str:
    """Rows as Markdown."""
    lines = [
        "| size | task | program | seconds | GB/s both ways | of the bound | peak memory | times mergekit | note |",
        "|" + " --- |" * 9,
    ]
    for row in rows:
        same = {other.program: other for other in rows if (other.size, other.task) == (row.size, row.task)}
        bound, peer = same["disk"].seconds, same.get("mergekit")
        cells = [row.size, row.task, row.program]
        if row.seconds is None:
            cells += ["-", "-", "-", "-", "-"]
        else:
            speed = (row.read_bytes + row.written_bytes) / row.seconds / 1e9
            times = (
                peer.seconds / row.seconds if peer is not None and peer.seconds and row.program == "pedigree" else None
            )
            cells += [
                f"{row.seconds:.1f}", f"{speed:.2f}", f"{100 * (bound or 0) / row.seconds:.0f} %",
                f"{row.peak_bytes / 1e9:.2f} GB" if row.peak_bytes else "-", f"{times:.1f}" if times else "-",
            ]  # fmt: skip
        lines.append("| " + " | ".join([*cells, row.note.replace("|", "/")]) + " |")
    return "\n".join(lines)


def page(rows: Sequence[Row], load: tuple[float, float] | None) -> str:
    """The whole page."""
    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    told = "Lines were joined from several runs of one day; their load was not kept." if load is None else (
        f"Load average from {load[0]:.1f} to {load[1]:.1f} during the run, its own work included."
    )  # fmt: skip
    return f"""# What surgery costs

Written by `python benchmarks/surgery.py --write`; not by hand.

Commit {commit.stdout.strip()}, {datetime.now(UTC):%Y-%m-%d}. {os.cpu_count()} cores, {memory:.0f} GB of memory,
{platform.system()} {platform.release()}, Python {platform.python_version()}. {told}
Above the number of cores others were using machine and disk: compare the lines of one task, not seconds of two pages.

Synthetic bfloat16 checkpoints with the shapes of Llama-3.2-3B and Llama-2-7B. Each line is a fresh process, imports
and forcing the result to disk included, started after the source was dropped from the page cache. *disk* is the bound:
reading the input and writing the output one after the other, direct and with 4 threads, at the mean of the speeds
measured right before and right after our run; a program that reads while it writes can be faster. Files that stay as
they are and are shared, as those without tables are in a vocabulary swap, count as neither read nor written.
mergekit is the release on PyPI, in an environment of its own, on the same files; it leaves its files to the page cache,
and the time until they are on disk is counted for both programs. It has no operation that widens a feed-forward
network, and its mixtures and vocabulary swaps are other programs with other results.

{table(rows)}
"""


def main() -> None:
    """Measure, print, and write the page where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", action="append", choices=sorted(SHAPES), help="may be given again; default tiny")
    parser.add_argument("--task", action="append", choices=[task.name for task in TASKS], help="default: all")
    parser.add_argument("--workdir", type=Path, help="folder of checkpoints SIZE that is kept")
    parser.add_argument("--mergekit", type=Path, help="mergekit-yaml of an environment that has it")
    parser.add_argument("--rows", type=Path, help="lines that earlier runs printed on this machine; joined with these")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    arguments = parser.parse_args()
    tasks = [task for task in TASKS if not arguments.task or task.name in arguments.task]
    loads = [os.getloadavg()[0]]
    rows: list[Row] = []
    if arguments.rows is not None:
        rows = [Row(**json.loads(line)) for line in arguments.rows.read_text().splitlines() if line.startswith("{")]
    with tempfile.TemporaryDirectory(dir=arguments.workdir) as temporary:
        folder = Path(temporary)
        for size in arguments.size or ([] if rows else ["tiny"]):
            source = (arguments.workdir or folder) / size
            write_checkpoint(source, SHAPES[size], "parent")
            if any(task.second for task in tasks):
                write_checkpoint(_child(source), SHAPES[size], "child")
            rows += measure(size, source, folder, arguments.mergekit, tasks)
            loads.append(os.getloadavg()[0])
    print(table(rows))
    if arguments.write:
        PAGE.write_text(page(rows, None if arguments.rows is not None else (min(loads), max(loads))), encoding="utf-8")


if __name__ == "__main__":
    main()
