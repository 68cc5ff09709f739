"""Everything on which two vocabularies disagree when they are put into one, found and listed.

Kinds
merge-rank         a token that B makes and the outcome cannot: merges of A take its parts, or no path scores as well
merge-order        merges that both have, in another order (outside the longest list of merges in common order)
merge-lost         a merge of B whose parts or product are not tokens of the outcome
pre-tokenizer      the two cut words differently; and each token of B that the outcome cuts apart
normalizer         the two change texts differently; and each token of B whose text the outcome changes
byte-fallback      the two write unknown characters differently; and each token of B that A cannot spell
duplicate-surface  two tokens of the outcome stand for the same bytes, or differ in their Unicode form only
special-token      a control of one that the other has not, or has as text
inherited          a token that was unreachable in its parent already
"""

from __future__ import annotations

import json
import unicodedata
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence

from pedigree.records.comparison import Producer
from pedigree.records.tokenizer import (
    ConcatenationResult,
    Conflict,
    ConflictList,
    TokenizerConcatenation,
)
from pedigree.tokenizers.audit import surface_text, tokenizer_input
from pedigree.tokenizers.concatenation import Joined
from pedigree.tokenizers.encoder import Encoder
from pedigree.tokenizers.reachability import reachability

KINDS = (
    "merge-rank", "merge-order", "merge-lost", "pre-tokenizer", "normalizer", "byte-fallback", "duplicate-surface",
    "special-token", "inherited",
)  # fmt: skip
SHOWN = 8
# Why a token cannot be produced (`Unreachable.why`) -> kind of conflict, where the two names differ.
CAUSES = {
    "merges": "merge-rank",
    "path": "merge-rank",
    "duplicate": "duplicate-surface",
    "added token": "special-token",
    "added token that is never matched": "special-token",
}


def find_conflicts(a: Encoder, b: Encoder, joined: Joined) -> list[Conflict]:
    """All conflicts, in the order of `KINDS`."""
    found = [
        *_parts(a, b),
        *_unreachable(a, b, joined),
        *_merge_order(a, joined),
        *_lost(a, b, joined),
        *_duplicates(joined),
        *_controls(a, b, joined),
    ]
    return sorted(found, key=lambda conflict: KINDS.index(conflict.kind))


def _parts(a: Encoder, b: Encoder) -> list[Conflict]:
    """Where the two treat text differently before they look at tokens; A's way is kept."""
    found = []
    for kind, part in (("normalizer", "normalizer"), ("pre-tokenizer", "pre_tokenizer")):
        mine, theirs = (json.dumps(x.definition[part], sort_keys=True) for x in (a, b))
        if mine != theirs:
            detail = f"A has {_brief(mine)}, B has {_brief(theirs)}; that of A is kept"
            found.append(Conflict(kind=kind, detail=detail))
    ways = ["bytes" if x.is_byte_level else "byte pieces" if x.byte_pieces else "an unknown token" for x in (a, b)]
    if ways[0] != ways[1]:
        detail = f"unknown characters become {ways[0]} in A and {ways[1]} in B; the way of A is kept"
        found.append(Conflict(kind="byte-fallback", detail=detail))
    return found


def _brief(text: str) -> str:
    if text == "null":
        return "none"
    return text if len(text) <= 120 else text[:117] + "..."


def _unreachable(a: Encoder, b: Encoder, joined: Joined) -> list[Conflict]:
    """Tokens of the outcome that nothing makes, told apart by cause; A's own were unreachable before."""
    outcome = joined.encoder
    back: dict[int, int] = {}
    for number, there in enumerate(joined.map_b):
        if there is not None:
            back.setdefault(there, number)
    dead_in_b = {entry.number for entry in reachability(b).unreachable}
    dead_in_a = {entry.number for entry in reachability(a).unreachable}
    found = []
    for entry in reachability(outcome).unreachable:
        in_a = entry.number if entry.number < a.size else None
        in_b = back.get(entry.number)
        before = entry.number in dead_in_a if in_a is not None else in_b is not None and in_b in dead_in_b
        kind = "inherited" if before else CAUSES.get(entry.why, entry.why)
        names = " ".join(repr(surface_text(outcome, number)) for number in entry.becomes[:6])
        found.append(
            Conflict(
                kind=kind, detail=f"cannot be produced ({entry.why}): its text becomes {names}",
                surface=surface_text(outcome, entry.number), a=in_a, b=in_b, result=entry.number,
                becomes=list(entry.becomes),
            )
        )  # fmt: skip
    return found


def _merge_order(a: Encoder, joined: Joined) -> list[Conflict]:
    """Shared merges outside the longest common order: the fewest that would have to move."""
    places = sorted(joined.shared_merges)
    kept = set(longest_rising([there for _, there in places]))
    own = a.merges
    return [
        Conflict(
            kind="merge-order",
            detail=f"merge {mine:,} of A and {there:,} of B, against the order of the others",
            surface=" + ".join(own[mine]),
        )
        for place, (mine, there) in enumerate(places)
        if place not in kept
    ]


def longest_rising(numbers: Sequence[int]) -> list[int]:
    """Places of a longest strictly rising subsequence."""
    tails: list[int] = []
    ends: list[int] = []
    before: list[int] = []
    for place, number in enumerate(numbers):
        at = bisect_left(tails, number)
        before.append(ends[at - 1] if at else -1)
        if at == len(tails):
            tails.append(number)
            ends.append(place)
        else:
            tails[at], ends[at] = number, place
    chain = []
    place = ends[-1] if ends else -1
    while place >= 0:
        chain.append(place)
        place = before[place]
    return chain[::-1]


