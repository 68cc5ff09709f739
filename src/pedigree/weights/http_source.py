"""Files behind an HTTP server, read by ranges.

Nothing a server says is taken on trust: a range counts as honored only when the status is 206 and `Content-Range`
names the bytes that were asked for; a body shorter than promised is continued from where it broke; a size or a tag that
changes between two answers ends the reading. A server that asks for patience gets it, on all connections at once.
"""

from __future__ import annotations

import http.client
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar
from urllib.parse import quote, unquote, urlsplit

from pedigree.errors import MissingInput, SourceError
from pedigree.weights.http_connection import Answer, HttpPool, drain
from pedigree.weights.meter import ByteMeter
from pedigree.weights.source import Range, confined_name
from pedigree.weights.weight_files import format_of

MAX_ATTEMPTS = 5
FIRST_WAIT_SECONDS = 0.5
MAX_WAIT_SECONDS = 30.0
MAX_ASKED_SECONDS = 300.0  # of patience that a server may ask for; rate limits are counted in windows of minutes
MIN_BYTES_PER_SECOND = 10_000  # slower is taken for a server that holds us
N_CONNECTIONS = 8
PIECE_BYTES = 1 << 25
KEPT_RANGE_BYTES, KEPT_BYTES = 1 << 16, 1 << 25
MAX_UNSIZED_BYTES = 100_000_000

_CONTENT_RANGE = re.compile(r"^bytes (\d{1,19})-(\d{1,19})/(\d{1,19})$")
_EMPTY_RANGE = re.compile(r"^bytes \*/(\d{1,19})$")
T = TypeVar("T")
PLAIN_HEADERS = {"Accept-Encoding": "identity", "User-Agent": "pedigree"}
PASSING = (408, 425, 429, 500, 502, 503, 504)


