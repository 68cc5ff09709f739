"""The record of a plan: what a recipe would make and what it would take (`pedigree plan RECIPE --json`).

Laws
1. Fields may be added, never renamed or given another meaning; fields we do not know are kept on rewrite.
2. Two plans of the same recipe with the same options differ in nothing, unless this machine's processor was measured.
3. What was assumed and what was not counted is part of the record.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from pedigree.records.comparison import Producer, Record


class RecipeFile(Record):
    """The recipe: its path and the digest of its text."""

    path: str
    digest: str


class PlanInputs(Record):
    """What was read."""

    recipe: RecipeFile


class ParameterCount(Record):
    """Parameters; `total` and `active` are of the main model, multi-token prediction stands apart under `by_part`.

    `active` counts what one token meets, the embedding table whole; `active_without_embedding` leaves that table out
    where the head is another matrix. `by_part` counts all layers together.
    """

    total: int
    active: int
    active_without_embedding: int
    with_mtp: int
    by_part: dict[str, int] = Field(default_factory=dict)


class OperationCount(Record):
    """Floating-point operations for one token: forward parts, forward and training sums, at `context` tokens.

    `run` is what the whole step takes, recomputation left out: 1 multiplication with its addition is 2 operations.
    """

    context: int
    matrices: int
    attention: int
    mtp: int
    forward: int
    training: int
    run: float


class OperatorRecord(Record):
    """A product of one token with a matrix of `rows` outputs and `columns` inputs, `times` over the whole model.

    `operations` counts all of them for one token, forward. `causal` marks products with the context, half of it met.
    """

    name: str
    rows: int
    columns: int
    times: int
    causal: bool = False
    operations: int


class MeshRecord(Record):
    """How the model is spread: copies, parts of matrices and experts, stages; `devices` is dp x tp x pp."""

    dp: int = 1
    tp: int = 1
    ep: int = 1
    pp: int = 1
    vpp: int = 1
    zero: int = 3
    noop: int = 0
    micro: int = 1
    devices: int = 1


class MemoryRecord(Record):
    """Bytes on one device of the fullest stage while training.

    `activations` are those of the chosen `recompute`, `activations_by_recompute` those of each choice. `logits` counts
    the chunks and gradients of the cross entropy; `whole_logits` is what logits kept whole would take, and no part of
    `total`. `available` is the memory of the device, None where none was named.
    """

    stage: int
    weights: int
    gradients: int
    optimizer: int
    gathered: int
    activations: int
    logits: int
    whole_logits: int
    total: int
    recompute: Literal["none", "selective", "full"]
    activations_by_recompute: dict[str, int] = Field(default_factory=dict)
    available: int | None = None
    not_counted: list[str] = Field(default_factory=list)


class Serving(Record):
    """Bytes of weights in 16 bits, and of the key-value cache for one token and for a whole context."""

    weights: int
    cache_per_token: int
    cache_at_context: int
    context: int


class TimeRecord(Record):
    """An estimate: `run` and recomputation at `efficiency` of the peak, while no stage waits (share `bubble`)."""

    device: str
    peak: float
    efficiency: float
    bubble: float
    seconds: float
    note: str = ""


class StepPlan(Record):
    """One step: what it is, what it descends from (step names by key), what it takes."""

    name: str
    kind: str
    digest: str
    about: str = ""
    parents: dict[str, str] = Field(default_factory=dict)
    member: str = ""
    shape: str = ""
    assumed: str | None = None
    tokenizer: str
    vocabulary: int
    corpus: str
    precision: str
    parameters: ParameterCount
    operations: OperationCount
    operators: list[OperatorRecord] = Field(default_factory=list)
    tokens: int
    tokens_per_step: int
    steps: int
    mesh: MeshRecord
    memory: MemoryRecord
    serving: Serving
    time: TimeRecord | None = None
    config: dict[str, Any] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)
    warnings: list[str] = Field(default_factory=list)


class OperationPlan(Record):
    """A model that operators make from others: what comes out, and how much of the function is kept.

    `operators` are names with their exactness classes, `exactness` is that of all of them together; `warnings` say what
    could not be worked out before the tokenizers are made.
    """

    name: str
    kind: str
    digest: str
    about: str = ""
    parents: dict[str, str] = Field(default_factory=dict)
    shape: str
    tokenizer: str
    parameters: ParameterCount
    operators: list[dict[str, Any]] = Field(default_factory=list)
    exactness: str
    config: dict[str, Any] = Field(default_factory=dict)
    warnings: list[str] = Field(default_factory=list)


class EvaluationPlan(Record):
    """Models that will be measured on one corpus: up to `tokens` of each domain, and `arithmetic` sums."""

    name: str
    about: str = ""
    corpus: str
    models: list[str]
    tokens: int
    arithmetic: int = 0


class PlanResult(Record):
    """The family at one size, steps in an order in which they can be run; those made by operators apart."""

    family: str
    about: str = ""
    size: Literal["pico", "real"]
    steps: list[StepPlan]
    operations: list[OperationPlan] = Field(default_factory=list)
    evaluations: list[EvaluationPlan] = Field(default_factory=list)


class Plan(Record):
    """What a recipe would make and what it would take, computed without making it."""

    schema_name: Literal["pedigree/plan"] = Field(default="pedigree/plan", alias="schema")
    version: Literal[1] = 1
    producer: Producer = Field(default_factory=Producer)
    inputs: PlanInputs
    options: dict[str, Any] = Field(default_factory=dict)
    result: PlanResult
    warnings: list[str] = Field(default_factory=list)
