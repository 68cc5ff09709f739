"""`pedigree eval`: numbers that belong to an artifact, over texts of the user, built-in ones and tasks."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from speaking_models import write_speaker
from tests.cli.conftest import Ran

from pedigree.model.hf_checkpoint import import_checkpoint
from pedigree.records.schemas import json_schema
from pedigree.training import harness
from pedigree.training.shards import Vocabulary
from pedigree.weights.artifact import artifact_id

Pedigree = Callable[..., Ran]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_speaker(tmp_path_factory.mktemp("eval") / "pico")


@pytest.fixture
def verse(tmp_path: Path) -> Path:
    path = tmp_path / "verse.txt"
    path.write_text("the moon is bright, the river flows", encoding="utf-8")
    return path


def test_bits_per_byte_are_those_of_the_logits_and_name_the_artifact(
    pedigree: Pedigree, model: Path, verse: Path
) -> None:
    import torch

    ran = pedigree("eval", str(model), "--text", str(verse), "--arithmetic", "8", "--json")
    assert ran.code == 0, ran.err
    record = json.loads(ran.out)
    Draft202012Validator(json_schema("evaluation")).validate(record)
    assert record["inputs"]["artifact"]["id"] == artifact_id(model)
    score = record["result"]["scores"][0]
    vocabulary = Vocabulary.load(model)
    ids = [vocabulary.separator, *vocabulary.tokenizer.encode(verse.read_text(), add_special_tokens=False).ids]
    with torch.no_grad():
        logits = import_checkpoint(model, dtype=torch.float32)(torch.tensor([ids]), return_logits=True).logits[0]
    nats = -torch.log_softmax(logits, -1)[range(len(ids) - 1), ids[1:]].sum().item()
    assert score["domain"] == "verse"
    assert score["n_tokens"] == len(ids) - 1
    assert score["bits_per_byte"] == pytest.approx(nats / math.log(2) / len(verse.read_bytes()), rel=1e-4)
    assert set(record["result"]["arithmetic"]) >= {"all", "en"}


def test_built_in_corpora_are_read_when_no_text_is_named(pedigree: Pedigree, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "record.json"
    ran = pedigree("eval", str(model), "--max-tokens", "300", "--arithmetic", "0", "--out", str(out))
    assert ran.code == 0, ran.err
    assert [line.split()[0] for line in ran.out.splitlines()] == ["code", "sums"]
    record = json.loads(out.read_text(encoding="utf-8"))
    assert record["warnings"] == ["whether the model was trained on these texts is not known"]
    again = pedigree("eval", str(model), "--out", str(out))
    assert again.code == 2
    assert "--force" in again.err


def test_domains_are_named_and_jsonl_is_read(pedigree: Pedigree, model: Path, tmp_path: Path, verse: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "the night is long"}\n{"text": "the moon"}\n', encoding="utf-8")
    words = ("--text", f"night={rows}", "--text", f"moon={verse}", "--arithmetic", "0", "--json")
    scores = json.loads(pedigree("eval", str(model), *words).out)["result"]["scores"]
    assert [(score["domain"], score["n_bytes"]) for score in scores] == [("moon", 35), ("night", 25)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--text", "nowhere.txt"), "the corpus is not there"),
        (("--text", "=x"), "this names no text"),
        (("--corpus", "sum"), "sums"),
        (("--sequence", "100000"), "the model has fewer positions"),
        (("--text", "EMPTY"), "holds no text"),
    ],
)
def test_what_cannot_be_measured_is_told(
    pedigree: Pedigree, model: Path, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("", encoding="utf-8")
    ran = pedigree("eval", str(model), *(str(empty) if word == "EMPTY" else word for word in words))
    assert ran.code == 2
    assert said in ran.err


def test_a_directory_that_is_no_model_is_told(pedigree: Pedigree, tmp_path: Path) -> None:
    assert pedigree("eval", str(tmp_path / "none")).code == 2
    ran = pedigree("eval", str(tmp_path))
    assert ran.code == 2
    assert "tokenizer" in ran.err


def test_tasks_without_the_harness_say_what_to_install(
    pedigree: Pedigree, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness.importlib.util, "find_spec", lambda name: None)
    ran = pedigree("eval", str(model), "--tasks", "x")
    assert ran.code == 2
    assert harness.INSTALL in ran.err


TASK = """\
task: moons
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}]
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="needs the extra eval")
def test_a_local_task_runs_off_the_network_and_agrees_with_our_own_logits(
    pedigree: Pedigree, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    rows = [{"question": "the moon is", "choices": ["bright", "long"], "answer": i % 2} for i in range(3)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "moons.yaml").write_text(TASK.replace("DATA", str(tmp_path / "data.jsonl")), encoding="utf-8")
    words = ("--tasks", "moons", "--task-folder", str(tmp_path), "--arithmetic", "0", "--max-tokens", "50", "--json")
    ran = pedigree("eval", str(model), *words)
    assert ran.code == 0, ran.err
    accuracy = json.loads(ran.out)["result"]["tasks"]["moons"]["acc,none"]
    decoder, tokenizer = import_checkpoint(model, dtype=torch.float32), Vocabulary.load(model).tokenizer
    sums = []
    for choice in rows[0]["choices"]:
        before = tokenizer.encode("the moon is").ids
        ids = tokenizer.encode(f"the moon is {choice}").ids
        with torch.no_grad():
            said = torch.log_softmax(decoder(torch.tensor([ids]), return_logits=True).logits[0], -1)
        sums.append(sum(said[i - 1, ids[i]].item() for i in range(len(before), len(ids))))
    best = sums.index(max(sums))
    assert accuracy == pytest.approx(sum(row["answer"] == best for row in rows) / 3, abs=1e-5)


def test_every_option_has_its_variable(
    pedigree: Pedigree, model: Path, verse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, object] = {}

    def answer(folder: Path, tasks: list[str], **options: object) -> dict[str, dict[str, float]]:
        asked.update(options, tasks=tasks)
        return {"moons": {"acc,none": 0.5}}

    monkeypatch.setattr(harness, "check_harness", lambda _folder: None)
    monkeypatch.setattr(harness, "run_harness", answer)
    for name, value in {
        "PEDIGREE_TEXT": f"moon={verse}",
        "PEDIGREE_CORPUS": "sums",
        "PEDIGREE_TASKS": "moons",
        "PEDIGREE_ARITHMETIC": "4",
        "PEDIGREE_EVAL_TOKENS": "100",
        "PEDIGREE_SEQUENCE": "64",
        "PEDIGREE_LIMIT": "3",
        "PEDIGREE_TASK_TIMEOUT": "90",
        "PEDIGREE_OUT": str(tmp_path / "record.json"),
        "PEDIGREE_TASK_FOLDER": str(tmp_path),
        "PEDIGREE_TASK_NETWORK": "1",
        "PEDIGREE_TORCH_DEVICE": "cpu",
        "PEDIGREE_FORCE": "1",
        "PEDIGREE_JSON": "1",
    }.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "record.json").write_text("{}")
    ran = pedigree("eval", str(model))
    assert ran.code == 0, ran.err
    record = json.loads(ran.out)
    assert json.loads((tmp_path / "record.json").read_text(encoding="utf-8")) == record
    assert record["inputs"]["settings"] == {
        "max_tokens": 100, "sequence_length": 64, "arithmetic": 4, "domain": 0, "tasks": ["moons"], "limit": 3
    }  # fmt: skip
    assert [score["domain"] for score in record["result"]["scores"]] == ["moon", "sums"]
    assert record["result"]["tasks"] == {"moons": {"acc,none": 0.5}}
    assert asked == {
        "tasks": ["moons"], "task_folder": tmp_path, "limit": 3, "device": "cpu", "network": True, "timeout": 90.0,
        "beat": None,
    }  # fmt: skip
