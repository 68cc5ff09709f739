"""The decoder: one class for every member of the family.

    tokens -> embedding (+ learned positions) -> blocks -> norm -> head           multi-token layers beside the head

Laws
1. The same config and seed give the same numbers, on any device, whole or sharded.
2. Token t sees tokens up to t of its own document, and nothing else.
3. `loss` = `cross_entropy` + everything in `aux`, which is already weighted.
4. Building under `torch.device("meta")` allocates nothing; `to_empty` and `reset_parameters` finish it.

Shapes: B = batch, T = tokens, N = B * T, V = vocabulary, d = channels, L = sparse layers, E = experts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from pedigree.errors import UsageError
from pedigree.model import init
from pedigree.model.balance import LayerRouting, Routing, moved_bias
from pedigree.model.block import Block
from pedigree.model.cache import Cache
from pedigree.model.config import ModelConfig
from pedigree.model.context import Context, build_context
from pedigree.model.cross_entropy import count_targets, cross_entropy
from pedigree.model.cuts import Cut, cut
from pedigree.model.groups import ALONE, Groups
from pedigree.model.linear import Linear
from pedigree.model.mixture import Mixture
from pedigree.model.multi_token import MultiTokenLayer, tokens_and_targets
from pedigree.model.norm import build_norm, mixed
from pedigree.model.router import LearnedRouter


@dataclass(frozen=True)
class ModelOutput:
    """What a forward pass gives."""

    loss: Tensor | None = None
    """cross_entropy + sum of aux; None without targets."""
    cross_entropy: Tensor | None = None
    """Mean over the targets that are not -100, nats; 0 where there are none. With other processes in `Groups.data` each
    sum is divided by the mean count of all, so that the mean over processes is the mean over all targets."""
    n_targets: Tensor | None = None
    """Targets that counted (float32 scalar): weigh means of several batches with it."""
    aux: dict[str, Tensor] = field(default_factory=dict)
    """Weighted further losses: `balance`, `z`, `mtp`, where the config has them."""
    logits: Tensor | None = None
    """[B, T, V], when asked for."""
    hidden: Tensor | None = None
    """Normalized states, [B, T, d], when logits are asked for."""
    routing: Routing | None = None
    """Statistics of the sparse layers, multi-token layers behind the main ones."""
    cache: Cache | None = None


class Decoder(nn.Module):
    """A language model as its config describes it.

    Args:
        config: the description.
        seed: start of all weights; nothing is drawn on the meta device.
        restart_positions: whether positions restart with each document of a packed row.
    """

    def __init__(self, config: ModelConfig, *, seed: int = 0, restart_positions: bool = True) -> None:
        super().__init__()
        self.config, self.restart_positions = config, restart_positions
        self.groups: Groups = ALONE
        self.checkpointing = False
        """Recompute each block on the way back instead of keeping what it computed."""
        d = config.d_model
        self.embed = nn.Embedding(config.vocab_size, d, _weight=torch.empty(config.vocab_size, d))
        self.positions = _table(config) if config.learned_positions else None
        self.query_positions = _table(config) if config.query_layer != "none" else None
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        self.norm = build_norm(config, final=True)
        self.head = None if config.tied else Linear(d, config.vocab_size, bias=False)
        depth = 0 if config.mtp is None else config.mtp.depth
        self.mtp = nn.ModuleList(MultiTokenLayer(config, k) for k in range(depth))
        if self.embed.weight.device.type != "meta":
            self.reset_parameters(seed)

    def reset_parameters(self, seed: int) -> None:
        """Draw all weights anew, each from (seed, name); see `pedigree.model.init`."""
        init.reset_parameters(self, self.config, seed)

    # -- forward ------------------------------------------------------------------------------------------------------

    def forward(
        self,
        tokens_BT: Tensor,
        *,
        targets_BT: Tensor | None = None,
        document_BT: Tensor | None = None,
        domain_BT: Tensor | None = None,
        cache: Cache | None = None,
        return_logits: bool = False,
    ) -> ModelOutput:
        """Losses, logits, or both.

        Args:
            tokens_BT: token ids.
            targets_BT: the next token of each place, or -100 where none counts.
            document_BT: ids of documents packed into a row; attention stays inside a run of equal ids.
            domain_BT: ids of domains, for random routing.
            cache: what earlier calls computed; this call's tokens follow.
            return_logits: whether to compute logits (they are not needed for the loss).

        Raises:
            UsageError: shapes that do not fit, or a sequence longer than a learned table.
        """
        if targets_BT is not None and targets_BT.shape != tokens_BT.shape:
            raise UsageError("Targets and tokens differ", got=tuple(targets_BT.shape), expected=tuple(tokens_BT.shape))
        context = self._context(tokens_BT, document_BT, domain_BT, cache)
        x_BTd, records = self._states(tokens_BT, context)
        logits = functional.linear(x_BTd, self.head_weight) if return_logits else None
        hidden = x_BTd if return_logits else None
        if targets_BT is None:
            return ModelOutput(logits=logits, hidden=hidden, routing=_joined(records, tokens_BT), cache=cache)
        main = cross_entropy(x_BTd.flatten(0, 1), self.head_weight, targets_BT.flatten(), self.groups.data)
        aux: dict[str, Tensor] = {}
        if self.config.mtp is not None:
            aux["mtp"] = self._further_losses(x_BTd, targets_BT, context, records) * self.config.mtp.weight
        if self.config.experts is not None and records:
            balance = self.config.experts.balance
            if balance.scope != "none":
                aux["balance"] = torch.stack([r.balance_loss for r in records]).sum()
            if balance.z_coefficient:
                aux["z"] = torch.stack([r.z_loss for r in records]).sum()
        loss = main + torch.stack([*aux.values()]).sum() if aux else main
        routing = _joined(records, tokens_BT)
        return ModelOutput(loss, main, count_targets(targets_BT), aux, logits, hidden, routing, cache)

    def states(self, tokens_BT: Tensor, *, domain_BT: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """Normalized states, [B, T, d]: what the head turns into logits."""
        return self._states(tokens_BT, self._context(tokens_BT, None, domain_BT, cache))[0]

    def _context(
        self, tokens_BT: Tensor, document_BT: Tensor | None, domain_BT: Tensor | None, cache: Cache | None
    ) -> Context:
        return build_context(
            self.config,
            tokens_BT,
            document_BT=document_BT,
            domain_BT=domain_BT,
            cache=cache,
            restart_positions=self.restart_positions,
        )

    def _states(self, tokens_BT: Tensor, context: Context) -> tuple[Tensor, list[LayerRouting]]:
        """Normalized states behind the last block."""
        x_BTd = self.embed(tokens_BT)
        if self.positions is not None:
            x_BTd = torch.add(x_BTd, self.positions(context.positions_BT), alpha=context.homotopy.positions)
        if self.query_positions is not None:
            queries = self.query_positions(context.positions_BT).expand(tokens_BT.shape[0], -1, -1)
            context = context.with_queries(queries)
        if self.config.dropout and self.training:
            x_BTd = functional.dropout(x_BTd, self.config.dropout)
        records: list[LayerRouting] = []
        # 1 where the final norm stands before the last layer, 0 where it stands behind it.
        early = context.homotopy.queries if self.config.query_layer == "after-norm" else 0.0
        for layer, block in enumerate(self.layers):
            if early and layer == len(self.layers) - 1:
                x_BTd = mixed(x_BTd, self.norm, early)
            x_BTd = self._through(block, x_BTd, context, records)
        if context.cache is not None:
            context.cache.advance(tokens_BT.shape[1])
        return mixed(x_BTd, self.norm, 1 - early), records

    def _through(self, block: nn.Module, x_BTd: Tensor, context: Context, records: list[LayerRouting]) -> Tensor:
        routing: LayerRouting | None
        if self.checkpointing and self.training:
            x_BTd, routing = checkpoint(block, x_BTd, context, use_reentrant=False)
        else:
            x_BTd, routing = block(x_BTd, context)
        if routing is not None:
            records.append(routing)
        return x_BTd

    def _further_losses(
        self, x_BTd: Tensor, targets_BT: Tensor, context: Context, records: list[LayerRouting]
    ) -> Tensor:
        """Mean cross-entropy of the multi-token layers."""
        losses = []
        for depth, layer in enumerate(self.mtp):
            tokens_BT, aims_BT = tokens_and_targets(targets_BT, context.document_BT, depth)
            embedded = self.embed(tokens_BT)
            if self.checkpointing and self.training:
                x_BTd, routing = checkpoint(layer, embedded, x_BTd, context, use_reentrant=False)
            else:
                x_BTd, routing = layer(embedded, x_BTd, context)
            if routing is not None:
                records.append(routing)
            losses.append(cross_entropy(x_BTd.flatten(0, 1), self.head_weight, aims_BT.flatten(), self.groups.data))
        return torch.stack(losses).mean()

    # -- what others hold on to ---------------------------------------------------------------------------------------

    @property
    def head_weight(self) -> Tensor:
        """The output projection, [V, d]: the embedding table where the head is tied."""
        return self.embed.weight if self.head is None else self.head.weight

    def blocks(self) -> Iterator[Block]:
        """Every block, multi-token ones last: the units to shard, compile or recompute."""
        for module in self.modules():
            if isinstance(module, Block):
                yield module

    def mixtures(self) -> Iterator[Mixture]:
        """Every mixture of experts, in the order of `ModelOutput.routing`."""
        for block in self.blocks():
            if isinstance(block.ffn, Mixture):
                yield block.ffn

    def set_groups(self, groups: Groups) -> list[Cut]:
        """Name the processes that share the work; the weights to be cut over them, which the caller has to cut."""
        self.groups = groups
        return list(cut(self, groups))

    @torch.no_grad()
    def update_expert_biases(self, load_LE: Tensor) -> None:
        """Move the selection biases once, after an optimizer step; those of frozen routers stay.

        Args:
            load_LE: choices of each expert since the last call, summed over batches and processes
                (`ModelOutput.routing.load_LE`).
        """
        e = self.config.experts
        if e is None or not e.balance.bias_rate:
            return
        for mixture, load_E in zip(self.mixtures(), load_LE, strict=True):
            router = mixture.router
            if isinstance(router, LearnedRouter) and router.expert_bias is not None and router.weight.requires_grad:
                router.expert_bias.copy_(moved_bias(router.expert_bias, load_E, e.balance.bias_rate))


def _table(config: ModelConfig) -> nn.Embedding:
    weight = torch.empty(config.n_positions, config.d_model)
    return nn.Embedding(config.n_positions, config.d_model, _weight=weight)


def _joined(records: list[LayerRouting], tokens_BT: Tensor) -> Routing | None:
    if not records:
        return None
    return Routing(
        torch.stack([r.load_E for r in records]),
        torch.stack([r.probability_E for r in records]),
        torch.stack([r.entropy for r in records]),
        tokens_BT.numel(),
    )
