"""Whether a model can be trained on a mesh: what `pedigree.model.cuts` and the sharding of `parallel` must divide.

    world = dp_shard x tp;  ep lies inside dp_shard;  a rank holds n_experts / (ep tp) whole experts of a layer

Needs no torch, so that a plan can ask it.
"""

from __future__ import annotations

from pedigree.errors import PedigreeError, UsageError
from pedigree.model.config import ModelConfig
from pedigree.model.config_parts import GroupedAttention, LatentAttention
from pedigree.training.config import MeshConfig


def spread_problems(model: ModelConfig, mesh: MeshConfig, data: int, where: str = "mesh") -> list[PedigreeError]:
    """Everything that keeps a model from being trained on a mesh.

    Args:
        model: the decoder.
        mesh: sizes of its axes.
        data: ranks on the data axis; 0 where that is still open.
        where: key path of the mesh.
    """
    found: list[PedigreeError] = []
    for what, number, axis, by in _divisions(model, mesh, data):
        if by and number % by:
            fits = " or ".join(map(str, _near_divisors(number, by)))
            both = what == "experts" and mesh.tp > 1
            found.append(
                UsageError(
                    f"{what} cannot be shared out evenly", where=f"{where}.{axis}", got=f"{number} by {by}",
                    expected=f"a divisor of {number}", fix=f"{'ep x tp' if both else axis}: {fits}",
                )
            )  # fmt: skip
    attention, experts = model.attention, model.experts
    if isinstance(attention, GroupedAttention) and attention.n_kv_heads % mesh.tp and mesh.tp % attention.n_kv_heads:
        found.append(
            UsageError(
                "key heads are neither shared out nor copied", where=f"{where}.tp",
                got=f"{attention.n_kv_heads} key heads by tp {mesh.tp}", expected="one divides the other",
                fix=f"tp: {attention.n_kv_heads}",
            )
        )  # fmt: skip
    if experts is None and mesh.ep > 1:
        found.append(
            UsageError("this model has no experts", where=f"{where}.ep", got=mesh.ep, expected="1", fix="ep: 1")
        )
    if experts is not None and experts.router == "grouped" and experts.n_groups % mesh.ep:
        fits = " or ".join(map(str, _near_divisors(experts.n_groups, mesh.ep)))
        found.append(
            UsageError(
                "ranks would hold parts of groups of experts, and their loads would no longer be equal",
                where=f"{where}.ep", got=f"{experts.n_groups} groups by ep {mesh.ep}",
                expected=f"a divisor of {experts.n_groups}", fix=f"ep: {fits}",
            )
        )  # fmt: skip
    return found


def _divisions(model: ModelConfig, mesh: MeshConfig, data: int) -> list[tuple[str, int, str, int]]:
    """What must be shared out: name, number, axis, by how many."""
    attention, experts, tp, ep = model.attention, model.experts, mesh.tp, mesh.ep
    rows = [("heads", attention.n_heads, "tp", tp)]
    if model.n_sparse < model.n_layers:
        rows.append(("feed-forward units", model.feed_forward.d_inner, "tp", tp))
    # A cut matrix is sharded along its other axis, which has to be dealt evenly.
    by = data if tp > 1 else 1
    rows.append(("channels", model.d_model, "dp_shard", by))
    if isinstance(attention, LatentAttention):
        rows.append(("channels of the key latent", attention.kv_rank, "dp_shard", by))
        rows.append(("channels of the query latent", attention.q_rank or 0, "dp_shard", by))
    if experts is None:
        return rows
    rows.append(("units of the shared expert", experts.d_shared, "tp", tp))
    rows.append(("experts", experts.n_experts, "ep", ep * tp))
    rows.append(("data ranks", data, "ep", ep))
    each = data // ep if ep * tp > 1 else 1
    rows.append(("channels", model.d_model, "dp_shard", each if tp == 1 else 1))
    if model.feed_forward.bias:
        rows.append(("units of an expert", experts.d_expert, "dp_shard", each))
    return rows


def _near_divisors(number: int, size: int) -> list[int]:
    """The divisors of a number that lie nearest to a size, at most two."""
    divisors = [by for by in range(1, min(number, 4096) + 1) if number % by == 0]
    return sorted(sorted(divisors, key=lambda by: abs(by - size))[:2])
