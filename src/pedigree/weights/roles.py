"""Roles and axes: what a tensor does, and in which space each of its axes lies.

A role names a place in a decoder (`attn.q`, `mlp.down`, `norm.final`). Every role has the same axes in every
architecture; they are data, in `data/roles.json`. Three rules extend that table:

- `<role>.bias` is the additive twin of a linear map or of a norm: it lies in the space of the role's first axis;
- `mtp.<role>` is the same role inside a multi-token-prediction layer, and has the same axes;
- a matrix whose first axis is a writer writes into that space and reads from the space of its last axis.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

from pedigree.errors import InternalError

BIAS = ".bias"
MTP = "mtp."

SPACES = (
    "residual",
    "heads",
    "kv_heads",
    "head_dim",
    "inner",
    "experts",
    "vocabulary",
    "layers",
    "positions",
    "types",
    "terms",
    "bottleneck",
    "latent_q",
    "latent_kv",
)
PLACES = ("reader", "writer", "gain", "bias", "table")


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a canonical tensor: the space it lies in, and its part there (reader, writer, gain, bias, table)."""

    space: str
    part: str


def axes_from(text: str) -> tuple[Axis, ...]:
    """Axes written as "inner:writer residual:reader", first axis first."""
    axes = []
    for word in text.split():
        space, _, part = word.partition(":")
        if space not in SPACES or part not in PLACES:
            raise InternalError("A role table names an unknown axis", got=word)
        axes.append(Axis(space, part))
    return tuple(axes)


@lru_cache(maxsize=1)
def role_axes() -> dict[str, tuple[Axis, ...]]:
    """The whole table: role to axes, without the bias and multi-token-prediction twins."""
    text = resources.files("pedigree.weights").joinpath("data/roles.json").read_text("utf-8")
    return {role: axes_from(axes) for role, axes in json.loads(text).items()}


@lru_cache(maxsize=1024)
def axes_of(role: str) -> tuple[Axis, ...]:
    """The axes of a role, twins included.

    Raises:
        InternalError: the role is in no table (a data file of ours is wrong).
    """
    table = role_axes()
    if role in table:
        return table[role]
    if role.startswith(MTP):
        return axes_of(role.removeprefix(MTP))
    if role.endswith(BIAS):
        return (Axis(axes_of(role.removesuffix(BIAS))[0].space, "bias"),)
    raise InternalError("No axes are known for a role", got=role, expected="a role of data/roles.json")
