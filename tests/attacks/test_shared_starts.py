"""Independent models that begin alike: fixed patterns, tied projections, tables drawn first from one seed, and numbers
that anybody computes.

None of them descends from another; what they have in common was there before anything was learned.

Shapes: N = units, D = residual width, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from forensics.tiny_models import Sizes, Tensors, generator, llama, side, words
from scipy.linalg import hadamard
from torch import Tensor

from pedigree.forensics.comparison.measure import measure
from pedigree.forensics.comparison.verdict import Judgment, judge
from pedigree.forensics.sides.side import Side

SIZES = Sizes()
TIED = Sizes(d=64, kv_heads=4, head_dim=16, inner=160)
MLP = ("gate", "up", "down")
TABLES = ("model.embed_tokens.weight", "lm_head.weight")


def answer(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Judgment:
    left, right = (side(model, SIZES.config(), tokens=words(SIZES.vocab)) for model in (a, b))
    return judge(left, right, measure(left, right, whole_bits=True))


def learned(shape: torch.Size, seed: int, rank: int = 4, size: float = 0.1) -> Tensor:
    """A change of few directions, stronger than anything drawn, as training makes it."""
    g = generator(seed)
    return size * torch.randn(shape[0], rank, generator=g) @ torch.randn(rank, shape[1], generator=g)


def begun_as(pattern: Tensor, seed: int) -> Tensors:
    """A model of its own whose feed-forward matrices all began as one pattern."""
    model = llama(seed, SIZES)
    for layer in range(SIZES.layers):
        for number, name in enumerate(MLP):
            key = f"model.layers.{layer}.mlp.{name}_proj.weight"
            start_ND = pattern if name != "down" else pattern.T
            drawn = torch.randn(start_ND.shape, generator=generator(1000 * seed + 10 * layer + number))
            change = learned(start_ND.shape, 100 * seed + 10 * layer + number, size=0.05)
            model[key] = start_ND + 0.02 * drawn + change
    return model


PATTERNS = {
    "identity": torch.eye(SIZES.inner, SIZES.d),
    "hadamard": torch.tensor(hadamard(SIZES.inner)[:, : SIZES.d] / 8.0, dtype=torch.float32),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_strangers_whose_matrices_begin_as_one_fixed_pattern(name: str) -> None:
    judgment = answer(begun_as(PATTERNS[name], 1), begun_as(PATTERNS[name], 2))
    assert judgment.verdict == "unrelated"
    assert judgment.components["mlp"].verdict == "unrelated"


def test_a_child_of_a_model_that_began_as_a_fixed_pattern_is_found() -> None:
    parent = begun_as(PATTERNS["identity"], 1)
    drift = {name: 0.02 * torch.randn(t.shape, generator=generator(5)) for name, t in parent.items()}
    assert answer(parent, {name: t + drift[name] for name, t in parent.items()}).verdict == "related"


@pytest.mark.parametrize("tie", [("k_proj", "q_proj"), ("up_proj", "gate_proj")], ids="-is-".join)
def test_strangers_with_projections_that_are_tied(tie: tuple[str, str]) -> None:
    """Queries that are keys, an up projection that is the gate: a match on one is no news about the other."""

    def tied(seed: int) -> Tensors:
        model = llama(seed, TIED)
        return {key: model[key.replace(*tie)].clone() for key in model}

    left, right = side(tied(1), TIED.config()), side(tied(2), TIED.config())
    judgment = judge(left, right, measure(left, right, whole_bits=True))
    assert judgment.verdict == "unrelated", judgment.reasons


def sinusoids(rows: int, width: int) -> Tensor:
    angle = torch.arange(rows)[:, None] / 10_000 ** (torch.arange(0, width, 2) / width)
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)


COMPUTED = {
    "sinusoidal positions": sinusoids(128, 64),
    "causal mask": torch.tril(torch.ones(64, 64)),
    "mask of infinities": torch.triu(torch.full((64, 64), -1e9), diagonal=1),
    "rotary frequencies": 1.0 / 10_000 ** (torch.arange(64) / 64),
    "slopes of distance": torch.arange(128.0)[None] * 2.0 ** -torch.arange(1, 9.0)[:, None],
    "identity": torch.eye(32),
    "hadamard": PATTERNS["hadamard"],
    "window": torch.hann_window(400),
}


def unheard_of(seed: int, **more: Tensor) -> Side:
    """A model whose layers nobody recognizes."""
    g = generator(seed)
    return side({f"stage{i}.mixer": torch.randn(16, 16, 3, 3, generator=g) for i in range(3)} | more, {})


@pytest.mark.parametrize("name", COMPUTED)
def test_buffers_that_anybody_computes_in_models_that_cannot_be_read(name: str) -> None:
    left, right = unheard_of(1, table=COMPUTED[name]), unheard_of(2, other=COMPUTED[name])
    judgment = judge(left, right, measure(left, right, whole_bits=True))
    assert judgment.verdict == "not-testable"


def trained(seed: int, sparse: bool) -> Tensor:
    """Numbers drawn at random, and directions that were learned on top of them."""
    g = generator(seed)
    tensor = torch.randn(64, 64, generator=g)
    tensor += 2.0 * torch.randn(64, 2, generator=g) @ torch.randn(2, 64, generator=g)
    tensor[tensor < 1.3 * sparse] = 0.0
    return tensor


@pytest.mark.parametrize("sparse", [False, True])
def test_tensors_that_were_really_copied_are_named_beside_them(sparse: bool) -> None:
    buffers = {"mask": COMPUTED["causal mask"], "tower.0": trained(9, sparse), "tower.1": trained(10, sparse)}
    left, right = unheard_of(1, **buffers), unheard_of(2, **buffers)
    judgment = judge(left, right, measure(left, right, whole_bits=True))
    assert judgment.verdict == "partly-related"
    assert judgment.components["tensors"].note == "equal tensors: tower.0, tower.1"


@pytest.mark.parametrize("names", [("tower.0",), ("tower.0", "tower.1")], ids=["one of them", "drawn from one seed"])
def test_a_lone_tensor_and_tensors_that_nobody_trained_are_open(names: tuple[str, ...]) -> None:
    if len(names) == 1:
        equal = {names[0]: trained(9, sparse=False)}
    else:
        equal = {name: torch.randn(64, 64, generator=generator(k)) for k, name in enumerate(names)}
    left, right = unheard_of(1, **equal), unheard_of(2, **equal)
    assert judge(left, right, measure(left, right, whole_bits=True)).verdict == "inconclusive"


def never_trained(seed: int, body: Mapping[str, Tensor]) -> Tensors:
    """A file as it was drawn: gains of one, tables of its own, and a body of which some was not drawn for it."""
    drawn = llama(seed, SIZES)
    return {name: torch.ones_like(t) if t.ndim == 1 else body.get(name, t) for name, t in drawn.items()}


def by_formula(name: str, t: Tensor) -> Tensor:
    """Numbers of a matrix of the body that anybody computes; every layer has the same."""
    kind = sum(map(ord, name.rpartition("layers.")[2].partition(".")[2]))
    rows_N1, columns_D = torch.arange(len(t))[:, None] + 0.5, torch.arange(t.shape[1]) + 1
    return 0.05 * torch.cos(torch.pi * rows_N1 * columns_D / (max(t.shape) + kind % 7))


BODIES = {
    "one formula": lambda name, t: by_formula(name, t),
    "identity": lambda name, t: 0.5 * torch.eye(*t.shape),
    "feed-forward of one seed": lambda name, t: t if "mlp" in name else None,
}


@pytest.mark.parametrize("name", BODIES)
def test_bodies_alike_in_files_that_were_never_trained(name: str) -> None:
    """Nothing was learned, and what is equal anybody could have drawn or computed: no relation is claimed."""
    made = {key: BODIES[name](key, t) for key, t in llama(7, SIZES).items() if "layers" in key and t.ndim == 2}
    body = {key: t for key, t in made.items() if t is not None}
    judgment = answer(never_trained(1, body), never_trained(2, body))
    assert judgment.verdict in ("inconclusive", "unrelated")
    assert "related" not in {part.verdict for part in judgment.components.values()}


def with_tables(seed: int, tables: Mapping[str, Tensor]) -> Tensors:
    return {**llama(seed, SIZES), **tables, "model.norm.weight": torch.ones(SIZES.d)}


def drawn_first(seed: int) -> dict[str, Tensor]:
    """Tables drawn from one seed, and what one model made of them: 0.03 beside 0.1, in a few directions."""
    start = {name: llama(77, SIZES)[name] for name in TABLES}
    return {name: t + learned(t.shape, seed, size=0.03) for name, t in start.items()}


def test_tables_drawn_first_from_one_seed() -> None:
    """The same seed in two shapes: tables begin alike, the bodies do not. Nothing learned was handed down."""
    judgment = answer(with_tables(1, drawn_first(3)), with_tables(2, drawn_first(4)))
    assert judgment.verdict == "inconclusive"
    assert {judgment.components[name].verdict for name in ("embed", "head")} == {"inconclusive"}
    assert "cannot be told" in judgment.reasons[0]


def test_tables_drawn_first_from_one_seed_of_which_one_was_trained_much_longer() -> None:
    """Both learned what the language has, one of them six times as much: the difference takes nothing away from the
    other, as if it had gone on from there."""
    start = {name: llama(77, SIZES)[name] for name in TABLES}
    short, long = (
        {name: t + learned(t.shape, 5, size=size) + learned(t.shape, seed, size=size / 3) for name, t in start.items()}
        for seed, size in ((3, 0.02), (4, 0.04))
    )
    for one, other in ((short, long), (long, short)):
        judgment = answer(with_tables(1, one), with_tables(2, other))
        assert judgment.verdict == "inconclusive"
        assert {judgment.components[name].verdict for name in ("embed", "head")} <= {"inconclusive", "unrelated"}


def test_tables_that_were_taken_over_and_trained_are_listed() -> None:
    tables = drawn_first(3)
    drift = {name: t + 0.02 * torch.randn(t.shape, generator=generator(8)) for name, t in tables.items()}
    for changed in (tables, drift):
        judgment = answer(with_tables(1, tables), with_tables(2, changed))
        assert judgment.verdict == "partly-related"
        assert {k for k, c in judgment.components.items() if c.verdict == "related"} == {"embed", "head"}


def begun_together(seed: int, size: float, *, rank: int = 3, gain: float = 0.0) -> Tensors:
    """A training of the start that seed 1 draws, whose gains moved by `gain`; of rank zero, one whose steps have no
    strong directions."""
    out: Tensors = {}
    for number, (name, start) in enumerate(llama(1, TIED).items()):
        g = generator(1000 * seed + number)
        if start.ndim == 1:
            out[name] = 1.0 + gain * torch.randn(start.shape, generator=g)
            continue
        change = torch.randn(start.shape, generator=g)
        if rank:
            change = torch.randn(start.shape[0], rank, generator=g) @ torch.randn(rank, start.shape[1], generator=g)
        out[name] = start + change * (size * float(start.norm()) / float(change.norm()))
    return out


def twins(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Judgment:
    left, right = (side(model, TIED.config(), tokens=words(TIED.vocab)) for model in (a, b))
    return judge(left, right, measure(left, right, whole_bits=True))


@pytest.mark.parametrize(("short", "rank"), [(0.04, 3), (0.5, 0)], ids=["one trained longer", "by orthogonal steps"])
def test_twins_whose_gains_never_moved(short: float, rank: int) -> None:
    """Frozen, or trained in bfloat16, which has no number near enough to one: gains of one are no sign of a model that
    was never trained."""
    judgment = twins(begun_together(2, short, rank=rank), begun_together(3, 0.5, rank=rank))
    assert judgment.verdict in ("shared-initialization", "inconclusive"), judgment.reasons


def test_a_training_of_a_start_that_is_at_hand_has_nothing_of_it_that_was_learned() -> None:
    judgment = twins(begun_together(2, 0.0), begun_together(3, 0.5, gain=0.02))
    assert judgment.verdict == "inconclusive"
    assert judgment.open_origin


def test_twins_that_both_began_with_the_table_of_a_third() -> None:
    """Rows that neither text had still hold what the third learned: the table was handed down, and nothing else."""
    table = begun_together(9, 1.0)["model.embed_tokens.weight"]
    unseen = torch.rand(TIED.vocab, generator=generator(5)) < 0.5
    table[unseen] = llama(1, TIED)["model.embed_tokens.weight"][unseen]
    models = []
    for seed in (2, 3):
        model = begun_together(seed, 0.1, gain=0.01)
        # Gains learn much alike from one language, so that the body leaves it open.
        for name in model:
            if model[name].ndim == 1:
                model[name] += 0.03 * torch.randn(TIED.d, generator=generator(len(name)))
        seen_V1 = torch.rand(TIED.vocab, 1, generator=generator(seed)) < 0.3
        model["model.embed_tokens.weight"] = table + seen_V1 * learned(table.shape, seed)
        models.append(model)
    judgment = twins(models[0], models[1])
    assert judgment.verdict != "related", judgment.reasons
    assert "related" not in {judgment.components[name].verdict for name in ("attn", "mlp")}
