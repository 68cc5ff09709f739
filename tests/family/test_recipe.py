"""Recipes: what they mean at each size, and everything that can be wrong with them told at its place."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.family.recipe_examples import GOOD, problems, read

from pedigree.errors import PedigreeError, ProblemsFound
from pedigree.family.plan import PlanOptions, plan_recipe
from pedigree.family.recipe import read_recipe
from pedigree.family.sections import SIZES, TokenizerKeys, TokenizerKind
from pedigree.model.members import member, pico


def test_a_recipe_at_real_size_is_what_it_says(tmp_path: Path) -> None:
    family = read(GOOD, tmp_path).family("real")
    base, long = family.steps["base"], family.steps["long"]
    assert list(family.steps) == ["base", "long"]
    assert base.model == member("pangu-pro-moe-72b")
    assert base.training.tokens == 13_000_000_000_000
    assert base.training.tokens_per_step == 4096 * 1024
    assert base.training.optimizer.lr == 3e-4
    assert (base.training.name, base.training.seed) == ("base", 5)
    assert [(source.kind, source.weight) for source in base.training.sources] == [
        ("python-stdlib", 3),
        ("arithmetic", 1),
    ]
    assert family.tokenizers["own"].vocabulary == 153376
    assert (long.parents, long.tokenizer, long.corpus) == ({"from": "base"}, "own", "both")
    assert long.model == base.model.replace(rope={"theta": 3.2e7})


def test_a_recipe_at_pico_size_shrinks_its_members_and_takes_over_the_vocabulary(tmp_path: Path) -> None:
    recipe = read(GOOD, tmp_path)
    assert recipe.size == "pico"
    base = recipe.family().steps["base"]
    assert base.model == pico(member("pangu-pro-moe-72b"), 96, vocab_size=1024)
    assert base.training.optimizer.lr == 3e-3
    assert base.training.optimizer.betas == (0.9, 0.95)
    assert recipe.family().steps["long"].model.rope != base.model.rope


def test_changes_beside_a_member_reach_the_pico_model_through_the_dial(tmp_path: Path) -> None:
    text = GOOD.replace("{member: pangu-pro-moe-72b}", "{member: pangu-pro-moe-72b, n_layers: 96, tied: true}")
    text = text.replace("{width: 96}", "{width: 64, n_positions: 512}")
    real, small = (read(text, tmp_path).family(size).steps["base"].model for size in ("real", "pico"))
    assert (real.n_layers, real.tied) == (96, True)
    assert (small.n_layers, small.tied, small.n_positions, small.d_model) == (6, True, 512, 64)


EXPLICIT = """\
recipe: 1
family: example
corpora: {code: {kind: python-stdlib}}
tokenizers: {own: {kind: byte-level, corpus: code, vocabulary: 300}}
models:
  own:
    kind: train
    model:
      vocab_size: 512
      d_model: 64
      n_layers: 2
      n_positions: 128
      attention: {kind: gqa, n_heads: 4, n_kv_heads: 2, head_dim: 16}
      feed_forward: {d_inner: 160}
      rope: {}
    tokenizer: own
    corpus: code
    training: {tokens: 10_000}
    at: {real: {model: {n_layers: 20}}}
