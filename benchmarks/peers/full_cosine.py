"""The plain way to compare two checkpoints: the cosine of every pair of tensors of one name and one shape.

    python benchmarks/peers/full_cosine.py A B

One tensor of each at a time, in float32, with torch's own number of threads. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
from contextlib import ExitStack
from pathlib import Path

from safetensors import safe_open


def main() -> int:
    """Compare two folders of safetensors files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("a", type=Path)
    parser.add_argument("b", type=Path)
    folders = parser.parse_args()
    with ExitStack() as stack:
        left, right = ({}, {})
        for table, folder in ((left, folders.a), (right, folders.b)):
            for path in sorted(folder.glob("*.safetensors")):
                file = stack.enter_context(safe_open(path, framework="pt"))
                table.update(dict.fromkeys(file.keys(), file))
        cosines = []
        for name in sorted(left.keys() & right.keys()):
            x, y = left[name].get_tensor(name).float().flatten(), right[name].get_tensor(name).float().flatten()
            if x.shape == y.shape and x.shape[0] > 1 << 14:
                cosines.append(float(x @ y / (x.norm() * y.norm())))
    mean = sum(cosines) / len(cosines) if cosines else None
    print(json.dumps({"mean_cosine_of_matrices": mean, "matrices": len(cosines)}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
