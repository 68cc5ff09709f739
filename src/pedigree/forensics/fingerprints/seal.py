"""Seals on gains: in a salted fingerprint nobody reads them without the salt, or changes the file beside them.

A handful of gains names a residual channel: whoever holds a relative of the model could look up in them which
coordinates were chosen, and from there try salts at leisure. So they lie in the file encrypted by AES-SIV (RFC 5297),
which needs no chance: one model and one salt give one file. The key is drawn from the salt as slowly as its check; all
other content of the file is authenticated with it, so gains of one fingerprint cannot be put into another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor

TAG_BYTES = 16
"""How much longer than its content a sealed text is."""


@lru_cache(maxsize=4)
def _key(salt: str) -> bytes:
    return hashlib.pbkdf2_hmac("sha256", salt.encode("utf-8"), b"pedigree/fingerprint/gains", 200_000, 64)


def content_digest(facts: str, tensors: Mapping[str, Tensor]) -> bytes:
    """SHA-256 over the metadata of a fingerprint and all its tensors, in the order of their names."""
    found = hashlib.sha256(facts.encode("utf-8"))
    for name, tensor in sorted(tensors.items()):
        kind = str(tensor.dtype).removeprefix("torch.")
        found.update(f"\x1f{name}\x1f{kind}\x1f{tuple(tensor.shape)}\x1f".encode())
        found.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.digest()


def sealed(salt: str, text: bytes, beside: bytes) -> bytes:
    """A text under the salt; `beside` is the digest of what it belongs to."""
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV

    return AESSIV(_key(salt)).encrypt(text, [beside])


def opened(salt: str, text: bytes, beside: bytes) -> bytes | None:
    """The text again; None where it, or what it belongs to, was changed, or the salt is another."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV

    try:
        return AESSIV(_key(salt)).decrypt(text, [beside])
    except InvalidTag:
        return None
