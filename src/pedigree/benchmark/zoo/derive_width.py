"""Wider and narrower: FFN units, residual channels, biases.

Law     add-nothing law. A residual stream padded by zeros keeps its function when the gains shrink by sqrt(d/D) and
        the epsilon by d/D, since the mean square is then taken over more channels.
Source  Net2Net (1511.05641), HyperCloning (2409.12903), SliceGPT (2401.15024), Minitron (2407.14679).

Shapes  N = old FFN units, M = new ones, D = old residual channels, K = new ones
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pedigree.benchmark.zoo.derive_gauge import fold_gains, seeded
from pedigree.benchmark.zoo.layout import layer_prefix, layout_of, residual_axis
from pedigree.benchmark.zoo.snapshot import Snapshot
from pedigree.errors import UsageError

if TYPE_CHECKING:
    import torch


def _glu(snapshot: Snapshot, layer: int) -> tuple[str, torch.Tensor, torch.Tensor, torch.Tensor]:
    prefix = layer_prefix(snapshot, layer) + "mlp."
    gate, up, down = (snapshot.tensors[f"{prefix}{name}_proj.weight"] for name in ("gate", "up", "down"))
    return prefix, gate, up, down


def widen_inner_with_zeros(snapshot: Snapshot, *, n_inner: int, seed: int) -> Snapshot:
    """Random new gate and up rows, zero new down columns. Exact."""
    import torch

    generator = seeded(seed)
    moved: dict[str, torch.Tensor] = {}
    for layer in range(snapshot.n_layers):
        prefix, gate, up, down = _glu(snapshot, layer)
        n_new = n_inner - gate.shape[0]
        for name, old in (("gate_proj.weight", gate), ("up_proj.weight", up)):
            fresh = torch.randn(n_new, old.shape[1], generator=generator) * old.std()
            moved[prefix + name] = torch.cat([old, fresh])
        moved[prefix + "down_proj.weight"] = torch.cat([down, torch.zeros(down.shape[0], n_new)], dim=1)
    return snapshot.changed(moved, {"intermediate_size": n_inner})


def widen_inner_with_copies(snapshot: Snapshot, *, n_inner: int, seed: int) -> Snapshot:
    """Copies of randomly drawn units; copy and original share the down column as 0.7 and 0.3. Exact."""
    import torch

    generator = seeded(seed)
    moved: dict[str, torch.Tensor] = {}
    for layer in range(snapshot.n_layers):
        prefix, gate, up, down = _glu(snapshot, layer)
        n_old = gate.shape[0]
        if n_inner > 2 * n_old:
            raise UsageError("units can be doubled at most", got=n_inner, expected=f"at most {2 * n_old}")
        source_M = torch.randperm(n_old, generator=generator)[: n_inner - n_old]
        kept = down.clone()
        kept[:, source_M] *= 0.3
        moved[prefix + "gate_proj.weight"] = torch.cat([gate, gate[source_M]])
        moved[prefix + "up_proj.weight"] = torch.cat([up, up[source_M]])
        moved[prefix + "down_proj.weight"] = torch.cat([kept, 0.7 * down[:, source_M]], dim=1)
    return snapshot.changed(moved, {"intermediate_size": n_inner})


def prune_inner(snapshot: Snapshot, *, n_inner: int) -> Snapshot:
    """Keep the units with the largest product of the three norms, in their old order. Not exact."""

    moved: dict[str, torch.Tensor] = {}
    for layer in range(snapshot.n_layers):
        prefix, gate, up, down = _glu(snapshot, layer)
        score_N = gate.norm(dim=1) * up.norm(dim=1) * down.norm(dim=0)
        kept_M = score_N.topk(n_inner).indices.sort().values
        moved[prefix + "gate_proj.weight"] = gate[kept_M]
        moved[prefix + "up_proj.weight"] = up[kept_M]
        moved[prefix + "down_proj.weight"] = down[:, kept_M]
    return snapshot.changed(moved, {"intermediate_size": n_inner})


def widen_residual(snapshot: Snapshot, *, d_model: int, seed: int) -> Snapshot:
    """Zero writer rows, random reader columns, gains and epsilon corrected. Exact; heads keep number and width."""
    import torch

    generator = seeded(seed)
    d_old = snapshot.d_model
    moved: dict[str, torch.Tensor] = {}
    for name, tensor in snapshot.tensors.items():
        place = residual_axis(name)
        if place is None:
            continue
        axis, part = place
        shape = list(tensor.shape)
        shape[axis] = d_model - d_old
        if part == "gain":
            scaled = tensor * (d_old / d_model) ** 0.5
            moved[name] = torch.cat([scaled, scaled.mean().expand(shape[0])])
        elif part == "reader":
            fresh = torch.randn(shape, generator=generator) * tensor.std()
            moved[name] = torch.cat([tensor, fresh], dim=axis)
        else:
            moved[name] = torch.cat([tensor, torch.zeros(shape)], dim=axis)
    n_heads = int(snapshot.config["num_attention_heads"])
    head_dim = int(snapshot.config.get("head_dim") or d_old // n_heads)
    eps = float(snapshot.config["rms_norm_eps"]) * d_old / d_model
    return snapshot.changed(moved, {"hidden_size": d_model, "head_dim": head_dim, "rms_norm_eps": eps})


def prune_residual(snapshot: Snapshot, *, d_model: int) -> Snapshot:
    """Turn the stream into the principal axes of what is written to it and keep the first `d_model`. Not exact.

    The second moment is taken over embedding rows and writer columns, each tensor with trace one: weights only,
    no data.
    """
    import torch

    snapshot = fold_gains(snapshot)
    d_old = snapshot.d_model
    moment_DD = torch.zeros(d_old, d_old, dtype=torch.float64)
    for name, tensor in snapshot.tensors.items():
        place = residual_axis(name)
        if place is not None and place[1] in ("writer", "table"):
            rows = (tensor.T if place[0] == 0 else tensor).double()
            gram_DD = rows.T @ rows
            moment_DD += gram_DD / gram_DD.trace()
    values_D, axes_DD = torch.linalg.eigh(moment_DD)
    axes_DK = axes_DD.flip(1)[:, :d_model]
    share = float(values_D.flip(0)[:d_model].sum() / values_D.sum())
    moved: dict[str, torch.Tensor] = {}
    for name, tensor in snapshot.tensors.items():
        place = residual_axis(name)
        if place is None:
            continue
        wide = tensor.double()
        if place[1] == "gain":
            moved[name] = torch.full((d_model,), (share * d_old / d_model) ** 0.5)
        else:
            moved[name] = (wide @ axes_DK if place[0] == 1 else axes_DK.T @ wide).float()
    head_dim = int(snapshot.config.get("head_dim") or d_old // int(snapshot.config["num_attention_heads"]))
    return snapshot.changed(moved, {"hidden_size": d_model, "head_dim": head_dim})


def add_biases(snapshot: Snapshot) -> Snapshot:
    """Llama to Qwen2: zero biases on query, key and value. Exact."""
    import torch

    moved: dict[str, torch.Tensor] = {}
    for layer in range(snapshot.n_layers):
        prefix = layer_prefix(snapshot, layer) + "self_attn."
        for name in ("q_proj", "k_proj", "v_proj"):
            moved[f"{prefix}{name}.bias"] = torch.zeros(snapshot.tensors[f"{prefix}{name}.weight"].shape[0])
    config = {k: v for k, v in snapshot.config.items() if k not in ("attention_bias", "mlp_bias", "pretraining_tp")}
    changed = Snapshot(config=config, tensors=snapshot.tensors, tokenizer=snapshot.tokenizer)
    return changed.changed(
        moved,
        {
            "model_type": "qwen2",
            "architectures": ["Qwen2ForCausalLM"],
            "use_sliding_window": False,
            "layer_types": None,
        },
    )


def drop_units(snapshot: Snapshot, *, n_inner: int, seed: int) -> Snapshot:
    """Keep randomly drawn FFN units, in random order; for every architecture with a dense FFN. Not exact."""
    import torch

    layout = layout_of(snapshot)
    generator = seeded(seed)
    moved: dict[str, torch.Tensor] = {}
    for layer in range(snapshot.n_layers):
        prefix = layer_prefix(snapshot, layer)
        first, axis = layout.units[0]
        kept_M = torch.randperm(snapshot.tensors[prefix + first].shape[axis], generator=generator)[:n_inner]
        for name, unit_axis in layout.units:
            moved[prefix + name] = snapshot.tensors[prefix + name].index_select(unit_axis, kept_M)
    return snapshot.changed(moved, {layout.inner_key: n_inner})
