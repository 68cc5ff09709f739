"""How much memory each command takes on layers of the largest shapes, measured as the most that was resident.

    python benchmarks/memory.py            # prints a table
    python benchmarks/memory.py --write    # and writes benchmarks/memory.md
    python benchmarks/memory.py --size tiny

What a command holds follows the largest tensor and the layers that it keeps, so one layer of a shape stands for what
grows with width, vocabulary and experts, and not for samples of many layers (compare.md has those). Models are written
from one block of drawn numbers, laid out again and again at a length that no row divides; a child has that block plus
noise, a merge the mean of two. Nothing here says how often an answer is right.

    dense   width 8192, 29,568 units, a tied vocabulary table of 152,064 rows (Qwen2.5-72B): one layer
    experts 256 experts of 512 units, latent attention of 128 heads, width 7168 (DeepSeek-V3 has 2048 units): one layer
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from checkpoints import SHAPES, Shape, _config, _plans, _tokenizer
from measurement import Cost, run_cold

HERE = Path(__file__).resolve().parent
TILE = 33_554_467
"""Numbers of the block, a prime: rows that it begins anew stand elsewhere in their row."""

LIMIT = 2.0e9
KINDS = {"parent": (1.0, 0.0, 0.0), "child": (1.0, 0.0, 0.1), "other": (0.9, 0.4, 0.0), "merge": (0.95, 0.2, 0.0)}
"""Shares of the first block, of a second one and of noise; the merge is the mean of parent and other."""


def dense(size: str) -> tuple[dict[str, tuple[int, ...]], dict[str, Any], Shape]:
    """Tensors and config of one tied layer of a dense model."""
    base = SHAPES["tiny"] if size == "tiny" else SHAPES["72b"]
    shape = replace(base, layers=1, tied=True)
    return {plan.name: plan.size for plan in _plans(shape, 1, False)}, dict(_config(shape, 1, True)), shape


def experts(size: str) -> tuple[dict[str, tuple[int, ...]], dict[str, Any], Shape]:
    """Tensors and config of one layer of a mixture with latent attention."""
    d, inner, many, heads, vocab = (128, 32, 8, 4, 2048) if size == "tiny" else (7168, 512, 256, 128, 129_280)
    nope, rope, value, q_rank, kv_rank = (16, 8, 16, 48, 32) if size == "tiny" else (128, 64, 128, 1536, 512)
    at = "model.layers.0."
    tensors: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocab, d),
        at + "input_layernorm.weight": (d,),
        at + "self_attn.q_a_proj.weight": (q_rank, d),
        at + "self_attn.q_a_layernorm.weight": (q_rank,),
        at + "self_attn.q_b_proj.weight": (heads * (nope + rope), q_rank),
        at + "self_attn.kv_a_proj_with_mqa.weight": (kv_rank + rope, d),
        at + "self_attn.kv_a_layernorm.weight": (kv_rank,),
        at + "self_attn.kv_b_proj.weight": (heads * (nope + value), kv_rank),
        at + "self_attn.o_proj.weight": (d, heads * value),
        at + "post_attention_layernorm.weight": (d,),
        at + "mlp.gate.weight": (many, d),
    }
    for expert in (*(f"experts.{e}" for e in range(many)), "shared_experts"):
        for name, of in (("gate", (inner, d)), ("up", (inner, d)), ("down", (d, inner))):
            tensors[f"{at}mlp.{expert}.{name}_proj.weight"] = of
    tensors |= {"model.norm.weight": (d,), "lm_head.weight": (vocab, d)}
    config = {
        "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "hidden_size": d,
        "num_hidden_layers": 1, "num_attention_heads": heads, "num_key_value_heads": heads, "q_lora_rank": q_rank,
        "kv_lora_rank": kv_rank, "qk_nope_head_dim": nope, "qk_rope_head_dim": rope, "v_head_dim": value,
        "n_routed_experts": many, "num_experts_per_tok": 8, "n_shared_experts": 1, "moe_intermediate_size": inner,
        "intermediate_size": inner, "first_k_dense_replace": 0, "vocab_size": vocab, "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    }  # fmt: skip
    shape = replace(SHAPES["tiny" if size == "tiny" else "14b"], vocab=vocab, text_tokens=min(vocab - 3, 128_000))
    return tensors, config, shape


SHAPE_OF = {"dense": dense, "experts": experts}
COMMANDS: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "dense": (
        ("compare, by default", ("compare", "parent", "child", "--json")),
        ("compare, standard", ("compare", "parent", "child", "--json", "--depth", "standard")),
        ("fingerprint", ("fingerprint", "parent", "-o", "OUT", "--force")),
        ("unmerge", ("unmerge", "merge", "--parents", "parent", "other", "--json")),
        ("tree", ("tree", "parent", "child", "other", "--json")),
        ("library add", ("library", "add", "LIBRARY", "parent", "other")),
        ("scan", ("scan", "child", "--against", "LIBRARY", "--json")),
    ),
    "experts": (
        ("compare, by default", ("compare", "parent", "child", "--json")),
        ("compare, standard", ("compare", "parent", "child", "--json", "--depth", "standard")),
        ("fingerprint", ("fingerprint", "parent", "-o", "OUT", "--force")),
        ("tree", ("tree", "parent", "child", "--json")),
    ),
}


def tile(kind: str, numbers: int) -> npt.NDArray[np.int16]:
    """The block of numbers of one model, as bfloat16."""
    first, second, noise = KINDS[kind]
    value = torch.zeros(numbers)
    for seed, share in ((1, first), (2, second), (3, noise)):
        if share:
            value += share * torch.randn(numbers, generator=torch.Generator().manual_seed(seed))
    return (0.02 * value).to(torch.bfloat16).view(torch.int16).numpy()


def write_model(
    folder: Path, tensors: dict[str, tuple[int, ...]], config: dict[str, Any], shape: Shape, kind: str
) -> None:
    """Write a model of one file."""
    folder.mkdir(parents=True)
    entries, offset = dict[str, Any](), 0
    for name, size in tensors.items():
        end = offset + 2 * int(np.prod(size))
        entries[name] = {"dtype": "BF16", "shape": list(size), "data_offsets": [offset, end]}
        offset = end
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    block = tile(kind, min(TILE, offset // 2))
    one = torch.ones(1, dtype=torch.bfloat16).view(torch.int16).numpy()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        place = 0
        for size in tensors.values():
            left = int(np.prod(size))
            if len(size) == 1:
                file.write(np.repeat(one, left).tobytes())
                continue
            while left:
                part = block[place : place + left]
                file.write(part.data)
                left, place = left - len(part), (place + len(part)) % len(block)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(_tokenizer(shape), ensure_ascii=False), encoding="utf-8")


def measure_all(
    size: str, wanted: Sequence[str], work: Path, limit_s: float, only: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """One row for each command on each shape; models that are there are used."""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent / "src"), "HOME": str(work), "OMP_NUM_THREADS": "1"}
    for name in wanted:
        tensors, config, shape = SHAPE_OF[name](size)
        total = 2 * sum(int(np.prod(shape)) for shape in tensors.values())
        places = {kind: str(work / name / kind) for kind in KINDS}
        places |= {"OUT": str(work / "fingerprint.safetensors"), "LIBRARY": str(work / f"library-{name}")}
        for what, words in COMMANDS[name]:
            if only and what not in only:
                continue
            for kind in words:
                if kind in KINDS and not Path(places[kind]).exists():
                    write_model(Path(places[kind]), tensors, config, shape, kind)
            command = [sys.executable, "-m", "pedigree", *(places.get(word, word) for word in words)]
            cost = run_cold(command, [work / name], environment=environment, limit_s=limit_s)
            yield {"shape": name, "command": what, "model_bytes": total, **told(cost)}


def told(cost: Cost) -> dict[str, Any]:
    """What a row keeps of a run."""
    done = cost.exit_code in (0, 1, 3)
    return {
        "peak": cost.peak_bytes, "private": cost.private_bytes, "processor": cost.processor_seconds, "done": done,
        "answer": answer(cost) if done else cost.failure(),
    }  # fmt: skip


def answer(cost: Cost) -> str:
    """The word that a command said, where it says one."""
    try:
        found = json.loads(cost.stdout)
    except json.JSONDecodeError:
        return "done"
    result = found.get("result", {}) if isinstance(found, dict) else {}
    return str(result.get("verdict", "done")) if isinstance(result, dict) else "done"


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    kept = "yes" if row["done"] and row["peak"] < LIMIT else "**no**"
    return (
        f"| {row['shape']} | {row['command']} | {row['model_bytes'] / 1e9:.2f} GB | {row['peak'] / 1e9:.2f} GB | "
        f"{row['private'] / 1e9:.2f} GB | {kept} | {row['processor']:.0f} | {row['answer']} |"
    )


def missing(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Commands of the table that have no row."""
    there = {(row["shape"], row["command"]) for row in rows}
    return [f"{what} ({name})" for name in SHAPE_OF for what, _ in COMMANDS[name] if (name, what) not in there]


