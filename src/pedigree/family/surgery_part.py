"""A surgery step of a recipe at plan time: what model its operators make, worked out on a header that has no weights.

Law: the config and the exactness told here are those of the run; both come from the same composition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pedigree.errors import PedigreeError, UsageError
from pedigree.model.config import ModelConfig

if TYPE_CHECKING:
    from pedigree.surgery.recipe import PlannedStep, SurgeryRecipe
    from pedigree.weights.checkpoint import Checkpoint

SHARD_BYTES = 5_000_000_000
STARTS = "from"  # how recipes call the weights that are operated on


@dataclass(frozen=True)
class Operated:
    """What comes out: the model, the exactness class of each operator in its words, and that of all together."""

    model: ModelConfig
    exactness: tuple[str, ...]
    whole: str


def declared(name: str, model: ModelConfig) -> Checkpoint:
    """The checkpoint that `pedigree train` would write of a model, as a header without weights."""
    from pedigree.model.hf_checkpoint import plan
    from pedigree.model.hf_config import KEY, choose_dialect, config_to_hf
    from pedigree.model.hf_dialects import OWN
    from pedigree.model.hf_layout import empty_state
    from pedigree.weights.declared import declared_checkpoint

    dialect = choose_dialect(model)
    state = empty_state(model)
    tensors = {slot.name: ("F32", slot.shape(state)) for slot in plan(model, dialect)}
    config = {key: value for key, value in config_to_hf(model, dialect).items() if dialect is OWN or key != KEY}
    return declared_checkpoint(name, tensors, config)


def surgery_recipe(
    name: str,
    steps: Sequence[PlannedStep],
    places: Mapping[str, str],
    target: Path,
    *,
    seed: int,
    allow_nfp: bool,
    optimizer: Path | None = None,
) -> SurgeryRecipe:
    """The surgery recipe behind a step.

    Args:
        name: of the step.
        steps: its operators.
        places: where weights lie: `from`, and the further models by the names that operators use.
        target: folder of the result.
        seed: of random numbers.
        allow_nfp: whether operators may change the function.
        optimizer: folder of the state of the optimizer that is moved along, None where it is dropped.
    """
    from pedigree.surgery.recipe import SurgeryRecipe, VerifySection

    return SurgeryRecipe(
        path=name, source=places[STARTS], allow_pickle=False,
        models={other: place for other, place in places.items() if other != STARTS}, target=target,
        shard_bytes=SHARD_BYTES, seed=seed, link=True, allow_nfp=allow_nfp, steps=tuple(steps),
        verify_tokens=VerifySection().tokens, folder=".", optimizer=None if optimizer is None else str(optimizer),
    )  # fmt: skip


def operated(
    name: str,
    models: Mapping[str, ModelConfig],
    steps: Sequence[PlannedStep],
    *,
    seed: int,
    allow_nfp: bool,
    vocabulary: int | None,
) -> Operated:
    """Apply the operators of a step to headers.

    Args:
        name: of the step.
        models: `from` and the further models by the names that operators use.
        steps: the operators.
        seed, allow_nfp: as in the recipe.
        vocabulary: rows of the result where its tokenizer is another one; operators that read tokenizers, which are
            not made yet when a plan is, are left out and this is taken for what they do (with their worst class).

    Raises:
        UsageError: an operator does not fit the model, or changes the function and may not.
    """
    from pedigree.model.hf_config import KEY, config_from_hf
    from pedigree.model.hf_dialects import OWN_TYPE
    from pedigree.surgery.composition import compose
    from pedigree.surgery.exactness import whole

    headers = {place: declared(place, model) for place, model in models.items()}
    shaping = [step for step in steps if not reads_tokenizer(step)]
    recipe = surgery_recipe(
        name, shaping, {place: f"plan://{place}" for place in models}, Path(name), seed=seed, allow_nfp=allow_nfp
    )
    made = compose(recipe, lambda place, _pickle: headers[place.removeprefix("plan://")])
    own = made.symbolic.config.kind == OWN_TYPE
    keys = {key: value for key, value in made.symbolic.config.values.items() if own or key != KEY}
    try:
        found, _ = config_from_hf(keys, name)
    except PedigreeError as error:
        raise UsageError(
            "what comes out is no model that can be trained here", where=name, got=error.what, expected=error.expected
        ) from error
    start = models[STARTS]
    found = found.replace(name=name, init=start.init, dropout=start.dropout)
    if vocabulary is not None and vocabulary != found.vocab_size:
        found = found.replace(vocab_size=vocabulary)
    classes = iter(made.exactness)
    exactness = [min(step.operator.classes.values()) if reads_tokenizer(step) else next(classes) for step in steps]
    return Operated(found, tuple(one.word for one in exactness), whole(exactness).word)


def reads_tokenizer(step: PlannedStep) -> bool:
    """Whether an operator takes a tokenizer of the recipe, by the parameter of this name."""
    return getattr(step.parameters, "tokenizer", None) is not None
