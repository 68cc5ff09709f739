"""Synthetic checkpoints of real shapes, written to disk block by block.

A parent is made of independent Gaussian numbers with the shapes, names, files and tokenizer of a real model; the
others are made from it:

    child        every number of the parent plus noise, as fine-tuning would leave it
    deepened     a child with one new layer in its middle
    disguised    a child whose units and heads stand in another order and whose residual stream is rotated
    stranger     the same shapes and tokenizer, other numbers

The same shape, kind and seed give the same bytes on any machine with the same numpy and torch (the rotation of
`disguised` also depends on the linear algebra library). Peak memory is a few blocks, whatever the size of the model.

    python benchmarks/checkpoints.py FOLDER --size 7b --kind child
    python benchmarks/checkpoints.py                                 # lists sizes and kinds

Gaussian numbers are enough to measure cost; they say nothing about how often a verdict is right.

Shapes: R = rows, C = columns, D = residual width, F = inner width.
"""

from __future__ import annotations

import argparse
import json
import random
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

KINDS = ("parent", "child", "deepened", "disguised", "stranger")
PARENT_SEED, STRANGER_SEED, CHILD_SEED, INSERTED_SEED = 1, 2, 3, 4
NOISE = 0.1  # standard deviation of the child's noise, as a share of that of the parent's numbers
BLOCK = 1 << 22  # numbers that are drawn at once
LEDGER = "recipe.json"  # beside the weights, written last: what they were made from


@dataclass(frozen=True)
class Shape:
    """Sizes of a model; `text_tokens` of the `vocab` rows have a token, `shard_bytes` is the largest file."""

    name: str
    like: str
    model_type: str
    d: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int
    text_tokens: int
    tied: bool
    bias: bool
    shard_bytes: int

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.d // self.heads


SHAPES = {
    "tiny": Shape("tiny", "nothing in particular", "qwen2", 128, 6, 4, 2, 384, 2048, 2000, True, True, 2 << 20),
    "0.5b": Shape("0.5b", "Qwen2.5-0.5B", "qwen2", 896, 24, 14, 2, 4864, 151_936, 151_643, True, True, 5_000_000_000),
    "1.5b": Shape("1.5b", "Qwen2.5-1.5B", "qwen2", 1536, 28, 12, 2, 8960, 151_936, 151_643, True, True, 2_000_000_000),
    "3b": Shape("3b", "Llama-3.2-3B", "llama", 3072, 28, 24, 8, 8192, 128_256, 128_000, True, False, 5_000_000_000),
    "14b": Shape("14b", "Qwen2.5-14B", "qwen2", 5120, 48, 40, 8, 13_824, 152_064, 151_643, False, True, 5_000_000_000),
    "72b": Shape("72b", "Qwen2.5-72B", "qwen2", 8192, 80, 64, 8, 29_568, 152_064, 151_643, False, True, 5_000_000_000),
    "7b": Shape("7b", "Llama-2-7B", "llama", 4096, 32, 32, 32, 11_008, 32_000, 31_997, False, False, 5_000_000_000),
}


@dataclass(frozen=True)
class Plan:
    """One tensor to write: its name in the file, its sizes, its role and its layer (None outside layers)."""

    name: str
    size: tuple[int, ...]
    role: str
    layer: int | None

    @property
    def nbytes(self) -> int:
        """Bytes in bfloat16."""
        return 2 * int(np.prod(self.size))


def write_checkpoint(folder: Path, shape: Shape, kind: str) -> None:
    """Write one checkpoint; what lies there already and was made from the same recipe is kept."""
    recipe = {"kind": kind, "noise": NOISE, "version": 1, **asdict(shape)}
    ledger = folder / LEDGER
    if ledger.is_file() and json.loads(ledger.read_text()) == recipe:
        return
    folder.mkdir(parents=True, exist_ok=True)
    maker = _maker(shape, kind)
    origins = _origins(shape, kind)
    untied = kind == "disguised" or not shape.tied
    plans = _plans(shape, len(origins), untied)
    shards = _shards(plans, shape.shard_bytes)
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        weight_map.update({plan.name: file for plan in shard})
        _write_shard(folder / file, shard, maker)
    index = {"metadata": {"total_size": sum(plan.nbytes for plan in plans)}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True))
    (folder / "config.json").write_text(json.dumps(_config(shape, len(origins), not untied), indent=2))
    (folder / "tokenizer.json").write_text(json.dumps(_tokenizer(shape), ensure_ascii=False), encoding="utf-8")
    ledger.write_text(json.dumps(recipe))


# -- the files --------------------------------------------------------------------------------------------------------


