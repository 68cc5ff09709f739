"""Canonical JSON: one value, one sequence of bytes.

Laws
1. `canonical_bytes` follows RFC 8785 (sorted keys, shortest numbers, UTF-8) after `stable`.
2. `stable` rounds every float to six significant digits, so that the last bits of a matrix product, which
   differ between machines and thread counts, never reach a record. It is idempotent.
3. NaN and infinity are not numbers a record may hold: they become null, and the path of each is reported.
4. Half of a surrogate pair (from a file name that is not UTF-8) becomes U+FFFD: records are UTF-8.
5. In what is hashed every number is written as a string, so that no reader's idea of a
   float can change a digest.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Any

import rfc8785

from pedigree.errors import UsageError

SIGNIFICANT_DIGITS = 6
_SURROGATES = re.compile("[\ud800-\udfff]")
_LARGEST_EXACT_INT = 2**53 - 1  # beyond it RFC 8785 forbids integers: JSON readers may hold them as doubles


def stable_float(value: float) -> float | None:
    """`value` at six significant digits, without negative zero; None when it is NaN or infinite."""
    if not math.isfinite(value):
        return None
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}") + 0.0


def stable(value: Any) -> tuple[Any, list[str]]:
    """A JSON-ready copy of `value` whose floats are rounded.

    Returns:
        The copy, made of dict, list, str, int, float, bool and None only, and the key paths
        (`result.tests[2].statistic`) at which a number that is not finite became null.

    Raises:
        UsageError: something in it has no JSON form, or a key is not a string.
    """
    lost: list[str] = []
    return _stable(value, "", lost), lost


def _stable(value: Any, path: str, lost: list[str]) -> Any:
    if isinstance(value, str):
        return _SURROGATES.sub("\N{REPLACEMENT CHARACTER}", value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        rounded = stable_float(float(value))
        if rounded is None:
            lost.append(path)
        return rounded
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise UsageError("a record key must be text", where=path or "top level", got=repr(key))
        names = {key: _SURROGATES.sub("\N{REPLACEMENT CHARACTER}", key) for key in value}
        return {name: _stable(value[key], f"{path}.{name}" if path else name, lost) for key, name in names.items()}
    if isinstance(value, list | tuple):
        return [_stable(item, f"{path}[{i}]", lost) for i, item in enumerate(value)]
    item = getattr(value, "item", None)  # a scalar of numpy or torch
    if callable(item) and getattr(value, "ndim", None) == 0:
        return _stable(item(), path, lost)
    raise UsageError(
        "this value has no JSON form",
        where=path or "top level",
        got=type(value).__name__,
        expected="text, number, true, false, null, a list or a mapping",
    )


def _numbers_as_text(value: Any) -> Any:
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"{value:.{SIGNIFICANT_DIGITS}g}"
    if isinstance(value, dict):
        return {key: _numbers_as_text(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers_as_text(item) for item in value]
    return value


def _exact(value: Any, path: str = "") -> None:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > _LARGEST_EXACT_INT:
        raise UsageError("an integer is too large for canonical JSON", where=path, got=value, expected="below 2**53")
    if isinstance(value, dict):
        for key, item in value.items():
            _exact(item, f"{path}.{key}")
    elif isinstance(value, list):
        for i, item in enumerate(value):
            _exact(item, f"{path}[{i}]")


def canonical_bytes(value: Any) -> bytes:
    """`value` as RFC 8785 canonical JSON in UTF-8, floats rounded first.

    Raises:
        UsageError: no JSON form, or an integer beyond 2**53 - 1.
    """
    plain, _ = stable(value)
    _exact(plain)
    return rfc8785.dumps(plain)


def hashed_bytes(value: Any) -> bytes:
    """`value` as RFC 8785 canonical JSON with every number written as a string: what is hashed and signed."""
    plain, _ = stable(value)
    return rfc8785.dumps(_numbers_as_text(plain))


def canonical_digest(value: Any) -> str:
    """`sha256:<hex>` of `hashed_bytes`."""
    return "sha256:" + hashlib.sha256(hashed_bytes(value)).hexdigest()


def readable_json(value: Any, *, indent: int | None = 2) -> str:
    """`value` as JSON in its own key order, floats rounded: the same text for the same value, everywhere."""
    plain, _ = stable(value)
    return json.dumps(plain, indent=indent, ensure_ascii=False, allow_nan=False)
