"""A thin model: some units, heads and vocabulary rows of a model at some residual coordinates, in canonical form.

It is what a fingerprint holds. Gains are folded, rotary rows are half-split, query heads of a group are summed, latent
attention is multiplied out, so that it reads like a small plain Llama whatever the model was; its units and coordinates
stand for fixed positions of the model (`positions`), so everything that compares units in place works on it.

Shapes: D = residual width, C = coordinates kept, U = units, T = tokens, L = layers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pedigree.errors import InternalError
from pedigree.forensics.fingerprints.held_norms import Norms
from pedigree.forensics.fingerprints.positions import choose, choose_tokens
from pedigree.forensics.fingerprints.token_frame import NAMED_TOKENS, TokenRows, key_dimensions, token_frame
from pedigree.forensics.frames.borne_names import kinds_of, products_beside_kinds
from pedigree.forensics.sides.anchors import read_table
from pedigree.forensics.sides.latent_attention import (
    KEYS_AND_QUERIES,
    LatentAttention,
    Which,
    read_latent_attention,
)
from pedigree.forensics.sides.linear import without_damage
from pedigree.forensics.sides.views import SHARED_EXPERT, ffn_groups, fold_reader, read_gain
from pedigree.tokenizers.vocabulary import Vocabulary
from pedigree.weights.anatomy import Anatomy, Part

COORDINATES, UNITS, UNIT_RUN, HEAD_DIMS, TOKENS = 192, 48, 8, 32, 1024
FORM_TOKENS = 64


@dataclass
class ThinModel:
    """Tensors under the names of a Llama, and what their positions stand for.

    Attributes:
        tensors: name to [.., C] in bfloat16; "forms" is [L, T, T] (see `value_forms`), "token_frame.KIND" [L, U, 2 M]
            (see `token_frame.py`).
        coordinates: residual coordinates, in order.
        units: (expert, unit) of the feed-forward units, the same in every layer; empty where layers differ.
        dims: (key/value head, dimension) of the attention dimensions.
        keys: the same of the rows of queries and keys in the frame of tokens.
        tokens: hash of the text of each vocabulary row; empty where no tokenizer was found.
        n_layers, width: of the model.
        inner: (expert, feed-forward width) of the groups that units are taken from.
        heads: (key/value heads, their dimension) of the model.
        left_out: what could not be taken, in words.
        norms: kind and gains of the norms; None where they are not known, as in files of version 1.
    """

    tensors: dict[str, Tensor]
    coordinates: list[int]
    units: list[tuple[int, int]]
    dims: list[tuple[int, int]]
    tokens: list[bytes]
    n_layers: int
    width: int
    inner: list[tuple[int, int]] = field(default_factory=list)
    heads: tuple[int, int] = (0, 0)
    left_out: list[str] = field(default_factory=list)
    norms: Norms | None = None
    keys: list[tuple[int, int]] = field(default_factory=list)

    @property
    def turns(self) -> bool:
        """Whether rows in the frame of tokens are held, by which a model in another frame can be told."""
        return any(name.startswith("token_frame.") for name in self.tensors)


def thin(anatomy: Anatomy, vocabulary: Vocabulary | None, salt: str = "") -> ThinModel:
    """Read the thin model of a checkpoint; only the rows and columns that it holds are read where storage allows."""
    inner, heads = _inner_widths(anatomy), _heads(anatomy)
    out = place(salt, anatomy.n_layers, anatomy.d_model, inner, heads)
    if not out.dims:
        out.left_out.append("attention has no common form")
    if not out.units:
        out.left_out.append("no feed-forward units were found")
    written, named = _read_tables(anatomy, vocabulary, salt, out)
    for layer in range(anatomy.n_layers):
        prefix = f"model.layers.{layer}."
        for name, rows_UC in _read_ffn(anatomy, layer, out, named).items():
            out.tensors[f"{prefix}mlp.{name}_proj.weight"] = _stored(rows_UC, transposed=name == "down")
        for name, rows_UC in _read_attention(anatomy, layer, out, written.get(layer)).items():
            out.tensors[f"{prefix}self_attn.{name}_proj.weight"] = _stored(rows_UC, transposed=name == "o")
        if named is not None:
            _take_keys(anatomy, layer, out, named)
    out.tensors |= named.tensors() if named is not None else {}
    return out


def _stored(rows_UC: Tensor, *, transposed: bool) -> Tensor:
    clean = without_damage(rows_UC)
    return (clean.T if transposed else clean).to(torch.bfloat16).contiguous()


def place(salt: str, n_layers: int, width: int, inner: list[tuple[int, int]], heads: tuple[int, int]) -> ThinModel:
    """A thin model without tensors: which positions it holds follows from sizes and salt alone."""
    units = [(label, u) for label, total in inner for u in choose(salt, f"unit {label}", total, UNITS, UNIT_RUN)]
    count, head_dim = heads
    planes = choose(salt, "plane", head_dim // 2, HEAD_DIMS // 2)
    # Rotary planes are kept whole: first halves of the planes, then second halves.
    dims = [*planes, *(plane + head_dim // 2 for plane in planes)]
    chosen = choose(salt, "head", count, max(1, HEAD_DIMS // len(dims))) if dims else []
    coordinates = choose(salt, "coordinate", width, COORDINATES)
    return ThinModel(
        {}, coordinates, units, [(h, c) for h in chosen for c in dims], [], n_layers, width, inner, heads,
        keys=key_dimensions(salt, heads),
    )  # fmt: skip


def _inner_widths(anatomy: Anatomy) -> list[tuple[int, int]]:
    """Width of the dense layer or of expert 0, and of a shared expert: of the smallest layer, to serve all layers."""
    sizes: dict[int, int] = {}
    for layer in range(anatomy.n_layers):
        for label, group in ffn_groups(anatomy, layer):
            if label in (0, SHARED_EXPERT):
                sizes[label] = min(sizes.get(label, 1 << 40), group["up"].shape[0])
    return sorted(sizes.items(), reverse=True)


def _heads(anatomy: Anatomy) -> tuple[int, int]:
    """(key/value heads, their dimension), zeros where attention has no common form.

    Of latent attention as many dimensions of a head are taken as have both values and keys without position. Where the
    latent is narrower than what would be held, nothing is: rounded to bfloat16, rows of a low rank have directions on
    all sides, and the few that they began with would look learned.
    """
    first = next((p for p in anatomy.parts() if p.role == "attn.k"), None)
    heads = anatomy.n_kv_heads
    latent = None if first is not None else _first_latent(anatomy)
    if latent is not None:
        common = (latent.heads, 2 * (min(latent.nope, latent.value) // 2))
        return common if latent.rank >= len(place("", 0, 0, [], common).dims) else (0, 0)
    if first is None or not heads or first.shape[0] % heads or (first.shape[0] // heads) % 2:
        return (0, 0)
    return (heads, first.shape[0] // heads)


def _first_latent(anatomy: Anatomy) -> LatentAttention | None:
    found = (read_latent_attention(anatomy, layer) for layer in range(anatomy.n_layers))
    return next((latent for latent in found if latent is not None), None)


def _read_tables(
    anatomy: Anatomy, vocabulary: Vocabulary | None, salt: str, out: ThinModel
) -> tuple[dict[int, Tensor], TokenRows | None]:
    """Vocabulary rows and value forms; rows of the output projections, by layer, that were read on the way, and the
    frame of tokens."""
    embed = anatomy.part("embed")
    total = embed.shape[0] if embed is not None else anatomy.vocab_size
    if vocabulary is not None:
        pairs = choose_tokens(salt, ((t, r) for t, r in vocabulary.tokens.items() if r < total), TOKENS)
        out.tokens, rows = [token for token, _ in pairs], [row for _, row in pairs]
    else:
        rows = choose(salt, "row", total, TOKENS)
    rows_T = torch.tensor(rows, dtype=torch.long)
    frame_ND: Tensor | None = None
    output_TD: Tensor | None = None
    for role, name in (("embed", "model.embed_tokens.weight"), ("head", "lm_head.weight")):
        table_TD = read_table(anatomy, role, rows_T) if rows else None
        if table_TD is not None:
            out.tensors[name] = _stored(table_TD[:, out.coordinates], transposed=False)
        if table_TD is not None and vocabulary is not None:
            frame_ND = token_frame(table_TD) if role == "embed" else frame_ND
            output_TD = table_TD[:NAMED_TOKENS]
    if frame_ND is not None and vocabulary is not None and output_TD is not None:
        kinds_T = kinds_of(vocabulary.tokens, rows_T[:NAMED_TOKENS])
        out.tensors["token_frame.names"] = products_beside_kinds(without_damage(output_TD), kinds_T).to(torch.bfloat16)
    written: dict[int, Tensor] = {}
    if len(rows) >= FORM_TOKENS and out.tokens:
        forms = value_forms(anatomy, rows_T[:FORM_TOKENS], out.coordinates, written)
        if forms is not None:
            out.tensors["forms"] = forms.to(torch.bfloat16)
    if frame_ND is None:
        return written, None
    return written, TokenRows(frame_ND, anatomy.n_layers, len(out.units), len(out.keys))


def _read_ffn(anatomy: Anatomy, layer: int, out: ThinModel, named: TokenRows | None) -> dict[str, Tensor]:
    groups = dict(ffn_groups(anatomy, layer))
    stacks: dict[str, list[Tensor]] = {}
    labels = dict.fromkeys(label for label, _ in out.units)
    if not labels.keys() <= groups.keys():
        return {}
    for label in labels:
        group = groups[label]
        rows = [unit for at, unit in out.units if at == label]
        for name in ("gate", "up"):
            if name in group:
                w_UD = fold_reader(anatomy, group[name].read(rows=rows), "norm.mlp", layer)
                stacks.setdefault(name, []).append(w_UD[:, out.coordinates])
                if named is not None:
                    named.take(name, layer, without_damage(w_UD))
        down_UC = group["down"].read(rows=out.coordinates, cols=rows).T
        stacks.setdefault("down", []).append(_fold_writer(anatomy, down_UC, "norm.mlp.post", layer, out.coordinates))
    return {name: torch.cat(parts) for name, parts in stacks.items()}


def query_groups(queries: int, keys: int, written: int) -> tuple[int, int]:
    """Query heads that share a key head, and how many blocks of rows each of them has.

    Qwen3-Next keeps the gate of a head behind its query in one matrix, which then has twice as many rows as the output
    has columns.

    Args:
        queries, keys: rows of the two matrices.
        written: columns of the output.
    """
    apart = 2 if queries == 2 * written else 1
    return queries // apart // max(1, keys), apart


def _read_attention(anatomy: Anatomy, layer: int, out: ThinModel, written_CQ: Tensor | None) -> dict[str, Tensor]:
    latent = read_latent_attention(anatomy, layer) if anatomy.part("attn.k", layer) is None else None
    if latent is not None:
        return _read_latent(anatomy, layer, out, latent, written_CQ)
    parts = {name: anatomy.part(f"attn.{name}", layer) for name in "qkvo"}
    key, query, output, heads = parts["k"], parts["q"], parts["o"], anatomy.n_kv_heads
    if not out.dims or key is None or query is None or output is None or parts["v"] is None or not heads:
        return {}
    head_dim = key.shape[0] // heads
    repeat, apart = query_groups(query.shape[0], key.shape[0], output.shape[1])
    if not repeat or not _holds(out.dims, heads, head_dim):
        return {}
    rows = [head * head_dim + dim for head, dim in out.dims]
    wide = [[(head * repeat + g) * head_dim + dim for head, dim in out.dims] for g in range(repeat)]
    asked = [[(head * repeat + g) * apart * head_dim + dim for head, dim in out.dims] for g in range(repeat)]
    found = {}
    for name in "kv":
        found[name] = fold_reader(anatomy, _part(parts, name).read(rows=rows), "norm.attn", layer)[:, out.coordinates]
    q_UD = torch.stack([_part(parts, "q").read(rows=group) for group in asked]).sum(0)
    found["q"] = fold_reader(anatomy, q_UD, "norm.attn", layer)[:, out.coordinates]
    flat = [column for group in wide for column in group]
    o_CQ = output.read(rows=out.coordinates, cols=flat) if written_CQ is None else written_CQ[:, flat]
    o_UC = o_CQ.reshape(len(out.coordinates), repeat, -1).sum(1).T
    found["o"] = _fold_writer(anatomy, o_UC, "norm.attn.post", layer, out.coordinates)
    return found


def _read_latent(
    anatomy: Anatomy, layer: int, out: ThinModel, latent: LatentAttention, written_CQ: Tensor | None
) -> dict[str, Tensor]:
    """The same of latent attention, what its heads read of the stream multiplied out."""
    output = anatomy.part("attn.o", layer)
    if output is None or not _holds(out.dims, latent.heads, min(latent.nope, latent.value)):
        return {}

    def keep(w_UD: Tensor) -> Tensor:
        return fold_reader(anatomy, w_UD, "norm.attn", layer)[:, out.coordinates]

    sizes: dict[str, tuple[Which, int]] = {
        "k": ("key", latent.nope), "q": ("query", latent.nope), "v": ("value", latent.value)
    }  # fmt: skip
    found = {
        name: latent.rows(which, torch.tensor([head * size + dim for head, dim in out.dims]), keep)
        for name, (which, size) in sizes.items()
        if which in latent.stacks
    }
    columns = [head * latent.value + dim for head, dim in out.dims]
    o_CU = output.read(rows=out.coordinates, cols=columns) if written_CQ is None else written_CQ[:, columns]
    found["o"] = _fold_writer(anatomy, o_CU.T, "norm.attn.post", layer, out.coordinates)
    return found


def _take_keys(anatomy: Anatomy, layer: int, out: ThinModel, named: TokenRows) -> None:
    """Rows of keys, and of the queries of their group added up, in the frame of tokens."""
    key, query, heads = anatomy.part("attn.k", layer), anatomy.part("attn.q", layer), anatomy.n_kv_heads
    if key is not None and query is not None and heads:
        head_dim, output = key.shape[0] // heads, anatomy.part("attn.o", layer)
        repeat, apart = query_groups(query.shape[0], key.shape[0], 0 if output is None else output.shape[1])
        if not repeat or not _holds(out.keys, heads, head_dim):
            return
        q_UD = torch.stack(
            [query.read(rows=[(h * repeat + g) * apart * head_dim + c for h, c in out.keys]) for g in range(repeat)]
        ).sum(0)
        k_UD = key.read(rows=[h * head_dim + c for h, c in out.keys])
    else:
        latent = read_latent_attention(anatomy, layer) if key is None else None
        if latent is None or "query" not in latent.stacks or latent.rank < len(out.keys):
            return
        if not _holds(out.keys, latent.heads, latent.nope):
            return
        places_U = torch.tensor([h * latent.nope + c for h, c in out.keys])
        k_UD, q_UD = (latent.rows(which, places_U, lambda w_UD: w_UD) for which in KEYS_AND_QUERIES)
    for name, rows_UD in (("k", k_UD), ("q", q_UD)):
        named.take(name, layer, without_damage(fold_reader(anatomy, rows_UD, "norm.attn", layer)))


def _holds(dims: list[tuple[int, int]], heads: int, head_dim: int) -> bool:
    """Whether a layer has all the dimensions that are taken."""
    return bool(dims) and max(h for h, _ in dims) < heads and max(c for _, c in dims) < head_dim


def _part(parts: dict[str, Part | None], name: str) -> Part:
    part = parts[name]
    if part is None:
        raise InternalError("a projection was looked for that is not there", where=name)
    return part


def _fold_writer(anatomy: Anatomy, rows_UC: Tensor, norm: str, layer: int, coordinates: list[int]) -> Tensor:
    gain_D = read_gain(anatomy, norm, layer) if anatomy.norm_placement not in ("pre", "post") else None
    return rows_UC if gain_D is None else rows_UC * gain_D[coordinates]


def value_forms(anatomy: Anatomy, rows_T: Tensor, coordinates: list[int], written: dict[int, Tensor]) -> Tensor | None:
    """X V' O' X' of each layer, X the embeddings of some tokens: what attention carries from token to token.

    It changes neither with the residual frame nor with the order or basis of heads, so it recognizes relatives that
    were rotated. Values are used to rank, never as evidence. Double-centered, length one, [L, T, T].

    Args:
        anatomy: the model.
        rows_T: rows of the tokens.
        coordinates: rows of the output projections that are wanted besides: they are read whole here.
        written: takes those rows, by layer.
    """
    table_TD = read_table(anatomy, "embed", rows_T)
    if table_TD is None:
        return None
    x_TD = table_TD - table_TD.mean(0)
    forms = []
    for layer in range(anatomy.n_layers):
        read_TU, output = _values_read(anatomy, layer, x_TD), anatomy.part("attn.o", layer)
        if read_TU is None or output is None or output.shape[1] % read_TU.shape[1] or not anatomy.n_kv_heads:
            return None
        repeat, heads = output.shape[1] // read_TU.shape[1], anatomy.n_kv_heads
        output_DQ = output.read()
        written[layer] = output_DQ[coordinates]
        written_TU = x_TD @ output_DQ
        if repeat > 1:
            written_TU = written_TU.reshape(len(x_TD), heads, repeat, -1).sum(2).flatten(1)
        form_TT = read_TU @ written_TU.T
        form_TT = form_TT - form_TT.mean(0, keepdim=True) - form_TT.mean(1, keepdim=True) + form_TT.mean()
        forms.append(form_TT / form_TT.norm().clamp_min(1e-30))
    return torch.stack(forms) if forms else None


def _values_read(anatomy: Anatomy, layer: int, x_TD: Tensor) -> Tensor | None:
    """What all values of a layer read from rows of the stream, [T, U]; None where it has none."""
    value, latent = anatomy.part("attn.v", layer), read_latent_attention(anatomy, layer)

    def read(w_UD: Tensor) -> Tensor:
        return fold_reader(anatomy, w_UD, "norm.attn", layer) @ x_TD.T

    if value is not None:
        return read(value.read()).T
    return None if latent is None else latent.rows("value", torch.arange(latent.heads * latent.value), read).T
