"""Random families whose descent is known: trees of models over a few independent starts, drawn from a seed.

Every line is an operator of the zoo with its training: continued on the same or other text for a short or a long time,
with frozen parts, deeper, wider, cut, quantized, with another vocabulary, with experts, merged, disguised, with noise,
with a merged adapter. What fits a model depends on what was done to it before (`State`).

Laws
1. A seed and a scale give one family for ever; two families share no random start.
2. Nothing about a model tells its place: names are numbers dealt at random, and models stand in an order of their own.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pedigree.benchmark.families.sizes import Scale
from pedigree.benchmark.zoo.recipe import Recipe
from pedigree.errors import UsageError

FIRST_SEED = 600_000
PARTS = 4
"""Parts of the corpus; roots are trained on part 0."""

DISTANCES = (0.1, 0.3, 1.0)
"""Lengths of training, in units of the root's own."""

KINDS: Mapping[str, float] = {
    "trained": 5.0, "frozen": 1.0, "deeper": 1.2, "wider": 1.2, "cut": 1.0, "quantized": 1.0, "retokenized": 0.7,
    "upcycled": 0.7, "merged": 1.5, "disguised": 1.0, "noisy": 0.7, "adapted": 0.7,
}  # fmt: skip
"""How often each kind of line is drawn, relative to the others."""

FOR_EXPERTS = ("trained", "frozen")
"""What operators of the zoo can do to models with experts."""


@dataclass(frozen=True)
class State:
    """What a model has become, as far as it decides what can be done next.

    Attributes:
        start: which independent start it descends from; the first one of a merge.
        inner, layers: its shape.
        frame: models of one frame have units and heads in the same places, so that they can be averaged.
        words: which tokenizer.
        experts: whether it has experts.
    """

    start: int
    inner: int
    layers: int
    frame: int = 0
    words: int = 0
    experts: bool = False


@dataclass(frozen=True)
class Family:
    """A family with its truth.

    Attributes:
        name: of the family; the group of its recipes.
        recipes: by name, parents before children.
        order: the names as they are shown: no order that tells anything.
        kinds: what was done to get each model: a key of `KINDS`, or "start".
        same: models that differ from their parent by a disguise alone: no number of what they compute is another.
        left_out: inner models that may be kept back, so that an ancestor is missing.
    """

    name: str
    recipes: Mapping[str, Recipe]
    order: tuple[str, ...]
    kinds: Mapping[str, str]
    same: frozenset[str]
    left_out: tuple[str, ...]


@dataclass
class _Draft:
    """A family that is being drawn."""

    scale: Scale
    seed: int
    random: random.Random
    names: list[str]
    recipes: dict[str, Recipe] = field(default_factory=dict)
    states: dict[str, State] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    frames: int = 0

    def fresh_seed(self) -> int:
        return FIRST_SEED + 1000 * self.seed + len(self.recipes)


def random_family(scale: Scale, seed: int, models: int = 20) -> Family:
    """Draw a family.

    Args:
        scale: shape and training of the starts.
        seed: of this family, from 0 on; shapes of trees and random starts follow from it.
        models: how many, the starts included.

    Raises:
        UsageError: fewer than eight models have no room for two starts with descendants.
    """
    if models < 8:
        raise UsageError("a random family wants eight models or more", got=str(models))
    # A string seeds by its bytes, the same on every machine.
    g = random.Random(f"{scale.name}-{seed}")
    names = [f"m{k:02d}" for k in g.sample(range(1, models + 1), models)]
    draft = _Draft(scale, seed, g, names)
    for start in range(g.randint(2, 4)):
        _start(draft, start)
    while len(draft.recipes) < models:
        _grow(draft)
    same = frozenset(
        name for name, kind in draft.kinds.items() if kind == "disguised" and draft.recipes[name].training is None
    )
    return Family(
        f"random-{scale.name}-{seed}", draft.recipes, tuple(sorted(names)), draft.kinds, same, _left_out(draft, same)
    )


def _start(draft: _Draft, number: int) -> None:
    name, scale = draft.names[len(draft.recipes)], draft.scale
    training = replace(scale.original, order=draft.fresh_seed())
    draft.recipes[name] = Recipe(
        name, f"random-{scale.name}-{draft.seed}", "llama", scale.sizes, draft.fresh_seed(), training=training,
        tokenizer=scale.tokenizer,
    )  # fmt: skip
    draft.states[name] = State(number, scale.sizes.n_inner, scale.sizes.n_layers, frame=number)
    draft.kinds[name] = "start"
    draft.frames = max(draft.frames, number)


def _grow(draft: _Draft) -> None:
    """One more model, below one that was drawn before it."""
    g = draft.random
    parent = g.choice(list(draft.recipes))
    state = draft.states[parent]
    fitting = [kind for kind in KINDS if _fits(kind, state, draft.scale)]
    kind = g.choices(fitting, [KINDS[k] for k in fitting])[0]
    partner = None
    if kind == "merged":
        partners = [other for other in draft.recipes if other != parent and _can_merge(draft, parent, other)]
        if not partners:
            return
        partner = g.choice(partners)
    operator, arguments, after, trained = _operation(draft, kind, state)
    name = draft.names[len(draft.recipes)]
    training = None
    if trained:
        training = draft.scale.later(trained, part=g.randrange(PARTS), order=draft.fresh_seed())
    if training is not None and kind == "frozen":
        training = replace(training, frozen=(g.choice(("self_attn", "mlp", r"layers\.0\.", "embed_tokens|lm_head")),))
    draft.recipes[name] = Recipe(
        name, f"random-{draft.scale.name}-{draft.seed}", seed=draft.fresh_seed(),
        parents=(parent,) if partner is None else (parent, partner), operator=operator, arguments=arguments,
        training=training, tokenizer=draft.scale.other_tokenizer if kind == "retokenized" else None,
    )  # fmt: skip
    draft.states[name], draft.kinds[name] = after, kind


