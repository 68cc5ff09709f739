"""Every tensor of a symbolic checkpoint under the names of another type of model, ours included.

`pedigree.model.hf_checkpoint.plan` says which tensors a type stores and which blocks of our decoder each holds; the
role table of our own type says which part each block is. So any type that our decoder computes can become any other.

Laws
1. The result holds exactly the tensors that `pedigree train` would write of the same model.
2. A tensor that nothing changed and that both types store alike is copied byte for byte.
3. A part without a name in the new type is an error, not left out.
"""

from __future__ import annotations

from pedigree.model.config import ModelConfig
from pedigree.model.hf_dialects import OWN_TYPE, Dialect
from pedigree.model.hf_layout import Slot, View, empty_state
from pedigree.surgery.nodes import FLOATS, Fill, Leaf
from pedigree.surgery.operator import Step
from pedigree.surgery.symbolic import WHOLE_NUMBERS, Key, Stored, Symbolic
from pedigree.weights.roles import BIAS
from pedigree.weights.table import Match, Table, tables

_UNSTORED = ("head",)  # of a tied model: the embedding


def rename(symbolic: Symbolic, model: ModelConfig, dialect: Dialect, step: Step) -> None:
    """Give every tensor the name and the layout that `dialect` has for `model`, whose parts are there already.

    Raises:
        UsageError: a part has no name there, one is missing, or rows would have to be interleaved.
    """
    from pedigree.model.hf_checkpoint import plan

    if symbolic.anatomy.rope == "interleaved" or (model.rope is not None and model.rope.layout == "interleaved"):
        raise step.refuse("interleaved rotary rows are not renamed", got=symbolic.anatomy.architecture,
                          expected="rows in the half layout")  # fmt: skip
    table = next(table for table in tables() if table.name == OWN_TYPE)
    state = empty_state(model)
    stored = [
        _stored(symbolic, slot, slot.shape(state), table, model, step)
        for slot in plan(model, dialect)
        if not slot.is_copy
    ]
    held = {key for one in stored for key in one.keys}
    unnamed = sorted({key[0] for key in symbolic.parts if key not in held and key[0] not in _UNSTORED})
    unnamed += [one.origin for one in symbolic.stored if one.loose is not None and one.origin in _unmapped(symbolic)]
    if unnamed:
        raise step.refuse(
            "the new type has no name for a part", got=", ".join(unnamed[:3]), expected=f"parts of {dialect.model_type}"
        )
    symbolic.stored = stored


def _unmapped(symbolic: Symbolic) -> set[str]:
    return set(symbolic.anatomy.unmapped)


def _stored(
    symbolic: Symbolic, slot: Slot, shape: tuple[int, ...], table: Table, model: ModelConfig, step: Step
) -> Stored:  # fmt: skip
    matches = [_match(table, view, step) for view in slot.views]
    keys = tuple(key for view, match in zip(slot.views, matches, strict=True) for key in _keys(view, match, model))
    missing = [key for key in keys if key not in symbolic.parts]
    if missing:
        raise step.refuse("a part of the new type is missing", got=f"no {missing[0][0]}", expected=slot.name)
    layer = matches[0].layer
    template = slot.name if layer is None else slot.name.replace(f".{layer}.", ".{i}.", 1)
    packed = matches[0].entry.packed and slot.views[0].expert is None
    vector = len(symbolic.parts[keys[0]].shape) == 1
    old = _alike(symbolic, keys, slot, shape)
    return Stored(
        template=template, layer=layer, prediction=False, keys=keys, rows=(None,) * len(keys), match=matches[0],
        transposed=slot.transposed, swapped=False, packed=packed, vector=vector and not packed, tail=False, shape=shape,
        origin=_of_floats(symbolic) if old is None else old.origin,
        leaves=tuple(Fill(symbolic.parts[key].shape) for key in keys) if old is None else old.leaves,
        dtype=WHOLE_NUMBERS.get(keys[0][0]),
    )  # fmt: skip


def _of_floats(symbolic: Symbolic) -> str:
    """A tensor of the source whose number type new ones take."""
    types = symbolic.checkpoint.tensors
    return next((one.origin for one in symbolic.stored if types[one.origin].dtype in FLOATS), symbolic.stored[0].origin)


def _match(table: Table, view: View, step: Step) -> Match:
    found = table.match(view.name, view.name)
    if found is None or not found.entry.roles:
        raise step.refuse("a tensor of the new type has no role", got=view.name)
    return found


def _keys(view: View, match: Match, model: ModelConfig) -> list[Key]:
    """The parts in a block of one of our tensors, in the order of their rows."""
    entry = match.entry
    roles = [role + BIAS if match.bias else role for role in entry.roles]
    if not entry.packed:
        return [(role, match.layer, None) for role in roles]
    if entry.halves and model.feed_forward.kind == "swiglu":
        roles = [*entry.halves]
    if view.expert is not None:  # one matrix of one expert; of two halves the first begins at 0
        return [(roles[1 if view.start else 0], match.layer, view.expert)]
    count = 0 if model.experts is None else model.experts.n_experts
    return [(role, match.layer, expert) for expert in range(count) for role in roles]


def _alike(symbolic: Symbolic, keys: tuple[Key, ...], slot: Slot, shape: tuple[int, ...]) -> Stored | None:
    """The tensor of the source that holds the same parts in the same way."""
    for one in symbolic.stored:
        if one.keys == keys and one.transposed == slot.transposed and one.shape == shape and not one.swapped:
            whole = all(order is None for order in one.rows)
            read = all(isinstance(leaf, Leaf) for leaf in one.leaves)
            return one if whole and read and not one.tail else None
    return None
