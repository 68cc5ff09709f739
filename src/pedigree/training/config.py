"""What one training run is: plain, frozen settings that a recipe fills and a checkpoint remembers.

Laws
1. Unknown keys are errors; every number has its unit in its name or its description.
2. Two runs whose `digest()` agree see the same tokens in the same order and take the same steps. What only changes
   how a run is watched or spread over machines (`WATCHING`) is left out of the digest.

Lengths are in tokens, not in steps, wherever a schedule must survive another batch size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pedigree.records.canonical import canonical_digest

SourceKind = Literal["text", "jsonl", "parquet", "hf", "python-stdlib", "arithmetic"]
Precision = Literal["fp32", "bf16", "fp16"]
OptimizerName = Literal["adamw", "muon"]
ScheduleName = Literal["cosine", "wsd", "constant"]

FrozenRole = Literal[
    "embed", "positions", "attention", "feed-forward", "router", "experts", "shared", "shortcut", "norm", "head", "mtp"
]

# Fields of TrainingConfig that change neither the tokens nor the steps; `mesh` does where a model balances the loads of
# each expert group by itself (scope `group`), as it says.
WATCHING = (
    "name", "checkpoint", "evaluation", "log_every", "compile", "activation_checkpointing", "mesh", "tensorboard",
)  # fmt: skip
NEEDS_PATH = ("text", "jsonl", "parquet", "hf")


class Settings(BaseModel):
    """Base of every setting: frozen, unknown keys are errors."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class SourceConfig(Settings):
    """One corpus.

    Attributes:
        kind: how it is read; `python-stdlib` and `arithmetic` need no file.
        path: file, directory or pattern (`*.txt`), or the name of a data set on the Hub for `hf`.
        weight: share of the mixture, relative to the other sources.
        domain: label under which losses and routing are reported.
        text_field: field that holds the text in JSONL, Parquet and Hub rows.
        split: split of a Hub data set.
        max_documents: stop after this many documents; 0 reads all.
        document: how a text file is cut into documents: the whole file, blank lines, or every line.
        held_out: share of the documents kept back for evaluation, chosen by digest.
        seed: seed of a generated corpus.
    """

    kind: SourceKind
    path: str | None = None
    weight: float = Field(default=1.0, gt=0)
    domain: str = Field(default="text", min_length=1)
    text_field: str = "text"
    split: str = "train"
    max_documents: int = Field(default=0, ge=0)
    document: Literal["file", "paragraph", "line"] = "file"
    held_out: float = Field(default=0.0, ge=0, lt=1)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _has_its_path(self) -> Self:
        if self.kind in NEEDS_PATH and not self.path:
            raise ValueError(f"a source of kind {self.kind} needs a path")
        return self


class OptimizerConfig(Settings):
    """The rule of the update.

    Attributes:
        name: `adamw`, or `muon` for the inner matrices with AdamW for the rest.
        lr: peak learning rate of AdamW.
        muon_lr: peak learning rate of Muon; its updates are scaled to the size of AdamW's, so the default is `lr`.
        weight_decay: decoupled; never on norms, gains and biases.
        decay_embeddings: whether embedding and head are decayed.
        eps: of AdamW.
    """

    name: OptimizerName = "adamw"
    lr: float = Field(default=3e-3, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.1, ge=0)
    decay_embeddings: bool = False
    muon_lr: float | None = Field(default=None, gt=0)
    muon_momentum: float = Field(default=0.95, ge=0, lt=1)
    clip: float = Field(default=1.0, gt=0, description="largest global gradient norm")


class ScheduleConfig(Settings):
    """The learning rate over tokens, as a share of its peak.

    Attributes:
        warmup_tokens: linear rise from zero.
        decay_tokens: length of the final fall of `wsd`; 0 takes a fifth of the run.
        floor: share of the peak at the end.
    """

    name: ScheduleName = "cosine"
    warmup_tokens: int = Field(default=0, ge=0)
    decay_tokens: int = Field(default=0, ge=0)
    floor: float = Field(default=0.1, ge=0, le=1)


