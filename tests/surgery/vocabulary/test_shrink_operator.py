"""A shrunk vocabulary: merges, rows and files agree, and texts without removed tokens give the logits of before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from surgery.vocabulary.swapping import load, write_models
from tests.surgery.test_experts import dense_model, operated

from pedigree.errors import PedigreeError
from pedigree.model.decoder import Decoder
from pedigree.model.hf_checkpoint import export_checkpoint, import_checkpoint
from pedigree.records.recorder import NullRecorder
from pedigree.surgery.composition import compose
from pedigree.surgery.engine import run
from pedigree.surgery.plan import make_plan
from pedigree.surgery.recipe import read_recipe
from pedigree.tokenizers.reading import open_encoder

torch.set_num_threads(1)
TABLES = ("model.embed_tokens.weight", "lm_head.weight")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("shrink"))


def shrunk(folder: Path, out: str, **parameters: Any) -> list[str]:
    """The notes of a run."""
    file = folder / f"{out}.yaml"
    recipe = {"surgery": 1, "source": {"model": "model"}, "target": {"dir": out}, "allow": "nfp",
              "steps": [{"vocab.shrink": parameters}]}  # fmt: skip
    file.write_text(json.dumps(recipe), encoding="utf-8")
    composition = compose(read_recipe(file))
    try:
        run(make_plan(composition, workers=2), NullRecorder())
    finally:
        composition.close()
    return composition.symbolic.notes


@pytest.mark.parametrize("texts", [(), ("probe.txt",)])
def test_rows_follow_their_tokens_and_texts_without_removed_ones_give_the_old_logits(
    folder: Path, texts: tuple[str, ...]
) -> None:
    old = open_encoder(folder / "model")
    out = f"small-{len(texts)}"
    notes = shrunk(folder, out, to=old.size - 20, texts=list(texts))
    new = open_encoder(folder / out)
    assert new.size == old.size - 20
    before, after = load(folder / "model"), load(folder / out)
    number_of = {text: number for number, text in enumerate(old.spellings) if text is not None}
    kept = [number_of[text] for text in new.spellings if text is not None]
    assert len(kept) == new.size
    for name in TABLES:
        assert torch.equal(after[name][: new.size], before[name][kept])
        assert after[name].shape[0] % 64 == 0, "the table was padded to a multiple of 64 and still is"
    assert all(torch.equal(after[name], before[name]) for name in before if name not in TABLES)
    assert all({left, right} <= set(new.spellings) for left, right in new.merges)
    models = [import_checkpoint(folder / place) for place in ("model", out)]
    tried = 0
    for text in (
        "the moon",
        "is bright",
        "river",
        "a",
        "moonlight",
        "the night is long",
        "flows",
        "in",
        "zebra",
        "1984",
    ):
        ids = old.encode(text)
        if set(ids) <= set(kept):
            tried += 1
            fresh = new.encode(text)
            assert [kept[n] for n in fresh] == ids
            with torch.no_grad():
                long, short = (model(torch.tensor([one]), return_logits=True).logits
                               for model, one in zip(models, (ids, fresh), strict=True))  # fmt: skip
            assert torch.allclose(short[..., : new.size], long[..., kept], atol=1e-6)
    assert tried >= 3
    assert "20 of" in notes[0]
    assert ("of the tokens of the texts" in notes[0]) == bool(texts)


def test_control_tokens_keep_their_meaning(folder: Path) -> None:
    shrunk(folder, "controls", to=open_encoder(folder / "model").size - 5)
    old, new = open_encoder(folder / "model"), open_encoder(folder / "controls")
    config = json.loads((folder / "controls" / "config.json").read_text())
    assert new.spellings[config["eos_token_id"]] == old.spellings[2]
    assert config["vocab_size"] == load(folder / "controls")[TABLES[0]].shape[0]


def test_a_table_of_experts_follows_its_tokens(tmp_path: Path, folder: Path) -> None:
    old = open_encoder(folder / "model")
    model = Decoder(dense_model("pangu-alpha-13b", n_positions=32).config.replace(vocab_size=old.size), seed=1)
    made, _ = operated(tmp_path, model, "  - moe.upcycle: {experts: 4, router: random, first_dense: 1}")
    export_checkpoint(made, tmp_path / "a", force=True)
    (tmp_path / "a" / "tokenizer.json").write_bytes((folder / "model" / "tokenizer.json").read_bytes())
    small, _ = operated(tmp_path, made, f"  - vocab.shrink: {{to: {old.size - 9}}}", nfp=True)
    new = open_encoder(tmp_path / "b")
    number_of = {text: number for number, text in enumerate(old.spellings)}
    kept = [number_of[text] for text in new.spellings]
    table = small.layers[1].ffn.router.table
    assert torch.equal(table[: new.size], made.layers[1].ffn.router.table[kept])
    assert np.array_equal(small.embed.weight[: new.size].detach(), made.embed.weight[kept].detach())


@pytest.mark.parametrize(("to", "words"), [(100000, "not smaller"), (3, "cannot become that small")])
def test_what_does_not_fit_is_refused(folder: Path, to: int, words: str) -> None:
    with pytest.raises(PedigreeError, match=words):
        shrunk(folder, "never", to=to)
    assert not (folder / "never").exists()
