"""The models of the benchmark as a list: every family with its split, its root and what was derived from it.

Laws
1. A family lies in one split as a whole; two families share no seed and no weights but through a donor, which gives
   weights to merges of its own split only.
2. The list follows from the tables alone: no file is read, no number drawn.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pedigree.benchmark.families.rungs import FEW, LADDER, LETTER, OTHERS, SURGERY, SURVIVORS, Rung
from pedigree.benchmark.families.sizes import Scale, scale_of
from pedigree.benchmark.zoo.architecture import Sizes
from pedigree.benchmark.zoo.recipe import Recipe

SplitName = Literal["calibration", "test"]


@dataclass(frozen=True)
class Family:
    """One independent root and what is derived from it.

    Args:
        name: "llama-t0"; the letter tells the split.
        split: calibration or test.
        architecture: of the root.
        seed: of the root's random start; no two families share one.
        rungs: what is derived.
        donor: family whose root is the second parent of merges.
        twin: whether another training of the same random start, on other data, is a member.
        student: whether a fresh start trained on the root's predictions is a member (independent weights).
        wide: whether the root has the wide FFN.
    """

    name: str
    split: SplitName
    architecture: str
    seed: int
    rungs: tuple[Rung, ...] = ()
    donor: str | None = None
    twin: bool = False
    student: bool = False
    wide: bool = False


@dataclass(frozen=True)
class Member:
    """One model.

    Args:
        recipe: how it is made.
        family: its family.
        row: row of the leaderboard; "root", "twin" or "student" for those.
        distance: training since the derivation, in units of the root's own.
        rung: what was done, None for roots, twins and students.
        step: whether it is only a step on the way, about which nothing is asked.
    """

    recipe: Recipe
    family: Family
    row: str
    distance: float = 0.0
    rung: Rung | None = None
    step: bool = False

    @property
    def name(self) -> str:
        """Of the model and of its folder."""
        return self.recipe.name


def _roots(architecture: str, letter: str, split: SplitName, first_seed: int, count: int) -> list[Family]:
    return [Family(f"{architecture}-{letter}{i}", split, architecture, first_seed + i) for i in range(count)]


def families() -> list[Family]:
    """All families, donors before those that merge with them."""
    found: list[Family] = []
    for split, letter, offset in (("calibration", "c", 10_000), ("test", "t", 20_000)):
        test = split == "test"
        counts = {"llama": (5, 8), "qwen2": (3, 4), "gpt2": (3, 4), "gpt_neox": (2, 3), "gemma2": (2, 3),
                  "mixtral": (2, 3), "deepseek_v3": (2, 3)}  # fmt: skip
        for number, (architecture, (few, many)) in enumerate(counts.items()):
            count = many if test else few
            roots = _roots(architecture, letter, "test" if test else "calibration", offset + 100 * number, count)
            donor = roots[-1].name
            first = replace(roots[0], donor=donor, twin=True)
            if architecture == "llama":
                first = replace(first, rungs=LADDER if test else FEW, student=True)
                if test:
                    roots[1] = replace(roots[1], rungs=SURGERY, donor=donor)
                    roots[2] = replace(roots[2], rungs=SURVIVORS, wide=True)
            elif test:
                first = replace(first, rungs=(*OTHERS[architecture], *(LETTER if architecture == "qwen2" else ())))
            roots[0] = first
            found += sorted(roots, key=lambda family: family.name != donor)
    return found


def members(size: str, seed: int = 0) -> list[Member]:
    """Every model of a size, parents before children. Two seeds share names and tables, and no number."""
    scale = scale_of(size, seed)
    found = [member for family in families() for member in _members(family, scale)]
    return found


def recipes(list_of_members: Sequence[Member]) -> dict[str, Recipe]:
    """The recipes of members by name."""
    return {member.name: member.recipe for member in list_of_members}


def sizes_of(family: Family, scale: Scale) -> Sizes:
    """Shape of a family's root at a scale: some designs fix the head size, or have no groups of heads."""
    sizes = replace(scale.sizes, n_inner=scale.wide_inner) if family.wide else scale.sizes
    if family.architecture in ("gpt2", "gpt_neox"):
        return replace(sizes, n_inner=4 * sizes.d_model, head_dim=sizes.d_model // sizes.n_heads)
    if family.architecture == "mixtral":
        return replace(sizes, n_inner=sizes.n_inner // 2)
    return sizes


def _members(family: Family, scale: Scale) -> Iterator[Member]:
    root = Recipe(
        family.name, family.name, family.architecture, sizes_of(family, scale), scale.start(family.seed),
        training=scale.trained(),
 tokenizer=scale.tokenizer,
    )  # fmt: skip
    yield Member(root, family, "root")
    if family.twin:
        other = replace(scale.trained(), part=2, order=scale.trained().order + 7)
        yield Member(replace(root, name=f"{family.name}.twin", training=other), family, "twin")
    if family.student:
        seed = scale.start(family.seed + 50)
        student = replace(root, name=f"{family.name}.student", seed=seed, teacher=family.name)
        yield Member(student, family, "student")
    for rung in family.rungs:
        yield from _derived(family, rung, root, scale)


def _derived(family: Family, rung: Rung, root: Recipe, scale: Scale) -> Iterator[Member]:
    """Steps on the way, then one model for each distance."""
    stem, parent = f"{family.name}.{rung.name}", family.name
    for number, (operator, arguments) in enumerate(rung.chain):
        last = number == len(rung.chain) - 1
        name = f"{stem}.x0" if last else f"{stem}.step{number}"
        parents = (parent, family.donor) if last and rung.partner and family.donor else (parent,)
        recipe = Recipe(
            name, family.name, seed=_seed(name, scale.seed), parents=parents, operator=operator,
            arguments=filled(arguments, root.sizes or scale.sizes),
            tokenizer=scale.other_tokenizer if last and rung.tokenizer else None,
        )  # fmt: skip
        asked = last and 0.0 in rung.distances
        yield Member(recipe, family, rung.row, 0.0, rung, step=not asked)
        parent = name
    for distance in rung.distances:
        training = scale.later(distance, part=rung.part, hot=rung.hot)
        if training is not None:
            training = replace(training, frozen=rung.frozen)
            recipe = Recipe(f"{stem}.x{distance:g}", family.name, parents=(parent,), training=training)
            yield Member(recipe, family, rung.row, distance, rung)


def _seed(name: str, seed: int) -> int:
    """A seed of its own for every derivation, the same for ever."""
    said = f"{seed}/{name}" if seed else name
    return int.from_bytes(hashlib.sha256(said.encode()).digest()[:3], "big")


def filled(arguments: Mapping[str, Any], sizes: Sizes) -> dict[str, Any]:
    """Arguments with `{inner_wide}` and the like replaced by numbers."""
    numbers = {
        "inner_wide": sizes.n_inner * 3 // 2, "inner_half": sizes.n_inner // 2, "hidden": sizes.d_model,
        "hidden_cut": sizes.d_model * 3 // 4, "hidden_wide": sizes.d_model * 5 // 4, "hidden_double": sizes.d_model * 2,
        "heads": sizes.n_heads, "heads_double": sizes.n_heads * 2, "heads_half": sizes.n_heads // 2,
        "kv_double": sizes.n_kv_heads * 2, "head_double": sizes.head_dim * 2, "last": sizes.n_layers - 1,
    }  # fmt: skip

    def fill(value: Any) -> Any:
        if isinstance(value, str) and (word := re.fullmatch(r"\{(\w+)\}", value)):
            return numbers[word[1]]
        if isinstance(value, Mapping):
            return {key: fill(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [fill(inner) for inner in value]
        return value

    return {key: fill(value) for key, value in arguments.items()}
