"""The learning rate as a share of its peak, a function of the tokens seen.

Source  cosine: Loshchilov and Hutter 2017; wsd (warm-up, stable, decay): Hu et al. 2024, MiniCPM, with a linear fall.
"""

from __future__ import annotations

import math

from pedigree.training.config import TrainingConfig


def rate_share(config: TrainingConfig, tokens_seen: int) -> float:
    """Share of the peak rate in the step that brings the count of tokens to `tokens_seen`."""
    schedule, total = config.schedule, config.steps * config.tokens_per_step
    if tokens_seen < schedule.warmup_tokens:
        return tokens_seen / schedule.warmup_tokens
    if schedule.name == "constant":
        return 1.0
    if schedule.name == "wsd":
        decay = schedule.decay_tokens or total // 5
        left = (total - tokens_seen) / max(1, decay)
        return 1.0 if left >= 1 else schedule.floor + (1 - schedule.floor) * max(0.0, left)
    done = (tokens_seen - schedule.warmup_tokens) / max(1, total - schedule.warmup_tokens)
    return schedule.floor + (1 - schedule.floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
