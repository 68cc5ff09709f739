"""The commitment of a sheet: one line that binds record and ledger, and a code that holds it."""

from __future__ import annotations

import re

import segno
from tests.report.test_certificate import audit, clearance, edge

from pedigree.report.certificate import render_audit
from pedigree.report.clearance_page import render_clearance
from pedigree.report.seal import audit_line, clearance_line, seal_figure


def drawn(figure: str) -> list[list[int]]:
    """The modules of a figure, read back from its path, without the white around them."""
    side = int(re.search(r'viewBox="0 0 (\d+) ', figure)[1])  # type: ignore[index]
    cells = [[0] * side for _ in range(side)]
    for x, y, length in re.findall(r"M(\d+) (\d+)h(\d+)v1h-\3z", figure):
        for at in range(int(x), int(x) + int(length)):
            cells[int(y)][at] = 1
    assert not any(map(any, [*cells[:4], *cells[-4:], *([row[0:4] + row[-4:] for row in cells])]))
    return [row[4:-4] for row in cells[4:-4]]


def test_the_code_is_that_of_the_line_in_capitals() -> None:
    line = audit_line(audit(edge("left", "base")))
    code = segno.make(line.upper(), error="m", micro=False, boost_error=False)
    assert drawn(seal_figure(line)) == [[int(bool(cell)) for cell in row] for row in code.matrix]
    assert code.mode == "alphanumeric"
    assert seal_figure(line) == seal_figure(line)
    assert seal_figure(line) != seal_figure(line + "0")


def test_the_line_binds_the_record_and_the_ledger() -> None:
    one = audit(edge("left", "base"))
    assert audit_line(one) == f"pedigree-audit 1 {one.content_digest()} pedigree-ledger/1 9 {'ab' * 32}"
    assert audit_line(one) != audit_line(audit(edge("left", "base", "SUSPECT")))
    alone = one.model_copy(update={"inputs": {**one.inputs, "ledger": None}})
    assert audit_line(alone) == f"pedigree-audit 1 {one.content_digest()}"
    cleared = clearance("unrelated")
    assert clearance_line(cleared).split() == [
        "pedigree-clearance", "1", cleared.content_digest(), cleared.result.artifact
    ]  # fmt: skip


def test_both_sheets_carry_line_and_code() -> None:
    one, other = audit(edge("left", "base")), clearance("unrelated")
    for page, line in ((render_audit(one), audit_line(one)), (render_clearance(other), clearance_line(other))):
        assert line in page
        assert page.count('class="seal"') == 1
