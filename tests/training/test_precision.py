"""Loss scaling, overflow behind one hook, devices."""

from __future__ import annotations

import pytest
import torch

from pedigree.errors import UsageError
from pedigree.training import precision
from pedigree.training.device import find_device, matmul_rate
from pedigree.training.precision import LossScaler, autocast, found_nonfinite


def test_the_factor_halves_on_overflow_and_doubles_after_clean_steps() -> None:
    scaler = LossScaler(enabled=True, scale=8.0, window=3)
    scaler.update(overflow=True)
    assert scaler.scale == 4.0
    for _ in range(3):
        scaler.update(overflow=False)
    assert scaler.scale == 8.0
    for _ in range(10):
        scaler.update(overflow=True)
    assert scaler.scale == 1.0


def test_hysteresis_waits_for_a_second_overflow() -> None:
    scaler = LossScaler(enabled=True, scale=8.0, hysteresis=2)
    scaler.update(overflow=True)
    assert scaler.scale == 8.0
    scaler.update(overflow=True)
    assert scaler.scale == 4.0


def test_a_remembered_factor_goes_on() -> None:
    scaler, again = LossScaler(enabled=True, window=5), LossScaler(enabled=True, window=5)
    for overflow in (True, False, False, False):
        scaler.update(overflow)
    again.load(scaler.state())
    for _ in range(2):
        scaler.update(overflow=False)
        again.update(overflow=False)
    assert scaler.state() == again.state()
    assert again.scale == 2.0**16


def test_without_fp16_the_factor_is_one() -> None:
    scaler = LossScaler(enabled=False)
    scaler.update(overflow=True)
    assert scaler.scale == 1.0


def test_a_chip_that_saturates_is_asked_through_its_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    grads, norm = [torch.ones(3)], torch.tensor(1.0)
    assert not found_nonfinite(grads, norm)
    assert found_nonfinite(grads, torch.tensor(float("nan")))
    monkeypatch.setitem(precision.OVERFLOW_HOOKS, "cpu", lambda given: (given[0] == 1).all())
    assert found_nonfinite(grads, norm)


def test_products_are_low_and_weights_are_not() -> None:
    device, linear = torch.device("cpu"), torch.nn.Linear(4, 4)
    with autocast(device, "bf16", pure=False):
        assert linear(torch.ones(4)).dtype == torch.bfloat16
    with autocast(device, "fp32", pure=False):
        assert linear(torch.ones(4)).dtype == torch.float32
    assert linear.weight.dtype == torch.float32


def test_a_device_that_is_not_here_is_an_error() -> None:
    assert find_device("cpu") == torch.device("cpu")
    with pytest.raises(UsageError, match="not a device, in --device, got warp"):
        find_device("warp")
    absent = "mps" if find_device().type != "mps" else "xpu"
    with pytest.raises(UsageError, match="no such device"):
        find_device(absent)


def test_the_rate_of_products_is_measured() -> None:
    assert matmul_rate(torch.device("cpu"), "fp32", size=64, seconds=0.01) > 1e6
