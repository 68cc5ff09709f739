"""What README and SECURITY promise about a whole run, held on the command line in a process of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_family import run_pedigree, write_family

NO_NETWORK = """
import socket
def refuse(*arguments, **keywords):
    raise SystemExit("something asked for the network")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse
"""


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_family(tmp_path_factory.mktemp("family"))


def record_of(text: str) -> dict[str, Any]:
    """A record without the fields that hold a time."""
    record: dict[str, Any] = json.loads(text)
    record.pop("created")
    record["result"]["read"].pop("seconds")
    return record


def test_local_models_are_compared_without_asking_for_the_network(family: Path) -> None:
    words = ("pedigree", "compare", "parent", "child", "--quiet")
    done = run_pedigree(words, family, 120, before=NO_NETWORK, HF_HUB_OFFLINE="0")
    assert (done.returncode, done.stdout) == (0, "related\n"), done.stderr


def test_the_network_guard_of_these_tests_works(family: Path) -> None:
    words = ("pedigree", "compare", "http://127.0.0.1:9/model.safetensors", "child")
    assert "asked for the network" in run_pedigree(words, family, 120, before=NO_NETWORK).stderr


def test_the_same_inputs_give_the_same_record_on_any_number_of_threads(family: Path) -> None:
    words = ("pedigree", "compare", "parent", "child", "--json")
    texts = [run_pedigree(words, family, 120, OMP_NUM_THREADS=n).stdout for n in ("1", "3")]
    assert record_of(texts[0]) == record_of(texts[1])


@pytest.fixture
def baited(family: Path, tmp_path: Path) -> Iterator[Path]:
    """The parent, with code beside its weights that its configuration asks to be imported."""
    folder = tmp_path / "baited"
    folder.mkdir()
    for file in (family / "parent").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kinds = {"AutoConfig": "bait.Config", "AutoModel": "bait.Model", "AutoModelForCausalLM": "bait.Model"}
    config |= {"auto_map": kinds, "architectures": ["Bait"], "trust_remote_code": True}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    bait = f"open({str(tmp_path / 'was-run')!r}, 'w').close()\nclass Config: pass\nclass Model: pass\n"
    for name in ("bait.py", "__init__.py", "sitecustomize.py", "torch.py", "numpy.py", "json.py"):
        (folder / name).write_text(bait, encoding="utf-8")
    yield folder
    assert not (tmp_path / "was-run").exists()


def test_code_beside_the_weights_is_not_imported(baited: Path, family: Path) -> None:
    words = ("pedigree", "compare", str(baited), str(family / "child"), "--quiet")
    done = run_pedigree(words, baited.parent, 120)
    assert (done.returncode, done.stdout) == (0, "related\n"), done.stderr


def test_a_name_that_is_not_utf8_is_read_and_written(family: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"model-\xff\x1b[31m")
    try:
        (tmp_path / name).symlink_to(family / "parent", target_is_directory=True)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    words = ("pedigree", "compare", name, str(family / "child"), "--json", "--report", "out.html")
    done = run_pedigree(words, tmp_path, 120, PYTHONUTF8="1")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["inputs"]["a"]["location"] == "model-\ufffd\x1b[31m"
    assert "\x1b" not in done.stdout + done.stderr + (tmp_path / "out.html").read_text(encoding="utf-8")
