"""The figure of one gene: contacts, elements, signals, attention and effects on one axis.

Drawn in the style of analysis.plots. The axis is distance from the TSS in kb, not strand-aware:
to the right is towards the end of the contig.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Arc, Rectangle
from matplotlib.ticker import MaxNLocator

from epinformer_jax.analysis import plots
from epinformer_jax.data import atomic

COLOUR_OF_CLASS = {
    "distal": plots.BLUE,
    "promoter": plots.ORANGE,
    "self_promoter": plots.GREEN,
}
DOWN, UP = plots.VERMILLION, plots.BLUE
WIDTH_INCHES = 9.0
NAME_ROWS = 3
_SIGNAL_COLOURS = ("#4C5A6B", "#7A6A4F", "#5B6F5B", "#6B4C63")
_CHARACTER_INCHES = 0.078  # at the size of names


def locus_figure(shown: Mapping[str, Any]) -> Figure:
    """The figure of a `locus.Locus`, given as a dictionary of its fields.

    Rows: contact arcs; genes and elements; a row a signal; activity; attention; predicted change;
    measured change, where there is one. Bars stand at their element and are at least as wide as can
    be seen. Negative effects point down.
    """
    elements, effects, signals = shown["elements"], shown["effects"], shown["signals"]
    scale = _Scale(shown["tss"], shown["start"], shown["end"])
    names = _placed(shown, scale)
    has_effects = effects is not None and len(effects) > 0
    heights = [1.5, 0.55 + 0.2 * _rows_of(names), *[0.6] * len(signals), 0.75, 0.75, 0.95]
    heights += [0.95] if has_effects else []
    with plots.style():
        figure = Figure(figsize=(WIDTH_INCHES, 1.0 + 0.95 * sum(heights)), layout="constrained")
        axes = list(figure.subplots(len(heights), 1, sharex=True, height_ratios=heights))
        arcs, genes, *rows = axes
        _draw_contacts(arcs, elements, scale)
        _draw_genes(genes, shown, names, scale)
        for number, (name, values) in enumerate(signals.items()):
            _draw_signal(rows[number], name, values, scale, number)
        rows = rows[len(signals) :]
        colours = [COLOUR_OF_CLASS[name] for name in elements["class"]]
        _draw_bars(rows[0], elements, elements["activity"], colours, scale, "Activity")
        _draw_bars(rows[1], elements, elements["attention_mean"], colours, scale, "Attention")
        signs = [DOWN if value < 0 else UP for value in elements["predicted"]]
        _draw_bars(rows[2], elements, elements["predicted"], signs, scale, shown["predicted_unit"])
        if has_effects:
            signs = [
                plots.GREY if not significant else DOWN if effect < 0 else UP
                for effect, significant in zip(
                    effects["effect"], effects["significant"], strict=True
                )
            ]
            measured = 100 * effects["effect"]
            _draw_bars(rows[3], effects, measured, signs, scale, "Measured\nchange (%)")
            if not effects["significant"].all():
                _say(rows[3], "grey: not significant")
        for row in axes:
            row.axvline(0, color=plots.GREY, linewidth=0.7, dashes=(2, 3), zorder=0)
        axes[-1].set_xlim(scale.kb(shown["start"]), scale.kb(shown["end"]))
        place = f"{shown['chrom']}:{shown['tss'] + 1:,}"
        axes[-1].set_xlabel(f"Distance from the TSS (kb); TSS at {place} (1-based)")
        count = f"{len(elements)} element{'s' if len(elements) != 1 else ''}"
        name, gene_id = shown["gene_name"], shown["gene_id"]
        known_as = name if name == gene_id else f"{name} ({gene_id})"
        axes[0].set_title(f"{known_as}   {count}; {shown['held_out']}")
        figure.align_ylabels(axes)
    return figure


def write_figure(figure: Figure, path: str | os.PathLike, *, dpi: int = 160) -> None:
    """Writes a figure as PNG or SVG, by its name, whole or not at all."""
    with atomic.atomic_file(path) as temporary, plots.style():
        if str(path).endswith(".svg"):
            temporary.write_text(plots.to_svg(figure))
        else:
            figure.savefig(temporary, format="png", dpi=dpi, metadata={"Software": None})


class _Name(NamedTuple):
    """A promoter: its place and direction, and where its name stands (row -1: nowhere)."""

    at: float
    strand: str
    text: str
    middle: float
    row: int
    is_own: bool


class _Scale:
    """Base pairs to kb from the TSS, and how much of the range is just visible."""

    def __init__(self, tss: int, start: int, end: int):
        self.tss, self.start, self.end = tss, start, end
        self.range_kb = (end - start) / 1000
        self.least_kb = 0.004 * self.range_kb

    def kb(self, position):
        """Distance from the TSS."""
        return (np.asarray(position) - self.tss) / 1000

    def boxes(self, table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Middle and visible width of each row, kb."""
        start, end = self.kb(table["start"]), self.kb(table["end"])
        return (start + end) / 2, np.maximum(end - start, self.least_kb)


