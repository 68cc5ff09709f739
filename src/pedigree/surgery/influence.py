"""How much each layer changes the states of a text: what is dropped first when a model loses depth.

Block influence of layer i is 1 - mean over tokens of cos(x_i, x_{i+1}), x_i the states in front of it (ShortGPT,
2403.03853). Of n neighbors together it is 1 - mean cos(x_i, x_{i+n}) (2403.17887, which takes the angle instead; both
have the same order).

Shapes  B = sequences, T = tokens of one, d = channels.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pedigree.errors import UsageError
from pedigree.weights.checkpoint import Checkpoint

if TYPE_CHECKING:
    from torch import Tensor

LENGTH = 256
MAX_TEXT_BYTES = 64 << 20


def tokens_of(checkpoint: Checkpoint, text: Path, count: int) -> Tensor:
    """The first tokens of a text by the tokenizer beside the weights, int64 [B, T].

    Raises:
        UsageError: the text gives fewer than two tokens.
        MissingInput: no text, or no tokenizer beside the weights.
    """
    import torch

    from pedigree.tokenizers.reading import open_encoder, read_capped

    content = read_capped(text, MAX_TEXT_BYTES).decode("utf-8", "replace")
    numbers = open_encoder(checkpoint.location).encode(content)[:count]
    if len(numbers) < 2:
        raise UsageError("the text gives too few tokens", where=str(text), got=len(numbers), expected="2 or more")
    length = min(LENGTH, len(numbers))
    whole = len(numbers) // length * length
    return torch.tensor(numbers[:whole]).reshape(-1, length)


def influences(checkpoint: Checkpoint, tokens_BT: Tensor, span: int = 1) -> list[float]:
    """Influence of every `span` neighboring layers, by the first of them; one layer's weights are held at a time."""
    from torch.nn import functional

    from pedigree.surgery.streamed import StreamedModel

    model = StreamedModel(checkpoint)
    limit = min(tokens_BT.shape[1], model.config.n_positions)
    waiting: list[Tensor] = []
    found = []
    for x_BTd in model.states(tokens_BT[:, :limit]):
        waiting.append(x_BTd)
        if len(waiting) > span:
            found.append(1.0 - float(functional.cosine_similarity(waiting.pop(0), x_BTd, dim=-1).double().mean()))
    return found


def least(scores: list[float], count: int) -> list[int]:
    """The layers with the smallest scores, in order; of equal ones the later."""
    order = sorted(range(len(scores)), key=lambda layer: (scores[layer], -layer))
    return sorted(order[:count])
