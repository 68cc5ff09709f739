"""A framer: the frame, order and signs that make an innocent model's units resemble a victim's as far as they can.

    python -m pedigree.benchmark.framer OUT MODEL MODEL [MODEL ...]

Everything he chooses leaves the function of the model as it is (forensics study, section 1): one rotation of the
residual stream for all layers, and in each layer the order and the signs of units. He may also give up most units and
make only some of each layer agree. Three ways of climbing are tried: assignments in turns with Procrustes, and with the
statistic of the test itself (`forensics/exact/gram_agreement.py`), from several starts, and frames that are shaken less
and less, which reach half as much again where units are few for their width. What is written is the share of the test's
bound that he used up; the bound has to stay above him. The top that he finds need not be the highest: the bound counts
every choice, also those that he does not find.

Shapes: U = units of a layer, D and E = residual widths, V = projections.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from pedigree.forensics.exact.card import TestOutcome
from pedigree.forensics.exact.gram_agreement import GramMeter, log_pairings
from pedigree.forensics.sides.gauge import polar
from pedigree.forensics.sides.linear import symmetric_eigen, thin_qr

ROUNDS = 20

SHAKEN_ROUNDS, HEAT, COOLING = 80, 1.0, 0.95
"""Rounds of a climb that is shaken, how far at first (deviation of each number of the frame, in eighths), and what is
left of that after each round."""


@dataclass(frozen=True)
class Framed:
    """The best that was reached.

    Attributes:
        outcome: Gram agreement of the pairs that were chosen.
        start: where the climb began.
        kept: units of each layer that were made to agree; None for all.
    """

    outcome: TestOutcome
    start: str
    kept: int | None

    @property
    def used(self) -> float:
        """Share of the test's bound that was used up: below one as long as the bound holds."""
        extra = self.outcome.extra
        return float(-extra["log10_p_given"] / extra["log10_choices"]) if extra.get("log10_choices") else 0.0


def frame_units(
    a: Sequence[Tensor],
    b: Sequence[Tensor],
    *,
    kept: int | None = None,
    starts: int = 3,
    seed: int = 0,
    shaken: int = 0,
) -> Framed:
    """Pair units so that they agree as well as any frame allows.

    Args:
        a, b: for each layer units as unit-length rows of each projection, the gate (or only input) first, [U, V, D] and
            [U, V, E]; whitened, as the test takes them.
        kept: make only so many units of each layer agree; None for all.
        starts: random frames to begin with, beside the plain one and that of the second moments.
        seed: of those.
        shaken: climbs that are shaken less and less.
    """
    found: list[Framed] = []
    for name, frame_DE in _frames(a, b, starts, seed):
        for turned in (True, False):
            bent_DE = frame_DE
            for _ in range(ROUNDS):
                outcome, moment_DE = _agree(a, b, bent_DE, kept)
                found.append(Framed(outcome, name, kept))
                before = bent_DE
                bent_DE = polar(moment_DE) if turned else moment_DE / moment_DE.norm() * min(moment_DE.shape) ** 0.5
                if float((bent_DE - before).norm()) < 1e-4 * float(bent_DE.norm()):
                    break
    for number in range(shaken):
        generator = torch.Generator().manual_seed(seed + number)
        bent_DE, heat = _some_frame(a[0].shape[-1], b[0].shape[-1], generator), HEAT / 8.0
        for _ in range(SHAKEN_ROUNDS):
            outcome, moment_DE = _agree(a, b, bent_DE, kept)
            found.append(Framed(outcome, f"shaken {number}", kept))
            noise_DE = torch.randn(moment_DE.shape, generator=generator)
            bent_DE = polar(moment_DE / moment_DE.norm() * min(moment_DE.shape) ** 0.5 + heat * noise_DE)
            heat *= COOLING
    return max(found, key=lambda framed: framed.used)


