"""Speaker: a decoder, its tokenizer and its chat template as one thing that answers.

Here the two rooms meet that do not know each other: `model` draws token numbers, `tokenizers` turns text into numbers
and back. Nothing in this file knows of HTTP or of a terminal.

Modes
chat    the model has a chat template: it renders the conversation, control tokens end the answer
plain   it has none: the conversation is one text, and the model goes on writing it
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from pedigree.errors import MalformedFile, MissingInput, UsageError
from pedigree.model.decoder import Decoder
from pedigree.model.generation import Sampling, stream
from pedigree.model.hf_checkpoint import import_checkpoint
from pedigree.records.artifact import name_of_folder
from pedigree.tokenizers.chat_template import MAX_CONFIG_BYTES, ChatTemplate, Message, read_chat_template, role_tokens
from pedigree.tokenizers.encoder import Encoder
from pedigree.tokenizers.incremental import IncrementalText
from pedigree.tokenizers.reading import open_encoder, read_capped
from pedigree.tokenizers.tokenizer_json import parse_json
from pedigree.training.device import find_device
from pedigree.training.shards import SEPARATORS

FinishReason = Literal["stop", "length", "interrupted"]


@dataclass(frozen=True)
class Manner:
    """How one answer is drawn: sampling, most tokens, and strings that end it."""

    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int = 256
    stop: tuple[str, ...] = ()


class Generation:
    """One answer in the making: iterate over it for its pieces, one for each token, some of them empty.

    Attributes:
        prompt_tokens, completion_tokens: tokens read and drawn; an end token counts as drawn.
        finish_reason: stop (an end token or stop string), length, or interrupted, until the end is reached.
        seconds: spent so far.
    """

    def __init__(self, speaker: Speaker, prompt: Sequence[int], manner: Manner) -> None:
        self.prompt_tokens, self.completion_tokens, self.seconds = len(prompt), 0, 0.0
        self.finish_reason: FinishReason = "interrupted"
        self._speaker, self._manner = speaker, manner
        prompt_BT = torch.tensor([list(prompt)], dtype=torch.long, device=speaker.device)
        self._steps = stream(
            speaker.model, prompt_BT, manner.max_tokens, sampling=manner.sampling, stop=speaker.ends,
            domain=speaker.domain,
        )  # fmt: skip

    def __iter__(self) -> Iterator[str]:
        """The pieces of the text; the last one is what was held back."""
        text = IncrementalText(self._speaker.encoder, self._manner.stop)
        reason: FinishReason = "length"
        start = time.perf_counter()
        for new_B in self._steps:
            number = int(new_B[0])
            self.completion_tokens += 1
            piece = "" if number in self._speaker.ends else text.push(number)
            self.seconds = time.perf_counter() - start
            yield piece
            if text.stopped or number in self._speaker.ends:
                reason = "stop"
                break
        yield text.finish()
        self.finish_reason = reason

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens drawn in a second, reading the prompt included; None before the first."""
        return self.completion_tokens / self.seconds if self.seconds > 0 else None


