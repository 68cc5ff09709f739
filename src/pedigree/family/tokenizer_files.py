"""The tokenizers of a recipe as files: read where the recipe names one, made and kept where it describes one.

Law: a tokenizer lies in a folder named after its digest, so another recipe text never finds yesterday's tokenizer.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import cast

from pedigree.errors import UsageError
from pedigree.family.materials import Tokenizer
from pedigree.family.recipe import Family
from pedigree.tokenizers.companions import written
from pedigree.tokenizers.concatenation import concatenate
from pedigree.tokenizers.encoder import Encoder
from pedigree.tokenizers.extension import ExtensionOptions, extend
from pedigree.tokenizers.reading import open_encoder
from pedigree.tokenizers.texts import Text
from pedigree.tokenizers.training import Kind, TrainingOptions, train
from pedigree.training.config import beside
from pedigree.training.sources import excerpt

LONGEST_TEXT = 20_000_000  # characters of each corpus that a tokenizer is trained on


def tokenizer_file(family: Family, name: str, recipe_folder: Path, output: Path) -> Path:
    """The tokenizer.json of the tokenizer `name`, made now, with those it is made from, where it is not there yet.

    Args:
        recipe_folder: where the paths of the recipe start.
        output: folder of the family.

    Raises:
        UsageError: two vocabularies cannot be put into one, or the outcome is larger than the recipe says.
        InputError: a corpus cannot be read.
    """
    tokenizer = family.tokenizers[name]
    if tokenizer.keys.kind == "file":
        return recipe_folder / str(tokenizer.keys.path)
    folder = output / "tokenizers" / f"{name}-{tokenizer.digest.rpartition(':')[2][:12]}"
    path = folder / "tokenizer.json"
    if not path.is_file():

        def file_of(part: str) -> Path:
            return tokenizer_file(family, part, recipe_folder, output)

        encoder = _made(family, tokenizer, recipe_folder, file_of)
        _check_size(tokenizer, encoder)
        folder.mkdir(parents=True, exist_ok=True)
        hidden = folder / f".tokenizer.{os.getpid()}.json"  # every rank makes the same
        hidden.write_text(written(encoder.definition), encoding="utf-8")
        hidden.replace(path)
    return path


def separator_of(family: Family, name: str) -> str | None:
    """The control token that opens documents: the first special of a tokenizer, or of the one whose numbers it keeps.

    None for a finished file, whose own is found by its usual names.
    """
    keys = family.tokenizers[name].keys
    if keys.kind == "file":
        return None
    inner = keys.base or (keys.parts[0] if keys.parts else None)
    return separator_of(family, inner) if inner is not None else keys.specials[0]


def _made(family: Family, tokenizer: Tokenizer, folder: Path, file_of: Callable[[str], Path]) -> Encoder:
    keys = tokenizer.keys
    if keys.parts is not None:
        a, b = (open_encoder(file_of(part)) for part in keys.parts)
        return concatenate(a, b, name=tokenizer.name).encoder
    texts = []
    for source in beside(family.corpora[str(keys.corpus)].sources, folder):
        label = source.path or source.kind
        texts.append(Text(label, tuple(excerpt(source, LONGEST_TEXT)), "document", label))
    if keys.base is not None:
        base = open_encoder(file_of(keys.base))
        options = ExtensionOptions(
            add=keys.vocabulary - base.size, min_frequency=keys.min_frequency, longest=keys.longest
        )
        return extend(base, texts, options, name=tokenizer.name).encoder
    kind = cast("Kind", keys.kind)
    trained = TrainingOptions(
        kind, keys.vocabulary, keys.pattern, keys.specials, keys.min_frequency, keys.longest
    )  # fmt: skip
    return train(texts, trained, name=tokenizer.name)


def _check_size(tokenizer: Tokenizer, encoder: Encoder) -> None:
    if encoder.size > tokenizer.vocabulary:
        raise UsageError(
            "this vocabulary came out larger than the recipe says", where=f"tokenizers.{tokenizer.name}",
            got=f"{encoder.size:,} tokens", expected=f"at most {tokenizer.vocabulary:,}",
            fix=f"vocabulary: {encoder.size}",
        )  # fmt: skip
