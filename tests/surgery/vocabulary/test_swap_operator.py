"""A swap touches the tables alone, copies shared rows bit for bit, and tells what it made up."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from surgery.vocabulary.swapping import load, swap, write_models

from pedigree.errors import PedigreeError
from pedigree.model.hf_checkpoint import import_checkpoint
from pedigree.surgery.operators.vocabulary import _renumber
from pedigree.surgery.vocabulary.states import mean_state
from pedigree.surgery.vocabulary.token_map import map_tokens
from pedigree.tokenizers.reading import open_encoder
from pedigree.tokenizers.texts import read_text

torch.set_num_threads(1)
TABLES = ("model.embed_tokens.weight", "lm_head.weight")
INITS = ({"init": "mean"}, {"init": "subtoken"}, {"init": "random"}, {"init": "ridge", "donor": "donor"},
         {"init": "pursuit", "donor": "donor"}, {"init": "ridge", "texts": ["probe.txt"]},
         {"init": "subtoken", "output": "mean", "texts": ["probe.txt"], "calibrate": True})  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("swap"))


@pytest.mark.parametrize("number", range(len(INITS)))
def test_shared_rows_are_copied_and_nothing_else_changes(number: int, folder: Path) -> None:
    after, notes = swap(folder, f"out{number}", **INITS[number])
    before = load(folder / "model")
    assert set(after) == set(before)
    for name in set(before) - set(TABLES):
        assert torch.equal(before[name], after[name]), name
    old, new = open_encoder(folder / "model"), open_encoder(folder / "new")
    found = map_tokens(old, new)
    assert len(found.copied) > 200
    assert len(found.guessed) > 10
    for name in TABLES:
        table = after[name]
        assert torch.isfinite(table).all()
        assert torch.equal(table[found.copied], before[name][found.old_of_W[found.copied]])
        assert table.shape[0] == 320, "the table was padded to a multiple of 64 and still is"
    assert notes[0].startswith(f"vocabulary: {len(found.copied)} of {new.size} rows are copied")
    model = import_checkpoint(folder / f"out{number}")
    assert torch.isfinite(model(torch.tensor([new.encode("the night")]), return_logits=True).logits).all()


def test_init_is_for_the_input_table_and_output_for_the_head(folder: Path) -> None:
    """mergekit's tokensurgeon has the two choices the wrong way round for prefix and byte matches."""
    after, _ = swap(folder, "sides", init="mean", output="random")
    guessed = map_tokens(open_encoder(folder / "model"), open_encoder(folder / "new")).guessed
    assert torch.equal(after[TABLES[0]][guessed], after[TABLES[0]][guessed[:1]].expand(len(guessed), -1))
    assert after[TABLES[1]][guessed].std(0).min() > 0


def test_a_careless_swap_makes_shared_rows_anew_too(folder: Path) -> None:
    after, notes = swap(folder, "careless", init="random", shared="make")
    before, found = load(folder / "model"), map_tokens(open_encoder(folder / "model"), open_encoder(folder / "new"))
    for name in TABLES:
        kept = (after[name][found.copied] == before[name][found.old_of_W[found.copied]]).all(1)
        assert not kept.any()
    assert notes[0].startswith("vocabulary: 0 of")


def test_control_tokens_and_files_follow(folder: Path) -> None:
    _, notes = swap(folder, "files", init="mean")
    config = json.loads((folder / "files" / "config.json").read_text())
    new = open_encoder(folder / "files")
    assert config["vocab_size"] == 320
    assert new.spellings[config["eos_token_id"]] == "<|im_end|>"
    assert new.spellings[config["bos_token_id"]] == "</s>", "<|endoftext|> and </s> have one role"
    assert "vocabulary: 1 control tokens are new: <|tool|>" in notes
    assert new.digest == open_encoder(folder / "new").digest


def test_sub_token_rows_are_cut_by_bytes_not_by_their_spelling(folder: Path) -> None:
    """Letters beyond ASCII, and words that begin with a space, are respelled in the old alphabet."""
    after, _ = swap(folder, "pieces", init="subtoken")
    before = load(folder / "model")
    old, new = open_encoder(folder / "model"), open_encoder(folder / "new")
    foreign = [n for n in map_tokens(old, new).guessed if max(new.surfaces[n] or b"\0") > 127]
    number = max(foreign, key=lambda n: len(new.surfaces[n] or b""))
    surface = new.surfaces[number]
    assert surface is not None
    pieces = [old.surfaces.index(bytes([byte])) for byte in surface]
    for name in TABLES:
        assert torch.allclose(after[name][number], before[name][pieces].mean(0), atol=1e-6)


