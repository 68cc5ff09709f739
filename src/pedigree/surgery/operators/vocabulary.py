"""Another tokenizer for a model: rows of shared tokens move with them, the rows of new ones are made.

Law     the row of a token that both vocabularies have is the old row, bit for bit; nothing but the tables that are
        indexed by tokens changes. The function of the model changes: texts are cut differently.
Source  sub-token means 2402.09977; matching pursuit 2506.06607; mean rows: Hewitt 2021.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import model_validator

from pedigree.surgery.exactness import Exactness
from pedigree.surgery.nodes import Leaf, Node
from pedigree.surgery.operator import Operator, Parameters, Step
from pedigree.surgery.symbolic import Key, Symbolic
from pedigree.surgery.vocabulary.cooccurrence import cooccurrence_vectors
from pedigree.surgery.vocabulary.output_rows import Level, fit_level
from pedigree.surgery.vocabulary.pieces import cut, weights_of
from pedigree.surgery.vocabulary.routing import reroute
from pedigree.surgery.vocabulary.rows import Numbers, RowMaker, RowTable
from pedigree.surgery.vocabulary.simple_rows import Mean, Random, SubToken
from pedigree.surgery.vocabulary.states import MOST_BYTES, mean_state
from pedigree.surgery.vocabulary.swapped_node import NodeTable, SwappedNode
from pedigree.surgery.vocabulary.swapped_table import SwappedTable, padded_rows
from pedigree.surgery.vocabulary.token_map import NO_ROW, TokenMap, map_tokens
from pedigree.surgery.vocabulary.transfer_rows import Patched, Pursuit, Ridge
from pedigree.tokenizers.companions import config_beside, tokenizer_config, written
from pedigree.tokenizers.encoder import Encoder
from pedigree.tokenizers.reading import open_encoder
from pedigree.tokenizers.texts import Text, read_text
from pedigree.tokenizers.tokenizer_json import parse_json

Init = Literal["random", "mean", "subtoken", "ridge", "pursuit"]
INPUTS, OUTPUTS = ("embed", "mtp.embed"), ("head", "mtp.head", "head.bias")
_GONE = ("special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model",
         "spiece.model", "sentencepiece.bpe.model")  # fmt: skip
_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "decoder_start_token_id", "sep_token_id",
        "cls_token_id", "mask_token_id")  # fmt: skip


class SwapParameters(Parameters):
    """The new tokenizer, and how rows of new tokens are made.

    init: of input rows; output: of head rows, the same where it is not said.
    shared: `copy` keeps the rows of tokens that both vocabularies have; `make` makes these anew like the others, which
        is what a swap without a token map does and is there to be compared with (random and mean only).
    donor: a model that uses the new tokenizer (ridge, pursuit); without one, `texts` give token vectors.
    texts: probe texts, for vectors, for frequencies and for the level of head rows.
    calibrate: set new head rows to the level of old ones of their frequency; by default where there are texts and the
        head is a table of its own.
    """

    tokenizer: str
    init: Init = "subtoken"
    output: Init | None = None
    shared: Literal["copy", "make"] = "copy"
    donor: str | None = None
    texts: tuple[str, ...] = ()
    calibrate: bool | None = None
    pad_to: int | None = None
    first_share: float | None = None
    strength: float = 1e-2
    atoms: int = 16

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> SwapParameters:
        if {self.init, self.output} & {"ridge", "pursuit"} and self.donor is None and not self.texts:
            raise ValueError("ridge and pursuit need a donor, or texts")
        if self.shared == "make" and not {self.init, self.output or self.init} <= {"random", "mean"}:
            raise ValueError("rows are made from those of shared tokens: shared: make needs random or mean")
        if self.calibrate and not self.texts:
            raise ValueError("calibrate needs texts")
        return self


def apply(symbolic: Symbolic, parameters: SwapParameters, step: Step) -> Exactness:
    """Replace the tables, the tokenizer's files and the numbers of control tokens."""
    keys = [key for key in symbolic.parts if key[0] in (*INPUTS, *OUTPUTS)]
    for key in keys:
        if not isinstance(symbolic.parts[key], Leaf):
            raise step.refuse("the tables were changed before", got=key[0], fix="make this the first step")
    old = open_encoder(Path(symbolic.checkpoint.location))
    new = open_encoder(Path(_placed(parameters.tokenizer, step)))
    rows = symbolic.parts["embed", None, None].shape[0]
    if old.size > rows:
        raise step.refuse("the tokenizer of the source has more tokens than its table has rows", got=old.size,
                          expected=f"{rows} or fewer")  # fmt: skip
    found = map_tokens(old, new)
    kept = found.old_of_W if parameters.shared == "copy" else np.full_like(found.old_of_W, NO_ROW)
    swap = Swap(symbolic, parameters, step, old, new, found, replace(found, old_of_W=kept))
    n_rows = padded_rows(new.size, rows, old.size, parameters.pad_to)
    for key in keys:
        node = symbolic.parts[key]
        symbolic.parts[key] = SwappedNode(node, n_rows, partial(swap.table, key, node, n_rows))
    reroute(symbolic, swap.map.old_of_W, n_rows, step)
    symbolic.vocab_size = n_rows
    if symbolic.config.values:
        symbolic.config.set("vocab_size", n_rows)
    _tell(symbolic, swap)
    write_tokenizer(symbolic, new, swap.map.old_of_W)
    same = not len(swap.rows.guessed) and np.array_equal(swap.map.old_of_W, np.arange(rows)[: new.size])
    return Exactness.FP0 if same and new.size == old.size else Exactness.NFP


