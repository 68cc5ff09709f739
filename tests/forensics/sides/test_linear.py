"""Products: what is rounded is rounded alike everywhere; a basis as reflections is the basis."""

from __future__ import annotations

import pytest
import torch
from forensics.tiny_models import generator

from pedigree.forensics.sides import linear
from pedigree.forensics.sides.linear import Reflections, rounded_product, whole_qr


def test_a_rounded_product_is_the_same_on_processors_of_both_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = torch.randn(40, 200, generator=generator(1)), torch.randn(200, 30, generator=generator(2))
    found = []
    for native in (False, True):
        monkeypatch.setattr(linear, "_multiplies_bfloat16", lambda told=native: told)
        found.append(rounded_product(a, b))
    assert found[0].dtype == found[1].dtype == torch.float32
    assert float((found[0] == found[1]).float().mean()) > 0.99
    torch.testing.assert_close(found[0], found[1], rtol=2**-7, atol=1e-4)
    exact = a.double() @ b.double()
    assert float((found[0] - exact).norm() / exact.norm()) < 2**-8


@pytest.mark.parametrize("columns", [5, 12])
def test_reflections_are_the_basis_that_they_make(columns: int) -> None:
    m = torch.randn(12, columns, generator=generator(3))
    found, x = Reflections.of(m), torch.randn(12, 4, generator=generator(4))
    torch.testing.assert_close(found.basis_RC @ found.upper_CC, m)
    torch.testing.assert_close(found.coordinates(x), found.basis_RC.T @ x)
    torch.testing.assert_close(found.vectors(x[:columns]), found.basis_RC @ x[:columns])
    torch.testing.assert_close(found.turned(x), whole_qr(m) @ x)
