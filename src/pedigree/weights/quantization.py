"""Block quantization types of GGUF: names, block sizes, and rows back to float32.

A quantized row is a sequence of blocks; each block holds a fixed number of values in a fixed number of bytes, so any
range of rows can be read by itself. The arithmetic is that of the `gguf` package.
Shapes  N = rows, C = values in a row, B = bytes of a row.
Source  ggml `enum ggml_type` and block structs (ggml.h, ggml-common.h), as listed in gguf-py 0.19.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pedigree.errors import InputError

BLOCKS: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
}
"""ggml type number -> (name, values in a block, bytes of a block)."""

_NUMBERS = {name: number for number, (name, block, _) in BLOCKS.items() if block > 1}
_CHUNK_BYTES = 1 << 22


def is_quantized(dtype: str) -> bool:
    """Whether a dtype name is a block quantization."""
    return dtype in _NUMBERS


def dequantize_rows(dtype: str, raw_NB: npt.NDArray[np.uint8], where: str) -> npt.NDArray[np.float32]:
    """Rows of blocks -> float32 values, a few megabytes at a time.

    Args:
        dtype: quantization name, a key for which `is_quantized` holds.
        raw_NB: uint8 rows as the file stores them.
        where: file and tensor, for messages.

    Returns:
        float32 [N, C].

    Raises:
        InputError: the `gguf` package is not installed, or knows no arithmetic for the type.
    """
    quants: Any
    try:
        from gguf import constants, quants
    except ImportError as error:
        raise InputError(
            "quantized tensors need the gguf package", where=where, got=dtype, fix="pip install 'gguf>=0.17'"
        ) from error
    _, block, block_bytes = BLOCKS[_NUMBERS[dtype]]
    n_rows, row_bytes = raw_NB.shape
    values_NC = np.empty((n_rows, row_bytes // block_bytes * block), np.float32)
    step = max(1, _CHUNK_BYTES // max(1, row_bytes))
    try:
        kind = constants.GGMLQuantizationType(_NUMBERS[dtype])
        # Damaged blocks may hold infinite scales: their values are infinite or NaN, which is no error of reading.
        with np.errstate(all="ignore"):
            for start in range(0, n_rows, step):
                values_NC[start : start + step] = quants.dequantize(raw_NB[start : start + step], kind)
    except (NotImplementedError, ValueError) as error:
        raise InputError(
            "the installed gguf package cannot decode this quantization",
            where=where,
            got=dtype,
            fix="pip install --upgrade gguf, or dequantize the file with llama.cpp",
        ) from error
    return values_NC
