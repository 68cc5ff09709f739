"""All measurements of one comparison at one depth, in order: tokens, gauge, layer map, units, exact tests, survival."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Container, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain

import torch
from torch import Tensor

from pedigree.forensics.comparison.findings import CLEAR_LOG10_P, Findings, HeadScore
from pedigree.forensics.comparison.following import follow_directions
from pedigree.forensics.comparison.grids import keeps_order, rounded_side, side_on_grid
from pedigree.forensics.descent.copies import find_copies, handed_down
from pedigree.forensics.descent.kept_origin import origin_of_kept
from pedigree.forensics.descent.table_origin import TableOrigin, are_principal_axes, table_origin
from pedigree.forensics.exact.tails import LN10
from pedigree.forensics.frames.borne_names import ONE_LANGUAGE, bear_one_naming
from pedigree.forensics.frames.carried_heads import heads_agree
from pedigree.forensics.frames.carried_planes import CHEAP_WIDTH, frame_spent, planes_agree
from pedigree.forensics.frames.carried_units import named_units_agree
from pedigree.forensics.frames.ladder import READERS, TABLES, Climb, climb_in_one_form, frame_of_units_in_place
from pedigree.forensics.sides.anchors import SharedTokens, read_table, share_tokens
from pedigree.forensics.sides.bits import compare_bits
from pedigree.forensics.sides.contents import compare_contents, same_contents
from pedigree.forensics.sides.gauge import Gauge, center, fit_rotation, identity_gauge, unit_rows
from pedigree.forensics.sides.side import LAYERS_AHEAD, WIDEST_KEPT, Side, map_in_order
from pedigree.forensics.sides.views import UnitKind, UnitSet
from pedigree.forensics.units.evidence import CLEAR_Z, Evidence, collect_evidence
from pedigree.forensics.units.heads import pooled_score
from pedigree.forensics.units.index_tests import (
    body_fixed_points,
    body_sign_test,
    map_choices_log10,
    table_fixed_points,
    unless_repeated,
)
from pedigree.forensics.units.mixed_layers import mixed_layers
from pedigree.forensics.units.read_units import read_units_agree
from pedigree.forensics.units.shared_units import KeptUnits, UnitRows, can_be_whitened, find_kept_units, units_in_place
from pedigree.forensics.units.tables import Tables
from pedigree.forensics.units.unit_map import UnitMap, map_units
from pedigree.forensics.units.walk import Walk, walk_unit_map
from pedigree.weights.packed import stored_tensors

FEW_UNITS_EFFECT = 0.3
"""Mean agreement of feed-forward units below which it is asked whether few of them make all of it."""

Progress = Callable[[str, float, str], None]


@contextmanager
def single_thread() -> Iterator[None]:
    """Run tensor operations on one thread each, so that results do not depend on how many cores there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _silent(stage: str, fraction: float, message: str) -> None:
    """Progress that nobody is told of."""


@contextmanager
def _read_ahead(a: Side, b: Side, tell: Progress) -> Iterator[None]:
    """Read layers in the background while the frame is worked out: one waits for the disk, the other for the processor.

    What is read is the same in any case, and an error comes up where the layer is asked for. Over a network the time
    goes into waiting for answers, so many layers are waited for at once.
    """

    def read(side: Side, number: int) -> None:
        if not stop.is_set():
            side.layer(number)
            done.append(number)
            share = len(done) / max(1, a.n_layers + b.n_layers)
            tell("frame", 0.1 + 0.4 * share, "looking for a common frame")

    if a.sample.streamed:  # nothing is kept there, so nothing can be read ahead
        yield
        return
    stop = threading.Event()
    done: list[int] = []
    with ThreadPoolExecutor(LAYERS_AHEAD if a.is_remote or b.is_remote else 1) as pool:
        for side in (b, a):
            for number in range(side.n_layers):
                pool.submit(read, side, number)
        try:
            yield
        finally:
            stop.set()


