"""Records of surgery: operators, a plan, a run, and the comparison of a result with its source.

Laws
1. Fields may be added, never renamed or given another meaning; fields we do not know are kept on rewrite.
2. Bytes and counts are whole numbers; digests are hexadecimal BLAKE3.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from pedigree.records.comparison import Producer, Record
from pedigree.records.damage import Damage

ExactnessWord = Literal["FP0", "FP1", "FP-epsilon", "NFP"]


class OperatorFacts(Record):
    """One operator: what it does, its class by variant, what it needs, where it comes from, its parameters."""

    name: str
    summary: str
    classes: dict[str, ExactnessWord]
    needs: str = ""
    source: str = ""
    verbs: list[str] = Field(default_factory=list)
    parameters: dict[str, Any] = Field(default_factory=dict)


class OperatorList(Record):
    """What `pedigree surgery ops --json` prints."""

    schema_name: Literal["pedigree/surgery-operators"] = Field(default="pedigree/surgery-operators", alias="schema")
    version: Literal[1] = 1
    producer: Producer = Field(default_factory=Producer)
    operators: list[OperatorFacts]


class PlannedTensor(Record):
    """One tensor of the result: `kind` is how it comes about."""

    name: str
    dtype: str
    shape: list[int]
    file: str
    bytes: int
    kind: Literal["shared", "copied", "computed"]


class SurgeryStep(Record):
    """One step with its parameters, defaults included, and its class."""

    operator: str
    parameters: dict[str, Any]
    exactness: ExactnessWord


class SurgeryBytes(Record):
    """Bytes read, written, and shared with the source; memory of tiles; seconds at one GB/s each way."""

    read: int
    written: int
    shared: int
    peak_memory: int
    seconds_at_1_gb_per_s: float


class SurgeryPlan(Record):
    """What `pedigree surgery plan RECIPE --json` prints."""

    schema_name: Literal["pedigree/surgery-plan"] = Field(default="pedigree/surgery-plan", alias="schema")
    version: Literal[1] = 1
    producer: Producer = Field(default_factory=Producer)
    recipe: dict[str, Any]
    target: str
    exactness: ExactnessWord
    steps: list[SurgeryStep]
    bytes: SurgeryBytes
    tensors: list[PlannedTensor]
    config_changes: dict[str, list[Any]] = Field(default_factory=dict)
    digest: str
    damage: Damage | None = None
    warnings: list[str] = Field(default_factory=list)


class SurgeryRun(Record):
    """What `pedigree surgery run RECIPE --json` prints: the plan's numbers as they came out."""

    schema_name: Literal["pedigree/surgery-run"] = Field(default="pedigree/surgery-run", alias="schema")
    version: Literal[1] = 1
    producer: Producer = Field(default_factory=Producer)
    target: str
    exactness: ExactnessWord
    seconds: float
    read: int
    written: int
    shared: int
    resumed_tensors: int
    digests: dict[str, str] = Field(default_factory=dict)
    plan: str
    record: dict[str, Any] = Field(default_factory=dict)
    warnings: list[str] = Field(default_factory=list)


class LogitDrift(Record):
    """How far logits moved: largest and root-mean-square difference, spread of the old ones, nats per token of
    KL(old || new), share of places where both prefer the same token."""

    largest: float
    rms: float
    old_spread: float
    kl: float
    top1_agreement: float


class LayerDrift(Record):
    """How far result and source are apart behind one layer of the result.

    `layer` counts from 0, -1 is in front of the first; `source` is the layer of the source that it takes after, None of
    one that adds nothing. `error` is relative to the size of the stream; above `limit` the layer departs.
    `same_inputs` says whether the layer was run on the stream of the source, so that the error is its own; else that
    stream stands in another basis, inner products are compared, and errors of layers before are in it.
    """

    layer: int
    source: int | None = None
    error: float
    limit: float
    same_inputs: bool


class SurgeryCheck(Record):
    """What `pedigree surgery verify DST --json` prints.

    `self_noise_kl` is what computing the source in bfloat16 instead of float32 costs, nats per token: the yardstick for
    weights of 16 bits. `limit` is the bound on `drift.largest` for exact classes. `departs_at` is the first of `layers`
    that departs, None where none does or nothing is claimed.
    """

    schema_name: Literal["pedigree/surgery-check"] = Field(default="pedigree/surgery-check", alias="schema")
    version: Literal[1] = 1
    producer: Producer = Field(default_factory=Producer)
    source: str
    target: str
    exactness: ExactnessWord
    verdict: Literal["pass", "fail", "no-claim", "not-testable"]
    reason: str
    tokens: int = 0
    drift: LogitDrift | None = None
    limit: float | None = None
    self_noise_kl: float | None = None
    layers: list[LayerDrift] = Field(default_factory=list)
    departs_at: int | None = None
    damaged: list[str] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)
