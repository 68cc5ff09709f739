"""Damage before it is paid for: rows made up, what texts will cost in tokens, and, for models that fit, in bits.

Every model gets the numbers that tokenizers give. Where source and result are small enough the surgery is done in a
temporary folder beside the target, both models are run on the probe texts, and the folder is removed.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pedigree.errors import PedigreeError
from pedigree.records.damage import Damage, TextDamage
from pedigree.records.recorder import NullRecorder
from pedigree.surgery.composition import Composition, compose
from pedigree.surgery.engine import Progress, run
from pedigree.surgery.operators.vocabulary import SwapParameters
from pedigree.surgery.plan import make_plan
from pedigree.surgery.probe import bits_per_byte, divergence
from pedigree.surgery.vocabulary.token_map import TokenMap, map_tokens
from pedigree.tokenizers.compression import measure
from pedigree.tokenizers.encoder import Encoder
from pedigree.tokenizers.reading import open_encoder
from pedigree.tokenizers.texts import Text
from pedigree.weights.number_types import BITS

MOST_BYTES = 2 << 30
"""Weights of a result that is still made and run for a forecast."""


def forecast(composition: Composition, texts: Sequence[Text], *, progress: Progress | None = None) -> Damage:
    """What a surgery will cost on these texts.

    Args:
        composition: a recipe, worked out.
        texts: probe texts, each its own line in the record.
        progress: told what is being done.

    Raises:
        MissingInput, MalformedFile: the source has no tokenizer that can be read.
    """
    old = open_encoder(Path(composition.source.location))
    swaps = [step.parameters for step in composition.recipe.steps if isinstance(step.parameters, SwapParameters)]
    new = open_encoder(Path(composition.recipe.folder, Path(swaps[-1].tokenizer).expanduser())) if swaps else old
    found = map_tokens(old, new)
    told = texts_told(old, new, found if swaps else None, texts)
    damage = Damage(texts=told)
    if swaps:
        controls = [str(new.spellings[number]) for number in found.new_specials]
        made = len(found.guessed) - len(found.holes)
        damage = damage.model_copy(
            update={"rows_copied": len(found.copied), "rows_made": made, "controls_new": controls}
        )
    why_not = _why_not(composition, texts)
    if why_not:
        return damage.model_copy(update={"why_not": why_not})
    measured, why_not = _measured(composition, old, new, texts, told, progress)
    return damage.model_copy(update={"texts": measured, "measured": not why_not, "why_not": why_not})


def texts_told(old: Encoder, new: Encoder, token_map: TokenMap | None, texts: Sequence[Text]) -> list[TextDamage]:
    """What tokenizers say of each text."""
    rows = []
    for before, after in zip(measure(old, texts), measure(new, texts), strict=True):
        share = None
        if token_map is not None:
            copied = np.zeros(new.size, bool)
            copied[token_map.copied] = True
            share = float(after.uses[copied].sum() / max(1, int(after.uses.sum())))
        rows.append(
            TextDamage(
                text=before.text.name, bytes=int(before.bytes.sum()), copied_share=share,
                bytes_per_token_before=before.bytes_per_token, bytes_per_token_after=after.bytes_per_token,
            )
        )  # fmt: skip
    return rows


def _why_not(composition: Composition, texts: Sequence[Text]) -> str:
    if not texts:
        return "no probe texts"
    size = sum(math.prod(output.shape) * BITS[output.dtype] // 8 for output in composition.outputs)
    if size > MOST_BYTES:
        return (
            f"the result has {size / 1e9:.1f} GB of weights, more than the {MOST_BYTES / 1e9:.1f} GB run for a forecast"
        )
    return ""


def _measured(
    composition: Composition,
    old: Encoder,
    new: Encoder,
    texts: Sequence[Text],
    told: Sequence[TextDamage],
    progress: Progress | None,
) -> tuple[list[TextDamage], str]:
    """The texts with what both models make of them, or why they could not be run."""
    from pedigree.model.hf_checkpoint import import_checkpoint

    def say(stage: str, share: float, detail: str) -> None:
        if progress is not None:
            progress(stage, share, detail)

    parent = composition.recipe.target.parent
    folder = Path(tempfile.mkdtemp(prefix=".forecast-", dir=parent if os.access(parent, os.W_OK) else None))
    try:
        say("forecast", 0.0, "making the result in a temporary place")
        tried = compose(replace(composition.recipe, target=folder / "result"))
        try:
            run(make_plan(tried), NullRecorder())
        finally:
            tried.close()
        models: list[Any] = [import_checkpoint(composition.source.location), import_checkpoint(folder / "result")]
        rows = []
        for number, (text, row) in enumerate(zip(texts, told, strict=True)):
            say("forecast", (number + 1) / (len(texts) + 1), text.name)
            numbers: dict[str, float] = {
                "bits_per_byte_before": bits_per_byte(models[0], old, text),
                "bits_per_byte_after": bits_per_byte(models[1], new, text),
            }
            if old is new:
                numbers["kl"] = divergence(models[0], models[1], old, text)
            rows.append(row.model_copy(update={key: value for key, value in numbers.items() if np.isfinite(value)}))
        return rows, ""
    except PedigreeError as error:  # a kind of model that is not built here is planned all the same
        return list(told), error.sentence()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
