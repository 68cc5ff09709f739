"""Vocabulary rows that agree: computed word vectors are known by their coordinates."""

from __future__ import annotations

import torch

from pedigree.forensics.descent.table_origin import are_principal_axes, table_origin
from pedigree.forensics.sides.gauge import center


def counted(seed: int, width: int = 16) -> torch.Tensor:
    """Leading directions of co-occurrence counts of a long text in one language, with signs by a rule."""
    language = torch.Generator().manual_seed(0)
    topic_VK = torch.rand(300, 24, generator=language).pow(4.0)
    rate_VV = 40_000.0 * topic_VK @ topic_VK.T
    counts_VV = torch.poisson(rate_VV, generator=torch.Generator().manual_seed(seed))
    counts_VV = counts_VV + counts_VV.T
    left_VV, strength_V, _ = torch.linalg.svd((counts_VV / counts_VV.sum(dim=1, keepdim=True)).sqrt())
    rows_VD = left_VV[:, :width] * strength_V[:width]
    return rows_VD * rows_VD.gather(0, rows_VD.abs().argmax(dim=0, keepdim=True)).sign()


def test_word_vectors_of_two_texts_look_handed_down_but_for_their_coordinates() -> None:
    one, two = counted(1), counted(2)
    assert table_origin(center(one), center(two)) != "unknown"
    assert are_principal_axes(one)
    assert are_principal_axes(two)


def test_drawn_and_trained_tables_have_coordinates_of_their_own() -> None:
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(400, (4, 16, 48)[seed % 3], generator=generator)
        assert not are_principal_axes(drawn)
        assert not are_principal_axes(drawn + counted(seed, drawn.shape[1]).mean(dim=0))
    turn = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(5))).Q
    assert not are_principal_axes(counted(1) @ turn)
