"""Text out of a decoder, token by token, over a cache.

Temperature 0 takes the most likely token. Otherwise logits are divided by the temperature, cut to the `top_k` largest,
then to the smallest set whose probability reaches `top_p`, and one is drawn from a seeded generator. Rows that have met
a stop token repeat it.

Shapes: B = batch, T = tokens of the prompt, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pedigree.errors import UsageError
from pedigree.model.cache import Cache
from pedigree.model.decoder import Decoder


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn."""

    temperature: float = 0.0
    """0 takes the most likely token."""
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn from.

        Raises:
            UsageError: a number out of its range.
        """
        ranges = [
            ("temperature", self.temperature, self.temperature >= 0, "0 or more"),
            ("top_k", self.top_k, self.top_k is None or self.top_k > 0, "at least 1"),
            ("top_p", self.top_p, self.top_p is None or 0 < self.top_p <= 1, "above 0, at most 1"),
        ]
        for name, value, holds, expected in ranges:
            if not holds:
                raise UsageError("Cannot draw tokens like this", where=name, got=value, expected=expected)


def kept_logits(logits_BV: Tensor, sampling: Sampling) -> Tensor:
    """Logits after temperature, with everything outside top_k and top_p at minus infinity."""
    logits_BV = logits_BV.float() / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < logits_BV.shape[-1]:
        least_B1 = logits_BV.topk(sampling.top_k, dim=-1).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < least_B1, float("-inf"))
    if sampling.top_p is not None and sampling.top_p < 1:
        sorted_BV, places_BV = logits_BV.sort(dim=-1, descending=True)
        probability_BV = sorted_BV.softmax(-1)
        before_BV = probability_BV.cumsum(-1) - probability_BV  # the first token always stays
        cut_BV = torch.zeros_like(before_BV, dtype=torch.bool).scatter(-1, places_BV, before_BV >= sampling.top_p)
        logits_BV = logits_BV.masked_fill(cut_BV, float("-inf"))
    return logits_BV


def stream(
    model: Decoder,
    prompt_BT: Tensor,
    max_new_tokens: int,
    *,
    sampling: Sampling | None = None,
    stop: Collection[int] = (),
    domain: int | None = None,
) -> Iterator[Tensor]:
    """New tokens one step at a time, each [B]; ends early when every row has met a stop token.

    Args:
        model: the decoder; it is put into evaluation mode.
        prompt_BT: prompts of equal length, at least one token.
        max_new_tokens: steps at most.
        sampling: how to draw; None takes the most likely token.
        stop: ids that end a row.
        domain: id of the domain, for random routing.

    Raises:
        UsageError: an empty prompt, or more tokens than learned positions.
    """
    if prompt_BT.ndim != 2 or not prompt_BT.numel():
        raise UsageError("A prompt holds no tokens", got=tuple(prompt_BT.shape), expected="[batch, tokens]")
    total = prompt_BT.shape[1] + max_new_tokens
    if model.config.learned_positions and total - 1 > model.config.n_positions:
        raise UsageError(
            "The text would be longer than the table of positions",
            got=total,
            expected=f"at most {model.config.n_positions + 1} tokens",
            fix="shorten the prompt or max_new_tokens",
        )
    return _steps(model, prompt_BT, max_new_tokens, sampling or Sampling(), frozenset(stop), domain)


def _steps(
    model: Decoder, tokens_BT: Tensor, steps: int, sampling: Sampling, stop: frozenset[int], domain: int | None
) -> Iterator[Tensor]:
    model.eval()
    device = tokens_BT.device
    cache = Cache(tokens_BT.shape[1] + steps)
    generator = torch.Generator().manual_seed(sampling.seed)
    stops = torch.tensor(sorted(stop), dtype=tokens_BT.dtype, device=device)
    done_B = torch.zeros(tokens_BT.shape[0], dtype=torch.bool, device=device)
    last_B = tokens_BT[:, -1]
    for _ in range(steps):
        with torch.inference_mode():
            domains = None if domain is None else torch.full_like(tokens_BT, domain)
            logits_BV = _last_logits(model, tokens_BT, domains, cache)
            if sampling.temperature == 0:
                new_B = logits_BV.argmax(-1)
            else:
                chances = kept_logits(logits_BV, sampling).softmax(-1).cpu()
                new_B = torch.multinomial(chances, 1, generator=generator)[:, 0].to(device)
            new_B = torch.where(done_B, last_B, new_B)
            done_B = done_B | torch.isin(new_B, stops)
            last_B, tokens_BT = new_B, new_B[:, None]
        yield new_B.clone()
        if stop and bool(done_B.all()):
            return


def _last_logits(model: Decoder, tokens_BT: Tensor, domain_BT: Tensor | None, cache: Cache) -> Tensor:
    """Logits behind the last token only: those of a long prompt are never made."""
    hidden = model.states(tokens_BT, domain_BT=domain_BT, cache=cache)
    return torch.nn.functional.linear(hidden[:, -1], model.head_weight)


def generate(
    model: Decoder,
    prompt_BT: Tensor,
    max_new_tokens: int,
    *,
    sampling: Sampling | None = None,
    stop: Collection[int] = (),
    domain: int | None = None,
) -> Tensor:
    """Prompt and new tokens together, [B, T + new]; arguments as in `stream`.

    Raises:
        UsageError: as `stream`.
    """
    steps = stream(model, prompt_BT, max_new_tokens, sampling=sampling, stop=stop, domain=domain)
    return torch.cat([prompt_BT, *(new_B[:, None].to(prompt_BT.dtype) for new_B in steps)], dim=1)
