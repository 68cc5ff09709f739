"""The state of an optimizer that a run begins with: that of the run before, or what surgery made of it.

    checkpoints/step-00000200/    as a run saves it: `optimizer.exp_avg.NAME`, `optimizer.step.NAME`
    MODEL.optimizer/              as `pedigree surgery` writes it: `exp_avg.NAME`, and `steps.json`

Law  a run that begins with the state and the weights of another's end takes the steps that the other would have taken,
     as far as schedule and data are the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from pedigree.errors import MalformedFile, MissingInput
from pedigree.training.optimizer import Optimizers
from pedigree.weights.checkpoint import open_checkpoint

STEPS = "steps.json"
_SAVED = "optimizer."
_MAX_JSON = 64 << 20


def read_carried(folder: Path) -> dict[str, Tensor]:
    """The state in a folder, `<kind>.<name of the weight>` -> tensor.

    Raises:
        MissingInput: there is none.
        MalformedFile: its steps are not readable.
    """
    with open_checkpoint(folder) as checkpoint:
        saved = [name for name in checkpoint.tensors if name.startswith(_SAVED)]
        if saved:
            return {name.removeprefix(_SAVED): checkpoint.read(name) for name in saved}
        found = {name: checkpoint.read(name) for name in checkpoint.tensors}
    file = folder / STEPS
    if not file.is_file():
        raise MissingInput("there is no state of an optimizer", where=str(folder), expected=f"moments and {STEPS}")
    try:
        steps = json.loads(file.read_bytes()[:_MAX_JSON])["steps"]
        found |= {f"step.{name}": torch.tensor(float(count)) for name, count in steps.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MalformedFile("the steps of the state cannot be read", where=str(file)) from error
    return found


def carry_into(optimizers: Optimizers, state: Mapping[str, Tensor]) -> int:
    """Begin with a state; weights that it does not name begin as ever.

    Returns:
        How many tensors of state were taken over.

    Raises:
        MalformedFile: a tensor has another shape.
    """
    own = optimizers.tensors()
    optimizers.load({name: state.get(name, tensor) for name, tensor in own.items()})
    return sum(name in state for name in own)
