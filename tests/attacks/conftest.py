"""The trained families that the tests of this folder share."""

from mini_zoo import compared, derive, write, zoo

__all__ = ["compared", "derive", "write", "zoo"]
