"""Sequence logos: letters as tall as what they contribute, over the effects of all substitutions.

Letters are drawn as shapes from the font that every figure here uses, in the colours sequence logos
usually have; a negative contribution hangs below the axis upside down.
"""

import functools
import os

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PathCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path as Shape
from matplotlib.textpath import TextPath
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.transforms import Affine2D

from epinformer_jax.analysis import plots
from epinformer_jax.analysis.plots import BLUE, DARK, GREEN, LIGHT, ORANGE, VERMILLION
from epinformer_jax.data import atomic

LETTERS = "ACGT"
COLOURS = (GREEN, BLUE, ORANGE, VERMILLION)
EFFECTS = LinearSegmentedColormap.from_list("effects", [BLUE, "#F7F7F7", VERMILLION])
ROW_BASES = 100  # letters in one row stay readable
MOST_ROWS = 4  # a longer sequence is shown as bars, with its strongest stretch as letters


def draw_logo(
    axes: Axes, heights: Float[np.ndarray, "4 L"], *, first: int = 0, gap: float = 0.04
) -> None:
    """Draws each base of a column as a letter of that height, small ones nearest to the axis.

    Column i takes the place first + i - 0.5 to first + i + 0.5; 0 draws nothing.
    """
    for channel, colour in enumerate(COLOURS):
        shapes = []
        for column in np.flatnonzero(heights[channel]):
            height = float(heights[channel, column])
            same_side = np.sign(heights[:, column]) == np.sign(height)
            nearer = same_side & (np.abs(heights[:, column]) < abs(height))
            base = float(heights[nearer, column].sum())
            scaled = (
                Affine2D().scale(1 - gap, height).translate(first + column - 0.5 + gap / 2, base)
            )
            shapes.append(_letter(LETTERS[channel]).transformed(scaled))
        if shapes:
            axes.add_collection(PathCollection(shapes, facecolors=colour, edgecolors="none"))
    up = np.where(heights > 0, heights, 0).sum(axis=0).max(initial=0.0)
    down = np.where(heights < 0, heights, 0).sum(axis=0).min(initial=0.0)
    room = 0.05 * max(up - down, 1e-12)
    axes.set_ylim(down - room, up + room)
    axes.set_xlim(first - 0.5, first + heights.shape[1] - 0.5)
    axes.axhline(0, color=DARK, linewidth=0.6)


