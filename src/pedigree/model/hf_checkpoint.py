"""Decoders to and from Hugging Face directories: config.json and safetensors, nothing lost either way.

Export writes to a temporary name beside the target, syncs, and renames; import goes through the readers of
`pedigree.weights` and holds one stored tensor at a time beside the decoder.

Laws
1. `import_checkpoint(export_checkpoint(m))` has the same config and the same numbers, bit for bit.
2. Every stored tensor is accounted for: one that the config does not explain is an error, not a shrug.
3. No file is overwritten unless asked.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from pedigree.errors import InputError, MalformedFile, MissingInput, OutputExists
from pedigree.model.config import ModelConfig
from pedigree.model.decoder import Decoder
from pedigree.model.hf_config import choose_dialect, config_from_hf, config_to_hf
from pedigree.model.hf_dialects import Dialect
from pedigree.model.hf_layout import Slot, View, empty_state, slots
from pedigree.weights.checkpoint import Checkpoint, open_checkpoint

MAX_SHARD_BYTES = 5 * 10**9
_MIXED = "take config.json and weights of one model; these are of two"
_INDEX = "model.safetensors.index.json"
_WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?|pytorch_model.*")
# Buffers that old classes stored and that hold no knowledge.
_CONSTANTS = re.compile(r"(.*\.)?(rotary_emb\.inv_freq|attn\.bias|attn\.masked_bias)$")


# Some writers store a tied head too.
_TIED_HEAD = Slot("lm_head.weight", (View("embed.weight"),), is_copy=True)


def plan(config: ModelConfig, dialect: Dialect) -> list[Slot]:
    """Every stored tensor of a decoder in a dialect; our own type keeps our names."""
    names = dialect.names(config)
    if names is None:
        return [Slot(name, (View(name),)) for name in empty_state(config)]
    return slots(config, names)


# -- export -----------------------------------------------------------------------------------------------------------


def export_checkpoint(
    model: Decoder,
    directory: str | os.PathLike[str],
    *,
    dialect: str | None = None,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    extra_keys: Mapping[str, Any] | None = None,
    force: bool = False,
) -> Path:
    """Write a decoder as config.json and model.safetensors.

    Args:
        model: the decoder, whole on this process.
        directory: where; made if need be.
        dialect: a model type; None takes the native class of transformers where one computes the same.
        dtype: type to store floating-point tensors in; None keeps theirs.
        max_shard_bytes: above this the weights are split, with an index.
        extra_keys: further keys of config.json (bos_token_id, eos_token_id and the like).
        force: replace what an earlier export wrote there; other files stay.

    Returns:
        The directory.

    Raises:
        UsageError: the dialect does not fit.
        OutputExists: weights or a config are there already, and not `force`.
    """
    return export_state(
        model.config,
        model.state_dict(),
        directory,
        dialect=dialect,
        dtype=dtype,
        max_shard_bytes=max_shard_bytes,
        extra_keys=extra_keys,
        force=force,
    )


def export_state(
    config: ModelConfig,
    state: Mapping[str, Tensor],
    directory: str | os.PathLike[str],
    *,
    dialect: str | None = None,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    extra_keys: Mapping[str, Any] | None = None,
    force: bool = False,
) -> Path:
    """As `export_checkpoint`, from a state dict gathered elsewhere (sharded training)."""
    target, chosen = Path(directory), choose_dialect(config, dialect)
    present = sorted(p.name for p in target.iterdir() if _is_ours(p.name)) if target.is_dir() else []
    if present and not force:
        raise OutputExists(
            "A model is there already",
            where=str(target),
            got=", ".join(present[:3]),
            fix="--force, or another directory",
        )
    layout = plan(config, chosen)
    kind = dtype or next(t.dtype for t in state.values() if t.is_floating_point())
    keys = {**config_to_hf(config, chosen), "torch_dtype": str(kind).removeprefix("torch."), **(extra_keys or {})}
    shards = _shards(layout, state, dtype, max_shard_bytes)
    with _arriving(target, present) as folder:
        weight_map: dict[str, str] = {}
        for number, shard in enumerate(shards, start=1):
            name = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            tensors = {slot.name: _stored(slot, state, dtype) for slot in shard}
            _save(tensors, folder / name)
            weight_map |= dict.fromkeys(tensors, name)
        if len(shards) > 1:
            total = sum(_bytes(slot, state, dtype) for slot in layout)
            _write_json(folder / _INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
        _write_json(folder / "config.json", keys)
    return target


def _is_ours(name: str) -> bool:
    return name == "config.json" or _WEIGHTS.fullmatch(name) is not None


def _kept_type(tensor: Tensor, dtype: torch.dtype | None, name: str) -> torch.dtype:
    """Selection biases stay float32, tables of ids stay integers."""
    if dtype is None or not tensor.is_floating_point() or name.endswith("e_score_correction_bias"):
        return tensor.dtype
    return dtype


def _stored(slot: Slot, state: Mapping[str, Tensor], dtype: torch.dtype | None) -> Tensor:
    value = slot.value(state).detach()
    stored = value.to(device="cpu", dtype=_kept_type(value, dtype, slot.name)).contiguous()
    return stored.clone() if slot.is_copy else stored  # safetensors refuses two names for one place in memory


def _bytes(slot: Slot, state: Mapping[str, Tensor], dtype: torch.dtype | None) -> int:
    first = slot.views[0].of(state)
    numbers = sum(view.of(state).numel() for view in slot.views)
    return numbers * _kept_type(first, dtype, slot.name).itemsize


def _shards(
    layout: list[Slot], state: Mapping[str, Tensor], dtype: torch.dtype | None, max_bytes: int
) -> list[list[Slot]]:
    """Slots in order, split before a shard would grow beyond the limit."""
    shards: list[list[Slot]] = [[]]
    size = 0
    for slot in layout:
        n_bytes = _bytes(slot, state, dtype)
        if shards[-1] and size + n_bytes > max_bytes:
            shards.append([])
            size = 0
        shards[-1].append(slot)
        size += n_bytes
    return shards


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    """Write one file of weights; what the library could not do is told as the system said it."""
    try:
        save_file(tensors, str(path), metadata={"format": "pt"})
    except SafetensorError as error:
        raise InputError(
            "the weights could not be written", where=str(path.parent.parent), got=str(error).rpartition("error: ")[2],
            fix="free some space, or write elsewhere; the same command starts again",
        ) from error  # fmt: skip


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@contextmanager
def _arriving(target: Path, stale: list[str]) -> Iterator[Path]:
    """A temporary folder whose files arrive in the target synced and whole, config.json last, or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
    try:
        yield folder
        for path in folder.iterdir():
            _sync(path)
        _sync(folder)
        if not target.exists():
            folder.chmod(0o755)
            folder.rename(target)
        else:
            arrivals = sorted(folder.iterdir(), key=lambda path: path.name == "config.json")
            for path in arrivals:
                path.replace(target / path.name)
            for name in set(stale) - {path.name for path in arrivals}:
                (target / name).unlink()
            _sync(target)
        _sync(target.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sync(path: Path) -> None:
    """Force a file or a folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# -- import -----------------------------------------------------------------------------------------------------------


def import_checkpoint(
    location: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    allow_pickle: bool = False,
) -> Decoder:
    """The decoder in a Hugging Face directory, in evaluation mode.

    Args:
        location: a directory, or hf://org/name, as `pedigree.weights.checkpoint.open_checkpoint` takes them.
        dtype: type of the parameters; None takes the one most stored tensors have.
        device: where to put it.
        allow_pickle: read torch pickles, weights only.

    Raises:
        MissingInput: no config.json, or tensors are missing.
        MalformedFile: shapes contradict the config, or there are tensors that it does not explain.
        UsageError: a model type or mechanism that is not built here.
    """
    with open_checkpoint(location, allow_pickle=allow_pickle) as checkpoint:
        if not checkpoint.config:
            raise MissingInput(
                "A model needs its config",
                where=str(location),
                expected="config.json beside the weights",
                fix="name the folder that holds the model, or copy its config.json there",
            )
        config, dialect = config_from_hf(checkpoint.config, where=f"{location}: config.json")
        layout = plan(config, dialect)
        _check(checkpoint, layout, config)
        with torch.device("meta"):
            model = Decoder(config)
        _set_type(model, dtype or _common_type(checkpoint))  # before memory is taken
        model.to_empty(device=device)
        state = model.state_dict()
        with torch.no_grad():
            for slot in layout:
                if not slot.is_copy:
                    slot.fill(state, checkpoint.read(slot.name))
            copies = [slot for slot in layout if slot.is_copy] + ([_TIED_HEAD] if config.tied else [])
            for slot in copies:
                if slot.name in checkpoint.tensors:
                    _check_copy(slot, state, checkpoint)
    return model.eval()


def _set_type(model: Decoder, dtype: torch.dtype) -> None:
    """Parameters in a type; selection biases stay float32, tables integers."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def _common_type(checkpoint: Checkpoint) -> torch.dtype:
    """The type of most stored numbers."""
    counts: dict[str, int] = {}
    for info in checkpoint.tensors.values():
        counts[info.dtype] = counts.get(info.dtype, 0) + torch.Size(info.shape).numel()
    commonest = max(counts, key=lambda name: counts[name])
    return checkpoint.read_rows(next(n for n, i in checkpoint.tensors.items() if i.dtype == commonest), 0, 1).dtype


def _check(checkpoint: Checkpoint, layout: list[Slot], config: ModelConfig) -> None:
    """Hold the stored tensors against the plan.

    Raises:
        MissingInput: a tensor is not there.
        MalformedFile: a tensor has another shape, or nobody asked for it.
    """
    state, planned = empty_state(config), {slot.name for slot in layout}
    for slot in layout:
        info = checkpoint.tensors.get(slot.name)
        if info is None:
            if slot.is_copy:
                continue
            raise MissingInput(
                "A tensor that the config asks for is missing",
                where=checkpoint.location,
                expected=slot.name,
                fix=_MIXED,
            )
        if tuple(info.shape) != slot.shape(state):
            raise MalformedFile(
                "A tensor has another shape than the config says",
                where=f"{checkpoint.location}: {slot.name}",
                got=tuple(info.shape),
                expected=slot.shape(state),
                fix=_MIXED,
            )
    tied = {_TIED_HEAD.name} if config.tied else set()
    extra = sorted(n for n in set(checkpoint.tensors) - planned - tied if not _CONSTANTS.fullmatch(n))
    if extra:
        raise MalformedFile(
            "There are tensors that the config does not explain",
            where=checkpoint.location,
            got=f"{len(extra)}, the first is {extra[0]}",
            expected="no tensor beyond those of the model type",
            fix=_MIXED,
        )


def _check_copy(slot: Slot, state: Mapping[str, Tensor], checkpoint: Checkpoint) -> None:
    """A repeated table must repeat: a decoder of ours has one.

    Raises:
        MalformedFile: it holds other numbers.
    """
    if not slot.agrees(state, checkpoint.read(slot.name)):
        raise MalformedFile(
            "A tensor that must repeat another holds other numbers",
            where=f"{checkpoint.location}: {slot.name}",
            expected=f"the numbers of {slot.views[0].name}",
        )
