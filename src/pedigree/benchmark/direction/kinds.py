"""The models from which the direction of a pair is calibrated, as recipes of the zoo.

Laws
1. No model here has a seed of the benchmark or of the bank.
2. Every family holds the same derivatives: what differs between a parent and a sibling is descent and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pedigree.benchmark.families.members import Family, sizes_of
from pedigree.benchmark.families.sizes import SCALES, Scale
from pedigree.benchmark.zoo.recipe import Recipe

FIRST_SEED = 30_000

FAMILIES: Mapping[str, Mapping[str, int]] = {
    "pico": {"llama": 3, "qwen2": 2, "gpt2": 2, "gpt_neox": 2, "gemma2": 2, "mixtral": 1, "deepseek_v3": 1},
    "nano": {"llama": 2, "qwen2": 1, "gpt2": 1, "gemma2": 1},
}
"""Designs at each scale and how many independent roots of each."""


@dataclass(frozen=True)
class Line:
    """One derivative of every family.

    Args:
        name: part of the model's name.
        distance: training after the operator, in units of the root's own.
        part, order: text of that training, and the order in which it is read.
        hot: whether it has the root's own learning rate.
        frozen: parameters that are not trained.
        operator, arguments: what is done before.
        parent: another line that this one continues; the root where empty.
        partner: whether the operator takes the next family's root as its second parent.
    """

    name: str
    distance: float = 0.0
    part: int = 1
    order: int = 11
    hot: bool = False
    frozen: tuple[str, ...] = ()
    operator: str | None = None
    arguments: tuple[tuple[str, float], ...] = ()
    parent: str = ""
    partner: bool = False


LINES: tuple[Line, ...] = (
    Line("low-a", 0.1),
    Line("low-b", 0.3),
    Line("low-c", 1.0, order=21),
    Line("low-d", 3.0, order=22),
    Line("other-b", 0.3, part=2, order=12),
    Line("other-c", 1.0, part=2, order=23),
    Line("same-b", 0.3, part=0, order=13),
    Line("same-c", 1.0, part=0, order=24),
    Line("hot-a", 0.1, part=1, order=19, hot=True),
    Line("hot-b", 0.3, part=1, order=14, hot=True),
    Line("hot-c", 1.0, part=2, order=15, hot=True),
    Line("hot-same", 1.0, part=0, order=16, hot=True),
    Line("frozen", 0.3, part=2, order=17, frozen=("attn", "attention")),
    Line("noise-small", operator="noise", arguments=(("sigma", 0.3),)),
    Line("noise-large", operator="noise", arguments=(("sigma", 1.0),)),
    Line("noise-tuned", 0.3, part=3, order=25, operator="noise", arguments=(("sigma", 0.3),)),
    Line("merged-50", operator="merge", arguments=(("share", 0.5),), partner=True),
    Line("merged-80", operator="merge", arguments=(("share", 0.8),), partner=True),
    Line("merged-tuned", 0.3, part=3, order=26, operator="merge", arguments=(("share", 0.5),), partner=True),
    Line("next", 0.3, part=3, order=18, parent="low-b"),
    Line("next-hot", 0.3, part=3, order=27, parent="hot-b", hot=True),
)


def roots(scale: Scale) -> list[Recipe]:
    """The independent roots of a scale."""
    found = []
    for number, (architecture, count) in enumerate(FAMILIES[scale.name].items()):
        for i in range(count):
            seed = FIRST_SEED + 1000 * sorted(SCALES).index(scale.name) + 100 * number + i
            family = Family(f"{architecture}-d{i}", "calibration", architecture, seed)
            found.append(
                Recipe(
                    family.name, family.name, architecture, sizes_of(family, scale), seed, training=scale.original,
                    tokenizer=scale.tokenizer,
                )
            )  # fmt: skip
    return found


TWINS: Mapping[str, tuple[float, int, int]] = {
    "twin-short": (0.3, 2, 7), "twin": (1.0, 2, 8), "twin-order": (1.0, 0, 9), "twin-long": (4.0, 2, 10),
}  # fmt: skip
"""Other trainings of a root's random start: length in units of the root's own, part of the text, order."""


def recipes(scale: Scale) -> dict[str, Recipe]:
    """Every model of a scale by name, parents before children."""
    found: dict[str, Recipe] = {}
    starts = roots(scale)
    for root in starts:
        found[root.name] = root
        for name, (length, part, order) in TWINS.items():
            training = replace(scale.original, steps=round(length * scale.original.steps), part=part, order=order)
            found[f"{root.name}.{name}"] = replace(root, name=f"{root.name}.{name}", training=training)
    for number, root in enumerate(starts):
        donor = next((other.name for other in starts if other is not root and _fits(other, root)), None)
        for line in LINES:
            if line.partner and donor is None:
                continue
            name, parent = f"{root.name}.{line.name}", f"{root.name}.{line.parent}" if line.parent else root.name
            later = scale.later(line.distance, part=line.part, order=line.order, hot=line.hot)
            later = None if later is None else replace(later, frozen=line.frozen)
            parents = (parent, donor) if line.partner and donor else (parent,)
            found[name] = Recipe(
                name, root.group, seed=FIRST_SEED + 500 + number, parents=parents, operator=line.operator,
                arguments=dict(line.arguments), training=later,
            )  # fmt: skip
    return found


def _fits(one: Recipe, two: Recipe) -> bool:
    return one.architecture == two.architecture and one.sizes == two.sizes
