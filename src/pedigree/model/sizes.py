"""Sizes of a decoder in closed form: parameters, floating-point operations, key-value cache. Nothing is allocated.

Conventions
- Every trained parameter counts: biases, gains, learned router scales. What no gradient moves does not (selection
  biases, the tables of random routing).
- `total` and `active` are those of the main model: multi-token prediction stands apart in `mtp`, as reports give it.
  A tied head counts once. `active` holds the embedding table; `active_without_embedding` does not.
- One multiplication with its addition is two operations; a causal token attends to half the context on average;
  training costs three forward passes.

Letters: d = d_model, L = layers, h = heads, f = inner width, E = experts, V = vocabulary.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from pedigree.errors import UsageError
from pedigree.model.config import ModelConfig
from pedigree.model.config_parts import Experts, FeedForward, GroupedAttention, LatentAttention


@dataclass(frozen=True)
class Parameters:
    """Parameters by part, all layers together; `experts` counts every expert, `active_experts` the chosen ones."""

    embedding: int
    positions: int
    head: int
    attention: int
    feed_forward: int
    experts: int
    active_experts: int
    shared_experts: int
    router: int
    shortcuts: int
    norms: int
    mtp: int

    @property
    def total(self) -> int:
        """Parameters of the main model."""
        return self.active - self.active_experts + self.experts

    @property
    def active(self) -> int:
        """Parameters of the main model that one token meets, the embedding table counted whole."""
        blocks = self.attention + self.feed_forward + self.active_experts + self.shared_experts + self.router
        return self.embedding + self.positions + self.head + blocks + self.shortcuts + self.norms

    @property
    def active_without_embedding(self) -> int:
        """As `active`, without the embedding table where the head is another matrix."""
        return self.active - (self.embedding if self.head else 0)

    @property
    def with_mtp(self) -> int:
        """Parameters of the whole module, multi-token prediction included."""
        return self.total + self.mtp

    def to_dict(self) -> dict[str, int]:
        """All numbers, sums included."""
        sums = {"total": self.total, "active": self.active, "with_mtp": self.with_mtp}
        return {**asdict(self), **sums, "active_without_embedding": self.active_without_embedding}


def parameters(config: ModelConfig) -> Parameters:
    """Parameters of the model that a config describes, exact to the last one."""
    d, e = config.d_model, config.experts
    n_sparse = config.n_sparse
    n_dense = config.n_layers - n_sparse
    inner = config.feed_forward.d_inner
    tables = int(config.learned_positions) + int(config.query_layer != "none")
    per_norm = d * (2 if config.norm.kind == "layer" else 1)
    per_block = per_norm * (4 if config.norm.sandwich else 2)
    expert = 0 if e is None else _feed_forward(config.feed_forward, d, e.d_expert, series=1)
    return Parameters(
        embedding=config.vocab_size * d,
        positions=tables * config.n_positions * d,
        head=0 if config.tied else config.vocab_size * d,
        attention=config.n_layers * _attention(config),
        feed_forward=n_dense * _feed_forward(config.feed_forward, d, inner, config.feed_forward.series),
        experts=0 if e is None else n_sparse * e.n_experts * expert,
        active_experts=0 if e is None else n_sparse * e.top_k * expert,
        shared_experts=0 if e is None else n_sparse * _shared(config.feed_forward, e, d),
        router=0 if e is None else n_sparse * _router(e, d),
        shortcuts=config.n_layers * _shortcuts(config),
        norms=config.n_layers * per_block + per_norm + (d if config.norm.final_bias else 0),
        mtp=0 if config.mtp is None else config.mtp.depth * _mtp_layer(config, per_norm, per_block, expert),
    )


def _attention(config: ModelConfig) -> int:
    """Parameters of one attention part."""
    a, d = config.attention, config.d_model
    if isinstance(a, LatentAttention):
        query = d * a.n_heads * a.qk_dim
        if a.q_rank is not None:
            query = d * a.q_rank + a.q_rank + a.q_rank * a.n_heads * a.qk_dim
        latent = d * (a.kv_rank + a.rope_dim) + a.kv_rank + a.kv_rank * a.n_heads * (a.nope_dim + a.v_dim)
        return query + latent + a.n_heads * a.v_dim * d
    wide, narrow = a.n_heads * a.head_dim, a.n_kv_heads * a.head_dim
    biases = a.q_bias * wide + (a.k_bias + a.v_bias) * narrow + a.o_bias * d
    return 2 * d * wide + 2 * d * narrow + biases + (a.q_norm + a.k_norm) * a.head_dim


def _feed_forward(f: FeedForward, d: int, inner: int, series: int) -> int:
    """Parameters of one feed-forward part or expert."""
    ways_in = 2 if f.kind == "swiglu" else 1
    biases = ways_in * inner + d if f.bias else 0
    return (ways_in + 1) * d * inner + biases + (2 * series * inner if series > 1 else 0)


def _shared(f: FeedForward, e: Experts, d: int) -> int:
    if not e.d_shared:
        return 0
    return _feed_forward(f, d, e.d_shared, series=1) + (d if e.shared_gate else 0)


def _router(e: Experts, d: int) -> int:
    if e.router == "random":
        return 0
    return d * e.n_experts + (e.n_experts if e.learned_scale else 0)


def _shortcuts(config: ModelConfig) -> int:
    if config.shortcut is None:
        return 0
    return config.shortcut.count * 2 * config.d_model * (config.d_model // config.shortcut.reduction)


def _mtp_layer(config: ModelConfig, per_norm: int, per_block: int, expert: int) -> int:
    """One multi-token layer: a decoder layer, the matrix that joins two streams, three norms."""
    d, e = config.d_model, config.experts
    if e is None:
        ffn = _feed_forward(config.feed_forward, d, config.feed_forward.d_inner, config.feed_forward.series)
    else:
        ffn = e.n_experts * expert + _shared(config.feed_forward, e, d) + _router(e, d)
    return _attention(config) + ffn + _shortcuts(config) + per_block + 2 * d * d + 3 * per_norm


def matrix_parameters(config: ModelConfig) -> int:
    """Weights that one token is multiplied with in the main model: head yes, embedding no, chosen experts only."""
    p, d, e = parameters(config), config.d_model, config.experts
    a, f = config.attention, config.feed_forward
    n_sparse = config.n_sparse
    n_dense = config.n_layers - n_sparse
    count = config.vocab_size * d + p.shortcuts
    if isinstance(a, GroupedAttention):
        count += config.n_layers * 2 * d * (a.n_heads + a.n_kv_heads) * a.head_dim
    else:
        latents = a.kv_rank + (a.q_rank or 0)
        count += p.attention - config.n_layers * latents
    ways = 3 if f.kind == "swiglu" else 2
    count += n_dense * ways * d * f.d_inner
    if e is not None:
        gate = d if e.shared_gate and e.d_shared else 0
        router = 0 if e.router == "random" else d * e.n_experts
        count += n_sparse * (ways * d * (e.top_k * e.d_expert + e.d_shared) + gate + router)
    return count


@dataclass(frozen=True)
class Operations:
    """Floating-point operations for one token at one context length."""

    matrices: int
    """Products with weights, forward."""
    attention: int
    """Products of queries with keys and of probabilities with values, forward, causal."""
    mtp: int
    """Multi-token prediction, forward, its passes through the head included."""

    @property
    def forward(self) -> int:
        """One forward pass of the main model."""
        return self.matrices + self.attention

    @property
    def training(self) -> int:
        """Forward and backward, multi-token prediction included."""
        return 3 * (self.forward + self.mtp)


def operations(config: ModelConfig, context: int) -> Operations:
    """Operations per token of a sequence of `context` tokens.

    Raises:
        UsageError: the context is not positive.
    """
    if context <= 0:
        raise UsageError("A context length must be positive", got=context, expected="at least 1", fix="pass tokens")
    a = config.attention
    per_layer = context * a.n_heads * (a.qk_dim + a.v_dim)
    mtp = 0
    if config.mtp is not None:
        # One more layer of the last kind: what a model one layer deeper costs beyond this one, and the joining matrix.
        deeper = matrix_parameters(config.replace(n_layers=config.n_layers + 1)) - matrix_parameters(config)
        extra = deeper + 2 * config.d_model**2 + config.vocab_size * config.d_model
        mtp = config.mtp.depth * (2 * extra + per_layer)
    return Operations(2 * matrix_parameters(config), config.n_layers * per_layer, mtp)


def cache_bytes(config: ModelConfig, tokens: int = 1, bytes_per_number: int = 2) -> int:
    """Bytes of the key-value cache for so many tokens; latent attention keeps its latent and one rotary key."""
    a = config.attention
    if isinstance(a, LatentAttention):
        numbers = a.kv_rank + a.rope_dim
    else:
        numbers = 2 * a.n_kv_heads * a.head_dim
    return config.n_layers * numbers * tokens * bytes_per_number
