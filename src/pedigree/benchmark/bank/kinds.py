"""The models of the bank: many mechanisms at pico size, several independent starts of each.

Laws
1. Every model of `independent()` has a random start of its own; what they share (tokenizer, texts, order, schedule) is
   shared on purpose, since that is what makes strangers look alike.
2. A kind belongs to one split. Thresholds may be set on `calibration`; `test` is only counted.
3. `kin()` are relatives of known descent: models of one random start in several shapes, and children of independent
   models. They calibrate and test what a relation is called, and its direction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pedigree.model.config import ModelConfig
from pedigree.model.members import member

Split = Literal["calibration", "test"]
Tokenizer = Literal["shared", "other"]

VOCABULARY: Mapping[Tokenizer, int] = {"shared": 512, "other": 448}

USUAL, HEAVY, BARE, SHORT = 120_000, 600_000, 40_000, 36_000
"""Tokens: a model, one that was trained for long, one that hardly left its start, a child tuned for a while."""

FIRST_ORDER = 0
"""The order of the texts that every model without a reason for another one is trained on."""


@dataclass(frozen=True)
class BankModel:
    """One model of the bank.

    Attributes:
        name: directory name, KIND-NUMBER.
        kind: mechanisms and recipe; models of a kind differ in their start only.
        split: what it may be used for.
        config: the model.
        start: seed of the random start; models of one start have one.
        order: seed of the order of the texts.
        tokens: how long it is trained.
        tokenizer: which vocabulary.
        parent: the model that it continues, None for a random start.
        rate: peak learning rate.
    """

    name: str
    kind: str
    split: Split
    config: ModelConfig
    start: int
    order: int = FIRST_ORDER
    tokens: int = USUAL
    tokenizer: Tokenizer = "shared"
    parent: str | None = None
    rate: float = 4e-3


@dataclass(frozen=True)
class Kind:
    """Mechanisms and recipe of some models that differ in their start only."""

    split: Split
    config: ModelConfig
    seeds: int = 2
    tokens: int = USUAL
    tokenizer: Tokenizer = "shared"
    rate: float = 4e-3


def _like(name: str, **changes: Any) -> ModelConfig:
    """The pico sibling of a member with other parts, its vocabulary cut to that of the bank."""
    return member(f"{name}-pico").replace(**{"vocab_size": VOCABULARY["shared"], **changes})


def _attention(name: str) -> dict[str, Any]:
    return member(f"{name}-pico").attention.model_dump()


_LATENT = {**_attention("deepseek-v3"), "n_heads": 4}
_FOUR_KEYS = {**_attention("llama-2-7b")}
_NARROW = {"kind": "gqa", "n_heads": 4, "n_kv_heads": 2, "head_dim": 12}
_WIDE = {"kind": "gqa", "n_heads": 6, "n_kv_heads": 2, "head_dim": 16}


def _latent(name: str = "deepseek-v3", **changes: Any) -> ModelConfig:
    """Latent attention over dense layers; only the last one is a mixture, as the known layouts want one."""
    experts = member(f"{name}-pico").experts
    sparse = None if experts is None else experts.model_dump() | {"first_dense": 3}
    return _like(name, **{"attention": _LATENT, "mtp": None, "experts": sparse, **changes})


def _kinds() -> dict[str, Kind]:
    """Every kind by name. What a mechanism of the test split has in common with one of the calibration split is the
    mechanism, never a model; most kinds of the test split combine several."""
    llama = "llama-3-8b"
    few = member("mixtral-8x7b-pico").experts
    random = member("moe-38b-pico").experts
    narrow_experts = {} if few is None else few.model_dump() | {"d_expert": 48}
    narrow_random = {} if random is None else random.model_dump() | {"d_expert": 64, "n_experts": 8}
    sandwich = {"placement": "sandwich"}
    scaled = {"placement": "depth-scaled-sandwich"}
    return {
        "grouped": Kind("calibration", _like(llama), 4),
        "multi-head": Kind("calibration", _like("llama-2-7b"), 3),
        "query-norm": Kind("calibration", _like("qwen3-8b", tied=True)),
        "sandwich": Kind("calibration", _like(llama, norm=sandwich, attention=_FOUR_KEYS), 3),
        "latent": Kind("calibration", _latent(), 3),
        "latent-sandwich": Kind("calibration", _latent("pangu-ultra-moe-718b", norm=sandwich)),
        "plain-units": Kind("calibration", _like("dense-71b"), 3),
        "mixture": Kind("calibration", _like("mixtral-8x7b", experts=narrow_experts)),
        "mixture-of-groups": Kind("calibration", _like("pangu-pro-moe-72b")),
        "several-tokens": Kind("calibration", _like(llama, mtp={})),
        "wide": Kind("calibration", _like(llama, d_model=96, attention=_WIDE)),
        "deep": Kind("calibration", _like(llama, d_model=48, n_layers=7, attention=_NARROW)),
        "other-words": Kind("calibration", _like(llama, vocab_size=VOCABULARY["other"]), tokenizer="other"),
        "long": Kind("calibration", _like(llama, attention=_FOUR_KEYS), 2, HEAVY),
        "test-grouped": Kind("test", _like(llama), 4),
        "test-latent-mixture": Kind("test", _like("deepseek-v3"), 3),
        "test-latent-sandwich-mixture": Kind("test", _like("pangu-ultra-moe-718b")),
        "test-scaled-sandwich": Kind("test", _like("dense-230b", norm=scaled), 3),
        "test-query-layer": Kind("test", _like("pangu-alpha-13b"), 3),
        "test-series": Kind("test", _like("pangu-pi-1b"), 3),
        "test-shared-expert": Kind("test", _like("moe-224b")),
        "test-random-experts": Kind("test", _like("moe-38b", experts=narrow_random)),
        "test-biases": Kind("test", _like("qwen2.5-14b"), 3),
        "test-all-biases": Kind("test", _like("pangu-embedded-1b")),
        "test-tied": Kind("test", _like("llama-2-7b", tied=True)),
        "test-wide-latent": Kind("test", _latent(d_model=96)),
        "test-other-words": Kind("test", _like("llama-2-7b", vocab_size=VOCABULARY["other"]), tokenizer="other"),
    }


def independent() -> list[BankModel]:
    """Models that share no random start, no weights and no teacher: kind after kind, calibration first."""
    found = []
    for number, (name, kind) in enumerate(_kinds().items()):
        for seed in range(kind.seeds):
            found.append(
                BankModel(
                    f"{name}-{seed}", name, kind.split, kind.config, 1000 * (number + 1) + seed,
                    tokens=kind.tokens, tokenizer=kind.tokenizer, rate=kind.rate,
                )
            )  # fmt: skip
    return found


def one_start(split: Split) -> list[BankModel]:
    """Models of one seed in several shapes, hardly trained: wherever a tensor begins with the same numbers, they do.

    No two of them share anything learned; the right word is `shared-initialization` where the shared start shows.
    """
    seed = 71 if split == "calibration" else 72
    base = "llama-2-7b"
    wide = {**_FOUR_KEYS, "n_heads": 6, "n_kv_heads": 6}
    shapes: dict[str, dict[str, Any]] = {
        "same": {},
        "deeper": {"n_layers": 6},
        "more-units": {"feed_forward": {"kind": "swiglu", "d_inner": 240}},
        "wider": {"d_model": 96, "attention": wide},
        "sandwich": {"norm": {"placement": "sandwich"}},
        "fewer-keys": {"attention": {**_FOUR_KEYS, "n_kv_heads": 2}},
    }
    found = [
        BankModel(f"start{seed}-{name}", f"start{seed}", split, _like(base, **shape), seed, number, BARE)
        for number, (name, shape) in enumerate(shapes.items())
    ]
    found.append(BankModel(f"start{seed}-longer", f"start{seed}", split, _like(base), seed, 7, USUAL))
    return found


def children(split: Split) -> list[BankModel]:
    """Children of independent models: tuned shortly, for longer, and for longer on another order."""
    parents = {"calibration": ("grouped-0", "latent-0", "sandwich-0", "plain-units-0")}
    parents["test"] = ("test-grouped-0", "test-latent-mixture-0", "test-biases-0", "test-series-0")
    by_name = {model.name: model for model in independent()}
    found = []
    for name in parents[split]:
        base = by_name[name]
        for suffix, order, tokens, rate in (
            ("brief", 11, SHORT, 1e-3), ("tuned", 12, SHORT, 3e-3), ("continued", 13, USUAL, 3e-3)
        ):  # fmt: skip
            found.append(
                BankModel(
                    f"{name}.{suffix}", base.kind, split, base.config, base.start, order, tokens, base.tokenizer, name,
                    rate,
                )
            )  # fmt: skip
    return found


def kin() -> list[BankModel]:
    """All models whose relations are known, both splits."""
    splits: tuple[Split, ...] = ("calibration", "test")
    return [model for split in splits for model in (*one_start(split), *children(split))]


def every() -> list[BankModel]:
    """The whole bank, parents before children, calibration before test."""
    models = [*independent(), *kin()]
    return sorted(models, key=lambda m: (m.tokens == HEAVY, m.split == "test"))
