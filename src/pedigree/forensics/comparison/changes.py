"""What was done between two related models, read off the maps.

Each function looks at one space (layers, inner width, residual width, heads, experts, vocabulary, number types) and
returns the transformations it sees; nothing here changes a verdict.
"""

from __future__ import annotations

import math
from collections import Counter

import torch

from pedigree.forensics.comparison.findings import CLEAR_LOG10_P, CLEAR_Z, Findings, has_few_units
from pedigree.forensics.comparison.number_edits import number_edits
from pedigree.forensics.sides.side import Side
from pedigree.forensics.sides.views import UnitKind, is_gated
from pedigree.forensics.units.heads import moved_heads
from pedigree.forensics.units.unit_map import UnitMap
from pedigree.records.comparison import Transformation
from pedigree.weights.anatomy import Anatomy
from pedigree.weights.number_types import WIDE_FLOATS

MOST = 0.6
"""A property of units is named when it holds for most of the matched ones."""


def list_changes(a: Side, b: Side, found: Findings) -> list[Transformation]:
    """All transformations seen, coarse ones first."""
    out: list[Transformation] = []
    if found.layers_hit("ffn", "vo", "qk") or any(i is not None for i in found.layer_map):
        out += layer_changes(a, b, found)
        out += width_changes(a, b, found)
        out += expert_changes(a, b, found)
        out += inner_changes(a, b, found)
        out += disguises(found)
        out += head_order(a, b, found)
        out += component_changes(a, b, found)
        if not found.renamed:  # what two tables read differently in the same tensors was not changed by anyone
            out += structure_changes(a.anatomy, b.anatomy, a.reader or b.reader)
    if found.folded == "b":
        out.append(Transformation(kind="gains-folded"))
    if found.keeps_units and found.kept is not None:
        layers = sorted({j for _, j in found.kept.pairs})
        out.append(Transformation(kind="units-kept", kept=found.kept.count, of=found.kept.units_b, layers=layers))
    out += vocabulary_changes(a, b, found)
    out += number_changes(a, b, found)
    return out


def layer_changes(a: Side, b: Side, found: Findings) -> list[Transformation]:
    """Layers inserted, duplicated, dropped, replaced or reordered."""
    path = found.layer_map
    if not any(i is not None for i in path):
        return []
    out: list[Transformation] = []
    copied = _repeats(path, found)
    inserted = {j: path[j] for j in copied}
    fresh, replaced, dropped = _gaps(path, a.n_layers)
    dropped = sorted(set(dropped) - {i for sources in found.mixed.values() for i in sources})
    if any(found.unseen(j) for j in range(len(path))):
        # Layers that show nothing may be there with their units reordered: what is missing cannot be told.
        fresh, replaced, dropped = [], [], []
    blocks = _is_block_repeat(path, copied)
    if blocks:
        out.append(Transformation(kind="layers-duplicated", at=copied, source=[path[j] for j in copied]))
        inserted = {}
    inserted.update(dict.fromkeys(fresh))
    if found.mixed:
        at = sorted(found.mixed)
        out.append(Transformation(kind="layers-averaged", at=at, sources=[found.mixed[j] for j in at]))
    if inserted:
        at = sorted(inserted)
        out.append(Transformation(kind="layers-inserted", at=at, copied_from=[inserted[j] for j in at]))
    if dropped:
        out.append(Transformation(kind="layers-dropped", dropped=dropped))
    if replaced:
        out.append(Transformation(kind="layers-replaced", at=replaced))
    kept = [i for j, i in enumerate(path) if i is not None and j not in copied]
    if kept != sorted(kept):
        out.append(Transformation(kind="layers-reordered", order=kept))
    return out


def _repeats(path: list[int | None], found: Findings) -> list[int]:
    """Layers of B that repeat a layer of A already used; of two neighbors the one that writes less is the copy."""
    seen: dict[int, int] = {}
    copied: list[int] = []
    for j, i in enumerate(path):
        if i is None:
            continue
        if i in seen:
            first = seen[i]
            silent_first, silent_now = _silent_share(found, first), _silent_share(found, j)
            if j == first + 1 and silent_first > 0.5 >= silent_now:
                copied.append(first)
                seen[i] = j
            else:
                copied.append(j)
        else:
            seen[i] = j
    return sorted(copied)


def _silent_share(found: Findings, j: int) -> float:
    units = found.unit_maps.get(j)
    return float(units.silent_N.float().mean()) if units is not None and units.silent_N.numel() else 0.0


