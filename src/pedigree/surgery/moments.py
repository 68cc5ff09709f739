"""The state of an optimizer moved along with the weights that it belongs to.

A move that keeps the function changes the gradient by its inverse transpose: a coordinate that is permuted takes its
moments with it; one that is multiplied by s has its gradient divided by s; of c copies each gets a c-th of it. First
moments and momentum move as gradients do, second moments as their squares. Fresh coordinates begin at zero, and a
tensor that is fresh as a whole counts its steps from zero, so that its bias correction is that of a beginner.

Law     index, pad, and fold: training on from the moved weights with the moved state gives the moved weights of
        training on. Copies with unequal shares, mixed tensors and rotations have no such law for second moments: the
        state of mixed and rotated ones begins at zero, and how many there are is told.
Source  2409.12903 (cloning), 2203.06211 (staged training keeps training dynamics).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pedigree.errors import MalformedFile, MissingInput, UsageError
from pedigree.model.config import ModelConfig
from pedigree.records.recorder import Recorder
from pedigree.surgery.companions import MAX_BYTES, SIDECAR
from pedigree.surgery.composition import Composition
from pedigree.surgery.engine import Progress, run
from pedigree.surgery.exactness import Exactness
from pedigree.surgery.nodes import Blend, Fill, Gather, Given, Join, Leaf, Node, OneOf, Pick, Random, Round, Scale, Turn
from pedigree.surgery.operator import Step
from pedigree.surgery.plan import make_plan
from pedigree.surgery.rehousing import rehouse
from pedigree.surgery.retarget import model_of
from pedigree.surgery.settings import Settings
from pedigree.surgery.storing import Output, outputs
from pedigree.surgery.symbolic import WHOLE_NUMBERS, Key, Symbolic
from pedigree.weights.anatomy import read_anatomy
from pedigree.weights.checkpoint import Checkpoint, open_checkpoint
from pedigree.weights.part import Part

if TYPE_CHECKING:
    import torch

SUFFIX, STEM, STEPS = ".optimizer", "moments", "steps.json"
POWERS = {"exp_avg": 1, "exp_avg_sq": 2, "momentum": 1}
_PREFIX = "optimizer."
_UNTRAINED = frozenset({*WHOLE_NUMBERS, "moe.router.bias"})


@dataclass
class TrainingState:
    """The state of an optimizer in a checkpoint of a training run.

    Attributes:
        checkpoint: the open checkpoint.
        parts: by kind of moment, the part of every trained weight by its key.
        steps: steps that each weight has seen, by its name in our decoder.
    """

    checkpoint: Checkpoint
    parts: dict[str, dict[Key, Part]]
    steps: dict[str, float] = field(default_factory=dict)


def read_state(place: str, model: ModelConfig) -> TrainingState:
    """Open the state that `pedigree train` has saved of a model.

    Args:
        place: a folder `checkpoints/step-...` of a run, or a `TARGET.optimizer` of earlier surgery.
        model: what was trained.

    Raises:
        MissingInput: no moments are there.
        MalformedFile: they do not have the shapes of the weights, as in a state saved by several processes.
    """
    from pedigree.model.hf_config import config_to_hf
    from pedigree.model.hf_dialects import OWN

    checkpoint = open_checkpoint(place)
    saved = any(name.startswith(_PREFIX) for name in checkpoint.tensors)  # by a run; else by surgery
    prefix = _PREFIX if saved else ""
    kinds = [kind for kind in POWERS if any(name.startswith(f"{prefix}{kind}.") for name in checkpoint.tensors)]
    if not kinds:
        raise MissingInput("there is no state of an optimizer", where=place, expected="a checkpoint of a training run",
                           fix="name checkpoints/step-... of the run that made the weights")  # fmt: skip
    weights = {name.removeprefix("model."): name for name in checkpoint.tensors if name.startswith("model.")}
    config = config_to_hf(model, OWN)
    parts: dict[str, dict[Key, Part]] = {}
    for kind in kinds:
        moments = _named(checkpoint, f"{prefix}{kind}.")
        odd = [
            name
            for name in moments
            if name in weights and _shape(checkpoint, moments[name]) != _shape(checkpoint, weights[name])
        ]
        if odd:
            raise MalformedFile("moments and weights differ in shape", where=f"{place}: {odd[0]}",
                                got=_shape(checkpoint, moments[odd[0]]), expected=_shape(checkpoint, weights[odd[0]]),
                                fix="take a checkpoint that one process has saved")  # fmt: skip
        # A frozen weight has no moments: its own numbers stand in, so that the shape of the model is seen.
        anatomy = read_anatomy(checkpoint.renamed({**weights, **moments}, config))
        parts[kind] = {key: part for key, part in anatomy.by_key.items() if set(part.sources) <= set(moments)}
    if saved:
        steps = {name: float(checkpoint.read(held)) for name, held in _named(checkpoint, f"{prefix}step.").items()}
    else:
        steps = _steps_beside(checkpoint, place)
    return TrainingState(checkpoint, parts, steps)


def _named(checkpoint: Checkpoint, opening: str) -> dict[str, str]:
    """Names without an opening -> names with it."""
    return {name.removeprefix(opening): name for name in checkpoint.tensors if name.startswith(opening)}


def _shape(checkpoint: Checkpoint, name: str) -> tuple[int, ...]:
    return tuple(checkpoint.tensors[name].shape)


def _steps_beside(checkpoint: Checkpoint, place: str) -> dict[str, float]:
    try:
        found = json.loads(checkpoint.sibling_bytes(STEPS, MAX_BYTES) or b"")["steps"]
        return {str(name): float(count) for name, count in found.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MalformedFile("the steps of the state cannot be read", where=f"{place}: {STEPS}") from error


def carried(composition: Composition, place: str) -> Composition:
    """The state of the optimizer for the result of a composition, as one that the engine runs: `TARGET.optimizer`.

    Tensors are called `exp_avg.NAME` and so on, NAME as in our decoder; `steps.json` holds the steps of each.

    Raises:
        UsageError: the source, or the result, is no model of our decoder.
    """
    step = Step(len(composition.recipe.steps), "optimizer", composition.recipe.seed, _no_other)
    source = replace(composition.symbolic.copy(), config=Settings(dict(composition.source.config or {})))
    state = read_state(place, model_of(source, step))
    model = model_of(composition.symbolic, step)
    made: list[Output] = []
    steps: dict[str, float] = {}
    fresh: set[str] = set()
    for kind in state.parts:
        mapped = _Mapped(composition.symbolic, state.parts[kind], POWERS[kind])
        moved = _moved(composition.symbolic, mapped, state.checkpoint, model, step)
        for one in moved.stored:
            seen = [part.sources[0] for key in one.keys for part in _leaves(moved.parts[key])]
            name = one.template if one.layer is None else one.template.replace("{i}", str(one.layer))
            steps[name] = max((state.steps.get(source, 0.0) for source in seen), default=0.0)
            if not seen:
                fresh.add(name)
        made += [replace(output, name=f"{kind}.{output.name}") for output in outputs(moved)]
        last = moved
    last.stem, last.config, last.notes = STEM, Settings({}), []
    last.files = {STEPS: (json.dumps({"steps": steps}, indent=1) + "\n").encode()}
    if fresh:
        last.notes.append(f"optimizer: the state of {len(fresh)} of {len(steps)} tensors begins at zero")
    target = composition.recipe.target
    recipe = replace(composition.recipe, target=target.with_name(target.name + SUFFIX))
    return Composition(recipe, state.checkpoint, {}, last, made, (Exactness.FP1,) * len(composition.exactness))


def _no_other(name: str) -> Symbolic:
    raise UsageError("no other model is read here", got=name)


def _moved(
    symbolic: Symbolic, mapped: _Mapped, checkpoint: Checkpoint, model: ModelConfig, step: Step
) -> Symbolic:  # fmt: skip
    """The moments of one kind under the names of our decoder."""
    from pedigree.model.hf_dialects import OWN_TYPE

    moved = replace(symbolic.copy(), parts=mapped.all(), dtype=None)
    rehouse(moved, model, step, OWN_TYPE)
    moved.checkpoint = checkpoint
    moved.stored = [
        replace(one, dtype="F32", leaves=tuple(Fill(leaf.shape) for leaf in one.leaves))
        for one in moved.stored if one.keys[0][0] not in _UNTRAINED
    ]  # fmt: skip
    return moved


def _leaves(node: Node) -> list[Part]:
    return [inner.part for inner in node.walk() if isinstance(inner, Leaf)]


def _is_zero(node: Node) -> bool:
    """Whether a node is known to be zero everywhere."""
    if isinstance(node, Fill):
        return node.value == 0
    if isinstance(node, Join):
        return all(_is_zero(one) for one in node.nodes)
    child = getattr(node, "node", None)
    return isinstance(node, Gather | Scale | Turn | Round | Pick) and isinstance(child, Node) and _is_zero(child)


class _Mapped:
    """Nodes of weights as nodes of their moments."""

    def __init__(self, symbolic: Symbolic, parts: Mapping[Key, Part], power: int) -> None:
        self._symbolic, self._parts, self._power = symbolic, parts, power
        self._made: dict[int, Node | None] = {}

    def all(self) -> dict[Key, Node]:
        """Moments of every part; zeros where they begin anew."""
        silent = self._silent()
        found = {}
        for key, node in self._symbolic.parts.items():
            moment = None if key in silent else self.of(node)
            found[key] = Fill(node.shape) if moment is None else moment
        return found

    def _silent(self) -> set[Key]:
        """Parts of a branch that writes nothing: nothing has reached them, whatever they were copied from."""
        silent: set[Key] = set()
        for key in self._symbolic.parts:
            role, layer, expert = key
            branch = {"attn.o": ("attn.", "norm.attn"), "mlp.down": ("mlp.", "norm.mlp"),
                      "moe.expert.down": ("moe.", "norm.mlp")}.get(role)  # fmt: skip
            if branch and layer is not None and _is_zero(self._symbolic.parts[key]):
                silent |= {
                    other for other in self._symbolic.layer_keys(layer)
                    if other[0].startswith(branch) and (expert is None or other[2] in (None, expert))
                }  # fmt: skip
        return silent

    def of(self, node: Node) -> Node | None:
        """The moments of a node; None where they are zero."""
        if id(node) not in self._made:
            self._made[id(node)] = self._of(node)
        return self._made[id(node)]

    def _of(self, node: Node) -> Node | None:
        if isinstance(node, Leaf):
            part = self._parts.get((node.part.role, node.part.layer, node.part.expert))
            own = node.part.checkpoint is self._symbolic.checkpoint and part is not None
            return Leaf(part) if own and part is not None and part.shape == node.shape else None
        if isinstance(node, Fill | Given | Random):
            return None
        if isinstance(node, Join):
            inner = [self.of(one) for one in node.nodes]
            if not any(inner):
                return None
            filled = [Fill(one.shape) if made is None else made for one, made in zip(node.nodes, inner, strict=True)]
            return Join(tuple(filled), node.axis)
        if isinstance(node, Blend):
            known = [made for made in (self.of(one) for one in node.nodes) if made is not None]
            return known[0] if len(known) == 1 else None  # a weight and its noise; a mean has no law
        if isinstance(node, OneOf):
            chosen = [self.of(one) for one in node.nodes]
            every = tuple(made for made in chosen if made is not None)
            return OneOf(every, node.chosen, node.place) if len(every) == len(chosen) else None
        child = getattr(node, "node", None)
        made = self.of(child) if isinstance(child, Node) else None
        return None if made is None else self._around(node, made)

    def _around(self, node: Node, made: Node) -> Node | None:
        """The moments of a node with one child, from those of the child."""
        if isinstance(node, Round):
            return made
        if isinstance(node, Turn):
            return Turn(made)
        if isinstance(node, Pick):
            return Pick(made, node.chosen, node.count, node.axis)
        if isinstance(node, Gather):
            count = np.bincount(node.index, minlength=node.node.shape[node.axis])[node.index]
            gathered = Gather(made, node.index, node.axis)
            return gathered if count.max(initial=1) == 1 else Scale(gathered, self._shares(count), node.axis)
        if isinstance(node, Scale):
            if isinstance(node.factor, Node):
                return Scale(made, self._inverse(node.factor), node.axis)
            return Scale(made, float(node.factor) ** -self._power, node.axis) if node.factor else None
        return None

    def _shares(self, count: np.ndarray) -> Node:
        import torch

        return Given(torch.from_numpy((1.0 / count) ** self._power).to(torch.float32))

    def _inverse(self, factor: Node) -> Node:
        """Factors of a gradient, where the weight has these; 0 where the weight has 0."""
        import torch

        power = self._power

        def inverse(tiles: Sequence[torch.Tensor], _at: object) -> torch.Tensor:
            size = tiles[0].abs().clamp(min=1e-30) ** -power
            return torch.where(tiles[0] == 0, torch.zeros_like(size), size * tiles[0].sign() ** power)

        return Blend((factor,), inverse)


def carry(
    composition: Composition, recorder: Recorder, *, workers: int | None = None, force: bool = False,
    progress: Progress | None = None,
) -> list[str]:  # fmt: skip
    """Write `TARGET.optimizer`, where the recipe names a state; a finished one of the same recipe stays.

    Returns:
        What the user should know.

    Raises:
        PedigreeError: the state does not fit, or there is no room; the target itself is not begun then.
    """
    recipe = composition.recipe
    if recipe.optimizer is None:
        return []
    moved = carried(composition, recipe.optimizer)
    try:
        target = moved.recipe.target
        if not force and _made_by(target, recipe.digest()):
            return [f"optimizer: its state is in {target} already"]
        outcome = run(make_plan(moved, workers=workers), recorder, force=force, progress=progress)
        return [*outcome.notes, f"optimizer: its state is in {target}"]
    finally:
        moved.source.close()


def _made_by(folder: Path, digest: str) -> bool:
    """Whether a finished state was made by the recipe of this digest."""
    try:
        return bool(json.loads((folder / SIDECAR).read_text("utf-8")).get("recipe") == digest)
    except (OSError, ValueError, AttributeError):
        return False
