"""A surgery recipe: one YAML file, a source, a target, and steps in their order.

    surgery: 1
    source: {model: ./llama-8b}
    models: {donor: ./other}                     # further checkpoints that steps name
    target: {dir: ./grown, shard: 5GB, seed: 7}
    allow: nfp                                    # only where a step does not keep the function
    steps:
      - grow.depth: {op: identity, after: every 4}
      - grow.ffn: {to: 16384}

Unknown keys are errors; all problems are reported at once, with file and line. Places are relative to the recipe.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from pedigree.errors import InternalError, MalformedFile
from pedigree.records.canonical import canonical_digest
from pedigree.records.places import Node
from pedigree.records.problems import Problems, nearest, one_of, shown
from pedigree.records.yaml_tree import parse_tree, read_text
from pedigree.surgery.catalog import BY_NAME
from pedigree.surgery.operator import Operator, Parameters

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}


class _Section(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")


class SourceSection(_Section):
    """Where the weights come from: a path, hf://org/name@revision, or https://..."""

    model: str
    allow_pickle: bool = False
    optimizer: str | None = None
    """The checkpoint of the training run that made the model; its moments are moved along into DIR.optimizer."""


class TargetSection(_Section):
    """Where the result goes."""

    dir: str
    shard: str = "5GB"
    """Most bytes of one file."""
    seed: int = 0
    link: bool = True
    """Share files that do not change with the source, by hard links."""


class VerifySection(_Section):
    """How much is compared after the run."""

    tokens: int = Field(default=256, ge=1)


class _Whole(_Section):
    surgery: Literal[1]
    source: SourceSection
    target: TargetSection
    models: dict[str, str] = Field(default_factory=dict)
    allow: Literal["nfp"] | None = None
    steps: list[Any] = Field(default_factory=list)
    verify: VerifySection = VerifySection()


@dataclass(frozen=True)
class PlannedStep:
    """An operator with its parameters."""

    operator: Operator
    parameters: Parameters


