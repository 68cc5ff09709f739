"""What operators ask of the shape of a model: norms, heads, and whether an operator can act on it at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from pedigree.surgery.nodes import Node
from pedigree.surgery.operator import Step
from pedigree.surgery.selection import Index
from pedigree.surgery.symbolic import Key, Symbolic
from pedigree.weights.roles import BIAS, MTP


class HeadShape(NamedTuple):
    """Heads (H), key/value heads (K), head dimension (e), and query heads that share a key/value head (G = H / K)."""

    heads: int
    kv_heads: int
    dim: int
    group: int


def head_shape(symbolic: Symbolic, step: Step) -> HeadShape:
    """Heads of the model as it stands.

    Raises:
        UsageError: they are unknown, do not divide, or attention goes through a latent.
    """
    heads, kv, dim = symbolic.n_heads, symbolic.n_kv_heads, symbolic.head_dim
    if not heads or not kv or not dim:
        raise step.refuse("the heads of this model are not known", got=symbolic.anatomy.architecture)
    if any(role.startswith(("attn.kv_a", "attn.q_a", "attn.kv_b")) for role, _, _ in symbolic.parts):
        raise step.refuse("latent attention has no key and value heads of its own", got=symbolic.anatomy.architecture)
    if heads % kv:
        raise step.refuse("query heads do not divide into groups", got=f"{heads} query, {kv} key/value heads")
    if any(key[0].startswith("attn.sink") for key in symbolic.parts):
        raise step.refuse("learned sinks belong to heads, and are not mapped", got="attn.sink")
    return HeadShape(heads, kv, dim, heads // kv)


def rows_of_heads(order: Index, dim: int) -> Index:
    """Rows of heads taken in an order, `dim` rows each."""
    return np.asarray(order[:, None] * dim + np.arange(dim, dtype=np.int64)[None, :]).reshape(-1)


def change(symbolic: Symbolic, roles: tuple[str, ...], function: Callable[[Key, Node], Node]) -> None:
    """Replace every part of these roles, prediction layers included."""
    wanted = {*roles, *(MTP + role for role in roles)}
    for key, node in list(symbolic.parts.items()):
        if key[0] in wanted:
            symbolic.parts[key] = function(key, node)


def with_bias(*roles: str) -> tuple[str, ...]:
    """Roles and their biases."""
    return (*roles, *(role + BIAS for role in roles))


def head_gain_is_shared(symbolic: Symbolic) -> bool:
    """Whether the norm of queries and keys has one gain for all heads (length e), and not one for each row."""
    for key, node in symbolic.parts.items():
        if key[0].removeprefix(MTP) in ("norm.q", "norm.k"):
            return node.shape[0] == symbolic.head_dim
    return True


def refuse_wide_head_norm(symbolic: Symbolic, step: Step) -> None:
    """A norm over all heads together sees every head that is added or taken.

    Raises:
        UsageError: the model has one.
    """
    if not head_gain_is_shared(symbolic):
        raise step.refuse(
            "one norm spans all query heads, so that heads cannot be added or taken exactly",
            got=f"norm.q of {symbolic.anatomy.architecture}", expected="a norm for each head, or none",
        )  # fmt: skip


def keep_inner(symbolic: Symbolic) -> None:
    """Write the inner width down where the class would derive it from the width, which is about to change."""
    widths = {node.shape[1] for key, node in symbolic.parts.items() if key[0] == "mlp.down"}
    if symbolic.config.values and symbolic.config.find("d_inner") is None and len(widths) == 1:
        symbolic.config.set("d_inner", widths.pop())
