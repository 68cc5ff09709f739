"""Ask of two checkpoints whether one descends from the other: a copy with other numbers everywhere, and a stranger.

python examples/compare_checkpoints.py [FOLDER]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

from pedigree.forensics.compare import compare
from pedigree.model.decoder import Decoder
from pedigree.model.hf_checkpoint import export_checkpoint
from pedigree.model.members import member


def main(folder: Path) -> None:
    """Write three models into `folder`, compare two of them with the first."""
    shape = member("llama-3-8b-pico").replace(vocab_size=320)
    parent, child, stranger = Decoder(shape, seed=1), Decoder(shape, seed=1), Decoder(shape, seed=2)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in child.parameters():  # no number of the child is a number of its parent
            noise = torch.randn(weight.shape, generator=generator)
            weight.add_(noise, alpha=0.1 * (weight.std().item() if weight.std() > 0 else 0.1))
    for name, model in (("parent", parent), ("child", child), ("stranger", stranger)):
        export_checkpoint(model, folder / name)

    for name in ("child", "stranger"):
        record = compare(folder / "parent", folder / name, depth="standard")
        found = record.result
        print(f"parent and {name}: {found.verdict}, log10 p {found.log10_p:.1f}")
        print(f"  layers of {name} by those of parent: {found.layer_map}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            main(Path(scratch))
