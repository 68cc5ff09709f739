"""The record of a benchmark: what `pedigree bench score --json` prints, and all that its page is drawn from.

Shares are between 0 and 1. `low` and `high` bound a number by 95 %: by resampling whole families, or exactly where it
says so. Row names, methods and splits are those of the benchmark that was run; partial runs are records too, and say
how much of the whole they saw.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, ValidationError

from pedigree.errors import MalformedFile
from pedigree.records.comparison import Producer, Record


class Interval(Record):
    """A number with its bounds; None where nothing was there to count."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


class FalseAlarms(Record):
    """Strangers called relatives. `upper_95` is exact for one-sided 95 % (3 / N where there are none), over pairs as if
    they were independent; `families` is the number of families behind them."""

    wrong: int = 0
    strangers: int = 0
    upper_95: float | None = None
    families: int = 0


class Found(Record):
    """Relatives found of those there are, in one row, at one distance, or in all."""

    found: int = 0
    of: int = 0


class RowScore(Record):
    """One row of the table: relatives of one transformation. `by_threshold`: above every stranger of the calibration
    split; `by_verdict`: by the method's own word, None where it has none."""

    row: str
    by_threshold: Found = Field(default_factory=Found)
    by_verdict: Found | None = None
    answered: int = 0


class DistanceScore(Record):
    """Relatives after some training, in units of the root's own training; identical files are not counted."""

    distance: float
    by_threshold: Found = Field(default_factory=Found)
    by_verdict: Found | None = None


class Directions(Record):
    """Ancestors told from descendants: right, wrong, and not said.

    The pairs asked are of descent, every one; a method that tells this question from that of a pair of which nothing is
    known answers both, and `directions_if_descent` counts the one. Of relatives of which neither descends from the
    other `siblings` were asked, and `siblings_told` got an arrow all the same.
    """

    right: int = 0
    wrong: int = 0
    silent: int = 0
    siblings: int = 0
    siblings_told: int = 0


class MergeScore(Record):
    """Weights of merges: `largest_error` over all parents, `largest_decoy` the largest weight of a model that took no
    part; `untold` merges got no weights."""

    merges: int = 0
    untold: int = 0
    largest_error: float | None = None
    mean_error: float | None = None
    largest_decoy: float | None = None


class TreeScore(Record):
    """Lines of a tree: `right` of those that are `there`, whatever their arrow, and `told` in all; arrows of lines that
    are right, and of any line against descent; lines that skip a model, join relatives or strangers without descent;
    ancestors drawn that are not there."""

    right: int = 0
    told: int = 0
    there: int = 0
    arrows_right: int = 0
    arrows_wrong: int = 0
    open: int = 0
    skipping: int = 0
    relatives: int = 0
    strangers: int = 0
    hidden_invented: int = 0


class MethodScore(Record):
    """One method on one split. `threshold` comes from the calibration split. `zero_false` are the relatives above every
    stranger of the split itself, the best a threshold could do. `curve` holds points (share of strangers, share of
    relatives). Seconds and bytes are means over pairs, memory the largest peak above what was held before."""

    name: str
    title: str
    source: str
    answers: int = 0
    unanswered: int = 0
    area: Interval = Field(default_factory=Interval)
    zero_false: Interval = Field(default_factory=Interval)
    zero_false_upper_95: float | None = None
    threshold: float | None = None
    by_threshold: Found = Field(default_factory=Found)
    threshold_alarms: FalseAlarms = Field(default_factory=FalseAlarms)
    by_verdict: Found | None = None
    verdict_alarms: FalseAlarms | None = None
    twins_called_relatives: Found | None = None
    rows: list[RowScore] = Field(default_factory=list)
    distances: list[DistanceScore] = Field(default_factory=list)
    layers: Found | None = None
    experts: Found | None = None
    transformations: Found | None = None
    directions: Directions | None = None
    directions_if_descent: Directions | None = None
    merges: MergeScore | None = None
    tree: TreeScore | None = None
    curve: list[list[float]] = Field(default_factory=list)
    missed: list[str] = Field(default_factory=list)
    false_alarms: list[str] = Field(default_factory=list)
    reasons: dict[str, int] = Field(default_factory=dict)
    seconds: float | None = None
    bytes: float | None = None
    memory: int | None = None


class Coverage(Record):
    """How much of the benchmark was there: models made and in all, questions asked and in all, families."""

    models_made: int = 0
    models: int = 0
    questions: int = 0
    questions_in_all: int = 0
    relatives: int = 0
    strangers: int = 0
    twins: int = 0
    families: int = 0
    calibration_strangers: int = 0


class BenchmarkResult(Record):
    """Scores of every method on the test split."""

    size: str
    split: Literal["calibration", "test"] = "test"
    coverage: Coverage = Field(default_factory=Coverage)
    methods: list[MethodScore] = Field(default_factory=list)
    skipped: dict[str, str] = Field(default_factory=dict)
    not_made: dict[str, str] = Field(default_factory=dict)


class BenchmarkStep(Record):
    """What `pedigree bench make` and `bench run` print: how much was asked for, how much is there now, what failed.

    `done` counts models for `make`, and answers made now for `run`, there by method in `answers`.
    """

    schema_name: Literal["pedigree/benchmark-step"] = Field(default="pedigree/benchmark-step", alias="schema")
    version: Literal[1] = 1
    producer: Producer = Field(default_factory=Producer)
    step: Literal["make", "run"]
    folder: str
    size: str
    asked: int = 0
    done: int = 0
    answers: dict[str, int] = Field(default_factory=dict)
    failures: dict[str, str] = Field(default_factory=dict)


class Benchmark(Record):
    """One benchmark, scored."""

    schema_name: Literal["pedigree/benchmark"] = Field(default="pedigree/benchmark", alias="schema")
    version: Literal[1] = 1
    producer: Producer = Field(default_factory=Producer)
    created: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    result: BenchmarkResult
    warnings: list[str] = Field(default_factory=list)

    @classmethod
    def from_json(cls, text: str | bytes, *, where: str = "benchmark record") -> Self:
        """Read a record back.

        Raises:
            MalformedFile: not JSON, or no record of a benchmark; names the first field that is wrong.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            path = ".".join(str(part) for part in first["loc"]) or "top level"
            raise MalformedFile(
                f"this is not the record of a benchmark: {first['msg'][0].lower()}{first['msg'][1:]}",
                where=f"{where}: {path}", got=repr(first.get("input"))[:120], fix="pedigree bench score FOLDER -o FILE",
            ) from error  # fmt: skip
