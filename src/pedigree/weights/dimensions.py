"""Dimensions of a model: what the config says, checked against the shapes, and inferred from shapes where it is silent.

A config is a claim. It is believed where the stored shapes agree; where they do not, or where there is no config, the
shapes decide and a note says so.

Shapes: H = heads, K = key/value heads, D = head dimension, V = vocabulary, d = residual width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

_KEYS: dict[str, tuple[str, ...]] = {
    "d_model": ("hidden_size", "n_embd", "d_model", "dim", "embed_dim", "word_embed_proj_dim"),
    "n_layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "n_heads": ("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads", "encoder_attention_heads"),
    "n_kv_heads": (
        "num_key_value_heads",
        "n_kv_heads",
        "n_head_kv",
        "num_kv_heads",
        "multi_query_group_num",
        "num_query_groups",
    ),
    "head_dim": ("head_dim", "kv_channels", "d_head", "attention_head_dim", "d_kv"),
    "rotary_dim": ("rotary_dim",),
    "vocab_size": ("vocab_size", "n_vocab"),
}
_NESTED = ("text_config", "llm_config", "language_config", "thinker_config", "model")
_MOST = 1 << 24  # no width, head count or vocabulary is larger


BESIDE = "head_dim_beside"
"""Key of the head dimension of another model, which is taken where neither config nor shapes tell one."""

ASSUMED = "is assumed, neither config nor shapes tell it"
"""How the note on a head dimension ends that was a guess."""


@dataclass
class Hints:
    """What a config says, one positive integer per known key; and what it said that cannot be true."""

    numbers: dict[str, int] = field(default_factory=dict)
    kinds: tuple[str, ...] = ()
    tied: bool | None = None
    rotary_fraction: float | None = None
    scale_block: tuple[int, int] | None = None
    flags: dict[str, bool] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def get(self, key: str) -> int | None:
        """The config's number for a key of ours, None where it says nothing usable."""
        return self.numbers.get(key)


def read_hints(config: Mapping[str, Any] | None) -> Hints:
    """Layout facts of a config.json, every value checked for type and range; wrong ones become notes."""
    hints = Hints()
    if not isinstance(config, Mapping):
        return hints
    levels: list[Mapping[str, Any]] = [config]
    for key in _NESTED:
        inner = config.get(key)
        if isinstance(inner, Mapping):
            levels.insert(0, inner)
    for key, spellings in _KEYS.items():
        for level, spelling in ((level, spelling) for level in levels for spelling in spellings):
            value = level.get(spelling)
            if isinstance(value, list):  # GGUF: one number per layer
                value = max((n for n in value if type(n) is int), default=None)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _MOST:
                hints.notes.append(f"config: {spelling} is {_short(value)}, not a possible number; not used")
                continue
            hints.numbers[key] = value
            break
    for level in levels:
        for key in ("gguf.architecture", "model_type"):
            kind = level.get(key)
            hints.kinds += (kind,) if isinstance(kind, str) else ()
    for level in levels:
        tied = level.get("tie_word_embeddings")
        hints.tied = tied if isinstance(tied, bool) else hints.tied
    _read_flags(levels, hints)
    return hints


def _read_flags(levels: list[Mapping[str, Any]], hints: Hints) -> None:
    for level in reversed(levels):
        rope = level.get("rope_parameters")
        for holder in (level, rope if isinstance(rope, Mapping) else {}):
            for key in ("partial_rotary_factor", "rotary_pct"):
                value = holder.get(key)
                if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1:
                    hints.rotary_fraction = float(value)
        quantization = level.get("quantization_config")
        if isinstance(quantization, Mapping):
            block = quantization.get("weight_block_size")
            if isinstance(block, list) and len(block) == 2 and all(type(n) is int and 0 < n <= _MOST for n in block):
                hints.scale_block = (block[0], block[1])
        hints.flags |= {key: value for key, value in level.items() if isinstance(key, str) and isinstance(value, bool)}


@dataclass(frozen=True)
class Heads:
    """How the rows of the attention projections divide into heads; None where unknown."""

    n_heads: int | None
    n_kv_heads: int | None
    head_dim: int | None
    rotary_dim: int | None


