"""Who may add to a library, or hand over a fingerprint, chooses its numbers and what it says of itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.forensics.fingerprints.test_held_norms import Prints, with_gains
from tests.forensics.merge_shop import SIZES, Shop, rounded, tuned, write
from tests.forensics.tiny_models import llama

from pedigree.errors import MalformedFile
from pedigree.forensics.compare import compare
from pedigree.forensics.fingerprints.fingerprint import Fingerprint, from_bytes, make_fingerprint, read_fingerprint
from pedigree.forensics.fingerprints.fingerprint_compare import compare_fingerprints
from pedigree.forensics.scanning.library import open_library
from pedigree.forensics.scanning.scan import scan
from pedigree.forensics.scanning.sketch import sketch


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    shop = Shop(tmp_path_factory.mktemp("shop"))
    # Noise in both of two children of a model that learned nothing is no sign of descent; in one of them it is.
    shop.models["B"] = rounded(tuned(shop["A"], 0.3, 1))
    for name in ("A", "B", "stranger"):
        shop.path(name)
    return shop


def changed(fingerprint: Fingerprint, **tensors: torch.Tensor) -> Fingerprint:
    return replace(fingerprint, model=replace(fingerprint.model, tensors={**fingerprint.model.tensors, **tensors}))


def written(fingerprint: Fingerprint, place: Path) -> str:
    place.write_bytes(fingerprint.to_bytes())
    return str(place)


GATE = "model.layers.0.mlp.gate_proj.weight"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_numbers_that_are_none_in_an_entry_of_a_library(value: float, shop: Shop, tmp_path: Path) -> None:
    """A search vector that is no vector would stand anywhere in the order, and push relatives out of it."""
    honest = make_fingerprint(shop.path("stranger"))
    rows = honest.model.tensors[GATE].clone()
    rows[::3] = value
    crafted = [written(changed(honest, **{GATE: rows + k}), tmp_path / f"crafted{k}.fingerprint") for k in range(4)]
    assert np.isfinite(sketch(changed(honest, **{GATE: rows}))).all()
    with open_library(tmp_path / "lib", create=True) as library:
        library.add([*crafted[:2], str(shop.path("A")), *crafted[2:]])
        found = scan(shop.path("B"), library, candidates=1, confirm=0).result
    assert [Path(c.location).name for c in found.relatives] == ["A"]


def test_search_vectors_in_a_library_that_are_none(shop: Shop, tmp_path: Path) -> None:
    with open_library(tmp_path / "lib", create=True) as library:
        library.add([str(shop.path("stranger")), str(shop.path("A"))])
        blob = np.full(len(sketch(make_fingerprint(shop.path("A")))), np.nan, np.float32).tobytes()
        with library._connection:
            library._connection.execute("UPDATE models SET vector = ? WHERE id = 1", (blob,))
        found = scan(shop.path("B"), library, candidates=1, confirm=0).result
    assert [Path(c.location).name for c in found.relatives] == ["A"]


def test_copies_of_one_model_flood_a_library(shop: Shop, tmp_path: Path) -> None:
    """Twelve copies of the model that is looked for fill every place before its parent; equal ones take one place."""
    mine = make_fingerprint(shop.path("B"))
    with open_library(tmp_path / "lib", create=True) as library:
        library.add([written(mine, tmp_path / f"copy{k}.fingerprint") for k in range(12)])
        library.add([str(shop.path("B")), str(shop.path("A")), str(shop.path("stranger"))])
        found = scan(shop.path("B"), library, candidates=2, confirm=1).result
    assert [Path(c.location).name for c in found.relatives] == ["B", "A"]
    assert found.relatives[0].compared == "weights"
    assert any("12 models have the fingerprint of a candidate" in words for words in found.not_checked)


def test_near_copies_flood_a_library_and_the_scan_says_that_more_may_stand_behind(shop: Shop, tmp_path: Path) -> None:
    """They cannot be left out: whoever looks like a parent without being it would hide the parent."""
    mine = make_fingerprint(shop.path("B"))
    near = [
        changed(mine, **{GATE: mine.model.tensors[GATE] * (1.0 + 0.01 * k)})  # another file each
        for k in range(1, 5)
    ]
    with open_library(tmp_path / "lib", create=True) as library:
        library.add([written(one, tmp_path / f"near{k}.fingerprint") for k, one in enumerate(near)])
        library.add([str(shop.path("A"))])
        found = scan(shop.path("B"), library, candidates=3, confirm=0).result
        more = scan(shop.path("B"), library, candidates=5, confirm=0).result
    assert "A" not in [Path(c.location).name for c in found.relatives]
    assert any("others as near may stand behind it" in words for words in found.not_checked)
    assert "A" in [Path(c.location).name for c in more.relatives]


def test_a_strangers_fingerprint_that_names_the_victims_digests(shop: Shop, tmp_path: Path) -> None:
    """What a fingerprint says of itself changes no word, and comparing it with the model that it names exposes it."""
    victim, other = make_fingerprint(shop.path("A")), make_fingerprint(shop.path("stranger"))
    claims = {**other.facts, "header_digest": victim.facts["header_digest"], "parameters": victim.facts["parameters"]}
    lying = written(replace(other, facts=claims), tmp_path / "lying.fingerprint")
    assert compare(lying, shop.path("B")).result.verdict not in ("related", "identical", "partly-related")
    assert compare(lying, shop.path("A")).result.verdict != "identical"


def test_the_victims_numbers_under_the_name_of_a_stranger(shop: Shop, tmp_path: Path) -> None:
    """A fingerprint with a victim's numbers is the victim's, whatever it calls itself; the record says how to tell."""
    victim, other = make_fingerprint(shop.path("A")), make_fingerprint(shop.path("stranger"))
    framed = written(
        replace(victim, facts={**victim.facts, "header_digest": other.facts["header_digest"]}), tmp_path / "f"
    )
    result = compare(framed, shop.path("B")).result
    assert any("whether a fingerprint was made from the model that it names" in w for w in result.not_checked)
    assert compare(framed, shop.path("stranger")).result.verdict == "inconclusive"
    assert read_fingerprint(framed).digest() != other.digest()


@pytest.fixture(scope="module")
def prints(tmp_path_factory: pytest.TempPathFactory) -> Prints:
    return Prints(tmp_path_factory.mktemp("prints"))


@pytest.mark.parametrize("old", [("twin",), ("twin", "other")])
def test_gains_taken_out_of_the_fingerprint_of_a_twin(prints: Prints, old: tuple[str, ...]) -> None:
    """What is left of it looks like a noisy copy."""
    assert prints.compare("twin", "other", *old).result.verdict == "inconclusive"


def test_gains_of_the_victim_in_the_salted_fingerprint_of_its_twin(prints: Prints) -> None:
    """By somebody who has both files and not the salt."""
    twin, victim = (make_fingerprint(prints.paths[name], salt="words") for name in ("twin", "other"))
    crafted = replace(twin, sealed=victim.sealed)
    with pytest.raises(MalformedFile, match="does not know its salt"):
        from_bytes(crafted.to_bytes(), "x", salt="words")


@pytest.mark.parametrize("factor", [0.0, 1e-30, 1e9])
def test_tiny_and_huge_gains_in_the_fingerprint_of_a_stranger(prints: Prints, factor: float, tmp_path: Path) -> None:
    """Matrices carry gains already, so what is compared in place does not move."""
    place = write(tmp_path / "stranger", with_gains(llama(9, SIZES), 9, 0.03), torch.float32)
    stranger, held = make_fingerprint(place), prints.made["twin"].model.norms
    assert held is not None
    norms = replace(held, gains={at: gain_C * factor for at, gain_C in held.gains.items()})
    crafted = replace(stranger, model=replace(stranger.model, norms=norms))
    found = compare_fingerprints(from_bytes(crafted.to_bytes(), "x"), prints.made["twin"])
    assert found.result.verdict in ("inconclusive", "not-testable")


def test_gains_and_noise_make_no_entry_everybodys_neighbor(shop: Shop) -> None:
    """A vector between all models of a library lies at most as near to each as one part in the root of their number."""
    fingerprints = [make_fingerprint(shop.path(name)) for name in ("A", "stranger")]
    names = [n for n in fingerprints[0].model.tensors if n.startswith("model.layers.")]
    middle = changed(
        fingerprints[0],
        **{n: sum(f.model.tensors[n].float() for f in fingerprints) for n in names},  # type: ignore[misc]
    )
    child = make_fingerprint(shop.path("B"))
    near, hub = (float(sketch(child) @ sketch(one)) for one in (fingerprints[0], middle))
    assert hub < near
