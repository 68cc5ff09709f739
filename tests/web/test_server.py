"""Addresses: which are taken, who can reach them, by which names."""

from __future__ import annotations

import socket

import pytest

from pedigree.errors import InputError
from pedigree.web.server import allowed_hosts, bind, is_loopback, url_of


def test_a_free_port_is_found() -> None:
    with bind("127.0.0.1", 0) as bound:
        assert url_of(bound) == f"http://127.0.0.1:{bound.getsockname()[1]}/"
        assert is_loopback(bound)
        assert allowed_hosts(bound) == {"localhost", "127.0.0.1", "[::1]"}


def test_a_taken_port_is_told() -> None:
    with bind("127.0.0.1", 0) as bound:
        bound.listen()
        with pytest.raises(InputError, match="cannot be used"):
            bind("127.0.0.1", bound.getsockname()[1])


@pytest.mark.parametrize("host", ["203.0.113.7", "no such name", "x" * 300])
def test_an_address_of_another_machine_is_told(host: str) -> None:
    with pytest.raises(InputError, match="address"):
        bind(host, 0)


def test_an_open_address_is_not_taken_for_a_closed_one() -> None:
    with bind("0.0.0.0", 0) as bound:
        assert not is_loopback(bound)
        assert allowed_hosts(bound) is None


def test_the_newer_protocol_has_brackets() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        bound = bind("::1", 0)
    except InputError:
        pytest.skip("no IPv6 here")
    with bound:
        assert url_of(bound).startswith("http://[::1]:")
        assert is_loopback(bound)
