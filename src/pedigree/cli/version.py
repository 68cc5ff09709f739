"""Which version this is, and of what it is made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pedigree.records.comparison import Producer


def installed_version(distribution: str) -> str | None:
    """The installed version of a distribution, None where it is not installed."""
    from importlib import metadata  # here, because every command imports this file

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def producer() -> Producer:
    """Who writes a record: this program, at its version."""
    from pedigree.records.comparison import Producer

    return Producer(version=installed_version("llm-pedigree") or "unknown")


def commit() -> str | None:
    """The commit of the checkout this runs from, None for an installed package."""
    git = Path(__file__).resolve().parents[3] / ".git"
    try:
        head = (git / "HEAD").read_text(encoding="ascii").strip()
        if not head.startswith("ref: "):
            return head[:12]
        return (git / head.removeprefix("ref: ")).read_text(encoding="ascii").strip()[:12]
    except (OSError, UnicodeDecodeError):
        return None


def version_line() -> str:
    """One line: version, commit where known, torch, python."""
    import platform

    at = commit()
    own = f"pedigree {installed_version('llm-pedigree') or 'unknown'}" + (f" ({at})" if at else "")
    return f"{own}, torch {installed_version('torch') or 'absent'}, python {platform.python_version()}"
