"""Bytes of a file -> torch tensors.

Shapes  N = rows (axis 0), B = bytes of one row.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pedigree.errors import InputError
from pedigree.weights.extent import Extent, TensorInfo
from pedigree.weights.number_types import BITS, torch_type
from pedigree.weights.quantization import dequantize_rows, is_quantized

if TYPE_CHECKING:
    import torch

Bytes = npt.NDArray[np.uint8]


def decode(info: TensorInfo, raw: Bytes, shape: tuple[int, ...], where: str) -> torch.Tensor:
    """Bytes as a tensor of a given shape, in the number type of the file; block quantizations as float32.

    Args:
        info: the tensor they come from.
        raw: uint8, any shape, owned by the result afterwards.
        shape: shape of the result in the file's elements.
        where: file and tensor, for messages.

    Returns:
        The tensor. F4 comes as `float4_e2m1fn_x2`, two values an element, the last axis halved.

    Raises:
        InputError: torch has no such number type, or the gguf package is missing for a quantized one.
    """
    import torch

    if is_quantized(info.dtype) and raw.size == 0:
        return torch.empty(shape, dtype=torch.float32)
    if is_quantized(info.dtype):
        values_NC = dequantize_rows(info.dtype, raw.reshape(math.prod(shape[:-1]), -1), where)
        return torch.from_numpy(values_NC).reshape(shape)
    if info.dtype not in BITS:
        raise InputError("no decoder for the number type", where=where, got=info.dtype)
    flat = torch.from_numpy(raw.reshape(-1))
    if info.dtype == "BOOL":
        return flat.ne(0).reshape(shape)
    dtype = torch_type(info.dtype, where)
    if info.dtype == "F4":
        if not shape or shape[-1] % 2:
            raise InputError("F4 values come in pairs", where=where, got=shape, expected="an even last axis")
        shape = (*shape[:-1], shape[-1] // 2)
    if flat.numel() == 0:
        return torch.empty(shape, dtype=dtype)
    return flat.view(dtype).reshape(shape)


def decode_strided(extent: Extent, raw: Bytes, where: str) -> torch.Tensor:
    """Bytes from the first to the last element of a strided tensor -> the tensor, contiguous."""
    import torch

    info = extent.info
    flat = torch.from_numpy(raw).view(torch_type(info.dtype, where))
    return flat.as_strided(info.shape, extent.stride or ()).contiguous()
