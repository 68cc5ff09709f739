"""How fast a ledger of 100,000 events is: durable appends, verification, proofs, size; and what SQLite alone takes.

    python benchmarks/ledger.py [--events N] [--appends N] [--signed SHARE] [--out benchmarks/ledger.md]

Every time is told as a ratio to a bound measured in the same run: an append to one row inserted and forced to disk by
SQLite, a verification to hashing the same leaves and checking as many signatures.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

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
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = measure(options.events, options.appends, options.signed)
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
