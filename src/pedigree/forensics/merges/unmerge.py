"""Take a merge apart: which of the given parents, at which weights, by which method.

The question is asked of models that stand in one frame, number by number. Where that explains nothing, those whose
units were reordered or whose stream was rotated are laid in one frame first (`other_frames`), without the last digits.
Weights are least squares over all aligned matrices, selected by the branch ratio of `pedigree.forensics.merges.mixture`
so that relatives by descent are not taken for parents of a merge; the score is on rows that took no part in the fit.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor

from pedigree.errors import UsageError
from pedigree.forensics.compare import measure_pair
from pedigree.forensics.comparison.measure import Progress, single_thread
from pedigree.forensics.merges.chosen_forms import EXACT, FormOf, forms_of, limit_of, with_origin
from pedigree.forensics.merges.decomposition import Decomposition
from pedigree.forensics.merges.gram import Alignment, GramTensor, align_parts, collect_grams
from pedigree.forensics.merges.mask_marks import name_method
from pedigree.forensics.merges.merge_groups import Group, explain_groups, fit_groups, group_tensors
from pedigree.forensics.merges.mergekit_recipe import write_recipe
from pedigree.forensics.merges.missing_parent import (
    may_be_missing,
    nearest_of,
    part_among_siblings,
    part_of_stranger,
    rest_in_words,
)
from pedigree.forensics.merges.mixture import (
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
from pedigree.forensics.merges.other_frames import lay_sources
from pedigree.forensics.merges.sparse_merge import find_clipped_changes, find_sparse_merge
from pedigree.forensics.merges.spherical import fit_spherical, is_bent, spherical_residual
from pedigree.forensics.merges.stacked_layers import find_stack, stack_in_words
from pedigree.forensics.sides.sampling import WHOLE_MODEL_BYTES
from pedigree.records.unmerging import Explained, MergeSource
from pedigree.weights.anatomy import Anatomy, read_anatomy
from pedigree.weights.checkpoint import Checkpoint, open_checkpoint

CHANGED = "the rest is more than rounding: the model was changed after the merge, or a parent is not among the sources"

IN_ORDER_OF = "units and coordinates were laid in the order and frame of"

IN_FRAME = 0.1
"""Cosine with the nearest source, in place, below which the child is not in the frame of the sources."""

CLEARLY = 0.8
"""Share of what another explanation leaves that a better one leaves at most."""

NOTHING = 1e-3
"""Weight of a base below which it took no part."""

ON_THE_WAY = 0.1
"""Weight that any other source may have beside the one parent that a child continues."""


SAME = 1e-12
"""Squared distance of two sources over their squared length up to which they are one."""


def unmerge(
    model: str | Path,
    parents: Sequence[str | Path],
    *,
    base: str | Path | None = None,
    whole: bool = False,
    allow_pickle: bool = False,
    progress: Progress | None = None,
    in_place: bool = False,
) -> tuple[Decomposition, list[tuple[Checkpoint, Anatomy]], float]:
    """Explain a model as a mixture of candidate parents.

    Args:
        model: location of the child.
        parents: locations of candidates; those that took no part come out with weight zero.
        base: location of the model that the parents' changes are counted from (task arithmetic, TIES, DARE).
        whole: read every number; else 512 rows of each tensor of models above 256 MB.
        allow_pickle: read torch files (weights only).
        progress: called with (stage, fraction, message).
        in_place: ask nothing of models that were reordered or rotated, which takes a comparison of every two.

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
        if found.verdict != "merge":
            _try_stack(found, anatomies)
    if not in_place and _may_be_disguised(found):
        found = _in_other_frames(found, locations, base is not None, allow_pickle)
    _ask_for_descent(found, locations, allow_pickle)
    found.left_out, found.whole = alignment.left_out, whole
    for number, checkpoint in enumerate(opened[1:], start=1):
        found.update(number, digest=checkpoint.header_digest())
    stands = not any(words.startswith(IN_ORDER_OF) for words in found.reasons)
    can_be_made = found.verdict == "merge" and not found.is_short and stands
    found.recipe = write_recipe(found, anatomies, _number_type(found, alignment)) if can_be_made else None
    return found, list(zip(opened, anatomies, strict=True)), time.monotonic() - start


def _may_be_disguised(found: Decomposition) -> bool:
    """Whether nothing explains the model, and sources that do not stand in its frame might."""
    if found.verdict == "merge" or found.explained.exact or found.explained.residual_share == 0.0:
        return False
    return any(source.cosine is None or source.cosine < IN_FRAME for source in found.sources)


