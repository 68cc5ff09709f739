"""Answers and truth become scores. Thresholds come from the calibration split; everything else is counted on test.

What a relative is: models that share trained weights, wholly or in part. Twins of one random start are neither
relatives nor strangers here; how often they are called relatives is told apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from pedigree.benchmark.exam import Exam
from pedigree.benchmark.families.foundry import read_failures
from pedigree.benchmark.families.questions import Question
from pedigree.benchmark.families.split import SplitScores
from pedigree.benchmark.methods.interface import Answer, Described, Method, TreeGrower, Unmerger
from pedigree.benchmark.methods.model import Model
from pedigree.benchmark.runs import Line, latest
from pedigree.benchmark.statistics import Scored, above_all, area, by_families, curve, numbers, upper_95
from pedigree.benchmark.tree_score import TreeTally, score_tree
from pedigree.records.benchmark import (
    Benchmark,
    BenchmarkResult,
    Coverage,
    Directions,
    DistanceScore,
    FalseAlarms,
    Found,
    MergeScore,
    MethodScore,
    RowScore,
    TreeScore,
)

RELATIVE, TWIN = "relative", "twin"
LISTED = 40
"""Missed pairs and false alarms that are listed by name."""

Asked = tuple[Question, Line]


def score(folder: Path, exam: Exam, methods: Sequence[Method], options: Mapping[str, object]) -> Benchmark:
    """Scores of methods on what they answered.

    Args:
        folder: of the benchmark.
        exam: its questions.
        methods: whose answers are read.
        options: what was asked for, kept in the record.
    """
    skipped = {method.name: why for method in methods if (why := method.missing())}
    scored = []
    for method in methods:
        lines = latest(folder, method.name, exam.tasks)
        if lines:
            scored.append(score_method(method, exam, lines))
            if any(line.flagged is not None for line in lines.values()):
                scored.append(score_screen(method, exam, lines))
        else:
            skipped.setdefault(method.name, "nothing was asked of it yet")
    made, in_all = exam.models()
    result = BenchmarkResult(
        size=exam.size, coverage=_coverage(exam, made, in_all), methods=scored, skipped=skipped,
        not_made=dict(read_failures(folder)),
    )  # fmt: skip
    warnings = []
    if made < in_all:
        warnings.append(f"{made} of {in_all} models were made: scores are over the {len(exam.pairs)} pairs among them")
    most = sum(question.split == "test" for question in exam.asked.values())
    warnings += [
        f"{method.name} has answered {method.answers} of {most} questions of the test split: a sample, not the whole"
        for method in scored
        if method.answers < most
    ]
    created = datetime.now(UTC).replace(microsecond=0).isoformat().replace("+00:00", "Z")
    return Benchmark(created=created, options=dict(options), result=result, warnings=warnings)


def _coverage(exam: Exam, made: int, in_all: int) -> Coverage:
    test = [question.known for question in exam.asked.values() if question.split == "test"]
    calibration = [question.known for question in exam.asked.values() if question.split == "calibration"]
    return Coverage(
        models_made=made, models=in_all, questions=len(exam.asked), questions_in_all=exam.total,
        relatives=sum(known.is_relative for known in test), strangers=sum(known.is_stranger for known in test),
        twins=sum(known.pair.relation == "shared-initialization" for known in test),
        families=len({name for known in test for name in known.families}),
        calibration_strangers=sum(known.is_stranger for known in calibration),
    )  # fmt: skip


def score_method(method: Method, exam: Exam, lines: dict[str, Line]) -> MethodScore:
    """All scores of one method."""
    asked = [(exam.asked[task.address], lines[task.address]) for task in exam.pairs if task.address in lines]
    calibration = [(q, line) for q, line in asked if q.split == "calibration"]
    test = [(q, line) for q, line in asked if q.split == "test"]
    relatives, strangers = _relatives(test), _strangers(test)
    threshold = _threshold(calibration)
    p, n = numbers([line.score for _, line in relatives]), numbers([line.score for _, line in strangers])
    both = len(p) > 0 and len(n) > 0
    near, far = _scored(relatives), _scored(strangers)
    speaks = any(line.verdict is not None for _, line in test)
    twins = [(q, line) for q, line in test if q.known.pair.relation == "shared-initialization"]
    return MethodScore(
        name=method.name, title=method.title, source=method.source, answers=len(test),
        unanswered=sum(line.score is None for _, line in test),
        area=by_families(near, far, area),
        zero_false=by_families(near, far, above_all),
        zero_false_upper_95=upper_95(0, len(strangers)),
        threshold=threshold,
        by_threshold=_found(relatives, _above(threshold)),
        threshold_alarms=_alarms(strangers, _above(threshold)),
        by_verdict=_found(relatives, _is_called) if speaks else None,
        verdict_alarms=_alarms(strangers, _is_called) if speaks else None,
        twins_called_relatives=_found(twins, _is_called if speaks else _above(threshold)) if twins else None,
        rows=_rows(relatives, threshold, speaks), distances=_distances(relatives, threshold, speaks),
        layers=_layers(relatives), experts=_experts(relatives), transformations=_transformations(relatives),
        directions=_directions(relatives, lambda line: line.direction),
        directions_if_descent=_directions(relatives, lambda line: line.if_descent),
        merges=_merges(method, exam, lines), tree=_tree(method, exam, lines),
        curve=curve(p, n) if both else [],
        missed=_names(relatives, lambda line: not _positive(line, threshold, speaks)),
        false_alarms=_names(strangers, lambda line: _positive(line, threshold, speaks)),
        reasons=dict(Counter(line.why_not for _, line in test if line.score is None).most_common(6)),
        **_costs(test),
    )  # fmt: skip


def score_screen(method: Method, exam: Exam, lines: Mapping[str, Line]) -> MethodScore:
    """The same answers at the other operating point, a line of its own: pairs that deserve a closer look."""
    name, title = f"{method.name}:screen", f"{method.title}, worth a closer look"
    bare = {
        address: replace(
            line,
            verdict=RELATIVE if line.flagged else "stranger",
            direction=None,
            layer_map=None,
            experts=None,
            says=(),
        )
        for address, line in lines.items()
        if line.kind == "pair"
    }
    return score_method(_Screen(name, title, "the screen of the same answers"), exam, bare)


@dataclass(frozen=True)
class _Screen(Described):
    """A method that was asked already."""

    def ask(self, a: Model, b: Model) -> Answer:
        """Nothing is asked of it."""
        return Answer(None, why_not="read from the answers of another method")


def _relatives(asked: Iterable[Asked]) -> list[Asked]:
    return [(q, line) for q, line in asked if q.known.is_relative]


def _strangers(asked: Iterable[Asked]) -> list[Asked]:
    return [(q, line) for q, line in asked if q.known.is_stranger]


def _scored(asked: Sequence[Asked]) -> Scored:
    return Scored([line.score for _, line in asked], [q.known.families for q, _ in asked])


def _threshold(calibration: Sequence[Asked]) -> float | None:
    scores = tuple(line.score for _, line in _strangers(calibration) if line.score is not None)
    return SplitScores("calibration", scores).threshold() if scores else None


def _above(threshold: float | None) -> Callable[[Line], bool] | None:
    """The rule of a threshold; None where no stranger of the calibration split was scored."""
    if threshold is None:
        return None
    return lambda line: line.score is not None and line.score > threshold


def _is_called(line: Line) -> bool:
    return line.verdict == RELATIVE


def _positive(line: Line, threshold: float | None, speaks: bool) -> bool:
    rule = _is_called if speaks else _above(threshold)
    return rule is not None and rule(line)


def _found(asked: Sequence[Asked], rule: Callable[[Line], bool] | None) -> Found:
    """How many a rule finds; nothing is counted where there is no rule."""
    if rule is None:
        return Found()
    return Found(found=sum(rule(line) for _, line in asked), of=len(asked))


def _alarms(strangers: Sequence[Asked], rule: Callable[[Line], bool] | None) -> FalseAlarms:
    if rule is None:
        return FalseAlarms()
    wrong = sum(rule(line) for _, line in strangers)
    families = {name for q, _ in strangers for name in q.known.families}
    return FalseAlarms(
        wrong=wrong, strangers=len(strangers), upper_95=upper_95(wrong, len(strangers)), families=len(families)
    )


def _names(asked: Sequence[Asked], rule: Callable[[Line], bool]) -> list[str]:
    return [f"{q.a} | {q.b}" for q, line in asked if rule(line)][:LISTED]


def _rows(relatives: Sequence[Asked], threshold: float | None, speaks: bool) -> list[RowScore]:
    names = list(dict.fromkeys(q.known.row for q, _ in relatives))
    found = []
    for name in names:
        asked = [(q, line) for q, line in relatives if q.known.row == name]
        found.append(
            RowScore(
                row=name, by_threshold=_found(asked, _above(threshold)),
                by_verdict=_found(asked, _is_called) if speaks else None,
                answered=sum(line.score is not None for _, line in asked),
            )
        )  # fmt: skip
    return found


def _distances(relatives: Sequence[Asked], threshold: float | None, speaks: bool) -> list[DistanceScore]:
    """Only rungs of the ladder: every distance then holds the same kinds of derivatives."""
    rungs = [(q, line) for q, line in relatives if ":" not in q.known.row and q.known.row != "siblings"]
    found = []
    for distance in sorted({q.known.distance for q, _ in rungs}):
        asked = [(q, line) for q, line in rungs if q.known.distance == distance]
        found.append(
            DistanceScore(
                distance=distance, by_threshold=_found(asked, _above(threshold)),
                by_verdict=_found(asked, _is_called) if speaks else None,
            )
        )  # fmt: skip
    return found


def _layers(relatives: Sequence[Asked]) -> Found | None:
    """Layers of B placed rightly; a map that is not told counts as wrong, once the method tells any."""
    if all(line.layer_map is None for _, line in relatives):
        return None
    right = of = 0
    for q, line in relatives:
        truth = q.known.pair.layer_map
        of += len(truth)
        right += sum(x == y for x, y in zip(line.layer_map or (), truth, strict=False) if line.layer_map)
    return Found(found=right, of=of)


def _experts(relatives: Sequence[Asked]) -> Found | None:
    """Experts of B traced to the layer of A that they come from."""
    asked = [(q, line) for q, line in relatives if q.known.experts]
    if not asked or all(line.experts is None for _, line in asked):
        return None
    right = of = 0
    for q, line in asked:
        rows = {(layer, expert): source for layer, expert, source in line.experts or ()}
        count = 1 + max((expert for _, expert in rows), default=3)
        for layer, source in enumerate(q.known.pair.layer_map):
            of += count
            right += sum(rows.get((layer, expert)) == source for expert in range(count))
    return Found(found=right, of=of)


def _transformations(relatives: Sequence[Asked]) -> Found | None:
    """Pairs, seen from the ancestor, of which one of the transformations that were made is named."""
    asked = [(q, line) for q, line in relatives if q.known.says and q.known.pair.direction == "a-to-b"]
    if not any(line.says for _, line in asked):
        return None
    return Found(found=sum(bool(set(q.known.says) & set(line.says)) for q, line in asked), of=len(asked))


def _directions(relatives: Sequence[Asked], way: Callable[[Line], float | None]) -> Directions | None:
    asked = [(q, line) for q, line in relatives if q.known.pair.direction != "undetermined"]
    if all(way(line) is None for _, line in asked):
        return None
    told = [(q.known.pair.direction == "a-to-b", way(line)) for q, line in asked]
    right = sum(d is not None and d != 0 and (d > 0) == truth for truth, d in told)
    silent = sum(d is None or d == 0 for _, d in told)
    beside = [way(line) for q, line in relatives if q.known.pair.direction == "undetermined"]
    return Directions(
        right=right, wrong=len(told) - right - silent, silent=silent,
        siblings=len(beside), siblings_told=sum(bool(d) for d in beside),
    )  # fmt: skip


def _merges(method: Method, exam: Exam, lines: dict[str, Line]) -> MergeScore | None:
    asked = [(m, lines[m.task.address]) for m in exam.merges if m.task.address in lines and m.task.split == "test"]
    if not isinstance(method, Unmerger) or not asked:
        return None
    errors: list[float] = []
    decoys: list[float] = []
    for merge, line in asked:
        for weight, truth in zip(line.values or (), merge.weights, strict=False):
            (errors if truth else decoys).append(abs(weight - truth))
    return MergeScore(
        merges=len(asked), untold=sum(line.values is None for _, line in asked),
        largest_error=round(max(errors), 4) if errors else None,
        mean_error=round(sum(errors) / len(errors), 4) if errors else None,
        largest_decoy=round(max(decoys), 4) if decoys else None,
    )  # fmt: skip


def _tree(method: Method, exam: Exam, lines: dict[str, Line]) -> TreeScore | None:
    asked = [(t, lines[t.task.address]) for t in exam.trees if t.task.address in lines and t.task.split == "test"]
    if not isinstance(method, TreeGrower) or not asked:
        return None
    total = TreeTally()
    told = 0
    for one, line in asked:
        drawn = [(str(edge[0]), str(edge[1]), len(edge) < 3 or bool(edge[2])) for edge in line.values or ()]
        shown = [str(k) for k in range(len(one.task.models))]
        parents = {name: [str(p) for p, c in one.edges if str(c) == name] for name in shown}
        total, told = total + score_tree(drawn, parents, shown, {}), told + len(drawn)
    return TreeScore(
        right=total.right, told=told, there=total.lines, arrows_right=total.arrows_right,
        arrows_wrong=total.arrows_wrong + total.arrows_false, open=total.open, skipping=total.skipping,
        relatives=total.relatives, strangers=total.strangers, hidden_invented=total.hidden_invented,
    )  # fmt: skip


def _costs(test: Sequence[Asked]) -> dict[str, float | int | None]:
    if not test:
        return {}
    read = [line.bytes for _, line in test if line.bytes is not None]
    peaks = [line.memory for _, line in test if line.memory is not None]
    return {
        "seconds": round(sum(line.seconds for _, line in test) / len(test), 4),
        "bytes": round(sum(read) / len(read)) if read else None,
        "memory": max(peaks) if peaks else None,
    }
