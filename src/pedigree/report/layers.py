"""The layer map of a comparison as runs and as one line of text.

For each layer of B the map names the layer of A it comes from. Neighbours that follow each other in both
models form a run; a layer of A that was already used earlier in B makes a run of its own, *copied*.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pedigree.records.comparison import LayerMatch
from pedigree.report.numbers import ranges_text


@dataclass(frozen=True)
class Run:
    """Layers `start`..`stop` of B (inclusive), beginning at `source` of A; None means they come from nowhere in A."""

    start: int
    stop: int
    source: int | None
    copied: bool = False

    @property
    def length(self) -> int:
        """How many layers of B."""
        return self.stop - self.start + 1

    def text(self) -> str:
        """`0-2`, `2 (copied)` or `new x3`: the layers of A, or that there are none."""
        if self.source is None:
            return "new" if self.length == 1 else f"new x{self.length}"
        last = self.source + self.length - 1
        span = str(self.source) if last == self.source else f"{self.source}-{last}"
        return f"{span} (copied)" if self.copied else span


def layer_runs(layer_map: Sequence[int | None]) -> list[Run]:
    """The map as runs, in the order of B."""
    runs: list[Run] = []
    seen: set[int] = set()
    for layer, source in enumerate(layer_map):
        copied = source is not None and source in seen
        last = runs[-1] if runs else None
        follows = last is not None and last.copied == copied and _continues(last, source)
        if last is not None and follows:
            runs[-1] = Run(last.start, layer, last.source, copied)
        else:
            runs.append(Run(layer, layer, source, copied))
        if source is not None:
            seen.add(source)
    return runs


def _continues(run: Run, source: int | None) -> bool:
    if run.source is None or source is None:
        return run.source is None and source is None
    return source == run.source + run.length


def layer_strip(layer_map: Sequence[int | None], *, width: int = 80) -> str:
    """The map on one line of at most `width` characters: `0-2 | 2 (copied) | 3-5 | new`."""
    if not layer_map:
        return "not compared layer by layer"
    if all(source is None for source in layer_map):
        return f"none of the {len(layer_map)} layers of B was found in A"
    runs = layer_runs(layer_map)
    if len(runs) == 1 and runs[0].source == 0:
        return f"{runs[0].text()}, each in its own place"
    parts = [run.text() for run in runs]
    whole = " | ".join(parts)
    if len(whole) <= width:
        return whole
    kept: list[str] = []
    tail = f" | ... {len(parts)} runs in all"
    while len(kept) < len(parts) and len(" | ".join([*kept, parts[len(kept)]])) + len(tail) <= width:
        kept.append(parts[len(kept)])
    return " | ".join(kept) + tail


def split_layers(detail: Sequence[LayerMatch]) -> list[int]:
    """Layers of B whose feed-forward and attention, both compared, come from different places."""

    def open_question(source: int | None, score: float | None) -> bool:
        return source is None and score is None

    return [
        match.layer
        for match in detail
        if match.ffn != match.attn
        and not open_question(match.ffn, match.ffn_score)
        and not open_question(match.attn, match.attn_score)
    ]


def split_sentence(detail: Sequence[LayerMatch]) -> str | None:
    """One sentence about `split_layers`, None where there are none."""
    layers = split_layers(detail)
    if not layers:
        return None
    return f"feed-forward and attention have different sources in {ranges_text(layers)}"