def _is_block_repeat(path: list[int | None], copied: list[int]) -> bool:
    """Whether the copies form a run of at least two layers that replays a run of A (a stacked block)."""
    return any(
        j + 1 in copied and path[j] is not None and path[j + 1] is not None and path[j + 1] == path[j] + 1  # type: ignore[operator]
        for j in copied
    )


def _gaps(path: list[int | None], n_a: int) -> tuple[list[int], list[int], list[int]]:
    """Foreign layers of B split into inserted and replaced ones, and layers of A that are gone."""
    fresh: list[int] = []
    replaced: list[int] = []
    used = {i for i in path if i is not None}
    gone = [i for i in range(n_a) if i not in used]
    run: list[int] = []
    last = -1
    for j, i in [*enumerate(path), (len(path), n_a)]:
        if i is None:
            run.append(j)
            continue
        missing = [k for k in gone if last < k < i]
        cut = min(len(run), len(missing))
        replaced += run[:cut]
        fresh += run[cut:]
        gone = [k for k in gone if k not in missing[:cut]]
        run, last = [], i
    return fresh, replaced, gone


def width_changes(a: Side, b: Side, found: Findings) -> list[Transformation]:
    """Residual width and number of heads."""
    out: list[Transformation] = []
    d_a, d_b = a.width, b.width
    if d_a != d_b:
        kind = "hidden-widened" if d_b > d_a else "hidden-pruned"
        out.append(Transformation(kind=kind, **{"from": d_a, "to": d_b}))
    if found.same_numbers:
        return out  # another number of heads can only be a guess where a config is missing
    return out + _head_changes(a, b)


