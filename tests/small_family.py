"""Three small checkpoints with known relations, and the command line run on them in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

ROOT = Path(__file__).resolve().parent.parent
MAIN = "import sys; from pedigree.cli.main import main; sys.argv[0] = 'pedigree'; sys.exit(main())"


def run_pedigree(
    words: tuple[str, ...], folder: Path, timeout: float, *, before: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `pedigree ...` in a folder, from this checkout, with one thread and no access to caches of ours.

    Args:
        words: the command line, beginning with the program.
        folder: where it runs.
        timeout: seconds after which it counts as hung.
        before: lines of Python to run first, in the same process.
        environment: variables to set besides.
    """
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "src"),
        "OMP_NUM_THREADS": "1",
        "NO_COLOR": "1",
        "HF_HUB_OFFLINE": "1",
        **environment,
    }
    line = [sys.executable, "-c", before + "\n" + MAIN, *words[1:]]
    return subprocess.run(line, cwd=folder, env=env, capture_output=True, text=True, timeout=timeout, check=False)


def write_family(folder: Path) -> Path:
    """`parent`, `child` (parent with small noise) and `stranger` below a folder."""
    for name, seed in (("parent", 1), ("child", 1), ("stranger", 2)):
        tensors = llama_tensors(np.random.default_rng(seed))
        if name == "child":
            noise = np.random.default_rng(3)
            tensors = {k: v + 0.1 * v.std() * noise.standard_normal(v.shape, "f4") for k, v in tensors.items()}
        write_llama(folder / name, tensors)
    return folder


D_MODEL, N_LAYERS, N_HEADS, N_INNER, N_VOCAB = 64, 3, 4, 176, 320


def llama_tensors(rng: np.random.Generator) -> dict[str, Any]:
    """Random weights under the names of a Llama checkpoint."""
    matrices = {"model.embed_tokens": (N_VOCAB, D_MODEL), "lm_head": (N_VOCAB, D_MODEL)}
    gains = ["model.norm"]
    for i in range(N_LAYERS):
        layer = f"model.layers.{i}."
        matrices |= {f"{layer}self_attn.{name}_proj": (D_MODEL, D_MODEL) for name in "qkvo"}
        matrices |= {f"{layer}mlp.{name}_proj": (N_INNER, D_MODEL) for name in ("gate", "up")}
        matrices[f"{layer}mlp.down_proj"] = (D_MODEL, N_INNER)
        gains += [f"{layer}input_layernorm", f"{layer}post_attention_layernorm"]
    tensors = {f"{name}.weight": 0.02 * rng.standard_normal(shape, "f4") for name, shape in matrices.items()}
    return tensors | {f"{name}.weight": 1 + 0.1 * rng.standard_normal(D_MODEL, "f4") for name in gains}


def write_llama(folder: Path, tensors: Mapping[str, Any]) -> None:
    """A Hugging Face style directory with weights, configuration and a byte-level vocabulary."""
    folder.mkdir()
    save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": D_MODEL,
        "intermediate_size": N_INNER,
        "num_hidden_layers": N_LAYERS,
        "num_attention_heads": N_HEADS,
        "num_key_value_heads": N_HEADS,
        "vocab_size": N_VOCAB,
        "max_position_embeddings": 256,
        "tie_word_embeddings": False,
        "rms_norm_eps": 1e-5,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=N_VOCAB, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([(ROOT / "LICENSE").read_text(encoding="utf-8")], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