def _plans(shape: Shape, layers: int, untied: bool) -> list[Plan]:
    d, q, kv = shape.d, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    plans = [Plan("model.embed_tokens.weight", (shape.vocab, d), "embed", None)]
    for layer in range(layers):
        sizes: list[tuple[str, str, tuple[int, ...]]] = [
            ("input_layernorm.weight", "norm.attn", (d,)),
            ("self_attn.q_proj.weight", "q", (q, d)),
            ("self_attn.k_proj.weight", "k", (kv, d)),
            ("self_attn.v_proj.weight", "v", (kv, d)),
            ("self_attn.o_proj.weight", "o", (d, q)),
            ("post_attention_layernorm.weight", "norm.mlp", (d,)),
            ("mlp.gate_proj.weight", "gate", (shape.ffn, d)),
            ("mlp.up_proj.weight", "up", (shape.ffn, d)),
            ("mlp.down_proj.weight", "down", (d, shape.ffn)),
        ]
        if shape.bias:
            sizes += [(f"self_attn.{x}_proj.bias", f"{x}.bias", (n,)) for x, n in (("q", q), ("k", kv), ("v", kv))]
        plans += [Plan(f"model.layers.{layer}.{name}", size, role, layer) for name, role, size in sizes]
    plans.append(Plan("model.norm.weight", (d,), "norm.final", None))
    if untied:
        plans.append(Plan("lm_head.weight", (shape.vocab, d), "head", None))
    return plans


def _shards(plans: list[Plan], most_bytes: int) -> list[list[Plan]]:
    shards: list[list[Plan]] = [[]]
    for plan in plans:
        if shards[-1] and sum(p.nbytes for p in shards[-1]) + plan.nbytes > most_bytes:
            shards.append([])
        shards[-1].append(plan)
    return shards


def _write_shard(path: Path, plans: list[Plan], maker: Maker) -> None:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for plan in plans:
        span = [offset, offset + plan.nbytes]
        entries[plan.name] = {"dtype": "BF16", "shape": list(plan.size), "data_offsets": span}
        offset += plan.nbytes
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for plan in plans:
            _write_tensor(file, plan, maker)


def _write_tensor(file: BinaryIO, plan: Plan, maker: Maker) -> None:
    for block in maker(plan):
        file.write(block.to(torch.bfloat16).contiguous().view(torch.int16).numpy().data)


def _config(shape: Shape, layers: int, tied: bool) -> dict[str, object]:
    return {
        "architectures": [{"qwen2": "Qwen2ForCausalLM", "llama": "LlamaForCausalLM"}[shape.model_type]],
        "model_type": shape.model_type,
        "hidden_size": shape.d,
        "intermediate_size": shape.ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "vocab_size": shape.vocab,
        "hidden_act": "silu",
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": tied,
        "torch_dtype": "bfloat16",
    }


def _tokenizer(shape: Shape) -> dict[str, object]:
    """A byte-level BPE tokenizer: the 256 bytes, then random merges of earlier tokens, then control tokens."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    letters = [chr(byte) for byte in printable] + [chr(256 + n) for n in range(len(rest))]
    draw = random.Random(shape.text_tokens)
    tokens, merges = list(letters), []
    known = set(tokens)
    while len(tokens) < shape.text_tokens:
        left = tokens[int(len(tokens) * draw.random() ** 3)]
        right = tokens[int(len(tokens) * draw.random() ** 3)]
        if len(left) + len(right) <= 12 and left + right not in known:
            tokens.append(left + right)
            known.add(left + right)
            merges.append(f"{left} {right}")
    controls = ["<|endoftext|>", "<|begin|>", "<|end|>"]
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": shape.text_tokens + n, "content": text, "special": True, "single_word": False, "lstrip": False,
             "rstrip": False, "normalized": False}
            for n, text in enumerate(controls)
        ],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "vocab": {token: n for n, token in enumerate(tokens)}, "merges": merges},
    }  # fmt: skip


# -- the numbers ------------------------------------------------------------------------------------------------------

Maker = Callable[[Plan], Iterator[Tensor]]
"""From a tensor's plan to its blocks of rows in order."""

_QUANTILES = torch.special.ndtri((torch.arange(65536, dtype=torch.float64) + 0.5) / 65536).float().numpy()
"""65536 equally likely values of a standard normal: a draw is one 16-bit integer."""


def _generator(seed: int, key: str) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64([seed, zlib.crc32(key.encode())]))


def _normal(generator: np.random.Generator, count: int) -> Tensor:
    drawn = np.frombuffer(generator.bytes(2 * count), dtype=np.uint16)
    return torch.from_numpy(_QUANTILES.take(drawn))


