"""`pedigree chat`."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from small_family import MAIN, ROOT
from speaking_models import write_speaker
from tests.cli.conftest import Ran

from pedigree.records.schemas import json_schema

Pedigree = Callable[..., Ran]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_speaker(tmp_path_factory.mktemp("chat") / "pico"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_speaker(tmp_path_factory.mktemp("chat") / "plain", template=None))


def record(ran: Ran) -> dict[str, dict[str, object]]:
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    Draft202012Validator(json_schema("answer")).validate(found)
    return dict(found)


def test_one_answer_for_scripts(pedigree: Pedigree, model: str) -> None:
    ran = pedigree("chat", model, "--prompt", "the moon", "--max-tokens", "6", "--temperature", "0")
    assert ran.code == 0
    assert ran.out.strip()
    assert ran.err.startswith("6 tokens, ")
    assert ran.err.endswith(" tokens per second\n")
    quiet = pedigree("chat", model, "--prompt", "the moon", "--max-tokens", "6", "--temperature", "0", "-q")
    assert quiet == Ran(0, ran.out, "")


def test_json_says_how_and_how_fast(pedigree: Pedigree, model: str) -> None:
    found = record(pedigree("chat", model, "--prompt", "the moon", "--max-tokens", "6", "--seed", "4", "--json"))
    assert found["inputs"]["chat_template"] is True
    assert found["inputs"]["seed"] == 4
    assert found["result"]["completion_tokens"] == 6
    assert found["result"]["finish_reason"] == "length"
    assert isinstance(found["result"]["tokens_per_second"], float)


def test_every_option_has_its_variable(pedigree: Pedigree, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "PEDIGREE_PROMPT": "the moon",
        "PEDIGREE_SYSTEM": "be brief",
        "PEDIGREE_TEMPERATURE": "0.5",
        "PEDIGREE_TOP_K": "7",
        "PEDIGREE_TOP_P": "0.9",
        "PEDIGREE_MAX_TOKENS": "3",
        "PEDIGREE_SEED": "5",
        "PEDIGREE_TORCH_DEVICE": "cpu",
        "PEDIGREE_DOMAIN": "0",
        "PEDIGREE_JSON": "1",
    }.items():
        monkeypatch.setenv(name, value)
    inputs = record(pedigree("chat", model))["inputs"]
    assert inputs == {
        "model": "pico", "prompt": "the moon", "system": "be brief", "chat_template": True, "temperature": 0.5,
        "top_k": 7, "top_p": 0.9, "max_tokens": 3, "seed": 5,
    }  # fmt: skip


def talk(pedigree: Pedigree, monkeypatch: pytest.MonkeyPatch, lines: str, *arguments: str) -> Ran:
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    return pedigree("chat", *arguments)


def test_a_conversation_remembers_and_forgets(pedigree: Pedigree, monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    ran = talk(
        pedigree, monkeypatch, "the moon\nthe moon\n\n/reset\nthe moon\n/exit\nnever\n",
        model, "--json", "--max-tokens", "4", "--temperature", "0",
    )  # fmt: skip
    assert ran.code == 0
    found = [json.loads(line) for line in ran.out.splitlines()]
    assert len(found) == 3
    read = [one["result"]["prompt_tokens"] for one in found]
    assert read[0] == read[2] < read[1]
    assert found[0]["result"]["text"] == found[2]["result"]["text"]
    assert "forgotten" in ran.err


def test_the_end_of_the_input_is_the_end(pedigree: Pedigree, monkeypatch: pytest.MonkeyPatch, plain: str) -> None:
    ran = talk(pedigree, monkeypatch, "the moon", plain, "--max-tokens", "2")
    assert ran.code == 0
    assert "no chat template: it goes on with your text" in ran.err


def test_a_long_conversation_forgets_its_beginning_and_says_so(
    pedigree: Pedigree, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    lines = "the moon is bright and the river flows\n" * 4
    ran = talk(pedigree, monkeypatch, lines, model, "--max-tokens", "60", "--json")
    assert ran.code == 0
    assert "warning: the context is full; the oldest" in ran.err
    assert len(ran.out.splitlines()) == 4


def test_what_a_model_says_cannot_steer_the_terminal(pedigree: Pedigree, plain: str) -> None:
    ran = pedigree("chat", plain, "--prompt", "x", "--max-tokens", "200", "--temperature", "2", "--top-p", "1")
    assert ran.code == 0
    assert all(character.isprintable() or character == "\n" for character in ran.out)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--top-p", "0"), "this is no share"),
        (("--temperature", "-1"), "greater than or equal to 0"),
        (("--max-tokens", "5000"), "longer than the context"),
        (("--device", "abacus"), "not a device"),
        (("--temperature", "inf"), "this is no temperature"),
        (("--seed", str(2**63)), "less than or equal to"),
    ],
)
def test_what_cannot_be_done_is_told(pedigree: Pedigree, model: str, arguments: tuple[str, ...], words: str) -> None:
    ran = pedigree("chat", model, "--prompt", "x", *arguments)
    assert ran.code == 2
    assert words in ran.err
    assert ran.err.startswith("error: ")


def test_a_directory_that_is_no_model_is_told(pedigree: Pedigree, tmp_path: Path) -> None:
    ran = pedigree("chat", str(tmp_path / "nothing"), "--prompt", "x")
    assert ran.code == 2
    assert "error: no such directory" in ran.err
    assert pedigree("chat", str(tmp_path), "--prompt", "x").code == 2


def test_a_hostile_template_is_told(pedigree: Pedigree, tmp_path: Path) -> None:
    folder = str(write_speaker(tmp_path / "model", template="{{ ''.__class__.__mro__ }}"))
    ran = pedigree("chat", folder, "--prompt", "x")
    assert ran.code == 2
    assert "error: the chat template reaches for what it must not" in ran.err
    assert "tokenizer_config.json" in ran.err


def test_ctrl_c_stops_an_answer_and_a_second_one_leaves(tmp_path: Path) -> None:
    folder = write_speaker(tmp_path / "model", context=20_000)
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    line = [sys.executable, "-c", MAIN, "chat", str(folder), "--max-tokens", "15000"]
    with subprocess.Popen(
        line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            assert b"Ctrl-C stops an answer" in process.stderr.readline()
            process.stdin.write(b"the moon\n")
            process.stdin.flush()
            assert process.stdout.read(1), "it answers"
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: everybody gets it
            said = [process.stderr.readline() for _ in range(3)]
            assert any(b"stopped; Ctrl-C once more leaves" in one for one in said), said
            assert process.poll() is None
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(30) == 130
            assert b"interrupted: nothing was written" in process.stderr.read()
        finally:
            process.kill()


def test_an_answer_takes_what_the_context_has_room_for(pedigree: Pedigree, tmp_path: Path) -> None:
    folder = str(write_speaker(tmp_path / "model", template=None, context=32))
    found = record(pedigree("chat", folder, "--prompt", "the moon", "--json"))
    taken = int(str(found["result"]["prompt_tokens"]))
    assert taken < 32
    assert found["inputs"]["max_tokens"] == 32 - taken


def test_a_message_that_is_too_long_does_not_end_the_conversation(
    pedigree: Pedigree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(write_speaker(tmp_path / "model", template=None, context=32))
    monkeypatch.setattr(sys, "stdin", io.StringIO("the moon\n" + "xyzw" * 40 + "\nthe river\n/exit\n"))
    ran = pedigree("chat", folder, "--json", "--max-tokens", "2")
    assert ran.code == 2
    assert "error: prompt and answer are longer than the context" in ran.err
    assert [json.loads(line)["inputs"]["prompt"] for line in ran.out.splitlines()] == ["the moon", "the river"]
