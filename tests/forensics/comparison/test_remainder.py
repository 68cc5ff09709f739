"""What a parent leaves of a merge, beside the other parent: told with a vocabulary drawn anew, and nothing invented."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from mini_zoo import Compare, Derive, Write
from tests.forensics.merge_shop import linear, write_model
from tests.forensics.tiny_models import Sizes, llama

from pedigree.benchmark.zoo import Zoo
from pedigree.benchmark.zoo.snapshot import Snapshot
from pedigree.errors import UsageError
from pedigree.forensics.compare import compare
from pedigree.forensics.comparison.bank import rest_error_rate
from pedigree.forensics.comparison.findings import Findings
from pedigree.forensics.comparison.measure import measure, single_thread
from pedigree.forensics.comparison.remainder import believed, rest_of, shares_in_place
from pedigree.forensics.comparison.verdict import Judgment, judge
from pedigree.forensics.sides.sampling import Depth, choose_sample
from pedigree.forensics.sides.side import Side
from pedigree.records.comparison import Rest
from pedigree.report.words import rest_sentence
from pedigree.weights.anatomy import read_anatomy
from pedigree.weights.checkpoint import Checkpoint, open_checkpoint
from pedigree.weights.laid_out import LaidOut

Looked = tuple[Side, Side, Findings, Judgment]


def look(a: Checkpoint, b: Checkpoint) -> Looked:
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
    assert told.error_rate == rest_error_rate()
    assert "said falsely at most 0.68 % of the time (440 looks, 95 %)" in rest_sentence(told)
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


@pytest.mark.parametrize("moves", ["permute", "rotate", "disguise"])
def test_a_merge_that_was_moved_afterwards_is_taken_apart_as_well(moves: str, zoo: Zoo, derive: Derive) -> None:
    moved = derive(moves, derive("fresh-tables", derive("merge", "base0", "base1", share=0.2)))
    told = rest(zoo.models["base0"], moved, zoo.models["base1"])
    assert (told.verdict, told.moved) == ("related", True)
    assert told.taken_out == pytest.approx(0.8, abs=0.02)
    assert told.share == pytest.approx(0.2, abs=0.02)


def test_a_disguised_child_of_one_parent_holds_nothing_of_a_stranger(zoo: Zoo) -> None:
    """Whatever was fitted between the child and its parent creates no agreement with a third model."""
    told = rest(zoo.models["base1"], zoo.models["disguised+"], zoo.models["base0"])
    assert (told.verdict, told.share, told.moved) == ("unrelated", None, True)


def test_nothing_is_taken_out_of_a_model_of_another_width(zoo: Zoo) -> None:
    told = rest(zoo.models["base1"], zoo.models["pruned-residual"], zoo.models["base0"])
    assert told.verdict is None
    assert "as they stand or moved as B was" in (told.why_not or "")


def null_p_values(folder: Path, draws: range) -> list[float]:
    """Exact p-values of a model beside what another leaves of a merge with a third, all three drawn apart; every
    second merge is reordered."""
    sizes, found = Sizes(d=32, layers=2, heads=4, kv_heads=2, head_dim=8, inner=96, vocab=96), []
    for draw in draws:
        a, c, d = (llama(3 * draw + k + 1, sizes) for k in range(3))
        b = linear((0.92, c), (0.08, d))  # nothing was learned here, so gains and numbers have to be nearly the same
        if draw % 2:
            order = torch.randperm(96, generator=torch.Generator().manual_seed(draw))
            b = {n: t[order] if n.endswith(("gate_proj.weight", "up_proj.weight")) else t for n, t in b.items()}
            b = {n: t[:, order] if n.endswith("down_proj.weight") else t for n, t in b.items()}
        places = [
            write_model(folder / f"{draw}-{name}", model, sizes) for name, model in zip("abc", (a, b, c), strict=True)
        ]
        seen: list[Findings] = []

        def asked(left: Checkpoint, right: Checkpoint, seen: list[Findings] = seen) -> Looked:
            answer = look(left, right)
            seen.append(answer[2])
            return answer

        with opened(*places) as (left, right, beside):
            told = rest_of(left, right, beside, asked)
        assert told.verdict == "unrelated"
        tests = [outcome for outcome in seen[-1].exact.values() if outcome.applicable]
        found += [10.0**outcome.log10_p for outcome in tests if outcome.log10_p is not None]
    return found


def check_bounds(p_values: list[float]) -> None:
    for level in (0.01, 0.1, 0.5):
        share = sum(p <= level for p in p_values) / len(p_values)
        assert share <= level + 3.0 * (level * (1.0 - level) / len(p_values)) ** 0.5, (level, share)


def test_exact_tests_of_rests_of_strangers_stay_below_their_level(tmp_path: Path) -> None:
    p_values = null_p_values(tmp_path, range(4))
    assert len(p_values) >= 8
    check_bounds(p_values)


@pytest.mark.slow
def test_exact_tests_of_many_rests_of_strangers_stay_below_their_level(tmp_path: Path) -> None:
    check_bounds(null_p_values(tmp_path, range(100, 300)))


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


def test_auto_is_the_depth_that_nobody_asked_for(zoo: Zoo) -> None:
    record = compare(zoo.models["base0"], zoo.models["base1"], depth="auto")
    assert (record.options["depth"], record.result.verdict) == ("auto", "unrelated")
    with pytest.raises(UsageError, match="there is no such depth"):
        compare(zoo.models["base0"], zoo.models["base1"], depth=cast("Depth", "deep"))


@pytest.mark.parametrize("name", ["fused", "moe", "biased"])
def test_parts_laid_out_are_the_tensors_they_were_read_from(name: str, zoo: Zoo) -> None:
    with opened(zoo.models[name]) as (model,):
        out = LaidOut(model)
        for part in read_anatomy(model).parts():
            out.put(part, part.read())
        assert len(out.names) == len(model.tensors)
        for stored in out.names:
            assert torch.equal(out.read(stored), model.read(stored).float()), stored
            rows = [0, model.tensors[stored].shape[0] - 1]
            assert torch.equal(out.read_index(stored, rows), model.read_index(stored, rows).float())
