"""Weights that a run must not change: chosen by role and layer, held, and checked when the run is over.

Rules
1. A frozen weight takes part in the forward pass and gets no gradient, no moment and no weight decay.
2. A frozen router keeps its selection bias too, which no gradient moves.
3. A table that serves both ends is one weight: freezing one end of a tied model freezes the other.
4. What was frozen is hashed before the first step and after the last; a difference is an error of ours, told as one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from blake3 import blake3
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from pedigree.errors import InternalError, UsageError
from pedigree.training.config import FreezeRule, FrozenRole

# The first pattern that is found in a name decides: `layers.3.ffn.router.weight` is a router, not a feed-forward part.
_ROLES: tuple[tuple[FrozenRole, str], ...] = (
    ("mtp", r"^mtp\."),
    ("embed", r"^embed\."),
    ("positions", r"^(query_)?positions\."),
    ("head", r"^head\."),
    ("norm", r"norm\.(weight|bias)$"),
    ("router", r"\.router\."),
    ("experts", r"\.experts\."),
    ("shared", r"\.shared(_gate)?\."),
    ("attention", r"\.attn\."),
    ("shortcut", r"\.shortcuts\."),
    ("feed-forward", r"\.ffn\."),
)
_LAYER = re.compile(r"^layers\.(\d+)\.")


def role_of(name: str) -> FrozenRole | None:
    """The role that a weight of the decoder plays, by its name; None where the name is unknown."""
    return next((role for role, pattern in _ROLES if re.search(pattern, name)), None)


def layer_of(name: str) -> int | None:
    """The number of the layer that a weight lies in, None outside the layers."""
    found = _LAYER.match(name)
    return int(found.group(1)) if found else None


def freeze(model: nn.Module, rules: tuple[FreezeRule, ...]) -> list[str]:
    """Take the gradients of the chosen weights away; the names of all that is frozen, buffers of routers included.

    Args:
        model: its weights named as those of `pedigree.model.decoder.Decoder`.
        rules: a weight is frozen when one of them names its role and its layer.

    Raises:
        UsageError: a rule fits no weight, or nothing is left to train.
    """
    trained = dict(model.named_parameters())
    fitting = {name: [i for i, rule in enumerate(rules) if _fits(rule, name)] for name, _ in _everything(model)}
    met = {i for found in fitting.values() for i in found}
    for i, rule in enumerate(rules):
        if i not in met:
            raise UsageError(
                "no weight of this model is meant by this rule", where=f"training.freeze[{i}]",
                got=rule.model_dump_json(exclude_defaults=True), expected=_present(trained),
                fix="a tied head is `embed`" if rule.roles == ("head",) else None,
            )  # fmt: skip
    frozen = [name for name, found in fitting.items() if found]
    for name in frozen:
        if name in trained:
            trained[name].requires_grad_(False)
    if rules and not any(parameter.requires_grad for parameter in trained.values()):
        raise UsageError("every weight is frozen, so there is nothing to train", where="training.freeze")
    return frozen


def frozen_digests(model: nn.Module, names: list[str]) -> dict[str, str]:
    """Hash of the numbers of each frozen weight, of this rank's part where it is spread over ranks."""
    held = dict(_everything(model))
    return {name: _digest(held[name]) for name in names}


def check_still(before: Mapping[str, str], after: Mapping[str, str]) -> None:
    """Make sure that no frozen weight has changed.

    Raises:
        InternalError: one has; its name.
    """
    for name, digest in before.items():
        if after[name] != digest:
            raise InternalError(
                "a frozen weight has changed during training", where=name, got=after[name], expected=digest
            )


def frozen_facts(digests: Mapping[str, str]) -> dict[str, Any]:
    """What is told of frozen weights: how many, and one hash over all of them."""
    text = "\n".join(f"{name} {digest}" for name, digest in sorted(digests.items()))
    return {"tensors": len(digests), "blake3": blake3(text.encode()).hexdigest()}


def _everything(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Weights, and the buffers that training moves without a gradient."""
    yield from model.named_parameters()
    for name, buffer in model.named_buffers():
        if name.endswith("router.expert_bias"):
            yield name, buffer


def _fits(rule: FreezeRule, name: str) -> bool:
    if rule.layers is not None and layer_of(name) not in rule.layers:
        return False
    return rule.roles is None or role_of(name) in rule.roles


def _present(names: Mapping[str, Any]) -> str:
    roles = list(dict.fromkeys(role for name in names if (role := role_of(name)) is not None))
    layers = [layer for name in names if (layer := layer_of(name)) is not None]
    return f"roles {', '.join(roles)}; layers 0 to {max(layers, default=0)}"


def _digest(tensor: Tensor) -> str:
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    plain = local.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return blake3(plain.numpy().data).hexdigest()
