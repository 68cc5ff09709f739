"""A leaf of the tree: the few hundred bytes that fix one event.

A leaf is canonical JSON whose every value comes from a small alphabet, so that one regular expression is its whole
grammar: what it does not match in full is no leaf, and no leaf can be read in two ways. It holds digests only, neither
names nor paths; what the event says lies beside the tree, under the digest `body`.

    body      sha256 of what was said: of the DSSE encoding of a signed statement, or of the bytes of an unsigned one
    key, sig  id of the first signer, sha256 of the signature; absent where the event is not signed by itself
    seen      size and root of the tree before this leaf: a signature covers all that came before
    subjects  artifacts the event is about, the artifact id first
    parents   artifacts it was made from
    time      the clock of the recorder; the order of events never depends on it
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import NamedTuple

from pedigree.errors import MalformedFile

MAX_LEAF = 60_000  # bytes; C2SP tlog-tiles stops at 65,535
_HEX = "[0-9a-f]{64}"
_LIST = f'\\[("{_HEX}"(?:,"{_HEX}")*)\\]'
_GRAMMAR = re.compile(
    f'{{"body":"({_HEX})"(?:,"key":"({_HEX})")?,"kind":"([a-z][a-z.-]{{1,31}})"(?:,"parents":{_LIST})?'
    f'(?:,"run":"([0-9a-f-]{{36}})")?(?:,"seen":"(0|[1-9][0-9]{{0,18}}) ({_HEX})")?(?:,"sig":"({_HEX})")?'
    f'(?:,"subjects":{_LIST})?,"time":"([0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}T[0-9]{{2}}:[0-9]{{2}}:[0-9]{{2}}\\.[0-9]{{3}}Z)"'
    ',"v":"1"}'
)


class Leaf(NamedTuple):
    """One leaf; see the module."""

    kind: str
    body: str
    time: str
    key: str | None = None
    signature: str | None = None
    run: str | None = None
    seen_size: int | None = None
    seen_root: str | None = None
    subjects: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        """The canonical form.

        Raises:
            MalformedFile: a value has no place in the grammar.
        """
        fields = {
            "body": _quoted(self.body),
            "key": _quoted(self.key),
            "kind": _quoted(self.kind),
            "parents": _listed(self.parents),
            "run": _quoted(self.run),
            "seen": None if self.seen_size is None else f'"{self.seen_size} {self.seen_root}"',
            "sig": _quoted(self.signature),
            "subjects": _listed(self.subjects),
            "time": _quoted(self.time),
            "v": '"1"',
        }
        text = "{" + ",".join(f'"{key}":{text}' for key, text in fields.items() if text is not None) + "}"
        data = text.encode("utf-8", "replace")
        if len(data) > MAX_LEAF or not _GRAMMAR.fullmatch(text):
            raise MalformedFile("this cannot be a leaf", where=self.kind, got=f"{len(data):,} bytes: {text[:200]}")
        return data

    @classmethod
    def from_bytes(cls, data: bytes, where: str = "a leaf") -> Leaf:
        """Read the canonical form, and nothing else.

        Raises:
            MalformedFile: it is too long or not in that form.
        """
        try:
            match = _GRAMMAR.fullmatch(data.decode("ascii")) if len(data) <= MAX_LEAF else None
        except UnicodeDecodeError:
            match = None
        if match is None:
            raise MalformedFile(
                "this is no leaf", where=where, got=f"{len(data):,} bytes",
                expected=f"its one form, at most {MAX_LEAF:,} bytes", fix="pedigree ledger verify",
            )  # fmt: skip
        body, key, kind, parents, run, size, root, signature, subjects, time = match.groups()
        return cls(
            kind, body, time, key, signature, run, None if size is None else int(size), root, _unlisted(subjects),
            _unlisted(parents),
        )  # fmt: skip


def now() -> str:
    """The clock of this machine as a leaf writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:23] + "Z"


def _quoted(text: str | None) -> str | None:
    return None if text is None else f'"{text}"'


def _listed(items: tuple[str, ...]) -> str | None:
    return "[" + ",".join(f'"{item}"' for item in items) + "]" if items else None


def _unlisted(text: str | None) -> tuple[str, ...]:
    return tuple(text.replace('"', "").split(",")) if text else ()
