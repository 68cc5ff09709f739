"""Settings of a merge by layer and by role: a number, a gradient over the layers, or a list of cases.

    weight: 0.5                                    # everywhere
    weight: [0, 0.3, 1]                            # points over the depth, straight lines between them
    weight:                                        # the first case that fits counts
      - {role: attn, value: [0, 1]}                # roles that begin with "attn"
      - {filter: mlp.down_proj, value: 0.4}        # names that hold the words, as mergekit writes it
      - {value: 0.5}

Law     a gradient of points p_0 .. p_n has the value p_0 in the first layer and p_n in the last; outside the layers
        (embeddings, head, final norm) its first point counts. A model of one layer is at its last point.
Source  the rules are mergekit's, so that its files mean here what they mean there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pedigree.errors import UsageError

Scalar = float | bool | str
_KEYS = {"value", "filter", "role"}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor is: its name, its role (None where it is not known), its layer (None outside) and the depth."""

    name: str
    role: str | None = None
    layer: int | None = None
    n_layers: int = 1

    @property
    def depth(self) -> float:
        """0 in the first layer and outside the layers, 1 in the last."""
        if self.layer is None:
            return 0.0
        return self.layer / (self.n_layers - 1) if self.n_layers > 1 else 1.0


def value_at(setting: Any, place: Place, where: str) -> Scalar | None:
    """The value of a setting for one tensor; None where no case fits.

    Args:
        setting: as above.
        place: the tensor.
        where: file and key, for messages.

    Raises:
        UsageError: not a setting.
    """
    if isinstance(setting, Mapping):
        setting = [setting]
    if setting is None or isinstance(setting, bool | int | float | str):
        return _scalar(setting, where)
    if not isinstance(setting, list) or not setting:
        raise UsageError("not a setting", where=where, got=f"{setting!r:.60}", expected="a number, points, or cases")
    if all(isinstance(case, Mapping) for case in setting):
        for case in setting:
            check_case(case, where)
            if _fits(case, place):
                return value_at(case["value"], place, where)
        return None
    if any(isinstance(case, Mapping | list) for case in setting):
        raise UsageError("points and cases are mixed", where=where, got=f"{setting!r:.60}")
    return _on_gradient([_scalar(point, where) for point in setting], place.depth)


def check_case(case: Mapping[Any, Any], where: str) -> None:
    """Refuse a case with keys that mean nothing.

    Raises:
        UsageError: names the key.
    """
    unknown = sorted(set(map(str, case)) - _KEYS)
    if unknown or "value" not in case:
        raise UsageError("not a case of a setting", where=where, got=unknown or dict(case), expected=sorted(_KEYS))


def _fits(case: Mapping[str, Any], place: Place) -> bool:
    wanted, role = case.get("filter"), case.get("role")
    by_name = wanted is None or wanted == "*" or str(wanted) in place.name
    own = place.role or ""
    by_role = role is None or own == role or own.startswith(f"{role}.")
    return by_name and by_role


def _scalar(value: Any, where: str) -> Scalar | None:
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float):
        return float(value)
    try:
        return float(value)  # YAML reads 1e-3 as text
    except (TypeError, ValueError):
        if isinstance(value, str):
            return value
        raise UsageError("not a value", where=where, got=f"{value!r:.60}") from None


def _on_gradient(points: list[Any], depth: float) -> Scalar:
    place = depth * (len(points) - 1)
    low = int(place)
    if not all(isinstance(point, float) and not isinstance(point, bool) for point in points):
        chosen: Scalar = points[low]
        return chosen
    high = min(low + 1, len(points) - 1)
    share = place - low
    return float((1 - share) * points[low] + share * points[high])
