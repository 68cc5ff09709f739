"""All that an audit asks of two models: the comparison, the distance, equal tensors, and what has other shapes.

One measurement answers all of it, so that a claim is held against numbers that belong together. Distances are those of
`pedigree.forensics.trees.kinship`: squared, over the squared length of the weights, on matched rows in one frame.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pedigree.forensics.compare import measure_pair
from pedigree.forensics.comparison.direction import weigh_direction
from pedigree.forensics.comparison.findings import CLEAR_LOG10_P
from pedigree.forensics.comparison.record import build_record, detection_limit
from pedigree.forensics.trees.kinship import RELATED, distance2
from pedigree.records.comparison import Comparison, Component
from pedigree.weights.anatomy import Anatomy

FEW_LAYERS = 0.25
"""Share of layers that must agree where no exact test speaks; as `PARTIAL_SHARE` of the verdict."""

DIMENSIONS = ("layers", "width", "inner", "attention", "experts", "vocabulary")


@dataclass(frozen=True)
class PairEvidence:
    """What the weights of two models say of each other; A is the one that would be older.

    Attributes:
        comparison: the record, at standard depth.
        distance2: squared distance over squared length; None where nothing was matched.
        mean_square: squared length for each number that was matched.
        equal: parts of B that are A's, number for number; constant ones are left out.
        rounded: parts that are A's after rounding to the coarser number type of the two.
        different: parts that differ from their counterpart.
        whole: whether parts were compared to the last number.
        reshaped: dimensions, of `DIMENSIONS`, that differ.
        larger: those of them in which B has more.
        structural: natural log-odds that A was first, by what only a child can have (copies, a coarser grid) alone:
            evidence of nearness, which a sibling would give too, is left out.
        unless_siblings: natural log-odds that A was first, where other models show that the two are no siblings.
        detection_limit: smallest share of surviving units that would have been called a relation.
    """

    comparison: Comparison
    distance2: float | None = None
    mean_square: float = 1.0
    equal: tuple[str, ...] = ()
    rounded: tuple[str, ...] = ()
    different: tuple[str, ...] = ()
    whole: bool = True
    reshaped: tuple[str, ...] = ()
    larger: tuple[str, ...] = ()
    structural: float = 0.0
    unless_siblings: float = 0.0
    detection_limit: float = 1.0

    @property
    def verdict(self) -> str:
        """The word of the comparison."""
        return self.comparison.result.verdict

    @property
    def related(self) -> bool:
        """Whether any trained ancestry is shared; a common random start alone is none."""
        return self.verdict in ("identical", "related", "partly-related")

    @property
    def strong(self) -> bool:
        """Whether the relation is one that an audit of many pairs may call a finding.

        Few layers that agree, without an exact test, have no better p-value than one in the pairs of the bank: among
        many comparisons that is to be expected once.
        """
        result = self.comparison.result
        if not self.related or self.verdict != "partly-related":
            return self.related
        if result.log10_p is not None and result.log10_p <= CLEAR_LOG10_P:
            return True
        matched = {layer for name in ("attn", "mlp", "experts") for layer in _layers(result.components.get(name))}
        return len(matched) >= FEW_LAYERS * max(1, len(result.layer_map))

    @property
    def moved(self) -> float | None:
        """Root mean square of what each matched number moved by, in units of the weights."""
        return None if self.distance2 is None else (self.distance2 * self.mean_square) ** 0.5

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it; `from_dict` reads it back."""
        plain = {name: value for name, value in asdict(self).items() if name != "comparison"}
        return {**plain, "comparison": self.comparison.to_dict()}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> PairEvidence:
        """What `to_dict` wrote.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        known = {name: plain[name] for name in cls.__dataclass_fields__}
        for name in ("equal", "rounded", "different", "reshaped", "larger"):
            known[name] = tuple(str(item) for item in known[name])
        known["comparison"] = Comparison.model_validate(known["comparison"])
        return cls(**known)


def look_at_pair(a: str | Path, b: str | Path, *, allow_pickle: bool = False) -> PairEvidence:
    """Measure two models at standard depth.

    Args:
        a: the one that would be the parent.
        b: the one that would be the child.
        allow_pickle: read torch files (weights only).

    Raises:
        InputError, SourceError: one cannot be read.
    """
    begun = time.monotonic()
    left, right, found, judgment = measure_pair(a, b, allow_pickle=allow_pickle)
    record = build_record(left, right, found, judgment, "standard", time.monotonic() - begun)
    apart, scale = distance2(left, right, found) if judgment.verdict in RELATED else (None, 1.0)
    bits = found.bits
    still = replace(found, additive=None, forward=None, backward=None, share=None)
    is_relative = judgment.verdict in RELATED
    structural = weigh_direction(left, right, still).log_odds if is_relative else 0.0
    whole = weigh_direction(left, right, found, alone=False).log_odds if is_relative else 0.0
    changed = reshaped(left.anatomy, right.anatomy)
    return PairEvidence(
        record, apart, scale, tuple(bits.equal) if bits else (), tuple(bits.equal_after_cast) if bits else (),
        tuple(bits.different) if bits else (), bits.whole if bits else False, changed,
        tuple(name for name in changed if _amount(left.anatomy, name) < _amount(right.anatomy, name)),
        structural, whole, detection_limit(found),
    )  # fmt: skip


def _layers(part: Component | None) -> list[int]:
    return part.layers if part is not None and part.verdict in ("related", "identical") else []


def reshaped(a: Anatomy, b: Anatomy) -> tuple[str, ...]:
    """The dimensions in which two models differ."""
    return tuple(name for name in DIMENSIONS if _dimension(a, name) != _dimension(b, name))


def _dimension(anatomy: Anatomy, name: str) -> Any:
    layers = range(anatomy.n_layers)
    if name == "layers":
        return anatomy.n_layers
    if name == "width":
        return anatomy.d_model
    if name == "vocabulary":
        return anatomy.vocab_size
    if name == "experts":
        return {anatomy.experts(layer) for layer in layers}
    if name == "inner":
        return _rows(anatomy, ("mlp.up", "moe.expert.up", "moe.shared.up"))
    return _rows(anatomy, ("attn.q", "attn.k", "attn.v"))


def _amount(anatomy: Anatomy, name: str) -> int:
    """A dimension as one number: its size, or that of its largest layer; of several roles the sum of theirs."""
    value = _dimension(anatomy, name)
    if not isinstance(value, set):
        return int(value or 0)
    sizes: dict[str, int] = {}
    for one in value:
        role, size = one if isinstance(one, tuple) else ("", one)
        sizes[role] = max(sizes.get(role, 0), size)
    return sum(sizes.values())


def _rows(anatomy: Anatomy, roles: Iterable[str]) -> set[tuple[str, int]]:
    """Rows of the parts with these roles, in any layer."""
    wanted = set(roles)
    return {(part.role, int(part.shape[0])) for part in anatomy.parts() if part.role in wanted}
