"""A hub on this machine: drawn checkpoints behind HTTP, with the faults, tokens and slowness that hubs have.

    with DrawnHub({"org/parent": DrawnCheckpoint(SHAPES["14b"], "parent")}, Link(token="secret")) as hub:
        ...  # HF_ENDPOINT=hub.url HF_TOKEN=secret pedigree compare hf://org/parent ...

As on the real one, files are asked for at the hub, which wants the token and redirects to a storage host, which must
not see it. Both count what they send.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

from drawn_checkpoint import DrawnCheckpoint

PIECE = 1 << 16


@dataclass(frozen=True)
class Link:
    """What the hub does beside answering.

    Attributes:
        token: the hub answers 401 without it, and every answer of storage that sees it is counted as a leak.
        reset_every: of so many answers of storage one ends after half of its body.
        refuse_every: of so many one is 429 with `Retry-After: 1`, in turn with 503.
        latency_s: before every answer.
        bytes_per_s: of all connections together; 0 for no limit.
        lie: "length" (Content-Length one larger than Content-Range says), "range" (another range than was asked for),
            "whole" (200 and the whole file), "tag" (another ETag from the 200th answer on), "" for none.
    """

    token: str = ""
    reset_every: int = 0
    refuse_every: int = 0
    latency_s: float = 0.0
    bytes_per_s: float = 0.0
    lie: str = ""


class DrawnHub:
    """Serves checkpoints while the `with` block lasts.

    Attributes:
        url: the hub; HF_ENDPOINT.
        sent, requests: of hub and storage together.
        resets, refusals: faults that were made.
        leaks: answers of storage to a request that held the token.
    """

    def __init__(self, repositories: Mapping[str, DrawnCheckpoint], link: Link) -> None:
        self.repositories, self.link = dict(repositories), link
        self.sent = self.requests = self.answers = self.resets = self.refusals = self.leaks = 0
        self._lock = threading.Lock()
        self._free_at = 0.0
        self._servers = [_Server(("127.0.0.1", 0), _handler(self, kind)) for kind in ("hub", "storage")]
        self.url, self.storage = (f"http://127.0.0.1:{server.server_address[1]}" for server in self._servers)

    def __enter__(self) -> DrawnHub:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def count(self, **more: int) -> None:
        """Add to the counters."""
        with self._lock:
            for name, n in more.items():
                setattr(self, name, getattr(self, name) + n)

    def fault(self) -> str:
        """What is wrong with the next answer of storage."""
        with self._lock:
            self.answers += 1
            n, link = self.answers, self.link
        if link.refuse_every and n % link.refuse_every == 0:
            return "429" if n // link.refuse_every % 2 else "503"
        return "reset" if link.reset_every and n % link.reset_every == 0 else ""

    def pace(self, n_bytes: int) -> None:
        """Wait as long as these bytes take on a link that all connections share."""
        if not self.link.bytes_per_s:
            return
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic()) + n_bytes / self.link.bytes_per_s
            wait = self._free_at - time.monotonic()
        time.sleep(max(0.0, wait))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up after a lie is no news."""


def _handler(hub: DrawnHub, kind: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 60
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            time.sleep(hub.link.latency_s)
            path = unquote(urlsplit(self.path).path)
            (self._at_hub if kind == "hub" else self._at_storage)(path)

        def _at_hub(self, path: str) -> None:
            if hub.link.token and self.headers.get("Authorization") != f"Bearer {hub.link.token}":
                self._say(401, {})
                return
            commit = {"X-Repo-Commit": "c" * 40}
            if match := re.fullmatch(r"/api/models/(\S+)/tree/\S+", path):
                files = hub.repositories[match[1]].files
                listing = [{"type": "file", "path": name, "size": size} for name, size in files.items()]
                self._say(200, commit, json.dumps(listing).encode())
            elif match := re.fullmatch(r"/(\S+)/resolve/[^/]+/(\S+)", path):
                there = match[1] in hub.repositories and match[2] in hub.repositories[match[1]].files
                place = {"Location": f"{hub.storage}/{match[1]}/{match[2]}"} if there else {}
                self._say(302 if there else 404, {**commit, **place})
            else:
                self._say(404, {})

        def _at_storage(self, path: str) -> None:
            if self.headers.get("Authorization"):
                hub.count(leaks=1)
            repository, _, file = path.lstrip("/").rpartition("/")
            checkpoint = hub.repositories[repository]
            fault, size = hub.fault(), checkpoint.files[file]
            if fault.isdigit():
                hub.count(refusals=1)
                self._say(int(fault), {"Retry-After": "1"} if fault == "429" else {})
                return
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
            if asked is None or hub.link.lie == "whole":
                self._start(200, size, {})
                self._body(checkpoint, file, 0, size)
                return
            start, stop = int(asked[1]), min(int(asked[2]) + 1, size)
            lie = hub.link.lie if file.endswith(".safetensors") and start else ""
            shift = int(lie == "range")
            tag = '"other"' if lie == "tag" and hub.answers > 200 else f'"{file}"'
            headers = {"Content-Range": f"bytes {start + shift}-{stop - 1 + shift}/{size}", "ETag": tag}
            self._start(206, stop - start + int(lie == "length"), headers)
            cut = (start + stop) // 2 if fault == "reset" else stop
            self._body(checkpoint, file, start, cut)
            if fault == "reset":
                hub.count(resets=1)
                self.close_connection = True

        def _say(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
            self._start(status, len(body), headers)
            self.wfile.write(body)
            hub.count(sent=len(body))

        def _start(self, status: int, length: int, headers: dict[str, str]) -> None:
            hub.count(requests=1)
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(length)}.items():
                self.send_header(key, value)
            self.end_headers()

        def _body(self, checkpoint: DrawnCheckpoint, file: str, start: int, stop: int) -> None:
            step = 1 << 24 if not hub.link.bytes_per_s else PIECE
            for at in range(start, stop, step):
                piece = checkpoint.read(file, at, min(stop, at + step))
                hub.pace(len(piece))
                self.wfile.write(piece)
                hub.count(sent=len(piece))

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler
