"""A linear map whose weights nobody draws until `pedigree.model.init` does."""

from __future__ import annotations

from torch import nn


class Linear(nn.Linear):
    """`torch.nn.Linear` without its own random start: construction costs nothing and touches no generator."""

    def reset_parameters(self) -> None:
        """Nothing: starting values depend on the config and on the place of the map in the decoder."""