def test_a_calibrated_head_has_the_level_that_frequency_gives(folder: Path) -> None:
    """New head rows of random direction take probability everywhere; set to their level they lie on one line."""
    loud, _ = swap(folder, "loud", init="subtoken", output="random")
    level, _ = swap(folder, "level", init="subtoken", output="random", texts=["probe.txt"])
    assert torch.equal(loud[TABLES[0]], level[TABLES[0]])
    old, new = open_encoder(folder / "model"), open_encoder(folder / "new")
    guessed = [n for n in map_tokens(old, new).guessed if new.surfaces[n] is not None]
    units = read_text(folder / "probe.txt").units
    state_d = mean_state(import_checkpoint(folder / "model"), [np.array(ids) for ids in old.encode_all(units)])
    uses = np.bincount(np.concatenate([np.array(ids) for ids in new.encode_all(units)]), minlength=new.size)
    x = np.log(uses[guessed] + 0.5)
    off = []
    for tables in (loud, level):
        y = (tables[TABLES[1]][guessed] @ state_d).numpy()
        off.append(np.abs(y - np.polyval(np.polyfit(x, y, 1), x)).max())
    assert off[1] < 1e-3 < 0.1 < off[0]


def test_a_tokenizer_swapped_for_itself_changes_no_bit(folder: Path) -> None:
    after, _ = swap(folder, "same", tokenizer="model")
    before = load(folder / "model")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_tied_model_stays_tied(tmp_path: Path) -> None:
    write_models(tmp_path, "qwen3-8b-pico")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    tensors = load(tmp_path / "model")
    if not config.get("tie_word_embeddings"):
        from safetensors.torch import save_file

        tensors = {name: tensor for name, tensor in tensors.items() if name != TABLES[1]}
        save_file(tensors, tmp_path / "model" / "model.safetensors")
        (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    after, _ = swap(tmp_path, "tied", init="subtoken", texts=["probe.txt"])
    assert set(after) == set(tensors)
    assert import_checkpoint(tmp_path / "tied").config.tied


@pytest.mark.parametrize(
    ("parameters", "message"),
    [({"init": "ridge"}, "need a donor, or texts"), ({"calibrate": True}, "calibrate needs texts"),
     ({"shared": "make"}, "needs random or mean"), ({"init": "guess"}, "init"),
     ({"tokenizer": "nowhere"}, "no such file"), ({"pad_to": 0}, "padded")],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    parameters: dict[str, object], message: str, folder: Path
) -> None:
    with pytest.raises(PedigreeError, match=message):
        swap(folder, "refused", **parameters)
    assert not (folder / "refused").exists()


def test_only_the_tables_are_written_where_they_have_a_file_of_their_own(folder: Path) -> None:
    """A swap of a large model writes its tables; every other file is shared with the source."""
    from safetensors.torch import save_file

    place = folder / "sharded"
    place.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (place / name).write_bytes((folder / "model" / name).read_bytes())
    tensors = load(folder / "model")
    files = {"model-00001-of-00002.safetensors": TABLES, "model-00002-of-00002.safetensors": set(tensors) - set(TABLES)}
    for file, names in files.items():
        save_file({name: tensors[name] for name in names}, place / file)
    index = {"metadata": {}, "weight_map": {name: file for file, names in files.items() for name in names}}
    (place / "model.safetensors.index.json").write_text(json.dumps(index))
    from pedigree.surgery.composition import compose
    from pedigree.surgery.foreign import read_any_recipe
    from pedigree.surgery.plan import make_plan

    recipe = {"surgery": 1, "source": {"model": "sharded"}, "target": {"dir": "shared"}, "allow": "nfp",
              "steps": [{"vocab.swap": {"tokenizer": "new", "init": "mean"}}]}  # fmt: skip
    (folder / "shared.yaml").write_text(json.dumps(recipe))
    composition = compose(read_any_recipe(folder / "shared.yaml")[0])
    plan = make_plan(composition)
    composition.close()
    body = sum(tensors[name].numel() * tensors[name].element_size() for name in set(tensors) - set(TABLES))
    assert plan.linked_bytes >= body
    assert plan.write_bytes < np.sum([tensors[n].numel() * tensors[n].element_size() for n in TABLES]) + 100_000


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 100_000])
def test_a_generation_config_that_is_none_is_told(folder: Path, tmp_path: Path, text: str) -> None:
    shutil.copytree(folder / "model", tmp_path / "model")
    shutil.copytree(folder / "new", tmp_path / "new")
    (tmp_path / "model" / "generation_config.json").write_text(text, encoding="utf-8")
    with pytest.raises(PedigreeError, match="generation_config"):
        swap(tmp_path, "out", init="mean")


def test_control_tokens_that_are_no_numbers_are_left_out() -> None:
    settings = {"eos_token_id": [[1], 5, {"a": 1}], "bos_token_id": {"a": 1}}
    assert _renumber(settings, {5: 7}, "generation_config.json") == []
    assert settings["eos_token_id"] == [7]
