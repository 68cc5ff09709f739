"""Training: deterministic, round-trips, loads elsewhere, refuses what cannot be trained on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.tokenizers.conftest import CHINESE

from pedigree.errors import InputError, MalformedFile, MissingInput, UsageError
from pedigree.tokenizers.companions import config_beside, tokenizer_config, written
from pedigree.tokenizers.encoder import Encoder
from pedigree.tokenizers.hostile_texts import lost_texts
from pedigree.tokenizers.reading import open_encoder
from pedigree.tokenizers.spelling_facts import spelling_facts
from pedigree.tokenizers.texts import Text, distinct_names, read_parallel, read_text
from pedigree.tokenizers.training import KINDS, TrainingOptions, train

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import sys
from pedigree.tokenizers.texts import read_text
from pedigree.tokenizers.training import KINDS, TrainingOptions, train
text = read_text(sys.argv[1])
print(*(train([text], TrainingOptions(kind=kind, size=900)).digest for kind in KINDS))
"""


def test_the_same_texts_give_the_same_bytes_in_any_process() -> None:
    found = set()
    for threads in ("1", "2", "3"):
        env = {"PYTHONPATH": str(ROOT / "src"), "RAYON_NUM_THREADS": threads, "PATH": ""}
        line = [sys.executable, "-c", SCRIPT, str(ROOT / "LICENSE")]
        done = subprocess.run(line, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found.add(done.stdout)
    assert len(found) == 1


def test_every_kind_has_its_size_and_loses_nothing(small: dict[str, Encoder]) -> None:
    sizes = {"byte-level": 340, "byte-fallback": 460, "unigram": 450, "one-character": 460}
    for kind, encoder in small.items():
        assert encoder.size <= sizes[kind]
        assert lost_texts(encoder) == []
    assert [small[kind].kind for kind in KINDS] == [
        "byte-level BPE",
        "byte-fallback BPE",
        "Unigram",
        "byte-fallback BPE",
    ]


def test_one_character_splits_digits_spaces_and_chinese(english: Text, chinese: Text) -> None:
    texts = [english, chinese]
    single = train(texts, TrainingOptions(kind="one-character", size=600))
    pieces = [single.surfaces[n] for n in single.encode("the  cat 1984明月")]
    assert pieces[-6:] == [b"1", b"9", b"8", b"4", "明".encode(), "月".encode()]
    assert pieces.count(b" ") == 3
    assert b"the" in pieces
    facts = spelling_facts(single)
    assert facts.one_character
    assert (facts.longest_digits, facts.longest_spaces, facts.han_words) == (1, 1, 0)
    assert all(len(single.encode(character)) == 1 for character in CHINESE)
    for kind in ("byte-level", "byte-fallback", "unigram"):
        assert not spelling_facts(train(texts, TrainingOptions(kind=kind, size=600))).one_character, kind


def test_control_tokens_come_first_and_are_never_made_of_text(english: Text) -> None:
    options = TrainingOptions(kind="byte-level", size=300, specials=("<|endoftext|>", "<|im_start|>"))
    encoder = train([english], options)
    assert encoder.spellings[:2] == ("<|endoftext|>", "<|im_start|>")
    assert encoder.specials == {0, 1}
    assert tokenizer_config(encoder)["eos_token"] == "<|endoftext|>"


def test_transformers_loads_what_was_trained(small: dict[str, Encoder], tmp_path: Path, english: Text) -> None:
    transformers = pytest.importorskip("transformers")
    for kind, encoder in small.items():
        folder = tmp_path / kind
        folder.mkdir()
        (folder / "tokenizer.json").write_text(written(encoder.definition), encoding="utf-8")
        (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config(encoder)), encoding="utf-8")
        loaded = transformers.AutoTokenizer.from_pretrained(str(folder))
        assert isinstance(loaded, transformers.PreTrainedTokenizerFast)
        text = "".join(english.units[:20]) + "明月 é"
        assert loaded.encode(text, add_special_tokens=False) == encoder.encode(text)
        assert loaded.decode(encoder.encode(text)) == text
        assert loaded.eos_token == "<|endoftext|>"
        assert open_encoder(folder).digest == encoder.digest


