"""What `pedigree compare` costs on checkpoints of real sizes, beside other ways to compare, measured in one run.

    python benchmarks/compare.py --size 1.5b                    # prints a table
    python benchmarks/compare.py --size 1.5b --size 7b --write  # and writes benchmarks/compare.md
    python benchmarks/compare.py --size 7b --json run.json --resume --write  # goes on where run.json ends
    python benchmarks/compare.py --size tiny --peer none        # a few seconds: does the script still work?

For every size a parent and its counterparts are written to disk (`checkpoints.py`), compared, and deleted again; a
folder that was there before (`--workdir`) is used and kept. Every measurement is a process of its own, started after
the files were dropped from the page cache, so that reading means the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from byte_server import ByteServer
from measurement import Cost, median_run
from page import YARDSTICK, render_page, render_table, yardsticks

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SIZES = ("tiny", "0.5b", "1.5b", "7b")
PAIRS = ("child", "deepened", "disguised", "stranger")
DEPTHS = ("auto", "glance", "standard", "full", "http-glance")
PUBLISHED = {
    "polar-trace": "polar trace, MDIR style, whole tensors",
    "csu": "Zhu et al., CSU, whole tensors",
    "huref": "HuRef invariants, whole tensors",
    "reef": "REEF, CKA of states on prompts",
    "match": "Zhu et al., MATCH on prompts",
}
PEERS = ("torch-cosine", "modeldna", "awm", *PUBLISHED, "none")
USUAL_PEERS = ("torch-cosine", "modeldna", "polar-trace", "csu", "huref")
PEER_LIMITS = {"tiny": 60, "0.5b": 60, "1.5b": 60, "7b": 180}
DEFAULT_PAIRS = {"tiny": PAIRS, "0.5b": PAIRS, "1.5b": PAIRS, "7b": ("child", "stranger")}
REPEATS = {"tiny": 1, "0.5b": 1, "1.5b": 3, "7b": 1}
AWM = "AWM, released program"
COSINE = "full-tensor cosine in torch"
RELATED_ABOVE = {
    "torch-cosine": 0.1, "awm": 3.0, "polar-trace": 6.0, "csu": 6.0, "huref": 0.5, "reef": 0.8, "match": 6.0,
}  # fmt: skip
"""Where a peer gives a score and no word: mean cosine, standard scores, decades of a p-value twice, a cosine, an
alignment, decades again."""
MODELDNA = "modeldna==0.1.0"
NUMBER_OF_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        size, pair: which checkpoints.
        what: the yardstick, a depth of ours, or a peer.
        seconds, peak_bytes, private_bytes, disk_bytes, processor_seconds: as in `measurement.Cost`; None where it
            failed.
        asked_bytes: bytes that the program itself says it read (over HTTP: that the server sent), None if untold.
        total_bytes: size of the weight files of both sides.
        answer: what it said, or why it did not.
        repeats: the numbers are medians of so many runs.
        right: whether the answer is the truth; None where there is none.
    """

    size: str
    pair: str
    what: str
    seconds: float | None
    peak_bytes: int | None
    private_bytes: int | None
    disk_bytes: int | None
    asked_bytes: int | None
    total_bytes: int
    answer: str
    repeats: int
    right: bool | None = None
    processor_seconds: float | None = None


