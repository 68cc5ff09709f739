"""config.json of a decoder, both ways: which dialect, its keys, and the config behind them.

Laws
1. `config_from_hf(config_to_hf(c)) == c` for every config, whatever the dialect.
2. The `pedigree` key is believed only where it says what the dialect's own keys say: a config.json that was edited by
   hand is read as it was edited.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from pedigree.errors import MalformedFile, PedigreeError, UsageError
from pedigree.model.config import ModelConfig
from pedigree.model.hf_dialects import NATIVE, OWN, Dialect
from pedigree.model.hf_mixtures import MIXTURES
from pedigree.model.hf_pangu import PANGU

DIALECTS: dict[str, Dialect] = {d.model_type: d for d in (*NATIVE, *MIXTURES, *PANGU, OWN)}
_ALIASES = {"mistral": "llama", "pangu_embedded": "PanguEmbedded", "pangu_pro_moe": "PanguProMoE"}
KEY = "pedigree"
# Classes bring special tokens of their published models; ours come from the tokenizer or not at all.
_NO_TOKENS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}


def choose_dialect(config: ModelConfig, wanted: str | None = None) -> Dialect:
    """The dialect to write a config in: the wanted one, else the first that fits.

    Raises:
        UsageError: no such dialect, or its class cannot compute what the config describes.
    """
    if wanted is None:
        return next(d for d in DIALECTS.values() if not [*d.reasons(config)])
    if wanted not in DIALECTS:
        close = difflib.get_close_matches(wanted, DIALECTS, n=1)
        raise UsageError(
            "No such dialect",
            got=wanted,
            expected=", ".join(DIALECTS),
            fix=f"did you mean {close[0]}?" if close else "leave it out: the first that fits is taken",
        )
    reasons = [*DIALECTS[wanted].reasons(config)]
    if reasons:
        raise UsageError(
            "The class of this dialect does not compute this decoder",
            where=DIALECTS[wanted].architecture,
            got="; ".join(dict.fromkeys(reasons)),
            expected="a decoder as the class computes it",
            fix=f"write it as {choose_dialect(config).model_type}",
        )
    return DIALECTS[wanted]


def config_to_hf(config: ModelConfig, dialect: Dialect) -> dict[str, Any]:
    """The keys of config.json, without types of numbers and special tokens."""
    head = {"model_type": dialect.model_type, "architectures": [dialect.architecture], **_NO_TOKENS}
    return {**head, **dialect.write(config), KEY: config.to_dict()}


def config_from_hf(keys: Mapping[str, Any], where: str = "config.json") -> tuple[ModelConfig, Dialect]:
    """The config that a config.json describes, and its dialect.

    Raises:
        UsageError: a model type or mechanism that is not built here.
        MalformedFile: keys are missing or impossible.
    """
    kind = str(keys.get("model_type", ""))
    dialect = DIALECTS.get(_ALIASES.get(kind, kind))
    if dialect is None:
        raise UsageError(
            "This model type cannot be read as a decoder of ours",
            where=where,
            got=kind or "no model_type",
            expected=", ".join([*DIALECTS, *_ALIASES]),
        )
    told = _told(keys, dialect)
    if told is not None:
        return told, dialect
    try:
        return ModelConfig.model_validate({"name": kind, **dialect.read(keys)}), dialect
    except KeyError as error:
        raise MalformedFile("A config lacks a key", where=where, expected=f"the key {error.args[0]}") from error
    except (TypeError, ValueError) as error:
        raise MalformedFile("A config holds a value of the wrong kind", where=where, got=str(error)) from error


def untold(keys: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that the class reads, without the `pedigree` key; our own type has nothing else, and keeps it."""
    return {key: value for key, value in keys.items() if key != KEY or keys.get("model_type") == OWN.model_type}


def _told(keys: Mapping[str, Any], dialect: Dialect) -> ModelConfig | None:
    """What the `pedigree` key says, where it agrees with the others."""
    if not isinstance(keys.get(KEY), Mapping):
        return None
    try:
        config = ModelConfig.model_validate(keys[KEY])
        fits = not [*dialect.reasons(config)]
        written = dialect.write(config) if fits else {}
    except PedigreeError:  # of another version, or edited: the other keys count
        return None
    missing = object()
    agrees = all(keys.get(key, missing) == value for key, value in written.items() if key in keys)
    return config if fits and agrees else None