@dataclass(frozen=True)
class SurgeryRecipe:
    """A recipe that was read.

    Attributes:
        path: the file.
        source: the checkpoint.
        models: further checkpoints by name.
        target: the folder of the result.
        shard_bytes, seed, link: as in the file.
        allow_nfp: whether steps that do not keep the function are allowed.
        steps: operators in order.
        verify_tokens: tokens to compare on.
        optimizer: the training checkpoint whose moments are moved along, None where they are dropped.
    """

    path: str
    source: str
    allow_pickle: bool
    models: dict[str, str]
    target: Path
    shard_bytes: int
    seed: int
    link: bool
    allow_nfp: bool
    steps: tuple[PlannedStep, ...]
    verify_tokens: int
    folder: str
    optimizer: str | None = None

    def resolved(self) -> dict[str, Any]:
        """Everything that decides about the numbers of the result, defaults included, as plain JSON values."""
        return {
            "surgery": 1,
            "source": self.source,
            "models": self.models,
            "seed": self.seed,
            "shard": self.shard_bytes,
            "allow": "nfp" if self.allow_nfp else None,
            "steps": [
                {step.operator.name: step.parameters.model_dump(mode="json")} for step in self.steps
            ],
            **({"optimizer": self.optimizer} if self.optimizer is not None else {}),
        }  # fmt: skip

    def exact_json(self) -> str:
        """Everything that is needed to do the same again, as one text: no digit of a number is lost in a record."""
        return json.dumps({
            **self.resolved(), "link": self.link, "allow_pickle": self.allow_pickle, "folder": self.folder,
        }, sort_keys=True)  # fmt: skip

    @classmethod
    def from_exact_json(cls, text: str, target: Path) -> SurgeryRecipe:
        """Read what `exact_json` wrote, for another target.

        Raises:
            MalformedFile: it was not written by it, or an operator or a parameter is not known here.
        """
        try:
            told = json.loads(text)
            steps = []
            for step in told["steps"]:
                ((name, values),) = step.items()
                parameters = BY_NAME[name].parameters.model_validate_json(json.dumps(values), strict=True)
                steps.append(PlannedStep(BY_NAME[name], parameters))
            return cls(
                path="the record", source=str(told["source"]), allow_pickle=bool(told["allow_pickle"]),
                models={str(name): str(place) for name, place in told["models"].items()}, target=target,
                shard_bytes=int(told["shard"]), seed=int(told["seed"]), link=bool(told["link"]),
                allow_nfp=told["allow"] == "nfp", steps=tuple(steps), verify_tokens=VerifySection().tokens,
                folder=str(told["folder"]), optimizer=told.get("optimizer"),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            got = (str(error).splitlines() or [""])[0]
            raise MalformedFile(
                "a recorded recipe cannot be read", where="the record", got=f"{type(error).__name__} {got}"
            ) from error

    def digest(self) -> str:
        """Digest of `resolved`."""
        return canonical_digest(self.resolved())


def read_recipe(path: str | os.PathLike[str]) -> SurgeryRecipe:
    """Read a recipe.

    Raises:
        MissingInput: there is no such file.
        ProblemsFound: everything that is wrong with it, with file and line.
    """
    file = Path(path)
    problems = Problems(str(file))
    text = read_text(file, problems)
    root = None if text is None else parse_tree(text, problems)
    problems.stop()
    recipe = None if root is None else _recipe(file, root, problems)
    problems.stop()
    if recipe is None:
        raise InternalError("a recipe was refused without a word", where=str(file))
    return recipe


def _recipe(file: Path, root: Node, problems: Problems) -> SurgeryRecipe | None:
    whole = problems.fitted(_Whole, root.plain(), root, ())
    steps = read_steps(root, problems)
    if whole is None:
        return None
    size = _size(whole.target.shard)
    if size is None:
        problems.add(
            root.find(("target", "shard"))[0].mark, "this is no size", path=("target", "shard"),
            got=shown(whole.target.shard), expected="a number of bytes, such as 5GB or 500MB; at least 1MB",
        )  # fmt: skip
        return None
    folder = str(file.parent)
    return SurgeryRecipe(
        path=str(file),
        source=placed(whole.source.model, folder),
        allow_pickle=whole.source.allow_pickle,
        models={name: placed(place, folder) for name, place in whole.models.items()},
        target=Path(placed(whole.target.dir, folder)),
        shard_bytes=size,
        seed=whole.target.seed,
        link=whole.target.link,
        allow_nfp=whole.allow == "nfp",
        steps=tuple(steps),
        verify_tokens=whole.verify.tokens,
        folder=folder,
        optimizer=None if whole.source.optimizer is None else placed(whole.source.optimizer, folder),
    )


def placed(place: str, folder: str) -> str:
    """A place as the recipe means it: relative paths begin where the recipe lies."""
    if "://" in place:
        return place
    return str(Path(folder, Path(place).expanduser()))


def _size(text: str) -> int | None:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?b?)", text.strip().lower())
    if found is None or found.group(2) not in _UNITS:
        return None
    size = int(float(found.group(1)) * _UNITS[found.group(2)])
    return size if size >= 10**6 else None


def read_steps(root: Node, problems: Problems) -> list[PlannedStep]:
    """The operators under the key `steps` of a mapping; what is wrong is added to the problems."""
    node = root.children.get("steps")
    if node is None or not isinstance(node.value, list):
        return []
    result = []
    for place, child in node.children.items():
        path = ("steps", place)
        name, value = _named(child, problems, path)
        if name is None:
            continue
        operator = BY_NAME.get(name)
        if operator is None:
            problems.add(
                child.mark, "there is no such operator", path=path, got=repr(name)[:80], expected=one_of(BY_NAME),
                fix=nearest(name, BY_NAME) or "pedigree surgery ops",
            )  # fmt: skip
            continue
        at = (*path, name) if isinstance(child.value, dict) else path
        parameters = problems.fitted(operator.parameters, value, root, at)
        if parameters is not None:
            result.append(PlannedStep(operator, parameters))
    return result


def _named(child: Node, problems: Problems, path: tuple[str | int, ...]) -> tuple[str | None, Any]:
    """The operator a step names, and its parameters as plain values."""
    if isinstance(child.value, str):
        return child.value, {}
    if isinstance(child.value, dict) and len(child.children) == 1:
        name, value = next(iter(child.children.items()))
        return str(name), value.plain() if value.value is not None else {}
    problems.add(child.mark, "a step is one operator with its parameters", path=path, got=shown(child.value),
                 expected="- operator: {parameter: value}")  # fmt: skip
    return None, None
