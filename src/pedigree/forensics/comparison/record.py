"""From findings and judgment to the record that is printed, stored and drawn."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from pedigree.forensics.comparison.bank import error_rate
from pedigree.forensics.comparison.changes import list_changes
from pedigree.forensics.comparison.direction import weigh_direction
from pedigree.forensics.comparison.findings import CLEAR_Z, Findings
from pedigree.forensics.comparison.operating_points import EXACT, operating_points, smallest_of_all
from pedigree.forensics.comparison.tests_made import list_tests, strength
from pedigree.forensics.comparison.verdict import Judgment
from pedigree.forensics.sides.sampling import Depth
from pedigree.forensics.sides.side import Side
from pedigree.records.comparison import (
    Comparison,
    Controls,
    Direction,
    EvidenceMap,
    Gauge,
    InputRecord,
    Inputs,
    LayerMatch,
    Producer,
    ReadRecord,
    Result,
)
from pedigree.weights.anatomy import Anatomy
from pedigree.weights.checkpoint import Checkpoint
from pedigree.weights.packed import unpacked

ALWAYS_UNCHECKED = (
    "distillation and training on another model's outputs leave no trace in weights",
    "training data, and who did what, are not visible in weights",
)


def build_record(a: Side, b: Side, found: Findings, judgment: Judgment, depth: Depth, seconds: float) -> Comparison:
    """The record of one comparison at one depth (options, decoys and depths are added by the caller)."""
    related = judgment.verdict in ("related", "partly-related")
    direction = weigh_direction(a, b, found) if related else None
    layer_map = told_map(found, judgment)
    has_map = any(i is not None for i in layer_map)
    gauge = found.evidence.gauge
    return Comparison(
        producer=producer(),
        inputs=Inputs(a=describe(a.checkpoint, a.anatomy), b=describe(b.checkpoint, b.anatomy)),
        result=Result(
            verdict=judgment.verdict,
            log10_p=log10_p(found, judgment),
            strength=strength(found, judgment),
            direction=Direction(
                verdict=direction.verdict, log_odds=direction.log_odds, reasons=direction.reasons,
                verdict_if_descent=direction.verdict_if_descent, log_odds_if_descent=direction.if_descent,
            ) if direction is not None else Direction(),
            gauge=Gauge(
                kind=gauge.kind if has_map else "none",
                held_out=_held_out(found) if has_map else None,
                fitted_on=[gauge.fitted_on],
                scored_on=_scored_on(found),
                notes=[f"{what}: best z {z:.1f}" for what, z in found.climb.tried] + found.climb.skipped,
            ),
            layer_map=layer_map,
            layer_map_detail=layer_matches(b, found) if has_map else [],
            components=judgment.components,
            transformations=list_changes(a, b, found) if related or judgment.verdict == "identical" else [],
            tests=list_tests(a, b, found),
            controls=Controls(off_diagonal=off_diagonal(found)),
            error_rate=error_rate(),
            operating_points=operating_points(found, judgment),
            read=ReadRecord(
                bytes=a.checkpoint.meter.read + b.checkpoint.meter.read,
                of=a.checkpoint.meter.total + b.checkpoint.meter.total,
                seconds=round(seconds, 3),
            ),
            depth=depth,
            not_checked=[*unseen(a, b, found, depth), *ALWAYS_UNCHECKED],
        ),
        evidence_map=evidence_map(found),
        warnings=[*_oddities(a, b, found), *judgment.reasons_to_doubt],
    )  # fmt: skip


def told_map(found: Findings, judgment: Judgment) -> list[int | None]:
    """The layer map where it is a finding: layers that chance or a frame that somebody chose may have laid side by side
    are none. Where only start or descent is open they are."""
    if judgment.open_origin or judgment.verdict not in ("unrelated", "inconclusive"):
        return found.layer_map
    return [None] * len(found.layer_map)


def _oddities(a: Side, b: Side, found: Findings) -> list[str]:
    """What is odd about the files: those that were not read, and numbers that are none."""
    out = [f"{name}: {note}" for side, name in ((a, "A"), (b, "B")) for note in side.checkpoint.notes]
    bits = found.bits
    for name, parts in (("A", bits.damaged_a), ("B", bits.damaged_b)) if bits is not None else ():
        if parts:
            told = ", ".join(parts[:DAMAGED_NAMES]) + (", ..." if len(parts) > DAMAGED_NAMES else "")
            tensors = "1 tensor holds" if len(parts) == 1 else f"{len(parts)} tensors hold"
            out.append(f"{name}: {tensors} numbers that are not finite, which were read as zero: {told}")
    return out


DAMAGED_NAMES = 3
"""Tensors with numbers that are not finite that are named."""


def log10_p(found: Findings, judgment: Judgment) -> float | None:
    """The p-value behind the verdict: exact where an exact test speaks, else the floor of the bank."""
    if judgment.verdict in ("inconclusive", "not-testable"):
        return None
    if found.contents is not None and found.contents.telling:
        return None  # tensors are equal: no test was made, and the bank holds no such files
    names: tuple[str, ...] = EXACT
    names += tuple(name for name in ("units-in-place", "kept-units") if name in found.exact)
    if found.kept is not None and not found.kept.alone:
        # Not some units agree but all, faintly or by a pattern; what the few say is then no finding.
        names = tuple(name for name in names if name != "kept-units")
    names += tuple(name for name in ("carried-planes", "carried-heads") if found.carried and name in found.exact)
    if judgment.verdict in ("related", "partly-related", "shared-initialization") and "units-read" in found.exact:
        # Asked of agreeing units only: a stranger has none, and its p-value would be no news.
        names += ("units-read", "carried-units")
    # Holm over the exact tests: the smallest p-value pays for all of them.
    exact = smallest_of_all([found.log10_p(name) for name in names])
    if judgment.verdict == "unrelated" or exact < -12:
        return exact
    rate = error_rate()
    return min(exact, -math.log10(1 + rate.pairs)) if rate is not None else exact


def describe(checkpoint: Checkpoint, anatomy: Anatomy) -> InputRecord:
    """One input: digest of headers, digest of what was read, sizes, architecture."""
    return InputRecord(
        location=str(checkpoint.location),
        format=checkpoint.format,
        digest=checkpoint.content_digest(),
        header_digest=checkpoint.header_digest(),
        read_digest=checkpoint.read_digest(),
        bytes=checkpoint.meter.total,
        tensors=len(checkpoint.tensors),
        architecture=anatomy.architecture,
        inferred=anatomy.inferred,
        parameters=anatomy.parameters,
        notes=[*checkpoint.notes, *anatomy.notes],
    )


def _held_out(found: Findings) -> float | None:
    values = [
        float(grid.effect_IJ[i, j])
        for grid in found.evidence.grids.values()
        for j, i in enumerate(found.layer_map)
        if i is not None and np.isfinite(grid.effect_IJ[i, j])
    ]
    return sum(values) / len(values) if values else None


def _scored_on(found: Findings) -> list[str]:
    words = {"ffn": "up and down projections of matched units", "vo": "output columns", "qk": "query rows"}
    return [words[kind] for kind in found.evidence.grids]


def layer_matches(b: Side, found: Findings) -> list[LayerMatch]:
    """Where the feed-forward part and the attention of each layer of B come from, and how well they agree; without a
    score where too few of its units were read for finding none of A's to mean anything."""
    ffn_path, attn_path = found.evidence.path(("ffn",)), found.evidence.path(("vo", "qk"))
    kind = "vo" if "vo" in found.evidence.grids else "qk"
    rows = []
    for j in range(b.n_layers):
        i = found.layer_map[j]
        ffn = found.hit("ffn", j)
        attn = found.hit("vo", j) or found.hit("qk", j)
        rows.append(
            LayerMatch(
                layer=j,
                ffn=ffn_path[j] if j < len(ffn_path) and ffn else None,
                attn=attn_path[j] if j < len(attn_path) and attn else None,
                ffn_score=_effect(found, "ffn", i, j) if ffn or _sees(found, "ffn", j) else None,
                attn_score=_effect(found, kind, i, j) if attn or _sees(found, kind, j) else None,
            )
        )
    return rows


