"""The circumstantial annex of `compare --annex`: read after the answer is final, shown below it and apart."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from pedigree.cli.output import Line, Span, shorten
from pedigree.errors import PedigreeError

if TYPE_CHECKING:
    from pedigree.records.annex import Annex, AnnexItem
    from pedigree.weights.beside import Beside

_SHOWN = 3  # texts of one side on a terminal


def read_annex(a: str, b: str, *, allow_pickle: bool = False) -> Annex:
    """The annex of two locations; a side that cannot be read is named in it, and nothing is raised for it."""
    from pedigree.weights.annex import make_annex

    not_read: list[str] = []
    sides = [_side(place, letter, allow_pickle, not_read) for letter, place in (("A", a), ("B", b))]
    return make_annex(sides[0], sides[1], not_read)


def _side(place: str, letter: str, allow_pickle: bool, not_read: list[str]) -> Beside | None:
    from pedigree.forensics.fingerprints.fingerprint import is_fingerprint
    from pedigree.weights.beside import clean, read_beside
    from pedigree.weights.checkpoint import open_checkpoint

    try:
        if is_fingerprint(place):
            not_read.append(f"{letter}: a fingerprint keeps nothing that lies beside the weights")
            return None
        with open_checkpoint(place, allow_pickle=allow_pickle) as checkpoint:
            return read_beside(checkpoint)
    except PedigreeError as error:
        not_read.append(clean(f"{letter}: {error.what}"))
        return None


def annex_lines(annex: Annex, *, width: int = 100) -> list[Line]:
    """The annex as styled lines, every text on one line."""
    lines: list[Line] = [(Span(""),), (Span("annex, apart from the answer above", "bold"),)]
    lines += [(Span(f"  {line}", "dim"),) for line in textwrap.wrap(annex.about, width - 2)]
    for item in annex.items:
        lines += _item_lines(item, width)
    lines += [(Span(shorten(f"  not read     {why}", width)),) for why in annex.not_read]
    return lines


def _item_lines(item: AnnexItem, width: int) -> list[Line]:
    from pedigree.report.words import LIKENESS_SENTENCES

    lines: list[Line] = [(Span(f"  {item.title}", "bold"), Span(f": {LIKENESS_SENTENCES[item.likeness]}"))]
    for letter, texts in (("A", item.a), ("B", item.b)):
        more = f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
        lines.append((Span(shorten(f"    {letter}  {'; '.join(texts[:_SHOWN]) or 'nothing'}{more}", width)),))
    wrapped = textwrap.wrap(item.innocent, width - 9)
    for at, line in enumerate(wrapped):
        lines.append((Span(f"    {'but' if at == 0 else '':<3}  {line}", "dim"),))
    return lines
