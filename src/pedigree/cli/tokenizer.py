"""`pedigree tokenizer ...`: train, audit, compare, extend and concatenate tokenizers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pedigree.cli.errors import CANNOT_SAY, DONE, SAYS_NO
from pedigree.cli.files import check_free, write_file
from pedigree.cli.options import COMPUTE, INPUT, OUTPUT, ColorOption, ForceOption, JsonOption, QuietOption, check_word
from pedigree.cli.output import Line, Output
from pedigree.cli.recording import UnrecordedOption, record_tokenizer
from pedigree.cli.version import producer
from pedigree.errors import MissingInput, OutputExists, UsageError

if TYPE_CHECKING:
    from pedigree.records.comparison import Record
    from pedigree.tokenizers.encoder import Encoder
    from pedigree.tokenizers.texts import Text

# Repeated from pedigree.tokenizers.training, whose import would slow every start; a test holds them together.
KIND_WORDS = ("byte-level", "byte-fallback", "unigram", "one-character")
FINDINGS = ("unreachable", "lost-text", "glitch")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
CONFLICTS = "conflicts.json"
TOKENIZER = "a directory, tokenizer.json, sentencepiece .model, tiktoken file or .gguf"

FilesArgument = Annotated[
    list[str], typer.Argument(metavar="[NAME=]FILE", help="Texts: plain text or JSONL.", show_default=False)
]
OutOption = Annotated[
    Path,
    typer.Option(
        "--out", "--output", "-o", metavar="DIR", help="Directory for tokenizer.json and its companions.",
        envvar="PEDIGREE_OUT", rich_help_panel=OUTPUT, show_default=False,
    ),
]  # fmt: skip
TextOption = Annotated[
    list[str] | None,
    typer.Option(
        "--text", metavar="[NAME=]FILE", help="A text to measure on, named language/domain; may be given again.",
        envvar="PEDIGREE_TEXT", rich_help_panel=INPUT, show_default=False,
    ),
]  # fmt: skip
NtrexOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="NTREX-128: the same sentences in many languages.", envvar="PEDIGREE_NTREX",
        rich_help_panel=INPUT, show_default=False,
    ),
]  # fmt: skip
PatternOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="How words are cut, where the file does not say: gpt2, llama3, qwen2, deepseek-llm.",
        envvar="PEDIGREE_PATTERN", rich_help_panel=INPUT, show_default=False,
    ),
]  # fmt: skip
SpecialOption = Annotated[
    list[str] | None,
    typer.Option(
        "--special", metavar="TOKEN", help="A control token; may be given again.", envvar="PEDIGREE_SPECIAL",
        rich_help_panel=INPUT, show_default=False,
    ),
]  # fmt: skip


def train(
    files: FilesArgument,
    out: OutOption,
    kind: Annotated[
        str,
        typer.Option(
            metavar="KIND", help=", ".join(KIND_WORDS) + ".", envvar="PEDIGREE_KIND", rich_help_panel=COMPUTE
        ),
    ] = "byte-level",
    size: Annotated[
        int,
        typer.Option(
            metavar="N", help="Tokens in all.", envvar="PEDIGREE_SIZE", rich_help_panel=COMPUTE, min=1, max=1 << 20
        ),
    ] = 8192,
    pattern: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="How words are cut: gpt2, llama3, qwen2, deepseek-llm.", envvar="PEDIGREE_PATTERN",
            rich_help_panel=COMPUTE,
        ),
    ] = "llama3",
    special: SpecialOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    color: ColorOption = None,
    force: ForceOption = False,
    unrecorded: UnrecordedOption = False,
) -> int:  # fmt: skip
    """Train a tokenizer on texts; the same texts give the same bytes.

    [bold]Examples[/bold]

    pedigree tokenizer train english.txt chinese.txt --size 4096 --out my-tokenizer

    pedigree tokenizer train chinese.txt --kind one-character --size 6000 --out single
    """
    talk = Output(json=json, quiet=quiet, color=color)
    check_word(kind, KIND_WORDS, option="--kind")
    check_folder(out, TOKENIZER_FILES, force=force)
    from pedigree.cli.tokenizer_answers import training_lines
    from pedigree.records.tokenizer import TokenizerTraining
    from pedigree.tokenizers.audit import compression_records, text_input, tokenizer_input
    from pedigree.tokenizers.compression import measure
    from pedigree.tokenizers.training import END, TrainingOptions
    from pedigree.tokenizers.training import train as train_tokenizer

    texts = read_texts(files, None)
    wanted: Any = check_word(kind, KIND_WORDS, option="--kind")
    options = TrainingOptions(kind=wanted, size=size, pattern=pattern, specials=tuple(special or (END,)))
    progress = talk.progress()
    encoder = train_tokenizer(texts, options, name=out.name, progress=progress)
    measured = measure(encoder, texts, progress)
    written = write_tokenizer(encoder, out, talk, force=force)
    record = TokenizerTraining(
        producer=producer(),
        tokenizer=tokenizer_input(encoder).model_copy(update={"location": str(out / "tokenizer.json")}),
        texts=[text_input(text) for text in texts],
        options={"kind": wanted, "size": size, "pattern": pattern, "specials": list(options.specials)},
        compression=compression_records(measured),
        files=written,
        warnings=_size_warnings(encoder, size),
    )
    told = {"operation": "tokenizer", "inputs": text_inputs(files), "parameters": record.options}
    record_tokenizer(out, told, talk.warn, unrecorded=unrecorded)
    return answer(record, talk, training_lines, str(out / "tokenizer.json"), record.warnings)


def _size_warnings(encoder: Encoder, size: int) -> list[str]:
    if encoder.size >= size:
        return []
    return [f"the texts give {encoder.size:,} tokens only, {size:,} were asked for"]


def audit(
    tokenizer: Annotated[
        str, typer.Argument(metavar="TOKENIZER", help=f"What is audited: {TOKENIZER}.", show_default=False)
    ],
    text: TextOption = None,
    ntrex: NtrexOption = None,
    pattern: PatternOption = None,
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WORD", help=f"Exit with 1 on this finding; may be given again: {', '.join(FINDINGS)}.",
            envvar="PEDIGREE_AUDIT_FAIL_ON", rich_help_panel=OUTPUT, show_default=False,
        ),
    ] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    color: ColorOption = None,
) -> int:  # fmt: skip
    """Audit a tokenizer: cost by language and domain, tokens of no use, texts that do not come back.

    [bold]Examples[/bold]

    pedigree tokenizer audit path/to/tokenizer --text zho/poetry=poetry.txt

    pedigree tokenizer audit tokenizer.model --ntrex path/to/ntrex128 --json

    pedigree tokenizer audit path/to/tokenizer --fail-on unreachable --fail-on lost-text
    """
    talk = Output(json=json, quiet=quiet, color=color)
    words = [check_word(word, FINDINGS, option="--fail-on") for word in fail_on or ()]
    from pedigree.cli.tokenizer_answers import audit_lines
    from pedigree.tokenizers.audit import audit as audit_tokenizer
    from pedigree.tokenizers.reading import open_encoder

    texts = read_texts(text or (), ntrex)
    record = audit_tokenizer(
        open_encoder(tokenizer, pattern=pattern), texts, progress=talk.progress(), producer=producer()
    )
    answer(record, talk, audit_lines, "; ".join(record.result.verdict), record.warnings)
    found = {
        "unreachable": record.result.unreachable.count,
        "lost-text": len(record.result.round_trip_losses) + record.result.corpus_losses,
        "glitch": record.result.glitch.count,
    }
    return SAYS_NO if any(found[word] for word in words) else DONE


def compare(
    tokenizers: Annotated[
        list[str], typer.Argument(metavar="TOKENIZER", help=f"Two or more: {TOKENIZER}.", show_default=False)
    ],
    text: TextOption = None,
    ntrex: NtrexOption = None,
    margin: Annotated[
        float,
        typer.Option(
            metavar="SHARE", help="Differences up to this share count as none.", envvar="PEDIGREE_MARGIN",
            rich_help_panel=COMPUTE,
        ),
    ] = 0.02,
    draws: Annotated[
        int,
        typer.Option(metavar="N", help="Bootstrap draws.", envvar="PEDIGREE_DRAWS", rich_help_panel=COMPUTE),
    ] = 1000,
    seed: Annotated[
        int,
        typer.Option(metavar="N", min=0, help="Seed of the draws.", envvar="PEDIGREE_SEED", rich_help_panel=COMPUTE),
    ] = 0,
    pattern: PatternOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    color: ColorOption = None,
) -> int:  # fmt: skip
    """Compare what the same texts cost under two or more tokenizers, with intervals.

    [bold]Examples[/bold]

    pedigree tokenizer compare first second --text english.txt

    pedigree tokenizer compare first second third --ntrex path/to/ntrex128 --margin 0.05 --json
    """
    talk = Output(json=json, quiet=quiet, color=color)
    from pedigree.cli.tokenizer_answers import comparison_lines
    from pedigree.tokenizers.comparison import compare_tokenizers
    from pedigree.tokenizers.reading import open_encoder

    texts = read_texts(text or (), ntrex)
    encoders = [open_encoder(place, pattern=pattern) for place in tokenizers]
    record = compare_tokenizers(
        encoders, texts, margin=margin, draws=draws, seed=seed, progress=talk.progress(), producer=producer()
    )
    code = CANNOT_SAY if any(ratio.verdict == "cannot say" for ratio in record.result.overall) else DONE
    return answer(record, talk, comparison_lines, "\n".join(record.result.verdict), record.warnings) or code


def extend(
    base: Annotated[str, typer.Argument(metavar="BASE", help=f"What is grown: {TOKENIZER}.", show_default=False)],
    out: OutOption,
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME=]FILE", help="Texts to learn from (text, JSONL).", show_default=False),
    ] = None,
    add: Annotated[
        int,
        typer.Option(
            metavar="N", help="Tokens to learn from the texts.", envvar="PEDIGREE_ADD", rich_help_panel=COMPUTE, min=0,
            max=1 << 20,
        ),
    ] = 0,
    token: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT", help="A whole token, with the space before it; may be given again.",
            envvar="PEDIGREE_TOKEN", rich_help_panel=INPUT, show_default=False,
        ),
    ] = None,
    special: SpecialOption = None,
    text: TextOption = None,
    ntrex: NtrexOption = None,
    pattern: PatternOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    color: ColorOption = None,
    force: ForceOption = False,
    unrecorded: UnrecordedOption = False,
) -> int:  # fmt: skip
    """Grow a vocabulary at its end: learn merges on new text, or add tokens; old numbers and merges stand.

    [bold]Examples[/bold]

    pedigree tokenizer extend first chinese.txt --add 500 --text english.txt --out grown

    pedigree tokenizer extend first --token " Pedigree" --special "<|tool|>" --out grown
    """
    talk = Output(json=json, quiet=quiet, color=color)
    check_folder(out, TOKENIZER_FILES, force=force)
    from pedigree.cli.tokenizer_answers import extension_lines
    from pedigree.tokenizers.extension import ExtensionOptions
    from pedigree.tokenizers.extension import extend as extend_tokenizer
    from pedigree.tokenizers.extension_report import extension_record
    from pedigree.tokenizers.reading import open_encoder
    from pedigree.tokenizers.texts import distinct_names

    learned_from = read_texts(files or (), None)
    measured_on = distinct_names([*learned_from, *read_texts(text or (), ntrex)])
    options = ExtensionOptions(add=add, tokens=tuple(token or ()), specials=tuple(special or ()))
    old = open_encoder(base, pattern=pattern)
    progress = talk.progress()
    grown = extend_tokenizer(old, learned_from, options, name=out.name, progress=progress)
    record = extension_record(old, grown, measured_on, options, progress=progress, producer=producer())
    written = write_tokenizer(grown.encoder, out, talk, force=force, parent=old.location)
    new = record.tokenizer.model_copy(update={"location": written[0]})
    inputs = [{"path": base, "role": "init"}, *text_inputs(files or ())]
    told = {"operation": "tokenizer-extend", "inputs": inputs, "parameters": asdict(options)}
    record_tokenizer(out, told, talk.warn, unrecorded=unrecorded)
    warnings = _fewer_warnings(record.result.added, add + len(options.tokens) + len(options.specials))
    record = record.model_copy(update={"tokenizer": new, "files": written, "warnings": warnings})
    return answer(record, talk, extension_lines, written[0], warnings)


def _fewer_warnings(added: int, wanted: int) -> list[str]:
    return [f"the texts give {added:,} new tokens only, {wanted:,} were asked for"] if added < wanted else []


def concat(
    a: Annotated[str, typer.Argument(metavar="A", help=f"Kept as it stands: {TOKENIZER}.", show_default=False)],
    b: Annotated[str, typer.Argument(metavar="B", help="Its tokens that A lacks go behind.", show_default=False)],
    out: OutOption,
    pattern: PatternOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    color: ColorOption = None,
    force: ForceOption = False,
    unrecorded: UnrecordedOption = False,
) -> int:
    """Put two vocabularies into one, and list every conflict between them.

    [bold]Examples[/bold]

    pedigree tokenizer concat first second --out both

    pedigree tokenizer concat path/to/llama path/to/qwen --out both --json
    """
    talk = Output(json=json, quiet=quiet, color=color)
    check_folder(out, (*TOKENIZER_FILES, CONFLICTS), force=force)
    from pedigree.cli.tokenizer_answers import concatenation_lines
    from pedigree.tokenizers.concatenation import concatenate
    from pedigree.tokenizers.conflicts import concatenation_records
    from pedigree.tokenizers.reading import open_encoder

    first, second = (open_encoder(place, pattern=pattern) for place in (a, b))
    progress = talk.progress()
    if progress is not None:
        progress("joining", 0.0, f"{first.name} and {second.name}")
    joined = concatenate(first, second, name=out.name)
    if progress is not None:
        progress("looking for conflicts", 0.3, f"{joined.encoder.size:,} tokens")
    record, conflicts = concatenation_records(first, second, joined, producer())
    more = {CONFLICTS: conflicts.to_json(indent=None) + "\n"}
    written = write_tokenizer(joined.encoder, out, talk, force=force, parent=first.location, more=more)
    new = record.tokenizer.model_copy(update={"location": written[0]})
    record = record.model_copy(update={"tokenizer": new, "files": written})
    inputs = [{"path": a, "role": "init"}, {"path": b, "role": "merge-input"}]
    record_tokenizer(out, {"operation": "tokenizer-concat", "inputs": inputs}, talk.warn, unrecorded=unrecorded)
    return answer(record, talk, concatenation_lines, written[0], record.warnings)


def text_inputs(named: Sequence[str]) -> list[dict[str, str]]:
    """The files of `[NAME=]FILE` words, as a recorder takes them."""
    paths = [word if Path(word).exists() else word.partition("=")[2] for word in named]
    return [{"path": path, "role": "dataset"} for path in paths]


def read_texts(named: Sequence[str], ntrex: Path | None) -> list[Text]:
    """The texts of `[NAME=]FILE` words and of a folder of parallel sentences."""
    from pedigree.tokenizers.texts import distinct_names, read_parallel, read_text

    texts = [] if ntrex is None else read_parallel(ntrex)
    for word in named:
        name, mark, path = word.partition("=")
        texts.append(read_text(path, name) if mark and name and not Path(word).exists() else read_text(word))
    return distinct_names(texts)


def answer(
    record: Record, talk: Output, lines: Callable[[Any], list[Line]], short: str, warnings: Sequence[str]
) -> int:
    """Print a record in the mode that was asked for."""
    talk.clear_status()
    if talk.mode == "json":
        talk.result(record.to_json())
    elif talk.mode == "quiet":
        talk.result(short)
    else:
        talk.lines(lines(record))
    for warning in warnings:
        talk.warn(warning)
    return DONE


def check_folder(folder: Path, names: Sequence[str], *, force: bool) -> None:
    """Make sure, before any work is done, that files of these names can be written into a folder, new or not.

    Raises:
        OutputExists: one is there and `force` is off, or the folder is a file.
        MissingInput: the folder above does not exist.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputExists("the output directory is a file", where=str(folder), fix="another name")
    if not folder.exists() and not folder.parent.is_dir():
        raise MissingInput("the folder of the output does not exist", where=str(folder.parent))
    if folder.is_dir():
        for name in names:
            check_free(folder / name, force=force)


