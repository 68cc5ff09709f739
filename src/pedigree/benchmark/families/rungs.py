"""What is done to a root: one table of rungs for each kind of family. A rung is a line; nothing here computes.

Rows of the leaderboard are named by `row`. `{inner}`, `{hidden}` and the like in arguments stand for sizes of the
scale and are filled in by `members`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Step = tuple[str, Mapping[str, Any]]
"""An operator of the zoo with its arguments."""

LADDER_DISTANCES = (0.0, 0.1, 0.3, 1.0)
LONG_LADDER = (*LADDER_DISTANCES, 3.0)
"""Of the rungs that a reader asks about first; three times the root's training is what costs most here."""
SHORT_DISTANCES = (0.0, 0.3)


@dataclass(frozen=True)
class Rung:
    """One way to derive a model from the root of a family.

    Args:
        name: part of the model's name.
        row: row of the leaderboard.
        chain: operators in order; empty for plain training.
        distances: trainings that follow, in units of the root's own; every one is a model.
        partner: whether the last operator takes the donor root as second parent.
        tokenizer: whether the last operator takes the other tokenizer.
        frozen: regular expressions of parameters that later training leaves alone.
        part: part of the corpus of later training.
        hot: whether later training has the root's own learning rate.
        weights: merge weights of the parents in their order, where there are some.
        experts: what the experts of the result are: "copies" of a layer's network, "slices" of it, or nothing.
        says: transformations that may be named, of which one is enough; empty where none is asked for.
    """

    name: str
    row: str
    chain: tuple[Step, ...] = ()
    distances: tuple[float, ...] = SHORT_DISTANCES
    partner: bool = False
    tokenizer: bool = False
    frozen: tuple[str, ...] = ()
    part: int = 1
    hot: bool = False
    weights: tuple[float, ...] = ()
    experts: str = ""
    says: tuple[str, ...] = field(default=())


def _surgery(operator: str, **parameters: Any) -> tuple[Step, ...]:
    return (("surgery", {"step": {operator: parameters}}),)


def _merge(method: str, weights: tuple[float, float], **settings: Any) -> tuple[Step, ...]:
    names = ("source", "second")
    models = [{"model": name, "weight": weight} for name, weight in zip(names, weights, strict=True)]
    return _surgery("merge", method=method, models=models, **settings)


