"""`pedigree eval DIR`: bits per byte by domain, sums that are right, tasks of lm-evaluation-harness."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pedigree.cli.errors import DONE
from pedigree.cli.files import check_free, write_file
from pedigree.cli.options import COMPUTE, DANGEROUS, INPUT, OUTPUT, ForceOption, JsonOption, QuietOption, check_word
from pedigree.cli.output import Output
from pedigree.cli.speaking import DeviceOption, DomainOption, ModelArgument
from pedigree.cli.version import producer
from pedigree.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pedigree.cli.output import Progress
    from pedigree.records.artifact import Artifact
    from pedigree.records.evaluation import Evaluated, Evaluation, EvaluationInputs, EvaluationResult
    from pedigree.training.config import SourceConfig

CORPORA = {"code": "python-stdlib", "sums": "arithmetic"}
_KINDS = {".jsonl": "jsonl", ".parquet": "parquet"}

TextOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[DOMAIN=]PATH", help="Held-out text: a file (text, JSONL, Parquet) or a folder; may be given again.",
        envvar="PEDIGREE_TEXT", rich_help_panel=INPUT, show_default=False,
    ),
]  # fmt: skip
CorpusOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME", help="A built-in corpus: code, sums; both when no text is named.", envvar="PEDIGREE_CORPUS",
        rich_help_panel=INPUT, show_default=False,
    ),
]  # fmt: skip
TasksOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME", help="A task of lm-evaluation-harness; may be given again.", envvar="PEDIGREE_TASKS",
        rich_help_panel=INPUT, show_default=False,
    ),
]  # fmt: skip
ArithmeticOption = Annotated[
    int,
    typer.Option(
        metavar="N", min=0, help="Sums whose answers are checked.", envvar="PEDIGREE_ARITHMETIC", rich_help_panel=INPUT
    ),
]
TokensOption = Annotated[
    int,
    typer.Option(
        metavar="N", min=1, help="Tokens of each domain that are read.", envvar="PEDIGREE_EVAL_TOKENS",
        rich_help_panel=COMPUTE,
    ),
]  # fmt: skip
SequenceOption = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=2, help="Tokens of a window; by default what the model allows, up to 1024.",
        envvar="PEDIGREE_SEQUENCE", rich_help_panel=COMPUTE, show_default=False,
    ),
]  # fmt: skip
LimitOption = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=1, help="Documents of each task; all by default.", envvar="PEDIGREE_LIMIT",
        rich_help_panel=COMPUTE, show_default=False,
    ),
]  # fmt: skip
TimeoutOption = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS", min=1, help="Time that all the tasks may take; any by default.",
        envvar="PEDIGREE_TASK_TIMEOUT", rich_help_panel=COMPUTE, show_default=False,
    ),
]  # fmt: skip
RecordOption = Annotated[
    Path | None,
    typer.Option(
        "--out", "--output", "-o", metavar="FILE", help="Write the record there as well.",
        envvar="PEDIGREE_OUT", rich_help_panel=OUTPUT, show_default=False,
    ),
]  # fmt: skip
TaskFolderOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Tasks as YAML; they may run Python: use your own only.", envvar="PEDIGREE_TASK_FOLDER",
        rich_help_panel=DANGEROUS, show_default=False,
    ),
]  # fmt: skip
TaskNetworkOption = Annotated[
    bool,
    typer.Option(
        "--task-network", help="Let tasks fetch their data.", envvar="PEDIGREE_TASK_NETWORK",
        rich_help_panel=DANGEROUS,
    ),
]  # fmt: skip


def eval(
    model: ModelArgument,
    text: TextOption = None,
    corpus: CorpusOption = None,
    arithmetic: ArithmeticOption = 200,
    tasks: TasksOption = None,
    domain: DomainOption = 0,
    output: RecordOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    max_tokens: TokensOption = 20_000,
    sequence: SequenceOption = None,
    limit: LimitOption = None,
    task_timeout: TimeoutOption = None,
    device: DeviceOption = None,
    task_folder: TaskFolderOption = None,
    task_network: TaskNetworkOption = False,
    force: ForceOption = False,
) -> int:
    """Measure what a model can do; the numbers name the artifact they belong to.

    [bold]Examples[/bold]

    pedigree eval runs/quickstart/quickstart/model

    pedigree eval path/to/model --text news=news.jsonl --text poems/ --json

    pedigree eval path/to/model --tasks hellaswag --task-network --limit 100
    """
    from pedigree.training.examination import Examination, examine
    from pedigree.training.harness import check_harness, run_harness
    from pedigree.weights.artifact import read_artifact

    out = Output(json=json, quiet=quiet)
    if output is not None:
        check_free(output, force=force)
    sources = sources_of(text or [], corpus or [])
    if tasks:
        check_harness(task_folder)
    begin = time.monotonic()
    status = out.progress()
    if status is not None:
        status("measuring", 0.0, str(model))
    try:
        found = examine(model, Examination(sources, max_tokens, arithmetic, sequence, domain=domain), device)
        said: dict[str, dict[str, Any]] = {}
        if tasks:
            said = run_harness(
                model, tasks, task_folder=task_folder, limit=limit, device=device, network=task_network,
                timeout=task_timeout, beat=_beat(status),
            )  # fmt: skip
        artifact = read_artifact(model)
    finally:
        out.clear_status()
    from pedigree.records.evaluation import EvaluationInputs, EvaluationResult

    settings = {
        "max_tokens": max_tokens, "sequence_length": found.sequence_length, "arithmetic": arithmetic, "domain": domain,
        "tasks": tasks or [], "limit": limit,
    }  # fmt: skip
    record = evaluation_record(
        EvaluationInputs(artifact=evaluated(artifact), texts=found.texts, settings=settings),
        EvaluationResult(
            scores=found.scores, arithmetic=found.arithmetic, tasks=said, seconds=time.monotonic() - begin
        ),
    )  # fmt: skip
    if output is not None:
        out.note(write_file(output, record.to_json() + "\n", force=force))
    if out.mode == "json":
        out.result(record.to_json())
    else:
        _show(record.result, record.inputs.artifact.id, out)
    return DONE


def _beat(status: Progress | None) -> Callable[[float, str], None] | None:
    """What keeps the status line while the harness works."""
    if status is None:
        return None

    def show(seconds: float, line: str) -> None:
        status("tasks", 0.5, f"{seconds:.0f} s  {line[:80]}")

    return show


def sources_of(texts: list[str], corpora: list[str]) -> tuple[SourceConfig, ...]:
    """The corpora that the options name.

    Raises:
        UsageError: a word that names none.
    """
    from pedigree.training.config import SourceConfig
    from pedigree.training.examination import BUILT_IN_DOCUMENTS, BUILT_IN_SHARE

    found: list[SourceConfig] = []
    for word in texts:
        name, equals, place = word.partition("=")
        path = Path(place if equals else word)
        if (equals and not name) or not str(path):
            raise UsageError("this names no text", where="--text", got=repr(word), expected="[DOMAIN=]PATH")
        kind: Any = _KINDS.get(path.suffix.lower(), "text")
        if path.is_dir() and not any(path.rglob("*.txt")) and any(path.rglob("*.jsonl")):
            kind = "jsonl"
        found.append(SourceConfig(kind=kind, path=str(path), domain=name if equals else path.stem or str(path)))
    words = [check_word(word, CORPORA, option="--corpus") for word in corpora]
    for word in words or ([] if texts else CORPORA):
        built_in: Any = CORPORA[word]
        found.append(
            SourceConfig(kind=built_in, domain=word, held_out=BUILT_IN_SHARE, max_documents=BUILT_IN_DOCUMENTS)
        )
    return tuple(found)


def evaluated(artifact: Artifact) -> Evaluated:
    """An artifact as a record of an evaluation names it."""
    from pedigree.records.evaluation import Evaluated

    return Evaluated(id=artifact.id, location=artifact.location, bytes=artifact.bytes)


def evaluation_record(inputs: EvaluationInputs, result: EvaluationResult, command: str = "eval") -> Evaluation:
    """The record, with what it cannot know said in it."""
    from pedigree.records.evaluation import Evaluation

    unknown = "whether the model was trained on these texts is not known" if command == "eval" else None
    return Evaluation(
        command=command, producer=producer(), inputs=inputs,
        result=result, warnings=[unknown] if unknown else [],
    )  # fmt: skip


def _show(result: EvaluationResult, artifact: str, out: Output) -> None:
    """The numbers in a few lines."""
    for score in result.scores:
        out.result(f"{score.domain:<12} {score.bits_per_byte:.3f} bits per byte ({score.n_bytes:,} bytes)")
    for name, share in result.arithmetic.items():
        out.result(f"{'sums ' + name:<12} {100 * share:.0f} % right")
    for task, metrics in result.tasks.items():
        told = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items() if isinstance(value, float))
        out.result(f"{task:<12} {told}")
    out.note(f"measured on {artifact}")
