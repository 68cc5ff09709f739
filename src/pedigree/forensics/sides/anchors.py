"""Vocabulary rows that two models share by surface form.

Token strings anchor the residual frames: the same piece of text has a row in both embeddings whatever its number.
Shared tokens are only anchors for a frame, never evidence: unrelated models place frequent and rare tokens alike
(forensics study, section 9.2).

Shapes: T = shared tokens, V = vocabulary, D = residual width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pedigree.forensics.sides.linear import Reflections, product, symmetric_eigen, thin_qr, whole_qr, without_damage
from pedigree.forensics.sides.sampling import runs
from pedigree.forensics.sides.side import Side
from pedigree.forensics.sides.views import fold_reader
from pedigree.tokenizers.vocabulary import Vocabulary
from pedigree.weights.anatomy import Anatomy

TABLE_NUMBERS = 1 << 24
"""Numbers of a vocabulary table that are looked at (67 MB in single precision, of which there are a dozen copies)."""

RUN = 32
"""Consecutive tokens taken together when only some are read."""


@dataclass(frozen=True)
class SharedTokens:
    """Row numbers of the tokens two vocabularies share.

    Attributes:
        a_T, b_T: row of each shared token in A's and in B's table.
        by: "surface form", or "row number" when a tokenizer is missing and rows are taken to mean the same.
        tokens_a, tokens_b: sizes of the two vocabularies (rows of the tables when no tokenizer was found).
    """

    a_T: Tensor
    b_T: Tensor
    by: str
    tokens_a: int
    tokens_b: int

    @property
    def count(self) -> int:
        """Number of shared tokens."""
        return int(self.a_T.shape[0])

    @property
    def same_rows(self) -> bool:
        """Whether every shared token has the same row number in both."""
        return bool(torch.equal(self.a_T, self.b_T))

    def of_width(self, limit: int, width: int) -> SharedTokens:
        """`spread`, and no more of them than their rows of that width fit into memory several times over."""
        return self.spread(min(limit, max(64, TABLE_NUMBERS // max(1, width))))

    def spread(self, limit: int) -> SharedTokens:
        """At most `limit` of the tokens, in short runs spread evenly over A's row order (so over frequency, for most
        tokenizers); runs keep the number of range requests small."""
        if self.count <= limit:
            return self
        pick = runs(self.count, limit, RUN)
        return SharedTokens(self.a_T[pick], self.b_T[pick], self.by, self.tokens_a, self.tokens_b)


def share_tokens(
    vocabulary_a: Vocabulary | None, vocabulary_b: Vocabulary | None, rows_a: int, rows_b: int
) -> SharedTokens:
    """Tokens with the same surface form in both vocabularies, in A's row order.

    Args:
        vocabulary_a, vocabulary_b: token bytes -> row; None where no tokenizer was found.
        rows_a, rows_b: rows of the embedding tables; tokens beyond them are ignored.
    """
    if vocabulary_a is None or vocabulary_b is None:
        common = min(rows_a, rows_b)
        index = torch.arange(common)
        return SharedTokens(index, index, "row number", rows_a, rows_b)
    if vocabulary_a is vocabulary_b:
        left_T = torch.tensor(list(vocabulary_a.tokens.values()), dtype=torch.long)
        right_T = left_T
    else:
        other = dict(vocabulary_b.tokens)
        pairs = [(row, other[token]) for token, row in vocabulary_a.tokens.items() if token in other]
        left, right = zip(*pairs, strict=True) if pairs else ((), ())
        left_T, right_T = torch.tensor(left, dtype=torch.long), torch.tensor(right, dtype=torch.long)
    there_T = (left_T < rows_a) & (right_T < rows_b)
    left_T, right_T = left_T[there_T], right_T[there_T]
    order_T = right_T.argsort(stable=True)
    order_T = order_T[left_T[order_T].argsort(stable=True)]
    tokens_a, tokens_b = len(vocabulary_a.tokens), len(vocabulary_b.tokens)
    return SharedTokens(left_T[order_T], right_T[order_T], "surface form", tokens_a, tokens_b)


EXACT_WIDTH = 2048
"""Width up to which subspaces are taken from an exact decomposition in double precision."""

LOUD_SHARE = 0.5
"""Share of the residual width taken by the leading directions of vocabulary rows."""

SKETCH = 512
"""Directions a lens keeps in models that are sampled: enough to tell units apart, and cheap."""


def quiet_lens(b: Side, tokens: SharedTokens) -> Tensor | None:
    """Directions of B's residual frame outside the leading ones of its vocabulary rows, orthonormal, [D, K].

    The leading directions carry what any model of the same language learns (frequency, topic, part of speech). Units
    of two models that share embeddings, or whose frames were fitted on tokens, come to agree there without common
    descent; outside they do not. None where B has no vocabulary rows.
    """
    if b.sample.by_tokens:
        return torch.eye(b.width)[:, b.width // 2 :].contiguous()
    chosen = tokens.of_width(max(b.sample.max_anchors, 64), b.width)
    tables = [read_table(b.anatomy, role, chosen.b_T) for role in ("embed", "head")]
    rows = [t - t.mean(dim=0, keepdim=True) for t in tables if t is not None and t.shape[0] > 1]
    if not rows:
        return None
    stacked_TD = torch.cat([t / t.norm().clamp_min(1e-30) for t in rows])
    width = stacked_TD.shape[1]
    wanted = max(1, min(round(LOUD_SHARE * width), stacked_TD.shape[0] // 2))
    if b.sample.max_units is None:
        return _complement(leading_directions(stacked_TD, wanted))
    # Of a sample some directions of the rest are taken, and which ones differ where two lie close changes nothing.
    return quiet_directions(stacked_TD, wanted, min(SKETCH, width - wanted), torch.Generator().manual_seed(width))


def quiet_directions(rows_TD: Tensor, wanted: int, kept: int, generator: torch.Generator) -> Tensor:
    """Orthonormal directions outside of the `wanted` leading ones of a table, drawn at random, as columns [D, K].

    Half of what `leading_directions` would cost, or less: sums of rows with random signs are a start that the rows have
    pulled once already, so one power of the second moment is enough; and what is wanted is the rest, so no basis of the
    leading ones is made.
    """
    tokens, width = rows_TD.shape
    sign_T1 = torch.randint(0, 2, (tokens, 1), generator=generator) * 2.0 - 1.0
    start_KD = torch.zeros(wanted, width).index_add_(0, torch.arange(tokens) % wanted, rows_TD * sign_T1)
    basis_DK = product(rows_TD.T, product(rows_TD, start_KD.T))
    basis_DK /= basis_DK.norm(dim=0, keepdim=True).clamp_min(1e-30)
    free_FK = thin_qr(torch.randn(width - wanted, kept, generator=generator))[0]
    return Reflections.of(basis_DK).turned(torch.cat([torch.zeros(wanted, kept), free_FK])).contiguous()


def _complement(loud_KD: Tensor) -> Tensor:
    """Orthonormal basis of everything outside a subspace, as columns."""
    width = loud_KD.shape[1]
    if width > EXACT_WIDTH:  # the same subspace by reflections, in single precision: a tenth of the memory and time
        return whole_qr(loud_KD.T)[:, loud_KD.shape[0] :].contiguous()
    outside_DD = torch.eye(width, dtype=torch.float64) - loud_KD.double().T @ loud_KD.double()
    _, vectors_DD = symmetric_eigen(outside_DD)
    return vectors_DD[:, loud_KD.shape[0] :].float().contiguous()


def leading_directions(rows_TD: Tensor, wanted: int, seed: int = 0) -> Tensor:
    """The `wanted` leading right singular directions of a table, orthonormal, [K, D].

    Exact up to `EXACT_WIDTH`; beyond that by subspace iteration from a seeded start (Halko, Martinsson, Tropp,
    arXiv:0909.4061), which is all that leaving a subspace out needs.
    """
    width = rows_TD.shape[1]
    if wanted <= len(rows_TD) < width <= EXACT_WIDTH:
        # Fewer rows than coordinates: their inner products have the same directions and are the smaller matrix.
        wide_TD = rows_TD.double()
        values_T, vectors_TT = symmetric_eigen(wide_TD @ wide_TD.T)
        strong = values_T[len(values_T) - wanted :]
        if float(strong[0]) > 1e-9 * float(strong[-1]):
            return ((wide_TD.T @ vectors_TT[:, len(values_T) - wanted :]) / strong.sqrt()).T.float().contiguous()
    if width <= EXACT_WIDTH:
        moment_DD = torch.zeros(width, width, dtype=torch.float64)
        for part_KD in torch.split(rows_TD, max(1024, (1 << 22) // width)):
            wide_KD = part_KD.double()
            moment_DD += wide_KD.T @ wide_KD
        _, vectors_DK = symmetric_eigen(moment_DD)
        return vectors_DK[:, width - wanted :].T.float().contiguous()
    generator = torch.Generator().manual_seed(seed)
    basis_DK = torch.randn(width, wanted, generator=generator)
    # Two powers of the second moment and one orthonormal basis at the end; single precision holds the spread of two.
    for _ in range(2):
        basis_DK = product(rows_TD.T, product(rows_TD, basis_DK))
        basis_DK /= basis_DK.norm(dim=0, keepdim=True).clamp_min(1e-30)
    return thin_qr(basis_DK)[0].T.contiguous()


def read_table(anatomy: Anatomy, role: str, rows_T: Tensor) -> Tensor | None:
    """Rows of the embedding or the output head in the residual frame, [T, D] float32; None where absent.

    The output head reads the stream through the final norm, whose gain is folded in; a table of another width meets the
    stream through a projection, which is multiplied out.
    """
    part = anatomy.part(role)
    if part is None or (role == "head" and anatomy.tied):
        return None
    through = anatomy.part(f"{role}.project") if part.shape[1] != anatomy.d_model else None
    stream_axis = 0 if role == "embed" else 1  # an embedding is projected into the stream, a head reads out of it
    if part.shape[1] != anatomy.d_model and (
        through is None
        or (through.shape[stream_axis], through.shape[1 - stream_axis]) != (anatomy.d_model, part.shape[1])
    ):
        return None
    if rows_T.numel() and int(rows_T.max()) >= part.shape[0]:
        return None
    rows_TD = part.read(rows=[int(r) for r in rows_T])
    if through is not None:
        map_DE = through.read()
        rows_TD = rows_TD @ (map_DE.T if role == "embed" else map_DE)
    if role == "head":
        rows_TD = fold_reader(anatomy, rows_TD, "norm.final", None)
    elif anatomy.norm == "layer" and anatomy.norm_placement == "pre":
        rows_TD = rows_TD - rows_TD.mean(dim=1, keepdim=True)
    return without_damage(rows_TD)
