"""A local HTTP server that answers byte ranges of the files in a folder and counts what it sends."""

from __future__ import annotations

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from urllib.parse import unquote, urlsplit

PIECE = 1 << 20


class ByteServer:
    """Serves a folder on 127.0.0.1 while the `with` block lasts.

    Attributes:
        url: address of the folder.
        sent: bytes of all bodies sent.
        requests: number of requests answered.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.sent = 0
        self.requests = 0
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def count(self, n_bytes: int) -> None:
        """Note one answer and the size of its body."""
        with self._lock:
            self.sent += n_bytes
            self.requests += 1

    def __enter__(self) -> ByteServer:
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _handler(server: ByteServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 60
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def _answer(self, *, with_body: bool) -> None:
            path = (server.folder / unquote(urlsplit(self.path).path).lstrip("/")).resolve()
            if not (path.is_relative_to(server.folder) and path.is_file()):
                self._start(404, 0, {})
                return
            size = path.stat().st_size
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
            if asked is None:
                start, stop, status = 0, size, 200
            else:
                start, stop, status = int(asked[1]), min(int(asked[2] or size - 1) + 1, size), 206
            if start >= stop and asked is not None:
                self._start(416, 0, {"Content-Range": f"bytes */{size}"})
                return
            extra = {"Content-Range": f"bytes {start}-{stop - 1}/{size}"} if status == 206 else {}
            self._start(status, stop - start, {**extra, "Accept-Ranges": "bytes", "ETag": f'"{size}"'}, with_body)
            if with_body:
                self._send(path, start, stop)

        def _start(self, status: int, length: int, headers: dict[str, str], with_body: bool = True) -> None:
            server.count(length if with_body else 0)
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(length)}.items():
                self.send_header(key, value)
            self.end_headers()

        def _send(self, path: Path, start: int, stop: int) -> None:
            with path.open("rb") as file:
                file.seek(start)
                while start < stop:
                    piece = file.read(min(PIECE, stop - start))
                    if not piece:
                        break
                    self.wfile.write(piece)
                    start += len(piece)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
