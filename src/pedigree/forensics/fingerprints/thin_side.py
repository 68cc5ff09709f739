"""Thin models as sides of a comparison, cut to the positions that both hold.

A thin model is read like a checkpoint of its few numbers: gains that its matrices carry are taken out of them again and
stand as gains, so that everything that asks for gains, or for matrices as they were stored, finds them. Where one of
two fingerprints is of version 1, which holds none, both are read without.

Shapes: U = units or dimensions, C = coordinates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from pedigree.forensics.fingerprints.fingerprint import Fingerprint
from pedigree.forensics.fingerprints.held_norms import FINAL, Norms, Place
from pedigree.forensics.fingerprints.thin_model import ThinModel
from pedigree.forensics.fingerprints.token_frame import FRAME_TOKENS, NAMED_TOKENS
from pedigree.forensics.frames.borne_names import products_agree
from pedigree.forensics.sides.linear import without_damage
from pedigree.forensics.sides.sampling import Sample
from pedigree.forensics.sides.side import Side
from pedigree.tokenizers.vocabulary import Vocabulary
from pedigree.weights.anatomy import Anatomy, Part, Piece
from pedigree.weights.checkpoint import Checkpoint
from pedigree.weights.memory_source import MemorySource
from pedigree.weights.meter import ByteMeter
from pedigree.weights.roles import axes_of
from pedigree.weights.safetensors_files import open_safetensors
from pedigree.weights.weight_files import Choice

IN_PLACE = Sample(None, None, True, False, 1 << 30, ladder=False)
"""Everything that a thin model holds, in the frame it stands in."""

FEWEST = 32
"""Fewer common coordinates than this cannot tell anything."""

FEWEST_UNITS = 16
"""Fewer common units are left out."""

IN_TOKEN_FRAME = replace(IN_PLACE, column_layers=0, by_tokens=True)
"""The same of rows in the frame of tokens."""

FRAME_ROLES = {"gate": "mlp.gate", "up": "mlp.up", "k": "attn.k", "q": "attn.q"}

ROLES = {
    "gate_proj": "mlp.gate", "up_proj": "mlp.up", "down_proj": "mlp.down",
    "q_proj": "attn.q", "k_proj": "attn.k", "v_proj": "attn.v", "o_proj": "attn.o",
}  # fmt: skip
TABLES = {"model.embed_tokens.weight": "embed", "lm_head.weight": "head"}

NO_NORMS = Norms("rms", "pre", "sequential", {})
"""What is taken for the norms where they are not known: matrices are compared as they are held."""


def sides(left: Fingerprint, right: Fingerprint) -> tuple[Side, Side, list[str]]:
    """Both thin models cut to the positions that both hold, ready to be measured, and what that left out."""
    a, b = left.model, right.model
    coordinates = _common(a.coordinates, b.coordinates)
    units, dims = _common(a.units, b.units), _common(a.dims, b.dims)
    dropped = []
    if len(coordinates) < FEWEST:
        coordinates = []
        dropped.append("everything: the two hold too few common coordinates")
    elif a.width != b.width:
        dropped.append(f"coordinates that only one holds: {len(coordinates)} are common")
    if len(units) < FEWEST_UNITS:
        units = []
        dropped.append("feed-forward units: the two hold too few common ones")
    if not dims:
        dropped.append("attention: heads differ in shape" if a.dims and b.dims else "attention: one holds none")
    known = a.norms is not None and b.norms is not None
    heads = max(1, len({head for head, _ in dims}))
    found = [_side(one, *_cut(one.model, coordinates, units, dims, known), len(dims), heads) for one in (left, right)]
    return found[0], found[1], dropped


def turned_sides(left: Fingerprint, right: Fingerprint) -> tuple[Side, Side] | None:
    """Rows of both in the frame of the tokens that both hold, ready to be measured; None where there are too few.

    The coordinates are the loud half of each token, then its quiet one. Gains are folded into the rows, as they have to
    be in a frame that nobody knows.
    """
    a, b = left.model, right.model
    tokens = _common(a.tokens[:FRAME_TOKENS], b.tokens[:FRAME_TOKENS])
    units, keys = _common(a.units, b.units), _common(a.keys, b.keys) if a.heads[1] == b.heads[1] else []
    units = units if len(units) >= FEWEST_UNITS else []
    if len(tokens) < FEWEST or not (a.turns and b.turns):
        return None
    found = [_rows_of_tokens(model, tokens, units, keys) for model in (a, b)]
    if not all(found):
        return None
    heads = max(1, len({head for head, _ in keys}))
    left_side, right_side = (
        _side(one, rows, NO_NORMS, len(keys), heads, IN_TOKEN_FRAME)
        for one, rows in zip((left, right), found, strict=True)
    )
    return left_side, right_side


def naming_of(left: ThinModel, right: ThinModel) -> float:
    """How far output rows of tokens that both hold stand to each other alike, name by name (`borne_names.py`)."""
    tokens = _common(left.tokens[:NAMED_TOKENS], right.tokens[:NAMED_TOKENS])
    products = []
    for model in (left, right):
        at_T = _places(model.tokens[:NAMED_TOKENS], tokens)
        products.append(without_damage(model.tensors["token_frame.names"])[at_T][:, at_T].double())
    return products_agree(*products)


def _rows_of_tokens(model: ThinModel, tokens: list[bytes], units: list[Any], keys: list[Any]) -> dict[Key, Tensor]:
    """Rows by role and layer at some tokens, [U, 2 M]. Units hold no rows that write: zeros stand for them, unread."""
    at_M = _places(model.tokens[:FRAME_TOKENS], tokens)
    columns = torch.cat([at_M, at_M + FRAME_TOKENS])
    places = {"mlp": _places(model.units, units), "attn": _places(model.keys, keys)}
    out: dict[Key, Tensor] = {}
    for kind, role in FRAME_ROLES.items():
        tensor, rows = model.tensors.get(f"token_frame.{kind}"), places[role.split(".")[0]]
        for layer, rows_UN in enumerate(tensor if tensor is not None and len(rows) else ()):
            if bool(rows_UN.any()):
                out[role, layer, None] = rows_UN[rows][:, columns].float().contiguous()
    for key in [key for key in out if key[0] == "mlp.up"]:
        out["mlp.down", key[1], None] = torch.zeros_like(out[key]).T.contiguous()
    return out


def _common(first: list[Any], second: list[Any]) -> list[Any]:
    there = set(second)
    return [item for item in first if item in there]


Key = tuple[str, int | None, int | None]


def _cut(
    model: ThinModel, coordinates: list[int], units: list[Any], dims: list[Any], known: bool
) -> tuple[dict[Key, Tensor], Norms]:
    """Matrices [out, in] by role and layer, without the gains that they carry, and the norms with these."""
    if not coordinates:
        return {}, NO_NORMS
    columns, norms = _places(model.coordinates, coordinates), model.norms if known and model.norms else NO_NORMS
    norms = replace(norms, gains={place: gain_C[columns] for place, gain_C in norms.gains.items()})
    unit_rows, dim_rows = _places(model.units, units), _places(model.dims, dims)
    out: dict[Key, Tensor] = {}
    for name, tensor in model.tensors.items():
        if name == "forms" or name.startswith("token_frame."):
            continue
        role, layer = _place_of(name)
        rows_UC = tensor.T if _writes(role) else tensor
        if layer is not None:
            rows = unit_rows if role.startswith("mlp.") else dim_rows
            if not len(rows):
                continue
            rows_UC = rows_UC[rows]
        rows_UC = _without_gain(rows_UC[:, columns].float(), role, layer, norms)
        out[role, layer, None] = (rows_UC.T if _writes(role) else rows_UC).contiguous()
    out |= {(role, layer, None): gain_C for (role, layer), gain_C in norms.gains.items()}
    return out, norms


def _place_of(name: str) -> Place:
    """Role and layer of a tensor of a thin model."""
    if name in TABLES:
        return TABLES[name], None
    words = name.split(".")
    return ROLES[words[4]], int(words[2])


def _writes(role: str) -> bool:
    return role in ("mlp.down", "attn.o")


def _without_gain(rows_UC: Tensor, role: str, layer: int | None, norms: Norms) -> Tensor:
    """Rows without the gain that they carry; what carries a gain of zero is zero."""
    branch = role.split(".")[0]
    if role == "embed":
        return rows_UC
    gain_C = norms.behind(f"norm.{branch}.post", layer) if _writes(role) else norms.in_front(
        FINAL if role == "head" else f"norm.{branch}", layer
    )  # fmt: skip
    return rows_UC if gain_C is None else without_damage(rows_UC / gain_C)


def _places(held: list[Any], wanted: list[Any]) -> Tensor:
    at = {item: k for k, item in enumerate(held)}
    return torch.tensor([at[item] for item in wanted], dtype=torch.long)


def _side(
    fingerprint: Fingerprint, tensors: Mapping[Key, Tensor], norms: Norms, n_dims: int, heads: int,
    sample: Sample = IN_PLACE,
) -> Side:  # fmt: skip
    """A thin model opened as a checkpoint of its own."""
    from safetensors.torch import save

    model, name, meter = fingerprint.model, "thin.safetensors", ByteMeter()
    named = {".".join(str(word) for word in key if word is not None): tensor for key, tensor in tensors.items()}
    source = MemorySource(fingerprint.location, {name: save(named)}, meter)
    checkpoint = Checkpoint(
        fingerprint.location, source, meter, open_safetensors(source, Choice("safetensors", (name,))), None
    )
    parts = {key: _part(key, shown, tensors[key], checkpoint) for key, shown in zip(tensors, named, strict=True)}
    vocabulary = None
    if model.tokens and not sample.by_tokens:
        tokens = {token: row for row, token in enumerate(model.tokens)}
        vocabulary = Vocabulary(MappingProxyType(tokens), len(tokens), "plain", MappingProxyType({}), "fingerprint")
    sample = replace(sample, layer_units=sum(total for _, total in model.inner))
    return Side(checkpoint, sample, _anatomy(parts, norms, heads, n_dims), vocabulary)


def _part(key: Key, name: str, tensor: Tensor, checkpoint: Checkpoint) -> Part:
    shape = tuple(tensor.shape)
    piece = Piece(name, shape, 0, shape[0], vector=len(shape) == 1)
    return Part(*key, shape, axes_of(key[0]), "F32", (piece,), checkpoint)


def _anatomy(parts: Mapping[Key, Part], norms: Norms, heads: int, n_dims: int) -> Anatomy:
    layers = [layer for role, layer, _ in parts if layer is not None and not role.startswith("norm.")]
    embed = parts.get(("embed", None, None))
    width = next((part.shape[0 if _writes(part.role) else -1] for part in parts.values()), 0)
    ordered = sorted(parts.items(), key=lambda item: (-1 if item[0][1] is None else item[0][1], item[0][0]))
    return Anatomy(
        architecture="thin", inferred=False, notes=(), n_layers=max(layers, default=-1) + 1, d_model=width,
        n_heads=heads, n_kv_heads=heads, head_dim=n_dims // heads or None,
        vocab_size=embed.shape[0] if embed is not None else 0, norm=norms.kind, gain_offset=0.0,
        norm_placement=norms.placement, rope="half", residual=norms.residual, activation="unknown",
        mlp="glu" if any(role == "mlp.gate" for role, _, _ in parts) else "plain", embedding_scale="one",
        tied=embed is not None and ("head", None, None) not in parts, unmapped=(), constants=(),
        by_key=dict(ordered), expert_counts={},
    )  # fmt: skip
