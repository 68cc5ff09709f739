"""The id of an artifact binds every byte, name and size, and nothing else; tensors keep theirs across files."""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3
from safetensors.numpy import save_file
from source_tree import run_python

from pedigree.errors import InputError, MalformedFile, MissingInput, UnsafeFile
from pedigree.records.artifact import Manifest
from pedigree.weights import artifact as module
from pedigree.weights.artifact import artifact_id, read_artifact, read_tensors

TENSORS = {f"layer.{i}.weight": np.arange(i * 7, i * 7 + 12, dtype=np.float32).reshape(3, 4) for i in range(4)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "model"
    (root / "sub").mkdir(parents=True)
    (root / "config.json").write_bytes(b"{}")
    (root / "sub" / "empty").write_bytes(b"")
    (root / "A").write_bytes(b"abc" * 1000)
    return root


def test_the_id_is_the_plain_sha256_of_the_manifest_that_anyone_can_write(folder: Path) -> None:
    rows = []
    for name in ("A", "config.json", "sub/empty"):
        data = (folder / name).read_bytes()
        rows.append(
            {"blake3": blake3(data).hexdigest(), "path": name, "sha256": hashlib.sha256(data).hexdigest(),
             "size": str(len(data))}
        )  # fmt: skip
    text = json.dumps({"files": rows, "schema": "pedigree/manifest", "version": "1"}, separators=(",", ":"))
    found = read_artifact(folder)
    assert found.id == "sha256:" + hashlib.sha256(text.encode()).hexdigest()
    assert Manifest.from_bytes(text.encode()).artifact_id == found.id
    assert found.bytes == 3002


def test_the_id_stays_what_it_is(folder: Path) -> None:
    assert artifact_id(folder) == "sha256:ec3904e4e96e2fcc6822060e5bed77210769651a7d81127fd9526533e6efa825"


def test_place_order_threads_blocks_and_sidecar_do_not_change_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = artifact_id(folder)
    (folder / "pedigree.json").write_text("{}")
    moved = folder.rename(folder.with_name("elsewhere"))
    monkeypatch.setattr(module, "BLOCK", 7)
    assert read_artifact(moved, threads=3).id == before
    (moved / "sub" / "pedigree.json").write_text("{}")
    assert artifact_id(moved) != before, "only the sidecar at the top is left out"


@pytest.mark.parametrize("change", ["byte", "name", "empty file", "missing"])
def test_every_change_of_a_file_changes_it(folder: Path, change: str) -> None:
    before = artifact_id(folder)
    if change == "byte":
        (folder / "A").write_bytes(b"abc" * 999 + b"abd")
    elif change == "name":
        (folder / "A").rename(folder / "B")
    elif change == "empty file":
        (folder / "new").write_bytes(b"")
    else:
        (folder / "sub" / "empty").unlink()
    assert artifact_id(folder) != before


def test_a_link_inside_counts_as_its_file_and_one_that_leaves_is_refused(folder: Path) -> None:
    (folder / "B").write_bytes((folder / "A").read_bytes())
    before = artifact_id(folder)
    (folder / "B").unlink()
    (folder / "B").symlink_to("A")
    assert artifact_id(folder) == before
    (folder / "B").unlink()
    (folder / "B").symlink_to("/etc/hostname")
    with pytest.raises(UnsafeFile, match="its own"):
        artifact_id(folder)


def test_pipes_broken_links_and_colliding_names_are_refused(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    with pytest.raises(UnsafeFile, match="holds files"):
        artifact_id(folder)
    (folder / "pipe").unlink()
    (folder / "link").symlink_to("nothing")
    with pytest.raises(MissingInput, match="points to nothing"):
        artifact_id(folder)
    (folder / "link").unlink()
    (folder / "a").write_bytes(b"")
    with pytest.raises(UnsafeFile, match="one on some file systems"):
        artifact_id(folder)
    (folder / "a").unlink()
    for form in ("NFC", "NFD"):
        (folder / unicodedata.normalize(form, "é")).write_bytes(b"")
    with pytest.raises(UnsafeFile, match="one on some file systems"):
        artifact_id(folder)


def test_a_name_that_is_not_utf8_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="no file"):
        artifact_id(tmp_path)
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")).write_bytes(b"x")
    with pytest.raises(UnsafeFile, match="not UTF-8"):
        artifact_id(tmp_path)


def test_a_file_that_grows_while_it_is_read_gives_no_id(folder: Path) -> None:
    def grow(done: int, total: int) -> None:
        if done >= 3000:
            with (folder / "A").open("ab") as file:
                file.write(b"x")

    with pytest.raises(InputError, match="changed while it was read"):
        read_artifact(folder, threads=1, progress=lambda done, total: grow(done, total) if done < 4000 else None)


@pytest.mark.parametrize("data", [b"", b"\xff", b"[]", b'{"files":[],"schema":"pedigree/manifest", "version":"1"}'])
def test_what_is_no_canonical_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedFile, match="manifest"):
        Manifest.from_bytes(data)


def test_tensors_keep_their_roots_in_other_files_and_the_second_under_other_names(tmp_path: Path) -> None:
    for name in ("one", "two", "renamed", "changed"):
        (tmp_path / name).mkdir()
    save_file(TENSORS, tmp_path / "one" / "model.safetensors")
    names = list(TENSORS)
    for i, part in enumerate((names[:1], names[1:])):
        save_file({n: TENSORS[n] for n in part}, tmp_path / "two" / f"model-{i}.safetensors")
    index = {"metadata": {}, "weight_map": {n: f"model-{int(n != names[0])}.safetensors" for n in names}}
    (tmp_path / "two" / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file({f"x.{n}": t for n, t in TENSORS.items()}, tmp_path / "renamed" / "model.safetensors")
    save_file({n: t + (n == names[2]) for n, t in TENSORS.items()}, tmp_path / "changed" / "model.safetensors")
    one, two, renamed, changed = (read_tensors(tmp_path / n) for n in ("one", "two", "renamed", "changed"))
    assert (one.root, one.contents_root) == (two.root, two.contents_root)
    assert one.root != renamed.root
    assert one.contents_root == renamed.contents_root
    assert changed.contents_root != one.contents_root
    assert one.tensors[0].blake3 == blake3(TENSORS[names[0]].tobytes()).hexdigest()
    differing = [a.name for a, b in zip(one.tensors, changed.tensors, strict=True) if a.blake3 != b.blake3]
    assert differing == [names[2]]


def test_a_transposed_view_of_a_torch_file_has_the_digest_of_its_numbers(tmp_path: Path) -> None:
    import torch

    value = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    torch.save({"w": value.t()}, tmp_path / "pytorch_model.bin")
    found = read_tensors(tmp_path, allow_pickle=True)
    assert found.tensors[0].blake3 == blake3(value.t().contiguous().numpy().tobytes()).hexdigest()


def test_an_id_needs_no_tensor_library(folder: Path) -> None:
    save_file(TENSORS, folder / "model.safetensors")
    code = (
        "import sys; from pedigree.weights.artifact import read_artifact, read_tensors;"
        f"read_artifact({str(folder)!r}); read_tensors({str(folder)!r}); print('torch' in sys.modules)"
    )
    assert run_python(code).stdout.strip() == "False"
