"""While libraries are loaded the garbage collector rests, and goes on as it was."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from pedigree.cli.loading import loading

SCRIPT = """
import gc
from pedigree.cli.loading import loading
before = gc.get_freeze_count()
with loading():
    asleep = not gc.isenabled()
    import decimal
print(asleep, gc.isenabled(), gc.get_freeze_count() > before)
"""


def test_the_collector_rests_and_passes_over_what_was_loaded() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True", "True"]


def test_a_library_that_fails_to_load_leaves_the_collector_on() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_library"), loading():
        import no_such_library  # type: ignore[import-not-found]  # noqa: F401
    assert gc.isenabled()
    gc.unfreeze()
