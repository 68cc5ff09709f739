"""Tiny configs of real architectures, built with the classes of transformers.

Only shapes are ours; every switch that makes an architecture what it is (norm placement, fused projections,
rotary share, tying, latent attention) keeps the value its published models have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pedigree.benchmark.zoo.snapshot import replaced_directory
from pedigree.errors import MissingInput, UsageError

if TYPE_CHECKING:
    from types import ModuleType


@dataclass(frozen=True)
class Sizes:
    """Shape of a tiny model: widths in channels, counts of layers and heads."""

    d_model: int = 128
    n_layers: int = 6
    n_heads: int = 4
    n_kv_heads: int = 2
    head_dim: int = 32
    n_inner: int = 384
    vocab_size: int = 2048
    n_positions: int = 256
    n_experts: int = 4

    def to_dict(self) -> dict[str, int]:
        """The sizes as a JSON-ready mapping."""
        return asdict(self)


# architecture -> class of transformers with a head
CLASSES: Mapping[str, str] = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
    "gpt_neox": "GPTNeoXForCausalLM",
    "opt": "OPTForCausalLM",
    "bert": "BertForMaskedLM",
    "mixtral": "MixtralForCausalLM",
    "qwen2_moe": "Qwen2MoeForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM",
}


def import_transformers() -> ModuleType:
    """The transformers package.

    Raises:
        MissingInput: it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise MissingInput(
            "the zoo trains its models with transformers, which is not installed",
            fix="pip install 'llm-pedigree[hf]'",
        ) from error
    quiet: Any = transformers.logging
    quiet.set_verbosity_error()
    quiet.disable_progress_bar()
    return transformers


def _gqa(s: Sizes) -> dict[str, Any]:
    return {
        "vocab_size": s.vocab_size,
        "hidden_size": s.d_model,
        "intermediate_size": s.n_inner,
        "num_hidden_layers": s.n_layers,
        "num_attention_heads": s.n_heads,
        "num_key_value_heads": s.n_kv_heads,
        "head_dim": s.head_dim,
        "max_position_embeddings": s.n_positions,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": None,
    }


def _plain(s: Sizes) -> dict[str, Any]:
    return {
        "vocab_size": s.vocab_size,
        "hidden_size": s.d_model,
        "num_hidden_layers": s.n_layers,
        "num_attention_heads": s.n_heads,
        "max_position_embeddings": s.n_positions,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": None,
    }


def config_arguments(architecture: str, sizes: Sizes) -> dict[str, Any]:
    """Arguments for the config class of an architecture.

    Raises:
        UsageError: unknown architecture.
    """
    s = sizes
    if architecture == "llama":
        return {**_gqa(s), "tie_word_embeddings": False}
    if architecture == "qwen2":
        arguments = {**_gqa(s), "tie_word_embeddings": False, "use_sliding_window": False}
        arguments.pop("head_dim")
        return arguments
    if architecture == "qwen3":
        return {**_gqa(s), "tie_word_embeddings": True, "use_sliding_window": False}
    if architecture == "gemma2":
        return {
            **_gqa(s),
            "query_pre_attn_scalar": s.head_dim,
            "sliding_window": s.n_positions,
            "tie_word_embeddings": True,
            "hidden_activation": "gelu_pytorch_tanh",
        }
    if architecture == "olmo2":
        arguments = {**_gqa(s), "tie_word_embeddings": False}
        arguments.pop("head_dim")
        return arguments
    if architecture == "gpt2":
        return {
            "vocab_size": s.vocab_size,
            "n_embd": s.d_model,
            "n_layer": s.n_layers,
            "n_head": s.n_heads,
            "n_inner": s.n_inner,
            "n_positions": s.n_positions,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
        }
    if architecture == "gpt_neox":
        return {**_plain(s), "intermediate_size": s.n_inner, "tie_word_embeddings": False}
    if architecture == "opt":
        return {
            **_plain(s),
            "ffn_dim": s.n_inner,
            "word_embed_proj_dim": s.d_model,
            "dropout": 0.0,
            "attention_dropout": 0.0,
            "pad_token_id": 1,
        }
    if architecture == "bert":
        return {
            **_plain(s),
            "intermediate_size": s.n_inner,
            "type_vocab_size": 2,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "pad_token_id": 0,
        }
    if architecture == "mixtral":
        return {
            **_gqa(s),
            "num_local_experts": s.n_experts,
            "num_experts_per_tok": 2,
            "tie_word_embeddings": False,
            "output_router_logits": True,
            "router_aux_loss_coef": 0.01,
        }
    if architecture == "deepseek_v3":
        return _latent(s)
    raise UsageError("unknown architecture", got=architecture, expected=", ".join(sorted(CLASSES)))


def _latent(s: Sizes) -> dict[str, Any]:
    arguments = _gqa(s)
    arguments.pop("head_dim")
    return {
        **arguments,
        "num_key_value_heads": s.n_heads,
        "q_lora_rank": s.d_model // 2,
        "kv_lora_rank": s.d_model // 4,
        "qk_nope_head_dim": s.head_dim,
        "qk_rope_head_dim": s.head_dim // 2,
        "v_head_dim": s.head_dim,
        "moe_intermediate_size": s.n_inner // 2,
        "n_routed_experts": s.n_experts,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "norm_topk_prob": True,
        "routed_scaling_factor": 1.0,
        "tie_word_embeddings": False,
    }


def fresh_model(architecture: str, sizes: Sizes, seed: int) -> Any:
    """A model with the random start that transformers gives it under `seed`.

    Raises:
        MissingInput: transformers is not installed.
        UsageError: unknown architecture.
    """
    import torch

    arguments = config_arguments(architecture, sizes)
    transformers = import_transformers()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model_class = getattr(transformers, CLASSES[architecture])
        return model_class(model_class.config_class(**arguments)).float()


def open_model(directory: Path) -> Any:
    """The model in a zoo directory, in float32 and evaluation mode.

    Raises:
        MissingInput: transformers is not installed.
    """
    import json

    import torch

    transformers = import_transformers()
    class_name = json.loads((directory / "config.json").read_text())["architectures"][0]
    model = getattr(transformers, class_name).from_pretrained(directory, dtype=torch.float32, local_files_only=True)
    return model.float().eval()


def save_model(model: Any, directory: Path, tokenizer: str) -> None:
    """Write a model and its tokenizer as a Hugging Face directory, in one rename."""
    with replaced_directory(directory) as part:
        model.save_pretrained(part)
        (part / "generation_config.json").unlink(missing_ok=True)
        (part / "tokenizer.json").write_text(tokenizer)
