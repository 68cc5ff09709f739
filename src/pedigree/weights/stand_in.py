"""What lies in place of a weight file when a download went wrong: a Git LFS pointer, or a page of a web server.

Both are a few lines of text, and a reader of binary files would take their letters for absurd lengths.
Source  specification of Git LFS: a pointer begins with the key "version".
"""

from __future__ import annotations

from pedigree.errors import MissingInput

PREFIX_BYTES = 8
"""Bytes of a file that tell."""


def refuse_stand_in(prefix: bytes | bytearray, place: str) -> None:
    """Refuse a file that only stands where the weights should be.

    Args:
        prefix: the first bytes of the file.
        place: where it lies, for the message.

    Raises:
        MissingInput: a pointer or a page lies there.
    """
    begin = bytes(prefix[:PREFIX_BYTES])
    if begin == b"version ":
        raise MissingInput(
            "a Git LFS pointer lies where the weights should be",
            where=place,
            got="a few lines of text that name the file",
            expected="the file itself",
            fix="git lfs install && git lfs pull in that repository, or download the file itself",
        )
    if begin[:2].lower() in (b"<!", b"<h"):
        raise MissingInput(
            "a web page lies where the weights should be",
            where=place,
            got=repr(begin),
            expected="the file itself",
            fix="get the file again: the server answered with a page (it is gone, or wants a login)",
        )
