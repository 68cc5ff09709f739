"""Texts on which tokenizers lose something, built in: what goes in must come out.

Each case has a name and a text. Half surrogates are no text at all and are refused before encoding; the case that
stands for them holds what a careful reader makes of such bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from pedigree.tokenizers.encoder import Encoder


@dataclass(frozen=True)
class Loss:
    """A case that did not come back: its name, what went in and what came out, shortened."""

    case: str
    given: str
    returned: str
    note: str


HOSTILE: dict[str, str] = {
    "empty": "",
    "one space": " ",
    "leading space": " x",
    "trailing spaces": "x  ",
    "spaces alone": "        ",
    "spaces inside": "a  b   c    d",
    "tabs": "\tif x:\n\t\treturn\t1",
    "newlines": "\n\n\nx\n\n",
    "mixed line ends": "a\r\nb\rc\nd\u2028e\u2029f\u0085g",
    "no-break spaces": "a\u00a0b\u202fc\u3000d\u2003e\u200bf\ufeffg",
    "NUL": "a\x00b",
    "control characters": "".join(map(chr, [*range(1, 9), 11, 12, *range(14, 32), 127])),
    "combining marks": "e\u0301 a\u0308o\u0323\u0302 \u0915\u094d\u0937",
    "composed and not": "\u00e9 e\u0301 \uac00 \u1100\u1161 \u212b \u00c5",
    "stacked marks": "Z" + "\u0300\u0301\u0302\u0303\u0304\u0305\u0306\u0307" * 4,
    "joined emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f3f3\ufe0f\u200d\U0001f308",
    "skin tones and flags": "\U0001f44d\U0001f3fd \U0001f1ea\U0001f1fa \U0001f3f4\U000e0067\U000e0062\U000e007f",
    "right to left": "\u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd abc \u202e123\u202c \u200f",
    "vowel points": "\u0628\u0650\u0633\u0652\u0645\u0650 \u05d1\u05b0\u05bc\u05e8\u05b5\u05d0",
    "compatibility forms": "\ufb01 \u2460 \uff21\uff22\uff23 \u33a1 \u00bd \u2122 \u017f",
    "case and width": "\u0130\u0131\u1e9e\u00df \uff71\uff72",
    "rare Chinese": "\u9fa6\u3400\U00020000\U0002a6d6\U0003134a",
    "Chinese with digits": "\u4e2d\u6587123\u5b57\uff0c456\u3002",
    "replaced surrogates": b"a\xed\xa0\x80b\xed\xb0\x80c".decode("utf-8", "replace"),
    "edges of planes": "\ud7ff\ue000\uffff\U00010000\U0010ffff\ufffd\ufffe",
    "private and unassigned": "\ue123\U000f0000\u0378\U0001fbff",
    "word joiners": "\u2060\u00ad\u034f\u061c\u180e",
    "the space mark": "a\u2581b \u2581\u2581c",
    "byte pieces as text": "<0x41><0x0A>",
    "byte-level spelling as text": "\u0120the\u010a \u00c3\u00a9",
    "word piece marks": "##ing play##ing",
    "controls as text": "<s></s><unk><|endoftext|><|im_start|>[CLS][MASK]<pad>",
    "digits": "0 00 007 1234567890 3.14159 1,000,000 \u0661\u0662\u0663 \uff11\uff12",
    "long word": "a" * 5000,
    "long run of spaces": " " * 5000 + "x",
    "long run of digits": "1" * 2000,
    "long run of marks": "=" * 3000 + "-" * 3000,
    "long Chinese": "\u7684" * 2000,
    "code": "def f(x):\n    return {'a': [1, 2], \"b\": x**2}  # \u00a7\r\n",
    "quotes and apostrophes": "don't 'tis \u2019twas I'LL \u00abx\u00bb \u201cy\u201d",
    "mathematics": "\u222b\u2080\u00b9 x\u00b2\u2202x \u2200\u03b5>0 \u211d\u2192\u2102 \U0001d4d0",
}


def lost_texts(encoder: Encoder) -> list[Loss]:
    """The cases that do not come back unchanged.

    A single word of thousands of letters is among them: a tokenizer may be slow there, and may not be wrong.
    """
    names, texts = list(HOSTILE), list(HOSTILE.values())
    losses = []
    for name, text, numbers in zip(names, texts, encoder.encode_all(texts), strict=True):
        back = encoder.decode(numbers)
        if back != text:
            losses.append(Loss(name, _short(text, back), _short(back, text), _note(text, back)))
    return losses


def _short(text: str, other: str) -> str:
    """What stands around the first difference."""
    at = next((i for i, (a, b) in enumerate(zip(text, other, strict=False)) if a != b), min(len(text), len(other)))
    return ascii(text[max(0, at - 8) : at + 16])[1:-1]


def _note(text: str, back: str) -> str:
    import unicodedata

    for form in ("NFC", "NFKC", "NFD", "NFKD"):
        if unicodedata.normalize(form, text) == back:
            return f"Unicode form {form}"
    if "".join(text.split()) == "".join(back.split()):
        return "white space"
    if text.replace("\u2581", " ") == back:
        return "the space mark becomes a space"
    if text.casefold() == back.casefold():
        return "case"
    return "characters are lost" if len(back) < len(text) else "characters are changed"
