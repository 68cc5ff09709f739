"""Checkpoints behind a local HTTP server, an honest one and ones with every fault we know."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
import torch
from range_server import RangeServer
from safetensors.torch import save_file
from weight_examples import example_tensors, open_and_read_all, same, write_model, write_shards

from pedigree.errors import (
    BudgetExceeded,
    MalformedFile,
    MissingInput,
    SourceError,
    UnsafeFile,
    UsageError,
)
from pedigree.weights import http_source
from pedigree.weights.checkpoint import open_checkpoint
from pedigree.weights.http_connection import _redirected

TENSORS = {**example_tensors(), "large": torch.randn(3000, 64)}
FILE = "/model.safetensors"


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_source, "FIRST_WAIT_SECONDS", 0.001)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RangeServer]:
    with RangeServer(write_model(tmp_path / "served", TENSORS)) as running:
        yield running


@pytest.mark.parametrize("form", ["directory", "file", "index", "directory without index"])
def test_every_remote_form_gives_the_same_tensors(tmp_path: Path, form: str) -> None:
    plain, sharded = write_model(tmp_path / "plain", TENSORS), write_shards(tmp_path / "sharded", TENSORS, 3)
    with RangeServer(tmp_path) as server:
        location = {
            "directory": f"{server.url}/{plain.name}",
            "file": f"{server.url}/{plain.name}/model.safetensors?signature=1",
            "index": f"{server.url}/{sharded.name}/model.safetensors.index.json",
            "directory without index": f"{server.url}/{sharded.name}/",
        }[form]
        with open_checkpoint(location) as ck:
            assert ck.config == {"model_type": "llama"}
            for name, tensor in TENSORS.items():
                assert same(ck.read(name), tensor), name
            assert same(ck.read_index("large", [2999, 0, 0, 7]), TENSORS["large"][[2999, 0, 0, 7]])


def test_the_meter_counts_what_the_server_sent(server: RangeServer) -> None:
    with open_checkpoint(server.url) as ck:
        ck.read_rows("large", 100, 200)
        ck.read_index("large", [1, 500, 501, 2000])
        assert ck.meter.read == server.sent
        assert ck.meter.total == (server.folder / "model.safetensors").stat().st_size
        assert server.sent < ck.meter.total / 10


def test_remote_and_local_reads_have_the_same_digests(server: RangeServer) -> None:
    with open_checkpoint(server.url) as remote, open_checkpoint(server.folder) as local:
        for ck in (remote, local):
            ck.read_index("large", [5, 3, 900])
            ck.read("norm.weight")
        assert remote.read_digest() == local.read_digest()
        assert remote.header_digest() == local.header_digest()


def test_neighbors_share_a_request_and_far_rows_do_not(server: RangeServer) -> None:
    with open_checkpoint(server.url) as ck:
        before = len(server.log)
        ck.read_index("large", [1000, 1001, 1003, 2000, 2002])
        assert len(server.log) - before == 2


def test_a_read_is_counted_against_the_budget_before_it_is_sent(server: RangeServer) -> None:
    with open_checkpoint(server.url, budget_bytes=20_000) as ck:
        n_answers = len(server.log)
        with pytest.raises(BudgetExceeded, match=r"model\.safetensors"):
            ck.read("large")
        assert len(server.log) == n_answers


def test_gguf_and_torch_files_are_read_in_place_too(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_token_list([f"token {i}" for i in range(60_000)])
    writer.add_tensor("w", TENSORS["large"].numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    torch.save({"state_dict": {"w": TENSORS["large"], "t": TENSORS["large"].t()}}, tmp_path / "m.pt")
    (tmp_path / "config.json").write_text("{}")
    with RangeServer(tmp_path) as server:
        for name in ("m.gguf", "m.pt"):
            with open_checkpoint(f"{server.url}/{name}", allow_pickle=True) as ck:
                assert same(ck.read_rows("w", 10, 2000), TENSORS["large"][10:2000])
                assert ck.meter.read == server.sent
                if name == "m.pt":
                    assert same(ck.read("t"), TENSORS["large"].t().contiguous())
            server.log.clear()


@pytest.mark.parametrize(
    "faults",
    [
        ["reset"],
        ["reset", "reset", "reset", "reset"],
        ["status 429"],
        ["status 503", "status 502", "status 500"],
        ["chunked"],
        ["status 429", "reset", "status 503", "reset"],
    ],
)
def test_passing_faults_are_waited_for(server: RangeServer, faults: list[str]) -> None:
    with open_checkpoint(server.url) as ck:
        server.faults[FILE] = list(faults)
        assert same(ck.read("large"), TENSORS["large"])
        assert server.faults[FILE] == []


@pytest.mark.parametrize("date", [False, True])
def test_a_server_that_asks_for_patience_gets_it_on_all_connections(
    server: RangeServer, monkeypatch: pytest.MonkeyPatch, date: bool
) -> None:
    waited: list[float] = []
    clock = [1000.0]

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr(http_source.time, "sleep", sleep)
    monkeypatch.setattr(http_source.time, "monotonic", lambda: clock[0])
    asked = format_datetime(datetime.now(UTC) + timedelta(seconds=121), usegmt=True) if date else "120"
    with open_checkpoint(server.url) as ck:
        server.faults[FILE] = [f"patience {asked}"]
        assert same(ck.read("large"), TENSORS["large"])
        assert sum(waited) == pytest.approx(120, abs=3)
        server.faults[FILE] = ["patience 9999"]
        waited.clear()
        ck.read("norm.weight")
        assert sum(waited) == http_source.MAX_ASKED_SECONDS


@pytest.mark.parametrize(
    ("tags", "ends"), [(('"a"', '"b"'), True), (('"a"', '"a"'), False), (('W/"a"', 'W/"b"'), False)]
)
def test_a_file_whose_tag_changes_is_not_read_on(server: RangeServer, tags: tuple[str, str], ends: bool) -> None:
    with open_checkpoint(server.url) as ck:
        server.faults[FILE] = [f"tag {tag}" for tag in tags]
        ck.read_rows("large", 1000, 1010)
        if not ends:
            assert same(ck.read_rows("large", 2000, 2010), TENSORS["large"][2000:2010])
            return
        with pytest.raises(SourceError, match="changed while it was read") as caught:
            ck.read_rows("large", 2000, 2010)
        assert (caught.value.got, caught.value.expected) == ('ETag "b"', 'ETag "a"')


def test_the_stamp_of_a_checkpoint_is_the_servers_tag(server: RangeServer) -> None:
    stamps = []
    for tag in ('"a"', '"a"', '"b"'):
        server.faults[FILE] = [f"always tag {tag}"]
        with open_checkpoint(server.url) as ck:
            stamps.append(ck.stamp())
    assert stamps[0] == stamps[1] != stamps[2]


def test_bytes_are_told_as_they_arrive_on_a_slow_link(server: RangeServer) -> None:
    with open_checkpoint(server.url) as ck:
        arrived: list[int] = []
        ck.meter.on_arrival = lambda: arrived.append(ck.meter.arrived)
        before = ck.meter.arrived
        server.faults[FILE] = ["drip"]
        ck.read("large")
        assert len(arrived) >= 4
        assert arrived == sorted(arrived)
        assert arrived[-1] - before == 3000 * 64 * 4


def test_a_short_range_is_asked_for_once_and_a_long_one_each_time(server: RangeServer) -> None:
    with open_checkpoint(server.url) as ck:
        before = len(server.log)
        for _ in range(3):
            assert same(ck.read_rows("large", 2000, 2010), TENSORS["large"][2000:2010])
        assert len(server.log) - before == 1
        assert ck.meter.read == server.sent
        for _ in range(2):
            ck.read("large")
        assert len(server.log) - before == 3


def test_a_broken_answer_is_continued_and_counted_once(server: RangeServer) -> None:
    with open_checkpoint(server.url) as ck:
        before, sent = ck.meter.read, server.sent
        server.faults[FILE] = ["reset", "reset"]
        ck.read("large")
        assert ck.meter.read - before == server.sent - sent == 3000 * 64 * 4


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("always status 429", "failed 5 times in a row"),
        ("always status 500", "failed 5 times in a row"),
        ("always no-ranges", "does not honor ranges"),
        ("always other-range", "another range"),
        ("always no-content-range", "which part it is"),
        ("always short-length", "contradict each other"),
        ("always long-length", "contradict each other"),
        ("always grown", "changed while it was read"),
        ("always gzip", "compresses the file"),
        ("always status 401", "denies access"),
        ("always status 403", "denies access"),
        ("always status 404", "does not answer with the file"),
        ("always status 416", "does not answer with the file"),
        ("always redirect ftp://127.0.0.1/x", "unsafe scheme"),
        ("always redirect file:///etc/passwd", "unsafe scheme"),
        ("always redirect /model.safetensors", "too many redirects"),
    ],
)
def test_lasting_faults_end_in_one_sentence(server: RangeServer, fault: str, words: str) -> None:
    with open_checkpoint(server.url) as ck:
        server.faults[FILE] = [fault]
        with pytest.raises(SourceError, match=words) as caught:
            ck.read("large")
        assert "127.0.0.1" in (caught.value.where or "")


@pytest.mark.parametrize("fault", ["no-ranges", "grown", "gzip", "other-range", "short-length", "long-length", "reset"])
def test_faults_at_opening_end_in_one_sentence_or_in_the_right_tensors(server: RangeServer, fault: str) -> None:
    server.faults[FILE] = [f"always {fault}"]
    error = open_and_read_all(server.url)
    assert error is None or isinstance(error, SourceError | MalformedFile)


def test_a_server_without_ranges_gives_small_files_and_refuses_slices(server: RangeServer) -> None:
    server.faults = {FILE: ["always no-ranges"], "/config.json": ["always no-ranges"]}
    with open_checkpoint(server.url) as ck:
        assert ck.config == {"model_type": "llama"}
        with pytest.raises(SourceError, match="does not honor ranges") as caught:
            ck.read_rows("large", 2900, 3000)
        assert caught.value.fix == "download the file and name the copy"


def test_a_place_without_weights_lists_the_names_it_asked_for(tmp_path: Path) -> None:
    with RangeServer(tmp_path) as server, pytest.raises(MissingInput, match=r"model\.safetensors or"):
        open_checkpoint(server.url)


def test_a_file_that_is_not_there_is_missing(server: RangeServer) -> None:
    with pytest.raises(MissingInput, match=r"other\.safetensors"):
        open_checkpoint(f"{server.url}/other.safetensors")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "m", TENSORS, 3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with RangeServer(folder) as server, pytest.raises(MissingInput, match="model-00002-of-00003"):
        open_checkpoint(server.url)


def test_an_index_cannot_climb_out_of_its_directory(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    save_file({"x": torch.ones(2)}, tmp_path / "secret.safetensors")
    index = {"weight_map": {"x": "../secret.safetensors"}}
    (tmp_path / "m" / "model.safetensors.index.json").write_text(json.dumps(index))
    with RangeServer(tmp_path) as server, pytest.raises(UnsafeFile, match="leaves its directory"):
        open_checkpoint(f"{server.url}/m")


def test_an_empty_file_is_too_short_and_not_a_crash(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with RangeServer(tmp_path) as server, pytest.raises(MalformedFile, match="too short"):
        open_checkpoint(server.url)


@pytest.mark.parametrize("target", ["http://example.org/x", "//example.org:1/x", "ftp://example.org/x", "javascript:x"])
def test_a_redirect_never_leaves_https(target: str) -> None:
    if target.startswith("//"):
        assert _redirected("https://example.com/a", target) == f"https:{target}"
        return
    with pytest.raises(SourceError, match="unsafe scheme"):
        _redirected("https://example.com/a", target)


def test_a_redirected_file_is_asked_for_at_its_new_place(server: RangeServer, tmp_path: Path) -> None:
    with RangeServer(server.folder) as storage:
        server.faults[FILE] = [f"always redirect {storage.url}{FILE}"]
        with open_checkpoint(server.url) as ck:
            for row in range(0, 3000, 300):
                assert same(ck.read_rows("large", row, row + 1), TENSORS["large"][row : row + 1])
        assert [path for path, *_ in server.log].count(FILE) == 1


def test_many_threads_share_the_connections(server: RangeServer) -> None:
    with open_checkpoint(server.url) as ck, ThreadPoolExecutor(8) as pool:
        rows = list(range(0, 3000, 40))
        got = list(pool.map(lambda row: ck.read_index("large", [row, (row + 1500) % 3000]), rows))
        assert all(same(g, TENSORS["large"][[r, (r + 1500) % 3000]]) for g, r in zip(got, rows, strict=True))


def test_a_server_that_is_not_there_is_a_source_error() -> None:
    with pytest.raises(SourceError, match="failed 5 times in a row"):
        open_checkpoint("http://127.0.0.1:1/model.safetensors")


def test_a_host_of_no_known_name_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        asked.append(1)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    asked: list[int] = []
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(SourceError, match="no host of this name can be found") as caught:
        open_checkpoint("http://models.invalid/model.safetensors")
    assert len(asked) == 1
    assert "check the address and the connection" in str(caught.value.fix)


@pytest.mark.parametrize(
    "url", ["http://user:secret@127.0.0.1/m.safetensors", "http:///m.safetensors", "http://h:x/m.gguf"]
)
def test_addresses_that_cannot_be_right_are_refused(url: str) -> None:
    with pytest.raises(UsageError, match="address") as caught:
        open_checkpoint(url)
    assert "secret" not in str(caught.value)


def test_signatures_in_addresses_stay_out_of_messages(server: RangeServer) -> None:
    server.faults[FILE] = ["always status 403"]
    with pytest.raises(SourceError, match="denies access") as caught:
        open_checkpoint(f"{server.url}{FILE}?token=secret")
    assert "secret" not in str(caught.value.to_dict())


def test_proxies_of_the_environment_are_used(server: RangeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("no_proxy", "")
    # The stand-in for a proxy serves the path of the address that it is asked for.
    with open_checkpoint("http://weights.example/model.safetensors") as ck:
        assert same(ck.read("norm.weight"), TENSORS["norm.weight"])
