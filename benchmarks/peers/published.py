"""A published method on whole tensors, as the benchmark of methods has it, run alone on two folders.

    python benchmarks/peers/published.py NAME A B       # NAME as in `pedigree bench run --method`

Prints one JSON object. The score has no common scale: it means something beside the score of a stranger only.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main() -> int:
    """Score B against A."""
    name, a, b = sys.argv[1:]
    from pedigree.benchmark.methods import chosen_methods
    from pedigree.benchmark.methods.model import Model

    answer = chosen_methods([name])[0].ask(Model(Path(a)), Model(Path(b)))
    print(json.dumps({"score": answer.score, "why_not": answer.why_not}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
