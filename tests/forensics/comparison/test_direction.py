"""Who came first: evidence made by hand, one piece at a time, and both ways round."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from forensics.hand_made import Path, bits, found, grid, tokens, unit_map
from forensics.tiny_models import Sizes, generator, llama, side

from pedigree.forensics.comparison.direction import DirectionEvidence, additive_vote, weigh_direction
from pedigree.forensics.comparison.findings import Findings
from pedigree.forensics.descent.share import Share
from pedigree.forensics.descent.survival import Survival

PLAIN: Path = [0, 1, 2, 3]
FOUR = side(llama(0, Sizes(layers=4)), Sizes(layers=4).config())
SIX = side(llama(0, Sizes(layers=6)), Sizes(layers=6).config())
WHOLE, PARTLY = Survival(1.0, 0.99, 0.02, 12), Survival(0.6, 0.8, 0.3, 12)


def findings(**more: Any) -> Findings:
    more.setdefault("survival", (None, None))
    path = more.pop("path", PLAIN)
    return found(path, {"ffn": grid(path, more.pop("n_a", 4))}, **more)


PIECES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "rounded to a coarser type": (
        {"bits": bits(equal_after_cast=["embed", "head"], coarser="b")},
        {"bits": bits(equal_after_cast=["embed", "head"], coarser="a")},
    ),
    "units copied": (
        {"unit_maps": {0: unit_map([*range(40), *range(20)], 40)}, "reverse_units": {0: unit_map(range(40), 60)}},
        {"unit_maps": {0: unit_map(range(40), 60)}, "reverse_units": {0: unit_map([*range(40), *range(20)], 40)}},
    ),
    "lives on whole one way only": ({"survival": (WHOLE, PARTLY)}, {"survival": (PARTLY, WHOLE)}),
}


@pytest.mark.parametrize(("there", "back"), PIECES.values(), ids=PIECES.keys())
def test_each_piece_of_structure_decides_and_turns_with_the_pair(there: dict[str, Any], back: dict[str, Any]) -> None:
    forward, backward = (weigh_direction(FOUR, FOUR, findings(**case)) for case in (there, back))
    assert forward.verdict == "a-to-b"
    assert backward.verdict == "b-to-a"
    assert forward.log_odds == pytest.approx(-backward.log_odds)
    assert forward.reasons
    assert backward.reasons


def test_copies_that_parted_by_training_do_not_turn_the_order_of_two_equally_large_models() -> None:
    """Each pair of copies in A (a mixture just made, say) lies nearest to one of the two units they became in B."""
    parted = {"unit_maps": {0: unit_map(range(40), 40)}, "reverse_units": {0: unit_map([*range(20), *range(20)], 40)}}
    assert weigh_direction(FOUR, FOUR, findings(**parted)).log_odds == 0.0


def test_repeated_layers_were_made_from_single_ones() -> None:
    stacked = findings(path=[0, 1, 2, 1, 2, 3], reverse_map=[0, 1, 2, 5])
    assert weigh_direction(FOUR, SIX, stacked).verdict == "a-to-b"
    base = findings(path=[0, 1, 2, 5], reverse_map=[0, 1, 2, 1, 2, 3], n_a=6)
    assert weigh_direction(SIX, FOUR, base).verdict == "b-to-a"


def test_repeated_layers_count_also_when_every_number_was_copied() -> None:
    stacked = findings(path=[0, 1, 2, 1, 2, 3], reverse_map=[0, 1, 2, 5], bits=bits(equal=["embed"], whole=True))
    assert weigh_direction(FOUR, SIX, stacked).verdict == "a-to-b"


def test_nothing_seen_says_nothing() -> None:
    evidence = weigh_direction(FOUR, FOUR, findings())
    assert evidence.verdict == "undetermined"
    assert evidence.log_odds == 0.0
    assert evidence.reasons == []


def test_equal_models_have_no_direction() -> None:
    evidence = weigh_direction(FOUR, FOUR, findings(bits=bits(equal=["embed"], whole=True), additive=(30, 2)))
    assert evidence.verdict == "undetermined"


def test_siblings_fall_short_of_whole_both_ways() -> None:
    short = Survival(0.9, 0.85, 0.1, 12)
    assert weigh_direction(FOUR, FOUR, findings(survival=(short, PARTLY))).verdict == "undetermined"
    assert weigh_direction(FOUR, FOUR, findings(survival=(WHOLE, WHOLE))).verdict == "undetermined"


def test_a_longer_vocabulary_alone_is_a_hint_and_no_decision() -> None:
    evidence = weigh_direction(FOUR, FOUR, findings(tokens=tokens(500, 500, 540)))
    assert evidence.log_odds > 0
    assert evidence.verdict == "undetermined"


def test_additive_votes_lean_but_do_not_decide_alone() -> None:
    evidence = weigh_direction(FOUR, FOUR, findings(additive=(100, 0)))
    assert evidence.log_odds > 0
    assert evidence.verdict == "undetermined"
    assert weigh_direction(FOUR, FOUR, findings(additive=(0, 100))).log_odds == pytest.approx(-evidence.log_odds)
    assert weigh_direction(FOUR, FOUR, findings(additive=(50, 50))).log_odds == pytest.approx(0.0)
    assert weigh_direction(FOUR, FOUR, findings(additive=(2, 0))).reasons == []


def test_odds_add_up_and_every_reason_carries_its_share() -> None:
    evidence = DirectionEvidence()
    evidence.add(2.0, "one")
    evidence.add(-0.5, "two")
    assert evidence.log_odds == pytest.approx(1.5)
    assert evidence.reasons == ["one (+2.0)", "two (-0.5)"]
    assert evidence.verdict == "undetermined"
    evidence.add(math.log(20.0), "three")
    assert evidence.verdict == "a-to-b"


def test_an_additive_change_votes_for_the_weights_it_was_added_to() -> None:
    votes = []
    for seed in range(12):
        g = generator(seed)
        parent = torch.randn(120, 80, generator=g) * torch.exp(0.5 * torch.randn(120, 80, generator=g))
        child = parent + 0.8 * torch.randn(120, 80, generator=g)
        assert additive_vote(parent, child) == -additive_vote(child, parent)
        votes.append(additive_vote(parent, child))
    assert sum(votes) >= 10


def test_matrices_without_numbers_to_speak_of_do_not_vote() -> None:
    zeros, some = torch.zeros(20, 20), torch.randn(20, 20, generator=generator(0))
    assert additive_vote(zeros, some) == 0
    assert additive_vote(zeros, zeros) == 0
    assert additive_vote(torch.ones(20, 20), torch.ones(20, 20)) == 0


@pytest.mark.parametrize(("residual", "word"), [(1.0, "a-to-b"), (5.0, "undetermined")])
def test_the_middle_of_a_merge_is_not_taken_for_an_ancestor_and_noise_is_told_from_it(
    residual: float, word: str
) -> None:
    """Both live on whole in the other; what the other has on top is noise in a noisy child, learned in a merge."""
    whole = Survival(1.0, 0.99, 0.02, 12, residual, excess=0.2)
    half = Survival(0.5, 0.5, 0.03, 12, residual, excess=0.2)
    assert weigh_direction(FOUR, FOUR, findings(survival=(whole, half))).verdict == word
    if word == "undetermined":
        assert weigh_direction(FOUR, FOUR, findings(survival=(half, whole))).verdict == word


def test_the_mean_of_two_models_that_learned_nothing_is_no_ancestor_of_either() -> None:
    """What each has on top of it looks like noise, but noise as large as the weights is the less likely of the two."""
    whole, half = Survival(1.0, 1.0, 0.02, 12, 1.0), Survival(0.5, 0.5, 0.03, 12, 1.6)
    assert weigh_direction(FOUR, FOUR, findings(survival=(half, whole))).verdict == "undetermined"


@pytest.mark.parametrize("learned", [1.0, 8.0])
def test_a_sibling_that_drifted_less_is_not_called_the_ancestor(learned: float) -> None:
    """It lives on whole in the other and the votes are for it, as of a parent; only what was never learned decides."""
    near, far = Survival(1.01, 1.0, 0.02, 12, learned), Survival(0.7, 0.93, 0.3, 12, learned)
    pair = findings(survival=(near, far), additive=(26, 2))
    alone = weigh_direction(FOUR, FOUR, pair)
    assert alone.verdict == ("a-to-b" if learned == 1.0 else "undetermined")
    assert alone.log_odds > 0
    assert weigh_direction(FOUR, FOUR, pair, alone=False).verdict == "a-to-b"
    if learned > 1.0:
        assert any("sibling that drifted less" in words for words in alone.reasons)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_later_average_is_not_called_an_earlier_checkpoint(sign: float) -> None:
    """A model averaged with its base, or over its last checkpoints, lies where an earlier checkpoint would."""
    whole = Survival(1.0, 1.0, 0.02, 12, 5.0)
    share = Share(of_a=0.5 - 0.5 * sign, error=0.01, moved=0.05, matrices=28)
    pair = findings(survival=(whole, whole), share=share)
    evidence = weigh_direction(FOUR, FOUR, pair)
    assert evidence.verdict == "undetermined"
    assert evidence.log_odds * sign > 2.0
    assert any("average" in words for words in evidence.reasons)
    assert weigh_direction(FOUR, FOUR, pair, alone=False).log_odds * sign > math.log(20.0)


def test_what_late_steps_add_is_not_taken_for_noise() -> None:
    """The mean of the last checkpoints lives on whole in the last one; what that has on top is nearly noise."""
    mean, last = Survival(1.02, 1.04, 0.02, 28, 1.45), Survival(0.97, 0.95, 0.02, 28, 1.63)
    assert weigh_direction(FOUR, FOUR, findings(survival=(last, mean), additive=(10, 18))).verdict == "undetermined"


def test_structure_decides_beside_nearness() -> None:
    near, far = Survival(1.0, 1.0, 0.02, 12, 8.0), Survival(0.7, 0.8, 0.2, 12, 8.0)
    rounded = bits(equal_after_cast=["embed", "head"], coarser="b")
    assert weigh_direction(FOUR, FOUR, findings(survival=(near, far), bits=rounded)).verdict == "a-to-b"
    assert weigh_direction(FOUR, FOUR, findings(survival=(far, near), bits=rounded)).verdict == "a-to-b"


@pytest.mark.parametrize(
    ("own", "word"), [(0.0, "a-to-b"), (0.3, "a-to-b"), (0.5, "undetermined"), (1.0, "undetermined")]
)
def test_copies_name_a_child_of_the_other_only_where_the_other_has_nothing_of_its_own(own: float, word: str) -> None:
    """A model with repeated layers and a tuned one are siblings: what was tuned is not in the one with repeats."""
    share = Share(own, 0.03, 0.15, 28)
    case = {"path": [0, 1, 2, 1, 2, 3], "reverse_map": [0, 1, 2, 5], "share": share}
    found_here = weigh_direction(FOUR, SIX, findings(**case))
    assert found_here.verdict == word
    if word == "undetermined":
        assert "both may come from a third model" in found_here.reasons[-1]


def test_two_models_that_each_have_what_only_a_child_has_are_siblings() -> None:
    case = {
        "path": [0, 1, 2, 1, 2, 3], "reverse_map": [0, 1, 2, 5],
        "bits": bits(equal_after_cast=["embed", "head"], coarser="a"),
    }  # fmt: skip
    assert weigh_direction(FOUR, SIX, findings(**case)).verdict == "undetermined"


def test_units_that_write_nothing_lean_but_do_not_decide_alone() -> None:
    """Added units write nothing before they are trained; units pruned by a mask write nothing either."""
    case = {"unit_maps": {0: unit_map([*range(40), *[-1] * 12], 40, silent=range(40, 52))}}
    leaning = weigh_direction(FOUR, FOUR, findings(**case))
    assert leaning.verdict == "undetermined"
    assert leaning.log_odds > 0


def test_of_two_types_of_sixteen_bits_the_one_with_wider_gaps_is_the_coarser() -> None:
    from pedigree.forensics.sides.bits import _coarser

    for pair in ((torch.float16, torch.bfloat16), (torch.bfloat16, torch.float16)):
        assert _coarser(*pair) == torch.bfloat16
