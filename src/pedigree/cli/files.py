"""Files that commands write: never over another one unasked, never half."""

from __future__ import annotations

import contextlib
import os
import shlex
import tempfile
from pathlib import Path

from pedigree.errors import MissingInput, OutputExists

# What this process has put on disk, so that an interruption can say what is there.
WRITTEN: list[Path] = []
# How to go on after an interruption, where a command knows better than "the same command again".
GO_ON: list[str] = []


def check_free(path: Path, *, force: bool) -> None:
    """Make sure, before any work is done, that `path` can be written.

    Raises:
        OutputExists: something is there and `force` is off, or it is a directory.
        MissingInput: its folder does not exist, or nothing may be written there.
    """
    if path.is_dir():
        raise OutputExists("the output is a directory", where=str(path), fix="name a file in it")
    if path.exists() and not force:
        raise OutputExists("the output file is there already", where=str(path), fix="--force, or another name")
    if not path.parent.is_dir():
        folder = str(path.parent)
        fix = f"mkdir -p {shlex.quote(folder)}" if not path.parent.exists() else "name a file in a folder"
        raise MissingInput("the folder of the output does not exist", where=folder, fix=fix)
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise MissingInput("nothing may be written into the folder of the output", where=str(path.parent))


def check_there(location: str, *, option: str) -> None:
    """Make sure, before any work is done, that a model that will be read last is there; addresses are taken on trust.

    Raises:
        MissingInput: a path where nothing is.
    """
    if "://" not in location and not Path(location).exists():
        raise MissingInput(f"no such file or directory for {option}", where=location)


def write_file(path: Path, content: str | bytes, *, force: bool) -> str:
    """Write text or bytes under a temporary name, flush them to disk, rename.

    Returns:
        A sentence with name and size of what was written.

    Raises:
        OutputExists, MissingInput: as `check_free`.
    """
    check_free(path, force=force)
    data = content.encode("utf-8") if isinstance(content, str) else content
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o644 & ~_umask())
        if force:
            temporary.replace(path)
        else:
            _rename_to_free_name(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    WRITTEN.append(path)
    return f"wrote {path} ({len(data):,} bytes)"


def _rename_to_free_name(temporary: Path, path: Path) -> None:
    """Rename without replacing: a file that appeared while we worked is kept."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise OutputExists("the output file has appeared meanwhile", where=str(path), fix="--force") from None
    except OSError:  # a file system without hard links
        check_free(path, force=False)
        temporary.replace(path)


def _umask() -> int:
    current = os.umask(0o077)
    with contextlib.suppress(OSError):
        os.umask(current)
    return current
