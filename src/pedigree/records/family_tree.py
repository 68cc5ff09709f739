"""The record of a family tree: what `pedigree tree MODEL... --json` prints."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from pedigree.records.comparison import Producer, Record


class TreeNode(Record):
    """A model, several models of equal weights, or an ancestor that is not among the given models (`hidden`)."""

    id: str
    kind: Literal["model", "hidden"] = "model"
    locations: list[str] = Field(default_factory=list)
    family: int = 0


class TreeEdge(Record):
    """A line of the tree. `from` is the ancestor where `directed`; else the order says nothing.

    `log_odds` is natural, in favor of `from` as the ancestor. `length` is the squared distance over the squared length
    of the weights, which adds along branches. `merge` leads from each parent of a merge: of strangers, or exactly
    between two relatives. `between` joins a model to those it lies between less exactly: it is a merge of them, or one
    of them was trained on through it to another. `weight` is that of a parent in a merge, where it can be told.
    `or_from` are models of the same weights as `from` (a cast, a copy in another container): which of them was
    continued is not told by numbers.
    """

    source: str = Field(alias="from")
    target: str = Field(alias="to")
    kind: Literal["descent", "merge", "between", "same-weights"] = "descent"
    directed: bool = False
    log_odds: float | None = None
    length: float | None = None
    weight: float | None = None
    or_from: list[str] = Field(default_factory=list)
    reasons: list[str] = Field(default_factory=list)


class TreeResult(Record):
    """Families (groups of relatives), nodes and edges; `siblings` lists groups of models with one parent.

    `unread` names models that could be compared with no other one, with the reason in `not_compared`.
    `shared_starts` names the nearest pair of every two families that share a random start and nothing learned,
    `open_pairs` the ends of lines of which it is open whether a start or descent is shared; they have no arrow.
    `untold_pairs` are those of which the comparison failed or says neither a relation nor none.
    """

    families: list[list[str]] = Field(default_factory=list)
    nodes: list[TreeNode] = Field(default_factory=list)
    edges: list[TreeEdge] = Field(default_factory=list)
    siblings: list[list[str]] = Field(default_factory=list)
    shared_starts: list[list[str]] = Field(default_factory=list)
    open_pairs: list[list[str]] = Field(default_factory=list)
    unread: list[str] = Field(default_factory=list)
    # A record from before there were any keeps its digest.
    untold_pairs: list[list[str]] = Field(default_factory=list, exclude_if=lambda pairs: not pairs)
    pairs_compared: int = 0
    not_compared: list[str] = Field(default_factory=list)
    not_checked: list[str] = Field(default_factory=list)
    seconds: float = 0.0


class FamilyTree(Record):
    """The family tree of several models."""

    schema_name: Literal["pedigree/family-tree"] = Field(default="pedigree/family-tree", alias="schema")
    version: Literal[1] = 1
    producer: Producer = Field(default_factory=Producer)
    created: str | None = None
    inputs: dict[str, list[str]] = Field(default_factory=dict)
    options: dict[str, Any] = Field(default_factory=dict)
    result: TreeResult
    warnings: list[str] = Field(default_factory=list)
