"""A model that learns in seconds, a tokenizer, corpora and settings for the tests of this room."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint as recompute

from pedigree.training.config import SourceConfig, TrainingConfig

VOCABULARY = 257
SENTENCE = "the cat sat on a mat and saw one dog run to its red house by the sea where it slept"
WORDS = SENTENCE.split()


def write_tokenizer(directory: Path) -> Path:
    """One token for each byte, and a separator."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<|end|>": 0, **{letter: i + 1 for i, letter in enumerate(letters)}}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["<|end|>"])
    path = directory / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def write_text(path: Path, n_lines: int = 400, seed: int = 0) -> Path:
    """Sentences that a small model can learn, one document a line."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(0, len(WORDS), (n_lines, 9), generator=generator).tolist()
    path.write_text("\n".join(" ".join(WORDS[i] for i in row) + "." for row in drawn) + "\n", encoding="utf-8")
    return path


def settings(directory: Path, **changes: Any) -> TrainingConfig:
    """A run of a few dozen steps on the sentences of `write_text`."""
    path = directory / "text.txt"
    if not path.exists():
        write_text(path)
    sources = (SourceConfig(kind="text", path=str(path), document="line", domain="en", held_out=0.05),)
    given = {"sources": sources, "sequence_length": 32, "batch_sequences": 4, "tokens": 32 * 4 * 30, **changes}
    return TrainingConfig(**given)


@dataclass(frozen=True)
class TinyConfig:
    """Shape of the tiny model."""

    vocab_size: int = VOCABULARY
    width: int = 32
    n_layers: int = 2


@dataclass
class TinyOutput:
    """What the loop reads."""

    loss: torch.Tensor
    cross_entropy: torch.Tensor
    aux: dict[str, torch.Tensor]
    logits: torch.Tensor | None = None
    routing: None = None


class TinyModel(nn.Module):
    """An embedding, gated blocks that look a few tokens back, a head."""

    def __init__(self, config: TinyConfig | None = None, seed: int = 0) -> None:
        super().__init__()
        self.config = config or TinyConfig()
        self.checkpointing = False
        width = self.config.width
        self.embed = nn.Embedding(self.config.vocab_size, width)
        self.layers = nn.ModuleList(TinyBlock(width) for _ in range(self.config.n_layers))
        self.norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, self.config.vocab_size, bias=False)
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=width**-0.5, generator=generator)

    def update_expert_biases(self, load_LE: torch.Tensor) -> None:
        raise AssertionError("there are no experts")

    def set_groups(self, groups: object) -> list[Any]:
        """No weight is cut, and every target counts on every rank."""
        return []

    def blocks(self) -> list[nn.Module]:
        return list(self.layers)

    def forward(
        self,
        tokens_BT: torch.Tensor,
        *,
        targets_BT: torch.Tensor | None = None,
        document_BT: torch.Tensor | None = None,
        domain_BT: torch.Tensor | None = None,
        return_logits: bool = False,
    ) -> TinyOutput:
        x_BTD = self.embed(tokens_BT)
        for block in self.layers:
            x_BTD = x_BTD + (recompute(block, x_BTD, use_reentrant=False) if self.checkpointing else block(x_BTD))
        logits_BTV = self.head(self.norm(x_BTD)).float()
        if targets_BT is None:
            zero = logits_BTV.new_zeros(())
            return TinyOutput(zero, zero, {}, logits_BTV)
        loss = functional.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten(), ignore_index=-100)
        return TinyOutput(loss, loss, {}, logits_BTV if return_logits else None)


class TinyBlock(nn.Module):
    """Mixes each token with its predecessor, then a gate."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width)
        self.now, self.before = nn.Linear(width, 2 * width, bias=False), nn.Linear(width, 2 * width, bias=False)
        self.down = nn.Linear(2 * width, width, bias=False)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        x_BTD = self.norm(x_BTD)
        before_BTD = functional.pad(x_BTD, (0, 0, 1, 0))[:, :-1]
        return self.down(functional.silu(self.now(x_BTD) + self.before(before_BTD)))
