"""What a trained step leaves beside its weights, and whether it is still what the recipe asks for.

    evaluation.json   the scores of the end, with the id of the artifact that they belong to
    result.json       what the step was made of, what came out: a step is trained again only where one of them changed

Law  a step is passed over only when everything that decides its weights has the same digest and the files of the result
     have the artifact id that they had when it was written.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pedigree.cli.files import write_file
from pedigree.errors import PedigreeError

if TYPE_CHECKING:
    from pedigree.family.steps import Step
    from pedigree.records.training_run import StepResult
    from pedigree.training.config import TrainingConfig

Read = TypeVar("Read")

RESULT, EVALUATION = "result.json", "evaluation.json"


def made_of(step: Step, config: TrainingConfig, tokenizer: Path, parents: dict[str, Path]) -> str:
    """Digest of all that decides the weights and the scores of a step.

    Args:
        step: as planned.
        config: its settings with every override, paths in place.
        tokenizer: its tokenizer.json, or the folder of it.
        parents: folders of the weights that it begins with.

    Raises:
        MissingInput: a corpus or a file is not there.
    """
    from pedigree.records.canonical import canonical_digest
    from pedigree.training.sources import source_digest
    from pedigree.weights.artifact import artifact_id

    sources = [*config.sources, *config.evaluation.sources]
    settings = config.decisive() | {"evaluation": config.evaluation.model_dump(mode="json")}
    for source in [*settings["sources"], *settings["evaluation"]["sources"]]:
        source.pop("path")  # its digest says what it was; where it lies may change
    return canonical_digest(
        {
            "step": step.digest, "settings": settings, "sources": [source_digest(source) for source in sources],
            "tokenizer": artifact_id(tokenizer / "tokenizer.json" if tokenizer.is_dir() else tokenizer),
            "parents": {name: artifact_id(folder) for name, folder in parents.items()},
        }
    )  # fmt: skip


def kept_before(output: Path, model: str, digest: str, read: Callable[[dict[str, Any]], Read]) -> Read | None:
    """What `read` makes of the result that `keep_result` left, where the weights are whole and made of the same.

    Args:
        output: folder of the step.
        model: name of the folder of the weights in it.
        digest: of all that decides the weights, now.
        read: from the kept facts.
    """
    from pydantic import ValidationError

    from pedigree.weights.artifact import artifact_id

    try:
        kept: dict[str, Any] = json.loads((output / RESULT).read_text(encoding="utf-8"))
        if kept["made_of"] != digest or kept["artifact"] != artifact_id(output / model):
            return None
        return read(kept)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, ValidationError, PedigreeError):
        return None


def keep_result(output: Path, artifact: str, digest: str, facts: dict[str, Any]) -> None:
    """Write `result.json`: what the weights were made of, their artifact id, and further facts."""
    kept = {"made_of": digest, "artifact": artifact, **facts}
    write_file(output / RESULT, json.dumps(kept, indent=1) + "\n", force=True)


def finished_before(output: Path, model: str, digest: str) -> StepResult | None:
    """The result of a step that is on disk, whole, and made of the same; None where it is not.

    Args:
        output: folder of the step.
        model: name of the folder of the weights in it.
        digest: what `made_of` gives now.
    """
    from pedigree.records.training_run import StepResult

    result = kept_before(output, model, digest, lambda kept: StepResult.model_validate(kept["result"]))
    if result is None:
        return None
    here = {"output": str(output), "model": str(output / model), "report": str(output / "report.html")}
    return result.model_copy(update={"skipped": True, **here})


def keep(result: StepResult, config: TrainingConfig, output: Path, model: str, digest: str) -> None:
    """Write `evaluation.json` and `result.json` of a finished step."""
    from pedigree.cli.eval import evaluated, evaluation_record
    from pedigree.records.evaluation import EvaluationInputs, EvaluationResult
    from pedigree.weights.artifact import read_artifact

    artifact = read_artifact(output / model)
    if result.scores or result.arithmetic:
        settings: dict[str, Any] = {
            "max_tokens": config.evaluation.max_tokens, "sequence_length": config.sequence_length,
            "arithmetic": config.evaluation.arithmetic, "step": result.step,
        }  # fmt: skip
        record = evaluation_record(
            EvaluationInputs(artifact=evaluated(artifact), settings=settings),
            EvaluationResult(scores=result.scores, arithmetic=result.arithmetic),
            command="train",
        )
        write_file(output / EVALUATION, record.to_json() + "\n", force=True)
    keep_result(output, artifact.id, digest, {"result": result.to_dict()})
