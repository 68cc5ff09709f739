"""GGUF files, one or a set N-of-M, as one set of tensors."""

from __future__ import annotations

from typing import Any

from pedigree.errors import MissingInput
from pedigree.weights.contents import Contents, add_extents
from pedigree.weights.extent import Extent
from pedigree.weights.gguf_config import config_from_metadata
from pedigree.weights.gguf_header import read_gguf_header
from pedigree.weights.source import Source
from pedigree.weights.weight_files import Choice


def open_gguf(source: Source, choice: Choice) -> Contents:
    """Read and check the headers of the chosen files; the first one's metadata count.

    Raises:
        MissingInput: a file is not there.
        MalformedFile: a header contradicts its format, or two files hold one name.
    """
    extents: dict[str, Extent] = {}
    metadata: dict[str, Any] = {}
    file_bytes: dict[str, int] = {}
    notes = list(choice.notes)
    for file in choice.files:
        size = source.size(file)
        if size is None:
            raise MissingInput("no such file", where=source.place(file))
        header = read_gguf_header(source, file, size)
        file_bytes[file] = size
        metadata = {**header.metadata, **metadata}
        notes.extend(header.notes)
        add_extents(extents, header.extents, choice.weight_map, file, source.place(file), notes)
    n_files = metadata.get("split.count")
    if isinstance(n_files, int) and n_files > len(choice.files):
        raise MissingInput(
            "the file is one of a set and the others are not named like it",
            where=source.place(choice.files[0]),
            got=f"{len(choice.files)} file",
            expected=f"{n_files} files NAME-00001-of-{n_files:05d}.gguf",
            fix="put the whole set into one directory under its own names",
        )
    config = config_from_metadata(metadata, [extent.info for extent in extents.values()])
    return Contents("gguf", extents, file_bytes, metadata, config, tuple(notes))
