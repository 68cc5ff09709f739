"""Latent attention (MLA): its dimensions from the shapes of its projections.

With H heads, n un-rotated and R rotary query dimensions, and v value dimensions per head, the stored shapes are
q = H (n + R) rows, kv_b = H (n + v) rows, o = H v columns and kv_a = c + R rows, c the width of the latent.
Hence H R = q - kv_b + o, and nothing has to be taken from the config.

Source: DeepSeek-V2 (arXiv 2405.04434) section 2.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pedigree.weights.dimensions import Heads, Hints
from pedigree.weights.layout import Rows, half_split_order
from pedigree.weights.orientation import Oriented


@dataclass(frozen=True)
class Latent:
    """Dimensions of latent attention: H heads, n + R query dimensions of which the last R rotate, latent width c."""

    heads: Heads
    rotary_dim: int
    kv_width: int

    def rotary_order(self, role: str, n_rows: int) -> Rows | None:
        """Order that brings interleaved rotary rows to half-split, None where the role has none."""
        dim = self.heads.head_dim
        if role in ("attn.q_b", "attn.q") and dim and n_rows % dim == 0:
            return half_split_order(n_rows // dim, dim, self.rotary_dim, at_end=True)
        if role == "attn.kv_a" and n_rows == self.kv_width + self.rotary_dim:
            return half_split_order(1, n_rows, self.rotary_dim, at_end=True)
        return None


def solve_latent(oriented: Sequence[Oriented], hints: Hints, notes: list[str]) -> Latent | None:
    """The dimensions of latent attention, None where a model has none or its shapes contradict each other.

    Args:
        oriented: all matched tensors.
        hints: the config, for a cross-check only.
        notes: receives a sentence for each contradiction.
    """
    latent = next((item.match.layer for item in oriented if item.match.entry.roles[0] == "attn.kv_a"), None)
    first: dict[str, Oriented] = {}
    for item in oriented:
        # Other layers may attend in another way (Kimi Linear), with other heads under the same names.
        if not item.match.bias and item.match.layer == latent:
            first.setdefault(item.match.entry.roles[0], item)
    query = first.get("attn.q_b") or first.get("attn.q")
    kv_a, out = first.get("attn.kv_a"), first.get("attn.o")
    expansions = [first[role] for role in ("attn.kv_b", "attn.k_b", "attn.v_b") if role in first]
    if query is None or kv_a is None or out is None or not expansions or not out.cols:
        return None
    kv_width = expansions[0].cols or 0
    rotary = kv_a.rows - kv_width
    total = query.rows - sum(item.rows for item in expansions) + out.cols
    n_heads = total // rotary if rotary > 0 else 0
    divides = n_heads > 0 and not (total % rotary or rotary % 2 or query.rows % n_heads or out.cols % n_heads)
    if not divides or query.rows // n_heads < rotary:
        notes.append("heads: the shapes of the latent attention contradict each other; rotary rows are left as stored")
        return None
    claimed = hints.get("n_heads")
    if claimed is not None and claimed != n_heads:
        notes.append(f"config: n_heads {claimed} contradicts the shapes, which give {n_heads}; the shapes are used")
    return Latent(Heads(n_heads, n_heads, query.rows // n_heads, rotary), rotary, kv_width)
