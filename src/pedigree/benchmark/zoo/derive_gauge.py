"""Moves of the gauge group: they change every number and no output.

Law     reader/writer law: a space may be re-based by M when its writers are multiplied by M and its readers by the
        inverse, and what lies between commutes with M.
Source  SliceGPT (2401.15024) for the residual rotation, Zhu et al. (2502.12292, appendix G) for units and heads.

For Llama-like models (pre-norm RMSNorm, rotary positions in the half-split layout, gated FFN); `permute_units`
for every architecture of the zoo.

Shapes  D = residual channels, N = FFN units, G = KV groups, Q = queries per group, E = head channels, P = E/2 planes
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pedigree.benchmark.zoo.layout import layer_prefix, layout_of, residual_axis
from pedigree.benchmark.zoo.snapshot import Snapshot

if TYPE_CHECKING:
    import torch


def seeded(seed: int) -> torch.Generator:
    """A generator on the CPU."""
    import torch

    return torch.Generator().manual_seed(seed)


def untie(snapshot: Snapshot) -> Snapshot:
    """Give the head its own copy of a tied embedding. Exact."""
    if "lm_head.weight" in snapshot.tensors:
        return snapshot
    head = snapshot.tensors["model.embed_tokens.weight"].clone()
    return snapshot.changed({"lm_head.weight": head}, {"tie_word_embeddings": False})


def permute_residual(snapshot: Snapshot, *, seed: int) -> Snapshot:
    """Permute the residual channels and flip the signs of half of them. Exact under RMSNorm, tied or not."""
    import torch

    generator = seeded(seed)
    order_D = torch.randperm(snapshot.d_model, generator=generator)
    sign_D = torch.randint(0, 2, (snapshot.d_model,), generator=generator) * 2.0 - 1.0
    moved: dict[str, torch.Tensor] = {}
    for name, tensor in snapshot.tensors.items():
        place = residual_axis(name)
        if place is None:
            continue
        axis, part = place
        taken = tensor.index_select(axis, order_D)
        if part != "gain":
            taken = taken * (sign_D if axis == 1 else sign_D[:, None])
        moved[name] = taken
    return snapshot.changed(moved)


def permute_units(snapshot: Snapshot, *, seed: int) -> Snapshot:
    """Permute the units of every dense FFN. Exact for every architecture."""
    import torch

    layout = layout_of(snapshot)
    generator = seeded(seed)
    moved: dict[str, torch.Tensor] = {}
    for layer in range(snapshot.n_layers):
        prefix = layer_prefix(snapshot, layer)
        first, axis = layout.units[0]
        order_N = torch.randperm(snapshot.tensors[prefix + first].shape[axis], generator=generator)
        for name, unit_axis in layout.units:
            moved[prefix + name] = snapshot.tensors[prefix + name].index_select(unit_axis, order_N)
    return snapshot.changed(moved)


def rescale_units(snapshot: Snapshot, *, seed: int) -> Snapshot:
    """Multiply every `up` row by c and its `down` column by 1/c, c of either sign and size 1/4 to 4. Exact."""
    import torch

    generator = seeded(seed)
    moved: dict[str, torch.Tensor] = {}
    for layer in range(snapshot.n_layers):
        prefix = layer_prefix(snapshot, layer) + "mlp."
        up, down = snapshot.tensors[prefix + "up_proj.weight"], snapshot.tensors[prefix + "down_proj.weight"]
        size_N = torch.exp2(torch.rand(up.shape[0], generator=generator) * 4.0 - 2.0)
        scale_N = size_N * (torch.randint(0, 2, (up.shape[0],), generator=generator) * 2.0 - 1.0)
        moved[prefix + "up_proj.weight"] = up * scale_N[:, None]
        moved[prefix + "down_proj.weight"] = down / scale_N
    return snapshot.changed(moved)


def _heads(snapshot: Snapshot) -> tuple[int, int, int]:
    """(KV groups, queries per group, head width)."""
    n_heads = int(snapshot.config["num_attention_heads"])
    n_groups = int(snapshot.config["num_key_value_heads"])
    width = int(snapshot.config.get("head_dim") or snapshot.d_model // n_heads)
    return n_groups, n_heads // n_groups, width


def permute_heads(snapshot: Snapshot, *, seed: int) -> Snapshot:
    """Permute the KV groups and the query heads inside each group. Exact."""
    import torch

    n_groups, n_queries, width = _heads(snapshot)
    generator = seeded(seed)
    moved: dict[str, torch.Tensor] = {}
    for layer in range(snapshot.n_layers):
        prefix = layer_prefix(snapshot, layer) + "self_attn."
        group_G = torch.randperm(n_groups, generator=generator)
        query_GQ = torch.stack([torch.randperm(n_queries, generator=generator) for _ in range(n_groups)])
        head_H = (group_G[:, None] * n_queries + query_GQ).flatten()
        query_rows = (head_H[:, None] * width + torch.arange(width)).flatten()
        key_rows = (group_G[:, None] * width + torch.arange(width)).flatten()
        for name, axis, rows in (
            ("q_proj.weight", 0, query_rows),
            ("q_proj.bias", 0, query_rows),
            ("k_proj.weight", 0, key_rows),
            ("k_proj.bias", 0, key_rows),
            ("v_proj.weight", 0, key_rows),
            ("v_proj.bias", 0, key_rows),
            ("o_proj.weight", 1, query_rows),
        ):
            if prefix + name in snapshot.tensors:
                moved[prefix + name] = snapshot.tensors[prefix + name].index_select(axis, rows)
    return snapshot.changed(moved)


def rescale_attention(snapshot: Snapshot, *, seed: int) -> Snapshot:
    """Turn and scale every rotary plane of query and key, re-base value and output by any invertible matrix. Exact.

    Query planes are multiplied by a complex number c, key planes by 1/conj(c), values by A, outputs by A^-1; one c
    per plane and one A per KV group.
    """
    import torch

    n_groups, n_queries, width = _heads(snapshot)
    n_planes = width // 2
    generator = seeded(seed)
    moved: dict[str, torch.Tensor] = {}

    def turned(w_RD: torch.Tensor, factor_GP: torch.Tensor, n_heads: int) -> torch.Tensor:
        planes_GHXPD = w_RD.reshape(n_groups, n_heads, 2, n_planes, -1)
        z_GHPD = torch.complex(planes_GHXPD[:, :, 0], planes_GHXPD[:, :, 1]) * factor_GP[:, None, :, None]
        return torch.stack([z_GHPD.real, z_GHPD.imag], dim=2).reshape(w_RD.shape)

    for layer in range(snapshot.n_layers):
        prefix = layer_prefix(snapshot, layer) + "self_attn."
        angle_GP = torch.rand(n_groups, n_planes, generator=generator) * 2 * torch.pi
        size_GP = torch.exp2(torch.rand(n_groups, n_planes, generator=generator) * 2.0 - 1.0)
        factor_GP = torch.polar(size_GP, angle_GP)
        q_proj, k_proj = snapshot.tensors[prefix + "q_proj.weight"], snapshot.tensors[prefix + "k_proj.weight"]
        moved[prefix + "q_proj.weight"] = turned(q_proj, factor_GP, n_queries)
        moved[prefix + "k_proj.weight"] = turned(k_proj, 1.0 / factor_GP.conj(), 1)
        basis_GEE = torch.eye(width) + 0.5 * torch.randn(n_groups, width, width, generator=generator) / width**0.5
        inverse_GEE = torch.linalg.inv(basis_GEE.double()).float()
        v_GED = snapshot.tensors[prefix + "v_proj.weight"].reshape(n_groups, width, -1)
        o_DGQE = snapshot.tensors[prefix + "o_proj.weight"].reshape(-1, n_groups, n_queries, width)
        moved[prefix + "v_proj.weight"] = (basis_GEE @ v_GED).reshape(n_groups * width, -1)
        moved[prefix + "o_proj.weight"] = torch.einsum("dgqe,gef->dgqf", o_DGQE, inverse_GEE).flatten(1)
    return snapshot.changed(moved)


# gain -> the readers behind it, within a block
_FOLDED = {
    "input_layernorm.weight": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "post_attention_layernorm.weight": ("mlp.gate_proj", "mlp.up_proj"),
}


def fold_gains(snapshot: Snapshot) -> Snapshot:
    """Move every norm gain into the matrices that read behind it; the gains become one. Exact for dense Llama."""
    import torch

    snapshot = untie(snapshot)
    moved: dict[str, torch.Tensor] = {}
    for layer in range(snapshot.n_layers):
        prefix = layer_prefix(snapshot, layer)
        for gain_name, readers in _FOLDED.items():
            gain_D = snapshot.tensors[prefix + gain_name]
            moved[prefix + gain_name] = torch.ones_like(gain_D)
            for reader in readers:
                moved[f"{prefix}{reader}.weight"] = snapshot.tensors[f"{prefix}{reader}.weight"] * gain_D
    final_D = snapshot.tensors["model.norm.weight"]
    moved["model.norm.weight"] = torch.ones_like(final_D)
    moved["lm_head.weight"] = snapshot.tensors["lm_head.weight"] * final_D
    return snapshot.changed(moved)


def scatter_gains(snapshot: Snapshot, *, seed: int) -> Snapshot:
    """The inverse of folding: random gains from 1/2 to 2, divided out of the readers. Exact for dense Llama."""
    import torch

    generator = seeded(seed)
    moved: dict[str, torch.Tensor] = {}
    for layer in range(snapshot.n_layers):
        prefix = layer_prefix(snapshot, layer)
        for gain_name, readers in _FOLDED.items():
            scale_D = torch.exp2(torch.rand(snapshot.d_model, generator=generator) * 2.0 - 1.0)
            moved[prefix + gain_name] = snapshot.tensors[prefix + gain_name] * scale_D
            for reader in readers:
                moved[f"{prefix}{reader}.weight"] = snapshot.tensors[f"{prefix}{reader}.weight"] / scale_D
    return snapshot.changed(moved)


def random_rotation(width: int, generator: torch.Generator) -> torch.Tensor:
    """A Haar-random orthogonal matrix, [width, width]."""
    import torch

    q, r = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))
    turn: torch.Tensor = q * torch.sign(torch.diagonal(r))
    return turn


def rotate_residual(snapshot: Snapshot, *, seed: int) -> Snapshot:
    """Turn the residual stream by a random orthogonal matrix after folding the gains and untying. Exact for Llama."""

    snapshot = fold_gains(snapshot)
    turn_DD = random_rotation(snapshot.d_model, seeded(seed))
    moved: dict[str, torch.Tensor] = {}
    for name, tensor in snapshot.tensors.items():
        place = residual_axis(name)
        if place is None or place[1] == "gain":
            continue
        wide = tensor.double()
        moved[name] = (wide @ turn_DD if place[0] == 1 else turn_DD.T @ wide).float()
    return snapshot.changed(moved)
