"""Hand-made comparison records: one for each verdict, and one that is as large as records get."""

from __future__ import annotations

import math
from typing import Any

from pedigree.records.comparison import (
    Comparison,
    Component,
    Controls,
    Decoy,
    DepthRecord,
    Direction,
    ErrorRate,
    EvidenceMap,
    Gauge,
    Illustration,
    InputRecord,
    Inputs,
    LayerMatch,
    Producer,
    ReadRecord,
    Result,
    TestRecord,
    Transformation,
    Verdict,
)

CREATED = "2026-03-01T12:00:00Z"
NOT_CHECKED = ["distillation (leaves no trace in weights)", "training data", "tokenizer merges"]


def _wave(i: int, j: int) -> float:
    """A number between -2 and 2 that looks like noise and is the same everywhere."""
    return 2.0 * math.sin(12.9898 * i + 78.233 * j + 0.5 * i * j)


def evidence_map(rows: int, layer_map: list[int | None], strength: float = 110.0) -> EvidenceMap:
    """Noise off the layer map, `strength` on it."""
    z = [
        [round(strength + 9 * _wave(i, j) if source == i else _wave(i, j), 3) for j, source in enumerate(layer_map)]
        for i in range(rows)
    ]
    return EvidenceMap(rows=list(range(rows)), columns=list(range(len(layer_map))), z=z)


def inputs(a: str = "models/parent", b: str = "models/child") -> Inputs:
    """Two small llama-shaped inputs."""
    return Inputs(
        a=InputRecord(
            location=a, format="safetensors", digest="sha256:" + "a1" * 32,
            header_digest="sha256:" + "0a" * 32, read_digest="blake3:" + "17" * 32,
            bytes=3_100_000_000, tensors=291, architecture="llama", parameters=1_550_000_000,
        ),
        b=InputRecord(
            location=b, format="safetensors", digest="sha256:" + "b2" * 32,
            header_digest="sha256:" + "0b" * 32, read_digest="blake3:" + "28" * 32,
            bytes=3_900_000_000, tensors=345, architecture="llama", parameters=1_950_000_000,
            notes=["tokenizer.json is absent; tokens were matched by their rows"],
        ),
    )  # fmt: skip


def tests_made(log10_p: float | None) -> list[TestRecord]:
    """Three tests that could be made and one that could not."""
    return [
        TestRecord(
            name="gate-match", null="matched units agree no better on held-out projections than shuffled ones",
            assumes="a common basis, fitted on other tensors", statistic=118.4, n=3072, log10_p=log10_p,
        ),
        TestRecord(
            name="sign-flip", null="blocks of B are symmetric in sign given A",
            assumes="symmetric initialization", statistic=36.2, n=18944, log10_p=log10_p and log10_p / 3,
        ),
        TestRecord(
            name="fixed-points", null="the match of units is a uniformly random permutation",
            assumes="exchangeable units", statistic=2304, n=2304, log10_p=log10_p and log10_p / 5,
        ),
        TestRecord(
            name="expert-origins", null="experts of B are independent of the feed-forward of A",
            applicable=False, why_not="neither model has experts",
        ),
    ]  # fmt: skip


def decoys(count: int = 3) -> list[Decoy]:
    """Look-alikes that are not the parent."""
    names = ["models/twin-seed", "models/same-tokenizer", "hf://org/look-alike@main"]
    return [
        Decoy(
            location=names[i] if i < len(names) else f"models/decoy-{i}", verdict="unrelated",
            log10_p=-0.4 * (i + 1), score=1.1, strength="z 1.9 at most", architecture="llama",
        )
        for i in range(count)
    ]  # fmt: skip


