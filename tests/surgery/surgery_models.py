"""Tiny models of several architectures, written as transformers writes them, and what a recipe makes of them."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from pedigree.records.recorder import NullRecorder, Recorder
from pedigree.surgery.composition import compose
from pedigree.surgery.engine import Outcome, run
from pedigree.surgery.exactness import Exactness
from pedigree.surgery.plan import make_plan
from pedigree.surgery.recipe import read_recipe

VOCABULARY = 61
ARCHITECTURES = ("llama", "qwen2", "qwen3", "gpt2", "gpt_neox")
GROUPED = ("llama", "qwen2", "qwen3")


@contextmanager
def quick_folder() -> Iterator[Path]:
    """A folder in memory where there is one: runs force everything to disk, and there are many of them."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=base, prefix="surgery-") as name:
        yield Path(name)


def write_model(folder: Path, kind: str, *, seed: int = 0, dtype: torch.dtype = torch.float32, **sizes: Any) -> Path:
    """A model whose every number (gains and biases too) is random; `sizes` are keys of its config."""
    from transformers import AutoConfig, AutoModelForCausalLM

    given: dict[str, Any] = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0}
    if kind == "gpt2":
        given |= {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
    elif kind == "gpt_neox":
        given |= {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2,
                  "max_position_embeddings": 32}  # fmt: skip
    else:
        given |= {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
                  "num_key_value_heads": 2, "head_dim": 4, "max_position_embeddings": 32}  # fmt: skip
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**given, **sizes}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4).add_(torch.randn_like(parameter) * 0.1)
    model.to(dtype).save_pretrained(folder)
    return folder


def logits(folder: Path) -> torch.Tensor:
    """Logits in float32 [B, T, V] of the model transformers finds there, on fixed tokens."""
    from transformers import AutoModelForCausalLM

    model, loading = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not loading["missing_keys"], loading
    assert not loading["unexpected_keys"], loading
    tokens_BT = torch.randint(0, VOCABULARY, (2, 24), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        found = model.eval()(tokens_BT).logits
    assert isinstance(found, torch.Tensor)
    return found


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of every file of a folder."""
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


def write_recipe(source: Path, target: Path, steps: Sequence[Any], **more: Any) -> Path:
    """A recipe beside the target; `into` are further keys of its target section."""
    path = target.with_name(target.name + ".yaml")
    into = {"dir": str(target), **more.pop("into", {})}
    whole = {"surgery": 1, "source": {"model": str(source)}, "target": into, "steps": list(steps), **more}
    path.write_text(json.dumps(whole))
    return path


def operate(
    source: Path, target: Path, steps: Sequence[Mapping[str, Any]], *, recorder: Recorder | None = None,
    workers: int = 2, force: bool = False, **more: Any,
) -> tuple[Outcome, Exactness]:  # fmt: skip
    """Do the steps; what happened, and how exact the recipe claims to be."""
    composition = compose(read_recipe(write_recipe(source, target, steps, **more)))
    try:
        outcome = run(make_plan(composition, workers=workers), recorder or NullRecorder(), force=force)
        return outcome, composition.whole
    finally:
        composition.close()


def drift(source: Path, target: Path) -> tuple[float, float]:
    """Largest difference of logits, and the bound for exact classes."""
    before, after = logits(source), logits(target)
    return float((before - after).abs().max()), 1e-4 * float(before.std())