def _in_other_frames(
    found: Decomposition, locations: Sequence[str | Path], has_base: bool, allow_pickle: bool
) -> Decomposition:
    """The same of the relatives of the model in one frame, where these are a merge; what was found, elsewhere."""
    laid = lay_sources(locations, allow_pickle=allow_pickle)
    if laid is None:
        return found
    n, with_base = len(laid.numbers), has_base and len(locations) - 1 in laid.numbers
    places = [str(locations[0]), *(str(locations[k]) for k in laid.numbers)]
    again = decompose(laid.tensors, Alignment([], []), n - with_base, with_base, places)
    if again.verdict != "merge":
        found.reasons.append("laid in one frame, units matched one by one, they are no merge of these sources either")
        return found
    mine = dict(zip(laid.numbers, again.sources, strict=True))
    again.sources = [
        mine[k].model_copy(update={"cosine": s.cosine}) if k in mine else s.model_copy(update={"weight": 0.0})
        for k, s in enumerate(found.sources, start=1)
    ]
    again.groups, again.parameters, again.also_possible = [], {}, []
    lead = f"{IN_ORDER_OF} {again.name(laid.hub)}"
    rest = "what is left may be that, folded gains, or training after the merge"
    again.reasons = [f"{lead}; {rest}", *(words for words in again.reasons if words != CHANGED)]
    if laid.is_bent:
        again.reasons.append(
            "a rotation of so wide a stream is fitted to one source, which gets up to a tenth too much"
        )
    return again


def _try_stack(found: Decomposition, anatomies: Sequence[Anatomy]) -> None:
    """Whole layers of two or more sources, in an order and number of their own."""
    stack = find_stack(anatomies)
    if stack is None or len({n for n, _ in stack}) < 2:
        return
    found.verdict, found.method, found.stack, found.groups = "merge", "passthrough", stack, []
    for number in range(1, len(found.sources) + 1):
        share = sum(n == number for n, _ in stack) / len(stack)
        found.update(number, weight=share, standard_error=None, branch_ratio=None)
    found.explained = found.explained.model_copy(
        update={"over_best_source": None, "residual_share": None, "rounding_ratio": None, "exact": True}
    )
    names = [found.name(number) for number in range(1, len(found.sources) + 1)]
    found.reasons = [f"whole layers, by some rows of each matrix: {stack_in_words(stack, names)}"]
    found.also_possible = []


def _ask_for_descent(found: Decomposition, locations: Sequence[str | Path], allow_pickle: bool) -> None:
    """Withdraw the one parent where no descent from it is shown: models trained apart from one random start lie near
    each other number by number, too, and what tells them is not how near."""
    number = next((n for n, source in enumerate(found.sources, start=1) if source.weight), None)
    if found.verdict == "merge" or number is None or found.explained.exact or found.explained.residual_share == 0.0:
        return
    a, b, _, judged = measure_pair(locations[number], locations[0], allow_pickle=allow_pickle)
    a.checkpoint.close()
    b.checkpoint.close()
    if judged.verdict in ("identical", "related", "partly-related") and not judged.open_origin:
        return
    if found.verdict == "not-explained":
        found.reasons = []
        found.explained = found.explained.model_copy(update={"unassigned": 1.0})
    found.verdict = "not-explained"
    why = judged.reasons[0] if judged.reasons else "no layer of the two agrees"
    lead = f"{found.name(number)} lies nearest, but no descent from it is shown"
    found.reasons.insert(0, f"{lead}: {judged.verdict.replace('-', ' ')}; {why}")
    found.sources = [source.model_copy(update={"weight": 0.0}) for source in found.sources]


def _number_type(found: Decomposition, alignment: Alignment) -> str:
    """The type that the merge was made in: that of the child, but for a method that leaves single precision."""
    if not alignment.rows:
        return ""
    return alignment.rows[0][1 if found.method == "arcee_fusion" else 0].dtype


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
    fits = forms_of(body, mixture, candidates, base)
    if not exact:
        if fits and rounding > 0 and fits[0].fitted.residual <= limit_of(fits[0].fitted.form) * rounding:
            return _take_form(found, fits, body, base, rounding)
        if base is not None and alignment.rows and _try_masks(found, alignment, body, candidates, base):
            return found
        least = min([_held_out(body, mixture), *(f.fitted.residual for f in fits)])
        if _try_groups(found, body, tensors, candidates, base, mixture, rounding, least):
            return found
    is_merge = len(active) >= 2 or (base is not None and len(active) == 1 and mixture.branch_ratios[0] < BRANCH_RATIO)
    if fits and (is_merge or fits[0].fitted.residual < CLEARLY * mixture.residual):
        return _take_form(found, fits, body, base, rounding)
    return _single(found, body, candidates, base, exact)


