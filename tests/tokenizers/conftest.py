"""Small texts and small tokenizers, made once."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from pedigree.tokenizers.encoder import Encoder
from pedigree.tokenizers.texts import Text
from pedigree.tokenizers.training import TrainingOptions, train

ENGLISH = re.split(" ", "the cat sat on the mat and the dog ran after 12 cats in 1984. they're there, with that thing!")
RUSSIAN = re.split(" ", "кошка сидела на коврике и собака бежала за кошками в лесу, потому что было холодно")
CHINESE = "床前明月光疑是地上霜举头望明月低头思故乡白日依山尽黄河入海流欲穷千里目更上一层楼"


def make_text(name: str, words: list[str], gap: str = " ", lines: int = 300, seed: int = 1) -> Text:
    rng = random.Random(seed)
    units = tuple(gap.join(rng.choices(words, k=12)) + "\n" for _ in range(lines))
    return Text(name, units, "line", name)


@pytest.fixture(scope="session")
def english() -> Text:
    return make_text("eng/verse", ENGLISH)


@pytest.fixture(scope="session")
def russian() -> Text:
    return make_text("rus/verse", RUSSIAN)


@pytest.fixture(scope="session")
def chinese() -> Text:
    return make_text("zho/verse", list(CHINESE), gap="")


@pytest.fixture(scope="session")
def small(english: Text) -> dict[str, Encoder]:
    """One tokenizer of each kind, trained on English."""
    return {
        kind: train([english], TrainingOptions(kind=kind, size=size), name=kind)
        for kind, size in (("byte-level", 340), ("byte-fallback", 460), ("unigram", 450), ("one-character", 460))
    }


@pytest.fixture(scope="session")
def real(shared_data: Path) -> Path:
    return shared_data / "tokenizers"
