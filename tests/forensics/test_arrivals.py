"""What is told while bytes come in: how many, what was seen so far, which decoy is being compared."""

from __future__ import annotations

import threading
from pathlib import Path

from range_server import RangeServer
from tests.forensics.merge_shop import Shop

from pedigree.forensics.arrivals import ArrivalProgress
from pedigree.forensics.compare import compare
from pedigree.weights.meter import ByteMeter

Told = list[tuple[str, float, str]]


def test_a_stage_is_told_again_with_what_has_arrived_since() -> None:
    told: Told = []
    meter = ByteMeter()
    progress = ArrivalProgress(lambda *words: told.append(words), [meter])
    progress("frame", 0.1, "looking")
    meter.arrive(1_500_000)
    meter.arrive(500_000)
    assert told == [
        ("frame", 0.1, "looking"),
        ("frame", 0.1, "1.5 MB in; looking"),
        ("frame", 0.1, "2.0 MB in; looking"),
    ]


def test_one_thread_at_a_time_tells() -> None:
    inside, most = [0], [0]

    def tell(stage: str, fraction: float, message: str) -> None:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        threading.Event().wait(0.001)
        inside[0] -= 1

    meter = ByteMeter()
    progress = ArrivalProgress(tell, [meter])
    threads = [threading.Thread(target=lambda: [meter.arrive(1) for _ in range(20)]) for _ in range(6)]
    for thread in threads:
        thread.start()
    progress("bits", 0.9, "")
    for thread in threads:
        thread.join()
    assert (meter.arrived, most[0]) == (120, 1)


def test_a_comparison_over_the_network_tells_bytes_evidence_and_decoys(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    for name in ("A", "B", "stranger"):
        shop.path(name)
    told: Told = []
    with RangeServer(tmp_path) as server:
        places = [f"{server.url}/{name}" for name in ("A", "B", "stranger")]
        record = compare(places[0], places[1], decoys=[places[2]], progress=lambda *words: told.append(words))
        away = compare(tmp_path / "A", tmp_path / "B", decoys=[tmp_path / "stranger"])
    assert record.result.model_dump(exclude={"read", "controls", "depths"}) == away.result.model_dump(
        exclude={"read", "controls", "depths"}
    )
    words = [message for _, _, message in told]
    assert any("MB in; " in message and "layers found, p <= 10^-" in message for message in words)
    assert any(stage == "decoys" and f"1 of 1, {places[2]}" in message for stage, _, message in told)
    assert any(f"{record.result.verdict} at standard depth" in message for message in words)