def scan_figure(
    contribution: Float[np.ndarray, "L"],
    effects: Float[np.ndarray, "4 L"],
    one_hot: UInt8[np.ndarray, "4 L"],
    *,
    title: str = "",
    unit: str = "",
    start: int = -1,
) -> Figure:
    """A mutagenesis scan: contributions as letters above the effects of all substitutions.

    Up to 400 bases are written out in rows of up to 100. Of a longer sequence the contributions are
    bars, and the 100 bases that contribute most are written out below. `start` (0-based) turns
    positions into those of a genome, shown 1-based; -1: counted from 1 within the sequence.

    Raises:
      ValueError: there is no base.
    """
    length = len(contribution)
    if not length:
        raise ValueError("scan_figure: no base to draw, expected at least one")
    offset = max(start, 0) + 1
    if length <= ROW_BASES * MOST_ROWS:
        row = -(-length // -(-length // ROW_BASES))  # rows of about the same length
        stretches = [(at, min(at + row, length)) for at in range(0, length, row)]
        overview = []
    else:
        sums = np.convolve(np.abs(contribution), np.ones(ROW_BASES), mode="valid")
        best = int(np.argmax(sums))
        stretches, overview = [(best, best + ROW_BASES)], [(best, best + ROW_BASES)]
    heights = [1.0, 0.55] * len(stretches)
    heights = [1.0, *heights] if overview else heights
    with plots.style():
        figure = Figure(figsize=(11, 0.7 + 1.15 * sum(heights)), layout="constrained")
        rows = list(np.atleast_1d(figure.subplots(len(heights), 1, height_ratios=heights)))
        norm = _symmetric(effects)
        if overview:
            _draw_overview(rows.pop(0), contribution, overview[0], offset)
        logos, maps = rows[::2], rows[1::2]
        shared = _limits(contribution)
        for axes, below, (first, last) in zip(logos, maps, stretches, strict=True):
            shown = slice(first, last)
            width = stretches[0][1] - stretches[0][0]
            letters = one_hot[:, shown] * contribution[None, shown]
            draw_logo(axes, letters, first=first + offset)
            axes.set_ylim(*shared)
            _draw_effects(below, effects[:, shown], one_hot[:, shown], first + offset, norm)
            for each in (axes, below):
                each.set_xlim(first + offset - 0.5, first + offset + width - 0.5)
            axes.tick_params(axis="x", labelbottom=False, length=0)
            axes.spines["bottom"].set_visible(False)
            axes.yaxis.set_major_locator(MaxNLocator(3))
        (rows[0] if not overview else figure.axes[0]).set_title(title)
        figure.supylabel(f"Contribution ({unit})" if unit else "Contribution", fontsize=10)
        where = "Position in the contig (1-based)" if start >= 0 else "Position (1-based)"
        maps[-1].set_xlabel(where)
        scale = figure.colorbar(
            ScalarMappable(norm, EFFECTS),
            ax=rows,
            location="right",
            aspect=24,
            pad=0.01,
            shrink=0.8,
        )
        scale.set_label("Effect of the substitution" + (f" ({unit})" if unit else ""))
        scale.outline.set_visible(False)
    return figure


def save(figure: Figure, path: str | os.PathLike, *, dpi: int = 160) -> None:
    """Writes a figure as .png or .svg, whole or not at all."""
    kind = os.fspath(path).rpartition(".")[2]
    with plots.style(), atomic.atomic_file(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=dpi)


def _draw_overview(axes: Axes, contribution, stretch: tuple[int, int], offset: int) -> None:
    place = np.arange(len(contribution)) + offset
    axes.fill_between(place, contribution, step="mid", color=BLUE, linewidth=0)
    axes.axvspan(stretch[0] + offset - 0.5, stretch[1] + offset - 0.5, color=LIGHT, zorder=0)
    axes.axhline(0, color=DARK, linewidth=0.6)
    axes.set_xlim(offset - 0.5, offset + len(contribution) - 0.5)
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.xaxis.set_major_formatter(_THOUSANDS)


def _draw_effects(axes: Axes, effects, one_hot, first: int, norm: Normalize) -> None:
    """A row a base; a dot marks the one that stands there."""
    length = effects.shape[1]
    box = (first - 0.5, first + length - 0.5, 3.5, -0.5)
    axes.imshow(effects, cmap=EFFECTS, norm=norm, aspect="auto", interpolation="none", extent=box)
    rows, columns = np.nonzero(one_hot)
    axes.plot(columns + first, rows, ".", color=DARK, markersize=2.2)
    axes.set_yticks(range(4), list(LETTERS), fontsize=7)
    axes.tick_params(axis="y", length=0)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(11, integer=True))
    axes.xaxis.set_major_formatter(_THOUSANDS)


def _limits(values: Float[np.ndarray, "L"]) -> tuple[float, float]:
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    room = 0.06 * max(high - low, 1e-12)
    return low - room, high + room


def _symmetric(values: Float[np.ndarray, "4 L"]) -> Normalize:
    """Colours from the 99.5th percentile on are the strongest, so that one base hides no other."""
    reach = max(float(np.quantile(np.abs(values), 0.995)), 1e-12)
    return Normalize(-reach, reach)


@functools.cache
def _letter(letter: str) -> Shape:
    """The letter's shape, stretched to the unit square."""
    path = TextPath(
        (0, 0), letter, size=1, prop=FontProperties(family="DejaVu Sans", weight="bold")
    )
    box = path.get_extents()
    return path.transformed(
        Affine2D().translate(-box.x0, -box.y0).scale(1 / box.width, 1 / box.height)
    )


_THOUSANDS = FuncFormatter(lambda value, _: f"{value:,.0f}")