def measure(a: Side, b: Side, *, whole_bits: bool, progress: Progress | None = None) -> Findings:
    """Measure everything the verdict, the maps and the report need.

    Args:
        a, b: the two models.
        whole_bits: compare whole tensors in the bit pass, or only some rows of each.
        progress: called with (stage, fraction done, message).
    """
    tell = progress or _silent
    if not _is_readable(a) or not _is_readable(b):
        return _without_roles(a, b)
    tell("tokens", 0.0, "matching vocabularies")
    tokens = share_tokens(a.vocabulary, b.vocabulary, a.vocabulary_rows, b.vocabulary_rows)
    tell("frame", 0.1, "looking for a common frame")
    with _read_ahead(a, b, tell if a.is_remote or b.is_remote else _silent):
        result = climb_in_one_form(a, b, tokens)
    b.forget_whole_units()
    evidence = result.best
    empty = {*a.anatomy.empty_layers, *b.anatomy.empty_layers}
    layer_map, reverse_map = _between_layers(a, b, evidence.path()), _between_layers(b, a, evidence.reverse_path())
    found = Findings(tokens, result, evidence, layer_map, reverse_map=reverse_map)
    if a.sample.goes_on and evidence.best_z() < CLEAR_Z:
        return found
    tell("exact", 0.5, "exact tests on units in place")
    _exact_tests(a, b, found)
    _look_for_units(a, b, found)
    _look_for_planes(a, b, found)
    found.filled = fill_unseen(found, empty)
    if any(i is not None for i in found.layer_map):
        tell("units", 0.6, f"{evidence_words(found)}; tracing units")
        found.unit_maps = _unit_maps(a, b, found)
        found.reordered = bool(a.sample.layer_units) and _stand_elsewhere(found)
        if found.reordered and (more := fill_unseen(found, empty)):
            found.filled += more
            found.unit_maps = _unit_maps(a, b, found)
        grids = found.evidence.grids
        found.mixed = mixed_layers(a, grids, found.layer_map)
        found.mixed_back = mixed_layers(b, grids, found.reverse_map, turned=True)
        agreeing = [(i, j) for j in found.layers_hit("ffn") if (i := found.layer_map[j]) is not None]
        if agreeing and not found.in_place and not found.keeps_units:
            moved = a.sample.ladder or a.sample.by_tokens
            found.exact["units-read"] = read_units_agree(a, b, agreeing, evidence.tables if moved else None)
            if found.within_reach and _carry_over(a, b, found):
                found.unit_maps = _unit_maps(a, b, found)
            elif found.within_reach:
                found.exact["carried-units"] = named_units_agree(a, b, found.tokens, found.unit_maps)
                _believe_names(a, b, found)
        tell("survival", 0.7, f"{evidence_words(found)}; comparing heads, following learned directions")
        _side_by_side(a, b, found, follow_directions, _score_heads, _reverse_units, _table_cosines)
    else:
        found.blank = [name for name, side in (("A", a), ("B", b)) if side.is_blank]
        _table_cosines(a, b, found)
    tell("bits", 0.9, f"{evidence_words(found)}; comparing numbers")
    bit_map = found.layer_map if any(i is not None for i in found.layer_map) else _plain_map(a, b)
    found.bits = compare_bits(a, b, bit_map, whole_bits)
    # In the frame of tokens rows are rounded products, which may be equal where no tensor is.
    alone = found.bits.all_equal or a.sample.by_tokens
    found.copies = None if alone else find_copies(a, b, bit_map, found.bits)
    if any(i is not None for i in found.layer_map) and not found.bits.all_equal and found.unit_maps:
        found.rounded = rounded_side(a, b, found.layer_map)
        found.gridded = found.rounded or side_on_grid(a, b)
        found.in_order = keeps_order(a, b, found.layer_map)
    if whole_bits and not found.bits.all_equal:
        # A tower of pictures or sound may be shared by models whose decoders have nothing in common.
        rest = (stored_tensors(side.checkpoint, side.anatomy.unmapped) for side in (a, b))
        found.beside = compare_contents(a.checkpoint, b.checkpoint, *rest).telling
    # Renamed tensors may be read by another table, which orders rotary rows otherwise or knows fewer roles.
    if whole_bits and found.bits.equal and a.anatomy.architecture != b.anatomy.architecture:
        found.renamed = same_contents(a.checkpoint, b.checkpoint)
    tell("done", 1.0, "done")
    return found


def evidence_words(found: Findings) -> str:
    """What has been seen so far, for progress: layers with a counterpart, and the strongest exact test."""
    n = sum(i is not None for i in found.layer_map)
    log10_p = min((found.log10_p(name) for name in found.exact), default=0.0)
    p = f", p <= 10^{log10_p:.0f}" if log10_p < -1 else ", no test of units in place speaks"
    return f"{n} of {len(found.layer_map)} layers found{p}"


