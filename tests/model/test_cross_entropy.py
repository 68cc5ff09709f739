"""The chunked loss: equal to the plain one, bounded in memory, safe in half types."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pedigree.model.cross_entropy import chunk_tokens, cross_entropy


class LargestTensor(TorchDispatchMode):
    """Remembers the largest tensor that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.untyped_storage().nbytes())
        return out


def example(n: int, width: int, vocabulary: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, width, generator=generator).requires_grad_()
    weight = torch.randn(vocabulary, width, generator=generator).requires_grad_()
    targets = torch.randint(vocabulary, (n,), generator=generator)
    targets[::7] = -100
    return x, weight, targets


@pytest.mark.parametrize("n", [1, 16, 700])
def test_loss_and_gradients_equal_the_plain_computation(n: int) -> None:
    x, weight, targets = example(n, 24, 6000)
    assert n < 700 or chunk_tokens(6000, "cpu") < n, "the case must need several chunks"
    targets[0] = 3
    chunked = torch.autograd.grad(cross_entropy(x, weight, targets) * 3.0, (x, weight))
    plain_loss = torch.nn.functional.cross_entropy(x @ weight.T, targets)
    plain = torch.autograd.grad(plain_loss * 3.0, (x, weight))
    assert cross_entropy(x, weight, targets).item() == pytest.approx(plain_loss.item(), rel=1e-6)
    for mine, theirs in zip(chunked, plain, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6, rtol=1e-4)


def test_the_logits_of_all_tokens_never_exist() -> None:
    n, vocabulary = 4096, 16_384
    x, weight, targets = example(n, 8, vocabulary)
    with LargestTensor() as seen:
        cross_entropy(x, weight, targets).backward()
    whole = 4 * n * vocabulary
    assert seen.largest <= max(4 * chunk_tokens(vocabulary, "cpu") * vocabulary, 4 * weight.numel())
    assert seen.largest < whole / 10
    with LargestTensor() as plain:
        torch.nn.functional.cross_entropy(x @ weight.T, targets).backward()
    assert plain.largest >= whole, "the measurement must see what the plain loss does"


def test_half_gradients_survive_through_the_loss_scale() -> None:
    x, weight, targets = example(4096, 16, 512)
    x16, w16 = (t.detach().half().requires_grad_() for t in (x * 0.1, weight * 0.1))
    scale = 2.0**16
    (cross_entropy(x16, w16, targets) * scale).backward()
    x32, w32 = (t.detach().float().requires_grad_() for t in (x16, w16))
    (cross_entropy(x32, w32, targets) * scale).backward()
    for half, full in ((x16, x32), (w16, w32)):
        assert half.grad is not None
        assert full.grad is not None
        assert half.grad.dtype == torch.float16
        error = (half.grad.float() - full.grad).norm() / full.grad.norm()
        assert error < 2e-3


def test_no_target_means_zero_not_nan() -> None:
    x, weight, targets = example(5, 8, 32)
    loss = cross_entropy(x, weight, torch.full_like(targets, -100))
    loss.backward()
    assert loss.item() == 0
    assert x.grad is not None
    assert not x.grad.any()
