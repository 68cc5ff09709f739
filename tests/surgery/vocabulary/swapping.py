"""A small model with a tokenizer, another tokenizer, and swaps run by the engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from speaking_models import write_speaker

from pedigree.records.recorder import NullRecorder
from pedigree.surgery.composition import compose
from pedigree.surgery.engine import run
from pedigree.surgery.foreign import read_any_recipe
from pedigree.surgery.plan import make_plan
from pedigree.tokenizers.companions import written
from pedigree.tokenizers.texts import Text
from pedigree.tokenizers.training import TrainingOptions, train

VERSE = "the moon is bright, the river flows, the night is long\n"
OTHER = "the harbor sleeps, and rivers of moonlight flow along the night\nдолгая ночь — café\n"
CONTROLS = ("<|tool|>", "<|im_start|>", "<|im_end|>", "</s>")


def write_models(folder: Path, name: str = "qwen2.5-14b-pico") -> Path:
    """`model` and `donor` of the same kind, the donor with the new tokenizer, and the new tokenizer in `new`."""
    write_speaker(folder / "model", name=name)
    write_speaker(folder / "donor", name=name)
    encoder = train(
        [Text("verse", tuple(OTHER.splitlines(keepends=True)) * 40, "line", "v")],
        TrainingOptions(size=310, specials=CONTROLS),
    )
    (folder / "new").mkdir()
    for place in ("new", "donor"):
        (folder / place / "tokenizer.json").write_text(written(encoder.definition), encoding="utf-8")
    (folder / "probe.txt").write_text((VERSE + OTHER) * 20, encoding="utf-8")
    config = json.loads((folder / "model" / "config.json").read_text())
    (folder / "model" / "config.json").write_text(json.dumps({**config, "eos_token_id": 2, "bos_token_id": 0}))
    return folder


def swap(folder: Path, out: str, **parameters: Any) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The tensors after a swap, and the notes of its plan."""
    recipe = {
        "surgery": 1,
        "source": {"model": "model"},
        "target": {"dir": out},
        "allow": "nfp",
        "steps": [{"vocab.swap": {"tokenizer": "new", **parameters}}],
    }
    file = folder / f"{out}.yaml"
    file.write_text(json.dumps(recipe), encoding="utf-8")
    composition = compose(read_any_recipe(file)[0])
    try:
        target = run(make_plan(composition, workers=2), NullRecorder()).target
    finally:
        composition.close()
    return load(target), composition.symbolic.notes


def load(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint."""
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}
