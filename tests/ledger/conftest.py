"""Ledgers on SQLite and on a real PostgreSQL, where its programs are installed."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pedigree.ledger.log import Ledger, LedgerPlace


def postgres_programs() -> Path | None:
    """Folder of initdb and postgres, in the path or where Debian puts them."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return versions[-1].parent if versions else None


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Address of a server that this session started, on a socket in a temporary folder."""
    programs = postgres_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed")
    pytest.importorskip("psycopg")
    folder = Path(tempfile.mkdtemp(prefix="pedigree-pg-"))
    user = None
    if os.geteuid() == 0:  # it refuses to run as root
        user = next((name for name in ("postgres", "nobody") if _is_user(name)), None)
        if user is None:
            pytest.skip("PostgreSQL does not run as root, and there is no other user")
        shutil.chown(folder, user)
    name = user or pwd.getpwuid(os.geteuid()).pw_name
    make = [str(programs / "initdb"), "-D", str(folder / "data"), "-A", "trust", "-U", "tester", "--no-sync"]
    subprocess.run(
        make, check=True, capture_output=True, user=user, cwd=folder, env={"HOME": str(folder), "USER": name}
    )
    command = [str(programs / "postgres"), "-D", str(folder / "data"), "-k", str(folder), "-h", ""]
    server = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, user=user, cwd=folder, env={"HOME": str(folder)}
    )
    address = f"postgresql://tester@/postgres?host={folder}"
    try:
        _wait(address, server)
        yield address
    finally:
        server.send_signal(signal.SIGINT)  # without waiting for clients
        server.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def _is_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _wait(address: str, server: subprocess.Popen[bytes]) -> None:
    import psycopg

    for _ in range(300):
        try:
            psycopg.connect(address).close()
            return
        except psycopg.Error:
            assert server.poll() is None, "PostgreSQL ended at once"
            time.sleep(0.1)
    raise AssertionError("PostgreSQL does not answer")


@pytest.fixture
def place(tmp_path: Path) -> LedgerPlace:
    """A SQLite ledger in a temporary folder."""
    return LedgerPlace.find(str(tmp_path / "ledger" / "ledger.db"))


@pytest.fixture(params=["sqlite", "postgresql"])
def any_place(request: pytest.FixtureRequest, tmp_path: Path) -> LedgerPlace:
    """A ledger in either kind of database."""
    if request.param == "sqlite":
        return LedgerPlace.find(str(tmp_path / "ledger.db"))
    address = request.getfixturevalue("postgres")
    import psycopg

    database = "t" + os.urandom(6).hex()
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {database}")
    return LedgerPlace(address.replace("/postgres?", f"/{database}?"), tmp_path / "keys")


@pytest.fixture
def ledger(place: LedgerPlace) -> Iterator[Ledger]:
    """An open SQLite ledger with its genesis."""
    opened = Ledger(place)
    yield opened
    opened.close()


@pytest.fixture
def any_ledger(any_place: LedgerPlace) -> Iterator[Ledger]:
    """An open ledger in either kind of database."""
    opened = Ledger(any_place)
    yield opened
    opened.close()
