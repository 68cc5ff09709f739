"""The tiny family of the golden merges as checkpoints on disk, and recipes run by the engine."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from pedigree.records.recorder import NullRecorder
from pedigree.surgery.composition import compose
from pedigree.surgery.engine import run
from pedigree.surgery.foreign import read_any_recipe
from pedigree.surgery.plan import make_plan

GOLDEN = Path(__file__).parents[2] / "golden" / "mergekit"


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tiny_family", GOLDEN / "tiny_family.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TINY = _load()
MODELS: dict[str, dict[str, torch.Tensor]] = {
    name: {key: torch.from_numpy(array) for key, array in tensors.items()} for name, tensors in TINY.family().items()
}


def write_checkpoint(
    folder: Path, tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any] | None = None
) -> Path:
    """A checkpoint of one file."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(dict(TINY.CONFIG if config is None else config)), encoding="utf-8")
    return folder


def write_family(folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """`base`, `first` and `second` in a folder."""
    for name, tensors in MODELS.items():
        write_checkpoint(folder / name, {key: tensor.to(dtype) for key, tensor in tensors.items()})
    return folder


def run_recipe(folder: Path, text: str, name: str = "recipe", *, force: bool = False) -> dict[str, torch.Tensor]:
    """Write a recipe of either kind into a folder, run it, and read the result."""
    file = folder / f"{name}.yaml"
    file.write_text(text, encoding="utf-8")
    recipe, _ = read_any_recipe(file)
    composition = compose(recipe)
    try:
        outcome = run(make_plan(composition, workers=2), NullRecorder(), force=force)
    finally:
        composition.close()
    return read_tensors(outcome.target)


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint."""
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def write_tokenizer(folder: Path, tokens: list[str]) -> None:
    """A tokenizer of single letters."""
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
             "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
             "vocab": {token: number for number, token in enumerate(tokens)}, "merges": []}  # fmt: skip
    definition = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
                  "pre_tokenizer": None, "post_processor": None, "decoder": None, "model": model}  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(definition), encoding="utf-8")
