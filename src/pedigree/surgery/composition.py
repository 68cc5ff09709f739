"""Steps composed: one symbolic checkpoint after all of them, the exactness of the whole, and what changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pedigree.errors import PedigreeError, ProblemsFound, UsageError
from pedigree.surgery.exactness import Exactness, whole
from pedigree.surgery.operator import Step
from pedigree.surgery.recipe import SurgeryRecipe, placed
from pedigree.surgery.settings import OWN_TYPE
from pedigree.surgery.storing import Output, outputs
from pedigree.surgery.symbolic import Symbolic, read_symbolic
from pedigree.weights.anatomy import read_anatomy
from pedigree.weights.checkpoint import Checkpoint, open_checkpoint


@dataclass
class Composition:
    """A recipe worked out on nodes.

    Attributes:
        source: the opened source.
        others: every further checkpoint that was opened, by place.
        symbolic: the result.
        outputs: its tensors.
        exactness: class of each step, in order.
    """

    recipe: SurgeryRecipe
    source: Checkpoint
    others: dict[str, Checkpoint]
    symbolic: Symbolic
    outputs: list[Output]
    exactness: tuple[Exactness, ...]

    @property
    def whole(self) -> Exactness:
        """The class of all steps together."""
        return whole(self.exactness)

    def close(self) -> None:
        """Close every checkpoint."""
        for checkpoint in (self.source, *self.others.values()):
            checkpoint.close()


@dataclass(frozen=True)
class _Shape:
    """A tensor of the result as `read_anatomy` wants it."""

    dtype: str
    shape: tuple[int, ...]


@dataclass
class _Header:
    """The result seen as a checkpoint of which only the header exists."""

    tensors: Mapping[str, _Shape]
    config: Mapping[str, Any] | None
    read: Any = field(default=None)
    read_rows: Any = field(default=None)
    read_index: Any = field(default=None)


Opener = Callable[[str, bool], Checkpoint]
"""A place and whether pickles may be read -> the opened checkpoint."""


def _open(place: str, allow_pickle: bool) -> Checkpoint:
    return open_checkpoint(place, allow_pickle=allow_pickle)


def compose(recipe: SurgeryRecipe, open_place: Opener = _open) -> Composition:
    """Open the sources and apply every step; reads headers only.

    Args:
        recipe: what to do.
        open_place: how a place becomes a checkpoint; plans give checkpoints that do not exist yet.

    Raises:
        PedigreeError: a source cannot be opened, or a step does not fit; names the step.
        UsageError: a step does not keep the function, and the recipe does not allow it.
    """
    source = open_place(recipe.source, recipe.allow_pickle)
    others: dict[str, Checkpoint] = {}
    try:
        if source.format == "gguf":
            raise UsageError(
                "GGUF is read, but what is written would not be GGUF", where=recipe.source,
                fix="use the safetensors of the same model as the source",
            )  # fmt: skip
        symbolic = read_symbolic(source)
        classes = []
        for number, planned in enumerate(recipe.steps):
            step = Step(number, planned.operator.name, recipe.seed, _opener(recipe, others, open_place), recipe.folder)
            symbolic = symbolic.copy()
            classes.append(planned.operator.apply(symbolic, planned.parameters, step))
        _allowed(recipe, classes)
        result = outputs(symbolic)
        _check_names(result, recipe)
        _check_result(symbolic, result, recipe)
    except BaseException:
        source.close()
        for checkpoint in others.values():
            checkpoint.close()
        raise
    return Composition(recipe, source, others, symbolic, result, tuple(classes))


def _opener(recipe: SurgeryRecipe, others: dict[str, Checkpoint], open_place: Opener) -> Callable[[str], Symbolic]:
    def opened(name: str) -> Symbolic:
        place = recipe.models.get(name) or placed(name, recipe.folder)
        if place not in others:
            others[place] = open_place(place, recipe.allow_pickle)
        return read_symbolic(others[place])

    return opened


def _allowed(recipe: SurgeryRecipe, classes: list[Exactness]) -> None:
    bad = [n for n, found in enumerate(classes) if found is Exactness.NFP]
    if bad and not recipe.allow_nfp:
        named = ", ".join(f"{n + 1} ({recipe.steps[n].operator.name})" for n in bad)
        raise UsageError(
            "the function of the model would not be kept", where=recipe.path, got=f"NFP: step {named}",
            expected="steps of class FP0, FP1 or FP-epsilon", fix="`allow: nfp` in the recipe, if that is meant",
        )  # fmt: skip


def _check_names(result: list[Output], recipe: SurgeryRecipe) -> None:
    seen: set[str] = set()
    for output in result:
        if output.name in seen:
            raise UsageError("two tensors would have the same name", where=recipe.path, got=output.name)
        seen.add(output.name)
    if not result:
        raise UsageError("nothing would be left of the model", where=recipe.path)


def _check_result(symbolic: Symbolic, result: list[Output], recipe: SurgeryRecipe) -> None:
    """Read the header of the result as a stranger would: its shapes and its config must tell the same model.

    Raises:
        ProblemsFound: they do not.
    """
    if not recipe.steps or symbolic.anatomy.inferred or not symbolic.is_model:
        return
    if (
        symbolic.n_heads
        and symbolic.head_dim
        and (symbolic.n_heads, symbolic.head_dim, symbolic.d_model)
        != (symbolic.anatomy.n_heads, symbolic.anatomy.head_dim, symbolic.anatomy.d_model)
    ):
        symbolic.config.check_heads(symbolic.d_model, symbolic.n_heads, symbolic.head_dim)
    header = _Header(
        {output.name: _Shape(output.dtype, output.shape) for output in result}, symbolic.config.values or None
    )
    found = read_anatomy(header)
    problems: list[PedigreeError] = []
    for word in ("n_layers", "d_model", "n_heads", "n_kv_heads", "head_dim", "vocab_size"):
        got, expected = getattr(found, word), getattr(symbolic, word)
        if got != expected:
            problems.append(
                UsageError("the shapes of the result tell another model", where=word, got=got, expected=expected)
            )
    before = set(symbolic.anatomy.notes)
    problems.extend(
        UsageError("shapes and config of the result contradict each other", where=recipe.path, got=note)
        for note in found.notes
        if note not in before and note.startswith(("config:", "heads:", "layers:"))
    )
    if set(found.unmapped) - {output.name for output in result if output.origin in symbolic.anatomy.unmapped}:
        new = sorted(set(found.unmapped))[:3]
        problems.append(UsageError("tensors of the result have no role", where=recipe.path, got=", ".join(new)))
    problems += _own_problems(symbolic, result, recipe)
    if problems:
        raise ProblemsFound(recipe.path, problems)


def _own_problems(symbolic: Symbolic, result: list[Output], recipe: SurgeryRecipe) -> list[PedigreeError]:
    """Of our own type the config says every tensor: what an operator did not know of shows here."""
    from pedigree.model.hf_config import config_from_hf
    from pedigree.surgery.rehousing import declared

    if symbolic.config.kind != OWN_TYPE:
        return []
    described = declared(recipe.path, config_from_hf(symbolic.config.values)[0], OWN_TYPE)
    wanted = {name: info.shape for name, info in described.tensors.items()}
    have = {output.name: output.shape for output in result}
    wrong = sorted(name for name in {*wanted, *have} if wanted.get(name) != have.get(name))
    return [
        UsageError(
            "a module of this model does not follow the change", where=name, got=have.get(name, "no tensor"),
            expected=wanted.get(name, "no tensor"), fix="put the operator that adds the module behind this change",
        )
        for name in wrong[:6]
    ]  # fmt: skip
