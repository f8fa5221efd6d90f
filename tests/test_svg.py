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


def texts_of(chart):
    return [text.text for text in ET.fromstring(chart).iter(f"{NAME}text")]


def test_a_long_tail_is_cut_off_and_said():
    values = np.concatenate([np.arange(200.0), [5000.0, 9000.0]])
    chart = svg.histogram(values, title="t", x="x", clip_share=0.01)
    assert "0.99 % beyond 199, up to 9,000" in texts_of(chart)
    bars = len(list(ET.fromstring(chart).iter(f"{NAME}rect")))
    assert bars == 40  # evenly spread over the width, where they were two bars before
    assert len(list(ET.fromstring(svg.histogram(values, title="t", x="x")).iter(f"{NAME}rect"))) < 5


def test_what_has_no_long_tail_is_shown_whole():
    for values in (np.arange(200.0), np.ones(300), np.array([1.0, 2.0])):
        chart = svg.histogram(values, title="t", x="x", clip_share=0.01)
        assert not any("beyond" in text for text in texts_of(chart))