@dataclass(frozen=True, eq=False)
class Speaker:
    """A model that answers.

    Attributes:
        name: what it is called.
        model: the decoder, in evaluation mode.
        encoder: its tokenizer.
        template: its chat template, None for plain continuation.
        ends: numbers of tokens that end an answer.
        start: number of the token that opens a text, None where the tokenizer has none.
        domain: domain of every token, where routing asks for one.
    """

    name: str
    model: Decoder
    encoder: Encoder
    template: ChatTemplate | None
    ends: frozenset[int]
    start: int | None
    domain: int | None = None

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.model.embed.weight.device

    @property
    def context_tokens(self) -> int:
        """Most tokens of prompt and answer together."""
        return self.model.config.n_positions

    def continued(self, text: str) -> list[int]:
        """The prompt that has the model go on with a text.

        Raises:
            UsageError: there is no text, and no token that opens one.
        """
        numbers = ([] if self.start is None else [self.start]) + (self.encoder.encode(text) if text else [])
        if not numbers:
            raise UsageError("there is nothing to continue", got="an empty prompt", fix="say something")
        return numbers

    def conversation(self, messages: Sequence[Message]) -> list[int]:
        """The prompt that has the model answer the last of the messages.

        Raises:
            UsageError: no messages, or the template refuses them.
            UnsafeFile, MalformedFile: as `ChatTemplate.prompt`.
        """
        if not messages:
            raise UsageError("a conversation has no messages", expected="at least one")
        if self.template is None:
            return self.continued(_one_text(messages))
        return self.template.prompt(messages)

    def answer(self, prompt: Sequence[int], manner: Manner) -> Generation:
        """Begin to answer.

        Raises:
            UsageError: prompt and answer do not fit into the context.
        """
        if len(prompt) + manner.max_tokens > self.context_tokens:
            raise UsageError(
                "prompt and answer are longer than the context of the model",
                where="max_tokens",
                got=f"{len(prompt):,} + {manner.max_tokens:,} tokens",
                expected=f"at most {self.context_tokens:,}",
                fix="a shorter prompt, or fewer tokens to answer with",
            )
        return Generation(self, prompt, manner)

    def close(self) -> None:
        """End what runs beside it."""
        if self.template is not None:
            self.template.close()


def open_speaker(folder: Path, *, name: str | None = None, device: str | None = None, domain: int = 0) -> Speaker:
    """The model in a directory, ready to answer.

    Args:
        folder: config.json, weights, tokenizer.json; tokenizer_config.json or chat_template.jinja where there is one.
        name: what to call it; by default as the directory, or as the step whose directory `model` it is.
        device: where to compute; by default an accelerator if there is one.
        domain: domain of every token, for models with random routing.

    Raises:
        MissingInput: no such directory, or a file is missing.
        MalformedFile: a file contradicts its format, or the tokenizer does not fit the model.
        UsageError: a model that is not built here, or no such device.
    """
    if not folder.is_dir():
        raise MissingInput("no such directory", where=str(folder), expected="a model with config.json and tokenizer")
    encoder = open_encoder(folder)
    model = import_checkpoint(folder, device=find_device(device))
    if encoder.size > model.config.vocab_size:
        raise MalformedFile(
            "the tokenizer has tokens that the model does not know",
            where=str(folder),
            got=f"{encoder.size:,} tokens",
            expected=f"at most {model.config.vocab_size:,}",
        )
    roles = role_tokens(folder)
    experts = model.config.experts
    return Speaker(
        name or name_of_folder(folder.resolve()),
        model,
        encoder,
        read_chat_template(folder, encoder),
        _ends(folder, encoder, roles),
        _start(encoder, roles),
        domain if experts is not None and experts.router == "random" else None,
    )


def _one_text(messages: Sequence[Message]) -> str:
    """A conversation as one text: an answer follows what it continues, every other message begins a line."""
    text = ""
    for message in messages:
        text += ("\n" if text and message.role != "assistant" else "") + message.content
    return text


def _controls(encoder: Encoder) -> dict[str, int]:
    return {str(encoder.spellings[number]): number for number in sorted(encoder.specials)}


def _ends(folder: Path, encoder: Encoder, roles: dict[str, str]) -> frozenset[int]:
    """End tokens that the files declare; where they declare none, the usual names."""
    found: set[int] = set()
    for file in (folder / "config.json", folder / "generation_config.json"):
        if file.is_file():
            declared = parse_json(read_capped(file, MAX_CONFIG_BYTES), str(file)).get("eos_token_id")
            found |= {n for n in (declared if isinstance(declared, list) else [declared]) if type(n) is int}
    controls = _controls(encoder)
    if roles.get("eos_token") in controls:
        found.add(controls[roles["eos_token"]])
    return frozenset(found or [controls[name] for name in SEPARATORS[:5] if name in controls][:1])


def _start(encoder: Encoder, roles: dict[str, str]) -> int | None:
    """The token that opens a text: the one declared, or else the one that training puts before each document."""
    controls = _controls(encoder)
    names = (roles.get("bos_token"), *SEPARATORS)
    return next((controls[name] for name in names if name in controls), None)
