"""The server: an address that is bound before the model is read, and a loop that ends when it is asked to."""

from __future__ import annotations

import ipaddress
import socket
from types import FrameType

import uvicorn

from pedigree.errors import InputError
from pedigree.web.application import LOCAL_NAMES, Desk, build_application

GRACE_SECONDS = 5  # for answers that are being made when the server is asked to end


def bind(host: str, port: int) -> socket.socket:
    """A socket on an address; port 0 takes a free one.

    Raises:
        InputError: no such address here, or it is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise InputError(
            "this is no address of this machine", where="--host", got=host, fix="--host 127.0.0.1"
        ) from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise InputError(
            "the address cannot be used",
            where=f"{host}:{port}",
            got=(error.strerror or str(error)).lower(),
            fix="another --port, or --port 0 for a free one",
        ) from error
    return bound


def is_loopback(bound: socket.socket) -> bool:
    """Whether only programs of this machine can reach it."""
    return ipaddress.ip_address(bound.getsockname()[0].partition("%")[0]).is_loopback


def url_of(bound: socket.socket) -> str:
    """The address as a browser takes it."""
    host, port = bound.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def allowed_hosts(bound: socket.socket) -> frozenset[str] | None:
    """Names by which it may be called: those of this machine on a loopback address, else any."""
    if not is_loopback(bound):
        return None
    host = bound.getsockname()[0]
    return LOCAL_NAMES | {f"[{host}]" if ":" in host else host}


class Server(uvicorn.Server):
    """A server that tells its desk when it is asked to end, so that answers stop instead of being cut off."""

    def __init__(self, config: uvicorn.Config, desk: Desk) -> None:
        super().__init__(config)
        self._desk = desk

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take note of a signal."""
        self._desk.closing = True
        super().handle_exit(sig, frame)


def serve(desk: Desk, bound: socket.socket) -> None:
    """Answer until a signal comes; the signal is then passed on.

    Raises:
        KeyboardInterrupt: Ctrl-C.
    """
    config = uvicorn.Config(
        build_application(desk),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        h11_max_incomplete_event_size=32_768,
        http="h11",
        ws="none",
        lifespan="off",
        loop="asyncio",
    )
    try:
        Server(config, desk).run(sockets=[bound])
    finally:
        desk.speaker.close()
        bound.close()
