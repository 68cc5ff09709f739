"""A forecast tells the damage of a surgery on texts and leaves nothing behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from surgery.vocabulary.swapping import write_models

from pedigree.model.hf_checkpoint import import_checkpoint
from pedigree.records.damage import Damage
from pedigree.surgery import forecast as module
from pedigree.surgery.composition import compose
from pedigree.surgery.forecast import forecast
from pedigree.surgery.foreign import read_any_recipe
from pedigree.surgery.probe import bits_per_byte
from pedigree.surgery.vocabulary.token_map import map_tokens
from pedigree.tokenizers.reading import open_encoder
from pedigree.tokenizers.texts import read_text

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("forecast"))


def told(folder: Path, steps: list[dict[str, Any]]) -> Damage:
    recipe = {"surgery": 1, "source": {"model": "model"}, "target": {"dir": "out"}, "allow": "nfp", "steps": steps}
    (folder / "r.yaml").write_text(json.dumps(recipe))
    composition = compose(read_any_recipe(folder / "r.yaml")[0])
    before = sorted(folder.iterdir())
    try:
        return forecast(composition, [read_text(folder / "probe.txt")])
    finally:
        composition.close()
        assert sorted(folder.iterdir()) == before, "the temporary result is gone"


def test_a_swap_tells_rows_tokens_and_bits(folder: Path) -> None:
    found = told(folder, [{"vocab.swap": {"tokenizer": "new", "init": "random"}}])
    old, new = open_encoder(folder / "model"), open_encoder(folder / "new")
    mapped = map_tokens(old, new)
    assert found.measured
    assert (found.rows_copied, found.rows_made) == (len(mapped.copied), len(mapped.guessed))
    assert found.controls_new == ["<|tool|>"]
    row = found.texts[0]
    ids = [n for unit in read_text(folder / "probe.txt").units for n in new.encode(unit)]
    assert row.copied_share == pytest.approx(sum(n in set(mapped.copied.tolist()) for n in ids) / len(ids))
    assert row.bytes_per_token_after == pytest.approx(row.bytes / len(ids))
    assert row.bits_per_byte_before is not None
    assert row.bits_per_byte_after is not None
    assert row.kl is None, "texts are cut differently, so tokens cannot be compared"


def test_what_keeps_the_function_keeps_the_bits(folder: Path) -> None:
    found = told(folder, [{"grow.depth": {"op": "identity", "after": [0]}}])
    row = found.texts[0]
    assert row.bits_per_byte_after == row.bits_per_byte_before
    assert row.kl == pytest.approx(0, abs=1e-9)
    assert found.rows_made is None


def test_a_model_that_is_too_large_is_told_by_its_tokenizers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 1000)
    found = told(folder, [{"vocab.swap": {"tokenizer": "new", "init": "mean"}}])
    assert not found.measured
    assert "more than the" in found.why_not
    assert found.texts[0].bits_per_byte_after is None
    assert found.texts[0].copied_share is not None


def test_bits_per_byte_of_a_uniform_model_are_those_of_a_coin(folder: Path) -> None:
    model = import_checkpoint(folder / "model")
    encoder = open_encoder(folder / "model")
    with torch.no_grad():
        model.head_weight.zero_()
    text = read_text(folder / "probe.txt")
    ids = [n for unit in text.units for n in encoder.encode(unit)]
    sizes = [len(encoder.surfaces[n] or b"") for n in ids]
    predicted = [i for i in range(len(ids)) if i % 256]
    wanted = torch.tensor(float(encoder.size)).log2().item() * len(predicted) / sum(sizes[i] for i in predicted)
    assert bits_per_byte(model, encoder, text) == pytest.approx(wanted, rel=1e-5)