def _is_readable(side: Side) -> bool:
    return side.n_layers > 0 and side.width > 0


def _without_roles(a: Side, b: Side) -> Findings:
    """Nothing can be laid side by side: only equal contents are looked for, in models small enough to read whole."""
    evidence = Evidence(identity_gauge(1, 1))
    tokens = share_tokens(a.vocabulary, b.vocabulary, a.vocabulary_rows, b.vocabulary_rows)
    found = Findings(tokens, Climb(evidence), evidence, [None] * b.n_layers)
    if a.sample.max_units is None:
        found.contents = compare_contents(a.checkpoint, b.checkpoint)
        found.handed_down = handed_down(b.checkpoint, found.contents.telling)
    return found


def _plain_map(a: Side, b: Side) -> list[int | None]:
    return [j if j < a.n_layers else None for j in range(b.n_layers)]


def _exact_tests(a: Side, b: Side, found: Findings) -> None:
    mapped = found.layer_map
    if not any(i is not None for i in mapped):
        mapped = _plain_map(a, b)
    ways = 1 if a.reader is None and b.reader is None else len(READERS)
    found.penalty_log10 = map_choices_log10(a.n_layers, mapped) + math.log10(ways)
    found.exact["body-signs"] = body_sign_test(a, b, mapped)
    found.exact["body-fixed-points"] = body_fixed_points(a, b, mapped)
    for role in ("embed", "head"):
        if a.anatomy.part(role) is not None and b.anatomy.part(role) is not None:
            if role == "head" and (a.anatomy.tied or b.anatomy.tied):
                continue
            found.exact[f"{role}-fixed-points"] = table_fixed_points(a, b, role, found.tokens)
    strong = any(found.log10_p(name) <= CLEAR_LOG10_P for name in ("body-signs", "body-fixed-points"))
    if strong and not any(i is not None for i in found.layer_map):
        # Matching has nothing left to hold on to, yet units still stand where they stood: heavy further training.
        found.layer_map = mapped


def _look_for_units(a: Side, b: Side, found: Findings) -> None:
    """Where no layer agrees as a whole: units in place that agree a little, then single units that agree very well.

    A small mean over feed-forward units alone may be few of them, too: the others are then looked at by themselves.
    """
    grid, hits = found.evidence.grids.get("ffn"), found.layers_hit("ffn", "vo", "qk")
    few = bool(hits) and not found.layers_hit("vo", "qk") and grid is not None and grid.best[1] < FEW_UNITS_EFFECT
    if (hits and not few) or not can_be_whitened(a, b):
        if not hits:
            found.climb.skipped.append(
                "single units and units in place: not read whole, or too large, or too few units"
            )
        return
    rows_a, rows_b = UnitRows(a), UnitRows(b)
    pairs = [(j, j) for j in range(min(a.n_layers, b.n_layers))]
    if not hits:
        found.exact["units-in-place"] = unless_repeated(
            lambda some: units_in_place(rows_a, rows_b, some), pairs, a.n_layers
        )
        if found.log10_p("units-in-place") <= CLEAR_LOG10_P:
            found.layer_map, found.in_place = _plain_map(a, b), [j for _, j in pairs]
            # The frame of the ladder agreed with nothing, so directions are followed in that of the units themselves.
            frame = None if a.sample.streamed else frame_of_units_in_place(a, b)
            if frame is not None:
                frame = replace(frame, lens_BK=found.evidence.gauge.lens_BK)
                found.evidence = replace(found.evidence, gauge=frame, tables=None)
            return
    found.kept = find_kept_units(rows_a, rows_b)
    if found.kept.outcome is not None:
        found.exact["kept-units"] = found.kept.outcome
    if found.keeps_units:
        found.layer_map = _layers_of_units(b, found.kept)
        found.kept_origin = origin_of_kept(a, b, found.kept)


