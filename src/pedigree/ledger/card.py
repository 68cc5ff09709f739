"""The model card (README.md of a Hugging Face directory): what it claims is read, what is recorded is written into it.

What people wrote stays, byte for byte. Ours stands between two marks, in the front matter and in the text, and is
replaced there; a key that somebody wrote is never written a second time. A card names parents, never digests; those are
in the block `provenance`, which names the artifact as it was before the card was written into it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pedigree.errors import MalformedFile
from pedigree.ledger.passport import Passport

MAX_CARD = 2 << 20  # bytes
MAX_FRONT, MAX_DEPTH = 1 << 19, 24  # characters of front matter, and how deep it may be nested
FILE = "README.md"
BEGIN, END = "# pedigree: written from the ledger", "# pedigree: end"
_TEXT_BEGIN, _TEXT_END = "<!-- pedigree: written from the ledger -->", "<!-- pedigree: end -->"
_PLAIN = re.compile(r"[A-Za-z][\w./@+-]*")
_AMBIGUOUS = ("true", "false", "yes", "no", "null", "on", "off", "y", "n")


def read_card(folder: Path) -> dict[str, Any]:
    """The front matter of README.md; nothing where there is no readable card."""
    path = folder / FILE
    try:
        with path.open("rb") as stream:
            text = stream.read(MAX_CARD).decode("utf-8", "replace")
    except OSError:
        return {}
    head, _ = _parted(text)
    return _fields(head or "")


def card_claims(folder: Path) -> list[dict[str, str]]:
    """The `base_model` entries of README.md with their relation; nothing where there is no readable card."""
    fields = read_card(folder)
    named = fields.get("base_model")
    names = named if isinstance(named, list) else [named]
    relation = _word(fields.get("base_model_relation")) or "unsaid relation"
    return [{"name": name[:300], "relation": relation[:60]} for name in map(_word, names[:64]) if name]


def card_license(folder: Path) -> str:
    """The license that a card names: of `other`, its own name; "" where it says none."""
    fields = read_card(folder)
    word = fields.get("license")
    if word == "other":
        word = fields.get("license_name") or word
    if isinstance(word, list):
        word = word[0] if word else ""
    return _word(word)[:100]


def _word(value: Any) -> str:
    """A text of a card; what is none is passed over: a few lines of YAML can stand for lists without end."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""


def write_card(before: str, passport: Passport) -> tuple[str, list[str]]:
    """A card with what is recorded in it.

    Args:
        before: the text of the card that is there, "" where there is none.
        passport: what is recorded.

    Returns:
        The text, and the keys that somebody wrote and that say something else than the record.

    Raises:
        MalformedFile: it is too large, or its front matter is no YAML, so that nothing can be added to it.
    """
    if len(before) > MAX_CARD:
        raise MalformedFile("the card is too large", where=FILE, got=f"{len(before):,} characters", expected=MAX_CARD)
    head, body = _parted(before)
    theirs = _without(head or "", BEGIN, END).strip("\n")
    known = _fields(theirs)
    if theirs.strip() and not known:
        raise MalformedFile(
            "the front matter of the card is no mapping in YAML", where=FILE,
            expected=f"keys and values, no tags or merge keys, at most {MAX_FRONT:,} characters",
            fix="mend it by hand",
        )  # fmt: skip
    ours = _front(passport)
    differing = sorted(key for key, value in ours.items() if key in known and _listed(known[key]) != _listed(value))
    lines = [f"{key}: {_yaml(value)}".replace(": \n", ":\n") for key, value in ours.items() if key not in known]
    front = "\n".join(part for part in (theirs, BEGIN, *lines, END) if part)
    text = _without(body, _TEXT_BEGIN, _TEXT_END).strip("\n")
    if not text:
        text = f"# {_cell(passport.name) or 'Model'}"
    section = "\n".join([_TEXT_BEGIN, *_section(passport), _TEXT_END])
    return f"---\n{front}\n---\n\n{text}\n\n{section}\n", differing


def _front(passport: Passport) -> dict[str, Any]:
    """The keys of the Hub, and our own block."""
    found: dict[str, Any] = {}
    if passport.base_models:
        found["base_model"] = passport.base_models
        if passport.relation:
            found["base_model_relation"] = passport.relation
    datasets = [item.hub for item in passport.datasets if item.hub]
    if datasets:
        found["datasets"] = datasets
    if passport.license:
        found["license"] = passport.license
    found["provenance"] = {
        "ledger": passport.ledger, "entry": passport.entry, "artifact": "sha256:" + passport.described,
        "verdict": passport.life.verdict, "proof": "pedigree.json",
    }  # fmt: skip
    return found