class _Broken(Exception):
    """A failure that another attempt may mend; `wait` is what the server asked for, in seconds."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class HttpSource:
    """A directory behind an HTTP server that honors ranges.

    Args:
        base: address of the directory.
        meter: counts the reads; a broken answer is continued, not counted twice.
        query: query string of the named file, without "?", for signed addresses.
        named_file: the file of the directory that `query` belongs to.
        private_headers: credentials for the host of `base`.
        denied_fix: advice when the server answers 401 or 403.
    """

    gap_bytes = 1 << 14
    probe_bytes = 1 << 14

    def __init__(
        self,
        base: str,
        meter: ByteMeter,
        *,
        query: str = "",
        named_file: str | None = None,
        private_headers: Mapping[str, str] | None = None,
        denied_fix: str = "check the address, or make the file readable without a login",
    ) -> None:
        self.location = base.rstrip("/")
        self._meter = meter
        self._query, self._named_file = query, named_file
        self._private_headers = dict(private_headers or {})
        self._denied_fix = denied_fix
        self._pool = HttpPool()
        self._lock = threading.Lock()
        self._sizes: dict[str, int | None] = {}
        self._heads: dict[str, bytes] = {}
        self._moved: dict[str, str] = {}
        self._tags: dict[tuple[str, str], str] = {}
        self._stamps: dict[str, str] = {}
        self._kept: dict[tuple[str, int, int], bytes] = {}
        self._kept_bytes = 0
        self._not_before = 0.0
        self._threads: ThreadPoolExecutor | None = None

    def names(self) -> tuple[str, ...] | None:
        """None: a plain server does not list its files."""
        return None

    def place(self, name: str) -> str:
        """Address of a file without its query, which may hold a signature."""
        return f"{self.location}/{name}"

    def url(self, name: str) -> str:
        """Address of a file, as it is asked for."""
        query = f"?{self._query}" if self._query and name == self._named_file else ""
        return f"{self.location}/{quote(name)}{query}"

    def size(self, name: str) -> int | None:
        """Bytes of a file, None where the server says 404; the first kilobytes are kept, since a header follows."""
        confined_name(name, self.location)
        with self._lock:
            if name in self._sizes:
                return self._sizes[name]
        head, size = self._retry(name, lambda: self._probe(name))
        with self._lock:
            self._sizes[name] = size
            self._heads[name] = head
        return size

    def stamp(self, name: str) -> str:
        """The tag, or else the date, that the server gave with the first answer of a file."""
        return self._stamps.get(name, "")

    def fill(self, name: str, ranges: Sequence[Range]) -> None:
        """Read ranges of a file into buffers, several connections at a time."""
        size = self.size(name)
        if size is None:
            raise MissingInput("no such file", where=self.place(name))
        pieces = [piece for piece in _pieces(ranges) if not self._from_memory(name, piece)]
        for start, stop, _ in pieces:
            self._meter.charge(stop - start, self.place(name))
        if len(pieces) <= 1:
            for piece in pieces:
                self._fill_one(name, piece, size)
            return
        with self._lock:
            self._threads = self._threads or ThreadPoolExecutor(N_CONNECTIONS, thread_name_prefix="ranges")
        for future in [self._threads.submit(self._fill_one, name, piece, size) for piece in pieces]:
            future.result()

    def each(self, function: Callable[[str], T], names: Sequence[str]) -> list[T]:
        """A function of every file, on several connections at a time."""
        # Threads of their own: a function that fills many ranges waits for those of `fill`.
        with ThreadPoolExecutor(N_CONNECTIONS, thread_name_prefix="files") as threads:
            return list(threads.map(function, names))

    def close(self) -> None:
        """Close connections and threads."""
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
        self._pool.close()

    def _from_memory(self, name: str, piece: Range) -> bool:
        """Serve a range from the kept head of the file where it lies inside, or from what was asked for before."""
        start, stop, view = piece
        head = self._heads.get(name, b"")
        found = head[start:stop] if stop <= len(head) else self._kept.get((name, start, stop))
        if found is None:
            return False
        view[:] = found
        return True

    def _keep(self, name: str, piece: Range) -> None:
        """Remember a short range: norm gains and biases are wanted again at every fold."""
        start, stop, view = piece
        if stop - start <= KEPT_RANGE_BYTES:
            with self._lock:
                if self._kept_bytes + stop - start <= KEPT_BYTES:
                    self._kept[name, start, stop] = bytes(view)
                    self._kept_bytes += stop - start

    def _probe(self, name: str) -> tuple[bytes, int | None]:
        """First bytes and size of a file."""
        with self._get(name, 0, self.probe_bytes) as answer:
            if answer.status in (404, 410):
                drain(answer)
                return b"", None
            if answer.status == 416 and (match := _EMPTY_RANGE.match(answer.headers.get("Content-Range", ""))):
                drain(answer)
                return b"", int(match[1])
            self._check_status(name, answer)
            length = _content_length(answer)
            if answer.status == 200 and length is None:
                body = self._read_unsized(name, answer)
                return body, len(body)
            total = self._checked_range(name, answer, 0, self.probe_bytes, None) if answer.status == 206 else length
            if total is None:
                raise self._error(name, "the server does not say how large the file is", f"status {answer.status}")
            head = bytearray(min(total, self.probe_bytes))
            self._meter.charge(len(head), self.place(name))
            n_read = self._receive(answer, memoryview(head))
            if n_read < len(head):
                raise _Broken(f"{n_read} bytes of {len(head)}")
            return bytes(head), total

    def _fill_one(self, name: str, piece: Range, size: int) -> None:
        start, stop, view = piece
        if stop > size:
            raise self._error(name, "bytes past the end of the file", f"{stop} of {size}")
        done = 0

        def attempt() -> None:
            nonlocal done
            with self._get(name, start + done, stop) as answer:
                self._check_status(name, answer)
                if answer.status == 206:
                    self._checked_range(name, answer, start + done, stop, size)
                elif start + done > 0:
                    raise self._error(
                        name,
                        "the server does not honor ranges",
                        f"status {answer.status} for bytes {start + done}-{stop - 1}",
                        expected="status 206 and Content-Range",
                        fix="download the file and name the copy",
                    )
                done += self._receive(answer, view[done:])
                if done < stop - start:
                    raise _Broken(f"the answer ended {stop - start - done} bytes early")

        self._retry(name, attempt, lambda: done)
        self._keep(name, piece)

    def _get(self, name: str, start: int, stop: int) -> Answer:
        headers = {**PLAIN_HEADERS, "Range": f"bytes={start}-{stop - 1}"}
        self._be_patient()
        # A redirect of a large file usually leads to a signed address that serves the next ranges too.
        moved = self._moved.get(name)
        if moved is not None:
            answer = self._pool.get(moved, headers, {})
            if answer.status in (200, 206):
                return answer
            self._moved.pop(name, None)
            with answer:
                drain(answer)
        answer = self._pool.get(self.url(name), headers, self._private_headers)
        self._seen(answer)
        if answer.status in (200, 206):
            self._stamps.setdefault(name, _state(answer))
        if answer.status == 206 and urlsplit(answer.url).netloc != urlsplit(self.url(name)).netloc:
            self._moved[name] = answer.url
        return answer

    def _seen(self, answer: Answer) -> None:
        """Called with every first answer of a file; a kind of source may learn from its headers."""

    def _check_status(self, name: str, answer: Answer) -> None:
        status = answer.status
        if status in (200, 206):
            encoding = answer.headers.get("Content-Encoding", "identity")
            if encoding != "identity":
                raise self._error(
                    name, "the server compresses the file", encoding, expected="Content-Encoding: identity"
                )
            self._check_tag(name, answer)
            return
        if status in PASSING:
            raise _Broken(f"status {status}", _retry_after(answer))
        if status in (401, 403):
            raise self._error(name, "the server denies access", f"status {status}", fix=self._denied_fix)
        raise self._error(name, "the server does not answer with the file", f"status {status}", expected="status 206")

    def _check_tag(self, name: str, answer: Answer) -> None:
        """Hold the strong entity tag (RFC 9110, section 8.8.3) against the first one of this file from this host."""
        tag = answer.headers.get("ETag", "")
        if not tag.startswith('"'):
            return
        with self._lock:
            known = self._tags.setdefault((name, urlsplit(answer.url).netloc), tag)
        if tag != known:
            raise self._error(
                name, "the file changed while it was read", f"ETag {tag:.80}", expected=f"ETag {known:.80}",
                fix="start again when it is not written to any more",
            )  # fmt: skip

    def _be_patient(self) -> None:
        """Wait until the time that the server has named; one refusal holds for all connections."""
        wait = self._not_before - time.monotonic()
        if wait > 0:
            time.sleep(wait)

    def _checked_range(self, name: str, answer: Answer, start: int, stop: int, size: int | None) -> int:
        """Total size by `Content-Range`, after holding it against what was asked."""
        text = answer.headers.get("Content-Range", "")
        match = _CONTENT_RANGE.match(text)
        if match is None:
            raise self._error(name, "a partial answer does not say which part it is", repr(text[:80]))
        first, last, total = int(match[1]), int(match[2]), int(match[3])
        if first != start or last != min(stop, total) - 1:
            raise self._error(
                name, "the server sends another range than was asked for", text, expected=f"bytes {start}-{stop - 1}"
            )
        if size is not None and total != size:
            raise self._error(name, "the file changed while it was read", f"{total} bytes", expected=f"{size} bytes")
        length = _content_length(answer)
        if length is not None and length != last - first + 1:
            raise self._error(
                name,
                "the lengths of the answer contradict each other",
                f"Content-Length {length}",
                expected=f"{last - first + 1} for Content-Range {text}",
            )
        return total

    def _receive(self, answer: Answer, view: memoryview) -> int:
        """Fill a buffer from a body; fewer bytes when the body or the patience ends."""
        done, began = 0, time.monotonic()
        while done < len(view):
            try:
                piece = answer.read_some(len(view) - done)
            except (OSError, http.client.HTTPException):
                return done
            if not piece:
                return done
            view[done : done + len(piece)] = piece
            done += len(piece)
            self._meter.arrive(len(piece))
            seconds = time.monotonic() - began
            if seconds > 30 and done < seconds * MIN_BYTES_PER_SECOND:
                return done
        return done

    def _read_unsized(self, name: str, answer: Answer) -> bytes:
        body = bytearray()
        while piece := answer.read_some(1 << 16):
            self._meter.charge(len(piece), self.place(name))
            body += piece
            if len(body) > MAX_UNSIZED_BYTES:
                raise self._error(name, "the server does not say how large the file is", f"over {len(body)} bytes")
        return bytes(body)

    def _retry(self, name: str, attempt: Callable[[], T], progress: Callable[[], int] = lambda: 0) -> T:
        """Try until it works; attempts that bring no byte are counted, and waited for twice as long each time."""
        n_failed, last_progress = 0, 0
        while True:
            try:
                return attempt()
            except (_Broken, OSError, http.client.HTTPException) as error:
                if isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME:
                    raise self._error(
                        name, "no host of this name can be found", error.strerror, expected="a network that reaches it",
                        fix="check the address and the connection, or download the file and name the copy",
                    ) from error  # fmt: skip
                n_failed = 1 if progress() > last_progress else n_failed + 1
                last_progress = progress()
                if n_failed >= MAX_ATTEMPTS:
                    raise self._error(
                        name,
                        f"the server failed {n_failed} times in a row",
                        f"{type(error).__name__.lstrip('_')}: {error}",
                        expected="an answer",
                        fix="try again later, or download the file and name the copy",
                    ) from error
                asked = getattr(error, "wait", None)
                if asked is not None:
                    self._not_before = max(self._not_before, time.monotonic() + min(asked, MAX_ASKED_SECONDS))
                    self._be_patient()
                else:
                    time.sleep(min(FIRST_WAIT_SECONDS * 2 ** (n_failed - 1), MAX_WAIT_SECONDS))

    def _error(
        self, name: str, what: str, got: object, *, expected: str | None = None, fix: str | None = None
    ) -> SourceError:
        return SourceError(what, where=self.place(name), got=got, expected=expected, fix=fix)


def _pieces(ranges: Sequence[Range]) -> Iterator[Range]:
    """Ranges cut into pieces that are worth one request each."""
    for start, stop, view in ranges:
        for at in range(start, stop, PIECE_BYTES):
            end = min(stop, at + PIECE_BYTES)
            yield at, end, view[at - start : end - start]


def _content_length(answer: Answer) -> int | None:
    text = answer.headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _retry_after(answer: Answer) -> float | None:
    """Seconds of patience that the server asks for, from a number or a date; None where it names none."""
    text = answer.headers.get("Retry-After", "")
    if text.isascii() and text.isdigit() and len(text) < 6:
        return float(text)
    try:
        when = parsedate_to_datetime(text)
        return max(0.0, (when - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def _state(answer: Answer) -> str:
    """What an answer says of the state of its file, before redirects: storage hosts have tags of their own."""
    names = ("X-Linked-ETag", "ETag", "Last-Modified")
    return next((found for name in names if (found := answer.first_headers.get(name, ""))), "")


def open_http(location: str, meter: ByteMeter) -> tuple[HttpSource, str | None]:
    """The source that an http(s) address stands for, and the file that it names, None for a directory."""
    parts = urlsplit(location)
    folder, _, name = parts.path.rpartition("/")
    name = unquote(name)
    if format_of(name) is None and not name.endswith(".index.json"):
        return HttpSource(f"{parts.scheme}://{parts.netloc}{parts.path}", meter), None
    base = f"{parts.scheme}://{parts.netloc}{folder}"
    return HttpSource(base, meter, query=parts.query, named_file=name), name
