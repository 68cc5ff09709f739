"""`pedigree compare`, as anyone runs it, with `unmerge` and `tree`.

The verdict is the product's own. The score puts pairs in one order for curves: the strongest test over the bound at
which that test speaks for itself (8 standard deviations of matched units, a p-value of 1e-12).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pedigree.benchmark.methods.interface import Answer, Described
from pedigree.benchmark.methods.model import Model
from pedigree.records.comparison import Comparison

CLEAR_Z, CLEAR_LOG10_P = 8.0, 12.0
VERDICTS = {
    "identical": "relative", "related": "relative", "partly-related": "relative",
    "shared-initialization": "twin", "unrelated": "stranger",
}  # fmt: skip


@dataclass(frozen=True)
class Full(Answer):
    """An answer with what only this program tells.

    Args:
        if_descent: direction if one of the two is known to descend from the other; None: it does not tell them apart.
        flagged: whether the pair deserves a closer look, which is no finding.
    """

    if_descent: float | None = None
    flagged: bool | None = None


@dataclass(frozen=True)
class Standard(Described):
    """The comparison with its layer map, direction, transformations and expert origins."""

    def ask(self, a: Model, b: Model) -> Answer:
        """One comparison."""
        from pedigree.forensics.compare import compare

        return answer(compare(a.folder, b.folder))

    def weights(self, model: Model, parents: Sequence[Model]) -> list[float] | None:
        """Weights of the parents, None where no merge was found."""
        from pedigree.forensics.merges.unmerge_record import unmerge_record

        result = unmerge_record(str(model.folder), [str(parent.folder) for parent in parents]).result
        if result.verdict not in ("merge", "one-parent"):
            return None
        found = {source.location: source.weight for source in result.sources}
        return [found.get(str(parent.folder), 0.0) for parent in parents]

    def edges(self, models: Sequence[Model]) -> list[tuple[int, int, int]]:
        """The lines of the tree, open ones and those of ancestors that are not among the models as well."""
        from pedigree.forensics.trees.family_tree import grow_tree

        places = [str(model.folder) for model in models]
        result = grow_tree(places).result
        numbers = {node.id: places.index(node.locations[0]) for node in result.nodes if node.locations}
        for node in result.nodes:
            numbers.setdefault(node.id, len(numbers))
        return [(numbers[edge.source], numbers[edge.target], int(edge.directed)) for edge in result.edges]


def answer(record: Comparison) -> Answer:
    """A comparison in the words of the benchmark."""
    result = record.result
    strongest = [max(0.0, -(result.log10_p or 0.0)) / CLEAR_LOG10_P]
    if record.evidence_map is not None:
        strongest += [z / CLEAR_Z for row in record.evidence_map.z for z in row if z is not None]
    signs = {"a-to-b": 1.0, "b-to-a": -1.0}
    told, points = result.direction, result.operating_points
    way, line = signs.get(told.verdict), signs.get(told.verdict_if_descent)
    return Full(
        score=max(strongest),
        direction=None if way is None else way * max(0.01, abs(result.direction.log_odds or 1.0)),
        if_descent=None if line is None else line * max(0.01, abs(told.log_odds_if_descent or 1.0)),
        layer_map=result.layer_map,
        verdict=VERDICTS.get(result.verdict, "unsure"),
        experts=expert_origins(record),
        says=tuple(change.kind for change in result.transformations),
        bytes=result.read.bytes,
        why_not="" if result.verdict != "not-testable" else "not testable",
        flagged=None if points is None else points.screen.flagged,
    )


def expert_origins(record: Comparison) -> list[tuple[int, int, int]] | None:
    """Rows (layer of B, expert, layer of A) of an upcycled model; None where none is told."""
    rows: list[tuple[int, int, int]] = []
    told = False
    for change in record.result.transformations:
        if change.kind != "upcycled":
            continue
        told = True
        for row in change.detail().get("origins", []):
            source = row.get("from_layer")
            if source is not None:
                rows += [(int(row["layer"]), number, int(source)) for number, _ in enumerate(row.get("experts", []))]
    return rows if told else None


METHOD = Standard("pedigree_standard", "pedigree compare", "this program, standard depth")