@dataclass(eq=False)
class Swap:
    """One swap: what its tables share. Texts are encoded, and the old model run, when the first row is made."""

    symbolic: Symbolic
    parameters: SwapParameters
    step: Step
    old: Encoder
    new: Encoder
    map: TokenMap
    rows: TokenMap
    """The map for the tables: without the old rows where shared tokens are made anew."""

    @cached_property
    def texts(self) -> list[Text]:
        """The probe texts."""
        return [read_text(_placed(text, self.step)) for text in self.parameters.texts]

    @cached_property
    def new_documents(self) -> list[Numbers]:
        """The texts as new tokens, one array for each unit."""
        return [np.array(ids, np.int64) for text in self.texts for ids in self.new.encode_all(text.units)]

    @cached_property
    def in_use(self) -> Numbers:
        """Old rows that stand for text."""
        return np.array([n for n, surface in enumerate(self.old.surfaces) if surface is not None], np.int64)

    @cached_property
    def donor(self) -> tuple[RowTable, Numbers]:
        """Vectors of new tokens, and which new tokens have one."""
        if self.parameters.donor is None:
            flat = np.concatenate(self.new_documents)
            met = np.bincount(flat, minlength=self.new.size) > 0
            return cooccurrence_vectors(self.new_documents, self.new.size), np.flatnonzero(met)
        model = self.step.open(self.parameters.donor)
        row_of_W = map_tokens(open_encoder(Path(model.checkpoint.location)), self.new).old_of_W
        known = np.flatnonzero(row_of_W != NO_ROW)
        return NodeTable(model.parts["embed", None, None], np.maximum(row_of_W, 0)), known

    def table(self, key: Key, node: Node, n_rows: int) -> SwappedTable:
        """The new table of one part, prepared."""
        old = NodeTable(node)
        output = key[0] in OUTPUTS
        init = (self.parameters.output or self.parameters.init) if output else self.parameters.init
        maker = self.maker(init, key[0]) if len(node.shape) == 2 else Mean(self.in_use)
        maker.prepare(old)
        level = self.level(old) if output and len(node.shape) == 2 else None
        return SwappedTable(old, old.native, self.rows, maker, n_rows, self.old.size, level, self.uses())

    def maker(self, init: Init, name: str) -> RowMaker:
        """What makes the rows of new tokens."""
        if init == "random":
            return Random(self.in_use, self.step.seed, name)
        if init == "mean":
            return Mean(self.in_use)
        guessed = set(self.map.guessed.tolist())
        surfaces = [surface if n in guessed else None for n, surface in enumerate(self.new.surfaces)]
        pieces = cut(self.old, surfaces)
        simple = SubToken(self.in_use, pieces, weights_of(pieces, self.parameters.first_share))
        if init == "subtoken":
            return simple
        vectors, known = self.donor
        textual = np.array([n for n in self.map.copied if self.new.surfaces[n] is not None], np.int64)
        anchors = np.intersect1d(textual, known)
        if init == "ridge":
            fitted: RowMaker = Ridge(vectors, anchors, self.map.old_of_W[anchors], self.parameters.strength)
        else:
            fitted = Pursuit(vectors, anchors, self.map.old_of_W[anchors], self.parameters.atoms)
        return Patched(fitted, simple, known)

    def uses(self) -> np.typing.NDArray[np.float64] | None:
        """How often each new token occurs in the texts, None without texts."""
        if not self.parameters.texts:
            return None
        flat = np.concatenate([*self.new_documents, np.zeros(0, np.int64)])
        return np.bincount(flat, minlength=self.new.size).astype(np.float64)

    @property
    def calibrates(self) -> bool:
        """Whether head rows are set to a level."""
        asked = self.parameters.calibrate
        size = sum(info.nbytes for info in self.symbolic.checkpoint.tensors.values())
        return (
            bool(self.parameters.texts) and size <= MOST_BYTES and (not self.symbolic.tied if asked is None else asked)
        )

    def level(self, head: NodeTable) -> Level | None:
        """The level of old head rows, by the mean state of the old model on the texts."""
        uses_W = self.uses()
        if not self.calibrates or uses_W is None:
            return None
        from pedigree.model.hf_checkpoint import import_checkpoint

        documents = [np.array(ids, np.int64) for text in self.texts for ids in self.old.encode_all(text.units)]
        state_d = mean_state(import_checkpoint(self.symbolic.checkpoint.location), documents)
        copied = np.array([n for n in self.map.copied if self.new.surfaces[n] is not None], np.int64)
        return fit_level(head, self.map.old_of_W[copied], uses_W[copied], state_d)


