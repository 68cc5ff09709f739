"""Norms: where they stand, told from which of them a model has.

Names alone mislead. `post_attention_norm` of a GGUF is a norm on the branch output in Gemma 2, and the norm in front of
the MLP in GLM-4.5, where no other norm stands there. Which norms a layer has settles it.

    in front and behind      sandwich
    in front only            pre
    behind only              what the table says: "post" (after the residual is added) or "post-branch" (before)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from pedigree.weights.part import Part
from pedigree.weights.roles import BIAS

_AT_MLP = ("norm.mlp", "norm.mlp.post", "norm.mlp" + BIAS, "norm.mlp.post" + BIAS)
Key = tuple[str, int | None, int | None]


def settle_norms(parts: Mapping[Key, Part]) -> dict[Key, Part]:
    """Parts with the norm behind attention renamed where it can only be the one in front of the MLP."""
    roles: dict[int | None, set[str]] = {}
    for role, layer, _ in parts:
        roles.setdefault(layer, set()).add(role)
    settled: dict[Key, Part] = {}
    for (role, layer, expert), part in parts.items():
        alone = "norm.attn" in roles[layer] and roles[layer].isdisjoint(_AT_MLP)
        if alone and role in ("norm.attn.post", "norm.attn.post" + BIAS):
            role = role.replace("norm.attn.post", "norm.mlp")
            part = replace(part, role=role)
        settled[role, layer, expert] = part
    return settled


def placement(roles: Iterable[str], stated: str) -> str:
    """Where the norms stand: "pre", "post", "post-branch" or "sandwich".

    Args:
        roles: roles of all parts.
        stated: what the role table says.
    """
    found = set(roles)
    before = not found.isdisjoint(("norm.attn", "norm.mlp"))
    behind = not found.isdisjoint(("norm.attn.post", "norm.mlp.post"))
    if before and behind:
        return "sandwich"
    if before:
        return "pre"
    if behind:
        return stated if stated in ("post", "post-branch") else "post-branch"
    return stated


def norms_have_bias(roles: Iterable[str]) -> bool:
    """Whether some gain has a bias: then it is that of a layer norm, whatever the table says.

    The final one alone proves nothing: an RMS norm may keep the bias of the LayerNorm it was.
    """
    return any(role.startswith("norm.") and role.endswith(BIAS) and role != "norm.final" + BIAS for role in roles)
