"""The rules of a policy, as `pedigree ledger verify --policy` and a release hold them against a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pedigree.cli.options import INPUT
from pedigree.cli.output import Line, Span

if TYPE_CHECKING:
    from pedigree.ledger.directory import Found
    from pedigree.ledger.rules import Ruling
    from pedigree.ledger.verification import Verification


PolicyOption = Annotated[
    Path | None,
    typer.Option(
        "--policy", metavar="FILE", help="Hold DIR against these rules; exit with 1 where one is not kept.",
        envvar="PEDIGREE_POLICY", rich_help_panel=INPUT, show_default=False,
    ),
]  # fmt: skip


def judged(file: Path, found: Found, report: Verification) -> tuple[list[Ruling], str]:
    """Hold the rules in a file against a model.

    Args:
        file: the policy.
        found: the model.
        report: the verification of its ledger or of its proof, with what its files say.

    Returns:
        A ruling for each rule, and the digest of the policy.

    Raises:
        MissingInput, ProblemsFound: the policy cannot be read.
    """
    from pedigree.ledger.card import card_license
    from pedigree.ledger.lineage import Lineage
    from pedigree.ledger.passport import passport_of
    from pedigree.ledger.rules import Case, judge
    from pedigree.records.policy import read_policy

    policy, digest = read_policy(file)
    folder = found.folder if found.folder.is_dir() else found.folder.parent
    passport = passport_of(report, found.digest, license_=card_license(folder))
    life = set(Lineage.of_entries(report.entries).closure(found.digest))
    problems = [item for item in report.problems if item.entry is None or item.entry in life]
    return judge(policy, Case(passport, report, problems)), digest


def ruling_lines(rulings: Sequence[Ruling], digest: str) -> list[Line]:
    """The rulings for a terminal: what is missing first."""
    passed = sum(ruling.passes for ruling in rulings)
    lines: list[Line] = [(Span(f"{'policy':<12}", "bold"), Span(f"{passed} of {len(rulings)} rules, {digest[:19]}"))]
    for ruling in sorted(rulings, key=lambda item: item.passes):
        word, style = ("kept", "green") if ruling.kept else ("not kept", "bold red")
        told = ruling.sentence
        if ruling.waived_by is not None:
            word, style = "set aside", "bold yellow"
            told += f"; entry {ruling.waived_by}, {ruling.waiver}"
        lines.append((Span(f"{'rule':<12}", "bold"), Span(f"{word:<13}", style), Span(f"{ruling.rule}: {told}")))
    return lines


def rulings_dict(rulings: Sequence[Ruling], digest: str) -> dict[str, Any]:
    """As JSON has it."""
    return {
        "policy": digest, "passes": all(item.passes for item in rulings),
        "rules": [item.to_dict() for item in rulings],
    }  # fmt: skip
