"""A local HTTP server with ranges, and with the faults that servers have.

    with RangeServer(folder) as server:
        server.faults["/model.safetensors"] = ["reset", "status 429"]     # one fault for each answer, in this order
        open_checkpoint(server.url)

Faults: "reset" (half of the body, then the connection ends), "status N" (with Retry-After: 0), "no-ranges",
"other-range", "no-content-range", "short-length", "long-length", "grown", "gzip", "chunked", "redirect URL",
"tag TEXT" (this ETag), "patience TEXT" (429 with this Retry-After), "drip" (the body in eight pieces, 10 ms apart).
A fault written "always FAULT" stays.
"""

from __future__ import annotations

import mmap
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from urllib.parse import unquote, urlsplit


class RangeServer:
    """Serves a folder on 127.0.0.1.

    Attributes:
        url: address of the folder.
        faults: path -> faults still to come.
        log: (path, Range header, Authorization header, body bytes sent) of every answer.
        bodies: path -> body, for paths that are not files.
        headers: headers added to every answer.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.faults: dict[str, list[str]] = {}
        self.log: list[tuple[str, str | None, str | None, int]] = []
        self.bodies: dict[str, bytes] = {}
        self.headers: dict[str, str] = {}
        self._server = _QuietServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = False
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def sent(self) -> int:
        """Body bytes sent so far."""
        return sum(entry[3] for entry in self.log)

    def fault(self, path: str) -> str:
        """The fault of the next answer, "" for none."""
        queue = self.faults.get(path, [])
        if queue and queue[0].startswith("always "):
            return queue[0].removeprefix("always ")
        return queue.pop(0) if queue else ""

    def __enter__(self) -> RangeServer:
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _QuietServer(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is no news: budgets and refused answers end connections early."""


def _handler(server: RangeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 2
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            self._send(path, server.fault(path), self._body(path))

        def _body(self, path: str) -> bytes | mmap.mmap | None:
            if path in server.bodies:
                return server.bodies[path]
            file = server.folder / path.lstrip("/")
            if not file.is_file() or file.stat().st_size == 0:
                return b"" if file.is_file() else None
            with file.open("rb") as opened:
                return mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)  # large files are sliced, not read

        def _send(self, path: str, fault: str, body: bytes | mmap.mmap | None) -> None:
            match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
            status, headers, part = _answer(body, match, fault)
            wanted = self.headers.get("Range")
            sent = part[: len(part) // 2] if fault == "reset" else part
            server.log.append((path, wanted, self.headers.get("Authorization"), len(sent)))
            self.send_response(status)
            for key, value in {**headers, **server.headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if fault == "chunked":
                sent = f"{len(part):x}\r\n".encode() + part + b"\r\n0\r\n\r\n"
            step = max(1, len(sent) // 8) if fault == "drip" else max(1, len(sent))
            for at in range(0, len(sent), step):
                self.wfile.write(sent[at : at + step])
                if fault == "drip":
                    time.sleep(0.01)
            if fault in ("reset", "long-length"):
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


def _answer(
    body: bytes | mmap.mmap | None, match: re.Match[str] | None, fault: str
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body bytes of one answer."""
    if fault.startswith("status "):
        return int(fault.removeprefix("status ")), {"Content-Length": "4", "Retry-After": "0"}, b"sorry"[:4]
    if fault.startswith("patience "):
        return 429, {"Content-Length": "4", "Retry-After": fault.removeprefix("patience ")}, b"wait"
    if fault.startswith("redirect "):
        return 302, {"Content-Length": "0", "Location": fault.removeprefix("redirect ")}, b""
    if body is None:
        return 404, {"Content-Length": "9"}, b"not found"
    if match is None or fault == "no-ranges":
        return 200, {"Content-Length": str(len(body))}, body[:]
    start, last = int(match[1]), min(int(match[2]), len(body) - 1)
    if start >= len(body):
        return 416, {"Content-Range": f"bytes */{len(body)}", "Content-Length": "0"}, b""
    if fault == "other-range":
        start, last = start + 1, last + 1
    part = body[start : last + 1]
    total = len(body) + (1 if fault == "grown" else 0)
    headers = {"Content-Range": f"bytes {start}-{last}/{total}", "Content-Length": str(len(part))}
    if fault.startswith("tag "):
        headers["ETag"] = fault.removeprefix("tag ")
    if fault == "no-content-range":
        del headers["Content-Range"]
    elif fault == "short-length":
        headers["Content-Length"] = str(len(part) - 1)
    elif fault == "long-length":
        headers["Content-Length"] = str(len(part) + 1)
    elif fault == "gzip":
        headers["Content-Encoding"] = "gzip"
    elif fault == "chunked":
        del headers["Content-Length"]
        headers["Transfer-Encoding"] = "chunked"
    return 206, headers, part
