"""`pedigree serve`: its options here, its endpoints in tests/web; once it is really started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from small_family import MAIN, ROOT
from speaking_models import write_speaker
from tests.cli.conftest import Ran

from pedigree.web import server
from pedigree.web.application import LOCAL_NAMES, Desk

Pedigree = Callable[..., Ran]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_speaker(tmp_path_factory.mktemp("serve") / "pico"))


@pytest.fixture
def desks(monkeypatch: pytest.MonkeyPatch) -> list[Desk]:
    """The desks that were to be served; nothing is."""
    found: list[Desk] = []
    monkeypatch.setattr(server, "serve", lambda desk, _: found.append(desk))
    return found


def test_it_says_where_it_is_and_listens_on_this_machine_only(
    pedigree: Pedigree, desks: list[Desk], model: str
) -> None:
    ran = pedigree("serve", model, "--port", "0")
    assert ran.code == 0
    assert ran.out.startswith("serving pico at http://127.0.0.1:")
    assert ran.err == "Ctrl-C ends it\n"
    assert desks[0].hosts == LOCAL_NAMES


def test_an_open_address_is_warned_of(pedigree: Pedigree, desks: list[Desk], model: str) -> None:
    ran = pedigree("serve", model, "--port", "0", "--host", "0.0.0.0", "--json")
    assert ran.code == 0
    assert "can be reached by other machines" in ran.err
    assert json.loads(ran.out)["result"]["model"] == "pico"
    assert desks[0].hosts is None


def test_every_option_has_its_variable(
    pedigree: Pedigree, desks: list[Desk], model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "PEDIGREE_NAME": "moon",
        "PEDIGREE_HOST": "localhost",
        "PEDIGREE_PORT": "0",
        "PEDIGREE_MAX_CONCURRENT": "3",
        "PEDIGREE_MAX_TOKENS": "77",
        "PEDIGREE_MAX_BODY": "5kB",
        "PEDIGREE_QUIET": "1",
    }.items():
        monkeypatch.setenv(name, value)
    ran = pedigree("serve", model)
    assert ran.out.startswith("http://")
    assert ran.err == ""
    desk = desks[0]
    assert (desk.speaker.name, desk.max_concurrent) == ("moon", 3)
    assert (desk.limits.max_tokens, desk.limits.max_body) == (77, 5000)


def test_a_taken_port_is_told_before_the_model_is_read(pedigree: Pedigree, desks: list[Desk], tmp_path: Path) -> None:
    with server.bind("127.0.0.1", 0) as bound:
        bound.listen()
        ran = pedigree("serve", str(tmp_path), "--port", str(bound.getsockname()[1]))
    assert ran.code == 2
    assert "error: the address cannot be used" in ran.err
    assert "fix: another --port" in ran.err


def test_without_its_libraries_it_says_how_to_get_them(
    pedigree: Pedigree, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("pedigree.web.")]:
        monkeypatch.delitem(sys.modules, name)

    class Absent:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "fastapi":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    for name in [name for name in sys.modules if name.partition(".")[0] == "fastapi"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    ran = pedigree("serve", model)
    assert ran.code == 2
    assert "the libraries of the server are not installed" in ran.err
    assert "fix: pip install 'llm-pedigree[web]'" in ran.err


# -- really started ---------------------------------------------------------------------------------------------------


@contextmanager
def started(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server in a process of its own, and its address."""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    line = [sys.executable, "-c", MAIN, "serve", str(folder), "--port", "0", "--json", *arguments]
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, start_new_session=True
    ) as process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())["result"]["url"]
        finally:
            process.kill()


def ask(url: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """An open answer; its errors are raised by urllib."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data, {"Content-Type": "application/json"})
    return urllib.request.urlopen(request, timeout=30)


def test_it_serves_streams_stops_and_leaves_when_told(tmp_path: Path) -> None:
    with started(write_speaker(tmp_path / "pico", context=20_000), "--max-tokens", "15000") as (process, url):
        with ask(url, "") as page:
            assert "<title>pico" in page.read().decode()
        body = {"model": "pico", "messages": [{"role": "user", "content": "the moon"}], "max_tokens": 5, "seed": 1}
        with ask(url, "v1/chat/completions", body) as answer:
            assert json.load(answer)["usage"]["completion_tokens"] == 5
        with ask(url, "v1/chat/completions", {**body, "stream": True}) as answer:
            lines = [line for line in answer.read().decode().split("\n\n") if line]
            assert lines[-1] == "data: [DONE]"
        with pytest.raises(urllib.error.HTTPError, match="404") as told:
            ask(url, "v1/chat/completions", {**body, "model": "other"})
        with told.value as refused:
            assert json.load(refused)["error"]["code"] == "model_not_found"

        # A client that leaves: its answer stops, its place is free again.
        with ask(url, "v1/chat/completions", {**body, "stream": True, "max_tokens": 15_000}) as answer:
            assert answer.readline().startswith(b"data: ")
            assert running(url) == 1
        limit = time.monotonic() + 20
        while running(url):
            assert time.monotonic() < limit, "the answer goes on without a reader"
            time.sleep(0.1)

        # Ctrl-C as a terminal sends it, while an answer is being made.
        with ask(url, "v1/chat/completions", {**body, "stream": True, "max_tokens": 15_000}) as answer:
            assert answer.readline().startswith(b"data: ")
            os.killpg(process.pid, signal.SIGINT)
            assert b"shutting_down" in answer.read()
        assert process.wait(30) == 130
        assert process.stderr is not None
        told_last = process.stderr.read()
        assert "interrupted: nothing was written; the same command starts again" in told_last
        assert "Traceback" not in told_last
        assert "the moon" not in told_last


def running(url: str) -> int:
    with ask(url, "health") as answer:
        return int(json.load(answer)["running"])
