"""The device of a run, whatever its maker, and the rate of its matrix products.

Nothing here names CUDA: devices come from `torch.accelerator`, so that an NPU (torch_npu registers itself on import)
or a GPU is used as it is found, and the processor otherwise.
"""

from __future__ import annotations

import time

import torch

from pedigree.errors import UsageError
from pedigree.training.config import Precision

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def find_device(name: str | None = None) -> torch.device:
    """The device called `name`, or the accelerator of this machine, or its processor.

    Raises:
        UsageError: there is no such device here.
    """
    found = torch.accelerator.current_accelerator(check_available=True) if torch.accelerator.is_available() else None
    if name is None:
        return found or torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(
            "this is not a device", where="--device", got=name, expected="cpu, cuda, npu, mps", fix="name one of them"
        ) from error
    if device.type != "cpu" and (found is None or found.type != device.type):
        raise UsageError(
            "this machine has no such device",
            got=name,
            expected=f"cpu{f' or {found.type}' if found else ''}",
            fix=f"--device {found.type if found else 'cpu'}",
        )
    return device


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was asked to do."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def matmul_rate(device: torch.device, precision: Precision, *, size: int = 0, seconds: float = 0.15) -> float:
    """Operations per second of a square matrix product here and now, two for each multiplication.

    Args:
        device: where.
        precision: type of the numbers.
        size: rows; 0 takes 512 on a processor and 4096 elsewhere.
        seconds: at least so long is measured; the best repetition counts.
    """
    size = size or (512 if device.type == "cpu" else 4096)
    a_RC = torch.ones(size, size, dtype=DTYPES[precision], device=device)
    a_RC @ a_RC
    synchronize(device)
    best, start = float("inf"), time.perf_counter()
    while time.perf_counter() - start < seconds:
        begin = time.perf_counter()
        a_RC @ a_RC
        synchronize(device)
        best = min(best, time.perf_counter() - begin)
    return 2.0 * size**3 / best