def _take_form(
    found: Decomposition, fits: list[FormOf], body: list[GramTensor], base: int | None, rounding: float
) -> Decomposition:
    """The plainest of the forms that explain the child best; the others are named beside it."""
    best, *others = fits
    form, weights = best.fitted.form, dict(zip(best.sources, best.fitted.weights, strict=True))
    found.verdict, found.method = "merge", form.name.partition(",")[0]
    found.parameters = {"normalize": form.sums_to_one} if found.method in ("linear", "task_arithmetic") else {}
    plain = form.name in ("linear", "task_arithmetic")
    for number in range(1, len(found.sources) + 1):
        fields: dict[str, object] = {"weight": weights.get(number, 0.0)}
        if not plain or number not in weights:
            fields |= {"standard_error": None, "branch_ratio": None}
        found.update(number, **fields)
    if base is not None:
        if plain and abs(1.0 - sum(weights.values())) < NOTHING:
            found.method, found.parameters = "linear", {"normalize": True}
        found.update(base, weight=1.0 - sum(weights.values()) if plain else 1.0)
    names = dict.fromkeys(f.fitted.form.name.partition(",")[0] for f in others)
    _set_residual(found, body, [*best.sources, *([base] if base is not None else [])], best.fitted.residual, rounding)
    exact = rounding > 0 and best.fitted.residual <= limit_of(form) * rounding
    found.explained = found.explained.model_copy(update={"exact": exact})
    why = "it computes the same here" if exact else "what came after the merge hides the difference"
    found.also_possible += [f"{name}: {why}" for name in names if name != found.method]
    if not found.explained.exact:
        found.reasons.append(CHANGED)
        _bound_missing(found, body, [*best.sources, *([base] if base is not None else [])])
    return found


def _bound_missing(found: Decomposition, body: list[GramTensor], active: Sequence[int]) -> None:
    """How much of a merge may be of a parent that is not among the sources."""
    total = total_gram(body)
    family = [s for s in range(1, len(found.sources) + 1) if cosine(total, 0, s) >= IN_FRAME]
    whole = sum(found.sources[s - 1].weight for s in active)
    rest = 1.0 - whole if found.parameters.get("normalize") is False else 0.0
    leaked: list[float] = []
    if rest < NOTHING and len(active) > 1:
        rest, leaked = may_be_missing(total, active, family)
    found.explained = found.explained.model_copy(update={"unassigned": max(0.0, rest)})
    for source, much in zip(active, leaked, strict=False):
        found.update(source, weight=found.sources[source - 1].weight - much)
    found.is_short = bool(leaked)
    if leaked:
        found.reasons.append(f"{rest_in_words(rest)}; sources without a part have as much of it as siblings get")
    elif rest >= NOTHING:
        found.reasons.append(f"up to {rest:.2f} of the weights may be a missing parent's, and less the sources'")


def _single(
    found: Decomposition, body: list[GramTensor], candidates: list[int], base: int | None, exact: bool
) -> Decomposition:
    """No mixture convinces: the model continues one of the sources, or is a relative of them in another way."""
    total = total_gram(body)
    nearest = nearest_of(total, candidates)
    others = [s for s in candidates if s != nearest and cosine(total, 0, s) >= IN_FRAME]
    beside = {s: fit_mixture(total, [nearest, s]).weight(s) for s in others}
    for number in candidates:
        found.update(number, weight=float(number == nearest), standard_error=None, branch_ratio=None)
    _explain_single(found, body, nearest)
    part = None if exact else part_of_stranger(body, nearest, others)
    if part is not None:
        return _leave_unassigned(found, nearest, part)
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
    return _leave_unassigned(found, nearest, part_among_siblings(total, nearest, others))


