"""What a recorded operation may do to weights, and what it must leave alone.

Shapes never lie about themselves: an operation that cannot change a number of layers did not, and where the number has
changed something else was done too. Numbers that an operation copies are equal afterwards; where hardly any is, the
weights were trained in between.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pedigree.audit.claims import Claim
from pedigree.records.audit import AuditCheck

if TYPE_CHECKING:
    from pedigree.forensics.pair import PairEvidence

TRAINING = frozenset({"train", "finetune", "pretrain", "continue", "sft", "dpo", "distill"})
ANYTHING = frozenset({"layers", "width", "inner", "attention", "experts", "vocabulary"})
# Operator -> the dimensions that it may change; operators that are not here may change any.
MAY_CHANGE: Mapping[str, frozenset[str]] = {
    "grow.depth": frozenset({"layers"}), "prune.depth": frozenset({"layers"}), "grow.ffn": frozenset({"inner"}),
    "prune.ffn": frozenset({"inner"}), "grow.hidden": frozenset({"width"}), "prune.hidden": frozenset({"width"}),
    "grow.heads": frozenset({"attention"}), "grow.kv": frozenset({"attention"}),
    "grow.head_dim": frozenset({"attention"}), "prune.heads": frozenset({"attention"}),
    "prune.kv": frozenset({"attention"}), "moe.upcycle": frozenset({"experts", "inner"}),
    "moe.densify": frozenset({"experts", "inner"}), "vocab.swap": frozenset({"vocabulary"}),
    "vocab.shrink": frozenset({"vocabulary"}), "cast": frozenset(),
    "quantize": frozenset(), "merge": frozenset(), "lora.merge": frozenset(),
}  # fmt: skip
_MUST_CHANGE = {"grow.depth": "layers", "prune.depth": "layers"}
_ATTENTION, _INNER, _TABLES = ("attn.",), ("mlp.", "moe."), ("embed", "head")
# Operator -> the parts that it copies number for number wherever they keep their shape.
COPIES: Mapping[str, tuple[str, ...]] = {
    "grow.depth": (*_ATTENTION, *_INNER, *_TABLES), "prune.depth": (*_ATTENTION, *_INNER, *_TABLES),
    "cast": (*_ATTENTION, *_INNER, *_TABLES), "grow.ffn": (*_ATTENTION, *_TABLES),
    "prune.ffn": (*_ATTENTION, *_TABLES), "moe.upcycle": (*_ATTENTION, *_TABLES),
    "moe.densify": (*_ATTENTION, *_TABLES), "vocab.swap": (*_ATTENTION, *_INNER),
    "grow.heads": (*_INNER, *_TABLES), "grow.kv": (*_INNER, *_TABLES), "grow.head_dim": (*_INNER, *_TABLES),
    "prune.heads": (*_INNER, *_TABLES), "prune.kv": (*_INNER, *_TABLES),
}  # fmt: skip
FEWEST_COPIES = 4
# Role of a freeze rule -> the labels of parts that it means (`layers.3.mlp.up` without its layer).
_FROZEN = {
    "embed": r"embed(\.|$)", "head": r"head(\.|$)", "attention": r"attn\.", "feed-forward": r"mlp\.",
    "router": r"moe\.router", "experts": r"moe\.expert\.", "shared": r"moe\.shared", "norm": r".*norm",
    "positions": r"(embed\.)?positions?", "mtp": r"mtp", "shortcut": r"shortcut",
}  # fmt: skip
_LABEL = re.compile(r"(?:layers\.(\d+)\.)?(.*)")


def is_training(operation: str) -> bool:
    """Whether an operation is one that only moves numbers."""
    return operation in TRAINING


def operation_check(claim: Claim, pair: PairEvidence) -> AuditCheck | None:
    """Whether what was recorded explains the shapes and the equal numbers of the child; None: nothing to ask."""
    if claim.source == "card":
        return _card_check(claim, pair)
    operators = claim.operators or ((claim.operation,) if claim.operation in MAY_CHANGE else ())
    if not operators and not is_training(claim.operation):
        return None
    words = ", ".join(operators) or claim.operation
    allowed: set[str] = set()
    for operator in operators:
        allowed |= MAY_CHANGE.get(operator, ANYTHING)
    more = [name for name in pair.reshaped if name not in allowed]
    if more:
        return AuditCheck(
            check="operation", answer="disagrees", lie="hidden-step",
            sentence=f"{words} does not change {_listed(more)}, and the child has others: a step was left out",
        )  # fmt: skip
    undone = [operator for operator in operators if _MUST_CHANGE.get(operator, "") not in ("", *pair.reshaped)]
    if undone and not {"grow.depth", "prune.depth"} <= set(operators):
        return AuditCheck(
            check="operation", answer="disagrees", lie="hidden-step",
            sentence=f"{undone[0]} changes the number of layers, and the child has as many as the parent",
        )  # fmt: skip
    return _copies_check(operators, pair, words) if operators else None


def _card_check(claim: Claim, pair: PairEvidence) -> AuditCheck | None:
    """A card's words are loose: a fine-tuned model may have more tokens, a merged one other layers."""
    if claim.operation not in ("finetune", "quantized"):
        return None
    more = [name for name in pair.reshaped if name != "vocabulary"]
    if not more:
        return None
    return AuditCheck(
        check="operation", answer="doubtful", lie="hidden-step",
        sentence=f"the card says {claim.operation}, which does not change {_listed(more)}; the child has others",
    )  # fmt: skip


