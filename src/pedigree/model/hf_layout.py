"""Where each stored tensor lies in a decoder: the plan that export and import both follow.

Laws
1. Every parameter and persistent buffer of the decoder lies in stored tensors exactly once, but for copies.
2. Export and import read the same plan, so what one writes the other reads back bit for bit.

Shapes follow the stored tensor; a matrix is [out, in] unless its module is stored transposed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from pedigree.errors import InternalError
from pedigree.model.config import ModelConfig
from pedigree.model.decoder import Decoder
from pedigree.model.hf_names import Names


@dataclass(frozen=True)
class View:
    """A block of rows of one of our tensors, of one expert where there are several."""

    name: str
    expert: int | None = None
    start: int | None = None
    stop: int | None = None

    def of(self, state: Mapping[str, Tensor]) -> Tensor:
        """The block, without a copy."""
        tensor = state[self.name]
        if self.expert is not None:
            tensor = tensor[self.expert]
        return tensor if self.start is None else tensor[self.start : self.stop]


@dataclass(frozen=True)
class Slot:
    """One stored tensor: views whose rows it holds one above the other."""

    name: str
    views: tuple[View, ...]
    transposed: bool = False
    as_row: bool = False
    """A vector stored as [1, n]."""
    is_copy: bool = False
    """Repeats a tensor that has its own slot; written for other readers, compared when read."""

    def value(self, state: Mapping[str, Tensor]) -> Tensor:
        """The tensor to store; a view of the state wherever that is possible."""
        parts = [view.of(state) for view in self.views]
        value = parts[0] if len(parts) == 1 else torch.cat(parts)
        if self.as_row:
            value = value[None]
        return value.T if self.transposed else value

    def shape(self, state: Mapping[str, Tensor]) -> tuple[int, ...]:
        """Shape of the stored tensor; `state` may live on the meta device."""
        return tuple(self.value(state).shape)

    def fill(self, state: Mapping[str, Tensor], stored: Tensor) -> None:
        """Copy a stored tensor of the right shape to where it belongs, in place."""
        value = stored.T if self.transposed else stored
        value = value[0] if self.as_row else value
        targets = [view.of(state) for view in self.views]
        for target, part in zip(targets, torch.split(value, [t.shape[0] for t in targets]), strict=True):
            target.copy_(part)

    def agrees(self, state: Mapping[str, Tensor], stored: Tensor) -> bool:
        """Whether a stored tensor equals what the state holds."""
        return torch.equal(self.value(state).to(stored.dtype), stored)


def empty_state(config: ModelConfig) -> dict[str, Tensor]:
    """Names, types and shapes of a decoder's tensors, on the meta device; the dictionary is the caller's own."""
    return dict(_state(config))


@lru_cache(maxsize=64)  # a family plan asks for each of its shapes several times
def _state(config: ModelConfig) -> dict[str, Tensor]:
    with torch.device("meta"):
        return Decoder(config).state_dict()


def slots(config: ModelConfig, names: Names) -> list[Slot]:
    """All stored tensors of a decoder in a layout, in the order of its layers.

    Raises:
        InternalError: the layout has no name for one of the tensors (the dialect took a config it cannot hold).
    """
    plan: list[Slot] = []
    fused = {part: whole for whole, parts in names.fused.items() for part in parts}
    for name, tensor in empty_state(config).items():
        general, layer = _general(name, config)
        module, _, leaf = general.rpartition(".")
        if names.experts is not None and ".experts." in general:
            plan += _expert_slots(name, leaf, tensor.shape, layer, names.experts)
        elif general in names.parameters:
            as_row = leaf == "scale"
            plan.append(Slot(_at(names.parameters[general], layer), (View(name),), as_row=as_row))
        elif module in fused:
            whole, parts = fused[module], names.fused[fused[module]]
            if module == parts[0]:
                views = tuple(View(f"{_ours(part, layer)}.{leaf}") for part in parts)
                turned = whole in names.transposed and leaf == "weight"
                plan.append(Slot(f"{_at(whole, layer)}.{leaf}", views, turned))
        elif module in names.modules:
            theirs = names.modules[module]
            turned = theirs in names.transposed and leaf == "weight"
            plan.append(Slot(f"{_at(theirs, layer)}.{leaf}", (View(name),), turned))
        else:
            raise InternalError("A layout has no name for a tensor", got=name)
    depth = 0 if config.mtp is None else config.mtp.depth
    for layer in range(config.n_layers, config.n_layers + depth):
        for theirs, ours in names.copies.items():
            source = "embed.weight" if config.tied else ours
            plan.append(Slot(_at(theirs, layer), (View(source),), is_copy=True))
    return plan


def _general(name: str, config: ModelConfig) -> tuple[str, int]:
    """A tensor name with its layer taken out; blocks of multi-token layers count as layers behind the last."""
    found = re.match(r"(layers|mtp)\.(\d+)\.(block\.)?(.*)", name)
    if found is None:
        return name, 0
    room, number, block, rest = found.groups()
    if room == "layers":
        return f"layers.{{i}}.{rest}", int(number)
    return (f"layers.{{i}}.{rest}" if block else f"mtp.{{i}}.{rest}"), config.n_layers + int(number)


def _at(template: str, layer: int) -> str:
    return template.replace("{i}", str(layer))


def _ours(module: str, layer: int) -> str:
    """Our module in a layer; fused modules stand in main layers only."""
    return module.replace("{i}", str(layer))


def _expert_slots(
    name: str, leaf: str, shape: torch.Size, layer: int, templates: tuple[str, str, str]
) -> Iterator[Slot]:
    """One slot for each matrix of each expert."""
    kind = "bias" if leaf.endswith("_bias") else "weight"
    gate, up, down = (f"{_at(template, layer)}.{kind}" for template in templates)
    for expert in range(shape[0]):
        if leaf.startswith("down"):
            yield Slot(down.replace("{e}", str(expert)), (View(name, expert),))
        else:
            half = shape[1] // 2
            yield Slot(gate.replace("{e}", str(expert)), (View(name, expert, 0, half),))
            yield Slot(up.replace("{e}", str(expert)), (View(name, expert, half, 2 * half),))
