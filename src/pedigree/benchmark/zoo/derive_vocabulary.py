"""Another tokenizer, more tokens, new rows.

Law     a row belongs to its token, not to its number: rows of shared tokens move with them.
Source  FVT (2402.09977) for the mean of sub-tokens; re-initialised embeddings as in "tokenizer swap by cold start".

Shapes  V = old rows, W = new rows, D = residual channels
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pedigree.benchmark.zoo.derive_gauge import seeded
from pedigree.benchmark.zoo.snapshot import Snapshot

if TYPE_CHECKING:
    import torch

TABLES = ("model.embed_tokens.weight", "lm_head.weight")


def swap_by_mean(snapshot: Snapshot, *, tokenizer: str, seed: int = 0) -> Snapshot:
    """New tokenizer; a row is copied when the token existed and is the mean of its old sub-tokens when not."""
    import torch
    from tokenizers import Tokenizer, decoders

    old, new = Tokenizer.from_str(snapshot.tokenizer), Tokenizer.from_str(tokenizer)
    old_ids = old.get_vocab()
    decoder = decoders.ByteLevel()
    sources: list[list[int]] = []
    for token, _ in sorted(new.get_vocab().items(), key=lambda item: item[1]):
        if token in old_ids:
            sources.append([old_ids[token]])
        else:
            sources.append(old.encode(decoder.decode([token])).ids or [0])
    moved: dict[str, torch.Tensor] = {}
    for name in TABLES:
        if name in snapshot.tensors:
            table_VD = snapshot.tensors[name]
            moved[name] = torch.stack([table_VD[row].mean(0) for row in sources])
    return snapshot.changed(moved, {"vocab_size": len(sources)}, tokenizer)


def swap_by_chance(snapshot: Snapshot, *, tokenizer: str, seed: int) -> Snapshot:
    """New tokenizer and embeddings drawn afresh: no row of the old tables survives."""
    import torch
    from tokenizers import Tokenizer

    n_rows = Tokenizer.from_str(tokenizer).get_vocab_size()
    generator = seeded(seed)
    moved = {
        name: torch.randn(n_rows, snapshot.d_model, generator=generator) * 0.02
        for name in TABLES
        if name in snapshot.tensors
    }
    return snapshot.changed(moved, {"vocab_size": n_rows}, tokenizer)


def extend(snapshot: Snapshot, *, tokens: list[str], n_padding: int, seed: int) -> Snapshot:
    """Add tokens at the end of the vocabulary and padding rows behind them; old rows stay where they are."""
    import json

    import torch

    generator = seeded(seed)
    vocabulary = json.loads(snapshot.tokenizer)
    first = int(snapshot.config["vocab_size"])
    for offset, token in enumerate(tokens):
        entry = {"id": first + offset, "content": token, "single_word": False, "lstrip": False, "rstrip": False}
        vocabulary["added_tokens"].append({**entry, "normalized": False, "special": False})
    n_new = len(tokens) + n_padding
    moved: dict[str, torch.Tensor] = {}
    for name in TABLES:
        if name in snapshot.tensors:
            table_VD = snapshot.tensors[name]
            noise = torch.randn(n_new, table_VD.shape[1], generator=generator) * table_VD.std() * 0.1
            moved[name] = torch.cat([table_VD, table_VD.mean(0) + noise])
    return snapshot.changed(moved, {"vocab_size": first + n_new}, json.dumps(vocabulary, ensure_ascii=False))


def shuffle(snapshot: Snapshot, *, seed: int) -> Snapshot:
    """Renumber the tokens at random, tokenizer and tables together. The same model of text."""
    import json

    import torch

    n_rows = int(snapshot.config["vocab_size"])
    kept = 2  # the specials stay in front
    order_V = torch.cat([torch.arange(kept), kept + torch.randperm(n_rows - kept, generator=seeded(seed))])
    new_id = {int(old): new for new, old in enumerate(order_V.tolist())}
    vocabulary = json.loads(snapshot.tokenizer)
    table = vocabulary["model"]["vocab"]
    vocabulary["model"]["vocab"] = {token: new_id[number] for token, number in table.items()}
    moved = {name: snapshot.tensors[name][order_V] for name in TABLES if name in snapshot.tensors}
    return snapshot.changed(moved, tokenizer=json.dumps(vocabulary, ensure_ascii=False))