def _sees(found: Findings, kind: str, j: int) -> bool:
    """Whether enough was read of a layer that finding nothing means something; else its score stays open."""
    grid = found.evidence.grids.get(kind)  # type: ignore[call-overload]
    return grid is not None and bool(grid.sees(j))


def _effect(found: Findings, kind: str, i: int | None, j: int) -> float | None:
    grid = found.evidence.grids.get(kind)  # type: ignore[call-overload]
    if grid is None or i is None or not np.isfinite(grid.effect_IJ[i, j]):
        return None
    return float(grid.effect_IJ[i, j])


def off_diagonal(found: Findings) -> dict[str, object]:
    """Standard scores of layer pairs that do not belong together, the comparison's own null, and the least of those
    that do.

    Layers of one trained model share directions (a few coordinates of the stream that are loud everywhere), so in a
    relative of real size pairs off the map may stand at 20 and more; they are read beside those on it.
    """
    grid = found.evidence.grids.get("ffn") or next(iter(found.evidence.grids.values()), None)
    if grid is None:
        return {}
    mask = np.isfinite(grid.z_IJ)
    matched = [float(grid.z_IJ[i, j]) for j, i in enumerate(found.layer_map) if i is not None and mask[i, j]]
    for j, i in enumerate(found.layer_map):
        if i is not None:
            mask[[i, *found.mixed.get(j, [])], j] = False
    for i, layers in found.mixed_back.items():
        mask[i, layers] = False
    values = grid.z_IJ[mask]
    if values.size == 0:
        return {"n": 0}
    return {
        "n": int(values.size),
        "mean": float(values.mean()),
        "sd": float(values.std()),
        "max": float(values.max()),
        "p99": float(np.quantile(values, 0.99)),
        **({"matched_min": min(matched)} if matched else {}),
    }


