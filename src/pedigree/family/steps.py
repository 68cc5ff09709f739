"""The steps of a recipe at one size: what each model is, how it is trained, what it descends from, and its digest.

What is wrong is added to the problems; what could not be made is left out, so that reading goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pedigree.errors import PedigreeError, UsageError
from pedigree.family.devices import table
from pedigree.family.graph import ordered
from pedigree.family.materials import Corpus, Tokenizer
from pedigree.family.model_part import continued, model_of
from pedigree.family.sections import FILLED_TRAINING_KEYS, STEP_KINDS, PlanKeys, SurgeryKeys, TrainKeys
from pedigree.family.sized import SizedRecipe
from pedigree.model.config import ModelConfig
from pedigree.model.config_parts import Homotopy
from pedigree.records.canonical import canonical_digest
from pedigree.records.places import Node, Path
from pedigree.records.problems import nearest, one_of
from pedigree.training.annealing import annealed
from pedigree.training.config import SourceConfig, TrainingConfig

if TYPE_CHECKING:
    from pedigree.surgery.recipe import PlannedStep


FOLDERS = ("compare", "earlier", "evaluate", "tokenizers", "tokens")
"""What else lies in the folder of a family."""


@dataclass(frozen=True)
class Member:
    """One model of the family: what it is, and what it descends from (step names by key).

    `claims` is what it is said to descend from: None where nothing is said, empty for a start from random weights.
    `carries` says whether the state of the optimizer of the step before goes along.
    """

    name: str
    kind: str
    about: str
    model: ModelConfig
    tokenizer: str
    corpus: str
    plan: PlanKeys
    parents: Mapping[str, str]
    digest: str
    claims: tuple[str, ...] | None
    carries: bool


@dataclass(frozen=True)
class Step(Member):
    """A model that is trained, and how."""

    training: TrainingConfig


@dataclass(frozen=True)
class Operation(Member):
    """A model that operators make from others.

    Attributes:
        steps: the operators with their parameters.
        exactness, whole: classes of the operators, and of all of them together.
        seed, allow_nfp: as given.
    """

    steps: tuple[PlannedStep, ...]
    exactness: tuple[str, ...]
    whole: str
    seed: int
    allow_nfp: bool

    @property
    def others(self) -> dict[str, str]:
        """Further steps that operators read, by the names that operators use."""
        found = {key: step for key, step in self.parents.items() if key.startswith("models.")}
        return {key.removeprefix("models."): step for key, step in found.items()}


class StepReader:
    """Reads the steps of one recipe, given what they are made from."""

    def __init__(
        self, recipe: SizedRecipe, corpora: Mapping[str, Corpus], tokenizers: Mapping[str, Tokenizer], seed: int
    ) -> None:
        self.recipe, self.tree, self.problems = recipe, recipe.tree, recipe.problems
        self.corpora, self.tokenizers, self.seed = corpora, tokenizers, seed

    def steps(self, tell: Callable[[str, float], None]) -> dict[str, Member]:
        """The steps in an order in which they can be run; `tell` hears the name of each, and the share done before."""
        checked: dict[str, TrainKeys | SurgeryKeys] = {}
        for name, node in self.recipe.entries("models").items():
            keys = self._step_keys(name, node)
            if keys is not None:
                checked[name] = keys
        for name, keys in checked.items():
            for key, parent in keys.parents().items():
                if parent not in checked:
                    self.recipe.unknown("models", parent, ("models", name, *key.split(".", 1)), but=name)
            for at, claimed in enumerate(keys.claimed() or ()):
                if claimed not in checked or claimed == name:
                    self.recipe.unknown("models", claimed, ("models", name, "claims", at), but=name)
        order, circle = ordered({name: list(keys.parents().values()) for name, keys in checked.items()})
        if circle:
            _, mark = self.tree.find(("models", circle[0]))
            self.problems.add(
                mark, "these steps descend from themselves", path=("models", circle[0]), got=" from ".join(circle)[:200]
            )
        made: dict[str, Member] = {}
        for at, name in enumerate(order):
            tell(name, at / len(order))
            keys = checked[name]
            step: Member | None
            if isinstance(keys, TrainKeys):
                step = self._step(name, keys, made)
            else:
                step = self._operation(name, keys, made)
            if step is not None:
                made[name] = step
        return made

    def _step_keys(self, name: str, node: Node) -> TrainKeys | SurgeryKeys | None:
        kind = node.children.get("kind")
        path: Path = ("models", name)
        if name in FOLDERS:
            self.problems.add(
                self.tree.find(path)[1], "this name is that of a folder beside the models", path=path, got=name,
                expected=f"none of {', '.join(FOLDERS)}", fix="another name",
            )  # fmt: skip
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

    def _step(self, name: str, keys: TrainKeys, made: Mapping[str, Member]) -> Step | None:
        corpora, tokenizers = self.corpora, self.tokenizers
        parent = made.get(keys.from_step) if keys.from_step else None
        corpus = self._named("corpus", keys.corpus, parent.corpus if parent else None, corpora, name)
        tokenizer = self._named("tokenizer", keys.tokenizer, parent.tokenizer if parent else None, tokenizers, name)
        model = self._model(name, keys, parent, tokenizers[tokenizer].vocabulary if tokenizer else None)
        training = self._training(name, keys, corpora[corpus].sources if corpus else None)
        if model is not None and training is not None and training.anneal:
            model = self._annealed(name, model, training)
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
            **self._carried(name, keys, parent),
        }
        return Step(
            name, keys.kind, keys.about, model, tokenizer, corpus, keys.plan, parents, canonical_digest(content),
            keys.claimed(), keys.moments == "carry", training,
        )  # fmt: skip

    def _operation(self, name: str, keys: SurgeryKeys, made: Mapping[str, Member]) -> Operation | None:
        from pedigree.family.surgery_part import operated
        from pedigree.surgery.recipe import read_steps

        path: Path = ("models", name)
        node, mark = self.tree.find(path)
        before = self.problems.told
        steps = tuple(read_steps(node, self.problems))
        parents = {key: made.get(parent) for key, parent in keys.parents().items()}
        start = parents["from"]
        if start is None or self.problems.told != before:
            return None
        corpus = self._named("corpus", keys.corpus, start.corpus, self.corpora, name)
        tokenizer = self._named("tokenizer", keys.tokenizer, start.tokenizer, self.tokenizers, name)
        known = {key: member for key, member in parents.items() if member is not None}
        if corpus is None or tokenizer is None or len(known) != len(parents):
            return None
        seed = self.seed if keys.seed is None else keys.seed
        models = {key.removeprefix("models."): member.model for key, member in known.items()}
        other = self.tokenizers[tokenizer].vocabulary if tokenizer != start.tokenizer else None
        try:
            found = operated(name, models, steps, seed=seed, allow_nfp=keys.allow == "nfp", vocabulary=other)
        except PedigreeError as error:
            where = f"{error.where}: " if error.where and error.where != name else ""
            self.problems.add(
                mark, f"{where}{error.what}", path=path, got=error.got, expected=error.expected, fix=error.fix
            )
            return None
        content: dict[str, Any] = {
            "kind": keys.kind,
            "steps": [{step.operator.name: step.parameters.model_dump(mode="json")} for step in steps],
            "seed": seed,
            "tokenizer": self.tokenizers[tokenizer].digest,
            "tokenizers": [self.tokenizers[named].digest for named in self._tokenizers_read(name, steps)],
            "parents": {key: member.digest for key, member in known.items()},
            **self._carried(name, keys, start),
        }
        return Operation(
            name, keys.kind, keys.about, found.model, tokenizer, corpus, keys.plan, keys.parents(),
            canonical_digest(content), keys.claimed(), keys.moments == "carry", steps, found.exactness, found.whole,
            seed, keys.allow == "nfp",
        )  # fmt: skip

    def _carried(self, name: str, keys: TrainKeys | SurgeryKeys, parent: Member | None) -> dict[str, str]:
        """What goes into the digest of a step that carries moments; a problem where the step before has none."""
        if keys.moments == "drop":
            return {}
        if parent is None or not (isinstance(parent, Step) or parent.carries):
            self.problems.add(
                self.tree.find(("models", name, "moments"))[1], "there is no state of an optimizer to carry",
                path=("models", name, "moments"), got="from random weights" if parent is None else parent.name,
                expected="a step before that was trained, or that carries one itself",
                fix="moments: drop" if parent is None else f"moments: carry in {parent.name} too",
            )  # fmt: skip
        return {"moments": keys.moments}

    def _tokenizers_read(self, name: str, steps: Sequence[PlannedStep]) -> list[str]:
        """Tokenizers of this file that operators read; a problem where there is none of the name."""
        found = []
        for at, step in enumerate(steps):
            named = getattr(step.parameters, "tokenizer", None)
            if named is not None and named in self.tokenizers:
                found.append(str(named))
            elif named is not None:
                self.recipe.unknown(
                    "tokenizers", str(named), ("models", name, "steps", at, step.operator.name, "tokenizer")
                )
        return found

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

    def _model(self, name: str, keys: TrainKeys, parent: Member | None, vocabulary: int | None) -> ModelConfig | None:
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

    def _annealed(self, name: str, model: ModelConfig, training: TrainingConfig) -> ModelConfig | None:
        """The model as the anneal leaves it; a problem where a coefficient would jump at the start."""
        path: Path = ("models", name, "training", "anneal")
        now = (model.homotopy or Homotopy()).model_dump()
        for at, rule in enumerate(training.anneal):
            if now[rule.coefficient] != rule.begin:
                self.problems.add(
                    self.tree.find((*path, at))[0].mark, "the coefficient would jump before the first step",
                    path=(*path, at, "begin"), got=rule.begin, expected=now[rule.coefficient],
                    fix=f"begin: {now[rule.coefficient]:g}, what the weights stand at",
                )  # fmt: skip
                return None
        try:
            return annealed(model, training.anneal, None)
        except UsageError as error:
            self.problems.add(self.tree.find(path)[0].mark, error.what, path=path, got=error.where,
                              expected=error.expected, fix=error.fix)  # fmt: skip
            return None

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