@dataclass(frozen=True)
class Bench:
    """One pair on disk and how to measure on it."""

    size: str
    pair: str
    a: Path
    b: Path
    environment: dict[str, str]
    limit_s: float
    repeats: int

    @property
    def weights(self) -> list[Path]:
        """All weight files of both sides."""
        return sorted([*self.a.glob("*.safetensors"), *self.b.glob("*.safetensors")])

    def cost(self, *command: str | Path) -> Cost:
        """Median cost of a command."""
        return median_run(
            command, [self.a, self.b], environment=self.environment, limit_s=self.limit_s, repeats=self.repeats
        )

    def row(
        self, what: str, cost: Cost, answer: str | None, asked_bytes: int | None = None, right: bool | None = None
    ) -> Row:
        """A line of the table; without an answer, why there is none."""
        total = sum(path.stat().st_size for path in self.weights)
        said = answer if answer is not None else cost.failure()
        numbers = (cost.seconds, cost.peak_bytes, cost.private_bytes, cost.disk_bytes)
        more = (asked_bytes, total, said, self.repeats, right, cost.processor_seconds)
        return Row(self.size, self.pair, what, *numbers, *more)

    def reading(self) -> Row:
        """The yardstick: both files read once from start to end."""
        cost = self.cost(sys.executable, "-S", HERE / "peers" / "sequential_read.py", *self.weights)
        return self.row(YARDSTICK, cost, "" if cost.exit_code == 0 else None)

    def tasks(self, options: argparse.Namespace, program: Path | None, why_not: str) -> dict[str, Callable[[], Row]]:
        """Everything that is measured on the pair, by the name of its row."""
        found: dict[str, Callable[[], Row]] = {YARDSTICK: self.reading}
        for depth in options.depth:
            found[depth_row(depth)] = partial(self.pedigree, depth)
        if "torch-cosine" in options.peer:
            found[COSINE] = self.torch_cosine
        if "modeldna" in options.peer:
            found[MODELDNA] = partial(self.modeldna, program, why_not)
        limit_s = options.peer_limit or PEER_LIMITS[self.size]
        if "awm" in options.peer:
            found[AWM] = partial(self.awm, options.awm, options.awm_python, limit_s)
        for name in PUBLISHED:
            if name in options.peer:
                found[PUBLISHED[name]] = partial(self.published, name, limit_s)
        return found

    def pedigree(self, depth: str) -> Row:
        """`pedigree compare` at one depth, from the disk or over HTTP."""
        with ExitStack() as stack:
            server, sides = None, [str(self.a), str(self.b)]
            if depth == "http-glance":
                server = stack.enter_context(ByteServer(self.a.parent))
                sides = [f"{server.url}/{side.name}" for side in (self.a, self.b)]
            wanted = [] if depth == "auto" else ["--depth", depth.removeprefix("http-")]
            cost = self.cost(sys.executable, "-m", "pedigree", "compare", *sides, "--json", *wanted)
        result = _json(cost).get("result")
        if not isinstance(result, dict):
            return self.row(depth_row(depth), cost, None)
        asked = server.sent // self.repeats if server else result["read"]["bytes"]
        reached = f" at {result['depth']}" if depth == "auto" else ""
        requests = f", {server.requests // self.repeats} requests" if server else ""
        verdict, truth = result["verdict"], "unrelated" if self.pair == "stranger" else "related"
        wrong = "" if verdict == truth else f" (**truth: {truth}**)"
        answer = f"{verdict}{reached}{wrong}{requests}"
        return self.row(depth_row(depth), cost, answer, asked, right=verdict == truth)

    def scored(self, what: str, name: str, cost: Cost, score: float | None, said: str) -> Row:
        """A line of a peer whose answer is a score: related above the threshold, and whether that is so."""
        if score is None:
            return self.row(what, cost, None)
        related = score > RELATED_ABOVE[name]
        right = related == (self.pair != "stranger")
        word = "related" if related else "not related"
        return self.row(what, cost, f"{said}: {word}{'' if right else ' (**wrong**)'}", right=right)

    def torch_cosine(self) -> Row:
        """Peer: the cosine of every pair of tensors of one name."""
        cost = self.cost(sys.executable, HERE / "peers" / "full_cosine.py", self.a, self.b)
        found = _json(cost)
        score = found.get("mean_cosine_of_matrices")
        said = "" if score is None else f"mean cosine {score:.3f}"
        return self.scored(COSINE, "torch-cosine", cost, score, said)

    def modeldna(self, program: Path | None, why_not: str) -> Row:
        """Peer: `modeldna compare` as installed from PyPI; its own words are its answer."""
        if program is None:
            total = sum(path.stat().st_size for path in self.weights)
            return Row(self.size, self.pair, MODELDNA, None, None, None, None, None, total, why_not, 0)
        cost = self.cost(program, "compare", self.b, self.a, "--json")
        verdict = _json(cost).get("verdict")
        if not isinstance(verdict, dict):
            return self.row(MODELDNA, cost, None)
        chance = verdict.get("probability")
        said = f"{verdict['verdict']} ({'no probability' if chance is None else f'{chance:.2f}'})"
        right = (verdict["verdict"] == "NO_MATCH") == (self.pair == "stranger")
        return self.row(MODELDNA, cost, said + ("" if right else " (**wrong**)"), right=right)

    def awm(self, folder: Path | None, python: Path, limit_s: float) -> Row:
        """Peer: the released program of AWM (2510.06738), from a folder that holds it; its z-score is its answer."""
        if folder is None:
            total = sum(path.stat().st_size for path in self.weights)
            return Row(self.size, self.pair, AWM, None, None, None, None, None, total, "not run: --awm FOLDER", 0)
        bench = replace(self, limit_s=min(limit_s, self.limit_s), repeats=1)
        cost = bench.cost(python, folder.resolve() / "main.py", "--model_paths", self.a, self.b, "--device", "cpu")
        found = re.search(r"Absolute Z-Score vs negative pairs = ([\d.]+)", cost.stdout)
        score = float(found[1]) if found is not None else None
        return bench.scored(AWM, "awm", cost, score, "" if score is None else f"z {score:.1f}")

    def published(self, name: str, limit_s: float) -> Row:
        """Peer: a published method as `pedigree bench` has it; its score is its answer."""
        bench = replace(self, limit_s=min(limit_s, self.limit_s), repeats=1)
        cost = bench.cost(sys.executable, HERE / "peers" / "published.py", name.replace("-", "_"), self.a, self.b)
        found = _json(cost)
        score = found.get("score")
        return bench.scored(PUBLISHED[name], name, cost, score, "" if score is None else f"score {score:.4g}")