def _agree(
    a: Sequence[Tensor], b: Sequence[Tensor], frame_DE: Tensor, kept: int | None
) -> tuple[TestOutcome, Tensor]:  # fmt: skip
    """The test over units paired as they agree best in a frame, and the sum of products of these pairs, [D, E]."""
    meter, moment_DE, choices = GramMeter(), torch.zeros_like(frame_DE), 0.0
    for a_UVD, b_UVE in zip(a, b, strict=True):
        x_KVD, y_KVE = _pair(a_UVD, b_UVE, frame_DE, kept)
        meter.add(x_KVD, y_KVE)
        moment_DE += torch.einsum("kvd,kve->de", x_KVD, y_KVE)
        choices += log_pairings(len(a_UVD), len(b_UVE), len(x_KVD))
    return meter.outcome(choices), moment_DE


def _frames(a: Sequence[Tensor], b: Sequence[Tensor], starts: int, seed: int) -> list[tuple[str, Tensor]]:
    d_a, d_b = a[0].shape[-1], b[0].shape[-1]
    least, generator = min(d_a, d_b), torch.Generator().manual_seed(seed)
    found = [("coordinates", torch.eye(d_a, d_b))]
    axes = []
    for side in (a, b):
        rows = torch.cat([layer.flatten(0, 1) for layer in side])
        axes.append(symmetric_eigen(rows.T.double() @ rows.double())[1].float())
    found.append(("second moments", axes[0][:, -least:] @ axes[1][:, -least:].T))
    found += [(f"random {number}", _some_frame(d_a, d_b, generator)) for number in range(starts)]
    return found


def _some_frame(d_a: int, d_b: int, generator: torch.Generator) -> Tensor:
    """A rotation drawn at random, or the part of one between streams of two widths."""
    turn = thin_qr(torch.randn(max(d_a, d_b), max(d_a, d_b), generator=generator))[0]
    return turn[:d_a, :d_b]


def _pair(a_UVD: Tensor, b_UVE: Tensor, frame_DE: Tensor, kept: int | None) -> tuple[Tensor, Tensor]:
    """Units of one layer paired as they agree best under a frame, signs chosen."""
    seen_UVE = a_UVD @ frame_DE
    first_MN = seen_UVE[:, 0] @ b_UVE[:, 0].T
    rest_MN = torch.einsum("mve,nve->mn", seen_UVE[:, 1:], b_UVE[:, 1:])
    score_MN = first_MN + rest_MN.abs()
    rows, columns = linear_sum_assignment(-score_MN.numpy())
    rows_K, columns_K = torch.as_tensor(rows), torch.as_tensor(columns)
    if kept is not None and kept < len(rows_K):
        # The best pairs of all, not of the best assignment of all units.
        rows_K, columns_K = _best_pairs(score_MN, kept)
    sign_K = torch.where(rest_MN[rows_K, columns_K] < 0, -1.0, 1.0)
    y_KVE = b_UVE[columns_K].clone()
    y_KVE[:, 1:] *= sign_K[:, None, None]
    return a_UVD[rows_K], y_KVE


