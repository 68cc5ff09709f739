"""The base of every record."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from pedigree.records.canonical import readable_json, stable


class Record(BaseModel):
    """Base of every record: frozen, and unknown fields survive reading and rewriting."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True, extra="allow", populate_by_name=True, serialize_by_alias=True
    )

    def to_dict(self) -> dict[str, Any]:
        """The record as plain JSON values: floats at six significant digits, NaN and infinity as null, said so."""
        plain, lost = stable(self.model_dump(mode="python", by_alias=True))
        if isinstance(plain.get("warnings"), list):
            plain["warnings"] += [f"{path} was not a finite number and is written as null" for path in lost]
        return dict(plain)

    def to_json(self, indent: int | None = 2) -> str:
        """The record as JSON text in the order of the fields; byte-stable but for the two time fields."""
        return readable_json(self.to_dict(), indent=indent)
