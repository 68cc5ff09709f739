"""`pedigree ledger verify --replay` and `ledger replay`: what was recorded is done again, and lies are found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from tests.cli.conftest import Ran
from tests.small_family import llama_tensors, write_llama

from pedigree.family.replay import ROUNDING, Replay
from pedigree.ledger.log import Ledger, LedgerPlace
from pedigree.ledger.statement import MANIFEST, Draft, Subject, hex_digest
from pedigree.ledger.verification import verify
from pedigree.weights.artifact import read_artifact

Pedigree = Callable[..., Ran]


@pytest.fixture
def here(tmp_path: Path, pedigree: Pedigree, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base that came from elsewhere, grown, and the grown model cast: two steps in the ledger."""
    monkeypatch.chdir(tmp_path)
    write_llama(tmp_path / "base", llama_tensors(np.random.default_rng(1)))
    assert pedigree("import", "base", "--quiet").code == 0
    for source, target, steps in (
        ("base", "grown", [{"grow.ffn": {"to": 180}}]), ("grown", "cast", [{"cast": {"to": "bfloat16"}}]),
    ):  # fmt: skip
        recipe = {"surgery": 1, "source": {"model": source}, "target": {"dir": target}, "steps": steps}
        (tmp_path / f"{target}.yaml").write_text(json.dumps(recipe))
        ran = pedigree("surgery", "run", f"{target}.yaml", "--quiet")
        assert ran.code == 0, ran.err
    return tmp_path


def verdicts(ran: Ran) -> dict[str, str]:
    edges = json.loads(ran.out)["result"]["edges"]
    return {edge["child_name"]: edge["verdict"] for edge in edges}


def test_steps_are_done_again_bit_for_bit(pedigree: Pedigree, here: Path) -> None:
    ran = pedigree("ledger", "verify", "--replay", "--json")
    assert ran.code == 0, ran.err
    assert verdicts(ran) == {"base": "UNKNOWN", "grown": "REPLAYED", "cast": "REPLAYED"}
    assert {path.name for path in here.iterdir() if path.is_dir()} == {"base", "grown", "cast", "project"}
    one = pedigree("ledger", "verify", "cast", "--replay")
    assert one.out.count("REPLAYED") == 2
    # It is said, and nothing is written; `ledger replay` signs it.
    assert verdicts(pedigree("ledger", "verify", "--json"))["grown"] == "DECLARED"
    ran = pedigree("ledger", "replay")
    assert (ran.code, ran.out.count("tensors bit for bit")) == (0, 2)
    after = pedigree("ledger", "verify", "--json")
    assert verdicts(after)["grown"] == verdicts(after)["cast"] == "REPLAYED"
    assert json.loads(after.out)["result"]["problems"] == []


def test_inputs_are_found_by_digest_wherever_they_lie(pedigree: Pedigree, here: Path) -> None:
    (here / "store").mkdir()
    for name in ("base", "grown"):
        shutil.move(here / name, here / "store" / f"{name}-moved")
    missing = json.loads(pedigree("ledger", "replay", "--json").out)["result"]["replayed"]
    assert [item["verdict"] for item in missing] == ["DECLARED", "DECLARED"]
    assert all("an input is not here" in item["why"] for item in missing)
    ran = pedigree("ledger", "verify", "--replay", "--inputs", "store", "--json")
    assert verdicts(ran)["grown"] == verdicts(ran)["cast"] == "REPLAYED"
    # What only looks like the input, with the same names and shapes, is none.
    tensors = load_file(here / "store" / "base-moved" / "model.safetensors")
    first = sorted(tensors)[0]
    tensors[first] = tensors[first] + 1
    save_file(tensors, here / "store" / "base-moved" / "model.safetensors", metadata={"format": "pt"})
    ran = pedigree("ledger", "verify", "--replay", "--inputs", "store", "--json")
    assert verdicts(ran)["grown"] == "DECLARED"
    assert any("an input is not here" in line for line in json.loads(ran.out)["result"]["not_checked"])
    assert verdicts(ran)["cast"] == "REPLAYED"


