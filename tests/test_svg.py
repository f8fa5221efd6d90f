"""Inline charts: well-formed, and every bar and point where its value says."""

import xml.etree.ElementTree as ET

import hypothesis
import numpy as np
from hypothesis import strategies as st

from data_prep import svg

NAME = "{http://www.w3.org/2000/svg}"


@hypothesis.given(
    values=st.lists(st.floats(-1e6, 1e6) | st.just(float("nan")), max_size=60),
    bins=st.integers(1, 30),
)
def test_the_bars_of_a_histogram_are_as_high_as_their_counts(values, bins):
    tree = ET.fromstring(svg.histogram(np.array(values), title="a < b & c", x="x", bins=bins))
    finite = np.array(values)[np.isfinite(values)] if values else np.array([])
    heights = np.array([float(bar.get("height")) for bar in tree.iter(f"{NAME}rect")])
    if not finite.size:
        assert "no values" in [text.text for text in tree.iter(f"{NAME}text")]
        return
    counts = np.histogram(finite, bins=bins)[0]
    counts = counts[counts > 0]
    np.testing.assert_allclose(heights / heights.max(), counts / counts.max(), atol=1e-3)


def test_a_curve_runs_through_its_points_and_gaps_are_left_out():
    x = np.array([0.0, 1.0, 2.0, 4.0])
    lines = {"one": (x, x), "two": (x, np.array([4.0, np.nan, 2.0, 0.0]))}
    tree = ET.fromstring(svg.curves(lines, title="t", x="x", y="y"))
    drawn = [
        np.array([pair.split(",") for pair in line.get("points").split()], float)
        for line in tree.iter(f"{NAME}polyline")
    ]
    assert [len(points) for points in drawn] == [4, 3]
    steps = np.diff(drawn[0], axis=0)
    np.testing.assert_allclose(steps[:, 1] / steps[:, 0], steps[0, 1] / steps[0, 0], atol=2e-2)
    np.testing.assert_allclose(drawn[1][0], [drawn[0][0][0], drawn[0][-1][1]])
    texts = {text.text for text in tree.iter(f"{NAME}text")}
    assert {"one", "two", "t", "x", "y", "0", "4"} <= texts


def test_equal_values_and_no_lines_draw_something():
    for chart in (
        svg.histogram(np.ones(5), title="t", x="x"),
        svg.curves({"a": (np.ones(1), np.ones(1))}, title="t", x="x", y="y"),
        svg.curves({}, title="t", x="x", y="y"),
    ):
        assert ET.fromstring(chart).tag == f"{NAME}svg" and "nan" not in chart