class GuardConfig(Settings):
    """Thresholds of the guard, all in one place; each is named after the rule that reads it.

    Attributes:
        rules: which rules watch, in this order (see `pedigree.training.guard_rules`).
        window, sigma, least: OLMo-core skip-step: look at `window` steps, skip beyond `sigma` deviations,
            silent before `least` steps.
        zclip_*: ZClip: decay of the mean, z above which the gradient is clipped, silent steps.
        mad_*: log-mad: accepted steps that are looked at, robust z above which the gradient is clipped, and above which
            the step is skipped; silent before `least` steps.
        rewind_skips, rewind_within: this many skipped steps within so many steps roll the run back.
        rewind_margin: steps before the first anomaly that a checkpoint must have to count as healthy.
        smooth_loss, patience: PaLM: the smoothed loss this far above its lowest for so many steps rolls back.
        nonfinite_limit: consecutive non-finite steps that stop the run.
        spiky_factor: Megatron: skip a loss this many times the largest of the first 100.
        update_ratio: largest size of an update relative to the weights; above it the rate is lowered.
        lower_by, lower_for: factor on the rate after a second rollback, and for how many steps.
        rollbacks: more than this many stop the run.
    """

    rules: tuple[str, ...] = ("non-finite", "skip-step", "zclip", "rewind", "update-size")
    window: int = Field(default=128, ge=2)
    sigma: float = Field(default=6.0, gt=0)
    least: int = Field(default=64, ge=2)
    zclip_alpha: float = Field(default=0.97, gt=0, lt=1)
    zclip_z: float = Field(default=2.5, gt=0)
    zclip_warmup: int = Field(default=25, ge=2)
    mad_window: int = Field(default=256, ge=2)
    mad_clip: float = Field(default=4.0, gt=0)
    mad_skip: float = Field(default=8.0, gt=0)
    rewind_skips: int = Field(default=3, ge=1)
    rewind_within: int = Field(default=50, ge=1)
    rewind_margin: int = Field(default=10, ge=0)
    smooth_loss: float = Field(default=0.5, gt=0, description="nats")
    patience: int = Field(default=20, ge=1)
    nonfinite_limit: int = Field(default=10, ge=1)
    spiky_factor: float = Field(default=10.0, gt=1)
    update_ratio: float = Field(default=0.1, gt=0)
    update_every: int = Field(default=50, ge=1, description="steps between measurements of the update")
    lower_by: float = Field(default=0.5, gt=0, lt=1)
    lower_for: int = Field(default=200, ge=1)
    rollbacks: int = Field(default=5, ge=0)


class CheckpointConfig(Settings):
    """How often the state is saved (in steps; 0: at the end only) and how many states are kept."""

    every: int = Field(default=200, ge=0)
    keep: int = Field(default=3, ge=1)


class EvaluationConfig(Settings):
    """What is measured on text that is not trained on.

    Attributes:
        every: steps between evaluations; 0 evaluates at the end only.
        max_tokens: tokens of each domain that are read.
        sources: held-out corpora beside the held-out documents of the training sources.
        arithmetic: number of generated sums whose answers are checked; 0 checks none.
    """

    every: int = Field(default=0, ge=0)
    max_tokens: int = Field(default=20_000, ge=1)
    sources: tuple[SourceConfig, ...] = ()
    arithmetic: int = Field(default=0, ge=0)


class MeshConfig(Settings):
    """How the model is spread over ranks: sharded data, tensor and expert parallel sizes; 0 takes all the ranks."""

    dp_shard: int = Field(default=0, ge=0)
    tp: int = Field(default=1, ge=1)
    ep: int = Field(default=1, ge=1)


class FreezeRule(Settings):
    """Weights that stay as they are: those of these roles in these layers; what is absent means all of them.

    Attributes:
        roles: what the weights do; `norm` are all norms, `router` includes the selection bias.
        layers: numbers of layers, counted from 0; weights outside the layers are meant only where this is absent.
    """

    roles: tuple[FrozenRole, ...] | None = Field(default=None, min_length=1)
    layers: tuple[int, ...] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _means_something(self) -> Self:
        if self.roles is None and self.layers is None:
            raise ValueError("a rule names roles, layers or both")
        return self


class AnnealRule(Settings):
    """A coefficient of a conversion that moves with the tokens seen (`pedigree.model.config_parts.Homotopy`).

    Attributes:
        coefficient: which one.
        begin, end: its values up to `start` and from `stop` on.
        start, stop: tokens; between them it moves.
        shape: evenly, or by equal factors (from 0.001 where it begins at 0).
    """

    coefficient: Literal["angles", "positions", "queries", "post_norms"]
    begin: float = Field(ge=0, le=1)
    end: float = Field(ge=0, le=1)
    start: int = Field(default=0, ge=0)
    stop: int = Field(ge=1)
    shape: Literal["linear", "geometric"] = "linear"

    @model_validator(mode="after")
    def _moves(self) -> Self:
        if self.start >= self.stop:
            raise ValueError(f"an anneal from {self.start} to {self.stop} tokens has no length")
        if self.shape == "geometric" and not self.end > self.begin:
            raise ValueError("a geometric anneal rises: end must be above begin")
        return self


