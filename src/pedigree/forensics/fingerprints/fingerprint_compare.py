"""Compare two fingerprints, or a model with a fingerprint: exact tests and unit agreement on the positions both hold.

Everything is asked of units in place, so a relation that is found is as good as one found at glance depth. A
fingerprint cannot exclude one: relatives whose units were reordered or rotated do not show, and the answer is then
`inconclusive`, never `unrelated`. The error rate beside the answer was measured on fingerprints, not on weights.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from pedigree.forensics.comparison.bank import fingerprint_error_rate
from pedigree.forensics.comparison.measure import measure, single_thread
from pedigree.forensics.comparison.operating_points import smallest_of_all
from pedigree.forensics.comparison.record import ALWAYS_UNCHECKED, build_record
from pedigree.forensics.comparison.verdict import judge
from pedigree.forensics.fingerprints.fingerprint import Fingerprint, is_fingerprint, make_fingerprint, read_fingerprint
from pedigree.forensics.fingerprints.thin_model import ThinModel
from pedigree.forensics.sides.sampling import Sample
from pedigree.forensics.sides.side import Side
from pedigree.records.comparison import Comparison, Decoy, InputRecord
from pedigree.tokenizers.vocabulary import Vocabulary
from pedigree.weights.anatomy import read_anatomy
from pedigree.weights.checkpoint import Checkpoint
from pedigree.weights.memory_source import MemorySource
from pedigree.weights.meter import ByteMeter
from pedigree.weights.safetensors_files import open_safetensors
from pedigree.weights.weight_files import Choice

IN_PLACE = Sample(None, None, True, False, 1 << 30, ladder=False)
"""Everything that a thin model holds, in the frame it stands in."""

FEWEST = 32
"""Fewer common coordinates than this cannot tell anything."""

NOT_CHECKED = (
    "fingerprints hold units in place: reordered, rotated or re-tokenized relatives are not seen on them",
    "most of the weights: a fingerprint holds a few rows of each matrix at some coordinates",
    "whether a fingerprint was made from the model that it names: made again from that model it has the same bytes",
    "equality of whole tensors; copies, splits and origins of units that the fingerprint does not hold",
)


def compare_with_fingerprint(
    a: str | Path,
    b: str | Path,
    *,
    salt: str = "",
    decoys: Sequence[str | Path] = (),
    budget_bytes: int | None = None,
    allow_pickle: bool = False,
) -> Comparison:
    """Compare two locations of which at least one is a fingerprint; the other is thinned in the same way first."""
    start = time.monotonic()

    def get(place: str | Path) -> Fingerprint:
        return load(place, salt=salt, allow_pickle=allow_pickle, budget_bytes=budget_bytes)

    left, right = get(a), get(b)
    record = compare_fingerprints(left, right, start)
    seen = [_decoy(place, compare_fingerprints(get(place), right)) for place in decoys]
    controls = record.result.controls.model_copy(update={"decoys": seen})
    record = record.model_copy(update={"result": record.result.model_copy(update={"controls": controls})})
    options = {
        "depth": "fingerprint",
        "budget_bytes": budget_bytes,
        "decoys": [str(place) for place in decoys],
        "allow_pickle": allow_pickle,
        "salted": bool(salt),
    }
    created = datetime.now(UTC).replace(microsecond=0).isoformat().replace("+00:00", "Z")
    return record.model_copy(update={"options": options, "created": created})


def _decoy(location: str | Path, record: Comparison) -> Decoy:
    z = record.evidence_map.z if record.evidence_map is not None else []
    return Decoy(
        location=str(location),
        verdict=record.result.verdict,
        log10_p=record.result.log10_p,
        score=max((value for row in z for value in row if value is not None), default=None),
        strength=record.result.strength,
        architecture=record.inputs.a.architecture,
    )


def load(
    location: str | Path, *, salt: str = "", allow_pickle: bool = False, budget_bytes: int | None = None
) -> Fingerprint:
    """The fingerprint in a file, or that of a model."""
    if is_fingerprint(location):
        return read_fingerprint(location, salt=salt)
    return make_fingerprint(location, salt=salt, allow_pickle=allow_pickle, budget_bytes=budget_bytes)


def compare_fingerprints(left: Fingerprint, right: Fingerprint, start: float | None = None) -> Comparison:
    """The record of a comparison of two fingerprints made with one salt."""
    start = time.monotonic() if start is None else start
    with single_thread():
        a, b, dropped = sides(left, right)
        found = measure(a, b, whole_bits=False)
        judgment = judge(a, b, found)
        record = build_record(a, b, found, judgment, "glance", time.monotonic() - start)
    exact = [t.log10_p for t in record.result.tests if t.log10_p is not None]
    not_checked = [*dropped, *NOT_CHECKED, *ALWAYS_UNCHECKED]
    not_checked += [f"{name}: {words}" for name, side in (("A", left), ("B", right)) for words in side.model.left_out]
    result = record.result.model_copy(
        update={
            "error_rate": fingerprint_error_rate(),
            # Both points were measured on weights.
            "operating_points": None,
            "log10_p": smallest_of_all(exact) if exact and judgment.verdict != "inconclusive" else None,
            "not_checked": not_checked,
            "read": record.result.read.model_copy(
                update={
                    "bytes": left.bytes_read + right.bytes_read,
                    "of": sum(int(side.facts.get("bytes") or 0) for side in (left, right)),
                }
            ),
        }
    )
    inputs = record.inputs.model_copy(update={"a": describe_fingerprint(left), "b": describe_fingerprint(right)})
    return record.model_copy(update={"result": result, "inputs": inputs})


def describe_fingerprint(fingerprint: Fingerprint) -> InputRecord:
    """What a record says of one side."""
    facts = fingerprint.facts
    return InputRecord(
        location=fingerprint.location,
        format="fingerprint",
        digest=fingerprint.digest(),
        header_digest=facts.get("header_digest"),
        bytes=facts.get("bytes"),
        architecture=str(facts["architecture"]),
        parameters=facts["parameters"],
        notes=list(fingerprint.model.left_out),
    )


def sides(left: Fingerprint, right: Fingerprint) -> tuple[Side, Side, list[str]]:
    """Both thin models cut to the positions that both hold, ready to be measured, and what that left out."""
    a, b = left.model, right.model
    coordinates = _common(a.coordinates, b.coordinates)
    units, dims = _common(a.units, b.units), _common(a.dims, b.dims)
    dropped = []
    if len(coordinates) < FEWEST:
        coordinates = []
        dropped.append("everything: the two hold too few common coordinates")
    elif a.width != b.width:
        dropped.append(f"coordinates that only one holds: {len(coordinates)} are common")
    if len(units) < 16:
        units = []
        dropped.append("feed-forward units: the two hold too few common ones")
    if not dims:
        dropped.append("attention: heads differ in shape")
    cut = [_cut(model, coordinates, units, dims) for model in (a, b)]
    return _side(left, cut[0], len(dims)), _side(right, cut[1], len(dims)), dropped


def _common(first: list[Any], second: list[Any]) -> list[Any]:
    there = set(second)
    return [item for item in first if item in there]


def _cut(model: ThinModel, coordinates: list[int], units: list[Any], dims: list[Any]) -> dict[str, Tensor]:
    at = {position: k for k, position in enumerate(model.coordinates)}
    columns = torch.tensor([at[c] for c in coordinates], dtype=torch.long)
    unit_rows, dim_rows = _places(model.units, units), _places(model.dims, dims)
    out = {}
    for name, tensor in model.tensors.items():
        if name == "forms" or not len(columns):
            continue
        rows = unit_rows if ".mlp." in name else dim_rows if ".self_attn." in name else None
        turned = name.endswith(("down_proj.weight", "o_proj.weight"))
        rows_UC = tensor.T if turned else tensor
        if rows is not None and not len(rows):
            continue
        rows_UC = rows_UC[:, columns] if rows is None else rows_UC[rows][:, columns]
        out[name] = (rows_UC.T if turned else rows_UC).contiguous()
    return out


def _places(held: list[Any], wanted: list[Any]) -> Tensor:
    at = {item: k for k, item in enumerate(held)}
    return torch.tensor([at[item] for item in wanted], dtype=torch.long)


def _side(fingerprint: Fingerprint, tensors: Mapping[str, Tensor], n_dims: int) -> Side:
    """A thin model opened as the small plain Llama it reads like."""
    from safetensors.torch import save

    name, meter = "thin.safetensors", ByteMeter()
    source = MemorySource(fingerprint.location, {name: save(dict(tensors))}, meter)
    contents = open_safetensors(source, Choice("safetensors", (name,)))
    heads = max(1, len({head for head, _ in fingerprint.model.dims})) if n_dims else 1
    config = {
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "tie_word_embeddings": "lm_head.weight" not in tensors,
    }
    checkpoint = Checkpoint(fingerprint.location, source, meter, contents, config)
    anatomy = read_anatomy(checkpoint)
    tokens = {token: row for row, token in enumerate(fingerprint.model.tokens)}
    vocabulary = (
        Vocabulary(MappingProxyType(tokens), len(tokens), "plain", MappingProxyType({}), "fingerprint")
        if tokens
        else None
    )
    return Side(checkpoint, IN_PLACE, anatomy, vocabulary)