# The laundering ladder: every rung at every distance. Made for Llama-like roots.
LADDER: tuple[Rung, ...] = (
    Rung("continued", "continued training", distances=(0.1, 0.3, 1.0, 3.0)),
    Rung("hot", "continued, full learning rate", distances=(0.3, 1.0), hot=True),
    Rung("permuted", "permuted", (("permute", {}),), LONG_LADDER, says=("gauge-disguise", "units-permuted")),
    Rung("rotated", "rotated", (("rotate", {}),), LONG_LADDER, says=("gauge-disguise",)),
    Rung(
        "rescaled", "rescaled", (("rescale-attention", {}), *_surgery("launder.rescale", octaves=2)), LADDER_DISTANCES,
        says=("units-rescaled", "gauge-disguise"),
    ),
    Rung("noisy", "noise of one sigma", (("noise", {"sigma": 1.0}),), LADDER_DISTANCES),
    Rung(
        "reembedded", "fresh vocabulary", (("fresh-embeddings", {}),), LADDER_DISTANCES, tokenizer=True,
        says=("embeddings-reinitialized", "vocabulary-swapped"),
    ),
    Rung(
        "hidden", "rotated, permuted, rescaled, fresh vocabulary", (("disguise", {}), ("fresh-embeddings", {})),
        LONG_LADDER, tokenizer=True, says=("gauge-disguise", "embeddings-reinitialized"),
    ),
    Rung("cut", "hidden size cut", (("prune-residual", {"d_model": "{hidden_cut}"}),), LONG_LADDER,
         says=("hidden-pruned",)),
    Rung("inserted", "depth growth", (("insert-layers", {"after": [1]}),), LADDER_DISTANCES,
         says=("layers-inserted", "layers-duplicated")),
    Rung("solar", "SOLAR-like layout", _surgery("grow.depth", op="solar", cut=1), LONG_LADDER,
         says=("layers-duplicated", "layers-inserted")),
    Rung("widened", "width growth", (("widen-inner-copies", {"n_inner": "{inner_wide}"}),), LADDER_DISTANCES,
         says=("ffn-widened",)),
    Rung(
        "upcycled", "upcycled, half of each expert drawn anew",
        _surgery("moe.upcycle", experts=4, top_k=2, op="copy", reinit=0.5), LONG_LADDER, experts="copies",
        says=("upcycled",),
    ),
    Rung("sliced", "upcycled into noisy slices",
         (("upcycle-granular", {"n_experts": 4, "width": "{inner_half}", "top_k": 2, "noise": 0.3}),),
         LADDER_DISTANCES, experts="slices", says=("upcycled",)),
    Rung("pruned", "pruned",
         (("prune-inner", {"n_inner": "{inner_half}"}), ("arrange-layers", {"order": [0, 1, "{last}"]})),
         LADDER_DISTANCES, says=("ffn-pruned", "layers-dropped")),
    Rung("no-ffn", "FFN drawn anew", (("reinitialize", {"branch": "mlp"}),), LONG_LADDER),
    Rung("no-attention", "attention drawn anew", (("reinitialize", {"branch": "attn"}),), LADDER_DISTANCES),
    Rung("merged-50", "merge 50/50", (("merge", {"share": 0.5}),), LADDER_DISTANCES, partner=True, weights=(0.5, 0.5)),
    Rung("merged-20", "merge 20/80", (("merge", {"share": 0.2}),), LONG_LADDER, partner=True, weights=(0.2, 0.8)),
    Rung("spliced", "half of the layers from another", (("splice-layers", {"layers": [0, "{last}"]}),),
         LADDER_DISTANCES, partner=True),
    Rung("quantized", "quantized", _surgery("quantize", bits=4, group=32), LADDER_DISTANCES,
         says=("quantized", "cast")),
)  # fmt: skip

SURVIVORS: tuple[Rung, ...] = (
    Rung("survivors", "1 % surviving units", (("surviving-units", {"share": 0.01}),), (0.0, 0.1, 0.3, 1.0)),
    Rung("survivors-5", "5 % surviving units", (("surviving-units", {"share": 0.05}),), (0.0, 0.3)),
)

