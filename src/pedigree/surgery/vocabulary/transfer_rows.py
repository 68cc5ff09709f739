"""New rows from another space in which all new tokens have vectors: ridge regression and matching pursuit.

The space is a donor: the embedding table of a model that already uses the new tokenizer, or vectors made from token
co-occurrences in a corpus (`cooccurrence`). Tokens that both vocabularies have, the anchors, tie it to the table.

Ridge   the affine map from donor to table with the least squared error on the anchors, plus lambda times its square;
        lambda is relative to the mean variance of the donor's columns.
Pursuit each new token as a combination of k anchors in the donor's space (orthogonal matching pursuit), the same
        combination taken in the table.

Law     a table that is an affine image of the donor is recovered by ridge as lambda goes to 0; a token that is a
        combination of k orthogonal anchors is recovered by pursuit exactly, and with k = 1 an anchor finds itself.
Source  OMP: arXiv 2506.06607. On pico models ridge does at least as well (docs/LOG.md).

Shapes  V = rows, S = anchors, N = tokens asked for, e = donor width, d = table width, k = atoms
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pedigree.errors import UsageError
from pedigree.surgery.vocabulary.rows import Numbers, RowMaker, RowTable, portions

if TYPE_CHECKING:
    import torch

_LEAST_ANCHORS = 8


class Ridge:
    """The affine map from a donor.

    Args:
        donor: vectors of the new tokens, by new number.
        anchors_S: new numbers of tokens that both vocabularies have.
        old_S: their old rows.
        strength: lambda, over the mean variance of the donor's columns.

    Raises:
        UsageError: too few anchors to fit anything.
    """

    def __init__(self, donor: RowTable, anchors_S: Numbers, old_S: Numbers, strength: float = 1e-2) -> None:
        _check(anchors_S, strength)
        self.donor, self.anchors_S, self.old_S, self.strength = donor, anchors_S, old_S, strength
        self._map: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None

    def prepare(self, table: RowTable) -> None:
        """Fit the map."""
        self._map = self._fit(table)

    def _fit(self, table: RowTable) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Two passes over the anchors: means, then products, in float64."""
        import torch

        n_e, n_d, count = self.donor.shape[1], table.shape[1], len(self.anchors_S)
        mean_e, mean_d = torch.zeros(n_e, dtype=torch.float64), torch.zeros(n_d, dtype=torch.float64)
        for new, old in zip(portions(self.anchors_S), portions(self.old_S), strict=True):
            mean_e += self.donor.rows(new).double().sum(0) / count
            mean_d += table.rows(old).double().sum(0) / count
        gram_ee = torch.zeros(n_e, n_e, dtype=torch.float64)
        cross_ed = torch.zeros(n_e, n_d, dtype=torch.float64)
        for new, old in zip(portions(self.anchors_S), portions(self.old_S), strict=True):
            x_Ne = self.donor.rows(new).double() - mean_e
            gram_ee += x_Ne.T @ x_Ne
            cross_ed += x_Ne.T @ (table.rows(old).double() - mean_d)
        scale = float(gram_ee.diagonal().mean())
        # A column that never varies would make the matrix singular at lambda 0.
        gram_ee.diagonal().add_(max(self.strength, 1e-10) * scale + 1e-300)
        solved_ed = torch.linalg.solve(gram_ee, cross_ed)
        return mean_e, solved_ed, mean_d

    def make(self, table: RowTable, numbers_N: Numbers) -> torch.Tensor:
        """The images of the donor's vectors."""
        mean_e, solved_ed, mean_d = self._map or self._fit(table)
        return ((self.donor.rows(numbers_N).double() - mean_e) @ solved_ed + mean_d).float()


