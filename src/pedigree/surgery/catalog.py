"""Every operator, in the order in which `pedigree surgery ops` tells them. A new one is a file and a line here."""

from __future__ import annotations

from pedigree.surgery.operator import Operator
from pedigree.surgery.operators.cast import CAST
from pedigree.surgery.operators.depth import GROW_DEPTH
from pedigree.surgery.operators.feed_forward import GROW_FFN
from pedigree.surgery.operators.lora import LORA_MERGE
from pedigree.surgery.operators.merge import MERGE
from pedigree.surgery.operators.vocabulary import VOCABULARY_SWAP

OPERATORS: tuple[Operator, ...] = (GROW_DEPTH, GROW_FFN, MERGE, LORA_MERGE, VOCABULARY_SWAP, CAST)
BY_NAME: dict[str, Operator] = {operator.name: operator for operator in OPERATORS}
