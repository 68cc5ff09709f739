"""Number types by the names that safetensors gives them, and their torch twins.

Source  safetensors format, `DType` table (README of huggingface/safetensors, version 0.6).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pedigree.errors import InputError

if TYPE_CHECKING:
    import torch

BITS: dict[str, int] = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
"""Bits of one element, by safetensors dtype name."""

TORCH_NAMES: dict[str, str] = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F4": "float4_e2m1fn_x2",
    "I16": "int16",
    "U16": "uint16",
    "F16": "float16",
    "BF16": "bfloat16",
    "I32": "int32",
    "U32": "uint32",
    "F32": "float32",
    "C64": "complex64",
    "F64": "float64",
    "I64": "int64",
    "U64": "uint64",
}
"""Name of the torch dtype, by safetensors dtype name."""

WIDE_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
"""Number types in which models are trained; others have few bits, or share a scale, and are rounded to."""


def torch_type(dtype: str, where: str) -> torch.dtype:
    """The torch dtype that holds a safetensors dtype.

    Args:
        dtype: safetensors name, a key of `BITS`.
        where: file and tensor, for the message.

    Raises:
        InputError: this torch has no such number type (F6 formats, or an old torch).
    """
    import torch

    found = getattr(torch, TORCH_NAMES.get(dtype, ""), None)
    if not isinstance(found, torch.dtype):
        raise InputError(
            f"torch {torch.__version__} has no number type for {dtype}",
            where=where,
            got=dtype,
            expected="one of " + ", ".join(TORCH_NAMES),
            fix="convert the tensor to BF16 or F32",
        )
    return found
