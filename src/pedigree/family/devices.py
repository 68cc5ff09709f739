"""The table of devices a plan can be held against, and a measurement of this machine."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from pedigree.errors import UsageError
from pedigree.records.problems import nearest, one_of

THIS_CPU = "cpu"
DEFAULT_EFFICIENCY = 0.4
CPU_EFFICIENCY = 0.25  # of its own measured products: what the quickstart reaches, with its small matrices


@dataclass(frozen=True)
class Device:
    """One accelerator.

    Attributes:
        memory: bytes; None where unknown.
        peak: floating-point operations per second by precision; under `any` where one number holds for all.
        efficiency: share of the peak that training is assumed to reach.
    """

    name: str
    memory: int | None
    peak: Mapping[str, float]
    efficiency: float
    note: str = ""

    def peak_at(self, precision: str) -> float | None:
        """Operations per second in `precision`; None where the device has none of it."""
        return self.peak.get(precision, self.peak.get("any"))


@cache
def table() -> dict[str, Device]:
    """The devices of the table by name."""
    text = (files("pedigree.family") / "data" / "devices.json").read_text(encoding="utf-8")
    return {
        row["name"]: Device(row["name"], int(row["memory"]), row["peak"], row["efficiency"], row["note"])
        for row in json.loads(text)["devices"]
    }


def device(name: str) -> Device:
    """A device of the table, or this machine (`cpu`), which is measured.

    Raises:
        UsageError: no device of this name.
    """
    plain = name.strip().lower().replace("_", "-")
    if plain == THIS_CPU:
        return measured_cpu()
    if plain not in table():
        names = [*table(), THIS_CPU]
        raise UsageError(
            "there is no device of this name", where="--device", got=repr(name), expected=one_of(names),
            fix=nearest(name, names) or "--peak-flops 989e12 --memory 80GB describe any device",
        )  # fmt: skip
    return table()[plain]


def measured_cpu(seconds: float = 0.3, width: int = 1024) -> Device:
    """This machine: products of float32 matrices of `width` for about `seconds`, and its memory."""
    import numpy as np

    a = np.random.default_rng(0).standard_normal((width, width), dtype=np.float32)
    np.matmul(a, a)  # threads start, pages are touched
    products, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        np.matmul(a, a)
        products += 1
    rate = 2.0 * width**3 * products / spent
    return Device(THIS_CPU, _memory(), {"any": rate}, CPU_EFFICIENCY, "float32 products measured now")


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
