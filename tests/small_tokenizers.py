"""What the pages on tokenizers name: `english.txt`, `chinese.txt`, `corpus.jsonl`, `ntrex`, `first`, `second`."""

from __future__ import annotations

import json
from pathlib import Path

from pedigree.tokenizers.companions import written
from pedigree.tokenizers.texts import read_text
from pedigree.tokenizers.training import TrainingOptions, train

ROOT = Path(__file__).resolve().parent.parent
CHINESE = "床前明月光疑是地上霜举头望明月低头思故乡\n白日依山尽黄河入海流欲穷千里目更上一层楼\n"
SENTENCES = {"src.eng": "The moon is bright.\nThe river flows.\n", "ref.zho-CN": "明月光。\n黄河入海流。\n"}


def write_tokenizers(folder: Path) -> Path:
    """Put the texts and tokenizers into a folder."""
    (folder / "english.txt").write_text((ROOT / "LICENSE").read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "chinese.txt").write_text(CHINESE * 30, encoding="utf-8")
    documents = (json.dumps({"text": line}, ensure_ascii=False) + "\n" for line in CHINESE.splitlines())
    (folder / "corpus.jsonl").write_text("".join(documents), encoding="utf-8")
    (folder / "ntrex").mkdir()
    for name, text in SENTENCES.items():
        (folder / "ntrex" / f"newstest2019-{name}.txt").write_text(text * 20, encoding="utf-8")
    for name, source, options in (
        ("first", "english.txt", TrainingOptions(size=700)),
        ("second", "chinese.txt", TrainingOptions(kind="byte-fallback", size=460)),
    ):
        (folder / name).mkdir()
        definition = train([read_text(folder / source)], options).definition
        (folder / name / "tokenizer.json").write_text(written(definition), encoding="utf-8")
    return folder
