"""How fast a ledger of 100,000 events is: durable appends, verification, proofs, size; and what SQLite alone takes.

    python benchmarks/ledger.py [--events N] [--appends N] [--signed SHARE] [--hashed MB] [--out benchmarks/ledger.md]

Every time is told as a ratio to a bound measured in the same run: an append to one row inserted and forced to disk by
SQLite, a verification to hashing the same leaves and checking as many signatures, hashing to `blake3` and `hashlib` on
the same bytes. What recording costs a run is measured in processes of their own: from before anything of the ledger is
imported until the start stands in it, and how long a save waits for the recorder while a large file is hashed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pedigree.ledger.key_ring import KeyRing
from pedigree.ledger.keys import PrivateKey
from pedigree.ledger.log import Ledger, LedgerPlace
from pedigree.ledger.run_id import new_run_id
from pedigree.ledger.statement import Draft, Subject
from pedigree.ledger.verification import verify


def event(i: int, run: str, every: int) -> Draft:
    """Event `i`: a sign of life, and every so often a saved state, which is signed."""
    facts = {"step": i, "tokens": 4096 * i, "loss": 3.14159, "data": hashlib.sha256(str(i).encode()).hexdigest()}
    if i % every:
        return Draft("run.beat", facts, run)
    return Draft("ckpt.save", facts, run, (Subject("state.json", hashlib.sha256(b"%d" % i).hexdigest()),))


def timed(action: Callable[[int], object], count: int) -> list[float]:
    """Milliseconds of each of `count` calls."""
    times = []
    for i in range(count):
        begin = time.perf_counter()
        action(i)
        times.append(1000 * (time.perf_counter() - begin))
    return times


def percentile(times: list[float], share: float) -> float:
    """The value that `share` of all stay below."""
    return sorted(times)[min(len(times) - 1, int(share * len(times)))]


def processor(action: Callable[[], object]) -> float:
    """Seconds of processor time: on a busy machine it says more than the clock."""
    begin = time.process_time()
    action()
    return time.process_time() - begin


def bare_sqlite(folder: Path, count: int) -> list[float]:
    """Milliseconds of inserting one row of the size of an entry, forced to disk."""
    connection = sqlite3.connect(folder / "bare.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE t (i INTEGER PRIMARY KEY, content BLOB)")
    row = os.urandom(600)
    return timed(lambda i: connection.execute("INSERT INTO t VALUES (?, ?)", (i, row)), count)


def bare_verification(leaves: int, signatures: int) -> float:
    """Seconds of hashing so many leaves and nodes and checking so many signatures, with nothing around it."""
    key, message = PrivateKey.generate(), b"x" * 1200
    signature, public = key.sign(message), key.public
    begin = time.perf_counter()
    for _ in range(2 * leaves):
        hashlib.sha256(message[:400]).digest()
    for _ in range(signatures):
        public.verifies(signature, message)
    return time.perf_counter() - begin


# What a run pays before its first step: in a process that has loaded what a training has loaded anyway.
START = """
import sys, time
from pathlib import Path
import torch, pydantic, yaml
from pedigree.records.recorder import JsonlRecorder
begin, worked, own = time.perf_counter(), time.process_time(), time.thread_time()
from pedigree.ledger.place import LedgerPlace
from pedigree.ledger.recorder import LedgerRecorder
lines = JsonlRecorder(Path(sys.argv[1]) / "run.jsonl", at_once=False)
recorder = LedgerRecorder(LedgerPlace.find(sys.argv[1] + "/ledger.db"), lines)
told = time.perf_counter() - begin
time.sleep(1.0)  # a model is built and data is opened
begin = time.perf_counter()
recorder.run_start({"step": 0, "settings": {"lr": 0.1}})
waited = time.perf_counter() - begin
print(*(1000 * t for t in (told, waited, time.thread_time() - own, time.process_time() - worked)))
recorder.close()
"""
SAVE = """
import sys, time
from pathlib import Path
from pedigree.ledger.place import LedgerPlace
from pedigree.ledger.recorder import LedgerRecorder
from pedigree.records.recorder import JsonlRecorder
place = Path(sys.argv[1])
recorder = LedgerRecorder(LedgerPlace.find(str(place / "ledger.db")), JsonlRecorder(place / "run.jsonl", at_once=False))
recorder.run_start({"step": 0})
begin = time.perf_counter()
recorder.derive({"operation": "train", "name": "model", "outputs": [str(place / "model")]})
recorder.checkpoint({"step": 1, "path": str(place / "state")})
blocked = time.perf_counter() - begin
begin = time.perf_counter()
failures = recorder.close()
print(1000 * blocked, 1000 * (time.perf_counter() - begin))
assert not failures, failures
"""


def in_a_process(code: str, folder: Path) -> list[float]:
    """The numbers that a piece of Python prints, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    return [float(word) for word in done.stdout.split()]


def recording(repeats: int = 5) -> list[tuple[str, str, str]]:
    """What a run pays for being recorded."""
    starts = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory(prefix="pedigree-bench-") as name:
            starts.append(in_a_process(START, Path(name)))
    constructed, told, own, worked = (min(column) for column in zip(*starts, strict=True))
    return [
        ("start: recorder made", f"{constructed:.1f} ms", "imports included; the ledger is opened in a thread"),
        ("start: until it stands in the ledger", f"{told:.1f} ms", ""),
        ("start: processor time of the thread that trains", f"{own:.1f} ms", f"{worked:.1f} ms with the recorder's"),
    ]  # fmt: skip


