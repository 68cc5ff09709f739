"""A mesh of devices, and whether a model can be spread over it.

    devices = dp x tp x pp      dp  copies of the model that see different sequences; ep lies inside it
                                tp  parts of every matrix, and of the sequence between them
                                ep  parts of the experts, so that dp / ep copies of each expert remain
                                pp  stages of layers; with vpp, each device has so many shorter stages

zero: what is spread over the copies beside the work: 0 nothing, 1 optimizer states, 2 gradients too, 3 weights too.
noop: layers that do nothing, added so that the layers divide into stages. micro: sequences a device works on at once.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from pedigree.errors import PedigreeError, UsageError
from pedigree.model.config import ModelConfig
from pedigree.model.config_parts import GroupedAttention
from pedigree.records.problems import nearest, one_of
from pedigree.training.config import TrainingConfig
from pedigree.training.spread import spread_problems

KEYS = ("dp", "tp", "ep", "pp", "vpp", "zero", "noop", "micro")
MOST = 9_999_999
EXAMPLE = "--mesh dp=128,tp=8,pp=8"


class Mesh(BaseModel):
    """Sizes of a mesh; see the module for the words. `micro` 0: what the recipe's accumulation leaves."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    dp: int = Field(default=1, ge=1, le=MOST)
    tp: int = Field(default=1, ge=1, le=MOST)
    ep: int = Field(default=1, ge=1, le=MOST)
    pp: int = Field(default=1, ge=1, le=MOST)
    vpp: int = Field(default=1, ge=1, le=MOST)
    zero: int = Field(default=3, ge=0, le=3)
    noop: int = Field(default=0, ge=0, le=MOST)
    micro: int = Field(default=0, ge=0, le=MOST)

    @property
    def devices(self) -> int:
        """Devices in the mesh."""
        return self.dp * self.tp * self.pp

    def to_dict(self) -> dict[str, int]:
        """The sizes by name."""
        return self.model_dump()


def parse_mesh(text: str) -> Mesh:
    """A mesh such as `dp=128,tp=8,pp=8,noop=2`.

    Raises:
        UsageError: an unknown or repeated word, or no whole number.
    """
    given: dict[str, int] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        key, _, number = (piece.strip() for piece in part.partition("="))
        if key not in KEYS:
            raise _unreadable("there is no such axis", part, one_of(KEYS), nearest(key, KEYS) or EXAMPLE)
        if key in given:
            raise _unreadable("this axis stands twice", part, "each axis once", EXAMPLE)
        least = 0 if key in ("zero", "noop") else 1
        if not number.isascii() or not number.isdigit() or not least <= int(number[:9]) or len(number) > 7:
            raise _unreadable("this is not a size", part, f"a whole number from {least} to {MOST}", f"{key}={least}")
        given[key] = int(number)
    if not given:
        raise _unreadable("the mesh is empty", text, "axes and sizes", EXAMPLE)
    if given.get("zero", 3) > 3:
        raise _unreadable("there is no such stage", f"zero={given['zero']}", "0, 1, 2 or 3", "zero=3")
    return Mesh(**given)


def _unreadable(what: str, got: str, expected: str, fix: str) -> UsageError:
    return UsageError(what, where="--mesh", got=repr(got)[:80], expected=expected, fix=fix)


def mesh_of(training: TrainingConfig) -> Mesh:
    """The mesh that a recipe names, on one copy where it leaves their number open."""
    return Mesh(dp=training.mesh.dp_shard or 1, tp=training.mesh.tp, ep=training.mesh.ep)


def with_micro(mesh: Mesh, training: TrainingConfig) -> Mesh:
    """The mesh with `micro` filled in from the recipe's accumulation."""
    if mesh.micro:
        return mesh
    micro = max(1, training.batch_sequences // (mesh.dp * training.accumulation))
    return mesh.model_copy(update={"micro": micro})


def mesh_problems(step: str, model: ModelConfig, training: TrainingConfig, mesh: Mesh) -> list[PedigreeError]:
    """Everything that keeps a step from being trained on a mesh; `mesh.micro` is filled in."""
    found: list[PedigreeError] = []

    def must_divide(what: str, number: int, axis: str, by: int) -> None:
        if number % by:
            near = range(max(1, min(by, number) - 4096), min(number, by + 4096) + 1)
            fits = sorted({1, *(size for size in near if number % size == 0)}, key=lambda size: abs(size - by))
            fix = f"{axis}=" + " or ".join(map(str, fits[:2]))
            found.append(_impossible(step, f"{what} cannot be shared out evenly", f"{number} by {axis}={by}", fix))

    attention, experts = model.attention, model.experts
    must_divide("heads", attention.n_heads, "tp", mesh.tp)
    if isinstance(attention, GroupedAttention):
        kv = attention.n_kv_heads
        if kv % mesh.tp and mesh.tp % kv:
            found.append(
                _impossible(step, "key heads are neither shared out nor copied", f"{kv} by tp={mesh.tp}", f"tp={kv}")
            )
    if model.n_sparse < model.n_layers:
        must_divide("feed-forward units", model.feed_forward.d_inner, "tp", mesh.tp)
    if experts is not None:
        if experts.n_experts % (mesh.ep * mesh.tp):  # else each device has whole experts
            must_divide("units of an expert", experts.d_expert, "tp", mesh.tp)
        must_divide("units of the shared expert", experts.d_shared, "tp", mesh.tp)
        must_divide("experts", experts.n_experts, "ep", mesh.ep)
    elif mesh.ep > 1:
        found.append(_impossible(step, "this model has no experts", f"ep={mesh.ep}", "ep=1"))
    must_divide("copies", mesh.dp, "ep", mesh.ep)
    must_divide("positions of a sequence", training.sequence_length, "tp", mesh.tp)
    stages = mesh.pp * mesh.vpp
    if (model.n_layers + mesh.noop) % stages:
        missing = stages - model.n_layers % stages
        layers = f"{model.n_layers} + {mesh.noop} layers by pp={mesh.pp}" + (
            f", vpp={mesh.vpp}" if mesh.vpp > 1 else ""
        )
        found.append(
            _impossible(step, "layers cannot be cut into equal stages", layers, f"noop={missing} adds empty layers")
        )
    if mesh.vpp > 1 and mesh.pp == 1:
        found.append(_impossible(step, "shorter stages need stages", f"vpp={mesh.vpp} and pp=1", "vpp=1"))
    if mesh.pp > model.n_layers:
        found.append(_impossible(step, "there are more stages than layers", f"pp={mesh.pp}", f"pp={model.n_layers}"))
    must_divide("sequences of a step", training.batch_sequences, "dp", mesh.dp)
    if not training.batch_sequences % mesh.dp:
        must_divide("sequences of a device", training.batch_sequences // mesh.dp, "micro", mesh.micro)
    return found


def recipe_mesh_problems(step: str, model: ModelConfig, training: TrainingConfig) -> list[PedigreeError]:
    """What keeps a step from being trained on the mesh that its recipe names, whatever mesh is planned."""
    mesh = training.mesh
    return spread_problems(model, mesh, mesh.dp_shard, where=f"models.{step}.training.mesh")


def _impossible(step: str, what: str, got: str, fix: str) -> UsageError:
    return UsageError(what, where=f"--mesh, step {step}", got=got, fix=fix)
