"""Sums in English, Chinese, Russian and code: a corpus that is always there, and an evaluation with right answers.

Every combination of operator and operands belongs to one side by its digest: a tenth is never shown in training, and
only from that tenth are the questions of the evaluation drawn.

Law  the same seed gives the same documents and the same questions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

Language = Literal["en", "zh", "ru", "code"]

LARGEST = 30  # operands are 0..LARGEST-1
N_DOCUMENTS = 2_000
LINES = 12  # sums in a document
_KEPT_BACK = 10  # one combination in ten

# language -> operator -> (question up to the answer, what follows the answer)
PHRASES: dict[Language, dict[str, tuple[str, str]]] = {
    "en": {"+": ("{a} plus {b} is ", "."), "-": ("{a} minus {b} is ", "."), "*": ("{a} times {b} is ", ".")},
    "zh": {"+": ("{a}加{b}等于", "。"), "-": ("{a}减{b}等于", "。"), "*": ("{a}乘{b}等于", "。")},
    "ru": {
        "+": ("{a} плюс {b} равно ", "."),
        "-": ("{a} минус {b} равно ", "."),
        "*": ("{a} умножить на {b} равно ", "."),
    },
    "code": {
        "+": ("assert {a} + {b} == ", "\n"),
        "-": ("assert {a} - {b} == ", "\n"),
        "*": ("assert {a} * {b} == ", "\n"),
    },
}
LANGUAGES: tuple[Language, ...] = ("en", "zh", "ru", "code")


@dataclass(frozen=True)
class Question:
    """A sum whose answer is checked: the text before the answer, the answer, what ends it."""

    language: Language
    prompt: str
    answer: str
    end: str


def arithmetic_documents(seed: int, n_documents: int | None = None) -> Iterator[str]:
    """Documents of `LINES` sums each, the languages in turn; `N_DOCUMENTS` of them when no number is given."""
    shown, _ = _sides()
    for number in range(N_DOCUMENTS if n_documents is None else n_documents):
        drawn = np.random.default_rng([seed, number]).integers(0, len(shown), size=LINES)
        language = LANGUAGES[number % len(LANGUAGES)]
        questions = [_question(language, *shown[i]) for i in drawn]
        yield "".join(f"{q.prompt}{q.answer}{q.end}".rstrip("\n") + "\n" for q in questions)


def questions(seed: int, n: int) -> list[Question]:
    """`n` sums that no training document shows, the languages in turn."""
    _, kept_back = _sides()
    drawn = np.random.default_rng([seed, 2**31]).integers(0, len(kept_back), size=n)
    return [_question(LANGUAGES[i % len(LANGUAGES)], *kept_back[j]) for i, j in enumerate(drawn)]


@cache
def _sides() -> tuple[list[tuple[str, int, int]], list[tuple[str, int, int]]]:
    """Combinations shown in training, and those kept back."""
    shown: list[tuple[str, int, int]] = []
    kept_back: list[tuple[str, int, int]] = []
    for operator in ("+", "-", "*"):
        for a in range(LARGEST):
            for b in range(LARGEST):
                digest = hashlib.sha256(f"{a}{operator}{b}".encode()).digest()
                (kept_back if digest[0] % _KEPT_BACK == 0 else shown).append((operator, a, b))
    return shown, kept_back


def _question(language: Language, operator: str, a: int, b: int) -> Question:
    prompt, end = PHRASES[language][operator]
    answer = {"+": a + b, "-": a - b, "*": a * b}[operator]
    return Question(language, prompt.format(a=a, b=b), str(answer), end)
