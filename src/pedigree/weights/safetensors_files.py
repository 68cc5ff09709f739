"""Safetensors files, one or many, as one set of tensors."""

from __future__ import annotations

from pedigree.errors import MissingInput
from pedigree.weights.contents import Contents, add_extents, check_promised
from pedigree.weights.extent import Extent
from pedigree.weights.safetensors_header import SafetensorsHeader, header_length, parse_header
from pedigree.weights.source import Source, read_range
from pedigree.weights.stand_in import refuse_stand_in
from pedigree.weights.weight_files import Choice


def open_safetensors(source: Source, choice: Choice) -> Contents:
    """Read and check the headers of the chosen files.

    Raises:
        MissingInput: a file is not there, or lacks a tensor that the index promises.
        MalformedFile: a header contradicts its format, or two files hold one name.
    """
    extents: dict[str, Extent] = {}
    metadata: dict[str, str] = {}
    file_bytes: dict[str, int] = {}
    notes = list(choice.notes)
    headers = source.each(lambda file: _read_header(source, file), choice.files)
    for file, (size, header) in zip(choice.files, headers, strict=True):
        file_bytes[file] = size
        metadata.update(header.metadata)
        notes.extend(header.notes)
        add_extents(extents, header.extents, choice.weight_map, file, source.place(file), notes)
    check_promised(extents, choice.weight_map, source)
    return Contents("safetensors", extents, file_bytes, metadata, None, tuple(notes))


def _read_header(source: Source, file: str) -> tuple[int, SafetensorsHeader]:
    """Size and header of a file, with one request where the header fits the probe and two where not."""
    size = source.size(file)
    if size is None:
        raise MissingInput("no such file", where=source.place(file))
    probe = read_range(source, file, 0, min(size, max(8, source.probe_bytes)))
    refuse_stand_in(probe, source.place(file))
    length = header_length(probe, size, source.place(file))
    text = probe[8 : 8 + length]
    if len(text) < length:
        text += read_range(source, file, 8 + len(text), 8 + length)
    return size, parse_header(text, size, file, source.place(file))
