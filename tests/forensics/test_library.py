"""Libraries and scans: resumable, one bad model never stops them, relatives first, every model counted as tried."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from tests.forensics.merges import Shop, tuned

from pedigree.benchmark.zoo import Zoo
from pedigree.errors import MalformedFile, MissingInput, UsageError
from pedigree.forensics import library as module
from pedigree.forensics.library import open_library
from pedigree.forensics.neighbors import build, has_index, nearest, search
from pedigree.forensics.scan import scan


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    shop = Shop(tmp_path_factory.mktemp("shop"))
    for name in ("base", "A", "B", "stranger"):
        shop.path(name)
    return shop


def paths(shop: Shop, names: str) -> list[str]:
    return [str(shop.folder / name) for name in names.split()]


def test_what_is_there_is_not_read_again(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_library(tmp_path / "lib", create=True) as library:
        first = library.add(paths(shop, "A B"))
        monkeypatch.setattr(module, "load", lambda *a, **k: pytest.fail("read again"))
        assert library.add(paths(shop, "A B")) == first
    with open_library(tmp_path / "lib") as library:
        assert [Path(e.location).name for e in library.entries()] == ["A", "B"]


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
    assert [c.verdict for c in found.others] == ["unrelated", "inconclusive", "inconclusive"]


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


def test_exact_search_and_index_agree() -> None:
    g = np.random.default_rng(0)
    vectors = g.standard_normal((3000, 64)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    query = vectors[17] + 0.05 * g.standard_normal(64).astype(np.float32)
    exact = nearest(vectors, query, 10, approximate=False)
    assert exact[0] == 17
    if not has_index():
        pytest.skip("the extra `library` is not installed")
    found = search(build(vectors), query, 10)
    assert found[0] == 17
    assert len(set(found) & set(exact)) >= 9


def test_tuning_moves_a_model_little_among_strangers(shop: Shop, tmp_path: Path) -> None:
    child = shop.add("child", tuned(shop["A"], 0.2, 40))
    with open_library(tmp_path / "lib", create=True) as library:
        library.add(paths(shop, "stranger B A"))
        found = scan(child, library, confirm=0).result
    assert Path(found.relatives[0].location).name == "A"
