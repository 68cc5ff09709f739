"""The records of tokenizers: training, audit, comparison, extension, concatenation.

Laws: fields may be added, never renamed; two runs with the same inputs and options give the same record. Token numbers
are those of the tokenizer named; surfaces are text, with U+FFFD where bytes are no text.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from pedigree.records.comparison import Producer, Record

Difference = Literal["shorter", "longer", "no difference", "cannot say"]


class TokenizerInput(Record):
    """One tokenizer. `digest` is equal for equal tokenizers, whatever file they were read from."""

    name: str
    location: str
    format: str = ""
    kind: str = ""
    tokens: int = 0
    digest: str = ""
    notes: list[str] = Field(default_factory=list)


class TextInput(Record):
    """One text: a named file, in lines or documents. Texts of one group are parallel."""

    name: str
    location: str
    bytes: int
    units: int
    unit: str = "line"
    group: str = ""


class Compression(Record):
    """What one text costs. `parity` is tokens over those of English for the same sentences, None without such."""

    text: str
    language: str = ""
    domain: str = ""
    bytes: int
    characters: int
    tokens: int
    bytes_per_token: float
    tokens_per_byte: float
    parity: float | None = None


class TokenRecord(Record):
    """One token: number, surface, and what is said about it. `becomes` are the numbers its text is encoded to."""

    number: int
    surface: str
    why: str = ""
    becomes: list[int] = Field(default_factory=list)
    times: int | None = None


class TokenList(Record):
    """Tokens of one kind: how many, and the first of them (all, where `complete`)."""

    count: int
    complete: bool = True
    tokens: list[TokenRecord] = Field(default_factory=list)


class LossRecord(Record):
    """A built-in text that did not come back: what stood around the first difference, before and after."""

    case: str
    given: str
    returned: str
    note: str = ""


class SpellingRecord(Record):
    """How digits, spaces and Chinese characters are written; shares are 0..1."""

    longest_digits: int
    short_numbers_whole: float
    number_split: list[str]
    longest_spaces: int
    spaces_before_words: float
    han_whole: float
    han_words: int
    tokens_per_other_han: float | None = None
    one_character: bool


class AuditResult(Record):
    """Everything an audit found. Lists about texts are None where no text was given."""

    verdict: list[str]
    compression: list[Compression] = Field(default_factory=list)
    spelling: SpellingRecord
    made: int
    partial: int
    never_in_utf8: int
    shadowed_bytes: int
    whole_words_only: TokenList
    unreachable: TokenList
    seen: int | None = None
    never_seen: TokenList | None = None
    under_trained_candidates: TokenList | None = None
    glitch: TokenList
    round_trip_cases: int
    round_trip_losses: list[LossRecord] = Field(default_factory=list)
    corpus_units: int = 0
    corpus_losses: int = 0
    not_checked: list[str] = Field(default_factory=list)


class TokenizerAudit(Record):
    """An audit of one tokenizer."""

    schema_name: Literal["pedigree/tokenizer-audit"] = Field(default="pedigree/tokenizer-audit", alias="schema")
    version: Literal[1] = 1
    producer: Producer = Field(default_factory=Producer)
    tokenizer: TokenizerInput
    texts: list[TextInput] = Field(default_factory=list)
    result: AuditResult
    warnings: list[str] = Field(default_factory=list)


class Ratio(Record):
    """Tokens of A over tokens of B on one text, paired by unit, with a 95 % bootstrap interval.

    `text` is empty for all texts together (each text counts the same). `verdict` is about A.
    """

    a: str
    b: str
    text: str = ""
    ratio: float
    low: float
    high: float
    units: int
    verdict: Difference


class Overlap(Record):
    """Surfaces that two vocabularies share, of how many in each; `jaccard` is shared over all."""

    a: str
    b: str
    shared: int
    of_a: int
    of_b: int
    jaccard: float


class TokenizerComparisonResult(Record):
    """Compression of each tokenizer by text, paired ratios, overlaps, and a sentence for each pair."""

    verdict: list[str]
    compression: dict[str, list[Compression]]
    ratios: list[Ratio]
    overall: list[Ratio]
    overlap: list[Overlap]
    margin: float
    draws: int
    seed: int


class TokenizerComparison(Record):
    """A comparison of two or more tokenizers on the same texts."""

    schema_name: Literal["pedigree/tokenizer-comparison"] = Field(
        default="pedigree/tokenizer-comparison", alias="schema"
    )
    version: Literal[1] = 1
    producer: Producer = Field(default_factory=Producer)
    tokenizers: list[TokenizerInput]
    texts: list[TextInput]
    result: TokenizerComparisonResult
    warnings: list[str] = Field(default_factory=list)


class TokenizerTraining(Record):
    """A tokenizer that was trained: on what, how, and what it costs on its own training text."""

    schema_name: Literal["pedigree/tokenizer-training"] = Field(default="pedigree/tokenizer-training", alias="schema")
    version: Literal[1] = 1
    producer: Producer = Field(default_factory=Producer)
    tokenizer: TokenizerInput
    texts: list[TextInput]
    options: dict[str, Any] = Field(default_factory=dict)
    compression: list[Compression] = Field(default_factory=list)
    files: list[str] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)


class BeforeAndAfter(Record):
    """Compression of one text before and after a change of vocabulary."""

    text: str
    before: Compression
    after: Compression


class ExtensionResult(Record):
    """What was added, from number `first_new` on; `unreachable_added` should be empty.

    `on_the_way` counts parts that whole tokens needed; `texts` says what each text costs before and after.
    """

    added: int
    characters: int
    merges: int
    whole_tokens: int
    on_the_way: int
    specials: int
    first_new: int
    unreachable_added: TokenList
    examples: list[TokenRecord]
    texts: list[BeforeAndAfter]
    round_trip_losses_before: int
    round_trip_losses_after: int
    verdict: list[str]


class TokenizerExtension(Record):
    """A vocabulary that was grown; old numbers and old merges stand as they were."""

    schema_name: Literal["pedigree/tokenizer-extension"] = Field(default="pedigree/tokenizer-extension", alias="schema")
    version: Literal[1] = 1
    producer: Producer = Field(default_factory=Producer)
    base: TokenizerInput
    tokenizer: TokenizerInput
    texts: list[TextInput] = Field(default_factory=list)
    options: dict[str, Any] = Field(default_factory=dict)
    result: ExtensionResult
    files: list[str] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)


class Conflict(Record):
    """One thing on which two vocabularies disagree, and what was done about it.

    `a`, `b` and `result` are token numbers in the parents and in the outcome, None where there is none.
    """

    kind: str
    detail: str
    surface: str | None = None
    a: int | None = None
    b: int | None = None
    result: int | None = None
    becomes: list[int] = Field(default_factory=list)


class ConcatenationResult(Record):
    """How many tokens came from where, and how many conflicts there are of each kind (all stand in the file)."""

    tokens: int
    from_a: int
    shared: int
    added_from_b: int
    not_taken_from_b: int
    merges_from_a: int
    merges_from_b: int
    merges_made_up: int
    conflicts: dict[str, int]
    examples: dict[str, list[Conflict]]
    unreachable: int
    verdict: list[str]


class TokenizerConcatenation(Record):
    """Two vocabularies put into one, and everything on which they disagree."""

    schema_name: Literal["pedigree/tokenizer-concatenation"] = Field(
        default="pedigree/tokenizer-concatenation", alias="schema"
    )
    version: Literal[1] = 1
    producer: Producer = Field(default_factory=Producer)
    a: TokenizerInput
    b: TokenizerInput
    tokenizer: TokenizerInput
    result: ConcatenationResult
    files: list[str] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)


class ConflictList(Record):
    """Every conflict of a concatenation, and the number in the outcome of every token of both parents."""

    schema_name: Literal["pedigree/tokenizer-conflicts"] = Field(default="pedigree/tokenizer-conflicts", alias="schema")
    version: Literal[1] = 1
    a: TokenizerInput
    b: TokenizerInput
    conflicts: list[Conflict]
    id_map: dict[str, list[int | None]]
