"""Pedigree: make, record and prove the ancestry of language models."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:  # nothing is imported before the program guards its own loading
    from typing import Any

__all__ = ["record"]


def __getattr__(name: str) -> Any:
    """`pedigree.record`, loaded when it is asked for."""
    if name == "record":
        from pedigree.ledger.capture import record

        return record
    raise AttributeError(f"module 'pedigree' has no attribute {name!r}")
