"""Which files count, and files that want to leave their directory."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from weight_examples import example_tensors, write_model, write_shards

from pedigree.errors import MalformedFile, MissingInput, UnsafeFile, UsageError
from pedigree.weights.checkpoint import open_checkpoint

TENSORS = example_tensors()
INDEX = "model.safetensors.index.json"


def rewrite_index(folder: Path, **changes: str) -> None:
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"].update(changes)
    (folder / INDEX).write_text(json.dumps(index))


def test_safetensors_are_preferred_and_the_rest_is_noted(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", TENSORS)
    torch.save({"x": torch.ones(1)}, folder / "pytorch_model.bin")
    with open_checkpoint(folder) as ck:
        assert ck.format == "safetensors"
        assert ck.notes == ("pytorch_model.bin is there too and was not read",)


def test_another_weight_file_beside_the_chosen_one_is_noted(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", TENSORS)
    for name in ("model-ema.safetensors", "adapter_model.safetensors"):
        save_file({"x": torch.ones(1)}, folder / name)
    with open_checkpoint(folder) as ck:
        assert ck.notes == ("model-ema.safetensors is there too and was not read",)


@pytest.mark.parametrize("name", ["model.safetensors", "model.gguf", "pytorch_model.bin"])
@pytest.mark.parametrize(
    ("content", "what", "fix"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "a Git LFS pointer", "git lfs pull"),
        (b"<!DOCTYPE html><html><body>Not Found</body></html>", "a web page", "get the file again"),
    ],
)
def test_what_lies_in_place_of_the_weights_is_called_by_its_name(
    name: str, content: bytes, what: str, fix: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MissingInput, match=what) as told:
        open_checkpoint(tmp_path, allow_pickle=True)
    assert fix in str(told.value.fix)


def test_one_file_of_any_name_is_taken(tmp_path: Path) -> None:
    save_file({"x": torch.ones(1)}, tmp_path / "consolidated.safetensors")
    with open_checkpoint(tmp_path) as ck:
        assert list(ck.tensors) == ["x"]


def test_several_files_of_any_name_need_a_choice(tmp_path: Path) -> None:
    save_file({"x": torch.ones(1)}, tmp_path / "a.safetensors")
    save_file({"x": torch.ones(1)}, tmp_path / "b.safetensors")
    with pytest.raises(UsageError, match="several weight files"):
        open_checkpoint(tmp_path)


def test_an_adapter_alone_is_called_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "adapter_model.safetensors").touch()
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(MissingInput, match="an adapter alone") as told:
        open_checkpoint(tmp_path)
    assert "merge the adapter into its base" in str(told.value.fix)


def test_adapters_and_optimizer_states_are_not_taken_for_weights(tmp_path: Path) -> None:
    for name in ("model-x.safetensors", "adapter_model.safetensors", "optimizer.safetensors"):
        save_file({name: torch.ones(1)}, tmp_path / name)
    with open_checkpoint(tmp_path) as ck:
        assert list(ck.tensors) == ["model-x.safetensors"]


def test_a_complete_set_without_index_is_taken(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "m", TENSORS, 3)
    (folder / INDEX).unlink()
    with open_checkpoint(folder) as ck:
        assert set(ck.tensors) == set(TENSORS)


def test_an_incomplete_set_without_index_is_refused(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "m", TENSORS, 3)
    (folder / INDEX).unlink()
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(MissingInput, match="model-00002-of-00003"):
        open_checkpoint(folder)


def test_an_empty_directory_says_what_it_wants(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match=r"an empty directory, expected \*\.safetensors"):
        open_checkpoint(tmp_path)


def test_a_file_of_unknown_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UsageError, match="not a weight file"):
        open_checkpoint(tmp_path / "notes.txt")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "m", TENSORS)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(MissingInput, match=r"model-00002-of-00002.*holds 5 tensors"):
        open_checkpoint(folder)


def test_a_shard_that_lacks_a_promised_tensor_is_named(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "m", TENSORS)
    rewrite_index(folder, ghost="model-00001-of-00002.safetensors")
    with pytest.raises(MissingInput, match=r"model-00001-of-00002\.safetensors: tensor 'ghost'"):
        open_checkpoint(folder)


def test_a_tensor_mapped_to_the_wrong_shard_is_missing_there(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "m", TENSORS)
    rewrite_index(folder, scale="model-00001-of-00002.safetensors", ids="model-00002-of-00002.safetensors")
    with pytest.raises(MissingInput, match="a shard lacks a tensor"):
        open_checkpoint(folder)


def test_tensors_that_the_index_does_not_list_are_noted(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "m", TENSORS)
    index = json.loads((folder / INDEX).read_text())
    del index["weight_map"]["scale"]
    (folder / INDEX).write_text(json.dumps(index))
    with open_checkpoint(folder) as ck:
        assert "scale" not in ck.tensors
        assert ck.notes[-1].endswith("1 tensors that the index does not list there were left out")


def test_a_shard_named_alone_is_read_alone_and_said_to_be(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "m", TENSORS, 2)
    with open_checkpoint(folder / "model-00001-of-00002.safetensors") as ck:
        assert len(ck.tensors) == 5
        assert ck.notes[0].endswith("is one of 2 shards; the others were not read")


def test_two_shards_with_one_name_are_refused(tmp_path: Path) -> None:
    for number in (1, 2):
        save_file({"x": torch.ones(1)}, tmp_path / f"model-{number:05d}-of-00002.safetensors")
    with pytest.raises(MalformedFile, match="two files hold a tensor of one name"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "file",
    [
        "../secret.safetensors",
        "/etc/secret.safetensors",
        "a/../../b.safetensors",
        "..\\b.safetensors",
        "a\x1b[2Jb.safetensors",
        "",
    ],
)
def test_an_index_cannot_point_out_of_its_directory(tmp_path: Path, file: str) -> None:
    folder = write_shards(tmp_path / "m", TENSORS)
    save_file({"x": torch.ones(1)}, tmp_path / "secret.safetensors")
    rewrite_index(folder, x=file)
    with pytest.raises(UnsafeFile, match=r"model\.safetensors\.index\.json, field weight_map"):
        open_checkpoint(folder)


@pytest.mark.parametrize("weight_map", [None, [], {}, {"x": 1}, {"x": None}, {"x": ["a"]}, {"\ud800": "a.safetensors"}])
def test_an_index_without_a_proper_map_is_refused(tmp_path: Path, weight_map: object) -> None:
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(MalformedFile, match="field weight_map"):
        open_checkpoint(tmp_path)


def test_an_index_with_a_tensor_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text('{"weight_map": {"x": "a.safetensors", "x": "b.safetensors"}}')
    with pytest.raises(MalformedFile, match=r"a key occurs twice.*index\.json.*'x'"):
        open_checkpoint(tmp_path)


def test_an_index_of_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"x": "config.json"}}))
    with pytest.raises(UnsafeFile, match="not of one known format"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("link", ["model.safetensors", "config.json"])
def test_a_symbolic_link_out_of_the_directory_is_refused(tmp_path: Path, link: str) -> None:
    folder = write_model(tmp_path / "m", TENSORS)
    (tmp_path / "outside").write_bytes((folder / link).read_bytes())
    (folder / link).unlink()
    (folder / link).symlink_to(tmp_path / "outside")
    with pytest.raises(UnsafeFile, match="symbolic link leaves the directory"):
        open_checkpoint(folder)


def test_a_directory_that_is_a_link_out_is_refused(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "m", TENSORS, 1)
    (tmp_path / "elsewhere").mkdir()
    shard = "model-00001-of-00001.safetensors"
    (folder / shard).rename(tmp_path / "elsewhere" / shard)
    (folder / "sub").symlink_to(tmp_path / "elsewhere")
    (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(TENSORS, f"sub/{shard}")}))
    with pytest.raises(UnsafeFile, match="symbolic link leaves the directory"):
        open_checkpoint(folder)


def test_a_link_inside_the_directory_and_a_named_link_are_fine(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", TENSORS)
    (folder / "model.safetensors").rename(folder / "blob")
    (folder / "model.safetensors").symlink_to("blob")
    with open_checkpoint(folder) as ck:
        assert set(ck.tensors) == set(TENSORS)
    (tmp_path / "named.safetensors").symlink_to(folder / "blob")
    with open_checkpoint(tmp_path / "named.safetensors") as ck:
        assert set(ck.tensors) == set(TENSORS)


def test_the_layout_of_the_hub_cache_is_read(tmp_path: Path) -> None:
    repository = tmp_path / "models--org--name"
    snapshot = write_model(repository / "snapshots" / "abc", TENSORS)
    (repository / "blobs").mkdir()
    for name in ("model.safetensors", "config.json"):
        (snapshot / name).rename(repository / "blobs" / name)
        (snapshot / name).symlink_to(Path("../../blobs") / name)
    with open_checkpoint(snapshot) as ck:
        assert set(ck.tensors) == set(TENSORS)


def test_links_to_nothing_and_to_themselves_are_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").symlink_to("gone")
    with pytest.raises(MissingInput, match="points to nothing"):
        open_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors").symlink_to("model.safetensors")
    with pytest.raises(UnsafeFile, match="cannot be reached"):
        open_checkpoint(tmp_path)


def test_a_pipe_or_a_directory_in_place_of_a_file_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(UnsafeFile, match="not a regular file"):
        open_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(MissingInput, match="no weight files"):
        open_checkpoint(tmp_path)


def test_a_training_directory_points_to_the_folder_that_holds_the_weights(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"")
    with pytest.raises(MissingInput, match="no weight files") as caught:
        open_checkpoint(tmp_path)
    assert caught.value.fix == f"name {tmp_path / 'model'}"
