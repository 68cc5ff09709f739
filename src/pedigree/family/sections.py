"""What a recipe may say: the keys of each section, and the registry of step kinds.

Every class here describes one mapping of the file after its `at` part has been laid over it. The keys of `model` and
`training` are those of `pedigree.model.config.ModelConfig` and `pedigree.training.config.TrainingConfig`; they are
checked where a step is resolved.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from pedigree.family.mesh import Mesh

Size = Literal["pico", "real"]
SIZES: tuple[Size, ...] = get_args(Size)

# Names become folder names: nothing that could leave a folder, nothing that two file systems could take for one.
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]

# Keys of TrainingConfig that the recipe fills from elsewhere.
FILLED_TRAINING_KEYS = ("name", "sources")


class Keys(BaseModel):
    """Base of every section: frozen, unknown keys are errors."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class RecipeKeys(Keys):
    """The top of the file.

    Attributes:
        recipe: version of the format.
        size: the size that is meant where none is asked for.
        seed: seed of every step that names none of its own.
    """

    recipe: Literal[1]
    family: Name
    about: str = ""
    size: Size = "pico"
    seed: int = Field(default=0, ge=0, lt=2**31)
    corpora: dict[Name, dict[str, Any]] = Field(default_factory=dict)
    tokenizers: dict[Name, dict[str, Any]] = Field(default_factory=dict)
    models: dict[Name, dict[str, Any]] = Field(min_length=1)


class MixtureKeys(Keys):
    """A corpus made of other corpora: the share of each, relative to the others."""

    mixture: dict[Name, Annotated[float, Field(gt=0)]] = Field(min_length=1)


class TokenizerKeys(Keys):
    """One tokenizer.

    Attributes:
        kind: `bytes` (256 bytes and a few specials), `bpe` (trained on a corpus), `file` (a finished tokenizer.json).
        corpus: what `bpe` is trained on.
        vocabulary: entries, specials included; of a `file`, what it is known to hold.
        path: of a `file`, beside the recipe.
    """

    kind: Literal["bytes", "bpe", "file"]
    about: str = ""
    corpus: Name | None = None
    vocabulary: int | None = Field(default=None, ge=2, le=2**24)
    path: str | None = None

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> Self:
        needs = {"bytes": (), "bpe": ("corpus", "vocabulary"), "file": ("path", "vocabulary")}[self.kind]
        missing = [key for key in needs if getattr(self, key) is None]
        if missing:
            raise ValueError(f"a tokenizer of kind {self.kind} needs {' and '.join(missing)}")
        return self


class PlanKeys(Keys):
    """What `pedigree plan` takes where its options say nothing else; no part of what a step is.

    Attributes:
        mesh: how the model is meant to be spread.
        device: a name of the table of devices.
        recompute: which activations are computed again; by default what `activation_checkpointing` says.
    """

    mesh: Mesh | None = None
    device: str | None = None
    recompute: Literal["none", "selective", "full"] | None = None


class TrainKeys(Keys):
    """A step that trains a model, from random weights or on from another step.

    Attributes:
        from_step: the step that this one continues; model, tokenizer and corpus are taken from it where absent.
        model: `member: NAME` with overrides, or all fields of a ModelConfig.
        tokenizer, corpus: names in this file.
        training: fields of a TrainingConfig but for `name` and `sources`.
        plan: what a plan takes as given.
    """

    kind: Literal["train"]
    about: str = ""
    from_step: Name | None = Field(default=None, alias="from")
    model: dict[str, Any] | None = None
    tokenizer: Name | None = None
    corpus: Name | None = None
    training: dict[str, Any]
    plan: PlanKeys = PlanKeys()

    def parents(self) -> dict[str, str]:
        """The steps this one needs, by the key that names them."""
        return {} if self.from_step is None else {"from": self.from_step}


# The kinds of step this version can plan. Surgery will stand here beside training.
STEP_KINDS: dict[str, type[TrainKeys]] = {"train": TrainKeys}
