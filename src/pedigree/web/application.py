"""The application: OpenAI-compatible endpoints over one model, and a page to talk to it.

    GET  /                      the chat page
    GET  /health                whether it answers, and how busy it is
    GET  /v1/models             the one model; also /v1/models/NAME
    POST /v1/completions        continues a text
    POST /v1/chat/completions   answers a conversation

Rules
1. Nothing that is asked or answered is logged or kept.
2. No other site may use it: no CORS headers, bodies must be application/json (which a form of another site cannot
   send), and on a loopback address the Host must be a name of this machine (so that no other name can be bent to it).
3. At most `max_concurrent` answers are made at a time; one more is refused with 429, never queued unseen.
4. When a client leaves, its answer stops at the next token.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as ASGIMessage

from pedigree.errors import PedigreeError
from pedigree.tokenizers.chat_template import is_fault_of_the_template
from pedigree.web.asked import Asked, AskedChat, AskedCompletion, Limits, RequestError, read_asked
from pedigree.web.page import HEADERS, chat_page
from pedigree.web.speaker import Generation, Manner, Speaker
from pedigree.web.told import Envelope, error_body, event

LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


@dataclass
class Desk:
    """The state of one server: its model, its limits, and how many answers are being made."""

    speaker: Speaker
    limits: Limits = field(default_factory=Limits)
    max_concurrent: int = 4
    hosts: frozenset[str] | None = LOCAL_NAMES
    """Names by which it may be called; None for any."""
    created: int = field(default_factory=lambda: int(time.time()))
    running: int = 0
    closing: bool = False
    """Whether the server was asked to end: answers stop at the next token, new ones are refused."""

    def take(self) -> None:
        """Count one more answer.

        Raises:
            RequestError: as many are being made as may be, or the server ends.
        """
        self.check_open()
        if self.running >= self.max_concurrent:
            raise RequestError(
                429,
                f"{self.max_concurrent} answers are being made, no more at a time; try again.",
                code="rate_limit_exceeded",
                kind="rate_limit_error",
            )
        self.running += 1

    def check_open(self) -> None:
        """Make sure that the server goes on.

        Raises:
            RequestError: it was asked to end.
        """
        if self.closing:
            raise RequestError(503, "The server was asked to end.", code="shutting_down", kind="server_error")

    def release(self) -> None:
        """Count one less."""
        self.running -= 1

    def check_model(self, name: str) -> None:
        """Make sure that the model that is here was meant.

        Raises:
            RequestError: another one was.
        """
        if name != self.speaker.name:
            raise RequestError(404, f"The model '{name[:100]}' does not exist; '{self.speaker.name}' is served here.",
                               param="model", code="model_not_found")  # fmt: skip

    def most_tokens(self, asked: Asked, prompt_tokens: int) -> int:
        """Tokens an answer may have.

        Raises:
            RequestError: more are asked for than are granted, or the context is too short.
        """
        wanted, param = asked.max_tokens, "max_tokens"
        if isinstance(asked, AskedChat) and asked.max_completion_tokens is not None:
            wanted, param = asked.max_completion_tokens, "max_completion_tokens"
        if wanted is not None and wanted > self.limits.max_tokens:
            raise RequestError(400, f"'{param}': at most {self.limits.max_tokens} are granted here.", param=param,
                               code="invalid_value")  # fmt: skip
        room = self.speaker.context_tokens - prompt_tokens
        if room < (wanted or 1):
            raise RequestError(
                400,
                f"The context holds {self.speaker.context_tokens} tokens; the prompt has {prompt_tokens}"
                + (f" and the answer may have {wanted}." if wanted else "."),
                param="messages" if isinstance(asked, AskedChat) else "prompt",
                code="context_length_exceeded",
            )
        return wanted or min(self.limits.default_tokens, self.limits.max_tokens, room)

    def model_card(self) -> dict[str, object]:
        """The model as /v1/models lists it; the last two fields are ours."""
        return {
            "id": self.speaker.name,
            "object": "model",
            "created": self.created,
            "owned_by": "pedigree",
            "context_tokens": self.speaker.context_tokens,
            "chat_template": self.speaker.template is not None,
        }


def build_application(desk: Desk) -> FastAPI:
    """The application of one server."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    page = chat_page(desk.speaker.name)

    @app.get("/")
    async def _page() -> HTMLResponse:
        return HTMLResponse(page.html, headers=page.headers)

    @app.get("/health")
    async def _health() -> dict[str, object]:
        return {"status": "ok", "model": desk.speaker.name, "running": desk.running,
                "max_concurrent": desk.max_concurrent}  # fmt: skip

    @app.get("/v1/models")
    async def _models() -> dict[str, object]:
        return {"object": "list", "data": [desk.model_card()]}

    @app.get("/v1/models/{name:path}")
    async def _model(name: str) -> dict[str, object]:
        desk.check_model(name)
        return desk.model_card()

    @app.post("/v1/completions", response_model=None)
    async def _complete(request: Request) -> Response:
        asked = read_asked(AskedCompletion, await _body(request, desk.limits.max_body))
        return await _answer(desk, request, asked, lambda: desk.speaker.continued(asked.prompt), chat=False)

    @app.post("/v1/chat/completions", response_model=None)
    async def _chat(request: Request) -> Response:
        asked = read_asked(AskedChat, await _body(request, desk.limits.max_body))
        return await _answer(desk, request, asked, lambda: desk.speaker.conversation(asked.conversation()), chat=True)

    _add_errors(app)
    app.add_middleware(Guard, hosts=desk.hosts)
    return app


