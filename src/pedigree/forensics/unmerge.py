"""Take a merge apart: which of the given parents, at which weights, by which method.

The question is asked of models that stand in one frame, number by number; a child whose units were reordered or whose
stream was rotated is said to be in another frame, and `pedigree compare` says which. Weights are least squares over all
aligned matrices, selected by the branch ratio of `pedigree.forensics.mixture` so that relatives by descent are not
taken for parents of a merge; the score is on rows that took no part in the fit.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from pedigree.errors import UsageError
from pedigree.forensics.compare import measure_pair
from pedigree.forensics.gram import Alignment, GramTensor, align_parts, collect_grams
from pedigree.forensics.measure import Progress, single_thread
from pedigree.forensics.merge_groups import Group, explain_groups, group_tensors
from pedigree.forensics.mergekit_recipe import write_recipe
from pedigree.forensics.mixture import (
    BRANCH_RATIO,
    Mixture,
    affine_weights,
    cosine,
    distance,
    fit_mixture,
    jackknife,
    mixture_residual,
    select_sources,
)
from pedigree.forensics.sampling import WHOLE_MODEL_BYTES
from pedigree.forensics.sparse_merge import SparseMerge, find_sparse_merge
from pedigree.forensics.spherical import fit_spherical, is_bent, spherical_residual
from pedigree.records.unmerging import Explained, MergeSource, UnmergeVerdict
from pedigree.weights.anatomy import Anatomy, read_anatomy
from pedigree.weights.checkpoint import Checkpoint, open_checkpoint

EXACT = 8.0
"""A residual below this many times what storing the child costs is rounding: each step of a merge rounds once."""

IN_FRAME = 0.1
"""Cosine with the nearest source, in place, below which the child is not in the frame of the sources."""

NOTHING = 1e-3
"""Weight of a base below which it took no part."""

ON_THE_WAY = 0.1
"""Weight that any other source may have beside the one parent that a child continues."""


SAME = 1e-12
"""Squared distance of two sources over their squared length up to which they are one."""


@dataclass
class Decomposition:
    """What was found; model numbers count the child as 0, then the parents, then the base."""

    verdict: UnmergeVerdict
    method: str | None = None
    sources: list[MergeSource] = field(default_factory=list)
    explained: Explained = field(default_factory=Explained)
    groups: list[Group] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    also_possible: list[str] = field(default_factory=list)
    recipe: str | None = None
    left_out: list[str] = field(default_factory=list)
    whole: bool = True
    warnings: list[str] = field(default_factory=list)

    def update(self, number: int, **fields: object) -> None:
        """Change fields of the source with that model number."""
        self.sources[number - 1] = self.sources[number - 1].model_copy(update=fields)

    def name(self, number: int) -> str:
        """Last part of the location of the source with that model number."""
        return self.sources[number - 1].location.rstrip("/").rsplit("/", maxsplit=1)[-1]


def unmerge(
    model: str | Path,
    parents: Sequence[str | Path],
    *,
    base: str | Path | None = None,
    whole: bool = False,
    allow_pickle: bool = False,
    progress: Progress | None = None,
) -> tuple[Decomposition, list[tuple[Checkpoint, Anatomy]], float]:
    """Explain a model as a mixture of candidate parents.

    Args:
        model: location of the child.
        parents: locations of candidates; those that took no part come out with weight zero.
        base: location of the model that the parents' changes are counted from (task arithmetic, TIES, DARE).
        whole: read every number; else 512 rows of each tensor of models above 256 MB.
        allow_pickle: read torch files (weights only).
        progress: called with (stage, fraction, message).

    Returns:
        The decomposition; the checkpoints with their anatomies, closed; seconds.

    Raises:
        UsageError: fewer than two sources.
        InputError, SourceError: an input cannot be read.
    """
    start = time.monotonic()
    if len(parents) + (base is not None) < 2:
        raise UsageError(
            "one candidate cannot be told from its relatives",
            where="--parents",
            got=f"{len(parents)} parent",
            expected="two or more candidates, or one and --base",
            fix=f"pedigree compare {parents[0] if parents else 'PARENT'} {model}",
        )
    locations = [model, *parents, *([base] if base is not None else [])]
    with ExitStack() as stack, single_thread():
        opened = [stack.enter_context(open_checkpoint(p, allow_pickle=allow_pickle)) for p in locations]
        anatomies = [read_anatomy(checkpoint) for checkpoint in opened]
        whole = whole or max(ck.meter.total for ck in opened) <= WHOLE_MODEL_BYTES
        alignment = align_parts(anatomies)
        tensors = collect_grams(alignment, whole=whole, progress=progress)
        found = decompose(tensors, alignment, len(parents), base is not None, [str(p) for p in locations])
    _ask_for_descent(found, locations, allow_pickle)
    found.left_out, found.whole = alignment.left_out, whole
    for number, checkpoint in enumerate(opened[1:], start=1):
        found.update(number, digest=checkpoint.header_digest())
    found.recipe = write_recipe(found, anatomies[0], _number_type(alignment)) if found.verdict == "merge" else None
    return found, list(zip(opened, anatomies, strict=True)), time.monotonic() - start


def _ask_for_descent(found: Decomposition, locations: Sequence[str | Path], allow_pickle: bool) -> None:
    """Withdraw the one parent where no descent from it is shown: models trained apart from one random start lie near
    each other number by number, too, and what tells them is not how near."""
    if found.verdict != "one-parent" or found.explained.exact or found.explained.residual_share == 0.0:
        return
    number = next(n for n, source in enumerate(found.sources, start=1) if source.weight)
    a, b, _, judged = measure_pair(locations[number], locations[0], allow_pickle=allow_pickle)
    a.checkpoint.close()
    b.checkpoint.close()
    if judged.verdict in ("identical", "related", "partly-related"):
        return
    found.verdict = "not-explained"
    why = judged.reasons[0] if judged.reasons else "no layer of the two agrees"
    lead = f"{found.name(number)} lies nearest, but no descent from it is shown"
    found.reasons.insert(0, f"{lead}: {judged.verdict.replace('-', ' ')}; {why}")
    found.sources = [source.model_copy(update={"weight": 0.0}) for source in found.sources]


def _number_type(alignment: Alignment) -> str:
    return alignment.rows[0][0].dtype if alignment.rows else ""


def decompose(
    tensors: Sequence[GramTensor], alignment: Alignment, n_parents: int, has_base: bool, locations: Sequence[str]
) -> Decomposition:
    """The decomposition itself, from Gram matrices; tensors are read again only to look for masks."""
    candidates = list(range(1, n_parents + 1 + has_base))
    base = candidates[-1] if has_base else None
    body = [t for t in tensors if t.layer is not None] or list(tensors)
    if not body:
        words = "no matrix of the model has a counterpart of the same role and shape in every source"
        return Decomposition("not-in-frame", reasons=[words], sources=_sources(None, candidates, base, locations))
    total = total_gram(body)
    cosines = {s: cosine(total, 0, s) for s in candidates}
    if max(cosines.values()) < IN_FRAME:
        words = (
            f"no source agrees with the model number by number (largest cosine {max(cosines.values()):.3f}): "
            "it is a stranger, or it was reordered or rotated"
        )
        found = Decomposition("not-in-frame", reasons=[words], sources=_sources(None, candidates, base, locations))
    else:
        found = _in_frame(body, tensors, alignment, candidates, base, locations)
    for number in candidates:
        found.update(number, cosine=cosines[number])
    for k, number in enumerate(candidates):
        for other in candidates[k + 1 :]:
            if distance(total, number, other) <= SAME * float(total[number, number]):
                words = "are the same in every number that was read: the weight of one stands for both"
                found.warnings.append(f"{found.name(number)} and {found.name(other)} {words}")
    counted = {"numbers": sum(t.numbers for t in tensors), "tensors": len(tensors)}
    found.explained = found.explained.model_copy(update=counted)
    return found


def _in_frame(
    body: list[GramTensor],
    tensors: Sequence[GramTensor],
    alignment: Alignment,
    candidates: list[int],
    base: int | None,
    locations: Sequence[str],
) -> Decomposition:
    units = [half for t in body for half in t.halves_2MM]
    kept = () if base is None else (base,)
    mixture = select_sources(units, candidates, kept)
    rounding = sum(t.rounding for t in body)
    exact = rounding > 0 and mixture.residual <= EXACT * rounding
    sources = _sources(mixture, candidates, base, locations, jackknife(units, mixture.sources))
    found = Decomposition("not-explained", None, sources, _explained(body, mixture, candidates, rounding, exact))
    active = [s for s in mixture.sources if s != base]
    if not exact:
        if base is not None and _try_masks(found, alignment, body, candidates, base):
            return found
        if _try_groups(found, body, tensors, candidates, base, mixture, rounding):
            return found
    if base is None and len(active) == 2 and _try_spherical(found, body, tensors, active, mixture, rounding):
        return found
    is_merge = len(active) >= 2 or (base is not None and len(active) == 1 and mixture.branch_ratios[0] < BRANCH_RATIO)
    if is_merge:
        found.verdict = "merge"
        found.method = "linear" if base is None or _is_nothing(mixture, base) else "task_arithmetic"
        _say_bent(found, body, active, base)
        if not exact:
            found.reasons.append("the rest is more than rounding: the model was changed after the merge")
        return found
    return _single(found, body, candidates, base, exact)


def _is_nothing(mixture: Mixture, base: int) -> bool:
    """Whether weights add up to one without the base, so that a plain mean of the parents is all there is."""
    return abs(mixture.weight(base)) < NOTHING


def _say_bent(found: Decomposition, body: list[GramTensor], active: list[int], base: int | None) -> None:
    if base is None and len(active) == 2 and not is_bent([t.gram_MM for t in body], *active):
        found.also_possible.append("slerp: the parents are so nearly parallel that it computes the same")


def _single(
    found: Decomposition, body: list[GramTensor], candidates: list[int], base: int | None, exact: bool
) -> Decomposition:
    """No mixture convinces: the model continues one of the sources, or is a relative of them in another way."""
    total = total_gram(body)
    nearest = min(candidates, key=lambda s: distance(total, 0, s))
    others = [s for s in candidates if s != nearest and cosine(total, 0, s) >= IN_FRAME]
    beside = {s: fit_mixture(total, [nearest, s]).weight(s) for s in others}
    for number in candidates:
        found.update(number, weight=float(number == nearest), standard_error=None, branch_ratio=None)
    _explain_single(found, body, nearest)
    if exact or all(abs(w) <= ON_THE_WAY for w in beside.values()):
        found.verdict = "one-parent"
        drift = (distance(total, 0, nearest) / max(float(total[nearest, nearest]), 1e-300)) ** 0.5
        if drift == 0.0:
            found.reasons.append("one source, equal in every number that was read")
            return found
        found.reasons.append(
            f"one source and nothing of the others; the model is {drift:.1%} of its length away from it"
        )
        found.also_possible.append("a nearer relative that was not among the sources")
        found.also_possible.append("a source that was made from the model: distances do not say which came first")
        return found
    found.sources = [s.model_copy(update={"weight": 0.0}) for s in found.sources]
    worst = max(beside, key=lambda s: abs(beside[s]))
    found.reasons.append(
        f"{found.name(nearest)} lies nearest, yet {found.name(worst)} explains {beside[worst]:.0%} of the way between, "
        "as relatives by descent from a model that is not among the sources do; no merge of these sources is shown"
    )
    return found


def _explain_single(found: Decomposition, body: list[GramTensor], nearest: int) -> None:
    total = total_gram(body)
    rest, rounding = distance(total, 0, nearest), sum(t.rounding for t in body)
    found.explained = found.explained.model_copy(
        update={
            "over_best_source": 0.0,
            "residual_share": rest / max(float(total[0, 0]), 1e-300),
            "rounding_ratio": rest / rounding if rounding > 0 else None,
            "exact": rounding > 0 and rest <= EXACT * rounding,
        }
    )


def _try_masks(
    found: Decomposition, alignment: Alignment, body: list[GramTensor], candidates: list[int], base: int
) -> bool:
    sparse = find_sparse_merge(alignment.rows)
    if isinstance(sparse, str):
        found.reasons.append(sparse)
        return False
    _take_sparse(found, sparse, body, candidates, base)
    return True


def _take_sparse(
    found: Decomposition, sparse: SparseMerge, body: list[GramTensor], candidates: list[int], base: int
) -> None:
    found.verdict, found.method = "merge", sparse.method
    parents = [s for s in candidates if s != base]
    weights = dict(zip(parents, sparse.weights, strict=True))
    active = [s for s in parents if weights[s]]
    if sparse.method != "ties":
        # What DARE keeps it scales up, so least squares over all numbers finds the weights that were asked for.
        total = total_gram(body)
        weights.update(zip(active, affine_weights(total, [*active, base]).tolist(), strict=False))
    for k, number in enumerate(parents):
        density = sparse.densities[k]
        if sparse.method != "ties" and number in active:
            density = min(1.0, weights[number] / sparse.singles[k])
        found.update(number, weight=weights[number], density=density, standard_error=None, branch_ratio=None)
    found.update(base, weight=1.0, standard_error=None, branch_ratio=None)
    found.explained = found.explained.model_copy(
        update={"over_best_source": None, "rounding_ratio": None, "numbers_explained": sparse.explained,
                "exact": sparse.explained > 0.99}
    )  # fmt: skip
    found.reasons.append(
        f"{sparse.explained:.1%} of {sparse.readable:,} readable numbers are the base plus some of the parents' "
        f"changes, within rounding; {sparse.shuffled:.1%} where the changes are shuffled"
    )
    if sparse.method == "ties":
        found.reasons.append("weights of this method are relative: it divides by the weights of what it keeps")


def _try_groups(
    found: Decomposition,
    body: list[GramTensor],
    tensors: Sequence[GramTensor],
    candidates: list[int],
    base: int | None,
    mixture: Mixture,
    rounding: float,
) -> bool:
    """Weights by layer and component, where those explain clearly more on rows that were not fitted."""
    groups = explain_groups(group_tensors(body), candidates, base)
    active = sorted({s for g in groups for s in g.mixture.sources if abs(g.mixture.weight(s)) > 0} - {base})
    rest = sum(g.held_out_residual for g in groups)
    if len(active) < 2 - (base is not None) or rest > 0.8 * _held_out(body, mixture):
        return False
    convinced = sum(g.energy for g in groups if g.convinces) / max(sum(g.energy for g in groups), 1e-300)
    if convinced < 0.9:
        return False
    bent = len(active) == 2 and base is None and is_bent([t.gram_MM for t in body], *active)
    if bent and _try_spherical(found, body, tensors, active, mixture, rounding, limit=rest):
        return True
    found.verdict, found.groups = "merge", groups
    whole = all(max(g.mixture.weights) > 0.995 for g in groups)
    found.method = "passthrough" if whole else "linear" if base is None else "task_arithmetic"
    energy = sum(g.energy for g in groups)
    for number in candidates:
        mean = sum(g.energy * g.mixture.weight(number) for g in groups) / max(energy, 1e-300)
        found.update(number, weight=mean, standard_error=None, branch_ratio=None)
    found.reasons.append("weights differ from layer to layer; the weight of a source is its mean over the layers")
    _set_residual(found, body, candidates, rest, rounding)
    return True


def _try_spherical(
    found: Decomposition,
    body: list[GramTensor],
    tensors: Sequence[GramTensor],
    active: list[int],
    mixture: Mixture,
    rounding: float,
    limit: float | None = None,
) -> bool:
    """Spherical interpolation, one t for all or one for each component of each layer."""
    first, second = active
    grams = [t.gram_MM for t in body]
    if not is_bent(grams, first, second):
        return False
    t_all = fit_spherical(grams, first, second)
    rest_all = spherical_residual(grams, first, second, t_all)
    groups, rest_groups = [], 0.0
    for (layer, component), members in group_tensors(body).items():
        own = [t.gram_MM for t in members]
        t = fit_spherical(own, first, second)
        rest = spherical_residual(own, first, second, t)
        rest_groups += rest
        groups.append(Group.spherical(layer, component, own, first, second, t, rest))
    varies = rest_groups < 0.8 * rest_all
    rest = rest_groups if varies else rest_all
    if rest >= 0.8 * min(mixture.residual, limit if limit is not None else mixture.residual):
        return False
    found.verdict, found.method = "merge", "slerp"
    found.groups = groups if varies else []
    mean = sum((g.t or 0.0) for g in groups) / len(groups) if varies else t_all
    shares = {first: 1.0 - mean, second: mean}
    for number in range(1, len(found.sources) + 1):
        found.update(number, weight=shares.get(number, 0.0), standard_error=None, branch_ratio=None)
    if varies:
        found.reasons.append("t differs from layer to layer; the weights are its mean")
    _set_residual(found, body, [first, second], rest, rounding)
    return True


def _set_residual(
    found: Decomposition, body: list[GramTensor], candidates: list[int], rest: float, rounding: float
) -> None:
    total = total_gram(body)
    nearest = min(distance(total, 0, s) for s in candidates)
    found.explained = found.explained.model_copy(
        update={
            "over_best_source": 1.0 - rest / max(nearest, 1e-300),
            "residual_share": rest / max(float(total[0, 0]), 1e-300),
            "rounding_ratio": rest / rounding if rounding > 0 else None,
            "exact": rounding > 0 and rest <= EXACT * rounding,
        }
    )


def _held_out(body: list[GramTensor], mixture: Mixture) -> float:
    """Residual with weights fitted on the other half of the rows."""
    rest = 0.0
    halves = torch.stack([t.halves_2MM for t in body]).sum(0)
    for fit, score in ((0, 1), (1, 0)):
        weights = affine_weights(halves[fit], mixture.sources)
        rest += mixture_residual(halves[score], mixture.sources, weights)
    return rest


def _explained(
    body: list[GramTensor], mixture: Mixture, candidates: list[int], rounding: float, exact: bool
) -> Explained:
    total = total_gram(body)
    nearest = min(distance(total, 0, s) for s in candidates)
    return Explained(
        over_best_source=1.0 - _held_out(body, mixture) / max(nearest, 1e-300) if nearest > 0 else None,
        residual_share=mixture.residual / max(float(total[0, 0]), 1e-300),
        rounding_ratio=mixture.residual / rounding if rounding > 0 else None,
        exact=exact,
    )


def _sources(
    mixture: Mixture | None,
    candidates: list[int],
    base: int | None,
    locations: Sequence[str],
    errors: Sequence[float] = (),
) -> list[MergeSource]:
    out = []
    for number in candidates:
        at = mixture.sources.index(number) if mixture is not None and number in mixture.sources else None
        ratio = mixture.branch_ratios[at] if mixture is not None and at is not None else None
        error = errors[at] if at is not None and at < len(errors) else None
        out.append(
            MergeSource(
                location=locations[number],
                role="base" if number == base else "parent",
                weight=mixture.weights[at] if mixture is not None and at is not None else 0.0,
                standard_error=error if error is not None and error != float("inf") else None,
                branch_ratio=ratio if ratio is not None and ratio != float("inf") else None,
            )
        )
    return out


def total_gram(tensors: Sequence[GramTensor]) -> Tensor:
    """Inner products of the models over all tensors."""
    return torch.stack([t.gram_MM for t in tensors]).sum(0)
