"""The trained family that the tests of this folder share."""

from audited_family import copied, family

__all__ = ["copied", "family"]