"""


def test_explicit_fields_mean_themselves_at_both_sizes(tmp_path: Path) -> None:
    recipe = read(EXPLICIT, tmp_path)
    small, real = (recipe.family(size).steps["own"].model for size in ("pico", "real"))
    assert (small.name, small.d_model, small.n_layers, small.vocab_size) == ("own", 64, 2, 512)
    assert real == small.replace(n_layers=20)


# -- digests ----------------------------------------------------------------------------------------------------------


def digests(text: str, folder: Path) -> dict[str, str]:
    return {name: step.digest for name, step in read(text, folder).family("real").steps.items()}


def test_kinds_and_patterns_of_tokenizers_are_those_that_can_be_trained() -> None:
    from pedigree.tokenizers import training, word_patterns

    assert get_args(TokenizerKind) == (*training.KINDS, "extend", "concatenate", "file")
    assert get_args(TokenizerKeys.model_fields["pattern"].annotation) == tuple(word_patterns.PATTERNS)
    options = training.TrainingOptions()
    keys = TokenizerKeys(kind="byte-level", corpus="x", vocabulary=options.size)
    for name in ("pattern", "specials", "min_frequency", "longest"):
        assert getattr(keys, name) == getattr(options, name)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("kind: file, vocabulary: 300", "needs the key 'path'"),
        ("kind: file, vocabulary: 300, path: t.json, corpus: code", "takes no 'corpus'"),
        ("kind: unigram, vocabulary: 300, corpus: code, path: t.json", "takes no 'path'"),
        ("kind: unigram, vocabulary: 256, corpus: code", "cannot hold 256 bytes"),
        ("kind: unigram, vocabulary: 300, corpus: code, specials: [a, a]", "given twice"),
        ("kind: extend, vocabulary: 300, corpus: code", "needs the key 'base'"),
        ("kind: concatenate, vocabulary: 300, parts: [own, own], corpus: code", "takes no 'corpus'"),
        ("kind: concatenate, vocabulary: 300, parts: [own, own]", "made from themselves"),
        ("kind: extend, vocabulary: 300, corpus: code, base: onw", "no tokenizer of this name"),
    ],
)
def test_a_tokenizer_has_what_its_kind_needs(tmp_path: Path, keys: str, words: str) -> None:
    text = EXPLICIT.replace("kind: byte-level, corpus: code, vocabulary: 300", keys)
    (only,) = problems(text, tmp_path)
    assert words in only.what


def test_words_names_and_order_do_not_change_a_digest(tmp_path: Path) -> None:
    before = digests(GOOD, tmp_path)
    text = GOOD.replace("about: Two steps of one model.", "# a comment").replace("base", "first")
    text = text.replace("kind: train\n    from", "about: longer\n    kind: train\n    from")
    after = digests(text, tmp_path)
    assert list(after.values()) == list(before.values())


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("lr: 3e-4", "lr: 4e-4", {"base", "long"}),
        ("vocabulary: 153376", "vocabulary: 153375", {"base", "long"}),
        ("max_documents: 1000", "max_documents: 1001", {"base", "long"}),
        ("seed: 5", "seed: 6", {"base", "long"}),
        ("theta: 3.2e7", "theta: 6.4e7", {"long"}),
        ("tokens: 1e9", "tokens: 2e9", {"long"}),
        ("vocabulary: 1024", "vocabulary: 1025", set()),
        ("batch_sequences: 1024", "batch_sequences: 1024\n      log_every: 7", set()),
    ],
)
def test_a_digest_changes_with_what_a_step_is_and_with_its_parents(
    tmp_path: Path, old: str, new: str, changed: set[str]
) -> None:
    before, after = digests(GOOD, tmp_path), digests(GOOD.replace(old, new), tmp_path)
    assert {name for name in before if before[name] != after[name]} == changed


# -- problems ---------------------------------------------------------------------------------------------------------

BROKEN = [
    ("recipe: 1", "recipe: 2", "r:1:9 (recipe)", "this is not known here", None),
    ("family: example", "family: ../x", "r:2:9 (family)", "this is not a name", None),
    ("seed: 5", "sede: 5", "r:4:1 (sede)", "unknown key", "did you mean 'seed'?"),
    ("seed: 5", "seed: true", "r:4:7 (seed)", "this value does not fit", None),
    (
        "python-stdlib",
        "python-stdlb",
        "r:7:16 (corpora.code.kind)",
        "this is not known here",
        "did you mean 'python-stdlib'?",
    ),
    (
        "{code: 3,",
        "{cod: 3,",
        "r:9:25 (corpora.both.mixture.cod)",
        "there is no corpus of this name",
        "did you mean 'code'?",
    ),
    ("sums: 0.5", "sums: 0", "r:9:35 (corpora.both.mixture.sums)", "this value does not fit", None),
    (
        "    corpus: both\n    voc",
        "    voc",
        "r:13:5 (tokenizers.own)",
        "a tokenizer of kind byte-level needs the key 'corpus'",
        None,
    ),
    (
        "{vocabulary: 1024}}",
        "{vocabulry: 1024}}",
        "r:16:17 (tokenizers.own.vocabulry)",
        "unknown key",
        "did you mean 'vocabulary'?",
    ),
    (
        "at: {pico: {voc",
        "at: {pcio: {voc",
        "r:16:10 (tokenizers.own.at)",
        "there is no such size",
        "did you mean 'pico'?",
    ),
    (
        "kind: train\n    model",
        "kind: trian\n    model",
        "r:20:11 (models.base.kind)",
        "there is no such kind of step",
        "did you mean 'train'?",
    ),
    ("kind: train\n    model", "model", "r:19:3 (models.base.kind)", "the key 'kind' is missing", None),
    (
        "moe-72b",
        "moe-72B",
        "r:21:21 (models.base.model.member)",
        "no member of the family has this name",
        "did you mean 'pangu-pro-moe-72b'?",
    ),
    (
        "moe-72b}",
        "moe-72b, n_layer: 4}",
        "r:21:40 (models.base.model.n_layer)",
        "unknown key",
        "did you mean 'n_layers'?",
    ),
    ("moe-72b}", "moe-72b, tied: 1}", "r:21:46 (models.base.model.tied)", "this value does not fit", None),
    (
        "moe-72b}",
        "moe-72b, experts: {top_k: 7}}",
        "r:21:57 (models.base.model.experts.top_k)",
        "These experts cannot be routed",
        "edit top_k",
    ),
    (
        "moe-72b}",
        "moe-72b, experts: {balance: {scope: all}}}",
        "r:21:67 (models.base.model.experts.balance.scope)",
        "this is not known here",
        None,
    ),
    (
        "moe-72b}",
        "moe-72b, attention: {n_heads: 41}}",
        "r:21:40 (models.base.model.attention.n_kv_heads)",
        "Query heads cannot be shared out evenly",
        "choose n_kv_heads from the divisors of n_heads",
    ),
    (
        "moe-72b}",
        "moe-72b, width: 96}",
        "r:21:40 (models.base.model.width)",
        "the width is the dial of a member at pico size",
        "name d_model, or put it under `at: {pico: {model: ...}}`",
    ),
    ("width: 96", "width: 97", "r:31:24 (models.base.model.width)", "A pico width divides badly", "try 64"),
    (
        "tokenizer: own",
        "tokenizer: onw",
        "r:22:16 (models.base.tokenizer)",
        "there is no tokenizer of this name",
        "did you mean 'own'?",
    ),
    (
        "    corpus: both\n    training",
        "    training",
        "r:19:3 (models.base.corpus)",
        "the key 'corpus' is missing",
        None,
    ),
    ("      tokens: 13e12\n", "", "r:24:5 (models.base.training.tokens)", "the key 'tokens' is missing", None),
    ("tokens: 13e12", "tokens: 13.5", "r:25:15 (models.base.training.tokens)", "this value does not fit", None),
    (
        "lr: 3e-4}",
        "lr: 3e-4, betas: [0.9]}",
        "r:28:29 (models.base.training.optimizer.betas[1])",
        "this value does not fit",
        None,
    ),
    (
        "tokens: 13e12",
        "sources: []",
        "r:25:7 (models.base.training.sources)",
        "this key is filled by the recipe",
        "remove it; `corpus` names the sources",
    ),
    (
        "sequence_length: 4096",
        "sequence_length: 262144",
        "r:26:7 (models.base.training)",
        "the sequences are longer than the context of the model",
        "lower sequence_length, or set n_positions in model",
    ),
    (
        "vocabulary: 153376",
        "vocabulary: 153377",
        "r:22:5 (models.base)",
        "the tokenizer has more entries than the model has rows",
        "set vocab_size: 153377 in model, or lower vocabulary",
    ),
    ("from: base", "from: bsae", "r:35:11 (models.long.from)", "there is no step of this name", "did you mean 'base'?"),
    ("from: base", "from: long", "r:33:3 (models.long)", "these steps descend from themselves", None),
    (
        "rope: {theta: 3.2e7}",
        "n_layers: 50",
        "r:36:13 (models.long.model.n_layers)",
        "a continued model keeps the shape of its parent",
        "growing and converting are steps of their own",
    ),
    (
        "rope: {theta: 3.2e7}",
        "member: llama-2-7b",
        "r:36:13 (models.long.model.member)",
        "a step that continues another has its model from it",
        "remove member, or remove `from`",
    ),
]


@pytest.mark.parametrize(("old", "new", "where", "what", "fix"), BROKEN, ids=[new[:40] for _, new, *_ in BROKEN])
def test_each_problem_is_told_with_its_place_and_a_way_out(
    tmp_path: Path, old: str, new: str, where: str, what: str, fix: str | None
) -> None:
    assert old in GOOD
    found = problems(GOOD.replace(old, new, 1), tmp_path)
    told = [((error.where or "").replace("recipe.yaml", "r"), error.what, error.fix) for error in found]
    assert (where, what, fix) in told


def test_all_problems_are_told_at_once_each_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = GOOD
    for old, new in {"e: 1": "e: one", "python-stdlib": "pyhton", "72b}": "72c}", "tokens: 1e9": "tokes: 1e9"}.items():
        text = text.replace(old, new, 1)
    found = problems(text, tmp_path)
    lines = [int((error.where or "").split(":")[1]) for error in found]
    assert lines == sorted(lines)
    assert len(set(map(str, found))) == len(found)
    assert {1, 7, 21, 37} <= set(lines)


def test_a_recipe_that_works_small_is_also_checked_large(tmp_path: Path) -> None:
    text = GOOD.replace("    at:\n      pico:\n", "    at:\n      real: {training: {tokens: 0}}\n      pico:\n")
    (only,) = problems(text, tmp_path)
    assert only.where == "recipe.yaml:30:33 (models.base.training.tokens)"


@pytest.mark.parametrize("text", ["[]", "5", "text", "models: 5", "models: {a: 5}", "corpora: [1]", "models: {}"])
def test_a_file_that_is_no_recipe_says_so(tmp_path: Path, text: str) -> None:
    assert problems(text, tmp_path)


def test_circles_of_several_steps_are_told(tmp_path: Path) -> None:
    text = GOOD + "  a: {kind: train, from: c, training: {tokens: 1}}\n"
    text += "  b: {kind: train, from: a, training: {tokens: 1}}\n  c: {kind: train, from: b, training: {tokens: 1}}\n"
    (only,) = problems(text, tmp_path)
    assert (only.what, only.got) == ("these steps descend from themselves", "a from c from b from a")


def test_many_problems_are_cut_and_counted(tmp_path: Path) -> None:
    with pytest.raises(ProblemsFound, match="200 problems to mend") as caught:
        read(GOOD + "".join(f"  m{i}: {{kind: x}}\n" for i in range(200)), tmp_path)
    assert (len(caught.value.problems), caught.value.total) == (50, 200)


@pytest.mark.parametrize(("key", "most"), [("n_layers: 10001", 10_000), ("mtp: {depth: 65}", 64)])
def test_counts_that_would_take_for_ever_are_refused(tmp_path: Path, key: str, most: int) -> None:
    (only,) = problems(GOOD.replace("moe-72b}", f"moe-72b, {key}}}"), tmp_path)
    assert (only.what, only.expected) == ("no model has so many", f"at most {most}")


WORDS = [
    "9007199254740991",
    "1e15",
    "10_000",
    "0",
    "3",
    "{}",
    "[]",
    "null",
    "-1",
    "1e400",
    "x",
    "'",
    "at",
    "kind",
    "member",
    "from",
    "&a",
    "*a",
    ": ",
    "\n  ",
    "base",
]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), strokes=st.integers(1, 6))
def test_a_damaged_recipe_is_planned_or_refused_in_our_words(tmp_path: Path, seed: int, strokes: int) -> None:
    chance = random.Random(seed)
    text = GOOD
    for _ in range(strokes):
        start = chance.randrange(len(text))
        stop = min(len(text), start + chance.choice([0, 1, 5, 30]))
        text = text[:start] + chance.choice(WORDS) + text[stop:]
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    try:
        recipe = read_recipe(path)
    except ProblemsFound as error:
        assert all(problem.where and problem.where.startswith("recipe.yaml:") for problem in error.problems)  # noqa: PT017
        return
    for size in SIZES:
        with contextlib.suppress(PedigreeError):
            assert plan_recipe(recipe, PlanOptions(size=size)).to_json()
