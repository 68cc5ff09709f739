"""Equal tensors of files whose roles are unknown: a copy, or what a seed or a formula gives anybody."""

from __future__ import annotations

import torch
from memory_checkpoint import MemoryCheckpoint

from pedigree.forensics.descent.copies import handed_down


def drawn(seed: int) -> torch.Tensor:
    return torch.randn(64, 96, generator=torch.Generator().manual_seed(seed))


def trained(seed: int) -> torch.Tensor:
    """A matrix that learned a few strong directions."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.randn(64, 3, generator=generator) @ torch.randn(3, 96, generator=generator)
    return drawn(seed) + 0.5 * low


def told(*tensors: torch.Tensor) -> tuple[str, ...]:
    named = {f"t{k}": tensor for k, tensor in enumerate(tensors)}
    return handed_down(MemoryCheckpoint(named), list(named))


def test_trained_matrices_that_are_equal_were_handed_down() -> None:
    assert told(trained(1), trained(2)) == ("t0", "t1")


def test_matrices_that_one_seed_gives_are_no_copies_however_many() -> None:
    assert told(*(drawn(k) for k in range(6))) == ()


def test_a_single_table_may_be_a_formula_or_a_count_of_words() -> None:
    angle = torch.arange(64.0)[:, None] * torch.arange(1, 65.0)[None] * 0.37
    assert told(torch.special.bessel_j0(angle)) == ()
    assert told(trained(1)) == ()


def test_what_has_no_spectrum_speaks_only_beside_what_was_learned() -> None:
    bias = torch.randn(200, generator=torch.Generator().manual_seed(3))
    assert told(bias, bias + 1.0) == ()
    assert told(bias, trained(1), drawn(4)) == ("t0", "t1")
