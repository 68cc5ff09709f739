"""Every pico member trains: below what any fixed probability of each token can reach on the same held-out tokens."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from tests.experiments.scripts import script

from pedigree.model.members import names
from pedigree.training.config import SourceConfig

members, trials, corpora = script("members"), script("trials"), script("corpora")

# Dense with learned positions, latent attention with several tokens ahead, grouped experts.
FAST = {"pangu-alpha-13b": 60, "pangu-pro-moe-72b": 50, "pangu-ultra-moe-718b": 40}  # steps
SUMS = SourceConfig(kind="arithmetic", domain="sums", held_out=0.05, max_documents=4000)


def trained(name: str, place: Path, source: SourceConfig, steps: int) -> dict:  # type: ignore[type-arg]
    told = argparse.Namespace(only="", draw=False)
    (result,) = trials.work_off([members.trial(name, place, source, steps)], place / "members", told)
    return result  # type: ignore[no-any-return]


def below(result: dict) -> float:  # type: ignore[type-arg]
    (score,) = result["scores"].values()
    return float(min(result["unigram_held_out"], result["unigram_corpus"]) - score["nats_per_token"])


@pytest.mark.parametrize(("name", "steps"), FAST.items())
def test_a_member_learns_more_than_how_often_tokens_occur(name: str, steps: int, tmp_path: Path) -> None:
    result = trained(name, tmp_path, SUMS, steps)
    assert result["outcome"] == "finished"
    assert below(result) > 0.1
    assert result["sample"].startswith("Return the")


@pytest.mark.slow
@pytest.mark.parametrize("name", names())
def test_every_member_learns_more_than_how_often_words_occur(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.getbasetemp() / "experiments"  # texts and tokenizers are made once
    assert below(trained(name, place, corpora.documentation(place), members.STEPS // 4)) > 0


def test_a_trial_that_is_done_is_not_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = trained("llama-2-7b", tmp_path, SUMS, 3)
    assert "3 steps" in capsys.readouterr().out
    assert trained("llama-2-7b", tmp_path, SUMS, 3) == first
    assert capsys.readouterr().out == ""


def test_docstrings_are_prose_only() -> None:
    words = "This sentence is long enough to be counted as documentation and not as the name of an argument."
    source = f'"""{words}"""\ndef f():\n    """Short."""\nclass C:\n    """{words} Again."""\n'
    assert corpora.docstrings(source) == [words, f"{words} Again."]
    assert corpora.docstrings("def :") == []
