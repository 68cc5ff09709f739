"""A symbolic checkpoint under the names of another architecture: every part where that architecture stores it.

`pedigree.surgery.retarget` adds names beside those that stay; here all names are new, so that a GPT-2 can become a
Llama, and anything can become our own type, which stores every mechanism of the decoder.

Laws
1. What is written is what `pedigree train` would write of the same model, tensor for tensor.
2. A tensor whose numbers and layout stay is copied byte for byte, under its new name.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pedigree.errors import InternalError
from pedigree.surgery.nodes import Fill, Leaf
from pedigree.surgery.operator import Step
from pedigree.surgery.settings import CARRIED_KEYS, Settings
from pedigree.surgery.symbolic import Key, Stored, Symbolic, read_symbolic
from pedigree.weights.number_types import WIDE_FLOATS

if TYPE_CHECKING:
    from pedigree.model.config import ModelConfig
    from pedigree.weights.checkpoint import Checkpoint


def declared(name: str, model: ModelConfig, model_type: str | None = None) -> Checkpoint:
    """The checkpoint that an export would write of a model, as a header without weights.

    Args:
        name: what messages call it.
        model: the model.
        model_type: of the class that stores it; None takes the first that computes the same.

    Raises:
        UsageError: that class does not.
    """
    from pedigree.model.hf_checkpoint import plan
    from pedigree.model.hf_config import choose_dialect, config_to_hf, untold
    from pedigree.model.hf_layout import empty_state
    from pedigree.weights.declared import declared_checkpoint

    dialect = choose_dialect(model, model_type)
    state = empty_state(model)
    tensors = {slot.name: ("F32", slot.shape(state)) for slot in plan(model, dialect)}
    return declared_checkpoint(name, tensors, untold(config_to_hf(model, dialect)))


def rehouse(symbolic: Symbolic, model: ModelConfig, step: Step, model_type: str | None = None) -> None:
    """Give the parts, which are those of `model` already, config and names of the architecture that computes it.

    Raises:
        UsageError: tensors without a role would be lost.
    """
    from pedigree.model.hf_config import choose_dialect

    if model.tied:
        symbolic.parts.pop(("head", None, None), None)  # stored though tied, as some writers do
    constants = symbolic.anatomy.constants
    loose = [stored.template for stored in symbolic.stored if not stored.keys and stored.origin not in constants]
    if loose:
        raise step.refuse(
            "tensors without a role have no place in another architecture", got=", ".join(loose[:3]),
            expected="a role for every tensor", fix="remove them from the source",
        )  # fmt: skip
    target = read_symbolic(declared(step.name, model, model_type))
    if target.anatomy.inferred:
        raise InternalError("an architecture of ours has no role table", got=choose_dialect(model).model_type)
    wanted = {key: node.shape for key, node in target.parts.items()}
    have = {key: node.shape for key, node in symbolic.parts.items()}
    if have != wanted:
        differing = sorted(key for key in {*have, *wanted} if have.get(key) != wanted.get(key))[:3]
        raise InternalError(
            "the parts of a converted model are not those of its architecture", where=step.name,
            got=[(key, have.get(key)) for key in differing], expected=[wanted.get(key) for key in differing],
        )  # fmt: skip
    origins = {key: stored for stored in symbolic.stored for key in stored.keys}
    example = next(  # a tensor whose number type new ones take: tables of whole numbers have another
        stored for stored in symbolic.stored if stored.keys and stored.dtype is None
        and (stored.leaves[0].dtype in WIDE_FLOATS or symbolic.checkpoint.tensors[stored.origin].dtype in WIDE_FLOATS)
    )  # fmt: skip
    symbolic.stored = [_stored(symbolic, stored, origins, example) for stored in target.stored]
    old = symbolic.config.values
    carried = {key: old[key] for key in CARRIED_KEYS if key in old}
    symbolic.config = Settings({**target.config.values, **carried})
    symbolic.anatomy = target.anatomy
    symbolic.n_layers, symbolic.d_model, symbolic.vocab_size = model.n_layers, model.d_model, model.vocab_size
    symbolic.n_heads, symbolic.n_kv_heads = target.n_heads, target.n_kv_heads
    symbolic.head_dim, symbolic.tied = target.head_dim, model.tied


def _stored(symbolic: Symbolic, stored: Stored, origins: dict[Key, Stored], example: Stored) -> Stored:
    """A tensor of the new architecture, with the number type of what it was made from.

    Where the old one holds the same parts in the same order it keeps their leaves, so that unchanged bytes are copied.
    """
    source = next((origins[key] for key in stored.keys if key in origins), example)
    scaled = any(isinstance(leaf, Leaf) and leaf.dtype != leaf.part.dtype for leaf in source.leaves)
    dtype = stored.dtype or ((symbolic.dtype or "BF16") if scaled else source.dtype)
    leaves = (
        source.leaves if not scaled and _alike(source, stored) else tuple(Fill(leaf.shape) for leaf in stored.leaves)
    )
    return replace(stored, origin=source.origin, leaves=leaves, dtype=dtype)


def _alike(a: Stored, b: Stored) -> bool:
    """Whether two tensors hold the same parts in the same order of bytes."""
    same = (a.keys, a.shape, a.transposed, a.swapped, a.packed) == (b.keys, b.shape, b.transposed, b.swapped, b.packed)
    return same and all(
        (x is None) == (y is None) and (x is None or y is None or bool(np.array_equal(x, y)))
        for x, y in zip(a.rows, b.rows, strict=True)
    )
