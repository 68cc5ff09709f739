"""One GET over HTTP, with redirects, proxies from the environment, and connections kept open for the next.

The standard library does it: the answers of strangers are checked by us (`http_source`), so nothing here retries,
decompresses, caches or reads a body by itself.
"""

from __future__ import annotations

import base64
import http.client
import ssl
import threading
import urllib.request
from collections.abc import Mapping
from types import TracebackType
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from pedigree.errors import SourceError, UsageError

TIMEOUT_SECONDS = 30.0
MAX_REDIRECTS = 6
_REDIRECTS = (301, 302, 303, 307, 308)

Key = tuple[str, str, int]


class Answer:
    """The head of an answer; the body is read by the caller, then `release` or leave the `with` block.

    Attributes:
        status: HTTP status, never a redirect.
        headers: of the last answer.
        url: where the answer came from, after redirects.
        first_headers: of the first answer, before redirects.
    """

    def __init__(
        self,
        pool: HttpPool,
        key: Key,
        connection: http.client.HTTPConnection,
        response: http.client.HTTPResponse,
        url: str,
        first_headers: http.client.HTTPMessage,
    ) -> None:
        self.status = response.status
        self.headers = response.headers
        self.url = url
        self.first_headers = first_headers
        self._pool, self._key, self._connection, self._response = pool, key, connection, response

    def read_some(self, n_bytes: int) -> bytes:
        """What one receive brings, up to `n_bytes`; empty at the end of the body."""
        return self._response.read1(n_bytes)

    def __enter__(self) -> Answer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._response.length == 0:
            self._response.read()  # reads nothing, and tells the response that it is over
        # A body that was not read to its end would be taken for the next answer.
        if kind is None and self._response.isclosed():
            self._pool.give_back(self._key, self._connection)
        else:
            self._response.close()
            self._connection.close()


class HttpPool:
    """Connections by host, given to one thread at a time."""

    def __init__(self) -> None:
        self._idle: dict[Key, list[http.client.HTTPConnection]] = {}
        self._lock = threading.Lock()
        self._proxies: dict[Key, SplitResult | None] = {}
        self._tls: ssl.SSLContext | None = None

    def get(self, url: str, headers: Mapping[str, str], private_headers: Mapping[str, str]) -> Answer:
        """Ask for an address and follow redirects.

        Args:
            url: http or https.
            headers: sent to everybody.
            private_headers: credentials; sent to the host of `url` only, over the same scheme, not where it redirects.

        Raises:
            SourceError: too many redirects, or one to another scheme or from https to http.
            OSError, http.client.HTTPException: the connection failed.
        """
        home = urlsplit(url)
        first: http.client.HTTPMessage | None = None
        for _ in range(MAX_REDIRECTS + 1):
            parts = urlsplit(url)
            at_home = (parts.scheme, parts.netloc) == (home.scheme, home.netloc)
            answer = self._ask(url, {**headers, **(private_headers if at_home else {})}, first)
            first = answer.first_headers
            target = answer.headers.get("Location")
            if answer.status not in _REDIRECTS or target is None:
                return answer
            with answer:
                drain(answer)
            url = _redirected(url, target)
        raise SourceError("too many redirects", where=plain_url(home.geturl()), expected=f"{MAX_REDIRECTS} or fewer")

    def give_back(self, key: Key, connection: http.client.HTTPConnection) -> None:
        """Keep a connection whose answer was read to its end."""
        with self._lock:
            self._idle.setdefault(key, []).append(connection)

    def close(self) -> None:
        """Close the connections that are not in use."""
        with self._lock:
            for connections in self._idle.values():
                for connection in connections:
                    connection.close()
            self._idle.clear()

    def _ask(self, url: str, headers: dict[str, str], first: http.client.HTTPMessage | None) -> Answer:
        parts = urlsplit(url)
        key = _key(parts)
        with self._lock:
            if key not in self._proxies:
                self._proxies[key] = _proxy(parts)
            proxy = self._proxies[key]
            idle = self._idle.get(key)
            kept = idle.pop() if idle else None
        target = (
            url if proxy and parts.scheme == "http" else (parts.path or "/") + (f"?{parts.query}" * bool(parts.query))
        )
        for connection in (kept, None):
            fresh = connection is None
            if connection is None:
                connection = self._connect(key, proxy)
            try:
                connection.request("GET", target, headers=headers)
                response = connection.getresponse()
            except (OSError, http.client.HTTPException):
                connection.close()
                # The other side may have closed a kept connection meanwhile: that says nothing about the server.
                if fresh:
                    raise
                continue
            return Answer(self, key, connection, response, url, first or response.headers)
        raise SourceError("no connection", where=plain_url(url))

    def _connect(self, key: Key, proxy: SplitResult | None) -> http.client.HTTPConnection:
        scheme, host, port = key
        headers: dict[str, str] = {}
        if proxy is not None and proxy.username is not None:
            pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}".encode()
            headers["Proxy-Authorization"] = "Basic " + base64.b64encode(pair).decode("ascii")
        at = (host, port) if proxy is None else (str(proxy.hostname), proxy.port or 80)
        if scheme == "http":
            return http.client.HTTPConnection(*at, timeout=TIMEOUT_SECONDS)
        with self._lock:
            self._tls = self._tls or ssl.create_default_context()
        connection = http.client.HTTPSConnection(*at, timeout=TIMEOUT_SECONDS, context=self._tls)
        if proxy is not None:
            connection.set_tunnel(host, port, headers)
        return connection


def drain(answer: Answer, max_bytes: int = 65_536) -> None:
    """Read a short body to its end, so that its connection can be kept."""
    left = max_bytes
    while left > 0:
        piece = answer.read_some(left)
        if not piece:
            return
        left -= len(piece)


def plain_url(url: str) -> str:
    """An address without its query, which may hold a signature, for messages."""
    return url.split("?", 1)[0]


def _key(parts: SplitResult) -> Key:
    try:
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError("the address is not valid", where=plain_url(parts.geturl()), got=str(error)) from error
    if parts.scheme not in ("http", "https") or not host:
        raise UsageError("the address is not valid", where=plain_url(parts.geturl()), expected="https://host/path")
    if parts.username is not None:
        raise UsageError("credentials in an address", where=host, expected="an address without user and password")
    return parts.scheme, host, port or (443 if parts.scheme == "https" else 80)


def _proxy(parts: SplitResult) -> SplitResult | None:
    if urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    address = urllib.request.getproxies().get(parts.scheme)
    return urlsplit(address if "//" in address else f"//{address}") if address else None


def _redirected(url: str, target: str) -> str:
    new = urljoin(url, target)
    old_scheme, new_scheme = urlsplit(url).scheme, urlsplit(new).scheme
    if new_scheme not in ("http", "https") or (old_scheme == "https" and new_scheme == "http"):
        raise SourceError(
            "a redirect to an unsafe scheme", where=plain_url(url), got=new_scheme or "none", expected=old_scheme
        )
    return new