def _blocks(seed: int, key: str, size: tuple[int, ...]) -> Iterator[Tensor]:
    """Standard normal numbers of one tensor, in blocks of rows."""
    generator = _generator(seed, key)
    width = size[1] if len(size) == 2 else 1
    step = max(1, BLOCK // width)
    for start in range(0, size[0], step):
        rows = min(step, size[0] - start)
        yield _normal(generator, rows * width).reshape(rows, *size[1:])


def _scale(shape: Shape, role: str) -> tuple[float, float]:
    """Mean and standard deviation of the numbers of a role, near those of trained models."""
    if role.startswith("norm"):
        return 1.0, 0.1
    if role.endswith(".bias"):
        return 0.0, 0.5
    return 0.0, 0.02 if role in ("embed", "head") else 0.8 * shape.d**-0.5 * (0.5 if role in ("o", "down") else 1.0)


def _origins(shape: Shape, kind: str) -> list[int | None]:
    """For each layer the layer of the parent it is made from, None for a new one."""
    origins: list[int | None] = list(range(shape.layers))
    if kind == "deepened":
        origins.insert(shape.layers // 2, None)
    return origins


def _maker(shape: Shape, kind: str) -> Maker:
    if kind == "disguised":
        return Disguise(shape).blocks
    seed = STRANGER_SEED if kind == "stranger" else PARENT_SEED
    origins = _origins(shape, kind)
    noise = 0.0 if kind in ("parent", "stranger") else NOISE

    def blocks(plan: Plan) -> Iterator[Tensor]:
        origin = None if plan.layer is None else origins[plan.layer]
        if plan.layer is not None and origin is None:
            return _base(shape, plan.role, plan.layer, plan.size, INSERTED_SEED, 0.0, plan.name)
        return _base(shape, plan.role, origin, plan.size, seed, noise, plan.name)

    return blocks


def _base(
    shape: Shape, role: str, layer: int | None, size: tuple[int, ...], seed: int, noise: float, name: str
) -> Iterator[Tensor]:
    """Blocks of one tensor of a model, plus noise whose seed is the name of the tensor to write."""
    mean, deviation = _scale(shape, role)
    extra = _blocks(CHILD_SEED, name, size) if noise else None
    for block in _blocks(seed, f"{role} {layer}", size):
        value = block.mul_(deviation).add_(mean)
        if extra is not None:
            value = value.to(torch.bfloat16).float().add_(next(extra), alpha=noise * deviation)
        yield value


class Disguise:
    """A child that computes what it computed, from numbers that stand elsewhere.

    The gain of each RMS norm is folded into what reads behind it; then the residual stream is rotated by a random
    orthogonal matrix, feed-forward units and key/value groups are put in another order, and the output head, which
    no longer equals the embedding, is written out.
    """

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        normal_DD = torch.cat(list(_blocks(CHILD_SEED, "rotation", (shape.d, shape.d))))
        self.rotation_DD, _ = torch.linalg.qr(normal_DD)

    def blocks(self, plan: Plan) -> Iterator[Tensor]:
        """Blocks of rows of one disguised tensor."""
        role, layer = plan.role, plan.layer
        if role.startswith("norm"):
            yield torch.ones(plan.size)
        elif role in ("embed", "head"):
            source = "embed" if self.shape.tied else role
            gain_D = self._whole("norm.final", None, (self.shape.d,)) if role == "head" else 1.0
            # Embedding and head of a tied model are the same numbers, noise included: one name for both.
            for rows_RD in _base(self.shape, source, None, plan.size, PARENT_SEED, NOISE, source):
                yield (rows_RD * gain_D) @ self.rotation_DD
        else:
            yield self._layer_tensor(self._whole(role, layer, plan.size), role, layer)

    def _layer_tensor(self, whole: Tensor, role: str, layer: int | None) -> Tensor:
        order = self._order(role, layer)
        if role.endswith(".bias"):
            return whole[order]
        if role in ("o", "down"):
            return self.rotation_DD.T @ whole[:, order]
        norm = "norm.mlp" if role in ("gate", "up") else "norm.attn"
        gain_D = self._whole(norm, layer, (self.shape.d,))
        return (whole[order] * gain_D) @ self.rotation_DD

    def _whole(self, role: str, layer: int | None, size: tuple[int, ...]) -> Tensor:
        return torch.cat(list(_base(self.shape, role, layer, size, PARENT_SEED, NOISE, f"{role} {layer}")))

    def _order(self, role: str, layer: int | None) -> Tensor:
        """New order of the units that a tensor's rows (for o and down: columns) belong to."""
        shape = self.shape
        if role in ("gate", "up", "down"):
            return torch.from_numpy(_generator(CHILD_SEED, f"units {layer}").permutation(shape.ffn))
        groups = torch.from_numpy(_generator(CHILD_SEED, f"groups {layer}").permutation(shape.kv_heads))
        query = role.split(".")[0] in ("q", "o")
        per_group = shape.head_dim * (shape.heads // shape.kv_heads if query else 1)
        return (groups[:, None] * per_group + torch.arange(per_group)).flatten()


# -- the command ------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Write one checkpoint, or list what can be written."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, help="where to write; without it the choices are listed")
    parser.add_argument("--size", choices=tuple(SHAPES), default="tiny")
    parser.add_argument("--kind", choices=KINDS, default="parent")
    chosen = parser.parse_args(arguments)
    if chosen.folder is None:
        for shape in SHAPES.values():
            plans = _plans(shape, shape.layers, not shape.tied)
            n_bytes = sum(plan.nbytes for plan in plans)
            print(f"{shape.name:5} {n_bytes / 1e9:6.2f} GB  shaped like {shape.like}; kinds: {', '.join(KINDS)}")
        return 0
    torch.set_num_threads(1)
    write_checkpoint(chosen.folder, SHAPES[chosen.size], chosen.kind)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
