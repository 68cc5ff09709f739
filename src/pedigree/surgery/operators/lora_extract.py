"""The difference of two models as an adapter: every matrix of a layer as a product of a rank.

Law     base + adapter is the tuned model up to the error that is told: for each matrix the root of the sum of the
        squares of the singular values left out, which no other product of that rank undercuts. What is no matrix of a
        layer (norms, embeddings, packed experts) is not in an adapter; such tensors are named where they differ.
Source  Eckart and Young (1936); randomized range finding 0909.4061; LoRA 2106.09685; file layout of peft.

Shapes  O = rows (out), I = columns (in), r = rank, k = singular values that are known
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pedigree.errors import UsageError
from pedigree.surgery.exactness import Exactness
from pedigree.surgery.low_rank import CONFIG, Extracted, extract
from pedigree.surgery.nodes import Blend, Derived, Fill, Node, Statistic, Turn, Work
from pedigree.surgery.operator import Operator, Parameters, Step
from pedigree.surgery.selection import Selection, everything, take
from pedigree.surgery.settings import Settings
from pedigree.surgery.symbolic import Key, Loose, Stored, Symbolic

if TYPE_CHECKING:
    import torch

STEM = "adapter_model"
_ONE_AT_A_TIME = threading.Lock()  # a whole matrix is held while it is divided


class ExtractParameters(Parameters):
    """What is taken away from the source, and how much is kept.

    Attributes:
        base: a model under `models`, or a place.
        rank: of every product; smaller matrices have less.
        targets: last words of the modules that are taken (q_proj, down_proj); all matrices of the layers without.
    """

    base: str
    rank: int = Field(ge=1)
    targets: tuple[str, ...] = ()


class Product(Statistic):
    """The best product of a rank for a difference; an `Extracted`."""

    def __init__(self, delta: Node, rank: int, module: str) -> None:
        self.name = f"product of rank {rank} for {module}"
        self.module, self.rank = module, min(rank, *delta.shape)
        self._delta = delta

    def inputs(self) -> Sequence[Node]:
        """The difference."""
        return (self._delta,)

    def held_bytes(self) -> int:
        """The whole difference, and its factors while it is divided."""
        rows, columns = self._delta.shape
        return rows * columns * (4 + 3 * 8)

    def start(self) -> Any:
        """No rows yet."""
        return []

    def add(self, state: Any, tiles: Sequence[Any], rows: slice, work: Work) -> Any:
        """Some rows more."""
        state.append(tiles[0].clone())
        return state

    def finish(self, state: Any) -> Extracted:
        """The product, and what it leaves out."""
        import torch

        with _ONE_AT_A_TIME:
            return extract(torch.cat(state), self.rank)


class Differs(Statistic):
    """Whether two tensors differ anywhere."""

    name = "differs"

    def __init__(self, tensor: str, pair: tuple[Node, Node]) -> None:
        self.tensor = tensor
        self._pair = pair

    def inputs(self) -> Sequence[Node]:
        """Both."""
        return self._pair

    def start(self) -> Any:
        """Not yet."""
        return False

    def add(self, state: Any, tiles: Sequence[Any], rows: slice, work: Work) -> Any:
        """With these rows."""
        import torch

        return state or not torch.equal(tiles[0], tiles[1])


class Report(Derived):
    """What was extracted and what was left out, in sentences."""

    name = "extraction"

    def __init__(self, products: Sequence[Product], others: Sequence[Differs]) -> None:
        self._products, self._others = products, others
        self._lines: list[str] = []

    def needs(self) -> Sequence[Statistic]:
        """Everything."""
        return (*self._products, *self._others)

    def value(self, values: Sequence[Any]) -> None:
        """Write the sentences.

        Raises:
            UsageError: no matrix differs.
        """
        found: list[Extracted] = list(values[: len(self._products)])
        changed = [(product, one) for product, one in zip(self._products, found, strict=True) if one.total]
        if not changed:
            raise UsageError("no matrix of a layer differs", got=f"{len(found)} equal matrices")
        worst, error = max(((product.module, one.error) for product, one in changed), key=lambda pair: pair[1])
        rank = max(product.rank for product, _ in changed)
        told = ", ".join(f"{r}: {_left_out([one for _, one in changed], r):.2%}" for r in _ranks(rank))
        self._lines = [
            f"lora: of the change of {len(changed)} matrices the adapter leaves out, by rank, {told} (of its norm)",
            f"lora: at rank {rank} the worst is {worst} with {error:.2%}",
        ]
        if len(changed) < len(found):
            self._lines.append(f"lora: {len(found) - len(changed)} matrices do not differ; their factors are zero")
        left = [other.tensor for other, differs in zip(self._others, values[len(found) :], strict=True) if differs]
        if left:
            more = f" and {len(left) - 6} more" if len(left) > 6 else ""
            self._lines.append(f"lora: these differ too and are not in the adapter: {', '.join(left[:6])}{more}")

    def told(self) -> Sequence[str]:
        """The sentences."""
        return self._lines


def _ranks(rank: int) -> list[int]:
    """1, 2, 4 ... and the rank itself."""
    found = [1]
    while found[-1] * 2 < rank:
        found.append(found[-1] * 2)
    return found if found[-1] == rank else [*found, rank]


def _left_out(found: Sequence[Extracted], rank: int) -> float:
    """Share of the norm of all differences together that a smaller rank leaves out."""
    total = sum(one.total for one in found)
    kept = sum(one.energy(rank) for one in found)
    return float(max(0.0, 1 - kept / total) ** 0.5)


@dataclass(frozen=True, eq=False)
class Factor(Node):
    """One of the two matrices of a product: A [r, I] or B [O, r]."""

    product: Product
    report: Report
    side: str
    shape: tuple[int, ...]
    dtype: str = field(default="F32", init=False)

    def statistics(self) -> Sequence[Statistic]:
        """The product; and the report, so that it is made."""
        return (self.product, self.report)

    def tile(self, rows: Selection, cols: Selection | None, work: Work) -> torch.Tensor:
        """A part of the matrix."""
        found: Extracted = work.values[self.product]
        whole = found.a_rI if self.side == "A" else found.b_Or
        return take(take(whole, 0, rows), 1, everything(self.shape[1]) if cols is None else cols)


def apply(symbolic: Symbolic, parameters: ExtractParameters, step: Step) -> Exactness:
    """Replace everything by the factors of the differences."""
    if step.number:
        raise step.refuse("an adapter is what the source itself adds to the base", got=f"step {step.number + 1}",
                          expected="the only step")  # fmt: skip
    base = step.open(parameters.base)
    ours, theirs = ({n: tuple(i.shape) for n, i in one.checkpoint.tensors.items()} for one in (symbolic, base))
    if ours != theirs:
        odd = sorted(set(ours.items()) ^ set(theirs.items()))[0][0]
        raise step.refuse("the two models do not have the same tensors", got=f"{odd}: {ours.get(odd, 'nothing')}",
                          expected=theirs.get(odd, "nothing"), fix="is this its base?")  # fmt: skip
    chosen = [stored for stored in symbolic.stored if _is_target(stored, parameters.targets)]
    if not chosen:
        words = sorted({_module(one.origin).rpartition(".")[2] for one in symbolic.stored if _is_target(one, ())})
        raise step.refuse("no matrix of a layer is a target", got=", ".join(parameters.targets) or "none there",
                          expected=", ".join(words[:12]))  # fmt: skip
    pairs = {name: (Loose(symbolic.checkpoint, name), Loose(base.checkpoint, name)) for name in ours}
    products = [Product(_difference(pairs[one.origin], one), parameters.rank, _module(one.origin)) for one in chosen]
    taken = {one.origin for one in chosen}
    report = Report(products, [Differs(name, pair) for name, pair in pairs.items() if name not in taken])
    symbolic.parts.clear()
    symbolic.stored = [
        stored
        for product, one in zip(products, chosen, strict=True)
        for stored in _pair(symbolic, product, report, one)
    ]
    symbolic.config, symbolic.stem = Settings({}), STEM
    config = _config(symbolic, parameters, chosen, products, base.checkpoint.location)
    symbolic.files = {CONFIG: (json.dumps(config, indent=2) + "\n").encode()}
    return Exactness.FPE


def _module(name: str) -> str:
    return name.removesuffix(".weight")


def _is_target(stored: Stored, targets: Sequence[str]) -> bool:
    """Whether a tensor is a matrix of a layer that an adapter may have."""
    fits = stored.layer is not None and len(stored.shape) == 2 and stored.origin.endswith(".weight")
    return fits and (not targets or _module(stored.origin).rpartition(".")[2] in targets)


def _difference(pair: tuple[Node, Node], stored: Stored) -> Node:
    """What the tuned matrix has more than the base, [O, I]."""
    delta = Blend(pair, lambda tiles, at: tiles[0] - tiles[1])
    return Turn(delta) if stored.transposed else delta


def _pair(symbolic: Symbolic, product: Product, report: Report, stored: Stored) -> list[Stored]:
    """Both factors as tensors to be stored."""
    rows, columns = reversed(stored.shape) if stored.transposed else stored.shape
    made = []
    for side, shape in (("A", (product.rank, columns)), ("B", (rows, product.rank))):
        key: Key = (f"{product.module}.lora_{side}", None, None)
        symbolic.parts[key] = Factor(product, report, side, shape)
        made.append(
            Stored(
                template=f"base_model.model.{product.module}.lora_{side}.weight", layer=None, prediction=False,
                keys=(key,), rows=(None,), match=None, transposed=False, swapped=False, packed=False, vector=False,
                tail=False, shape=shape, origin=stored.origin, leaves=(Fill(shape),), dtype="F32",
            )
        )  # fmt: skip
    return made


def _config(
    symbolic: Symbolic, parameters: ExtractParameters, chosen: Sequence[Stored], products: Sequence[Product], base: str
) -> dict[str, Any]:
    """adapter_config.json: a scale of 1, and the smaller ranks of small matrices."""
    modules = sorted({product.module.rpartition(".")[2] for product in products})
    ranks = {product.module: product.rank for product in products if product.rank != parameters.rank}
    return {
        "peft_type": "LORA", "r": parameters.rank, "lora_alpha": parameters.rank, "rank_pattern": ranks,
        "alpha_pattern": ranks, "target_modules": modules, "bias": "none",
        "fan_in_fan_out": any(stored.transposed for stored in chosen), "base_model_name_or_path": base,
        "task_type": "CAUSAL_LM", "lora_dropout": 0.0,
    }  # fmt: skip


LORA_EXTRACT = Operator(
    name="lora.extract",
    summary="what a tuned model adds to its base, as an adapter of a rank; what each rank leaves out is told",
    classes={"": Exactness.FPE},
    needs="the base model",
    source="Eckart and Young 1936, 0909.4061, 2106.09685",
    parameters=ExtractParameters,
    apply=apply,
    verbs=("fit",),
)