def residual_width(vectors: Iterable[int], matrices: Iterable[tuple[int, ...]], claimed: int | None) -> int | None:
    """The width of the residual stream.

    Args:
        vectors: lengths of the gains in the residual space.
        matrices: shapes of all matrices.
        claimed: what the config says.

    Returns:
        The commonest gain length; without gains the claimed width where some matrix has it, else the commonest
        axis of the matrices (the longer one of a tie).
    """
    lengths = Counter(vectors)
    if lengths:
        return max(lengths, key=lambda length: (lengths[length], length == claimed, length))
    axes: Counter[int] = Counter()
    for shape in matrices:
        axes.update(set(shape[-2:]))
    if claimed is not None and claimed in axes:
        return claimed
    return max(axes, key=lambda length: (axes[length], length)) if axes else None


def solve_heads(
    hints: Hints,
    notes: list[str],
    *,
    q_rows: int | None,
    k_rows: int | None,
    norm_length: int | None,
    stored_heads: tuple[int, int] | None,
    rotary_fraction: float | None = None,
) -> Heads:
    """Heads, KV heads and head dimension from the config and the shapes.

    Args:
        hints: the config.
        notes: receives a sentence for every guess and contradiction.
        q_rows: canonical rows of the query projection, None if there is none.
        k_rows: canonical rows of the key projection.
        norm_length: length of a per-head query or key gain.
        stored_heads: (heads, head dimension) where storage shows them (one tensor or one axis per head).
        rotary_fraction: the architecture's usual share of rotary dimensions; the config's goes first.
    """
    if q_rows is None or q_rows <= 0:
        return Heads(hints.get("n_heads"), hints.get("n_kv_heads"), hints.get("head_dim"), None)
    head_dim, reason = _head_dim(hints, q_rows, k_rows, norm_length, stored_heads)
    n_heads = q_rows // head_dim
    n_kv = n_heads if k_rows is None else max(1, k_rows // head_dim)
    if reason:
        notes.append(reason)
    for key, found in (("n_heads", n_heads), ("n_kv_heads", n_kv)):
        claimed = None if key == "n_kv_heads" and hints.flags.get("multi_query") else hints.get(key)
        if claimed is not None and claimed != found:
            notes.append(f"config: {key} {claimed} contradicts the shapes, which give {found}; the shapes are used")
    rotary = min(hints.get("rotary_dim") or head_dim, head_dim) // 2 * 2
    fraction = hints.rotary_fraction if hints.rotary_fraction is not None else rotary_fraction
    if fraction is not None and hints.get("rotary_dim") is None:
        rotary = min(max(2, int(head_dim * fraction)), head_dim) // 2 * 2
    return Heads(n_heads, n_kv, head_dim, rotary)


def _head_dim(
    hints: Hints,
    q_rows: int,
    k_rows: int | None,
    norm_length: int | None,
    stored_heads: tuple[int, int] | None,
) -> tuple[int, str]:
    """The head dimension and, where it had to be guessed, the sentence that says so."""

    def fits(length: int | None) -> bool:
        return bool(length) and q_rows % (length or 1) == 0 and (k_rows is None or k_rows % (length or 1) == 0)

    if stored_heads is not None and fits(stored_heads[1]):
        return stored_heads[1], ""
    if norm_length is not None and norm_length < q_rows and fits(norm_length):
        return norm_length, ""
    claimed_heads, claimed_dim, claimed_kv = hints.get("n_heads"), hints.get("head_dim"), hints.get("n_kv_heads")
    by_heads = q_rows // claimed_heads if claimed_heads is not None and q_rows % claimed_heads == 0 else None
    claims = [length for length in dict.fromkeys((by_heads, claimed_dim)) if length is not None and fits(length)]
    if claims:  # where they differ, the one that also gives the claimed key/value heads
        best = min(claims, key=lambda length: k_rows != (claimed_kv or 0) * length)
        return best, "" if best == by_heads else f"heads: {q_rows // best} of {best} rows, by the config's head_dim"
    beside = hints.get(BESIDE)
    if fits(beside) and beside is not None:
        return beside, f"heads: head_dim {beside} is that of the other model; neither config nor shapes tell it"
    order = (128, 64, 96, 80, 256, 32, 16, 8, 4, 2) if q_rows >= 2048 else (64, 32, 16, 8, 4, 2)
    guess = next((length for length in order if length < q_rows and fits(length)), 1 if q_rows > 1 else q_rows)
    return guess, f"heads: head_dim {guess} {ASSUMED}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
