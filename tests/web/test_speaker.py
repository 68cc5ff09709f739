"""A decoder, a tokenizer and a template as one thing that answers."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from speaking_models import CONTEXT, write_speaker

from pedigree.errors import MalformedFile, MissingInput, UsageError
from pedigree.model.generation import Sampling
from pedigree.tokenizers.chat_template import Message
from pedigree.web.speaker import Manner, Speaker, open_speaker


def test_the_same_seed_gives_the_same_answer(speaker: Speaker) -> None:
    prompt = speaker.conversation([Message("user", "the moon")])
    texts = ["".join(speaker.answer(prompt, Manner(Sampling(1.0, seed=seed), 20))) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_an_answer_counts_what_it_reads_and_draws(speaker: Speaker) -> None:
    prompt = speaker.continued("the moon")
    generation = speaker.answer(prompt, Manner(max_tokens=5))
    assert generation.finish_reason == "interrupted"
    assert generation.tokens_per_second is None
    list(generation)
    assert (generation.prompt_tokens, generation.completion_tokens) == (len(prompt), 5)
    assert generation.finish_reason == "length"
    assert generation.tokens_per_second


def test_an_end_token_ends_an_answer_and_is_not_said(speaker: Speaker) -> None:
    prompt = speaker.continued("the moon")
    manner = Manner(Sampling(1.0, seed=3), 12)
    whole = list(speaker.answer(prompt, manner))
    numbers = [int(step[0]) for step in speaker.answer(prompt, manner)._steps]
    ended = replace(speaker, ends=frozenset({numbers[4]}))
    generation = ended.answer(prompt, manner)
    assert "".join(generation) == "".join(whole[: numbers.index(numbers[4])])
    assert generation.finish_reason == "stop"


def test_prompt_and_answer_must_fit_into_the_context(speaker: Speaker) -> None:
    with pytest.raises(UsageError, match=f"at most {CONTEXT}"):
        speaker.answer(speaker.continued("the moon"), Manner(max_tokens=CONTEXT))


def test_without_a_template_a_conversation_is_one_text(plain: Speaker) -> None:
    said = [Message("system", "a"), Message("user", "b"), Message("assistant", "c"), Message("user", "d")]
    assert plain.conversation(said) == plain.continued("a\nbc\nd")
    assert plain.start is not None
    assert plain.continued("") == [plain.start], "the token that opens a text"
    with pytest.raises(UsageError, match="nothing to continue"):
        replace(plain, start=None).continued("")
    with pytest.raises(UsageError, match="no messages"):
        plain.conversation([])


def test_end_tokens_are_those_that_the_files_declare(plain_folder: Path, speaker: Speaker, tmp_path: Path) -> None:
    assert {speaker.encoder.spellings[number] for number in speaker.ends} == {"<|im_end|>"}
    shutil.copytree(plain_folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer_config.json").unlink()
    assert {speaker.encoder.spellings[number] for number in open_speaker(tmp_path).ends} == {"<|endoftext|>"}
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 7]}), encoding="utf-8")
    assert open_speaker(tmp_path).ends == {5, 7}


@pytest.mark.parametrize("name", ["moe-38b-pico", "pangu-pro-moe-72b-pico", "deepseek-v3-pico", "pangu-alpha-13b-pico"])
def test_every_kind_of_member_answers(tmp_path: Path, name: str) -> None:
    member = open_speaker(write_speaker(tmp_path / "model", name=name, template=None, context=64), domain=1)
    assert list(member.answer(member.continued("the moon"), Manner(max_tokens=3)))
    assert member.domain == (1 if name == "moe-38b-pico" else None)


def test_a_directory_that_is_no_model_is_told(tmp_path: Path, plain_folder: Path) -> None:
    with pytest.raises(MissingInput, match="no such directory"):
        open_speaker(tmp_path / "nothing")
    shutil.copytree(plain_folder, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    config["added_tokens"].append({**config["added_tokens"][0], "id": 500, "content": "<|more|>"})
    config["model"]["vocab"]["<|more|>"] = 500
    (tmp_path / "tokenizer.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(MalformedFile, match="the model does not know"):
        open_speaker(tmp_path)
