"""The sheets of audits and clearances: from the record alone, the same bytes everywhere, one page of paper."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.comparison_examples import EXAMPLES

from pedigree.records.audit import (
    Audit,
    AuditCheck,
    AuditEdge,
    AuditModel,
    AuditResult,
    Clearance,
    ClearanceResult,
    Cleared,
    EdgeVerdict,
)
from pedigree.records.comparison import Decoy, ErrorRate, Producer
from pedigree.records.scan import Multiplicity
from pedigree.report import audit_words
from pedigree.report.certificate import main_edge, render_audit, tree_figure
from pedigree.report.clearance_page import answer_sentence, render_clearance

RATE = ErrorRate(false_positive_upper_95=0.02, pairs=148, benchmark="bank-1")
FORBIDDEN = ("plag" + "iarism", "th" + "eft", "fr" + "aud", "fa" + "ke", "sto" + "len", "copy" + "cat")


def edge(child: str, parent: str, verdict: EdgeVerdict = "CORROBORATED", **more: Any) -> AuditEdge:
    compared = EXAMPLES["related"] if parent else None
    fields: dict[str, Any] = {
        "child": f"sha256:{child}", "child_name": child, "parent": f"sha256:{parent}" if parent else "",
        "parent_name": parent or "random weights", "role": "init" if parent else "start", "operation": "finetune",
        "source": "ledger", "entry": 7, "recorded": "DECLARED", "verdict": verdict, "why": "the reason, log10 p 10^-40",
        "comparison": compared, "distance2": 0.01 if parent else None,
        "decoys": [Decoy(location="other", verdict="unrelated", score=2.5, log10_p=0.0)] if parent else [],
        "checks": [AuditCheck(check="relation", answer="agrees", sentence="related")],
    }  # fmt: skip
    return AuditEdge(**{**fields, **more})


def audit(*edges: AuditEdge, place: str = "here") -> Audit:
    names = list(dict.fromkeys(name for one in edges for name in (one.child_name, one.parent_name)))
    models = [
        AuditModel(name=name, artifact=f"sha256:{name}", state="as-recorded", location=f"{place}/{name}")
        for name in names
        if name != "random weights"
    ]
    order = list(audit_words.EDGE_SENTENCES)
    verdict = max((one.verdict for one in edges), key=order.index, default="UNKNOWN")
    counts = {word: sum(one.verdict == word for one in edges) for word in {one.verdict for one in edges}}
    return Audit(
        producer=Producer(version="1"), created=f"when it was {place}",
        inputs={"place": place, "ledger": "pedigree-ledger/1", "entries": 9, "root": "ab" * 32},
        result=AuditResult(
            verdict=verdict, counts=counts, edges=list(edges), models=models, pairs=12, any_false_upper_95=0.2,
            error_rate=RATE, false_positives=0, not_checked=["this", "that"], seconds=float(len(place)),
        ),
    )  # fmt: skip


def clearance(*words: str, place: str = "here") -> Clearance:
    against = [
        Cleared(
            name=f"m{n}", location=f"{place}/m{n}", compared="weights", verdict=word, score=3.0, detection_limit=0.1
        )  # type: ignore[arg-type]
        for n, word in enumerate(words)
    ]
    verdict = "unrelated" if set(words) == {"unrelated"} else words[0]
    return Clearance(
        producer=Producer(version="1"), created=place,
        result=ClearanceResult(
            verdict=verdict, artifact="sha256:" + "cd" * 32, name="mine", library="lib", against=against,  # type: ignore[arg-type]
            detection_limit=0.1, nearest=EXAMPLES["unrelated"], error_rate=RATE, false_positives=0,
            multiplicity=Multiplicity(tried=len(words), compared=len(words), rule="times", any_false_upper_95=0.04),
        ),
    )  # fmt: skip


def test_every_word_of_the_records_has_its_sentence() -> None:
    from typing import get_args

    from pedigree.records import audit as records

    for words, table in (
        (records.EdgeVerdict, audit_words.EDGE_SENTENCES), (records.EdgeVerdict, audit_words.ANSWER_SENTENCES),
        (records.EdgeVerdict, audit_words.EDGE_MARKS), (records.Lie, audit_words.LIE_SENTENCES),
        (records.CheckWord, audit_words.CHECK_NAMES), (records.Answer, audit_words.ANSWER_NAMES),
        (records.State, audit_words.STATE_SENTENCES), (records.Source, audit_words.SOURCE_NAMES),
    ):  # fmt: skip
        assert set(get_args(words)) == set(table)


def test_the_sheet_holds_what_an_evidence_page_must_hold() -> None:
    page = render_audit(audit(edge("left", "base"), edge("wrapped", "", "CONTRADICTED", lies=["not-from-scratch"])))
    sheet = page[: page.index("How to read this")]
    for words in (
        "Is what is claimed of these 2 models true of their weights?", "CONTRADICTED", "not-from-scratch",
        "it did not begin with random weights", "0 of 148 independent pairs called related (bank-1)",
        "that still allows a rate of 2 %", "at most 20 %", "It says nothing about people", "Where it stands: decoys",
        "Reply", "Analyst",
        'aria-label="The answer for each component"', 'aria-label="The pair beside its decoys"', "other unrelated",
        'aria-label="family tree"', "10<sup>-40</sup>",
    ):  # fmt: skip
        assert words in sheet, words
    assert not [word for word in FORBIDDEN if word in page.lower()]
    assert "<script" not in page
    assert not re.search(r"(?:src|href)=\"http", page)


def test_the_pair_stands_beside_the_bank() -> None:
    one = audit(edge("left", "base"))
    told = one.model_copy(update={"result": one.result.model_copy(update={"bank_scores": [1.5, 2.0, 4.1]})})
    page = render_audit(told)
    assert "3 independent pairs" in page
    assert "A stroke for each pair of the bank" in page
    assert "independent pairs</text>" not in render_audit(one)
    bare = edge("left", "base").model_copy(update={"decoys": []})  # the bank is there where no other model is
    alone = audit(bare).model_copy(update={"result": told.result.model_copy(update={"edges": [bare]})})
    assert "no other model was at hand" in render_audit(alone)
    assert "3 independent pairs" in render_audit(alone)


def test_the_same_record_gives_the_same_bytes_wherever_it_was_made() -> None:
    one, other = (audit(edge("left", "base"), place=place) for place in ("here", "/over/there"))
    assert one.to_json() != other.to_json()
    assert render_audit(one) == render_audit(other)
    assert "there" not in render_audit(other).replace("were there", "").split("<body>")[0]
    assert render_audit(Audit.model_validate_json(one.to_json())) == render_audit(one)
    a, b = (clearance("unrelated", place=place) for place in ("here", "/over/there"))
    assert render_clearance(a) == render_clearance(b)


@pytest.mark.parametrize("name", ["audit", "clearance"])
def test_the_sheets_do_not_change_unseen(name: str, golden: Callable[[str, str], None]) -> None:
    edges = (edge("left", "base"), edge("more", "left", "SUSPECT", lies=["hidden-step"]), edge("base", "", "DECLARED"))
    page = render_audit(audit(*edges)) if name == "audit" else render_clearance(clearance("unrelated", "unrelated"))
    golden(f"sheet-{name}.html", re.sub(r"<style>.*?</style>", "<style/>", page, flags=re.DOTALL))


def test_an_edge_is_drawn_as_it_stands() -> None:
    drawn = tree_figure(audit(edge("a", "x"), edge("b", "x", "DECLARED"), edge("c", "x", "CONTRADICTED")))
    assert drawn.count('stroke-dasharray="5 4"') == 1
    assert drawn.count('stroke-dasharray="1.4 4.6"') == 1
    assert "x to a: finetune: CORROBORATED" in drawn


def test_a_circle_of_claims_is_drawn_and_ends() -> None:
    assert "family tree" in tree_figure(audit(edge("a", "b"), edge("b", "a"), edge("c", "c")))


def test_the_gravest_edge_that_was_compared_is_shown() -> None:
    edges = [edge("c", "", "CONTRADICTED"), edge("b", "x", "SUSPECT"), edge("a", "x")]
    found = main_edge(edges)
    assert found is not None
    assert found.child_name == "b"
    assert main_edge([edge("a", "")]) is None


def test_names_in_hostile_files_stay_text() -> None:
    page = render_audit(audit(edge("<img src=x onerror=1>", "a\u202eb"), edge("x" * 900, "base")))
    assert "<img" not in page
    assert "\u202e" not in page


def test_only_what_was_excluded_is_cleared() -> None:
    assert answer_sentence(clearance("unrelated", "unrelated")) == "tested against 2 models, no relation found"
    assert answer_sentence(clearance("inconclusive", "unrelated")).startswith("not cleared")
    assert answer_sentence(clearance("related", "unrelated")) == "not cleared: m0 is related"


@pytest.mark.slow
def test_the_sheets_fit_a_page_of_paper(tmp_path: Path) -> None:
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("no browser to print with")
    edges = [edge(f"model-number-{n}", f"model-number-{n - 1}", "CONTRADICTED") for n in range(1, 9)]
    more = {"lies": ["hidden-step", "swapped-sibling"], "why": "because " * 60}
    edges = [one.model_copy(update=more) for one in edges]
    decoys = [Decoy(location=f"other-{n}", verdict="unrelated", score=2.0 + n) for n in range(6)]
    names = ("left", "right", "mixed", "grown")
    small = [edge(name, "base").model_copy(update={**more, "decoys": decoys}) for name in names] + [
        edge("stranger", "")
    ]
    told = [audit(*edges), audit(*small)]
    banked = {"bank_scores": [1.5 + n / 100 for n in range(528)]}
    told = [one.model_copy(update={"result": one.result.model_copy(update=banked)}) for one in told]
    pages = [render_audit(one) for one in told]
    sheets = [page[: page.index("<h2>")] + "</body></html>" for page in pages]
    cleared = render_clearance(clearance(*["unrelated"] * 40))
    for name, text in (("many", sheets[0]), ("few", sheets[1]), ("clearance", cleared)):
        (tmp_path / f"{name}.html").write_text(text, encoding="utf-8")
        out = tmp_path / f"{name}.pdf"
        subprocess.run(
            [browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer",
             f"--print-to-pdf={out}", f"file://{tmp_path}/{name}.html"],
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip
        assert re.findall(rb"/Count (\d+)", out.read_bytes()) == [b"1"], name
