"""Another architecture for a symbolic checkpoint: its config, and names for parts that the old one did not have.

Parts keep their nodes. Those that the old names hold stay where they are; the others get the names of the new
architecture's role table, each in a tensor of its own.

Law: what is written is what `pedigree train` would write of the same model: the same keys, the same names.
"""

from __future__ import annotations

from pedigree.errors import PedigreeError
from pedigree.model.config import ModelConfig
from pedigree.model.hf_dialects import OWN_TYPE
from pedigree.surgery.nodes import Fill
from pedigree.surgery.operator import Step
from pedigree.surgery.rehousing import rehouse
from pedigree.surgery.settings import CARRIED_KEYS, Settings
from pedigree.surgery.symbolic import Key, Stored, Symbolic
from pedigree.weights.roles import BIAS
from pedigree.weights.table import Table, tables

# Tensors that are stored with a first axis of one, and without `.weight`.
_ROWS = frozenset({"moe.router.scale"})


def model_of(symbolic: Symbolic, step: Step) -> ModelConfig:
    """The model that the config of a symbolic checkpoint describes.

    Raises:
        UsageError: it is none that is built here.
    """
    from pedigree.model.hf_config import KEY, config_from_hf

    own = symbolic.config.kind == OWN_TYPE  # which has no other keys
    keys = {key: value for key, value in symbolic.config.values.items() if own or key != KEY}
    try:
        return config_from_hf(keys)[0]
    except PedigreeError as error:
        raise step.refuse(
            "this architecture is not built here, so it cannot become another", got=error.got or symbolic.config.kind,
            expected=error.expected,
        ) from error  # fmt: skip


def become(symbolic: Symbolic, model: ModelConfig, step: Step, *, own: bool = False) -> None:
    """Write config and names of `model`, whose parts are in `symbolic.parts` already.

    Args:
        symbolic: changed in place.
        model: what it is now.
        step: for errors.
        own: whether our own type may hold it, where no published one computes it.

    Raises:
        UsageError: no architecture with published names computes this model.
    """
    from pedigree.model.hf_config import KEY, choose_dialect, config_to_hf
    from pedigree.model.hf_dialects import OWN

    dialect = choose_dialect(model)
    was_own = symbolic.config.kind == OWN_TYPE
    if dialect is OWN and not (own or was_own):
        raise step.refuse(
            "no published architecture computes what would come out", got=_mechanisms(model),
            expected="Llama, Qwen2, Qwen3, Mixtral, Qwen2-MoE, Qwen3-MoE, Pangu Embedded or Pangu Pro MoE",
            fix="pedigree surgery ops tells what each operator makes",
        )  # fmt: skip
    if dialect is OWN or was_own:
        rehouse(symbolic, model, step)
        return
    old = symbolic.config.values
    values = {key: value for key, value in config_to_hf(model, dialect).items() if key != KEY}
    symbolic.config = Settings({**values, **{key: old[key] for key in CARRIED_KEYS if key in old}})
    table = next(table for table in tables() if dialect.model_type in table.model_types)
    held = {key for stored in symbolic.stored for key in stored.keys}
    example = next(stored for stored in symbolic.stored if stored.layer is not None and "layers.{i}" in stored.template)
    opening = example.template[: example.template.index("layers.{i}")]
    for key, node in symbolic.parts.items():
        if key not in held and key[1] is not None:
            symbolic.stored.append(_stored(key, node.shape, opening, table, example, step))


def _stored(
    key: Key, shape: tuple[int, ...], opening: str, table: Table, example: Stored, step: Step
) -> Stored:  # fmt: skip
    role, layer, expert = key
    pattern = _pattern(table, role, step)
    as_row = role in _ROWS
    if role.endswith(BIAS) and not pattern.endswith("bias"):
        pattern += ".bias"
    elif not role.endswith(BIAS) and not as_row:
        pattern += ".weight"
    name = f"{opening}{pattern}".replace("{e}", str(expert))
    vector = len(shape) == 1
    return Stored(
        template=name, layer=layer, prediction=False, keys=(key,), rows=(None,), match=None, transposed=False,
        swapped=False, packed=False, vector=vector, tail=False, shape=(1, *shape) if as_row else shape,
        origin=example.origin, leaves=(Fill(shape),),
    )  # fmt: skip


def _is_own(table: Table, role: str) -> bool:
    """Whether a role that ends like a bias has an entry of its own, as the selection bias of a router has."""
    return any(role in entry.roles for entry in table.entries)


def _pattern(table: Table, role: str, step: Step) -> str:
    """The name of a role in an architecture that stores it in a tensor of its own."""
    plain = role if _is_own(table, role) else role.removesuffix(BIAS)
    found = [entry for entry in table.entries if entry.roles == (plain,) and not entry.packed and not entry.transposed]
    if not found:
        raise step.refuse("the architecture has no name for a part", got=role, expected=f"a role of {table.name}")
    return next((entry for entry in found if entry.required), found[0]).pattern


def _mechanisms(model: ModelConfig) -> str:
    e = model.experts
    experts = f", {e.router} router over {e.n_experts} experts" if e is not None else ""
    return f"{model.feed_forward.kind} in {model.norm.placement} {model.norm.kind} norms{experts}"