def _section(passport: Passport) -> list[str]:
    """The same for readers."""
    life = passport.life
    made = f"`{passport.operation}`" if passport.operation else "not recorded"
    if passport.origin:
        made += f", said to come from {_cell(passport.origin)}"
    if passport.operators:
        made += f" ({', '.join(passport.operators)})"
    lines = ["## Where this model comes from", "", f"Recorded by Pedigree; verdict **{life.verdict}**.", ""]
    lines += ["| | |", "|---|---|", f"| made by | {made} |"]
    for item in passport.parents:
        origin = f", said to come from {_cell(item.origin)}" if item.origin else ""
        status = " (unverified origin)" if item.imported else " (not recorded)" if item.entry is None else ""
        lines.append(f"| {item.role} | {_cell(item.hub or item.name)}{status}{origin}, `sha256:{item.digest[:12]}` |")
    if not passport.parents:
        lines.append("| parents | none recorded |")
    if passport.from_scratch:
        lines.append("| from scratch | nothing from elsewhere is behind it, as far as is recorded |")
    lines += [f"| data | {_cell(item.name)}, `sha256:{item.digest[:12]}` |" for item in passport.datasets]
    if life.tokens is not None:
        lines.append(f"| tokens | {life.tokens:,}, as declared |")
    if life.operations is not None:
        lines.append(f"| compute | {life.operations:.3g} floating-point operations, as declared |")
    lines += [f"| gap | {_cell(gap)} |" for gap in life.gaps]
    people = [
        f"{_cell(passport.names.get(credit.person) or credit.person)} ({', '.join(credit.roles)})"
        for credit in passport.credits
    ]
    lines.append(f"| people | {', '.join(people) or 'none recorded'} |")
    return [*lines, "", "Check it, without a network: `pedigree ledger verify` on this directory."]


def _cell(text: str) -> str:
    """A text of others inside a table: on one line, without marks that could end it or the section."""
    return re.sub(r"[|\r\n<>`]", " ", text)[:200].strip()


def _parted(text: str) -> tuple[str | None, str]:
    """Front matter, None where there is none, and the rest of a card."""
    plain = text.removeprefix("\ufeff").replace("\r\n", "\n")
    if not plain.startswith("---\n"):
        return None, plain
    head, mark, rest = plain[4:].partition("\n---")
    if plain[4:].startswith("---"):
        head, mark, rest = "", "---", plain[7:]
    if not mark:
        return None, plain
    return head, rest.partition("\n")[2]


def _without(text: str, begin: str, end: str) -> str:
    """A text without what stands between two marks; a mark without its partner is left alone."""
    at, stop = text.find(begin), text.find(end)
    if at < 0 or stop < at:
        return text
    return text[:at] + text[stop + len(end) :].removeprefix("\n")


# The safe loader on libyaml's parser where that is there: ten times as fast, and cards may carry long tables.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _is_plain(head: str) -> bool:
    """Whether YAML can be loaded in time and memory of its length: no tags, little depth, and no merge keys.

    Aliases alone share what they name; merged into each other, ten mappings of ten become ten to the tenth.
    """
    depth = 0
    for event in yaml.parse(head, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        merges = isinstance(event, yaml.ScalarEvent) and event.value == "<<"
        if merges or getattr(event, "tag", None) is not None or depth > MAX_DEPTH:
            return False
    return True


def _fields(head: str) -> dict[str, Any]:
    """The mapping in front matter; nothing where it is none, too large, or not plain."""
    try:
        if len(head) > MAX_FRONT or not _is_plain(head):
            return {}
        loader = _Loader(head)
        try:
            found = loader.get_single_data()
        finally:
            loader.dispose()
    except (yaml.YAMLError, RecursionError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _yaml(value: Any) -> str:
    """A value on one line: a word as it is where it can be nothing else, the rest as JSON, which YAML contains."""
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _AMBIGUOUS:
        return value
    if isinstance(value, Mapping):
        return "\n" + "\n".join(f"  {key}: {_yaml(item)}" for key, item in value.items())
    if isinstance(value, list):
        return "\n" + "\n".join(f"- {_yaml(item)}" for item in value)
    return json.dumps(value, ensure_ascii=False)
