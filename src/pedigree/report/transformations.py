"""What was done between A and B, as sentences: one short function per kind, read from A to B.

A kind that is not in the table is printed with its fields, so that a newer record loses nothing in an older
report. Values come from records and may be absent: every sentence stands without its numbers too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pedigree.records.comparison import Result, Transformation
from pedigree.report.numbers import count_text, number_text, percent_text, plural, ranges_text

Detail = Mapping[str, Any]
_SHOWN_NAMES = 3


def _whole(value: Any) -> list[int]:
    """The whole numbers in a value that may be a number, a list with gaps, or absent."""
    values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return [int(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]


def _value_text(value: Any) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return count_text(value)
    if isinstance(value, float):
        return number_text(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_value_text(item)}" for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        if value and all(isinstance(v, int) and not isinstance(v, bool) for v in value):
            ordered = list(value) == sorted(set(value))
            return ranges_text(value) if ordered else ", ".join(str(v) for v in value)
        shown = ", ".join(_value_text(v) for v in value[:_SHOWN_NAMES])
        return shown if len(value) <= _SHOWN_NAMES else f"{shown} and {len(value) - _SHOWN_NAMES} more"
    return str(value)


def _from_to(detail: Detail) -> str:
    before, after = detail.get("from"), detail.get("to")
    if before is None and after is None:
        return ""
    if before is None:
        return f" to {_value_text(after)}"
    return f" from {_value_text(before)}" + (f" to {_value_text(after)}" if after is not None else "")


def _how(detail: Detail) -> str:
    return f" ({_value_text(detail['how'])})" if detail.get("how") else ""


def _in_layers(detail: Detail) -> str:
    layers = _whole(detail.get("layers"))
    return f" in {plural(len(layers), 'layer')} ({ranges_text(layers)})" if layers else ""


def _layers_inserted(detail: Detail) -> str:
    at = _whole(detail.get("at"))
    lead = f"{plural(len(at), 'layer')} inserted at {ranges_text(at)}" if at else "layers inserted"
    sources = detail.get("copied_from")
    known = _whole(sources)
    if isinstance(sources, Sequence) and not isinstance(sources, str) and 0 < len(known) < len(sources) == len(at):
        each = (f"{new} copied from {old} of A" for new, old in zip(at, sources, strict=True) if old is not None)
        fresh = [new for new, old in zip(at, sources, strict=True) if old is None]
        return f"{lead}: {', '.join(each)}, {ranges_text(fresh)} not found in A"
    return f"{lead}, copied from {_value_text(known)} of A" if known else f"{lead}, not found in A"


def _layers_duplicated(detail: Detail) -> str:
    at, source = _whole(detail.get("at")), _whole(detail.get("source"))
    lead = f"layers repeated at {ranges_text(at)}" if at else "layers repeated"
    return f"{lead}, from {_value_text(source)} of A" if source else lead


def _layers_dropped(detail: Detail) -> str:
    dropped = _whole(detail.get("dropped"))
    return f"{plural(len(dropped), 'layer')} of A dropped: {ranges_text(dropped)}" if dropped else "layers of A dropped"


def _layers_averaged(detail: Detail) -> str:
    at, sources = _whole(detail.get("at")), detail.get("sources")
    lead = f"{plural(len(at), 'layer')} made of several of A" if at else "layers made of several of A"
    if not isinstance(sources, Sequence) or isinstance(sources, str) or len(sources) != len(at):
        return lead
    each = (f"{new} from {' and '.join(str(i) for i in _whole(old))}" for new, old in zip(at, sources, strict=True))
    return f"{lead}: {', '.join(each)}"


def _upcycled(detail: Detail) -> str:
    experts, origins = detail.get("experts"), detail.get("origins")
    lead = "dense feed-forward turned into experts"
    if isinstance(experts, int):
        lead = f"dense feed-forward turned into {plural(experts, 'expert')}"
    lead += _in_layers(detail)
    if isinstance(origins, str):
        return f"{lead}: {origins}"
    if isinstance(origins, Sequence | Mapping) and origins:
        return f"{lead}; the origin of each expert is in the record"
    return lead


def _vocabulary_swapped(detail: Detail) -> str:
    shared, in_a, in_b = (detail.get(key) for key in ("shared", "tokens_a", "tokens_b"))
    if shared is None:
        return "vocabulary swapped"
    sizes = ""
    if in_a is not None and in_b is not None:
        sizes = f" of {_value_text(in_a)} in A and {_value_text(in_b)} in B"
    return f"vocabulary swapped: {_value_text(shared)} token strings shared{sizes}"


def _vocabulary_extended(detail: Detail) -> str:
    added = detail.get("added")
    return f"vocabulary extended by {plural(added, 'token')}" if isinstance(added, int) else "vocabulary extended"


def _vocabulary_trimmed(detail: Detail) -> str:
    removed = detail.get("removed")
    return f"vocabulary trimmed by {plural(removed, 'token')}" if isinstance(removed, int) else "vocabulary trimmed"


def _tensors_frozen(detail: Detail) -> str:
    names, count, of = detail.get("tensors"), detail.get("count"), detail.get("of")
    if not isinstance(count, int) and isinstance(names, Sequence) and not isinstance(names, str):
        count = len(names)
    number = f"{count_text(count)} of {_value_text(of)} tensors" if count is not None and of is not None else "tensors"
    lead = f"{number} frozen (equal to the last bit)"
    return f"{lead}: {_value_text(names)}" if names else lead


_DISGUISES = {
    "signed-permutation": "hidden coordinates put in another order or sign",
    "orthogonal": "hidden space rotated",
    "partial-isometry": "hidden space placed in one of another size",
}


def _gauge_disguise(detail: Detail) -> str:
    lead = f"{_DISGUISES.get(str(detail.get('gauge')), 'weights written in another basis')}, with the same function"
    return f"{lead} ({_value_text(detail['what'])})" if detail.get("what") else lead


def _quantized(detail: Detail) -> str:
    return f"quantized to the grid of {_value_text(detail['grid'])}" if detail.get("grid") else "quantized"


def _weights_pruned(detail: Detail) -> str:
    share = detail.get("share")
    return (
        f"weights pruned ({percent_text(float(share))} set to zero)"
        if isinstance(share, int | float)
        else "weights pruned"
    )


def _low_rank(detail: Detail) -> str:
    rank = f" (rank {_value_text(detail['rank'])})" if detail.get("rank") is not None else ""
    return f"the difference is of low rank{rank}, as when an adapter is merged in"


def _continued(detail: Detail) -> str:
    drift = detail.get("drift")
    return f"trained further (relative drift {_value_text(drift)})" if drift is not None else "trained further"


def _noise(detail: Detail) -> str:
    return f"noise added (sigma {_value_text(detail['sigma'])})" if detail.get("sigma") is not None else "noise added"


def _component_fresh(detail: Detail) -> str:
    component = _value_text(detail.get("component") or "a component")
    return f"{component} started afresh{_in_layers(detail)}"


def _mixed(detail: Detail) -> str:
    share = detail.get("share")
    if isinstance(share, int | float):
        return f"mixed with weights from elsewhere (share of A about {percent_text(float(share))})"
    return "mixed with weights from elsewhere"


def _units_kept(detail: Detail) -> str:
    kept, of = detail.get("kept"), detail.get("of")
    if not isinstance(kept, int):
        return "some feed-forward units kept"
    among = f" of {count_text(of)}" if isinstance(of, int) else ""
    return f"{count_text(kept)}{among} feed-forward units kept{_in_layers(detail)}"


def _plain(sentence: str) -> Callable[[Detail], str]:
    return lambda detail: f"{sentence}{_from_to(detail)}{_how(detail)}{_in_layers(detail)}"


SENTENCES: dict[str, Callable[[Detail], str]] = {
    "layers-inserted": _layers_inserted,
    "layers-duplicated": _layers_duplicated,
    "layers-dropped": _layers_dropped,
    "layers-reordered": _plain("layers put in another order"),
    "ffn-widened": _plain("feed-forward widened"),
    "ffn-pruned": _plain("feed-forward pruned"),
    "hidden-widened": _plain("hidden size widened"),
    "hidden-pruned": _plain("hidden size pruned"),
    "heads-added": _plain("attention heads added"),
    "heads-pruned": _plain("attention heads pruned"),
    "upcycled": _upcycled,
    "experts-permuted": _plain("experts put in another order"),
    "densified": _plain("experts turned back into a dense feed-forward"),
    "vocabulary-swapped": _vocabulary_swapped,
    "vocabulary-extended": _vocabulary_extended,
    "vocabulary-trimmed": _vocabulary_trimmed,
    "vocabulary-reordered": _plain("vocabulary put in another order"),
    "embeddings-reinitialized": _plain("embeddings started afresh"),
    "tensors-frozen": _tensors_frozen,
    "gauge-disguise": _gauge_disguise,
    "heads-permuted": _plain("attention heads put in another order"),
    "units-permuted": _plain("feed-forward units put in another order"),
    "units-kept": _units_kept,
    "units-rescaled": _plain("feed-forward units rescaled, with the same function"),
    "quantized": _quantized,
    "weights-pruned": _weights_pruned,
    "cast": _plain("number format changed"),
    "renamed": _plain("tensors renamed"),
    "resharded": _plain("split into files in another way"),
    "low-rank-update": _low_rank,
    "rank-reduced": _plain("matrices cut to a lower rank"),
    "continued-training": _continued,
    "noise-added": _noise,
    "component-reinitialized": _component_fresh,
    "mixed-with-other-weights": _mixed,
    "biases-added": _plain("biases added"),
    "biases-removed": _plain("biases removed"),
    "untied": _plain("output head separated from the embeddings"),
    "tied": _plain("output head tied to the embeddings"),
    "norm-converted": _plain("norms converted"),
    "gains-folded": _plain("gains of norms multiplied into the matrices behind them"),
    "norms-moved": _plain("norms moved"),
    "positions-converted": _plain("positions converted"),
    "blocks-rearranged": _plain("attention and feed-forward arranged otherwise"),
    "gate-added": _plain("feed-forward given a gate"),
    "gate-removed": _plain("gate of the feed-forward left out"),
    "attention-converted": _plain("keys and values converted"),
    "kv-heads-changed": _plain("key/value heads changed"),
    "heads-split": _plain("attention heads cut apart"),
    "heads-joined": _plain("attention heads joined"),
    "head-dim-widened": _plain("attention heads widened"),
    "head-dim-pruned": _plain("attention heads narrowed"),
    "query-key-norms-added": _plain("norms of queries and keys added"),
    "query-key-norms-removed": _plain("norms of queries and keys removed"),
    "attention-sinks-added": _plain("attention sinks added"),
    "attention-sinks-removed": _plain("attention sinks removed"),
    "embedding-projection-added": _plain("embeddings factorized"),
    "embedding-projection-removed": _plain("factorized embeddings multiplied out"),
    "layers-averaged": _layers_averaged,
}


def transformation_sentence(transformation: Transformation) -> str:
    """One transformation as a sentence without a full stop, read from A to B."""
    detail = transformation.detail()
    make = SENTENCES.get(transformation.kind)
    if make is not None:
        sentence = make(detail)
    else:
        fields = ", ".join(f"{key} {_value_text(item)}" for key, item in detail.items() if key != "note")
        name = transformation.kind.replace("-", " ")
        sentence = f"{name} ({fields})" if fields else name
    return f"{sentence}; {detail['note']}" if isinstance(detail.get("note"), str) and detail["note"] else sentence


def transformation_sentences(result: Result) -> list[str]:
    """All of them, in the order of the record."""
    return [transformation_sentence(transformation) for transformation in result.transformations]
