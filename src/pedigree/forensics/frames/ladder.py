"""The gauge ladder: identity, then frames anchored on tokens, then frames from the weights alone.

Each rung proposes a frame; the frame that lets held-out projections of matched units agree best is kept. Trying
several frames raises the chance of a large score between strangers a little; the bank of independent pairs that the
thresholds come from was measured with the whole ladder, so this is paid for.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from pedigree.forensics.frames.moments import MAX_WIDTH, fit_moments, stack_moments
from pedigree.forensics.sides.anchors import SharedTokens, quiet_lens, read_table, share_tokens
from pedigree.forensics.sides.gauge import (
    Gauge,
    fit_rotation,
    identity_gauge,
    refit_on_moment,
    refit_on_units,
    round_to_permutation,
    token_gauge,
    unit_rows,
)
from pedigree.forensics.sides.sampling import spread_evenly
from pedigree.forensics.sides.side import Side
from pedigree.forensics.sides.streamed_units import blocks
from pedigree.forensics.sides.views import UnitKind, is_gated
from pedigree.forensics.units.evidence import CLEAR_Z, KINDS, Evidence, collect_evidence, look_closer
from pedigree.forensics.units.layer_path import NOISE_Z
from pedigree.forensics.units.matching import Table, centered, make_table
from pedigree.forensics.units.tables import Key, Tables

SURE_Z = 20.0
"""A frame under which some layer pair scores this high is good enough to stop climbing."""

TIE = 0.95
"""A plainer frame (a permutation rather than a rotation) is kept when it scores this share of the other."""

CLEARLY_BETTER = 1.2
"""A frame fitted on units in place is taken when they agree this much better, on other layers, than as they stand."""

TABLES = ("embed", "head")

MATCH_COSINE = 0.3
"""Matched directions below this cosine do not take part in refitting a frame."""


@dataclass
class Climb:
    """What the ladder tried.

    Attributes:
        best: the evidence under the best frame.
        tried: (what the frame was fitted on, best standard score) per rung.
        skipped: rungs that could not be tried, and why.
        lens_BK: directions of B's frame that every comparison looks through.
        fitted: the frames that were fitted.
        of_b: tables of B as all frames see them that reach all of it: only A's are made anew for each.
    """

    best: Evidence
    tried: list[tuple[str, float]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    lens_BK: Tensor | None = None
    fitted: list[Gauge] = field(default_factory=list, repr=False)
    of_b: dict[Key, Table | None] = field(default_factory=dict, repr=False)

    def tables(self, a: Side, b: Side, gauge: Gauge, whole: Iterable[int] = ()) -> Tables:
        """Tables of both models under a gauge with this lens."""
        return Tables(a, b, gauge, whole, of_b=self.of_b if gauge.reaches_all else None)


READERS = ("gate", "up")
"""The projections by which a gated unit may have been a plain one, or may become one."""


def climb_in_one_form(a: Side, b: Side, tokens: SharedTokens) -> Climb:
    """`climb`; where one model has gated feed-forward units and the other plain ones, by each of the ways in which a
    gated unit can be taken for a plain one. The side that has them is left with the one that agrees better."""
    forms = [is_gated(side.anatomy) for side in (a, b)]
    if None in forms or forms[0] == forms[1]:
        return climb(a, b, tokens)
    gated = a if forms[0] else b
    found: dict[str, Climb] = {}
    for reader in READERS:
        gated.read_units_by(reader)
        found[reader] = climb(a, b, tokens)
    best = max(READERS, key=lambda reader: _feed_forward_z(found[reader]))
    gated.read_units_by(best)
    return found[best]


def _feed_forward_z(result: Climb) -> float:
    grid = result.best.grids.get("ffn")
    return 0.0 if grid is None else grid.best[0]


def climb(a: Side, b: Side, tokens: SharedTokens) -> Climb:
    """Try frames from the plainest to the most general and keep the one with the best held-out agreement."""
    probe = _probe_layers(a)
    lens_BK = quiet_lens(b, tokens)
    plain = token_gauge(b.width // 2) if b.sample.by_tokens else identity_gauge(a.width, b.width)
    first = replace(plain, lens_BK=lens_BK)
    result = Climb(Evidence(first), lens_BK=lens_BK)
    result.best = collect_evidence(a, b, result.tables(a, b, first), probe)
    whole, frames = b.sample.whole_layers(b.n_layers), list[Gauge]()
    if whole and result.best.best_z() < SURE_Z and result.best.tables is not None:
        # Nothing stands in place: units may have been reordered, so the samples alone could miss each other. A frame is
        # likely to be wanted, too, and is fitted meanwhile.
        with ThreadPoolExecutor(1) as pool:
            fitting = pool.submit(_token_rungs, a, b, tokens, result)
            result.best = collect_evidence(a, b, result.best.tables.with_whole(whole), probe)
            frames = fitting.result()
    result.tried.append((first.fitted_on, result.best.best_z()))
    if a.sample.goes_on and result.best.best_z() < CLEAR_Z:
        result.skipped.append("the other layers at a glance: of those looked at first none has units in place")
        return result
    if not a.sample.ladder:
        return _finish(a, b, result)
    standing = result.best
    _climb_rungs(a, b, tokens, probe, frames, result)
    others = [i for i in range(a.n_layers) if i not in probe]
    if a.sample.max_units is None and not a.sample.streamed:
        if result.best.best_z() < CLEAR_Z and others:
            _try_elsewhere(a, b, others, first, result)
    elif result.best.best_z() < NOISE_Z:
        # No frame has shown anything, so none was chosen for a reason: the other layers may stand where they stood.
        result.best = standing
    return _finish(a, b, result)


def _try_elsewhere(a: Side, b: Side, layers: list[int], first: Gauge, result: Climb) -> None:
    """The frames that were fitted, by other layers of A: those that were looked at may be just those that B has not.

    Then one frame seemed as good as another.
    """
    before, frames = result.best, list(result.fitted)
    result.best = collect_evidence(a, b, result.tables(a, b, first), layers)
    for gauge in frames:
        if result.best.best_z() >= SURE_Z:
            break
        _try(a, b, gauge, layers, result)
    if result.best.best_z() < CLEAR_Z:
        result.best = before
    elif not result.best.gauge.is_trivial:
        _refine(a, b, layers, result)


def _climb_rungs(a: Side, b: Side, tokens: SharedTokens, probe: list[int], frames: list[Gauge], result: Climb) -> None:
    """Frames from tokens (`frames`, if they are there already), rows, moments and units, by some layers of A."""
    whole = b.sample.whole_layers(b.n_layers)
    for rung in (_token_rungs, _row_rungs, _moment_rungs, _unit_rungs):
        if result.best.best_z() >= SURE_Z:
            break
        for gauge in frames if whole and rung is _token_rungs else rung(a, b, tokens, result):
            allowed = round_to_permutation(gauge, min_mass=0.0) if _is_pinned(a, b) else gauge
            if allowed is not None:
                result.fitted.append(allowed)
                _try(a, b, allowed, probe, result)
    if not result.best.gauge.is_trivial:
        _refine(a, b, probe, result)


def _finish(a: Side, b: Side, result: Climb) -> Climb:
    """All layers under the frame that was chosen, with a closer look at those that found no place."""
    tables = result.best.tables
    if tables is not None:
        result.best = look_closer(a, b, collect_evidence(a, b, tables))
    return result


def _is_pinned(a: Side, b: Side) -> bool:
    """Whether per-channel gains stand on the stream itself (norms behind the branch or after the addition).

    Such a gain ties the residual coordinates to their axes: a disguise can permute or negate them, a rotation would
    change the function. Rotations are then not tried, since strangers could only gain by them.
    """
    return a.width == b.width and "pre" not in (a.anatomy.norm_placement, b.anatomy.norm_placement)


def _probe_layers(a: Side) -> list[int]:
    """Three layers spread over the depth (fewer in shallow models); around whole layers where others are sampled."""
    n = a.n_layers
    whole = a.sample.whole_layers(n)
    if whole:
        return sorted({i for j in whole for i in (j - 1, j, j + 1) if 0 <= i < n})
    return sorted({(n - 1) // 4, n // 2, (3 * (n - 1)) // 4}) if n else []


def _try(a: Side, b: Side, gauge: Gauge, probe: list[int], result: Climb, is_plainer: bool = False) -> None:
    gauge = replace(gauge, lens_BK=result.lens_BK)
    evidence = collect_evidence(a, b, result.tables(a, b, gauge, b.sample.whole_layers(b.n_layers)), probe)
    result.tried.append((f"{gauge.kind}: {gauge.fitted_on}", evidence.best_z()))
    if evidence.best_z() > result.best.best_z() or (is_plainer and evidence.best_z() > TIE * result.best.best_z()):
        result.best = evidence
        # What was rounded stays a partial isometry where widths differ: it is not rounded again.
        fitted = gauge.kind in ("orthogonal", "partial-isometry") and not is_plainer
        rounded = round_to_permutation(gauge) if fitted else None
        if rounded is not None:
            _try(a, b, rounded, probe, result, is_plainer=True)


def _token_rungs(a: Side, b: Side, tokens: SharedTokens, result: Climb) -> list[Gauge]:
    sampled = a.sample.max_units is not None
    both_tables = all(side.anatomy.part(r) is not None and not side.anatomy.tied for side in (a, b) for r in TABLES)
    # Frames of large models cost seconds and grow with the anchors: two tables share what one would take.
    most = max(a.sample.max_anchors // (2 if sampled and both_tables else 1), 64)
    chosen = tokens.of_width(most, max(a.width, b.width))
    return _frames_of_rows(a, b, chosen, "shared tokens", sampled and both_tables, result)


def _row_rungs(a: Side, b: Side, tokens: SharedTokens, result: Climb) -> list[Gauge]:
    """A frame from vocabulary rows of one number, where tokenizers give them other names.

    Names are not the weights': a cipher in front of a tokenizer renames every row and leaves it where it stands.
    """
    named = tokens.by != "row number" and not tokens.same_rows
    if not named or a.sample.max_units is not None:
        return []
    by_number = share_tokens(None, None, a.vocabulary_rows, b.vocabulary_rows)
    chosen = by_number.of_width(max(a.sample.max_anchors, 64), max(a.width, b.width))
    return _frames_of_rows(a, b, chosen, "one number", False, result)


def _frames_of_rows(a: Side, b: Side, chosen: SharedTokens, which: str, together: bool, result: Climb) -> list[Gauge]:
    """Frames fitted on each table, or on both together only."""
    found: list[Gauge] = []
    rows_a, rows_b = list[Tensor](), list[Tensor]()
    for role, words in (("embed", f"embedding rows of {which}"), ("head", f"output rows of {which}")):
        left, right = read_table(a.anatomy, role, chosen.a_T), read_table(b.anatomy, role, chosen.b_T)
        if left is None or right is None:
            continue
        if not together:
            gauge = fit_rotation(left, right, words)
            if gauge is None:
                result.skipped.append(f"frame from {words}: only {chosen.count} shared tokens")
            else:
                found.append(gauge)
        rows_a.append(left / left.norm().clamp_min(1e-30))
        rows_b.append(right / right.norm().clamp_min(1e-30))
    if len(rows_a) == 2:
        left, right = torch.cat(rows_a), torch.cat(rows_b)
        rows_a.clear()  # a frame takes room, and rows of a wide model are not small
        rows_b.clear()
        both = fit_rotation(left, right, f"embedding and output rows of {which}")
        found += [both] if both is not None else []
    return found


def _moment_rungs(a: Side, b: Side, tokens: SharedTokens, result: Climb) -> list[Gauge]:
    if max(a.width, b.width) > MAX_WIDTH or a.sample.max_units is not None:
        result.skipped.append("frame from second moments: model too large at this depth")
        return []
    stacks = stack_moments(a.each_layer(), b.each_layer())
    if stacks is None:
        result.skipped.append("frame from second moments: widths or projections differ")
        return []
    return fit_moments(*stacks)


def _unit_rungs(a: Side, b: Side, tokens: SharedTokens, result: Climb) -> list[Gauge]:
    """A frame from units that stand at the same position, by the projection that matches are made on.

    Nothing else leads from one frame to the other where widths differ and vocabulary rows were drawn anew. Units that
    were reordered give a frame that means nothing, and the projections that are scored take no part.
    """
    if a.sample.streamed:
        return _walked_unit_rungs(a, b, result)
    left, right = _units_in_place(a, b)
    if a.sample.max_units is not None or sum(len(rows) for rows in left) < 2 * max(a.width, b.width):
        result.skipped.append("frame from units in place: too few units were read")
        return []
    rows_a, rows_b = torch.cat(left), torch.cat(right)
    gauge = refit_on_units(rows_a, rows_b, torch.ones(len(rows_a)), "units in place")
    return [] if gauge is None else [gauge]


def frame_of_units_in_place(a: Side, b: Side) -> Gauge | None:
    """The frame in which units that stand at the same position agree best: coordinates as they are, or one fitted.

    A fitted frame is scored on the layers that it was not fitted on, and has to agree clearly better.
    """
    left, right = _units_in_place(a, b)
    if not left:
        return None
    plain = identity_gauge(a.width, b.width)
    halves = [(torch.cat(left[k::2]), torch.cat(right[k::2])) for k in (0, 1) if left[k::2]]
    fitted = [refit_on_units(x_UD, y_UD, torch.ones(len(x_UD)), "units in place") for x_UD, y_UD in halves]
    standing = [_agreement(plain, x_UD, y_UD) for x_UD, y_UD in halves]
    turned = [0.0 if g is None else _agreement(g, *half) for g, half in zip(fitted, reversed(halves), strict=True)]
    if len(halves) < 2 or sum(turned) <= CLEARLY_BETTER * sum(standing):
        return plain
    x_UD, y_UD = torch.cat(left), torch.cat(right)
    return refit_on_units(x_UD, y_UD, torch.ones(len(x_UD)), "units in place")


def _agreement(gauge: Gauge, a_UD: Tensor, b_UD: Tensor) -> float:
    """Mean cosine of rows of A, carried, with those of B in the same place."""
    return float((unit_rows(gauge.carry(a_UD)) * unit_rows(b_UD)).sum(dim=1).mean())


def _units_in_place(a: Side, b: Side) -> tuple[list[Tensor], list[Tensor]]:
    """Rows by which matches are made, of units at the same position, layer by layer."""
    left, right = [], []
    for j in range(min(a.n_layers, b.n_layers)):
        units_a, units_b = a.layer(j).units.get("ffn"), b.layer(j).units.get("ffn")
        if units_a is None or units_b is None or units_a.names[0] != units_b.names[0]:
            continue
        n = min(units_a.count, units_b.count)
        same_N = (units_a.index_U[:n] == units_b.index_U[:n]) & (units_a.label_U[:n] == units_b.label_U[:n])
        name = units_a.names[0]
        left.append(centered(units_a.views_UD[name])[:n][same_N])
        right.append(centered(units_b.views_UD[name])[:n][same_N])
    return left, right


def _walked_unit_rungs(a: Side, b: Side, result: Climb) -> list[Gauge]:
    """The same with the rows of one block at a time; what is fitted is the sum of their products."""
    cross_AB, found = torch.zeros(a.width, b.width), 0
    for j in range(min(a.n_layers, b.n_layers)):
        units_a, units_b = a.units("ffn", j), b.units("ffn", j)
        if units_a is None or units_b is None or units_a.names[0] != units_b.names[0]:
            continue
        name, n = units_a.names[0], min(units_a.count, units_b.count)
        same_N = (units_a.index_U[:n] == units_b.index_U[:n]) & (units_a.label_U[:n] == units_b.label_U[:n])
        mean_a, mean_b = a.mean_unit(units_a, j, name), b.mean_unit(units_b, j, name)
        for pick_K in blocks(n, a.width + b.width):
            pick_K = pick_K[same_N[pick_K]]
            if len(pick_K):
                left_KA, right_KB = units_a.rows(name, pick_K) - mean_a, units_b.rows(name, pick_K) - mean_b
                cross_AB += unit_rows(left_KA).T @ unit_rows(right_KB)
                found += len(pick_K)
    if found < 2 * max(a.width, b.width):
        result.skipped.append("frame from units in place: too few units were read")
        return []
    gauge = refit_on_moment(cross_AB, found, "units in place")
    return [] if gauge is None else [gauge]


REFINED_UNITS = 2048
"""Units of a layer of a large model that take part in refitting a frame."""


def _walked_matches(a: Side, b: Side, gauge: Gauge, kind: UnitKind, i: int, j: int) -> tuple[Tensor, Tensor, Tensor]:
    """Some units of a layer of A and their nearest in a layer of B: centered rows of both, and how much they agree."""
    tables = Tables(a, b, gauge)
    left, right = tables.walk("a", kind, i), tables.walk("b", kind, j)
    if left is None or right is None:
        return torch.zeros(0, a.width), torch.zeros(0, b.width), torch.zeros(0)
    name, pick_K = left.units.names[0], spread_evenly(left.units.count, REFINED_UNITS)
    seen = left.table(pick_K, (name,))
    there_K = right.nearest(seen.match_UD)
    cos_K = (seen.match_UD * right.table(there_K, (name,)).match_UD).sum(dim=1)
    keep = cos_K > MATCH_COSINE
    rows_KA = left.units.rows(name, pick_K[keep]) - a.mean_unit(left.units, i, name)
    rows_KB = right.units.rows(name, there_K[keep]) - b.mean_unit(right.units, j, name)
    return rows_KA, rows_KB, cos_K[keep]


def _count(rows: list[Tensor]) -> int:
    return sum(len(part) for part in rows)


def _refine(a: Side, b: Side, probe: list[int], result: Climb) -> None:
    """Refit the frame on matched units of the probe layers; kept only if it scores better on the same footing."""
    for _ in range(2):
        evidence = result.best
        left, right, weight = list[Tensor](), list[Tensor](), list[Tensor]()
        for kind in KINDS:
            grid = evidence.grids.get(kind)
            if grid is None:
                continue
            for i in probe:
                row = torch.as_tensor(grid.z_IJ[i]).nan_to_num(0.0)
                j = int(row.argmax())
                if float(row[j]) < 6.0:
                    continue
                if a.sample.streamed:
                    for rows, more in zip(
                        (left, right, weight), _walked_matches(a, b, evidence.gauge, kind, i, j), strict=True
                    ):
                        rows.append(more)
                    continue
                units_a, units_b = a.layer(i).units.get(kind), b.layer(j).units.get(kind)
                if units_a is None or units_b is None:
                    continue
                name = units_a.names[0]
                carried = make_table(units_a, evidence.gauge, "a", (name,))
                other = make_table(units_b, evidence.gauge, "b", (name,))
                cos_M, best_M = (carried.match_UD @ other.match_UD.T).max(dim=1)
                keep = cos_M > MATCH_COSINE
                left.append(centered(units_a.views_UD[name])[keep])
                right.append(centered(units_b.views_UD[name])[best_M[keep]])
                weight.append(cos_M[keep])
        if not left:
            return
        if result.best.gauge.reaches_all and result.best.best_z() >= SURE_Z and _count(left) < min(a.width, b.width):
            return  # so few units would give a frame that reaches a part of the stream, where this one reaches all
        words = f"{result.best.gauge.fitted_on.removesuffix(', then matched units')}, then matched units"
        gauge = refit_on_units(torch.cat(left), torch.cat(right), torch.cat(weight), words)
        before = result.best.best_z()
        if gauge is not None and result.best.gauge.kind in ("orthogonal", "partial-isometry"):
            _try(a, b, gauge, probe, result)
        if result.best.best_z() <= before:
            return
