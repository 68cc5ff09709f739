"""The forms that explain a merge best: of which sources, and which of those that come as near is the plainest."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pedigree.forensics.merges.gram import GramTensor
from pedigree.forensics.merges.merge_forms import FORMS, STRAIGHT, Fitted, Form, fit_forms
from pedigree.forensics.merges.mixture import Mixture, select_sources

EXACT = 8.0
"""A residual below this many times what storing the child costs is rounding: each step of a merge rounds once."""

EXACT_BENT = 12.0
"""The same of mixtures on a sphere, whose many steps tools may make in the number type that they store."""

AS_NEAR = 1.5
"""What one form leaves over what the nearest one leaves, up to which the two are as near."""


@dataclass(frozen=True)
class FormOf:
    """A form fitted to some sources."""

    sources: tuple[int, ...]
    fitted: Fitted


def forms_of(body: list[GramTensor], mixture: Mixture, candidates: list[int], base: int | None) -> list[FormOf]:
    """Forms of the sources that take part, the nearest to the child first; of those that are as near the plainest.

    Not every mixture sums to one (slerp does not). Without a base, sources are therefore also chosen with the origin
    among them, as the base of a merge that has none.
    """
    grams = [t.gram_MM for t in body]
    chosen = {tuple(s for s in mixture.sources if s != base)}
    if base is None:
        origin = grams[0].shape[0]
        wider = [with_origin(half) for t in body for half in t.halves_2MM]
        free = select_sources(wider, [*candidates, origin], (origin,))
        chosen.add(tuple(s for s in free.sources if s != origin))
    least = 2 if base is None else 1
    found = [
        FormOf(sources, fitted)
        for sources in sorted(chosen)
        if len(sources) >= least
        for fitted in fit_forms(grams, sources, base)
    ]
    if not found:
        return []
    limit = AS_NEAR * min(f.fitted.residual for f in found) + 1e-12 * sum(float(g[0, 0]) for g in grams)
    near = [f for f in found if f.fitted.residual <= limit]
    order = [form.name for form in FORMS]
    fewest = min(len(f.sources) for f in near)
    return sorted((f for f in near if len(f.sources) == fewest), key=lambda f: order.index(f.fitted.form.name))


def limit_of(form: Form) -> float:
    """How many times rounding a residual may be."""
    return EXACT if form.name in STRAIGHT else EXACT_BENT


def with_origin(gram_MM: Tensor) -> Tensor:
    """The same with one more model, all of whose numbers are zero."""
    wider = torch.zeros(gram_MM.shape[0] + 1, gram_MM.shape[0] + 1, dtype=gram_MM.dtype)
    wider[:-1, :-1] = gram_MM
    return wider