def _look_for_planes(a: Side, b: Side, found: Findings) -> None:
    """Where no feed-forward units agree: does a frame that was fitted on vocabulary rows carry over to attention?"""
    if found.in_place or found.keeps_units or found.layers_hit("ffn") or a.sample.by_tokens:
        return
    hits = found.layers_hit("vo", "qk")
    if hits:
        pairs = [(i, j) for j in hits if (i := found.layer_map[j]) is not None]
        outcome = planes_agree(a, b, found.tokens, pairs, found.penalty_log10 * LN10)
        found.exact["carried-planes"] = outcome
        _believe_names(a, b, found)
        agrees = found.log10_p("carried-planes") <= CLEAR_LOG10_P
        found.framed = not agrees and frame_spent(a, b, found.evidence.grids, pairs, tested=outcome.applicable)
        return
    standing = min(found.log10_p("body-signs"), found.log10_p("body-fixed-points")) <= CLEAR_LOG10_P
    if a.n_layers != b.n_layers or (max(a.width, b.width) > CHEAP_WIDTH and not standing):
        return
    _carry_over(a, b, found)


def _carry_over(a: Side, b: Side, found: Findings) -> bool:
    """Planes, then heads and position rows, of layers of one number; where they speak, these are the layer map. Layers
    of hybrids that have no attention take no part."""
    if a.n_layers != b.n_layers or any(i not in (None, j) for j, i in enumerate(found.layer_map)):
        return False
    layers = [j for j in range(b.n_layers) if a.anatomy.part("attn.o", j) and b.anatomy.part("attn.o", j)]
    if not layers:
        return False
    pairs = [(j, j) for j in layers]
    found.exact["carried-planes"] = planes_agree(a, b, found.tokens, pairs, 0.0)
    standing = min(found.log10_p("body-signs"), found.log10_p("body-fixed-points")) <= CLEAR_LOG10_P
    if found.carried_log10_p > CLEAR_LOG10_P:
        found.exact["carried-heads"] = heads_agree(a, b, found.tokens, pairs, 0.0, standing=standing)
    _believe_names(a, b, found)
    if found.carried_log10_p > CLEAR_LOG10_P:
        return False
    if standing and not found.evidence.gauge.is_trivial and a.width == b.width:
        # Too little is left for the ladder to prefer the frame in which units stand where they stood.
        plain = replace(identity_gauge(a.width, b.width), lens_BK=found.climb.lens_BK)
        found.evidence = collect_evidence(a, b, Tables(a, b, plain))
    found.layer_map, found.carried = _plain_map(a, b), layers
    return True


def _believe_names(a: Side, b: Side, found: Findings) -> None:
    """Take back what was said in the frame of vocabulary rows where the two do not name their rows alike."""
    names = ("carried-planes", "carried-heads", "carried-units")
    if a.sample.by_tokens or min(found.log10_p(name) for name in names) > CLEAR_LOG10_P:
        return
    naming = bear_one_naming(a, b, found.tokens)
    found.renamed_rows = naming < ONE_LANGUAGE
    for name in names:
        if found.log10_p(name) < 0.0:
            outcome, said = found.exact[name], {"naming": naming}
            if found.renamed_rows:
                said["log10_p_by_name"] = found.log10_p(name)
                outcome = replace(outcome, log10_p=0.0)
            found.exact[name] = replace(outcome, extra=outcome.extra | said)


def _layers_of_units(b: Side, kept: KeptUnits) -> list[int | None]:
    """A layer map that names a layer only where most of its units were kept; a few units are no layer."""
    out: list[int | None] = [None] * b.n_layers
    for (i, j), pairs_K2 in kept.pairs.items():
        units = b.units("ffn", j)
        if units is not None and len(pairs_K2) > units.count / 2:
            out[j] = i
    return out


def _between_layers(a: Side, b: Side, path: list[int | None]) -> list[int | None]:
    """A path without the numbers under which one of the files holds nothing: these are no layers."""
    gone, nowhere = a.anatomy.empty_layers, b.anatomy.empty_layers
    return [None if i in gone or j in nowhere else i for j, i in enumerate(path)]


def fill_unseen(found: Findings, empty: Container[int] = ()) -> list[int]:
    """Fill in the layer map where layers were not seen but stand between mapped ones in unbroken order.

    Args:
        found: what was measured; its layer map is filled in.
        empty: layer numbers under which one of the files holds nothing: there is no layer to fill in.

    Returns:
        The layers of B that were filled in; they carry no evidence of their own.
    """
    known = [j for j, i in enumerate(found.layer_map) if i is not None]
    filled: list[int] = []
    if len(known) < 2 or len(found.layer_map) != len(found.reverse_map):
        return filled
    shifts = {found.layer_map[j] - j for j in known}  # type: ignore[operator]
    if shifts != {0}:
        return filled
    for j in range(len(found.layer_map)):
        if found.unseen(j) and j not in empty:
            found.layer_map[j] = j
            filled.append(j)
    return filled


