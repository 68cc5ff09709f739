"""The API of a checkpoint on local files."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from source_tree import run_python
from weight_examples import example_tensors, same, write_model, write_shards

from pedigree.errors import BudgetExceeded, MalformedFile, MissingInput, UnsafeFile, UsageError
from pedigree.weights.checkpoint import open_checkpoint

TENSORS = example_tensors()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model", TENSORS, {"model_type": "llama", "hidden_size": 8})


@pytest.mark.parametrize("kind", ["directory", "file", "shards", "index"])
def test_every_local_form_gives_the_same_tensors(tmp_path: Path, kind: str) -> None:
    plain = write_model(tmp_path / "plain", TENSORS)
    sharded = write_shards(tmp_path / "sharded", TENSORS, 3)
    location = {
        "directory": plain,
        "file": plain / "model.safetensors",
        "shards": sharded,
        "index": sharded / "model.safetensors.index.json",
    }[kind]
    with open_checkpoint(location) as ck:
        assert list(ck.tensors) == sorted(TENSORS)
        assert ck.format == "safetensors"
        assert ck.config is not None
        assert ck.config["model_type"] == "llama"
        for name, tensor in TENSORS.items():
            assert same(ck.read(name), tensor), name
            assert ck.tensors[name].shape == tuple(tensor.shape)
            assert ck.tensors[name].nbytes == tensor.numel() * tensor.element_size()


@pytest.mark.parametrize("name", [name for name, tensor in TENSORS.items() if tensor.dim()])
def test_rows_and_indices_agree_with_torch_slicing(model: Path, name: str) -> None:
    tensor = TENSORS[name]
    n = len(tensor)
    with open_checkpoint(model) as ck:
        for start, stop in [(0, n), (0, 0), (n // 3, n), (n, n)]:
            assert same(ck.read_rows(name, start, stop), tensor[start:stop])
        for index in [[], *([[n - 1, 0, 0, n // 2], list(range(n)), [n // 2]] if n else [])]:
            picked = torch.tensor(index, dtype=torch.int64)
            expected = tensor.view(torch.uint8)[picked].view(tensor.dtype) if name == "packed" else tensor[picked]
            assert same(ck.read_index(name, index), expected)


def test_an_index_may_be_a_list_an_array_or_a_tensor(model: Path) -> None:
    with open_checkpoint(model) as ck:
        wanted = TENSORS["embed.weight"][[3, 1]]
        for index in ([3, 1], np.array([3, 1]), torch.tensor([3, 1])):
            assert same(ck.read_index("embed.weight", index), wanted)


def test_reading_rows_fetches_only_these_rows(model: Path) -> None:
    with open_checkpoint(model) as ck:
        before = ck.meter.read
        ck.read_rows("embed.weight", 10, 14)
        assert ck.meter.read - before == 4 * 8 * 2
        ck.read_index("embed.weight", [1, 2, 2, 40])
        assert ck.meter.read - before == (4 + 3) * 8 * 2


def test_opening_reads_headers_only(model: Path) -> None:
    with open_checkpoint(model) as ck:
        data = sum(info.nbytes for info in ck.tensors.values())
        assert ck.meter.total == (model / "model.safetensors").stat().st_size
        assert ck.meter.read == ck.meter.total - data + (model / "config.json").stat().st_size


def test_nan_and_infinite_values_are_read_as_they_are(tmp_path: Path) -> None:
    tensor = torch.tensor([[float("nan"), 1.0], [float("inf"), -0.0]])
    save_file({"x": tensor}, tmp_path / "model.safetensors")
    with open_checkpoint(tmp_path) as ck:
        assert same(ck.read("x"), tensor)


def test_a_tensor_that_is_not_there_is_named_with_its_neighbors(model: Path) -> None:
    with open_checkpoint(model) as ck, pytest.raises(MissingInput, match=r"'layers\.0\.up\.weight'"):
        ck.read("layers.0.up.weigth")


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 2), (0, 51), (51, 51)])
def test_rows_outside_the_tensor_are_refused(model: Path, start: int, stop: int) -> None:
    with open_checkpoint(model) as ck, pytest.raises(UsageError, match="rows within 0 to 50"):
        ck.read_rows("embed.weight", start, stop)


def test_an_index_outside_the_tensor_is_refused(model: Path) -> None:
    with open_checkpoint(model) as ck:
        with pytest.raises(UsageError, match="rows within 0 to 50"):
            ck.read_index("embed.weight", [0, 50])
        with pytest.raises(UsageError, match="rows within 0 to 50"):
            ck.read_index("embed.weight", [-1])
        with pytest.raises(UsageError, match="a scalar has no rows"):
            ck.read_rows("scale", 0, 1)


def test_the_budget_stops_the_read_before_it_happens(model: Path) -> None:
    with open_checkpoint(model) as ck:
        headers = ck.meter.read
    with open_checkpoint(model, budget_bytes=headers + 100) as ck:
        ck.read_rows("layers.0.up.weight", 0, 3)
        with pytest.raises(BudgetExceeded, match="and 32 more wanted") as caught:
            ck.read_rows("layers.0.up.weight", 3, 4)
        assert ck.meter.read == headers + 96
        assert caught.value.fix is not None
        assert "--budget" in caught.value.fix


def test_a_budget_below_the_headers_refuses_to_open(model: Path) -> None:
    with pytest.raises(BudgetExceeded, match="byte budget"):
        open_checkpoint(model, budget_bytes=10)


def test_header_digest_ignores_sharding_order_and_values_but_not_shapes(tmp_path: Path) -> None:
    a = write_model(tmp_path / "a", TENSORS)
    b = write_model(tmp_path / "b", example_tensors(1))
    c = write_model(tmp_path / "c", {**TENSORS, "norm.weight": torch.ones(9)})
    digests = {}
    for folder in (a, b, c):
        with open_checkpoint(folder) as ck:
            digests[folder] = ck.header_digest()
            assert ck.meter.read < ck.meter.total
    assert digests[a] == digests[b] != digests[c]
    assert digests[a].startswith("sha256:")


def test_read_digest_depends_on_what_was_read_and_not_on_order_or_form(tmp_path: Path) -> None:
    plain = write_model(tmp_path / "plain", TENSORS)
    sharded = write_shards(tmp_path / "sharded", TENSORS)
    with open_checkpoint(plain) as one, open_checkpoint(sharded) as two, open_checkpoint(plain) as three:
        assert one.read_digest() == two.read_digest()
        one.read_rows("embed.weight", 0, 3)
        one.read("norm.weight")
        two.read_index("norm.weight", [7, 6, 5, 4, 3, 2, 1, 0])
        two.read_index("embed.weight", [2, 1, 0, 0])
        two.read("norm.weight")
        assert one.read_digest() == two.read_digest()
        three.read_rows("embed.weight", 0, 4)
        three.read("norm.weight")
        assert one.read_digest() != three.read_digest()


def test_reads_from_many_threads_agree_with_reads_from_one(model: Path) -> None:
    jobs = [(name, row) for name in ("embed.weight", "layers.0.up.weight") for row in range(12)] * 5
    with open_checkpoint(model) as one, open_checkpoint(model) as many:
        expected = [one.read_rows(name, row, row + 1) for name, row in jobs]
        barrier = threading.Barrier(8)

        def job(item: tuple[str, int]) -> torch.Tensor:
            return many.read_rows(item[0], item[1], item[1] + 1)

        with ThreadPoolExecutor(8, initializer=barrier.wait) as pool:
            got = list(pool.map(job, jobs))
        assert all(same(a, b) for a, b in zip(expected, got, strict=True))
        assert one.read_digest() == many.read_digest()
        assert one.meter.read == many.meter.read


def test_side_files_come_from_the_same_place_and_are_counted(model: Path) -> None:
    (model / "tokenizer.json").write_bytes(b"{}")
    with open_checkpoint(model) as ck:
        before = ck.meter.read
        assert ck.sibling_bytes("tokenizer.json", 100) == b"{}"
        assert ck.meter.read == before + 2
        assert ck.sibling_bytes("vocab.json", 100) is None
        with pytest.raises(MalformedFile, match="too large"):
            ck.sibling_bytes("tokenizer.json", 1)
        with pytest.raises(UnsafeFile, match="leaves its directory"):
            ck.sibling_bytes("../secret", 100)


def test_a_checkpoint_without_config_has_none(tmp_path: Path) -> None:
    save_file({"x": torch.ones(2)}, tmp_path / "model.safetensors")
    with open_checkpoint(tmp_path) as ck:
        assert ck.config is None


@pytest.mark.parametrize("text", [b"{", b"[1]", b"\xff", b"[" * 100_000, b'{"a": ' * 100_000])
def test_a_damaged_config_is_named(tmp_path: Path, text: bytes) -> None:
    save_file({"x": torch.ones(2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(MalformedFile, match=r"config\.json"):
        open_checkpoint(tmp_path)


def test_a_place_that_does_not_exist_suggests_the_hub() -> None:
    with pytest.raises(MissingInput, match="no such file or directory") as caught:
        open_checkpoint("org/name")
    assert caught.value.fix == "hf://org/name if it is a model on the Hugging Face Hub"
    with pytest.raises(MissingInput, match="no such file or directory") as caught:
        open_checkpoint("./name")
    assert caught.value.fix is None


@pytest.mark.parametrize("location", ["s3://bucket/model", "gs://bucket/model", "hf:/org/name", "file:///model"])
def test_an_address_of_another_kind_is_told_which_kinds_are_read(location: str) -> None:
    with pytest.raises(UsageError, match="not a kind of address that is read") as caught:
        open_checkpoint(location)
    assert "hf://org/name" in str(caught.value.expected)


def test_opening_needs_no_torch(model: Path) -> None:
    code = (
        "import sys; from pedigree.weights.checkpoint import open_checkpoint\n"
        f"ck = open_checkpoint({str(model)!r}); ck.header_digest()\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr


def test_a_large_tensor_is_read_in_chunks_with_little_memory(tmp_path: Path) -> None:
    rows, columns = 65_536, 2_000  # 262 MB
    header = json.dumps({"w": {"dtype": "BF16", "shape": [rows, columns], "data_offsets": [0, rows * columns * 2]}})
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header.encode())
        file.truncate(8 + len(header) + rows * columns * 2)  # a hole: reads as zeros and takes no disk
    code = (
        "import sys, torch, resource\n"
        "from pedigree.weights.checkpoint import open_checkpoint\n"
        f"ck = open_checkpoint({str(tmp_path)!r}); ck.read_rows('w', 0, 1)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"for row in range(0, {rows}, 2048): ck.read_rows('w', row, row + 2048)\n"
        "grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before\n"
        "assert ck.meter.read > 2 * 10**8, ck.meter.read\n"
        "sys.exit(f'{grown} KiB' if grown > 60_000 else 0)\n"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr
