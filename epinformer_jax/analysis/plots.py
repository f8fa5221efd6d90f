"""Figures: predicted against measured, training curves, predictors and folds compared, one locus.

Every function takes plain tables or arrays and returns a matplotlib Figure without touching pyplot
or a display; `to_svg` and `png_data_uri` turn it into something a page can hold. Colours are those
of Okabe and Ito, told apart by all readers and, with the marker shapes, in print without colour.
"""

import base64
import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from jaxtyping import Num
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Arc, Rectangle
from matplotlib.ticker import MaxNLocator

BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
GREY, DARK, LIGHT = "#8A8F98", "#24292F", "#D8DCE2"
DENSITY = LinearSegmentedColormap.from_list("density", ["#CFE3F1", BLUE, "#08263F"])
ATTENTION = LinearSegmentedColormap.from_list("attention", ["#F2C9A8", VERMILLION, "#6B2A00"])

# Above this many points single marks hide each other, and a density says more.
HEXBIN_FROM = 1500

_STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.labelsize": 10,
    "axes.edgecolor": DARK,
    "axes.labelcolor": DARK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": DARK,
    "xtick.color": DARK,
    "ytick.color": DARK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "epinformer_jax",
}


class Score(NamedTuple):
    """A value with its interval, for a bar or a point; `kind` is model, baseline or control."""

    name: str
    value: float
    low: float
    high: float
    kind: str = "baseline"


_COLOUR_OF_KIND = {"model": BLUE, "best": ORANGE, "baseline": GREY, "control": LIGHT}


def _styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Runs a drawing function under this module's style and no other."""

    @wraps(draw)
    def styled(*args, **kwargs):
        with style():
            return draw(*args, **kwargs)

    return styled


@contextlib.contextmanager
def style():
    """Inside, figures have this module's style and no other."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


@_styled
def predicted_vs_measured(
    measured: Num[np.ndarray, "N"],
    prediction: Num[np.ndarray, "N"],
    *,
    title: str = "",
    unit: str = "",
) -> Figure:
    """Measured over predicted, as points or, from HEXBIN_FROM on, as a density.

    Two lines: equality, and the least-squares line of measured on predicted (the calibration). The
    title ends with Pearson's r and n; examples that are not finite are left out and counted there.
    """
    finite = np.isfinite(measured) & np.isfinite(prediction)
    x, y = np.asarray(prediction, float)[finite], np.asarray(measured, float)[finite]
    figure = Figure(figsize=(5.2, 4.6), layout="constrained")
    axes = figure.add_subplot()
    defined = len(x) > 1 and np.ptp(x) > 0
    if len(x) >= HEXBIN_FROM and defined and np.ptp(y) > 0:
        cells = axes.hexbin(x, y, gridsize=55, mincnt=1, norm=LogNorm(), cmap=DENSITY, linewidths=0)
        bar = figure.colorbar(cells, ax=axes, shrink=0.6, aspect=18, pad=0.02)
        bar.set_label("Number per cell")
        bar.outline.set_visible(False)
    else:
        axes.plot(x, y, "o", color=BLUE, markersize=3.6, alpha=0.45, markeredgewidth=0)
    facts = [f"n = {len(x):,}"]
    if defined:
        ends = np.array([x.min(), x.max()])
        axes.plot(ends, ends, color=GREY, linewidth=1.1, dashes=(4, 3), label="Equal")
        slope, intercept = np.polyfit(x, y, 1)
        axes.plot(ends, intercept + slope * ends, color=VERMILLION, linewidth=1.8)
        axes.lines[-1].set_label(f"Least squares, slope {slope:.2f}")
        axes.legend(loc="upper left")
        if np.ptp(y) > 0:
            facts.insert(0, f"r = {np.corrcoef(x, y)[0, 1]:.3f}")
    if not finite.all():
        facts.append(f"{(~finite).sum():,} not finite")
    suffix = f" ({unit})" if unit else ""
    axes.set_xlabel(f"Predicted{suffix}")
    axes.set_ylabel(f"Measured{suffix}")
    axes.set_title(f"{title}   {', '.join(facts)}".strip())
    return figure


@_styled
def training_curves(
    histories: Mapping[str, pd.DataFrame], best_epochs: Mapping[str, int] | None = None
) -> Figure:
    """Loss and validation Pearson by epoch, a thin line a fold; a point marks each best epoch.

    The best epoch is the stated one (the epoch whose weights were kept), else that of the highest
    validation Pearson.

    Raises:
      ValueError: there is no history.
    """
    if not histories:
        raise ValueError("training_curves: no history, expected at least one fold's table")
    stated = best_epochs or {}
    figure = Figure(figsize=(8.6, 3.3), layout="constrained")
    loss_axes, score_axes = figure.subplots(1, 2)
    width, alpha = (1.8, 1.0) if len(histories) == 1 else (1.1, 0.65)
    for name, history in histories.items():
        epoch = history["epoch"].to_numpy()
        marker = "." if len(epoch) == 1 else ""
        for column, colour in (("train_loss", GREY), ("valid_loss", BLUE)):
            if column in history:
                loss = history[column].to_numpy(float)
                loss_axes.plot(epoch, loss, color=colour, lw=width, alpha=alpha, marker=marker)
        score = history["valid_pearson"].to_numpy(float)
        score_axes.plot(epoch, score, color=BLUE, linewidth=width, alpha=alpha)
        best = stated.get(name)
        if best is None and np.isfinite(score).any():
            best = epoch[np.nanargmax(score)]
        for at in np.flatnonzero(epoch == best):
            score_axes.plot(epoch[at], score[at], "o", color=VERMILLION, markersize=5.5, zorder=3)
            if len(histories) == 1:
                score_axes.annotate(
                    f"epoch {epoch[at]}: {score[at]:.3f}",
                    (epoch[at], score[at]),
                    xytext=(0, -16),
                    textcoords="offset points",
                    ha="center",
                    fontsize=9,
                )
    loss_axes.plot([], [], color=GREY, linewidth=1.8, label="Training")
    loss_axes.plot([], [], color=BLUE, linewidth=1.8, label="Validation")
    loss_axes.legend(loc="upper right")
    score_axes.plot([], [], "o", color=VERMILLION, markersize=5.5, label="Epoch kept")
    score_axes.legend(loc="lower right")
    for axes, label in ((loss_axes, "Loss"), (score_axes, "Validation Pearson r")):
        axes.set_xlabel("Epoch")
        axes.set_ylabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.margins(x=0.04, y=0.12)
        if all(len(history) == 1 for history in histories.values()):
            only = [history["epoch"].iloc[0] for history in histories.values()]
            axes.set_xlim(min(only) - 0.5, max(only) + 0.5)
    return figure


@_styled
def comparison_bars(
    scores: Sequence[Score], *, label: str = "Pearson r", ceiling: float | None = None
) -> Figure:
    """One horizontal bar a predictor from 0, with its interval and value; undefined scores say so.

    Raises:
      ValueError: there is no score.
    """
    if not scores:
        raise ValueError("comparison_bars: no score, expected at least one")
    figure = Figure(figsize=(7.2, 0.7 + 0.42 * len(scores)), layout="constrained")
    axes = figure.add_subplot()
    reach = 0.0
    for row, score in enumerate(scores):
        text = "undefined"
        if np.isfinite(score.value):
            axes.barh(row, score.value, height=0.62, color=_COLOUR_OF_KIND[score.kind])
            ends = [end for end in (score.low, score.high) if np.isfinite(end)]
            if len(ends) == 2:
                axes.plot(ends, [row, row], color=DARK, linewidth=1.3)
            reach = max(reach, score.value, *ends)
            text = f"{score.value:.3f}".replace("-", "\N{MINUS SIGN}")
        axes.annotate(
            text,
            (1.0, row),
            xycoords=("axes fraction", "data"),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            fontweight="bold" if score.kind == "model" else "normal",
        )
    if ceiling is not None and np.isfinite(ceiling):
        axes.axvline(ceiling, color=DARK, linewidth=1, dashes=(4, 3))
        axes.annotate(
            f"noise ceiling {ceiling:.3f}",
            (ceiling, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(-3, 2),
            textcoords="offset points",
            ha="right",
            fontsize=9,
        )
        reach = max(reach, ceiling)
    axes.axvline(0, color=DARK, linewidth=0.8)
    axes.set_yticks(range(len(scores)), [score.name for score in scores])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.invert_yaxis()
    axes.set_xlim(right=1.03 * reach or 1.0)
    axes.set_xlabel(label)
    return figure


@_styled
def fold_points(
    folds: Mapping[str, tuple[Score, Score | None]], *, label: str = "Pearson r"
) -> Figure:
    """Model and best baseline fold by fold, points with intervals; the axis need not start at 0.

    Raises:
      ValueError: there is no fold.
    """
    if not folds:
        raise ValueError("fold_points: no fold, expected at least one")
    figure = Figure(figsize=(max(4.6, 1.6 + 0.58 * len(folds)), 3.3), layout="constrained")
    axes = figure.add_subplot()
    named = set()
    for place, pair in enumerate(folds.values()):
        for score, colour, marker, shift in zip(
            pair, (BLUE, ORANGE), ("o", "s"), (-0.14, 0.14), strict=True
        ):
            if score is None or not np.isfinite(score.value):
                continue
            if np.isfinite(score.low) and np.isfinite(score.high):
                axes.vlines(place + shift, score.low, score.high, color=colour, linewidth=1.6)
            axes.plot(place + shift, score.value, marker, color=colour, markersize=6)
            if score.name not in named:
                axes.lines[-1].set_label(score.name)
                named.add(score.name)
    axes.set_xticks(range(len(folds)), [name.removeprefix("fold_") for name in folds])
    axes.set_xlim(-0.6, len(folds) - 0.4)
    axes.set_xlabel("Fold")
    axes.set_ylabel(label)
    axes.yaxis.grid(True, color=LIGHT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.margins(y=0.1)
    if named:
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return figure


@_styled
def locus(elements: pd.DataFrame, *, tss: int, title: str = "", strand: str = "") -> Figure:
    """One gene's elements on a kb axis around its TSS, with arcs for attention and three bar rows.

    `elements` has chrom, start, end, activity, contact, attention; coordinates in bp, 0-based
    half-open. An arc's width and colour grow with attention. Bars start at 0.

    Raises:
      ValueError: there is no element.
    """
    if not len(elements):
        raise ValueError("locus: no element to draw, expected at least one row")
    start_kb = (elements["start"].to_numpy() - tss) / 1000.0
    end_kb = (elements["end"].to_numpy() - tss) / 1000.0
    middle_kb = (start_kb + end_kb) / 2
    reach_kb = max(1.06 * np.abs(middle_kb).max(), 5.0)
    figure = Figure(figsize=(8.6, 6.0), layout="constrained")
    arcs, *rows = figure.subplots(4, 1, sharex=True, height_ratios=[3.0, 1, 1, 1])
    attention = elements["attention"].to_numpy(float)
    norm = Normalize(0.0, max(float(np.nanmax(attention, initial=0.0)), 1e-9))
    _draw_arcs(arcs, start_kb, end_kb, attention, norm, reach_kb)
    _draw_gene(arcs, strand, reach_kb)
    arcs.set_title(title)
    bar_kb = max(0.008 * reach_kb, 0.05)
    colours = ATTENTION(norm(attention))
    for axes, name in zip(rows, ("activity", "contact", "attention"), strict=True):
        colour = colours if name == "attention" else GREY
        axes.bar(middle_kb, elements[name].to_numpy(float), width=bar_kb, color=colour)
        axes.axvline(0, color=DARK, linewidth=0.8, dashes=(2, 3))
        axes.set_ylabel(name.capitalize(), rotation=0, ha="right", va="center")
        axes.yaxis.set_major_locator(MaxNLocator(3))
        axes.set_ylim(bottom=0)
    rows[-1].set_xlim(-reach_kb, reach_kb)
    chrom = elements["chrom"].iloc[0]
    rows[-1].set_xlabel(f"Distance from TSS (kb); TSS at {chrom}:{tss + 1:,} (1-based)")
    scale = figure.colorbar(
        ScalarMappable(norm, ATTENTION), ax=arcs, location="right", shrink=0.7, aspect=14, pad=0.01
    )
    scale.set_label("Attention")
    scale.outline.set_visible(False)
    figure.align_ylabels(rows)
    return figure


def _draw_arcs(axes: Axes, start_kb, end_kb, attention, norm: Normalize, reach_kb: float) -> None:
    """Boxes on the line, half ellipses to the TSS; weak arcs first, so that strong ones show."""
    order = np.argsort(attention, kind="stable")
    for start, end, value in zip(start_kb[order], end_kb[order], attention[order], strict=True):
        share = float(norm(value))
        colour = ATTENTION(share)
        middle, box = (start + end) / 2, max(end - start, 0.006 * reach_kb)
        axes.add_patch(
            Arc(
                (middle / 2, 0.0),
                abs(middle),
                2 * abs(middle) / reach_kb,
                theta1=0,
                theta2=180,
                color=colour,
                linewidth=0.6 + 3.4 * share,
            )
        )
        axes.add_patch(
            Rectangle((middle - box / 2, -0.06), box, 0.06, facecolor=DARK, edgecolor="none")
        )
    axes.set_ylim(-0.24, 1.06)
    axes.axhline(-0.03, color=DARK, linewidth=0.8, zorder=0)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="x", length=0)


def _draw_gene(axes: Axes, strand: str, reach_kb: float) -> None:
    """The TSS: an arrow in the gene's direction where the strand is known, else a mark."""
    axes.plot([0, 0], [-0.13, 0.0], color=DARK, linewidth=1.6)
    if strand in ("+", "-"):
        tip = 0.05 * reach_kb * (1 if strand == "+" else -1)
        axes.annotate(
            "",
            (tip, -0.13),
            xytext=(0, -0.13),
            arrowprops={"arrowstyle": "-|>", "color": DARK, "shrinkA": 0, "shrinkB": 0},
        )
    axes.text(0, -0.15, "TSS", ha="center", va="top", fontsize=9)


def to_svg(figure: Figure) -> str:
    """The figure as SVG text, the same bytes for the same figure; letters are drawn as shapes."""
    buffer = io.StringIO()
    with style():
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def svg_data_uri(figure: Figure) -> str:
    """The figure as an SVG image that stands inside an HTML attribute."""
    return "data:image/svg+xml;base64," + base64.b64encode(to_svg(figure).encode()).decode()


def png_data_uri(figure: Figure, *, dpi: int = 160) -> str:
    """The figure as a PNG image that stands inside an HTML attribute."""
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
