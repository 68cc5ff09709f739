"""The engine: what is written does not depend on how, and a target is absent or complete."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tests.surgery.surgery_models import logits, operate, quick_folder, tensors, write_model, write_recipe

from pedigree.errors import InputError, OutputExists, PedigreeError, UsageError
from pedigree.records.recorder import JsonlRecorder, read_events
from pedigree.surgery import plan as planning
from pedigree.surgery.composition import compose
from pedigree.surgery.direct import BLOCK
from pedigree.surgery.engine import run
from pedigree.surgery.plan import make_plan
from pedigree.surgery.recipe import read_recipe

STEPS: list[Any] = [
    {"grow.depth": {"op": "identity", "after": [0]}},
    {"grow.ffn": {"to": 30, "op": "copy", "noise": {"antisym": 0.3}}},
    {"grow.hidden": {"to": 24}},
]


@pytest.fixture
def folder() -> Iterator[Path]:
    with quick_folder() as made:
        yield made


def weights(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors"))}


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox"])
def test_without_steps_the_same_tensors_come_out(folder: Path, kind: str) -> None:
    source = write_model(folder / "source", kind)
    operate(source, folder / "target", [], into={"link": False})
    before, after = tensors(source), tensors(folder / "target")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not os.path.samefile(source / "model.safetensors", folder / "target" / "model.safetensors")


def test_the_bytes_depend_on_the_recipe_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not on tiles, workers, or files; random numbers included."""
    source = write_model(folder / "source", "llama")
    operate(source, folder / "one", STEPS, workers=1)
    monkeypatch.setattr(planning, "TILE_ELEMENTS", 7)
    operate(source, folder / "two", STEPS, workers=5)
    assert weights(folder / "one") == weights(folder / "two")
    operate(source, folder / "three", STEPS, into={"seed": 1})
    assert weights(folder / "one") != weights(folder / "three")


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox"])
def test_tiles_do_not_change_turned_and_fused_tensors(folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_model(folder / "source", kind)
    width = 32 if kind == "gpt2" else 64
    steps = [{"grow.hidden": {"to": width, "op": "clone", "noise": {"antisym": 0.2}}}, "launder.permute"]
    operate(source, folder / "one", steps)
    monkeypatch.setattr(planning, "TILE_ELEMENTS", 5)
    operate(source, folder / "two", steps)
    assert weights(folder / "one") == weights(folder / "two")


def test_large_tensors_begin_at_blocks_and_the_header_is_exact(folder: Path) -> None:
    source = write_model(folder / "source", "llama", hidden_size=64, intermediate_size=128)
    operate(source, folder / "target", [{"grow.ffn": {"to": 192}}])
    path = folder / "target" / "model.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__")
    spans = sorted(entry["data_offsets"] for entry in header.values())
    assert spans[0][0] == 0
    assert all(a[1] == b[0] for a, b in pairwise(spans))
    assert len(content) == 8 + length + spans[-1][1]
    for entry in header.values():
        first, last = entry["data_offsets"]
        if (last - first) % BLOCK == 0:
            assert (8 + length + first) % BLOCK == 0
    with safe_open(path, "pt") as opened:
        assert set(opened.keys()) == set(header)


