"""Where a ledger lies; read before anything of it is loaded, so that asking costs a training nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

FOLDER, FILE, KEYS = ".pedigree", "ledger.db", "keys"
VARIABLE = "PEDIGREE_LEDGER"


@dataclass(frozen=True)
class LedgerPlace:
    """Where a ledger and the keys of its writer lie."""

    database: str
    keys: Path

    @classmethod
    def find(cls, named: str | None = None, start: Path | None = None) -> LedgerPlace:
        """The ledger of a project.

        Args:
            named: a path or `postgresql://...`; by default PEDIGREE_LEDGER, then the nearest `.pedigree` folder above
                `start`, then the root of the repository there, then `start` itself.
            start: the folder to look from; by default the working directory.
        """
        named = named or os.environ.get(VARIABLE)
        here = (start or Path.cwd()).absolute()
        above = [here, *here.parents]
        project = next((folder for folder in above if (folder / FOLDER).is_dir()), None)
        project = project or next((folder for folder in above if (folder / ".git").exists()), here)
        if named and "://" in named:
            return cls(named, project / FOLDER / KEYS)
        if named:
            path = Path(named).absolute()
            path = path / FILE if path.is_dir() else path
            return cls(str(path), path.parent / KEYS)
        return cls(str(project / FOLDER / FILE), project / FOLDER / KEYS)
