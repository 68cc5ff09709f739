"""What the member of 718 billion parameters would take, from its recipe; nothing is allocated.

python examples/plan_718b.py
"""

from __future__ import annotations

from pathlib import Path

from pedigree.family.plan import PlanOptions, plan_recipe
from pedigree.family.recipe import read_recipe

RECIPE = Path(__file__).resolve().parent.parent / "recipes" / "pangu-ultra-moe.yaml"


def main() -> None:
    """Parameters, memory of the fullest device, operations."""
    (step,) = plan_recipe(read_recipe(RECIPE), PlanOptions(size="real")).result.steps
    count, memory = step.parameters, step.memory
    active = count.active_without_embedding
    print(f"{step.name}: {count.total / 1e9:.1f} billion parameters, {active / 1e9:.1f} billion in a token")
    print(f"{step.mesh.devices:,} devices, {memory.total / 2**30:.1f} GiB on the fullest")
    print(f"{step.operations.training / 1e9:.0f} GFLOP a token in training, {step.tokens / 1e12:.0f} trillion tokens")


if __name__ == "__main__":
    main()
