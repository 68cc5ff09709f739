"""Every script of examples/ runs to its end and says what it promises; the documentation lists them all."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest
from source_tree import ROOT

# What each must print, as patterns that hold whatever the machine.
SAYS = {
    "train_and_sample.py": (r"30,720 tokens, loss [01234]\.\d+, held-out text [12]\.\d+ bits", r"3 plus 4 is \d+"),
    "compare_checkpoints.py": (r"parent and child: related", r"\[0, 1, 2, 3\]", r"parent and stranger: unrelated"),
    "audit_tokenizer.py": (r"code +[2-9]\.\d+ bytes a token", r"zho +1\.\d+ bytes a token", r"\n- "),
    "plan_718b.py": (r"719\.1 billion parameters, 39\.2 billion in a token", r"6,144 devices"),
}


def test_the_folder_the_documentation_and_this_test_name_the_same() -> None:
    there = {path.name for path in (ROOT / "examples").iterdir() if path.suffix == ".py"}
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert there == set(SAYS) == set(re.findall(r"\(\.\./examples/(\w+\.py)\)", index))


@pytest.mark.parametrize("name", SAYS)
def test_an_example_says_what_it_promises(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = ROOT / "examples" / name
    folder = [str(tmp_path)] if "[FOLDER]" in path.read_text(encoding="utf-8") else []
    monkeypatch.setattr(sys, "argv", [str(path), *folder])
    runpy.run_path(str(path), run_name="__main__")
    said = capsys.readouterr().out
    for pattern in SAYS[name]:
        assert re.search(pattern, said), f"{pattern}\n{said}"
