"""What lies beside the weights: read as text, bounded, never executed, never a crash."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.forensics.tiny_models import Sizes, llama

from pedigree.weights import beside
from pedigree.weights.annex import make_annex
from pedigree.weights.beside import Beside, clean, read_beside
from pedigree.weights.checkpoint import open_checkpoint

SIZES = Sizes(layers=2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny Llama without anything beside it but its config."""
    save_file(llama(0, SIZES), tmp_path / "model.safetensors")
    write_json(tmp_path / "config.json", SIZES.config())
    return tmp_path


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def read(folder: Path) -> Beside:
    with open_checkpoint(folder) as checkpoint:
        return read_beside(checkpoint)


def test_names_of_a_config_and_what_tensor_names_say_of_it(folder: Path) -> None:
    auto = {"AutoModel": "modeling_other.OtherModel"}
    write_json(
        folder / "config.json", SIZES.config("other") | {"architectures": ["OtherForCausalLM"], "auto_map": auto}
    )
    found = read(folder)
    assert found.config == (
        "architectures: OtherForCausalLM", "model_type: other", "auto_map: modeling_other.OtherModel"
    )  # fmt: skip
    assert (found.model_type, found.table) == ("other", "llama")
    declared = next(item for item in make_annex(found, found).items if item.kind == "declared-kind")
    assert declared.a == ["config says other; tensor names are those of llama"]


def test_a_kind_that_shares_the_names_of_another_is_said_to_fit(folder: Path) -> None:
    write_json(folder / "config.json", SIZES.config("mistral"))
    declared = next(item for item in make_annex(read(folder), None).items if item.kind == "declared-kind")
    assert declared.a == ["config says mistral; tensor names are of that kind"]


def test_code_is_read_as_text_and_never_run(folder: Path) -> None:
    mark = folder / "it ran"
    (folder / "modeling_x.py").write_text(
        "# Copyright 2024 The X team\n# Licensed under the Apache License\n"
        f"open({str(mark)!r}, 'w')\nclass XModel:\n  pass\n"
    )
    (folder / "LICENSE").write_text("\n  Some License\nCopyright (c) 2024 Y\n" + "word " * 5000)
    found = read(folder)
    assert found.classes == ("XModel",)
    assert found.licenses == (
        "LICENSE: Some License", "LICENSE: Copyright (c) 2024 Y", "modeling_x.py: Copyright 2024 The X team",
        "modeling_x.py: Licensed under the Apache License",
    )  # fmt: skip
    assert not mark.exists()


def test_paths_are_found_in_every_file_that_may_hold_one_and_users_are_left_out(folder: Path) -> None:
    save_file(llama(0, SIZES), folder / "model.safetensors", {"from": "/data/ckpt/v3-base/iter_100"})
    write_json(folder / "config.json", SIZES.config() | {"_name_or_path": "/home/someone/models/base"})
    write_json(folder / "trainer_state.json", {"log": [{"best": "s3://store/run-7/best"}]})
    (folder / "training_args.bin").write_bytes(b"\x80\x02X\x10\x00\x00\x00/cache/out/run-9\x00\xff(q\x01.")
    found = read(folder)
    assert set(found.paths) == {
        "weight files: /data/ckpt/v3-base/iter_100", "config.json: /home/(user)/models/base",
        "trainer_state.json: s3://store/run-7/best", "training_args.bin: /cache/out/run-9",
    }  # fmt: skip
    assert "_name_or_path: /home/(user)/models/base" in found.config