def test_roles_and_chat_template_of_the_parent_are_kept(small: dict[str, Encoder], tmp_path: Path) -> None:
    beside = {
        "bos_token": {"content": "<|b|>", "special": True},
        "eos_token": None,
        "chat_template": "{{ x }}",
        "auto_map": {"AutoTokenizer": ["bait.Tokenizer", None]},
        "model_max_length": 4096,
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(beside), encoding="utf-8")
    kept = config_beside(str(tmp_path / "tokenizer.json"))
    assert kept == {"bos_token": "<|b|>", "chat_template": "{{ x }}", "model_max_length": 4096}
    config = tokenizer_config(small["byte-level"], kept)
    assert (config["bos_token"], config["eos_token"], config["model_max_length"]) == ("<|b|>", "<|endoftext|>", 4096)
    assert config_beside(str(tmp_path / "elsewhere" / "tokenizer.json")) == {}
    (tmp_path / "tokenizer_config.json").write_text("[]", encoding="utf-8")
    with pytest.raises(MalformedFile, match="not an object"):
        config_beside(str(tmp_path / "tokenizer.json"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (TrainingOptions(size=200), "too small for its kind"),
        (TrainingOptions(kind="unigram", size=300), "too small for its kind"),
        (TrainingOptions(kind="one-character", size=300), "too small for its kind"),
        (TrainingOptions(pattern="nothing"), "pattern that cuts words is not known"),
        (TrainingOptions(specials=("<x>", "<x>")), "control tokens must differ"),
        (TrainingOptions(specials=("",)), "control tokens must differ"),
        (TrainingOptions(kind="unigram", specials=("<unk>",)), "its own unknown token"),
    ],
)
def test_what_cannot_be_trained_is_told(english: Text, options: TrainingOptions, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        train([english], options)


def test_there_must_be_text() -> None:
    with pytest.raises(InputError, match="no text to train on"):
        train([Text("x", ("  \n",), "line", "x")], TrainingOptions())
    with pytest.raises(InputError, match="no text to train on"):
        train([], TrainingOptions())


# -- texts ------------------------------------------------------------------------------------------------------------


def test_text_is_read_by_line_and_jsonl_by_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\r\ntwo\u2028\x0c", encoding="utf-8", newline="")
    (tmp_path / "b.jsonl").write_text('{"text": "x\\ny"}\n\n"z"\n', encoding="utf-8")
    plain, documents = read_text(tmp_path / "a.txt"), read_text(tmp_path / "b.jsonl", "eng/web")
    assert (plain.name, plain.units, plain.unit) == ("a", ("one\r\n", "two\u2028\x0c"), "line")
    assert (documents.units, documents.unit) == (("x\ny", "z"), "document")
    assert (documents.language, documents.domain) == ("eng", "web")
    assert [text.name for text in distinct_names([plain, plain])] == ["a", "a#2"]


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("a.txt", b"\n \n", InputError, "no text in this file"),
        ("a.txt", b"\xff", MalformedFile, "not UTF-8"),
        ("a.jsonl", b"{", MalformedFile, "not JSON"),
        ("a.jsonl", b'{"x": 1}', MalformedFile, "not a document"),
        ("a.jsonl", b'{"text": 1}', MalformedFile, "not a document"),
        ("a.jsonl", b"", InputError, "no text in this file"),
    ],
)
def test_files_that_are_no_texts_are_refused(
    tmp_path: Path, name: str, content: bytes, error: type[InputError], message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=message):
        read_text(tmp_path / name)


def test_parallel_files_must_be_there_and_fit(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="no parallel sentences"):
        read_parallel(tmp_path)
    (tmp_path / "newstest2019-src.eng.txt").write_text("a\nb\n")
    (tmp_path / "newstest2019-ref.zho-CN.txt").write_text("c\nd\n")
    assert [text.name for text in read_parallel(tmp_path)] == ["zho-CN/news", "eng/news"]
    (tmp_path / "newstest2019-ref.rus.txt").write_text("c\n")
    with pytest.raises(MalformedFile, match="differ in their number of lines"):
        read_parallel(tmp_path)
