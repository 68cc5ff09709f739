"""Which weights are updated by which rule, and the state of the rules as named tensors.

Rules
1. Norms, gains and biases (all with fewer than two axes) are never decayed; embeddings and head only if asked.
2. A group of weights lies on one mesh.
3. Muon takes the matrices inside the blocks; embeddings, head, routers and vectors stay with AdamW.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pedigree.errors import MalformedFile
from pedigree.training.config import OptimizerConfig
from pedigree.training.interface import Trainable
from pedigree.training.muon import Muon

_TABLES = ("embed", "head", "positions", "wte", "wpe")  # parts of names of embeddings and output projections
_PEAK = "peak"  # key of a group: its rate where the schedule stands at one


class Optimizers:
    """The optimizers of one model, used as one.

    Args:
        model: what is trained; weights with `requires_grad` off stay as they are.
        config: rule and rates.
    """

    def __init__(self, model: Trainable, config: OptimizerConfig) -> None:
        self._names = {parameter: name for name, parameter in model.named_parameters() if parameter.requires_grad}
        inner = _inner_matrices(model) if config.name == "muon" else set()
        plain: dict[tuple[float, Any], list[nn.Parameter]] = {}
        for parameter, name in self._names.items():
            if parameter not in inner:
                plain.setdefault((_decay(parameter, name, config), _mesh(parameter)), []).append(parameter)
        self.all: list[torch.optim.Optimizer] = []
        if plain:
            groups = [{"params": members, "weight_decay": decay} for (decay, _), members in plain.items()]
            fused = all(parameter.device.type in ("cpu", "cuda", "mps") for parameter in self._names)
            self.all.append(
                torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=fused or None)
            )
        if inner:
            rate = config.muon_lr or config.lr
            alike: dict[Any, list[nn.Parameter]] = {}
            for parameter in self._names:
                if parameter in inner:
                    alike.setdefault(_mesh(parameter), []).append(parameter)
            matrices = [{"params": members} for members in alike.values()]
            self.all.append(Muon(matrices, rate, config.muon_momentum, config.weight_decay))
        for group in self.groups():
            group[_PEAK] = group["lr"]

    def groups(self) -> list[dict[str, Any]]:
        """All the parameter groups."""
        return [group for optimizer in self.all for group in optimizer.param_groups]

    def parameters(self) -> list[nn.Parameter]:
        """The trained weights, in the order of their names in the model."""
        return list(self._names)

    def set_share(self, share: float) -> None:
        """Set every rate to this share of its peak."""
        for group in self.groups():
            group["lr"] = group[_PEAK] * share

    def step(self) -> None:
        """One update."""
        for optimizer in self.all:
            optimizer.step()

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for optimizer in self.all:
            optimizer.zero_grad()

    def tensors(self) -> dict[str, Tensor]:
        """The state, `<kind>.<name of the weight>` -> tensor; created where no step was made yet."""
        self._create()
        return {
            f"{kind}.{name}": value
            for optimizer in self.all
            for parameter, name in self._names.items()
            if parameter in optimizer.state
            for kind, value in optimizer.state[parameter].items()
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over a state that `tensors` gave.

        Raises:
            MalformedFile: a tensor is missing or has another shape.
        """
        for name, own in self.tensors().items():
            if name not in tensors or tensors[name].shape != own.shape:
                got = tuple(tensors[name].shape) if name in tensors else "nothing"
                raise MalformedFile("the state of the optimizer does not fit", where=name, got=got, expected=own.shape)
            if tensors[name] is not own:
                own.copy_(tensors[name])

    def _create(self) -> None:
        """State of zeros for weights that have none; the first real step starts from it exactly as from nothing."""
        for optimizer in self.all:
            for parameter in (p for group in optimizer.param_groups for p in group["params"]):
                if not optimizer.state[parameter]:
                    optimizer.state[parameter].update(_fresh(optimizer, parameter))


def _fresh(optimizer: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    if isinstance(optimizer, Muon):
        return {"momentum": torch.zeros_like(parameter)}
    device = parameter.device if parameter.device.type != "cpu" else None
    zeros = {kind: torch.zeros_like(parameter, memory_format=torch.preserve_format) for kind in _MOMENTS}
    return {"step": torch.zeros((), dtype=torch.float32, device=device), **zeros}


_MOMENTS = ("exp_avg", "exp_avg_sq")


def _mesh(parameter: Tensor) -> Any:
    """The devices that a weight is spread over; an update of many weights at once wants them alike."""
    return getattr(parameter, "device_mesh", None)


def is_table(name: str) -> bool:
    """Whether a weight is an embedding, a table of positions or the output projection."""
    return any(part in piece for piece in name.split(".") for part in _TABLES)


def _decay(parameter: Tensor, name: str, config: OptimizerConfig) -> float:
    if parameter.ndim < 2 or (is_table(name) and not config.decay_embeddings):
        return 0.0
    return config.weight_decay


def _inner_matrices(model: Trainable) -> set[nn.Parameter]:
    blocks = {parameter for block in model.blocks() for parameter in block.parameters()}
    return {
        parameter
        for name, parameter in model.named_parameters()
        if parameter in blocks and parameter.ndim >= 2 and not is_table(name) and "router" not in name
    }
