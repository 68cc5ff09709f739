"""Rotary positions: angles computed once a forward pass, one rotation for both channel layouts.

Shapes: B = batch, T = tokens, H = heads, R = turning channels (2P pairs), D = channels of a head.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pedigree.model.config import ModelConfig
from pedigree.model.config_parts import Rope


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
    angles_BTP = positions_BT[..., None].float() * frequencies(config.rope, width, device)
    cos, sin = angles_BTP.cos(), angles_BTP.sin()
    if config.rope.layout == "interleaved":
        cos, sin = torch.stack([cos, cos], -1).flatten(-2), torch.stack([-sin, sin], -1).flatten(-2)
    else:
        cos, sin = torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)
    return Rotation(cos[:, :, None], sin[:, :, None], config.rope.layout == "interleaved")


def frequencies(rope: Rope, width: int, device: torch.device) -> Tensor:
    """Turns of each channel pair from one token to the next, in radians: [P], float32."""
    exponents_P = torch.arange(0, width, 2, device=device, dtype=torch.float32) / width
    plain_P = rope.theta**-exponents_P
    s = rope.scaling
    if s is None:
        return plain_P
    turns_P = plain_P * (s.original_positions / (2 * math.pi))
    kept_P = ((turns_P - s.low) / (s.high - s.low)).clamp(0, 1)
    return plain_P * (kept_P + (1 - kept_P) / s.factor)


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
