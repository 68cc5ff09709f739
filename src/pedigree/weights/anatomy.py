"""Anatomy: a checkpoint seen as a model, role by role, in one canonical form.

`read_anatomy` looks at names, shapes and config only; no weights are read until a `Part` is. The role table whose
patterns fit the names is used; the config's `model_type` only breaks ties. Where no table fits, roles are inferred from
names and shapes (`inferred`), and everything that had to be guessed is said in `notes`.

Canonical form: matrices [out, in], embeddings [vocabulary, d], fused and packed tensors divided, rotary rows in
half-split order whatever the storage.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pedigree.weights.assembly import Assembly, Key, assemble
from pedigree.weights.dimensions import ASSUMED, BESIDE, Hints, read_hints
from pedigree.weights.inference import infer_table, unglue
from pedigree.weights.norms import norms_have_bias, placement, settle_norms
from pedigree.weights.packed import unpacked
from pedigree.weights.part import Part, Piece, TensorSource
from pedigree.weights.prefix import strip_prefixes, without_wrapper
from pedigree.weights.roles import MTP, Axis
from pedigree.weights.scales import find_scales, is_constant
from pedigree.weights.table import Match, Table, skeleton, tables

__all__ = ["Anatomy", "Axis", "Part", "Piece", "read_anatomy"]

MOST_LAYERS = 10_000
MOST_NOTES = 40
MOST_WRAPPERS = 4
_QUERIES = ("attn.q", "attn.q_b")
_FIT = 0.7  # share of a table's required roles that must be there


@dataclass(frozen=True, eq=False)
class Anatomy:
    """The roles of a checkpoint.

    Attributes:
        architecture: name of the role table, or "inferred".
        inferred: whether roles were inferred instead of looked up.
        notes: everything guessed, contradicted or left out, one sentence each.
        n_layers: layers, multi-token-prediction layers not counted.
        d_model: width of the residual stream, 0 if unknown.
        n_heads, n_kv_heads, head_dim: attention heads, None if unknown.
        vocab_size: rows of the embedding (the config's word where there is none), 0 if unknown.
        norm: "rms" or "layer".
        gain_offset: what is added to a stored gain before it multiplies (1.0 for Gemma).
        norm_placement: "pre", "post", "sandwich" or "post-branch".
        rope: order of rotary rows in storage: "half", "interleaved" or "none". Parts are always half-split.
        mlp: "glu", "plain", "moe" (every layer) or "mixed" (dense and expert layers).
        activation: "silu", "gelu", "relu", ... as the table knows it.
        residual: "sequential" or "parallel".
        embedding_scale: "one" or "sqrt-d" (embeddings multiplied by the root of the width).
        tied: whether the output head is the embedding.
        unmapped: tensors without a role.
        constants: buffers that are stored but never trained.
        rotary_dim: leading dimensions of each head that rotary positions turn, None if unknown.
        parameters: numbers in all tensors; of packed matrices as many as they mean.
    """

    architecture: str
    inferred: bool
    notes: tuple[str, ...]
    n_layers: int
    d_model: int
    n_heads: int | None
    n_kv_heads: int | None
    head_dim: int | None
    vocab_size: int
    norm: str
    gain_offset: float
    norm_placement: str
    rope: str
    mlp: str
    activation: str
    residual: str
    embedding_scale: str
    tied: bool
    unmapped: tuple[str, ...]
    constants: tuple[str, ...]
    by_key: Mapping[Key, Part] = field(repr=False)
    expert_counts: Mapping[int, int] = field(repr=False)
    rotary_dim: int | None = None
    parameters: int = 0

    @property
    def assumes_heads(self) -> bool:
        """Whether neither config nor shapes tell how many heads there are."""
        return any(note.endswith(ASSUMED) for note in self.notes)

    def part(self, role: str, layer: int | None = None, expert: int | None = None) -> Part | None:
        """The part of a role, None where the model has none (a tied head has none of its own)."""
        return self.by_key.get((role, layer, expert))

    def parts(self) -> Iterator[Part]:
        """All parts: those outside the layers first, then layer by layer, roles and experts in order."""
        return iter(self.by_key.values())

    @property
    def empty_layers(self) -> tuple[int, ...]:
        """Layer numbers under which the file holds nothing, though it has higher ones."""
        there = {layer for role, layer, _ in self.by_key if not role.startswith(MTP)}
        return tuple(layer for layer in range(self.n_layers) if layer not in there)

    def experts(self, layer: int) -> int:
        """Routed experts of a layer; 0 where it is dense."""
        return self.expert_counts.get(layer, 0)


def read_anatomy(checkpoint: TensorSource, head_dim: int | None = None) -> Anatomy:
    """The anatomy of a checkpoint, from its names, shapes and config; reads no weights (of matrices that several
    tensors hold packed, their shapes).

    Args:
        checkpoint: an open checkpoint.
        head_dim: that of a model that this one is held against; taken where neither config nor shapes tell one.

    Raises:
        InputError: its weights are packed in a way that is not read.
        MalformedFile: tensors that hold one matrix together do not fit each other.
    """
    checkpoint = unpacked(checkpoint)
    hints = read_hints(checkpoint.config)
    if head_dim is not None:
        hints.numbers[BESIDE] = head_dim
    notes = list(hints.notes)
    scales = find_scales(checkpoint, hints)
    helpers = {name for name, _ in scales.values()}
    stripped, doubled = strip_prefixes(name for name in checkpoint.tensors if name not in helpers)
    notes.extend(f"{name}: another tensor has the same name without its prefix" for name in doubled)
    constants = [name for name, short in stripped.items() if is_constant(short)]
    for name in constants:
        del stripped[name]
    table, stripped = _table_inside(stripped, hints)
    inferred = table is None
    if table is None:
        stripped = {name: unglue(short) for name, short in stripped.items()}
        shapes = {short: tuple(checkpoint.tensors[name].shape) for name, short in stripped.items()}
        table = infer_table(shapes, hints, notes)
    facts = table.facts_for(hints.kinds, hints.flags)
    matches, buffers, unknown = _match_all(stripped, table)
    constants.extend(buffers)
    assembly = assemble(checkpoint, matches, table, facts, hints, scales, notes)
    unmapped = tuple(sorted({*doubled, *unknown, *assembly.left_over}))
    found = _finish(table, facts, hints, assembly, notes, unmapped, tuple(sorted(constants)), inferred=inferred)
    return replace(found, parameters=sum(math.prod(info.shape) for info in checkpoint.tensors.values()))


def choose_table(stripped: Mapping[str, str], hints: Hints) -> Table | None:
    """The table that covers the names best; None where none has most of its required roles.

    Order of preference: tensors covered, required roles present, the config's model type, the more specific table.
    """
    counts = Counter(skeleton(short) for short in stripped.values())
    best: tuple[tuple[int, int, bool, int], Table] | None = None
    for table in tables():
        covered = 0
        roles: set[str] = set()
        required_found: set[str] = set()
        for key, count in counts.items():
            entry = table.entry_for(key)
            if entry is not None:
                covered += count
                roles.update(entry.roles)
                if entry.required:
                    required_found.add(entry.pattern)
        required = {role for entry in table.entries if entry.required for role in entry.roles}
        required = {role for role in required if not role.startswith(("mlp.", "norm.final")) or role in roles}
        missing = len(required - roles)
        hinted = not table.model_types.isdisjoint(hints.kinds)
        if missing > (1 - _FIT) * len(required) or not _has_its_mixer(table, roles):
            continue
        if table.by_hint and not hinted:
            continue
        score = (covered, -missing, hinted, len(required_found))
        if best is None or score > best[0]:
            best = (score, table)
    return None if best is None else best[1]


def _table_inside(stripped: dict[str, str], hints: Hints) -> tuple[Table | None, dict[str, str]]:
    """The table that fits, and the names that it fits: as they are, or without wrappers that nobody knows.

    A tower of another kind may have layers that are named like a decoder's; what has no vocabulary is not unwrapped.
    """
    inner: dict[str, str] | None = stripped
    for _ in range(MOST_WRAPPERS):
        if inner is None:
            break
        table = choose_table(inner, hints)
        if table is not None and (inner is stripped or _holds(table, inner, "embed")):
            return table, inner
        inner = without_wrapper(inner)
    return None, stripped


def _holds(table: Table, stripped: Mapping[str, str], role: str) -> bool:
    entries = (table.entry_for(skeleton(short)) for short in stripped.values())
    return any(entry is not None and role in entry.roles for entry in entries)


def _has_its_mixer(table: Table, roles: set[str]) -> bool:
    """Whether the projections are there without which nothing could be compared: those of attention, or, where a kind
    has none (state spaces, attention whose queries are experts), those of its units."""
    if any(role.startswith("attn.") for entry in table.entries for role in entry.roles):
        return "attn.o" in roles and not roles.isdisjoint(_QUERIES)
    return any({f"{branch}.up", f"{branch}.down"} <= roles for branch in ("mlp", "moe.expert"))


def _match_all(stripped: Mapping[str, str], table: Table) -> tuple[list[Match], list[str], list[str]]:
    """Matches, constant buffers and unknown tensors; layers that predict further tokens get their own roles."""
    matches: list[Match] = []
    constants: list[str] = []
    unknown: list[str] = []
    for name, short in stripped.items():
        match = table.match(name, short)
        if match is None or (match.layer or 0) >= MOST_LAYERS:
            unknown.append(name)
        elif not match.entry.roles:
            constants.append(name)
        else:
            matches.append(match)
    behind = 1 + max((match.layer for match in matches if match.layer is not None), default=-1)
    ahead = [match.layer for match in matches if match.layer is not None and not match.entry.second]
    first = 1 + max(ahead, default=-1)
    return [_placed(match, first, behind) for match in matches], constants, unknown


def _placed(match: Match, first: int, behind: int) -> Match:
    """A match with the layer that it counts as: `first` layers are in the first stack, `behind` have numbers."""
    if match.entry.last:
        return replace(match, layer=behind)
    if match.entry.second and match.layer is not None:
        return replace(match, layer=first + match.layer)
    return match


def _finish(
    table: Table,
    facts: Mapping[str, Any],
    hints: Hints,
    assembly: Assembly,
    notes: list[str],
    unmapped: tuple[str, ...],
    constants: tuple[str, ...],
    *,
    inferred: bool,
) -> Anatomy:
    parts, n_layers = _number_layers(settle_norms(assembly.parts), hints, notes)
    roles = {role for role, _, _ in parts}
    embed, head = parts.get(("embed", None, None)), parts.get(("head", None, None))
    experts: dict[int, int] = {}
    for role, layer, expert in parts:
        if layer is not None and expert is not None and not role.startswith(MTP):
            experts[layer] = max(experts.get(layer, 0), expert + 1)
    return Anatomy(
        architecture=table.name,
        inferred=inferred,
        notes=_brief(notes),
        n_layers=n_layers,
        d_model=assembly.width or (embed.shape[1] if embed is not None else 0),
        n_heads=assembly.heads.n_heads,
        n_kv_heads=assembly.heads.n_kv_heads,
        head_dim=assembly.heads.head_dim,
        vocab_size=embed.shape[0] if embed is not None else hints.get("vocab_size") or 0,
        norm="layer" if norms_have_bias(roles) else str(facts.get("norm", "rms")),
        gain_offset=float(facts.get("gain_offset", 0.0)),
        norm_placement=placement(roles, str(facts.get("norm_placement", "pre"))),
        rope=str(facts.get("rope", "half")),
        mlp=_mlp_kind(parts, experts, n_layers),
        activation=str(facts.get("activation", "unknown")),
        residual=str(facts.get("residual", "sequential")),
        embedding_scale=str(facts.get("embedding_scale", "one")),
        tied=_is_tied(embed, head, facts, hints),
        unmapped=unmapped,
        constants=constants,
        by_key=dict(sorted(parts.items(), key=_order)),
        expert_counts=experts,
        rotary_dim=assembly.heads.rotary_dim,
    )


def _number_layers(parts: Mapping[Key, Part], hints: Hints, notes: list[str]) -> tuple[dict[Key, Part], int]:
    """Number of layers; prediction layers (those that hold an "mtp." role) get their own roles, counted from 0."""
    prediction = sorted({layer for role, layer, _ in parts if role.startswith(MTP) and layer is not None})
    ordinary = {layer for _, layer, _ in parts if layer is not None} - set(prediction)
    n_layers = max(ordinary) + 1 if ordinary else 0
    if len(ordinary) != n_layers:
        notes.append(f"layers: {n_layers - len(ordinary)} of {n_layers} layer numbers have no tensors")
    claimed = hints.get("n_layers")
    if claimed is not None and claimed not in (n_layers, n_layers + len(prediction)):
        notes.append(f"config: {claimed} layers are claimed, the names have {n_layers}; the names are used")
    numbered: dict[Key, Part] = {}
    for (role, layer, expert), part in parts.items():
        if layer in prediction:
            role = role if role.startswith(MTP) else MTP + role
            part = replace(part, role=role, layer=prediction.index(layer))
        numbered[role, part.layer, expert] = part
    return numbered, n_layers


def _brief(notes: list[str]) -> tuple[str, ...]:
    """Each note once, and not more than can be read."""
    unique = list(dict.fromkeys(notes))
    if len(unique) > MOST_NOTES:
        unique[MOST_NOTES:] = [f"and {len(unique) - MOST_NOTES} more"]
    return tuple(unique)


def _mlp_kind(parts: Mapping[Key, Part], experts: Mapping[int, int], n_layers: int) -> str:
    if experts:
        return "moe" if len(experts) == n_layers else "mixed"
    return "glu" if any(role == "mlp.gate" for role, _, _ in parts) else "plain"


def _is_tied(embed: Part | None, head: Part | None, facts: Mapping[str, Any], hints: Hints) -> bool:
    """Tied where the config says so; without its word, where there is no head and the architecture usually ties."""
    if embed is None:
        return False
    if head is not None:
        return bool(hints.tied)
    return True if hints.tied is None else hints.tied


def _order(item: tuple[Key, Part]) -> tuple[int, str, int]:
    role, layer, expert = item[0]
    return (-1 if layer is None else layer, role, -1 if expert is None else expert)
