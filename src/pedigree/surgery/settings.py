"""The config.json of the result: each number of ours under the key the source has it under, nested or not.

Shapes  H = heads, K = key/value heads, d = residual width, f = inner width.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pedigree.errors import UsageError

NESTED = ("text_config", "llm_config", "language_config", "thinker_config")
SPELLINGS: dict[str, tuple[str, ...]] = {
    "d_model": ("hidden_size", "n_embd", "d_model", "dim", "embed_dim"),
    "n_layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "n_heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "n_kv_heads": ("num_key_value_heads", "n_kv_heads", "n_head_kv", "num_kv_heads", "multi_query_group_num"),
    "head_dim": ("head_dim", "kv_channels", "d_head", "attention_head_dim"),
    "d_inner": ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "d_inner"),
    "d_expert": ("moe_intermediate_size", "intermediate_size"),
    "vocab_size": ("vocab_size", "n_vocab"),
    "eps": ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "layernorm_epsilon", "norm_eps", "norm_epsilon"),
    "dtype": ("dtype", "torch_dtype"),
}
# What a config says beside the shape of the model.
CARRIED_KEYS = (
    "bos_token_id", "eos_token_id", "pad_token_id", "torch_dtype", "dtype", "transformers_version",
)  # fmt: skip
# A config of our own type is the mapping under this key; what other readers want stands beside it.
OWN_TYPE, OWN_KEY = "pedigree_decoder", "pedigree"
_OWN: dict[str, tuple[str, ...]] = {
    "d_model": ("d_model",),
    "n_layers": ("n_layers",),
    "n_heads": ("attention", "n_heads"),
    "n_kv_heads": ("attention", "n_kv_heads"),
    "head_dim": ("attention", "head_dim"),
    "d_inner": ("feed_forward", "d_inner"),
    "d_expert": ("experts", "d_expert"),
    "vocab_size": ("vocab_size",),
    "eps": ("norm", "eps"),
}
# Classes of transformers that read head_dim beside the width and the heads.
_FREE_HEAD_DIM = frozenset(
    {
        "llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe", "gemma", "gemma2", "gemma3", "gemma3_text",
        "smollm3", "granite", "helium", "glm", "glm4", "pedigree_decoder",
    }
)  # fmt: skip
# Classes that refuse a width which is no multiple of the heads, whatever the head dimension.
_DIVIDED = frozenset({"llama", "gemma2", "gemma3", "gemma3_text"})
_EXTRA = {"n_inner": ("gpt2", "gptj", "gpt_bigcode"), "intermediate_size": ("gpt_neo",)}


@dataclass
class Settings:
    """A config that is edited by our words."""

    values: dict[str, Any]

    def copy(self) -> Settings:
        """A deep copy."""
        return Settings(copy.deepcopy(self.values))

    @property
    def kind(self) -> str:
        """`model_type` of the innermost level that has one, "" without."""
        for level in self.levels():
            if isinstance(level.get("model_type"), str):
                return str(level["model_type"])
        return ""

    def levels(self) -> Iterator[dict[str, Any]]:
        """The mappings that may hold a setting, nested ones first."""
        for key in NESTED:
            if isinstance(self.values.get(key), dict):
                yield self.values[key]
        yield self.values

    def find(self, word: str) -> tuple[dict[str, Any], str] | None:
        """The level and key of a setting, None where the config does not have it."""
        for level in self.levels():
            for key in SPELLINGS.get(word, (word,)):
                if level.get(key) is not None:
                    return level, key
        return self._own(word)

    def _own(self, word: str) -> tuple[dict[str, Any], str] | None:
        """Where a config of our own type says it; None for another type, or where it says nothing of the kind."""
        level = self.values.get(OWN_KEY)
        if self.kind != OWN_TYPE or word not in _OWN or not isinstance(level, dict):
            return None
        *path, key = _OWN[word]
        for step in path:
            level = level.get(step) if isinstance(level, dict) else None
        return (level, key) if isinstance(level, dict) and key in level else None

    def get(self, word: str) -> Any:
        """The value of a setting; None where there is none."""
        found = self.find(word)
        return None if found is None else found[0][found[1]]

    def set(self, word: str, value: Any) -> None:
        """Write a setting where it stands; where it does not stand, where the class would look for it.

        Raises:
            UsageError: no key for it is known for this kind of model.
        """
        found = self.find(word)
        if found is not None:
            found[0][found[1]] = value
            own = self._own(word)
            if own is not None:
                own[0][own[1]] = value
            return
        level = next(self.levels())
        if not level:  # weights without a config stay without one
            return
        if word == "d_inner":
            for key, kinds in _EXTRA.items():
                if self.kind in kinds:
                    level[key] = value
                    return
        if word == "n_kv_heads" and self.kind in ("llama", "mistral", "qwen2", "qwen3"):
            level["num_key_value_heads"] = value
            return
        if word == "head_dim" and self.free_head_dim:
            level["head_dim"] = value
            return
        raise UsageError(
            f"the config has no key for {word}",
            where="config.json",
            got=f"model_type {self.kind!r}",
            expected="one of " + ", ".join(SPELLINGS.get(word, (word,))),
            fix="this kind of model derives the number; choose a change that keeps it",
        )

    @property
    def free_head_dim(self) -> bool:
        """Whether the class of this config takes a head dimension that is not width / heads."""
        return self.kind in _FREE_HEAD_DIM

    def set_heads(self, d_model: int, n_heads: int, n_kv_heads: int | None, head_dim: int) -> None:
        """Write heads and head dimension; `check_heads` says at the end whether a loader finds these numbers."""
        self.set("n_heads", n_heads)
        if n_kv_heads is not None and (self.find("n_kv_heads") or n_kv_heads != n_heads):
            self.set("n_kv_heads", n_kv_heads)
        if self.find("head_dim") is not None or (d_model != n_heads * head_dim and self.free_head_dim):
            self.set("head_dim", head_dim)

    def check_heads(self, d_model: int, n_heads: int, head_dim: int) -> None:
        """Make sure that the class of this config would compute these heads.

        Raises:
            UsageError: it derives the head dimension from width and heads, or wants the width divisible by heads.
        """
        if not self.values:
            return
        got = f"width {d_model}, {n_heads} heads of {head_dim}"
        if self.find("head_dim") is None and d_model != n_heads * head_dim:
            raise UsageError(
                f"a {self.kind or 'model'} config cannot say this head dimension", where="config.json", got=got,
                expected=f"width = heads x head dimension; {n_heads} x {head_dim} = {n_heads * head_dim}",
                fix="change width and heads together",
            )  # fmt: skip
        if self.kind in _DIVIDED and d_model % n_heads:
            raise UsageError(
                f"the {self.kind} class wants a width that its heads divide", where="config.json", got=got,
                expected=f"a number of heads that divides {d_model}",
                fix="another number of heads, or a width to match",
            )  # fmt: skip


def reindex_layers(settings: Settings, order: Sequence[int], n_old: int) -> list[str]:
    """Write the layer count and everything that goes by layer number for layers taken in a new order.

    Args:
        settings: edited in place.
        order: for each new layer the old one it takes after.
        n_old: layers before.

    Returns:
        Notes on what was rewritten.

    Raises:
        UsageError: the config cannot say which kind each new layer is.
    """
    notes: list[str] = []
    for level in settings.levels():
        for key, value in list(level.items()):
            if isinstance(value, list) and len(value) == n_old and key not in ("architectures",) and n_old > 1:
                level[key] = [copy.deepcopy(value[old]) for old in order]
                notes.append(f"config: {key} rewritten layer by layer")
        for key in ("mlp_only_layers", "full_attn_layers", "swa_layers"):
            value = level.get(key)
            if isinstance(value, list) and value and all(type(n) is int for n in value):
                level[key] = [new for new, old in enumerate(order) if old in value]
        _prefix_count(level, "first_k_dense_replace", order)
        if settings.kind == OWN_TYPE and isinstance(level.get(OWN_KEY), dict) and level[OWN_KEY].get("experts"):
            _prefix_count(level[OWN_KEY]["experts"], "first_dense", order)
        sliding = level.get("use_sliding_window")
        if type(level.get("max_window_layers")) is int:
            if sliding:
                _prefix_count(level, "max_window_layers", order)
            elif level["max_window_layers"] == n_old:
                level["max_window_layers"] = len(order)
        has_types = isinstance(level.get("layer_types"), list)
        for key in (
            "decoder_sparse_step", "moe_layer_freq", "interleave_moe_layer_step", "no_rope_layer_interval",
            "sliding_window_pattern", "_sliding_window_pattern", "global_attn_every_n_layers",
            "full_attention_interval",
        ):  # fmt: skip
            period = level.get(key)
            if type(period) is int and period > 1 and not (has_types and "sliding" in key):
                _check_period(key, period, order)
        if settings.kind in ("gemma2",) and not has_types:
            _check_period("alternating local and global attention", 2, order)
    settings.set("n_layers", len(order))
    return notes


def _prefix_count(level: dict[str, Any], key: str, order: Sequence[int]) -> None:
    """A count of first layers of one kind: the new count, where those still stand first."""
    count = level.get(key)
    if type(count) is not int:
        return
    kinds = [old < count for old in order]
    if sorted(kinds, reverse=True) != kinds:
        raise UsageError(
            "the first layers are of another kind, and would no longer stand first",
            where=f"config.json: {key}",
            got=f"{key} {count}; order {shown_order(order)}",
            expected="an order in which these layers stand before all others",
            fix="leave the first layers in their places",
        )
    level[key] = sum(kinds)


def _check_period(key: str, period: int, order: Sequence[int]) -> None:
    wrong = next((new for new, old in enumerate(order) if new % period != old % period), None)
    if wrong is not None:
        raise UsageError(
            "layers of different kinds alternate, and the new order breaks the pattern",
            where=f"config.json: {key} = {period}",
            got=f"layer {order[wrong]} would become layer {wrong}",
            expected=f"new and old numbers equal modulo {period}",
            fix=f"insert or remove layers {period} at a time, at multiples of {period}",
        )


def shown_order(order: Sequence[int]) -> str:
    """An order of layers, short."""
    text = ", ".join(map(str, order))
    return text if len(text) <= 60 else text[:56] + " ..."
