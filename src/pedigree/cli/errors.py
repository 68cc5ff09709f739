"""Errors as the terminal says them, and the exit code each one has.

    error: what - got X, expected Y
      in: file, key path or tensor
      fix: the exact command or edit

No traceback, unless PEDIGREE_DEBUG=1. What we did not raise on purpose is our bug: it goes into a crash file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence

import typer

from pedigree.cli.files import GO_ON, WRITTEN
from pedigree.cli.interruption import INTERRUPTED, NOTHING_WRITTEN
from pedigree.cli.output import lead_nowhere, wipe_status
from pedigree.errors import InputError, InternalError, PedigreeError, ProblemsFound, UsageError
from pedigree.report.plain_text import printable, printable_lines

NO_ROOM = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}
DONE, SAYS_NO, COULD_NOT_RUN, CANNOT_SAY, OUR_BUG = 0, 1, 2, 3, 70

# Base of the argument parser's own errors. typer carries the parser inside itself since 0.26 and imported it from
# elsewhere before, so the class is found through the one name that both have.
_ParserError: type[Exception] = next(cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "ClickException")


def error_text(error: PedigreeError) -> str:
    """The error as two to four lines without a final line break; so many for each where there are several."""
    if isinstance(error, ProblemsFound):
        parts = [error_text(problem) for problem in error.problems]
        unsaid = error.total - len(parts)
        parts += [printable(f"{error.what}: {error.where}; the last {unsaid} are not shown")] if unsaid else []
        return "\n".join(parts)
    head = f"error: {error.what}"
    facts = [
        f"got {error.got}" if error.got is not None else "",
        f"expected {error.expected}" if error.expected else "",
    ]
    told = ", ".join(fact for fact in facts if fact)
    lines = [f"{head} - {told}" if told else head]
    if error.where:
        lines.append(f"  in: {error.where}")
    if error.fix:
        lines.append(f"  fix: {error.fix}")
    return "\n".join(printable(line) for line in lines)


def usage_error(error: Exception) -> UsageError:
    """An error of the argument parser in our form."""
    message = str(getattr(error, "message", error)).strip().rstrip(".")
    format_message = getattr(error, "format_message", None)
    if callable(format_message) and not getattr(error, "option_name", None):
        message = str(format_message()).strip().rstrip(".")
    if not message:  # a command that takes arguments was typed alone; its help has been printed
        message = "the arguments are missing"
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "pedigree"
    fix = f"{command} --help"
    near = getattr(error, "possibilities", None)
    if near:
        fix = f"did you mean {' or '.join(sorted(near))}?"
    elif "Did you mean" in message:
        message, _, suggestion = message.partition("Did you mean")
        message, fix = message.strip().rstrip("."), f"did you mean{suggestion.rstrip('?')}?"
    return UsageError(message[:1].lower() + message[1:], where=command, fix=fix)


def system_error(error: OSError) -> InputError:
    """What the operating system refused, in our form: a full disk or a closed folder is no bug of ours."""
    reason = (error.strerror or str(error) or type(error).__name__).lower()
    fix = "free some space, or write elsewhere; the same command starts again" if error.errno in NO_ROOM else None
    return InputError("the system refused to read or write", got=reason, where=error.filename, fix=fix)


def say(text: str) -> None:
    """One message on stderr, whatever the encoding there can hold; names in it cannot steer the terminal."""
    encoding = sys.stderr.encoding or "utf-8"
    try:
        wipe_status()
        sys.stderr.write(printable_lines(text).encode(encoding, "replace").decode(encoding) + "\n")
        sys.stderr.flush()
    except OSError:
        # Nobody can be told; the exit code still says how it ended, unless what waits in the buffer fails once more.
        with contextlib.suppress(OSError):
            lead_nowhere(sys.stderr)


def _drop_what_waits() -> None:
    """Where the result cannot be written, forget it: at the end of the process it would fail once more."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError):
            lead_nowhere(sys.stdout)


def crash_file(error: BaseException, arguments: Sequence[str]) -> str | None:
    """Save what is needed to mend our bug; the path, or None where even that failed."""
    try:
        handle, path = tempfile.mkstemp(prefix="pedigree-crash-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(f"arguments: {list(arguments)!r}\npython: {sys.version}\nplatform: {sys.platform}\n\n")
            stream.writelines(traceback.format_exception(error))
    except OSError:
        return None
    return path


def bug_text(error: Exception, arguments: Sequence[str]) -> str:
    """What is said about an exception that we did not raise on purpose."""
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1] if frames else None
    path = crash_file(error, arguments)
    bug = InternalError(
        "this is a bug in pedigree, not in your files",
        got=f"{type(error).__name__}: {error}"[:300],
        where=f"{os.path.basename(last.filename)}:{last.lineno}, {last.name}" if last else None,
        fix=f"please report it with {path}" if path else "please report it; PEDIGREE_DEBUG=1 shows the traceback",
    )
    return error_text(bug)


def interrupted_text() -> str:
    """What is on disk after an interruption, and how to go on."""
    if GO_ON:
        return f"interrupted: {GO_ON[-1]}"
    if not WRITTEN:
        return NOTHING_WRITTEN
    written = ", ".join(str(path) for path in WRITTEN)
    return f"interrupted: complete files on disk are {written}; the same command goes on from there with --force"


def guarded(run: Callable[[], int | None], arguments: Sequence[str]) -> int:
    """Run a command and turn every way it can end into words on stderr and an exit code."""
    try:
        return _guarded(run, arguments)
    finally:
        GO_ON.clear()  # how to go on was said of this command, however it ended


def _guarded(run: Callable[[], int | None], arguments: Sequence[str]) -> int:
    debug = os.environ.get("PEDIGREE_DEBUG") == "1"
    try:
        code = run() or DONE
    except typer.Exit as stop:
        code = stop.exit_code
    except SystemExit as stop:
        if not isinstance(stop.__context__, BrokenPipeError):
            raise
        # So the parser leaves when the reader of its help has left: no error, as in `Output`.
        lead_nowhere(sys.stdout)
        return DONE
    except (KeyboardInterrupt, typer.Abort):
        say("\n" + interrupted_text())
        return INTERRUPTED
    except PedigreeError as error:
        if debug:
            say(traceback.format_exc().rstrip())
        say(bug_text(error, arguments) if isinstance(error, InternalError) else error_text(error))
        return error.exit_code
    except _ParserError as error:
        say(error_text(usage_error(error)))
        return COULD_NOT_RUN
    except MemoryError:
        say("error: out of memory\n  fix: --depth glance, or a machine with more memory")
        return COULD_NOT_RUN
    except OSError as error:
        if debug:
            say(traceback.format_exc().rstrip())
        say(error_text(system_error(error)))
        _drop_what_waits()
        return COULD_NOT_RUN
    except Exception as error:  # noqa: BLE001 - the one place where any error becomes a sentence and exit code 70
        if debug:
            say(traceback.format_exc().rstrip())
        say(bug_text(error, arguments))
        return OUR_BUG
    if code == INTERRUPTED:  # how typer passes an interruption on
        say("\n" + interrupted_text())
    return code
