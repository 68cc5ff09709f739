"""The answer of `compare` for a terminal: at most 25 lines of at most 100 columns, the verdict first.

Every line is a label and words from `pedigree.report.words`; color repeats what the words say. Where an answer
has more to tell than fits, the longest lists are cut first and say by how much.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from pedigree.cli.output import Line, Span, shorten
from pedigree.records.comparison import Comparison, ComponentVerdict, Decoy, Verdict
from pedigree.report import words
from pedigree.report.layers import layer_strip, split_sentence
from pedigree.report.numbers import number_text, p_text
from pedigree.report.plain_text import printable
from pedigree.report.transformations import transformation_sentences

MAX_LINES = 25
_LABEL = 13

VERDICT_STYLES: dict[Verdict, str] = {
    "identical": "bold blue",
    "related": "bold blue",
    "partly-related": "bold cyan",
    "shared-initialization": "bold yellow",
    "unrelated": "bold green",
    "inconclusive": "bold magenta",
    "not-testable": "bold magenta",
}
_MARKS: dict[ComponentVerdict, tuple[str, str]] = {
    "identical": ("\u25c6", "="),
    "related": ("\u25cf", "+"),
    "shared-initialization": ("\u25c7", "~"),
    "unrelated": ("\u25cb", "-"),
    "inconclusive": ("?", "?"),
    "not-testable": ("\u00d7", "x"),
}


@dataclass
class Section:
    """A label and its lines; `most` lines are shown at most, `least` remain when room is short."""

    label: str
    lines: list[str]
    most: int = 2
    least: int = 1
    style: str = ""
    items: bool = False

    def shown(self, room: int, width: int) -> list[str]:
        """At most `room` lines; the last one tells what was cut."""
        if len(self.lines) <= room:
            return self.lines
        if self.items:
            kept = self.lines[: room - 1]
            return [*kept, f"and {len(self.lines) - len(kept)} more (--report or --json has all)"]
        kept = self.lines[:room]
        return [*kept[:-1], shorten(kept[-1] + " ...", width)]


def _middle(text: str, width: int) -> str:
    """`text` with its middle left out: both ends of a location matter."""
    if len(text) <= width:
        return text
    head = (width - 3) // 2
    return text[:head] + "..." + text[len(text) - (width - 3 - head) :]


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(printable(text), width, break_on_hyphens=False) or [""]


def _wrapped(label: str, text: str, width: int, *, most: int = 2, style: str = "") -> Section:
    return Section(label, _wrap(text, width), most=most, style=style)


def _sides(comparison: Comparison, width: int) -> list[Section]:
    sections = []
    for label, record in (("A", comparison.inputs.a), ("B", comparison.inputs.b)):
        about = printable(words.input_sentence(record))
        full = ", ".join(part for part in (about, printable(words.short_digest(record.digest))) if part)
        place = printable(record.location)
        tail = full if len(place) + 3 + len(full) <= width else about
        place = _middle(place, max(width // 2, width - 3 - len(tail)))
        sections.append(Section(label, [shorten(f"{place}   {tail}".rstrip(), width)], most=1))
    return sections


def _parts(comparison: Comparison, width: int, unicode: bool) -> Section:
    parts = [
        f"{words.component_name(key)} {_MARKS[part.verdict][0 if unicode else 1]} {part.verdict}"
        for key, part in comparison.result.components.items()
    ]
    lines: list[str] = []
    for part in map(printable, parts):
        joined = f"{lines[-1]}   {part}" if lines else part
        if lines and len(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(part)
    return Section("parts", lines or ["none was answered for by itself"], most=3)


def _decoy_lines(decoys: Sequence[Decoy], width: int) -> list[str]:
    if not decoys:
        return ["none given; --decoy MODEL adds one"]
    longest = max(len(decoy.verdict or "no answer") for decoy in decoys)
    lines = []
    for decoy in decoys:
        facts = [f"strongest layer pair z {number_text(decoy.score)}"] if decoy.score is not None else []
        facts += [p_text(decoy.log10_p)] if decoy.log10_p is not None else []
        tail = printable("   ".join(facts) or decoy.strength)
        lead = f"{decoy.verdict or 'no answer':<{longest}}  "
        place = _middle(printable(decoy.location), max(width // 2, width - len(lead) - len(tail) - 3))
        lines.append(shorten(f"{lead}{place}   {tail}".rstrip(), width))
        if decoy.rest is not None:
            lines.append(shorten(f"  {words.rest_sentence(decoy.rest)}", width))
    return lines


def _sections(comparison: Comparison, width: int, unicode: bool) -> list[Section]:
    result = comparison.result
    changes = transformation_sentences(result)
    direction = words.direction_sentence(result)
    if result.direction.reasons:
        direction += ": " + "; ".join(result.direction.reasons)
    strip = layer_strip(result.layer_map, width=2 * width - 24)
    split = split_sentence(result.layer_map_detail)
    sections = [
        *_sides(comparison, width),
        _wrapped("how sure", "; ".join(words.sure_sentences(result)), width, most=3),
        _wrapped("error rate", words.error_sentence(result.error_rate), width),
        _wrapped("layers", f"{strip}; {split}" if split else strip, width, most=3),
        _parts(comparison, width, unicode),
    ]
    if changes:
        sections.append(Section("from A to B", [shorten(change, width) for change in changes], 7, least=2, items=True))
    if words.has_direction(result):
        sections.append(_wrapped("direction", direction, width))
    if result.gauge.kind not in ("identity", "none"):
        sections.append(_wrapped("basis", words.gauge_sentence(result), width))
    off_diagonal = words.off_diagonal_sentence(result)
    if off_diagonal:
        sections.append(_wrapped("control", off_diagonal, width, most=1))
    sections += [
        Section("decoys", _decoy_lines(result.controls.decoys, width), most=6, least=2, items=True),
        _wrapped("read", words.read_sentence(result), width, most=1),
        _wrapped("not checked", "; ".join(result.not_checked) or "nothing is listed", width),
    ]
    return sections


def _rooms(sections: Sequence[Section], room: int) -> list[int]:
    """How many lines each section may have so that all fit: the longest lists give way first."""
    rooms = [min(len(section.lines), section.most) for section in sections]
    while sum(rooms) > room:
        spare = [(n - section.least, n, i) for i, (section, n) in enumerate(zip(sections, rooms, strict=True))]
        surplus, _, i = max(spare)
        if surplus <= 0:
            break
        rooms[i] -= 1
    return rooms


def answer_lines(comparison: Comparison, *, width: int = 100, unicode: bool = True) -> list[Line]:
    """The answer as styled lines.

    Args:
        width: columns to use, 80 to 100.
        unicode: False for ASCII marks.
    """
    result = comparison.result
    mark = words.VERDICT_MARKS[result.verdict][0 if unicode else 1]
    head = f"{mark} {result.verdict}"
    sentence = _wrap(words.verdict_sentence(result), width - len(head) - 3)[:2]
    lines: list[Line] = [(Span(head, VERDICT_STYLES[result.verdict]), Span("   " + sentence[0]))]
    lines += [(Span(" " * (len(head) + 3) + more),) for more in sentence[1:]]
    inner = width - _LABEL
    sections = _sections(comparison, inner, unicode)
    for section, room in zip(sections, _rooms(sections, MAX_LINES - len(lines)), strict=True):
        for i, text in enumerate(section.shown(room, inner)):
            label = section.label if i == 0 else ""
            lines.append((Span(f"{label:<{_LABEL}}", "bold"), Span(text, section.style)))
    return lines
