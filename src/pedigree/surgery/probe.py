"""What a text costs a model: bits per byte, a number that does not depend on how the text is cut.

Method  The units of a text in their order, a separating control token between them where the tokenizer has one, in
        windows that share no token. The first token of a window is not predicted and its bytes do not count.

Shapes  B = windows at a time, T = tokens of a window, V = vocabulary
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pedigree.errors import InternalError

if TYPE_CHECKING:
    import torch

    from pedigree.model.decoder import Decoder
    from pedigree.tokenizers.encoder import Encoder
    from pedigree.tokenizers.texts import Text

MOST_TOKENS = 1 << 15
WINDOW, BATCH = 256, 4


def probe_tokens(encoder: Encoder, text: Text, most: int = MOST_TOKENS) -> npt.NDArray[np.int64]:
    """Token numbers of the first units of a text."""
    found: list[int] = []
    for unit in text.units:
        found += encoder.encode(unit)
        if len(found) >= most:
            break
    return np.array(found[:most], np.int64)


def bits_per_byte(model: Decoder, encoder: Encoder, text: Text) -> float:
    """Bits a byte of the text costs; NaN where the text is shorter than two tokens.

    Args:
        model: in evaluation mode.
        encoder: the tokenizer the model was made for.
        text: what is read.
    """
    import torch

    tokens = probe_tokens(encoder, text)
    sizes = np.array([len(encoder.surfaces[n] or b"") for n in range(encoder.size)], np.int64)
    nats, n_bytes = 0.0, 0
    for start in range(0, len(tokens), WINDOW * BATCH):
        part = tokens[start : start + WINDOW * BATCH]
        for row in (part[i : i + WINDOW] for i in range(0, len(part), WINDOW)):
            if len(row) < 2:
                continue
            with torch.no_grad():
                tokens_BT = torch.from_numpy(row)[None]
                logits_TV = _logits(model, tokens_BT)[0, :-1, : encoder.size]
            nats += float(torch.nn.functional.cross_entropy(logits_TV, tokens_BT[0, 1:], reduction="sum"))
            n_bytes += int(sizes[row[1:]].sum())
    return nats / math.log(2) / n_bytes if n_bytes else math.nan


def divergence(before: Decoder, after: Decoder, encoder: Encoder, text: Text) -> float:
    """KL(before || after), nats per token, of two models that cut text alike."""
    import torch

    tokens = probe_tokens(encoder, text, MOST_TOKENS // 8)
    total, count = 0.0, 0
    for row in (tokens[i : i + WINDOW] for i in range(0, len(tokens), WINDOW)):
        with torch.no_grad():
            tokens_BT = torch.from_numpy(row)[None]
            p, q = (_logits(model, tokens_BT)[0].log_softmax(-1) for model in (before, after))
        total += float((p.exp() * (p - q)).sum())
        count += len(row)
    return total / max(1, count)


def _logits(model: Decoder, tokens_BT: torch.Tensor) -> torch.Tensor:
    logits = model(tokens_BT, return_logits=True).logits
    if logits is None:
        raise InternalError("a model gave no logits")
    found: torch.Tensor = logits.float()
    return found
