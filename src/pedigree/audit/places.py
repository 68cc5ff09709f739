"""Where the models of an audit lie, and how their files stand to what was recorded of them.

Every file of a model is hashed: what was registered is known by its artifact id, not by its name or its sidecar.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pedigree.errors import MissingInput, PedigreeError
from pedigree.ledger.directory import Found, look_at
from pedigree.records.artifact import FileDigest, Manifest, name_of_folder
from pedigree.records.audit import State

DEPTH, MOST = 5, 400  # folders below the given one, and models that are looked at
_WEIGHTS = (".safetensors", ".gguf")
_PICKLES = (".bin", ".pt", ".pth")
_PASSED_OVER = frozenset({"checkpoints", "tokens", "node_modules", "__pycache__"})

Tell = Callable[[str, float, str], None]


@dataclass(frozen=True)
class Model:
    """A model on disk.

    Attributes:
        name: what it is called in the answer.
        folder: where it lies.
        found: its files, hashed.
        digest: 64 digits of the artifact id by which claims about it are known: that of its record where its files
            are not (or no longer) those that were recorded.
        state: how its files stand to its record.
        note: what is different, or whose files these are.
        twin: digest of another recorded model whose weights these are, "" where there is none.
    """

    name: str
    folder: Path
    found: Found
    digest: str
    state: State
    note: str = ""
    twin: str = ""


def model_folders(places: Iterable[Path], *, allow_pickle: bool = False) -> list[Path]:
    """The folders at and below some places that hold weights, each once, in order of their paths.

    Raises:
        MissingInput: a place is not there.
    """
    found: dict[Path, None] = {}
    for place in places:
        if not place.exists():
            raise MissingInput("no such file or directory", where=str(place))
        if place.is_file():
            found[place] = None
            continue
        for folder in _walk(place, DEPTH):
            if _holds_weights(folder, allow_pickle):
                found[folder] = None
                if len(found) >= MOST:
                    return list(found)
    return list(found)


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    yield folder
    if depth == 0:
        return
    try:
        below = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False))
    except OSError:
        return
    for name in below:
        if not name.startswith(".") and name not in _PASSED_OVER:
            yield from _walk(folder / name, depth - 1)


def _holds_weights(folder: Path, allow_pickle: bool) -> bool:
    suffixes = (*_WEIGHTS, *_PICKLES) if allow_pickle else _WEIGHTS
    try:
        names = [entry.name for entry in os.scandir(folder) if not entry.is_dir()]
    except OSError:
        return False
    return any(name.endswith(suffixes) and not name.startswith(("adapter", "optimizer")) for name in names)


def weight_files(manifest: Manifest) -> set[tuple[int, str]]:
    """Size and digest of the weight files of an artifact."""
    return {_key(file) for file in manifest.files if file.path.endswith((*_WEIGHTS, *_PICKLES))}


def _key(file: FileDigest) -> tuple[int, str]:
    return file.size, file.sha256


def look_at_models(
    folders: Iterable[Path], registered: Mapping[str, Manifest | None], names: Mapping[str, str], tell: Tell
) -> tuple[list[Model], list[str]]:
    """Hash models and hold each against the record.

    Args:
        folders: where they lie.
        registered: manifests of the recorded artifacts by digest, None where a manifest is lost.
        names: what recorded artifacts are called.
        tell: called with (stage, fraction, message).

    Returns:
        The models, and a sentence for each that could not be read.
    """
    models, unread = [], []
    listed = list(folders)
    for number, folder in enumerate(listed):
        tell("hashing", number / max(1, len(listed)), str(folder))
        try:
            models.append(_model(folder, look_at(folder), registered, names))
        except PedigreeError as error:
            unread.append(f"{name_of_folder(folder)} was not read: {error.sentence()}")
    return models, unread


def _model(
    folder: Path, found: Found, registered: Mapping[str, Manifest | None], names: Mapping[str, str]
) -> Model:  # fmt: skip
    name, claimed = name_of_folder(folder), found.claimed
    if found.digest in registered:
        if claimed and claimed != found.digest and claimed in registered:
            return _misplaced(Model(name, folder, found, claimed, "changed"), registered, names)
        return Model(name, folder, found, found.digest, "as-recorded")
    if not claimed or claimed not in registered:
        return Model(name, folder, found, found.digest, "unrecorded")
    manifest = registered[claimed]
    if manifest is None:
        return Model(name, folder, found, claimed, "changed", "the files are not those that the sidecar names")
    if weight_files(manifest) == weight_files(found.artifact.manifest):
        from pedigree.ledger.directory import differences

        told = "; ".join(differences(manifest, found.artifact.manifest)[:4])
        return Model(name, folder, found, claimed, "weights-as-recorded", f"{told}; the weights are those recorded")
    return _misplaced(Model(name, folder, found, claimed, "changed"), registered, names)


def _misplaced(model: Model, registered: Mapping[str, Manifest | None], names: Mapping[str, str]) -> Model:
    """The same model with what its changed files are: those of another recorded model, or of none."""
    from dataclasses import replace

    mine = weight_files(model.found.artifact.manifest)
    for digest, manifest in registered.items():
        if digest != model.digest and manifest is not None and mine and weight_files(manifest) == mine:
            return replace(model, note=f"the weights are those of {names.get(digest) or digest[:12]}", twin=digest)
    return replace(model, note="the weights are not those that were recorded")