def test_files_that_do_not_change_are_shared(folder: Path) -> None:
    source = write_model(folder / "source", "llama")
    whole = tensors(source)
    (source / "model.safetensors").unlink()
    first = {name: tensor for name, tensor in whole.items() if ".layers.0." in name}
    rest = {name: tensor for name, tensor in whole.items() if name not in first}
    save_file(first, source / "a.safetensors")
    save_file(rest, source / "b.safetensors")
    index = dict.fromkeys(first, "a.safetensors") | dict.fromkeys(rest, "b.safetensors")
    (source / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    outcome, _ = operate(source, folder / "target", [{"grow.depth": {"op": "identity", "after": [1]}}])
    shared = [p for p in (folder / "target").glob("*.safetensors") if p.stat().st_nlink > 1]
    sources = [source / "a.safetensors", source / "b.safetensors"]
    assert all(any(os.path.samefile(path, old) for old in sources) for path in shared)
    assert len(shared) == 2
    assert outcome.linked_bytes == sum((source / f"{x}.safetensors").stat().st_size for x in "ab")
    assert torch.equal(logits(source), logits(folder / "target"))


def test_what_is_copied_to_several_places_is_read_once(folder: Path) -> None:
    source = write_model(folder / "source", "llama")
    recipe = write_recipe(
        source, folder / "target", [{"grow.depth": {"op": "stack", "times": 3}}, {"moe.upcycle": {"experts": 4}}],
        allow="nfp",
    )  # fmt: skip
    composition = compose(read_recipe(recipe))
    planned = make_plan(composition, workers=2)
    outcome = run(planned, JsonlRecorder(folder / "log"))
    composition.close()
    stored = tensors(source)
    assert outcome.read_bytes == planned.read_bytes == sum(t.numel() * t.element_size() for t in stored.values())
    new = tensors(folder / "target")
    expert = "model.layers.5.block_sparse_moe.experts.3.w1.weight"
    assert torch.equal(new[expert], stored["model.layers.1.mlp.gate_proj.weight"])
    assert outcome.digests[expert] == outcome.digests["model.layers.3.block_sparse_moe.experts.0.w1.weight"]


def test_a_target_that_is_there_is_kept_unless_forced(folder: Path) -> None:
    source = write_model(folder / "source", "llama")
    target = folder / "target"
    target.mkdir()
    (target / "mine.txt").write_text("mine")
    with pytest.raises(OutputExists, match="already there"):
        operate(source, target, [])
    assert (target / "mine.txt").read_text() == "mine"
    operate(source, target, [], force=True)
    assert sorted(p.name for p in target.iterdir()) == [
        "config.json", "generation_config.json", "model.safetensors", "pedigree.json", "surgery.json",
    ]  # fmt: skip


def test_the_target_may_not_be_the_source(folder: Path) -> None:
    source = write_model(folder / "source", "llama")
    with pytest.raises(UsageError, match="one of the sources"):
        operate(source, source, [], force=True)


def test_too_small_a_disk_is_told_before_the_work(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_model(folder / "source", "llama")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(planning.shutil, "disk_usage", lambda _: usage(1, 1, 1000))
    with pytest.raises(UsageError, match="too little room") as caught:
        operate(source, folder / "target", STEPS)
    assert caught.value.got == "1,000 bytes free"
    assert not (folder / "target.partial").exists()


def test_an_interrupted_run_goes_on_with_what_is_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_model(folder / "source", "llama")
    operate(source, folder / "whole", STEPS)
    composition = compose(read_recipe(write_recipe(source, folder / "target", STEPS)))
    made = make_plan(composition, workers=1)
    from pedigree.surgery.engine import _Execution

    real, count = _Execution._tensor, 0

    def failing(self: Any, *arguments: Any) -> None:
        nonlocal count
        count += 1
        if count == 6:
            raise InputError("the cable was pulled")
        real(self, *arguments)

    monkeypatch.setattr(_Execution, "_tensor", failing)
    with pytest.raises(InputError, match="cable"):
        run(made, JsonlRecorder(folder / "log"))
    assert not (folder / "target").exists()
    assert not (folder / "log").exists()
    monkeypatch.setattr(_Execution, "_tensor", real)
    outcome = run(made, JsonlRecorder(folder / "log"))
    composition.close()
    assert 5 <= outcome.resumed < len(made.written)
    assert weights(folder / "whole") == weights(folder / "target")


def test_another_recipe_does_not_go_on_with_this_ones_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pedigree.surgery.engine import _Execution

    source = write_model(folder / "source", "llama")
    with monkeypatch.context() as patched:

        def fail(self: Any, *arguments: Any) -> None:
            raise InputError("stopped")

        patched.setattr(_Execution, "_tensor", fail)
        with pytest.raises(InputError, match="stopped"):
            operate(source, folder / "target", STEPS)
    with pytest.raises(PedigreeError, match="another recipe"):
        operate(source, folder / "target", STEPS[:1])
    operate(source, folder / "target", STEPS[:1], force=True)
    assert (folder / "target" / "config.json").exists()
    assert not (folder / "target.partial").exists()


@pytest.mark.parametrize("wait", [0.0, 0.15])
def test_kill_9_leaves_the_target_absent_and_the_next_run_completes_it(folder: Path, wait: float) -> None:
    source = write_model(folder / "source", "llama", hidden_size=128, intermediate_size=512, num_hidden_layers=6)
    steps: list[Any] = [{"grow.ffn": {"to": 700, "op": "copy"}}]
    operate(source, folder / "whole", steps)
    recipe = write_recipe(source, folder / "target", steps)
    # Tiles of a few numbers, so that the run takes long enough to be killed in its middle.
    program = (
        "import sys, pedigree.surgery.plan as p; p.TILE_ELEMENTS = 512\n"
        "from pedigree.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, "surgery", "run", str(recipe), "--unrecorded", "--quiet"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not (folder / "target.partial" / "journal.jsonl").exists() and time.monotonic() < until:
        time.sleep(0.002)
    time.sleep(wait)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if not (folder / "target").exists():
        operate(source, folder / "target", steps)
    assert weights(folder / "whole") == weights(folder / "target")
    assert not (folder / "target.partial").exists()


def test_the_record_says_enough_to_do_it_again(folder: Path) -> None:
    source = write_model(folder / "source", "llama")
    operate(source, folder / "target", STEPS, recorder=JsonlRecorder(folder / "log.jsonl"))
    (event,) = read_events(folder / "log.jsonl")
    assert event["event"] == "derive"
    assert [step["operator"] for step in event["operators"]] == ["grow.depth", "grow.ffn", "grow.hidden"]
    assert json.loads((folder / "target" / "pedigree.json").read_text())["record"] == "log.jsonl"
    again = event["recipe"]
    operate(Path(again["source"]), folder / "again", again["steps"], into={"seed": again["seed"]})
    assert weights(folder / "target") == weights(folder / "again")
    from blake3 import blake3

    for name, tensor in tensors(folder / "target").items():
        raw = tensor.contiguous().view(torch.uint8).numpy().tobytes()
        assert event["output"]["tensors"][name]["blake3"] == blake3(raw).hexdigest()


def test_memory_is_tiles_and_not_the_tensor(folder: Path) -> None:
    """A tensor of 256 MB is widened by a process that never holds a quarter of it."""
    rows, columns = 1 << 15, 1 << 12
    source = folder / "source"
    sizes = {"hidden_size": columns, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    more = {"num_key_value_heads": 1, "head_dim": 2, "tie_word_embeddings": True}
    write_model(source, "llama", dtype=torch.bfloat16, **sizes, **more)
    whole = tensors(source)
    whole["model.embed_tokens.weight"] = torch.zeros(rows, columns, dtype=torch.bfloat16)
    save_file(whole, source / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "vocab_size": rows}))
    recipe = write_recipe(source, folder / "target", [{"grow.hidden": {"to": columns + 64}}])
    program = (
        "import resource, sys, torch, scipy.special\nfrom pedigree.cli.main import main\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "code = main(sys.argv[1:])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\nsys.exit(code)"
    )
    command = [
        sys.executable,
        "-c",
        program,
        "surgery",
        "run",
        str(recipe),
        "--unrecorded",
        "--quiet",
        "--workers",
        "1",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    grown = int(done.stdout.split()[-1]) * 1024
    assert grown < rows * columns * 2 / 2
