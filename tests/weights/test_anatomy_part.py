"""Reading part of a part is reading all of it and choosing: rows and columns, in every storage layout."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_checkpoint import MemoryCheckpoint

from pedigree.errors import UsageError
from pedigree.weights.anatomy import Part, Piece
from pedigree.weights.layout import compose, grouped_rows, half_split_order
from pedigree.weights.roles import axes_of

ROWS, COLS = 12, 10


def part(tensors: dict[str, torch.Tensor], pieces: list[Piece], shape: tuple[int, ...]) -> Part:
    role = "attn.q" if len(shape) == 2 else "attn.q.bias"
    return Part(role, 0, None, shape, axes_of(role), "F32", tuple(pieces), MemoryCheckpoint(tensors))


def layouts() -> dict[str, tuple[Part, torch.Tensor]]:
    """One part per storage layout with the canonical matrix it must give."""
    torch.manual_seed(0)
    plain, packed = torch.randn(ROWS, COLS), torch.randn(3, ROWS, COLS)
    heads, vector = torch.randn(3, 4, COLS), torch.randn(ROWS)
    order = half_split_order(3, 4, 4)
    index = torch.from_numpy(order.copy())
    whole = part({"w": plain}, [Piece("w", (ROWS, COLS), 0, ROWS)], (ROWS, COLS))
    wide = torch.randn(ROWS, 2, 5)
    return {
        "plain": (whole, plain),
        "slice": (part({"w": plain}, [Piece("w", (ROWS, COLS), 4, 9)], (5, COLS)), plain[4:9]),
        "ordered": (part({"w": plain}, [Piece("w", (ROWS, COLS), 0, ROWS, order)], (ROWS, COLS)), plain[index]),
        "transposed": (
            part({"w": plain}, [Piece("w", (ROWS, COLS), 2, 8, transposed=True)], (6, ROWS)),
            plain.T[2:8],
        ),
        "packed": (
            part({"w": packed}, [Piece("w", (3, ROWS, COLS), ROWS + 1, ROWS + 7)], (6, COLS)),
            packed[1, 1:7],
        ),
        "packed across items": (part({"w": packed}, [Piece("w", (3, ROWS, COLS), 10, 26)], (16, COLS)),
                                packed.reshape(-1, COLS)[10:26]),
        "packed and transposed": (
            part({"w": packed}, [Piece("w", (3, ROWS, COLS), 3, 9, lead=2, transposed=True)], (6, ROWS)),
            packed[2].T[3:9],
        ),
        "heads": (part({"w": heads}, [Piece("w", (3, 4, COLS), 0, 12)], (12, COLS)), heads.reshape(12, COLS)),
        "heads swapped": (
            part({"w": heads}, [Piece("w", (3, 4, COLS), 0, 30, swapped=True)], (30, 4)),
            heads.transpose(1, 2).reshape(30, 4),
        ),
        "heads transposed": (
            part({"w": heads}, [Piece("w", (3, 4, COLS), 0, COLS, transposed=True)], (COLS, 12)),
            heads.reshape(12, COLS).T,
        ),
        "trailing axes": (part({"w": wide}, [Piece("w", (ROWS, 2, 5), 0, ROWS, tail=True)], (ROWS, 10)),
                          wide.reshape(ROWS, 10)),
        "one tensor per head": (
            part({str(i): heads[i] for i in range(3)}, [Piece(str(i), (4, COLS), 0, 4) for i in range(3)], (12, COLS)),
            heads.reshape(12, COLS),
        ),
        "vector": (part({"b": vector}, [Piece("b", (ROWS,), 0, ROWS, order, vector=True)], (ROWS,)), vector[index]),
        "vector by heads": (
            part({"b": heads[0]}, [Piece("b", (4, COLS), 5, 35, vector=True)], (30,)),
            heads[0].reshape(-1)[5:35],
        ),
    }  # fmt: skip


LAYOUTS = layouts()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_reading_all_gives_the_canonical_matrix(layout: str) -> None:
    found, wanted = LAYOUTS[layout]
    assert found.shape == tuple(wanted.shape)
    assert torch.equal(found.read(), wanted)
    assert torch.equal(found.read_native(), wanted)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("layout", LAYOUTS)
def test_reading_some_rows_and_columns_is_reading_all_and_choosing(layout: str, data: st.DataObject) -> None:
    found, wanted = LAYOUTS[layout]

    def selection(size: int) -> st.SearchStrategy[slice | list[int] | None]:
        return st.one_of(st.none(), st.slices(size), st.lists(st.integers(0, size - 1), max_size=2 * size))

    def choose(tensor: torch.Tensor, chosen: slice | list[int] | None, size: int) -> torch.Tensor:
        return tensor[torch.tensor(list(range(size))[chosen] if isinstance(chosen, slice) else chosen or [],
                                   dtype=torch.long)] if chosen is not None else tensor  # fmt: skip

    rows = data.draw(selection(wanted.shape[0]), label="rows")
    expected = choose(wanted, rows, wanted.shape[0])
    if wanted.ndim == 1:
        assert torch.equal(found.read(rows), expected)
        return
    cols = data.draw(selection(wanted.shape[1]), label="columns")
    expected = choose(expected.T, cols, wanted.shape[1]).T
    got = found.read(rows, cols)
    assert got.dtype == torch.float32
    assert torch.equal(got, expected)


def test_only_the_rows_asked_for_are_read_where_storage_allows_it() -> None:
    tensors = {"w": torch.randn(ROWS, COLS)}
    upright = part(tensors, [Piece("w", (ROWS, COLS), 0, ROWS)], (ROWS, COLS))
    turned = part(tensors, [Piece("w", (ROWS, COLS), 0, COLS, transposed=True)], (COLS, ROWS))
    assert upright.row_contiguous
    assert not turned.row_contiguous
    upright.read([3, 7])
    turned.read(None, [1])
    for each, wanted in ((upright, 2 * COLS), (turned, COLS)):
        source = each.checkpoint
        assert isinstance(source, MemoryCheckpoint)
        assert source.numbers_read == wanted


@pytest.mark.parametrize(("rows", "cols"), [([ROWS], None), ([-1], None), (None, [COLS])])
def test_a_selection_outside_the_part_is_refused(rows: list[int] | None, cols: list[int] | None) -> None:
    with pytest.raises(UsageError, match="outside the part"):
        LAYOUTS["plain"][0].read(rows, cols)


def test_a_vector_has_no_columns() -> None:
    with pytest.raises(UsageError, match="no columns"):
        LAYOUTS["vector"][0].read(None, [0])


@given(heads=st.integers(1, 5), pairs=st.integers(1, 6), still=st.integers(0, 4), at_end=st.booleans())
def test_half_split_order_is_a_permutation_that_keeps_heads_and_unrotated_rows(
    heads: int, pairs: int, still: int, at_end: bool
) -> None:
    size = 2 * pairs + still
    order = half_split_order(heads, size, 2 * pairs, at_end=at_end)
    assert sorted(order) == list(range(heads * size))
    assert all(row // size == place // size for place, row in enumerate(order))
    begin = still if at_end else 0
    first = [int(row) - begin for row in order[begin : begin + 2 * pairs]]
    assert first == [*range(0, 2 * pairs, 2), *range(1, 2 * pairs, 2)]


@given(groups=st.integers(1, 5), width=st.integers(1, 6), data=st.data())
def test_groups_of_rows_divide_a_tensor_without_overlap(groups: int, width: int, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, width))
    both = [*grouped_rows(groups, width, 0, cut), *grouped_rows(groups, width, cut, width)]
    assert sorted(both) == list(range(groups * width))


def test_composed_orders_apply_one_after_the_other() -> None:
    stored = torch.randn(24)
    inner, outer = grouped_rows(2, 12, 4, 12), half_split_order(2, 8, 8)
    both = compose(outer, inner)
    assert both is not None
    expected = stored[torch.from_numpy(inner.copy())][torch.from_numpy(outer.copy())]
    assert torch.equal(stored[torch.from_numpy(both.copy())], expected)
    assert compose(None, inner) is inner
    assert compose(None, None) is None
