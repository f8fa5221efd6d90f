"""Figures of benchmarks: precision-recall curves of several scores.

Drawn in the style of analysis.plots; functions take plain arrays and return a matplotlib Figure.
"""

import os
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.figure import Figure

from epinformer_jax.analysis import plots
from epinformer_jax.data import atomic

_COLOURS = (plots.BLUE, plots.VERMILLION, plots.GREEN, plots.ORANGE, "#CC79A7", "#56B4E9")
_DASHES = ("solid", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (3, 3)))


def precision_recall(
    is_positive: Bool[np.ndarray, "N"],
    scores: Mapping[str, Float[np.ndarray, "N"]],
    areas: Mapping[str, float],
    *,
    baselines: Sequence[str] = (),
) -> Figure:
    """Precision over recall of each score, best first in the legend; baselines grey and dashed."""
    with plots.style():
        figure = Figure(figsize=(7.4, 4.4), layout="constrained")
        axes = figure.add_subplot()
        rows = {True: 0, False: 0}
        for name in sorted(scores, key=lambda name: -areas[name]):
            order = np.argsort(-scores[name], kind="stable")
            ranked = scores[name][order]
            last = np.flatnonzero(np.r_[ranked[1:] != ranked[:-1], True])
            found = np.cumsum(is_positive[order])[last]
            recall, precision = found / found[-1], found / (last + 1)
            is_baseline = name in baselines
            place = rows[is_baseline]
            rows[is_baseline] += 1
            axes.step(
                np.r_[0.0, recall],
                np.r_[precision[0], precision],
                where="pre",
                color=plots.GREY if is_baseline else _COLOURS[place % len(_COLOURS)],
                linestyle=_DASHES[place % len(_DASHES)] if is_baseline else "solid",
                linewidth=1.3 if is_baseline else 1.8,
                zorder=2 if is_baseline else 3,
                label=f"{name.replace('_', ' ')} {areas[name]:.3f}",
            )
        rate = float(is_positive.mean())
        axes.axhline(rate, color=plots.LIGHT, linewidth=1.2, label=f"base rate {rate:.3f}")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("Recall")
        axes.set_ylabel("Precision")
        figure.legend(loc="outside right upper", title="Area under the curve", alignment="left")
        return figure


def write_svg(figure: Figure, path: str | os.PathLike) -> None:
    """Writes a figure as SVG, whole or not at all."""
    with atomic.atomic_file(path) as temporary:
        temporary.write_text(plots.to_svg(figure))
