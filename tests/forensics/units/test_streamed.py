"""At full depth of a large model nothing is held: the same answers as of models that are, in memory of a few blocks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.benchmarks.test_compare_script import BENCHMARKS, load_checkpoints

from pedigree.forensics import compare as comparing
from pedigree.forensics.compare import compare
from pedigree.forensics.comparison import following, loudness
from pedigree.forensics.frames import ladder, moments
from pedigree.forensics.frames.moments import stack_moments
from pedigree.forensics.sides import sampling, streamed_units
from pedigree.forensics.sides.gauge import identity_gauge
from pedigree.forensics.sides.sampling import Sample, spread_evenly
from pedigree.forensics.sides.side import Side
from pedigree.forensics.sides.streamed_units import StreamedUnits
from pedigree.forensics.sides.views import read_units
from pedigree.forensics.units import index_tests, shared_units, walk
from pedigree.forensics.units import read_units as read_units_module
from pedigree.forensics.units.tables import Tables
from pedigree.forensics.units.unit_map import map_units
from pedigree.forensics.units.walk import Walk, score_against, walk_unit_map
from pedigree.records.comparison import Comparison
from pedigree.weights.checkpoint import open_checkpoint

EVERYTHING = Sample(None, None, True, True, 1 << 30)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, checkpoints = tmp_path_factory.mktemp("models"), load_checkpoints()
    for kind in ("parent", "deepened", "disguised", "stranger"):
        checkpoints.write_checkpoint(folder / kind, checkpoints.SHAPES["tiny"], kind)
    return folder


@pytest.fixture
def few_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks so small that a layer of the tiny model takes many of them."""
    for module, name, value in (
        (streamed_units, "BLOCK_NUMBERS", 1 << 14),
        (walk, "HELD_NUMBERS", 1 << 16),
        (walk, "FLOOR_ROWS", 64),
        (walk, "CONFIRMED_ROWS", 64),
    ):
        monkeypatch.setattr(module, name, value)


def sides(models: Path, kind: str) -> Iterator[Side]:
    for name in ("parent", kind):
        yield Side.read(open_checkpoint(models / name), EVERYTHING)


def test_streamed_units_are_those_that_are_read_at_once(models: Path) -> None:
    side = next(sides(models, "stranger"))
    streamed, held = side.units("ffn", 2), read_units(side.anatomy, 2, "ffn", EVERYTHING)
    assert streamed is not None
    assert held is not None
    pick_K = torch.tensor([5, 300, 7, 5])
    assert streamed.names == held.names
    assert streamed.width == held.width
    for name in held.names:
        assert torch.equal(streamed.rows(name), held.rows(name))
        assert torch.equal(streamed.rows(name, pick_K), held.rows(name, pick_K))
    assert not streamed.views_UD


@pytest.mark.usefixtures("few_numbers")
def test_units_that_are_walked_through_have_the_origins_that_they_have_when_held(models: Path) -> None:
    a, b = sides(models, "disguised")
    held_a, held_b = (read_units(side.anatomy, 3, "ffn", EVERYTHING) for side in (a, a))
    assert held_a is not None
    assert held_b is not None
    gauge = identity_gauge(a.width, a.width)
    held = map_units(held_a, held_b, gauge, 3, 3)
    walked = walk_unit_map(Walk(a, "ffn", 3, gauge, "a"), Walk(a, "ffn", 3, gauge, "b"), 3, 3)
    assert held is not None
    assert walked is not None
    assert torch.equal(walked.origin_N, held.origin_N)
    assert torch.equal(walked.sign_N, held.sign_N)
    torch.testing.assert_close(walked.score_N, held.score_N)
    torch.testing.assert_close(walked.log_scale_N, held.log_scale_N)
    nothing = walk_unit_map(Walk(a, "ffn", 3, gauge, "a"), Walk(b, "ffn", 3, gauge, "b"), 3, 3)
    assert nothing is not None
    assert nothing.matched_share < 0.05


def said(record: Comparison) -> dict[str, object]:
    """What must not depend on how units are read: words as they are, numbers to four digits."""

    def rounded(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: rounded(item) for name, item in value.items() if name != "reasons"}
        if isinstance(value, list):
            return [rounded(item) for item in value]
        return float(f"{value:.3g}") if isinstance(value, float) else value

    plain = record.result.model_dump()
    kept = ("verdict", "layer_map", "transformations", "gauge", "direction", "components")
    return {name: rounded(plain[name]) for name in kept}


@pytest.mark.usefixtures("few_numbers")
@pytest.mark.parametrize("kind", ["deepened", "disguised"])
def test_a_comparison_says_the_same_whether_units_are_held_or_walked_through(
    models: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparing, "choose_sample", lambda depth, size: EVERYTHING)
    walked = compare(models / "parent", models / kind, depth="full")
    monkeypatch.setattr(Sample, "streamed", property(lambda self: False))
    held = compare(models / "parent", models / kind, depth="full")
    assert walked.result.verdict == "related"
    assert said(walked) == said(held)
    for here, there in zip(walked.result.tests, held.result.tests, strict=True):
        assert here.name == there.name
        assert (here.log10_p is None) == (there.log10_p is None)
        assert (here.log10_p or 0.0) == pytest.approx(there.log10_p or 0.0, rel=1e-3, abs=1e-3)


# On one thread: how many layers several threads have in hand at once is up to the system, and grows on a busy machine.
PEAK = """
import sys, torch
torch.set_num_interop_threads(1)
from pedigree.forensics import compare as comparing
from pedigree.forensics.sides import streamed_units
from pedigree.forensics.units import walk
from pedigree.forensics.sides.sampling import Sample
comparing.choose_sample = lambda depth, size: Sample(None, None, True, True, 1 << 30)
def most():  # kilobytes, of this program alone: what getrusage says begins with that of the one that started it
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
if sys.argv[3] == "held":
    Sample.streamed = property(lambda self: False)
else:
    streamed_units.BLOCK_NUMBERS, walk.HELD_NUMBERS = 1 << 19, 1 << 21
before = most()
found = comparing.compare(sys.argv[1], sys.argv[2], depth="full")
print(found.result.verdict, (most() - before) / 1024)
"""


