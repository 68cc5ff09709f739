"""The merge methods by name: what each needs, where it comes from, and its numbers made into a `TensorMerge`.

Names and defaults are mergekit's, so that its files mean here what they mean there, with two differences that are
stated: DARE and DELLA rescale by the probability an entry was kept with, as their papers say (`rescale: l1` is
mergekit's); a normalized average whose weights sum to nothing is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pedigree.surgery.merge.draws import draw_key
from pedigree.surgery.merge.linear import Linear, Passthrough
from pedigree.surgery.merge.model_stock import ModelStock
from pedigree.surgery.merge.sparsifying import Band, ByRank, Random, Rescale, Sparsifier
from pedigree.surgery.merge.spherical import NUSLERP_LIMIT, SLERP_LIMIT, Spherical, nuslerp_t
from pedigree.surgery.merge.task_vectors import TaskVectors
from pedigree.surgery.merge.tensor_merge import TensorMerge

Base = Literal["none", "optional", "required", "first"]
"""Whether there is a base model; "first": it is the first of the inputs."""


class _Required:
    """Stands for a setting without a default."""


REQUIRED: Any = _Required()


@dataclass(frozen=True, slots=True)
class Numbers:
    """The settings of one tensor, resolved.

    Attributes:
        shared: by name; each input sees the same.
        each: by name, one for each input.
        shape: of the tensor.
        key_names: seed and what names the draws: (seed, tensor name).
    """

    shared: Mapping[str, Any]
    each: Mapping[str, Sequence[Any]]
    shape: tuple[int, ...]
    key_names: tuple[int, str]

    @property
    def n(self) -> int:
        """Elements of the tensor."""
        count = 1
        for size in self.shape:
            count *= size
        return count

    def key(self, place: int) -> int:
        """The key of the draws for one input."""
        seed, name = self.key_names
        return draw_key(seed, "merge", name, str(place))


@dataclass(frozen=True, slots=True)
class Method:
    """One way to merge.

    Attributes:
        name: as it is written in a recipe.
        does: one sentence.
        source: arXiv id or the like.
        base: whether a base model must, may or must not be given, or is the first input.
        inputs: least and most models besides the base.
        shared: settings of the whole with their defaults.
        each: settings of every input with their defaults; `REQUIRED` ones must be given.
        build: numbers of one tensor -> the merge.
        looks: how often the inputs are read before they are read to compute, at most.
    """

    name: str
    does: str
    source: str
    base: Base
    inputs: tuple[int, int | None]
    build: Callable[[Numbers], TensorMerge]
    shared: Mapping[str, Any] = field(default_factory=dict)
    each: Mapping[str, Any] = field(default_factory=dict)
    looks: int = 0


def _linear(numbers: Numbers) -> TensorMerge:
    return Linear(numbers.each["weight"], normalize=bool(numbers.shared["normalize"]))


def _passthrough(numbers: Numbers) -> TensorMerge:
    return Passthrough(numbers.each["scale"][0])


def _slerp(numbers: Numbers) -> TensorMerge:
    return Spherical(numbers.shared["t"], limit=SLERP_LIMIT)


def _nuslerp(numbers: Numbers) -> TensorMerge:
    return Spherical(nuslerp_t(numbers.each["weight"]), unit=numbers.shared["unit"], limit=NUSLERP_LIMIT)


def _stock(numbers: Numbers) -> TensorMerge:
    return ModelStock(len(numbers.each["weight"]), unit="row" if numbers.shared["filter_wise"] else "tensor")


def _largest(numbers: Numbers, place: int, rescale: Rescale) -> Sparsifier:
    return Band(numbers.each["density"][place], numbers.n, numbers.key(place), rescale)


def _outliers(numbers: Numbers, place: int, rescale: Rescale) -> Sparsifier:
    gamma = numbers.each["gamma"][place]
    return Band(numbers.each["density"][place], numbers.n, numbers.key(place), rescale, gamma=gamma)


def _random(numbers: Numbers, place: int, rescale: Rescale) -> Sparsifier:
    return Random(numbers.each["density"][place], numbers.key(place), rescale)


def _by_rank(numbers: Numbers, place: int, rescale: Rescale) -> Sparsifier:
    epsilon = numbers.each["epsilon"][place]
    return ByRank(numbers.each["density"][place], numbers.key(place), rescale, epsilon=epsilon)


def _task_vectors(
    sparsify: Callable[[Numbers, int, Rescale], Sparsifier] | None, *, consensus: bool
) -> Callable[[Numbers], TensorMerge]:
    def build(numbers: Numbers) -> TensorMerge:
        weights = numbers.each["weight"]
        rescale: Rescale = numbers.shared.get("rescale", "none")
        return TaskVectors(
            weights,
            [None if sparsify is None else sparsify(numbers, place, rescale) for place in range(len(weights))],
            consensus=consensus,
            normalize=bool(numbers.shared["normalize"]),
            scale=numbers.shared["lambda"],
        )

    return build


def _task(
    name: str,
    does: str,
    source: str,
    sparsify: Callable[[Numbers, int, Rescale], Sparsifier] | None,
    *,
    normalize: bool = False,
    rescale: Rescale = "none",
    looks: int = 0,
    **extra: float,
) -> Method:
    shared: dict[str, Any] = {"lambda": 1.0, "normalize": normalize}
    each: dict[str, Any] = {"weight": REQUIRED}
    if sparsify is not None:
        shared["rescale"] = rescale
        each |= {"density": 1.0, **extra}
    build = _task_vectors(sparsify, consensus=name.endswith("ties") or name == "della")
    return Method(name, does, source, "required", (1, None), build, shared, each, looks)


_ALL = (
    Method(
        "linear", "weighted average of the weights", "2203.05482", "none", (1, None), _linear,
        {"normalize": True}, {"weight": REQUIRED},
    ),
    Method(
        "passthrough", "tensors of one model, perhaps scaled", "mergekit", "none", (1, 1), _passthrough,
        {}, {"scale": None},
    ),
    Method(
        "slerp", "along the great circle from the base to the model", "Shoemake 1985", "first", (1, 1), _slerp,
        {"t": REQUIRED}, {}, 1,
    ),
    Method(
        "nuslerp", "along the great circle between two models, or two task vectors", "mergekit", "optional", (2, 2),
        _nuslerp, {"unit": "tensor"}, {"weight": REQUIRED}, 1,
    ),
    Method(
        "model_stock", "between base and mean, by the angles between the changes", "2403.19522", "required", (2, None),
        _stock, {"filter_wise": False}, {"weight": 1.0}, 1,
    ),
    _task("task_arithmetic", "base plus weighted task vectors", "2212.04089", None),
    _task("ties", "largest changes only, one sign for every entry", "2306.01708", _largest, normalize=True, looks=3),
    _task("dare_linear", "changes dropped at random", "2311.03099", _random, rescale="inverse", looks=1),
    _task("dare_ties", "changes dropped at random, one sign", "2311.03099", _random, rescale="inverse", looks=1),
    _task("breadcrumbs", "without crumbs and outliers", "2312.06795", _outliers, looks=3, gamma=0.01),
    _task("breadcrumbs_ties", "the same with one sign", "2312.06795", _outliers, looks=3, gamma=0.01),
    _task("della_linear", "small changes dropped more often", "2406.11617", _by_rank, rescale="inverse", looks=1,
          epsilon=0.15),
    _task("della", "the same with one sign", "2406.11617", _by_rank, normalize=True, rescale="inverse", looks=1,
          epsilon=0.15),
)  # fmt: skip

METHODS: Mapping[str, Method] = {method.name: method for method in _ALL}
"""Every method by its name."""
