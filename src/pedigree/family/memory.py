"""Bytes on one device while a model is trained: states, activations, logits. Nothing is allocated.

Conventions
- bf16 and fp16 keep float32 weights and two float32 moments. zero=3 holds the float32 weights and gradients in pieces
  and gathers low-precision copies of two layers at a time (16 bytes a parameter in pieces); zero 0 to 2 keep
  low-precision weights beside a float32 master copy and sum gradients in float32 (18 bytes). `pure` holds all in bf16.
- Tensor parallelism cuts matrices, tables and, between them, the sequence; norms and routers are whole everywhere.
- Attention never stores its probabilities. A token of a layer keeps, in numbers of the working precision,
  d (4 + 2 sandwich) for norms and stream, 2 (query + key widths) for attention (with latents: the latents, and expanded
  queries, keys and values), 3 f for SwiGLU, 2 K d for sending tokens to K experts and back; with GELU the
  34 d bytes of arXiv 2205.05198 for f = 4 d. Full recomputation keeps d, selective drops the activation product.
- The first stage of a pipeline holds as many micro-batches as there are stages, the last one holds one; interleaved
  stages (vpp) hold 1 + (pp - 1) / (pp vpp) times as many (arXiv 2104.04473).
- Logits live in chunks (see `pedigree.model.cross_entropy`), never whole.
- Not counted: workspaces, communication buffers, fragmentation (leave a tenth free).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from pedigree.family.mesh import Mesh
from pedigree.model.config import ModelConfig
from pedigree.model.config_parts import LatentAttention
from pedigree.model.sizes import parameters
from pedigree.training.config import TrainingConfig

Recompute = Literal["none", "selective", "full"]
CHUNK_BYTES = 512 * 2**20  # that of pedigree.model.cross_entropy, which needs torch; a test holds them together
NOT_COUNTED = ("workspaces of kernels", "communication buffers", "fragmentation")


@dataclass(frozen=True)
class Load:
    """Parameters on one device: matrices of layers, experts, and the rest (tables, head, norms, routers)."""

    inner: float = 0.0
    expert: float = 0.0
    outer: float = 0.0

    def __add__(self, other: Load) -> Load:
        return Load(self.inner + other.inner, self.expert + other.expert, self.outer + other.outer)


@dataclass(frozen=True)
class Memory:
    """Bytes on a device of the fullest stage."""

    stage: int
    parameters: int
    weights: int
    gradients: int
    optimizer: int
    gathered: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.gathered + self.activations + self.logits


def memory(model: ModelConfig, training: TrainingConfig, mesh: Mesh, recompute: Recompute) -> Memory:
    """Memory of the fullest stage of a mesh on which the step is possible; `mesh.micro` is filled in."""
    stages = [_stage(model, training, mesh, recompute, stage) for stage in range(mesh.pp)]
    return max(stages, key=lambda stage: stage.total)


def _stage(model: ModelConfig, training: TrainingConfig, mesh: Mesh, recompute: Recompute, stage: int) -> Memory:
    per_stage = (model.n_layers + mesh.noop) // mesh.pp
    layers = range(stage * per_stage, min(model.n_layers, (stage + 1) * per_stage))
    loads = [layer_load(model, layer, mesh) for layer in layers]
    first, last = stage == 0, stage == mesh.pp - 1
    load = _ends(model, mesh, first=first, last=last)
    for one in loads:
        load += one
    weight, gradient, moments = bytes_per_parameter(training, mesh)
    spread = [mesh.zero >= stage_of_zero for stage_of_zero in (3, 2, 1)]
    halved = 2 if training.optimizer.name == "muon" else 1  # one moment for inner matrices
    master = moments[0]
    optimizer = sum(
        _pieces(replace(Load(), **{part: getattr(load, part)}), mesh, spread[2]) * (master + moments[1] / share)
        for part, share in (("inner", halved), ("expert", halved), ("outer", 1))
    )
    tokens = (mesh.micro or 1) * training.sequence_length
    waiting = max(1, training.batch_sequences // (mesh.dp * (mesh.micro or 1)))
    held = [activation_bytes(model, layer, training, "none") for layer in layers]
    kept = [activation_bytes(model, layer, training, recompute) for layer in layers]
    extra = model.mtp.depth if last and model.mtp is not None else 0
    kept += [activation_bytes(model, model.n_layers, training, recompute)] * extra
    working = max(held, default=0.0) if recompute == "full" else 0.0
    in_flight = min(mesh.pp - stage, waiting) * (1 + (mesh.pp - 1) / (mesh.pp * mesh.vpp) if mesh.vpp > 1 else 1)
    activations = tokens / mesh.tp * (sum(kept) * in_flight + working)
    logits = _logits(model, training, tokens, mesh) if last else 0
    return Memory(
        stage=stage,
        parameters=math.ceil(load.inner + load.expert + load.outer),
        weights=math.ceil(_pieces(load, mesh, spread[0]) * weight),
        gradients=math.ceil(_pieces(load, mesh, spread[1]) * gradient),
        optimizer=math.ceil(optimizer),
        gathered=math.ceil(_gathered(loads, load, training, mesh)),
        activations=math.ceil(activations),
        logits=logits,
    )


def _logits(model: ModelConfig, training: TrainingConfig, tokens: int, mesh: Mesh) -> int:
    """Cross entropy by chunks: two chunks of logits, the gradient of the head in float32, that of the states."""
    width = 4 if training.precision == "fp32" else 2
    rows = math.ceil(model.vocab_size / mesh.tp)
    chunks = 2 * min(CHUNK_BYTES, 4 * tokens * rows)
    return chunks + 4 * rows * model.d_model + width * math.ceil(tokens / mesh.tp) * model.d_model


def whole_logits(model: ModelConfig, training: TrainingConfig, mesh: Mesh) -> int:
    """What the logits of one micro-batch and their gradient would take in float32 on a device, were they kept whole."""
    return 8 * (mesh.micro or 1) * training.sequence_length * math.ceil(model.vocab_size / mesh.tp)


def _pieces(load: Load, mesh: Mesh, spread: bool) -> float:
    """Parameters a device holds of its load, where states are spread over copies or not."""
    if not spread:
        return load.inner + load.outer + load.expert
    return (load.inner + load.outer) / mesh.dp + load.expert * mesh.ep / mesh.dp


def bytes_per_parameter(training: TrainingConfig, mesh: Mesh) -> tuple[int, int, tuple[int, int]]:
    """Bytes of a weight, of its gradient, of its master copy and of both its moments."""
    if training.pure:
        return 2, 2, (0, 4)
    if training.precision == "fp32" or mesh.zero == 3:
        return 4, 4, (0, 8)
    return 2, 4, (4, 8)


def layer_load(model: ModelConfig, layer: int, mesh: Mesh) -> Load:
    """Parameters of one layer on one device, before they are spread over copies."""
    p, tp = parameters(model), mesh.tp
    attention = p.attention / model.n_layers / tp
    if not isinstance(model.attention, LatentAttention):
        kv = model.attention.n_kv_heads
        copied = max(0.0, 1 - kv / tp)  # key heads that several devices hold
        attention += 2 * model.d_model * model.attention.head_dim * copied
    per_norm = model.d_model * (2 if model.norm.kind == "layer" else 1)
    norms = per_norm * (4 if model.norm.sandwich else 2)
    inner = attention + p.shortcuts / model.n_layers / tp
    if not model.is_sparse(layer):
        return Load(inner + p.feed_forward / (model.n_layers - model.n_sparse) / tp, 0.0, norms)
    experts, shared, router = (part / model.n_sparse for part in (p.experts, p.shared_experts, p.router))
    return Load(inner + shared / tp, experts / (tp * mesh.ep), norms + router)


def _ends(model: ModelConfig, mesh: Mesh, *, first: bool, last: bool) -> Load:
    """Tables on the first stage, head, final norm and multi-token layers on the last."""
    p, tp = parameters(model), mesh.tp
    load = Load(outer=p.embedding / tp + p.positions) if first else Load()
    if not last:
        return load
    copy = p.embedding if model.tied and not first else 0  # a tied head needs the table where it stands
    load += Load(outer=(p.head + copy) / tp + model.d_model)
    if model.mtp is None:
        return load
    one = layer_load(model, model.n_layers, mesh)
    joining = Load(inner=2 * model.d_model**2 / tp, outer=3 * model.d_model)
    for _ in range(model.mtp.depth):
        load += one + joining
    return load


def _gathered(loads: list[Load], load: Load, training: TrainingConfig, mesh: Mesh) -> float:
    """Whole copies of two layers in the working precision, where zero=3 holds the weights in pieces."""
    low = training.precision != "fp32"
    if mesh.zero < 3 or (training.pure and mesh.dp == 1):
        return 0.0
    dense = max([one.inner + one.outer for one in loads] + [load.outer / 2]) if low or mesh.dp > 1 else 0.0
    expert = max([one.expert for one in loads], default=0.0) if low or mesh.dp > mesh.ep else 0.0
    return 2 * (dense + expert) * (2 if low else 4)


def activation_bytes(model: ModelConfig, layer: int, training: TrainingConfig, recompute: Recompute) -> float:
    """Bytes that one token of one layer keeps for the backward pass, on one device without tensor parallelism."""
    d, a, e = model.d_model, model.attention, model.experts
    width = 4 if training.precision == "fp32" else 2
    if recompute == "full":
        return width * d
    sparse = model.is_sparse(layer)
    active = e.top_k * e.d_expert + e.d_shared if sparse and e is not None else model.feed_forward.d_inner
    if model.feed_forward.kind == "gelu":
        numbers = 8.0 * d + (1 if recompute == "selective" else 2) * active
        numbers += d * (2 if model.dropout else 0) / width  # masks of one byte
    else:
        numbers = d * (6 if model.norm.sandwich else 4) + (2 if recompute == "selective" else 3) * active
        if isinstance(a, LatentAttention):
            latents = 2 * (a.q_rank or 0) + 2 * a.kv_rank + a.rope_dim
            numbers += latents + 2 * a.n_heads * (a.qk_dim + a.v_dim)
        else:
            numbers += 2 * (a.n_heads + a.n_kv_heads) * a.head_dim
    if sparse and e is not None and e.router != "random":
        numbers += 2 * e.top_k * d
    if model.shortcut is not None:
        numbers += model.shortcut.count * (d + 2 * d // model.shortcut.reduction)
    if not sparse and model.feed_forward.series > 1:
        numbers += (model.feed_forward.series - 1) * model.feed_forward.d_inner
    return width * numbers
