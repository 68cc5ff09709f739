"""One frozen config describes one decoder, whatever its family.

    ModelConfig ─── attention: GroupedAttention | LatentAttention      rope: Rope        norm: Norm
                ├── feed_forward: FeedForward                          experts: Experts  shortcut: Shortcut
                └── query_layer, mtp: MultiToken, init: Initialization

Laws
1. Unknown keys and impossible combinations are `UsageError`s that name the field and the way out.
2. `ModelConfig.from_json(c.to_json()) == c`.
3. Two equal configs build modules with the same parameter names and shapes.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from pedigree.errors import UsageError
from pedigree.model.config_parts import (
    Count,
    Experts,
    FeedForward,
    GroupedAttention,
    Homotopy,
    Initialization,
    LatentAttention,
    MultiToken,
    Norm,
    Part,
    Rope,
    Shortcut,
    refuse,
)


class ModelConfig(Part):
    """Everything that makes a decoder what it is; the numbers of the weights are not in it."""

    name: str = "unnamed"
    assumed: str | None = None
    """What about the shape was never published, in words; None when all of it was."""
    vocab_size: Count
    d_model: Count
    n_layers: Count
    """Layers of the main model, a query layer included; layers of multi-token prediction are not counted."""
    n_positions: Count
    """Context length; the size of the table where positions are learned."""
    attention: Annotated[GroupedAttention | LatentAttention, Field(discriminator="kind")]
    feed_forward: FeedForward
    norm: Norm = Norm()
    rope: Rope | None = None
    learned_positions: bool = False
    query_layer: Literal["none", "after-norm", "before-norm"] = "none"
    """The last layer of PanGu-alpha, whose queries come from a second table of positions. `after-norm`: it stands
    behind the final norm (released checkpoints); `before-norm`: before it (pipeline code)."""
    shortcut: Shortcut | None = None
    experts: Experts | None = None
    mtp: MultiToken | None = None
    tied: bool = False
    """Whether the output projection is the embedding table."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """On the embedding sum, attention probabilities and both branch outputs."""
    init: Initialization = Initialization()
    homotopy: Homotopy | None = None
    """Where the model stands between two mechanisms; None where it does not."""

    @model_validator(mode="after")
    def _can_be_built(self) -> Self:
        problem = _position_problem(self) or _layer_problem(self) or _homotopy_problem(self)
        if problem:
            field, got, expected, fix = problem
            raise refuse(
                "These parts do not fit together", where=f"ModelConfig.{field}", got=got, expected=expected, fix=fix
            )
        return self

    # -- which layer is what ------------------------------------------------------------------------------------------

    def is_sparse(self, layer: int) -> bool:
        """Whether a layer (0-based; multi-token layers follow the main ones) has experts."""
        return self.experts is not None and layer >= self.experts.first_dense

    def is_query(self, layer: int) -> bool:
        """Whether a layer is the query layer."""
        return self.query_layer != "none" and layer == self.n_layers - 1

    @property
    def n_sparse(self) -> int:
        """Layers of the main model that have experts."""
        return max(self.n_layers - self.experts.first_dense, 0) if self.experts is not None else 0

    @property
    def rotary_dim(self) -> int:
        """Channels of a head that turn; 0 without rotary positions."""
        if self.rope is None:
            return 0
        if isinstance(self.attention, LatentAttention):
            return self.attention.rope_dim
        return int(self.attention.head_dim * self.rope.fraction)

    @property
    def matrix_std(self) -> float:
        """Standard deviation with which an ordinary matrix starts."""
        if self.init.kind == "tiny":
            return float((2 * self.d_model * self.n_layers) ** -0.5)
        return self.init.std

    @property
    def embedding_std(self) -> float:
        """Standard deviation with which the embedding tables start."""
        return self.init.std if self.init.embedding_std is None else self.init.embedding_std

    # -- text ---------------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """The config as JSON-ready values. What came later is left out at rest: digests and older readers stay."""
        values = self.model_dump(mode="json")
        if self.homotopy is None:
            del values["homotopy"]
        if not self.norm.final_bias:
            del values["norm"]["final_bias"]
        return values

    def to_json(self) -> str:
        """The config as JSON text with sorted keys."""
        return json.dumps(self.to_dict(), sort_keys=True, indent=2)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The config written by `to_json`.

        Raises:
            UsageError: not JSON, unknown keys or impossible values.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise UsageError("A model config is not JSON", got=str(error), expected="what to_json writes") from error
        return cls.model_validate(data)

    def describe(self) -> str:
        """The mechanisms, one a line, for people."""
        return "\n".join(f"{key:<14}{value}" for key, value in _description(self) if value)


Problem = tuple[str, object, str, str] | None


def _position_problem(config: ModelConfig) -> Problem:
    attention, rope = config.attention, config.rope
    if rope is None and not config.learned_positions:
        return ("rope", None, "rotary or learned positions", "set rope: {} or learned_positions: true")
    if isinstance(attention, LatentAttention):
        if rope is None:
            return ("rope", None, "latent attention carries its positions by rotation", "set rope: {}")
        if rope.fraction != 1.0:
            return ("rope.fraction", rope.fraction, "1.0: latent attention names its rope_dim", "remove fraction")
    if config.rotary_dim % 2:
        return ("rope", config.rotary_dim, "an even number of turning channels", "change head_dim or fraction")
    if rope is not None and not config.rotary_dim:
        return ("rope.fraction", rope.fraction, "at least two channels of a head", "enlarge fraction or drop rope")
    if config.query_layer != "none":
        if not config.learned_positions:
            return ("query_layer", config.query_layer, "learned positions", "set learned_positions: true")
        if isinstance(attention, LatentAttention):
            return ("query_layer", config.query_layer, "grouped attention", "set attention.kind: gqa")
        if config.mtp is not None:
            return ("mtp", "on", "none: a query layer has no hidden state of the next token", "remove mtp")
    return None


def _layer_problem(config: ModelConfig) -> Problem:
    experts = config.experts
    if experts is not None:
        if experts.first_dense >= config.n_layers:
            return ("experts.first_dense", experts.first_dense, f"less than {config.n_layers} layers", "lower it")
        if config.feed_forward.series > 1:
            return ("feed_forward.series", config.feed_forward.series, "1 beside experts", "remove series or experts")
    if config.shortcut is not None:
        if config.d_model % config.shortcut.reduction:
            return ("shortcut.reduction", config.shortcut.reduction, f"a divisor of {config.d_model}", "change it")
        if config.query_layer != "none":
            return ("shortcut", "on", "none: the query layer has no shortcut", "remove shortcut or query_layer")
    if config.query_layer != "none" and config.n_layers < 2:
        return ("n_layers", config.n_layers, "at least 2: an ordinary layer and the query layer", "raise n_layers")
    return None


def _homotopy_problem(config: ModelConfig) -> Problem:
    if config.homotopy is None:
        return None
    has = {
        "angles": config.rope is not None,
        "positions": config.learned_positions,
        "queries": config.query_layer != "none",
        "post_norms": config.norm.sandwich,
    }
    for name, value in config.homotopy.moved.items():
        if not has[name]:
            return (f"homotopy.{name}", value, "1: this model has nothing it could act on", f"remove {name}")
    return None


def _description(config: ModelConfig) -> list[tuple[str, str]]:
    a, f, e, n = config.attention, config.feed_forward, config.experts, config.norm
    if isinstance(a, LatentAttention):
        attention = f"latent, {a.n_heads} heads, ranks {a.q_rank} and {a.kv_rank}, {a.nope_dim}+{a.rope_dim}|{a.v_dim}"
    else:
        biases = "".join(letter for letter in "qkvo" if getattr(a, f"{letter}_bias"))
        norms = "".join(letter for letter in "qk" if getattr(a, f"{letter}_norm"))
        attention = f"{a.n_heads} heads of {a.head_dim}, {a.n_kv_heads} for keys and values"
        attention += (f", biases {biases}" if biases else "") + (f", norms on {norms}" if norms else "")
    positions = [f"rotary, base {config.rope.theta:g}, {config.rope.layout}"] if config.rope else []
    positions += ["learned"] if config.learned_positions else []
    sparse = ""
    if e is not None:
        sparse = f"{e.n_experts} of {e.d_expert}, top {e.top_k}, {e.router}, {e.n_groups} groups"
        sparse += f", shared {e.d_shared}" if e.d_shared else ""
        sparse += f", from layer {e.first_dense}" if e.first_dense else ""
    series = f", series of {f.series}" if f.series > 1 else ""
    return [
        ("name", config.name),
        ("assumed", config.assumed or ""),
        ("shape", f"{config.n_layers} layers of {config.d_model}, vocabulary {config.vocab_size}"),
        ("attention", attention),
        ("positions", f"{', '.join(positions)}; context {config.n_positions}"),
        ("query layer", "" if config.query_layer == "none" else config.query_layer.replace("-", " the final ")),
        ("feed-forward", f"{f.kind} of {f.d_inner}{series}{', biases' if f.bias else ''}"),
        ("experts", sparse),
        ("shortcuts", f"{config.shortcut.count}, 1/{config.shortcut.reduction} wide" if config.shortcut else ""),
        ("norms", f"{n.kind}, {n.placement}, eps {n.eps:g}{', bias on the last' if n.final_bias else ''}"),
        ("head", "tied" if config.tied else "untied"),
        ("homotopy", ", ".join(f"{k} {v:g}" for k, v in config.homotopy.moved.items()) if config.homotopy else ""),
        ("mtp", f"depth {config.mtp.depth}, weight {config.mtp.weight:g}" if config.mtp else ""),
        ("start", f"{config.init.kind}, std {config.matrix_std:.3g}, embedding {config.embedding_std:g}"),
    ]
