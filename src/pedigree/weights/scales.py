"""Tensors that are not roles: block scales of 8-bit weights, and buffers that are never trained.

Block scales multiply the stored numbers block by block (DeepSeek-V3 stores `<name>_scale_inv`, one per 128 x 128
block). Buffers (masks, rotary tables) are equal in unrelated models and must never count as evidence.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from pedigree.weights.dimensions import Hints
from pedigree.weights.part import TensorSource

_SCALE_SUFFIXES = ("_scale_inv", "_scale")
_CONSTANT = re.compile(
    r"(^|\.)("
    r"inv_freq|original_inv_freq|rope_freqs|freqs_cis|cos_cached|sin_cached|rotary_emb\.\w+|rope\.freqs"
    r"|weight_format|(input|output|k|v)_(global_)?scale"
    r"|position_ids|token_type_ids|masked_bias|attn_mask|causal_mask|mask|tril|triu|bias_mask|num_batches_tracked"
    r")(\.weight)?$"
)


def is_constant(stripped: str) -> bool:
    """Whether a name is that of a buffer which training never changes."""
    return _CONSTANT.search(stripped) is not None


def find_scales(source: TensorSource, hints: Hints) -> dict[str, tuple[str, tuple[int, int]]]:
    """Block scales by the tensor they belong to: (name of the scale, (rows, columns) of one block)."""
    scales: dict[str, tuple[str, tuple[int, int]]] = {}
    for name in source.tensors:
        base = next((name.removesuffix(end) for end in _SCALE_SUFFIXES if name.endswith(end)), name)
        if base == name or base not in source.tensors:
            continue
        block = _block(source.tensors, base, name, hints.scale_block)
        if block is not None:
            scales[base] = (name, block)
    return scales


def _block(
    tensors: Mapping[str, Any], base: str, scale: str, claimed: tuple[int, int] | None
) -> tuple[int, int] | None:
    """Rows and columns one scale covers: the config's where it fits, else 128, else an even share."""
    shape, blocks = tuple(tensors[base].shape), tuple(tensors[scale].shape)
    if len(shape) != 2 or len(blocks) > 2 or math.prod(blocks) == 0:
        return None
    counts = (*blocks, 1, 1)[:2] if blocks else (1, 1)
    sides = []
    for axis in (0, 1):
        options = (claimed[axis] if claimed else 0, 128, -(-shape[axis] // counts[axis]))
        side = next((size for size in options if size > 0 and -(-shape[axis] // size) == counts[axis]), None)
        if side is None:
            return None
        sides.append(side)
    return sides[0], sides[1]
