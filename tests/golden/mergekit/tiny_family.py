"""A tiny Llama and two fine-tunes of it, drawn the same on every machine; used by `make.py` and by the tests."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

LAYERS, WIDTH, INNER, ROWS, HEADS, KV_HEADS = 3, 8, 16, 24, 2, 1
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "vocab_size": ROWS,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}
Arrays = dict[str, npt.NDArray[np.float32]]


def shapes() -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor."""
    kv = KV_HEADS * WIDTH // HEADS
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (ROWS, WIDTH), "lm_head.weight": (ROWS, WIDTH)}
    for layer in range(LAYERS):
        stem = f"model.layers.{layer}"
        found |= {
            f"{stem}.self_attn.q_proj.weight": (WIDTH, WIDTH),
            f"{stem}.self_attn.k_proj.weight": (kv, WIDTH),
            f"{stem}.self_attn.v_proj.weight": (kv, WIDTH),
            f"{stem}.self_attn.o_proj.weight": (WIDTH, WIDTH),
            f"{stem}.mlp.gate_proj.weight": (INNER, WIDTH),
            f"{stem}.mlp.up_proj.weight": (INNER, WIDTH),
            f"{stem}.mlp.down_proj.weight": (WIDTH, INNER),
            f"{stem}.input_layernorm.weight": (WIDTH,),
            f"{stem}.post_attention_layernorm.weight": (WIDTH,),
        }
    return found | {"model.norm.weight": (WIDTH,)}


def family() -> dict[str, Arrays]:
    """`base`, and `first` and `second` that have moved a little from it."""
    draw = np.random.Generator(np.random.Philox(20_260_101))
    base = {name: draw.standard_normal(shape).astype(np.float32) for name, shape in shapes().items()}
    tuned = [
        {name: (x + 0.3 * draw.standard_normal(x.shape)).astype(np.float32) for name, x in base.items()}
        for _ in range(2)
    ]
    return {"base": base, "first": tuned[0], "second": tuned[1]}


RECIPES = {
    "linear": """
merge_method: linear
models:
  - {model: first, parameters: {weight: 0.7}}
  - {model: second, parameters: {weight: [0.1, 0.5, 0.2]}}
dtype: float32
""",
    "slerp": """
merge_method: slerp
base_model: base
models:
  - {model: first}
  - {model: base}
parameters:
  t:
    - {filter: self_attn, value: [0, 0.5, 1]}
    - {filter: mlp, value: [1, 0.5, 0]}
    - {value: 0.4}
dtype: float32
""",
    "nuslerp": """
merge_method: nuslerp
base_model: base
models:
  - {model: first, parameters: {weight: 2}}
  - {model: second, parameters: {weight: 1}}
dtype: float32
""",
    "nuslerp_rows": """
merge_method: nuslerp
models:
  - {model: first, parameters: {weight: 2}}
  - {model: second, parameters: {weight: 1}}
parameters: {nuslerp_flatten: false, nuslerp_row_wise: false}
dtype: float32
""",
    "task_arithmetic": """
merge_method: task_arithmetic
base_model: base
models:
  - {model: first, parameters: {weight: 0.6}}
  - {model: second, parameters: {weight: 0.8}}
parameters: {lambda: 0.9}
dtype: float32
""",
    "ties": """
merge_method: ties
base_model: base
models:
  - {model: first, parameters: {weight: 0.6, density: 0.5}}
  - {model: second, parameters: {weight: 0.8, density: [0.3, 0.9]}}
dtype: float32
""",
    "breadcrumbs_ties": """
merge_method: breadcrumbs_ties
base_model: base
models:
  - {model: first, parameters: {weight: 0.6, density: 0.5, gamma: 0.1}}
  - {model: second, parameters: {weight: 0.8, density: 0.7, gamma: 0.05}}
dtype: float32
""",
    "model_stock": """
merge_method: model_stock
base_model: base
models:
  - {model: first}
  - {model: second}
parameters: {filter_wise: true}
dtype: float32
""",
    "passthrough": """
merge_method: passthrough
slices:
  - sources: [{model: first, layer_range: [0, 2]}]
  - sources:
      - model: second
        layer_range: [1, 3]
        parameters:
          scale: [{filter: o_proj, value: 0.0}, {filter: down_proj, value: 0.0}, {value: 1.0}]
dtype: float32
""",
}
"""Recipes in mergekit's YAML; models are named by their folders."""