# Operators of `pedigree surgery`; those that are left out stand below, with the reason.
SURGERY: tuple[Rung, ...] = (
    Rung("identity", "surgery: depth", _surgery("grow.depth", op="identity", after=[0, 2]), says=("layers-inserted",)),
    Rung("stack", "surgery: depth", _surgery("grow.depth", op="stack", times=2), says=("layers-duplicated",)),
    Rung("interpose", "surgery: depth", _surgery("grow.depth", op="interpose", times=2), says=("layers-duplicated",)),
    Rung("ordered", "surgery: depth", _surgery("grow.depth", op="order", order=[0, 2, 1, 1, "{last}"]),
         says=("layers-duplicated", "layers-dropped")),
    Rung("thinned", "surgery: depth", _surgery("prune.depth", drop=[1]), says=("layers-dropped",)),
    Rung("ffn-zero", "surgery: FFN width", _surgery("grow.ffn", to="{inner_wide}", op="zero"), says=("ffn-widened",)),
    Rung("ffn-copy", "surgery: FFN width", _surgery("grow.ffn", to="{inner_wide}", op="copy"), says=("ffn-widened",)),
    Rung("ffn-split", "surgery: FFN width",
         _surgery("grow.ffn", to="{inner_wide}", op="split", noise={"antisym": 0.3}), says=("ffn-widened",)),
    Rung("ffn-cut", "surgery: FFN width", _surgery("prune.ffn", to="{inner_half}"), says=("ffn-pruned",)),
    Rung("hidden-pad", "surgery: hidden size", _surgery("grow.hidden", to="{hidden_wide}", op="pad"),
         says=("hidden-widened",)),
    Rung("hidden-clone", "surgery: hidden size", _surgery("grow.hidden", to="{hidden_double}", op="clone"),
         says=("hidden-widened",)),
    Rung("hidden-cut", "surgery: hidden size", _surgery("prune.hidden", to="{hidden_cut}"), says=("hidden-pruned",)),
    Rung("heads-zero", "surgery: heads", _surgery("grow.heads", to="{heads_double}", op="zero")),
    Rung("heads-copy", "surgery: heads", _surgery("grow.heads", to="{heads_double}", op="copy")),
    Rung("heads-cut", "surgery: heads", _surgery("prune.heads", to="{heads_half}")),
    Rung("kv-replicated", "surgery: heads", _surgery("grow.kv", to="{heads}", op="replicate")),
    Rung("kv-groups", "surgery: heads", _surgery("grow.kv", to="{kv_double}", op="groups")),
    Rung("kv-cut", "surgery: heads", _surgery("prune.kv", to=1)),
    Rung("head-dim", "surgery: heads", _surgery("grow.head_dim", to="{head_double}")),
    Rung("moe-copy", "surgery: experts", _surgery("moe.upcycle", experts=4, top_k=2, op="copy"), experts="copies",
         says=("upcycled",)),
    Rung("moe-granular", "surgery: experts", _surgery("moe.upcycle", experts=4, top_k=2, op="granular", shards=2),
         experts="slices", says=("upcycled",)),
    Rung("moe-and-back", "surgery: experts",
         (*_surgery("moe.upcycle", experts=4, top_k=2, op="copy", reinit=0.25),
          *_surgery("moe.densify", op="keep", experts=[1]))),
    Rung("linear", "surgery: merge", _merge("linear", (0.7, 0.3)), partner=True, weights=(0.7, 0.3)),
    Rung("slerp", "surgery: merge",
         _surgery("merge", method="slerp", base="source", models=["source", "second"], settings={"t": 0.3}),
         partner=True),
    Rung("passthrough", "surgery: merge", _surgery("merge", method="passthrough", slices=[
        {"sources": [{"model": "source", "layers": [0, 2]}]},
        {"sources": [{"model": "second", "layers": [1, "{last}"]}]},
    ]), partner=True),
    Rung("adapter", "surgery: adapter", _surgery("lora.merge", adapter="ADAPTER")),
    Rung("swapped", "surgery: vocabulary", _surgery("vocab.swap", tokenizer="TOKENIZER", init="subtoken"),
         tokenizer=True, says=("vocabulary-swapped",)),
    Rung("swapped-random", "surgery: vocabulary", _surgery("vocab.swap", tokenizer="TOKENIZER", init="random"),
         tokenizer=True, says=("vocabulary-swapped",)),
    Rung("int8", "surgery: storage", _surgery("quantize", bits=8, group=64)),
    Rung("int3", "surgery: storage", _surgery("quantize", bits=3, group=32)),
    Rung("bf16", "surgery: storage", _surgery("cast", to="bfloat16"), (0.0,), says=("cast",)),
    Rung("reordered", "surgery: disguise", _surgery("launder.permute"), says=("gauge-disguise", "units-permuted")),
    Rung("scaled", "surgery: disguise", _surgery("launder.rescale", octaves=3), says=("units-rescaled",)),
    Rung("turned", "surgery: disguise", _surgery("launder.rotate", block="{hidden}"), says=("gauge-disguise",)),
    Rung("20-decibels", "surgery: disguise", _surgery("launder.noise", snr=20.0)),
)  # fmt: skip

NOT_IN_THE_TABLE: Mapping[str, str] = {
    "lora.extract": "makes an adapter, not a model",
    **dict.fromkeys(
        (
            "moe.prune", "moe.merge", "vocab.shrink", "convert.norm", "convert.biases", "convert.positions",
            "convert.query_layer", "convert.activation", "convert.kv", "convert.latent", "convert.sandwich",
            "convert.pi", "convert.layout", "convert.untie", "convert.tie",
        ),
        "younger than the table; what conversions make has no class in transformers, which trains the zoo",
    ),
}  # fmt: skip
"""Operators of `pedigree surgery` that no rung uses, and why."""

