"""Kill -9 at any moment of any path through the engine: the target is absent, or complete, and never silently wrong."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.surgery.surgery_models import operate, quick_folder, write_model, write_recipe

# Tiles of a few numbers, so that a run takes long enough to be killed in its middle.
PROGRAM = """
import sys
import pedigree.surgery.engine as engine
import pedigree.surgery.journal as journal
import pedigree.surgery.plan as plan
plan.TILE_ELEMENTS, engine.RAW_BYTES, journal._EVERY_BYTES = 512, 4096, 1 << 16
from pedigree.cli.main import main
sys.exit(main(sys.argv[1:]))
"""

# One operator of every path: what each of them makes the engine do.
PATHS: dict[str, list[Any]] = {
    "computed tiles": [{"cast": {"to": "bfloat16"}}],
    "copied bytes": [{"grow.depth": {"op": "identity", "after": "every 2"}}],
    "random numbers": [{"grow.ffn": {"to": 700, "op": "copy", "noise": {"antisym": 0.3}}}],
    "statistics first": [{"prune.ffn": {"to": 300}}],
    "looks at one tensor": [
        {"merge": {"method": "ties", "base": "source", "models": [{"model": "other", "weight": 1, "density": 0.4}]}}
    ],
    "a change of basis": [{"launder.rotate": {"block": 16}}],
    "experts": [{"moe.upcycle": {"experts": 4, "top_k": 2}}],
}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != "surgery.json"}


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
def test_whatever_is_killed_goes_on_to_the_same_bytes(path: str) -> None:
    with quick_folder() as folder:
        sizes = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 6}
        source = write_model(folder / "source", "llama", dtype=torch.float32, **sizes)
        other = write_model(folder / "other", "llama", seed=1, **sizes)
        more: dict[str, Any] = {"models": {"other": str(other)}, "allow": "nfp", "into": {"link": False}}
        operate(source, folder / "whole", PATHS[path], **more)
        before = contents(source)
        more["into"] = {"link": False}
        recipe = write_recipe(source, folder / "target", PATHS[path], **more)
        command = [sys.executable, "-c", PROGRAM, "surgery", "run", str(recipe), "--unrecorded", "--quiet"]
        killed = 0
        for wait in (0.0, 0.05, 0.2):
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            until = time.monotonic() + 120
            journal = folder / "target.partial" / "journal.jsonl"
            lines = journal.read_bytes().count(b"\n") if journal.exists() else 0
            # Past what an earlier run has entered, so that each one is killed at work and not while it starts.
            while process.poll() is None and time.monotonic() < until:
                if journal.exists() and (lines == 0 or journal.read_bytes().count(b"\n") > lines):
                    break
                time.sleep(0.002)
            time.sleep(wait)
            process.send_signal(signal.SIGKILL)
            killed += process.wait() == -signal.SIGKILL
            assert contents(source) == before
            if (folder / "target").exists():
                break
        assert killed
        if not (folder / "target").exists():
            operate(source, folder / "target", PATHS[path], **{**more, "into": {"link": False}})
        assert contents(folder / "whole") == contents(folder / "target")
        assert not (folder / "target.partial").exists()
