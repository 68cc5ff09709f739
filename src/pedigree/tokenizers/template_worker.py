"""The process in which chat templates of strangers are rendered.

A template is a program. The sandbox of jinja2 keeps it from reaching Python objects and from changing its arguments; it
does not keep it from running for ever or from making a text that fills the memory. So templates run in a process of
their own, which may take `MAX_MEMORY` and write no file, and which is ended when it takes too long (see
`pedigree.tokenizers.chat_template`).

Talk: JSON in, JSON out, never pickles: what comes back from this process is no more trusted than the template.
"""

from __future__ import annotations

import contextlib
import json
import resource
import signal
from datetime import datetime
from multiprocessing.connection import Connection
from typing import Any

from jinja2 import TemplateError, Undefined, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_MEMORY = 2**30  # bytes of address space
MAX_TEXT = 4_000_000  # characters of a rendered conversation
MAX_REQUEST = 64_000_000  # bytes of template and messages


class Refusal(Exception):
    """The template itself refuses the conversation (`raise_exception`)."""


class Sandbox(ImmutableSandboxedEnvironment):
    """A sandbox that stops at the first thing out of reach, where the original goes on with nothing in its place."""

    def unsafe_undefined(self, obj: object, attribute: str) -> Undefined:
        """Refuse.

        Raises:
            SecurityError: always.
        """
        raise SecurityError(f"access to attribute {attribute!r} of {type(obj).__name__!r} object is unsafe.")


class GenerationBlock(Extension):
    """`{% generation %}...{% endgeneration %}`, which marks what the model wrote; here its content alone counts."""

    tags = {"generation"}  # noqa: RUF012 - declared so by the base class

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The nodes between the two tags."""
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))


def _refuse(message: object = "") -> None:
    raise Refusal(str(message))


def _to_json(value: object, ensure_ascii: bool = False, indent: int | None = None, **_: object) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def environment() -> Sandbox:
    """What templates of published models expect: their filters, functions and treatment of white space."""
    made = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, GenerationBlock])
    made.filters["tojson"] = _to_json
    made.globals.update(raise_exception=_refuse, strftime_now=_now)
    return made


def render(source: str, variables: dict[str, Any]) -> dict[str, str]:
    """The text under `text`; or what went wrong under `error` (unsafe, malformed, refused, large) and `message`."""
    parts: list[str] = []
    size = 0
    try:
        for part in environment().from_string(source).generate(**variables):
            size += len(part)
            if size > MAX_TEXT:
                return {"error": "large", "message": f"more than {MAX_TEXT:,} characters"}
            parts.append(part)
    except Refusal as error:
        return {"error": "refused", "message": str(error)[:500]}
    except SecurityError as error:
        return {"error": "unsafe", "message": str(error)[:500]}
    except MemoryError:
        return {"error": "large", "message": f"more than {MAX_MEMORY:,} bytes of memory"}
    except (
        TemplateError, ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError,
        SyntaxError,  # of the Python that jinja2 makes of it: loops too deep, a `break` outside of one
    ) as error:  # fmt: skip
        return {"error": "malformed", "message": f"{type(error).__name__}: {error}"[:500]}
    return {"text": "".join(parts)}


def work(connection: Connection) -> None:
    """Answer requests until the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to everybody; the parent decides
    for limit, value in ((resource.RLIMIT_AS, MAX_MEMORY), (resource.RLIMIT_FSIZE, 0)):
        with contextlib.suppress(ValueError, OSError):  # not every system has every limit
            resource.setrlimit(limit, (value, value))
    connection.send_bytes(b"ready")
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            asked = json.loads(connection.recv_bytes(MAX_REQUEST))
            signal.alarm(int(asked["seconds"]) + 2)  # should the other side not live to end this process
            connection.send_bytes(json.dumps(render(asked["source"], asked["variables"])).encode())
            signal.alarm(0)