def _head_changes(a: Side, b: Side) -> list[Transformation]:
    """Number and size of heads, and how they come to their keys and values."""
    heads_a, heads_b = a.anatomy.n_heads, b.anatomy.n_heads
    kv_a, kv_b = a.anatomy.n_kv_heads, b.anatomy.n_kv_heads
    all_a, all_b = _rows(a, "attn.o", 1), _rows(b, "attn.o", 1)
    latent = [_rows(side, "attn.kv_a", 0) is not None for side in (a, b)]
    if latent[0] != latent[1]:
        words = ["latent" if one else "per head" for one in latent]
        return [Transformation(kind="attention-converted", **{"from": words[0], "to": words[1]})]
    if not (heads_a and heads_b and all_a and all_b):
        return []
    out: list[Transformation] = []
    if heads_a != heads_b and (all_a != all_b or not (_guesses_heads(a) or _guesses_heads(b))):
        more, fewer = ("heads-added", "heads-pruned") if all_a != all_b else ("heads-split", "heads-joined")
        out.append(Transformation(kind=more if heads_b > heads_a else fewer, **{"from": heads_a, "to": heads_b}))
    elif all_a != all_b:
        kind = "head-dim-widened" if all_b > all_a else "head-dim-pruned"
        out.append(Transformation(kind=kind, **{"from": all_a // heads_a, "to": all_b // heads_b}))
    elif kv_a and kv_b and kv_a != kv_b and _rows(a, "attn.k", 0) != _rows(b, "attn.k", 0):
        out.append(Transformation(kind="kv-heads-changed", **{"from": kv_a, "to": kv_b}))
    return out


def _guesses_heads(side: Side) -> bool:
    """Whether neither config nor shapes tell how many heads there are."""
    return any(note.startswith("heads:") and "assumed" in note for note in side.anatomy.notes)


def _rows(side: Side, role: str, axis: int) -> int | None:
    """How many numbers all heads have together."""
    parts = (side.anatomy.part(role, layer) for layer in range(side.n_layers))
    return next((part.shape[axis] for part in parts if part is not None), None)


def inner_changes(a: Side, b: Side, found: Findings) -> list[Transformation]:
    """Feed-forward width of dense layers."""
    rows: list[tuple[int, UnitMap]] = []
    for j, units in found.unit_maps.items():
        i = found.layer_map[j]
        dense = i is not None and not a.anatomy.experts(i) and not b.anatomy.experts(j)
        if dense and units.total_a != units.total_b and found.hit("ffn", j):
            rows.append((j, units))
    if not rows:
        return []
    out: list[Transformation] = []
    for kind, chosen in (
        ("ffn-widened", [(j, u) for j, u in rows if u.total_b > u.total_a]),
        ("ffn-pruned", [(j, u) for j, u in rows if u.total_b < u.total_a]),
    ):
        if chosen:
            sizes = Counter((u.total_a, u.total_b) for _, u in chosen).most_common(1)[0][0]
            extra = {"from": sizes[0], "to": sizes[1], "layers": [j for j, _ in chosen]}
            if kind == "ffn-widened":
                extra["how"] = _widening(chosen)
            else:
                extra["kept_share"] = round(sum(u.kept_share for _, u in chosen) / len(chosen), 4)
            out.append(Transformation(kind=kind, **extra))
    return out


def _widening(rows: list[tuple[int, UnitMap]]) -> str:
    copies = sum(u.copies for _, u in rows)
    added = sum(u.total_b - u.total_a for _, u in rows)
    return "copied units" if copies >= MOST * added else "new units"


def expert_changes(a: Side, b: Side, found: Findings) -> list[Transformation]:
    """Where experts came from: upcycling, shuffling, densifying."""
    tables = []
    for j, units in sorted(found.unit_maps.items()):
        i = found.layer_map[j]
        if i is None or not found.hit("ffn", j) or not (a.anatomy.experts(i) or b.anatomy.experts(j)):
            continue
        tables.append((i, j, expert_origins(units)))
    if not tables:
        return []
    layers = [j for _, j, _ in tables]
    i0, j0, first = tables[0]
    moe_a, moe_b = a.anatomy.experts(i0) > 0, b.anatomy.experts(j0) > 0
    origins = [{"layer": j, "from_layer": i, "experts": rows} for i, j, rows in tables]
    if moe_b and not moe_a:
        return [
            Transformation(
                kind="upcycled", experts=b.anatomy.experts(j0), layers=layers, origins=origins, how=_how(first)
            )
        ]
    if moe_a and not moe_b:
        return [Transformation(kind="densified", experts=a.anatomy.experts(i0), layers=layers, origins=origins)]
    moved = [r for _, _, rows in tables for r in rows if r["from"] is not None and r["from"] != r["expert"]]
    if moved:
        return [Transformation(kind="experts-permuted", layers=layers, origins=origins)]
    return []


def expert_origins(units: UnitMap) -> list[dict[str, object]]:
    """For each expert of B: the expert (or dense layer, 0) of A it came from, and the shares behind that.

    `matched` is the share of the expert's units with an origin, `of_parent` the share of the parent's units found in
    it, `in_place` the share of matched units that kept their order.
    """
    rows: list[dict[str, object]] = []
    for expert in sorted({int(e) for e in units.label_b_N}):
        mine = units.label_b_N == expert
        hit = mine & units.matched_N
        row: dict[str, object] = {"expert": expert, "from": None, "matched": 0.0, "of_parent": 0.0}
        if bool(hit.any()):
            origin = units.origin_N[hit]
            sources = Counter(int(e) for e in units.label_a_M[origin])
            source = sources.most_common(1)[0][0]
            parent = units.label_a_M == source
            from_source = units.label_a_M[origin] == source
            index_a, index_b = units.index_a_M[origin][from_source], units.index_b_N[hit][from_source]
            row = {
                "expert": expert,
                "from": source,
                "matched": round(float(hit.sum() / mine.sum()), 4),
                "of_parent": round(torch.unique(origin[from_source]).numel() / max(1, int(parent.sum())), 4),
                "in_place": round(float((index_a == index_b).float().mean()), 4),
            }
        rows.append(row)
    return rows


def _how(rows: list[dict[str, object]]) -> str:
    routed = [r for r in rows if r["expert"] != -1 and r["from"] is not None]
    if not routed:
        return "no expert could be traced"
    shares = [float(str(r["of_parent"])) for r in routed]
    matched = [float(str(r["matched"])) for r in routed]
    if min(shares) > 0.9:
        return "full copies"
    if sum(matched) / len(matched) < 0.8:
        return "parts of the layer, partly re-initialized"
    return "parts of the layer"


def disguises(found: Findings) -> list[Transformation]:
    """Moves that keep the function: frame, unit order, unit scale."""
    out: list[Transformation] = []
    gauge = found.evidence.gauge
    if not gauge.is_trivial and gauge.kind in ("signed-permutation", "orthogonal"):
        what = "permuted and negated" if gauge.kind == "signed-permutation" else "rotated"
        out.append(Transformation(kind="gauge-disguise", gauge=gauge.kind, what=f"residual coordinates {what}"))
    seen = [(j, u) for j, u in sorted(found.unit_maps.items()) if found.hit("ffn", j) and u.matched_share > 0.3]
    # Units of a mixture stand in a place of their expert, wherever that went; of other experts they say nothing.
    alike = [(j, u) for j, u in seen if int(u.label_b_N.max()) == int(u.label_a_M.max()) and u.total_a == u.total_b]
    moved = [j for j, u in alike if u.in_place_share < 1 - MOST]
    if moved:
        out.append(Transformation(kind="units-permuted", layers=moved))
    dense = [(j, u) for j, u in seen if not int(u.label_b_N.max()) and not int(u.label_a_M.max())]
    scaled = [j for j, u in dense if _is_rescaled(u)]
    if scaled:
        out.append(Transformation(kind="units-rescaled", layers=scaled))
    return out


def head_order(a: Side, b: Side, found: Findings) -> list[Transformation]:
    """Attention heads that stand in other places; asked of models that were read whole."""
    if a.width != b.width or a.sample.max_units is not None or b.sample.max_units is not None:
        return []
    moved = []
    for j in found.layers_hit("vo", "qk"):
        i = found.layer_map[j]
        left, right = None if i is None else a.units("vo", i), b.units("vo", j)
        if left is not None and right is not None and moved_heads(left, right, found.evidence.gauge) > 1:
            moved.append(j)
    return [Transformation(kind="heads-permuted", layers=moved)] if moved else []


def _is_rescaled(units: UnitMap) -> bool:
    """Unit scale is free in a GLU; training moves it a little and evenly, a disguise a lot and unevenly."""
    log_scale = units.log_scale_N[~units.log_scale_N.isnan()]
    signs = units.sign_N[units.sign_N != 0]
    if log_scale.numel() < 8:
        return False
    spread = float((log_scale - log_scale.median()).abs().median())
    return spread > 0.25 or float((signs < 0).float().mean()) > 0.2


def component_changes(a: Side, b: Side, found: Findings) -> list[Transformation]:
    """A component that is foreign on layers whose other component is matched."""
    out: list[Transformation] = []
    ffn, attn = set(found.layers_hit("ffn")), set(found.layers_hit("vo", "qk"))
    sees_all = all(grid.sees(j) for grid in found.evidence.grids.values() for j in range(len(found.layer_map)))
    if found.reordered or not sees_all:
        return out  # a sample may miss what is there
    if found.tested("ffn") and found.tested("vo", "qk") and (attn or ffn):
        only_attn = [j for j in sorted(attn - ffn) if _shows_nothing(found, j, "ffn")]
        only_ffn = [j for j in sorted(ffn - attn) if _shows_nothing(found, j, "vo", "qk")]
        # Too little of everything may be left for units of the feed-forward to be told apart from foreign ones.
        if only_attn and not found.carried and not has_few_units(a, b, found):
            out.append(Transformation(kind="component-reinitialized", component="mlp", layers=only_attn))
        if only_ffn and (attn or _attention_is_foreign(found)):
            out.append(Transformation(kind="component-reinitialized", component="attn", layers=only_ffn))
    return out


FAINT_Z = 4.0
"""Standard score that foreign units stay below. A layer with few units (one key/value head of twelve dimensions) never
gets far beyond it, however much its units agree."""


def _shows_nothing(found: Findings, j: int, *kinds: UnitKind) -> bool:
    """Whether units of these kinds were compared, in layer `j` of B with the layer of A that the map gives, and none
    agrees. Units that write nothing are not compared."""
    i = found.layer_map[j]
    grids = [found.evidence.grids[kind] for kind in kinds if kind in found.evidence.grids]
    scores = [score for grid in grids if math.isfinite(score := float(grid.z_IJ[i, j]))]
    return bool(scores) and not any(score >= FAINT_Z for score in scores)


def _attention_is_foreign(found: Findings) -> bool:
    """Whether attention was tested well enough for its silence to mean something."""
    heads = [score for score in found.heads.values() if score.n >= 8]
    silent = all(score.z < CLEAR_Z and score.effect < found.clear_effect for score in heads)
    return bool(heads) and silent and found.family_log10_p("vo", "planes") > CLEAR_LOG10_P


def structure_changes(a: Anatomy, b: Anatomy, reader: str | None = None) -> list[Transformation]:
    """Biases, tying, gates, positions, norms.

    Args:
        a, b: the models.
        reader: the projection of gated units by which they are the other model's plain ones.
    """
    out: list[Transformation] = []
    linear = ("attn.", "mlp.")
    biases_a = {p.role for p in a.parts() if p.role.endswith(".bias") and p.role.startswith(linear)}
    biases_b = {p.role for p in b.parts() if p.role.endswith(".bias") and p.role.startswith(linear)}
    if biases_b - biases_a:
        out.append(Transformation(kind="biases-added", roles=sorted(biases_b - biases_a)))
    if biases_a - biases_b:
        out.append(Transformation(kind="biases-removed", roles=sorted(biases_a - biases_b)))
    if a.tied != b.tied:
        out.append(Transformation(kind="tied" if b.tied else "untied"))
    for kind, role in _OPTIONAL:
        there = [any(part.role == role for part in side.parts()) for side in (a, b)]
        if there[0] != there[1]:
            out.append(Transformation(kind=f"{kind}-added" if there[1] else f"{kind}-removed"))
    gated = [is_gated(side) for side in (a, b)]
    if None not in gated and gated[0] != gated[1]:
        how = {"how": f"units live on through their {reader} projection"} if reader else {}
        out.append(Transformation(kind="gate-added" if gated[1] else "gate-removed", **how))
    out += _converted("positions-converted", _positions(a), _positions(b))
    if _has_norms(a) and _has_norms(b):  # a kind without gains, or a part of a model, says nothing of its norms
        out += _converted("norm-converted", a.norm, b.norm)
        out += _converted("norms-moved", a.norm_placement, b.norm_placement)
    if not a.inferred and not b.inferred:  # names and shapes do not tell how blocks follow each other
        out += _converted("blocks-rearranged", a.residual, b.residual)
    return out


_OPTIONAL = (("query-key-norms", "norm.q"), ("attention-sinks", "attn.sink"), ("embedding-projection", "embed.project"))
"""What a model may have beside its branches: name of the change, and role."""


def _converted(kind: str, before: str | None, after: str | None) -> list[Transformation]:
    if before is None or after is None or before == after:
        return []
    return [Transformation(kind=kind, **{"from": before, "to": after})]


def _positions(anatomy: Anatomy) -> str | None:
    """How positions come in: by a table, by rotations, or by neither; None where a table was inferred from names."""
    if anatomy.part("embed.position") is not None:
        return "learned"
    if anatomy.inferred:
        return None
    return "none" if anatomy.rope == "none" else "rotary"


def _has_norms(anatomy: Anatomy) -> bool:
    """Whether a model holds gains of norms in its layers."""
    return any(part.role.startswith(("norm.attn", "norm.mlp", "norm.block")) for part in anatomy.parts())


def vocabulary_changes(a: Side, b: Side, found: Findings) -> list[Transformation]:
    """Vocabulary swapped, extended, trimmed or reordered; rows re-initialized."""
    tokens = found.tokens
    out: list[Transformation] = []
    if tokens.by == "surface form":
        shared, n_a, n_b = tokens.count, tokens.tokens_a, tokens.tokens_b
        facts = {"shared": shared, "tokens_a": n_a, "tokens_b": n_b}
        if shared >= 0.98 * n_a and n_b > n_a:
            out.append(Transformation(kind="vocabulary-extended", added=n_b - shared, **facts))
        elif shared >= 0.98 * n_b and n_a > n_b:
            out.append(Transformation(kind="vocabulary-trimmed", removed=n_a - shared, **facts))
        elif shared < 0.98 * max(n_a, n_b):
            out.append(Transformation(kind="vocabulary-swapped", **facts))
        elif not tokens.same_rows:
            out.append(Transformation(kind="vocabulary-reordered", **facts))
    cosine = found.tables.get("embed")
    if tokens.by == "surface form" and cosine is not None and cosine < 0.1 and found.layers_hit("ffn", "vo", "qk"):
        out.append(Transformation(kind="embeddings-reinitialized", held_out=round(cosine, 4)))
    return out


def number_changes(a: Side, b: Side, found: Findings) -> list[Transformation]:
    """Frozen tensors, casts and quantization grids."""
    out: list[Transformation] = []
    bits = found.bits
    if bits is not None and bits.equal and not found.same_numbers and (bits.different or bits.unpaired):
        out.append(
            Transformation(
                kind="tensors-frozen", tensors=bits.equal, count=len(bits.equal),
                of=len(bits.equal) + len(bits.different) + len(bits.equal_after_cast), sampled=not bits.whole,
            )
        )  # fmt: skip
    kinds_a, kinds_b = a.number_type, b.number_type
    if kinds_a != kinds_b:
        quantized = kinds_b not in WIDE_FLOATS
        kind = "quantized" if quantized else "cast"
        if quantized:
            out.append(Transformation(kind=kind, grid=kinds_b))
        else:
            out.append(Transformation(kind=kind, **{"from": kinds_a, "to": kinds_b}))
    of_few_bits = {kinds_a, kinds_b} - WIDE_FLOATS
    edits = number_edits(found, stored_otherwise=bool(of_few_bits))
    # What a LayerNorm takes out is one direction, and who takes it out of the matrices changes these by a rank of one.
    centered = a.anatomy.norm != b.anatomy.norm
    return out + [e for e in edits if not (centered and e.kind == "low-rank-update" and e.detail().get("rank") == 1)]
