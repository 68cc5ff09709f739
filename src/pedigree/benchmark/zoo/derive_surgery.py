"""The operators of `pedigree.surgery` on zoo models.

The truth stays independent of the judge: surgery writes the files, the lineage is told here from the parameters alone.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pedigree.benchmark.zoo.derive_gauge import seeded
from pedigree.benchmark.zoo.lineage import Lineage
from pedigree.benchmark.zoo.snapshot import Snapshot

if TYPE_CHECKING:
    import torch

# How a step names the further parents, in their order.
OTHERS = ("second", "third", "fourth")
TOKENIZER_PLACE = "TOKENIZER"
ADAPTER_PLACE = "ADAPTER"


def operate(
    first: Snapshot, *others: Snapshot, step: Mapping[str, Any], seed: int, tokenizer: str | None = None
) -> Snapshot:
    """One surgery step, as a recipe of `pedigree surgery` writes it.

    Args:
        first: what is operated on.
        others: further models, known to the step as "second", "third", "fourth".
        step: `{operator: parameters}`; the word TOKENIZER or ADAPTER in them stands for a folder made here.
        seed: of random numbers.
        tokenizer: text of the tokenizer.json that TOKENIZER stands for.
    """
    from pedigree.records.recorder import NullRecorder
    from pedigree.surgery.composition import compose
    from pedigree.surgery.engine import run
    from pedigree.surgery.plan import make_plan
    from pedigree.surgery.recipe import read_recipe

    with tempfile.TemporaryDirectory(prefix="zoo-surgery-") as name:
        folder = Path(name)
        first.save(folder / "first")
        places = {}
        for word, other in zip(OTHERS, others, strict=False):
            other.save(folder / word)
            places[word] = str(folder / word)
        text = json.dumps(dict(step))
        if tokenizer is not None:
            (folder / "tokenizer").mkdir()
            (folder / "tokenizer" / "tokenizer.json").write_text(tokenizer)
            text = text.replace(TOKENIZER_PLACE, str(folder / "tokenizer"))
        if ADAPTER_PLACE in text:
            write_adapter(first, folder / "adapter", seed)
            text = text.replace(ADAPTER_PLACE, str(folder / "adapter"))
        recipe = {
            "surgery": 1,
            "source": {"model": str(folder / "first")},
            "target": {"dir": str(folder / "result"), "seed": seed, "link": False},
            "allow": "nfp",
            "steps": [json.loads(text)],
            **({"models": places} if places else {}),
        }
        path = folder / "recipe.yaml"
        path.write_text(json.dumps(recipe))
        composition = compose(read_recipe(path))
        try:
            run(make_plan(composition, workers=1), NullRecorder())
        finally:
            composition.close()
        if not (folder / "result" / "tokenizer.json").is_file():
            (folder / "result" / "tokenizer.json").write_text(tokenizer or first.tokenizer)
        return Snapshot.load(folder / "result")


def write_adapter(snapshot: Snapshot, folder: Path, seed: int, rank: int = 4, strength: float = 0.3) -> None:
    """An adapter in peft's layout whose product is random, of `strength` times the norm of each q and v matrix."""
    import torch
    from safetensors.torch import save_file

    generator = seeded(seed)
    found: dict[str, torch.Tensor] = {}
    for name in sorted(snapshot.tensors):
        if not name.endswith(("self_attn.q_proj.weight", "self_attn.v_proj.weight")):
            continue
        weight = snapshot.tensors[name]
        a = torch.randn(rank, weight.shape[1], generator=generator)
        b = torch.randn(weight.shape[0], rank, generator=generator)
        factor = strength * weight.norm() / (b @ a).norm()
        stem = "base_model.model." + name.removesuffix(".weight")
        found[f"{stem}.lora_A.weight"] = a.contiguous()
        found[f"{stem}.lora_B.weight"] = (b * factor).contiguous()
    folder.mkdir()
    save_file(found, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": ["q_proj", "v_proj"],
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))


def operated_lineage(first: Lineage, *others: Lineage, step: Mapping[str, Any], **_: Any) -> Lineage:
    """What the result of a step descends from."""
    ((operator, parameters),) = step.items()
    if operator == "grow.depth":
        return first.arranged(depth_order(len(first.blocks), parameters))
    if operator == "prune.depth":
        dropped = set(parameters["drop"])
        return first.arranged([i for i in range(len(first.blocks)) if i not in dropped])
    if operator == "merge" and parameters["method"] == "passthrough":
        return _sliced(first, others, parameters["slices"])
    if operator == "merge":
        for other in others:
            first = first.mixed_with(other)
    return first


def depth_order(n: int, parameters: Mapping[str, Any]) -> list[int]:
    """Source layer of every layer after `grow.depth`."""
    op = parameters["op"]
    if op == "order":
        return list(parameters["order"])
    if op == "solar":
        cut = int(parameters["cut"])
        return [*range(n - cut), *range(cut, n)]
    if op == "stack":
        return list(range(n)) * int(parameters.get("times", 2))
    if op == "interpose":
        return [i for i in range(n) for _ in range(int(parameters.get("times", 2)))]
    after = list(parameters["after"])
    return [i for layer in range(n) for i in [layer] * (1 + after.count(layer))]


def _sliced(first: Lineage, others: Sequence[Lineage], slices: Sequence[Mapping[str, Any]]) -> Lineage:
    known = {"source": first, **dict(zip(OTHERS, others, strict=False))}
    blocks = []
    for part in slices:
        (source,) = part["sources"]
        begin, end = source["layers"]
        blocks += list(known[source["model"]].blocks[begin:end])
    return Lineage(first.start, first.embed, tuple(blocks))