# Rows 15 and 16 of the mission, on a root with biases: deeper and wider; grouped experts with another vocabulary.
LETTER: tuple[Rung, ...] = (
    Rung("row-15", "letter: deeper, wider", (*_surgery("grow.depth", op="identity", after=[1]),
         *_surgery("grow.ffn", to="{inner_wide}", op="split", noise={"antisym": 0.3})), (0.0, 0.3, 1.0),
         says=("layers-inserted", "ffn-widened")),
    Rung("row-16", "letter: experts, new vocabulary",
         (*_surgery("moe.upcycle", experts=4, top_k=2, op="granular", shards=2, shared=16),
          *_surgery("vocab.swap", tokenizer="TOKENIZER", init="subtoken")), (0.0, 0.3, 1.0), tokenizer=True,
         part=3, hot=True, experts="slices", says=("upcycled", "vocabulary-swapped")),
)  # fmt: skip

# Row 17: loaded parameters stay frozen while the rest is trained.
FROZEN: tuple[Rung, ...] = (
    Rung("row-17", "letter: frozen while training", (), (0.3, 1.0),
         frozen=(r"experts", r"embed_tokens", r"layers\.0\."), says=("tensors-frozen",)),
)  # fmt: skip

_ANY = (
    Rung("continued", "other designs: continued", (), (0.3, 1.0)),
    Rung("noisy", "other designs: noise", (("noise", {"sigma": 0.5}),), (0.0,)),
    Rung("dropped", "other designs: layer dropped", (("arrange-layers", {"order": [0, 1, "{last}"]}),),
         says=("layers-dropped",)),
    Rung("tables", "other designs: fresh embeddings", (("fresh-tables", {}),)),
    Rung("merged-20", "other designs: merge 20/80", (("merge", {"share": 0.2}),), partner=True, weights=(0.2, 0.8)),
)  # fmt: skip
_UNITS = (
    Rung("units", "other designs: permuted", (("permute-units", {}),), says=("units-permuted",)),
    Rung(
        "pruned", "other designs: units dropped", (("drop-units", {"n_inner": "{inner_half}"}),), says=("ffn-pruned",)
    ),
)
_CHANNELS = Rung("channels", "other designs: permuted", (("permute-channels", {}),), says=("gauge-disguise",))
_RESIDUAL = Rung("channels", "other designs: permuted", (("permute-residual", {}),), says=("gauge-disguise",))
_EXPERTS = Rung("experts", "other designs: permuted", (("permute-experts", {}),), says=("experts-permuted",))
_INSERTED = Rung("inserted", "other designs: layer inserted", (("insert-layers", {"after": [1]}),),
                 says=("layers-inserted",))  # fmt: skip

OTHERS: Mapping[str, tuple[Rung, ...]] = {
    "qwen2": (*_ANY, *_UNITS, _INSERTED, Rung("disguised", "other designs: permuted", (("permute", {}),))),
    "gpt2": (*_ANY, *_UNITS, _INSERTED, _CHANNELS),
    "gpt_neox": (*_ANY, *_UNITS, _INSERTED, _CHANNELS),
    "gemma2": (*_ANY, *_UNITS, Rung("disguised", "other designs: permuted", (("permute", {}),))),
    "mixtral": (*_ANY, _INSERTED, _RESIDUAL, _EXPERTS),
    "deepseek_v3": (*_ANY, *FROZEN, _INSERTED, _RESIDUAL, _EXPERTS),
}

# The few that a calibration family gets: thresholds need strangers, and a glimpse of relatives.
FEW: tuple[Rung, ...] = (
    Rung("continued", "continued training", (), (0.3, 1.0)),
    Rung("permuted", "permuted", (("permute", {}),)),
    Rung("rotated", "rotated", (("rotate", {}),)),
    Rung("merged-20", "merge 20/80", (("merge", {"share": 0.2}),), partner=True, weights=(0.2, 0.8)),
    Rung("upcycled", "upcycled into noisy slices",
         (("upcycle-granular", {"n_experts": 4, "width": "{inner_half}", "top_k": 2, "noise": 0.3}),),
         experts="slices"),
)  # fmt: skip
