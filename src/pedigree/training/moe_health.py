"""Does the mixture do anything: what the experts of a trained model are worth, in nats, and how they are used.

    learned routing           cross entropy as trained
    random experts            other experts, drawn anew for every token, with the learned weights
    permuted experts          a fixed permutation of the expert numbers in every layer
    same experts              the most used experts for every token
    knock-out                 the most used expert of one layer takes no tokens: its share goes to the least used

If none of the first three changes costs `NO_EFFECT` nats, the experts are interchangeable and the mixture is a dense
layer that costs more memory.

Law  the same model and documents give the same report.
Source  diagnostics and thresholds are engineering hints, not statistics; co-activation and saturation as in OLMoE
        (Muennighoff et al. 2024).
Shapes  L = sparse layers, N = tokens, E = experts, K = chosen experts, D = domains
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from pedigree.errors import UsageError
from pedigree.model.decoder import Decoder
from pedigree.model.mixture import Mixture
from pedigree.model.router import Choice
from pedigree.training.config import TrainingConfig
from pedigree.training.evaluation import HeldOut, bits_per_byte
from pedigree.training.shards import Vocabulary

NO_EFFECT, CLEAR_EFFECT = 0.01, 0.3  # nats per token
DEAD = 0.1  # an expert with less than this share of its fair load is dead

Change = Callable[[Mixture, Choice], Choice]


@dataclass(frozen=True)
class LayerHealth:
    """One sparse layer.

    Attributes:
        load: share of the choices that each expert got.
        peak: largest load over mean load; 1 is perfect balance.
        dead: experts with less than a tenth of their fair load.
        load_entropy: entropy of the load over its largest possible value.
        router_entropy: mean entropy of a token's probabilities over its largest possible value; near 1 the router
            is indifferent; None for a router without parameters.
        divergence: size of the experts' differences from their mean, relative to the mean; near 0 they are clones.
        domain_bits: information that the chosen expert gives about the domain, bits; None with one domain.
        together: the two experts chosen together most often beyond chance, and how many times chance; None with one
            choice for each token.
        knock_out: nats per token that are lost without the most used expert.
    """

    layer: int
    load: list[float]
    peak: float
    dead: int
    load_entropy: float
    router_entropy: float | None
    divergence: float
    domain_bits: float | None
    together: tuple[int, int, float] | None
    knock_out: float


@dataclass(frozen=True)
class MoeHealth:
    """What the experts of a model are worth and how they are used.

    Attributes:
        nats: cross entropy per token as trained.
        ablations: nats per token that each change of the routing costs.
        layers: the sparse layers, first to last.
        n_tokens: tokens measured on.
    """

    nats: float
    ablations: dict[str, float]
    layers: list[LayerHealth]
    n_tokens: int

    @property
    def effect(self) -> float:
        """The largest cost of a changed routing, nats per token."""
        return max(self.ablations.values())

    @property
    def sentence(self) -> str:
        """The answer with its numbers."""
        costs = ", ".join(f"{name} {cost:+.3f}" for name, cost in self.ablations.items())
        measured = f"nats per token lost by {costs}; {self.n_tokens:,} tokens"
        if self.effect < NO_EFFECT:
            return f"this MoE has no MoE effect: its experts are interchangeable ({measured}, below {NO_EFFECT})"
        if self.effect < CLEAR_EFFECT:
            return f"this MoE has a weak MoE effect ({measured}, between {NO_EFFECT} and {CLEAR_EFFECT})"
        return f"this MoE has an MoE effect ({measured}, above {CLEAR_EFFECT})"

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return {**asdict(self), "effect": self.effect, "sentence": self.sentence}


def moe_health(
    model: Decoder, texts: Sequence[HeldOut], config: TrainingConfig, vocabulary: Vocabulary, device: torch.device
) -> MoeHealth:
    """Examine a model on held-out text.

    Args:
        model: a decoder with experts.
        texts: documents by domain.
        config: length of the windows, precision.
        vocabulary: of the model.
        device: where the model lies.

    Raises:
        UsageError: the model has no experts, or there is no text.
    """
    mixtures = list(model.mixtures())
    if not mixtures or not texts:
        what = "the model has no experts" if not mixtures else "there is no held-out text to examine the experts on"
        raise UsageError(what, expected="a mixture of experts and at least one domain with held-out documents")
    was_training = model.training
    model.eval()

    def nats(change: Change | None = None, only: Mixture | None = None) -> tuple[float, int]:
        with _changed(mixtures if only is None else [only], change):
            scores = [bits_per_byte(model, text, config, vocabulary, device) for text in texts]
        n = sum(score.n_tokens for score in scores)
        return sum(score.nats_per_token * score.n_tokens for score in scores) / max(1, n), n

    seen = [_Watch(mixture, len(texts)) for mixture in mixtures]
    for number, text in enumerate(texts):
        for watch in seen:
            watch.domain = number
        with _watched(seen):
            bits_per_byte(model, text, config, vocabulary, device)
    base, n_tokens = nats()
    busiest = {id(watch.mixture): watch.load_DE.sum(0).argsort(descending=True) for watch in seen}
    changes: dict[str, Change] = {
        "random experts": _random(config.seed),
        "permuted experts": _permuted(config.seed),
        "same experts": lambda mixture, choice: _same(choice, busiest[id(mixture)]),
    }
    ablations = {name: nats(change)[0] - base for name, change in changes.items()}
    layers = []
    for number, watch in enumerate(seen):
        order = busiest[id(watch.mixture)]

        def without(_: Mixture, choice: Choice, order: Tensor = order) -> Choice:
            return _without(choice, order)

        layers.append(_layer(number, watch, nats(without, watch.mixture)[0] - base))
    model.train(was_training)
    return MoeHealth(base, ablations, layers, n_tokens)


# -- changed routing --------------------------------------------------------------------------------------------------


@contextmanager
def _changed(mixtures: Sequence[Mixture], change: Change | None) -> Iterator[None]:
    """Routers whose choices are changed before they are used."""
    handles = []
    for mixture in mixtures if change is not None else ():

        def hook(_module: Any, _given: Any, choice: Choice, mixture: Mixture = mixture) -> Choice:
            return choice if change is None else change(mixture, choice)

        handles.append(mixture.router.register_forward_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _random(seed: int) -> Change:
    def change(mixture: Mixture, choice: Choice) -> Choice:
        n, k = choice.experts_NK.shape
        generator = torch.Generator().manual_seed(seed)
        drawn_NK = torch.rand(n, mixture.part.n_experts, generator=generator).topk(k, dim=-1).indices
        return choice._replace(experts_NK=drawn_NK.to(choice.experts_NK.device))

    return change


def _permuted(seed: int) -> Change:
    def change(mixture: Mixture, choice: Choice) -> Choice:
        generator = torch.Generator().manual_seed(seed)
        order_E = torch.randperm(mixture.part.n_experts, generator=generator).to(choice.experts_NK.device)
        # Every expert moves: each takes the place of the one before it in a random circle.
        next_E = torch.empty_like(order_E).scatter_(0, order_E, order_E.roll(1))
        return choice._replace(experts_NK=next_E[choice.experts_NK])

    return change


def _same(choice: Choice, busiest_E: Tensor) -> Choice:
    experts_NK = busiest_E[: choice.experts_NK.shape[1]].expand_as(choice.experts_NK).contiguous()
    return choice._replace(experts_NK=experts_NK)


def _without(choice: Choice, busiest_E: Tensor) -> Choice:
    """The most used expert takes no token; the least used one that the token has not chosen takes its place."""
    experts_NK = choice.experts_NK
    spare_N = torch.full_like(experts_NK[:, 0], int(busiest_E[-1]))
    # A token has chosen at most K - 1 others: among K candidates one is free, and the last free one is the least used.
    for candidate in busiest_E[1:][-experts_NK.shape[1] :].tolist():
        free_N = ~(experts_NK == candidate).any(-1)
        spare_N = torch.where(free_N, torch.full_like(spare_N, candidate), spare_N)
    return choice._replace(experts_NK=torch.where(experts_NK == busiest_E[0], spare_N[:, None], experts_NK))


# -- what the routers did ---------------------------------------------------------------------------------------------


class _Watch:
    """Choices of one layer, summed: by domain, and pairs chosen together."""

    def __init__(self, mixture: Mixture, n_domains: int) -> None:
        n = mixture.part.n_experts
        self.mixture, self.domain = mixture, 0
        self.load_DE = torch.zeros(n_domains, n, dtype=torch.float64)
        self.pairs_EE = torch.zeros(n, n, dtype=torch.float64)
        self.entropy, self.n_tokens, self.learned = 0.0, 0, False

    def note(self, _module: Any, _given: Any, choice: Choice) -> None:
        """Take note of the choices of one pass."""
        n = self.mixture.part.n_experts
        chosen_NE = torch.zeros(len(choice.experts_NK), n, dtype=torch.float64)
        chosen_NE.scatter_(1, choice.experts_NK.cpu(), 1.0)
        self.load_DE[self.domain] += chosen_NE.sum(0)
        self.pairs_EE += chosen_NE.T @ chosen_NE
        self.n_tokens += len(chosen_NE)
        if choice.probability_NE is not None:
            self.learned = True
            self.entropy += float(torch.special.entr(choice.probability_NE.double()).sum())


@contextmanager
def _watched(watches: Sequence[_Watch]) -> Iterator[None]:
    handles = [watch.mixture.router.register_forward_hook(watch.note) for watch in watches]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _layer(number: int, watch: _Watch, knock_out: float) -> LayerHealth:
    n = watch.mixture.part.n_experts
    load_E = watch.load_DE.sum(0) / watch.load_DE.sum()
    return LayerHealth(
        layer=number,
        load=[round(share, 6) for share in load_E.tolist()],
        peak=float(load_E.max() * n),
        dead=int((load_E < DEAD / n).sum()),
        load_entropy=float(torch.special.entr(load_E).sum()) / math.log(n),
        router_entropy=watch.entropy / watch.n_tokens / math.log(n) if watch.learned else None,
        divergence=_divergence(watch.mixture),
        domain_bits=_information(watch.load_DE) if len(watch.load_DE) > 1 else None,
        together=_together(watch.pairs_EE, watch.n_tokens) if watch.mixture.part.top_k > 1 else None,
        knock_out=knock_out,
    )


def _divergence(mixture: Mixture) -> float:
    """Root mean square distance of the experts from their mean, relative to the size of the mean."""
    far, size = 0.0, 0.0
    for weight_Eoi in (mixture.experts.enter, mixture.experts.down):
        mean_oi = weight_Eoi.detach().double().mean(0)
        far += float((weight_Eoi.detach().double() - mean_oi).square().sum()) / len(weight_Eoi)
        size += float(mean_oi.square().sum())
    return math.sqrt(far / size) if size else math.inf


def _information(load_DE: Tensor) -> float:
    """Mutual information of domain and expert in bits, less what counts of this size show by chance (Miller 1955)."""
    total = load_DE.sum()
    joint_DE = load_DE / total
    independent_DE = joint_DE.sum(1, keepdim=True) * joint_DE.sum(0, keepdim=True)
    used_DE = joint_DE > 0
    nats = float((joint_DE[used_DE] * (joint_DE[used_DE] / independent_DE[used_DE]).log()).sum())
    chance = (load_DE.shape[0] - 1) * (load_DE.shape[1] - 1) / (2 * float(total))
    return max(0.0, nats - chance) / math.log(2)


def _together(pairs_EE: Tensor, n_tokens: int) -> tuple[int, int, float]:
    """The pair chosen together most often relative to independent choices, among pairs expected at least five times."""
    load_E = pairs_EE.diagonal()
    expected_EE = load_E[:, None] * load_E[None, :] / n_tokens
    lift_EE = torch.where(expected_EE >= 5, pairs_EE / expected_EE.clamp(min=1e-9), torch.zeros_like(expected_EE))
    lift_EE.fill_diagonal_(0)
    place = int(lift_EE.argmax())
    return place // len(load_E), place % len(load_E), float(lift_EE.flatten()[place])
