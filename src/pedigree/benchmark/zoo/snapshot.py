"""A model at rest: tensors under their on-disk names, a config, a tokenizer.

Operators of the zoo take a Snapshot and return a new one; they never change their argument.

Law  load(save(s)) equals s: same tensors bit for bit, same config, same tokenizer.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pedigree.errors import MissingInput

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Snapshot:
    """Weights, config and tokenizer of one model.

    Args:
        config: the parsed config.json.
        tensors: on-disk name -> tensor, matrices [out, in] unless the architecture stores them otherwise.
        tokenizer: text of the tokenizer.json.
        n_shards: number of weight files to write; with more than one there is an index.
    """

    config: Mapping[str, Any]
    tensors: Mapping[str, torch.Tensor] = field(repr=False)
    tokenizer: str = field(repr=False)
    n_shards: int = 1

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return int(self.config.get("num_hidden_layers") or self.config["n_layer"])

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.config.get("hidden_size") or self.config["n_embd"])

    def changed(
        self,
        tensors: Mapping[str, torch.Tensor] | None = None,
        config: Mapping[str, Any] | None = None,
        tokenizer: str | None = None,
    ) -> Snapshot:
        """A copy with some tensors and some config keys replaced."""
        return replace(
            self,
            tensors={**self.tensors, **(tensors or {})},
            config={**self.config, **(config or {})},
            tokenizer=self.tokenizer if tokenizer is None else tokenizer,
        )

    def save(self, directory: Path) -> None:
        """Write a Hugging Face style directory in one rename; an older one of that name is replaced."""
        with replaced_directory(directory) as part:
            (part / "config.json").write_text(json.dumps(dict(self.config), indent=2, sort_keys=True) + "\n")
            (part / "tokenizer.json").write_text(self.tokenizer)
            self._save_tensors(part)

    def _save_tensors(self, directory: Path) -> None:
        from safetensors.torch import save_file

        names = sorted(self.tensors)
        where: dict[str, str] = {}
        for shard in range(self.n_shards):
            file = f"model-{shard + 1:05d}-of-{self.n_shards:05d}.safetensors"
            if self.n_shards == 1:
                file = "model.safetensors"
            # Dealt out like cards, so that neighbors end up in different files.
            dealt = {name: self.tensors[name].contiguous().clone() for name in names[shard :: self.n_shards]}
            save_file(dealt, directory / file, metadata={"format": "pt"})
            where.update(dict.fromkeys(dealt, file))
        if self.n_shards > 1:
            n_bytes = sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())
            index = {"metadata": {"total_size": n_bytes}, "weight_map": where}
            (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")

    @staticmethod
    def load(directory: Path) -> Snapshot:
        """Read a directory written by `save` or by transformers.

        Raises:
            MissingInput: a file is absent.
        """
        from safetensors.torch import load_file

        files = sorted(directory.glob("model*.safetensors"))
        for name in ("config.json", "tokenizer.json", *([] if files else ["model.safetensors"])):
            if not (directory / name).is_file():
                raise MissingInput("a zoo model is incomplete", where=str(directory), expected=name)
        tensors: dict[str, torch.Tensor] = {}
        for file in files:
            tensors.update(load_file(file))
        return Snapshot(
            config=json.loads((directory / "config.json").read_text()),
            tensors=tensors,
            tokenizer=(directory / "tokenizer.json").read_text(),
            n_shards=len(files),
        )


@contextmanager
def replaced_directory(directory: Path) -> Iterator[Path]:
    """A scratch directory beside `directory`, renamed to it when the block ends well, removed when it does not."""
    part = directory.with_name(f".{directory.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        shutil.rmtree(directory, ignore_errors=True)
        part.rename(directory)
    finally:
        shutil.rmtree(part, ignore_errors=True)
