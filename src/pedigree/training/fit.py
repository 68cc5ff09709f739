"""What must fit before the first step: model, tokenizer, sequences, disk."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from pedigree.errors import InputError, ProblemsFound, UsageError
from pedigree.model.config import ModelConfig
from pedigree.training.config import TrainingConfig
from pedigree.training.shards import Vocabulary
from pedigree.training.spread import spread_problems


@dataclass(frozen=True)
class ModelFacts:
    """What the run must know of a model beside its weights.

    Attributes:
        config: everything that makes the model what it is, plain JSON; a checkpoint remembers it.
        vocab_size: ids that the model knows.
        n_positions: longest sequence; None where there is no limit.
        operations_per_token: of a training step, two for each multiplication; 0 where unknown.
    """

    config: dict[str, Any]
    vocab_size: int
    n_positions: int | None = None
    operations_per_token: float = 0.0


def check_fit(config: TrainingConfig, facts: ModelFacts, vocabulary: Vocabulary) -> None:
    """Make sure that model, tokenizer and settings belong together.

    Raises:
        UsageError: the tokenizer knows more ids than the model, or sequences are longer than its context.
    """
    if vocabulary.size > facts.vocab_size:
        raise UsageError(
            "the tokenizer knows ids that the model does not", where="vocab_size", got=f"{vocabulary.size} ids",
            expected=f"at most {facts.vocab_size}", fix=f"vocab_size: {vocabulary.size} in the model, or its tokenizer",
        )  # fmt: skip
    if facts.n_positions is not None and config.sequence_length > facts.n_positions:
        raise UsageError(
            "the sequences are longer than the context of the model", where="sequence_length",
            got=config.sequence_length, expected=f"at most {facts.n_positions}",
            fix=f"sequence_length: {facts.n_positions}, or more n_positions in the model",
        )  # fmt: skip


def check_mesh(config: TrainingConfig, model: nn.Module) -> None:
    """Make sure that the model can be spread over the mesh.

    Raises:
        UsageError, ProblemsFound: it cannot; with the sizes that would do.
    """
    mesh = config.mesh
    if mesh.tp == mesh.ep == 1:
        return
    shape = getattr(model, "config", None)
    if not isinstance(shape, ModelConfig):
        axis = "tp" if mesh.tp > 1 else "ep"
        raise UsageError(
            "this kind of model cannot be cut", where=f"mesh.{axis}", got=type(model).__name__,
            expected="a decoder of the family", fix="spread it with dp_shard alone",
        )  # fmt: skip
    world = int(os.environ.get("WORLD_SIZE", "1"))
    found = spread_problems(shape, mesh, mesh.dp_shard or max(1, world // mesh.tp))
    if len(found) > 1:
        raise ProblemsFound("mesh", found)
    if found:
        raise found[0]


def check_disk(model: nn.Module, config: TrainingConfig, output: Path) -> None:
    """Make sure that the checkpoints fit on the disk.

    Raises:
        InputError: they do not.
    """
    # Weights and two moments in float32, one checkpoint more than is kept while it is written, and the final weights.
    n_weights = sum(parameter.numel() for parameter in model.parameters())
    wanted = 12 * n_weights * (config.checkpoint.keep + 1) + 4 * n_weights
    there = next(folder for folder in (output, *output.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if wanted > free:
        raise InputError(
            "the disk is too small for the checkpoints of this run", where=str(output), got=f"{free:,} bytes free",
            expected=f"{wanted:,} bytes", fix="free some space, another folder with --out, or checkpoint.keep: 1",
        )  # fmt: skip