def write_tokenizer(
    encoder: Encoder,
    folder: Path,
    talk: Output,
    *,
    force: bool,
    parent: str | None = None,
    more: dict[str, str] | None = None,
) -> list[str]:
    """Write tokenizer.json, tokenizer_config.json (with what the parent's says) and `more` files; their paths."""
    import json as json_text

    from pedigree.tokenizers.companions import config_beside, tokenizer_config, written

    kept = {} if parent is None else config_beside(parent)
    texts = {
        "tokenizer.json": written(encoder.definition),
        "tokenizer_config.json": json_text.dumps(tokenizer_config(encoder, kept), indent=2) + "\n",
        **(more or {}),
    }
    check_folder(folder, list(texts), force=force)
    folder.mkdir(exist_ok=True)
    for name, content in texts.items():
        talk.note(write_file(folder / name, content, force=force))
    return [str(folder / name) for name in texts]


COMMANDS: tuple[Callable[..., int], ...] = (train, audit, compare, extend, concat)


def tokenizer_app(settings: dict[str, Any], epilog: str) -> typer.Typer:
    """The noun with its verbs."""
    group = typer.Typer(add_completion=False, rich_markup_mode="rich", context_settings=settings, epilog=epilog)

    @group.callback(invoke_without_command=True)
    def tokenizer(context: typer.Context) -> None:
        """Train, audit, compare, extend and concatenate tokenizers.

        [bold]Examples[/bold]

        pedigree tokenizer train corpus.txt --size 8192 --out my-tokenizer

        pedigree tokenizer audit my-tokenizer --text corpus.txt
        """
        if context.invoked_subcommand is None:
            raise UsageError("a verb is missing", where="pedigree tokenizer", fix="pedigree tokenizer --help")

    for command in COMMANDS:
        group.command(context_settings=settings, epilog=epilog, no_args_is_help=True)(command)
    return group
