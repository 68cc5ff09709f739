"""Gemma: gains are stored less one, embeddings are scaled by the root of the width. Operators keep both in mind."""

from __future__ import annotations

from typing import Any

import pytest
from tests.surgery.surgery_models import drift, operate, quick_folder, write_model

from pedigree.surgery.exactness import Exactness

KINDS: dict[str, dict[str, Any]] = {
    "gemma": {},
    "gemma2": {"query_pre_attn_scalar": 4, "sliding_window": 64},
    "gemma3_text": {"query_pre_attn_scalar": 4, "sliding_window": 64,
                    "layer_types": ["sliding_attention", "full_attention"]},
}  # fmt: skip
STEPS: list[tuple[Any, Exactness]] = [
    ({"grow.hidden": {"to": 24}}, Exactness.FP1),
    ({"grow.hidden": {"to": 32, "op": "clone"}}, Exactness.FP1),
    ({"grow.depth": {"op": "identity", "after": [1]}}, Exactness.FP0),
    ({"grow.heads": {"to": 8}}, Exactness.FP0),
    ("launder.permute", Exactness.FP1),
    ({"launder.rescale": {"octaves": 2}}, Exactness.FP1),
]


@pytest.mark.parametrize("kind", KINDS)
def test_operators_keep_the_function_of_a_model_with_gains_less_one(kind: str) -> None:
    with quick_folder() as folder:
        source = write_model(folder / "source", kind, **KINDS[kind])
        for step, exactness in STEPS:
            _, claimed = operate(source, folder / "target", [step], force=True)
            largest, bound = drift(source, folder / "target")
            assert claimed is exactness
            assert largest <= bound, step


def test_gains_taken_for_whole_ones_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    import pedigree.surgery.nodes as nodes

    real = nodes.Scale.__init__

    def whole(self: Any, *given: Any, **named: Any) -> None:
        real(self, *given[:3], **{**named, "offset": 0.0})

    monkeypatch.setattr(nodes.Scale, "__init__", whole)
    with quick_folder() as folder:
        source = write_model(folder / "source", "gemma")
        operate(source, folder / "target", [{"grow.hidden": {"to": 24}}])
        largest, bound = drift(source, folder / "target")
    assert largest > 20 * bound
