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

TokenizerKind = Literal["byte-level", "byte-fallback", "unigram", "one-character", "extend", "concatenate", "file"]

# What each kind of tokenizer is made from; the keys that are not its own stay empty.
TOKENIZER_NEEDS: dict[str, tuple[str, ...]] = {
    "extend": ("base", "corpus"),
    "concatenate": ("parts",),
    "file": ("path",),
}
TRAINED_NEEDS = ("corpus",)

# Names become folder names: nothing that could leave a folder, nothing that two file systems could take for one.
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]

# Keys of TrainingConfig that the recipe fills from elsewhere.
FILLED_TRAINING_KEYS = ("name", "sources")


class Keys(BaseModel):
    """Base of every section: frozen, unknown keys are errors."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class CompareKeys(Keys):
    """What `pedigree run` compares beside every parent with its child.

    Attributes:
        pairs: pairs of steps.
        roots: whether all models that were trained from random weights are compared with each other.
    """

    pairs: tuple[tuple[Name, Name], ...] = ()
    roots: bool = False


class EvaluateKeys(Keys):
    """Models measured on one corpus, all in the same way.

    Attributes:
        corpus: what is read: of a source that keeps documents back those, of any other all of it.
        models: the steps that are measured; all of them where none is named.
        tokens: tokens of each domain that are read.
        arithmetic: sums whose answers are checked.
        sequence_length: tokens of a window; by default what each model allows, up to 1024.
    """

    about: str = ""
    corpus: Name
    models: tuple[Name, ...] = ()
    tokens: int = Field(default=20_000, ge=1)
    arithmetic: int = Field(default=0, ge=0)
    sequence_length: int | None = Field(default=None, ge=2)


class RecipeKeys(Keys):
    """The top of the file.

    Attributes:
        recipe: version of the format.
        size: the size that is meant where none is asked for.
        seed: seed of every step that names none of its own.
        evaluate: what is measured once the models are made, by name.
        compare: what is compared after that.
    """

    recipe: Literal[1]
    family: Name
    about: str = ""
    size: Size = "pico"
    seed: int = Field(default=0, ge=0, lt=2**31)
    corpora: dict[Name, dict[str, Any]] = Field(default_factory=dict)
    tokenizers: dict[Name, dict[str, Any]] = Field(default_factory=dict)
    models: dict[Name, dict[str, Any]] = Field(min_length=1)
    evaluate: dict[Name, EvaluateKeys] = Field(default_factory=dict)
    compare: CompareKeys = CompareKeys()


class MixtureKeys(Keys):
    """A corpus made of other corpora: the share of each, relative to the others."""

    mixture: dict[Name, Annotated[float, Field(gt=0)]] = Field(min_length=1)


class TokenizerKeys(Keys):
    """One tokenizer: trained on a corpus, grown or put together from others, or a finished tokenizer.json (`file`).

    Attributes:
        kind: one of the kinds that `pedigree.tokenizers` trains, `extend`, `concatenate`, or `file`.
        corpus: what it, or what is added to its base, is learned from.
        vocabulary: tokens in all, control tokens and bytes included; of a `file` what it holds, of a `concatenate` the
            most it may come to: models get so many rows.
        pattern: how words are cut, by name; `one-character` has its own.
        specials: control tokens, first in the vocabulary; the first one opens documents.
        min_frequency: pairs that occur less often are not merged.
        longest: most characters (bytes for `byte-level`) of a token.
        base: of an `extend`: the tokenizer whose numbers stand.
        parts: of a `concatenate`: two tokenizers, the first keeps its numbers.
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
    base: Name | None = None
    parts: tuple[Name, Name] | None = None
    path: str | None = None

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> Self:
        needed = TOKENIZER_NEEDS.get(self.kind, TRAINED_NEEDS)
        for key in ("corpus", "base", "parts", "path"):
            if key in needed and getattr(self, key) is None:
                raise ValueError(f"a tokenizer of kind {self.kind} needs the key {key!r}")
            if key not in needed and getattr(self, key) is not None:
                raise ValueError(f"a tokenizer of kind {self.kind} takes no {key!r}")
        if needed == TRAINED_NEEDS and self.vocabulary < 256 + len(self.specials):
            raise ValueError(f"a vocabulary of {self.vocabulary} cannot hold 256 bytes and the control tokens")
        if len(set(self.specials)) != len(self.specials):
            raise ValueError("a control token is given twice")
        return self

    def parents(self) -> dict[str, str]:
        """The tokenizers that this one is made from, by the key that names them."""
        named = {"base": self.base} if self.base else {}
        return named | {f"parts.{at}": name for at, name in enumerate(self.parts or ())}


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


class StepKeys(Keys):
    """What every step has.

    Attributes:
        from_step: the step whose weights this one starts from; what is absent is taken from it.
        tokenizer, corpus: names in this file.
        claims: what the model is said to descend from: steps, or `scratch`; no part of the digest.
        plan: what a plan takes as given.
        moments: `carry` the state of the optimizer along from the step before, or `drop` it and begin with none.
    """

    kind: str
    about: str = ""
    from_step: Name | None = Field(default=None, alias="from")
    tokenizer: Name | None = None
    corpus: Name | None = None
    claims: Literal["scratch"] | tuple[Name, ...] | None = None
    plan: PlanKeys = PlanKeys()
    moments: Literal["carry", "drop"] = "drop"

    def parents(self) -> dict[str, str]:
        """The steps this one needs, by the key that names them."""
        return {} if self.from_step is None else {"from": self.from_step}

    def claimed(self) -> tuple[str, ...] | None:
        """The steps it is said to descend from; empty for `scratch`, None where nothing is said."""
        return () if self.claims == "scratch" else self.claims


class TrainKeys(StepKeys):
    """A step that trains a model, from random weights or on from another step.

    Attributes:
        model: `member: NAME` with overrides, or all fields of a ModelConfig.
        training: fields of a TrainingConfig but for `name` and `sources`.
    """

    kind: Literal["train"]
    model: dict[str, Any] | None = None
    training: dict[str, Any]


class SurgeryKeys(StepKeys):
    """A step that makes weights from weights by operators (`pedigree surgery ops` lists them).

    Attributes:
        models: further steps that operators read, by the names that operators use for them.
        steps: the operators in their order, as in a surgery recipe; a parameter `tokenizer` names one of this file.
        allow: `nfp` where an operator may change the function of the model.
        seed: of random numbers; that of the recipe where absent.
        tokenizer: the tokenizer of the result, where an operator changes the vocabulary.
        corpus: text on which the result is evaluated.
    """

    kind: Literal["surgery"]
    from_step: Name = Field(alias="from")
    models: dict[Name, Name] = Field(default_factory=dict)
    steps: list[Any] = Field(min_length=1)
    allow: Literal["nfp"] | None = None
    seed: int | None = Field(default=None, ge=0, lt=2**31)

    def parents(self) -> dict[str, str]:
        """The steps whose weights are read, by the key that names them."""
        return {"from": self.from_step} | {f"models.{name}": step for name, step in self.models.items()}


# The kinds of step, by name.
STEP_KINDS: dict[str, type[TrainKeys] | type[SurgeryKeys]] = {"train": TrainKeys, "surgery": SurgeryKeys}
