"""The loop: it learns, goes on where it was, refuses what does not fit, and leaves a checkpoint when interrupted."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
from tests.training.tiny import TinyConfig, TinyModel, settings
from tests.training.tiny_run import FACTS, losses, make_run

from pedigree.errors import InputError, MissingInput, OutputExists, UsageError
from pedigree.records.recorder import read_events
from pedigree.training import fit
from pedigree.training.fit import ModelFacts
from pedigree.training.metrics import read_metrics
from pedigree.training.progress import Beat


def test_a_run_learns_and_records_itself(tmp_path: Path) -> None:
    config = settings(tmp_path, log_every=1, tokens=32 * 4 * 60)
    run = make_run(tmp_path, tmp_path / "out", config)
    assert run.start() == 0
    summary = run.work()
    rows = losses(tmp_path / "out")
    assert (summary.outcome, summary.step, summary.tokens) == ("finished", 60, 7680)
    assert rows[0][0] > 5
    assert summary.loss < rows[0][0] - 2
    assert [event["event"] for event in read_events(tmp_path / "out" / "run.jsonl")][:2] == ["run_start", "checkpoint"]
    assert read_events(tmp_path / "out" / "run.jsonl")[-1]["outcome"] == "finished"
    beats = [event for event in read_events(tmp_path / "out" / "run.jsonl") if event["event"] == "beat"]
    assert beats
    assert beats[0]["tokens"] == 128
    (score,) = summary.scores
    assert score.domain == "en"
    assert score.n_bytes == score.n_tokens  # the tokens of this vocabulary are bytes
    assert 0 < score.bits_per_byte < 8


@pytest.mark.parametrize("changes", [{}, {"precision": "bf16"}, {"optimizer": {"name": "muon"}}, {"accumulation": 2}])
def test_going_on_from_a_checkpoint_changes_no_bit(tmp_path: Path, changes: dict[str, object]) -> None:
    config = settings(tmp_path, log_every=1, checkpoint={"every": 7}, **changes)
    whole = make_run(tmp_path, tmp_path / "whole", config)
    whole.start()
    whole.work()

    def interrupt(beat: Beat) -> None:
        if beat.step == 17:
            os.kill(os.getpid(), signal.SIGINT)

    first = make_run(tmp_path, tmp_path / "cut", config, progress=interrupt)
    first.start()
    assert first.work().outcome == "interrupted"
    second = make_run(tmp_path, tmp_path / "cut", config, TinyModel(seed=9))
    assert second.start("resume") == 17
    assert second.work().outcome == "finished"
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def test_accumulation_takes_the_same_steps(tmp_path: Path) -> None:
    for parts in (1, 4):
        run = make_run(tmp_path, tmp_path / f"{parts}", settings(tmp_path, log_every=1, accumulation=parts))
        run.start()
        run.work()
    one, four = losses(tmp_path / "1"), losses(tmp_path / "4")
    assert all(one[step][0] == pytest.approx(four[step][0], rel=1e-4) for step in one)


def test_fp16_trains_with_a_scaled_loss(tmp_path: Path) -> None:
    run = make_run(tmp_path, tmp_path / "out", settings(tmp_path, precision="fp16"))
    run.start()
    assert run.work().loss < 4
    assert read_metrics(tmp_path / "out" / "metrics.jsonl")[-1]["scale"] >= 2.0**10


def test_recomputed_activations_change_no_loss(tmp_path: Path) -> None:
    for name in ("kept", "recomputed"):
        config = settings(tmp_path, log_every=1, activation_checkpointing=name == "recomputed")
        run = make_run(tmp_path, tmp_path / name, config)
        run.start()
        run.work()
    assert losses(tmp_path / "kept") == losses(tmp_path / "recomputed")


# -- what is refused --------------------------------------------------------------------------------------------------


def test_a_tokenizer_that_is_larger_than_the_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"ids that the model does not, in vocab_size, got 257 ids, expected at most 100"
    ):
        make_run(
            tmp_path, tmp_path / "out", settings(tmp_path), TinyModel(TinyConfig(100)), facts=ModelFacts({}, 100)
        )  # fmt: skip


def test_sequences_longer_than_the_context_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="longer than the context of the model"):
        make_run(tmp_path, tmp_path / "out", settings(tmp_path), facts=ModelFacts({}, 257, n_positions=16))


def test_a_disk_that_is_too_small_is_said_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(fit.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match="too small for the checkpoints"):
        make_run(tmp_path, tmp_path / "out", settings(tmp_path))


def test_an_impossible_mesh_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"does not fit the number of processes, in mesh\.dp_shard, got 1 process,"):
        make_run(tmp_path, tmp_path / "out", settings(tmp_path, mesh={"dp_shard": 4}))


def test_a_checkpoint_of_other_settings_or_another_model_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path, tmp_path / "out", settings(tmp_path))
    run.start()
    run.work()
    other = make_run(tmp_path, tmp_path / "out", settings(tmp_path, optimizer={"lr": 0.5}))
    with pytest.raises(UsageError, match=r"training\.optimizer\.lr: 0\.003 there, 0\.5 here"):
        other.start()
    facts = ModelFacts({"name": "tiny", "width": 64}, FACTS.vocab_size)
    with pytest.raises(UsageError, match=r"model\.width: 32 there, 64 here"):
        make_run(tmp_path, tmp_path / "out", settings(tmp_path), facts=facts).start()
    assert other.start("fresh") == 0


def test_resuming_from_nothing_and_from_ruins_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path, tmp_path / "out", settings(tmp_path))
    with pytest.raises(MissingInput, match="no whole checkpoint to resume from"):
        run.start("resume")
    ruin = tmp_path / "out" / "checkpoints" / "step-00000003"
    ruin.mkdir(parents=True)
    with pytest.raises(OutputExists, match="none is whole"):
        run.start()


def test_a_loss_that_is_never_finite_stops_the_run(tmp_path: Path) -> None:
    model = TinyModel()
    model.norm.weight.data.fill_(float("nan"))
    run = make_run(tmp_path, tmp_path / "out", settings(tmp_path, guard={"nonfinite_limit": 3}), model)
    run.start()
    summary = run.work()
    assert (summary.outcome, summary.step) == ("stopped", 3)
    assert [decision.action for decision in summary.decisions] == ["skip-step", "skip-step", "stop"]
    assert summary.decisions[0].dropped["windows"] == [0, 0]
    assert summary.scores == []


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_compiled_model_takes_the_same_steps(tmp_path: Path) -> None:
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("torch.compile needs a C++ compiler here")
    for name in ("plain", "compiled"):
        config = settings(tmp_path, log_every=1, tokens=32 * 4 * 10, compile=name == "compiled")
        run = make_run(tmp_path, tmp_path / name, config)
        run.start()
        run.work()
    plain, compiled = losses(tmp_path / "plain"), losses(tmp_path / "compiled")
    assert all(compiled[step][0] == pytest.approx(plain[step][0], rel=1e-4) for step in plain)