def _draw_contacts(axes: Axes, elements: pd.DataFrame, scale: _Scale) -> None:
    """Half ellipses to the TSS; wider and darker with contact, strong ones above weak ones."""
    middle, _ = scale.boxes(elements)
    contact = elements["contact"].to_numpy(float)
    share = contact / max(contact.max(initial=0.0), 1e-30)
    farthest = max(np.abs(middle).max(initial=0.0), 1e-9)
    for i in np.argsort(share, kind="stable"):
        axes.add_patch(
            Arc(
                (middle[i] / 2, 0.0),
                abs(middle[i]),
                2 * np.sqrt(abs(middle[i]) / farthest),
                theta1=0,
                theta2=180,
                color=plots.DENSITY(0.15 + 0.75 * share[i]),
                linewidth=0.7 + 2.6 * share[i],
            )
        )
    axes.set_ylim(0, 1.06)
    _bare(axes)
    axes.set_ylabel("Contact\n(darker: more)", rotation=0, ha="right", va="center")


def _draw_genes(
    axes: Axes, shown: Mapping[str, Any], names: Sequence[_Name], scale: _Scale
) -> None:
    """Elements as boxes below the line, promoters as arrows above it, names above them."""
    elements = shown["elements"]
    axes.axhline(0, color=plots.DARK, linewidth=0.8)
    middle, width = scale.boxes(elements)
    for name, colour in COLOUR_OF_CLASS.items():
        is_it = elements["class"].to_numpy() == name
        for at, wide in zip(middle[is_it], width[is_it], strict=True):
            axes.add_patch(
                Rectangle((at - wide / 2, -0.42), wide, 0.34, facecolor=colour, edgecolor="none")
            )
        if is_it.any():
            axes.plot([], [], "s", color=colour, label=name.replace("_", " "), markersize=5)
    _draw_promoters(axes, names, scale)
    if len(elements):
        axes.legend(
            loc="upper right",
            bbox_to_anchor=(1.0, 0.16),
            ncols=3,
            handletextpad=0.1,
            columnspacing=1.2,
            borderpad=0.0,
            fontsize=8,
        )
    axes.set_ylim(-0.95, 0.38 + 0.4 * _rows_of(names))
    _bare(axes)
    axes.set_ylabel("Elements", rotation=0, ha="right", va="center")


