"""Scores agree with scipy and with plain resampling; what is undefined is NaN."""

import json
import math
import time

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis.extra import numpy as hnp
from scipy import stats

from epinformer_jax.train import metrics

# Multiples of 1/8 within 100: ties are frequent and sums are exact.
VALUES = st.integers(-800, 800).map(lambda number: number / 8)


def vectors(count: int, *, least: int = 2):
    """`count` vectors of one length."""
    return st.integers(least, 40).flatmap(
        lambda length: st.tuples(
            *(hnp.arrays(np.float64, length, elements=VALUES) for _ in range(count))
        )
    )


def example(n=300, groups=8, seed=0):
    """Measured, a good and a poor prediction, and groups of unequal size with their own offset."""
    rng = np.random.default_rng(seed)
    group = rng.choice(groups, n, p=np.arange(1, groups + 1) / sum(range(groups + 1)))
    measured = rng.normal(size=n) + 0.5 * group
    good = 0.7 * measured + rng.normal(size=n) * 0.6 + 0.2
    poor = 0.4 * measured + rng.normal(size=n)
    return measured, np.round(good, 1), poor, np.array([f"chr{g}" for g in group], object)


@hypothesis.given(vectors(2))
def test_correlations_agree_with_scipy(pair):
    x, y = pair
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert math.isnan(metrics.pearson(x, y))
        assert math.isnan(metrics.spearman(x, y))
        return
    assert metrics.pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)
    assert metrics.spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert metrics.pearson_squared(x, y) == pytest.approx(metrics.pearson(x, y) ** 2)


@hypothesis.given(vectors(2))
def test_calibration_is_the_regression_of_measured_on_predicted(pair):
    measured, prediction = pair
    if np.ptp(prediction) == 0:
        assert math.isnan(metrics.calibration_slope(measured, prediction))
        assert math.isnan(metrics.calibration_intercept(measured, prediction))
        return
    line = stats.linregress(prediction, measured)
    slope = metrics.calibration_slope(measured, prediction)
    intercept = metrics.calibration_intercept(measured, prediction)
    assert slope == pytest.approx(line.slope, abs=1e-9)
    assert intercept == pytest.approx(line.intercept, abs=1e-7)


def test_explained_variance_is_not_the_squared_correlation():
    measured = np.array([0.0, 1.0, 2.0, 3.0])
    assert metrics.explained(measured, measured + 10) == pytest.approx(1 - 400 / 5)
    assert metrics.pearson_squared(measured, measured + 10) == pytest.approx(1)
    assert metrics.mse(measured, measured + 10) == 100
    assert metrics.explained(measured, np.full(4, 1.5)) == 0


def test_float32_values_far_from_zero_are_scored_in_float64():
    rng = np.random.default_rng(0)
    x = (1000 + 0.01 * rng.normal(size=500)).astype(np.float32)
    y = (1000 + 0.01 * rng.normal(size=500)).astype(np.float32)
    expected = stats.pearsonr(x.astype(np.float64), y.astype(np.float64)).statistic
    assert metrics.pearson(x, y) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", metrics.METRICS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_value_that_is_not_finite_makes_every_score_nan(name, bad):
    good = np.array([1.0, 2.0, 3.0])
    for pair in ((np.array([1.0, bad, 2.0]), good), (good, np.array([1.0, bad, 2.0]))):
        assert math.isnan(metrics.METRICS[name](*pair))


@pytest.mark.parametrize("name", metrics.METRICS)
def test_no_example_scores_nan(name):
    assert math.isnan(metrics.METRICS[name](np.zeros(0), np.zeros(0)))


@pytest.mark.parametrize("groups", [8, 2])
def test_each_draw_equals_the_score_of_the_resampled_rows(groups):
    measured, prediction, _, names = example(n=120, groups=groups)
    labels, group = np.unique(names, return_inverse=True)
    found = metrics._samples(
        list(metrics.METRICS), measured, [prediction], group, len(labels), draws=25, seed=3
    )[0]
    if groups < metrics.MIN_GROUPS:
        group, labels = np.arange(120), np.arange(120)
    (counts,) = metrics._draw_counts(len(labels), draws=25, seed=3, block=25)
    assert (counts.sum(axis=1) == len(labels)).all()
    for draw, count in enumerate(counts):
        rows = np.repeat(np.arange(120), count[group])
        for name, metric in metrics.METRICS.items():
            expected = metric(measured[rows], prediction[rows])
            assert found[name][draw] == pytest.approx(expected, abs=1e-10), name


