"""LoRA in and out: an adapter's matrices found by the module they belong to, and a difference as a product of two.

Law     in: W' = W + s B A with s = alpha / rank (alpha / sqrt(rank) for rank-stabilized adapters), computed in float32
        and rounded once. What rounding took away is measured: |round(W + D) - W - D| / |D|.
        out: the best approximation of W' - W of a rank in the Frobenius norm (Eckart and Young 1936); its error is the
        root of the sum of the squares of the singular values that were left out.
Source  LoRA 2106.09685; rsLoRA 2312.03732; DoRA 2402.09353; file layout: peft, `adapter_config.json`.

Shapes  O = rows (out), I = columns (in), r = rank
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pedigree.errors import MalformedFile, MissingInput, PedigreeError, ProblemsFound, UsageError
from pedigree.weights.checkpoint import Checkpoint, open_checkpoint

if TYPE_CHECKING:
    import torch

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_MAX_CONFIG = 1 << 20
_PREFIX = "base_model.model."
_NAME = re.compile(
    r"^(?:base_model\.model\.)?(?P<module>.+?)\.(?P<kind>lora_A|lora_B|lora_embedding_A|lora_embedding_B|"
    r"lora_magnitude_vector)(?:\.default)?(?:\.weight)?$"
)


@dataclass
class Adapter:
    """A peft adapter on disk.

    Attributes:
        checkpoint: its weights, open.
        pairs: for each module (name of the base tensor without ".weight") the names of its A and B.
        magnitudes: names of the row lengths of DoRA modules.
        whole: base tensors that the adapter replaces: name in the base -> name in the adapter.
        config: its config.
    """

    checkpoint: Checkpoint
    pairs: dict[str, tuple[str, str]]
    magnitudes: dict[str, str]
    whole: dict[str, str]
    config: Mapping[str, Any] = field(default_factory=dict)

    def scale(self, module: str) -> float:
        """What B A is multiplied by in one module; patterns of ranks and alphas count."""
        rank = self._pattern("rank_pattern", module, self.config.get("r"))
        alpha = self._pattern("alpha_pattern", module, self.config.get("lora_alpha", rank))
        if rank <= 0:
            raise MalformedFile("the adapter has no rank", where=f"{CONFIG}: {module}", got=rank)
        return float(alpha / (rank**0.5 if self.config.get("use_rslora") else rank))

    def _pattern(self, key: str, module: str, default: Any) -> float:
        patterns = self.config.get(key)
        if isinstance(patterns, Mapping):
            for pattern, value in patterns.items():
                if module == pattern or module.endswith(f".{pattern}"):
                    default = value
        if isinstance(default, bool) or not isinstance(default, int | float):
            raise MalformedFile("not a number", where=f"{CONFIG}: {key}", got=f"{default!r:.40}")
        return float(default)


def read_adapter(location: str) -> Adapter:
    """Open an adapter; reads its config and headers.

    Raises:
        MissingInput: no adapter_config.json.
        ProblemsFound: tensors without a partner, or of a kind that is not known.
    """
    folder = Path(location)
    file = folder / CONFIG
    if not file.is_file():
        raise MissingInput("no adapter is there", where=str(folder), expected=f"{CONFIG} and {WEIGHTS}")
    try:
        config = json.loads(file.read_bytes()[:_MAX_CONFIG])
    except (ValueError, RecursionError) as error:
        raise MalformedFile("the config of the adapter is not JSON", where=str(file), got=str(error)[:80]) from error
    if not isinstance(config, dict):
        raise MalformedFile("the config of the adapter is not a mapping", where=str(file))
    if config.get("peft_type", "LORA") != "LORA":
        raise UsageError("only LoRA adapters are merged", where=str(file), got=config.get("peft_type"))
    if config.get("fan_in_fan_out") is True and config.get("use_dora"):
        raise UsageError("DoRA on transposed storage is not supported", where=str(file))
    checkpoint = open_checkpoint(folder / WEIGHTS)
    found: dict[str, dict[str, str]] = {}
    whole: dict[str, str] = {}
    for name in checkpoint.tensors:
        match = _NAME.match(name)
        if match is None:
            whole[name.removeprefix(_PREFIX).replace(".modules_to_save", "")] = name
        else:
            found.setdefault(match["module"], {})[match["kind"]] = name
    pairs: dict[str, tuple[str, str]] = {}
    problems: list[PedigreeError] = []
    for module, kinds in found.items():
        a, b = (kinds.get(f"lora_{s}") or kinds.get(f"lora_embedding_{s}") for s in "AB")
        if a is None or b is None:
            problems.append(MalformedFile("an adapter matrix has no partner", where=module, got=", ".join(kinds)))
        else:
            pairs[module] = (a, b)
    if problems:
        raise ProblemsFound(str(folder), problems)
    magnitudes = {m: kinds["lora_magnitude_vector"] for m, kinds in found.items() if "lora_magnitude_vector" in kinds}
    return Adapter(checkpoint, pairs, magnitudes, whole, config)


def factors(adapter: Adapter, module: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Scaled B [O, r] and A [r, I] of a module, float32, so that their product is what is added.

    Those of an embedding are stored the other way round, A [r, V] and B [d, r]: the table gets (B A)^T.
    """
    a_name, b_name = adapter.pairs[module]
    a, b = adapter.checkpoint.read(a_name).float(), adapter.checkpoint.read(b_name).float()
    if a.dim() != 2 or b.dim() != 2 or a.shape[0] != b.shape[1]:
        raise MalformedFile(
            "the matrices of an adapter do not fit each other",
            where=module,
            got=f"A {tuple(a.shape)}, B {tuple(b.shape)}",
        )
    scale = adapter.scale(module)
    if "embedding" in a_name:
        return a.T * scale, b.T
    return b * scale, a


