"""A family made by `pedigree run` from a recipe that an experiment writes, and the numbers of its models."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from trials import command

from pedigree.training.metrics import read_metrics


def settings(about: str) -> argparse.Namespace:
    """The words of the command of an experiment that is one family; `tokens` are those of its longest run."""
    return command(about, "tokens").parse_args()


def made(
    recipe: dict[str, Any], folder: Path, *, draw: bool, ledger: Path | None = None
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """The members of the family by name, as its record tells them; what is there and unchanged is kept.

    Args:
        recipe: what to make.
        folder: where it is made.
        draw: make nothing, read what is there.
        ledger: a ledger of its own, for an experiment that asks for one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe, indent=1), encoding="utf-8")  # JSON is YAML, without anchors
    if not draw:
        words = [sys.executable, "-m", "pedigree", "run", path, "--out", folder / "family", "--no-compare"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **({"PEDIGREE_LEDGER": str(ledger)} if ledger else {})}
        subprocess.run([str(word) for word in words], check=True, env=environment, stdout=subprocess.DEVNULL)
    record = json.loads((folder / "family" / "family.json").read_text(encoding="utf-8"))
    return {member["name"]: member for member in record["result"]["members"]}


def curve(folder: Path, name: str, domain: str, tokens_per_step: int) -> list[tuple[int, float]]:
    """Tokens and bits per byte of held-out text, wherever the run was evaluated on its way."""
    key = f"bits_per_byte/{domain}"
    rows = read_metrics(folder / "family" / name / "metrics.jsonl")
    return [((row["step"] + 1) * tokens_per_step, row[key]) for row in rows if key in row]


def bits(member: dict[str, Any], domain: str) -> float:
    """Bits per byte of a member on a domain."""
    return next(float(score["bits_per_byte"]) for score in member["scores"] if score["domain"] == domain)