def _leave_unassigned(found: Decomposition, nearest: int, part: float) -> Decomposition:
    """One source with a part of the weight, and nobody for the others."""
    found.sources = [s.model_copy(update={"weight": 0.0}) for s in found.sources]
    found.update(nearest, weight=part)
    found.explained = found.explained.model_copy(update={"unassigned": 1.0 - part})
    lead = f"{found.name(nearest)} accounts for {part:.2f} of the model at most; " if part else ""
    found.reasons.append(f"{lead}{rest_in_words(1.0 - part)}")
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
    parents = [s for s in candidates if s != base]
    if isinstance(sparse, str):
        found.reasons.append(sparse)
        return _try_clipped(found, alignment, parents, base)
    active = [parents[k] for k in sparse.active]
    method = name_method(sparse)
    found.verdict, found.method = "merge", method.name
    found.parameters, found.each = method.parameters, method.each
    weights = dict(zip(active, method.weights, strict=True))
    densities = dict(zip(active, method.densities, strict=False))
    for number in parents:
        found.update(
            number, weight=weights.get(number, 0.0), density=densities.get(number), standard_error=None,
            branch_ratio=None,
        )  # fmt: skip
    found.update(base, weight=1.0, standard_error=None, branch_ratio=None)
    found.explained = found.explained.model_copy(
        update={"over_best_source": None, "rounding_ratio": None, "numbers_explained": sparse.explained,
                "exact": sparse.explained > 0.99 and sparse.slack == 1.0}
    )  # fmt: skip
    found.reasons.append(
        f"{sparse.explained:.1%} of {sparse.readable:,} readable numbers are the base plus some of the parents' "
        f"changes, within rounding; {sparse.shuffled:.1%} where the changes are shuffled"
    )
    found.also_possible += [f"{name}: the same marks" for name in method.also]
    if sparse.slack > 1.0:
        found.reasons.append(f"{CHANGED}; numbers may be {sparse.slack:.0f} times rounding off")
    if sparse.weights_K is not None:
        found.reasons.append("weights of this method are relative: it divides by the weights of what it keeps")
    return True


def _try_clipped(found: Decomposition, alignment: Alignment, parents: list[int], base: int) -> bool:
    """Changes of one parent that go up to a limit and no further."""
    clipped = find_clipped_changes(alignment.rows)
    if clipped is None:
        return False
    chosen, limit, told = clipped
    found.verdict, found.method, found.parameters = "merge", "nearswap", {"t": float(f"{limit:.3g}")}
    for number in [*parents, base]:
        weight = float(number in (base, parents[chosen]))
        found.update(number, weight=weight, standard_error=None, branch_ratio=None)
    found.explained = found.explained.model_copy(
        update={"over_best_source": None, "rounding_ratio": None, "numbers_explained": told, "exact": told > 0.99}
    )
    found.reasons = [f"{told:.1%} of the changes beyond {limit:.3g} stop there"]
    return True


def _try_groups(
    found: Decomposition,
    body: list[GramTensor],
    tensors: Sequence[GramTensor],
    candidates: list[int],
    base: int | None,
    mixture: Mixture,
    rounding: float,
    least: float,
) -> bool:
    """Weights by layer and component, where those explain clearly more on rows that were not fitted."""
    groups = explain_groups(group_tensors(body), _sources_of_groups(body, candidates, base), base)
    active = sorted({s for g in groups for s in g.mixture.sources if abs(g.mixture.weight(s)) > 0} - {base})
    rest = sum(g.held_out_residual for g in groups)
    if len(active) < 2 - (base is not None) or rest > CLEARLY * least:
        return False
    convinced = sum(g.energy for g in groups if g.convinces) / max(sum(g.energy for g in groups), 1e-300)
    if convinced < 0.9:
        return False
    bent = len(active) == 2 and base is None and is_bent([t.gram_MM for t in body], *active)
    if bent and _try_spherical(found, body, tensors, active, mixture, rounding, limit=rest):
        return True
    outside = group_tensors([t for t in tensors if t.layer is None])
    found.verdict, found.groups = "merge", [*groups, *fit_groups(outside, [*active, *([] if base is None else [base])])]
    whole = all(max(g.mixture.weights) > 0.995 for g in groups)
    found.method = "passthrough" if whole else "linear" if base is None else "task_arithmetic"
    for number in candidates:
        mean = sum(g.mixture.weight(number) for g in groups) / len(groups)
        found.update(number, weight=mean, standard_error=None, branch_ratio=None)
    found.reasons.append("weights differ from layer to layer; the weight of a source is its mean over the layers")
    _set_residual(found, body, candidates, rest, rounding)
    return True


def _sources_of_groups(body: list[GramTensor], candidates: list[int], base: int | None) -> list[int]:
    """Candidates that take part in some component of some layer, whether or not weights sum to one there."""
    if base is not None:
        return candidates
    origin, taking = body[0].gram_MM.shape[0], set[int]()
    for members in group_tensors(body).values():
        units = [with_origin(half) for t in members for half in t.halves_2MM]
        mixture = select_sources(units, [*candidates, origin], (origin,))
        if all(r < BRANCH_RATIO for s, r in zip(mixture.sources, mixture.branch_ratios, strict=True) if s != origin):
            taking |= {s for s in mixture.sources if s != origin}
    return sorted(taking) or candidates


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
