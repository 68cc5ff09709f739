"""How text is cut into words before merging: the patterns of known tokenizers, by name.

tiktoken files and GGUF vocabularies do not carry their pattern. A GGUF names it; for the others it follows from the
number of tokens, or from the class in tokenizer_config.json, or the caller names it.

Source: openai/tiktoken `tiktoken_ext/openai_public.py` (gpt2); the tokenizers published with Llama 3 and Qwen.
The DeepSeek pattern is written in Unicode categories where its published form lists cased letters one by one; the two
agree on the golden vectors of llama.cpp, and may differ on letters that Unicode has added since.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pedigree.errors import UsageError

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@dataclass(frozen=True, slots=True)
class WordPattern:
    """One way to cut: regular expressions applied one after the other; each match and each rest is a word of its own.

    Attributes:
        steps: (expression, whether matches stand alone and the rest is kept too).
        nfc: text is brought into Unicode normal form C first.
        ignore_merges: a word that is a token is emitted without merging.
    """

    steps: tuple[str, ...]
    nfc: bool = False
    ignore_merges: bool = False


PATTERNS: dict[str, WordPattern] = {
    "gpt2": WordPattern((r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",)),
    "llama3": WordPattern((rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}",), False, True),
    "qwen2": WordPattern((rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_REST}",), True),
    "deepseek-llm": WordPattern((
        r"[\r\n]",
        r"\s?[\p{Lu}\p{Ll}\p{Lt}]+",
        r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
        r"\s+$",
        r"[一-龥ࠀ-一가-퟿]+",
        r"\p{N}+",
    )),
}  # fmt: skip
ALIASES = {
    "gpt-2": "gpt2",
    "default": "gpt2",
    "llama-bpe": "llama3",
    "llama-v3": "llama3",
    "llama3": "llama3",
    "qwen": "qwen2",
    "qwen2": "qwen2",
    "deepseek-llm": "deepseek-llm",
}
BY_CLASS = {"GPT2Tokenizer": "gpt2", "Qwen2Tokenizer": "qwen2", "QWenTokenizer": "qwen2"}
BY_SIZE = {50256: "gpt2", 50257: "gpt2", 128000: "llama3", 151643: "qwen2"}


def find_pattern(name: str, where: str) -> WordPattern:
    """The pattern of this name.

    Raises:
        UsageError: unknown name.
    """
    known = PATTERNS.get(ALIASES.get(name, name))
    if known is None:
        raise UsageError(
            "the pattern that cuts words is not known",
            where=where,
            got=repr(name),
            expected="one of " + ", ".join(sorted({*PATTERNS, *ALIASES})),
            fix="--pattern NAME, or the tokenizer.json of the same tokenizer",
        )
    return known


def pre_tokenizer(pattern: WordPattern) -> dict[str, Any]:
    """The pattern as the `pre_tokenizer` of a tokenizer.json, spelled in bytes."""
    steps: list[dict[str, Any]] = [
        {"type": "Split", "pattern": {"Regex": step}, "behavior": "Isolated", "invert": False} for step in pattern.steps
    ]
    return {"type": "Sequence", "pretokenizers": [*steps, BYTE_LEVEL]}


BYTE_LEVEL: dict[str, Any] = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": False,
}


def known_specials(name: str) -> dict[int, str]:
    """Control tokens that the published tokenizer has and its tiktoken file does not hold: number to spelling."""
    if name == "llama3":
        first = {128000: "begin_of_text", 128001: "end_of_text", 128006: "start_header_id", 128007: "end_header_id"}
        first[128009] = "eot_id"
        rest = iter(range(256))
        return {n: f"<|{first.get(n) or f'reserved_special_token_{next(rest)}'}|>" for n in range(128000, 128256)}
    if name == "qwen2":
        extra = {151646 + n: f"<|extra_{n}|>" for n in range(205)}
        return {151643: "<|endoftext|>", 151644: "<|im_start|>", 151645: "<|im_end|>"} | extra
    return {}