def _placed(shown: Mapping[str, Any], scale: _Scale) -> list[_Name]:
    """Names in up to NAME_ROWS rows, none over another, the gene's own first; one that finds no
    room is left out.
    """
    others = shown["others"].sort_values("tss")
    promoters = [(shown["tss"], shown["strand"], shown["gene_name"])]
    promoters += zip(others["tss"], others["strand"], others["gene_name"], strict=True)
    taken: list[list[tuple[float, float]]] = [[] for _ in range(NAME_ROWS)]
    names = []
    for tss, strand, name in promoters:
        at = float(scale.kb(tss))
        width = scale.range_kb * (len(name) + 1) * _CHARACTER_INCHES / (0.85 * WIDTH_INCHES)
        low = max(min(at - width / 2, scale.kb(scale.end) - width), scale.kb(scale.start))
        free = [
            row
            for row, spans in enumerate(taken)
            if all(low + width <= first or low >= last for first, last in spans)
        ]
        row = free[0] if name and free else -1
        if row >= 0:
            taken[row].append((low, low + width))
        names.append(_Name(at, strand, name, float(low + width / 2), row, not names))
    return names


def _rows_of(names: Sequence[_Name]) -> int:
    return 1 + max(name.row for name in names)


def _draw_promoters(axes: Axes, names: Sequence[_Name], scale: _Scale) -> None:
    """An arrow a promoter, in its direction, and its name."""
    tip_kb = 0.018 * scale.range_kb
    for name in names:
        colour = plots.DARK if name.is_own else plots.GREY
        axes.annotate(
            "",
            (name.at + tip_kb * (1 if name.strand == "+" else -1), 0.24),
            xytext=(name.at, 0.24),
            arrowprops={
                "arrowstyle": "-|>",
                "color": colour,
                "shrinkA": 0,
                "shrinkB": 0,
                "mutation_scale": 9,
                "linewidth": 1.0,
            },
            annotation_clip=False,
        )
        axes.plot(
            [name.at, name.at], [0, 0.24], color=colour, linewidth=1.4 if name.is_own else 1.0
        )
        if name.row >= 0:
            axes.text(
                name.middle,
                0.36 + 0.4 * name.row,
                name.text,
                ha="center",
                va="bottom",
                fontsize=8.5,
                color=colour,
                fontweight="bold" if name.is_own else "normal",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
            )


def _draw_signal(axes: Axes, name: str, values: np.ndarray, scale: _Scale, number: int) -> None:
    edges = np.linspace(scale.kb(scale.start), scale.kb(scale.end), len(values) + 1)
    colour = _SIGNAL_COLOURS[number % len(_SIGNAL_COLOURS)]
    axes.stairs(values, edges, fill=True, color=colour, linewidth=0)
    top = max(float(values.max(initial=0.0)), 1e-9)
    axes.set_ylim(min(0.0, float(values.min(initial=0.0))), 1.05 * top)
    axes.set_yticks([0, top], ["0", f"{top:.3g}"])
    axes.set_ylabel(name, rotation=0, ha="right", va="center")
    axes.tick_params(axis="x", length=0)


def _draw_bars(
    axes: Axes, table: pd.DataFrame, values: pd.Series, colours: list, scale: _Scale, label: str
) -> None:
    middle, width = scale.boxes(table)
    heights = values.to_numpy(float)
    axes.bar(middle, heights, width=width, color=colours, linewidth=0)
    axes.axhline(0, color=plots.DARK, linewidth=0.8)
    low, high = min(heights.min(initial=0.0), 0.0), max(heights.max(initial=0.0), 0.0)
    margin = 0.08 * max(high - low, 1e-9)
    axes.set_ylim(low - margin * (low < 0), high + margin * (high > 0 or low == 0))
    axes.yaxis.set_major_locator(MaxNLocator(3, min_n_ticks=2))
    axes.spines["bottom"].set_visible(low == 0)
    axes.set_ylabel(label, rotation=0, ha="right", va="center")
    axes.tick_params(axis="x", length=0)


def _say(axes: Axes, text: str) -> None:
    axes.annotate(
        text,
        (1.0, 1.0),
        xycoords="axes fraction",
        xytext=(-2, 1),
        textcoords="offset points",
        ha="right",
        va="bottom",
        fontsize=8,
        color=plots.GREY,
    )


def _bare(axes: Axes) -> None:
    axes.set_yticks([])
    axes.tick_params(axis="x", length=0)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
