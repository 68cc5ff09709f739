"""Libraries and scans: resumable, one bad model never stops them, relatives first, every model counted as tried."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from mini_zoo import Derive
from tests.forensics.fingerprints.test_held_norms import first_version
from tests.forensics.merge_shop import Shop, rounded, tuned

from pedigree.benchmark.zoo import Zoo
from pedigree.errors import MalformedFile, MissingInput, UsageError
from pedigree.forensics.fingerprints.fingerprint_compare import load
from pedigree.forensics.scanning import fleet
from pedigree.forensics.scanning import library as module
from pedigree.forensics.scanning.fleet import Made, Outcome
from pedigree.forensics.scanning.library import Library, open_library
from pedigree.forensics.scanning.neighbors import has_index
from pedigree.forensics.scanning.scan import _excludes, scan
from pedigree.forensics.scanning.sketch import LENGTH, Floats, sketch
from pedigree.records.comparison import Verdict
from pedigree.records.scan import Candidate


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    shop = Shop(tmp_path_factory.mktemp("shop"))
    # Noise in both of two children of a model that learned nothing is no sign of descent; in one of them it is.
    shop.models["B"] = rounded(tuned(shop["A"], 0.3, 1))
    for name in ("base", "A", "B", "stranger"):
        shop.path(name)
    return shop


def paths(shop: Shop, names: str) -> list[str]:
    return [str(shop.folder / name) for name in names.split()]


def test_what_is_there_is_not_read_again(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_library(tmp_path / "lib", create=True) as library:
        first = library.add(paths(shop, "A B"))
        monkeypatch.setattr(fleet, "load", lambda *a, **k: pytest.fail("read again"))
        assert library.add(paths(shop, "A B")) == first
    with open_library(tmp_path / "lib") as library:
        assert [Path(e.location).name for e in library.entries()] == ["A", "B"]


def test_entries_of_an_older_version_are_made_again_where_the_model_can_be_read(tmp_path: Path) -> None:
    """A library of before versions: files without gains, and no table that says so."""
    shop = Shop(tmp_path / "own")
    places = [str(shop.path(name)) for name in "AB"]
    prints = [first_version(load(place)) for place in places]
    with open_library(tmp_path / "lib", create=True) as library:
        new = library.add(places)
        for entry, old in zip(new, prints, strict=True):
            library._keep(Outcome(entry.location, Made(old.to_bytes(), old.digest(), old.facts, sketch(old).tobytes())))
        library._connection.execute("DELETE FROM versions")
        before = library.entries()
        assert [library.fingerprint(entry).model.norms for entry in before] == [None, None]
        told = scan(places[0], library, confirm=0).result.not_checked
        assert any("for 2 candidates: fingerprints of version 1 hold none" in words for words in told)
        (Path(places[1]) / "model.safetensors").unlink()
        made, kept = library.add(places)
        assert made.digest == new[0].digest
        assert kept == before[1], "what cannot be made again stays"
        told = scan(places[0], library, confirm=0).result.not_checked
        assert any("for 1 candidates: fingerprints of version 1 hold none" in words for words in told)


def test_a_model_that_changed_is_read_again(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "own")
    place = shop.path("A")
    with open_library(tmp_path / "lib", create=True) as library:
        first = library.add([str(place)])[0]
        wide = {**shop["A"], "extra.weight": shop["A"]["lm_head.weight"]}
        from safetensors.torch import save_file

        save_file({n: t.contiguous().clone() for n, t in wide.items()}, place / "model.safetensors")
        assert library.add([str(place)])[0].header_digest != first.header_digest


def test_one_bad_model_never_stops_the_rest(shop: Shop, tmp_path: Path) -> None:
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"\xff" * 100)
    with open_library(tmp_path / "lib", create=True) as library:
        entries = library.add([str(bad), "/nowhere", *paths(shop, "A")])
        assert [entry.error is None for entry in entries] == [False, False, True]
        found = scan(shop.folder / "B", library, confirm=0)
    assert [Path(c.location).name for c in found.result.relatives] == ["A"]
    assert any("2 models of the library could not be read" in words for words in found.result.not_checked)


def test_a_damaged_fingerprint_is_said_and_the_scan_goes_on(shop: Shop, tmp_path: Path) -> None:
    with open_library(tmp_path / "lib", create=True) as library:
        library.add(paths(shop, "A base"))
        damaged = library._file(library.entries()[0].digest or "")
        damaged.write_bytes(damaged.read_bytes()[:5000])
        found = scan(shop.folder / "B", library, confirm=0)
    assert [Path(c.location).name for c in found.result.relatives] == ["base"]
    assert [Path(c.location).name for c in found.result.others if c.error] == ["A"]


def test_every_model_counts_as_tried(shop: Shop, tmp_path: Path) -> None:
    with open_library(tmp_path / "lib", create=True) as library:
        library.add(paths(shop, "A base stranger"))
        found = scan(shop.folder / "B", library, candidates=1, confirm=0).result
    assert (found.multiplicity.tried, found.multiplicity.compared) == (3, 1)
    best = found.relatives[0]
    assert best.log10_p is not None
    assert best.log10_p_corrected == pytest.approx(best.log10_p + math.log10(3))
    assert any("2 models were ranked behind" in words for words in found.not_checked)


def test_a_stranger_has_no_relatives(shop: Shop, tmp_path: Path) -> None:
    with open_library(tmp_path / "lib", create=True) as library:
        library.add(paths(shop, "A B base"))
        found = scan(shop.folder / "stranger", library, confirm=1).result
    assert (found.verdict, found.relatives) == ("none-found", [])
    assert [c.verdict for c in found.others] == ["unrelated"] * 3
    assert all(c.compared == "weights" for c in found.others), "fingerprints see units in place and exclude nothing"


def test_small_models_behind_the_first_are_compared_on_weights_before_none_is_found(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disguise hides a model from fingerprints, so that others may rank before its parent."""
    order = torch.randperm(64, generator=torch.Generator().manual_seed(3))
    inside = ("o_proj", "down_proj")
    hidden = {}
    for name, t in shop["A"].items():
        if t.ndim == 1:
            hidden[name] = t[order]
        else:
            hidden[name] = t[order] if name.split(".")[-2] in inside else t[:, order]
    place = shop.add("hidden", hidden)
    with open_library(tmp_path / "lib", create=True) as library:
        library.add(paths(shop, "stranger A"))
        best_last = sorted(library.nearest(sketch(load(place)), 2), key=lambda pair: pair[0].location.endswith("/A"))
        monkeypatch.setattr(library, "nearest", lambda *_: best_last)
        found = scan(place, library, confirm=1).result
        assert [Path(c.location).name for c in found.relatives] == ["A"]
        monkeypatch.setattr("pedigree.forensics.scanning.scan.LIGHT", 10)
        assert scan(place, library, confirm=1).result.relatives == []