def test_tokenizers_are_compared_by_content_whatever_the_writing_of_merges(folder: Path) -> None:
    vocabulary = {"a": 0, "b": 1, "ab": 2, "<s>": 3}
    added = [{"content": "<s>", "special": True}, {"content": "plain", "special": False}]
    model = {"vocab": vocabulary, "merges": ["a b"]}
    write_json(folder / "tokenizer.json", {"model": model, "added_tokens": added})
    write_json(folder / "tokenizer_config.json", {"chat_template": "{{ x }}", "eos_token": {"content": "</s>"}})
    a = read(folder)
    assert a.special_tokens == ("</s>", "<s>")
    write_json(folder / "tokenizer.json", {"model": {"vocab": vocabulary | {"b": 5}, "merges": [["a", "b"]]}})
    b = read(folder)
    items = {item.kind: item for item in make_annex(a, b).items}
    assert items["merges"].likeness == "same"
    assert items["chat-template"].likeness == "same"
    assert items["vocabulary"].likeness == "partly"
    assert items["vocabulary"].a[1] == "4 tokens in both, 3 of them under the same number"
    assert items["special-tokens"].likeness == "partly"


def test_biases_are_counted_by_projection(folder: Path) -> None:
    tensors = llama(0, SIZES) | {"model.layers.1.self_attn.q_proj.bias": torch.zeros(SIZES.heads * SIZES.head_dim)}
    save_file(tensors, folder / "model.safetensors")
    assert read(folder).biases == ("q: 1 of 2 layers, k: none, v: none, o: none",)


def test_every_item_has_an_innocent_explanation_and_nothing_found_is_no_item(folder: Path) -> None:
    annex = make_annex(read(folder), None, ["B: nothing there"])
    assert [item.kind for item in annex.items] == ["config", "declared-kind", "tensor-names", "biases"]
    assert all(len(item.innocent) > 40 and item.likeness == "one-side" for item in annex.items)
    assert annex.not_read == ["B: nothing there"]


@pytest.mark.parametrize("text", ["a\x1b[31mb\x07", "a\u202eb", "a\u200b\ud800b", "a\x9bb"])
def test_what_steers_a_terminal_is_taken_out(text: str) -> None:
    assert clean(text).isprintable()
    assert clean(text).replace("[31m", "") == "ab"
    assert len(clean("x" * 10_000)) == beside.LONGEST


HOSTILE = {
    "tokenizer.json": [
        b"[" * 100_000,
        b"{\xff}",
        b"[]",
        b'{"model": 3}',
        b'{"model": {"vocab": {"a": []}, "merges": {}}}',
    ],
    "tokenizer_config.json": [b'{"chat_template": [1, {"template": 2}], "bos_token": []}', b'"x"'],
    "trainer_state.json": [b'{"a":' * 5000 + b"1" + b"}" * 5000, b"{"],
    "training_args.bin": [os.urandom(4096), b"/" * 100_000],
    "modeling_x.py": [b"class " * 50_000, b"\x00\xff\xfe" * 9000, b"# licence " + b"x" * 90_000],
    "LICENSE": [b"", b"\n" * 90_000],
}


@pytest.mark.parametrize(("name", "content"), [(n, c) for n, contents in HOSTILE.items() for c in contents])
def test_hostile_files_are_named_or_passed_over(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    found = read(folder)
    assert found.table == "llama"
    for text in (*found.licenses, *found.paths, *found.special_tokens, *found.classes, *found.not_read):
        assert text.isprintable()
        assert len(text) <= beside.LONGEST


def test_a_link_out_of_the_folder_a_pipe_and_a_giant_are_not_read(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    secret = tmp_path_factory.mktemp("elsewhere") / "secret"
    secret.write_text("Copyright of a secret")
    (folder / "LICENSE").symlink_to(secret)
    os.mkfifo(folder / "NOTICE")
    with (folder / "tokenizer.json").open("wb") as giant:
        giant.truncate(beside.TOKENIZER_BYTES + 1)
    found = read(folder)
    assert found.licenses == ()
    assert {line.partition(":")[0] for line in found.not_read} == {"LICENSE", "NOTICE", "tokenizer.json"}


def test_files_beyond_the_most_are_counted(folder: Path) -> None:
    for number in range(beside.MOST_FILES + 5):
        (folder / f"m{number:02}.py").write_text(f"class C{number}: ...\nclass D{number}: ...\n")
    found = read(folder)
    assert found.not_read == ("5 further code and license files",)
    assert len(found.classes) == beside.MOST + 1
    assert found.classes[-1] == f"and {2 * beside.MOST_FILES - beside.MOST} more"
