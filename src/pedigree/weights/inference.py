"""Inference: roles of an unknown architecture, from the names and shapes of its tensors.

The result is an ordinary role table made for one checkpoint, so that everything behind it works as for a known one.

1. The layers are the longest run of equal names that differ in one integer, counted from 0.
2. The residual width is the commonest gain length, else the commonest axis.
3. Inside a layer words decide (`wording`), and shapes where words are silent: of the two matrices of a feed-forward
   block the first is up and the second down.
4. Outside the layers words decide between embedding, positions, head and final norm.

What cannot be told from a file (norm placement, rotary layout, the order inside a fused projection) is assumed and
said in the notes.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pedigree.weights.dimensions import Hints, residual_width
from pedigree.weights.table import TWINS, Entry, Table, is_index, make_table
from pedigree.weights.wording import (
    attention_word,
    feed_forward_word,
    is_cross_attention,
    is_norm,
    norm_place,
    outer_word,
    words_of,
)

Shapes = Mapping[str, tuple[int, ...]]
_GLUED = re.compile(r"^((?:\w*_)?(?:layers?|blocks?|h))_?(\d+)(?:_(\w+))?$", re.IGNORECASE)
_LAST_WORDS = {
    "kernel": "weight",
    "embedding": "weight",
    "scale": "weight",
    "w": "weight",
    "g": "weight",
    "b": "bias",
    "beta": "bias",
    "gamma": "weight",
}


def unglue(name: str) -> str:
    """A name in the manner of torch.

    "/" becomes ".", the number of a layer stands apart ("layer0" is "layer.0"), and the last word is "weight" or
    "bias" where other libraries say kernel, scale, w or b, or write it together ("in_proj_weight").
    """
    words = name.replace("/", ".").split(".")
    words = [part for word in words for part in _divide(word)]
    if len(words) > 1:
        words[-1] = _LAST_WORDS.get(words[-1], words[-1])
        stem, _, twin = words[-1].rpartition("_")
        if twin in ("weight", "bias") and stem:
            words[-1:] = [stem, twin]
    return ".".join(words)


def _divide(word: str) -> list[str]:
    glued = _GLUED.match(word)
    return [word] if glued is None else [part for part in glued.groups() if part is not None]


def infer_table(shapes: Shapes, hints: Hints, notes: list[str]) -> Table:
    """A role table made for one checkpoint.

    Args:
        shapes: shapes by name, without prefixes and unglued.
        hints: what the config says.
        notes: receives a sentence for everything assumed.
    """
    notes.append("architecture: no role table fits the tensor names; roles are inferred from names and shapes")
    width = _width(shapes, hints)
    stack = find_stack(shapes)
    roles: dict[str, Entry] = {}
    if stack is not None:
        _infer_layer(stack, shapes, width, roles, notes)
    _infer_outside(stack, shapes, width, roles, notes)
    if stack is None or not any(role.startswith(("attn.", "mlp.", "moe.")) for e in roles.values() for role in e.roles):
        notes.append("architecture: no layers were recognized")
    return make_table("inferred", tuple(roles.values()), _facts(roles, notes) | {"width": width})


def _width(shapes: Shapes, hints: Hints) -> int | None:
    gains = [shape[0] for name, shape in shapes.items() if len(shape) == 1 and is_norm(words_of(name))]
    return residual_width(gains, (shape for shape in shapes.values() if len(shape) >= 2), hints.get("d_model"))


def find_stack(names: Iterable[str]) -> str | None:
    """The words in front of the layer number ("blocks" of "blocks.3.attn.q"), of the stack with most tensors.

    Numbers must run from 0 without a gap; a single layer counts where it is called layer, block or h.
    """
    numbers: dict[str, Counter[int]] = defaultdict(Counter)
    for name in names:
        words = name.split(".")
        for place, word in enumerate(words[1:], start=1):
            if is_index(word):
                numbers[".".join(words[:place])][int(word)] += 1
                break
    best: tuple[int, str] | None = None
    for prefix, counts in numbers.items():
        named = re.search(r"layer|block|(^|\.)h$|stack", prefix, re.IGNORECASE) is not None
        if set(counts) != set(range(len(counts))) or (len(counts) == 1 and not named):
            continue
        score = (sum(counts.values()), prefix)
        if min(counts.values()) >= 2 and (best is None or score > best):
            best = score
    return None if best is None else best[1]


def _stem(name: str) -> tuple[str, bool]:
    """A name without ".weight" or ".bias", and whether it was a bias."""
    stem, _, twin = name.rpartition(".")
    if twin in TWINS and stem:
        return stem, twin in ("bias", "beta")
    return name, False


def _infer_layer(stack: str, shapes: Shapes, width: int | None, roles: dict[str, Entry], notes: list[str]) -> None:
    """Entries for the tensors of a layer, from layer 0 and from the first layer that has a name layer 0 lacks."""
    inside: dict[str, tuple[int, ...]] = {}
    depth = len(stack.split("."))
    for name, shape in shapes.items():
        words = name.split(".")
        if name.startswith(stack + ".") and is_index(words[depth]):
            inside.setdefault(_pattern(words, depth), shape)
    matrices: dict[str, str] = {}
    norms: list[str] = []
    for pattern, shape in inside.items():
        stem, is_bias = _stem(pattern)
        local = words_of(stem)[depth + 1 :]
        if is_bias or not local or is_cross_attention(local):
            continue
        if is_norm(local) and len(shape) == 1:
            norms.append(stem)
        elif (word := attention_word(_without_slots(local))) is not None:
            _add_attention(stem, word, shape, roles, notes)
        elif feed_forward_word(_without_slots(local)) is not None and len(shape) >= 2:
            matrices[stem] = feed_forward_word(_without_slots(local)) or ""
        elif len(shape) == 1:
            _add_loose_bias(stem, local, roles)
    _add_norms(norms, roles)
    stems = {_stem(p)[0]: s for p, s in inside.items() if not _stem(p)[1]}
    _add_feed_forward(matrices, stems, width, roles, notes)
    if width and not any(role.startswith(("mlp.", "moe.")) for entry in roles.values() for role in entry.roles):
        _add_by_shape({stem: shape for stem, shape in stems.items() if stem not in roles}, width, roles, notes)


def _add_by_shape(shapes: Mapping[str, tuple[int, ...]], width: int, roles: dict[str, Entry], notes: list[str]) -> None:
    """A feed-forward block whose words say nothing: one matrix of a shape, one or two of the other way round.

    It is the widest such block. Of two matrices that read the stream the first by name is taken for the gate.
    """
    by_inner: dict[int, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for stem, shape in shapes.items():
        if len(shape) == 2 and width in shape and shape[0] != shape[1]:
            by_inner[max(shape) if min(shape) == width else min(shape)][shape[0] == width].append(stem)
    for _, sides in sorted(by_inner.items(), reverse=True):
        one, more = sorted(sides, key=len)
        if len(one) != 1 or len(more) not in (1, 2):
            continue
        # Stored as torch does, the readers are tall; of one and one that is all there is to go by.
        tall, flat = sides
        readers, writers = (tall, flat) if len(tall) >= len(flat) else (flat, tall)
        names = ("mlp.gate", "mlp.up") if len(readers) == 2 else ("mlp.up",)
        for stem, role in zip(sorted(readers), names, strict=True):
            _add(stem, role, roles)
        _add(writers[0], "mlp.down", roles)
        notes.append(f"mlp: no name says so; {', '.join(sorted(readers))} and {writers[0]} fit each other in shape")
        return


def _pattern(words: list[str], depth: int) -> str:
    """A name as a pattern: the layer's number, and numbers behind "heads" and "experts", become slots."""
    out = list(words)
    out[depth] = "{i}"
    for place in range(depth + 1, len(words)):
        if is_index(words[place]) and re.search(r"heads?$", words[place - 1], re.IGNORECASE):
            out[place] = "{h}"
        elif is_index(words[place]) and re.search(r"experts?$", words[place - 1], re.IGNORECASE):
            out[place] = "{e}"
    return ".".join(out)