def test_small_models_that_fingerprints_call_relatives_are_compared_on_weights(shop: Shop, tmp_path: Path) -> None:
    """Weights may say less of a pair than its fingerprints, so one model is not told two words by two commands."""
    with open_library(tmp_path / "lib", create=True) as library:
        library.add(paths(shop, "A base stranger"))
        on_fingerprints = scan(shop.folder / "B", library, confirm=0).result
        found = scan(shop.folder / "B", library, confirm=1).result
    assert [c.compared for c in on_fingerprints.relatives] == ["fingerprint"] * 2
    assert [c.compared for c in found.relatives] == ["weights"] * 2
    assert [c.compared for c in found.others] == ["fingerprint"], "behind relatives nobody else is looked at"


@pytest.mark.parametrize(
    ("answers", "excludes"),
    [
        ([("weights", "unrelated"), ("fingerprint", "inconclusive")], True),
        ([("weights", "unrelated"), ("weights", "inconclusive")], False),
        ([("weights", "unrelated"), ("weights", "not-testable")], True),
        ([("weights", "not-testable")], False),
    ],
)
def test_a_comparison_on_weights_that_stays_open_leaves_the_scan_open(
    answers: list[tuple[str, Verdict]], excludes: bool
) -> None:
    found = [Candidate(location=f"{n}", rank=n, compared=on, verdict=word) for n, (on, word) in enumerate(answers, 1)]
    assert _excludes(found) == excludes


