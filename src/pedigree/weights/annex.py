"""Two sides' leftovers laid beside each other: the circumstantial annex. It computes no number and no verdict."""

from __future__ import annotations

from collections.abc import Sequence

from pedigree.records.annex import Annex, AnnexItem, AnnexKind, Likeness
from pedigree.weights.beside import Beside

# What each kind is called, and why a likeness may mean nothing.
_TITLES: dict[AnnexKind, tuple[str, str]] = {
    "config": (
        "names in config.json",
        "Configs are copied from whichever model had the nearest architecture, and programs refuse to load a model "
        "under a name that they do not know; anyone can also write another model's name there.",
    ),
    "classes": (
        "class names in code files",
        "Open code is reused across models by license; a class name says who wrote the code, not where weights come "
        "from.",
    ),
    "declared-kind": (
        "declared kind against tensor names",
        "Many models keep the tensor names of a known one, so that existing programs load them; a conversion may also "
        "rename one and forget the other.",
    ),
    "tensor-names": (
        "tensor names",
        "Names follow the program that wrote the file; most models of one architecture share them.",
    ),
    "licenses": (
        "license and copyright lines",
        "Keeping the header of reused code is what its license asks for; a license file covers what its text says, "
        "often the code alone.",
    ),
    "paths": (
        "paths recorded in files",
        "A path is text that somebody typed; folders are named after experiments, base lines and benchmarks as well as "
        "after what is in them.",
    ),
    "vocabulary": (
        "vocabulary",
        "Tokenizers are published to be reused, alone too; a shared one says nothing of the weights.",
    ),
    "merges": (
        "merges",
        "They come with the vocabulary; one program on one public text also gives the same merges twice.",
    ),
    "special-tokens": (
        "special tokens",
        "Their spellings are conventions that whole ecosystems follow.",
    ),
    "chat-template": (
        "chat template",
        "Templates are copied so that programs for chatting work unchanged.",
    ),
    "biases": (
        "biases of the attention projections",
        "There are few sensible layouts, and each is used by many unrelated models.",
    ),
}  # fmt: skip


def make_annex(a: Beside | None, b: Beside | None, not_read: Sequence[str] = ()) -> Annex:
    """The annex of a pair.

    Args:
        a, b: what lies beside the weights of each side; None where nothing could be read.
        not_read: further sentences on what could not be looked at.
    """
    left, right = a or Beside(), b or Beside()
    items = [
        _item("config", left.config, right.config),
        _item("classes", left.classes, right.classes),
        _item("declared-kind", _declared(left), _declared(right)),
        _item("tensor-names", _names(left), _names(right)),
        _item("licenses", left.licenses, right.licenses),
        _item("paths", left.paths, right.paths),
        _vocabularies(left, right),
        _item("merges", _one(left.merges), _one(right.merges)),
        _item("special-tokens", left.special_tokens, right.special_tokens),
        _item("chat-template", left.chat_templates, right.chat_templates),
        _item("biases", left.biases, right.biases),
    ]
    missed = [f"{letter}: {why}" for letter, side in (("A", left), ("B", right)) for why in side.not_read]
    return Annex(items=[item for item in items if item.a or item.b], not_read=[*not_read, *missed])


def _item(kind: AnnexKind, a: Sequence[str], b: Sequence[str], likeness: Likeness | None = None) -> AnnexItem:
    title, innocent = _TITLES[kind]
    return AnnexItem(
        kind=kind, title=title, a=list(a), b=list(b), likeness=likeness or _likeness(a, b), innocent=innocent
    )


def _likeness(a: Sequence[str], b: Sequence[str]) -> Likeness:
    if not a or not b:
        return "one-side" if a or b else "neither"
    if set(a) == set(b):
        return "same"
    return "different" if set(a).isdisjoint(b) else "partly"


def _one(text: str) -> tuple[str, ...]:
    return (text,) if text else ()


def _names(side: Beside) -> tuple[str, ...]:
    return _one(f"as of {side.table}" if side.table else "")


def _declared(side: Beside) -> tuple[str, ...]:
    """Whether the tensor names are those of the kind that the config names; nothing where either is unknown."""
    if not side.model_type or not side.table:
        return ()
    fits = side.model_type == side.table or side.model_type in side.known_as
    return (f"config says {side.model_type}; tensor names are {'of that kind' if fits else f'those of {side.table}'}",)


def _vocabularies(a: Beside, b: Beside) -> AnnexItem:
    """Sizes on each side, and how many tokens both have, under the same number or another."""
    lines = [[f"{len(side.vocabulary):,} tokens"] if side.vocabulary else [] for side in (a, b)]
    if not lines[0] or not lines[1]:
        return _item("vocabulary", lines[0], lines[1])
    both = a.vocabulary.keys() & b.vocabulary.keys()
    placed = sum(a.vocabulary[token] == b.vocabulary[token] for token in both)
    note = f"{len(both):,} tokens in both, {placed:,} of them under the same number"
    same = len(both) == placed == len(a.vocabulary) == len(b.vocabulary)
    likeness: Likeness = "same" if same else "partly" if both else "different"
    return _item("vocabulary", [*lines[0], note], [*lines[1], note], likeness)