def _copies_check(operators: Sequence[str], pair: PairEvidence, words: str) -> AuditCheck | None:
    copied = set.intersection(*(set(COPIES.get(operator, ())) for operator in operators))
    equal = [name for name in (*pair.equal, *pair.rounded) if _is_of(name, copied)]
    different = [name for name in pair.different if _is_of(name, copied)]
    if not copied or len(equal) + len(different) < FEWEST_COPIES:
        return None
    told = f"{len(equal)} of {len(equal) + len(different)} parts that {words} copies are the parent's number for number"
    if 2 * len(equal) < len(different):
        return AuditCheck(
            check="operation", answer="disagrees", lie="hidden-step",
            sentence=f"{told}: the weights were changed in between",
        )  # fmt: skip
    # A training that left most parts frozen leaves most of them equal. Copied layers that add nothing end in zeros.
    if different and "grow.depth" not in operators:
        return AuditCheck(
            check="operation", answer="doubtful", lie="hidden-step", sentence=f"{told}: not {_listed(different)}"
        )
    return AuditCheck(check="operation", answer="agrees", sentence=told)


def _is_of(label: str, prefixes: set[str]) -> bool:
    _, role = _split(label)
    return role.startswith(tuple(prefixes)) and "norm" not in role and not role.endswith(".bias")


def _split(label: str) -> tuple[int | None, str]:
    match = _LABEL.fullmatch(label)
    layer, role = (match[1], match[2]) if match else (None, label)
    return (int(layer) if layer is not None else None), role


def all_copied(claim: Claim, pair: PairEvidence) -> bool:
    """Whether every part that kept its shape is the parent's, rounded at most: then nobody else had a part in it."""
    return bool(claim.operators) and bool(pair.equal or pair.rounded) and not pair.different and pair.whole


def steps_check(claim: Claim, pair: PairEvidence) -> AuditCheck | None:
    """Whether the recorded steps can have moved the weights as far as they are; None where nothing says how many.

    An AdamW step moves a number by at most the rate times R + decay |w|, with
    R = (1 - b1) / sqrt((1 - b2)(1 - b1^2/b2)) by the inequality of Cauchy and Schwarz (Kingma and Ba 2015, section 2.1,
    has the usual case, about 1); the lengths of steps add up to no less than the way. Only an excess says something.
    """
    if not is_training(claim.operation):
        return None
    if pair.verdict == "identical":
        return AuditCheck(
            check="steps", answer="disagrees", lie="wrong-upload",
            sentence=f"{claim.operation} was recorded, and every number is the parent's: these files were not trained",
        )  # fmt: skip
    if pair.rounded and pair.whole and not pair.different:
        return AuditCheck(
            check="steps", answer="disagrees", lie="hidden-step",
            sentence=f"{claim.operation} was recorded, and every number is the parent's, rounded: it was cast",
        )  # fmt: skip
    bound = _reach(claim, pair)
    if bound is None or pair.moved is None:
        return None
    told = f"the weights moved by {pair.moved:.3g} (root mean square)"
    if pair.moved > bound:
        return AuditCheck(
            check="steps", answer="disagrees", lie="hidden-step",
            sentence=f"{told}, the recorded steps reach {bound:.3g} at most: more was done than was recorded",
        )  # fmt: skip
    return AuditCheck(
        check="steps", answer="agrees", sentence=f"{told}, and the recorded steps reach up to {bound:.3g}"
    )


