"""A fingerprint: a few megabytes of a model, enough to compare it later without its weights.

The file is a safetensors file that holds a thin model, with one metadata entry of JSON. The same model and salt give
the same bytes. The format is versioned (docs/adr/0019-fingerprint-format.md, docs/adr/0029-gains-in-fingerprints.md,
docs/adr/0030-token-frame-in-fingerprints.md): versions 1, without gains, and 2, without a token frame, are read and not
written. A file is untrusted: sizes are capped, and everything is checked against what the metadata says before it is
used.

Shapes: N = norms, C = coordinates.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pedigree.errors import MalformedFile, MissingInput, UsageError
from pedigree.forensics.comparison.measure import single_thread
from pedigree.forensics.fingerprints.held_norms import Norms, is_described, norms_from, read_norms
from pedigree.forensics.fingerprints.positions import TOKEN_BYTES, salt_check
from pedigree.forensics.fingerprints.seal import TAG_BYTES, content_digest, opened, sealed
from pedigree.forensics.fingerprints.thin_model import ThinModel, place, thin
from pedigree.forensics.fingerprints.token_frame import FRAME_TOKENS, LEAST_TOKENS, NAMED_TOKENS
from pedigree.forensics.sides.linear import is_damaged
from pedigree.tokenizers.vocabulary import read_vocabulary
from pedigree.weights.anatomy import read_anatomy
from pedigree.weights.checkpoint import Checkpoint, open_checkpoint
from pedigree.weights.contents import Contents
from pedigree.weights.memory_source import MemorySource
from pedigree.weights.meter import ByteMeter
from pedigree.weights.safetensors_files import open_safetensors
from pedigree.weights.weight_files import Choice

FORMAT = "pedigree/fingerprint"
FORMAT_VERSION, WITHOUT_TOKEN_FRAME, WITHOUT_GAINS = 3, 2, 1
MAX_BYTES = 128_000_000
FILE = "fingerprint.safetensors"

_NAME = re.compile(
    r"forms|tokens|token_frame\.(?:gate|up|k|q|names)|lm_head\.weight|model\.embed_tokens\.weight|"
    r"model\.layers\.\d{1,4}\.(?:mlp\.(?:gate|up|down)|self_attn\.[qkvo])_proj\.weight"
)


@dataclass(frozen=True)
class Fingerprint:
    """A thin model and what it says of the model it was made from.

    Attributes:
        model: the thin model.
        facts: the metadata as stored: architecture, parameters, bytes, digest, salt check.
        location: where it was read from, or the model it was made from.
        bytes_read: bytes of the model (or of the file) that were read for it.
        stamp: `Checkpoint.stamp` of the model it was made from; empty for a file. It is not stored in the file.
        sealed: gains as they stand in a file with a salt; empty without one.
    """

    model: ThinModel
    facts: dict[str, Any]
    location: str
    bytes_read: int = 0
    stamp: str = ""
    sealed: bytes = b""

    def to_bytes(self) -> bytes:
        """The file's content."""
        from safetensors.torch import save

        tensors = _beside_gains(self.model)
        if self.sealed:
            tensors["gains"] = torch.frombuffer(bytearray(self.sealed), dtype=torch.uint8)
        elif self.model.norms is not None and self.model.norms.gains:
            tensors["gains"] = self.model.norms.stacked()
        return save(tensors, metadata={"pedigree": _text(self.facts)})

    def digest(self) -> str:
        """SHA-256 of the file."""
        return "sha256:" + hashlib.sha256(self.to_bytes()).hexdigest()


def _text(facts: dict[str, Any]) -> str:
    return json.dumps(facts, sort_keys=True, separators=(",", ":"))


def _beside_gains(model: ThinModel) -> dict[str, Tensor]:
    """All tensors of a file but the gains."""
    tensors = dict(model.tensors)
    if model.tokens:
        hashes = torch.frombuffer(bytearray(b"".join(model.tokens)), dtype=torch.uint8)
        tensors["tokens"] = hashes.reshape(-1, TOKEN_BYTES)
    return tensors


