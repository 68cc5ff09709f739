"""One FFN becomes many.

Law     full copies with a router whose weights are normalised over the chosen experts are exact, whatever the router.
        Granular experts (each a slice of a shuffled FFN, with noise) are not.
Source  sparse upcycling (2212.05055), Qwen1.5-MoE and Qwen2-57B-A14B reports, 2410.07524.

Shapes  N = units of the dense FFN, M = units of an expert, D = residual channels
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pedigree.benchmark.zoo.derive_gauge import seeded
from pedigree.benchmark.zoo.layout import layer_prefix
from pedigree.benchmark.zoo.snapshot import Snapshot

if TYPE_CHECKING:
    import torch

_MIXTRAL_NAMES = {"gate": "w1", "up": "w3", "down": "w2"}


def _without_ffn(snapshot: Snapshot) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in snapshot.tensors.items() if ".mlp." not in name}


def _config(snapshot: Snapshot, **changes: object) -> dict[str, object]:
    dropped = ("attention_bias", "mlp_bias", "pretraining_tp")
    return {**{k: v for k, v in snapshot.config.items() if k not in dropped}, **changes}


def _pool(
    snapshot: Snapshot, layer: int, n_experts: int, width: int, noise: float, generator: torch.Generator
) -> list[dict[str, torch.Tensor]]:
    """Experts cut from as many shuffled replicas of the FFN as are needed; noise in units of each matrix' deviation."""
    import torch

    prefix = layer_prefix(snapshot, layer) + "mlp."
    gate, up, down = (snapshot.tensors[f"{prefix}{name}_proj.weight"] for name in ("gate", "up", "down"))
    n_units = gate.shape[0]
    n_replicas = -(-n_experts * width // n_units)
    order = torch.cat([torch.randperm(n_units, generator=generator) for _ in range(n_replicas)])
    experts = []
    for expert in range(n_experts):
        units_M = order[expert * width : (expert + 1) * width]
        cut = {"gate": gate[units_M], "up": up[units_M], "down": down[:, units_M]}
        experts.append(
            {k: w + noise * w.std() * torch.randn(w.shape, generator=generator) for k, w in cut.items()},
        )
    return experts


def upcycle(snapshot: Snapshot, *, n_experts: int, top_k: int, seed: int) -> Snapshot:
    """Mixtral from Llama: every expert a full copy of the FFN, a random router. Exact."""
    import torch

    generator = seeded(seed)
    tensors = _without_ffn(snapshot)
    for layer in range(snapshot.n_layers):
        source = layer_prefix(snapshot, layer) + "mlp."
        target = layer_prefix(snapshot, layer) + "block_sparse_moe."
        for expert in range(n_experts):
            for role, name in _MIXTRAL_NAMES.items():
                tensors[f"{target}experts.{expert}.{name}.weight"] = snapshot.tensors[f"{source}{role}_proj.weight"]
        router = torch.randn(n_experts, snapshot.d_model, generator=generator) * 0.02
        tensors[f"{target}gate.weight"] = router
    config = _config(
        snapshot,
        model_type="mixtral",
        architectures=["MixtralForCausalLM"],
        num_local_experts=n_experts,
        num_experts_per_tok=top_k,
        output_router_logits=False,
        sliding_window=None,
    )
    return Snapshot(config=config, tensors=tensors, tokenizer=snapshot.tokenizer)


def upcycle_granular_mixtral(
    snapshot: Snapshot, *, n_experts: int, width: int, top_k: int, noise: float, seed: int
) -> Snapshot:
    """Mixtral with narrow experts: slices of shuffled replicas plus noise; down scaled by N/width. Not exact."""
    import torch

    generator = seeded(seed)
    tensors = _without_ffn(snapshot)
    scale = int(snapshot.config["intermediate_size"]) / width
    for layer in range(snapshot.n_layers):
        target = layer_prefix(snapshot, layer) + "block_sparse_moe."
        for expert, cut in enumerate(_pool(snapshot, layer, n_experts, width, noise, generator)):
            for role, name in _MIXTRAL_NAMES.items():
                factor = scale if role == "down" else 1.0
                tensors[f"{target}experts.{expert}.{name}.weight"] = cut[role] * factor
        tensors[f"{target}gate.weight"] = torch.randn(n_experts, snapshot.d_model, generator=generator) * 0.02
    config = _config(
        snapshot,
        model_type="mixtral",
        architectures=["MixtralForCausalLM"],
        intermediate_size=width,
        num_local_experts=n_experts,
        num_experts_per_tok=top_k,
        output_router_logits=False,
        sliding_window=None,
    )
    return Snapshot(config=config, tensors=tensors, tokenizer=snapshot.tokenizer)


def upcycle_granular_qwen(
    snapshot: Snapshot, *, n_experts: int, width: int, top_k: int, noise: float, seed: int
) -> Snapshot:
    """Qwen2-MoE: routed slices of shuffled replicas plus noise, and a shared expert cut the same way. Not exact.

    The shared expert passes a gate that starts at one half, so its down matrix is doubled; zero biases are added to
    query, key and value as the class wants them.
    """
    import torch

    generator = seeded(seed)
    tensors = _without_ffn(snapshot)
    for layer in range(snapshot.n_layers):
        prefix = layer_prefix(snapshot, layer)
        *routed, shared = _pool(snapshot, layer, n_experts + 1, width, noise, generator)
        for expert, cut in enumerate(routed):
            for role, weight in cut.items():
                tensors[f"{prefix}mlp.experts.{expert}.{role}_proj.weight"] = weight
        for role, weight in shared.items():
            factor = 2.0 if role == "down" else 1.0
            tensors[f"{prefix}mlp.shared_expert.{role}_proj.weight"] = weight * factor
        tensors[f"{prefix}mlp.shared_expert_gate.weight"] = torch.zeros(1, snapshot.d_model)
        tensors[f"{prefix}mlp.gate.weight"] = torch.randn(n_experts, snapshot.d_model, generator=generator) * 0.02
        for name in ("q_proj", "k_proj", "v_proj"):
            rows = snapshot.tensors[f"{prefix}self_attn.{name}.weight"].shape[0]
            tensors[f"{prefix}self_attn.{name}.bias"] = torch.zeros(rows)
    config = _config(
        snapshot,
        model_type="qwen2_moe",
        architectures=["Qwen2MoeForCausalLM"],
        num_experts=n_experts,
        num_experts_per_tok=top_k,
        moe_intermediate_size=width,
        shared_expert_intermediate_size=width,
        norm_topk_prob=True,
        decoder_sparse_step=1,
        mlp_only_layers=[],
        output_router_logits=False,
        use_sliding_window=False,
        layer_types=None,
    )
    return Snapshot(config=config, tensors=tensors, tokenizer=snapshot.tokenizer)


def permute_experts(snapshot: Snapshot, *, seed: int) -> Snapshot:
    """Permute the experts of every layer with their router rows, and the units inside each expert. Exact."""
    import torch

    generator = seeded(seed)
    moved: dict[str, torch.Tensor] = {}
    for layer in range(snapshot.n_layers):
        prefix = layer_prefix(snapshot, layer)
        branch = prefix + ("block_sparse_moe." if snapshot.config["model_type"] == "mixtral" else "mlp.")
        router = snapshot.tensors.get(f"{branch}gate.weight")
        if router is None:
            continue  # a dense layer among sparse ones
        order_X = torch.randperm(router.shape[0], generator=generator)
        for name in ("gate.weight", "gate.e_score_correction_bias"):
            if branch + name in snapshot.tensors:
                moved[branch + name] = snapshot.tensors[branch + name][order_X]
        plain = {role: f"{role}_proj" for role in _MIXTRAL_NAMES}
        names = _MIXTRAL_NAMES if "mixtral" in snapshot.config["model_type"] else plain
        for target, source in enumerate(order_X.tolist()):
            old, new = f"{branch}experts.{source}.", f"{branch}experts.{target}."
            n_units = snapshot.tensors[f"{old}{names['gate']}.weight"].shape[0]
            units_M = torch.randperm(n_units, generator=generator)
            for role, name in names.items():
                weight = snapshot.tensors[f"{old}{name}.weight"]
                moved[f"{new}{name}.weight"] = weight[:, units_M] if role == "down" else weight[units_M]
    return snapshot.changed(moved)