# -- answers ----------------------------------------------------------------------------------------------------------


class AnswerStream(StreamingResponse):
    """A streamed answer, which gives its place back when the last event is out or the client has left."""

    def __init__(self, desk: Desk, events: AsyncIterator[bytes]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._desk = desk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._desk.release()


async def _answer(
    desk: Desk, request: Request, asked: Asked, prompt_of: Callable[[], list[int]], *, chat: bool
) -> Response:
    """Make an answer, whole or streamed; its place is taken until the last piece is out."""
    desk.check_model(asked.model)
    desk.take()
    is_sending = False
    try:
        prompt = await run_in_threadpool(prompt_of)
        manner = Manner(asked.sampling, desk.most_tokens(asked, len(prompt)), tuple(asked.stop))
        generation = desk.speaker.answer(prompt, manner)
        number = ("chatcmpl-" if chat else "cmpl-") + uuid.uuid4().hex
        envelope = Envelope(number, int(time.time()), desk.speaker.name, chat)
        if not asked.stream:
            return JSONResponse(envelope.whole(await _whole(desk, request, generation), generation))
        response = AnswerStream(desk, _events(desk, envelope, generation, asked.include_usage))
        is_sending = True
        return response
    finally:
        if not is_sending:
            desk.release()


async def _pieces(desk: Desk, generation: Generation) -> AsyncIterator[str]:
    """The pieces of an answer, each computed beside the event loop.

    Raises:
        RequestError: the server was asked to end.
    """
    pieces = iter(generation)
    while (piece := await run_in_threadpool(next, pieces, None)) is not None:
        yield piece
        desk.check_open()


async def _whole(desk: Desk, request: Request, generation: Generation) -> str:
    """The text of an answer; what there is of it where nobody waits any more."""
    said = []
    async for piece in _pieces(desk, generation):
        said.append(piece)
        if await request.is_disconnected():
            break
    return "".join(said)


async def _events(desk: Desk, envelope: Envelope, generation: Generation, include_usage: bool) -> AsyncIterator[bytes]:
    """The events of an answer; the last one is an error where the server ends before it."""
    opening = envelope.opening()
    if opening is not None:
        yield event(opening)
    try:
        async for piece in _pieces(desk, generation):
            if piece:
                yield event(envelope.piece(piece))
    except RequestError as error:
        yield event(error_body(error))
        return
    yield event(envelope.closing(generation))
    if include_usage:
        yield event(envelope.counts(generation))
    yield event("[DONE]")


# -- what comes in, what goes wrong -----------------------------------------------------------------------------------


async def _body(request: Request, limit: int) -> bytes:
    """The body of a request, read no further than the limit.

    Raises:
        RequestError: it is not JSON by its type, or too large.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RequestError(415, "Content-Type must be application/json.", code="unsupported_media_type")
    too_large = RequestError(413, f"The body may have {limit:,} bytes.", code="request_too_large")
    declared = request.headers.get("content-length", "0")
    if declared.isascii() and declared.isdigit() and len(declared) < 20 and int(declared) > limit:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise too_large
    return bytes(body)


def _add_errors(app: FastAPI) -> None:
    """Every way to fail has the one shape of an error."""

    def told(error: RequestError, headers: Mapping[str, str] | None = None) -> JSONResponse:
        more = {"Retry-After": "1"} if error.status == 429 else {}
        return JSONResponse(error_body(error), status_code=error.status, headers={**more, **(headers or {})})

    @app.exception_handler(PedigreeError)
    async def _ours(_: Request, error: PedigreeError) -> JSONResponse:
        if isinstance(error, RequestError):
            return told(error)
        if is_fault_of_the_template(error):
            return told(RequestError(500, error.sentence(), code="model_files", kind="server_error"))
        return told(RequestError(400, error.sentence(), code="invalid_value"))

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 404:
            said = RequestError(404, f"There is nothing at {request.url.path[:100]}.", code="not_found")
        elif error.status_code == 405:
            said = RequestError(405, f"{request.method[:20]} is not understood here.", code="method_not_allowed")
        else:
            said = RequestError(error.status_code, str(error.detail)[:300])
        return told(said, error.headers)

    @app.exception_handler(Exception)
    async def _bug(_: Request, error: Exception) -> JSONResponse:
        message = f"This is a bug of the server ({type(error).__name__})."
        return told(RequestError(500, message, code="internal_error", kind="server_error"))


class Guard:
    """Refuses hosts that were not meant, and puts the headers of `pedigree.web.page` on everything."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str] | None) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        named = Headers(scope=scope).get("host", "")
        if self._hosts is not None and re.sub(r":\d*$", "", named).lower() not in self._hosts:
            error = RequestError(403, "This server is for this machine; call it localhost.", code="host_not_allowed")
            await JSONResponse(error_body(error), status_code=403)(scope, receive, send)
            return

        async def send_with_headers(message: ASGIMessage) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers)