def _reach(claim: Claim, pair: PairEvidence) -> float | None:
    """How far the recorded steps can carry, in units of the weights."""
    training = claim.settings.get("training")
    optimizer = training.get("optimizer") if isinstance(training, Mapping) else None
    try:
        if not isinstance(optimizer, Mapping) or optimizer.get("name") not in ("adamw", "muon"):
            return None
        steps = float(claim.parameters["steps"])
        rate = max(float(optimizer["lr"]), float(optimizer.get("muon_lr") or 0.0))
        first, second = (float(beta) for beta in optimizer["betas"])
        decay = float(optimizer["weight_decay"])
    except (KeyError, TypeError, ValueError):
        return None
    if not (0 <= first < 1 and 0 < second < 1 and first * first < second):
        return None
    most = max(1.0, (1 - first) / math.sqrt((1 - second) * (1 - first * first / second)))
    return steps * rate * (most + decay * math.sqrt(pair.mean_square))


def frozen_check(claim: Claim, pair: PairEvidence) -> AuditCheck | None:
    """Whether exactly the weights that were recorded as frozen are equal; None where no training is recorded."""
    if claim.source != "ledger" or not is_training(claim.operation) or pair.verdict == "identical":
        return None
    rules = _rules(claim)
    if rules is None:
        return None
    moved = [name for name in (*pair.different, *pair.rounded) if _is_frozen(name, rules)]
    if moved:
        return AuditCheck(
            check="frozen", answer="disagrees", lie="frozen-moved",
            sentence=f"recorded as frozen, and not the parent's numbers: {_listed(moved)}",
        )  # fmt: skip
    # Gains and biases may stay where small steps round to nothing; a whole matrix does not.
    still = [name for name in pair.equal if not _is_frozen(name, rules) and _is_matrix(name)]
    if still and pair.whole:
        return AuditCheck(
            check="frozen", answer="doubtful", lie="frozen-undeclared",
            sentence=f"not recorded as frozen, and the parent's number for number: {_listed(still)}",
        )  # fmt: skip
    held = [name for name in pair.equal if _is_frozen(name, rules)]
    if not rules:
        return None
    return AuditCheck(
        check="frozen", answer="agrees" if held else "cannot-say",
        sentence=f"{len(held)} parts were recorded as frozen and are the parent's number for number",
    )  # fmt: skip


def _rules(claim: Claim) -> list[Mapping[str, Any]] | None:
    """The freeze rules of a training: of its settings, or roles named under `frozen` among its parameters."""
    named = claim.parameters.get("frozen")
    if isinstance(named, list):
        return [{"roles": [str(item) for item in named]}] if named else []
    training = claim.settings.get("training")
    if not isinstance(training, Mapping):
        return None
    rules = training.get("freeze") or []
    return [rule for rule in rules if isinstance(rule, Mapping)] if isinstance(rules, list) else None


def _is_frozen(label: str, rules: Sequence[Mapping[str, Any]]) -> bool:
    layer, role = _split(label)
    return any(_fits(rule, layer, role) for rule in rules)


def _fits(rule: Mapping[str, Any], layer: int | None, role: str) -> bool:
    layers, roles = rule.get("layers"), rule.get("roles")
    if isinstance(layers, list) and (layer is None or str(layer) not in {str(item) for item in layers}):
        return False
    if not isinstance(roles, list):
        return isinstance(layers, list)
    # Everything of a head for later tokens is that head's; elsewhere a norm is a norm, whatever part it stands in.
    if role in ("mtp.embed", "mtp.head"):  # copies of the tables of the model
        return "mtp" in roles or role.removeprefix("mtp.") in roles
    kind = "mtp" if role.startswith("mtp") else "norm" if "norm" in role else None
    if kind is not None:
        return kind in roles
    return any(re.match(_FROZEN.get(str(word), "$^"), role) for word in roles)


def _is_matrix(label: str) -> bool:
    _, role = _split(label)
    return "norm" not in role and not role.endswith(".bias")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
