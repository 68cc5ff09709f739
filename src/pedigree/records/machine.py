"""The record of a machine: what it can do here and which checks it would skip (`pedigree doctor --json`)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pedigree.records.comparison import Producer, Record


class Library(Record):
    """One library: its version, or what cannot be done without it."""

    name: str
    version: str | None = None
    needed_for: str = ""
    optional: bool = False


class Skipped(Record):
    """A check that would be skipped on this machine, why, and how to have it made."""

    check: str
    why: str
    fix: str = ""


class MachineResult(Record):
    """Facts about the machine; sizes in bytes."""

    python: str
    platform: str
    cores: int
    threads: int | None = None
    memory: int | None = None
    free_disk: int | None = None
    accelerator: str | None = None
    libraries: list[Library] = Field(default_factory=list)
    skipped: list[Skipped] = Field(default_factory=list)
    able: bool = True


class Machine(Record):
    """What this machine can do, and which checks would be skipped on it."""

    schema_name: Literal["pedigree/machine"] = Field(default="pedigree/machine", alias="schema")
    version: Literal[1] = 1
    producer: Producer = Field(default_factory=Producer)
    result: MachineResult
    warnings: list[str] = Field(default_factory=list)
