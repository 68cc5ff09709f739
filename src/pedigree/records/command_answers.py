"""What commands print with --json that make no record of their own: the demo, an explanation, a server, a list.

Law: fields may be added, never renamed or given another meaning; fields we do not know are kept on rewrite.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from pedigree.records.comparison import Record, Verdict


class CommandAnswer(Record):
    """The frame of an answer: its version, the command, what it was given, and warnings."""

    version: Literal[1] = 1
    command: str
    inputs: dict[str, Any]
    warnings: list[str] = Field(default_factory=list)


class DemoAnswer(Record):
    """One pair of the demo: how the two were made, what the weights say, and the page about it."""

    a: str
    b: str
    made: Verdict
    verdict: Verdict
    log10_p: float | None
    report: str


class DemoAnswers(CommandAnswer):
    """The answer of `pedigree demo`."""

    schema_name: Literal["pedigree/demo"] = Field(alias="schema")
    result: list[DemoAnswer]


class ExplainedTest(Record):
    """A test by its name; a list of all tests has neither page nor mathematics."""

    name: str
    title: str
    paragraph: str
    page: str | None = None
    mathematics: str | None = None


class Explained(CommandAnswer):
    """The answer of `pedigree explain`: one test, or all of them."""

    schema_name: Literal["pedigree/explanation"] = Field(alias="schema")
    result: ExplainedTest | list[ExplainedTest]


class Served(Record):
    """Where a model answers, and under which name."""

    url: str
    model: str


class Server(CommandAnswer):
    """What `pedigree serve` prints once it listens."""

    schema_name: Literal["pedigree/server"] = Field(alias="schema")
    result: Served


class ListedSchema(Record):
    """A record that has a schema: its name, its version, and a sentence about it."""

    name: str
    version: int
    about: str


class SchemaList(CommandAnswer):
    """The answer of `pedigree schema` without a name."""

    schema_name: Literal["pedigree/schemas"] = Field(alias="schema")
    result: list[ListedSchema]


COMMAND_ANSWERS: dict[str, type[Record]] = {
    "demo": DemoAnswers,
    "explanation": Explained,
    "schemas": SchemaList,
    "server": Server,
}
