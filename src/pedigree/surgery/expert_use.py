"""How the experts of a mixture are used on a text: what is pruned, merged or kept first.

For every expert of a layer, over the tokens of the text, with the weights that the router gave:

    load   share of the choices
    gate   sum of its weights over the tokens
    norm   mean length of its answers to the tokens that chose it (MAN, 2606.15716)
    reap   mean of weight x length of answer over the tokens that chose it (2510.13999)

An expert that nobody chose has 0 everywhere. The source is run one layer at a time.

Shapes  B = sequences, T = tokens of one, N = B * T, E = experts, K = chosen experts, M = N * K, d = channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pedigree.errors import UsageError
from pedigree.weights.checkpoint import Checkpoint

if TYPE_CHECKING:
    from torch import Tensor

Score = Literal["load", "gate", "norm", "reap"]


@dataclass(frozen=True, eq=False)
class ExpertUse:
    """One layer: each score of every expert, float64 [E].

    `logits_NE` are the router's numbers of every token, None of a router without. `x_Nd` went into the mixture and
    `y_Nd` came out, float32; kept where they were asked for.
    """

    load: Tensor
    gate: Tensor
    norm: Tensor
    reap: Tensor
    logits_NE: Tensor | None
    x_Nd: Tensor | None = None
    y_Nd: Tensor | None = None

    def of(self, score: Score) -> Tensor:
        """One of the scores, float64 [E]."""
        found: Tensor = getattr(self, score)
        return found


def expert_use(checkpoint: Checkpoint, tokens_BT: Tensor, *, states: bool = False) -> dict[int, ExpertUse]:
    """Use of the experts of every layer that has some, by the number of the layer.

    Args:
        checkpoint: a mixture.
        tokens_BT: of the text.
        states: whether what goes into each mixture and comes out is kept.

    Raises:
        UsageError: our decoder does not run this model, or it has no experts.
    """
    from pedigree.model.mixture import Mixture
    from pedigree.surgery.streamed import StreamedModel

    model = StreamedModel(checkpoint)
    if model.config.experts is None:
        raise UsageError("the model has no experts", where=checkpoint.location, expected="a mixture of experts")
    limit = min(tokens_BT.shape[1], model.config.n_positions)
    found: dict[int, ExpertUse] = {}
    x_BTd, context = model.begin(tokens_BT[:, :limit])
    for layer in range(model.config.n_layers):
        block = model.layer(layer)
        if isinstance(block.ffn, Mixture):
            watch = _Watch(block.ffn)
            x_BTd = model.through(layer, x_BTd, context, block)
            found[layer] = watch.use(states=states)
        else:
            x_BTd = model.through(layer, x_BTd, context, block)
        del block
    return found


class _Watch:
    """Hooks on one mixture that keep what its router chose and how long the answers were."""

    def __init__(self, mixture: object) -> None:
        from pedigree.model.mixture import Mixture
        from pedigree.model.router import Choice

        if not isinstance(mixture, Mixture):
            raise TypeError(type(mixture).__name__)
        self._n = mixture.part.n_experts
        self._choice: Choice | None = None
        self._length_M: Tensor | None = None
        self._states: tuple[Tensor, Tensor] | None = None

        def chosen(_module: object, _inputs: object, choice: Choice) -> None:
            self._choice = choice

        def answered(_module: object, _inputs: object, answers_Md: Tensor) -> None:
            self._length_M = answers_Md.double().norm(dim=-1)

        def passed(_module: object, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, object]) -> None:
            self._states = inputs[0].flatten(0, 1), outputs[0].flatten(0, 1)

        mixture.register_forward_hook(passed)
        mixture.router.register_forward_hook(chosen)
        mixture.experts.register_forward_hook(answered)

    def use(self, *, states: bool) -> ExpertUse:
        """What was seen, with the states or without."""
        import torch

        choice, length_M = self._choice, self._length_M
        if choice is None or length_M is None:
            raise UsageError("the experts were not run")
        order_M = choice.experts_NK.flatten().argsort(stable=True)
        expert_M = choice.experts_NK.flatten()[order_M]
        weight_M = choice.weights_NK.double().flatten()[order_M]

        def summed(value_M: Tensor) -> Tensor:
            return torch.zeros(self._n, dtype=torch.float64).scatter_add_(0, expert_M, value_M)

        count = summed(torch.ones_like(weight_M))
        once = count.clamp(min=1)
        return ExpertUse(
            count / count.sum(), summed(weight_M), summed(length_M) / once, summed(weight_M * length_M) / once,
            None if choice.logits_NE is None else choice.logits_NE.double(),
            *(self._states if states and self._states is not None else (None, None)),
        )  # fmt: skip
