"""Writes merged.safetensors beside itself: what mergekit makes of `tiny_family.RECIPES`. Run by hand, not by tests.

    python -m venv peer && peer/bin/pip install mergekit==0.1.5
    peer/bin/python tests/golden/mergekit/make.py

The version that ran is in the metadata of the file.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from safetensors.numpy import load_file, save_file
from tiny_family import CONFIG, RECIPES, family


def main() -> None:
    """Merge by every recipe."""
    merged = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name, tensors in family().items():
            (folder / name).mkdir()
            save_file(tensors, folder / name / "model.safetensors", {"format": "pt"})
            (folder / name / "config.json").write_text(json.dumps(CONFIG))
        for name, text in RECIPES.items():
            for model in ("base", "first", "second"):
                text = text.replace(f"model: {model}", f"model: {folder / model}")
            (folder / f"{name}.yaml").write_text(text)
            command = [str(Path(sys.executable).parent / "mergekit-yaml"), f"{name}.yaml", f"out-{name}"]
            subprocess.run(command, cwd=folder, check=True)
            for file in sorted((folder / f"out-{name}").glob("*.safetensors")):
                merged |= {f"{name}/{tensor}": array for tensor, array in load_file(file).items()}
    metadata = {"mergekit": version("mergekit"), "torch": version("torch")}
    save_file(merged, Path(__file__).parent / "merged.safetensors", metadata)


if __name__ == "__main__":
    main()
