"""What the training room needs of a model: any module with these methods can be trained.

Shapes  B = sequences, T = tokens, V = vocabulary, L = sparse layers, E = experts
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from torch import Tensor, nn

from pedigree.model.cuts import Cut
from pedigree.model.groups import Groups


class Output(Protocol):
    """What a forward pass gives: the loss to minimize, the cross entropy in nats per token, the logits if asked."""

    @property
    def loss(self) -> Tensor:
        """What is minimized: cross entropy and auxiliary losses."""
        ...

    @property
    def cross_entropy(self) -> Tensor:
        """Nats per predicted token."""
        ...

    @property
    def routing(self) -> Any:
        """Statistics of sparse layers with their `load_LE`; None for a dense model."""
        ...

    @property
    def logits(self) -> Tensor | None:
        """[B, T, V], where they were asked for."""
        ...


class Trainable(Protocol):
    """A decoder as the loop sees it; `pedigree.model.decoder.Decoder` is one."""

    def __call__(
        self,
        tokens_BT: Tensor,
        *,
        targets_BT: Tensor | None = None,
        document_BT: Tensor | None = None,
        domain_BT: Tensor | None = None,
        return_logits: bool = False,
    ) -> Any:
        """Forward pass; the result is an `Output`. Targets of -100 are not counted."""
        ...

    checkpointing: bool
    """Whether blocks recompute their activations on the way back."""

    def update_expert_biases(self, load_LE: Tensor) -> None:
        """Move the selection biases of routers that have them, once after an optimizer step."""
        ...

    def set_groups(self, groups: Groups) -> Iterable[Cut]:
        """Name the processes that share a forward pass; the weights of which each of them is to hold a part."""
        ...

    def blocks(self) -> Iterable[nn.Module]:
        """The layers, first to last."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and weights."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Weights and buffers by name, not copied."""
        ...

    def train(self, mode: bool = True) -> Any:
        """Switch to training or evaluation."""
        ...
