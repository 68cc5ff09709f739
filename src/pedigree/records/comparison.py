"""The record of a comparison: what `pedigree compare A B --json` prints and every report is drawn from.

Laws
1. Fields may be added, never renamed or given another meaning; fields we do not know are kept on rewrite.
2. `Comparison.from_json(c.to_json())` prints the same bytes again.
3. Two runs with the same inputs and options differ only in `created` and `result.read.seconds`.
4. A record says what was not checked: an empty `not_checked` would be a claim, and an unlikely one.
5. The annex is no part of the result: with or without it every other byte and the digest of the contents are the same.

Orientation: layer maps answer, for each layer of B, which layer of A it comes from (None: none was found).
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, ValidationError

from pedigree.errors import MalformedFile
from pedigree.records.annex import Annex
from pedigree.records.canonical import canonical_digest
from pedigree.records.record import Record as Record

Verdict = Literal[
    "identical", "related", "partly-related", "shared-initialization", "unrelated", "inconclusive", "not-testable"
]
ComponentVerdict = Literal["related", "shared-initialization", "unrelated", "identical", "inconclusive", "not-testable"]
DirectionVerdict = Literal["a-to-b", "b-to-a", "undetermined"]
GaugeKind = Literal["identity", "signed-permutation", "orthogonal", "partial-isometry", "none"]
Depth = Literal["glance", "standard", "full"]

VERDICTS: tuple[Verdict, ...] = (
    "identical",
    "related",
    "partly-related",
    "shared-initialization",
    "unrelated",
    "inconclusive",
    "not-testable",
)
DEPTHS: tuple[Depth, ...] = ("glance", "standard", "full")


class Producer(Record):
    """The program that wrote the record."""

    name: str = "pedigree"
    version: str = "unknown"


class InputRecord(Record):
    """One side of the comparison.

    `digest` names what was compared: it is over `header_digest` (names, types, shapes, file sizes; no weight byte
    is read for it) and `read_digest` (the bytes that were really looked at). `bytes` is the size of all weight
    files. `parameters` counts numbers.
    """

    location: str
    format: str = ""
    digest: str | None = None
    header_digest: str | None = None
    read_digest: str | None = None
    bytes: int | None = None
    tensors: int | None = None
    architecture: str = ""
    inferred: bool = False
    parameters: int | None = None
    notes: list[str] = Field(default_factory=list)


class Inputs(Record):
    """The two sides."""

    a: InputRecord
    b: InputRecord


class Direction(Record):
    """Who came first, answered apart from whether they are related. `log_odds` is natural, in favor of A to B.

    `verdict` and `log_odds` are of a pair of which nothing else is known, siblings of an ancestor unseen included.
    `verdict_if_descent` and `log_odds_if_descent` answer who came first if one of the two descends from the other.
    """

    verdict: DirectionVerdict = "undetermined"
    log_odds: float | None = None
    # Records from before there was a second answer keep their digest: what it does not tell has no field.
    verdict_if_descent: DirectionVerdict = Field(default="undetermined", exclude_if=lambda word: word == "undetermined")
    log_odds_if_descent: float | None = Field(default=None, exclude_if=lambda odds: odds is None)
    reasons: list[str] = Field(default_factory=list)


class Gauge(Record):
    """The change of basis that had to be undone before the two could be compared.

    `held_out` is the agreement (0..1) on tensors that took no part in the fit.
    """

    kind: GaugeKind = "none"
    held_out: float | None = None
    fitted_on: list[str] = Field(default_factory=list)
    scored_on: list[str] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)


class LayerMatch(Record):
    """Where one layer of B comes from in A, separately for its feed-forward and attention parts."""

    layer: int
    ffn: int | None = None
    attn: int | None = None
    ffn_score: float | None = None
    attn_score: float | None = None
    note: str = ""


class Component(Record):
    """The answer for one kind of part (embed, attn, mlp, experts, norm, head), over the layers listed."""

    verdict: ComponentVerdict
    score: float | None = None
    n: int = 0
    layers: list[int] = Field(default_factory=list)
    note: str = ""


class Transformation(Record):
    """One thing that was done between the two; the fields beside `kind` depend on the kind."""

    kind: str

    def detail(self) -> dict[str, Any]:
        """The fields beside `kind`."""
        return dict(self.model_extra or {})


class TestRecord(Record):
    """One test: its null, what it assumes, what it found, or why it could not be made."""

    __test__: ClassVar[bool] = False  # a record, though its name makes pytest curious

    name: str
    version: int = 1
    null: str = ""
    assumes: str = ""
    statistic: float | None = None
    n: int = 0
    log10_p: float | None = None
    applicable: bool = True
    why_not: str | None = None


class ErrorRate(Record):
    """How often pairs known to be independent were called otherwise: upper end of the 95 % interval, 0..1."""

    false_positive_upper_95: float
    pairs: int
    benchmark: str = ""
    note: str = ""


class Rest(Record):
    """A beside what a decoy that B is kin of leaves of B: its part is taken out, matrix by matrix.

    It holds if the decoy is a model of its own and was not made from A or B, and changes no verdict. `verdict` is None
    where it could not be asked, and `why_not` says why. `taken_out` is the share of the decoy in B, `share` that of A
    in what is left, medians over matrices (over units where it was `moved`); `score` is the strongest layer pair, in
    the unit of the evidence map. `moved` tells that the decoy had to be turned, reordered or rescaled as B was.
    `error_rate` is that of rests: pairs with a third model that are known to be independent.
    """

    verdict: Verdict | None = None
    log10_p: float | None = None
    score: float | None = None
    taken_out: float | None = None
    share: float | None = None
    why_not: str | None = None
    moved: bool = Field(default=False, exclude_if=lambda moved: not moved)
    error_rate: ErrorRate | None = Field(default=None, exclude_if=lambda rate: rate is None)


class Decoy(Record):
    """The same comparison against a model that is not the suspected parent.

    `score` is the strongest layer pair, in the unit of the evidence map. Where B is kin of the decoy and not of A,
    `rest` holds A against what the decoy leaves of B.
    """

    location: str
    verdict: Verdict | None = None
    log10_p: float | None = None
    score: float | None = None
    strength: str = ""
    architecture: str = ""
    note: str = ""
    rest: Rest | None = None


class Controls(Record):
    """What the comparison says about pairs that should show nothing.

    `off_diagonal` holds summary numbers over layer pairs off the layer map (n, mean, sd, max, p99) and,
    beside them, the least standard score of a pair on it (matched_min).
    """

    decoys: list[Decoy] = Field(default_factory=list)
    off_diagonal: dict[str, Any] = Field(default_factory=dict)


class Illustration(Record):
    """A number people like to look at which carries no weight in the verdict."""

    name: str
    value: float | None = None
    note: str = ""


class OperatingPoint(Record):
    """One of the two points at which a pair is judged: whether it was flagged there, by what rule, and how often
    independent pairs are (upper end of the 95 % interval over `pairs` pairs; None where it was not measured)."""

    flagged: bool
    rule: str
    reasons: list[str] = Field(default_factory=list)
    false_positive_upper_95: float | None = None
    pairs: int | None = None


class OperatingPoints(Record):
    """`screen` says which pairs deserve a closer look, `accuse` which are said to be related, as the verdict does."""

    screen: OperatingPoint
    accuse: OperatingPoint


class ReadRecord(Record):
    """Weight bytes read from both sides, of how many, in how many seconds (the only time inside a result)."""

    bytes: int = 0
    of: int = 0
    seconds: float = 0.0


class DepthRecord(Record):
    """What one depth answered on the way, and what it could not have seen."""

    depth: Depth
    verdict: Verdict
    could_not_see: list[str] = Field(default_factory=list)


class EvidenceMap(Record):
    """Layer-by-layer evidence for pictures: `z[i][j]` is layer `rows[i]` of A against layer `columns[j]` of B.

    The unit is standard deviations above the off-diagonal null; None where a pair was not compared.
    """

    rows: list[int] = Field(default_factory=list)
    columns: list[int] = Field(default_factory=list)
    z: list[list[float | None]] = Field(default_factory=list)
    unit: str = "standard deviations above unmatched layer pairs"


class Result(Record):
    """The answer, how sure, and everything it rests on."""

    verdict: Verdict
    log10_p: float | None = None
    strength: str = ""
    direction: Direction = Field(default_factory=Direction)
    gauge: Gauge = Field(default_factory=Gauge)
    layer_map: list[int | None] = Field(default_factory=list)
    layer_map_detail: list[LayerMatch] = Field(default_factory=list)
    components: dict[str, Component] = Field(default_factory=dict)
    transformations: list[Transformation] = Field(default_factory=list)
    tests: list[TestRecord] = Field(default_factory=list)
    controls: Controls = Field(default_factory=Controls)
    illustrations: list[Illustration] = Field(default_factory=list)
    error_rate: ErrorRate | None = None
    # A record from before there were any keeps its digest: what is not there has no field.
    operating_points: OperatingPoints | None = Field(default=None, exclude_if=lambda points: points is None)
    read: ReadRecord = Field(default_factory=ReadRecord)
    depth: Depth = "standard"
    depths: list[DepthRecord] = Field(default_factory=list)
    not_checked: list[str] = Field(default_factory=list)


class Comparison(Record):
    """One comparison of two sets of weights. `created` is UTC, ISO 8601."""

    schema_name: Literal["pedigree/comparison"] = Field(default="pedigree/comparison", alias="schema")
    version: Literal[1] = 1
    producer: Producer = Field(default_factory=Producer)
    created: str | None = None
    inputs: Inputs
    options: dict[str, Any] = Field(default_factory=dict)
    result: Result
    evidence_map: EvidenceMap | None = None
    warnings: list[str] = Field(default_factory=list)
    annex: Annex | None = None

    def to_dict(self) -> dict[str, Any]:
        """As every record; without an annex there is no field of that name."""
        plain = super().to_dict()
        if self.annex is None:
            plain.pop("annex", None)
        return plain

    def content_digest(self) -> str:
        """`sha256:<hex>` over everything but the time fields and the annex: equal for two runs that saw the same."""
        plain = self.to_dict()
        plain.pop("created", None)
        plain.pop("annex", None)
        plain["result"]["read"].pop("seconds", None)
        return canonical_digest(plain)

    @classmethod
    def from_json(cls, text: str | bytes, *, where: str = "comparison record") -> Self:
        """Read a record back.

        Raises:
            MalformedFile: not JSON, or not a comparison; names the first field that is wrong.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            path = ".".join(str(part) for part in first["loc"]) or "top level"
            raise MalformedFile(
                f"this is not a comparison record: {first['msg'][0].lower()}{first['msg'][1:]}",
                where=f"{where}: {path}",
                got=repr(first.get("input"))[:120],
                fix="pedigree schema comparison prints the schema",
            ) from error
