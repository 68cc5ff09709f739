"""Many models at once: processes of this machine and a Ray cluster give what one process gives, whatever dies."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.forensics.merge_shop import Shop

from pedigree.errors import UsageError
from pedigree.forensics.scanning import fleet
from pedigree.forensics.scanning.fleet import Outcome, Task, carry_out, carry_out_all
from pedigree.forensics.scanning.library import open_library
from pedigree.forensics.scanning.scan import scan
from pedigree.forensics.spread import RAY_WITHOUT_REPORTS, has_ray
from pedigree.forensics.trees.family_tree import grow_tree

NAMES = ("base", "A", "B", "stranger")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Four small models, a file that is none, and a place where nothing is."""
    shop = Shop(tmp_path_factory.mktemp("shop"))
    models = [str(shop.path(name)) for name in NAMES]
    bad = shop.folder / "bad.safetensors"
    bad.write_bytes(b"\xff" * 100)
    return [*models, str(bad), "/nowhere"]


@pytest.fixture(scope="module")
def alone(places: list[str]) -> dict[str, Outcome]:
    return {place: carry_out(Task(place)) for place in places}


def check(found: dict[str, Outcome], alone: dict[str, Outcome]) -> None:
    assert found.keys() == alone.keys()
    for place, outcome in found.items():
        assert outcome.made == alone[place].made
        assert outcome.error == alone[place].error
    assert sum(outcome.error is not None for outcome in found.values()) == 2


def test_processes_give_the_same_bytes_as_one(places: list[str], alone: dict[str, Outcome]) -> None:
    found = {outcome.location: outcome for outcome in carry_out_all([Task(place) for place in places], workers=2)}
    check(found, alone)


def die_on_b(task: Task) -> Outcome:
    """As a process does that the system ends for want of memory."""
    if Path(task.location).name == "B":
        os._exit(137)
    return carry_out(task)


@pytest.mark.slow
def test_a_worker_that_dies_costs_its_model_alone(places: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "carry_out", die_on_b)
    found = list(carry_out_all([Task(place) for place in places[:4]], workers=2))
    errors = {Path(outcome.location).name: outcome.error for outcome in found}
    assert len(found) == len(errors) == 4
    assert "ended by the system" in (errors.pop("B") or "")
    assert set(errors.values()) == {None}


def test_a_fault_of_ours_is_said_beside_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "load", lambda *a, **k: {}["no such role"])
    assert carry_out(Task("model")).error == "could not be read: KeyError: 'no such role'"


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pedigree.forensics.spread.has_ray", lambda: False)
    with pytest.raises(UsageError, match="Ray is not installed") as caught:
        list(carry_out_all([Task("model")], address="local"))
    assert "llm-pedigree[fleet]" in (caught.value.fix or "")


def test_a_file_that_was_written_anew_is_read_again_though_its_header_is_the_same(tmp_path: Path) -> None:
    own = Shop(tmp_path / "own")
    place, other = own.path("A"), own.path("B")
    with open_library(tmp_path / "lib", create=True) as library:
        first = library.add([str(place)])[0]
        assert library.add([str(place)])[0] == first
        (place / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
        second = library.add([str(place)])[0]
    assert second.header_digest == first.header_digest
    assert second.digest != first.digest


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster of two nodes of one processor each, on this machine."""
    if not has_ray():
        pytest.skip("the extra `fleet` is not installed")
    os.environ.update(RAY_WITHOUT_REPORTS)
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}
    running = Cluster(initialize_head=True, head_node_args=small)
    running.add_node(num_cpus=1, object_store_memory=100 << 20)
    yield running.address
    running.shutdown()


@pytest.mark.slow
def test_two_nodes_share_the_work_and_a_second_run_reads_nothing(
    cluster: str, places: list[str], alone: dict[str, Outcome], tmp_path: Path
) -> None:
    found = {outcome.location: outcome for outcome in carry_out_all([Task(p) for p in places], address=cluster)}
    check(found, alone)
    assert len({outcome.node for outcome in found.values()}) == 2
    told: list[tuple[float, str]] = []
    with open_library(tmp_path / "lib", create=True) as library:
        library.add(places[:2])
        entries = library.add(places, fleet=cluster, tell=lambda stage, share, words: told.append((share, words)))
        assert [entry.error is None for entry in entries] == [True] * 4 + [False] * 2
        again = carry_out_all([t for p in places if (t := library._task(p, False, False))], address=cluster)
        assert [outcome.made for outcome in again] == [None] * 4
    assert told[0] == (0.0, "0 of 6 models are there")
    assert told[-1][0] == 1.0
    assert told[-1][1].startswith("6 of 6 models; ")


@pytest.mark.slow
def test_a_tree_and_a_scan_on_two_nodes_are_those_of_one_process(
    cluster: str, places: list[str], tmp_path: Path
) -> None:
    """Both go on from what was kept, and a file that is no model stops neither."""
    kept = tmp_path / "pairs.jsonl"
    here, there = grow_tree(places[:5]), grow_tree(places[:5], fleet=cluster, keep=kept)
    assert there.result.model_copy(update={"seconds": 0.0}) == here.result.model_copy(update={"seconds": 0.0})
    assert len(there.result.not_compared) == 1
    assert len(kept.read_text().splitlines()) == 6
    with open_library(tmp_path / "lib", create=True) as library:
        library.add(places[:4])
        alone = scan(places[1], library, candidates=4, confirm=4)
        comparisons = tmp_path / "scan.jsonl"
        fleet_scan = scan(places[1], library, candidates=4, confirm=4, fleet=cluster, keep=comparisons)
        again = scan(places[1], library, candidates=4, confirm=4, fleet="nowhere:1", keep=comparisons)
    assert sum('"schema":"pedigree/comparison"' in line for line in comparisons.read_text().splitlines()) == 4
    for one in (fleet_scan, again):
        assert one.result.relatives == alone.result.relatives
        assert one.result.others == alone.result.others


def test_an_address_where_no_cluster_is_ends_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")

    def nobody(**options: object) -> None:
        assert options["address"] == "auto"
        raise ConnectionError("Could not find any running Ray instance.\nMore words.")

    monkeypatch.setattr(ray, "init", nobody)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(UsageError, match="does not answer") as caught:
        list(carry_out_all([Task("model")], address="auto"))
    assert caught.value.got == "Could not find any running Ray instance."
