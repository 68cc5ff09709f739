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

TokenizerKind = Literal["byte-level", "byte-fallback", "unigram", "one-character", "file"]

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
    """One tokenizer: trained on a corpus, or a finished tokenizer.json (`file`).

    Attributes:
        kind: one of the kinds that `pedigree.tokenizers` trains, or `file`.
        corpus: what it is trained on.
        vocabulary: tokens in all, control tokens and bytes included; of a `file`, what it holds.
        pattern: how words are cut, by name; `one-character` has its own.
        specials: control tokens, first in the vocabulary; the first one opens documents.
        min_frequency: pairs that occur less often are not merged.
        longest: most characters (bytes for `byte-level`) of a token.
        path: of a `file`, beside the recipe.
    """

    kind: TokenizerKind
    about: str = ""
    corpus: Name | None = None
    vocabulary: int = Field(ge=2, le=2**24)
    pattern: Literal["gpt2", "llama3", "qwen2", "deepseek-llm"] = "llama3"
    specials: tuple[Annotated[str, StringConstraints(min_length=1)], ...] = ("<|endoftext|>",)
    min_frequency: int = Field(default=2, ge=0)
    longest: int = Field(default=32, ge=1)
    path: str | None = None

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> Self:
        needed, idle = ("path", "corpus") if self.kind == "file" else ("corpus", "path")
        if getattr(self, needed) is None:
            raise ValueError(f"a tokenizer of kind {self.kind} needs the key {needed!r}")
        if getattr(self, idle) is not None:
            raise ValueError(f"a tokenizer of kind {self.kind} takes no {idle!r}")
        if self.kind != "file" and self.vocabulary < 256 + len(self.specials):
            raise ValueError(f"a vocabulary of {self.vocabulary} cannot hold 256 bytes and the control tokens")
        if len(set(self.specials)) != len(self.specials):
            raise ValueError("a control token is given twice")
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