MOVED_SHARE = 0.5
"""Share of matched units in other places from which units of all layers count as reordered."""


def _stand_elsewhere(found: Findings) -> bool:
    """Whether matched units stand in other places, all layers together."""
    pairs = [units.pairs() for units in found.unit_maps.values()]
    pairs_K2 = torch.cat(pairs) if pairs else torch.zeros(0, 2)
    return len(pairs_K2) > 0 and float((pairs_K2[:, 0] != pairs_K2[:, 1]).double().mean()) > MOVED_SHARE


def _unit_maps(a: Side, b: Side, found: Findings) -> dict[int, UnitMap]:
    tables = found.evidence.tables

    def one(j: int) -> UnitMap | None:
        i = found.layer_map[j]
        left = None if i is None else a.units("ffn", i)
        right = b.units("ffn", j)
        if i is None or left is None or right is None:
            return None
        if a.sample.streamed:
            gauge = found.evidence.gauge
            return walk_unit_map(Walk(a, "ffn", i, gauge, "a", left), Walk(b, "ffn", j, gauge, "b", right), i, j)
        made = (tables.of_a("ffn", i), tables.sampled_of_b("ffn", j)) if tables is not None else (None, None)
        return map_units(left, right, found.evidence.gauge, i, j, made)

    maps = _of_layers(one, b.n_layers, a)
    return {j: units for j, units in enumerate(maps) if units is not None}


def _side_by_side(a: Side, b: Side, found: Findings, *steps: Callable[[Side, Side, Findings], None]) -> None:
    """Measurements that need nothing of each other, on all cores; one after the other where layers are not held, or so
    wide that what two of them hold at a time would be most of the memory."""
    if a.sample.streamed or max(a.width, b.width) > WIDEST_KEPT:
        for step in steps:
            step(a, b, found)
        return
    with ThreadPoolExecutor(max(1, torch.get_num_interop_threads())) as pool:
        for done in [pool.submit(step, a, b, found) for step in steps]:
            done.result()


def _reverse_units(a: Side, b: Side, found: Findings) -> None:
    """Unit maps seen from A: for each layer of A its units' origins in B (copies inside A show up here)."""
    back = found.evidence.gauge.inverse()

    def one(i: int) -> UnitMap | None:
        j = found.reverse_map[i]
        left = None if j is None else b.units("ffn", j)
        right = a.units("ffn", i)
        if j is None or left is None or right is None:
            return None
        if a.sample.streamed:
            return walk_unit_map(Walk(b, "ffn", j, back, "a", left), Walk(a, "ffn", i, back, "b", right), j, i)
        return map_units(left, right, back, j, i)

    maps = _of_layers(one, min(a.n_layers, len(found.reverse_map)), a)
    found.reverse_units = {i: units for i, units in enumerate(maps) if units is not None}


def _of_layers(one: Callable[[int], UnitMap | None], count: int, a: Side) -> list[UnitMap | None]:
    """A function of each layer, several at a time where they fit into memory."""
    return [one(number) for number in range(count)] if a.sample.streamed else map_in_order(one, range(count))


def _score_heads(a: Side, b: Side, found: Findings) -> None:
    kinds: tuple[UnitKind, ...] = ("vo", "qk")
    for kind in kinds:
        pairs = _pairs_of(a, b, found, kind)
        first = next(pairs, None)
        if first is not None:
            layers = sum(i is not None for i in found.layer_map) if a.sample.streamed else 0
            found.heads[kind] = HeadScore(*pooled_score(chain([first], pairs), found.evidence.gauge, layers))


def _pairs_of(a: Side, b: Side, found: Findings, kind: UnitKind) -> Iterator[tuple[UnitSet, UnitSet]]:
    """Units of one kind of each layer of B and of the layer of A that it came from."""
    for j, i in enumerate(found.layer_map):
        left = None if i is None else a.units(kind, i)
        right = b.units(kind, j)
        if left is not None and right is not None:
            yield left, right


ALIKE, ORIGIN_ROWS = 0.3, 1024
"""Agreement of vocabulary rows from which it is asked where they come from, and how many of them are looked at."""


