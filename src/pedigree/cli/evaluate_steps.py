"""What `pedigree run` does with the evaluations of a recipe: models measured on one corpus, all in the same way.

    runs/FAMILY/evaluate/NAME/MODEL.json    the record `pedigree/evaluation`, as `pedigree eval` writes it

Law  a model is not measured again while its files, the corpus and the settings are the same.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pedigree.cli.files import write_file
from pedigree.cli.recording import recorder_for
from pedigree.cli.train_steps import MODEL
from pedigree.errors import PedigreeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pedigree.cli.output import Output
    from pedigree.cli.workplace import Workplace
    from pedigree.family.sections import EvaluateKeys
    from pedigree.records.artifact import Artifact
    from pedigree.records.evaluation import Evaluation
    from pedigree.records.family_run import MemberEvaluation, MemberResult
    from pedigree.training.config import SourceConfig
    from pedigree.training.examination import Examination

FOLDER = "evaluate"


def check_evaluations(place: Workplace) -> None:
    """Make sure, before anything is made, that the corpora of all evaluations are there and can be read.

    Raises:
        PedigreeError: one is not.
    """
    from pedigree.training.sources import check_source

    for asked in place.family.evaluate.values():
        for source in _sources(place, asked):
            check_source(source)


def evaluate_members(place: Workplace, members: Sequence[MemberResult], out: Output) -> list[MemberEvaluation]:
    """Every evaluation of the recipe on those of its models that are made."""
    made = {member.name: member for member in members}
    found = []
    for name, asked in place.family.evaluate.items():
        for model in asked.models:
            if model in made:
                found.append(_one(place, name, asked, model, out))
    return found


def _one(place: Workplace, name: str, asked: EvaluateKeys, model: str, out: Output) -> MemberEvaluation:
    """One model of one evaluation, measured now or before."""
    from pedigree.records.family_run import MemberEvaluation
    from pedigree.weights.artifact import read_artifact

    folder = place.output / model / MODEL
    file = place.output / FOLDER / name / f"{model}.json"
    artifact = read_artifact(folder)
    settings = _settings(place, asked)
    record = _before(file, artifact.id, settings) if place.start != "fresh" else None
    measured = record is None
    if record is None:
        status = out.progress()
        if status is not None:
            status("measuring", 0.0, f"{model} on {asked.corpus}")
        try:
            record = _measured(place, name, asked, artifact, model, settings)
        finally:
            out.clear_status()
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(file, record.to_json() + "\n", force=True)
    result = record.result
    if out.mode in ("human", "plain"):
        told = [f"{score.domain} {score.bits_per_byte:.3f}" for score in result.scores]
        told += [f"sums {100 * result.arithmetic['all']:.0f} % right"] if "all" in result.arithmetic else []
        out.result(f"{name}: {model}: {', '.join(told)}{'' if measured else ' (measured before)'}")
    return MemberEvaluation(
        evaluation=name, model=model, artifact=artifact.id, outcome="made" if measured else "unchanged",
        scores=result.scores, arithmetic=result.arithmetic, seconds=round(result.seconds or 0.0, 1),
        file=f"{FOLDER}/{name}/{file.name}",
    )  # fmt: skip


def _measured(
    place: Workplace, name: str, asked: EvaluateKeys, artifact: Artifact, model: str, settings: dict[str, Any]
) -> Evaluation:  # fmt: skip
    """Measure one model, and record that it was."""
    from pedigree.cli.eval import evaluated, evaluation_record
    from pedigree.records.evaluation import EvaluationInputs, EvaluationResult
    from pedigree.training.examination import examine

    folder = place.output / model / MODEL
    begun = time.monotonic()
    with recorder_for(
        place.output / FOLDER / name / f"{model}.jsonl", place.warn, unrecorded=place.unrecorded
    ) as recorder:
        recorder.run_start(
            {"operation": "evaluate", "name": f"{name}: {model}", "parameters": settings,
             "recipe": str(place.recipe.path), "recipe_digest": place.recipe.digest,
             "inputs": [{"path": str(folder), "role": "evaluated", "name": model}]}
        )  # fmt: skip
        found = examine(folder, _examination(place, asked), place.device)
        result = EvaluationResult(
            scores=found.scores, arithmetic=found.arithmetic, seconds=round(time.monotonic() - begun, 3)
        )
        recorder.run_end({"outcome": "finished", "artifact": artifact.id, **result.to_dict()})
    inputs = EvaluationInputs(artifact=evaluated(artifact), texts=found.texts, settings=settings)
    return evaluation_record(inputs, result, command="run")


def _examination(place: Workplace, asked: EvaluateKeys) -> Examination:
    from pedigree.training.examination import Examination

    return Examination(
        _sources(place, asked), asked.tokens, asked.arithmetic, asked.sequence_length, seed=0
    )  # fmt: skip


def _sources(place: Workplace, asked: EvaluateKeys) -> tuple[SourceConfig, ...]:
    from pedigree.training.config import beside

    return tuple(beside(place.family.corpora[asked.corpus].sources, place.beside))


def _settings(place: Workplace, asked: EvaluateKeys) -> dict[str, Any]:
    """All that decides the numbers beside the model."""
    from pedigree.training.sources import source_digest

    return {
        "max_tokens": asked.tokens, "sequence_length": asked.sequence_length, "arithmetic": asked.arithmetic,
        "sources": [source_digest(source) for source in _sources(place, asked)],
    }  # fmt: skip


def _before(file: Path, artifact: str, settings: dict[str, Any]) -> Evaluation | None:
    """The record of an earlier run, where it is of the same files, texts and settings."""
    from pydantic import ValidationError

    from pedigree.records.evaluation import Evaluation

    try:
        record = Evaluation.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, ValidationError, PedigreeError):
        return None
    same = record.inputs.artifact.id == artifact and record.inputs.settings == settings
    return record if same else None
