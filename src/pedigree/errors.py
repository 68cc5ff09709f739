"""The family of errors.

PedigreeError                 anything we raise on purpose; exit code 2 unless a branch says otherwise
├── UsageError                the call itself is wrong: unknown name, impossible combination
│   └── OtherSettings         what is there was made with other settings than those asked for
├── InputError                an input is missing or malformed
│   ├── MissingInput          a file, shard, tensor or tokenizer that must be there is not
│   ├── MalformedFile         a file contradicts its own format (names the file and the field)
│   ├── ProblemsFound         several things about one input are wrong, all told at once
│   └── UnsafeFile            reading it would mean executing it or leaving its directory
├── SourceError               a remote place did not answer as HTTP with ranges should
├── BudgetExceeded            the byte budget would be passed by the next read
├── OutputExists              a file is in the way and --force was not given
└── InternalError             our bug (exit code 70)

Every error says what happened, where, what was found, what was expected and how to mend it. Words for the
terminal are made in `pedigree.cli.errors`, nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar


class PedigreeError(Exception):
    """Base of every error raised on purpose.

    Args:
        what: one sentence, what went wrong.
        where: file, key path or tensor name.
        got: what was found there.
        expected: what would have been right.
        fix: the exact command, flag or edit that mends it.
    """

    exit_code: ClassVar[int] = 2

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        got: object | None = None,
        expected: object | None = None,
        fix: str | None = None,
    ) -> None:
        self.what = what
        self.where = where
        self.got = None if got is None else str(got)
        self.expected = None if expected is None else str(expected)
        self.fix = fix
        super().__init__(self.sentence())

    def sentence(self) -> str:
        """The error as one line, in the order what, where, got, expected."""
        parts = [self.what]
        if self.where is not None:
            parts.append(f"in {self.where}")
        if self.got is not None:
            parts.append(f"got {self.got}")
        if self.expected is not None:
            parts.append(f"expected {self.expected}")
        return ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """The error as a JSON-ready mapping with its class name under `error`."""
        return {
            "error": type(self).__name__,
            "what": self.what,
            "where": self.where,
            "got": self.got,
            "expected": self.expected,
            "fix": self.fix,
        }


class UsageError(PedigreeError):
    """The call itself is wrong."""


class OtherSettings(UsageError):
    """What is there to go on from was made with other settings."""


class InputError(PedigreeError):
    """An input is missing or malformed."""


class MissingInput(InputError):
    """Something that must be there is not."""


class MalformedFile(InputError):
    """A file contradicts its own format."""


class ProblemsFound(InputError):
    """Several things about one input are wrong: one error for each, in the order of the input.

    Args:
        where: the file or the option.
        problems: the errors, each with its own place.
        total: how many there are, where `problems` holds only the first of them.
    """

    def __init__(self, where: str, problems: Sequence[PedigreeError], total: int | None = None) -> None:
        self.problems = tuple(problems)
        self.total = len(self.problems) if total is None else total
        count = "one problem" if self.total == 1 else f"{self.total} problems"
        super().__init__(f"{count} to mend", where=where)

    def sentence(self) -> str:
        """All problems, one after the other."""
        return "; ".join([super().sentence(), *(problem.sentence() for problem in self.problems)])

    def to_dict(self) -> dict[str, Any]:
        """The error as a JSON-ready mapping, each problem under `problems`."""
        return {**super().to_dict(), "problems": [problem.to_dict() for problem in self.problems]}


class UnsafeFile(InputError):
    """Reading the file would mean executing it or leaving its directory."""


class SourceError(PedigreeError):
    """A remote place did not answer as expected."""


class BudgetExceeded(PedigreeError):
    """The next read would pass the byte budget."""


class OutputExists(PedigreeError):
    """A file is in the way."""


class InternalError(PedigreeError):
    """A bug of ours."""

    exit_code: ClassVar[int] = 70