def depth_row(depth: str) -> str:
    """The name of the row of one depth of ours."""
    return "pedigree, glance over HTTP" if depth == "http-glance" else f"pedigree, {depth}"


def _json(cost: Cost) -> dict[str, Any]:
    try:
        found = json.loads(cost.stdout)
    except json.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


# -- a run ------------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what was asked for and print it; 1 where one of our own comparisons gave no answer."""
    options = _options(arguments)
    run = Run.begin(options)
    with ExitStack() as stack:
        workdir = options.workdir
        if workdir is None:
            workdir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pedigree-benchmark-")))
        home = stack.enter_context(tempfile.TemporaryDirectory(prefix="pedigree-benchmark-home-"))
        program, why_not = _modeldna_program(options, Path(home))
        for number, row in enumerate(_measure_all(options, run, Path(workdir), Path(home), program, why_not)):
            run.add(row)
            print(render_table([asdict(row)], header=number == 0, base=yardsticks(run.rows)), flush=True)
    if options.write:
        (HERE / "compare.md").write_text(render_page(run.context, run.rows), encoding="utf-8")
    return int(any(row["what"].startswith("pedigree") and row["asked_bytes"] is None for row in run.rows))


@dataclass
class Run:
    """Rows measured so far, kept in a file after each of them where one is named.

    Attributes:
        context: machine, commit, load and commands, as the page tells them.
        rows: the rows, in the order of sizes and pairs.
        file: where they are kept.
    """

    context: dict[str, Any]
    rows: list[dict[str, Any]]
    file: Path | None

    @classmethod
    def begin(cls, options: argparse.Namespace) -> Run:
        """A new run, or with `--resume` the one in the file of `--json`, if the same commit made it on this machine."""
        load = round(os.getloadavg()[0], 1)
        context = {**_machine(), "date": f"{datetime.now(UTC):%Y-%m-%d}", "load": [load, load]}
        run = cls({**context, "command": _command(options)}, [], options.json)
        if options.resume and options.json and options.json.is_file():
            before = json.loads(options.json.read_text())
            for name in ("commit", "cpu", "cores"):
                if before["context"][name] != context[name]:
                    raise SystemExit(
                        f"{options.json} is of another {name}: {before['context'][name]}, expected {context[name]}; "
                        "leave out --resume or name another file"
                    )
            commands = list(dict.fromkeys([*before["context"]["command"].split("; "), run.context["command"]]))
            run = cls({**before["context"], "command": "; ".join(commands)}, before["rows"], options.json)
        return run

    def has(self, size: str, pair: str, what: str) -> bool:
        """Whether a row is there already."""
        return any((row["size"], row["pair"], row["what"]) == (size, pair, what) for row in self.rows)

    def add(self, row: Row) -> None:
        """Take in a row and keep everything."""
        self.rows.append(asdict(row))
        self.rows.sort(key=lambda old: (SIZES.index(old["size"]), PAIRS.index(old["pair"])))
        load = os.getloadavg()[0]
        low, high = self.context["load"]
        self.context["load"] = [round(min(low, load), 1), round(max(high, load), 1)]
        if self.file is not None:
            fresh = self.file.with_name(self.file.name + ".new")
            fresh.write_text(json.dumps({"context": self.context, "rows": self.rows}, indent=2))
            fresh.replace(self.file)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    for name, words, default in (
        ("--size", SIZES, "1.5b"),
        ("--pair", PAIRS, "all; for 7b child and stranger"),
        ("--depth", DEPTHS, "all but full"),
        ("--peer", PEERS, f"{', '.join(USUAL_PEERS)}, and awm where its folder is given"),
    ):
        text = f"{', '.join(words)} (default: {default}); may be given again"
        add(name, choices=words, action="append", metavar="WORD", help=text)
    add("--repeats", type=int, help="runs of each measurement, of which the median counts (default: 3, for 7b 1)")
    add("--workdir", type=Path, help="where checkpoints are written (default: a temporary folder)")
    add("--keep", action="store_true", help="keep what is written under --workdir")
    add("--modeldna", type=Path, help="an installed modeldna program (default: install it for this run)")
    add("--awm", type=Path, help="a folder with the released program of AWM (default: not run)")
    add("--awm-python", type=Path, default=sys.executable, help="a Python with its libraries, scikit-learn among them")
    add("--peer-limit", type=float, help="seconds after which awm and published methods are stopped (60; for 7b 180)")
    add("--limit", type=float, default=1800, help="seconds after which a measured process is stopped (default: 1800)")
    add("--json", type=Path, metavar="FILE", help="write the numbers there, row by row")
    add("--resume", action="store_true", help="go on with the file of --json: what it holds is not measured again")
    add("--write", action="store_true", help="write benchmarks/compare.md from this run")
    options = parser.parse_args(arguments)
    options.size = list(dict.fromkeys(options.size or ["1.5b"]))
    options.depth = options.depth or [depth for depth in DEPTHS if depth != "full"]
    options.peer = options.peer or _usual_peers(options)
    return options


