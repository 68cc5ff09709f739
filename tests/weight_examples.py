"""Small weight files, honest and hostile, for the tests of `pedigree.weights`."""

from __future__ import annotations

import json
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from pedigree.errors import PedigreeError
from pedigree.weights.checkpoint import open_checkpoint


def example_tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    """A few tensors of several number types and ranks."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "embed.weight": torch.randn(50, 8, generator=generator).to(torch.bfloat16),
        "layers.0.up.weight": torch.randn(12, 8, generator=generator),
        "layers.0.down.weight": torch.randn(8, 12, generator=generator).to(torch.float16),
        "layers.0.experts": torch.randn(4, 3, 5, generator=generator),
        "norm.weight": torch.ones(8),
        "scale": torch.tensor(2.5),
        "empty": torch.zeros(0, 4),
        "ids": torch.arange(7),
        "mask": torch.tensor([True, False, True]),
        "packed": torch.randn(6, 4, generator=generator).to(torch.float8_e4m3fn),
    }


def raw_safetensors(header: bytes | Mapping[str, Any], data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file of any header, true or not.

    Args:
        header: JSON bytes, or a mapping to write as JSON.
        data: what follows the header.
        length: the header length that the file claims, the true one unless given.
    """
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    """One tensor of a safetensors header."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def write_model(folder: Path, tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any] | None = None) -> Path:
    """A directory with model.safetensors and config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config or {"model_type": "llama"}))
    return folder


def write_shards(folder: Path, tensors: Mapping[str, torch.Tensor], n_shards: int = 2) -> Path:
    """A directory with shards, an index and config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for number in range(n_shards):
        file = f"model-{number + 1:05d}-of-{n_shards:05d}.safetensors"
        mine = names[number::n_shards]
        save_file({name: tensors[name] for name in mine}, folder / file)
        weight_map.update(dict.fromkeys(mine, file))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return folder


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal number type, shape and bytes, NaN included."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return (
        a.contiguous().view(-1).view(torch.uint8).equal(b.contiguous().view(-1).view(torch.uint8))
        if a.numel()
        else True
    )


def open_and_read_all(location: str | Path) -> PedigreeError | None:
    """Open a checkpoint and read every tensor; the refusal, or None when there was none."""
    try:
        with warnings.catch_warnings(), open_checkpoint(location, allow_pickle=True) as ck:
            warnings.simplefilter("ignore")  # the gguf package warns of infinite scales in damaged blocks
            for name in ck.tensors:
                ck.read(name)
    except PedigreeError as error:
        return error
    return None


def damaged(content: bytes, changes: list[tuple[int, int]], cut: int) -> bytes:
    """A file with some bytes changed, and every third time cut short."""
    result = bytearray(content)
    for at, value in changes:
        result[at] = value
    return bytes(result[: len(result) - cut if cut % 3 == 0 else len(result)])
