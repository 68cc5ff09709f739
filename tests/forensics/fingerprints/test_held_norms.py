"""Gains in fingerprints: they tell twins from noisy copies, an older version goes without, hostile ones are refused.

Shapes: N = norms, C = coordinates, D = residual width.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.forensics.fingerprints.test_fingerprint import with_facts
from tests.forensics.merge_shop import SIZES, write
from tests.forensics.tiny_models import Tensors, generator, llama

from pedigree.errors import MalformedFile
from pedigree.forensics.fingerprints.fingerprint import Fingerprint, from_bytes, make_fingerprint
from pedigree.forensics.fingerprints.fingerprint_compare import compare_fingerprints
from pedigree.forensics.fingerprints.thin_side import sides
from pedigree.forensics.sides.views import read_units
from pedigree.records.comparison import Comparison

NORMS = {"kind": "rms", "placement": "pre", "residual": "sequential", "held": []}


def evenly(tensors: Tensors, seed: int, size: float) -> Tensors:
    """Matrices with a change whose directions are all equally long, as steps of Muon leave it."""
    g, out = generator(seed), {}
    for name, t in tensors.items():
        if t.ndim < 2:
            out[name] = t
            continue
        rows = torch.randn(max(t.shape), min(t.shape), generator=g)
        flat = torch.linalg.qr(rows)[0] * size * float(t.norm()) / min(t.shape) ** 0.5
        out[name] = t + (flat if t.shape[0] >= t.shape[1] else flat.T)
    return out


def with_gains(tensors: Tensors, seed: int, size: float) -> Tensors:
    """Gains that began at one and were moved."""
    g = generator(seed)
    return {n: 1.0 + size * torch.randn(t.shape, generator=g) if t.ndim == 1 else t for n, t in tensors.items()}


def first_version(fingerprint: Fingerprint) -> Fingerprint:
    """The same as version 1 holds it."""
    facts = {key: value for key, value in fingerprint.facts.items() if key != "norms"} | {"version": 1}
    held = {n: t for n, t in fingerprint.model.tensors.items() if not n.startswith("token_frame.")}
    bare = replace(fingerprint, model=replace(fingerprint.model, tensors=held, norms=None), facts=facts, sealed=b"")
    return from_bytes(bare.to_bytes(), fingerprint.location)


class Prints:
    """Fingerprints of a start, of two short trainings of it, of one with frozen gains, and of a noisy copy of one."""

    def __init__(self, folder: Path) -> None:
        start = llama(1, SIZES)
        twin, other = (with_gains(evenly(start, seed, 0.2), seed, 0.03) for seed in (2, 3))
        models = {
            "start": with_gains(start, 0, 0.0), "frozen": with_gains(evenly(start, 4, 0.2), 0, 0.0),
            "twin": twin, "other": other, "copy": evenly(twin, 5, 0.2),
        }  # fmt: skip
        self.paths = {name: write(folder / name, tensors, torch.float32) for name, tensors in models.items()}
        self.made = {name: make_fingerprint(path) for name, path in self.paths.items()}

    def compare(self, a: str, b: str, *old: str) -> Comparison:
        left, right = (first_version(self.made[n]) if n in old else self.made[n] for n in (a, b))
        return compare_fingerprints(left, right)


@pytest.fixture(scope="module")
def prints(tmp_path_factory: pytest.TempPathFactory) -> Prints:
    return Prints(tmp_path_factory.mktemp("prints"))


def not_checked(record: Comparison) -> str:
    return "\n".join(record.result.not_checked)


def test_two_short_trainings_by_muon_are_not_related(prints: Prints) -> None:
    found = prints.compare("twin", "other")
    assert found.result.verdict in ("shared-initialization", "inconclusive")
    assert "learned gains" not in not_checked(found)


def test_a_noisy_copy_is_since_it_has_the_same_gains(prints: Prints) -> None:
    assert prints.compare("twin", "copy").result.verdict == "related"


@pytest.mark.parametrize("trained", ["twin", "frozen"])
def test_a_start_has_nothing_to_hand_down(prints: Prints, trained: str) -> None:
    assert prints.compare("start", trained).result.verdict == "inconclusive"


@pytest.mark.parametrize("old", [("twin",), ("copy",), ("twin", "copy")])
def test_without_gains_on_one_side_the_word_is_cautious_and_the_record_says_why(
    prints: Prints, old: tuple[str, ...]
) -> None:
    found = prints.compare("twin", "copy", *old)
    assert found.result.verdict == "inconclusive"
    who = "both fingerprints are" if len(old) == 2 else f"the fingerprint of {'A' if old == ('twin',) else 'B'} is"
    assert f"learned gains of norms: {who} of version 1" in not_checked(found)


def test_a_file_of_the_first_version_is_the_same_file_again(prints: Prints) -> None:
    old = first_version(prints.made["twin"])
    assert old.model.norms is None
    assert from_bytes(old.to_bytes(), "x").to_bytes() == old.to_bytes()


def test_rows_are_the_same_with_gains_taken_out_and_without(prints: Prints) -> None:
    twin, copy = prints.made["twin"], prints.made["copy"]
    new, old = sides(twin, copy)[0], sides(first_version(twin), copy)[0]
    assert new.anatomy.part("norm.attn", 0) is not None
    assert old.anatomy.part("norm.attn", 0) is None
    for kind in ("ffn", "vo", "qk"):
        left, right = (read_units(side.anatomy, 1, kind, side.sample) for side in (new, old))  # type: ignore[arg-type]
        assert left is not None
        assert right is not None
        for name in left.names:
            torch.testing.assert_close(left.rows(name), right.rows(name), rtol=1e-5, atol=1e-7)


def test_a_salt_seals_gains_and_binds_the_rest_to_them(prints: Prints) -> None:
    plain, made = (make_fingerprint(prints.paths["twin"], salt=salt) for salt in ("", "words"))
    data = made.to_bytes()
    again = from_bytes(data, "x", salt="words")
    assert again.to_bytes() == data
    assert again.model.norms is not None
    gains = again.model.norms.gains["norm.attn", 0]
    assert sorted(gains.tolist()) == sorted(plain.model.norms.gains["norm.attn", 0].tolist())  # type: ignore[union-attr]
    assert gains.numpy().tobytes()[:64] not in data
    with pytest.raises(MalformedFile, match="does not know its salt"):
        from_bytes(with_facts(data, parameters=7), "x", salt="words")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_gains_that_are_no_numbers_are_refused(prints: Prints, value: float) -> None:
    made = prints.made["twin"]
    assert made.model.norms is not None
    gains = dict(made.model.norms.gains)
    gains["norm.final", None] = torch.full_like(gains["norm.final", None], value)
    crafted = replace(made, model=replace(made.model, norms=replace(made.model.norms, gains=gains)))
    with pytest.raises(MalformedFile, match="gains"):
        from_bytes(crafted.to_bytes(), "x")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.uint8])
def test_gains_of_another_type_are_refused(prints: Prints, dtype: torch.dtype) -> None:
    made = prints.made["twin"]
    assert made.model.norms is not None
    gains = {place: gain_C.to(dtype) for place, gain_C in made.model.norms.gains.items()}
    crafted = replace(made, model=replace(made.model, norms=replace(made.model.norms, gains=gains)))
    with pytest.raises(MalformedFile, match="gains"):
        from_bytes(crafted.to_bytes(), "x")


@pytest.mark.parametrize(
    "norms",
    [
        None,
        "rms",
        NORMS,
        NORMS | {"kind": "batch"},
        NORMS | {"placement": ["pre"]},
        NORMS | {"held": [["norm.attn", 0]]},
        NORMS | {"held": [["norm.attn", 0]] * 9},
        NORMS | {"held": [["norm.attn", 10**9]]},
        NORMS | {"held": [["norm.attn", -1]]},
        NORMS | {"held": [["norm.final", True]]},
        NORMS | {"held": [[["norm.final"], -1]]},
        NORMS | {"held": {"norm.final": -1}},
        NORMS | {"held": [["embed", -1]]},
    ],
    ids=json.dumps,
)
def test_norms_that_contradict_their_gains_are_refused(prints: Prints, norms: object) -> None:
    with pytest.raises(MalformedFile, match="fingerprint"):
        from_bytes(with_facts(prints.made["twin"].to_bytes(), norms=norms), "x")