class TrainingConfig(Settings):
    """One run, from tokens to a checkpoint.

    Attributes:
        sequence_length: tokens predicted in each sequence.
        batch_sequences: sequences in one step over all ranks and accumulation steps.
        accumulation: parts in which a rank works off its share of a step.
        tokens: budget; the run ends with the step that reaches it.
        separator: token that opens a document; found by its usual names when absent.
        precision: of the matrix products; weights and moments stay in float32 unless `pure` is on.
        pure: hold the weights themselves in the low precision (bf16 only).
        document_mask: whether attention stops at the start of a document.
        freeze: weights that stay as they are; a weight is frozen when one rule means it.
        anneal: coefficients of a conversion that move while it trains, each by one rule.
    """

    name: str = Field(default="run", min_length=1)
    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    sequence_length: int = Field(default=128, ge=2)
    batch_sequences: int = Field(default=16, ge=1)
    accumulation: int = Field(default=1, ge=1)
    tokens: int = Field(ge=1)
    seed: int = Field(default=0, ge=0, lt=2**31)
    separator: str | None = None
    document_mask: bool = True
    precision: Precision = "fp32"
    pure: bool = False
    freeze: tuple[FreezeRule, ...] = ()
    anneal: tuple[AnnealRule, ...] = ()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    guard: GuardConfig = GuardConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    activation_checkpointing: bool = False
    compile: bool = False
    mesh: MeshConfig = MeshConfig()
    log_every: int = Field(default=10, ge=1, description="steps between lines of the status and of the metrics")
    tensorboard: bool = Field(default=False, description="TensorBoard events beside metrics.jsonl; extra `log`")

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.batch_sequences % self.accumulation:
            raise ValueError(f"{self.batch_sequences} sequences cannot be cut into {self.accumulation} equal parts")
        if self.pure and self.precision != "bf16":
            raise ValueError("weights can be held in low precision with bf16 only; fp16 needs float32 weights")
        if self.schedule.warmup_tokens > self.tokens:
            raise ValueError(f"a warm-up of {self.schedule.warmup_tokens} tokens is longer than {self.tokens} tokens")
        late = [rule for rule in self.anneal if rule.stop > self.tokens]
        if late:
            raise ValueError(f"{late[0].coefficient} would still move when the {self.tokens} tokens are over")
        if len({rule.coefficient for rule in self.anneal}) < len(self.anneal):
            raise ValueError("a coefficient is annealed by one rule only")
        if self.anneal and self.compile:
            raise ValueError("a compiled model does not see its coefficients move; compile: false")
        return self

    @property
    def tokens_per_step(self) -> int:
        """Tokens predicted in one step."""
        return self.batch_sequences * self.sequence_length

    @property
    def steps(self) -> int:
        """Steps until the budget is reached."""
        return math.ceil(self.tokens / self.tokens_per_step)

    def decisive(self) -> dict[str, Any]:
        """The settings that decide the tokens and the steps, as plain JSON values."""
        settings = self.model_dump(mode="json", exclude=set(WATCHING))
        if not self.freeze:  # both came later: recipes without them keep their digests
            del settings["freeze"]
        if not self.anneal:
            del settings["anneal"]
        return settings

    def digest(self) -> str:
        """`sha256:<hex>` of the decisive settings."""
        return canonical_digest(self.decisive())

    def beside(self, directory: Path) -> Self:
        """A copy in which relative paths of sources start at `directory`, where the recipe lies."""
        evaluation = self.evaluation.model_copy(update={"sources": beside(self.evaluation.sources, directory)})
        return self.model_copy(update={"sources": beside(self.sources, directory), "evaluation": evaluation})


def beside(sources: Iterable[SourceConfig], directory: Path) -> tuple[SourceConfig, ...]:
    """The sources with relative paths starting at `directory`."""

    def placed(source: SourceConfig) -> SourceConfig:
        if source.path is None or source.kind == "hf" or Path(source.path).is_absolute():
            return source
        return source.model_copy(update={"path": str(directory / source.path)})

    return tuple(map(placed, sources))