def hashed(file: Path, hasher: Any) -> None:
    """A file, read from front to back into one buffer, and hashed: the least that a digest of it takes."""
    buffer = bytearray(4 << 20)
    with file.open("rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            hasher.update(memoryview(buffer)[:count])


def hashing(megabytes: int) -> list[tuple[str, str, str]]:
    """Digests of files and tensors against the same hashes on the same bytes, and whether a save waits for them."""
    import numpy as np
    from blake3 import blake3
    from safetensors.numpy import save_file

    from pedigree.weights.artifact import read_artifact, read_tensors

    with tempfile.TemporaryDirectory(prefix="pedigree-bench-") as name:
        folder = Path(name)
        rng = np.random.default_rng(1)
        for part in ("model", "state"):
            (folder / part).mkdir()
        (folder / "state" / "state.json").write_text("{}")
        count = max(2, megabytes // 32)
        tensors = {f"layer.{i}": rng.integers(0, 255, 32 << 20, dtype=np.uint8) for i in range(count)}
        save_file(tensors, folder / "model" / "model.safetensors")
        size = sum(tensor.nbytes for tensor in tensors.values()) / 1e9
        file = folder / "model" / "model.safetensors"
        one = min(processor(lambda: hashed(file, blake3())) for _ in range(3))
        sha = min(processor(lambda: hashed(file, hashlib.sha256())) for _ in range(3))
        ours = min(processor(lambda: read_tensors(folder / "model", threads=1)) for _ in range(3))
        both = min(processor(lambda: read_artifact(folder / "model", threads=1)) for _ in range(3))
        blocked, behind = in_a_process(SAVE, folder)
    return [
        ("tensor digests (BLAKE3), processor time", f"{ours / size:.2f} s/GB",
         f"{100 * one / ours:.0f} % of the speed of blake3 alone ({one / size:.2f} s/GB)"),
        ("artifact id (SHA-256 and BLAKE3), processor time", f"{both / size:.2f} s/GB",
         f"{100 * (one + sha) / both:.0f} % of the speed of both alone ({(one + sha) / size:.2f} s/GB)"),
        ("a save of that model waits", f"{blocked:.2f} ms", f"hashed in {behind:.0f} ms behind it"),
    ]  # fmt: skip


def measure(events: int, appends: int, signed: float) -> list[tuple[str, str, str]]:
    """Rows of the table: what, measured, and its ratio to the bound."""
    every = max(1, round(1 / signed))
    with tempfile.TemporaryDirectory(prefix="pedigree-bench-") as name:
        folder = Path(name)
        ledger = Ledger(LedgerPlace.find(str(folder / "ledger.db")))
        run = new_run_id()
        ledger.append(Draft("run.start", {"step": 0}, run))
        for start in range(1, events - appends, 1000):
            ledger.append_all([event(i, run, every) for i in range(start, min(start + 1000, events - appends))])
        at = ledger.store.head().size
        worked_at = time.process_time()
        single = timed(lambda i: ledger.append(event(at + i, run, every)), appends)
        append_work = 1000 * (time.process_time() - worked_at) / appends
        bare = bare_sqlite(folder, appends)
        size = ledger.store.head().size
        verifying = timed(lambda _: verify(ledger.store), 2)
        worked = min(processor(lambda: verify(ledger.store)) for _ in range(2))
        report = verify(ledger.store)
        if report.problems or report.size != size or not isinstance(report.ring, KeyRing):
            raise SystemExit(f"the ledger does not verify: {report.problems[:3]}")
        bound = 1000 * bare_verification(size, report.signatures)
        proofs = timed(lambda i: ledger.store.inclusion_proof(i * 7919 % size, size), 300)
        proofs += timed(lambda i: ledger.store.consistency_proof(1 + i * 7919 % (size - 1), size), 300)
        ledger.database.run("PRAGMA wal_checkpoint(TRUNCATE)")
        n_bytes = os.path.getsize(ledger.place.database)
    ratio = statistics.median(single) / statistics.median(bare)
    return [
        ("append, median", f"{statistics.median(single):.2f} ms", f"{ratio:.2f} x bare insert"),
        ("append, p99", f"{percentile(single, 0.99):.2f} ms",
         f"{percentile(single, 0.99) / percentile(bare, 0.99):.2f} x bare insert"),
        ("append, processor time", f"{append_work:.2f} ms", ""),
        ("full verification", f"{min(verifying) / 1000:.2f} s", f"{min(verifying) / bound:.2f} x bare checks"),
        ("full verification, processor time", f"{worked:.2f} s", ""),
        ("proof, p99", f"{percentile(proofs, 0.99):.2f} ms", ""),
        ("database", f"{n_bytes / 1e6:.1f} MB", f"{n_bytes / size:.0f} bytes an event"),
        ("events / signatures", f"{size:,} / {report.signatures:,}", ""),
    ]  # fmt: skip


def main() -> None:
    """Measure and print; write the page where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--appends", type=int, default=2_000, help="how many of them are timed one by one")
    parser.add_argument("--signed", type=float, default=0.05, help="share of events that are signed one by one")
    parser.add_argument("--hashed", type=int, default=256, help="megabytes that are hashed")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = measure(options.events, options.appends, options.signed) + recording() + hashing(options.hashed)
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    lines = [
        "# The speed of the ledger", "",
        f"`python benchmarks/ledger.py --events {options.events} --signed {options.signed}`, "
        f"{datetime.now(UTC):%Y-%m-%d}, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, "
        f"{machine}.", "",
        "| what | measured | against the bound of the same run |", "|---|---|---|",
        *(f"| {what} | {value} | {ratio} |" for what, value, ratio in rows), "",
    ]  # fmt: skip
    print("\n".join(lines))
    if options.out:
        options.out.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
