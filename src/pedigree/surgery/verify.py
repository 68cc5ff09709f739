"""A result held against its source: both run layer by layer on the same tokens, in float32, and compared.

Layer by layer it is told where they part (`pedigree.surgery.side_by_side`); the verdict is that of the logits.

The gate follows how exact the recipe claims to be. FP0 and FP1: the largest difference of two logits is at most
1e-4 x (spread of the logits) x sqrt(layers), which rounding stays below by a factor of ten and every real mistake
exceeds by three orders. Weights of 16 bits round coarser: for them, and for FP-epsilon, the result may also differ by
up to three times what computing the source in bfloat16 costs, in nats per token. Loss on a text is never the gate: a
wrong gain can lower it.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from pedigree.errors import InternalError, MalformedFile, MissingInput, UsageError
from pedigree.records.surgery import ExactnessWord, LogitDrift, SurgeryCheck
from pedigree.surgery.companions import RECIPE, SIDECAR
from pedigree.surgery.low_rank import CONFIG as ADAPTER
from pedigree.surgery.randomness import Stream
from pedigree.surgery.side_by_side import walk
from pedigree.surgery.streamed import Progress, StreamedModel
from pedigree.weights.checkpoint import open_checkpoint

LENGTH = 64
_PER_SPREAD = 1e-4
_TIMES_NOISE = 3.0
_MAX_JSON = 16 << 20


def verify(
    target: Path, *, source: str | None = None, tokens: int = 256, seed: int = 0, progress: Progress | None = None
) -> SurgeryCheck:
    """Compare a result with its source.

    Args:
        target: folder that `run` made.
        source: the source, where it is no longer where the recipe says.
        tokens: places to compare, rounded up to sequences of 64.
        seed: of the random tokens.

    Raises:
        MissingInput, MalformedFile: the folder was not made by surgery, or is damaged.
    """
    import torch

    recipe, sidecar = _json(target / RECIPE), _json(target / SIDECAR)
    word, place = sidecar.get("exactness"), source or recipe.get("source")
    if word not in ("FP0", "FP1", "FP-epsilon", "NFP") or not isinstance(place, str):
        raise MalformedFile("the sidecar does not say how exact the result is", where=str(target / SIDECAR), got=word)
    claim: ExactnessWord = word
    if (target / ADAPTER).is_file():
        return SurgeryCheck(source=place, target=str(target), exactness=claim, verdict="not-testable",
                            reason="an adapter is no model; merged into its base it can be compared")  # fmt: skip
    with open_checkpoint(place) as old, open_checkpoint(str(target)) as new:
        try:
            models = StreamedModel(old), StreamedModel(new)
        except UsageError as error:
            return SurgeryCheck(source=place, target=str(target), exactness=claim, verdict="not-testable",
                                reason=error.sentence())  # fmt: skip
        size = min(model.config.vocab_size for model in models)
        length = min(LENGTH, *(model.config.n_positions for model in models))
        count = max(1, -(-tokens // length))
        drawn = Stream(seed, "verify", length).uniform(slice(0, count), slice(0, length))
        tokens_BT = (drawn * size).long().clamp_(max=size - 1)
        short = any(info.dtype in ("BF16", "F16") for info in new.tensors.values())
        yardstick = claim != "NFP" and (short or claim == "FP-epsilon")
        rounded = StreamedModel(old, torch.bfloat16) if yardstick else None
        found = walk(*models, rounded, tokens_BT, progress)
        layers = max(model.config.n_layers for model in models)
    drift = found.drift
    if drift is None:
        raise InternalError("a walk ended without logits", where=str(target))
    limit = _PER_SPREAD * drift.old_spread * math.sqrt(layers)
    noise = None if found.noise is None else found.noise.kl
    verdict, reason = gate(claim, drift, limit, noise)
    departs = next((one.layer for one in found.layers if one.error > one.limit), None) if claim != "NFP" else None
    return SurgeryCheck(
        source=place, target=str(target), exactness=claim, verdict=verdict, reason=reason, tokens=tokens_BT.numel(),
        drift=drift, limit=limit, self_noise_kl=noise, layers=found.layers, departs_at=departs,
    )  # fmt: skip


def gate(claim: str, drift: LogitDrift, limit: float, noise: float | None) -> tuple[Any, str]:
    """The verdict on a claim, and why."""
    if claim == "NFP":
        return "no-claim", "the recipe does not claim to keep the function"
    if not math.isfinite(drift.largest):
        return "fail", "the logits are not finite"
    if claim in ("FP0", "FP1") and drift.largest <= limit:
        return "pass", f"largest difference {drift.largest:.3g}, at most {limit:.3g}"
    if noise is not None and drift.kl <= _TIMES_NOISE * noise:
        return "pass", f"KL {drift.kl:.3g} nats per token, at most 3 x {noise:.3g}, which bfloat16 costs the source"
    told = f"largest difference {drift.largest:.3g}, allowed {limit:.3g}"
    if noise is not None:
        told += f"; KL {drift.kl:.3g} nats per token, allowed 3 x {noise:.3g}"
    return "fail", told


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_JSON:
            raise MalformedFile("the file is too large", where=str(path))
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise MissingInput("this folder was not made by `pedigree surgery run`", where=str(path),
                           fix="name the target.dir of a finished recipe") from error  # fmt: skip
    except (ValueError, RecursionError) as error:
        raise MalformedFile("the file is no JSON", where=str(path)) from error
    if not isinstance(content, dict):
        raise MalformedFile("the file holds no mapping", where=str(path))
    return content