def _lost(a: Encoder, b: Encoder, joined: Joined) -> list[Conflict]:
    controls = {a.spellings[number] for number in a.specials}
    lost = [
        Conflict(kind="merge-lost", detail="a part or the product is no token here", surface=f"{left} + {right}")
        for left, right in joined.dropped_merges
    ]
    for number in joined.untaken:
        surface = surface_text(b, number)
        kind, detail = "byte-fallback", "A has no spelling for it: not taken"
        if surface in controls:
            kind, detail = "special-token", "text in B that is spelled like a control of A: not taken"
        lost.append(Conflict(kind=kind, detail=detail, surface=surface, b=number))
    return lost


def _duplicates(joined: Joined) -> list[Conflict]:
    """Tokens of the outcome with equal bytes, or with texts that Unicode takes for equal."""
    outcome = joined.encoder
    pieces = set(outcome.byte_pieces.values())
    same: dict[bytes, list[int]] = defaultdict(list)
    forms: dict[str, set[str]] = defaultdict(set)
    for number, surface in enumerate(outcome.surfaces):
        if surface is None or number in pieces:
            continue
        same[surface].append(number)
        text = surface.decode("utf-8", "replace")
        if not text.isascii() and "\ufffd" not in text:
            forms[unicodedata.normalize("NFC", text)].add(text)
    found = [
        Conflict(
            kind="duplicate-surface", detail=f"tokens {', '.join(map(str, numbers))} stand for the same bytes",
            surface=surface.decode("utf-8", "replace"), result=numbers[0], becomes=numbers,
        )
        for surface, numbers in same.items()
        if len(numbers) > 1
    ]  # fmt: skip
    for form, texts in forms.items():
        if len(texts) > 1:
            numbers = sorted(same[text.encode()][0] for text in texts)
            detail = f"tokens {', '.join(map(str, numbers))} are one text to Unicode (normal form C)"
            found.append(
                Conflict(kind="duplicate-surface", detail=detail, surface=form, result=numbers[0], becomes=numbers)
            )
    return found


def _controls(a: Encoder, b: Encoder, joined: Joined) -> list[Conflict]:
    found = [
        Conflict(
            kind="special-token", detail="a control of B that A has not: appended", surface=str(b.spellings[number]),
            b=number, result=joined.map_b[number],
        )
        for number in joined.specials
    ]  # fmt: skip
    controls_b = {str(b.spellings[number]) for number in b.specials}
    text_b = {str(spelled): number for number, spelled in enumerate(b.spellings) if number not in b.specials}
    for number in sorted(a.specials):
        text = str(a.spellings[number])
        if text in text_b:
            detail = "a control of A that is text in B: kept as a control"
            found.append(Conflict(kind="special-token", detail=detail, surface=text, a=number, b=text_b[text]))
        elif text not in controls_b:
            detail = "a control of A that B has not: kept"
            found.append(Conflict(kind="special-token", detail=detail, surface=text, a=number, result=number))
    for number in sorted(b.specials):
        there = joined.map_b[number]
        if there is not None and there < a.size and there not in a.specials:
            detail = "a control of B that is text in A: kept as text"
            spelled = str(b.spellings[number])
            found.append(Conflict(kind="special-token", detail=detail, surface=spelled, a=there, b=number))
    return found


def concatenation_records(
    a: Encoder, b: Encoder, joined: Joined, producer: Producer | None = None
) -> tuple[TokenizerConcatenation, ConflictList]:
    """The record of a concatenation, and the full list that goes beside the tokenizer."""
    conflicts = find_conflicts(a, b, joined)
    counts = {kind: sum(c.kind == kind for c in conflicts) for kind in KINDS}
    dead = [c for c in conflicts if c.detail.startswith("cannot be produced") and c.kind != "inherited"]
    result = ConcatenationResult(
        tokens=joined.encoder.size,
        from_a=a.size,
        shared=joined.shared,
        added_from_b=len(joined.appended),
        not_taken_from_b=len(joined.untaken),
        merges_from_a=len(a.merges),
        merges_from_b=joined.merges_b,
        merges_made_up=joined.made_up,
        conflicts=counts,
        examples={kind: [c for c in conflicts if c.kind == kind][:SHOWN] for kind in KINDS if counts[kind]},
        unreachable=len(dead),
        verdict=_verdict(joined, counts, len(dead)),
    )
    inputs = tokenizer_input(a), tokenizer_input(b)
    record = TokenizerConcatenation(
        producer=producer or Producer(), a=inputs[0], b=inputs[1], tokenizer=tokenizer_input(joined.encoder),
        result=result,
    )  # fmt: skip
    mapping: dict[str, list[int | None]] = {"a": list(range(a.size)), "b": joined.map_b}
    return record, ConflictList(a=inputs[0], b=inputs[1], conflicts=conflicts, id_map=mapping)


def _verdict(joined: Joined, counts: dict[str, int], dead: int) -> list[str]:
    added = len(joined.appended)
    said = [f"{added:,} tokens of B are added to A, {joined.shared:,} are shared"]
    if dead:
        said.append(f"{dead:,} tokens that their parent makes cannot be produced ({dead / max(1, added):.1%} of added)")
    else:
        said.append("every token that its parent makes can be produced")
    total = sum(counts.values())
    said.append(f"{total:,} conflicts of {sum(n > 0 for n in counts.values())} kinds; all stand in conflicts.json")
    return said
