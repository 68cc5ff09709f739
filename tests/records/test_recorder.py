"""Recorders: nothing is lost, half an event is removed, and no record says so."""

from __future__ import annotations

from pathlib import Path

from pedigree.records.recorder import JsonlRecorder, NullRecorder, Recorder, read_events


def tell(recorder: Recorder) -> None:
    recorder.run_start({"name": "a"})
    recorder.beat({"step": 1})
    recorder.checkpoint({"step": 2})
    recorder.decision({"rule": "zclip", "why": "больше"})
    recorder.derive({"from": ["a"]})
    recorder.run_end({"outcome": "finished"})


def test_events_are_written_in_their_order_with_their_time(tmp_path: Path) -> None:
    path = tmp_path / "run" / "run.jsonl"
    tell(JsonlRecorder(path))
    events = read_events(path)
    assert [event["event"] for event in events] == ["run_start", "beat", "checkpoint", "decision", "derive", "run_end"]
    assert events[3]["why"] == "больше"
    assert all(event["time"].endswith("+00:00") for event in events)


def test_half_an_event_is_removed_before_the_next_is_written(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    JsonlRecorder(path).beat({"step": 1})
    with path.open("a", encoding="utf-8") as stream:
        stream.write('{"event": "beat", "st')
    assert len(read_events(path)) == 1
    JsonlRecorder(path).beat({"step": 2})
    assert [event["step"] for event in read_events(path)] == [1, 2]


def test_no_record_is_said_beside_the_weights(tmp_path: Path) -> None:
    recorder = NullRecorder()
    tell(recorder)
    assert recorder.stamp == {"record": "unrecorded"}
    assert JsonlRecorder(tmp_path / "run.jsonl").stamp == {"record": "run.jsonl"}
