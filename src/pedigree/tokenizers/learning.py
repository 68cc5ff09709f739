"""Continued BPE: new merges learned on new text, on top of the merges that a vocabulary has.

Laws
- Words are first encoded by the old merges, all of them; a new merge joins two tokens that stand side by side after
  that. Every old merge comes before every new one, and no new token is an operand of an old merge, so texts are encoded
  by the old merges exactly as before, and then further.
- A new token is what its own surface is encoded to, since it was met between the tokens it is made of.
- Among pairs of one frequency the one whose spelling comes first is taken: the same texts give the same merges.

Source: "Teaching Old Tokenizers New Words" (arXiv 2512.03989); Sennrich et al. (arXiv 1508.07909).
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from tokenizers import Regex, pre_tokenizers

from pedigree.tokenizers.compression import Progress
from pedigree.tokenizers.encoder import Encoder
from pedigree.tokenizers.surface import SPACE_MARK
from pedigree.tokenizers.texts import Text

# Where a vocabulary does not cut words itself (sentencepiece), new merges stay within a script and digits stay apart.
_WORDS = r"\u2581?\p{Han}+|\u2581?(?:(?!\p{Han})[\p{L}\p{M}])+|\u2581?\p{N}|\u2581+|[^\s\p{L}\p{M}\p{N}\u2581]+|\s"
COVERAGE = 0.9995  # of the characters that would fall back to bytes


@dataclass
class Words:
    """Distinct words as token numbers, how often each occurs, and which words hold which pair."""

    symbols: list[list[int]]
    counts: list[int]
    pairs: Counter[tuple[int, int]] = field(default_factory=Counter)
    places: dict[tuple[int, int], set[int]] = field(default_factory=lambda: defaultdict(set))

    def __post_init__(self) -> None:
        for place, word in enumerate(self.symbols):
            for pair in pairwise(word):
                self.pairs[pair] += self.counts[place]
                self.places[pair].add(place)

    def join(self, pair: tuple[int, int], number: int) -> set[tuple[int, int]]:
        """Replace a pair by a new token everywhere; the pairs whose counts have changed."""
        changed: set[tuple[int, int]] = set()
        for place in sorted(self.places.pop(pair, ())):
            word, count = self.symbols[place], self.counts[place]
            for old in pairwise(word):
                self.pairs[old] -= count
                if old != pair:
                    self.places[old].discard(place)
                changed.add(old)
            joined: list[int] = []
            at = 0
            while at < len(word):
                if at + 1 < len(word) and (word[at], word[at + 1]) == pair:
                    joined.append(number)
                    at += 2
                else:
                    joined.append(word[at])
                    at += 1
            self.symbols[place] = joined
            for new in pairwise(joined):
                self.pairs[new] += count
                self.places[new].add(place)
                changed.add(new)
        self.pairs.pop(pair, None)
        return changed - {pair}


def count_words(encoder: Encoder, texts: Sequence[Text], progress: Progress | None = None) -> Counter[str]:
    """Words as the vocabulary spells them, after its normalizer and pre-tokenizer."""
    cuts_itself = "Split" in str(encoder.definition["pre_tokenizer"]) or encoder.is_byte_level
    words_of = pre_tokenizers.Split(Regex(_WORDS), "isolated")
    counts: Counter[str] = Counter()
    total, done = sum(len(text.units) for text in texts), 0
    for text in texts:
        for unit in text.units:
            pieces = encoder.words(unit)
            if not cuts_itself:
                pieces = [word for piece in pieces for word, _ in words_of.pre_tokenize_str(piece)]
            counts.update(pieces)
            done += 1
            if progress is not None and done % 2048 == 0:
                progress("counting words", 0.3 * done / total, text.name)
    return counts


def missing_characters(encoder: Encoder, words: Counter[str], most: int, min_frequency: int) -> list[str]:
    """Characters that fall back to two bytes or more, the commonest first, up to nearly all of their occurrences.

    One byte piece is one token already, and the model knows it: a character for it (Llama 2 has a line end as a byte)
    would change every old text and shorten none.
    """
    known = {spelling for spelling in encoder.spellings if spelling is not None}
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            if not character.isascii() and character not in known and character != SPACE_MARK:
                counts[character] += count
    wanted, covered = COVERAGE * sum(counts.values()), 0
    chosen: list[str] = []
    for character, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if covered >= wanted or len(chosen) >= most or count < min_frequency:
            break
        chosen.append(character)
        covered += count
    return chosen


def learn_merges(
    encoder: Encoder,
    words: Counter[str],
    n_merges: int,
    *,
    min_frequency: int,
    longest: int,
    progress: Progress | None = None,
) -> list[tuple[str, str]]:
    """At most `n_merges` new merges, the most frequent pair first.

    Args:
        encoder: the vocabulary to build on; new tokens are numbered from its size on.
        words: words in its spelling and their counts.
        longest: most characters of a token's spelling (bytes for byte-level vocabularies).
    """
    items = sorted(words.items())
    table = Words([encoder.by_model(word) for word, _ in items], [n for _, n in items])
    spelled = [str(spelling) if spelling is not None else "" for spelling in encoder.spellings]
    taken = set(spelled)
    closed = set(encoder.byte_pieces.values()) | set(encoder.specials)

    def entry(pair: tuple[int, int]) -> tuple[int, str, str, tuple[int, int]]:
        return -table.pairs[pair], spelled[pair[0]], spelled[pair[1]], pair

    heap = [entry(pair) for pair in table.pairs]
    heapq.heapify(heap)
    merges: list[tuple[str, str]] = []
    while heap and len(merges) < n_merges:
        negative, left, right, pair = heapq.heappop(heap)
        count = table.pairs.get(pair, 0)
        if count != -negative or count < min_frequency:
            continue  # an older entry: the present count has its own
        product = left + right
        if product in taken or closed & set(pair) or len(product) > longest:
            continue
        taken.add(product)
        spelled.append(product)
        merges.append((left, right))
        for changed in table.join(pair, len(spelled) - 1):
            if table.pairs.get(changed, 0) >= min_frequency:
                heapq.heappush(heap, entry(changed))
        if progress is not None and len(merges) % 64 == 0:
            progress("learning merges", 0.3 + 0.7 * len(merges) / n_merges, product)
    return merges
