"""A smaller vocabulary: leaves of the merges leave the tokenizer, and their rows the tables.

Law     rows of tokens that stay are the old rows, bit for bit, in their old order; nothing but the tables that are
        indexed by tokens changes. A text without removed tokens is cut as before, and the logits of the tokens that
        stay are those of before, bit for bit; only the tokens that left no longer share in the probabilities.
Source  leaf-based pruning of BPE vocabularies: 2512.03989.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import Field

from pedigree.surgery.exactness import Exactness
from pedigree.surgery.operator import Operator, Parameters, Step
from pedigree.surgery.operators.vocabulary import INPUTS, OUTPUTS, write_tokenizer
from pedigree.surgery.symbolic import Symbolic
from pedigree.surgery.verbs import index, pad
from pedigree.surgery.vocabulary.routing import reroute
from pedigree.surgery.vocabulary.rows import Numbers
from pedigree.surgery.vocabulary.shrinking import Shrunk, shrink
from pedigree.surgery.vocabulary.swapped_table import padded_rows
from pedigree.tokenizers.encoder import Encoder
from pedigree.tokenizers.reading import open_encoder
from pedigree.tokenizers.texts import read_text


class ShrinkParameters(Parameters):
    """How many tokens stay, and what is rare.

    Attributes:
        to: tokens of the new vocabulary.
        texts: beside the recipe; the tokens that occur least often in them go first. Without texts those that were
            merged last go first.
        pad_to: rows are a multiple of this; by default as the old table was padded.
    """

    to: int = Field(ge=1)
    texts: tuple[str, ...] = ()
    pad_to: int | None = None


def apply(symbolic: Symbolic, parameters: ShrinkParameters, step: Step) -> Exactness:
    """Take leaves from the tokenizer and their rows from every table."""
    old = open_encoder(Path(symbolic.checkpoint.location))
    rows = symbolic.parts["embed", None, None].shape[0]
    if symbolic.vocab_size != symbolic.anatomy.vocab_size:
        raise step.refuse("the vocabulary was changed before", got=f"{symbolic.vocab_size} rows",
                          expected=f"the {symbolic.anatomy.vocab_size} of the source", fix="put it first")  # fmt: skip
    if old.size > rows:
        raise step.refuse("the tokenizer of the source has more tokens than its table has rows", got=old.size,
                          expected=f"{rows} or fewer")  # fmt: skip
    if parameters.to >= old.size:
        raise step.refuse("this is not smaller", got=f"to: {parameters.to}", expected=f"fewer than {old.size} tokens")
    uses = _uses(old, parameters, step)
    smaller = shrink(old, parameters.to, uses)
    n_rows = padded_rows(smaller.encoder.size, rows, old.size, parameters.pad_to)
    for key in [key for key in symbolic.parts if key[0] in (*INPUTS, *OUTPUTS)]:
        kept = index(symbolic.parts[key], 0, smaller.kept)
        symbolic.parts[key] = pad(kept, 0, n_rows - kept.shape[0])
    reroute(symbolic, smaller.kept, n_rows, step)
    symbolic.vocab_size = n_rows
    if symbolic.config.values:
        symbolic.config.set("vocab_size", n_rows)
    write_tokenizer(symbolic, smaller.encoder, smaller.kept)
    _tell(symbolic, old, smaller, uses if parameters.texts else None)
    return Exactness.NFP


def _uses(old: Encoder, parameters: ShrinkParameters, step: Step) -> Numbers:
    """How often each token occurs in the texts, int64 [V]; without texts the more, the earlier it was merged."""
    if not parameters.texts:
        return np.arange(old.size, 0, -1, dtype=np.int64)
    counts = np.zeros(old.size, dtype=np.int64)
    for place in parameters.texts:
        for ids in old.encode_all(read_text(Path(step.folder, Path(place).expanduser())).units):
            counts += np.bincount(np.asarray(ids, dtype=np.int64), minlength=old.size)
    return counts


def _tell(symbolic: Symbolic, old: Encoder, smaller: Shrunk, uses: Numbers | None) -> None:
    """Notes on what was removed and how often it occurred."""
    removed = list(smaller.removed)
    shown = ", ".join(repr(old.spellings[n]) for n in removed[:6])
    told = f"vocabulary: {len(removed):,} of {old.size:,} tokens are removed, first {shown}"
    if uses is not None and int(uses.sum()):
        told += f"; {uses[removed].sum() / uses.sum():.2%} of the tokens of the texts were among them"
    symbolic.notes.append(told)


VOCABULARY_SHRINK = Operator(
    name="vocab.shrink",
    summary="tokens that no merge is built from leave the tokenizer, the rarest first, and their rows the tables",
    classes={"": Exactness.NFP},
    needs="a BPE tokenizer beside the weights; to know what is rare, texts",
    source="2512.03989",
    parameters=ShrinkParameters,
    apply=apply,
    verbs=("index", "pad"),
)
