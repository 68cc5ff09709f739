"""Results of steps that a recipe has since changed: set aside in the folder of the family, and taken back.

    runs/FAMILY/NAME                     what the recipe says now
    runs/FAMILY/earlier/NAME-DIGEST12    what it said before, whole, under the digest of what it was made of

Law  nothing is removed: a step that is made anew leaves what was there, and a recipe that is changed back finds it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from pedigree.cli.train_results import RESULT

if TYPE_CHECKING:
    from pedigree.cli.workplace import Workplace

FOLDER = "earlier"


def made_of_before(folder: Path) -> str | None:
    """The digest of what the result in a folder was made of; None where no result was finished there."""
    try:
        kept = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        return str(kept["made_of"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def set_aside(place: Workplace, name: str) -> Path:
    """Move what there is of a step out of the way, and say where it went.

    Returns:
        Where it is now.
    """
    folder = place.output / name
    was = made_of_before(folder)
    kept = _free(place.output / FOLDER, f"{name}-{_short(was)}" if was else f"{name}-unfinished")
    kept.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(kept)
    place.warn(f"{name} has changed since it was made; what was made before is kept in {kept}, {name} is made anew")
    return kept


def take_back(place: Workplace, name: str, digest: str) -> bool:
    """Whether an earlier result made of the same was there; it is then in its place, the present one set aside.

    Args:
        place: where the family is made.
        name: of the step.
        digest: of all that decides the weights, now.
    """
    kept = place.output / FOLDER / f"{name}-{_short(digest)}"
    if made_of_before(kept) != digest:
        return False
    if (place.output / name).exists():
        set_aside(place, name)
    kept.rename(place.output / name)
    return True


def _short(digest: str) -> str:
    return digest.rpartition(":")[2][:12]


def _free(folder: Path, name: str) -> Path:
    """A name that nothing has yet."""
    taken = folder / name
    number = 2
    while taken.exists():
        taken = folder / f"{name}.{number}"
        number += 1
    return taken
