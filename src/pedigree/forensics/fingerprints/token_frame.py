"""Rows of a model in the frame of its own vocabulary rows: what no turn of the residual stream changes.

Whoever permutes, negates or rotates the stream turns vocabulary rows with it, and tokens name these. With X the rows
of some tokens, centered and of length one, X = U S W', the map P = U W' carries a direction of the stream to one number
for each token: P v is the same in every frame, |P v| is |v| where tokens span the stream, and no direction counts more
than another because the language makes it long. A fingerprint holds P v of some units and keys for a few tokens, so
that two models are laid side by side although neither knows the other's frame; widths do not have to agree either.

Models of one language agree in the leading directions of X whatever they began as (`sides/anchors.py`). So P is held in
two halves, the loud one of the leading half of the directions and the quiet one of the others: agreement is scored on
the quiet half, learned directions are followed on both.

Shapes: T = tokens of the table, M = tokens that are held, D = residual width, R = directions, U = units or dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pedigree.forensics.fingerprints.positions import choose
from pedigree.forensics.sides.gauge import center, unit_rows
from pedigree.forensics.sides.linear import symmetric_eigen

FRAME_TOKENS = 64
"""Tokens for which rows are held, once for each half."""

KEY_PLANES = 32
"""Pairs of dimensions of queries and keys that are held of a layer, of as many heads as there are.

Only rows that read the stream are held: those that write it are stored as columns, and would cost the whole matrix."""

NAMED_TOKENS = 128
"""Tokens whose output rows are held by their inner products, which tell whether rows bear their own names."""

LEAST_TOKENS = 128
"""Fewer vocabulary rows than this make no frame."""

BASIS_TOKENS = 512
"""Vocabulary rows that the frame is made of; more cost more than reading all the rest."""

FLAT = 0.2
"""Directions of the table shorter than this share of the median one are left out: where there are about as many tokens
as coordinates, some are hardly there, and what is would be made large."""


def token_frame(table_TD: Tensor) -> Tensor | None:
    """P of the first tokens, its loud half above its quiet one, float32 [2 M, D]; None where it would mean nothing.

    Args:
        table_TD: vocabulary rows.
    """
    if len(table_TD) < LEAST_TOKENS:
        return None
    rows_TD = unit_rows(center(table_TD[:BASIS_TOKENS]))
    tall = len(rows_TD) > rows_TD.shape[1]
    squares_R, basis = symmetric_eigen((rows_TD.T @ rows_TD if tall else rows_TD @ rows_TD.T).double())
    squares_R, basis = squares_R.flip(0), basis.flip(1)
    count = int((squares_R > FLAT**2 * squares_R.median().clamp_min(1e-12)).sum())
    if count < 2:
        return None
    halves = []
    for part in (slice(0, count // 2), slice(count // 2, count)):
        directions = basis[:, part]
        held = rows_TD[:FRAME_TOKENS].double() @ directions if tall else directions[:FRAME_TOKENS]
        half = (held / squares_R[part].sqrt() @ directions.T).float()
        halves.append(half if tall else half @ rows_TD)
    return torch.cat(halves)


def key_dimensions(salt: str, heads: tuple[int, int]) -> list[tuple[int, int]]:
    """(key/value head, dimension) of the rows of queries and keys that are held: a run of planes of each head, whole.

    Args:
        salt: as for all positions.
        heads: key/value heads and their dimension.
    """
    count, head_dim = heads
    wanted = KEY_PLANES // max(1, min(count, KEY_PLANES))
    planes = choose(salt, "key plane", head_dim // 2, wanted, wanted)
    dims = [*planes, *(plane + head_dim // 2 for plane in planes)]
    chosen = choose(salt, "head", count, KEY_PLANES // len(planes)) if planes else []
    return [(head, dim) for head in chosen for dim in dims]


class TokenRows:
    """Rows in the frame of tokens, taken in layer by layer.

    Args:
        frame_ND: as `token_frame` gives it.
        layers: number of layers.
        units, keys: rows of a layer that are held of feed-forward units, and of keys and queries.
    """

    def __init__(self, frame_ND: Tensor, layers: int, units: int, keys: int) -> None:
        self._frame_DN = frame_ND.T.contiguous()
        self._layers = layers
        self._counts = {"gate": units, "up": units, "k": keys, "q": keys}
        self._rows: dict[str, dict[int, Tensor]] = {}

    def take(self, kind: str, layer: int, rows_UD: Tensor) -> None:
        """Take in rows of one kind of a layer, gains folded; those of a layer may come in several parts."""
        there = self._rows.setdefault(kind, {})
        rows_UN = rows_UD.float() @ self._frame_DN
        there[layer] = torch.cat([there[layer], rows_UN]) if layer in there else rows_UN

    def tensors(self) -> dict[str, Tensor]:
        """All rows by the names that a file gives them, bfloat16 [layers, U, 2 M]; zeros where a layer has none."""
        out = {}
        for kind, rows in self._rows.items():
            whole = torch.zeros(self._layers, self._counts[kind], self._frame_DN.shape[1])
            for layer, rows_UN in rows.items():
                whole[layer, : len(rows_UN)] = rows_UN
            out[f"token_frame.{kind}"] = whole.to(torch.bfloat16)
        return out
