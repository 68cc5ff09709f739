"""The pictures of a report, as inline SVG drawn by matplotlib.

Rules
1. The same record gives the same bytes: fixed salt, no date, no identifiers from memory.
2. Lines and text take the page's own color (`currentColor`), so that figures read in light, dark and print.
3. Color never stands alone: every meaning also has a hatch, an outline or a word.
4. Numbers are placed, binned and scaled here, never computed: they all stand in the record.

Letters: rows of the heat map are layers of A, columns are layers of B.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pedigree.records.comparison import Comparison, ComponentVerdict, EvidenceMap, Result
from pedigree.report.layers import Run, layer_runs
from pedigree.report.plain_text import printable
from pedigree.report.words import COMPONENT_SENTENCES, component_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK = "#0a0b0c"  # replaced by currentColor in the written SVG
_BLUE, _DEEP, _AMBER, _PALE, _MARK = "#2f6ea5", "#0b3a66", "#e0a030", "#dde2e8", "#c4500a"
_WIDTH_INCHES = 7.2
_DECOYS_DRAWN = 8  # the table has them all
_PAIR = "A and B"
_EVIDENCE = "evidence of the strongest layer pair (z)"
_LINEAR_BELOW = 5.0  # z; above it the axis is logarithmic, since related layers reach a hundred and more

# fill, hatch; the hatch is what a black-and-white print keeps
COMPONENT_STYLES: dict[ComponentVerdict, tuple[str, str]] = {
    "identical": (_DEEP, ""),
    "related": (_BLUE, ""),
    "shared-initialization": (_AMBER, ".."),
    "unrelated": (_PALE, ""),
    "inconclusive": ("none", "////"),
    "not-testable": ("none", "xx"),
}


@contextmanager
def _style() -> Iterator[None]:
    import matplotlib

    settings: Any = {
        "svg.hashsalt": "pedigree",
        "svg.fonttype": "none",
        "font.family": ["sans-serif"],
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 8.0,
        "axes.edgecolor": _INK,
        "axes.labelcolor": _INK,
        "axes.linewidth": 0.6,
        "axes.titlesize": 8.5,
        "axes.titlecolor": _INK,
        "text.color": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "hatch.linewidth": 0.5,
        "patch.linewidth": 0.7,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.facecolor": "none",
        "path.simplify": False,
        "text.parse_math": False,  # names of models are text, dollar signs too
    }
    with matplotlib.rc_context(settings):
        yield


def _figure(height_inches: float) -> Figure:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH_INCHES, height_inches))
    FigureCanvasSVG(figure)
    return figure


def _svg(figure: Figure, name: str, description: str) -> str:
    """The figure as an SVG element that can stand in a page beside others."""
    from html import escape

    buffer = io.StringIO()
    with warnings.catch_warnings():
        # Letters that our font lacks are drawn by the font of the reader's browser: the text stays text.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(url\(|xlink:href=")#', rf"\1#{name}-", text)
    text = text.replace(_INK, "currentColor")
    text = re.sub(r"'DejaVu Sans'[^;\"]*sans-serif|'DejaVu Sans'", "system-ui, 'Liberation Sans', sans-serif", text)
    label = f'<svg class="figure" role="img" aria-label="{escape(description)}"'
    text = re.sub(r'^<svg xmlns:xlink="[^"]*" width="[^"]*" height="[^"]*"', label, text)
    text = text.replace(' xmlns="http://www.w3.org/2000/svg"', "", 1)
    text = text.replace("xlink:href", "href")
    text = re.sub(r"-?\d+\.\d{3,}", lambda number: f"{float(number.group()):.2f}".rstrip("0").rstrip("."), text)
    text = re.sub(r' transform="rotate\(-0 [^"]*"| id="[^"]*-(?:text|patch|line2d|PathCollection)_\d+"', "", text)
    text = re.sub(r' clip-path="[^"]*"(?= style="fill: #[0-9a-f]{6}"/>)', "", text)  # cells of the heat map
    text = re.sub(r"\s*\n\s*(?=[MLQCz\"])", " ", text)
    return re.sub(r"\n\s+", "\n", text).strip()


def component_figure(result: Result) -> str | None:
    """One box for each component, filled and hatched by its verdict, with the words beneath."""
    if not result.components:
        return None
    per_row = min(len(result.components), 6)
    rows = math.ceil(len(result.components) / per_row)
    with _style():
        from matplotlib.patches import Rectangle

        figure = _figure(0.72 * rows)
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        axes.set_axis_off()
        axes.set_xlim(0, per_row)
        axes.set_ylim(rows, 0)
        for i, (key, part) in enumerate(result.components.items()):
            x, y = i % per_row, i // per_row
            fill, hatch = COMPONENT_STYLES[part.verdict]
            box = Rectangle((x + 0.02, y + 0.03), 0.96, 0.42, facecolor=fill, edgecolor=_INK, hatch=hatch)
            axes.add_patch(box)
            axes.text(x + 0.5, y + 0.61, component_name(key), ha="center", va="center", fontsize=8.5, fontweight="bold")
            axes.text(x + 0.5, y + 0.86, COMPONENT_SENTENCES[part.verdict], ha="center", va="center", fontsize=7)
        return _svg(figure, "parts", "The answer for each component")


def _layer_row(axes: Axes, count: int, y: float, label: str) -> None:
    from matplotlib.patches import Rectangle

    step = max(1, math.ceil(count / 24))
    for layer in range(count):
        axes.add_patch(Rectangle((layer, y), 1, 0.5, facecolor="none", edgecolor=_INK, linewidth=0.5))
        if layer % step == 0 or layer == count - 1:
            axes.text(layer + 0.5, y + 0.25, str(layer), ha="center", va="center", fontsize=6.5)
    axes.text(-0.012 * axes.get_xlim()[1], y + 0.25, label, ha="right", va="center", fontweight="bold")


def _ribbon(axes: Axes, run: Run, top: float, bottom: float) -> None:
    from matplotlib.patches import Polygon, Rectangle

    if run.source is None:
        axes.add_patch(
            Rectangle((run.start, bottom - 0.5), run.length, 0.5, facecolor="none", edgecolor=_MARK, hatch="////")
        )
        return
    corners = [
        (run.source, top),
        (run.source + run.length, top),
        (run.start + run.length, bottom),
        (run.start, bottom),
    ]
    fill, hatch = (_AMBER, "..") if run.copied else (_BLUE, "")
    axes.add_patch(Polygon(corners, closed=True, facecolor=fill, edgecolor=_INK, hatch=hatch, linewidth=0.4, alpha=0.8))


def layers_figure(result: Result, rows_a: int | None = None) -> str | None:
    """Layers of A above, layers of B beneath, a ribbon from each run to where it went; None where no layer was found.

    `rows_a` is the number of layers of A where it is known; otherwise the highest layer that was used counts.
    """
    used = {source for source in result.layer_map if source is not None}
    if not used:
        return None
    from matplotlib.patches import Rectangle

    count_a = max(rows_a or 0, max(used) + 1)
    count_b = len(result.layer_map)
    with _style():
        figure = _figure(1.35)
        axes = figure.add_axes((0.035, 0.0, 0.96, 1.0))
        axes.set_axis_off()
        axes.set_xlim(0, max(count_a, count_b) + 0.02)
        axes.set_ylim(-0.05, 2.05)
        for run in layer_runs(result.layer_map):
            _ribbon(axes, run, 1.5, 0.5)
        for layer in set(range(count_a)) - used:
            axes.add_patch(Rectangle((layer, 1.5), 1, 0.5, facecolor="none", edgecolor=_MARK, hatch="xxxx"))
        _layer_row(axes, count_a, 1.5, "A")
        _layer_row(axes, count_b, 0.0, "B")
        return _svg(figure, "layers", "Layers of B and the layers of A they come from")


def _split_cells(evidence: EvidenceMap, layer_map: Sequence[int | None]) -> tuple[list[float], list[float]]:
    """Evidence on the layer map and off it."""
    on: list[float] = []
    off: list[float] = []
    for row, line in zip(evidence.rows, evidence.z, strict=False):
        for column, value in zip(evidence.columns, line, strict=False):
            if value is not None:
                matched = column < len(layer_map) and layer_map[column] == row
                (on if matched else off).append(value)
    return on, off


def _bin_edges(values: Sequence[float]) -> list[float]:
    lowest, highest = min(values), max(values)
    edges = [math.floor(lowest) + 0.5 * i for i in range(int(2 * (_LINEAR_BELOW - math.floor(lowest))) + 1)]
    if highest > _LINEAR_BELOW:
        decades = math.log10(highest / _LINEAR_BELOW)
        steps = max(2, math.ceil(decades * 8))
        edges += [_LINEAR_BELOW * 10 ** (decades * 1.02 * i / steps) for i in range(1, steps + 1)]
    return edges


def _heat(figure: Figure, evidence: EvidenceMap, layer_map: Sequence[int | None], top: float) -> None:
    import numpy as np
    from matplotlib.colors import LinearSegmentedColormap, SymLogNorm
    from matplotlib.patches import Rectangle

    axes = figure.add_axes((0.075, 0.225, 0.45, 0.70))
    z_AB = np.full((len(evidence.rows), len(evidence.columns)), np.nan)
    for i, line in enumerate(evidence.z[: len(evidence.rows)]):
        known = line[: len(evidence.columns)]
        z_AB[i, : len(known)] = [np.nan if value is None else value for value in known]
    shades = LinearSegmentedColormap.from_list("evidence", ["#f4f5f7", "#a9c6e0", "#2f6ea5", "#06223f"], 48)
    top = max(top, 2 * _LINEAR_BELOW)
    norm = SymLogNorm(linthresh=_LINEAR_BELOW, vmin=0.0, vmax=top, base=10)
    axes.patch.set(facecolor="#ffffff", hatch="////", edgecolor="#9aa3ad")
    mesh = axes.pcolormesh(np.ma.masked_invalid(np.clip(z_AB, 0.0, None)), cmap=shades, norm=norm, linewidth=0)
    outline = max(0.4, min(1.2, 30 / len(evidence.columns)))
    for j, column in enumerate(evidence.columns):
        source = layer_map[column] if column < len(layer_map) else None
        if source is not None and source in evidence.rows:
            cell = (j + 0.06, evidence.rows.index(source) + 0.06)
            axes.add_patch(Rectangle(cell, 0.88, 0.88, facecolor="none", edgecolor=_MARK, linewidth=outline))
    axes.invert_yaxis()
    for axis, numbers in ((axes.xaxis, evidence.columns), (axes.yaxis, evidence.rows)):
        step = max(1, math.ceil(len(numbers) / 12))
        axis.set_ticks([i + 0.5 for i in range(0, len(numbers), step)], [str(n) for n in numbers[::step]])
    axes.set_xlabel("layer of B")
    axes.set_ylabel("layer of A")
    axes.set_title("Evidence for each pair of layers (outlined: the layer map)", loc="left")
    bar = figure.add_axes((0.075, 0.055, 0.45, 0.03))
    ticks = [t for t in (0, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if t <= top]
    colors = figure.colorbar(mesh, cax=bar, orientation="horizontal", ticks=ticks, format="%d")
    if colors.solids is not None:
        colors.solids.set_edgecolor("face")
    bar.minorticks_off()


def _null(figure: Figure, on: Sequence[float], off: Sequence[float]) -> None:
    from matplotlib.patches import Patch

    axes = figure.add_axes((0.60, 0.225, 0.385, 0.70))
    edges = _bin_edges([*on, *off])
    axes.hist(off, bins=edges, facecolor="none", edgecolor=_INK, linewidth=0.4, hatch="////")
    axes.hist(on, bins=edges, facecolor=_DEEP, edgecolor=_INK, linewidth=0.4)
    axes.set_xscale("symlog", linthresh=_LINEAR_BELOW, linscale=1.2)
    axes.set_yscale("symlog", linthresh=2)
    ticks = [t for t in (-5, 0, 5, 10, 20, 50, 100, 200, 500, 1000) if edges[0] <= t <= edges[-1]]
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.minorticks_off()
    counts = [t for t in (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000) if t <= axes.get_ylim()[1]]
    axes.set_yticks(counts, [str(t) for t in counts])
    if off:
        axes.axvline(max(off), color=_INK, linewidth=0.8, linestyle="--")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("evidence (z); dashed: highest unmatched pair")
    axes.set_title("Number of layer pairs at each strength", loc="left")
    patches = [Patch(facecolor="none", edgecolor=_INK, hatch="////", label="unmatched pairs (the null)")]
    if on:
        patches.append(Patch(facecolor=_DEEP, edgecolor=_INK, label="pairs on the layer map"))
    figure.legend(handles=patches, loc="lower right", bbox_to_anchor=(0.99, 0.0), ncols=2, frameon=False, fontsize=7)


def evidence_figure(comparison: Comparison) -> str | None:
    """The heat map of layer pairs beside the histogram of its off-diagonal null; None without evidence."""
    evidence = comparison.evidence_map
    if evidence is None or not evidence.rows or not evidence.columns:
        return None
    layer_map = comparison.result.layer_map
    on, off = _split_cells(evidence, layer_map)
    if not on and not off:
        return None
    with _style():
        figure = _figure(3.3)
        _heat(figure, evidence, layer_map, max([*on, *off]))
        _null(figure, on, off)
        return _svg(figure, "evidence", "Evidence for each pair of layers, and its distribution")


def _decoy_scale(comparison: Comparison, *, banked: bool) -> tuple[list[tuple[str, float, bool]], str]:
    """Names, positions and whether it is the pair itself, with the words of the axis.

    The axis is the evidence of the strongest layer pair where the record has it for the pair and for something to set
    beside it (decoys, or the bank): it speaks for disguised weights too, for which the exact tests are silent.
    Otherwise it is the p-value.
    """
    decoys = comparison.result.controls.decoys[:_DECOYS_DRAWN]
    evidence = comparison.evidence_map
    cells = [value for line in evidence.z for value in line if value is not None] if evidence is not None else []
    scored = [(decoy.location, decoy.score, False) for decoy in decoys if decoy.score is not None]
    if cells and (scored or banked):
        return [(_PAIR, max(cells), True), *scored], _EVIDENCE
    rows = [(_PAIR, comparison.result.log10_p, True), *((decoy.location, decoy.log10_p, False) for decoy in decoys)]
    known = [(name, max(0.0, -log10_p), main) for name, log10_p, main in rows if log10_p is not None]
    return known, "-log10 p under independence"


def _strangers(axes: Axes, scores: Sequence[float], row: int) -> None:
    """A stroke for each independent pair; where most of them lie it becomes a bar."""
    axes.vlines(scores, row - 0.32, row + 0.32, color=_INK, linewidth=0.35)
    words = f"{len(scores)} independent pairs"
    axes.text(-0.02, row, words, ha="right", va="center", transform=axes.get_yaxis_transform(), fontsize=7.5)


def decoy_figure(comparison: Comparison, independent: Sequence[float] = ()) -> str | None:
    """The pair, its decoys and independent pairs on one axis; None where there is nothing to set beside the pair.

    Args:
        comparison: the pair, with its decoys.
        independent: evidence of the strongest layer pair of each pair that is known to be independent; shown where
            that is the axis.
    """
    known, label = _decoy_scale(comparison, banked=bool(independent))
    strangers = independent if label == _EVIDENCE else ()
    if not known or not known[0][2] or len(known) + bool(strangers) < 2:
        return None
    rows = len(known) + bool(strangers)
    band, foot = 0.19 * rows, 0.40  # inches
    with _style():
        figure = _figure(band + foot + 0.04)
        axes = figure.add_axes((0.30, foot / (band + foot + 0.04), 0.66, band / (band + foot + 0.04)))
        lowest = min(0.0, *(value for _, value, _ in known), *strangers)
        for i, (name, value, main) in enumerate(known):
            axes.plot([lowest, value], [i, i], color=_INK, linewidth=0.6)
            marker, face = ("o", _DEEP) if main else ("D", "#ffffff")
            axes.plot([value], [i], marker=marker, color=face, markeredgecolor=_INK, markersize=5, clip_on=False)
            shown = printable(name if len(name) <= 34 else "..." + name[-31:])
            weight, place = ("bold" if main else "normal"), axes.get_yaxis_transform()
            axes.text(-0.02, i, shown, ha="right", va="center", transform=place, fontweight=weight, fontsize=7.5)
        if strangers:
            _strangers(axes, strangers, len(known))
        axes.set_ylim(rows - 0.4, -0.6)
        axes.set_xscale("symlog", linthresh=_LINEAR_BELOW)
        axes.set_xlim(lowest, max(2 * _LINEAR_BELOW, 1.1 * max(*(value for _, value, _ in known), *strangers, 0.0)))
        ticks = [t for t in (0, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000) if t <= axes.get_xlim()[1]]
        axes.set_xticks(ticks, [str(t) for t in ticks])
        axes.minorticks_off()
        axes.set_yticks([])
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.set_xlabel(f"{label}; further right: fits independence worse", fontsize=7.5)
        return _svg(figure, "decoys", "The pair beside its decoys")
