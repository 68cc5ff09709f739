"""hf:// locations against a local server that stands in for the Hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from range_server import RangeServer
from weight_examples import example_tensors, same, write_model, write_shards

from pedigree.errors import MissingInput, SourceError, UsageError
from pedigree.weights import http_source
from pedigree.weights.checkpoint import open_checkpoint
from pedigree.weights.hub import open_hub
from pedigree.weights.meter import ByteMeter

TENSORS = example_tensors()
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RangeServer]:
    """Serves org/name at main and v2; files lie where the Hub has them."""
    write_model(tmp_path / "org/name/resolve/main", TENSORS)
    write_shards(tmp_path / "org/name/resolve/v2/sub/folder", TENSORS)
    monkeypatch.setattr(http_source, "FIRST_WAIT_SECONDS", 0.001)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with RangeServer(tmp_path) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.mark.parametrize(
    "location",
    [
        "hf://org/name",
        "hf://org/name/",
        "hf://org/name@main",
        "hf://org/name/model.safetensors",
        "hf://org/name@v2/sub/folder",
        "hf://org/name@v2/sub/folder/model.safetensors.index.json",
    ],
)
def test_a_repository_a_revision_and_a_path_are_read(hub: RangeServer, location: str) -> None:
    with open_checkpoint(location) as ck:
        assert ck.location == location
        assert ck.config == {"model_type": "llama"}
        for name, tensor in TENSORS.items():
            assert same(ck.read(name), tensor)


def test_the_listing_finds_a_file_of_any_name(hub: RangeServer) -> None:
    folder = hub.folder / "org/name/resolve/main"
    (folder / "model.safetensors").rename(folder / "odd.safetensors")
    entries = [
        {"type": "directory", "path": "sub"},
        {"type": "file", "path": "config.json"},
        {"type": "file", "path": "odd.safetensors"},
    ]
    hub.bodies["/api/models/org/name/tree/main"] = json.dumps(entries).encode()
    with open_checkpoint("hf://org/name") as ck:
        assert {info.file for info in ck.tensors.values()} == {"odd.safetensors"}


@pytest.mark.parametrize("listing", [b"{", b"[1]", b'[{"type": "file"}]', b"\xff"])
def test_a_damaged_listing_is_a_source_error(hub: RangeServer, listing: bytes) -> None:
    hub.bodies["/api/models/org/name/tree/main"] = listing
    with pytest.raises(SourceError, match="listing is not readable"):
        open_checkpoint("hf://org/name")


def test_the_revision_is_pinned_to_the_commit_of_the_first_answer(hub: RangeServer) -> None:
    folder = hub.folder / "org/name/resolve"
    (folder / COMMIT).symlink_to(folder / "main")
    hub.headers["X-Repo-Commit"] = COMMIT
    with open_checkpoint("hf://org/name") as ck:
        ck.read("norm.weight")
        assert ck.sibling_bytes("config.json", 1000) is not None
    paths = [path for path, *_ in hub.log if "/resolve/" in path]
    assert f"/org/name/resolve/{COMMIT}/config.json" in paths
    assert sum("/main/" in path for path in paths) <= 1


def test_the_token_goes_to_the_hub_and_not_to_where_it_redirects(
    hub: RangeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    path = "/org/name/resolve/main/model.safetensors"
    with RangeServer(hub.folder) as storage:
        hub.faults[path] = [f"always redirect {storage.url}{path}"]
        with open_checkpoint("hf://org/name") as ck:
            assert same(ck.read("embed.weight"), TENSORS["embed.weight"])
        assert {authorization for _, _, authorization, _ in hub.log} == {"Bearer hf_secret"}
        assert {authorization for _, _, authorization, _ in storage.log} == {None}


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_model_says_how_to_get_in(hub: RangeServer, status: int) -> None:
    hub.faults["/api/models/org/name/tree/main"] = [f"always status {status}"]
    with pytest.raises(SourceError, match="denies access") as caught:
        open_checkpoint("hf://org/name")
    assert "HF_TOKEN" in (caught.value.fix or "")


def test_a_repository_without_weights_is_missing_input(hub: RangeServer) -> None:
    with pytest.raises(MissingInput, match="no weight files"):
        open_checkpoint("hf://org/other")


@pytest.mark.parametrize("location", ["hf://", "hf:///x", "hf://org/name@", "hf://org/name/../x", "hf://org/na me"])
def test_a_location_that_is_not_one_is_a_usage_error(location: str) -> None:
    with pytest.raises(UsageError, match="hf://org/name"):
        open_hub(location, ByteMeter())


def test_pull_request_revisions_are_understood(hub: RangeServer) -> None:
    source, name = open_hub("hf://org/name@refs/pr/7/sub/model.gguf", ByteMeter())
    assert name == "model.gguf"
    assert source.url(name) == f"{hub.url}/org/name/resolve/refs%2Fpr%2F7/sub/model.gguf"
