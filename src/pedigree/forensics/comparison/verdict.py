"""From findings to one of the fixed words.

The order of the questions
1. Is everything equal, number for number?                          -> identical
2. Does any layer of the body agree beyond the bank of strangers?   -> go on; else embeddings only, or unrelated
   Exact tests in place sharpen an answer but never give one: their null takes order and signs of units as drawn by
   chance, and whoever holds a model can choose them to suit another (tests/attacks).
   A few units that live on in a model otherwise foreign are no layer: they make it partly related (`shared_units.py`).
   Units that agree no more than a chosen frame could bring about leave the question open (`read_units.py`).
3. Do the learned directions live on, or only the random start?     -> shared-initialization
4. Is it the whole body, or some layers or components of it?        -> related, or partly-related with the list

Names, configs, norms and standard deviations are not among the inputs of this file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from pedigree.forensics.comparison.findings import CLEAR_LOG10_P, CLEAR_Z, Findings, has_few_units
from pedigree.forensics.comparison.following import origin_of
from pedigree.forensics.comparison.loudness import unheard
from pedigree.forensics.descent.origin import OriginEvidence
from pedigree.forensics.descent.survival import SEEN_LEARNING
from pedigree.forensics.descent.untouched_rows import UntouchedRows
from pedigree.forensics.sides.side import Side
from pedigree.forensics.sides.views import UnitKind
from pedigree.forensics.units.shared_units import KeptUnits
from pedigree.records.comparison import Component, ComponentVerdict, Verdict

PARTIAL_SHARE = 0.25
"""Share of layers of foreign origin (A not being wholly contained) above which a relation is called partial."""

IN_PLACE_COSINE = 0.7
"""Agreement of vocabulary rows in place beyond what choosing the frame of a stranger can buy (about 0.6)."""

TABLE_COSINE = 0.9
"""Held-out agreement of vocabulary rows, after a fitted frame, that a copy keeps."""

OPEN_TABLE = "a table that both started from, drawn or trained, cannot be told from one that was handed down"
"""Of vocabulary rows that agree, are no copies, and stand alone (`table_origin.py`)."""

SEEDED = "equal tensors are too few, or show no training, to tell a copy from a formula, a count or a seed"
"""Of files whose roles are unknown (`copies.py`)."""

RENAMED = (
    "attention agrees in the frame that vocabulary rows give, but these do not stand to each other as rows of the same "
    "names do: whoever renames rows chooses that frame"
)
"""Of frames that rest on names (`borne_names.py`)."""

COPIED_KINDS = {"attn": ("attn.",), "mlp": ("mlp.", "moe."), "experts": ("mlp.", "moe.")}
"""Roles of the matrices of a component, by the beginnings of their names."""

QUIET_COSINE = 0.5
"""The same outside the leading directions of vocabulary rows, where shared usage explains little: independent pairs of
the calibration split stay below 0.35, tuned tables of a parent above 0.54. Both have to be reached."""


@dataclass
class Judgment:
    """A verdict with its components and the reasons, in words.

    `open_origin`: the two share numbers beyond chance, and only start or descent is left open.
    """

    verdict: Verdict
    components: dict[str, Component] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    reasons_to_doubt: list[str] = field(default_factory=list)
    open_origin: bool = False


def judge(a: Side, b: Side, found: Findings) -> Judgment:
    """Choose the verdict and describe each component."""
    return _settled(_judge(a, b, found))


def _settled(judgment: Judgment) -> Judgment:
    """The same with components that claim no more than the whole: what is alike since two models began alike, or may
    be, is not related."""
    word = judgment.verdict
    if word in ("shared-initialization", "inconclusive"):
        for name, part in judgment.components.items():
            if part.verdict == "related":
                judgment.components[name] = part.model_copy(update={"verdict": word})
    return judgment


def _judge(a: Side, b: Side, found: Findings) -> Judgment:
    components = _components(a, b, found)
    if found.same_numbers:
        return Judgment("identical", {k: _same(c) for k, c in components.items()}, ["every number is equal"])
    readable = min(a.n_layers, b.n_layers, a.width, b.width) > 0
    if not found.evidence.grids and (b.sample.ladder or not readable):
        return _without_numbers(found, components) if found.blank else _without_layers(found, components)
    if found.keeps_units:
        return _with_units(found, components)
    if not found.layers_hit("ffn", "vo", "qk") and not found.copied:
        return _without_body(found, components) if b.sample.ladder else _without_place(found, components)
    if found.within_reach:
        why = "units agree, but no more than somebody who chose the frame could bring about in the few that were read"
        return Judgment("inconclusive", components, [why])
    if found.framed and not found.copied:
        why = "attention agrees, but in a frame that vocabulary rows do not share, no more than a chosen one can"
        return Judgment("inconclusive", components, [why])
    copies_alone = found.copied and not _agrees_beyond_copies(found)
    origin = OriginEvidence("descent") if _is_rounding(found) or copies_alone else origin_of(found)
    if found.copied and origin.origin != "descent":
        return _with_copies(found, components, origin)
    if origin.origin == "start" and found.carried and not found.layers_hit("ffn", "vo"):
        why = "only attention agrees, in a frame that rests on names of vocabulary rows, and it learned nothing alike"
        return Judgment("inconclusive", components, [why])
    why_not = unheard(a, b, found)
    word: Verdict
    if why_not is not None:
        word = "partly-related" if origin.origin == "descent" else "inconclusive"
        return Judgment(word, _with_note(components, why_not), [why_not])
    if origin.origin == "start":
        why = f"learned directions of one are absent in the other (log odds of descent {origin.log_odds:.1f})"
        return Judgment("shared-initialization", components, [why])
    if origin.origin == "unknown":
        word = "inconclusive"
        reasons = [_open_origin(found, origin)]
        if found.untouched is not None and found.untouched.told and "embed" in components:
            word, components, told = "partly-related", *_rows_alone(components, found.untouched)
            reasons.insert(0, told)
        return Judgment(word, components, reasons, open_origin=not origin.by_chance)
    is_partial = _is_partial(a, b, found, components) or (copies_alone and not _is_whole_body(components))
    return Judgment("partly-related" if is_partial else "related", components)


def _with_note(components: dict[str, Component], note: str) -> dict[str, Component]:
    """The components, with a note on all parts of the body that are related."""
    return {
        name: part.model_copy(update={"note": note}) if name in COPIED_KINDS and part.verdict == "related" else part
        for name, part in components.items()
    }


def _with_copies(found: Findings, components: dict[str, Component], origin: OriginEvidence) -> Judgment:
    """Trained matrices are equal number for number, and what differs beside them does not show descent.

    Two models of one seed may both have been given a part of a third, and left it as it was. And where the rest is a
    shared start, the equal part may have been drawn with directions in common and frozen: then it is not listed either.
    """
    names = ", ".join(found.copies.trained[:4]) if found.copies is not None else ""
    is_start = origin.origin == "start"
    parts = dict(components)
    for name, part in components.items():
        if part.verdict == "related" and (is_start or not _is_copied(found, name)):
            parts[name] = part.model_copy(update={"verdict": "inconclusive"})
        elif part.verdict == "related":
            parts[name] = part.model_copy(update={"note": f"trained matrices are equal number for number: {names}"})
    if is_start:
        why = "learned directions of the others are absent, so these may have been handed down, or drawn so and frozen"
    else:
        why = "of the others neither descent nor a shared start is clear"
    why = f"matrices are equal number for number: {names}; {why} (log odds of descent {origin.log_odds:.1f})"
    return Judgment("inconclusive" if is_start else "partly-related", parts, [why], open_origin=is_start)


def _agrees_beyond_copies(found: Findings) -> bool:
    """Whether a layer agrees by units of which a matrix is not equal number for number: then what was not copied agrees
    as well, or may, and wants an origin of its own."""
    if found.bits is None:
        return True
    changed = {(j, kind) for name in (*found.bits.different, *found.bits.unpaired) for j, kind in _units_of(name)}
    kinds: tuple[UnitKind, ...] = ("ffn", "vo", "qk")
    return any((j, kind) in changed for kind in kinds for j in found.layers_hit(kind))


def _units_of(name: str) -> list[tuple[int, UnitKind]]:
    """The layer and the kind of units that a matrix of the body belongs to, by its name; none for anything else."""
    layers, _, rest = name.partition(".")
    number, _, role = rest.partition(".")
    if layers != "layers" or "bias" in role:
        return []
    if role.startswith(COPIED_KINDS["mlp"]):
        return [] if "router" in role else [(int(number), "ffn")]
    if role.startswith(COPIED_KINDS["attn"]):
        return [(int(number), "vo" if role.split(".")[1][0] in "vo" else "qk")]
    return []


def _is_copied(found: Findings, name: str) -> bool:
    """Whether trained matrices of a component are equal number for number; of a table, whether it is equal."""
    if name in COPIED_KINDS:
        return found.copies is not None and bool(found.copies.of(*COPIED_KINDS[name]))
    return found.bits is not None and name in (*found.bits.equal, *found.bits.equal_after_cast)


def _rows_alone(components: dict[str, Component], rows: UntouchedRows) -> tuple[dict[str, Component], str]:
    """Vocabulary rows were handed down, and nothing tells whether the body was: two models of one seed that both begin
    with the table of a third look the same."""
    told = (
        f"of {rows.rows} vocabulary rows that point in one direction in both some had been trained: "
        "one learned them and the other never touched them"
    )
    is_open = {"verdict": "inconclusive", "note": "vocabulary rows were handed down; whether this was is not told"}
    parts = {
        name: part.model_copy(update=is_open) if name != "embed" and part.verdict == "related" else part
        for name, part in components.items()
    }
    parts["embed"] = parts["embed"].model_copy(update={"verdict": "related", "note": told})
    return parts, told


def _with_units(found: Findings, components: dict[str, Component]) -> Judgment:
    """Some units live on in a model otherwise foreign, or were drawn from one seed there."""
    note = components["mlp" if "mlp" in components else "experts"].note
    kept = found.kept_origin
    if kept is None or kept.origin == "descent":
        return Judgment("partly-related", components, [note])
    what = "layers or experts" if kept.whole else "rows"
    why = f"{note}; {what} of two models of one seed agree so, too"
    odds = f"log odds of descent {kept.evidence.log_odds:.1f}"
    if kept.origin == "start":
        return Judgment("shared-initialization", components, [f"{why}, and learned directions are absent ({odds})"])
    return Judgment("inconclusive", components, [f"{why}, and descent is not clear ({odds})"], open_origin=True)


def _is_rounding(found: Findings) -> bool:
    """Whether no number differs but for a cast: then there is nothing that either learned alone."""
    return found.bits is not None and bool(found.bits.equal or found.bits.equal_after_cast) and not found.bits.different


def _open_origin(found: Findings, origin: OriginEvidence) -> str:
    if origin.by_chance:
        return (
            "what a common frame and a common task fix agrees, as in students of one teacher; of the numbers "
            "themselves no more lives on than by chance"
        )
    if found.forward is None and found.backward is None:
        return (
            "units agree, but what was learned cannot be followed far enough to tell descent from a shared random start"
        )
    odds = f"log odds of descent {origin.log_odds:.1f}"
    if origin.learned < SEEN_LEARNING:
        return f"the two share numbers; too little was learned to tell descent from a shared random start ({odds})"
    return f"the two share numbers and part of what was learned: neither descent nor a shared start is clear ({odds})"


def _without_layers(found: Findings, components: dict[str, Component]) -> Judgment:
    """No layer of the two could be laid side by side: equal contents are all that can speak."""
    contents = found.contents
    if contents is not None and contents.all_equal:
        return Judgment("identical", components, ["every tensor has an equal one"])
    if found.handed_down:
        note = f"equal tensors: {', '.join(found.handed_down[:8])}"
        whole = Component(verdict="identical", n=len(found.handed_down), note=note)
        return Judgment("partly-related", {**components, "tensors": whole}, [note])
    if any(components[name].verdict == "related" for name in ("embed", "head") if name in components):
        return Judgment("partly-related", components, ["vocabulary rows only"])
    reasons = ["no layer of the two could be laid side by side"]
    if contents is not None and contents.telling:
        reasons.append(f"{SEEDED}: {', '.join(contents.telling[:8])}")
        return Judgment("inconclusive", components, reasons)
    if contents is not None and contents.shared:
        reasons.append(f"equal tensors are such as anybody computes: {', '.join(contents.shared[:8])}")
    return Judgment("not-testable", components, reasons)


def _without_place(found: Findings, components: dict[str, Component]) -> Judgment:
    """A glance looks for units where they stood; finding none excludes a plain derivative and nothing more."""
    unclear = {"mlp", "experts", "attn"} & components.keys()
    said = {"verdict": "inconclusive", "note": "only units in place were looked for"}
    open_parts = {name: components[name].model_copy(update=said) for name in unclear}
    reasons = ["no unit stands where it stood; reordered, rotated or re-tokenized relatives need standard depth"]
    if any(components[name].verdict == "related" for name in ("embed", "head") if name in components):
        reasons.append("vocabulary rows agree")
    return Judgment("inconclusive", {**components, **open_parts}, reasons)


def _without_numbers(found: Findings, components: dict[str, Component]) -> Judgment:
    """What holds no number was not tested, and is not cleared."""
    why = f"the layers of {' and of '.join(found.blank)} hold no numbers to compare: they are zero or not finite"
    empty = {
        name: part.model_copy(update={"verdict": "not-testable", "note": "no numbers to compare"})
        for name, part in components.items()
        if name in ("attn", "mlp", "experts") or not part.score
    }
    return Judgment("not-testable", components | empty, [why])


def _without_body(found: Findings, components: dict[str, Component]) -> Judgment:
    tables = [components[name] for name in ("embed", "head") if name in components]
    if any(table.verdict == "related" for table in tables):
        return Judgment("partly-related", components, ["vocabulary rows only"])
    if found.blank:
        return _without_numbers(found, components)
    if min(found.log10_p("body-signs"), found.log10_p("body-fixed-points")) <= CLEAR_LOG10_P:
        # Order and signs of units are free: whoever holds a model can choose them to suit another one.
        why = "units stand in the order or with the signs of the other's, but their directions do not agree"
        return Judgment("inconclusive", components, [why + _within_reach(found)])
    if found.renamed_rows:
        return Judgment("inconclusive", components, [RENAMED])
    for grid in found.evidence.grids.values():
        z, effect = grid.best
        if z >= CLEAR_Z and effect >= found.clear_effect * min(1.0, float(grid.coverage_J.max())) / 2:
            return Judgment("inconclusive", components, [f"one layer pair reaches z = {z:.1f} with a small effect"])
    if any(table.verdict == "inconclusive" for table in tables):
        return Judgment("inconclusive", components, [f"only vocabulary rows agree: {OPEN_TABLE}"])
    return Judgment("unrelated", components, [])


def _within_reach(found: Findings) -> str:
    """How far units in place agree, and that a chosen frame and order could bring it about, in words."""
    outcome = found.exact.get("units-in-place")
    if outcome is None or not outcome.applicable:
        return ""
    given, choices = outcome.extra["log10_p_given"], outcome.extra["log10_choices"]
    return (
        f" beyond what a chosen frame and order can bring about at this size (log10 p {given:.0f} if nothing was "
        f"chosen, against {choices:.0f} decades of choices)"
    )


def _is_whole_body(components: dict[str, Component]) -> bool:
    """Whether no part of the body is open or foreign: beside copies, a part with too few heads to tell is no copy."""
    body = [components[name].verdict for name in ("mlp", "experts", "attn") if name in components]
    return not {"unrelated", "inconclusive"} & set(body)


def _is_partial(a: Side, b: Side, found: Findings, components: dict[str, Component]) -> bool:
    looked_at = [j for j in range(len(found.layer_map)) if not found.unseen(j)]
    foreign = sum(found.layer_map[j] is None for j in looked_at) / max(1, len(looked_at))
    covered = len({i for i in found.layer_map if i is not None}) / max(1, a.n_layers)
    if foreign > PARTIAL_SHARE and covered < 0.9:
        return True
    body = [components[name].verdict for name in ("mlp", "experts", "attn") if name in components]
    tables = {components[name].verdict for name in ("embed", "head") if name in components}
    # Between foreign tables a part of which nothing is known does not make the other part a whole.
    foreign_words = {"unrelated", "inconclusive"} if tables == {"unrelated"} else {"unrelated"}
    return "related" in body and not foreign_words.isdisjoint(body)


def _same(component: Component) -> Component:
    return component.model_copy(update={"verdict": "identical"})


def _components(a: Side, b: Side, found: Findings) -> dict[str, Component]:
    out: dict[str, Component] = {}
    has_experts = any(b.anatomy.experts(j) for j in range(b.n_layers))
    for role in ("embed", "head"):
        component = _table(found, role)
        if component is not None:
            out[role] = component
    units = "experts" if has_experts else "mlp"
    out["attn"] = _or_copied(found, _attention(found), *COPIED_KINDS["attn"])
    out[units] = _or_copied(found, _feed_forward(a, b, found), *COPIED_KINDS[units])
    out["norm"] = Component(verdict="not-testable", note="gains of unrelated models look alike; never evidence")
    return out


def _or_copied(found: Findings, part: Component, *kinds: str) -> Component:
    """The component, related in any case where trained matrices of it are equal number for number."""
    copied = found.copies.of(*kinds) if found.copies is not None and found.copied else ()
    if not copied or part.verdict == "related":
        return part
    layers = sorted({int(name.split(".")[1]) for name in copied})
    note = f"trained matrices are equal number for number: {', '.join(copied[:4])}"
    return part.model_copy(update={"verdict": "related", "layers": layers, "note": note})


def _table(found: Findings, role: str) -> Component | None:
    outcome = found.exact.get(f"{role}-fixed-points")
    cosine = found.tables.get(role)
    if outcome is None and cosine is None:
        return None
    exact = found.log10_p(f"{role}-fixed-points")
    verdict: ComponentVerdict = "unrelated"
    note = "coordinates of shared tokens"
    plain = _agrees(found, f"{role}-in-place", IN_PLACE_COSINE)
    if exact <= CLEAR_LOG10_P and (plain or found.layers_hit("ffn", "vo", "qk")):
        verdict, note = "related", f"coordinates stand where they stood, log10 p <= {exact:.0f}"
    elif cosine is not None and _agrees(found, role, TABLE_COSINE):
        verdict, note = "related", f"held-out tokens agree at {cosine:.2f} in a frame fitted on others"
    elif found.tokens.count < 64:
        verdict, note = "not-testable", "too few shared tokens"
    # Output rows are compared with the final gain folded in, which hides that the table itself is the same.
    same = found.bits is not None and role in (*found.bits.equal, *found.bits.equal_after_cast)
    if verdict == "related" and found.table_origins.get(role) == "unknown" and not same:
        verdict, note = "inconclusive", OPEN_TABLE
    return Component(verdict=verdict, score=cosine, n=found.tokens.count, note=note)


def _agrees(found: Findings, name: str, least: float) -> bool:
    """Whether vocabulary rows agree, also where models of one language do not agree anyway."""
    return found.tables.get(name, 0.0) >= least and found.tables.get(f"{name}-quiet", 0.0) >= QUIET_COSINE


def _feed_forward(a: Side, b: Side, found: Findings) -> Component:
    layers = found.layers_hit("ffn")
    grid = found.evidence.grids.get("ffn")
    if grid is None:
        return Component(verdict="not-testable", note="no feed-forward units to compare")
    if found.keeps_units and found.kept is not None:
        return _kept_units(found, found.kept, grid.best[1])
    # Of plain units signs are not free, and no test of signs speaks; their places do.
    exact = min(found.family_log10_p("ffn"), found.log10_p("body-fixed-points"))
    if not layers and found.layers_hit("vo", "qk") and exact <= CLEAR_LOG10_P:
        note = f"units stand where they stood, log10 p <= {exact:.0f}"
        return Component(verdict="related", score=grid.best[1], n=len(found.layer_map), note=note)
    if not layers and not grid.sees(0) and any(i is not None for i in found.layer_map):
        return Component(verdict="inconclusive", score=grid.best[1], note="too few units were read to tell")
    if not layers and found.layers_hit("vo", "qk") and has_few_units(a, b, found):
        return Component(verdict="inconclusive", score=grid.best[1], note="a layer has too few units to tell")
    score = _mean_effect(found, "ffn", layers) if layers else grid.best[1]
    note = "held-out agreement of matched units"
    if found.in_place:
        reach = found.log10_p("units-in-place")
        note = f"units in place agree beyond any choice of frame and order, log10 p <= {math.floor(reach)}"
    return Component(
        verdict="related" if layers else "unrelated", score=score, n=len(found.layer_map), layers=layers, note=note
    )


def _kept_units(found: Findings, kept: KeptUnits, score: float) -> Component:
    """Units that live on in a model otherwise foreign: how many, and in which layers of B."""
    note = f"{kept.count} of {kept.units_b} units are A's, log10 p <= {math.floor(found.log10_p('kept-units'))}"
    layers = sorted({j for _, j in kept.pairs})
    return Component(verdict="related", score=score, n=kept.count, layers=layers, note=note)


def _attention(found: Findings) -> Component:
    layers = found.layers_hit("vo", "qk")
    heads = {name: score for name, score in found.heads.items() if score.n}
    if not found.tested("vo", "qk") and not heads:
        return Component(verdict="not-testable", note="attention was not read at this depth or has no common form")
    if layers:
        kinds = [k for k in ("vo", "qk") if k in found.evidence.grids]
        score = max(_mean_effect(found, k, layers) for k in kinds)
        note = "matched dimensions"
        if found.carried:
            note = found.carried_words
        return Component(verdict="related", score=score, n=len(found.layer_map), layers=layers, note=note)
    exact = found.family_log10_p("vo", "planes")
    if found.layers_hit("ffn") and exact <= CLEAR_LOG10_P:
        note = f"dimensions stand where they stood, log10 p <= {exact:.0f}"
        return Component(verdict="related", n=len(found.layer_map), note=note)
    best = max(heads.values(), key=lambda s: s.z, default=None)
    if best is not None and best.z >= min(CLEAR_Z, 0.6 * best.n) and best.effect >= 2 * found.clear_effect:
        mapped = [j for j, i in enumerate(found.layer_map) if i is not None]
        return Component(
            verdict="related", score=best.effect, n=best.n, layers=mapped, note="subspaces of matched heads"
        )
    if found.reordered:
        return Component(verdict="inconclusive", note="of reordered heads the files may hold none in common")
    if any(i is not None for i in found.layer_map) and (best is None or best.n < 8):
        return Component(verdict="inconclusive", score=best.effect if best else None, note="too few heads to tell")
    return Component(verdict="unrelated", score=best.effect if best else None, n=best.n if best else 0)


def _mean_effect(found: Findings, kind: str, layers: list[int]) -> float:
    grid = found.evidence.grids[kind]  # type: ignore[index]
    values = [float(grid.effect_IJ[found.layer_map[j], j]) for j in layers if found.layer_map[j] is not None]
    values = [v for v in values if math.isfinite(v)]
    return sum(values) / len(values) if values else 0.0