@pytest.mark.usefixtures("few_numbers")
@pytest.mark.parametrize("kind", ["disguised", "stranger"])
def test_no_step_holds_a_layer_of_a_large_model_or_its_tables(
    models: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    rows = StreamedUnits.rows

    def noted(units: StreamedUnits, name: str, pick_U: torch.Tensor | None = None) -> torch.Tensor:
        found = rows(units, name, pick_U)
        read.append(found.numel())
        return found

    def refused(*_: object) -> None:
        raise AssertionError("a layer, or a table of all its units, was asked for")

    monkeypatch.setattr(comparing, "choose_sample", lambda depth, size: EVERYTHING)
    monkeypatch.setattr(StreamedUnits, "rows", noted)
    monkeypatch.setattr(Side, "layer", refused)
    monkeypatch.setattr(Tables, "_make", refused)
    monkeypatch.setattr(following, "MOST_FOLLOWED", 1 << 14)
    monkeypatch.setattr(loudness, "MOST_UNITS", 128)
    monkeypatch.setattr(index_tests, "MOST_PLACED", 128)
    monkeypatch.setattr(index_tests, "PLACED", 128)
    monkeypatch.setattr(ladder, "REFINED_UNITS", 128)
    monkeypatch.setattr(read_units_module, "TRIED_FOR_EACH", 1)
    monkeypatch.setattr(shared_units, "MOST_NUMBERS", 0)  # rows are whitened where two models fit into memory
    monkeypatch.setattr(moments, "BLOCK_NUMBERS", 1 << 14)
    monkeypatch.setattr(ladder, "MAX_WIDTH", 64)  # the search over moments takes seconds and holds no units
    result = compare(models / "parent", models / kind, depth="full").result
    assert result.verdict == ("unrelated" if kind == "stranger" else "related")
    assert max(read) < 384 * 128, "a whole projection was read at once"


@pytest.mark.slow
def test_memory_at_full_depth_does_not_grow_with_the_number_of_layers(tmp_path: Path) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); from dataclasses import replace; from pathlib import Path;"
        "from checkpoints import SHAPES, write_checkpoint\n"
        "for n in (2, 8):\n"
        "    shape = replace(SHAPES['tiny'], layers=n, d=256, heads=4, kv_heads=4, ffn=1536)\n"
        "    for kind in ('parent', 'child'): write_checkpoint(Path(sys.argv[2]) / f'{kind}{n}', shape, kind)\n"
    )
    subprocess.run([sys.executable, "-c", script, BENCHMARKS, tmp_path], check=True)

    def peak(layers: int, how: str) -> float:
        command = [sys.executable, "-c", PEAK, tmp_path / f"parent{layers}", tmp_path / f"child{layers}", how]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        verdict, megabytes = done.stdout.split()
        assert verdict == "related"
        return float(megabytes)

    # Six more layers of 1.4 million numbers a model: who holds them pays for both models in several copies.
    walked, held = (peak(8, how) - peak(2, how) for how in ("walked", "held"))
    assert walked < held / 2, f"{walked} MB against {held} MB"


def test_scores_of_a_layer_that_passes_by_are_those_of_one_that_is_held(models: Path) -> None:
    from pedigree.forensics.units.matching import make_table, score_layers

    a, b = sides(models, "deepened")
    gauge = identity_gauge(a.width, b.width)
    held_a, held_b = (read_units(side.anatomy, 1, "ffn", EVERYTHING) for side in (a, b))
    assert held_a is not None
    assert held_b is not None
    held = score_layers(make_table(held_a, gauge, "a"), make_table(held_b, gauge, "b"), 64)
    left = Walk(a, "ffn", 1, gauge, "a").table(spread_evenly(held_a.count, 64))
    walked = score_against({7: left}, Walk(b, "ffn", 1, gauge, "b"))[7]
    assert walked.n == held.n == 64
    assert walked.z == pytest.approx(held.z, rel=1e-4)


def test_moments_of_a_deep_model_are_averages_of_neighbors(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = sides(models, "stranger")
    every = stack_moments(a.each_layer(), b.each_layer())
    assert every is not None
    per_layer = len(every[0]) // a.n_layers
    monkeypatch.setattr(moments, "MOST_NUMBERS", 4 * per_layer * a.width**2)
    fewer = stack_moments(a.each_layer(), b.each_layer())
    assert fewer is not None
    assert len(fewer[0]) == 3 * per_layer
    pairs = every[0].reshape(3, 2, per_layer, a.width, a.width).mean(dim=1)
    torch.testing.assert_close(fewer[0], pairs.reshape(fewer[0].shape))


def test_a_sample_shrinks_with_the_model_and_stays_what_it_is_up_to_thirty_billion_parameters() -> None:
    standard = sampling.choose_sample("standard", 30 << 30)
    for layers, width in ((32, 4096), (48, 5120)):
        assert replace(standard.fitted(layers, width), expert_units=None) == standard
    large = standard.fitted(80, 8192)
    assert large.max_units is not None
    assert 32 <= large.max_units < 192
    held = 80 * 8192 * 2 * large.max_units + 2 * 192 * 8192 * (large.attention_layers or 80)
    assert held < 260_000_000
    assert EVERYTHING.fitted(80, 8192) == EVERYTHING
    assert replace(standard, max_units=64).fitted(0, 0).max_units == 64