def _placed(place: str, step: Step) -> Path:
    """A place as the recipe means it: relative paths begin where the recipe lies."""
    return Path(step.folder, Path(place).expanduser())


def _tell(symbolic: Symbolic, swap: Swap) -> None:
    """Notes on what was matched and what was made up."""
    found = swap.rows
    symbolic.notes.append(
        f"vocabulary: {len(found.copied):,} of {swap.new.size:,} rows are copied, "
        f"{len(found.guessed) - len(found.holes):,} are made ({swap.parameters.init})"
    )
    symbolic.notes += [f"vocabulary: {new} takes the row of {old}" for new, old in found.controls_by_role]
    if found.new_specials:
        names = ", ".join(str(swap.new.spellings[n]) for n in found.new_specials[:6])
        symbolic.notes.append(f"vocabulary: {len(found.new_specials)} control tokens are new: {names}")
    if swap.parameters.calibrate and not swap.calibrates:
        symbolic.notes.append("vocabulary: the model is too large to be run for the level of its head rows")


def write_tokenizer(symbolic: Symbolic, new: Encoder, old_of_W: Numbers) -> None:
    """The new tokenizer, and the numbers of control tokens wherever they are written.

    Args:
        symbolic: changed in place.
        new: the tokenizer of the result.
        old_of_W: for each new token the old one whose row it has, NO_ROW without.
    """
    config = json.dumps(tokenizer_config(new, config_beside(new.location)), indent=1, ensure_ascii=False) + "\n"
    symbolic.files |= dict.fromkeys(_GONE)
    symbolic.files["tokenizer.json"] = written(new.definition).encode()
    symbolic.files["tokenizer_config.json"] = config.encode()
    number_of = {int(old): number for number, old in enumerate(old_of_W) if old != NO_ROW and number in new.specials}
    for level in symbolic.config.levels():
        symbolic.notes += _renumber(level, number_of, "config.json")
    text = symbolic.checkpoint.sibling_bytes("generation_config.json", 1 << 20)
    if text is not None:
        generation = parse_json(text, f"{symbolic.checkpoint.location}: generation_config.json")
        symbolic.notes += _renumber(generation, number_of, "generation_config.json")
        symbolic.files["generation_config.json"] = (json.dumps(generation, indent=2) + "\n").encode()


def _renumber(settings: dict[str, Any], number_of: dict[int, int], file: str) -> list[str]:
    """Numbers of control tokens rewritten; notes on those that have no counterpart."""
    notes: list[str] = []
    for key in _IDS:
        value = settings.get(key)
        if isinstance(value, list):
            settings[key] = [number_of[n] for n in value if type(n) is int and n in number_of]
        elif type(value) is int:
            settings[key] = number_of.get(value)
            if settings[key] is None:
                notes.append(f"{file}: {key} {value} has no counterpart in the new tokenizer")
    return notes


VOCABULARY_SWAP = Operator(
    name="vocab.swap",
    summary="another tokenizer: shared tokens keep their rows, new ones get rows by mean, pieces, ridge or pursuit",
    classes={"the same tokens": Exactness.FP0, "other tokens": Exactness.NFP},
    needs="a tokenizer; for ridge and pursuit a donor model or texts; for calibrated head rows texts",
    source="2402.09977, 2506.06607",
    parameters=SwapParameters,
    apply=apply,
    verbs=("index", "fit", "pad"),
)