def with_magnitude(weight_OI: torch.Tensor, length_O: torch.Tensor) -> torch.Tensor:
    """DoRA: rows of a length of their own, direction as they are; float32 [O, I]."""
    factor_O: torch.Tensor = length_O / weight_OI.norm(dim=1).clamp(min=1e-30)
    return weight_OI * factor_O[:, None]


@dataclass(frozen=True)
class Extracted:
    """A difference as a product, b_Or @ a_rI.

    Attributes:
        b_Or, a_rI: float32; each singular value is shared between both.
        squares_k: squares of the singular values of the product, largest first.
        total: square of the norm of the difference.
    """

    b_Or: torch.Tensor
    a_rI: torch.Tensor
    squares_k: tuple[float, ...]
    total: float

    def energy(self, rank: int) -> float:
        """What a product of at most this rank keeps of `total`."""
        return sum(self.squares_k[:rank])

    @property
    def error(self) -> float:
        """The share of the norm that the product leaves out; 0 of nothing."""
        return max(0.0, 1 - self.energy(len(self.squares_k)) / self.total) ** 0.5 if self.total else 0.0


EXACT_SIDE = 2048
_OVERSAMPLE, _ROUNDS = 16, 4


def extract(delta_OI: torch.Tensor, rank: int) -> Extracted:
    """The best product of a rank for a difference.

    Up to `EXACT_SIDE` by all singular values in float64; beyond by a randomized range finder with a fixed seed, whose
    product may be worse than the best by a share that the rounds make small. The error that is told is the true one.

    Args:
        delta_OI: the difference, any float type.
        rank: at most the smaller side.
    """
    import torch

    delta_OI = delta_OI.double()
    rank = min(rank, *delta_OI.shape)
    if min(delta_OI.shape) <= EXACT_SIDE:
        u_Ok, s_k, v_kI = torch.linalg.svd(delta_OI, full_matrices=False)
    else:
        start = torch.Generator().manual_seed(0)
        width = min(rank + _OVERSAMPLE, *delta_OI.shape)
        basis_Ow = delta_OI @ torch.randn(delta_OI.shape[1], width, generator=start, dtype=torch.float64)
        for _ in range(_ROUNDS):
            basis_Ow = torch.linalg.qr(basis_Ow).Q
            basis_Ow = delta_OI @ torch.linalg.qr(delta_OI.T @ basis_Ow).Q
        basis_Ow = torch.linalg.qr(basis_Ow).Q
        inner_wk, s_k, v_kI = torch.linalg.svd(basis_Ow.T @ delta_OI, full_matrices=False)
        u_Ok = basis_Ow @ inner_wk
    root_r = s_k[:rank].sqrt()
    return Extracted(
        (u_Ok[:, :rank] * root_r).float(),
        (root_r[:, None] * v_kI[:rank]).float(),
        tuple(s_k[:rank].square().tolist()),
        float(delta_OI.square().sum()),
    )


def rounding_loss(exact: torch.Tensor, stored: torch.Tensor, base: torch.Tensor) -> float:
    """|stored - exact| / |exact - base|: how much of a change rounding took away; 0 where nothing changed."""
    change = float((exact.double() - base.double()).norm())
    return float((stored.double() - exact.double()).norm()) / change if change else 0.0
