"""Rotary positions in config.json: `rope_parameters` of today and `rope_scaling` of before, read and written.

Kinds that are built here: default, llama3, linear, dynamic, yarn. Any other is refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pedigree.model.config import ModelConfig
from pedigree.model.config_parts import RopeScaling

KINDS = ("default", "llama3", "linear", "dynamic", "yarn")
_YARN_NUMBERS = ("attention_factor", "mscale", "mscale_all_dim")


def rope_of(h: Mapping[str, Any]) -> Mapping[str, Any]:
    """The mapping that describes the rotation, under its new or its old key; empty where there is none."""
    return h.get("rope_parameters") or h.get("rope_scaling") or {}


def kind_of(h: Mapping[str, Any]) -> str:
    """The kind of scaling, `default` where none is named."""
    rope = rope_of(h)
    return str(rope.get("rope_type", rope.get("type", "default")))


def theta_of(h: Mapping[str, Any]) -> float:
    """The base of the wavelengths."""
    rope = h.get("rope_parameters") or {}
    return float(rope.get("rope_theta") or h.get("rope_theta") or 10000.0)


def read_scaling(h: Mapping[str, Any]) -> dict[str, Any] | None:
    """Fields of `RopeScaling`; None where nothing is scaled.

    Raises:
        KeyError: a number that the kind needs is absent.
    """
    rope, kind = rope_of(h), kind_of(h)
    if kind == "default":
        return None
    longest = h["max_position_embeddings"]
    original = rope.get("original_max_position_embeddings") or h.get("original_max_position_embeddings") or longest
    if kind == "llama3":
        return {
            "factor": rope["factor"],
            "low": rope["low_freq_factor"],
            "high": rope["high_freq_factor"],
            "original_positions": rope["original_max_position_embeddings"],
        }
    if kind == "linear":
        return {"kind": kind, "factor": rope["factor"]}
    if kind == "dynamic":  # the classes count from the longest context, whatever else is said
        return {"kind": kind, "factor": rope["factor"], "original_positions": longest}
    return {
        "kind": kind,
        "factor": rope.get("factor") or longest / original,
        "low": rope.get("beta_slow") or 1.0,
        "high": rope.get("beta_fast") or 32.0,
        "original_positions": original,
        "truncate": bool(rope.get("truncate", True)),
        **{name: rope[name] for name in _YARN_NUMBERS if rope.get(name)},
    }


def scaling_keys(s: RopeScaling) -> dict[str, Any]:
    """The same fields as keys of `rope_parameters`."""
    keys: dict[str, Any] = {"rope_type": s.kind, "factor": s.factor}
    if s.kind in ("llama3", "yarn"):
        keys["original_max_position_embeddings"] = s.original_positions
    if s.kind == "llama3":
        return keys | {"low_freq_factor": s.low, "high_freq_factor": s.high}
    if s.kind == "yarn":
        keys |= {"beta_slow": s.low, "beta_fast": s.high, "truncate": s.truncate}
        keys |= {name: value for name in _YARN_NUMBERS if (value := getattr(s, name)) is not None}
    return keys


def scaling_reasons(c: ModelConfig) -> Iterator[str]:
    """What of the scaling the classes of transformers cannot compute."""
    s = c.rope.scaling if c.rope is not None else None
    if s is None:
        return
    if s.kind == "dynamic" and s.original_positions != c.n_positions:
        yield f"dynamic scaling starts at {s.original_positions} positions, not at n_positions"
