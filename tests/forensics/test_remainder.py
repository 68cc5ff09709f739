"""What a parent leaves of a merge, beside the other parent: told with a vocabulary drawn anew, and nothing invented."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from mini_zoo import Compare, Derive, Write

from pedigree.benchmark.zoo import Zoo
from pedigree.benchmark.zoo.snapshot import Snapshot
from pedigree.forensics.compare import compare
from pedigree.forensics.findings import Findings
from pedigree.forensics.measure import measure, single_thread
from pedigree.forensics.remainder import believed, rest_of, shares_in_place
from pedigree.forensics.sampling import choose_sample
from pedigree.forensics.side import Side
from pedigree.forensics.verdict import Judgment, judge
from pedigree.records.comparison import Rest
from pedigree.weights.checkpoint import Checkpoint, open_checkpoint


def look(a: Checkpoint, b: Checkpoint) -> tuple[Side, Side, Findings, Judgment]:
    left, right = (Side.read(model, choose_sample("standard", 0)) for model in (a, b))
    found = measure(left, right, whole_bits=True)
    return left, right, found, judge(left, right, found)


@contextmanager
def opened(*places: Path) -> Iterator[list[Checkpoint]]:
    with ExitStack() as stack, single_thread():
        yield [stack.enter_context(open_checkpoint(place)) for place in places]


def rest(a: Path, b: Path, c: Path) -> Rest:
    with opened(a, b, c) as (left, right, decoy):
        return rest_of(left, right, decoy, look)


def test_the_minor_parent_is_told_beside_the_major_one_and_the_word_stays(
    zoo: Zoo, compared: Compare, derive: Derive
) -> None:
    merged = derive("fresh-tables", derive("merge", "base0", "base1", share=0.2))
    found = compare(zoo.models["base0"], merged, decoys=[zoo.models["base1"]])
    told = found.result.controls.decoys[0].rest
    assert told is not None
    assert told.verdict == "related"
    assert told.share == pytest.approx(0.2, abs=0.01)
    assert told.taken_out == pytest.approx(0.8, abs=0.01)
    assert told.log10_p is not None
    assert told.log10_p < -20
    bare = compared("base0", merged).result
    assert bare.verdict not in ("related", "partly-related", "shared-initialization", "identical")
    assert found.result.verdict == bare.verdict
    assert found.result.not_checked == [*bare.not_checked, believed(str(zoo.models["base1"]))]


def test_a_twin_of_the_minor_parent_is_none(zoo: Zoo, derive: Derive) -> None:
    told = rest(zoo.models["base0"], derive("merge", "twin", "base1", share=0.2), zoo.models["base1"])
    assert told.verdict in ("shared-initialization", "inconclusive")


def test_a_child_of_one_parent_holds_nothing_of_a_stranger(zoo: Zoo) -> None:
    told = rest(zoo.models["base1"], zoo.models["continued"], zoo.models["base0"])
    assert (told.verdict, told.share) == ("unrelated", None)


def test_a_decoy_that_is_no_kin_of_b_is_not_taken_out(zoo: Zoo, compared: Compare) -> None:
    found = compare(zoo.models["base1"], zoo.models["continued"], decoys=[zoo.models["twin"]]).result
    bare = compared("base1", "continued").result
    assert [decoy.rest for decoy in found.controls.decoys] == [None]
    assert (found.verdict, found.tests, found.not_checked) == (bare.verdict, bare.tests, bare.not_checked)


def test_nothing_is_said_where_the_decoy_is_kin_of_a(zoo: Zoo) -> None:
    told = rest(zoo.models["twin"], zoo.models["continued"], zoo.models["base0"])
    assert told.verdict is None
    assert "shared initialization" in (told.why_not or "")


def test_nothing_is_taken_out_of_a_model_that_stands_in_another_frame(zoo: Zoo, derive: Derive) -> None:
    turned = derive("rotate", derive("merge", "base0", "base1", share=0.2))
    told = rest(zoo.models["base0"], turned, zoo.models["base1"])
    assert told.verdict is None
    assert "number by number" in (told.why_not or "")


def test_a_share_is_least_squares_and_tables_drawn_anew_have_none(zoo: Zoo, derive: Derive) -> None:
    merged = derive("fresh-tables", derive("merge", "base0", "base1", share=0.2))
    with opened(merged, zoo.models["base1"]) as (b, c):
        shares = shares_in_place(b, c)
    assert all(0.7 < share < 0.9 for share in shares.values())
    assert not any("embed" in name or "lm_head" in name for name in shares)
    assert len(shares) == 4 * 7


def test_a_decoy_made_from_both_is_believed_and_said_to_be(zoo: Zoo, write: Write) -> None:
    """Whoever has A and an innocent B can make C = B - A / 4. The word for A and B does not move, and the record says
    what the rest rests on, if it says anything about it."""
    innocent, victim = (Snapshot.load(zoo.models[name]) for name in ("base1", "base0"))
    made = {name: t - 0.25 * victim.tensors[name] for name, t in innocent.tensors.items() if t.ndim > 1}
    crafted = write(replace(innocent, tensors={**innocent.tensors, **made}))
    found = compare(zoo.models["base0"], zoo.models["base1"], decoys=[crafted]).result
    assert found.verdict == "unrelated"
    told = found.controls.decoys[0].rest
    assert told is not None
    assert (told.verdict in ("related", "partly-related")) == (believed(str(crafted)) in found.not_checked)
