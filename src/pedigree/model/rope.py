"""Rotary positions: angles computed once a forward pass, one rotation for both channel layouts.

Shapes: B = batch, T = tokens, H = heads, R = turning channels (2P pairs), D = channels of a head.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pedigree.model.config import ModelConfig
from pedigree.model.config_parts import Rope, RopeScaling


class Rotation(NamedTuple):
    """Cosines and signed sines for each token, ready to multiply: y = x * cos + partner(x) * sin."""

    cos_BT1R: Tensor
    sin_BT1R: Tensor
    interleaved: bool


def rotation(config: ModelConfig, positions_BT: Tensor) -> Rotation | None:
    """The rotation of tokens at these positions; None where the config has no rotary positions.

    Args:
        config: gives base, layout and the number of turning channels.
        positions_BT: positions; a batch axis of 1 is broadcast.
    """
    if config.rope is None:
        return None
    width, device = config.rotary_dim, positions_BT.device
    scaling = config.rope.scaling
    longest = positions_BT.max() + 1 if scaling is not None and scaling.kind == "dynamic" else None
    angles_BTP = positions_BT[..., None].float() * frequencies(config.rope, width, device, longest)
    if config.homotopy is not None and config.homotopy.angles != 1:
        angles_BTP = angles_BTP * config.homotopy.angles
    cos, sin = angles_BTP.cos(), angles_BTP.sin()
    if scaling is not None and scaling.turn_factor != 1:
        cos, sin = cos * scaling.turn_factor, sin * scaling.turn_factor
    if config.rope.layout == "interleaved":
        cos, sin = torch.stack([cos, cos], -1).flatten(-2), torch.stack([-sin, sin], -1).flatten(-2)
    else:
        cos, sin = torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)
    return Rotation(cos[:, :, None], sin[:, :, None], config.rope.layout == "interleaved")


def frequencies(rope: Rope, width: int, device: torch.device, longest: Tensor | None = None) -> Tensor:
    """Turns of each channel pair from one token to the next, in radians: [P], float32.

    Args:
        rope: base and scaling.
        width: turning channels, 2P.
        device: where to compute.
        longest: positions of this pass, which dynamic scaling grows with; None is the original context.
    """
    exponents_P = torch.arange(0, width, 2, device=device, dtype=torch.float32) / width
    s = rope.scaling
    if s is not None and s.kind == "dynamic" and s.original_positions and longest is not None and width > 2:
        grown = longest.clamp(min=s.original_positions) / s.original_positions
        return (rope.theta * (s.factor * grown - (s.factor - 1)) ** (width / (width - 2))) ** -exponents_P
    plain_P = rope.theta**-exponents_P
    if s is None or s.kind == "dynamic":
        return plain_P
    kept_P = _kept(s, rope.theta, plain_P, width)
    return plain_P * (kept_P + (1 - kept_P) / s.factor)


def _kept(s: RopeScaling, theta: float, plain_P: Tensor, width: int) -> Tensor:
    """Share of each wave's speed that scaling leaves: 1 for short waves, 0 for long ones; [P]."""
    if s.kind == "linear" or s.original_positions is None:
        return torch.zeros_like(plain_P)
    if s.kind == "llama3":
        turns_P = plain_P * (s.original_positions / (2 * math.pi))
        return ((turns_P - s.low) / (s.high - s.low)).clamp(0, 1)
    # yarn: between the channels whose waves turn `high` and `low` times in the original context
    first, last = (
        width * math.log(s.original_positions / (turns * 2 * math.pi)) / (2 * math.log(theta))
        for turns in (s.high, s.low)
    )
    if s.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, width - 1)
    channels_P = torch.arange(width // 2, device=plain_P.device, dtype=torch.float32)
    return 1 - ((channels_P - first) / (last - first if last != first else 0.001)).clamp(0, 1)


def rotate(x_BTHD: Tensor, turn: Rotation | None) -> Tensor:
    """Heads with their leading channels turned; the others pass."""
    if turn is None:
        return x_BTHD
    width = turn.cos_BT1R.shape[-1]
    if width < x_BTHD.shape[-1]:
        return torch.cat([rotate(x_BTHD[..., :width], turn), x_BTHD[..., width:]], -1)
    if turn.interleaved:
        partner = torch.unflatten(x_BTHD, -1, (-1, 2)).flip(-1).flatten(-2)
    else:
        partner = x_BTHD.roll(width // 2, -1)
    kind = x_BTHD.dtype  # angles are float32 until here: casting is free where the model is float32
    return torch.addcmul(x_BTHD * turn.cos_BT1R.to(kind), partner, turn.sin_BT1R.to(kind))
