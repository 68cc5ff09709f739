"""What a sample of a layer may and may not say of units that were not read."""

from __future__ import annotations

import numpy as np

from pedigree.forensics.units.evidence import SEEN, Grid


def test_half_of_the_units_of_a_layer_speak_for_the_rest_and_half_of_its_heads_do_not() -> None:
    """A head that was read may be another one in the other model, where heads were put in another order."""
    table = np.zeros((2, 2))
    half = np.full(2, 0.5)
    assert Grid(table, table, half, SEEN["ffn"]).sees(0)
    assert not Grid(table, table, half, SEEN["qk"]).sees(0)
    assert not Grid(table, table, half, SEEN["vo"]).sees(0)
    assert not Grid(table, table, np.full(2, 0.02), SEEN["ffn"]).sees(0)