class Pursuit:
    """Combinations of anchors.

    Args:
        donor: vectors of the new tokens, by new number.
        anchors_S: new numbers of tokens that both vocabularies have.
        old_S: their old rows.
        atoms: anchors in a combination at most.

    Raises:
        UsageError: too few anchors to fit anything.
    """

    def __init__(self, donor: RowTable, anchors_S: Numbers, old_S: Numbers, atoms: int = 16) -> None:
        _check(anchors_S, 1.0)
        self.donor, self.anchors_S, self.old_S = donor, anchors_S, old_S
        self.atoms = min(atoms, len(anchors_S), donor.shape[1])
        self._dictionary: torch.Tensor | None = None

    def prepare(self, table: RowTable) -> None:
        """The anchors' vectors; nothing of the table is read before rows are made."""
        self._dictionary = self._anchors()

    def _anchors(self) -> torch.Tensor:
        import torch

        return torch.cat([self.donor.rows(part) for part in portions(self.anchors_S)])

    def make(self, table: RowTable, numbers_N: Numbers) -> torch.Tensor:
        """Combinations of old rows."""
        import torch

        dictionary_Se = self._anchors() if self._dictionary is None else self._dictionary
        blocks = []
        for part in portions(numbers_N, 256):
            chosen_Nk, shares_Nk = pursue(dictionary_Se, self.donor.rows(part), self.atoms)
            unique, inverse = np.unique(self.old_S[chosen_Nk.numpy()], return_inverse=True)
            rows_Ud = table.rows(unique)
            picked_Nkd = rows_Ud[torch.from_numpy(inverse.reshape(chosen_Nk.shape))]
            blocks.append(torch.einsum("nk,nkd->nd", shares_Nk.float(), picked_Nkd))
        return torch.cat(blocks) if blocks else torch.zeros(0, table.shape[1])


class Patched:
    """Rows of one maker where it has something to go by, of another where it has not.

    Args:
        fitted: for the tokens in `known`.
        simple: for all others.
        known: new numbers that have a vector in the donor.
    """

    def __init__(self, fitted: RowMaker, simple: RowMaker, known: Numbers) -> None:
        self.fitted, self.simple, self.known = fitted, simple, known

    def prepare(self, table: RowTable) -> None:
        """Both are prepared."""
        self.fitted.prepare(table)
        self.simple.prepare(table)

    def make(self, table: RowTable, numbers_N: Numbers) -> torch.Tensor:
        """Rows of new tokens."""
        import torch

        rows_Nd = self.simple.make(table, numbers_N)
        known_N = np.isin(numbers_N, self.known)
        if known_N.any():
            rows_Nd[torch.from_numpy(known_N)] = self.fitted.make(table, numbers_N[known_N])
        return rows_Nd


def pursue(dictionary_Se: torch.Tensor, target_Ne: torch.Tensor, atoms: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Orthogonal matching pursuit for many vectors at once.

    Args:
        dictionary_Se: the atoms, of any length.
        target_Ne: what is to be combined.
        atoms: how many are taken, one after the other.

    Returns:
        numbers of the atoms int64 [N, k], their coefficients float64 [N, k].
    """
    import torch

    lengths_S = dictionary_Se.norm(dim=1).clamp(min=1e-30)
    unit_Se = dictionary_Se / lengths_S[:, None]
    n, target_Ne = len(target_Ne), target_Ne.double()
    residual_Ne = target_Ne
    chosen_Nk = torch.empty(n, 0, dtype=torch.int64)
    shares_Nk = torch.empty(n, 0, dtype=torch.float64)
    for _ in range(atoms):
        match_NS = residual_Ne.float() @ unit_Se.T
        match_NS.abs_()
        match_NS.scatter_(1, chosen_Nk, -1.0)
        chosen_Nk = torch.cat([chosen_Nk, match_NS.argmax(1, keepdim=True)], dim=1)
        atoms_Nke = unit_Se[chosen_Nk].double()
        gram_Nkk = atoms_Nke @ atoms_Nke.transpose(1, 2)
        # Anchors may repeat each other; the ridge keeps the last step of a singular system finite.
        gram_Nkk.diagonal(dim1=1, dim2=2).add_(1e-9)
        shares_Nk = torch.linalg.solve(gram_Nkk, (atoms_Nke @ target_Ne[:, :, None])).squeeze(2)
        residual_Ne = target_Ne - torch.einsum("nk,nke->ne", shares_Nk, atoms_Nke)
    return chosen_Nk, shares_Nk / lengths_S[chosen_Nk].double()


def _check(anchors_S: Numbers, strength: float) -> None:
    if len(anchors_S) < _LEAST_ANCHORS or strength < 0:
        raise UsageError(
            "rows cannot be carried over from the donor",
            got=f"{len(anchors_S)} shared tokens, lambda {strength}",
            expected=f"{_LEAST_ANCHORS} shared tokens or more, lambda from 0",
            fix="init: subtoken",
        )
