"""A residual frame from weights alone, without any shared token.

When embeddings were replaced there is nothing left to anchor a rotation on. Second moments of unit directions do not
depend on the order or free scale of units, and rotate with the residual frame: for each layer and projection
C = mean of r r^T over unit rows (for V and O, whose heads may be mixed by any invertible matrix: the sum of the
projectors on each head's subspace). The frame is the rotation that aligns all of them at once (forensics study,
section 9.10). It is a gauge: its objective says nothing about kinship.

Shapes: K = moments, D = residual width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from pedigree.forensics.sides.gauge import Gauge, polar, unit_rows
from pedigree.forensics.sides.linear import mean_row, symmetric_eigen
from pedigree.forensics.sides.streamed_units import BLOCK_NUMBERS, blocks
from pedigree.forensics.sides.views import LayerView, UnitSet
from pedigree.forensics.units.heads import bases

MAX_WIDTH = 1024
"""Above this residual width the search would take minutes; the comparison then says that it was not tried."""

STARTS = 12
ITERATIONS = 60


Moments = dict[str, Tensor]
"""Moments of a layer by kind and projection, each [D, D]; layers of hybrids have some or others."""


def layer_moments(view: LayerView) -> Moments:
    """Traceless second moments of one layer by projection, each [D, D] with unit norm."""
    found: Moments = {}
    silent = _silent_heads(view.units.get("vo"))
    for kind in ("ffn", "qk", "vo"):
        units = view.units.get(kind)
        if units is None:
            continue
        heard_U = _heard(units, silent)
        for name in units.names:
            found[f"{kind}.{name}"] = _moment(units, name, heard_U)
    return found


SILENT = 1e-6
"""Length of what a unit or a head writes, over the mean of the layer, below which nothing of it is ever heard: whoever
adds such units chooses their readers, and would choose the second moments with them."""


def _silent_heads(vo: UnitSet | None) -> set[int]:
    """Heads of keys and values that write nothing."""
    if vo is None or "o" not in vo.names:
        return set()
    length_U = vo.rows("o").norm(dim=1)
    heard_U = length_U > SILENT * length_U.mean()
    return set(vo.label_U.tolist()) - set(vo.label_U[heard_U].tolist())


def _heard(units: UnitSet, silent_heads: set[int]) -> Tensor | None:
    """Units that write something, [U]; None where all do, or where that is not looked at (layers that are streamed)."""
    if units.kind != "ffn":
        if not silent_heads:
            return None
        return torch.tensor([label not in silent_heads for label in units.label_U.tolist()])
    if "down" not in units.names or units.count * units.width > BLOCK_NUMBERS:
        return None
    length_U = units.rows("down").norm(dim=1)
    heard_U = length_U > SILENT * length_U.mean()
    return None if bool(heard_U.all()) or not bool(heard_U.any()) else heard_U


def _moment(units: UnitSet, name: str, heard_U: Tensor | None = None) -> Tensor:
    if heard_U is not None and bool(heard_U.any()):
        kept_N = torch.nonzero(heard_U).flatten()
        views = {name: units.rows(name, kept_N)}
        units = UnitSet(units.kind, views, units.index_U[kept_N], units.label_U[kept_N], len(kept_N))
    if units.kind != "vo" and units.count * units.width > BLOCK_NUMBERS:
        return _normalized(_moment_in_blocks(units, name))
    rows_UD = units.rows(name)
    if units.kind == "vo":
        basis_HCD = bases(rows_UD, units.label_U)
        rows_UD = basis_HCD.reshape(-1, rows_UD.shape[1])
    else:
        rows_UD = unit_rows(rows_UD - mean_row(rows_UD))
    return _normalized(rows_UD.T @ rows_UD / max(1, rows_UD.shape[0]))


def _moment_in_blocks(units: UnitSet, name: str) -> Tensor:
    """The second moment of unit rows around their mean, without holding a layer of many experts."""
    total_D, moment_DD = torch.zeros(units.width), torch.zeros(units.width, units.width)
    for pick_K in blocks(units.count, units.width):
        total_D += units.rows(name, pick_K).sum(dim=0)
    for pick_K in blocks(units.count, units.width):
        rows_KD = unit_rows(units.rows(name, pick_K) - total_D / units.count)
        moment_DD += rows_KD.T @ rows_KD
    return moment_DD / units.count


def _normalized(c_DD: Tensor) -> Tensor:
    """Without its trace, of norm one."""
    c_DD = c_DD - torch.eye(c_DD.shape[0]) * (c_DD.trace() / c_DD.shape[0])
    norm: Tensor = c_DD.norm()
    return c_DD / norm.clamp_min(1e-30)


MOST_NUMBERS = 150_000_000
"""Numbers of the moments of one model that are held (0.6 GB); in deeper ones neighboring layers are averaged."""

CHUNK_NUMBERS = 1 << 25
"""Numbers of products of moments that are held at once."""


def stack_moments(a: Iterable[LayerView], b: Iterable[LayerView]) -> tuple[Tensor, Tensor] | None:
    """Moments of both models paired by layer, [K, D, D] each; averaged over layers where depths differ, or where layers
    of one number have other projections.

    Returns None where widths differ or the models have not the same projections.
    """
    rows_a, rows_b = _within_memory(a), _within_memory(b)
    names = {name for row in rows_a for name in row}
    if not names or names != {name for row in rows_b for name in row}:
        return None
    if len(rows_a) != len(rows_b) or any(x.keys() != y.keys() for x, y in zip(rows_a, rows_b, strict=True)):
        rows_a, rows_b = [_average(rows_a)], [_average(rows_b)]
    order = [(k, name) for k, row in enumerate(rows_a) for name in row]
    flat_a, flat_b = ([rows[k][name] for k, name in order] for rows in (rows_a, rows_b))
    if flat_a[0].shape != flat_b[0].shape:
        return None
    return torch.stack(flat_a), torch.stack(flat_b)


def _within_memory(views: Iterable[LayerView]) -> list[Moments]:
    """Moments of each layer, or averages over pairs of neighbors, and pairs of those, where all would be too many."""
    rows: list[Moments] = []
    per_row, pending = 1, list[Moments]()
    for view in views:
        pending.append(layer_moments(view))
        if len(pending) < per_row:
            continue
        rows.append(_average(pending))
        pending = []
        if len(rows) > 1 and sum(c.numel() for row in rows for c in row.values()) > MOST_NUMBERS:
            last = [rows.pop()] if len(rows) % 2 else []
            rows = [_average([rows[k], rows[k + 1]]) for k in range(0, len(rows), 2)]
            per_row *= 2
            pending = last * (per_row // 2)  # half of a new row is there already
    return rows + ([_average(pending)] if pending else [])


def _average(rows: list[Moments]) -> Moments:
    """The mean of each projection over the layers that have it."""
    if len(rows) == 1:
        return rows[0]
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: torch.stack([row[name] for row in rows if name in row]).mean(0) for name in names}


def _chunks(a_KDD: Tensor) -> Iterator[slice]:
    step = max(1, CHUNK_NUMBERS // max(1, a_KDD[0].numel()))
    for begin in range(0, len(a_KDD), step):
        yield slice(begin, begin + step)


def fit_moments(a_KDD: Tensor, b_KDD: Tensor, seed: int = 0) -> list[Gauge]:
    """Rotations that align two stacks of moments, best objective first; both signs of each, since moments are even.

    Source: forensics study, section 9.10: random positive combinations for a start, signs from the top eigenvector of
    the summed elementwise products, then R <- polar(sum_k C_k^A R C_k^B).
    """
    if a_KDD.shape[1] > SMALL_WIDTH:
        return _both_signs(_fit_in_rounds(a_KDD, b_KDD, seed))
    generator = torch.Generator().manual_seed(seed)
    best: tuple[float, Tensor] | None = None
    for _ in range(STARTS):
        r_DD = _start(a_KDD, b_KDD, generator)
        r_DD = _iterate(a_KDD, b_KDD, r_DD)
        value = _objective(a_KDD, b_KDD, r_DD)
        if best is None or value > best[0]:
            best = (value, r_DD)
    return [] if best is None else _both_signs(best[1])


def _both_signs(r_DD: Tensor) -> list[Gauge]:
    return [Gauge("orthogonal", sign * r_DD, "second moments of unit directions") for sign in (1.0, -1.0)]


SMALL_WIDTH = 256
"""Width up to which every start is followed to its end, on all moments."""

COMBINED = 16
"""Combinations that stand for all moments of a wider model while a frame is looked for."""

ROUNDS = ((STARTS, 4), (3, 12), (1, ITERATIONS))
"""Starts that are followed in wider models, and for how many steps each: the best go on to the next round."""


def _fit_in_rounds(a_KDD: Tensor, b_KDD: Tensor, seed: int) -> Tensor:
    """The rotation in a wider model, where each step on each moment takes as long as the width cubed.

    Moments of both models are added up with the same random signs: a rotation that aligns all moments aligns every sum
    of them, and between strangers there is none to be found. Starts that lag behind are dropped.
    """
    generator = torch.Generator().manual_seed(seed)
    kept = min(COMBINED, len(a_KDD))
    if kept < len(a_KDD):
        signs_CK = torch.randint(0, 2, (kept, len(a_KDD)), generator=generator) * 2.0 - 1.0
        few_a, few_b = (torch.einsum("ck,kij->cij", signs_CK, c_KDD) for c_KDD in (a_KDD, b_KDD))
    else:
        few_a, few_b = a_KDD, b_KDD
    ranked = [(0.0, _start(few_a, few_b, generator, (a_KDD, b_KDD))) for _ in range(STARTS)]
    for starts, steps in ROUNDS:
        moved = [_iterate(few_a, few_b, r_DD, steps) for _, r_DD in ranked[:starts]]
        ranked = sorted(((_objective(few_a, few_b, r_DD), r_DD) for r_DD in moved), key=lambda pair: -pair[0])
    return ranked[0][1]


def _objective(a_KDD: Tensor, b_KDD: Tensor, r_DD: Tensor) -> float:
    return sum(float(((r_DD.T @ a_KDD[k] @ r_DD) * b_KDD[k]).sum()) for k in _chunks(a_KDD))


def _start(
    a_KDD: Tensor, b_KDD: Tensor, generator: torch.Generator, weighed: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Eigenvectors of a random positive combination of moments, laid side by side; `weighed` are the moments that are
    combined, where they are not those that the signs are told by."""
    all_a, all_b = weighed or (a_KDD, b_KDD)
    weights_K = torch.rand(len(all_a), generator=generator)
    _, v_a = symmetric_eigen(torch.einsum("k,kij->ij", weights_K, all_a))
    _, v_b = symmetric_eigen(torch.einsum("k,kij->ij", weights_K, all_b))
    product = torch.zeros_like(v_a)
    for k in _chunks(a_KDD):
        product += ((v_a.T @ a_KDD[k] @ v_a) * (v_b.T @ b_KDD[k] @ v_b)).sum(0)
    product.fill_diagonal_(0.0)
    _, vectors = symmetric_eigen(product)
    signs_D = torch.where(vectors[:, -1] < 0, -1.0, 1.0)
    return (v_a * signs_D) @ v_b.T


def _iterate(a_KDD: Tensor, b_KDD: Tensor, r_DD: Tensor, steps: int = ITERATIONS) -> Tensor:
    for _ in range(steps):
        moved_DD = torch.zeros_like(r_DD)
        for k in _chunks(a_KDD):
            moved_DD += (a_KDD[k] @ r_DD @ b_KDD[k]).sum(0)
        update = polar(moved_DD)
        change = float((update - r_DD).norm())
        r_DD = update
        if change < 1e-4:
            break
    return r_DD
