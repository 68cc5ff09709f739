"""What is known of a tensor before one byte of it is read: name, dtype, shape, and where its bytes lie."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from pedigree.errors import MalformedFile


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor as its file declares it.

    Attributes:
        name: name in the file.
        dtype: number type, "BF16", "F32", "F8_E4M3", or a GGUF quantization such as "Q4_K".
        shape: sizes in torch order (outermost axis first).
        nbytes: bytes in the file.
        file: weight file that holds it, relative to the checkpoint.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    file: str


@dataclass(frozen=True, slots=True)
class Extent:
    """A tensor and its place in its file.

    Attributes:
        info: what the file declares.
        offset: first byte, from the start of the file.
        stride: element strides when the rows do not follow each other (torch archives of transposed views), else None.
    """

    info: TensorInfo
    offset: int
    stride: tuple[int, ...] | None = None

    @property
    def row_bytes(self) -> int | None:
        """Bytes of one index of axis 0, None where rows do not end on a byte or do not follow each other."""
        shape = self.info.shape
        if not shape or self.stride is not None:
            return None
        if shape[0] == 0:
            return 0
        return self.info.nbytes // shape[0] if self.info.nbytes % shape[0] == 0 else None

    @property
    def span_bytes(self) -> int:
        """Bytes from the first to the last element; more than `info.nbytes` where a view leaves some out."""
        if self.stride is None or self.info.nbytes == 0:
            return self.info.nbytes
        item_bytes = self.info.nbytes // math.prod(self.info.shape)
        steps = sum((size - 1) * step for size, step in zip(self.info.shape, self.stride, strict=True))
        return (1 + steps) * item_bytes

    def renamed(self, name: str) -> Extent:
        """The same tensor under another name."""
        return replace(self, info=replace(self.info, name=name))


def check_overlaps(
    extents: Iterable[Extent], data_start: int, file_bytes: int, place: str, alignment: int = 1
) -> tuple[str, ...]:
    """Refuse tensors of one file that share bytes; report bytes that belong to none.

    Args:
        extents: the tensors of the file.
        data_start: first byte after the header.
        file_bytes: size of the file.
        place: where the file lies, for messages and notes.
        alignment: tensors begin at multiples of this many bytes, so gaps below it are padding.

    Returns:
        Notes: one when bytes between or after the tensors belong to none of them.

    Raises:
        MalformedFile: two tensors share bytes.
    """
    position, previous, loose = data_start, "", 0
    for extent in sorted(extents, key=lambda extent: (extent.offset, extent.offset + extent.info.nbytes)):
        if extent.info.nbytes == 0:
            continue
        if extent.offset < position:
            raise MalformedFile(
                "two tensors share bytes",
                where=f"{place}: tensor {extent.info.name!r}, field data_offsets",
                got=f"begins {position - extent.offset} bytes before the end of {previous!r}",
                expected="offsets that do not overlap",
            )
        gap = extent.offset - position
        loose += gap if gap >= alignment else 0
        position, previous = extent.offset + extent.info.nbytes, extent.info.name
    tail = file_bytes - position
    loose += tail if tail >= alignment else 0
    return (f"{place}: {loose:,} bytes belong to no tensor",) if loose else ()