def _best_pairs(score_MN: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    rows: list[int] = []
    columns: list[int] = []
    for flat in score_MN.flatten().topk(min(score_MN.numel(), 50 * kept)).indices.tolist():
        row, column = divmod(flat, score_MN.shape[1])
        if row not in rows and column not in columns:
            rows.append(row)
            columns.append(column)
        if len(rows) == kept:
            break
    return torch.tensor(rows), torch.tensor(columns)


def turn_for_planes(
    a: Sequence[Tensor], b: Sequence[Tensor], rounds: int = ROUNDS, beside: Tensor | None = None
) -> Tensor:
    """The rotation of A's frame in which query/key planes of both agree best, phases chosen: what a framer would
    spend it on.

    Frames and phases in turns. The frame is his choice for one thing only: vocabulary rows turn with it, so it does not
    carry over to them (`forensics/frames/carried_planes.py`).

    Args:
        a, b: planes of each layer as blocks of length one, [P, V, 2, D].
        rounds: turns taken.
        beside: sum over rows of a' b that are to agree as well; weighted as it comes.
    """
    frame_DD = torch.eye(a[0].shape[-1], dtype=torch.float64)
    for _ in range(rounds):
        moment_DD = torch.zeros_like(frame_DD) if beside is None else beside.double().clone()
        for x_PV2D, y_PV2D in zip(a, b, strict=True):
            seen_PV2D = x_PV2D.double() @ frame_DD
            along_P = (seen_PV2D * y_PV2D).sum((1, 2, 3))
            turned_PV2D = torch.stack([-y_PV2D[:, :, 1], y_PV2D[:, :, 0]], dim=2)
            across_P = (seen_PV2D * turned_PV2D).sum((1, 2, 3))
            length_P = (along_P.square() + across_P.square()).sqrt().clamp_min(1e-30)
            cos_P, sin_P = (part[:, None, None, None] / length_P[:, None, None, None] for part in (along_P, across_P))
            chosen = cos_P * y_PV2D + sin_P * turned_PV2D
            moment_DD += x_PV2D.double().flatten(0, 2).T @ chosen.double().flatten(0, 2)
        frame_DD = polar(moment_DD).double()
    return frame_DD


def names_that_suit(a: Sequence[Tensor], b: Sequence[Tensor], frame_DE: Tensor) -> Tensor:
    """For each name the row of B that suits A's row of that name best in a frame, every row of B once, [T].

    Args:
        a, b: rows of each table of both models, whitened and of length one, [T, D] and [T, E].
        frame_DE: from A's frame to B's.
    """
    suits_TT = sum(x_TD.double() @ frame_DE.double() @ y_TE.double().T for x_TD, y_TE in zip(a, b, strict=True))
    return torch.as_tensor(linear_sum_assignment(-torch.as_tensor(suits_TT).numpy())[1])


def drawn_at_random(layers: int, units: int, width: int, seed: int) -> list[Tensor]:
    """Units of a model that was never trained, [U, 3, D] for each layer."""
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randn(units, 3, width, generator=generator) for _ in range(layers)]
    return [r / r.norm(dim=-1, keepdim=True) for r in rows]


def whitened_units(location: str | Path) -> list[Tensor]:
    """Feed-forward units of a model as the test takes them, [U, V, D] for each layer that has any."""
    from pedigree.forensics.sides.sampling import choose_sample
    from pedigree.forensics.sides.side import Side
    from pedigree.forensics.units.shared_units import VIEWS, UnitRows
    from pedigree.weights.checkpoint import open_checkpoint

    with open_checkpoint(location) as checkpoint:
        rows = UnitRows(Side.read(checkpoint, choose_sample("full", 0)))
        layers = [rows.white(j) for j in range(rows.side.n_layers)]
    return [torch.stack([views[v] for v in VIEWS if v in views], dim=1) for views in layers if views]


def main() -> int:
    """Frame each of the models as every other one; a line of JSON for each pair, with the share of the bound used."""
    parser = argparse.ArgumentParser(description="how far an innocent model can be made to resemble another one")
    parser.add_argument("out", type=Path, help="file that lines are added to")
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--kept", type=int, nargs="*", default=[5, 10, 25], help="units of each layer; all in any case")
    parser.add_argument("--starts", type=int, default=2)
    parser.add_argument("--shaken", type=int, default=2, help="climbs that are shaken less and less")
    told = parser.parse_args()
    torch.set_num_threads(1)
    units = {path.name: whitened_units(path) for path in told.models}
    with told.out.open("a", encoding="utf-8") as stream:
        for first, second in itertools.combinations(units, 2):
            a, b = units[first], units[second]
            depth = min(len(a), len(b))
            if depth == 0 or a[0].shape[1] != b[0].shape[1]:
                continue
            for kept in (None, *told.kept):
                found = frame_units(a[:depth], b[:depth], kept=kept, starts=told.starts, shaken=told.shaken)
                row = {"a": first, "b": second, "kept": kept, "used": round(found.used, 4), "start": found.start}
                stream.write(json.dumps(row | found.outcome.extra) + "\n")
                stream.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
