"""The release of a model: checked, credited, entered, and made to carry its proof."""

from __future__ import annotations

from pathlib import Path

from pedigree.cli.errors import DONE
from pedigree.cli.ledger_options import open_store, print_json
from pedigree.cli.ledger_policy import judged
from pedigree.cli.output import Output
from pedigree.errors import UsageError

OWN_RULES = ("release", "signers", "signatures", "anchored")
"""What only a release itself can bring, or whoever holds a checkpoint can say."""


def release_model(folder: Path, place: str | None, policy: Path | None, out: Output) -> int:
    """Enter the release of a model.

    Args:
        folder: the model.
        place: the ledger, as it was named.
        policy: rules that it must keep.
        out: who is told.

    Raises:
        UsageError: its record is not in order, or a rule is not kept.
    """
    from pedigree.ledger.directory import look_at
    from pedigree.ledger.log import Ledger, LedgerPlace
    from pedigree.ledger.release import release
    from pedigree.ledger.verification import verify

    store = open_store(place)
    found, rules = look_at(folder), ""
    if policy is not None:
        rulings, rules = judged(policy, found, verify(store))
        missing = [item for item in rulings if not item.passes and item.rule not in OWN_RULES]
        if missing:
            raise UsageError(
                "the policy does not allow this release", where=str(policy),
                got=f"{missing[0].rule}: {missing[0].sentence}", expected=f"{len(rulings)} rules kept",
                fix=f"pedigree ledger verify {folder} --policy {policy}",
            )  # fmt: skip
    store.database.close()
    made = release(Ledger(LedgerPlace.find(place)), found, rules)
    if made.problems:
        raise UsageError(
            "the record of this model is not in order", where=str(folder), got=made.problems[0].sentence,
            expected="an artifact of the ledger without problems", fix=f"pedigree ledger verify {folder}",
        )  # fmt: skip
    if out.mode == "json":
        print_json(out, "ledger export", {"release": str(folder)}, made.to_dict())
    else:
        out.result(f"{folder}/pedigree.json holds the proof: {made.entries} entries, {made.size:,} bytes")
        out.note(f"anybody checks it with: pedigree ledger verify {folder}")
    return DONE