def make_fingerprint(
    location: str | Path, *, salt: str = "", allow_pickle: bool = False, budget_bytes: int | None = None
) -> Fingerprint:
    """Read what a fingerprint holds from a model.

    Args:
        location: the model, as `pedigree compare` takes it.
        salt: secret shared by those who shall be able to compare; empty for everybody.
        allow_pickle: read torch files (weights only).
        budget_bytes: most bytes to read.

    Raises:
        UsageError: nothing of the model has a known role.
        InputError, SourceError: it cannot be read.
    """
    with (
        open_checkpoint(location, allow_pickle=allow_pickle, budget_bytes=budget_bytes) as checkpoint,
        single_thread(),
    ):
        anatomy = read_anatomy(checkpoint)
        if not anatomy.n_layers or not anatomy.d_model:
            raise UsageError("no layer of the model could be read", where=str(location), fix="pedigree doctor")
        model = thin(anatomy, read_vocabulary(checkpoint), salt)
        norms = read_norms(anatomy, model.coordinates)
        model.norms = norms
        facts = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "salt": salt_check(salt),
            "architecture": anatomy.architecture,
            "parameters": anatomy.parameters,
            "bytes": checkpoint.meter.total,
            "header_digest": checkpoint.header_digest(),
            "layers": model.n_layers,
            "width": model.width,
            "inner": [list(pair) for pair in model.inner],
            "heads": list(model.heads),
            "left_out": model.left_out,
            "norms": norms.facts(),
        }
        return Fingerprint(
            model, facts, str(location), checkpoint.meter.read, checkpoint.stamp(), _seal(model, norms, facts, salt)
        )


def _seal(model: ThinModel, norms: Norms, facts: dict[str, Any], salt: str) -> bytes:
    """Gains as a salted file holds them; empty without a salt, or without gains."""
    if not salt or not norms.gains:
        return b""
    text = norms.stacked().numpy().astype("<f4").tobytes()
    return sealed(salt, text, content_digest(_text(facts), _beside_gains(model)))


def is_fingerprint(location: str | Path) -> bool:
    """Whether a local file begins like a fingerprint; reads at most a few kilobytes."""
    path = Path(location)
    try:
        if "://" in str(location) or not path.is_file() or path.stat().st_size > MAX_BYTES:
            return False
        with path.open("rb") as stream:
            head = stream.read(65_536)
    except (OSError, ValueError):
        return False
    return head[8:9] == b"{" and FORMAT.encode() in head


def read_fingerprint(location: str | Path, *, salt: str = "") -> Fingerprint:
    """Read and check a fingerprint file.

    Raises:
        MissingInput: no such file.
        MalformedFile: it contradicts its format, or is of a later version.
        UsageError: it was made with another salt.
    """
    path = Path(location)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise MalformedFile("the fingerprint is too large", where=str(path), expected=f"up to {MAX_BYTES} bytes")
        data = path.read_bytes()
    except OSError as error:
        raise MissingInput("the fingerprint cannot be read", where=str(path), got=error.strerror) from error
    return from_bytes(data, str(location), salt=salt)


def from_bytes(data: bytes, where: str, *, salt: str = "") -> Fingerprint:
    """A fingerprint from the content of its file; errors as `read_fingerprint`."""
    meter = ByteMeter()
    source = MemorySource(where, {FILE: data}, meter)
    contents = open_safetensors(source, Choice("safetensors", (FILE,)))
    facts = _facts(contents, where)
    if facts["salt"] != salt_check(salt):
        raise UsageError(
            "the fingerprint was made with another salt"
            if facts["salt"]
            else "the fingerprint was made without a salt",
            where=where,
            fix="--salt with the words it was made with" if facts["salt"] else "leave --salt out",
        )
    checkpoint = Checkpoint(where, source, meter, contents, None)
    tensors = {name: checkpoint.read(name) for name in checkpoint.tensors}
    gains = tensors.pop("gains", None)
    model = _model(tensors, facts, salt, where)
    if facts["version"] == WITHOUT_GAINS and gains is not None:
        raise _wrong(f"{where}: gains", tuple(gains.shape), "no gains in a file of version 1")
    if facts["version"] != WITHOUT_GAINS:
        model.norms = norms_from(facts["norms"], _gains(gains, model, facts, salt, where))
    kept = gains.numpy().tobytes() if gains is not None and salt else b""
    return Fingerprint(model, facts, where, len(data), sealed=kept)