def _without_slots(words: Sequence[str]) -> list[str]:
    return [word for word in words if word not in ("{h}", "{e}", "{i}")]


def _taken(role: str, roles: Mapping[str, Entry]) -> bool:
    return any(role in entry.roles for entry in roles.values())


def _add(stem: str, role: str, roles: dict[str, Entry], *more: str) -> None:
    if stem not in roles and not _taken(role, roles):
        roles[stem] = Entry(stem, (role, *more), fused="blocks" if more else "")


def _add_attention(stem: str, word: str, shape: tuple[int, ...], roles: dict[str, Entry], notes: list[str]) -> None:
    if (len(shape) == 1 or words_of(stem)[-1].startswith("b_")) and word != "qkv":
        _add(stem, word + ".bias", roles)
    elif word == "qkv" and len(shape) == 2:
        notes.append("heads: query, key and value are taken to follow each other in the fused projection")
        _add(stem, "attn.q", roles, "attn.k", "attn.v")
    elif len(shape) in (2, 3):
        _add(stem, word, roles)


def _add_loose_bias(stem: str, local: Sequence[str], roles: dict[str, Entry]) -> None:
    """Biases that are tensors of their own (b_in, b_out)."""
    word = feed_forward_word(_without_slots(local))
    if word in ("gate", "up", "down"):
        _add(stem, f"mlp.{word}.bias", roles)


