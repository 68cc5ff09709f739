"""Matrices that files hold packed, in several tensors: what is read is what they mean."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable

import pytest
import torch
from memory_checkpoint import MemoryCheckpoint
from torch import Tensor

from pedigree.errors import InputError, MalformedFile
from pedigree.weights.anatomy import read_anatomy
from pedigree.weights.packed import unpacked

ROWS, COLS, GROUP = 48, 64, 32
Packed = tuple[dict[str, Tensor], Tensor]


def _words(codes: Tensor, bits: int) -> Tensor:
    """Codes along the last axis as int32 words, a stream from the lowest bit on, written bit by bit."""
    flags = (codes[..., None] >> torch.arange(bits)) & 1
    flags = flags.reshape(*codes.shape[:-1], -1, 32)
    return (flags << torch.arange(32)).sum(-1).to(torch.int32)


def _affine(bits: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    q_OI = torch.randint(0, 2**bits, (ROWS, COLS), generator=draw)
    scale_OG = torch.rand(ROWS, COLS // GROUP, generator=draw).half()
    zero_OG = torch.randint(1, 2**bits, (ROWS, COLS // GROUP), generator=draw)
    return q_OI, scale_OG, zero_OG


def _gptq(bits: int, *, shuffled: bool = False) -> Packed:
    q_OI, scale_OG, zero_OG = _affine(bits)
    group_I = torch.arange(COLS) // GROUP
    if shuffled:
        group_I = group_I[torch.randperm(COLS, generator=torch.Generator().manual_seed(1))]
    stored = {
        "qweight": _words(q_OI, bits).T.contiguous(),
        "qzeros": _words((zero_OG - 1).T, bits),
        "scales": scale_OG.T.contiguous(),
        "g_idx": group_I.int(),
    }
    return stored, scale_OG.float()[:, group_I] * (q_OI - zero_OG[:, group_I])


def _awq() -> Packed:
    q_OI, scale_OG, zero_OG = _affine(4)
    order = torch.tensor([0, 2, 4, 6, 1, 3, 5, 7])

    def columns(x: Tensor) -> Tensor:
        return _words(x.reshape(x.shape[0], -1, 8)[:, :, order].reshape(x.shape), 4)

    stored = {"qweight": columns(q_OI.T), "qzeros": columns(zero_OG.T), "scales": scale_OG.T.contiguous()}
    group_I = torch.arange(COLS) // GROUP
    return stored, scale_OG.float()[:, group_I] * (q_OI - zero_OG[:, group_I])


def _packed_rows(*, zeros: bool) -> Packed:
    q_OI, scale_OG, zero_OG = _affine(4)
    stored = {
        "weight_packed": _words(q_OI, 4),
        "weight_scale": scale_OG,
        "weight_shape": torch.tensor([ROWS, COLS]),
    }
    if zeros:
        stored["weight_zero_point"] = _words(zero_OG.T, 4).T.contiguous()
    group_I = torch.arange(COLS) // GROUP
    middle_OG = zero_OG if zeros else torch.full_like(zero_OG, 8)
    return stored, scale_OG.float()[:, group_I] * (q_OI - middle_OG[:, group_I])


def _mlx() -> Packed:
    q_OI, scale_OG, _ = _affine(4)
    bias_OG = -scale_OG
    group_I = torch.arange(COLS) // GROUP
    stored = {"weight": _words(q_OI, 4).view(torch.uint32), "scales": scale_OG, "biases": bias_OG}
    return stored, scale_OG.float()[:, group_I] * q_OI + bias_OG.float()[:, group_I]


def _nf4(*, nested: bool) -> Packed:
    draw = torch.Generator().manual_seed(0)
    table = torch.linspace(-1, 1, 16)
    code_OI = torch.randint(0, 16, (ROWS, COLS), generator=draw)
    flat = code_OI.reshape(-1, 2)
    n_blocks = ROWS * COLS // 64
    absmax = torch.rand(n_blocks, generator=draw)
    state = {"quant_type": "nf4", "blocksize": 64, "shape": [ROWS, COLS], "dtype": "bfloat16"}
    stored = {"weight": ((flat[:, :1] << 4) | flat[:, 1:]).to(torch.uint8), "weight.quant_map": table}
    if nested:
        level = torch.randint(0, 256, (n_blocks,), generator=draw).to(torch.uint8)
        larger, levels = torch.rand(-(-n_blocks // 32), generator=draw), torch.linspace(-1, 1, 256)
        stored |= {"weight.absmax": level, "weight.nested_absmax": larger, "weight.nested_quant_map": levels}
        state |= {"nested_blocksize": 32, "nested_offset": 0.25}
        absmax = levels[level.long()] * larger[torch.arange(n_blocks) // 32] + 0.25
    else:
        stored["weight.absmax"] = absmax
    stored["weight.quant_state.bitsandbytes__nf4"] = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
    value = table[code_OI.reshape(-1)] * absmax[torch.arange(ROWS * COLS) // 64]
    return stored, value.reshape(ROWS, COLS)


def _int8() -> Packed:
    draw = torch.Generator().manual_seed(0)
    q_OI = torch.randint(-127, 128, (ROWS, COLS), generator=draw).to(torch.int8)
    top_O = torch.rand(ROWS, generator=draw)
    return {"weight": q_OI, "SCB": top_O}, q_OI.float() * (top_O / 127)[:, None]


def _four_bit_floats() -> tuple[Tensor, Tensor]:
    """Bytes of two codes, the lower half first, and their values."""
    table = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    code_OI = torch.randint(0, 16, (ROWS, COLS), generator=torch.Generator().manual_seed(0))
    value_OI = table[code_OI & 7] * torch.where(code_OI > 7, -1.0, 1.0)
    return (code_OI[:, ::2] | (code_OI[:, 1::2] << 4)).to(torch.uint8), value_OI


def _nvfp4(*, divide: bool) -> Packed:
    raw, value_OI = _four_bit_floats()
    scale_OG = (torch.rand(ROWS, COLS // 16, generator=torch.Generator().manual_seed(1)) * 8).to(torch.float8_e4m3fn)
    expected = value_OI * scale_OG.float().repeat_interleave(16, 1) * 0.5
    if divide:
        return {"weight_packed": raw, "weight_scale": scale_OG, "weight_global_scale": torch.tensor([2.0])}, expected
    return {"weight": raw, "weight_scale": scale_OG, "weight_scale_2": torch.tensor(0.5)}, expected


def _mxfp4() -> Packed:
    raw, value_OI = _four_bit_floats()
    power_OG = torch.randint(120, 131, (ROWS, COLS // 32), generator=torch.Generator().manual_seed(1))
    stored = {"weight": raw.view(torch.uint32), "scales": power_OG.to(torch.uint8)}
    return stored, value_OI * torch.exp2(power_OG.float() - 127).repeat_interleave(32, 1)


PACKINGS: dict[str, tuple[str, Callable[[], Packed]]] = {
    "gptq-4": ("GPTQ 4", lambda: _gptq(4)),
    "gptq-8": ("GPTQ 8", lambda: _gptq(8)),
    "gptq-2": ("GPTQ 2", lambda: _gptq(2)),
    "gptq-act-order": ("GPTQ 4", lambda: _gptq(4, shuffled=True)),
    "awq": ("AWQ 4", _awq),
    "packed-symmetric": ("INT4", lambda: _packed_rows(zeros=False)),
    "packed-zeros": ("INT4", lambda: _packed_rows(zeros=True)),
    "mlx": ("MLX 4", _mlx),
    "nf4": ("NF4", lambda: _nf4(nested=False)),
    "nf4-nested": ("NF4", lambda: _nf4(nested=True)),
    "bnb-int8": ("INT8", _int8),
    "nvfp4": ("NVFP4", lambda: _nvfp4(divide=False)),
    "nvfp4-packed": ("NVFP4", lambda: _nvfp4(divide=True)),
    "mxfp4": ("MXFP4", _mxfp4),
}
CONFIG = {"quantization": {"bits": 4, "group_size": GROUP}}


@pytest.mark.parametrize("kind", PACKINGS)
def test_a_packed_matrix_is_read_as_what_it_means(kind: str) -> None:
    label, make = PACKINGS[kind]
    stored, expected = make()
    source = unpacked(MemoryCheckpoint({f"x.{name}": tensor for name, tensor in stored.items()}, CONFIG))
    assert list(source.tensors) == ["x.weight"]
    assert (source.tensors["x.weight"].dtype, source.tensors["x.weight"].shape) == (label, (ROWS, COLS))
    torch.testing.assert_close(source.read("x.weight"), expected)
    torch.testing.assert_close(source.read_rows("x.weight", 5, 9), expected[5:9])
    rows = [41, 3, 3, 17]
    torch.testing.assert_close(source.read_index("x.weight", rows), expected[rows])


def test_words_of_three_bits_run_over_their_ends() -> None:
    q_OI = torch.randint(0, 8, (64, COLS), generator=torch.Generator().manual_seed(3))
    stored = {
        "x.qweight": _words(q_OI, 3).T.contiguous(),
        "x.qzeros": _words(torch.full((COLS // GROUP, 64), 2), 3),
        "x.scales": torch.ones(COLS // GROUP, 64, dtype=torch.float16),
    }
    assert torch.equal(unpacked(MemoryCheckpoint(stored)).read("x.weight"), q_OI.float() - 3)


def test_packed_experts_are_three_axes() -> None:
    raw, value_OI = _four_bit_floats()
    blocks = raw.reshape(3, ROWS // 3, COLS // 32, 16)
    stored = {"e_blocks": blocks, "e_scales": torch.full(blocks.shape[:-1], 128, dtype=torch.uint8)}
    source = unpacked(MemoryCheckpoint(stored))
    assert torch.equal(source.read_rows("e", 1, 2), 2 * value_OI.reshape(3, ROWS // 3, COLS)[1:2])


@pytest.mark.parametrize("names", [("weight_v", "weight_g"), ("parametrizations.weight.original1",) * 2])
def test_rows_whose_lengths_stand_apart_are_read_as_the_matrix(names: tuple[str, str]) -> None:
    """What torch's weight normalization writes, old and new, computes the same function as the matrix."""
    draw = torch.Generator().manual_seed(0)
    row_OI, length_O1 = torch.randn(ROWS, COLS, generator=draw), torch.rand(ROWS, 1, generator=draw)
    stored = {f"x.{names[0]}": row_OI, f"x.{names[1].replace('original1', 'original0')}": length_O1}
    source = unpacked(MemoryCheckpoint(stored))
    expected = torch._weight_norm(row_OI, length_O1, 0)
    assert list(source.tensors) == ["x.weight"]
    torch.testing.assert_close(source.read("x.weight"), expected)
    torch.testing.assert_close(source.read_index("x.weight", [41, 3]), expected[[41, 3]])


