"""`pedigree train`: whole recipes, errors before any step, interruption and going on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.conftest import Ran

from pedigree.cli.train import SIZE_WORDS
from pedigree.cli.train_steps import overridden, parse_overrides
from pedigree.errors import UsageError
from pedigree.family.sections import SIZES
from pedigree.training.config import TrainingConfig
from pedigree.weights.artifact import artifact_id

Pedigree = Callable[..., Ran]

RECIPE = """\
recipe: 1
family: tiny
corpora:
  sums: {kind: arithmetic, domain: sums, max_documents: 60, held_out: 0.1}
tokenizers:
  letters: {kind: byte-level, corpus: sums, vocabulary: 300}
models:
  base:
    kind: train
    model: {member: llama-3-8b}
    tokenizer: letters
    corpus: sums
    training:
      tokens: 3200
      sequence_length: 32
      batch_sequences: 4
      log_every: 1
      checkpoint: {every: 10}
      evaluation: {arithmetic: 8, max_tokens: 500}
  more:
    kind: train
    from: base
    training: {tokens: 640, sequence_length: 32, batch_sequences: 4, log_every: 1}
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


def test_a_recipe_is_trained_step_by_step(pedigree: Pedigree, recipe: Path, tmp_path: Path) -> None:
    ran = pedigree("train", "tiny.yaml", "--json", "--set", "seed=3")
    assert ran.code == 0, ran.err
    record = json.loads(ran.out)
    assert (record["schema"], record["command"]) == ("pedigree/training-run", "train")
    assert record["inputs"]["recipe"]["overrides"] == {"seed": 3}
    base, more = record["result"]
    assert (base["step"], base["outcome"], base["steps"], base["tokens"]) == ("base", "finished", 25, 3200)
    assert base["loss"] < 5.5
    assert base["scores"][0]["domain"] == "sums"
    assert {"en", "code", "all"} <= set(base["arithmetic"])  # Russian sums take more bytes than a sequence holds
    assert more["loss"] < base["loss"]
    folder = tmp_path / "runs" / "tiny" / "base"
    assert {"model.safetensors", "config.json", "tokenizer.json", "pedigree.json"} <= {
        path.name for path in (folder / "model").iterdir()
    }
    sidecar = json.loads((folder / "model" / "pedigree.json").read_text(encoding="utf-8"))
    assert (folder / "model" / sidecar["record"]).resolve() == folder / "run.jsonl"
    start = json.loads((folder / "run.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert (start["recipe_step"], start["overrides"]) == ("base", {"seed": 3})
    assert start["recipe_digest"] == record["inputs"]["recipe"]["digest"]
    recorded = json.loads(pedigree("ledger", "verify", str(folder.parent / "more" / "model"), "--json").out)["result"]
    assert (recorded["verdict"], recorded["problems"]) == ("DECLARED", [])
    edges = [(edge["child_name"], edge["operation"], edge["parent_name"]) for edge in recorded["edges"]]
    assert edges == [("base", "train", "random weights"), ("more", "finetune", "base")]
    beats = [entry for entry in json.loads(pedigree("ledger", "log", "--all", "-n", "0", "--json").out)["result"]
             if entry["kind"] == "run.beat"]  # fmt: skip
    assert beats
    assert all(len(beat["facts"]["data"]) == 64 for beat in beats)  # the order of the data so far
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.count("<polyline") == 3
    again = pedigree("train", "tiny.yaml", "--set", "seed=3", "--only", "base")
    assert again.code == 0
    assert "base: unchanged since it was trained" in again.out


def test_an_unrecorded_run_says_so_beside_the_weights(pedigree: Pedigree, recipe: Path, tmp_path: Path) -> None:
    ran = pedigree("train", "tiny.yaml", "--only", "base", "--unrecorded", "--set", "tokens=256", "--quiet")
    assert (ran.code, ran.out) == (0, "finished\n"), ran.err
    folder = tmp_path / "runs" / "tiny" / "base"
    assert json.loads((folder / "model" / "pedigree.json").read_text(encoding="utf-8"))["record"] == "unrecorded"
    assert not (folder / "run.jsonl").exists()


def test_what_a_step_continues_must_be_there(pedigree: Pedigree, recipe: Path) -> None:
    ran = pedigree("train", "tiny.yaml", "--only", "more")
    assert ran.code == 2
    assert "the step that this one continues is not trained yet" in ran.err
    assert "fix: pedigree train tiny.yaml --only base" in ran.err


def test_a_checkpoint_of_other_settings_is_refused_until_fresh_is_said(pedigree: Pedigree, recipe: Path) -> None:
    words = ("train", "tiny.yaml", "--only", "base", "--set", "tokens=256")
    assert pedigree(*words).code == 0
    ran = pedigree(*words, "--set", "optimizer.lr=0.01")
    assert ran.code == 2
    assert "training.optimizer.lr: 0.003 there, 0.01 here" in ran.err
    assert pedigree(*words, "--set", "optimizer.lr=0.01", "--fresh").code == 0
    ran = pedigree("train", "tiny.yaml", "--only", "base", "--resume", "--out", "elsewhere")
    assert ran.code == 2
    assert "no whole checkpoint to resume from" in ran.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--set", "optimizer.rate=1"), "fix: did you mean"),
        (("--set", "tokens"), "expected KEY=VALUE"),
        (("--set", "tokens=-5"), "greater than or equal to 1"),
        (
            ("--set", "schedule.warmup_tokens=99999"),
            "error: these settings cannot be: a warm-up of 99999 tokens is longer",
        ),
        (("--only", "bsae"), "did you mean --only base?"),
        (("--set", "mesh.dp_shard=2"), "does not fit the number of processes"),
        (("--set", "sequence_length=4096"), "longer than the context"),
        (("--size", "real"), "does not fit into the memory of this machine"),
        (("--device", "warp"), "not a device"),
    ],
)
def test_what_cannot_run_is_said_before_any_step(
    pedigree: Pedigree, recipe: Path, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    ran = pedigree("train", "tiny.yaml", *words)
    assert ran.code == 2
    assert said in ran.err
    assert not list(tmp_path.rglob("step-*"))


def test_every_option_can_be_set_by_its_variable(
    pedigree: Pedigree, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = {
        "PEDIGREE_ONLY": "base", "PEDIGREE_SIZE": "pico", "PEDIGREE_SET": "tokens=256", "PEDIGREE_OUT": "other",
        "PEDIGREE_TORCH_DEVICE": "cpu", "PEDIGREE_UNRECORDED": "1",
    }  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    ran = pedigree("train", "tiny.yaml")
    assert ran.code == 0, ran.err
    assert "base: finished at step 2, 256 tokens" in ran.out
    assert not (tmp_path / "other" / "base" / "run.jsonl").exists()
    monkeypatch.setenv("PEDIGREE_RESUME", "1")
    monkeypatch.setenv("PEDIGREE_OUT", "third")
    assert "no whole checkpoint to resume from" in pedigree("train", "tiny.yaml").err


def test_overrides_keep_their_types() -> None:
    config = TrainingConfig.model_validate({"sources": [{"kind": "arithmetic"}], "tokens": 10})
    words = ["optimizer.name=muon", "optimizer.lr=1e-4", "guard.rules=[]", "activation-checkpointing=true"]
    changed = overridden(config, parse_overrides(words))
    assert changed.optimizer.name == "muon"
    assert changed.optimizer.lr == 1e-4
    assert changed.guard.rules == ()
    assert changed.activation_checkpointing
    with pytest.raises(UsageError, match="training has no such setting, in --set, got optimizer"):
        overridden(config, {"optimizer.lrr": 1})


def test_the_sizes_are_those_of_the_family() -> None:
    assert SIZE_WORDS == SIZES


def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_go_on(recipe: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "pedigree", "train", "tiny.yaml", "--only", "base", "--set", "tokens=10000000"]
    source = Path(__file__).resolve().parents[2] / "src"
    env = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(words, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "runs" / "tiny" / "base" / "metrics.jsonl"
    patience = time.monotonic() + 60
    while time.monotonic() < patience and not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    assert "base: interrupted at step" in out
    assert "the same command, without --fresh or --force, goes on from there" in err
    saved = sorted((tmp_path / "runs" / "tiny" / "base" / "checkpoints").glob("step-*"))
    assert int(saved[-1].name.removeprefix("step-")) > 0


def test_the_weights_load_in_transformers(pedigree: Pedigree, recipe: Path) -> None:
    assert pedigree("train", "tiny.yaml").code == 0
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = Path("runs") / "tiny" / "base" / "model"
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert type(model).__name__ == "LlamaForCausalLM"
    ids = AutoTokenizer.from_pretrained(folder)("3 plus 4 is ", return_tensors="pt").input_ids
    assert model(ids).logits.shape[-1] == 300


def test_a_finished_step_is_trained_again_only_where_something_changed(
    pedigree: Pedigree, recipe: Path, tmp_path: Path
) -> None:
    first = json.loads(pedigree("train", "tiny.yaml", "--json").out)["result"]
    base = tmp_path / "runs" / "tiny" / "base"
    evaluation = json.loads((base / "evaluation.json").read_text(encoding="utf-8"))
    assert evaluation["inputs"]["artifact"]["id"] == artifact_id(base / "model")
    assert evaluation["result"]["scores"] == first[0]["scores"]
    told = pedigree("train", "tiny.yaml")
    assert told.out.count("unchanged since it was trained") == 2
    again = json.loads(pedigree("train", "tiny.yaml", "--json").out)["result"]
    assert [step.pop("skipped") for step in again] == [True, True]
    assert again == [{key: value for key, value in step.items() if key != "skipped"} for step in first]

    events = (base / "run.jsonl").read_text(encoding="utf-8")
    forced = json.loads(pedigree("train", "tiny.yaml", "--only", "base", "--force", "--json").out)["result"]
    assert (forced[0]["skipped"], forced[0]["first_step"]) == (False, 0)
    assert forced[0]["loss"] == first[0]["loss"]
    assert (base / "run.jsonl").read_text(encoding="utf-8") != events

    tokenizer = base / "model" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text(encoding="utf-8") + " ", encoding="utf-8")  # no longer what was written
    mended = json.loads(pedigree("train", "tiny.yaml", "--only", "base", "--json").out)["result"][0]
    assert (mended["skipped"], mended["first_step"]) == (False, 25)
    assert pedigree("train", "tiny.yaml", "--force", "--resume").code == 2


def test_another_corpus_under_the_same_name_is_noticed(pedigree: Pedigree, recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the river flows\n" * 200, encoding="utf-8")
    source = "{kind: text, path: text.txt, document: line, domain: sums}"
    recipe.write_text(
        RECIPE.replace("{kind: arithmetic, domain: sums, max_documents: 60, held_out: 0.1}", source), encoding="utf-8"
    )
    assert pedigree("train", "tiny.yaml", "--only", "base").code == 0
    assert "unchanged" in pedigree("train", "tiny.yaml", "--only", "base").out
    (tmp_path / "text.txt").write_text("the night is long\n" * 200, encoding="utf-8")
    ran = pedigree("train", "tiny.yaml", "--only", "base")
    assert "unchanged" not in ran.out
    assert ran.code == 2  # the checkpoint belongs to other tokens
    assert "--fresh" in ran.err
