"""JSON as a verifier reads it: one meaning, or none.

Refused: a key that stands twice, numbers (in what is hashed they are text), constants such as NaN, more than
`MAX_DEPTH` levels, more bytes than the caller allows, and half surrogates.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from pedigree.errors import MalformedFile

MAX_DEPTH = 32
MAX_BYTES = 16 << 20


def strict_object(
    data: bytes, where: str, *, limit: int = MAX_BYTES, numbers: bool = False, fractions: bool = False
) -> dict[str, Any]:
    """The one JSON object in `data`.

    Args:
        data: UTF-8 without a byte order mark.
        where: what is told when it is refused.
        limit: bytes at most.
        numbers: whether integers are allowed (a Sidecar may hold some; what is signed here may not).
        fractions: whether other numbers are allowed as well, in what programs of others have written.

    Raises:
        MalformedFile: it could be read in two ways, is too large, too deep, or no object.
    """
    if len(data) > limit:
        raise _refused(where, f"{len(data):,} bytes", f"at most {limit:,}")
    _check_depth(data, where)
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=lambda pairs: _without_twins(pairs, where),
            parse_float=float if fractions else (lambda text: _no_number(text, where)),
            parse_constant=lambda text: _no_number(text, where),
            parse_int=int if numbers else (lambda text: _no_number(text, where)),
        )
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # half a surrogate pair, escaped, has no UTF-8
    except (ValueError, RecursionError) as error:
        raise _refused(where, str(error).splitlines()[0], "one JSON object in UTF-8") from error
    if not isinstance(value, dict):
        raise _refused(where, type(value).__name__, "an object")
    return value


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def canonical_object(data: bytes) -> dict[str, Any] | None:
    """The object in `data` where that is its one canonical form, None otherwise: fast, and never read in two ways."""
    try:
        text = data.decode("utf-8")
        value = json.loads(text)
        return value if isinstance(value, dict) and _ENCODER.encode(value) == text else None
    except (ValueError, RecursionError):
        return None


def _check_depth(data: bytes, where: str) -> None:
    """A bound from above that needs no parser: brackets in texts count as well, and none of ours has so many."""
    depth = 0
    if data.count(b"{") + data.count(b"[") <= MAX_DEPTH:
        return
    inside = False
    previous = 0
    for byte in data:
        if byte == 0x22 and previous != 0x5C:
            inside = not inside
        elif not inside and byte in b"{[":
            depth += 1
            if depth > MAX_DEPTH:
                raise _refused(where, f"more than {MAX_DEPTH} levels", f"at most {MAX_DEPTH}")
        elif not inside and byte in b"}]":
            depth -= 1
        previous = 0 if previous == 0x5C and byte == 0x5C else byte


def _without_twins(pairs: list[tuple[str, Any]], where: str) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twin = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise _refused(where, f"the key {twin!r} twice", "each key once")
    return found


def _no_number(text: str, where: str) -> NoReturn:
    raise _refused(where, f"the number {text[:40]}", "numbers written as text")


def _refused(where: str, got: str, expected: str) -> MalformedFile:
    return MalformedFile("JSON that a verifier does not take", where=where, got=got, expected=expected)