def grown_child(**changes: Any) -> Comparison:
    """Related: two layers inserted, feed-forward widened, vocabulary swapped, trained further."""
    layer_map: list[int | None] = [0, 1, 2, 2, 3, 4, 5, 6, None, 7, 8, 9, 10, 11]
    found = [i for i, s in enumerate(layer_map) if s is not None]
    detail = [LayerMatch(layer=i, ffn=s, attn=s, ffn_score=0.71, attn_score=0.66) for i, s in enumerate(layer_map)]
    result = Result(
        verdict="related",
        log10_p=-1234.5,
        strength="z 118 and effect 0.71 on 13 of 14 layers",
        direction=Direction(
            verdict="a-to-b",
            log_odds=5.1,
            reasons=[
                "the copied layer 3 of B repeats layer 2 of A",
                "additive-noise asymmetry favors A in 36 of 42 matrices",
            ],
        ),
        gauge=Gauge(
            kind="orthogonal", held_out=0.97, fitted_on=["embed (31,204 shared tokens)"],
            scored_on=["mlp.up", "mlp.down", "attn.o"],
        ),
        layer_map=layer_map,
        layer_map_detail=detail,
        components={
            "embed": Component(verdict="related", score=0.41, n=31204, note="shared tokens only"),
            "attn": Component(verdict="related", score=0.66, n=5376, layers=found),
            "mlp": Component(verdict="related", score=0.71, n=18944, layers=found),
            "experts": Component(verdict="not-testable", note="neither model has experts"),
            "norm": Component(verdict="inconclusive", score=0.9, n=28, note="norm gains alone prove nothing"),
            "head": Component(verdict="unrelated", score=0.01, n=50000),
        },
        transformations=[
            Transformation(kind="layers-inserted", at=[3, 8], copied_from=[2, None]),
            Transformation.model_validate({"kind": "ffn-widened", "from": 384, "to": 512, "how": "new units"}),
            Transformation(kind="vocabulary-swapped", shared=31204, tokens_a=32000, tokens_b=50000),
            Transformation(kind="gauge-disguise", gauge="orthogonal", what="random rotation"),
            Transformation(kind="continued-training", drift=0.31),
        ],
        tests=tests_made(-1234.5),
        controls=Controls(
            decoys=decoys(), off_diagonal={"n": 155, "mean": 0.02, "sd": 1.1, "max": 3.9, "matched_min": 41.2}
        ),
        illustrations=[
            Illustration(name="correlation of standard deviations by layer", value=0.93, note="strangers reach 0.9 too")
        ],
        error_rate=ErrorRate(false_positive_upper_95=0.01, pairs=300, benchmark="zoo-v1 test split"),
        read=ReadRecord(bytes=120_000_000, of=7_000_000_000, seconds=4.2),
        depth="standard",
        depths=[
            DepthRecord(
                depth="glance", verdict="inconclusive",
                could_not_see=["permuted or rotated weights", "inserted layers"],
            ),
            DepthRecord(depth="standard", verdict="related", could_not_see=["which single units were replaced"]),
        ],
        not_checked=NOT_CHECKED,
    )  # fmt: skip
    return Comparison(
        producer=Producer(version="0.1.0"),
        created=CREATED,
        inputs=inputs(),
        options={"depth": None, "budget_bytes": None, "decoys": [d.location for d in decoys()], "allow_pickle": False},
        result=result.model_copy(update=changes),
        evidence_map=evidence_map(12, layer_map),
        warnings=["B: tokenizer.json is absent"],
    )


def simple(verdict: Verdict, **changes: Any) -> Comparison:
    """A record with `verdict` and little else."""
    fields: dict[str, Any] = {
        "verdict": verdict,
        "read": ReadRecord(bytes=9_000_000, of=600_000_000, seconds=0.8),
        "not_checked": NOT_CHECKED,
        "error_rate": ErrorRate(false_positive_upper_95=0.01, pairs=300, benchmark="zoo-v1 test split"),
    }
    return Comparison(
        producer=Producer(version="0.1.0"), created=CREATED, inputs=inputs(), result=Result(**(fields | changes))
    )


