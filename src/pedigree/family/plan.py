"""A recipe planned: every step in numbers at its true size, before anything is allocated.

The mesh is checked against every step first; a mesh on which one of them is impossible ends in an error that lists all
the reasons, before any number is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pedigree.errors import PedigreeError, ProblemsFound, UsageError
from pedigree.family.devices import Device, device
from pedigree.family.memory import NOT_COUNTED, Memory, Recompute, memory, whole_logits
from pedigree.family.mesh import Mesh, mesh_of, mesh_problems, recipe_mesh_problems, with_micro
from pedigree.family.operators import operators
from pedigree.family.recipe import Family, Recipe
from pedigree.family.sections import Size
from pedigree.family.steps import Member, Operation, Step
from pedigree.family.surgery_part import reads_tokenizer
from pedigree.model.config import ModelConfig
from pedigree.model.sizes import cache_bytes, operations, parameters
from pedigree.records.plan import (
    EvaluationPlan,
    MemoryRecord,
    MeshRecord,
    OperationCount,
    OperationPlan,
    OperatorRecord,
    ParameterCount,
    Plan,
    PlanInputs,
    PlanResult,
    RecipeFile,
    Serving,
    StepPlan,
    TimeRecord,
)
from pedigree.records.problems import nearest, one_of

RECOMPUTES: tuple[Recompute, ...] = get_args(Recompute)
ROOM = 0.9  # of a device; the rest goes to what is not counted


@dataclass(frozen=True)
class PlanOptions:
    """What is asked of a plan beside the recipe.

    Attributes:
        size: None for the size the recipe means.
        only: steps to plan; what they descend from is not planned with them.
        mesh: None for what each step names.
        device: None for what each step names; where it names none, there is no time, and no limit of memory.
        recompute: None for what each step says.
        efficiency: share of the peak; None for that of the device.
    """

    size: Size | None = None
    only: Sequence[str] = ()
    mesh: Mesh | None = None
    device: Device | None = None
    recompute: Recompute | None = None
    efficiency: float | None = None


@dataclass(frozen=True)
class _Asked:
    """Where one step is to be trained: the options, with what the step says for what they leave open."""

    mesh: Mesh
    device: Device | None
    recompute: Recompute
    efficiency: float | None

    @classmethod
    def of(cls, step: Step, options: PlanOptions) -> _Asked:
        keys, training = step.plan, step.training
        return cls(
            with_micro(options.mesh or keys.mesh or mesh_of(training), training),
            options.device or (device(keys.device) if keys.device else None),
            options.recompute or keys.recompute or ("full" if training.activation_checkpointing else "none"),
            options.efficiency,
        )


def plan_recipe(recipe: Recipe, options: PlanOptions) -> Plan:
    """The plan of a recipe.

    Raises:
        UsageError: no step of a name that was asked for.
        ProblemsFound: the mesh or the device fits a step not at all.
    """
    family = recipe.family(options.size)
    chosen = _chosen(family, options.only)
    steps = [(step, _Asked.of(step, options)) for step in chosen if isinstance(step, Step)]
    problems: list[PedigreeError] = []
    for step, asked in steps:
        own = recipe_mesh_problems(step.name, step.model, step.training)
        told = set() if options.mesh or step.plan.mesh else {problem.what for problem in own}
        planned_mesh = mesh_problems(step.name, step.model, step.training, asked.mesh)
        problems += own + [problem for problem in planned_mesh if problem.what not in told]
        problems += _device_problems(step, asked.device)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise ProblemsFound("--mesh" if options.mesh else str(recipe.path), problems)
    planned = [_step_plan(step, family, asked) for step, asked in steps]
    operated = [_operation_plan(step) for step in chosen if isinstance(step, Operation)]
    return Plan(
        inputs=PlanInputs(recipe=RecipeFile(path=str(recipe.path), digest=recipe.digest)),
        options={
            "size": family.size,
            "only": list(options.only),
            "mesh": options.mesh.to_dict() if options.mesh else None,
            "device": options.device.name if options.device else None,
            "recompute": options.recompute,
            "efficiency": options.efficiency,
        },
        result=PlanResult(
            family=family.name,
            about=family.about,
            size=family.size,
            steps=planned,
            operations=operated,
            evaluations=_evaluations(family, {step.name for step in chosen}),
        ),
        warnings=[f"{step.name}: {warning}" for step in planned for warning in step.warnings]
        + [f"{step.name}: {warning}" for step in operated for warning in step.warnings],
    )


def _chosen(family: Family, only: Sequence[str]) -> list[Member]:
    for name in only:
        if name not in family.members:
            raise UsageError(
                "there is no step of this name", where="--only", got=repr(name), expected=one_of(family.members),
                fix=nearest(name, family.members),
            )  # fmt: skip
    return [step for step in family.members.values() if not only or step.name in only]


def _device_problems(step: Step, where: Device | None) -> list[PedigreeError]:
    precision = step.training.precision
    if where is None or where.peak_at(precision) is not None:
        return []
    known = ", ".join(where.peak)
    return [
        UsageError(
            "this device does not compute in the precision of the recipe", where=f"{where.name}, step {step.name}",
            got=precision, expected=known, fix=f"training: {{precision: {next(iter(where.peak))}}}",
        )
    ]  # fmt: skip


def _counts(model: ModelConfig) -> ParameterCount:
    p = parameters(model)
    return ParameterCount(
        total=p.total, active=p.active, active_without_embedding=p.active_without_embedding, with_mtp=p.with_mtp,
        by_part={k: v for k, v in p.to_dict().items() if k not in _SUMS and v},
    )  # fmt: skip


def _shape(model: ModelConfig) -> str:
    return f"{model.n_layers} layers of {model.d_model}, vocabulary {model.vocab_size}, context {model.n_positions}"


def _operation_plan(step: Operation) -> OperationPlan:
    operators: list[dict[str, Any]] = [
        {"operator": one.operator.name, "parameters": one.parameters.model_dump(mode="json"), "exactness": word}
        for one, word in zip(step.steps, step.exactness, strict=False)
    ]
    return OperationPlan(
        name=step.name, kind=step.kind, digest=step.digest, about=step.about, parents=dict(step.parents),
        shape=_shape(step.model), tokenizer=step.tokenizer, parameters=_counts(step.model), operators=operators,
        exactness=step.whole, config=step.model.to_dict(), warnings=_left_out(step),
    )  # fmt: skip


def _left_out(step: Operation) -> list[str]:
    """What a plan takes for operators that read tokenizers, which are made when the family is."""
    reading = [at for at, one in enumerate(step.steps) if reads_tokenizer(one)]
    if not reading:
        return []
    names = ", ".join(dict.fromkeys(step.steps[at].operator.name for at in reading))
    told = f"{names}: its tokenizer is not made yet, so the plan counts the {step.model.vocab_size:,} rows it may have"
    behind = [one.operator.name for one in step.steps[reading[0] + 1 :] if not reads_tokenizer(one)]
    also = f"; what follows ({', '.join(dict.fromkeys(behind))}) was worked out on the old vocabulary" if behind else ""
    return [told + also]


def _evaluations(family: Family, chosen: set[str]) -> list[EvaluationPlan]:
    found = []
    for name, asked in family.evaluate.items():
        models = [model for model in asked.models if model in chosen]
        if models:
            found.append(
                EvaluationPlan(name=name, about=asked.about, corpus=asked.corpus, models=models, tokens=asked.tokens,
                               arithmetic=asked.arithmetic)
            )  # fmt: skip
    return found


def _step_plan(step: Step, family: Family, asked: _Asked) -> StepPlan:
    model, training, mesh = step.model, step.training, asked.mesh
    counts = {choice: memory(model, training, mesh, choice) for choice in RECOMPUTES}
    p, ops = parameters(model), operations(model, training.sequence_length)
    count = _counts(model)
    cost = OperationCount(
        context=training.sequence_length, matrices=ops.matrices, attention=ops.attention, mtp=ops.mtp,
        forward=ops.forward, training=ops.training, run=float(ops.training) * training.tokens,
    )  # fmt: skip
    vocabulary = family.tokenizers[step.tokenizer].vocabulary
    return StepPlan(
        name=step.name, kind=step.kind, digest=step.digest, about=step.about, parents=dict(step.parents),
        member=model.name, shape=_shape(model), assumed=model.assumed, tokenizer=step.tokenizer, vocabulary=vocabulary,
        corpus=step.corpus, precision=training.precision, parameters=count, operations=cost,
        operators=_operators(step),
        tokens=training.tokens, tokens_per_step=training.tokens_per_step, steps=training.steps,
        mesh=MeshRecord(**mesh.to_dict(), devices=mesh.devices),
        memory=_memory_record(step, counts, asked),
        serving=Serving(
            weights=2 * p.total, cache_per_token=cache_bytes(model),
            cache_at_context=cache_bytes(model, model.n_positions), context=model.n_positions,
        ),
        time=_time(step, cost, asked),
        config=model.to_dict(), training=training.model_dump(mode="json"),
        warnings=_warnings(step, counts[asked.recompute], vocabulary, asked),
    )  # fmt: skip


def _operators(step: Step) -> list[OperatorRecord]:
    return [
        OperatorRecord(
            name=one.name, rows=one.rows, columns=one.columns, times=one.times, causal=one.causal,
            operations=one.operations,
        )
        for one in operators(step.model, step.training.sequence_length)
    ]  # fmt: skip


_SUMS = ("total", "active", "active_without_embedding", "with_mtp", "active_experts")


def _memory_record(step: Step, counts: dict[Recompute, Memory], asked: _Asked) -> MemoryRecord:
    chosen = counts[asked.recompute]
    return MemoryRecord(
        stage=chosen.stage, weights=chosen.weights, gradients=chosen.gradients, optimizer=chosen.optimizer,
        gathered=chosen.gathered, activations=chosen.activations, logits=chosen.logits,
        whole_logits=whole_logits(step.model, step.training, asked.mesh), total=chosen.total, recompute=asked.recompute,
        activations_by_recompute={key: count.activations for key, count in counts.items()},
        available=asked.device.memory if asked.device else None, not_counted=list(NOT_COUNTED),
    )  # fmt: skip


def bubble_of(step: Step, mesh: Mesh) -> float:
    """Share of the time in which a stage waits for others: one forward, one backward, interleaved with vpp."""
    waiting = max(1, step.training.batch_sequences // (mesh.dp * (mesh.micro or 1)))
    return (mesh.pp - 1) / (waiting * mesh.vpp + mesh.pp - 1)


def _time(step: Step, cost: OperationCount, asked: _Asked) -> TimeRecord | None:
    where = asked.device
    peak = where.peak_at(step.training.precision) if where else None
    if where is None or peak is None:
        return None
    efficiency = asked.efficiency or where.efficiency
    bubble = bubble_of(step, asked.mesh)
    again = 4 / 3 if asked.recompute == "full" else 1.0
    seconds = cost.run * again / (asked.mesh.devices * peak * efficiency * (1 - bubble))
    return TimeRecord(
        device=where.name, peak=peak, efficiency=efficiency, bubble=bubble, seconds=seconds, note=where.note
    )


def _warnings(step: Step, need: Memory, vocabulary: int, asked: _Asked) -> list[str]:
    model, mesh, found = step.model, asked.mesh, []
    size = asked.device.memory if asked.device else None
    if size is not None and need.total > ROOM * size:
        found.append(
            f"{need.total / 1e9:.3g} GB on a device of {size / 1e9:.3g} GB, of which a tenth should stay "
            "free; more devices, a smaller micro, zero=3 or --recompute full"
        )
    if model.vocab_size > vocabulary:
        found.append(f"{model.vocab_size - vocabulary} of {model.vocab_size} rows of the vocabulary have no token")
    heads = getattr(model.attention, "n_kv_heads", model.attention.n_heads)
    if heads < mesh.tp:
        found.append(f"tp={mesh.tp} holds each of the {heads} key heads {mesh.tp // heads} times")
    if mesh.pp > 1 and mesh.zero == 3:
        found.append("zero=3 gathers the weights anew for every micro-batch of a pipeline; zero=1 is usual with pp")
    if (bubble := bubble_of(step, mesh)) > 0.2:
        found.append(f"stages wait {100 * bubble:.0f} % of the time; a smaller micro or vpp shortens that")
    experts = model.experts
    if experts is not None and experts.router == "grouped" and experts.n_groups % mesh.ep and mesh.ep > 1:
        found.append(f"ep={mesh.ep} cuts through the {experts.n_groups} groups of experts: devices get unequal loads")
    return found
