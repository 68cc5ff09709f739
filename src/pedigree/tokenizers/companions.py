"""The files in which a tokenizer is written: tokenizer.json, and tokenizer_config.json beside it.

With both, `transformers` loads the directory as a fast tokenizer. What the parent's tokenizer_config.json says about
roles of control tokens and about the chat template is kept when a vocabulary grows; nothing in it is run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pedigree.tokenizers.definition import Definition
from pedigree.tokenizers.encoder import Encoder
from pedigree.tokenizers.reading import read_capped
from pedigree.tokenizers.tokenizer_json import parse_json
from pedigree.tokenizers.vocabulary import MAX_JSON_BYTES

# Role -> the spellings that published tokenizers give it.
ROLES = {
    "bos_token": ("<s>", "<|begin_of_text|>"),
    "eos_token": ("<|endoftext|>", "<|end_of_text|>", "</s>"),
    "pad_token": ("<pad>", "<|endoftext|>", "<|end_of_text|>"),
    "unk_token": ("<unk>",),
}
KEPT = ("chat_template", "model_max_length", *ROLES)


def written(definition: Definition) -> str:
    """The text of a tokenizer.json."""
    return json.dumps(definition, indent=1, ensure_ascii=False) + "\n"


def config_beside(location: str) -> dict[str, Any]:
    """What the tokenizer_config.json beside a tokenizer file says and may be kept; nothing where there is none.

    Raises:
        MalformedFile: not JSON, or too large.
    """
    file = Path(location).with_name("tokenizer_config.json")
    if not file.is_file():
        return {}
    found = parse_json(read_capped(file, MAX_JSON_BYTES), str(file))
    kept: dict[str, Any] = {}
    for key in KEPT:
        value = found.get(key)
        if isinstance(value, dict):  # an added token written out
            value = value.get("content")
        if isinstance(value, str) or (key == "model_max_length" and isinstance(value, int)):
            kept[key] = value
    return kept


def tokenizer_config(encoder: Encoder, kept: dict[str, Any] | None = None) -> dict[str, Any]:
    """The tokenizer_config.json with which `transformers` loads the tokenizer as PreTrainedTokenizerFast.

    Args:
        kept: what the parent's said (`config_beside`); it goes before what is guessed from spellings.
    """
    controls = {str(encoder.spellings[number]) for number in encoder.specials}
    guessed = {role: next((text for text in texts if text in controls), None) for role, texts in ROLES.items()}
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1_000_000_000,
        **guessed,
        **(kept or {}),
    }
    return {key: value for key, value in config.items() if value is not None}