def _fits(kind: str, state: State, scale: Scale) -> bool:
    if state.experts:
        return kind in FOR_EXPERTS
    return {
        "deeper": state.layers < scale.sizes.n_layers + 2,
        "wider": state.inner <= scale.sizes.n_inner,
        "cut": state.inner >= scale.sizes.n_inner,
        "retokenized": state.words == 0,
    }.get(kind, True)


def _can_merge(draft: _Draft, one: str, two: str) -> bool:
    """Whether two models can be averaged, and their average is no model that stands beside them already.

    Parents that are equal but for a disguise, and merges of what was merged before, are left out: what is between two
    points of one line has more than one true history.
    """
    a, b = draft.states[one], draft.states[two]
    fits = (a.inner, a.layers, a.words, a.experts) == (b.inner, b.layers, b.words, b.experts)
    here, there = _line(draft, one), _line(draft, two)
    apart = one not in there and two not in here
    plain = "merged" not in (draft.kinds[name] for name in (*here, *there))
    new = not any({one, two} == set(recipe.parents) for recipe in draft.recipes.values())
    return fits and apart and plain and new and (a.frame == b.frame or a.start != b.start)


def _line(draft: _Draft, name: str) -> list[str]:
    """A model and all its ancestors."""
    return [name, *(up for parent in draft.recipes[name].parents for up in _line(draft, parent))]


def _operation(draft: _Draft, kind: str, state: State) -> tuple[str | None, dict[str, Any], State, float]:
    """Operator, its arguments, what the model has become, and how long it is trained after that."""
    g, sizes = draft.random, draft.scale.sizes
    trained = g.choice(DISTANCES)
    after_growth = g.choice(DISTANCES[1:])
    if kind in ("trained", "frozen"):
        return None, {}, state, trained
    if kind == "deeper":
        place = g.randrange(state.layers)
        deeper = replace(state, layers=state.layers + 1)
        return "insert-layers", {"after": [place]}, _moved(draft, deeper), after_growth
    if kind == "wider":
        inner = state.inner + sizes.n_inner // 2
        how = g.choice(("widen-inner-copies", "widen-inner-zeros"))
        return how, {"n_inner": inner}, _moved(draft, replace(state, inner=inner)), after_growth
    if kind == "cut":
        inner = state.inner - sizes.n_inner // 4
        return "prune-inner", {"n_inner": inner}, _moved(draft, replace(state, inner=inner)), after_growth
    if kind == "quantized":
        bits = g.choice((8, 4))
        return "surgery", {"step": {"quantize": {"bits": bits, "group": 32}}}, state, 0.0
    if kind == "retokenized":
        return "swap-tokenizer", {}, replace(state, words=1), after_growth
    if kind == "upcycled":
        step = {"moe.upcycle": {"experts": 4, "top_k": 2, "op": "copy", "reinit": g.choice((0.0, 0.25))}}
        return "surgery", {"step": step}, replace(state, experts=True), after_growth
    if kind == "merged":
        return "merge", {"share": g.choice((0.3, 0.5, 0.6, 0.7))}, state, 0.0
    if kind == "disguised":
        how = g.choice(("permute", "rotate", "disguise"))
        return how, {}, _moved(draft, state), g.choice((0.0, 0.0, 0.3))
    if kind == "noisy":
        return "noise", {"sigma": g.choice((0.1, 0.3))}, state, g.choice((0.0, 0.3))
    return "low-rank", {"rank": 4, "strength": g.choice((0.1, 0.3))}, state, 0.0


def _moved(draft: _Draft, state: State) -> State:
    """The same with units in other places than those of any model before."""
    draft.frames += 1
    return replace(state, frame=draft.frames)


def _left_out(draft: _Draft, same: frozenset[str]) -> tuple[str, ...]:
    """Two or three inner models that leave a branch point behind: with a parent and two children, or three children.

    Parents of merges stay, and so do models that a disguise of theirs stands for.
    """
    children: dict[str, list[str]] = {name: [] for name in draft.recipes}
    for name, recipe in draft.recipes.items():
        for parent in recipe.parents:
            children[parent].append(name)
    fit = [
        name for name, recipe in draft.recipes.items()
        if len(children[name]) + len(recipe.parents) >= 3 and len(recipe.parents) < 2 and name not in same
        and not any(child in same or len(draft.recipes[child].parents) > 1 for child in children[name])
    ]  # fmt: skip
    chosen: list[str] = []
    for name in draft.random.sample(fit, len(fit)):
        near = {*children[name], *draft.recipes[name].parents}
        if len(chosen) < 3 and not near & set(chosen):
            chosen.append(name)
    return tuple(sorted(chosen))


def parents_of(family: Family, shown: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The parents of each shown model, and of each one left out that is still a branch point, by name.

    One that was left out and has a parent and one child is passed over; one without a parent needs three children.
    """
    parents = {name: list(recipe.parents) for name, recipe in family.recipes.items()}
    hidden = [name for name in parents if name not in shown]
    changed = True
    while changed:
        changed = False
        for name in list(hidden):
            children = [child for child in parents if name in parents[child]]
            if not children or (len(children) == 1 and len(parents[name]) <= 1):
                for child in children:
                    parents[child] = [p for p in parents[child] if p != name] + parents[name]
                hidden.remove(name)
                del parents[name]
                changed = True
    return {name: tuple(found) for name, found in parents.items()}