def _gains(gains: Tensor | None, model: ThinModel, facts: dict[str, Any], salt: str, where: str) -> Tensor | None:
    """Gains [N, C] out of their tensor, whose form is held against the metadata."""
    n, c = len(facts["norms"]["held"]), len(model.coordinates)
    wanted = (torch.uint8, (4 * n * c + TAG_BYTES,)) if salt else (torch.float32, (n, c))
    if not n and gains is None:
        return None
    if gains is None or (gains.dtype, tuple(gains.shape)) != wanted:
        raise _wrong(f"{where}: gains", gains if gains is None else tuple(gains.shape), f"{wanted[1]} of {wanted[0]}")
    if salt:
        text = opened(salt, gains.numpy().tobytes(), content_digest(_text(facts), _beside_gains(model)))
        if text is None:
            raise MalformedFile(
                "the fingerprint was changed by somebody who does not know its salt", where=where,
                fix="make it again: pedigree fingerprint MODEL --salt WORDS -o FILE",
            )  # fmt: skip
        gains = torch.from_numpy(np.frombuffer(text, "<f4").astype(np.float32)).reshape(n, c)
    if is_damaged(gains):
        raise _wrong(f"{where}: gains", "numbers that are not finite, or too large", "gains of norms")
    return gains


def _wrong(where: str, got: object, expected: str) -> MalformedFile:
    return MalformedFile(
        "this is not a fingerprint as pedigree writes it", where=where, got=f"{got!r:.80}", expected=expected,
        fix="make it again: pedigree fingerprint MODEL -o FILE",
    )  # fmt: skip


def _facts(contents: Contents, where: str) -> dict[str, Any]:
    try:
        facts = json.loads(contents.metadata.get("pedigree", ""))
    except (ValueError, TypeError, RecursionError) as error:
        raise _wrong(where, contents.metadata.get("pedigree"), "JSON under the metadata key pedigree") from error
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise _wrong(where, facts, f"format {FORMAT}")
    if type(facts.get("version")) is not int or not WITHOUT_GAINS <= facts["version"] <= FORMAT_VERSION:
        raise MalformedFile(
            "the fingerprint is of another version", where=where, got=facts.get("version"), expected=FORMAT_VERSION,
            fix="a newer pedigree, or make the fingerprint again",
        )  # fmt: skip
    for key, kind in (("salt", str), ("architecture", str), ("layers", int), ("width", int), ("parameters", int)):
        if not isinstance(facts.get(key), kind) or isinstance(facts.get(key), bool):
            raise _wrong(f"{where}: {key}", facts.get(key), kind.__name__)
    for key, most in (("layers", 10_000), ("width", 1 << 20)):
        if not 0 < facts[key] <= most:
            raise _wrong(f"{where}: {key}", facts[key], f"1 to {most}")
    inner = facts.get("inner")
    if not isinstance(inner, list) or len(inner) > 2 or not all(_is_pair(pair) for pair in inner):
        raise _wrong(f"{where}: inner", inner, "up to two pairs of integers")
    if not _is_pair(facts.get("heads")):
        raise _wrong(f"{where}: heads", facts.get("heads"), "a pair of integers")
    left_out = facts.get("left_out")
    if not isinstance(left_out, list) or not all(isinstance(words, str) and len(words) < 200 for words in left_out):
        raise _wrong(f"{where}: left_out", left_out, "a list of sentences")
    if facts["version"] != WITHOUT_GAINS and not is_described(facts.get("norms"), facts["layers"]):
        raise _wrong(f"{where}: norms", facts.get("norms"), "kind, placement, residual and the norms that are held")
    return facts


