"""What `pedigree run` does with a step that makes weights from weights."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pedigree.cli.earlier import made_of_before, set_aside, take_back
from pedigree.cli.recording import recorder_for
from pedigree.cli.train_results import keep_result, kept_before
from pedigree.cli.train_steps import MODEL, moments_beside, state_of
from pedigree.errors import MissingInput

if TYPE_CHECKING:
    from pedigree.cli.output import Output
    from pedigree.cli.workplace import Workplace
    from pedigree.family.steps import Member, Operation
    from pedigree.records.training_run import DomainScore
    from pedigree.surgery.recipe import PlannedStep
    from pedigree.training.config import TrainingConfig


@dataclass(frozen=True)
class Operated:
    """What a surgery step left: the folder of the weights, how long it took, scores on held-out text.

    `experts` is what the experts of a mixture are worth there, in one sentence.
    """

    model: Path
    seconds: float
    skipped: bool = False
    scores: list[DomainScore] = field(default_factory=list)
    experts: str = ""


def operate(place: Workplace, step: Operation, out: Output) -> Operated:
    """Make the weights of a step, unless they are there and made of the same.

    Raises:
        MissingInput: a model it starts from is not made yet.
        PedigreeError: an operator does not fit, or there is no room.
    """
    from pedigree.family.surgery_part import STARTS, surgery_recipe
    from pedigree.records.canonical import canonical_digest
    from pedigree.surgery.composition import compose
    from pedigree.surgery.engine import run
    from pedigree.surgery.moments import carry
    from pedigree.surgery.plan import make_plan
    from pedigree.weights.artifact import artifact_id

    output = place.output / step.name
    folders = {STARTS: step.parents["from"], **step.others}
    places = {name: _made(place, parent, step.name) for name, parent in folders.items()}
    digest = canonical_digest(
        {"step": step.digest, "parents": {name: artifact_id(folder) for name, folder in places.items()}}
    )
    whole = not step.carries or moments_beside(output / MODEL).is_dir()
    kept = _kept(output, digest) if place.start != "fresh" and whole else None
    if kept is None and place.keeps_earlier:
        if take_back(place, step.name, digest):
            kept = _kept(output, digest)
        elif made_of_before(output) not in (None, digest):
            set_aside(place, step.name)
    if kept is not None:
        return kept
    begun = time.monotonic()
    output.mkdir(parents=True, exist_ok=True)
    steps = [_with_tokenizer(place, one) for one in step.steps]
    recipe = surgery_recipe(
        step.name, steps, {name: str(folder) for name, folder in places.items()}, output / MODEL, seed=step.seed,
        allow_nfp=step.allow_nfp, optimizer=state_of(place, step.parents["from"]) if step.carries else None,
    )  # fmt: skip
    composition = compose(recipe)
    try:
        with recorder_for(output / "run.jsonl", place.warn, unrecorded=place.unrecorded) as recorder:
            carry(composition, recorder, force=True, progress=out.progress())
            run(make_plan(composition), recorder, force=True, progress=out.progress())
    finally:
        composition.close()
    scores, experts = _scores(place, step, output / MODEL)
    done = Operated(output / MODEL, round(time.monotonic() - begun, 1), scores=scores, experts=experts)
    facts = {"seconds": done.seconds, "scores": [score.to_dict() for score in scores], "experts": experts}
    keep_result(output, artifact_id(done.model), digest, facts)
    return done


def show_operated(step: Operation, done: Operated, out: Output) -> None:
    """One step in a few lines."""
    names = ", ".join(f"{one.operator.name} ({word})" for one, word in zip(step.steps, step.exactness, strict=False))
    how = "unchanged, as made before" if done.skipped else f"made in {done.seconds:.1f} s"
    out.result(f"{step.name}: {how} from {step.parents['from']}: {names or step.whole}")
    if done.scores:
        scores = ", ".join(f"{score.domain} {score.bits_per_byte:.3f}" for score in done.scores)
        out.result(f"  bits per byte on held-out text: {scores}")
    if done.experts:
        out.result(f"  {done.experts}")


def _trained(place: Workplace, step: Operation) -> TrainingConfig:
    """The settings of the nearest model behind a step that was trained."""
    from pedigree.family.steps import Step

    member: Member = step
    while not isinstance(member, Step):
        member = place.family.members[member.parents["from"]]
    return member.training


def _made(place: Workplace, parent: str, step: str) -> Path:
    folder = place.output / parent / MODEL
    if not (folder / "config.json").is_file():
        raise MissingInput(
            "the model that this step starts from is not made yet", where=str(folder), got=step,
            fix=f"pedigree run {place.recipe.path} --only {step}",
        )  # fmt: skip
    return folder


def _with_tokenizer(place: Workplace, step: PlannedStep) -> PlannedStep:
    """The operator with the file of the tokenizer that it names."""
    from pedigree.family.surgery_part import reads_tokenizer
    from pedigree.family.tokenizer_files import tokenizer_file

    if not reads_tokenizer(step):
        return step
    file = tokenizer_file(place.family, str(step.parameters.tokenizer), place.beside, place.output)  # type: ignore[attr-defined]
    return replace(step, parameters=step.parameters.model_copy(update={"tokenizer": str(file.resolve())}))


def _kept(output: Path, digest: str) -> Operated | None:
    """The result of an earlier run, where it is whole and made of the same."""
    from pedigree.records.training_run import DomainScore

    def read(kept: dict[str, Any]) -> Operated:
        scores = [DomainScore.model_validate(score) for score in kept["scores"]]
        experts = str(kept.get("experts", ""))
        return Operated(output / MODEL, float(kept["seconds"]), skipped=True, scores=scores, experts=experts)

    return kept_before(output, MODEL, digest, read)


def _scores(place: Workplace, step: Operation, folder: Path) -> tuple[list[DomainScore], str]:
    """Bits per byte on the held-out text of the step's corpus, and what experts are worth there.

    Nothing of either where nothing is held out.
    """
    from dataclasses import asdict

    from pedigree.family.tokenizer_files import separator_of
    from pedigree.model.hf_checkpoint import import_checkpoint
    from pedigree.records.training_run import DomainScore
    from pedigree.training.batches import open_batches
    from pedigree.training.config import EvaluationConfig, TrainingConfig, beside
    from pedigree.training.device import find_device
    from pedigree.training.evaluation import bits_per_byte, held_out_texts
    from pedigree.training.interface import Trainable
    from pedigree.training.moe_health import moe_health
    from pedigree.training.shards import Vocabulary

    sources = beside(place.family.corpora[step.corpus].sources, place.beside)
    if not any(source.held_out for source in sources):
        return [], ""
    trained = _trained(place, step)  # scored as the model it was made from, so that the numbers can be compared
    config = TrainingConfig(
        sources=sources, tokens=1, sequence_length=min(trained.sequence_length, step.model.n_positions),
        evaluation=EvaluationConfig(max_tokens=trained.evaluation.max_tokens),
    )  # fmt: skip
    separator = separator_of(place.family, step.tokenizer)
    vocabulary = Vocabulary.load(folder / "tokenizer.json", separator)
    cache = place.output / "tokens"
    batches = open_batches(config, vocabulary, cache)
    texts = held_out_texts(config, batches.corpora, vocabulary, cache)
    device = find_device(place.device)
    decoder = import_checkpoint(folder).to(device).eval()
    model: Trainable = decoder
    scores = [DomainScore(**asdict(bits_per_byte(model, text, config, vocabulary, device))) for text in texts]
    if step.model.experts is None:
        return scores, ""
    return scores, moe_health(decoder, texts, config, vocabulary, device).sentence