def strangers() -> Comparison:
    """Unrelated: same architecture, tokenizer and data, other seed."""
    layer_map: list[int | None] = [None] * 12
    comparison = simple(
        "unrelated",
        log10_p=-0.3,
        strength="z 2.4 at most; a relation with effect above 0.03 would have been found",
        layer_map=layer_map,
        components={key: Component(verdict="unrelated", score=0.01, n=900) for key in ("embed", "attn", "mlp", "head")},
        tests=tests_made(-0.3),
        controls=Controls(decoys=decoys(1), off_diagonal={"n": 144, "mean": 0.0, "sd": 1.0, "max": 2.9}),
        gauge=Gauge(kind="none"),
    )
    return comparison.model_copy(update={"evidence_map": evidence_map(12, layer_map)})


def twin() -> Comparison:
    """Shared initialization."""
    return simple(
        "shared-initialization",
        log10_p=-212.0,
        strength="learned directions agree 0.13, random ones 0.84",
        layer_map=list(range(12)),
        components={"attn": Component(verdict="shared-initialization", score=0.3, n=12, layers=list(range(12)))},
    )


def copy_of_everything() -> Comparison:
    """Identical after cast and resharding."""
    return simple(
        "identical",
        strength="291 of 291 tensors are equal after cast to bf16",
        layer_map=list(range(12)),
        components={key: Component(verdict="identical", n=12) for key in ("embed", "attn", "mlp", "norm", "head")},
        transformations=[
            Transformation.model_validate({"kind": "cast", "from": "F32", "to": "BF16"}),
            Transformation(kind="resharded"),
            Transformation(kind="renamed"),
        ],
        gauge=Gauge(kind="identity", held_out=1.0),
    )


def embeddings_only() -> Comparison:
    """Partly related: only the embeddings."""
    return simple(
        "partly-related",
        log10_p=-340.0,
        strength="z 61 on embeddings, 1.2 at most elsewhere",
        layer_map=[None] * 12,
        components={
            "embed": Component(verdict="identical", score=1.0, n=32000),
            "attn": Component(verdict="unrelated", score=0.0, n=900, layers=list(range(12))),
            "mlp": Component(verdict="unrelated", score=0.0, n=900, layers=list(range(12))),
        },
    )


def largest() -> Comparison:
    """A record that is long everywhere: a hundred layers, every kind, long names, twenty decoys."""
    layer_map: list[int | None] = [None if i % 7 == 3 else (i * 5) % 80 for i in range(100)]
    long_name = "hf://organization/" + "model-with-a-very-long-name-" * 5 + "@" + "0123456789abcdef" * 2
    base = grown_child()
    result = base.result.model_copy(
        update={
            "layer_map": layer_map,
            "layer_map_detail": [
                LayerMatch(layer=i, ffn=s, attn=None if i % 2 else s, attn_score=0.01) for i, s in enumerate(layer_map)
            ],
            "strength": "a long sentence about strength " * 12,
            "direction": Direction(verdict="b-to-a", log_odds=-7.2, reasons=["a reason that takes its time " * 9] * 8),
            "transformations": [
                Transformation(kind=f"unheard-of-{i}", at=list(range(40)), how="x" * 90) for i in range(40)
            ],
            "controls": Controls(decoys=decoys(20), off_diagonal={"n": 7900, "mean": 0.0, "sd": 1.0, "max": 4.0}),
            "not_checked": [f"a matter that was left out, number {i}" for i in range(40)],
            "components": {f"part-{i}": Component(verdict="related", n=i) for i in range(20)},
        }
    )
    changes = {"inputs": inputs(long_name, long_name), "result": result, "evidence_map": evidence_map(80, layer_map)}
    return base.model_copy(update=changes)


EXAMPLES: dict[str, Comparison] = {
    "related": grown_child(),
    "unrelated": strangers(),
    "shared-initialization": twin(),
    "identical": copy_of_everything(),
    "partly-related": embeddings_only(),
    "inconclusive": simple("inconclusive", strength="z 4.3 on one layer of twelve"),
    "not-testable": simple("not-testable", strength="no part has the same role in both"),
    "largest": largest(),
}