def _table_cosines(a: Side, b: Side, found: Findings) -> None:
    """Mean cosine of held-out vocabulary rows: under the body's frame, or one fitted on every other token."""
    most = 4096 if a.sample.max_units is None else 1024
    tokens = found.tokens.of_width(min(most, max(64, a.sample.max_anchors)), 2 * max(a.width, b.width))
    body = any(i is not None for i in found.layer_map)
    frame = found.evidence.gauge if body and "rows" not in found.evidence.gauge.fitted_on else None
    lens_BK = found.climb.lens_BK
    alone = not found.layers_hit("ffn", "vo", "qk")
    for role, (cosines, origin, apart) in zip(
        TABLES,
        map_in_order(lambda k: _cosines_of(TABLES[k], a, b, tokens, frame, lens_BK, alone), range(len(TABLES))),
        strict=True,
    ):
        found.tables.update(cosines)
        if origin is not None:
            found.table_origins[role] = origin
        if apart is not None:
            found.tables_apart[role] = apart


def _cosines_of(
    role: str, a: Side, b: Side, tokens: SharedTokens, frame: Gauge | None, lens_BK: Tensor | None, alone: bool
) -> tuple[dict[str, float], TableOrigin | None, float | None]:
    """Cosines of one table: in place where widths agree, and under the frame, or one fitted here if there is none.

    Where nothing but tables agrees (`alone`), also where those that do come from, else None. And how far the two lie
    apart under that frame, as a share of B's length; None without one.

    Each of them also as `-quiet`: through the lens, outside the leading directions of vocabulary rows. Rows that began
    small are made of what training put there, and independent models of one language put the same there: held-out
    tokens agree at up to 0.94 in a fitted frame, and at 0.34 through the lens (docs/LOG.md, 2026-11-29).
    """
    left, right = read_table(a.anatomy, role, tokens.a_T), read_table(b.anatomy, role, tokens.b_T)
    if left is None or right is None or tokens.count < 64:
        return {}, None, None
    out: dict[str, float] = {}
    origin: TableOrigin | None = None
    apart: float | None = None
    if left.shape[1] == right.shape[1]:
        plain = identity_gauge(left.shape[1], right.shape[1])
        out |= _seen_both_ways(f"{role}-in-place", center(left), center(right), plain, lens_BK)
        if alone and out[f"{role}-in-place"] >= ALIKE:
            origin = table_origin(center(left[:ORIGIN_ROWS]), center(right[:ORIGIN_ROWS]))
    if frame is None:
        frame = fit_rotation(left[::2], right[::2], "every other shared token")
        left, right = left[1::2], right[1::2]
    if frame is not None:
        out |= _seen_both_ways(role, center(left), center(right), frame, lens_BK)
        apart = float((frame.carry(left) - right).norm() / right.norm().clamp_min(1e-30))
        if alone and origin is None and out[role] >= ALIKE:
            carried = frame.carry(center(left[:ORIGIN_ROWS]))
            origin = table_origin(carried, frame.meet(center(right[:ORIGIN_ROWS])))
    if origin not in (None, "unknown") and (_is_computed_table(a, role) or _is_computed_table(b, role)):
        origin = "unknown"
    return out, origin, apart


MOST_OF_TABLE = 1 << 27
"""Numbers of a table up to which it is read whole, where its rows are all that agrees."""


def _is_computed_table(side: Side, role: str) -> bool:
    """Whether a table holds word vectors that anybody computes; only all of its rows tell."""
    if side.sample.max_units is not None or side.vocabulary_rows * side.width > MOST_OF_TABLE:
        return False
    rows_VD = read_table(side.anatomy, role, torch.arange(side.vocabulary_rows))
    return rows_VD is not None and are_principal_axes(rows_VD)


def _seen_both_ways(name: str, a_TD: Tensor, b_TD: Tensor, frame: Gauge, lens_BK: Tensor | None) -> dict[str, float]:
    bare, seen = replace(frame, lens_BK=lens_BK).views(a_TD, b_TD)
    found = {name: _mean_cosine(*bare)}
    if lens_BK is not None:
        found[f"{name}-quiet"] = _mean_cosine(*seen)
    return found


def _mean_cosine(a_TD: Tensor, b_TD: Tensor) -> float:
    return float((unit_rows(a_TD) * unit_rows(b_TD)).sum(1).mean())


def shared(tokens: SharedTokens) -> str:
    """Shared tokens in words."""
    return f"{tokens.count} tokens shared by {tokens.by}"
