"""The difference of two models as an adapter: every matrix that changed, as a product of a rank.

Law     base + adapter is the tuned model up to the stated error of each matrix; matrices that did not change have no
        entry. One matrix is in memory at a time. What is no matrix of a layer (norms, embeddings) is not in an adapter:
        such changes are named.
Source  Eckart and Young (1936); file layout of peft.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pedigree.errors import OutputExists, UsageError
from pedigree.surgery.low_rank import CONFIG, WEIGHTS, extract
from pedigree.weights.checkpoint import Checkpoint

Progress = Callable[[str, float, str], None]


@dataclass
class Extraction:
    """What was found.

    Attributes:
        errors: relative error of each matrix in the adapter, by name.
        unchanged: matrices that are equal in both.
        left_out: tensors that changed and are no matrices of a layer.
    """

    errors: dict[str, float] = field(default_factory=dict)
    unchanged: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def extract_adapter(
    base: Checkpoint,
    tuned: Checkpoint,
    target: Path,
    *,
    rank: int,
    force: bool = False,
    progress: Progress | None = None,
) -> Extraction:
    """Write an adapter in peft's layout.

    Args:
        base, tuned: of one shape, tensor by tensor.
        target: a folder that is made.
        rank: of every product.
        force: replace a folder that is there.

    Raises:
        UsageError: the two do not have the same tensors, or nothing changed.
        OutputExists: the folder is there.
    """
    import torch
    from safetensors.torch import save_file

    shapes = [{name: info.shape for name, info in one.tensors.items()} for one in (base, tuned)]
    if shapes[0] != shapes[1]:
        odd = sorted(set(shapes[0].items()) ^ set(shapes[1].items()))[0][0]
        raise UsageError("the two models do not have the same tensors", where=odd, got=shapes[1].get(odd),
                         expected=shapes[0].get(odd))  # fmt: skip
    if rank < 1:
        raise UsageError("an adapter has a rank", got=rank, expected="1 or more")
    if target.exists() and not force:
        raise OutputExists("the target is already there", where=str(target), fix="--force, or another folder")
    found, tensors = Extraction(), dict[str, torch.Tensor]()
    for number, (name, shape) in enumerate(shapes[0].items()):
        if progress is not None:
            progress("extracting", number / len(shapes[0]), name)
        a, b = base.read(name), tuned.read(name)
        if torch.equal(a, b):
            found.unchanged.append(name)
        elif len(shape) != 2 or not name.endswith(".weight") or not any(w.isdigit() for w in name.split(".")):
            found.left_out.append(name)
        else:
            product = extract(b.double() - a.double(), rank)
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            tensors[f"{stem}.lora_A.weight"] = product.a_rI.contiguous()
            tensors[f"{stem}.lora_B.weight"] = product.b_Or.contiguous()
            found.errors[name] = product.error
    if not tensors:
        raise UsageError(
            "no matrix of a layer differs", where=tuned.location, got=f"{len(found.unchanged)} equal tensors"
        )
    modules = sorted({name.removesuffix(".weight").rpartition(".")[2] for name in found.errors})
    ranks = {name.removesuffix(".weight"): min(rank, *shapes[0][name]) for name in found.errors}
    patterns = {name: low for name, low in ranks.items() if low != rank}
    config = {
        "peft_type": "LORA", "r": rank, "lora_alpha": rank, "rank_pattern": patterns, "alpha_pattern": patterns,
        "target_modules": modules, "bias": "none", "fan_in_fan_out": False, "base_model_name_or_path": base.location,
        "task_type": "CAUSAL_LM", "lora_dropout": 0.0,
    }  # fmt: skip
    arriving = target.with_name(target.name + ".partial")
    shutil.rmtree(arriving, ignore_errors=True)
    arriving.mkdir(parents=True)
    save_file(tensors, arriving / WEIGHTS, {"format": "pt"})
    (arriving / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for file in arriving.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    if target.exists():
        shutil.rmtree(target)
    arriving.rename(target)
    return found
