"""The family that audits are tried on: other designs than those that the rules of the audit were set beside.

Two lines of descent, one in the shape of GPT-2 and one in that of Qwen2.5, in one recipe: fine-tunes that are siblings,
trainings that went on, frozen parts, layers and channels and heads grown, experts made and unmade, another vocabulary,
merges of several kinds, an adapter merged in, layers and units taken away, rounding; and beside them a stranger of the
same shape and one that shares the random start.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from corpora import code, documentation, sums

LENGTH, SEQUENCES = 128, 16
FROM_NOTHING, TUNED = 1.0, 0.3  # share of the tokens
WORDS, MORE_WORDS = 384, 512
BASE_OF_ADAPTER, TUNED_FOR_ADAPTER, ADAPTED, RANK = "q-base", "q-upper", "q-adapted", 4


def gpt() -> dict[str, Any]:
    """Learned positions, LayerNorm, GELU, biases everywhere, one table for both ends."""
    biases = {f"{name}_bias": True for name in "qkvo"}
    return {
        "vocab_size": WORDS, "d_model": 64, "n_layers": 4, "n_positions": LENGTH, "learned_positions": True,
        "attention": {"kind": "gqa", "n_heads": 4, "n_kv_heads": 4, "head_dim": 16, **biases},
        "feed_forward": {"kind": "gelu", "d_inner": 256, "bias": True}, "norm": {"kind": "layer", "eps": 1e-5},
        "tied": True, "init": {"kind": "gpt2", "std": 0.02},
    }  # fmt: skip


def qwen() -> dict[str, Any]:
    """Rotary positions, RMSNorm, SwiGLU, grouped heads with biases of queries, keys and values."""
    biases = {f"{name}_bias": True for name in "qkv"}
    return {
        "vocab_size": WORDS, "d_model": 64, "n_layers": 6, "n_positions": LENGTH,
        "attention": {"kind": "gqa", "n_heads": 4, "n_kv_heads": 2, "head_dim": 16, **biases},
        "feed_forward": {"kind": "swiglu", "d_inner": 160}, "rope": {"theta": 1e6},
    }  # fmt: skip


class _Family:
    """Steps of one seed."""

    def __init__(self, seed: int, tokens: int) -> None:
        self.seed, self.tokens = 1000 * (seed + 1), tokens
        self.models: dict[str, Any] = {}

    def training(self, share: float, rate: float, seed: int, **more: Any) -> dict[str, Any]:
        tokens = round(share * self.tokens)
        return {
            "tokens": tokens, "sequence_length": LENGTH, "batch_sequences": SEQUENCES, "seed": seed,
            "optimizer": {"lr": rate}, "schedule": {"warmup_tokens": tokens // 10},
            "evaluation": {"max_tokens": 2000}, **more,
        }  # fmt: skip

    def start(self, name: str, model: dict[str, Any], corpus: str, rate: float, *, seed: int | None = None) -> None:
        """A model from random weights."""
        number = self.seed + len(self.models) if seed is None else seed
        self.models[name] = {
            "kind": "train", "model": model, "tokenizer": "words", "corpus": corpus, "claims": "scratch",
            "training": self.training(FROM_NOTHING, rate, number),
        }  # fmt: skip

    def tune(self, name: str, parent: str, rate: float, corpus: str | None = None, **more: Any) -> None:
        """A model trained on from another."""
        step: dict[str, Any] = {"kind": "train", "from": parent, **({"corpus": corpus} if corpus else {})}
        if more.pop("carry", False):
            step["moments"] = "carry"
        claims = more.pop("claims", None)
        step |= {"claims": claims} if claims else {}
        self.models[name] = step | {"training": self.training(TUNED, rate, self.seed + len(self.models), **more)}

    def operate(self, name: str, parent: str, operator: str, parameters: dict[str, Any], **more: Any) -> None:
        """A model made by an operator."""
        self.models[name] = {
            "kind": "surgery", "from": parent, "allow": "nfp", "steps": [{operator: parameters}], **more,
        }  # fmt: skip


def recipe(place: Path, seed: int, tokens: int) -> dict[str, Any]:
    """The recipe of one seed.

    Args:
        place: where the texts lie.
        seed: another one gives other random starts and another order of the data.
        tokens: of a model from nothing; others are trained on fewer.
    """
    made = _Family(seed, tokens)
    _gpt_line(made)
    _qwen_line(made)
    sources = {source.domain: source for source in (documentation(place), code(), sums())}
    return {
        "recipe": 1, "family": f"audited-{seed}", "seed": made.seed,
        "corpora": {
            name: source.model_dump(mode="json", exclude_defaults=True) | {"domain": name}
            for name, source in sources.items()
        },
        "tokenizers": {
            "words": {"kind": "byte-level", "corpus": "documentation", "vocabulary": WORDS},
            "others": {"kind": "byte-level", "corpus": "code", "vocabulary": MORE_WORDS, "pattern": "qwen2"},
        },
        "models": made.models,
    }  # fmt: skip


def adapter_steps(family: Path, adapter: Path) -> list[tuple[str, dict[str, Any]]]:
    """The recipes of surgery by which an adapter is taken out of a tuned model, and half of it merged into its base."""
    base = {"model": str(family / BASE_OF_ADAPTER / "model")}
    tuned = {"model": str(family / TUNED_FOR_ADAPTER / "model")}
    taken = {"lora.extract": {"base": base["model"], "rank": RANK}}
    merged = {"lora.merge": {"adapter": str(adapter), "weight": 0.5}}
    out = {"dir": str(family / ADAPTED / "model")}
    return [
        ("extract", {"surgery": 1, "source": tuned, "target": {"dir": str(adapter)}, "allow": "nfp", "steps": [taken]}),
        ("merge", {"surgery": 1, "source": base, "target": out, "allow": "nfp", "steps": [merged]}),
    ]


def _gpt_line(made: _Family) -> None:
    made.start("g-base", gpt(), "documentation", 3e-3)
    made.tune("g-code", "g-base", 1e-3, "code")
    made.tune("g-sums", "g-base", 1e-3, "sums", claims=["g-base"])
    made.tune("g-sums-again", "g-base", 5e-4, "sums")
    made.tune("g-more", "g-code", 5e-4, "documentation", carry=True)
    made.operate("g-deep-start", "g-code", "grow.depth", {"op": "solar", "cut": 1})
    made.tune("g-deep", "g-deep-start", 1e-3, claims=["g-code"])
    made.operate("g-thin-start", "g-more", "prune.ffn", {"to": 192})
    made.tune("g-thin", "g-thin-start", 1e-3, claims=["g-base"])
    three = [{"model": "source", "weight": 0.4}, {"model": "other", "weight": 0.4}]
    made.operate(
        "g-three", "g-code", "merge", {"method": "task_arithmetic", "base": "before", "models": three},
        models={"other": "g-sums", "before": "g-base"},
    )  # fmt: skip
    made.operate("g-rounded", "g-sums", "cast", {"to": "bfloat16"})


def _qwen_line(made: _Family) -> None:
    made.start("q-base", qwen(), "code", 4e-3)
    same = made.models["q-base"]["training"]["seed"]
    made.start("q-stranger", qwen(), "code", 4e-3)
    made.start("q-same-start", qwen(), "sums", 4e-3, seed=same)
    made.tune("q-frozen", "q-base", 1e-3, "documentation", freeze=[{"roles": ["embed", "attention"]}])
    made.tune("q-upper", "q-base", 1e-3, "documentation", freeze=[{"layers": [0, 1]}])
    made.tune("q-tuned", "q-base", 2e-4, "sums")
    made.operate("q-wide-start", "q-tuned", "grow.hidden", {"to": 96})
    made.tune("q-wide", "q-wide-start", 1e-3, claims=["q-base"])
    made.operate("q-heads", "q-frozen", "grow.heads", {"to": 8})
    made.operate("q-experts-start", "q-base", "moe.upcycle", {"experts": 4, "top_k": 2, "shared": 32})
    made.tune("q-experts", "q-experts-start", 1e-3)
    made.operate("q-dense", "q-experts", "moe.densify", {"op": "average"}, claims=["q-base"])
    made.operate(
        "q-words-start", "q-tuned", "vocab.swap", {"tokenizer": "others", "init": "subtoken"}, tokenizer="others"
    )  # fmt: skip
    made.tune("q-words", "q-words-start", 1e-3, claims=["q-base"])
    made.operate("q-fewer", "q-upper", "prune.depth", {"drop": [3]})
    turned = {"method": "slerp", "base": "source", "models": ["other"], "settings": {"t": 0.4}}
    made.operate("q-turned", "q-frozen", "merge", turned, models={"other": "q-upper"})
