"""The parts of a model config: attention, rotary positions, norms, feed-forward, experts, initialization.

Laws
1. A part is frozen, and an unknown key or an impossible value is a `UsageError` that names the field.
2. A part says what the mechanism is, never how big the whole is: widths of the stream, depth and vocabulary are in
   `pedigree.model.config.ModelConfig`.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator

from pedigree.errors import UsageError

Count = Annotated[int, Field(gt=0)]
Whole = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0.0, le=1.0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Part(BaseModel):
    """Base of every config: frozen, unknown keys forbidden, problems reported as `UsageError`."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="wrap")
    @classmethod
    def _reported_as_ours(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if isinstance(data, Mapping):
            for key in data:
                if key not in cls.model_fields:
                    raise _unknown_key(cls.__name__, str(key), list(cls.model_fields))
        try:
            return handler(data)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join([cls.__name__, *map(str, first["loc"])])
            raise UsageError(
                "A model config holds an impossible value",
                where=where,
                got=repr(first.get("input")),
                expected=first["msg"],
                fix=f"edit {where}",
            ) from error

    def replace(self, **changes: Any) -> Self:
        """A copy with these fields changed, checked again as a whole.

        Raises:
            UsageError: an unknown field, or a combination that cannot be built.
        """
        return type(self).model_validate({**self.model_dump(), **changes})


def _unknown_key(owner: str, key: str, known: list[str]) -> UsageError:
    close = difflib.get_close_matches(key, known, n=1)
    return UsageError(
        "A model config has an unknown key",
        where=owner,
        got=key,
        expected=", ".join(known),
        fix=f"did you mean {close[0]}?" if close else f"remove {key}",
    )


def refuse(what: str, *, where: str, got: object, expected: object, fix: str) -> UsageError:
    """The error for a combination that cannot be built."""
    return UsageError(what, where=where, got=got, expected=expected, fix=fix)


class RopeScaling(Part):
    """Slower rotation, for contexts beyond the trained one.

    `llama3` (arXiv 2407.21783): waves that turn fewer than `low` times in the original context turn `factor` times
    slower, those that turn more than `high` times as before, those between by a share that grows linearly with the
    number of turns. `yarn` (arXiv 2309.00071): the share grows linearly with the channel instead, and cosines and sines
    are multiplied by an attention factor. `linear` (arXiv 2306.15595): all waves turn `factor` times slower.
    `dynamic`: the base grows with the longest position in the pass, once that leaves the original context; keys in a
    cache keep the base that they were turned with.
    """

    kind: Literal["llama3", "linear", "dynamic", "yarn"] = "llama3"
    factor: Positive
    low: Positive = 1.0
    high: Positive = 4.0
    """Published: 4 for `llama3`, 32 for `yarn`, which are the defaults."""
    original_positions: Count | None = None
    """Trained context; `linear` needs none."""
    truncate: bool = True
    """`yarn`: whether the edges of the band are whole channels."""
    attention_factor: Positive | None = None
    """`yarn`: on cosines and sines; None computes it from `factor`, `mscale` and `mscale_all_dim`."""
    mscale: Positive | None = None
    mscale_all_dim: Positive | None = None
    """`yarn` as in DeepSeek-V3 (arXiv 2412.19437): latent attention also sharpens its softmax by it."""

    @model_validator(mode="before")
    @classmethod
    def _high_of_its_kind(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("kind") == "yarn":
            return {"high": 32.0, **given}
        return given

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.low >= self.high:
            raise refuse(
                "The band of scaled waves is empty",
                where="RopeScaling.high",
                got=self.high,
                expected=f"more than low, {self.low}",
                fix="raise high",
            )
        if self.original_positions is None and self.kind != "linear":
            raise refuse(
                "This scaling starts from the trained context",
                where="RopeScaling.original_positions",
                got=None,
                expected=f"a number of positions for {self.kind}",
                fix="set original_positions",
            )
        given = [name for name in ("attention_factor", "mscale", "mscale_all_dim") if getattr(self, name) is not None]
        if given and self.kind != "yarn":
            raise refuse(
                "Only yarn has an attention factor",
                where=f"RopeScaling.{given[0]}",
                got=self.kind,
                expected="kind: yarn",
                fix=f"remove {given[0]}",
            )
        return self

    @property
    def turn_factor(self) -> float:
        """Factor on cosines and sines."""
        if self.kind != "yarn":
            return 1.0
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale is not None and self.mscale_all_dim is not None:
            return self._yarn(self.mscale) / self._yarn(self.mscale_all_dim)
        return self._yarn(1.0)

    @property
    def softmax_factor(self) -> float:
        """Factor on the scale of the softmax of latent attention."""
        return 1.0 if self.mscale_all_dim is None else self._yarn(self.mscale_all_dim) ** 2

    def _yarn(self, weight: float) -> float:
        return 1.0 if self.factor <= 1 else 0.1 * weight * math.log(self.factor) + 1.0


class Rope(Part):
    """Rotary positions (Su et al. 2021, arXiv 2104.09864)."""

    theta: Positive = 10000.0
    """Base of the wavelengths."""
    fraction: Fraction = 1.0
    """Share of each head that turns, from its first channel on; latent attention turns its `rope_dim` instead."""
    layout: Literal["half", "interleaved"] = "half"
    """Whether channel i turns with channel i + half of the turning ones, or with its neighbor."""
    scaling: RopeScaling | None = None

    @model_validator(mode="after")
    def _yarn_has_waves(self) -> Self:
        if self.scaling is not None and self.scaling.kind == "yarn" and self.theta <= 1:
            raise refuse(
                "yarn needs waves of several lengths",
                where="Rope.theta",
                got=self.theta,
                expected="more than 1",
                fix="raise theta",
            )
        return self


class GroupedAttention(Part):
    """Multi-head attention whose keys and values may be shared by groups of query heads (arXiv 2305.13245)."""

    kind: Literal["gqa"] = "gqa"
    n_heads: Count
    n_kv_heads: Count
    head_dim: Count
    q_bias: bool = False
    k_bias: bool = False
    v_bias: bool = False
    o_bias: bool = False
    q_norm: bool = False
    """RMSNorm on each query head, before the rotation."""
    k_norm: bool = False
    """RMSNorm on each key head, before the rotation."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.n_heads % self.n_kv_heads:
            raise refuse(
                "Query heads cannot be shared out evenly",
                where="GroupedAttention.n_kv_heads",
                got=f"{self.n_heads} query heads over {self.n_kv_heads} key heads",
                expected="n_kv_heads divides n_heads",
                fix="choose n_kv_heads from the divisors of n_heads",
            )
        return self

    @property
    def qk_dim(self) -> int:
        """Channels of a head in the product of queries and keys."""
        return self.head_dim

    @property
    def v_dim(self) -> int:
        """Channels of a head in the values."""
        return self.head_dim


class LatentAttention(Part):
    """Multi-head latent attention of DeepSeek-V2 and -V3 (arXiv 2405.04434): keys and values from a short latent."""

    kind: Literal["mla"] = "mla"
    n_heads: Count
    q_rank: Count | None
    """Width of the query latent; None projects queries directly."""
    kv_rank: Count
    nope_dim: Count
    """Channels of a head that carry no position."""
    rope_dim: Count
    """Channels of a head that turn; their keys are one head, shared by all."""
    v_dim: Count
    latent_eps: Positive = 1e-6
    """Epsilon of the two latent norms; the reference code uses 1e-6 whatever the other norms use."""

    @property
    def qk_dim(self) -> int:
        """Channels of a head in the product of queries and keys."""
        return self.nope_dim + self.rope_dim


class Norm(Part):
    """Which norm stands where."""

    kind: Literal["rms", "layer"] = "rms"
    eps: Positive = 1e-5
    placement: Literal["pre", "sandwich", "depth-scaled-sandwich"] = "pre"
    """`pre`: before each branch. `sandwich`: also behind it, before the sum. `depth-scaled-sandwich`: as sandwich, with
    the gains behind attention and feed-forward starting at c / sqrt(n_layers) (arXiv 2504.07866)."""
    c_attention: Positive = 0.283
    c_feed_forward: Positive = 0.432
    final_bias: bool = False
    """RMS norms: a vector added behind the final one, where the bias of a LayerNorm went that nothing could take."""

    @model_validator(mode="after")
    def _one_bias(self) -> Self:
        if self.final_bias and self.kind == "layer":
            raise refuse(
                "A LayerNorm has its bias already",
                where="Norm.final_bias",
                got=True,
                expected="false, or kind: rms",
                fix="remove final_bias",
            )
        return self

    @property
    def sandwich(self) -> bool:
        """Whether a norm stands behind each branch too."""
        return self.placement != "pre"


class Homotopy(Part):
    """Coefficients of a model on its way from one mechanism to another; 1 everywhere is the ordinary model.

    An operator of `pedigree surgery` sets one where nothing changes yet, training moves it with the tokens it has seen
    (`training.anneal`), and another operator takes away what no longer acts.
    """

    angles: Share = 1.0
    """On the angles of rotary positions: 0 turns nothing."""
    positions: Share = 1.0
    """On the learned positions: 0 adds nothing."""
    queries: Share = 1.0
    """Of the query layer: 1 takes its queries from the table and has its norm where it was trained with it; 0 is an
    ordinary last layer, with the final norm behind it."""
    post_norms: Share = 1.0
    """Of the norms behind the branches: 0 adds the branch as it is, 1 the normalized one."""

    @property
    def moved(self) -> dict[str, float]:
        """The coefficients that are not 1."""
        return {name: value for name, value in self.model_dump().items() if value != 1}


class FeedForward(Part):
    """The dense feed-forward part; experts share its kind and biases."""

    kind: Literal["swiglu", "gelu"] = "swiglu"
    """`swiglu`: down(silu(gate x) * up x). `gelu`: down(gelu(up x)), tanh form."""
    d_inner: Count
    bias: bool = False
    series: Count = 1
    """Terms of the series-informed activation of PanGu-pi (arXiv 2312.17276); 1 is the plain activation."""


class Shortcut(Part):
    """Augmented shortcuts beside attention (PanGu-pi, arXiv 2312.17276): a bottleneck of two linear maps each."""

    count: Count = 1
    reduction: Count = 32
    """The bottleneck is d_model / reduction channels wide."""


class Balance(Part):
    """What keeps experts evenly loaded, and router logits small."""

    scope: Literal["none", "sequence", "batch", "group"] = "none"
    """Tokens over which load and probability are compared; `group` sums loads over the expert-parallel group."""
    coefficient: NonNegative = 0.0
    z_coefficient: NonNegative = 0.0
    """Weight of mean(logsumexp(router logits)^2) (ST-MoE, arXiv 2202.08906)."""
    bias_rate: NonNegative = 0.0
    """Step of the selection bias towards under-used experts, once per optimizer step (arXiv 2408.15664)."""


class Experts(Part):
    """A mixture of experts in place of the feed-forward part, from layer `first_dense` on."""

    n_experts: Count
    top_k: Count
    d_expert: Count
    router: Literal["softmax", "sigmoid", "grouped", "random"] = "softmax"
    """`softmax`: top k of a softmax. `sigmoid`: top k of sigmoids inside the best groups (DeepSeek-V3).
    `grouped`: the best top_k / n_groups of every group by a global softmax (MoGE, arXiv 2505.21411).
    `random`: domain picks the group, a fixed table picks the expert by token id (PanGu-Sigma, arXiv 2303.10845)."""
    n_groups: Count = 1
    """Groups of neighboring experts; for `random`, one group for each domain."""
    topk_groups: Count = 1
    """Groups from which a `sigmoid` router may choose."""
    renormalize: bool = False
    """Divide the weights of the chosen experts by their sum."""
    scale: Positive = 1.0
    """Constant factor on the weights of the chosen experts."""
    expert_bias: bool = False
    """A bias that takes part in the choice only, moved by `Balance.bias_rate`, never by gradients."""
    learned_scale: bool = False
    """A learned factor for each expert (`router_scale` of Pangu Pro MoE)."""
    d_shared: Whole = 0
    """Width of the shared expert that sees every token; 0 for none."""
    shared_gate: bool = False
    """Multiply the shared expert by the sigmoid of a learned projection (Qwen2-MoE)."""
    first_dense: Whole = 0
    """Leading layers that keep the dense feed-forward part."""
    balance: Balance = Balance()

    @model_validator(mode="after")
    def _groups_divide(self) -> Self:
        per_group, rest = divmod(self.n_experts, self.n_groups)
        problem: tuple[str, object, str] | None = None
        if rest:
            problem = ("n_groups", self.n_groups, f"a divisor of the {self.n_experts} experts")
        elif self.top_k > self.n_experts:
            problem = ("top_k", self.top_k, f"at most the {self.n_experts} experts there are")
        elif self.router == "random" and self.top_k != 1:
            problem = ("top_k", self.top_k, "1: the table names one expert for each token")
        elif self.router == "grouped" and (self.top_k % self.n_groups or self.top_k > self.n_experts):
            problem = ("top_k", self.top_k, f"a multiple of the {self.n_groups} groups: each gives as many experts")
        elif self.router == "sigmoid" and self.topk_groups > self.n_groups:
            problem = ("topk_groups", self.topk_groups, f"at most the {self.n_groups} groups there are")
        elif self.router == "sigmoid" and self.top_k > self.topk_groups * per_group:
            problem = ("top_k", self.top_k, f"at most {self.topk_groups} groups of {per_group} experts")
        elif self.router == "softmax" and self.n_groups != 1:
            problem = ("n_groups", self.n_groups, "1: a softmax router knows no groups; use grouped or sigmoid")
        elif self.router != "sigmoid" and self.topk_groups != 1:
            problem = ("topk_groups", self.topk_groups, "1: only a sigmoid router chooses groups")
        elif self.expert_bias and self.router in ("grouped", "random"):
            problem = ("expert_bias", True, "False: this router is balanced by construction")
        elif self.balance.bias_rate and not self.expert_bias:
            problem = ("balance.bias_rate", self.balance.bias_rate, "0, or expert_bias: true for it to move")
        elif self.shared_gate and not self.d_shared:
            problem = ("shared_gate", True, "False, or a shared expert (d_shared) for it to gate")
        elif self.router == "random" and (
            self.balance.scope != "none" or self.balance.z_coefficient or self.renormalize or self.learned_scale
        ):
            problem = ("router", "random", "no balance loss, z-loss or weights: a fixed table has nothing to learn")
        if problem:
            field, got, expected = problem
            raise refuse(
                "These experts cannot be routed",
                where=f"Experts.{field}",
                got=got,
                expected=expected,
                fix=f"edit {field}",
            )
        return self

    @property
    def per_group(self) -> int:
        """Experts in one group."""
        return self.n_experts // self.n_groups


class MultiToken(Part):
    """Multi-token prediction as in DeepSeek-V3 (arXiv 2412.19437): further layers that predict further tokens."""

    depth: Count = 1
    weight: NonNegative = 0.3
    """Factor of the mean of the extra losses."""


class Initialization(Part):
    """How weights start. Gains start at 1 (but see `Norm`), biases at 0."""

    kind: Literal["gpt2", "tiny", "normal"] = "gpt2"
    """`gpt2`: N(0, std), residual outputs divided by sqrt(2 n_layers). `tiny`: N(0, 1 / (2 d_model n_layers)) for every
    matrix (TinyInit, arXiv 2504.07866). `normal`: N(0, std) for every matrix."""
    std: Positive = 0.02
    embedding_std: Positive | None = None
    """Standard deviation of the embedding tables; None: `std`."""
    qkv_std: Positive | None = None
    """Standard deviation of the query, key and value projections; None: as the other matrices."""