@hypothesis.given(vectors(2, least=3), st.integers(0, 5))
def test_draws_of_tied_and_constant_data_equal_the_resampled_score(pair, seed):
    x, y = np.round(pair[0] / 40), pair[1]
    rows = np.arange(len(x))
    names = ["pearson", "spearman", "explained", "calibration_slope"]
    found = metrics._samples(names, x, [y], rows, len(x), draws=6, seed=seed)[0]
    (counts,) = metrics._draw_counts(len(x), draws=6, seed=seed, block=6)
    for draw, count in enumerate(counts):
        chosen = np.repeat(rows, count)
        for name in names:
            expected = metrics.METRICS[name](x[chosen], y[chosen])
            assert found[name][draw] == pytest.approx(expected, abs=1e-8, nan_ok=True), name


def test_blocks_do_not_change_the_draws(monkeypatch):
    measured, prediction, _, groups = example()
    whole = metrics.bootstrap("spearman", measured, prediction, groups, draws=50, seed=1)
    monkeypatch.setattr(metrics, "_BLOCK_VALUES", 900)
    assert metrics.bootstrap("spearman", measured, prediction, groups, draws=50, seed=1) == whole


def test_intervals_cover_a_known_correlation_about_as_often_as_they_say():
    rng = np.random.default_rng(7)
    hits = 0
    for trial in range(200):
        group = rng.integers(0, 20, 200)
        x = rng.normal(size=200)
        y = 0.6 * x + 0.8 * rng.normal(size=200)
        interval = metrics.bootstrap("pearson", x, y, group, draws=200, seed=trial).intervals
        hits += interval["pearson"].low <= 0.6 <= interval["pearson"].high
    # 95 % nominal; the percentile bootstrap of 20 groups covers a little less. Binomial sd 1.7 %.
    assert 0.86 <= hits / 200 <= 0.99


def test_the_spread_between_groups_widens_the_interval():
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(10), 100)
    slope = rng.normal(1, 1.5, 10)[group]
    x = rng.normal(size=1000)
    y = slope * x + 0.3 * rng.normal(size=1000)
    by_group = metrics.bootstrap("pearson", x, y, group).intervals["pearson"]
    by_row = metrics.bootstrap("pearson", x, y, np.arange(1000)).intervals["pearson"]
    assert by_group.high - by_group.low > 3 * (by_row.high - by_row.low)


def test_few_groups_resample_rows_and_say_so():
    measured, prediction, _, _ = example()
    one = metrics.evaluate(measured, prediction, np.full(300, "chr1"))
    many = metrics.evaluate(measured, prediction, np.arange(300) % metrics.MIN_GROUPS)
    assert (one["resampled"], one["num_groups"]) == ("rows", 1)
    assert (many["resampled"], many["num_groups"]) == ("groups", metrics.MIN_GROUPS)
    rows = metrics.evaluate(measured, prediction, np.arange(300))
    assert one["spearman"] == rows["spearman"]
    assert one["pearson"]["low"] < one["pearson"]["value"] < one["pearson"]["high"]


def test_evaluate_is_plain_json_with_every_metric():
    measured, prediction, _, groups = example()
    scores = metrics.evaluate(measured, prediction, groups, draws=100)
    assert json.loads(json.dumps(scores)) == scores
    assert set(metrics.METRICS) < set(scores)
    assert scores["n"] == 300 and scores["not_finite"] == 0
    for name, metric in metrics.METRICS.items():
        assert scores[name]["value"] == metric(measured, prediction)


