"""The steps of a recipe at one size: what each model is, how it is trained, what it descends from, and its digest.

What is wrong is added to the problems; what could not be made is left out, so that reading goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pedigree.family.devices import table
from pedigree.family.graph import ordered
from pedigree.family.materials import Corpus, Tokenizer
from pedigree.family.model_part import continued, model_of
from pedigree.family.sections import FILLED_TRAINING_KEYS, STEP_KINDS, PlanKeys, TrainKeys
from pedigree.family.sized import SizedRecipe
from pedigree.model.config import ModelConfig
from pedigree.records.canonical import canonical_digest
from pedigree.records.places import Node, Path
from pedigree.records.problems import nearest, one_of
from pedigree.training.config import SourceConfig, TrainingConfig


@dataclass(frozen=True)
class Step:
    """One model of the family: what it is, how it is trained, what it descends from (step names by key)."""

    name: str
    kind: str
    about: str
    model: ModelConfig
    training: TrainingConfig
    tokenizer: str
    corpus: str
    plan: PlanKeys
    parents: Mapping[str, str]
    digest: str


class StepReader:
    """Reads the steps of one recipe, given what they are made from."""

    def __init__(
        self, recipe: SizedRecipe, corpora: Mapping[str, Corpus], tokenizers: Mapping[str, Tokenizer], seed: int
    ) -> None:
        self.recipe, self.tree, self.problems = recipe, recipe.tree, recipe.problems
        self.corpora, self.tokenizers, self.seed = corpora, tokenizers, seed

    def steps(self) -> dict[str, Step]:
        """The steps in an order in which they can be run."""
        checked: dict[str, TrainKeys] = {}
        for name, node in self.recipe.entries("models").items():
            keys = self._step_keys(name, node)
            if keys is not None:
                checked[name] = keys
        for name, keys in checked.items():
            for key, parent in keys.parents().items():
                if parent not in checked:
                    self.recipe.unknown("models", parent, ("models", name, key), but=name)
        order, circle = ordered({name: list(keys.parents().values()) for name, keys in checked.items()})
        if circle:
            _, mark = self.tree.find(("models", circle[0]))
            self.problems.add(
                mark, "these steps descend from themselves", path=("models", circle[0]), got=" from ".join(circle)[:200]
            )
        made: dict[str, Step] = {}
        for name in order:
            step = self._step(name, checked[name], made)
            if step is not None:
                made[name] = step
        return made

    def _step_keys(self, name: str, node: Node) -> TrainKeys | None:
        kind = node.children.get("kind")
        path: Path = ("models", name)
        if kind is None:
            self.problems.add(
                self.tree.find(path)[1],
                "the key 'kind' is missing",
                path=(*path, "kind"),
                expected=" or ".join(STEP_KINDS),
            )
            return None
        if kind.value not in STEP_KINDS:
            self.problems.add(
                kind.mark, "there is no such kind of step", path=(*path, "kind"), got=repr(kind.value)[:80],
                expected=" or ".join(STEP_KINDS), fix=nearest(str(kind.value), STEP_KINDS),
            )  # fmt: skip
            return None
        return self.problems.fitted(STEP_KINDS[str(kind.value)], node.plain(), self.tree, path)

    def _step(self, name: str, keys: TrainKeys, made: Mapping[str, Step]) -> Step | None:
        corpora, tokenizers = self.corpora, self.tokenizers
        parent = made.get(keys.from_step) if keys.from_step else None
        corpus = self._named("corpus", keys.corpus, parent.corpus if parent else None, corpora, name)
        tokenizer = self._named("tokenizer", keys.tokenizer, parent.tokenizer if parent else None, tokenizers, name)
        model = self._model(name, keys, parent, tokenizers[tokenizer].vocabulary if tokenizer else None)
        training = self._training(name, keys, corpora[corpus].sources if corpus else None)
        if model is None or training is None or corpus is None or tokenizer is None:
            return None
        self._check_device(name, keys.plan.device)
        self._check_fit(name, model, training, tokenizers[tokenizer])
        parents = keys.parents()
        content: dict[str, Any] = {
            "kind": keys.kind,
            "model": {key: value for key, value in model.to_dict().items() if key not in ("name", "assumed")},
            "training": training.decisive(),
            "tokenizer": tokenizers[tokenizer].digest,
            "parents": {key: made[step].digest for key, step in parents.items()},
        }
        return Step(
            name,
            keys.kind,
            keys.about,
            model,
            training,
            tokenizer,
            corpus,
            keys.plan,
            parents,
            canonical_digest(content),
        )

    def _named(
        self, what: str, given: str | None, inherited: str | None, known: Mapping[str, object], step: str
    ) -> str | None:
        """A name that the step gives or inherits, None (and a problem) where there is none of it."""
        path: Path = ("models", step, what)
        section = {"corpus": "corpora", "tokenizer": "tokenizers"}[what]
        name = given or inherited
        if name is None:
            if "from" not in self.tree.find(path[:-1])[0].children:
                self.problems.add(self.tree.find(path[:-1])[1], f"the key {what!r} is missing", path=path)
            return None
        if name in known:
            return name
        self.recipe.unknown(section, name, path)
        return None

    def _model(self, name: str, keys: TrainKeys, parent: Step | None, vocabulary: int | None) -> ModelConfig | None:
        path: Path = ("models", name, "model")
        merged_node = self.tree.find(path)[0] if self.tree.reaches(path) else None
        if keys.from_step is not None:
            if parent is None:
                return None
            return continued(parent.model, merged_node, path, self.tree, self.problems)
        if merged_node is None:
            self.problems.add(self.tree.find(path)[1], "the key 'model' is missing", path=path)
            return None
        base = self.recipe.raw.children["models"].children[name].children.get("model")
        over_path: Path = ("models", name, "at", self.recipe.size, "model")
        over = self.recipe.raw.find(over_path)[0] if self.recipe.raw.reaches(over_path) else None
        config = model_of(base, over, self.recipe.size, vocabulary, self.tree, path, self.problems)
        if config is not None and config.name == "unnamed":
            config = config.replace(name=name)
        return config

    def _training(self, name: str, keys: TrainKeys, sources: tuple[SourceConfig, ...] | None) -> TrainingConfig | None:
        path: Path = ("models", name, "training")
        for key in FILLED_TRAINING_KEYS:
            if key in keys.training:
                self.problems.add(
                    self.tree.find((*path, key))[1], "this key is filled by the recipe", path=(*path, key),
                    got=repr(key), fix="remove it; `corpus` names the sources" if key == "sources" else "remove it",
                )  # fmt: skip
                return None
        # Where the corpus is broken another stands in, so that the rest is checked all the same.
        given = [source.model_dump(mode="json") for source in sources or (SourceConfig(kind="arithmetic"),)]
        value = {"seed": self.seed, **keys.training, "name": name, "sources": given}
        config = self.problems.fitted(TrainingConfig, value, self.tree, path)
        return config if sources else None

    def _check_device(self, name: str, device: str | None) -> None:
        """A recipe names a device of the table: a plan of it must not differ from machine to machine."""
        if device is not None and device not in table():
            path: Path = ("models", name, "plan", "device")
            self.problems.add(
                self.tree.find(path)[0].mark, "there is no device of this name", path=path, got=repr(device)[:80],
                expected=one_of(table()), fix=nearest(device, table()) or "--device cpu measures this machine",
            )  # fmt: skip

    def _check_fit(self, name: str, model: ModelConfig, training: TrainingConfig, tokenizer: Tokenizer) -> None:
        """What only shows when model, training and tokenizer are seen together."""
        path: Path = ("models", name)
        if training.sequence_length > model.n_positions:
            _, mark = self.tree.find((*path, "training", "sequence_length"))
            self.problems.add(
                mark, "the sequences are longer than the context of the model", path=(*path, "training"),
                got=f"{training.sequence_length} tokens", expected=f"at most {model.n_positions}",
                fix="lower sequence_length, or set n_positions in model",
            )  # fmt: skip
        if tokenizer.vocabulary > model.vocab_size:
            self.problems.add(
                self.tree.find((*path, "tokenizer"))[1], "the tokenizer has more entries than the model has rows",
                path=path, got=f"{tokenizer.vocabulary} entries", expected=f"at most {model.vocab_size}",
                fix=f"set vocab_size: {tokenizer.vocabulary} in model, or lower vocabulary",
            )  # fmt: skip