def _usual_peers(options: argparse.Namespace) -> list[str]:
    return [*USUAL_PEERS, *(["awm"] if options.awm else [])]


def _measure_all(
    options: argparse.Namespace, run: Run, workdir: Path, home: Path, program: Path | None, why_not: str
) -> Iterator[Row]:
    environment = {key: value for key, value in os.environ.items() if key not in NUMBER_OF_THREADS}
    environment |= {"PYTHONPATH": str(ROOT / "src"), "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    if options.size != ["tiny"]:
        _warm_up(environment, program)
    for size in options.size:
        with ExitStack() as stack:
            for pair in options.pair or DEFAULT_PAIRS[size]:
                bench = Bench(
                    size, pair, workdir / size / "parent", workdir / size / pair, environment, options.limit,
                    options.repeats or REPEATS[size],
                )  # fmt: skip
                tasks = bench.tasks(options, program, why_not)
                missing = [what for what in tasks if not run.has(size, pair, what)]
                if not missing:
                    continue
                with ExitStack() as inner:
                    _checkpoint(bench.a, size, "parent", options.keep, stack)
                    _checkpoint(bench.b, size, pair, options.keep, inner)
                    for what in missing:
                        yield tasks[what]()


def _checkpoint(folder: Path, size: str, kind: str, keep: bool, stack: ExitStack) -> Path:
    """The folder of a checkpoint, written unless it is there; deleted when `stack` closes if it was not."""
    if not keep and not folder.exists():
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
    writer = HERE / "checkpoints.py"
    subprocess.run([sys.executable, writer, folder, "--size", size, "--kind", kind], check=True)
    return folder


def _warm_up(environment: dict[str, str], program: Path | None) -> None:
    """Load the libraries once, so that the first measurement does not pay for reading them from the disk, and compile
    our sources, which an installed package, as the peers are, has behind it."""
    commands: list[list[str | Path]] = [
        [sys.executable, "-m", "compileall", "-q", ROOT / "src" / "pedigree"],
        [sys.executable, "-c", "import pedigree.forensics.compare, safetensors.torch"],
    ]
    if program is not None:
        commands.append([program, "compare", "--help"])
    for command in commands:
        subprocess.run(command, env=environment, check=False, capture_output=True)


def _modeldna_program(options: argparse.Namespace, home: Path) -> tuple[Path | None, str]:
    """The program, or why there is none."""
    if "modeldna" not in options.peer:
        return None, "not asked for"
    if options.modeldna:
        return options.modeldna.resolve(), ""
    venv = home / "modeldna"
    for command in ([sys.executable, "-m", "venv", venv], [venv / "bin" / "pip", "install", "-q", MODELDNA]):
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines()
            return None, f"could not be installed: {lines[-1][:160] if lines else 'no message'}"
    return venv / "bin" / "modeldna", ""


# -- what the page says about the run ---------------------------------------------------------------------------------


def _machine() -> dict[str, Any]:
    import importlib.metadata

    cpu = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    versions = {name: importlib.metadata.version(name) for name in ("torch", "numpy", "safetensors")}
    return {
        "cpu": cpu[1].strip() if cpu else platform.machine(),
        "cores": os.cpu_count(),
        "memory_bytes": int(memory[1]) * 1024 if memory else None,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": versions,
        "commit": _commit(),
    }


def _commit() -> str:
    """The commit of the sources, marked where `src/` or `benchmarks/` differ from it."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", ROOT, *words], check=False, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    name = git("rev-parse", "--short=12", "HEAD")
    changed = git("status", "--porcelain", "--", "src", "benchmarks/*.py", "benchmarks/peers")
    return (name or "unknown") + (" with changes" if changed else "")


def _command(options: argparse.Namespace) -> str:
    """The command that repeats the run; folders and installed programs are left out, they change no number."""
    words = ["python benchmarks/compare.py", *(f"--size {size}" for size in options.size)]
    words += [f"--pair {pair}" for pair in options.pair or ()]
    if options.depth != [depth for depth in DEPTHS if depth != "full"]:
        words += [f"--depth {depth}" for depth in options.depth]
    if options.peer != _usual_peers(options):
        words += [f"--peer {peer}" for peer in options.peer]
    if options.repeats:
        words.append(f"--repeats {options.repeats}")
    return " ".join([*words, "--write"])


if __name__ == "__main__":
    raise SystemExit(main())
