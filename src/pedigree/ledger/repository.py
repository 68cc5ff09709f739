"""The code that ran: commit and changed files of a git working tree, read from its own files, without running git.

A changed file is one whose size or time differs from the index and whose bytes then differ from it as well.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_HASHED = 64 << 20  # bytes of a changed file that is hashed; larger ones are named only
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


@dataclass(frozen=True)
class Code:
    """The state of a working tree.

    `changed` maps paths to the sha256 of what lies there now, "" where it is gone or too large to hash.
    """

    commit: str
    branch: str
    changed: dict[str, str]
    readable: bool = True

    def to_dict(self) -> dict[str, Any]:
        """As a statement has it."""
        return {
            "commit": self.commit, "branch": self.branch, "changed": self.changed,
            "index_read": str(self.readable).lower(),
        }  # fmt: skip


def code_at(place: Path) -> Code | None:
    """The state of the working tree that `place` lies in; None outside of one."""
    for root in (place, *place.parents):
        git = root / ".git"
        try:
            if git.is_file():  # a linked working tree, or a submodule
                target = git.read_text(encoding="utf-8").partition("gitdir:")[2].strip()
                git = (root / target).resolve()
            if (git / "HEAD").is_file():
                return _read(root, git)
        except (OSError, UnicodeDecodeError):
            return None
    return None


def _read(root: Path, git: Path) -> Code:
    head = (git / "HEAD").read_text(encoding="utf-8").strip()
    branch = head.removeprefix("ref: ") if head.startswith("ref: ") else ""
    commit = _resolve(git, branch) if branch else head
    try:
        changed = dict(_changed(root, git))
    except (OSError, ValueError, struct.error, IndexError):
        return Code(commit, branch.removeprefix("refs/heads/"), {}, readable=False)
    return Code(commit, branch.removeprefix("refs/heads/"), changed)


def _resolve(git: Path, reference: str) -> str:
    """The commit of a branch: its own file, or the packed list."""
    common = git / "commondir"
    shared = (git / common.read_text(encoding="utf-8").strip()).resolve() if common.is_file() else git
    if ".." in reference.split("/"):
        return ""
    for folder in (git, shared):
        path = folder / reference
        if path.is_file():
            text = path.read_text(encoding="utf-8").strip()
            return text if _COMMIT.fullmatch(text) else ""
    packed = shared / "packed-refs"
    for line in packed.read_text(encoding="utf-8").splitlines() if packed.is_file() else ():
        commit, _, name = line.partition(" ")
        if name == reference:
            return commit
    return ""


def _changed(root: Path, git: Path) -> Iterator[tuple[str, str]]:
    for path, size, modified, digest in _index(git / "index"):
        place = root / path
        try:
            now = place.lstat()
        except OSError:
            yield path, ""
            continue
        if (
            (now.st_size & 0xFFFFFFFF, int(now.st_mtime)) == (size, modified)
            or not place.is_file()
            or place.is_symlink()
        ):
            continue
        if now.st_size > MAX_HASHED:
            yield path, ""
            continue
        content = place.read_bytes()
        kind = hashlib.sha1 if len(digest) == 20 else hashlib.sha256
        if kind(b"blob %d\x00" % len(content) + content).digest() != digest:
            yield path, hashlib.sha256(content).hexdigest()


def _index(path: Path) -> Iterator[tuple[str, int, int, bytes]]:
    """Path, size, time and blob id of every file in a git index of version 2 or 3 (git-scm.com/docs/index-format)."""
    if not path.is_file():
        return
    data = path.read_bytes()
    mark, version, count = struct.unpack_from(">4sII", data)
    if mark != b"DIRC" or version not in (2, 3):
        raise ValueError("an index of another version")
    at = 12
    for _ in range(count):
        (modified,) = struct.unpack_from(">I", data, at + 8)
        (size,) = struct.unpack_from(">I", data, at + 36)
        (flags,) = struct.unpack_from(">H", data, at + 60)
        start = at + (64 if flags & 0x4000 else 62)
        end = data.index(b"\x00", start)
        yield data[start:end].decode("utf-8", "surrogateescape"), size, modified, data[at + 40 : at + 60]
        at += (end - at + 8) // 8 * 8
