"""What a request asks for, in the words of OpenAI's API: checked, bounded, and refused by name where not built here.

Laws
1. Every field is either obeyed, or known to change nothing, or refused with its name. None is ignored.
2. Limits are checked before anything is computed.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pedigree.errors import PedigreeError
from pedigree.model.generation import Sampling
from pedigree.tokenizers.chat_template import Message
from pedigree.weights.safetensors_header import RepeatedKey, unique_keys

MAX_MESSAGES = 1_000
MAX_STOPS = 4
# Fields of OpenAI's API that are not built here -> values with which they change nothing.
NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": (),
    "verbosity": (),
    "web_search_options": (),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "metadata": ({},),
}


class RequestError(PedigreeError):
    """A request that is not answered.

    Args:
        status: HTTP status.
        message: a sentence.
        param: the field that is to blame.
        code: one word for programs.
        kind: type of the error in OpenAI's words.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str = "invalid_request_error",
    ) -> None:
        super().__init__(message, where=param)
        self.status, self.message, self.param, self.code, self.kind = status, message, param, code, kind


class StreamOptions(BaseModel):
    """Options of a streamed answer."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    include_usage: bool = False


class Asked(BaseModel):
    """What both kinds of request may say."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    model: str
    temperature: float = Field(default=1.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=1)
    seed: int = Field(default_factory=lambda: secrets.randbelow(2**31), ge=0, lt=2**63)
    max_tokens: int | None = Field(default=None, ge=1)
    stop: list[str] = Field(default_factory=list, max_length=MAX_STOPS)
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @property
    def sampling(self) -> Sampling:
        """How tokens are drawn."""
        return Sampling(self.temperature, self.top_k, self.top_p if self.top_p < 1 else None, self.seed)

    @property
    def include_usage(self) -> bool:
        """Whether a streamed answer ends with its counts."""
        return self.stream_options is not None and self.stream_options.include_usage


class AskedCompletion(Asked):
    """The body of POST /v1/completions."""

    prompt: str

    @field_validator("prompt", mode="before")
    @classmethod
    def _single(cls, value: object) -> object:
        return value[0] if isinstance(value, list) and len(value) == 1 else value


class AskedMessage(BaseModel):
    """One message of a conversation; its content is text, or a list of parts of type text."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    role: str = Field(pattern="^(system|developer|user|assistant)$")
    content: str

    @field_validator("content", mode="before")
    @classmethod
    def _joined(cls, value: object) -> object:
        if not isinstance(value, list):
            return value
        for part in value:
            if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
                raise ValueError("only parts of type text are read")
        return "".join(part["text"] for part in value)


class AskedChat(Asked):
    """The body of POST /v1/chat/completions."""

    messages: list[AskedMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: int | None = Field(default=None, ge=1)

    def conversation(self) -> list[Message]:
        """The messages; `developer` is the newer word for `system`."""
        return [Message("system" if m.role == "developer" else m.role, m.content) for m in self.messages]


AnyAsked = TypeVar("AnyAsked", bound=Asked)


@dataclass(frozen=True)
class Limits:
    """What one server grants: tokens of an answer (most, and when nothing is said), bytes of a request."""

    max_tokens: int = 4096
    default_tokens: int = 512
    max_body: int = 1_000_000


def read_asked(kind: type[AnyAsked], body: bytes) -> AnyAsked:
    """A request from the bytes of its body.

    Raises:
        RequestError: not JSON, a field that is wrong, unknown, or asks for what is not built here.
    """
    try:
        found = json.loads(body, object_pairs_hook=unique_keys)
    except RepeatedKey as error:
        raise RequestError(
            400, f"'{str(error.args[0])[:100]}' stands twice in the body.", param=str(error.args[0])[:100],
            code="invalid_json",
        ) from error  # fmt: skip
    except (ValueError, RecursionError) as error:
        raise RequestError(400, "The body is not JSON.", code="invalid_json") from error
    if not isinstance(found, dict):
        raise RequestError(400, "The body is not a JSON object.", code="invalid_json")
    fields = {name: value for name, value in found.items() if value is not None}
    for name in sorted(fields.keys() & NEUTRAL.keys()):
        value = fields.pop(name)
        if not any(value == neutral and type(value) in _kinds(neutral) for neutral in NEUTRAL[name]):
            raise RequestError(400, f"'{name}' is not implemented here.", param=name, code="unsupported_parameter")
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise _refused(error) from error


def _kinds(value: object) -> tuple[type, ...]:
    """Types in which JSON may write a value: 0 and 0.0 are one number, and False is none."""
    return (int, float) if type(value) is int else (type(value),)


def _refused(error: ValidationError) -> RequestError:
    """The first problem that was found; values stay out of the message."""
    problem: Any = error.errors(include_url=False, include_input=False)[0]
    param = ".".join(map(str, problem["loc"])) or None
    if problem["type"] == "extra_forbidden":
        return RequestError(400, f"'{str(param)[:100]}' is not a field known here.", param=param,
                            code="unknown_parameter")  # fmt: skip
    code = "missing_required_parameter" if problem["type"] == "missing" else "invalid_value"
    return RequestError(400, f"'{str(param)[:100]}': {problem['msg']}.", param=param, code=code)
