"""From findings to a word: every question of the verdict asked with findings made by hand."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from forensics.hand_made import TWIN, WHOLE, Path, bits, found, grid, tokens
from forensics.tiny_models import Sizes, llama, side

from pedigree.forensics.comparison.findings import CLEAR_EFFECT, CLEAR_LOG10_P, CLEAR_Z, HeadScore
from pedigree.forensics.comparison.record import layer_matches, told_map
from pedigree.forensics.comparison.verdict import Judgment, judge
from pedigree.forensics.descent.survival import Survival
from pedigree.forensics.sides.contents import Contents
from pedigree.forensics.sides.gauge import Gauge
from pedigree.forensics.sides.side import Side

PLAIN: Path = [0, 1, 2, 3]
NONE: Path = [None] * 4


def model(layers: int = 4) -> Side:
    sizes = Sizes(layers=layers)
    return side(llama(0, sizes), sizes.config())


FOUR, SIX = model(4), model(6)


@dataclass(frozen=True)
class Case:
    """Findings and the word they must lead to."""

    word: str
    path: Path
    ffn: dict[str, Any] | None = field(default_factory=dict)
    vo: dict[str, Any] | None = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)


SILENT: dict[str, Any] = {"on": ()}

CASES: dict[str, Case] = {
    "every layer agrees": Case("related", PLAIN),
    "every layer agrees, attention was not read": Case("related", PLAIN, vo=None),
    "nothing agrees": Case("unrelated", NONE, SILENT, SILENT),
    "nothing agrees and only embeddings keep their coordinates": Case(
        "partly-related",
        NONE,
        SILENT,
        SILENT,
        {"exact": {"embed-fixed-points": -80.0}, "tables": {"embed": 0.99, "embed-quiet": 0.98}},
    ),
    "nothing agrees and only head rows agree in a fitted frame": Case(
        "partly-related", NONE, SILENT, SILENT, {"tables": {"head": 0.97, "head-quiet": 0.9}}
    ),
    "embeddings of strangers resemble each other": Case(
        "unrelated", NONE, SILENT, SILENT, {"tables": {"embed": 0.63, "head": 0.6}}
    ),
    # Order and signs of units can be chosen to suit another model (tests/attacks), so they sharpen and never decide.
    "units stand where they stood, matching has nothing left": Case(
        "inconclusive", PLAIN, SILENT, SILENT, {"exact": {"body-signs": -60.0}}
    ),
    "an exact test speaks, not loudly enough": Case(
        "unrelated", NONE, SILENT, SILENT, {"exact": {"body-signs": CLEAR_LOG10_P + 1}}
    ),
    "an exact test speaks, but pays for the layer map": Case(
        "unrelated", NONE, SILENT, SILENT, {"exact": {"body-signs": -20.0}, "penalty_log10": 9.0}
    ),
    "an exact test could not be made": Case("unrelated", NONE, SILENT, SILENT, {"exact": {"body-signs": None}}),
    "what was learned died in both": Case("shared-initialization", PLAIN, more={"survival": (TWIN, TWIN)}),
    "what was learned lives on by the way that was followed best": Case(
        "related", PLAIN, more={"survival": (WHOLE, Survival(0.85, 0.95, 0.1, 12, own=-0.3, alike=0.95, excess=0.3))}
    ),
    "a merge lives on evenly and so faintly that a start may be all of it": Case(
        "inconclusive", PLAIN, more={"survival": (Survival(0.2, 0.21, 0.05, 12), Survival(0.1, 0.25, 0.6, 12))}
    ),
    "survival could not be followed": Case("inconclusive", PLAIN, more={"survival": (None, None)}),
    "half of the layers are foreign": Case("partly-related", [0, 1, None, None]),
    "one of four layers is foreign": Case("related", [0, 1, None, 3]),
    "only the feed-forward layers agree": Case(
        "partly-related", PLAIN, {}, SILENT, {"heads": {"vo": HeadScore(0.7, 0.01, 16)}}
    ),
    "of attention nothing is known, and tables are foreign": Case(
        "partly-related",
        PLAIN,
        {},
        SILENT,
        {"tables": {"embed": 0.1, "head": 0.1}, "heads": {"vo": HeadScore(0.7, 0.01, 4)}},
    ),
    "of attention nothing is known, and a table is not": Case(
        "related",
        PLAIN,
        {},
        SILENT,
        {"tables": {"embed": 0.99, "embed-quiet": 0.98, "head": 0.1}, "heads": {"vo": HeadScore(0.7, 0.01, 4)}},
    ),
    "only attention agrees": Case("partly-related", PLAIN, SILENT, {}),
    "only attention agrees, and feed-forward units have their places": Case(
        "related", PLAIN, SILENT, {}, {"exact": {"body-fixed-points": -60.0}}
    ),
    "heads agree though dimensions were mixed": Case(
        "related", PLAIN, {}, SILENT, {"heads": {"vo": HeadScore(12.0, 0.8, 16)}}
    ),
    "too few heads to tell": Case("related", PLAIN, {}, SILENT, {"heads": {"vo": HeadScore(1.5, 0.1, 4)}}),
    "one pair of layers is loud and small": Case(
        "inconclusive", NONE, {"z": CLEAR_Z + 1, "effect": 0.6 * CLEAR_EFFECT}, SILENT, {"at": (0, 0)}
    ),
    "one pair of layers is loud and tiny": Case(
        "unrelated", NONE, {"z": CLEAR_Z + 1, "effect": 0.3 * CLEAR_EFFECT}, SILENT, {"at": (0, 0)}
    ),
    "every number is equal": Case("identical", PLAIN, more={"bits": bits(equal=["embed"], whole=True)}),
    "every number that was looked at is equal": Case(
        "related", PLAIN, more={"bits": bits(equal=["embed"], whole=False)}
    ),
    "equal but for one tensor": Case(
        "related", PLAIN, more={"bits": bits(equal=["embed"], different=["head"], whole=True)}
    ),
    "equal after a cast": Case("related", PLAIN, more={"bits": bits(equal_after_cast=["embed"], whole=True)}),
    "equal, and one has more": Case(
        "related", PLAIN, more={"bits": bits(equal=["embed"], unpaired=["layers.0.attn.q.bias"], whole=True)}
    ),
    "equal, and one has less": Case(
        "related", PLAIN, more={"bits": bits(equal=["embed"], missing=["layers.0.attn.q.bias"], whole=True)}
    ),
    "equal layers in another order": Case("related", [1, 0, 2, 3], more={"bits": bits(equal=["embed"], whole=True)}),
}


def ask(case: Case, a: Side = FOUR, b: Side = FOUR) -> Judgment:
    more = dict(case.more)
    grids = {}
    at = more.pop("at", None)
    for kind, options in (("ffn", case.ffn), ("vo", case.vo)):
        if options is None:
            continue
        made = grid(case.path, a.n_layers, **options)
        if at is not None and kind == "ffn":
            made.z_IJ[at], made.effect_IJ[at] = options["z"], options["effect"]
        grids[kind] = made
    return judge(a, b, found(case.path, grids, **more))  # type: ignore[arg-type]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_findings_lead_to_their_word(case: Case) -> None:
    assert ask(case).verdict == case.word


def test_two_that_share_numbers_and_learned_too_little_are_not_accused() -> None:
    """What either learned is far below the random start: a shared start and descent look the same."""
    faint = Survival(1.0, 1.0, 0.01, 12, own=-0.05, alike=0.99, excess=0.001)
    answer = ask(Case("", PLAIN, more={"survival": (faint, faint)}))
    assert answer.verdict == "inconclusive"
    assert answer.open_origin
    assert "too little was learned" in answer.reasons[0]
    assert told_map(found(PLAIN, {}), answer) == PLAIN, "which layers agree is known, whatever made them agree"
    learned = Survival(0.5, 0.6, 0.3, 12, own=-0.5, alike=0.6, excess=0.3)
    answer = ask(Case("", PLAIN, more={"survival": (learned, learned)}))
    assert answer.verdict == "inconclusive"
    assert "neither descent nor a shared start is clear" in answer.reasons[0]


@pytest.mark.parametrize("word", ["inconclusive", "unrelated"])
def test_layers_that_chance_or_a_chosen_frame_laid_side_by_side_are_no_finding(word: Any) -> None:
    assert told_map(found(PLAIN, {}), Judgment(word, {}, ["units agree, but no more than a chosen frame can"])) == NONE


def test_a_part_of_which_too_little_was_read_is_left_open_and_not_said_to_be_new() -> None:
    few, whole = grid(PLAIN, 4, on=(2, 3)), grid(PLAIN, 4)
    for coverage, open_layers in ((1.0, []), (0.02, [0, 1])):
        units = replace(few, coverage_J=np.full(4, coverage))
        rows = layer_matches(FOUR, found(PLAIN, {"ffn": units, "vo": whole}))
        assert [row.layer for row in rows if row.ffn_score is None] == open_layers
        assert [row.attn for row in rows] == PLAIN


def test_a_whole_model_inside_a_larger_one_is_related_though_most_layers_are_new() -> None:
    path: Path = [0, None, 1, None, 2, 3]
    assert ask(Case("related", path), FOUR, SIX).verdict == "related"


def test_a_score_that_is_loud_but_small_does_not_count_under_a_fitted_frame() -> None:
    options = {"z": 20.0, "effect": 0.06}
    plain = ask(Case("related", PLAIN, options, SILENT, {"heads": {"vo": HeadScore(12.0, 0.8, 16)}}))
    turned = Gauge("orthogonal", None, "embedding rows of shared tokens")
    fitted = ask(Case("", PLAIN, options, SILENT, {"gauge": turned, "survival": (None, None)}))
    assert plain.verdict == "related"
    assert fitted.verdict != "related"


def test_components_name_the_layers_that_agree() -> None:
    answer = ask(Case("partly-related", [0, 1, None, None]))
    assert answer.components["mlp"].verdict == "related"
    assert answer.components["mlp"].layers == [0, 1]
    assert answer.components["attn"].layers == [0, 1]


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"survival": (TWIN, TWIN)}, "shared-initialization"),
        ({"survival": (None, None)}, "inconclusive"),
        ({"exact": {"units-read": -2.0}}, "inconclusive"),
        ({"framed": True}, "inconclusive"),
    ],
    ids=["one start", "descent or one start", "within reach of a frame", "in a frame of its own"],
)
def test_no_part_is_called_related_where_the_models_are_not(more: dict[str, Any], word: str) -> None:
    answer = ask(Case(word, PLAIN, more=more))
    assert answer.verdict == word
    assert answer.components["mlp"].verdict == answer.components["attn"].verdict == word
    assert answer.components["mlp"].layers == [0, 1, 2, 3]


def test_a_relation_by_embeddings_alone_lists_them_and_not_the_body() -> None:
    answer = ask(CASES["nothing agrees and only embeddings keep their coordinates"])
    assert answer.components["embed"].verdict == "related"
    assert answer.components["mlp"].verdict == "unrelated"
    assert answer.components["attn"].verdict == "unrelated"


def test_norm_gains_are_never_evidence() -> None:
    for case in CASES.values():
        components = ask(case).components
        assert components["norm"].verdict in ("not-testable", "identical")


def test_tables_without_shared_tokens_are_not_testable() -> None:
    answer = ask(Case("", NONE, SILENT, SILENT, {"tokens": tokens(10), "tables": {"embed": 0.2}}))
    assert answer.components["embed"].verdict == "not-testable"


def test_a_component_that_was_sampled_thinly_is_not_called_foreign() -> None:
    from pedigree.forensics.units.evidence import Grid

    thin = grid(PLAIN, 4, on=())
    sampled = found(PLAIN, {"ffn": Grid(thin.z_IJ, thin.effect_IJ, np.full(4, 0.1)), "vo": grid(PLAIN, 4)})
    assert judge(FOUR, FOUR, sampled).components["mlp"].verdict == "inconclusive"


@pytest.mark.parametrize(
    ("contents", "handed_down", "word"),
    [
        (None, (), "not-testable"),
        (Contents((), 5, 5), (), "not-testable"),
        (Contents(("x", "y"), 5, 5, telling=("x", "y")), ("x", "y"), "partly-related"),
        (Contents(("x", "y"), 5, 5, telling=("x", "y")), (), "inconclusive"),
        (Contents(("x",), 5, 5), (), "not-testable"),
        (Contents(("x", "y"), 2, 2), (), "identical"),
    ],
)
def test_without_layers_only_equal_contents_can_speak(
    contents: Contents | None, handed_down: tuple[str, ...], word: str
) -> None:
    answer = judge(FOUR, FOUR, found(NONE, {}, contents=contents, handed_down=handed_down))
    assert answer.verdict == word
    if word == "partly-related":
        assert any("x" in component.note for component in answer.components.values())
