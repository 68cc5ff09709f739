"""Who worked on something: a random id in the ledger, name and address beside it, where they can be erased.

The person of a machine is the one whom git knows there (`user.name`, `user.email`), or the name of the account.
"""

from __future__ import annotations

import configparser
import getpass
import os
import secrets
import uuid
from dataclasses import dataclass
from pathlib import Path

from pedigree.ledger.database import Database


@dataclass(frozen=True)
class Person:
    """Somebody, by the id that statements use."""

    id: str
    name: str
    contact: str


def person_here(database: Database, project: Path) -> Person:
    """The person who works here now; entered on first use."""
    name, contact = _from_git(project)
    return enter(database, name, contact)


def enter(database: Database, name: str, contact: str) -> Person:
    """The person of this name and address, entered where they are new."""
    for person in people(database):
        if (person.name, person.contact) == (name, contact):
            return person
    person = Person("person:" + uuid.uuid4().hex, name, contact)
    with database.write():
        database.run(
            "INSERT INTO ledger_person (id, salt, name, contact) VALUES (?, ?, ?, ?)",
            (person.id.encode(), secrets.token_bytes(16), name.encode(), contact.encode()),
        )
    return person


def people(database: Database) -> list[Person]:
    """Everybody who was entered and not erased."""
    rows = database.run("SELECT id, name, contact FROM ledger_person ORDER BY id")
    return [Person(*(bytes(value).decode("utf-8", "replace") for value in row)) for row in rows]


def erase(database: Database, person: str) -> None:
    """Forget name and address of somebody; the id stays in the ledger and points to nobody.

    Of a file of SQLite the bytes are overwritten, and those that wait beside it are taken in; what a server of
    PostgreSQL keeps until it is vacuumed is its own.
    """
    if not database.is_postgres:
        database.run("PRAGMA secure_delete=ON")
    with database.write():
        database.run("DELETE FROM ledger_person WHERE id = ?", (person.encode(),))
    if not database.is_postgres:
        database.run("PRAGMA wal_checkpoint(TRUNCATE)")


def _from_git(project: Path) -> tuple[str, str]:
    home = Path(os.environ.get("HOME") or "/")
    files = [home / ".gitconfig", project / ".git" / "config"]
    parser = configparser.ConfigParser(strict=False, interpolation=None, allow_no_value=True)
    for path in files:
        try:
            text = path.read_text(encoding="utf-8")
            parser.read_string("\n".join(line.strip() for line in text.splitlines()))
        except (OSError, UnicodeDecodeError, configparser.Error):
            continue
    name = parser.get("user", "name", fallback=None)
    contact = parser.get("user", "email", fallback=None) or ""
    return (name or _account()).strip('"'), contact.strip('"')


def _account() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"
