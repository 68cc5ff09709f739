"""The trained mini families, for the tests here that need learned weights."""

from mini_zoo import compared, derive, write, zoo

__all__ = ["compared", "derive", "write", "zoo"]
