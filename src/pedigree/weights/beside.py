"""What lies beside the weights of a checkpoint, as text: config leftovers, headers of code, paths, tokenizer files.

Hearsay: everything here can be planted or wiped by whoever publishes the files. It is read for the circumstantial
annex of a comparison only; no test may import it (a contract in `pyproject.toml`).

Laws
1. Nothing is executed or unpickled: code and `training_args.bin` are looked through as bytes.
2. What is read is bounded in files, bytes and values; what is too large, broken or unsafe is named in `not_read`.
3. Texts hold no control or direction characters and are cut at `LONGEST`; names of users inside paths are left out.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pedigree.errors import PedigreeError
from pedigree.weights.anatomy import read_anatomy
from pedigree.weights.checkpoint import Checkpoint
from pedigree.weights.safetensors_header import check_density
from pedigree.weights.table import tables

T = TypeVar("T")

LONGEST = 160  # characters of one text
MOST = 24  # texts of one kind
MOST_FILES = 24  # code and license files that are opened
MOST_VALUES = 20_000  # values of a JSON file that are looked at
HEAD_BYTES = 128 << 10  # of code, licenses and training arguments
JSON_BYTES = 4 << 20
TOKENIZER_BYTES = 64 << 20

_CONFIG_KEYS = ("architectures", "model_type", "_name_or_path", "auto_map", "base_model", "base_model_name_or_path")
_PATH_FILES = (
    "generation_config.json", "tokenizer_config.json", "adapter_config.json", "trainer_state.json",
    "training_args.json", "model.safetensors.index.json", "pytorch_model.bin.index.json",
)  # fmt: skip
_LICENSE_FILE = re.compile(r"(licen[cs]e|notice|copying|copyright)", re.IGNORECASE)
_LICENSE_LINE = re.compile(r"copyright|licen[cs]ed?\b|spdx", re.IGNORECASE)
_CLASS = re.compile(r"^class[ \t]+([A-Za-z_]\w{0,99})", re.MULTILINE)
_PATH = re.compile(
    r"(?<![\w:/.~-])((?:~?/|\.{1,2}/|[A-Za-z]:\\|(?:s3|gs|hf|obs|oss|hdfs|file)://)[\w.+@~=-][^\s\"'<>|,;(){}\[\]]{3,300})"
)
_USER = re.compile(r"((?:^|/)(?:home|Users|users)/|\\Users\\)[^/\\]+")
_PRINTABLE = re.compile(rb"[\x20-\x7e]{6,400}")
_SPECIAL_KEYS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


@dataclass(frozen=True)
class Beside:
    """What the files of one side say of themselves.

    Attributes:
        config: values under keys of config.json that name a model, as `key: value`.
        model_type: what the config calls itself, "" where it does not.
        table: the role table that the tensor names fit, "" where none does.
        known_as: the kinds of model whose tensor names that table describes.
        classes: names of classes in code files.
        licenses: license and copyright lines of code and license files, as `file: line`.
        paths: places on disks and stores that files mention, as `file: path`.
        vocabulary: number of each token, empty where none could be read.
        merges: digest of the merges, "" where there are none.
        special_tokens, chat_templates: control tokens; digests of the templates.
        biases: for q, k, v and o how many layers have one.
        not_read: files that could not be looked at, and why.
    """

    config: tuple[str, ...] = ()
    model_type: str = ""
    table: str = ""
    known_as: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    licenses: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    vocabulary: Mapping[str, int] = field(default_factory=dict, repr=False)
    merges: str = ""
    special_tokens: tuple[str, ...] = ()
    chat_templates: tuple[str, ...] = ()
    biases: tuple[str, ...] = ()
    not_read: tuple[str, ...] = ()


def clean(text: str) -> str:
    """One line without control, direction or zero-width characters, of at most `LONGEST` characters."""
    kept = "".join(c if c.isprintable() else " " if c.isspace() else "" for c in text[: 4 * LONGEST])
    line = " ".join(kept.split())
    return line if len(line) <= LONGEST else line[: LONGEST - 4] + " ..."


def read_beside(checkpoint: Checkpoint) -> Beside:
    """Everything that lies beside the weights of an open checkpoint; reads no weights.

    Args:
        checkpoint: what is opened; code files are looked for at the top of its place, where it can be listed.
    """
    return _Reader(checkpoint).read()


class _Reader:
    """One pass over the files of a place; what fails is remembered and passed over."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.not_read: list[str] = []
        self.names = self._try("the list of files", checkpoint.sibling_names) or ()

    def read(self) -> Beside:
        config = self.checkpoint.config or {}
        table, biases = self._try("tensor names", self._names_and_biases) or ("", ())
        tokenizer = self._json("tokenizer.json", TOKENIZER_BYTES)
        settings = self._json("tokenizer_config.json")
        classes, licenses = self._code()
        model_type = config.get("model_type")
        return Beside(
            config=_unique(_config_lines(config)),
            model_type=clean(model_type) if isinstance(model_type, str) else "",
            table=table,
            known_as=tuple(sorted(next((t.model_types for t in tables() if t.name == table), frozenset()))),
            classes=classes,
            licenses=licenses,
            paths=_unique(self._paths(config)),
            vocabulary=_vocabulary(tokenizer, self.checkpoint.metadata),
            merges=_merges(tokenizer, self.checkpoint.metadata),
            special_tokens=_unique(_special_tokens(tokenizer, settings)),
            chat_templates=_unique(self._templates(settings)),
            biases=biases,
            not_read=_unique(self.not_read),
        )

    def _try(self, name: str, function: Callable[[], T]) -> T | None:
        try:
            return function()
        except PedigreeError as error:
            self.not_read.append(clean(f"{name}: {error.what}"))
            return None

    def _json(self, name: str, most: int = JSON_BYTES) -> Mapping[str, Any]:
        """A JSON object beside the weights, empty where there is none that can be read."""
        data = self._try(name, lambda: self.checkpoint.sibling_bytes(name, most))
        if data is None:
            return {}
        try:
            check_density(data, name)
            value = json.loads(data.decode("utf-8"))
        except (ValueError, RecursionError, PedigreeError):
            self.not_read.append(f"{name}: not JSON that can be read")
            return {}
        return value if isinstance(value, dict) else {}

    def _text(self, name: str) -> str:
        data = self._try(name, lambda: self.checkpoint.sibling_head(name, HEAD_BYTES))
        return (data or b"").decode("utf-8", "replace")

    def _names_and_biases(self) -> tuple[str, tuple[str, ...]]:
        """The role table that fits the names, and how many layers have a bias in each projection of attention."""
        anatomy = read_anatomy(self.checkpoint)
        counts = {
            role: sum(anatomy.part(f"attn.{role}.bias", layer) is not None for layer in range(anatomy.n_layers))
            for role in "qkvo"
        }
        n = anatomy.n_layers
        told = [f"{role}: {f'{count} of {n} layers' if count else 'none'}" for role, count in counts.items()]
        return "" if anatomy.inferred else anatomy.architecture, (", ".join(told),) if n else ()

    def _code(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Class names of code files, and license lines of code and license files; both read as text."""
        code = [name for name in self.names if name.endswith(".py")]
        terms = [name for name in self.names if _LICENSE_FILE.search(name) and not name.endswith(".py")]
        wanted = [*terms, *code]
        if len(wanted) > MOST_FILES:
            self.not_read.append(f"{len(wanted) - MOST_FILES} further code and license files")
        classes: list[str] = []
        licenses: list[str] = []
        for name in wanted[:MOST_FILES]:
            text = self._text(name)
            if name in code:
                classes += _CLASS.findall(text)
            lines = [line.strip(" \t#*/\"'") for line in text[:8192].splitlines() if _LICENSE_LINE.search(line)]
            first = [line.strip() for line in text[:2048].splitlines() if line.strip()][:1] if name in terms else []
            licenses += [clean(f"{name}: {line}") for line in [*first, *lines][:4] if line]
        return _unique(sorted(map(clean, classes))), _unique(licenses)

    def _paths(self, config: Mapping[str, Any]) -> Iterator[str]:
        """Every path that a config, the weight files, an index or training arguments mention."""
        yield from _paths_in("config.json", _strings(config))
        metadata = self.checkpoint.metadata if self.checkpoint.format == "safetensors" else {}
        yield from _paths_in("weight files", _strings(metadata))
        for name in _PATH_FILES:
            value = dict(self._json(name, TOKENIZER_BYTES if name.endswith(".index.json") else JSON_BYTES))
            value.pop("weight_map", None)
            value.pop("chat_template", None)
            yield from _paths_in(name, _strings(value))
        data = self._try("training_args.bin", lambda: self.checkpoint.sibling_head("training_args.bin", HEAD_BYTES))
        yield from _paths_in("training_args.bin", (run.decode("ascii") for run in _PRINTABLE.findall(data or b"")))

    def _templates(self, settings: Mapping[str, Any]) -> Iterator[str]:
        """Chat templates, each as the digest of its text: in full they are programs of many lines."""
        given = settings.get("chat_template")
        for one in given if isinstance(given, list) else [given]:
            text = one.get("template") if isinstance(one, dict) else one
            if isinstance(text, str) and text:
                yield _digest([text])
        alone = self._text("chat_template.jinja")
        inside = self.checkpoint.metadata.get("tokenizer.chat_template")
        yield from (_digest([text]) for text in (alone, inside) if isinstance(text, str) and text)


def _unique(texts: Iterator[str] | Sequence[str]) -> tuple[str, ...]:
    """Each once, in order, `MOST` at most; what is left out shows as a count."""
    found = list(dict.fromkeys(text for text in texts if text))
    return tuple(found[:MOST]) + ((f"and {len(found) - MOST} more",) if len(found) > MOST else ())


def _strings(value: Any) -> Iterator[str]:
    """Texts at any depth of a JSON value, `MOST_VALUES` values at most."""
    waiting, seen = [value], 0
    while waiting and seen < MOST_VALUES:
        one, seen = waiting.pop(), seen + 1
        if isinstance(one, str):
            yield one
        elif isinstance(one, Mapping):
            waiting += list(one.values())[:MOST_VALUES]
        elif isinstance(one, list | tuple):
            waiting += one[:MOST_VALUES]


def _config_lines(config: Mapping[str, Any]) -> Iterator[str]:
    for key in _CONFIG_KEYS:
        value = config.get(key)
        yield from (clean(f"{key}: {_without_user(text)}") for text in list(_strings(value))[:MOST] if text)


def _paths_in(name: str, texts: Iterator[str]) -> Iterator[str]:
    for text in texts:
        for path in _PATH.findall(text[:4096]):
            yield clean(f"{name}: {_without_user(path)}")


def _without_user(path: str) -> str:
    """A path without the name of the user whose folder it lies in: a record speaks about files, not people."""
    return _USER.sub(r"\1(user)", path)


def _digest(parts: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return "sha256:" + digest.hexdigest()[:32]


def _model(tokenizer: Mapping[str, Any]) -> Mapping[str, Any]:
    model = tokenizer.get("model")
    return model if isinstance(model, dict) else {}


def _vocabulary(tokenizer: Mapping[str, Any], metadata: Mapping[str, Any]) -> dict[str, int]:
    """Token to number, from tokenizer.json or the metadata of a GGUF file."""
    vocabulary = _model(tokenizer).get("vocab")
    if isinstance(vocabulary, dict):
        return {token: number for token, number in vocabulary.items() if type(number) is int}
    if vocabulary is None:
        vocabulary = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(vocabulary, list):
        return {}
    pieces = [piece[0] if isinstance(piece, list) and piece else piece for piece in vocabulary]
    return {piece: number for number, piece in enumerate(pieces) if isinstance(piece, str)}


def _merges(tokenizer: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    """Digest of the merges in their order, whichever of the two ways of writing a pair is used."""
    merges = _model(tokenizer).get("merges") or metadata.get("tokenizer.ggml.merges")
    if not isinstance(merges, list) or not merges:
        return ""
    pairs = [" ".join(map(str, pair)) if isinstance(pair, list) else str(pair) for pair in merges]
    return f"{len(pairs):,} merges, {_digest(pairs)}"


def _special_tokens(tokenizer: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """Control tokens by spelling, from both files that name them."""
    added = tokenizer.get("added_tokens")
    rows = [row for row in added if isinstance(row, dict)] if isinstance(added, list) else []
    named = [settings.get(key) for key in _SPECIAL_KEYS]
    texts = [row.get("content") for row in rows if row.get("special")]
    texts += [one.get("content") if isinstance(one, dict) else one for one in named]
    return sorted({clean(text) for text in texts if isinstance(text, str) and text})