def test_two_inputs_of_one_shape_are_told_apart(pedigree: Pedigree, here: Path) -> None:
    write_llama(here / "donor", llama_tensors(np.random.default_rng(2)))
    assert pedigree("import", "donor", "--quiet").code == 0
    merge = {"method": "linear", "models": [{"model": "base", "weight": 0.123456789}, {"model": "donor", "weight": 1}]}
    recipe = {"surgery": 1, "source": {"model": "base"}, "target": {"dir": "merged"}, "allow": "nfp",
              "steps": [{"merge": merge}]}  # fmt: skip
    (here / "merge.yaml").write_text(json.dumps(recipe))
    ran = pedigree("surgery", "run", "merge.yaml", "--quiet")
    assert ran.code == 0, ran.err
    ran = pedigree("ledger", "verify", "merged", "--replay", "--json")
    edges = [edge for edge in json.loads(ran.out)["result"]["edges"] if edge["child_name"] == "merged"]
    assert [(edge["parent_name"], edge["verdict"]) for edge in edges] == [("base", "REPLAYED"), ("donor", "REPLAYED")]
    (here / "a").mkdir()
    for name, other in (("base", "donor"), ("donor", "base")):
        shutil.move(here / name, here / "a" / f"was-{other}")
    (found,) = json.loads(
        pedigree("ledger", "replay", "merged", "--inputs", "a", "--json").out
    )["result"]["replayed"]  # fmt: skip
    assert found["verdict"] == "REPLAYED", found


def forge(here: Path, change: Callable[[dict[str, Any], Path], None]) -> str:
    """Another entry about the grown model, signed with the project's own key: a lie by whoever holds it."""
    ledger = Ledger(LedgerPlace.find())
    entries = verify(ledger.store).entries
    entry = next(e for e in entries if e.leaf.kind == "derive" and e.facts["name"] == "grown")
    assert entry.said is not None
    facts = {name: value for name, value in entry.facts.items() if name != "name"}
    change(facts, here / "grown")
    artifact = read_artifact(here / "grown")
    subjects = (Subject(MANIFEST, hex_digest(artifact.id)),)
    draft = Draft("derive", {"name": "forged", **facts}, None, subjects, entry.said.parents, "surgery")
    ledger.append(draft.with_attachment(artifact.manifest.to_bytes()))
    ledger.close()
    return hex_digest(artifact.id)