def _is_pair(pair: object) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and all(type(n) is int and -1 <= n <= 1 << 24 for n in pair)


def _model(tensors: dict[str, Tensor], facts: dict[str, Any], salt: str, where: str) -> ThinModel:
    """The thin model, shapes held against the facts."""
    empty = place(salt, facts["layers"], facts["width"], [(a, b) for a, b in facts["inner"]], tuple(facts["heads"]))
    c, u, d = len(empty.coordinates), len(empty.units), len(empty.dims)
    named = {"gate": u, "up": u, "k": len(empty.keys), "q": len(empty.keys), "names": NAMED_TOKENS}
    tokens: list[bytes] = []
    rows: set[int] = set()
    framed: list[str] = []
    for name, tensor in tensors.items():
        if not _NAME.fullmatch(name):
            raise _wrong(f"{where}: tensor {name!r:.60}", name, "a tensor of a thin model")
        kind = name.rsplit(".", maxsplit=2)[-2] if "." in name else name
        kind = name.removeprefix("token_frame.") if name.startswith("token_frame.") else kind
        count = {"gate_proj": u, "up_proj": u, "down_proj": u, "q_proj": d, "k_proj": d, "v_proj": d, "o_proj": d}.get(
            kind
        )
        shape = tuple(tensor.shape)
        if kind == "tokens":
            if len(shape) != 2 or shape[1] != TOKEN_BYTES or tensor.dtype != torch.uint8:
                raise _wrong(f"{where}: tokens", shape, f"[tokens, {TOKEN_BYTES}] of U8")
            tokens = [bytes(row) for row in tensor.numpy()]
            rows.add(shape[0])
        elif kind == "forms":
            if len(shape) != 3 or shape[0] != facts["layers"] or shape[1] != shape[2]:
                raise _wrong(f"{where}: forms", shape, f"[{facts['layers']}, tokens, tokens]")
        elif kind in named and name.startswith("token_frame."):
            if facts["version"] <= WITHOUT_TOKEN_FRAME:
                raise _wrong(f"{where}: {name}", shape, f"no token frame in a file of version {facts['version']}")
            wanted = (NAMED_TOKENS,) * 2 if kind == "names" else (facts["layers"], named[kind], 2 * FRAME_TOKENS)
            if shape != wanted or tensor.dtype != torch.bfloat16:
                raise _wrong(f"{where}: {name}", shape, f"{list(wanted)} of BF16")
            framed.append(name)
        elif count is None:
            rows.add(shape[0] if shape else -1)
            if len(shape) != 2 or shape[1] != c:
                raise _wrong(f"{where}: {name}", shape, f"[tokens, {c}]")
        elif shape != ((c, count) if kind in ("down_proj", "o_proj") else (count, c)):
            raise _wrong(f"{where}: {name}", shape, f"{count} rows at {c} coordinates")
        elif int(name.split(".")[2]) >= facts["layers"]:
            raise _wrong(f"{where}: {name}", name, f"a layer below {facts['layers']}")
    if len(rows) > 1:
        raise _wrong(f"{where}: tokens", sorted(rows), "as many hashes as vocabulary rows")
    if framed and (len(tokens) < LEAST_TOKENS or "token_frame.names" not in framed):
        raise _wrong(f"{where}: {framed[0]}", f"{len(tokens)} tokens", f"{LEAST_TOKENS} or more, with their names")
    body = {name: tensor for name, tensor in tensors.items() if name != "tokens"}
    return replace(empty, tensors=body, tokens=tokens, left_out=list(facts["left_out"]))
