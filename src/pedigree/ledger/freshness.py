"""How old the newest entry is: an old checkpoint cannot know of a key revoked since."""

from __future__ import annotations

from datetime import UTC, datetime

from pedigree.ledger.verdict import Problem


def age_in_days(time: str) -> float:
    """Days between the time in a leaf and now; negative where its clock was ahead."""
    return (datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds() / 86_400


def stale_problem(age_days: float | None, max_age_days: float | None) -> Problem | None:
    """STALE, where the newest entry is older than was asked for."""
    if max_age_days is None or age_days is None or age_days <= max_age_days:
        return None
    return Problem("STALE", "stale", f"the newest entry is {age_days:.1f} days old, {max_age_days:g} were allowed")