def test_nothing_packed_means_nothing_between() -> None:
    plain = MemoryCheckpoint({"x.weight": torch.zeros(4, 4)})
    assert unpacked(plain) is plain


@pytest.mark.parametrize(("ending", "way"), [("q_weight", "EXL2"), ("trellis", "EXL3"), ("Qidxs", "QuIP#")])
def test_a_packing_that_is_not_read_is_named(ending: str, way: str) -> None:
    with pytest.raises(InputError, match=f"packed in a way.*{way}"):
        read_anatomy(MemoryCheckpoint({f"layers.0.self_attn.q_proj.{ending}": torch.zeros(4, 4)}))


@pytest.mark.parametrize("kind", ["gptq-4", "nf4", "mlx"])
def test_tensors_of_a_group_that_do_not_fit_are_refused(kind: str) -> None:
    stored, _ = PACKINGS[kind][1]()
    main = "scales" if "scales" in stored else "weight.absmax"
    stored[main] = stored[main][:-1, :-1] if stored[main].dim() == 2 else stored[main][:-1]
    with pytest.raises(MalformedFile, match="do not fit each other"):
        unpacked(MemoryCheckpoint({f"x.{name}": tensor for name, tensor in stored.items()}, CONFIG))


CUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "empty": lambda tensor: tensor[:0],
    "short": lambda tensor: tensor[:-1],
    "narrow": lambda tensor: tensor[:, :1],
    "a number": lambda tensor: tensor.reshape(-1)[0],
}


@pytest.mark.parametrize("kind", PACKINGS)
@pytest.mark.parametrize("cut", CUTS)
def test_whatever_sizes_a_stranger_writes_the_file_is_refused_or_read(kind: str, cut: str) -> None:
    stored, _ = PACKINGS[kind][1]()
    for name, tensor in stored.items():
        if tensor.dim() == 0 or (cut == "narrow" and tensor.dim() < 2):
            continue
        changed = CUTS[cut](tensor)
        with contextlib.suppress(MalformedFile, InputError):
            seen = unpacked(MemoryCheckpoint({f"x.{n}": t for n, t in {**stored, name: changed}.items()}, CONFIG))
            for there in seen.tensors:
                seen.read(there)


def test_a_state_that_is_not_json_is_refused() -> None:
    stored, _ = _nf4(nested=False)
    stored["weight.quant_state.bitsandbytes__nf4"] = torch.tensor([1, 2, 3], dtype=torch.uint8)
    with pytest.raises(MalformedFile, match="not JSON"):
        unpacked(MemoryCheckpoint({f"x.{name}": tensor for name, tensor in stored.items()}))
