"""LayerNorm becomes RMSNorm.

Law     LN(x) = (x - mean x) / std x * g + b. Where every writer of the stream is centered over the channels the mean is
        zero, the variance is the mean square, and RMSNorm with the same gain and epsilon is the same function. What a
        bias b adds to the input of a linear map W is the constant W b, which goes into the bias of the map. The bias of
        the final norm has no map behind it that could take it without a bias on the vocabulary: it stays.
Exact   for norms in front of each branch and an untied head. A tied head would be centered with the embedding, which
        moves each token's logit by its own row mean; a norm behind a branch, and the final norm in front of the query
        layer, write gain * x, which no change of a writer centers.
Source  2305.14858 (Pre-RMSNorm); bias folding derived for the project.

Shapes  d = channels of the stream
"""

from __future__ import annotations

from collections.abc import Sequence

from pedigree.model.config import ModelConfig
from pedigree.model.config_parts import GroupedAttention
from pedigree.surgery.centering import Centered, Product
from pedigree.surgery.exactness import Exactness
from pedigree.surgery.nodes import Fill
from pedigree.surgery.operator import Operator, Parameters, Step
from pedigree.surgery.rehousing import rehouse
from pedigree.surgery.retarget import model_of
from pedigree.surgery.symbolic import Key, Symbolic
from pedigree.weights.roles import BIAS

BEHIND = {
    "norm.attn": ("attn.q", "attn.k", "attn.v"),
    "norm.mlp": ("mlp.gate", "mlp.up", "moe.expert.gate", "moe.expert.up", "moe.shared.gate", "moe.shared.up"),
}
"""What reads behind a norm, and has a bias or can get one."""
_DOWN = ("mlp.down", "moe.expert.down", "moe.shared.down")
_WITHOUT_BIAS = ("moe.router", "moe.shared.router", "shortcut.0.enter", "attn.q_a", "attn.kv_a")


class NormParameters(Parameters):
    """There is one way."""


def apply(symbolic: Symbolic, parameters: NormParameters, step: Step) -> Exactness:
    """Center the writers, fold the biases, and name the norms anew."""
    model = model_of(symbolic, step)
    _refuse(symbolic, model, step)
    fold_norm_biases(symbolic, model, step)
    for key in list(symbolic.parts):
        if key[0].startswith("norm.") and key[0].endswith(BIAS) and key[0] != "norm.final" + BIAS:
            del symbolic.parts[key]
    for key, axis in _writers(symbolic):
        symbolic.parts[key] = Centered(symbolic.parts[key], axis)
    norm = model.norm.replace(kind="rms", final_bias=True)
    rehouse(symbolic, with_reader_biases(model).replace(norm=norm), step)
    return Exactness.FP1


def _refuse(symbolic: Symbolic, model: ModelConfig, step: Step) -> None:
    if model.norm.kind != "layer":
        raise step.refuse("the norms are RMS norms already", got=model.norm.kind, expected="layer")
    if model.tied:
        raise step.refuse(
            "a tied head would be centered with the embedding, and each token's logit would move by its own row mean",
            got="a tied head", expected="an untied one",
            fix=f"put `- convert.untie` before this step: {model.vocab_size * model.d_model:,} numbers more",
        )  # fmt: skip
    if model.norm.sandwich:
        raise step.refuse(
            "the norms behind the branches write the stream, and nothing centers what they write",
            got=f"{model.norm.placement} norms", expected="norms in front of each branch", fix="convert.sandwich out",
        )  # fmt: skip
    if model.query_layer == "after-norm" or model.homotopy is not None:
        what = "the final norm writes the input of the query layer, and nothing centers what it writes"
        raise step.refuse(
            what if model.homotopy is None else "the model stands between two mechanisms",
            got=model.homotopy.moved if model.homotopy else model.query_layer, expected="an ordinary last layer",
            fix="convert.query_layer and convert.positions, training that anneals, and both with op: finish, first",
        )  # fmt: skip


def fold_norm_biases(symbolic: Symbolic, model: ModelConfig, step: Step) -> None:
    """W b into the bias of every map that reads behind a norm in the layers; maps without a bias get one.

    Raises:
        UsageError: a map there has no bias and our decoder has no place for one.
    """
    blocked = [role for role in _WITHOUT_BIAS if next(symbolic.keys(role), None) is not None]
    if blocked:
        raise step.refuse(
            "a map that reads behind a norm has no place for a bias", got=", ".join(blocked),
            expected="attention and feed-forward networks only",
        )  # fmt: skip
    for layer in range(symbolic.n_layers):
        for norm, readers in BEHIND.items():
            bias = symbolic.part(norm + BIAS, layer)
            if bias is None:
                continue
            for key in list(symbolic.keys(*_read(readers, model, layer), layer=layer)):
                twin: Key = (key[0] + BIAS, key[1], key[2])
                symbolic.parts[twin] = Product(symbolic.parts[key], bias, symbolic.parts.get(twin))
    for key in list(symbolic.parts):
        if key[0] in _DOWN:
            symbolic.parts.setdefault((key[0] + BIAS, key[1], key[2]), Fill((symbolic.d_model,)))
        if model.is_query(key[1] if key[1] is not None else -1) and key[0] == "attn.q":
            symbolic.parts.setdefault(("attn.q" + BIAS, key[1], None), Fill((symbolic.parts[key].shape[0],)))


def _read(readers: Sequence[str], model: ModelConfig, layer: int) -> Sequence[str]:
    """Queries of a query layer read the table of positions, not the norm."""
    return [role for role in readers if role != "attn.q"] if model.is_query(layer) else readers


def with_reader_biases(model: ModelConfig) -> ModelConfig:
    """The model with biases on everything that reads behind a norm."""
    attention = model.attention
    if isinstance(attention, GroupedAttention):
        attention = attention.replace(q_bias=True, k_bias=True, v_bias=True)
    return model.replace(attention=attention, feed_forward=model.feed_forward.replace(bias=True))


def _writers(symbolic: Symbolic) -> list[tuple[Key, int]]:
    """Parts that are added to the stream, with the axis along the channels."""
    found: list[tuple[Key, int]] = []
    for key in symbolic.parts:
        role = key[0]
        if role.startswith("norm.") or role == "embed.query":
            continue
        for axis, space in enumerate(symbolic.axes(key)):
            if space.space == "residual" and space.part in ("writer", "bias"):
                found.append((key, axis))
    return found


CONVERT_NORM = Operator(
    name="convert.norm",
    summary="LayerNorm becomes RMSNorm: writers centered, biases of norms folded into what reads behind them",
    classes={"": Exactness.FP1},
    needs="LayerNorm in front of each branch, an untied head",
    source="2305.14858",
    parameters=NormParameters,
    apply=apply,
    verbs=("rebase", "fold"),
)
