"""The operators of the zoo and the sets of models made with them. Explicit dictionaries, no registration by import."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pedigree.benchmark.zoo import (
    catalog_architectures,
    catalog_bank,
    catalog_demo,
    catalog_llama,
    catalog_mini,
    catalog_tree,
    derive_depth,
    derive_experts,
    derive_gauge,
    derive_mixture,
    derive_plain,
    derive_storage,
    derive_surgery,
    derive_survival,
    derive_vocabulary,
    derive_width,
    disguise,
)
from pedigree.benchmark.zoo.lineage import Lineage
from pedigree.benchmark.zoo.recipe import Recipe
from pedigree.benchmark.zoo.snapshot import Snapshot
from pedigree.errors import UsageError


def _inherit(first: Lineage, *_others: Lineage, **_arguments: Any) -> Lineage:
    return first


def _arranged(first: Lineage, *, order: list[int], **_arguments: Any) -> Lineage:
    return first.arranged(order)


def _inserted(first: Lineage, *, after: list[int]) -> Lineage:
    return first.arranged(derive_depth.inserted_order(len(first.blocks), after)[0])


def _without_embeddings(first: Lineage, **_arguments: Any) -> Lineage:
    return first.without("embed")


def _reinitialized(first: Lineage, *, branch: str) -> Lineage:
    return first.without(branch)


def _units_alone(first: Lineage, **_arguments: Any) -> Lineage:
    return first.without("embed").without("attn")


def _merged(first: Lineage, second: Lineage, **_arguments: Any) -> Lineage:
    return first.mixed_with(second)


def _spliced(first: Lineage, second: Lineage, *, layers: list[int]) -> Lineage:
    return first.spliced_with(second, layers)


@dataclass(frozen=True)
class Operator:
    """One way to derive a model.

    Args:
        apply: (parents..., seed=..., **arguments) -> Snapshot; `seed` only where `seeded`.
        lineage: (parents' lineages..., **arguments) -> Lineage.
        exact: the child's logits equal the parent's; asserted when a model is made.
        identical: no number changes, only the container.
        seeded: the operator draws random numbers.
    """

    apply: Callable[..., Snapshot]
    lineage: Callable[..., Lineage] = _inherit
    exact: bool = False
    identical: bool = False
    seeded: bool = True

    @property
    def law(self) -> str:
        """What the operator does and keeps, from its docstring."""
        return (self.apply.__doc__ or "").strip().split("\n", 1)[0]


OPERATORS: Mapping[str, Operator] = {
    "permute": Operator(disguise.permuted, exact=True),
    "rotate": Operator(disguise.rotated, exact=True),
    "disguise": Operator(disguise.hidden, exact=True),
    "permute-units": Operator(derive_gauge.permute_units, exact=True),
    "permute-heads": Operator(derive_gauge.permute_heads, exact=True),
    "permute-residual": Operator(derive_gauge.permute_residual, exact=True),
    "permute-channels": Operator(derive_plain.permute_channels, exact=True),
    "permute-full-heads": Operator(derive_plain.permute_full_heads, exact=True),
    "rebase-heads": Operator(derive_plain.rebase_heads, exact=True),
    "permute-experts": Operator(derive_experts.permute_experts, exact=True),
    "rescale-attention": Operator(derive_gauge.rescale_attention, exact=True),
    "insert-layers": Operator(derive_depth.insert, _inserted, exact=True, seeded=False),
    "arrange-layers": Operator(derive_depth.arrange, _arranged, seeded=False),
    "widen-inner-zeros": Operator(derive_width.widen_inner_with_zeros, exact=True),
    "widen-inner-copies": Operator(derive_width.widen_inner_with_copies, exact=True),
    "widen-residual": Operator(derive_width.widen_residual, exact=True),
    "prune-inner": Operator(derive_width.prune_inner, seeded=False),
    "prune-residual": Operator(derive_width.prune_residual, seeded=False),
    "drop-units": Operator(derive_width.drop_units),
    "add-biases": Operator(derive_width.add_biases, exact=True, seeded=False),
    "upcycle": Operator(derive_experts.upcycle, exact=True),
    "upcycle-granular": Operator(derive_experts.upcycle_granular_mixtral),
    "upcycle-granular-qwen": Operator(derive_experts.upcycle_granular_qwen),
    "swap-tokenizer": Operator(derive_vocabulary.swap_by_mean),
    "fresh-embeddings": Operator(derive_vocabulary.swap_by_chance, _without_embeddings),
    "extend-vocabulary": Operator(derive_vocabulary.extend),
    "shuffle-vocabulary": Operator(derive_vocabulary.shuffle),
    "noise": Operator(derive_mixture.add_noise),
    "merge": Operator(derive_mixture.merge, _merged),
    "splice-layers": Operator(derive_mixture.splice, _spliced),
    "reinitialize": Operator(derive_mixture.reinitialize, _reinitialized),
    "low-rank": Operator(derive_mixture.add_low_rank),
    "cast": Operator(derive_storage.cast, seeded=False),
    "quantize-int8": Operator(derive_storage.quantize_int8, seeded=False),
    "surgery": Operator(derive_surgery.operate, derive_surgery.operated_lineage),
    "surviving-units": Operator(derive_survival.surviving_units, _units_alone),
    "fresh-tables": Operator(derive_survival.fresh_tables, _without_embeddings),
    "reshard": Operator(derive_storage.reshard, exact=True, identical=True, seeded=False),
    "rename": Operator(derive_storage.rename, identical=True, seeded=False),
    "fuse": Operator(derive_storage.fuse, exact=True, identical=True, seeded=False),
}

SETS: Mapping[str, Callable[[], list[Recipe]]] = {
    "llama": catalog_llama.recipes,
    "architectures": catalog_architectures.recipes,
    "bank": catalog_bank.recipes,
    "mini": catalog_mini.recipes,
    "demo": catalog_demo.recipes,
    "tree": catalog_tree.recipes,
}


def operator_of(recipe: Recipe) -> Operator:
    """The operator of a recipe that has one.

    Raises:
        UsageError: unknown operator.
    """
    if recipe.operator is None or recipe.operator not in OPERATORS:
        raise UsageError("no such operator", got=recipe.operator, expected=", ".join(sorted(OPERATORS)))
    return OPERATORS[recipe.operator]


def recipes_of(set_name: str) -> dict[str, Recipe]:
    """The recipes of a set by name.

    Raises:
        UsageError: unknown set, or two recipes of one name.
    """
    if set_name not in SETS:
        raise UsageError("no such set of models", got=set_name, expected=", ".join(SETS))
    found: dict[str, Recipe] = {}
    for recipe in SETS[set_name]():
        if recipe.name in found:
            raise UsageError("two recipes of one name", where=set_name, got=recipe.name)
        found[recipe.name] = recipe
    return found
