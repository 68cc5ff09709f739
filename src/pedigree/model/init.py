"""How weights start: by config, by place, and by name.

Every tensor is drawn from its own generator, seeded from (seed, name) through SHA-256. So a tensor starts the same
whatever is built before it, on whatever device, whole or sharded; and a deeper model starts as its shallower sibling
does in the layers they share (up to the depth-dependent standard deviations).

    gains 1 (behind the branches of a depth-scaled sandwich c / sqrt(L)), biases 0, shortcuts leave at 0
    gpt2      N(0, std); residual outputs N(0, std / sqrt(2 L))            Radford et al. 2019
    tiny      N(0, 1 / (2 d L)) for every matrix (TinyInit)                Pangu Ultra, arXiv 2504.07866
    normal    N(0, std) for every matrix                                   DeepSeek-V3: 0.006, arXiv 2412.19437
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from pedigree.model.config import ModelConfig
from pedigree.model.norm import post_gains

_ZERO = (".bias", ".enter_bias", ".down_bias", ".shift", ".leave.weight", ".expert_bias")
_TABLES = ("embed.weight", "positions.weight", "query_positions.weight")
_RESIDUAL = (".attn.o.weight", ".down.weight", ".experts.down")
_QKV = (".attn.q.weight", ".attn.k.weight", ".attn.v.weight")


def generator_of(seed: int, name: str) -> torch.Generator:
    """The generator of one tensor."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def starting_value(config: ModelConfig, name: str, shape: torch.Size, seed: int) -> Tensor:
    """What the tensor of this name starts as, in float32 (the table of a random router: int64)."""
    generator = generator_of(seed, name)
    if name.endswith(".table") and config.experts is not None:
        return torch.randint(config.experts.per_group, tuple(shape), generator=generator)
    constant = _constant(config, name)
    if constant is not None:
        return torch.full(tuple(shape), constant)
    if name.endswith(".slope"):
        value = torch.zeros(tuple(shape))
        value[0] = 1.0
        return value
    return torch.empty(tuple(shape)).normal_(0.0, _std(config, name), generator=generator)


def _constant(config: ModelConfig, name: str) -> float | None:
    attention, feed_forward = post_gains(config)
    if name.endswith("attn_post_norm.weight"):
        return attention
    if name.endswith("ffn_post_norm.weight"):
        return feed_forward
    if name.endswith(_ZERO):
        return 0.0
    if name.endswith(("norm.weight", ".router.scale")):
        return 1.0
    return None


def _std(config: ModelConfig, name: str) -> float:
    if name in _TABLES:
        return config.embedding_std
    if config.init.qkv_std is not None and name.endswith(_QKV):
        return config.init.qkv_std
    if config.init.kind == "gpt2" and name.endswith(_RESIDUAL):
        return config.matrix_std * float((2 * config.n_layers) ** -0.5)
    return config.matrix_std


@torch.no_grad()
def reset_parameters(model: nn.Module, config: ModelConfig, seed: int) -> None:
    """Give every parameter and buffer of a decoder its starting value, shards included."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        value = starting_value(config, name, tensor.shape, seed)
        mesh, placements = getattr(tensor, "device_mesh", None), getattr(tensor, "placements", None)
        if mesh is not None and placements is not None:
            from torch.distributed.tensor import distribute_tensor

            value = value.to(device=tensor.device, dtype=tensor.dtype)
            # Every rank draws the whole tensor and keeps its part: nothing is sent.
            tensor.copy_(distribute_tensor(value, mesh, placements, src_data_rank=None))
        else:
            tensor.copy_(value)
