"""`pedigree compare --annex`: circumstances beside the answer, and never in it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file
from tests.cli.conftest import Engine, Ran
from tests.comparison_examples import EXAMPLES
from tests.forensics.tiny_models import Sizes, llama

from pedigree.records.comparison import Comparison
from pedigree.report.page import render_comparison

Pedigree = Callable[..., Ran]
SIZES = Sizes(layers=2)


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two models with nothing in common but a shape."""
    root = tmp_path_factory.mktemp("strangers")
    for seed, name in enumerate(("a", "b")):
        (root / name).mkdir()
        save_file(llama(seed, SIZES), root / name / "model.safetensors")
        (root / name / "config.json").write_text(json.dumps(SIZES.config()))
    return root / "a", root / "b"


def plant(folder: Path, victim: Path) -> None:
    """Everything that a file can say to look like the victim's child."""
    config = SIZES.config() | {
        "architectures": ["VictimForCausalLM"], "_name_or_path": str(victim),
        "auto_map": {"AutoModel": "modeling_victim.VictimModel"},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "LICENSE").write_text("Copyright 2024 The Victim team\n")
    (folder / "modeling_victim.py").write_text("# Copyright 2024 The Victim team\nclass VictimModel: ...\n")
    (folder / "trainer_state.json").write_text(json.dumps({"best_model_checkpoint": "/ckpt/victim-base/step-9"}))
    (folder / "training_args.bin").write_bytes(b"\x80\x02/ckpt/victim-base/step-9\x00")


def timeless(plain: dict[str, Any]) -> dict[str, Any]:
    plain["result"]["read"].pop("seconds")
    plain.pop("created")
    return plain


def compared(pedigree: Pedigree, *arguments: object) -> dict[str, Any]:
    ran = pedigree("compare", *map(str, arguments), "--json")
    assert ran.code in (0, 3), ran.err
    return timeless(json.loads(ran.out))


def test_planted_names_change_no_number_and_no_verdict(
    pedigree: Pedigree, strangers: tuple[Path, Path], tmp_path: Path
) -> None:
    a, b = strangers
    planted = tmp_path / "b"
    shutil.copytree(b, planted)
    plant(planted, a)
    innocent, framed, told = (
        compared(pedigree, a, b),
        compared(pedigree, a, planted),
        compared(pedigree, a, planted, "--annex"),
    )
    innocent["result"].pop("read")  # counts the bytes of the config too, which is longer now
    assert json.dumps(innocent["result"]) == json.dumps({k: v for k, v in framed["result"].items() if k != "read"})
    assert framed["inputs"]["b"]["digest"] == innocent["inputs"]["b"]["digest"]
    annex = told.pop("annex")
    assert json.dumps(told) == json.dumps(framed)
    assert told["result"]["verdict"] == "unrelated"
    found = {item["kind"]: item for item in annex["items"]}
    assert "trainer_state.json: /ckpt/victim-base/step-9" in found["paths"]["b"]
    assert found["classes"]["b"] == ["VictimModel"]
    assert found["licenses"]["likeness"] == "one-side"


def test_an_identical_pair_says_so_whatever_is_wiped(
    pedigree: Pedigree, strangers: tuple[Path, Path], tmp_path: Path
) -> None:
    shutil.copy(strangers[0] / "model.safetensors", tmp_path)
    told = compared(pedigree, strangers[0], tmp_path / "model.safetensors", "--annex")
    assert told["result"]["verdict"] == "identical"


def test_the_terminal_and_the_page_show_it_apart(
    pedigree: Pedigree, engine: Engine, strangers: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = strangers
    report = tmp_path / "out.html"
    plain = pedigree("compare", str(a), str(b))
    assert "annex" not in plain.out
    monkeypatch.setenv("PEDIGREE_ANNEX", "1")
    told = pedigree("compare", str(a), str(b), "--report", str(report))
    assert told.out.startswith(plain.out)
    added = told.out.removeprefix(plain.out)
    assert "annex, apart from the answer above" in added
    assert "but  Names follow the program that wrote the file" in added
    assert max(map(len, added.splitlines())) <= 100
    page = report.read_text(encoding="utf-8")
    assert "<h2>Circumstantial, and no part of the result</h2>" in page
    assert page.index("Circumstantial, and no part") > page.index("<h2>Controls</h2>")
    assert "--annex --json" in page
    assert "Circumstantial" not in render_comparison(EXAMPLES["related"])


def test_a_side_that_cannot_be_read_is_named_and_changes_nothing(
    pedigree: Pedigree, engine: Engine, tmp_path: Path
) -> None:
    ran = pedigree("compare", str(tmp_path / "none"), str(tmp_path / "nor this"), "--annex", "--json")
    assert ran.code == 0
    record = Comparison.from_json(ran.out)
    assert record.annex is not None
    assert record.annex.items == []
    assert record.annex.not_read == ["A: no such file or directory", "B: no such file or directory"]
    assert record.content_digest() == EXAMPLES["related"].content_digest()
    assert record.to_dict()["result"] == EXAMPLES["related"].to_dict()["result"]
    assert record.to_json() + "\n" == ran.out


def test_names_in_hostile_files_cannot_steer_a_terminal_or_a_page(
    pedigree: Pedigree, engine: Engine, strangers: tuple[Path, Path], tmp_path: Path
) -> None:
    hostile = tmp_path / "model"
    shutil.copytree(strangers[0], hostile)
    (hostile / "config.json").write_text(json.dumps(SIZES.config() | {"architectures": ["\x1b[2J<script>x\u202e"]}))
    told = pedigree("compare", str(hostile), str(strangers[1]), "--annex", "--report", str(tmp_path / "r.html"))
    assert "\x1b" not in told.out
    assert "\u202e" not in told.out
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;x" in page
