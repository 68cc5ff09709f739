"""The merge that makes each token, found from the tokens and their order alone.

tiktoken files and sentencepiece BPE models hold no merges: at each step they join the two neighbors whose union comes
first in the vocabulary. A list of merges does the same when each token has the pair that its own encoding ends in.

Law: what lies outside a span changes no merge inside it as long as none crosses its border, and where one does, the
span is no token. So a token is made by one pair wherever it is made: the last one in its own encoding. Tokens that
their own encoding does not end in can never be made by merging: orphans. (An operand may come after its product in the
vocabulary: Llama 3 has such tokens, and a search among earlier tokens alone would lose them.)

Source: tiktoken `_educational.py`; sentencepiece `bpe_model.cc`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

Text = TypeVar("Text", str, bytes)


def derive_merges(tokens: Sequence[Text], rank: dict[Text, int]) -> tuple[list[tuple[Text, Text]], list[Text]]:
    """The merges that make `tokens`, in the order of their ranks.

    Args:
        tokens: tokens of more than one atom (a character, or a byte), in the order of their ranks.
        rank: rank of every token that may be a product; a lower one is made earlier.

    Returns:
        One merge for each token that can be made, and the tokens that cannot.
    """
    merges: list[tuple[Text, Text]] = []
    orphans: list[Text] = []
    for token in tokens:
        parts = _last_pair(token, rank)
        if len(parts) == 2:
            merges.append((parts[0], parts[1]))
        else:
            orphans.append(token)
    return merges, orphans


def _last_pair(token: Text, rank: dict[Text, int]) -> list[Text]:
    """`token` encoded up to its last merge; more than two parts where it cannot be made."""
    never = 1 << 62
    parts = [token[i : i + 1] for i in range(len(token))]
    pairs = [rank.get(a + b, never) for a, b in pairwise(parts)]
    while len(parts) > 2:
        best = min(pairs)
        if best == never:
            break
        at = pairs.index(best)  # of equal ranks the leftmost
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
        del pairs[at]
        if at > 0:
            pairs[at - 1] = rank.get(parts[at - 1] + parts[at], never)
        if at < len(pairs):
            pairs[at] = rank.get(parts[at] + parts[at + 1], never)
    return parts
