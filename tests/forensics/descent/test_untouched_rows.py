"""Rows that did not turn: drawn twice from one seed, or learned by one and never touched by the other.

Shapes: T = tokens, D = residual width.
"""

from __future__ import annotations

import pytest
import torch
from forensics.tiny_models import Sizes, generator, llama, side, words
from torch import Tensor

from pedigree.forensics.comparison.following import origin_of
from pedigree.forensics.comparison.measure import measure
from pedigree.forensics.descent.untouched_rows import SURE_LOG10_P, compare_rows, untouched_rows

T, D = 600, 48


def start(seed: int) -> Tensor:
    return 0.02 * torch.randn(T, D, generator=generator(seed), dtype=torch.float64)


def trained(table_TD: Tensor, seed: int, seen: float, decay: float = 0.98) -> Tensor:
    """A share of the rows moved, partly together; all shortened by weight decay."""
    g = generator(seed)
    seen_T = torch.rand(T, generator=g) < seen
    together_D = 0.01 * torch.randn(D, generator=g, dtype=torch.float64)
    moves_TD = together_D + 0.02 * torch.randn(T, D, generator=g, dtype=torch.float64)
    return torch.where(seen_T[:, None], decay * table_TD + moves_TD, decay * table_TD)


@pytest.mark.parametrize("seed", range(4))
def test_a_child_keeps_rows_that_its_parent_learned_and_its_own_text_did_not_have(seed: int) -> None:
    parent = trained(start(seed), 100 + seed, 0.5)
    for table in (parent, parent.float().double(), parent.to(torch.bfloat16).double()):
        for a, b in ((table, trained(parent, 200 + seed, 0.5)), (trained(parent, 200 + seed, 0.5), table)):
            found = compare_rows(a, b)
            assert found is not None
            assert found.told


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("seen", [0.1, 0.5, 0.8])
def test_twins_keep_rows_as_they_were_drawn_and_no_others(seed: int, seen: float) -> None:
    twins = [trained(start(seed), 100 * k + seed, seen, decay) for k, decay in ((3, 0.98), (4, 0.9))]
    for a, b in (twins, twins[::-1]):
        found = compare_rows(a, b)
        assert found is None or (not found.told and found.log10_p > SURE_LOG10_P / 4 and found.structure < 1.1)


def test_rows_drawn_by_other_distributions_are_no_sign() -> None:
    g = generator(5)
    uniform = torch.rand(T, D, generator=g, dtype=torch.float64) - 0.5
    heavy = torch.randn(T, D, generator=g, dtype=torch.float64) * torch.rand(T, D, generator=g, dtype=torch.float64)
    for table in (uniform, heavy, heavy**3):
        found = compare_rows(trained(table, 6, 0.4), trained(table, 7, 0.4, 0.95))
        assert found is None or not found.told


def waves(g: torch.Generator) -> Tensor:
    angle = torch.arange(T)[:, None] / 9 ** (torch.arange(D // 2) / 8)
    return torch.cat([angle.sin(), angle.cos()], dim=1)


DRAWN = {
    "positive": lambda g: torch.rand(T, D, generator=g),
    "one mean": lambda g: torch.randn(1, D, generator=g) + 0.25 * torch.randn(T, D, generator=g),
    "groups": lambda g: torch.randn(16, D, generator=g)[torch.arange(T) % 16] + 0.7 * torch.randn(T, D, generator=g),
    "waves": waves,
}


@pytest.mark.parametrize("name", DRAWN)
def test_tables_drawn_with_directions_in_common_are_no_sign(name: str) -> None:
    """What all rows share, those that nobody touched among them, is how the table was drawn."""
    table = 0.02 * DRAWN[name](generator(8)).double()
    found = compare_rows(trained(table, 6, 0.4), trained(table, 7, 0.4, 0.95))
    assert found is None or not found.told


def test_equal_added_rows_and_few_rows_say_nothing() -> None:
    padded = start(1)
    padded[100:] = padded[100]
    added = compare_rows(trained(padded, 8, 0.3), trained(padded, 9, 0.3))
    assert added is None or not added.told
    assert compare_rows(start(1)[:40], start(1)[:40]) is None
    assert compare_rows(start(1), start(2)) is None


def test_tables_that_are_tied_are_not_asked() -> None:
    sizes = Sizes(vocab=200)
    model = llama(1, sizes)
    del model["lm_head.weight"]
    config = {**sizes.config(), "tie_word_embeddings": True}
    one, two = (side(model, config, tokens=words(200)) for _ in range(2))
    assert untouched_rows(one, two, measure(one, two, whole_bits=True).tokens) is None


def test_an_open_question_is_settled_by_rows_that_were_handed_down() -> None:
    """Bodies that say neither: the word is that of the rows, and without them it stays open."""
    sizes = Sizes(d=D, layers=2, head_dim=12, inner=112, vocab=T)
    first = {n: t if t.ndim == 2 else torch.ones_like(t) for n, t in llama(1, sizes).items()}

    def body(model: dict[str, Tensor], seed: int, table: Tensor) -> dict[str, Tensor]:
        g = generator(seed)
        moved = {n: t + 0.03 * torch.randn(t.shape, generator=g) for n, t in model.items()}
        return {**moved, "model.embed_tokens.weight": table.float()}

    drawn = start(1)
    parent = body(first, 2, trained(drawn, 3, 0.5))
    child = body(parent, 4, trained(trained(drawn, 3, 0.5), 5, 0.5))
    twin = body(first, 6, trained(drawn, 7, 0.5))
    answers = []
    for other in (child, twin):
        a, b = (side(m, sizes.config(), tokens=words(T)) for m in (parent, other))
        found = measure(a, b, whole_bits=True)
        found.untouched = untouched_rows(a, b, found.tokens)
        found.gains = None
        answers.append((found.untouched is not None and found.untouched.told, origin_of(found).origin))
    assert answers[0][0]
    assert not answers[1][0]
