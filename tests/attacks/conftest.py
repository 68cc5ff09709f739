"""The trained families that the tests of this folder share."""

from mini_zoo import compared, derive, zoo

__all__ = ["compared", "derive", "zoo"]
