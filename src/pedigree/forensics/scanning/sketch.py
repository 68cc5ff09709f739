"""A fingerprint as one vector for nearest-neighbor search.

Two halves of equal length. The first adds up what stands in place: rows of the thin model, each at its own signs drawn
from its position. The second adds up the value forms by pairs of tokens (`thin_model.value_forms`), which changes
neither with the residual frame nor with the order of heads, so that disguised relatives stay near. The depth is cut in
four, so that inserted or dropped layers move little. Vectors rank candidates; no verdict rests on them.

Source  random projections by hashed signs (Charikar, Chen, Farach-Colton 2002; Weinberger et al. arXiv:0902.2206).
Shapes  E = length of a half, T = tokens, C = coordinates.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from pedigree.forensics.fingerprints.fingerprint import Fingerprint
from pedigree.forensics.sides.linear import without_damage

HALF = 512
LENGTH = 2 * HALF
DEPTHS = 4

Floats = npt.NDArray[np.float32]


def sketch(fingerprint: Fingerprint) -> Floats:
    """The vector of a fingerprint, length one, float32 [2 E]; a half that could not be made is zero."""
    both = np.concatenate([_unit(_in_place(fingerprint)), _unit(_forms(fingerprint))]).astype(np.float32)
    found: Floats = np.nan_to_num(_unit(both), nan=0.0, posinf=0.0, neginf=0.0)
    return found


def frame_free_similarity(left: Fingerprint, right: Fingerprint) -> float | None:
    """Cosine of the halves that change neither with the residual frame nor with the order of heads; None without one.

    It ranks and is no evidence: independent models of some designs and one text agree at up to 0.99 (docs/LOG.md,
    2026-11-29).
    """
    a_E, b_E = _forms(left), _forms(right)
    if not a_E.any() or not b_E.any():
        return None
    return float(_unit(a_E) @ _unit(b_E))


def _unit(vector: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    length = float(np.linalg.norm(vector))
    return vector / length if length > 0 else vector


def _generator(*words: object) -> np.random.Generator:
    seed = hashlib.blake2b("\x1f".join(map(str, words)).encode("utf-8"), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(seed, "little"))


def _depth(layer: int, n_layers: int) -> int:
    return min(DEPTHS - 1, layer * DEPTHS // max(1, n_layers))


def _in_place(fingerprint: Fingerprint) -> npt.NDArray[np.float64]:
    """Signed sum of all rows; how a row is projected depends on what its positions stand for."""
    model = fingerprint.model
    total = np.zeros(HALF)
    project_CE = {c: _generator("coordinate", c).standard_normal(HALF).astype(np.float32) for c in model.coordinates}
    basis_CE = np.stack([project_CE[c] for c in model.coordinates]) if model.coordinates else np.zeros((0, HALF))
    for name, tensor in sorted(model.tensors.items()):
        if not name.startswith("model.layers."):
            continue
        layer, kind = int(name.split(".")[2]), name.split(".")[4]
        # A number that is none would spoil the whole vector, and with it the order of a library.
        rows_UC = without_damage(tensor).numpy()
        rows_UC = rows_UC.T if kind in ("down_proj", "o_proj") else rows_UC
        rows_UC = rows_UC / np.maximum(np.linalg.norm(rows_UC, axis=1, keepdims=True), 1e-30)
        sign_UE = _row_signs(kind, layer, rows_UC.shape[0])
        total += ((rows_UC @ basis_CE) * sign_UE).sum(0)
    return total


def _row_signs(kind: str, layer: int, count: int) -> Floats:
    return np.sign(_generator("row", kind, layer).standard_normal((count, HALF))).astype(np.float32)


def _forms(fingerprint: Fingerprint) -> npt.NDArray[np.float64]:
    model = fingerprint.model
    forms = model.tensors.get("forms")
    total = np.zeros(HALF)
    if forms is None:
        return total
    left_TE = {side: _token_signs(model.tokens[: forms.shape[1]], side) for side in ("read", "written")}
    by_depth = np.zeros((DEPTHS, *forms.shape[1:]))
    for layer, form_TT in enumerate(without_damage(forms).numpy()):
        by_depth[_depth(layer, model.n_layers)] += form_TT
    for depth, form_TT in enumerate(by_depth):
        signs_E = np.sign(_generator("depth", depth).standard_normal(HALF))
        # sum over pairs of tokens of form[s, t] read[s] written[t], for every direction at once
        total += signs_E * (left_TE["read"] * (form_TT @ left_TE["written"])).sum(0)
    return total


def _token_signs(tokens: list[bytes], side: str) -> npt.NDArray[np.float64]:
    return np.stack([np.sign(_generator("token", side, token.hex()).standard_normal(HALF)) for token in tokens])
