"""DSSE: a payload and who signed it (github.com/secure-systems-lab/dsse, version 1.0)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pedigree.errors import MalformedFile
from pedigree.ledger.keys import PrivateKey, PublicKey
from pedigree.ledger.strict_json import MAX_BYTES, canonical_object, strict_object

STATEMENT_TYPE = "application/vnd.in-toto+json"
MAX_SIGNATURES = 64


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """The bytes that are signed."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


@dataclass(frozen=True)
class Signature:
    """One signature and the id of the key it says it was made with; the id is a hint, not a claim."""

    key_id: str
    signature: bytes


@dataclass(frozen=True)
class Envelope:
    """A signed payload."""

    payload: bytes
    signatures: tuple[Signature, ...]
    payload_type: str = STATEMENT_TYPE

    @classmethod
    def sign(cls, payload: bytes, keys: Sequence[PrivateKey], payload_type: str = STATEMENT_TYPE) -> Envelope:
        """Sign a payload with some keys."""
        message = pre_authentication_encoding(payload_type, payload)
        signatures = tuple(Signature(key.public.id, key.sign(message)) for key in keys)
        return cls(payload, signatures, payload_type)

    @cached_property
    def encoded(self) -> bytes:
        """What was signed."""
        return pre_authentication_encoding(self.payload_type, self.payload)

    @property
    def digest(self) -> str:
        """Hexadecimal sha256 of what was signed: it names the statement, whoever signs it."""
        return hashlib.sha256(self.encoded).hexdigest()

    def signers(self, keys: Sequence[PublicKey]) -> list[PublicKey]:
        """Those of some keys that signed it, each once."""
        named = {signature.key_id: signature.signature for signature in self.signatures}
        return [key for key in {key.id: key for key in keys}.values() if key.id in named
                and key.verifies(named[key.id], self.encoded)]  # fmt: skip

    def statement(self, where: str) -> dict[str, Any]:
        """The in-toto statement inside.

        Raises:
            MalformedFile: it is none, or its bytes could be read in two ways.
        """
        value = strict_object(self.payload, where)
        if self.payload_type != STATEMENT_TYPE or value.get("_type") != "https://in-toto.io/Statement/v1":
            raise MalformedFile("the envelope holds no in-toto statement", where=where, got=self.payload_type)
        return value

    def to_bytes(self) -> bytes:
        """The JSON form, one line."""
        signatures = [
            {"keyid": item.key_id, "sig": base64.b64encode(item.signature).decode()} for item in self.signatures
        ]
        payload = base64.b64encode(self.payload).decode()
        value = {"payload": payload, "payloadType": self.payload_type, "signatures": signatures}
        return json.dumps(value, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes, where: str = "an envelope") -> Envelope:
        """Read the JSON form; unknown fields are passed over, as the specification asks.

        Raises:
            MalformedFile: it is no envelope.
        """
        value = canonical_object(data) if len(data) <= MAX_BYTES else None
        if value is None:
            value = strict_object(data, where, limit=2 * MAX_BYTES)
        try:
            items = value["signatures"]
            if not isinstance(items, list) or not 1 <= len(items) <= MAX_SIGNATURES:
                raise MalformedFile("an envelope needs signatures", where=where, expected=f"1 to {MAX_SIGNATURES}")
            signatures = tuple(Signature(str(item.get("keyid", "")), _bytes(item["sig"])) for item in items)
            if not isinstance(value["payloadType"], str):
                raise TypeError("payloadType")
            return cls(_bytes(value["payload"]), signatures, value["payloadType"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise MalformedFile("this is no DSSE envelope", where=where, got=f"{error}") from error


def _bytes(text: str) -> bytes:
    """Base64 of either alphabet, as the specification asks a reader to take."""
    try:
        return base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
    except binascii.Error as error:
        raise ValueError("base64") from error
