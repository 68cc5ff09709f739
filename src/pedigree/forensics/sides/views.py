"""Units of a layer, as directions in the residual stream.

A feed-forward unit reads the stream through its gate and up rows and writes to it through its down column; a
value/output dimension reads through a row of V and writes through columns of O; a query/key dimension reads twice.
Seen this way, every matrix of a transformer block is a table of vectors in one residual frame, and two models can be
compared unit by unit once their frames are aligned.

Canonical form (forensics study, sections 1 and 9.1): the gain of the norm in front is folded into readers, the gain of
a norm behind the branch into writers; for LayerNorm the direction that the norm removes is projected out.

Shapes: U = units, D = residual width, F = inner width, K = key/value heads, Q = query heads, C = head dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from pedigree.forensics.sides.latent_attention import KEYS_AND_QUERIES, read_latent_attention
from pedigree.forensics.sides.linear import without_damage
from pedigree.forensics.sides.sampling import UNITS_OF_EXPERT, Sample
from pedigree.weights.anatomy import Anatomy, Part

UnitKind = Literal["ffn", "vo", "qk"]

SHARED_EXPERT = -1
"""Label of units that belong to a shared (always active) expert."""


BAND_ROWS = 512
"""Rows read at once where only some columns are wanted."""


@dataclass(frozen=True)
class UnitSet:
    """Units of one kind in one layer.

    Attributes:
        kind: "ffn", "vo" (value/output dimensions) or "qk" (query/key dimensions).
        views_UD: one table per projection, rows are units, in the residual frame; the first is the one matches are
            made on, the others are held out to confirm.
        index_U: position of each unit inside its expert or layer.
        label_U: expert (ffn) or key/value head (vo, qk) each unit belongs to.
        total: how many units of this kind the layer has; more than `index_U` when sampled.
        raw: per projection, whether rows carry a bias column (informative only).
    """

    kind: UnitKind
    views_UD: dict[str, Tensor]
    index_U: Tensor
    label_U: Tensor
    total: int

    @property
    def count(self) -> int:
        """Number of units present."""
        return int(self.index_U.shape[0])

    @property
    def names(self) -> tuple[str, ...]:
        """Projection names, the matching one first."""
        return tuple(self.views_UD)

    @property
    def width(self) -> int:
        """Width of the residual stream."""
        return int(next(iter(self.views_UD.values())).shape[1])

    def rows(self, name: str, pick_U: Tensor | None = None) -> Tensor:
        """Rows of a projection in float32: all of them, or those at the given places, [U, D]."""
        rows_UD = self.views_UD[name]
        return (rows_UD if pick_U is None else rows_UD[pick_U]).float()

    def read_by(self, reader: str) -> UnitSet:
        """Gated units as plain ones, whose way up is one of the two projections that read the stream.

        Args:
            reader: "gate" or "up".
        """
        kept = {"up": self.views_UD[reader], **{n: w for n, w in self.views_UD.items() if n not in ("gate", "up")}}
        return replace(self, views_UD=kept)


@dataclass(frozen=True)
class LayerView:
    """All units of one layer, by kind; kinds that the layer lacks are absent."""

    layer: int
    units: dict[UnitKind, UnitSet] = field(default_factory=dict)


def read_layer(anatomy: Anatomy, layer: int, sample: Sample) -> LayerView:
    """Read and canonicalize the units of one layer.

    Args:
        anatomy: canonical view of the checkpoint.
        layer: layer number.
        sample: which units to read.

    Returns:
        Units in the residual frame, float32 (or bfloat16 when the sample asks for compact storage).
    """
    kinds: tuple[UnitKind, ...] = ("ffn", "vo", "qk") if sample.attends(layer, anatomy.n_layers) else ("ffn",)
    found = {kind: read_units(anatomy, layer, kind, sample) for kind in kinds}
    return LayerView(layer, {kind: units for kind, units in found.items() if units is not None})


def read_units(anatomy: Anatomy, layer: int, kind: UnitKind, sample: Sample) -> UnitSet | None:
    """Units of one kind of one layer; None where the layer has none, or the sample leaves them out."""
    reader = {"ffn": _read_ffn, "vo": _read_vo, "qk": _read_qk}[kind]
    return reader(anatomy, layer, sample)


def fold_reader(anatomy: Anatomy, w_UD: Tensor, norm: str, layer: int | None) -> Tensor:
    """Fold the gain of the norm in front into rows that read the stream; drop what a LayerNorm removes.

    Branches that run beside each other may have one norm in front of both.
    """
    return _folded(anatomy, w_UD, _gain_in_front(anatomy, norm, layer))


def _gain_in_front(anatomy: Anatomy, norm: str, layer: int | None) -> Tensor | None:
    if norm == "norm.mlp" and anatomy.residual == "parallel" and anatomy.part(norm, layer) is None:
        norm = "norm.attn"
    return read_gain(anatomy, norm, layer) if anatomy.norm_placement != "post" else None


def _folded(anatomy: Anatomy, w_UD: Tensor, gain_D: Tensor | None) -> Tensor:
    if gain_D is not None and gain_D.shape[0] == w_UD.shape[1]:
        w_UD = w_UD * gain_D
    if anatomy.norm == "layer" and anatomy.norm_placement == "pre":
        w_UD = w_UD - w_UD.mean(dim=1, keepdim=True)
    return w_UD


def _read_readers(
    anatomy: Anatomy, layer: int, part: Part, rows: list[int] | None, norm: str, sample: Sample
) -> Tensor:
    """Rows that read the stream, canonical, as they are kept; of many that are kept rounded some at a time, so that
    they are never all held in single precision."""
    total = part.shape[0] if rows is None else len(rows)
    if not sample.compact or total <= BAND_ROWS or not part.row_contiguous:
        return finish(fold_reader(anatomy, part.read(rows=rows), norm, layer), sample)
    gain_D, every = _gain_in_front(anatomy, norm, layer), list(range(total)) if rows is None else rows
    bands = (every[begin : begin + BAND_ROWS] for begin in range(0, total, BAND_ROWS))
    return torch.cat([finish(_folded(anatomy, part.read(rows=band), gain_D), sample) for band in bands])


def fold_writer(anatomy: Anatomy, w_UD: Tensor, norm: str, layer: int | None) -> Tensor:
    """Fold the gain of a norm behind the branch into rows that write the stream; center them for LayerNorm."""
    gain_D = read_gain(anatomy, norm, layer) if anatomy.norm_placement not in ("pre", "post") else None
    if gain_D is not None and gain_D.shape[0] == w_UD.shape[1]:
        w_UD = w_UD * gain_D
    if anatomy.norm == "layer" and anatomy.norm_placement == "pre":
        w_UD = w_UD - w_UD.mean(dim=1, keepdim=True)
    return w_UD


def read_gain(anatomy: Anatomy, norm: str, layer: int | None) -> Tensor | None:
    """Gain vector of a norm with its offset added (Gemma stores 1 + w), or None where the model has none."""
    part = anatomy.part(norm, layer)
    if part is None:
        return None
    return part.read().flatten() + anatomy.gain_offset


def finish(w_UD: Tensor, sample: Sample) -> Tensor:
    """Canonical rows as they are kept: damaged numbers zero, bfloat16 where the sample asks for it."""
    w_UD = without_damage(w_UD)
    return w_UD.to(torch.bfloat16) if sample.compact else w_UD.contiguous()


def _read_ffn(anatomy: Anatomy, layer: int, sample: Sample) -> UnitSet | None:
    groups = ffn_groups(anatomy, layer)
    if not groups:
        return None
    total = sum(g["up"].shape[0] for _, g in groups)
    chosen = sample.experts(len(groups))
    per_group = max(sample.units(total) // len(groups), UNITS_OF_EXPERT)
    names = ["gate", "up"] if "gate" in groups[0][1] else ["up"]
    if sample.columns(layer, anatomy.n_layers):
        names.append("down")
    stacks: dict[str, list[Tensor]] = {name: [] for name in names}
    index, label = [], []
    for expert, group in (groups[place] for place in chosen):
        rows = sample.rows(group["up"].shape[0], per_group)
        for name in names:
            stacks[name].append(read_ffn_view(anatomy, layer, group[name], name, rows, sample))
        index.append(rows)
        label.append(torch.full_like(rows, expert))
    views = {name: parts[0] if len(parts) == 1 else torch.cat(parts) for name, parts in stacks.items()}
    return UnitSet("ffn", views, torch.cat(index), torch.cat(label), total)


def is_gated(anatomy: Anatomy) -> bool | None:
    """Whether feed-forward units have a gate; None where there are none, or of both kinds."""
    found = {"gate" in group for j in range(anatomy.n_layers) for _, group in ffn_groups(anatomy, j)}
    return found.pop() if len(found) == 1 else None


def ffn_groups(anatomy: Anatomy, layer: int) -> list[tuple[int, dict[str, Part]]]:
    """Parts of each expert of the layer: (label, {"gate", "up", "down"}); dense layers are one group labeled 0."""
    found: list[tuple[int, dict[str, Part]]] = []
    prefixes: list[tuple[int, str, int | None]] = [(0, "mlp.", None)]
    prefixes += [(e, "moe.expert.", e) for e in range(anatomy.experts(layer))]
    prefixes += [(SHARED_EXPERT, "moe.shared.", None)]
    for label, prefix, expert in prefixes:
        group = {}
        for name in ("gate", "up", "down"):
            part = anatomy.part(prefix + name, layer, expert)
            if part is not None:
                group[name] = part
        if _fits(group, anatomy.d_model):
            found.append((label, group))
    # A layer mixes gated and plain units only in exotic designs; keep the majority form so that views stack.
    gated = sum("gate" in g for _, g in found)
    keep_gate = gated * 2 >= len(found)
    return [(label, g) for label, g in found if ("gate" in g) == keep_gate] if found else []


def read_ffn_rows(anatomy: Anatomy, layer: int, names: Sequence[str], index_K: Tensor, label_K: Tensor) -> list[Tensor]:
    """Given units of a layer in canonical form, one table [K, D] for each projection that reads the stream.

    Args:
        anatomy: canonical view of the checkpoint.
        layer: layer number.
        names: "gate" or "up".
        index_K, label_K: position and expert of each unit, as a `UnitSet` gives them.
    """
    groups = dict(ffn_groups(anatomy, layer))
    tables = [torch.zeros(len(index_K), anatomy.d_model or 0) for _ in names]
    for label in sorted({int(v) for v in label_K}):
        of_expert_K = torch.nonzero(label_K == label).flatten()
        order_K = of_expert_K[index_K[of_expert_K].argsort()]
        for table_KD, name in zip(tables, names, strict=True):
            rows_KD = groups[label][name].read(rows=[int(u) for u in index_K[order_K]])
            table_KD[order_K] = without_damage(fold_reader(anatomy, rows_KD, "norm.mlp", layer))
    return tables


def _fits(group: dict[str, Part], width: int) -> bool:
    """Whether the parts are projections of the same units; a block of another kind may only be named like one."""
    if "up" not in group or "down" not in group or group["up"].shape[0] != group["down"].shape[1]:
        return False
    if not _meet_stream([(group["up"], 1), (group["down"], 0)], width):
        return False
    return "gate" not in group or tuple(group["gate"].shape) == tuple(group["up"].shape)


def _meet_stream(sides: Sequence[tuple[Part | None, int]], width: int) -> bool:
    """Whether each matrix that is there has the residual stream on the axis where it should.

    A layer of another width, or a damaged one, has no place in a frame of the others. Unknown widths (0) pass.
    """
    return all(part is None or not width or part.shape[axis] == width for part, axis in sides)


def read_ffn_view(anatomy: Anatomy, layer: int, part: Part, name: str, rows_U: Tensor, sample: Sample) -> Tensor:
    """Units at the given places of one projection of an expert or dense layer, canonical, [U, D]."""
    if name == "down":
        w_UD = _read_columns(part, _as_index(rows_U, part.shape[1]))
        return finish(fold_writer(anatomy, w_UD, "norm.mlp.post", layer), sample)
    return _read_readers(anatomy, layer, part, _as_index(rows_U, part.shape[0]), "norm.mlp", sample)


def _read_columns(part: Part, cols: list[int] | None) -> Tensor:
    """Columns of a matrix as rows, read in bands so that the whole matrix is never held in float32."""
    if cols is None:
        return part.read().T
    total = part.shape[0]
    bands = [part.read(rows=slice(r, min(r + BAND_ROWS, total)), cols=cols) for r in range(0, total, BAND_ROWS)]
    return torch.cat(bands).T


def _as_index(rows_U: Tensor, total: int) -> list[int] | None:
    return None if rows_U.shape[0] == total else [int(r) for r in rows_U]


@dataclass(frozen=True)
class _Heads:
    """Which key/value heads are read: rows of keys and values, rows of queries (columns of the output)."""

    kv_rows: list[int] | None
    query_rows: list[int] | None
    index_U: Tensor
    label_U: Tensor
    repeat: int
    total: int


def _choose_heads(
    anatomy: Anatomy, n_units: int, n_query_units: int, n_heads: int | None, sample: Sample
) -> _Heads | None:
    """Rows of the heads a sample takes; query heads of a group go with their key/value head."""
    if n_query_units % n_units:
        return None
    repeat = n_query_units // n_units
    heads = n_heads if n_heads and n_units % n_heads == 0 else 1
    head_dim = n_units // heads
    chosen = sample.heads(heads, head_dim)
    whole = len(chosen) == heads
    kv = [h * head_dim + c for h in chosen for c in range(head_dim)]
    queries = [(h * repeat + g) * head_dim + c for h in chosen for g in range(repeat) for c in range(head_dim)]
    index_U = torch.tensor(kv, dtype=torch.long)
    return _Heads(None if whole else kv, None if whole else queries, index_U, index_U // head_dim, repeat, n_units)


def _read_vo(anatomy: Anatomy, layer: int, sample: Sample) -> UnitSet | None:
    output = anatomy.part("attn.o", layer)
    if output is None or not sample.columns(layer, anatomy.n_layers):
        return None
    values = _values(anatomy, layer, sample)
    if values is None or not _meet_stream([(output, 0)], anatomy.d_model):
        return None
    n_units, n_heads, read = values
    heads = _choose_heads(anatomy, n_units, output.shape[1], n_heads, sample)
    if heads is None:
        return None
    o_QD = fold_writer(anatomy, _read_columns(output, heads.query_rows), "norm.attn.post", layer)
    return _head_units("vo", {"v": read(heads), "o": finish(_sum_groups(o_QD, heads), sample)}, heads)


def _values(anatomy: Anatomy, layer: int, sample: Sample) -> tuple[int, int | None, Callable[[_Heads], Tensor]] | None:
    """Value dimensions and value heads of a layer, and what reads those of chosen heads; None where it has none."""
    keep, part = partial(_kept_reader, anatomy, layer, sample), anatomy.part("attn.v", layer)
    if part is not None:
        fits = part.shape[0] > 0 and _meet_stream([(part, 1)], anatomy.d_model)
        return (part.shape[0], anatomy.n_kv_heads, lambda of: keep(part.read(rows=of.kv_rows))) if fits else None
    latent = read_latent_attention(anatomy, layer)
    if latent is None:
        return None
    return latent.heads * latent.value, latent.heads, lambda of: latent.rows("value", of.index_U, keep)


def _read_qk(anatomy: Anatomy, layer: int, sample: Sample) -> UnitSet | None:
    key, query = anatomy.part("attn.k", layer), anatomy.part("attn.q", layer)
    if not _meet_stream([(key, 1), (query, 1)], anatomy.d_model):
        return None
    keep = partial(_kept_reader, anatomy, layer, sample)
    if key is not None and query is not None:
        heads = _choose_heads(anatomy, key.shape[0], query.shape[0], anatomy.n_kv_heads, sample)
        if heads is None:
            return None
        k_UD = _read_readers(anatomy, layer, key, heads.kv_rows, "norm.attn", sample)
        if heads.repeat == 1:
            q_UD = _read_readers(anatomy, layer, query, heads.query_rows, "norm.attn", sample)
        else:
            q_QD = fold_reader(anatomy, query.read(rows=heads.query_rows), "norm.attn", layer)
            q_UD = finish(_sum_groups(q_QD, heads), sample)
        return _head_units("qk", {"k": k_UD, "q": q_UD}, heads)
    latent = read_latent_attention(anatomy, layer)
    if latent is None or "query" not in latent.stacks:
        return None
    n_units = latent.heads * latent.nope
    heads = _choose_heads(anatomy, n_units, n_units, anatomy.n_heads, sample)
    if heads is None:
        return None
    k_UD, q_UD = (latent.rows(which, heads.index_U, keep) for which in KEYS_AND_QUERIES)
    return _head_units("qk", {"k": k_UD, "q": q_UD}, heads)


def _kept_reader(anatomy: Anatomy, layer: int, sample: Sample, w_UD: Tensor) -> Tensor:
    """Rows of attention that read the stream, as they are kept."""
    return finish(fold_reader(anatomy, w_UD, "norm.attn", layer), sample)


def _head_units(kind: UnitKind, views: dict[str, Tensor], heads: _Heads) -> UnitSet:
    return UnitSet(kind, views, heads.index_U, heads.label_U, heads.total)


def _sum_groups(w_QD: Tensor, heads: _Heads) -> Tensor:
    """Add up the query heads of each key/value group: one row per key/value dimension.

    The sum does not depend on the order of query heads inside a group, which is free.
    """
    if heads.repeat == 1:
        return w_QD
    n_units = heads.index_U.shape[0]
    n_heads = int(torch.unique(heads.label_U).numel())
    return w_QD.reshape(n_heads, heads.repeat, n_units // n_heads, -1).sum(dim=1).reshape(n_units, -1)
