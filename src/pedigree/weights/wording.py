"""Wording: what the words of a tensor name usually mean.

Used for architectures without a role table only. Every rule is a habit of naming seen in public code, not a fact about
the tensor; whoever relies on it says that the role was inferred.

Laws: functions of the lower-cased words alone; a name that says nothing gives None.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_ATTENTION = re.compile(r"attn|attention|^sa$|^att$|^mha$|^csa$|heads?$")
_CROSS = re.compile(r"cross|encdec|enc_attn|encoder_attn")
_MLP = re.compile(r"mlp|ffn|ffwd|feed_?forward|^ff$|^ffw$|moe|experts?$|intermediate|^fc\d?$|^net$|linear\d|^lin\d")
_NORM = re.compile(r"norm|^ln|_ln$|^ln_|layernorm")

_FUSED = re.compile(r"^(qkv|wqkv|w_qkv|c_attn|w_pack|kqv|query_key_value|qkv_proj|to_qkv)$")
_FUSED_INSIDE = re.compile(r"^(in_proj|in_projection|proj_in)$")
_QUERY = re.compile(r"^(w_?|b_?|to_|c_|lin_?)?(q|query|queries)(_?proj|_?lin|_?linear)?$")
_KEY = re.compile(r"^(w_?|b_?|to_|c_|lin_?)?(k|key|keys)(_?proj|_?lin|_?linear)?$")
_VALUE = re.compile(r"^(w_?|b_?|to_|c_|lin_?)?(v|value|values)(_?proj|_?lin|_?linear)?$")
_OUT = re.compile(
    r"^(w_?|b_?|to_|c_|lin_?)?(o|out|output|proj|projection|dense|unify_?heads)(_?proj|_?lin|_?linear|put)?$"
)

_GATE = re.compile(r"^(w_?|c_)?(gate|gate_proj|w1|wi_0|fc_gate)(_?proj|_?lin|_?linear)?$")
_UP = re.compile(
    r"^(w_|b_|c_)?(up|in|fc|fc1|fc_1|fc_in|w3|wi|wi_1|lin1|linear1|linear_1|dense_h_to_4h|expand|c_fc|intermediate)"
    r"(_?proj|_?lin|_?linear)?$"
)
_DOWN = re.compile(
    r"^(w_|b_|c_)?(down|out|fc2|fc_2|fc_out|w2|wo|lin2|linear2|linear_2|dense_4h_to_h|contract|proj|c_proj|output)"
    r"(_?proj|_?lin|_?linear)?$"
)
_ROUTER = re.compile(r"^(router|gate|gating|wg|switch)$")

_POSITION = re.compile(r"pos|wpe")
_TYPE = re.compile(r"type|segment")
_HEAD = re.compile(r"lm_head|^head$|unembed|w_u$|embed_out|output|classifier|generator|^decoder$|to_logits|vocab_proj")
_EMBED = re.compile(r"emb|wte|^tok|word|w_e$|lookup")


def words_of(stem: str) -> list[str]:
    """The lower-cased words of a name, between dots."""
    return [word.lower() for word in stem.split(".") if word]


def is_norm(words: Sequence[str]) -> bool:
    """Whether a name says norm."""
    return any(_NORM.search(word) for word in words)


def is_cross_attention(words: Sequence[str]) -> bool:
    """Whether a name says attention to another sequence."""
    return any(_CROSS.search(word) for word in words)


def attention_word(words: Sequence[str]) -> str | None:
    """ "qkv", "attn.q", "attn.k", "attn.v" or "attn.o" of a name inside a layer; None where it is not attention."""
    inside = any(_ATTENTION.search(word) for word in words[:-1])
    for word in reversed(words):
        if _FUSED.match(word) or (inside and _FUSED_INSIDE.match(word)):
            return "qkv"
        for role, pattern in (("attn.q", _QUERY), ("attn.k", _KEY), ("attn.v", _VALUE)):
            if pattern.match(word) and not any(_MLP.search(other) for other in words[:-1]):
                return role
        if inside and _OUT.match(word):
            return "attn.o"
        if not word.isdigit():
            break
    return None


def feed_forward_word(words: Sequence[str]) -> str | None:
    """ "gate", "up", "down", "router" or "" (feed-forward, but which part is not said); None where it is neither."""
    inside = any(_MLP.search(word) for word in words)
    if any(_ATTENTION.search(word) for word in words):
        return None
    word = words[-1] if words else ""
    if _ROUTER.match(word) and any(re.search(r"moe|expert|sparse|router", other) for other in words):
        return "router"
    for kind, pattern in (("gate", _GATE), ("up", _UP), ("down", _DOWN)):
        if pattern.match(word) and (inside or word not in ("out", "proj", "output", "in")):
            return kind
    return "" if inside else None


def norm_place(words: Sequence[str]) -> str | None:
    """Role of a norm inside a layer where its name says which, None where only its number or order can tell."""
    name = "_".join(words)
    if re.search(r"(^|_)q(uery)?_?(layer)?_?(norm|ln)", name):
        return "norm.q"
    if re.search(r"(^|_)k(ey)?_?(layer)?_?(norm|ln)", name):
        return "norm.k"
    if re.search(r"post_att|ffn|mlp|feed|(^|_)ff(_|n)|final|pre_ff", name):
        return "norm.mlp"
    if re.search(r"input|attn|attention|(^|_)sa_|pre_norm", name):
        return "norm.attn"
    return None


def outer_word(words: Sequence[str]) -> str | None:
    """Role of a matrix outside the layers, told from its name."""
    name = "_".join(words)
    if _TYPE.search(name) and _EMBED.search(name):
        return "embed.type"
    if _POSITION.search(name):
        return "embed.position"
    if any(_HEAD.search(word) for word in words):
        return "head"
    return "embed" if any(_EMBED.search(word) for word in words) else None