def test_a_minor_parent_is_told_by_what_the_nearest_leaves_and_a_second_scan_asks_nothing_again(
    zoo: Zoo, derive: Derive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merged = derive("fresh-tables", derive("merge", "base0", "base1", share=0.2))
    kept = tmp_path / "scan.jsonl"
    with open_library(tmp_path / "lib", create=True) as library:
        library.add([str(zoo.models[name]) for name in ("base0", "base1")])
        found = scan(merged, library, keep=kept).result
        for name in ("compare", "compare_rest"):
            monkeypatch.setattr(f"pedigree.forensics.scanning.scan.{name}", lambda *a, **k: {}["asked again"])
        again = scan(merged, library, keep=kept).result
        monkeypatch.undo()
        monkeypatch.setattr("pedigree.forensics.scanning.scan.compare_rest", lambda *a, **k: {}["no such role"])
        broken = scan(merged, library).result
    assert [Path(c.location).name for c in found.relatives] == ["base1"]
    minor = found.others[0]
    assert (Path(minor.location).name, minor.verdict) == ("base0", "inconclusive")
    assert minor.rest is not None
    assert minor.rest.verdict == "related"
    assert minor.rest.share == pytest.approx(0.2, abs=0.01)
    assert minor.rest_of == found.relatives[0].location
    assert (again.relatives, again.others) == (found.relatives, found.others)
    assert broken.relatives == found.relatives
    assert broken.others[0].rest is not None
    assert "no such role" in (broken.others[0].rest.why_not or "")


def test_disguised_relatives_rank_first_and_are_confirmed_on_weights(zoo: Zoo, tmp_path: Path) -> None:
    with open_library(tmp_path / "lib", create=True) as library:
        library.add([str(zoo.models[name]) for name in ("base1", "base0", "inserted+")])
        found = scan(zoo.models["disguised+"], library, confirm=2).result
    assert {Path(c.location).name for c in found.relatives} == {"base0", "inserted+"}
    assert all(c.compared == "weights" for c in found.relatives)
    assert [Path(c.location).name for c in found.others] == ["base1"]


def test_libraries_of_others_are_checked(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="no library"), open_library(tmp_path / "none"):
        pass
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "library.db").write_bytes(b"not a database, not at all" * 10)
    with pytest.raises(MalformedFile, match="cannot be read"), open_library(tmp_path / "odd"):
        pass
    with open_library(tmp_path / "salted", salt="word", create=True):
        pass
    with pytest.raises(UsageError, match="salt"), open_library(tmp_path / "salted"):
        pass


def vectors(count: int, seed: int) -> Floats:
    made = np.random.default_rng(seed).standard_normal((count, LENGTH)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def near(vector: Floats, cosine: float) -> Floats:
    noise = vectors(1, 99)[0]
    noise -= (noise @ vector) * vector
    return cosine * vector + math.sqrt(1 - cosine**2) * noise / np.linalg.norm(noise)


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Library]:
    """A library of 600 rows that counts as a large one."""
    if not has_index():
        pytest.skip("the extra `library` is not installed")
    monkeypatch.setattr(module, "EXACT_UP_TO", 500)
    monkeypatch.setattr(module, "_store", lambda path, data: None)
    with open_library(tmp_path / "large", create=True) as library:
        library._connection.execute("PRAGMA synchronous=OFF")
        fill(library, vectors(600, 0))
        yield library


def fill(library: Library, made: Floats) -> None:
    first = library.counts()[0]
    for number, vector in enumerate(made, start=first):
        library._keep(Outcome(f"m{number}", Made(b"x", "sha256:" + f"{number:064x}", {}, vector.tobytes())))


def test_the_index_finds_what_exact_search_finds(large: Library) -> None:
    query = near(vectors(600, 0)[17], 0.4)
    exact = large.nearest(query, 5)
    assert large.make_index()
    assert not large.make_index()
    found = large.nearest(query, 5)
    assert found == exact
    assert (found[0][0].location, round(found[0][1], 3)) == ("m17", 0.4)


def test_what_was_added_or_changed_after_the_index_is_found(large: Library) -> None:
    large.make_index()
    added = vectors(3, 5)
    fill(large, added[:2])
    assert large.nearest(added[1], 1)[0][0].location == "m601"
    large._keep(Outcome("m17", Made(b"y", "sha256:" + "f" * 64, {}, added[2].tobytes())))
    assert large.nearest(added[2], 1)[0][0].location == "m17"
    large._keep(Outcome("m17", error="gone"))
    assert large.nearest(added[2], 1)[0][0].location != "m17"
    assert large.counts() == (601, 1)


def test_an_index_is_made_again_after_many_additions_and_read_from_its_file(large: Library) -> None:
    large.make_index()
    fill(large, vectors(501, 6))
    assert large.make_index()
    assert large._unindexed() == []
    with open_library(large.folder) as again:
        assert again.nearest(vectors(501, 6)[500], 1)[0][0].location == "m1100"
        assert len(again._index() or ()) == 1101


def test_a_damaged_index_is_said(large: Library) -> None:
    large.make_index()
    file = large.folder / "library.index"
    whole = file.read_bytes()
    for damaged in (whole[:-1], b"x" + whole[1:], whole + b"x", b""):
        file.write_bytes(damaged)
        with open_library(large.folder) as again, pytest.raises(MalformedFile, match="index of the library") as caught:
            again.nearest(vectors(1, 0)[0], 1)
        assert "delete it" in (caught.value.fix or "")


def test_tuning_moves_a_model_little_among_strangers(shop: Shop, tmp_path: Path) -> None:
    child = shop.add("child", tuned(shop["A"], 0.2, 40))
    with open_library(tmp_path / "lib", create=True) as library:
        library.add(paths(shop, "stranger B A"))
        found = scan(child, library, confirm=0).result
    assert Path(found.relatives[0].location).name == "A"
