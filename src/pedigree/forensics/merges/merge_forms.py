"""Ways to mix models tensor by tensor, each judged by how near the child lies.

Every form gives each source one coefficient for a tensor, which follows from a few weights and the angles and lengths
of the sources there; so Gram matrices say how well it explains the child. With a base, changes from it stand for the
sources. Where sources are nearly parallel several forms compute the same, and all of those that do are named.

Source  Shoemake 1985 (slerp); model stock, arXiv:2403.19522; multislerp, karcher and nuslerp as mergekit 0.1.5
        computes them with whole tensors as vectors.
Shapes  T = tensors, S = sources that take part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pedigree.forensics.merges.mixture import affine_weights

PARALLEL = 0.9995
"""Cosine from which merge tools interpolate in a straight line."""

Coefficients = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Form:
    """One way to mix.

    Attributes:
        name: method of mergekit.
        least, most: how many sources it takes.
        with_base, without_base: where it can be used.
        weighted: whether it has weights.
        sums_to_one: whether only their ratio counts.
        coefficients: from Gram matrices of the sources [T, S, S] and weights [S] to coefficients [T, S].
    """

    name: str
    least: int
    most: int
    with_base: bool
    without_base: bool
    weighted: bool
    sums_to_one: bool
    coefficients: Coefficients


@dataclass(frozen=True)
class Fitted:
    """A form with its best weights, and the squared distance to the child that it leaves."""

    form: Form
    weights: list[float]
    residual: float


def _straight(gram_TSS: Tensor, weight_S: Tensor) -> Tensor:
    return weight_S.expand(gram_TSS.shape[0], -1)


def _lengths(gram_TSS: Tensor) -> Tensor:
    return gram_TSS.diagonal(dim1=1, dim2=2).clamp_min(1e-300).sqrt()


def _spherical(gram_TSS: Tensor, weight_S: Tensor) -> Tensor:
    length_TS, t = _lengths(gram_TSS), weight_S[1] / weight_S.sum()
    cos_T = (gram_TSS[:, 0, 1] / length_TS[:, 0] / length_TS[:, 1]).clamp(-1.0, 1.0)
    bent_T = cos_T.abs() <= PARALLEL
    angle_T = torch.acos(torch.where(bent_T, cos_T, torch.zeros_like(cos_T)))
    sine_T = torch.sin(angle_T)
    first_T = torch.where(bent_T, torch.sin((1.0 - t) * angle_T) / sine_T, 1.0 - t)
    second_T = torch.where(bent_T, torch.sin(t * angle_T) / sine_T, t)
    return torch.stack([first_T, second_T], dim=1)


def _many_spherical(gram_TSS: Tensor, weight_S: Tensor) -> Tensor:
    """The weighted mean of directions, at the weighted mean of lengths."""
    weight_S, length_TS = weight_S / weight_S.sum(), _lengths(gram_TSS)
    return _at_length(gram_TSS, weight_S / length_TS, length_TS @ weight_S)


def _at_length(gram_TSS: Tensor, mixed_TS: Tensor, wanted_T: Tensor) -> Tensor:
    square_T = torch.einsum("ts,tsr,tr->t", mixed_TS, gram_TSS, mixed_TS)
    return mixed_TS * (wanted_T / square_T.clamp_min(1e-300).sqrt())[:, None]


def _karcher(gram_TSS: Tensor, weight_S: Tensor) -> Tensor:
    """The mean of directions on the sphere itself, by its tangents, at the mean of lengths."""
    length_TS = _lengths(gram_TSS)
    unit_TSS = gram_TSS / length_TS[:, :, None] / length_TS[:, None, :]
    n = gram_TSS.shape[1]
    mean_TS = _at_length(unit_TSS, torch.full_like(length_TS, 1.0 / n), torch.ones_like(length_TS[:, 0]))
    for _ in range(20):
        cos_TS = torch.einsum("tsr,tr->ts", unit_TSS, mean_TS).clamp(-1.0, 1.0)
        angle_TS = torch.acos(cos_TS)
        lift_TS = torch.where(angle_TS > 1e-7, angle_TS / torch.sin(angle_TS), torch.ones_like(angle_TS)) / n
        mean_TS = mean_TS + lift_TS - (lift_TS * cos_TS).sum(1, keepdim=True) * mean_TS
        mean_TS = _at_length(unit_TSS, mean_TS, torch.ones_like(length_TS[:, 0]))
    return mean_TS / length_TS * length_TS.mean(dim=1, keepdim=True)


def _model_stock(gram_TSS: Tensor, weight_S: Tensor) -> Tensor:
    length_TS, n = _lengths(gram_TSS), gram_TSS.shape[1]
    cos_TSS = (gram_TSS / length_TS[:, :, None] / length_TS[:, None, :]).clamp(-1.0, 1.0)
    mean_T = (cos_TSS.sum(dim=(1, 2)) - n) / (n * (n - 1))
    t_T = n * mean_T / (1.0 + (n - 1) * mean_T)
    return (t_T / n)[:, None].expand(-1, n)


FORMS = (
    Form("linear", 2, 99, False, True, True, True, lambda g, w: _straight(g, w / w.sum())),
    Form("task_arithmetic", 1, 99, True, False, True, False, _straight),
    Form("model_stock", 2, 99, True, False, False, False, _model_stock),
    Form("slerp", 2, 2, False, True, True, True, _spherical),
    Form("nuslerp", 2, 2, True, True, True, True, _spherical),
    Form("karcher", 2, 99, False, True, False, True, _karcher),
    Form("multislerp", 2, 99, True, True, True, True, _many_spherical),
    Form("linear, not normalized", 1, 99, False, True, True, False, _straight),
)


STRAIGHT = ("linear", "task_arithmetic", "model_stock", "linear, not normalized")
"""Forms without an angle in what a number is multiplied with."""


def fit_forms(grams: Sequence[Tensor], sources: Sequence[int], base: int | None) -> list[Fitted]:
    """Every form that these sources could have been mixed by, with its best weights.

    Args:
        grams: one Gram matrix for each tensor; the child is number 0.
        sources: those that take part, the base not among them.
        base: number of the base, None for none.
    """
    index = torch.tensor([0, *sources])
    gram_TMM = torch.stack(list(grams))
    chosen_TMM = gram_TMM[:, index][:, :, index]
    if base is not None:
        to_base_TM, own_T = gram_TMM[:, index, base], gram_TMM[:, base, base]
        chosen_TMM = chosen_TMM - to_base_TM[:, :, None] - to_base_TM[:, None, :] + own_T[:, None, None]
    count = len(sources)
    usable = [f for f in FORMS if f.least <= count <= f.most and (f.without_base if base is None else f.with_base)]
    return [_fit(form, chosen_TMM) for form in usable]


def distance_left(gram_TMM: Tensor, coefficient_TS: Tensor) -> float:
    """Squared distance from the child (number 0) to a mixture with these coefficients, over all tensors."""
    along_T = (coefficient_TS * gram_TMM[:, 1:, 0]).sum(dim=1)
    square_T = torch.einsum("ts,tsr,tr->t", coefficient_TS, gram_TMM[:, 1:, 1:], coefficient_TS)
    return float((gram_TMM[:, 0, 0] - 2.0 * along_T + square_T).clamp_min(0.0).sum())


def _fit(form: Form, gram_TMM: Tensor) -> Fitted:
    gram_TSS, total_MM = gram_TMM[:, 1:, 1:], gram_TMM.sum(0)
    n = gram_TSS.shape[1]
    start_S = torch.linalg.lstsq(total_MM[1:, 1:], total_MM[1:, :1], driver="gelsd").solution[:, 0]
    if not form.weighted:
        weight_S = torch.full((n,), 1.0 / n, dtype=torch.float64)
    elif not form.sums_to_one:
        weight_S = start_S
    elif form.name == "linear":
        weight_S = affine_weights(total_MM, range(1, n + 1))
    else:
        weight_S = _best_of_one(form, gram_TMM, start_S)
    return Fitted(form, weight_S.tolist(), distance_left(gram_TMM, form.coefficients(gram_TSS, weight_S)))


def _best_of_one(form: Form, gram_TMM: Tensor, start_S: Tensor) -> Tensor:
    """Weights that sum to one, all but the first of them free, by a search from least squares."""
    from scipy.optimize import minimize

    scale = max(float(gram_TMM[:, 0, 0].sum()), 1e-300)

    def whole(free: np.ndarray) -> Tensor:
        rest = torch.as_tensor(free, dtype=torch.float64)
        return torch.cat([1.0 - rest.sum()[None], rest])

    def left(free: np.ndarray) -> float:
        return distance_left(gram_TMM, form.coefficients(gram_TMM[:, 1:, 1:], whole(free))) / scale

    total = float(start_S.sum())
    begin = (start_S / total if abs(total) > 0.1 else torch.full_like(start_S, 1.0 / len(start_S)))[1:].numpy()
    options = {"xatol": 1e-7, "fatol": 1e-16, "maxiter": 400 * len(begin)}
    return whole(minimize(left, begin, method="Nelder-Mead", options=options).x)
