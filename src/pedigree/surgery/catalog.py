"""Every operator, in the order in which `pedigree surgery ops` tells them. A new one is a file and a line here."""

from __future__ import annotations

from pedigree.surgery.operator import Operator
from pedigree.surgery.operators import launder
from pedigree.surgery.operators.activation import CONVERT_ACTIVATION
from pedigree.surgery.operators.biases import CONVERT_BIASES
from pedigree.surgery.operators.cast import CAST
from pedigree.surgery.operators.densify import MOE_DENSIFY
from pedigree.surgery.operators.depth import GROW_DEPTH
from pedigree.surgery.operators.experts import MOE_MERGE, MOE_PRUNE
from pedigree.surgery.operators.feed_forward import GROW_FFN
from pedigree.surgery.operators.heads import GROW_HEAD_DIM, GROW_HEADS, GROW_KV
from pedigree.surgery.operators.hidden import GROW_HIDDEN
from pedigree.surgery.operators.key_values import CONVERT_KV
from pedigree.surgery.operators.latent_attention import CONVERT_LATENT
from pedigree.surgery.operators.layout import CONVERT_LAYOUT
from pedigree.surgery.operators.lora import LORA_MERGE
from pedigree.surgery.operators.lora_extract import LORA_EXTRACT
from pedigree.surgery.operators.merge import MERGE
from pedigree.surgery.operators.norms import CONVERT_NORM
from pedigree.surgery.operators.pangu_pi import CONVERT_PI
from pedigree.surgery.operators.positions import CONVERT_POSITIONS
from pedigree.surgery.operators.prune import PRUNE_DEPTH, PRUNE_FFN, PRUNE_HEADS, PRUNE_HIDDEN, PRUNE_KV
from pedigree.surgery.operators.quantize import QUANTIZE
from pedigree.surgery.operators.query_layer import CONVERT_QUERY_LAYER
from pedigree.surgery.operators.sandwich import CONVERT_SANDWICH
from pedigree.surgery.operators.tying import CONVERT_TIE, CONVERT_UNTIE
from pedigree.surgery.operators.upcycle import MOE_UPCYCLE
from pedigree.surgery.operators.vocabulary import VOCABULARY_SWAP
from pedigree.surgery.operators.vocabulary_shrink import VOCABULARY_SHRINK

OPERATORS: tuple[Operator, ...] = (
    GROW_DEPTH,
    GROW_FFN,
    GROW_HIDDEN,
    GROW_HEADS,
    GROW_KV,
    GROW_HEAD_DIM,
    MOE_UPCYCLE,
    MOE_DENSIFY,
    MOE_PRUNE,
    MOE_MERGE,
    PRUNE_DEPTH,
    PRUNE_FFN,
    PRUNE_HIDDEN,
    PRUNE_HEADS,
    PRUNE_KV,
    MERGE,
    LORA_MERGE,
    LORA_EXTRACT,
    VOCABULARY_SWAP,
    CONVERT_NORM,
    CONVERT_BIASES,
    CONVERT_POSITIONS,
    CONVERT_QUERY_LAYER,
    CONVERT_ACTIVATION,
    CONVERT_KV,
    CONVERT_LATENT,
    CONVERT_SANDWICH,
    CONVERT_PI,
    CONVERT_LAYOUT,
    CONVERT_UNTIE,
    CONVERT_TIE,
    VOCABULARY_SHRINK,
    QUANTIZE,
    CAST,
    *launder.OPERATORS,
)
BY_NAME: dict[str, Operator] = {operator.name: operator for operator in OPERATORS}