@pytest.mark.parametrize("length", [0, 1, 5])
def test_undefined_scores_do_not_raise(length):
    scores = metrics.evaluate(np.arange(length), np.zeros(length), np.arange(length), draws=10)
    assert scores["n"] == length
    assert all(math.isnan(bound) for bound in scores["pearson"].values())
    assert math.isnan(scores["mse"]["value"]) == (length == 0)


def test_diverged_predictions_are_counted_and_nan():
    prediction = np.array([1.0, np.nan, np.inf, 2.0, 3.0, 4.0])
    scores = metrics.evaluate(np.arange(6.0), prediction, np.arange(6), draws=10)
    assert scores["not_finite"] == 2
    assert math.isnan(scores["mse"]["value"]) and math.isnan(scores["mse"]["high"])


def test_parts_are_evaluated_apart_in_order_of_appearance():
    measured, prediction, _, groups = example()
    parts = np.array(["fold_2"] * 100 + ["fold_10"] * 200, object)
    found = metrics.evaluate_parts(measured, prediction, groups, parts, draws=20)
    assert list(found) == ["fold_2", "fold_10"]
    alone = metrics.evaluate(measured[:100], prediction[:100], groups[:100], draws=20)
    assert found["fold_2"] == alone


def test_a_better_prediction_gains_and_the_pairing_narrows_the_interval():
    measured, good, poor, groups = example()
    gain = metrics.paired_bootstrap(measured, good, poor, groups)
    value = metrics.pearson(measured, good) - metrics.pearson(measured, poor)
    assert gain["value"] == pytest.approx(value)
    assert gain["low"] > 0 and gain["p_value"] <= 2 / 1001 + 1e-12
    reverse = metrics.paired_bootstrap(measured, poor, good, groups)
    assert reverse["low"] == pytest.approx(-gain["high"]) and reverse["value"] == -gain["value"]
    near = good + 0.01 * np.random.default_rng(1).normal(size=300)
    small = metrics.paired_bootstrap(measured, good, near, groups)
    alone = metrics.bootstrap("pearson", measured, good, groups).intervals["pearson"]
    assert small["high"] - small["low"] < 0.2 * (alone.high - alone.low)


def test_a_prediction_does_not_gain_over_itself():
    measured, good, _, groups = example()
    same = metrics.paired_bootstrap(measured, good, good, groups, metric="spearman")
    assert (same["value"], same["low"], same["high"], same["p_value"]) == (0, 0, 0, 1)


def test_a_gain_over_a_constant_is_undefined():
    measured, good, _, groups = example()
    gain = metrics.paired_bootstrap(measured, good, np.full(300, 2.0), groups)
    assert all(math.isnan(gain[key]) for key in ("value", "low", "high", "p_value"))


@hypothesis.given(hnp.arrays(np.float64, st.integers(1, 30), elements=st.floats(0, 1)))
def test_adjusted_p_values_agree_with_scipy(p):
    expected = stats.false_discovery_control(p, method="bh")
    np.testing.assert_allclose(metrics.benjamini_hochberg(p), expected, rtol=1e-12)


def test_missing_p_values_are_not_tests():
    adjusted = metrics.benjamini_hochberg(np.array([0.01, np.nan, 0.04]))
    np.testing.assert_allclose(adjusted, [0.02, np.nan, 0.04])
    with pytest.raises(ValueError, match="p-value number 1 is 1.5, expected 0 to 1"):
        metrics.benjamini_hochberg(np.array([0.1, 1.5]))


def test_unknown_metrics_and_no_draws_are_refused():
    ones = np.arange(6.0)
    with pytest.raises(ValueError, match="unknown metric 'r2', expected one of pearson"):
        metrics.bootstrap("r2", ones, ones, ones)
    with pytest.raises(ValueError, match="draws=0, expected at least 1"):
        metrics.bootstrap("mse", ones, ones, ones, draws=0)


def test_a_genome_of_genes_takes_seconds():
    rng = np.random.default_rng(0)
    measured = rng.normal(size=18_377)
    started = time.process_time()
    metrics.evaluate(measured, measured + rng.normal(size=18_377), rng.integers(0, 23, 18_377))
    assert time.process_time() - started < 15  # about 1.5 s on one core