def test_another_result_than_the_recorded_step_gives_is_contradicted(pedigree: Pedigree, here: Path) -> None:
    """Somebody trained on in secret and entered the outcome as the result of the growth."""

    def trained_on(facts: dict[str, Any], folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        name = "model.layers.0.mlp.down_proj.weight"
        tensors[name] = tensors[name] + 0.01
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        facts["output"]["tensors"][name]["blake3"] = "0" * 64

    forge(here, trained_on)
    ran = pedigree("ledger", "verify", "grown", "--replay", "--json")
    result = json.loads(ran.out)["result"]
    assert (ran.code, result["verdict"]) == (1, "CONTRADICTED")
    told = next(item["sentence"] for item in result["problems"] if item["word"] == "replay")
    assert told == "forged: done again, and model.layers.0.mlp.down_proj.weight has other bits"


def test_a_file_that_the_step_does_not_write_is_contradicted(pedigree: Pedigree, here: Path) -> None:
    forge(here, lambda facts, folder: (folder / "config.json").write_text("{}") and None)
    ran = pedigree("ledger", "replay", "--json")
    found = {item["child_name"]: item for item in json.loads(ran.out)["result"]["replayed"]}
    assert (ran.code, found["forged"]["verdict"]) == (1, "CONTRADICTED")
    assert found["forged"]["why"] == "done again, and config.json is another file"
    assert verdicts(pedigree("ledger", "verify", "--json"))["forged"] == "CONTRADICTED"  # it is signed now


def test_other_bits_of_another_library_are_rounding_or_they_are_not(pedigree: Pedigree, here: Path) -> None:
    def elsewhere(scale: float) -> Callable[[dict[str, Any], Path], None]:
        def change(facts: dict[str, Any], folder: Path) -> None:
            facts["made_with"] = {**facts["made_with"], "torch": "1.0"}
            tensors = load_file(folder / "model.safetensors")
            name = "model.layers.0.mlp.down_proj.weight"
            tensors[name] = tensors[name] + scale * 1.2e-7 * tensors[name].abs().max()
            save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
            facts["output"]["tensors"][name]["blake3"] = "0" * 64

        return change

    def newest() -> Any:
        ledger = Ledger(LedgerPlace.find())
        entries = verify(ledger.store).entries
        found = Replay(ledger.store, entries).step(entries[-1])
        ledger.close()
        return found

    forge(here, elsewhere(0.5 * ROUNDING))
    assert (newest().verdict, "made with torch 1.0" in newest().why) == ("REPLAYED", True)
    forge(here, elsewhere(20 * ROUNDING))
    assert newest().verdict == "CONTRADICTED"
    shutil.rmtree(here / "grown")
    assert newest().verdict == "DECLARED"


def test_a_recorded_recipe_opens_nothing_but_its_inputs(pedigree: Pedigree, here: Path) -> None:
    def reach(facts: dict[str, Any], folder: Path) -> None:
        told = json.loads(facts["replay"])
        told["source"] = "hf://somebody/else"
        facts["replay"] = json.dumps(told)

    forge(here, reach)
    found = {item["child_name"]: item for item in
             json.loads(pedigree("ledger", "replay", "--json").out)["result"]["replayed"]}  # fmt: skip
    assert found["forged"]["verdict"] == "DECLARED"
    assert "reads what it does not name" in found["forged"]["why"]


def test_what_was_recorded_before_is_told(pedigree: Pedigree, here: Path) -> None:
    forge(here, lambda facts, folder: facts.pop("replay") and None)
    found = json.loads(pedigree("ledger", "replay", "--json").out)["result"]["replayed"][-1]
    assert (found["verdict"], "before every digit" in found["why"]) == ("DECLARED", True)
    forge(here, lambda facts, folder: facts.update(replay='{"steps": [{"no.such": {}}]}'))
    found = json.loads(pedigree("ledger", "replay", "--json").out)["result"]["replayed"][-1]
    assert (found["verdict"], "cannot be read" in found["why"]) == ("DECLARED", True)


def test_nothing_to_do_again_and_variables(pedigree: Pedigree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_llama(tmp_path / "base", llama_tensors(np.random.default_rng(1)))
    assert pedigree("import", "base", "--quiet").code == 0
    assert "no step to do again" in pedigree("ledger", "replay").out
    for name, value in (
        ("PEDIGREE_REPLAY", "1"),
        ("PEDIGREE_REPLAY_TRAINING", "2"),
        ("PEDIGREE_INPUTS", str(tmp_path)),
    ):
        monkeypatch.setenv(name, value)
    assert pedigree("ledger", "verify", "--quiet").out == "UNKNOWN\n"
    assert pedigree("ledger", "replay", "nowhere").code == 2


TRAINED = """\
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
    training: {tokens: 1536, sequence_length: 32, batch_sequences: 4, checkpoint: {every: 4}}
"""


def test_a_stretch_of_training_is_taken_again(
    pedigree: Pedigree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TRAINED)
    ran = pedigree("train", "tiny.yaml", "--set", "seed=3", "--quiet")
    assert ran.code == 0, ran.err
    run_folder = tmp_path / "runs" / "tiny" / "base"
    before = {path: path.read_bytes() for path in run_folder.rglob("*") if path.is_file()}
    ran = pedigree("ledger", "replay", "runs/tiny/base/model", "--replay-training", "8", "--json")
    (found,) = json.loads(ran.out)["result"]["replayed"]
    # Twelve steps, states at 0, 4 and 8 or later ones: a part that holds says nothing of the rest.
    assert (ran.code, found["stretch"]) == (0, True), found
    assert "recorded losses met" in found["why"]
    whole = json.loads(pedigree("ledger", "replay", "--replay-training", "99", "--json").out)["result"]["replayed"][0]
    assert whole["verdict"] == ("REPLAYED" if "steps 1 to 12 of 12" in whole["why"] else "DECLARED"), whole
    assert {path: path.read_bytes() for path in run_folder.rglob("*") if path.is_file()} == before
    # A loss that the run never had, under a signature that is good.
    ledger = Ledger(LedgerPlace.find())
    run = next(entry.leaf.run for entry in verify(ledger.store).entries if entry.leaf.kind == "run.start")
    for step in (8, 12):
        ledger.append(Draft("ckpt.save", {"step": step, "loss": 1.5}, run))
    ledger.close()
    ran = pedigree("ledger", "verify", "--replay-training", "8", "--json")
    result = json.loads(ran.out)["result"]
    assert (ran.code, result["verdict"]) == (1, "CONTRADICTED")
    assert any("trained again from step" in item["sentence"] for item in result["problems"])
    shutil.rmtree(run_folder / "checkpoints")
    (found,) = json.loads(pedigree("ledger", "replay", "--replay-training", "8", "--json").out)["result"]["replayed"]
    assert (found["verdict"], "no recorded state is here" in found["why"]) == ("DECLARED", True)
