"""What every block needs beside the stream: positions, mask, ids; computed once a forward pass.

A document is a run of equal ids in `document_BT`. With documents given, attention stays inside a document and positions
restart with it, so that a packed row computes what its documents would compute alone (tested).

Shapes: B = batch, T = new tokens, S = all tokens, d = channels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from pedigree.errors import UsageError
from pedigree.model.cache import Cache, cached_mask
from pedigree.model.config import ModelConfig
from pedigree.model.config_parts import Homotopy
from pedigree.model.rope import Rotation, rotation

AT_REST = Homotopy()


@dataclass(frozen=True)
class Context:
    """Everything beside the stream. `mask` None means causal, or one new token that sees all."""

    positions_BT: Tensor
    turn: Rotation | None
    mask_B1TS: Tensor | None
    is_causal: bool
    tokens_BT: Tensor
    domain_BT: Tensor | None
    document_BT: Tensor | None = None
    homotopy: Homotopy = AT_REST
    queries_BTd: Tensor | None = None
    cache: Cache | None = None

    @property
    def sees_back_only(self) -> bool:
        """Whether each token sees itself and earlier ones of these tokens, all of them or those of its document."""
        return self.cache is None and (self.is_causal or self.document_BT is not None)

    @cached_property
    def bias_x1TS(self) -> Tensor:
        """The mask as what is added to scores, float32: one for all rows of the batch, or one each."""
        mask_B1TS = self.mask_B1TS
        if mask_B1TS is None:
            n = self.tokens_BT.shape[1]
            mask_B1TS = torch.ones(1, 1, n, n, dtype=torch.bool, device=self.tokens_BT.device).tril()
        return torch.zeros(mask_B1TS.shape, device=mask_B1TS.device).masked_fill_(~mask_B1TS, -torch.inf)

    def with_queries(self, queries_BTd: Tensor) -> Context:
        """The same with the position queries of a query layer."""
        return replace(self, queries_BTd=queries_BTd)


def runs_of(document_BT: Tensor) -> Tensor:
    """Number of the run of equal ids that each token stands in, from 0."""
    changes = document_BT[:, 1:] != document_BT[:, :-1]
    return torch.nn.functional.pad(changes.long().cumsum(1), (1, 0))


def restarting_positions(runs_BT: Tensor) -> Tensor:
    """Distance of each token from the start of its run."""
    places_T = torch.arange(runs_BT.shape[1], device=runs_BT.device)
    starts = torch.nn.functional.pad(runs_BT[:, 1:] != runs_BT[:, :-1], (1, 0), value=True)
    return places_T - torch.where(starts, places_T, 0).cummax(1).values


def build_context(
    config: ModelConfig,
    tokens_BT: Tensor,
    *,
    document_BT: Tensor | None,
    domain_BT: Tensor | None,
    cache: Cache | None,
    restart_positions: bool,
) -> Context:
    """Positions, rotation and mask for these tokens.

    Raises:
        UsageError: shapes differ, documents beside a cache, or more tokens than a learned table has positions.
    """
    for name, ids in (("document_BT", document_BT), ("domain_BT", domain_BT)):
        if ids is not None and ids.shape != tokens_BT.shape:
            raise UsageError(
                "Ids and tokens differ in shape", where=name, got=tuple(ids.shape), expected=tuple(tokens_BT.shape)
            )
    if document_BT is not None and cache is not None:
        raise UsageError("A cache holds one document", got="document_BT", expected="None", fix="drop document_BT")
    n_new, device = tokens_BT.shape[1], tokens_BT.device
    start = cache.length if cache is not None else 0
    if config.learned_positions and start + n_new > config.n_positions:
        raise UsageError(
            "The sequence is longer than the table of positions",
            got=start + n_new,
            expected=f"at most {config.n_positions} tokens",
            fix="cut the sequence, or train a longer table",
        )
    mask, causal = None, True
    positions_BT = torch.arange(start, start + n_new, device=device)[None]
    if document_BT is not None:
        runs_BT = runs_of(document_BT)
        ahead_TT = torch.ones(n_new, n_new, dtype=torch.bool, device=device).tril()
        mask = (runs_BT[:, :, None] == runs_BT[:, None, :]).logical_and_(ahead_TT)[:, None]
        causal = False
        positions_BT = restarting_positions(runs_BT) if restart_positions else positions_BT
    elif start:
        mask, causal = cached_mask(n_new, start + n_new, device), False
    elif n_new == 1:
        causal = False
    turn = rotation(config, positions_BT)
    homotopy = config.homotopy or AT_REST
    return Context(positions_BT, turn, mask, causal, tokens_BT, domain_BT, document_BT, homotopy, cache=cache)
