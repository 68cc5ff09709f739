"""`pedigree chat DIR`: talk to a model in the terminal, or ask it once from a script."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from pedigree.cli.errors import COULD_NOT_RUN, DONE, error_text, say
from pedigree.cli.options import COMPUTE, INPUT, JsonOption, QuietOption
from pedigree.cli.output import Output
from pedigree.cli.speaking import DeviceOption, DomainOption, ModelArgument, open_model
from pedigree.cli.version import producer
from pedigree.errors import UsageError

if TYPE_CHECKING:
    from pedigree.model.generation import Sampling
    from pedigree.records.answer import Answer
    from pedigree.tokenizers.chat_template import Message
    from pedigree.web.speaker import Generation, Manner, Speaker

LEAVE, FORGET = "/exit", "/reset"

SystemOption = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT", help="A message that stands before the conversation.", envvar="PEDIGREE_SYSTEM",
        rich_help_panel=INPUT, show_default=False,
    ),
]  # fmt: skip
PromptOption = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT", help="Answer this once, and exit.", envvar="PEDIGREE_PROMPT", rich_help_panel=INPUT,
        show_default=False,
    ),
]  # fmt: skip
TemperatureOption = Annotated[
    float,
    typer.Option(
        metavar="T", min=0.0, help="0 takes the likeliest token.", envvar="PEDIGREE_TEMPERATURE",
        rich_help_panel=COMPUTE,
    ),
]  # fmt: skip
TopKOption = Annotated[
    int | None,
    typer.Option(
        metavar="K", min=1, help="Draw from the K likeliest tokens.", envvar="PEDIGREE_TOP_K",
        rich_help_panel=COMPUTE, show_default=False,
    ),
]  # fmt: skip
TopPOption = Annotated[
    float,
    typer.Option(
        metavar="P", help="Draw from the likeliest tokens that have this share together.", envvar="PEDIGREE_TOP_P",
        rich_help_panel=COMPUTE,
    ),
]  # fmt: skip
MOST_TOKENS = 256  # of an answer, where nothing else is asked for and the context has room for them
TokensOption = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=1, help=f"Most tokens of an answer; by default {MOST_TOKENS}, or what there is room for.",
        envvar="PEDIGREE_MAX_TOKENS", rich_help_panel=COMPUTE, show_default=False,
    ),
]  # fmt: skip
SeedOption = Annotated[
    int,
    typer.Option(
        metavar="N", min=0, max=2**63 - 1, help="The same seed gives the same answers.", envvar="PEDIGREE_SEED",
        rich_help_panel=COMPUTE,
    ),
]  # fmt: skip


def chat(
    model: ModelArgument,
    prompt: PromptOption = None,
    system: SystemOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    temperature: TemperatureOption = 0.8,
    top_k: TopKOption = None,
    top_p: TopPOption = 0.95,
    max_tokens: TokensOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    domain: DomainOption = 0,
) -> int:
    """Talk to a model: with its chat template where it has one, else it goes on with your text.

    [bold]Examples[/bold]

    pedigree chat runs/quickstart/quickstart/model

    pedigree chat path/to/model --prompt "The moon" --max-tokens 32 --temperature 0

    In a conversation /reset forgets what was said, /exit leaves; Ctrl-C stops an answer, once more leaves.
    """
    from pedigree.model.generation import Sampling

    out = Output(json=json, quiet=quiet)
    if not 0 < top_p <= 1:
        raise UsageError("this is no share", where="--top-p", got=top_p, expected="above 0, at most 1")
    if not math.isfinite(temperature):
        raise UsageError("this is no temperature", where="--temperature", got=temperature, expected="a number from 0")
    sampling = Sampling(temperature, top_k, top_p if top_p < 1 else None, seed)
    speaker = open_model(model, out, name=None, device=device, domain=domain)
    try:
        conversation = Conversation(speaker, sampling, system, out, max_tokens)
        if prompt is None:
            return _talk(conversation, out)
        conversation.ask(prompt)
    finally:
        speaker.close()
    return DONE


def _talk(conversation: Conversation, out: Output) -> int:
    """Answer line after line, until there are no more; 2 where one of them could not be asked."""
    kind = "chat" if conversation.speaker.template is not None else "no chat template: it goes on with your text"
    out.note(f"{conversation.speaker.name} ({kind}); {FORGET} forgets, {LEAVE} leaves, Ctrl-C stops an answer")
    code = DONE
    while (line := _next_line()) is not None:
        word = line.strip()
        if word == LEAVE:
            break
        if word == FORGET:
            conversation.forget()
            out.note("forgotten")
        elif word:
            try:
                conversation.ask(line)
            except KeyboardInterrupt:
                out.note("")
                out.note("stopped; Ctrl-C once more leaves")
            except UsageError as error:  # this message was too much; the conversation goes on without it
                say(error_text(error))
                code = COULD_NOT_RUN
    return code


def _next_line() -> str | None:
    """A line of the user, None at the end."""
    if sys.stdin is None:  # closed by whoever started us
        return None
    if sys.stdin.isatty() and sys.stdout.isatty():
        import readline  # noqa: F401 - gives input() its editing

        try:
            return input("> ")
        except EOFError:
            return None
    line = sys.stdin.readline()
    return line.rstrip("\n") if line else None


class Conversation:
    """What was said so far, and how the next answer is made.

    Args:
        speaker: the model.
        sampling: how answers are drawn; the seed grows by one with each.
        system: what stands before, if anything.
        out: where answers go.
        max_tokens: most tokens of an answer; None takes what the context has room for, up to `MOST_TOKENS`.
    """

    def __init__(
        self, speaker: Speaker, sampling: Sampling, system: str | None, out: Output, max_tokens: int | None = None
    ) -> None:
        self.speaker, self._sampling, self._system, self._out = speaker, sampling, system, out
        self._max_tokens = max_tokens
        self._said: list[Message] = []
        self._answers = 0

    def forget(self) -> None:
        """Begin anew; the system message stays."""
        self._said = []

    def ask(self, text: str) -> None:
        """Say something and show the answer. An interrupted answer counts as said as far as it came.

        Raises:
            KeyboardInterrupt: Ctrl-C came before the end.
            UsageError: the message alone is longer than the context.
        """
        from dataclasses import replace

        from pedigree.tokenizers.chat_template import Message
        from pedigree.web.speaker import Manner

        before = self._said
        self._said = [*before, Message("user", text)]
        sampling = replace(self._sampling, seed=(self._sampling.seed + self._answers) % 2**63)
        try:
            prompt = self._fitting()
            manner = Manner(sampling, self._room(prompt))
            generation = self.speaker.answer(prompt, manner)
        except UsageError:
            self._said = before
            raise
        self._answers += 1
        pieces: list[str] = []
        try:
            for piece in generation:
                pieces.append(piece)
                if piece and self._out.mode != "json":
                    self._out.piece(piece)
        finally:
            answer = "".join(pieces)
            self._said.append(Message("assistant", answer))
            self._show_end(text, answer, generation, manner)

    def _room(self, prompt: list[int]) -> int:
        """Tokens that the answer may have."""
        return self._max_tokens or max(1, min(MOST_TOKENS, self.speaker.context_tokens - len(prompt)))

    def _fitting(self) -> list[int]:
        """The prompt; where it is too long for the context, what was said first is forgotten."""
        from pedigree.tokenizers.chat_template import Message

        head = [Message("system", self._system)] if self._system else []
        prompt = self.speaker.conversation([*head, *self._said])
        context = self.speaker.context_tokens
        room = context - (self._max_tokens or min(MOST_TOKENS, context // 2))
        forgotten = 0
        while len(prompt) > room and len(self._said) > 2:
            self._said = self._said[2:]
            forgotten += 1
            prompt = self.speaker.conversation([*head, *self._said])
        if forgotten:
            self._out.warn(f"the context is full; the oldest {forgotten} of the exchanges are forgotten")
        return prompt

    def _show_end(self, asked: str, answer: str, generation: Generation, manner: Manner) -> None:
        if self._out.mode == "json":
            self._out.result(self._record(asked, answer, generation, manner).to_json(indent=None))
            return
        self._out.result("")
        rate = generation.tokens_per_second
        if rate is not None:
            self._out.note(f"{generation.completion_tokens} tokens, {rate:.1f} tokens per second")

    def _record(self, asked: str, answer: str, generation: Generation, manner: Manner) -> Answer:
        from pedigree.records.answer import Answer, AnswerInputs, AnswerResult

        sampling = manner.sampling
        return Answer(
            producer=producer(),
            inputs=AnswerInputs(
                model=self.speaker.name,
                prompt=asked,
                system=self._system,
                chat_template=self.speaker.template is not None,
                temperature=sampling.temperature,
                top_k=sampling.top_k,
                top_p=sampling.top_p,
                max_tokens=manner.max_tokens,
                seed=sampling.seed,
            ),
            result=AnswerResult(
                text=answer,
                finish_reason=generation.finish_reason,
                prompt_tokens=generation.prompt_tokens,
                completion_tokens=generation.completion_tokens,
                seconds=generation.seconds,
                tokens_per_second=generation.tokens_per_second,
            ),
        )
