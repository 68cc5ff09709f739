"""Norms of a thin model: of which kind they are, where they stand, and their gains at the coordinates that it holds.

Matrices of a thin model carry the gains in front of them already, so gains add nothing to what is compared in place.
They are held for what they say alone: a gain begins at one, so its deviations were learned and nothing else
(`descent/gains.py`). Fingerprints of version 1 hold none.

Shapes: C = coordinates kept, N = norms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pedigree.forensics.descent.gains import IN_LAYERS
from pedigree.forensics.sides.linear import is_damaged
from pedigree.forensics.sides.views import read_gain
from pedigree.weights.anatomy import Anatomy

Place = tuple[str, int | None]
"""Role of a norm and its layer, None for the final one."""

FINAL = "norm.final"
ROLES = (FINAL, *IN_LAYERS)
WORDS = {
    "kind": ("rms", "layer"),
    "placement": ("pre", "post", "post-branch", "sandwich"),
    "residual": ("sequential", "parallel"),
}
"""What a file may say of norms and blocks: the words of `Anatomy`."""


@dataclass(frozen=True)
class Norms:
    """Norms of a model.

    Attributes:
        kind, placement, residual: as in `Anatomy`.
        gains: role and layer to float32 [C], with what the architecture adds to a stored gain.
    """

    kind: str
    placement: str
    residual: str
    gains: Mapping[Place, Tensor]

    def in_front(self, norm: str, layer: int | None) -> Tensor | None:
        """The gain that rows which read the stream carry, as `views.fold_reader` folds it."""
        if self.placement == "post":
            return None
        if norm == "norm.mlp" and self.residual == "parallel" and (norm, layer) not in self.gains:
            norm = "norm.attn"
        return self.gains.get((norm, layer))

    def behind(self, norm: str, layer: int | None) -> Tensor | None:
        """The gain that rows which write the stream carry, as `views.fold_writer` folds it."""
        return None if self.placement in ("pre", "post") else self.gains.get((norm, layer))

    def facts(self) -> dict[str, object]:
        """What the metadata of a file says of them; `held` names the rows of `stacked`."""
        held = [[role, -1 if layer is None else layer] for role, layer in self.gains]
        return {"kind": self.kind, "placement": self.placement, "residual": self.residual, "held": held}

    def stacked(self) -> Tensor:
        """All gains, float32 [N, C]."""
        return torch.stack(list(self.gains.values())).contiguous()


def read_norms(anatomy: Anatomy, coordinates: Sequence[int]) -> Norms:
    """Norms of a checkpoint; gains of another width, or with numbers that are none, are left out."""
    gains: dict[Place, Tensor] = {}
    places: list[Place] = [(FINAL, None), *((role, j) for j in range(anatomy.n_layers) for role in IN_LAYERS)]
    for role, layer in places:
        gain_D = read_gain(anatomy, role, layer)
        if gain_D is not None and len(gain_D) == anatomy.d_model and not is_damaged(gain_D):
            gains[role, layer] = gain_D.float()[list(coordinates)].contiguous()
    return Norms(anatomy.norm, anatomy.norm_placement, anatomy.residual, gains)


def is_described(facts: object, layers: int) -> bool:
    """Whether metadata describe norms as `Norms.facts` does: known words, and no norm twice.

    Args:
        facts: of an untrusted file.
        layers: layers of the model.
    """
    if not isinstance(facts, dict) or any(facts.get(key) not in words for key, words in WORDS.items()):
        return False
    held = facts.get("held")
    if not isinstance(held, list) or len(held) > len(ROLES) * (layers + 1):
        return False
    if not all(isinstance(pair, list) and len(pair) == 2 and _is_place(pair[0], pair[1], layers) for pair in held):
        return False
    return len({tuple(pair) for pair in held}) == len(held)


def _is_place(role: object, layer: object, layers: int) -> bool:
    if role == FINAL:
        return type(layer) is int and layer == -1
    return role in IN_LAYERS and type(layer) is int and 0 <= layer < layers


def norms_from(facts: Mapping[str, object], gains_NC: Tensor | None) -> Norms:
    """Norms from metadata that `is_described` and their rows, which are as many."""
    held = facts["held"]
    places: list[Place] = [(role, None if layer < 0 else layer) for role, layer in held]  # type: ignore[attr-defined]
    rows = [] if gains_NC is None else list(gains_NC)
    words = {key: str(facts[key]) for key in WORDS}
    return Norms(**words, gains=dict(zip(places, rows, strict=True)))