def _add_norms(norms: Sequence[str], roles: dict[str, Entry]) -> None:
    """Norms by their words, else by their numbers: the first is in front of attention, the second of the MLP."""
    silent = []
    for stem in norms:
        place = norm_place(words_of(stem.partition("{i}.")[2]))
        if place is not None:
            _add(stem, place, roles)
        else:
            silent.append(stem)
    for stem in sorted(silent):
        _add(stem, "norm.mlp" if _taken("norm.attn", roles) else "norm.attn", roles)


def _add_feed_forward(
    matrices: Mapping[str, str], shapes: Shapes, width: int | None, roles: dict[str, Entry], notes: list[str]
) -> None:
    """The matrices of the feed-forward block: by words, and by order where words are silent."""
    silent = [stem for stem, word in matrices.items() if word == "" and width in shapes.get(stem, ())]
    experts = {stem for stem in matrices if ".{e}." in stem}
    gated = any(word == "gate" for word in matrices.values()) and any(word == "up" for word in matrices.values())
    for stem, word in matrices.items():
        base = "moe.expert." if stem in experts else "mlp."
        if word == "router":
            _add(stem, "moe.router", roles)
        elif word:  # a lone w1 is no gate: without a third matrix it is the way up
            _add(stem, base + ("up" if word == "gate" and not gated else word), roles)
    order = sorted(silent, key=_natural)
    wanted = [role for role in ("mlp.up", "mlp.down") if not _taken(role, roles)]
    if len(order) == 3 and len(wanted) == 2:
        wanted = ["mlp.gate", "mlp.up", "mlp.down"]
        notes.append("mlp: of three unnamed matrices the first is taken for the gate")
    if len(order) == len(wanted):
        for stem, role in zip(order, wanted, strict=True):
            _add(stem, role, roles)


def _natural(stem: str) -> tuple[tuple[int, str], ...]:
    return tuple((int(word), "") if is_index(word) else (-1, word) for word in stem.split("."))


def _infer_outside(
    stack: str | None, shapes: Shapes, width: int | None, roles: dict[str, Entry], notes: list[str]
) -> None:
    loose: list[tuple[int, str]] = []
    sizes: set[int] = set()
    for name, shape in shapes.items():
        stem, is_bias = _stem(name)
        words = words_of(stem)
        if is_bias or (stack is not None and name.startswith(stack + ".")) or any(map(is_index, words)):
            continue
        if len(shape) == 1 and is_norm(words) and shape[0] == width:
            _add(stem, "norm.embed" if outer_word(words) == "embed" else "norm.final", roles)
        elif len(shape) == 2 or (len(shape) == 3 and shape[0] == 1):
            role = outer_word(words)
            if role is not None and (width in shape or role in ("embed", "head")):
                _add(stem, role, roles)
            elif width in shape:
                loose.append((max(shape), stem))
            if role == "embed":
                sizes.update(shape)
    if not _taken("embed", roles) and loose and stack is not None:
        _, stem = max(loose)
        notes.append(f"embed: {stem} is taken for the embedding, being the largest matrix outside the layers")
        _add(stem, "embed", roles)
    heads = [stem for size, stem in loose if size in sizes and size != width]
    if len(heads) == 1 and not _taken("head", roles):
        notes.append(f"head: {heads[0]} is taken for the output head, being as long as the embedding")
        _add(heads[0], "head", roles)


def _facts(roles: Mapping[str, Entry], notes: list[str]) -> dict[str, Any]:
    learned_positions = _taken("embed.position", roles)
    gated = _taken("mlp.gate", roles) or _taken("moe.expert.gate", roles)
    if _taken("attn.q", roles):
        notes.append("norms: taken to stand in front of attention and MLP")
        if not learned_positions:
            notes.append("rope: rotary rows are taken to be half-split, names and shapes do not tell")
    return {
        "norm": "rms",
        "gain_offset": 0.0,
        "norm_placement": "pre",
        "rope": "none" if learned_positions else "half",
        "mlp": "glu" if gated else "plain",
        "activation": "unknown",
        "residual": "sequential",
        "embedding_scale": "one",
        "tied": True,
    }
