"""A smaller vocabulary by its leaves: tokens that no later merge is built from, least frequent first.

Law     every token that stays is made by the same merges as before, so a text is cut as before wherever no removed
        token stood, and a removed token is cut into the two parts its merge joined (or further). Controls, added
        tokens, byte pieces and single characters stay.
Source  "Teaching old tokenizers new words" (arXiv 2512.03989), leaf-based pruning.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pedigree.errors import UsageError
from pedigree.tokenizers.encoder import Encoder, build_encoder
from pedigree.tokenizers.extension import with_added_inside


@dataclass(frozen=True, eq=False)
class Shrunk:
    """A smaller vocabulary.

    Attributes:
        encoder: the tokenizer.
        kept: for each new number the old one.
        removed: old numbers, in the order they were removed.
    """

    encoder: Encoder
    kept: npt.NDArray[np.int64]
    removed: tuple[int, ...]


def shrink(encoder: Encoder, size: int, uses: npt.NDArray[np.int64], *, name: str = "shrunk") -> Shrunk:
    """Remove leaves until `size` tokens are left.

    Args:
        encoder: a BPE tokenizer.
        size: tokens that stay.
        uses: how often each token occurs in text of the kind that matters.

    Raises:
        UsageError: not a BPE, or not that many leaves can go.
    """
    if encoder.definition["model"].get("type", "BPE") != "BPE":
        raise UsageError("only vocabularies of merges have leaves", where=encoder.location, got=encoder.kind)
    removed = _leaves(encoder, encoder.size - size, uses)
    gone = set(removed)
    kept = [number for number, text in enumerate(encoder.spellings) if text is not None and number not in gone]
    new_number = {old: new for new, old in enumerate(kept)}
    definition = with_added_inside(encoder.definition)
    vocab = {token: new_number[n] for token, n in definition["model"]["vocab"].items() if n in new_number}
    merges = [list(pair) for pair in encoder.merges if pair[0] + pair[1] in vocab and set(pair) <= set(vocab)]
    model = {**definition["model"], "vocab": vocab, "merges": merges}
    added = [{**entry, "id": new_number[int(entry["id"])]} for entry in definition["added_tokens"]]
    post = _renumbered(definition.get("post_processor"), new_number)
    built = build_encoder(
        {**definition, "model": model, "added_tokens": added, "post_processor": post},
        name=name, location=encoder.location, format="tokenizer.json", notes=encoder.notes,
    )  # fmt: skip
    return Shrunk(built, np.array(kept, np.int64), tuple(removed))


def _leaves(encoder: Encoder, count: int, uses: npt.NDArray[np.int64]) -> list[int]:
    """Old numbers of tokens to remove."""
    numbers = {text: number for number, text in enumerate(encoder.spellings) if text is not None}
    parts: dict[int, list[tuple[int, int]]] = {}
    parents = np.zeros(encoder.size, np.int64)
    for left, right in encoder.merges:
        product = numbers.get(left + right)
        if product is not None and left in numbers and right in numbers:
            parts.setdefault(product, []).append((numbers[left], numbers[right]))
            parents[numbers[left]] += 1
            parents[numbers[right]] += 1
    fixed = set(encoder.specials) | set(encoder.added) | set(encoder.byte_pieces.values())
    heap = [(int(uses[n]), -n) for n in parts if parents[n] == 0 and n not in fixed]
    heapq.heapify(heap)
    removed: list[int] = []
    while heap and len(removed) < count:
        number = -heapq.heappop(heap)[1]
        removed.append(number)
        for pair in parts[number]:
            for part in pair:
                parents[part] -= 1
                if parents[part] == 0 and part in parts and part not in fixed:
                    heapq.heappush(heap, (int(uses[part]), -part))
    if len(removed) < count:
        raise UsageError(
            "the vocabulary cannot become that small", where=encoder.location,
            got=f"{encoder.size - count} tokens", expected=f"{encoder.size - len(removed)} tokens or more",
        )  # fmt: skip
    return removed


def _renumbered(post: object, new_number: dict[int, int]) -> object:
    """A post-processor with its token numbers renewed."""
    if isinstance(post, list):
        return [_renumbered(part, new_number) for part in post]
    if not isinstance(post, dict):
        return post
    found = {key: _renumbered(value, new_number) for key, value in post.items()}
    if isinstance(post.get("ids"), list):
        found["ids"] = [new_number.get(number, number) for number in post["ids"]]
    for key in ("sep", "cls"):
        if isinstance(post.get(key), list) and len(post[key]) == 2:
            found[key] = [post[key][0], new_number.get(post[key][1], post[key][1])]
    return found
