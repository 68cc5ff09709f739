"""A linear map whose weights nobody draws until `pedigree.model.init` does, whole or one part of a tensor group.

cut by outputs   the weight holds some rows; inputs are whole, outputs are those of the rows
cut by inputs    the weight holds some columns; outputs are summed over the group, then the bias is added
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from pedigree.model.groups import copied, own, summed


class Linear(nn.Linear):
    """`torch.nn.Linear` without its own random start: construction costs nothing and touches no generator.

    `tensor_group` is None for a whole map. `rows` are the outputs of this process where the map is cut by outputs; a
    bias, and a weight of which some rows are wanted by several processes, stay whole everywhere and are sliced here.
    """

    tensor_group: Any = None
    rows: slice | None = None

    def reset_parameters(self) -> None:
        """Nothing: starting values depend on the config and on the place of the map in the decoder."""

    def forward(self, input: Tensor) -> Tensor:  # named as in torch
        """The map, or this process's part of it."""
        group = self.tensor_group
        if group is None:
            return functional.linear(input, self.weight, self.bias)
        weight = own(self.weight)
        if self.rows is None:
            out = summed(functional.linear(input, weight), group)
            return out if self.bias is None else out + self.bias.to(out.dtype)
        if weight is self.weight:
            weight = copied(weight, group)[self.rows]
        return functional.linear(input, weight, None if self.bias is None else copied(self.bias, group)[self.rows])
