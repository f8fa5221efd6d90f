"""Figures: styles stay as they were, any number of points, marks and arcs where they belong."""

import numpy as np
import pandas as pd
import pytest
from made_up_runs import history

from epinformer_jax.analysis import plots


def test_a_figure_does_not_change_the_users_style():
    import matplotlib

    before = dict(matplotlib.rcParams)
    figure = plots.training_curves({"fold_1": history()})
    assert plots.to_svg(figure) == plots.to_svg(plots.training_curves({"fold_1": history()}))
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("n", [0, 1, 2, 50, plots.HEXBIN_FROM])
def test_any_number_of_points_can_be_drawn(n):
    rng = np.random.default_rng(0)
    x = rng.normal(size=n)
    figure = plots.predicted_vs_measured(x + rng.normal(size=n), x)
    assert f"n = {n:,}" in figure.axes[0].get_title(loc="left")
    assert plots.png_data_uri(figure, dpi=40).startswith("data:image/png;base64,")


def test_r_in_the_title_counts_finite_examples_only():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=50), rng.normal(size=50)
    r = np.corrcoef(x, y)[0, 1]
    figure = plots.predicted_vs_measured(np.append(x, np.nan), np.append(y, 1.0), title="T")
    assert figure.axes[0].get_title(loc="left") == f"T   r = {r:.3f}, n = 50, 1 not finite"


@pytest.mark.parametrize("history_rows", [1, 4])
def test_the_epoch_kept_is_marked(history_rows):
    table = history(history_rows)
    table["valid_pearson"] = [0.5, 0.7, 0.6, 0.65][:history_rows]
    axes = plots.training_curves({"fold_1": table}).axes[1]
    marks = [line for line in axes.lines if line.get_marker() == "o" and len(line.get_xdata())]
    assert [float(mark.get_xdata()[0]) for mark in marks] == [1.0 if history_rows == 1 else 2.0]
    stated = plots.training_curves({"fold_1": table}, {"fold_1": 1}).axes[1]
    assert any(len(x := line.get_xdata()) == 1 and x[0] == 1 for line in stated.lines)


def test_arcs_reach_from_each_element_to_the_tss():
    elements = pd.DataFrame(
        {
            "chrom": "chr1",
            "start": [40_000, 129_500],
            "end": [41_000, 130_500],
            "activity": [1.0, 2.0],
            "contact": [0.0, 0.0],
            "attention": [0.1, 0.4],
        }
    )
    figure = plots.locus(elements, tss=100_000, title="GENE1", strand="-")
    arcs = [patch for patch in figure.axes[0].patches if hasattr(patch, "theta1")]
    spans = sorted((arc.center[0] - arc.width / 2, arc.center[0] + arc.width / 2) for arc in arcs)
    np.testing.assert_allclose(spans, [(-59.5, 0), (0, 30.0)], atol=1e-9)
    weak, strong = sorted(arcs, key=lambda arc: arc.get_linewidth())
    assert strong.center[0] == pytest.approx(15.0) and weak.center[0] == pytest.approx(-29.75)
    assert "chr1:100,001" in figure.axes[3].get_xlabel()


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plots.locus(pd.DataFrame(), tss=1), "no element to draw"),
        (lambda: plots.comparison_bars([]), "no score"),
        (lambda: plots.fold_points({}), "no fold"),
        (lambda: plots.training_curves({}), "no history"),
    ],
)
def test_nothing_to_draw_is_refused(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
