"""What a set of weight files holds, the same for every format: its tensors, and what it says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pedigree.errors import MalformedFile, MissingInput
from pedigree.weights.extent import Extent
from pedigree.weights.source import Source


@dataclass(frozen=True, slots=True)
class Contents:
    """Opened weight files.

    Attributes:
        format: "safetensors", "gguf" or "torch".
        extents: tensors by name.
        file_bytes: size of each weight file.
        metadata: key-values of the files themselves (`__metadata__` of safetensors, all of GGUF's).
        config: configuration found inside the weight files (GGUF), under Hugging Face key names, else None.
        notes: oddities that did not stop the reader.
    """

    format: str
    extents: dict[str, Extent]
    file_bytes: dict[str, int]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()


def add_extents(
    extents: dict[str, Extent],
    found: Mapping[str, Extent],
    weight_map: Mapping[str, str] | None,
    file: str,
    place: str,
    notes: list[str],
) -> None:
    """Take the tensors of one file into the set of all files; notes get a line on what an index does not list.

    Raises:
        MalformedFile: another file holds a tensor of the same name.
    """
    n_unlisted = 0
    for name, extent in found.items():
        if weight_map is not None and weight_map.get(name) != file:
            n_unlisted += 1
        elif name in extents:
            raise MalformedFile(
                "two files hold a tensor of one name",
                where=f"{place}: tensor {name!r}",
                got=f"also in {extents[name].info.file}",
                fix="name one file, or add an index that says which one counts",
            )
        else:
            extents[name] = extent
    if n_unlisted:
        notes.append(f"{place}: {n_unlisted} tensors that the index does not list there were left out")


def check_promised(extents: Mapping[str, Extent], weight_map: Mapping[str, str] | None, source: Source) -> None:
    """Hold the set of tensors against the promises of an index.

    Raises:
        MissingInput: a tensor is not where the index says.
    """
    for name, file in (weight_map or {}).items():
        if name not in extents:
            raise MissingInput(
                "a shard lacks a tensor that the index says it holds",
                where=f"{source.place(file)}: tensor {name!r}",
                expected=f"the tensor, as the index maps it to {file}",
                fix="get the shard and the index from one revision",
            )