def page(rows: Sequence[dict[str, Any]], words: str) -> str:
    """The page."""
    said = subprocess.run(
        ["git", "-C", HERE, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False
    )
    about = " ".join((__doc__ or "").split("What a command holds", 1)[1].split("\n    dense", 1)[0].split())
    shapes = "\n".join(
        f"- {text.strip()}" for text in (__doc__ or "").splitlines() if text.startswith(("    dense", "    exp"))
    )
    return "\n".join([
        "# How much memory each command takes", "",
        f"Written by `python benchmarks/memory.py {words}`; not by hand.", "",
        f"Commit {said.stdout.strip() or 'unknown'}, {datetime.now(UTC):%Y-%m-%d}. {os.cpu_count()} cores, "
        f"Linux {platform.release()}, Python {platform.python_version()}, torch {torch.__version__}.", "",
        f"What a command holds {about}", "", shapes, "",
        "*Most resident* is what the kernel counted for a fresh process, libraries included (some 0.25 GB);",
        "*private* is the part that is not pages of files, sampled every 10 ms. Processor seconds depend on who else",
        "uses the machine.", "",
        "| shape | command | a model | most resident | private | below 2 GB | processor s | answer |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *map(line, rows), "",
        f"Not measured in this run: {', '.join(missing(rows)) or 'nothing'}.", "",
    ])  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 where a command took more than the limit or did not end."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", choices=("tiny", "large"), default="large")
    parser.add_argument("--shape", choices=tuple(SHAPE_OF), action="append", help="default: all")
    parser.add_argument("--only", action="append", metavar="COMMAND", help="a command as the table names it")
    parser.add_argument("--workdir", type=Path, help="models are written and kept there (default: a temporary folder)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="add the rows to those of this file")
    parser.add_argument("--limit", type=float, default=900, help="seconds after which a command is stopped")
    parser.add_argument("--write", action="store_true", help="write benchmarks/memory.md")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    if options.json is not None and options.json.is_file():
        rows = json.loads(options.json.read_text())
    with tempfile.TemporaryDirectory(prefix="pedigree-memory-") as temporary:
        work = options.workdir or Path(temporary)
        for row in measure_all(options.size, options.shape or tuple(SHAPE_OF), work, options.limit, options.only or ()):
            rows.append(row)
            print(line(row), flush=True)
            if options.json is not None:
                options.json.write_text(json.dumps(rows, indent=1))
    if options.write:
        (HERE / "memory.md").write_text(page(rows, "--write"), encoding="utf-8")
    return int(any(not row["done"] or row["peak"] >= LIMIT for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