def evidence_map(found: Findings) -> EvidenceMap | None:
    """Largest standard score of any kind of unit for every layer pair."""
    grids = list(found.evidence.grids.values())
    if not grids:
        return None
    stacked = np.stack([np.where(np.isfinite(g.z_IJ), g.z_IJ, -np.inf) for g in grids]).max(axis=0)
    rows = [[None if not np.isfinite(z) else float(z) for z in row] for row in stacked]
    return EvidenceMap(
        rows=list(range(stacked.shape[0])),
        columns=list(range(stacked.shape[1])),
        z=rows,
        unit="standard score of held-out agreement, largest kind of unit",
    )


def unseen(a: Side, b: Side, found: Findings, depth: Depth) -> list[str]:
    """What this comparison could not have seen, in words."""
    out = []
    if depth == "glance":
        out.append("glance reads a few rows in place: reordered, rotated or re-tokenized relatives are not seen")
    if a.sample.max_units is not None and depth != "glance":
        out.append(f"{a.sample.max_units} units of each layer were read; whole matrices only at full depth")
    most = max((side.anatomy.experts(layer) for side in (a, b) for layer in range(side.n_layers)), default=0)
    if (read := len(a.sample.experts(most))) < most:
        out.append(f"{read} of {most} experts of a layer were read")
    if a.sample.attention_layers is not None:
        out.append(f"attention was read in {a.sample.attention_layers} layers")
    if found.bits is not None and not found.bits.whole:
        out.append("equality of numbers was looked at on some rows of each tensor")
    if found.filled:
        count = len(found.filled)
        layers = "1 layer of the map was" if count == 1 else f"{count} layers of the map were"
        out.append(f"{layers} filled in by order: too few units of {'it' if count == 1 else 'them'} were read")
    out += [f"not tried: {words}" for words in found.climb.skipped]
    if found.carried:
        out.append(
            "whether vocabulary rows bear their own names: the frame rests on them, and whoever renames rows chooses "
            "it; a model whose rows were renamed writes no text with its own tokenizer"
        )
    if _names_lead_nowhere(found):
        out.append(
            "rows of shared tokens have nothing in common: if one tokenizer was renamed (a cipher), only frames from "
            "rows of one number and from weights led from one model to the other"
        )
    if found.evidence.grids and not found.blank and not any(i is not None for i in found.layer_map):
        where = "of every layer" if a.sample.max_units is None else "of the layers that were read whole"
        out.append(f"an overlap below {_share(detection_limit(found))} of the units {where} would not be seen")
    kept = found.kept
    if kept is not None and kept.searched < kept.layer_pairs:
        out.append(f"single units were looked for in {kept.searched} of {kept.layer_pairs} pairs of layers")
    for side, name in ((a, "A"), (b, "B")):
        if side.vocabulary is None:
            out.append(f"{name} has no readable tokenizer: vocabulary rows were paired by number")
        if side.anatomy.unmapped:
            out.append(_left_out(side, name))
    if found.beside:
        out.append(_shared_beside(b, found.beside))
    return out


def _left_out(side: Side, name: str) -> str:
    """How many tensors of a side have no role, and how much of its numbers they hold, the largest ones by name."""
    tensors = unpacked(side.checkpoint).tensors
    sizes = {tensor: math.prod(tensors[tensor].shape) for tensor in side.anatomy.unmapped}
    share = _share(sum(sizes.values()) / max(1, side.anatomy.parameters))
    about = f"{len(sizes)} tensors of {name} ({share} of its numbers)"
    return f"{about} have no known role and were left out: {_largest(sizes)}"


def _shared_beside(b: Side, names: Sequence[str]) -> str:
    """Tensors of B without a role that A holds, too: no verdict is given on them, and nobody should miss them."""
    sizes = {tensor: math.prod(b.checkpoint.tensors[tensor].shape) for tensor in names}
    return f"{len(sizes)} of those of B are equal, number for number, to such of A: {_largest(sizes)}"


def _largest(sizes: Mapping[str, int]) -> str:
    kinds: Counter[str] = Counter()
    for tensor, size in sizes.items():
        kinds[".".join("*" if word.isdigit() else word for word in tensor.split("."))] += size
    more = ", ..." if len(kinds) > LEFT_OUT_NAMES else ""
    return ", ".join(kind for kind, _ in kinds.most_common(LEFT_OUT_NAMES)) + more


LEFT_OUT_NAMES = 2
"""Kinds of tensors without a role that are named."""

STRANGE_ROWS, FEW_TOKENS = 0.05, 64
"""Agreement of held-out vocabulary rows below which their names lead to no common frame; tokens that it takes."""


def _names_lead_nowhere(found: Findings) -> bool:
    if any(i is not None for i in found.layer_map) or found.tokens.by == "row number":
        return False
    seen = [found.tables[role] for role in ("embed", "head") if role in found.tables]
    return found.tokens.count >= FEW_TOKENS and bool(seen) and max(seen) < STRANGE_ROWS


def detection_limit(found: Findings) -> float:
    """Smallest share of surviving units that the comparison would have called: a match has to reach both the effect and
    the standard score that count, and the spread of this very comparison says what effect that score takes."""
    limit = found.clear_effect
    grid = found.evidence.grids.get("ffn") or next(iter(found.evidence.grids.values()), None)
    if grid is not None:
        seen = np.isfinite(grid.z_IJ) & (np.abs(grid.z_IJ) > 0.1)
        if seen.any():
            limit = max(limit, CLEAR_Z * float(np.median(np.abs(grid.effect_IJ[seen] / grid.z_IJ[seen]))))
    kept = found.kept
    return min(1.0, limit, kept.least_share if kept is not None else 1.0)


def _share(value: float) -> str:
    """A share in percent, with a digit more where it is small."""
    return f"{value:.0%}" if value >= 0.05 else f"{value:.1%}"


def producer() -> Producer:
    """This program and its version."""
    try:
        return Producer(version=version("llm-pedigree"))
    except PackageNotFoundError:
        return Producer(version="0+unknown")
