"""Scores of predictions against measurements, with intervals; float64, NumPy, on the host.

Every score takes whole vectors, one number an example, every example counted once. What cannot be
computed is NaN, never an exception and never 0: a correlation where either side is constant, any
score where a value is NaN or infinite, or where there are fewer than two examples (mse: none).

Intervals are 95 % percentile bootstrap intervals over groups (chromosomes): neighbouring genes
share elements, so genes are not independent draws. Fewer than MIN_GROUPS groups say next to nothing
about the spread between groups (two chromosomes have three different resamples); then single rows
are resampled, and the result says so.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypedDict

import numpy as np
from jaxtyping import Float, Int, Num, Shaped
from scipy import stats

DRAWS = 1000
CONFIDENCE = 0.95
MIN_GROUPS = 5

# Draws are done in blocks of about this many values: memory does not grow with their number.
_BLOCK_VALUES = 200_000
# A variance below this share of the raw second moment is round-off of a constant.
_CONSTANT = 1e-12


class Interval(NamedTuple):
    """A value with its 95 % bootstrap interval; NaN where undefined."""

    value: float
    low: float
    high: float


class Bootstrap(NamedTuple):
    """Intervals by metric; `resampled` is "groups" or "rows", `num_groups` the number of groups."""

    intervals: dict[str, Interval]
    resampled: str
    num_groups: int


class Difference(TypedDict):
    """A metric of one prediction minus that of another; p_value is two-sided, of no difference."""

    value: float
    low: float
    high: float
    p_value: float
    resampled: str


def pearson(measured: Num[np.ndarray, "N"], prediction: Num[np.ndarray, "N"]) -> float:
    """Pearson's correlation; NaN where either side is constant, not finite, or shorter than 2."""
    x, y = _as_float64(measured, prediction)
    if not _usable(x, y) or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    x, y = x - x.mean(), y - y.mean()
    # Scaled by the largest value, so that squares neither overflow nor vanish.
    x, y = x / np.abs(x).max(), y / np.abs(y).max()
    return float(np.clip(x @ y / np.sqrt((x @ x) * (y @ y)), -1.0, 1.0))


def spearman(measured: Num[np.ndarray, "N"], prediction: Num[np.ndarray, "N"]) -> float:
    """Pearson's correlation of ranks, ties at their mean rank; NaN as for `pearson`."""
    x, y = _as_float64(measured, prediction)
    if not _usable(x, y):
        return float("nan")
    return pearson(stats.rankdata(x), stats.rankdata(y))


def pearson_squared(measured: Num[np.ndarray, "N"], prediction: Num[np.ndarray, "N"]) -> float:
    """The square of Pearson's correlation: blind to scale, offset and sign; not `explained`."""
    return pearson(measured, prediction) ** 2


def mse(measured: Num[np.ndarray, "N"], prediction: Num[np.ndarray, "N"]) -> float:
    """Mean squared error; NaN where there is no example or a value is not finite."""
    x, y = _as_float64(measured, prediction)
    return float(np.square(x - y).mean()) if _usable(x, y, least=1) else float("nan")


def explained(measured: Num[np.ndarray, "N"], prediction: Num[np.ndarray, "N"]) -> float:
    """1 - SSE / SST: the share of measured variance explained, negative when worse than the mean.

    NaN where the measured side is constant.
    """
    x, y = _as_float64(measured, prediction)
    if not _usable(x, y) or np.ptp(x) == 0:
        return float("nan")
    return float(1.0 - np.square(x - y).sum() / np.square(x - x.mean()).sum())


def calibration_slope(measured: Num[np.ndarray, "N"], prediction: Num[np.ndarray, "N"]) -> float:
    """Slope of measured = intercept + slope * prediction; 1 is right, below 1 is overconfident.

    NaN where the prediction is constant.
    """
    x, y = _as_float64(measured, prediction)
    if not _usable(x, y) or np.ptp(y) == 0:
        return float("nan")
    centred = y - y.mean()
    return float(centred @ (x - x.mean()) / (centred @ centred))


def calibration_intercept(
    measured: Num[np.ndarray, "N"], prediction: Num[np.ndarray, "N"]
) -> float:
    """Intercept of measured = intercept + slope * prediction, in label units; 0 is right."""
    x, y = _as_float64(measured, prediction)
    slope = calibration_slope(x, y)
    return float(x.mean() - slope * y.mean()) if np.isfinite(slope) else float("nan")


METRICS: dict[str, Callable[..., float]] = {
    "pearson": pearson,
    "spearman": spearman,
    "mse": mse,
    "pearson_squared": pearson_squared,
    "explained": explained,
    "calibration_slope": calibration_slope,
    "calibration_intercept": calibration_intercept,
}


def bootstrap(
    metrics: str | Sequence[str],
    measured: Num[np.ndarray, "N"],
    prediction: Num[np.ndarray, "N"],
    groups: Shaped[np.ndarray, "N"],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Bootstrap:
    """Values of metrics (names of METRICS) with 95 % intervals from resampling groups.

    All draws of all metrics use the same resamples, which depend on `groups`, `draws` and `seed`
    alone. A draw in which a metric is undefined is left out of its interval; when that is half of
    them or more, the interval is NaN.

    Raises:
      ValueError: an unknown metric, or `draws` below 1.
    """
    names = _metric_names(metrics)
    x, y = _as_float64(measured, prediction)
    labels, group = np.unique(groups, return_inverse=True)
    values = {name: METRICS[name](x, y) for name in names}
    samples = _samples(names, x, [y], group, len(labels), draws=draws, seed=seed)[0]
    intervals = {name: Interval(values[name], *_percentiles(samples[name])) for name in names}
    return Bootstrap(intervals, _what_is_resampled(len(labels)), len(labels))


def paired_bootstrap(
    measured: Num[np.ndarray, "N"],
    prediction: Num[np.ndarray, "N"],
    other: Num[np.ndarray, "N"],
    groups: Shaped[np.ndarray, "N"],
    *,
    metric: str = "pearson",
    draws: int = DRAWS,
    seed: int = 0,
) -> Difference:
    """A metric of `prediction` minus that of `other`, both on the same resamples.

    p_value is twice the smaller share of draws at or beyond 0, one added to count and draws, at
    most 1: it cannot fall below 2 / (draws + 1). For mse a negative value is the better one.

    Raises:
      ValueError: an unknown metric, or `draws` below 1.
    """
    (name,) = _metric_names(metric)
    x, y = _as_float64(measured, prediction)
    z = np.asarray(other, np.float64)
    labels, group = np.unique(groups, return_inverse=True)
    value = METRICS[name](x, y) - METRICS[name](x, z)
    first, second = _samples([name], x, [y, z], group, len(labels), draws=draws, seed=seed)
    samples = first[name] - second[name]
    low, high = _percentiles(samples)
    return Difference(
        value=float(value),
        low=low,
        high=high,
        p_value=_two_sided(samples) if np.isfinite(value) else float("nan"),
        resampled=_what_is_resampled(len(labels)),
    )


def evaluate(
    measured: Num[np.ndarray, "N"],
    prediction: Num[np.ndarray, "N"],
    groups: Shaped[np.ndarray, "N"],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Any]:
    """All metrics as plain numbers for metrics.json.

    {"n", one {"value", "low", "high"} a metric of METRICS, "resampled": "groups" or "rows",
    "num_groups", "not_finite": rows with a NaN or infinite value; where there is one, every score
    is NaN}.
    """
    result = bootstrap(list(METRICS), measured, prediction, groups, draws=draws, seed=seed)
    x, y = _as_float64(measured, prediction)
    return {
        "n": len(x),
        **{name: interval._asdict() for name, interval in result.intervals.items()},
        "resampled": result.resampled,
        "num_groups": result.num_groups,
        "not_finite": int((~(np.isfinite(x) & np.isfinite(y))).sum()),
    }


def evaluate_parts(
    measured: Num[np.ndarray, "N"],
    prediction: Num[np.ndarray, "N"],
    groups: Shaped[np.ndarray, "N"],
    parts: Shaped[np.ndarray, "N"],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """`evaluate` within each part (fold, cell type, ...), parts in order of first appearance."""
    names = list(dict.fromkeys(parts.tolist()))
    inside = {name: np.flatnonzero(parts == name) for name in names}
    return {
        str(name): evaluate(measured[rows], prediction[rows], groups[rows], draws=draws, seed=seed)
        for name, rows in inside.items()
    }


def benjamini_hochberg(p_values: Num[np.ndarray, "N"]) -> Float[np.ndarray, "N"]:
    """Adjusted p-values (false discovery rates); a NaN stays NaN and is not counted as a test.

    Raises:
      ValueError: a p-value outside 0..1.
    """
    p = np.asarray(p_values, np.float64)
    wrong = (p < 0) | (p > 1)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ValueError(f"benjamini_hochberg: p-value number {row} is {p[row]}, expected 0 to 1")
    adjusted = np.full(p.shape, np.nan)
    tested = np.flatnonzero(np.isfinite(p))
    order = tested[np.argsort(-p[tested], kind="stable")]  # largest first
    ranks = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum.accumulate(np.minimum(p[order] * len(order) / ranks, 1.0))
    return adjusted


def _as_float64(measured, prediction) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(measured, np.float64), np.asarray(prediction, np.float64)


def _usable(x: np.ndarray, y: np.ndarray, *, least: int = 2) -> bool:
    return len(x) >= least and bool(np.isfinite(x).all() and np.isfinite(y).all())


def _metric_names(metrics: str | Sequence[str]) -> list[str]:
    names = [metrics] if isinstance(metrics, str) else list(metrics)
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise ValueError(f"unknown metric {unknown[0]!r}, expected one of {', '.join(METRICS)}")
    return names


def _what_is_resampled(num_groups: int) -> str:
    return "groups" if num_groups >= MIN_GROUPS else "rows"


def _samples(
    names: Sequence[str],
    x: np.ndarray,
    predictions: Sequence[np.ndarray],
    group: Int[np.ndarray, "N"],
    num_groups: int,
    *,
    draws: int,
    seed: int,
) -> list[dict[str, Float[np.ndarray, " draws"]]]:
    """Each metric in each draw, for each prediction; the draws are the same for all."""
    if draws < 1:
        raise ValueError(f"bootstrap: {draws=}, expected at least 1")
    if not all(_usable(x, y) for y in predictions):
        return [{name: np.full(draws, np.nan) for name in names} for _ in predictions]
    if _what_is_resampled(num_groups) == "rows":
        group, num_groups = np.arange(len(x)), len(x)
    found = [{name: [] for name in names} for _ in predictions]
    moments = [_Moments(x, y, group, num_groups) for y in predictions]
    ranks = [_Ranks(x, y, group) if "spearman" in names else None for y in predictions]
    block = max(1, _BLOCK_VALUES // max(len(x), 1))
    for counts in _draw_counts(num_groups, draws=draws, seed=seed, block=block):
        for into, moment, rank in zip(found, moments, ranks, strict=True):
            scores = moment.scores(counts)
            if rank is not None:
                scores["spearman"] = rank.correlation(counts)
            for name in names:
                into[name].append(scores[name])
    return [{name: np.concatenate(parts) for name, parts in into.items()} for into in found]


def _draw_counts(
    num_groups: int, *, draws: int, seed: int, block: int
) -> Iterator[Int[np.ndarray, "block G"]]:
    """How often each group is drawn, block by block; always as many draws as there are groups."""
    generator = np.random.default_rng(seed)
    for start in range(0, draws, block):
        size = min(block, draws - start)
        drawn = generator.integers(num_groups, size=(size, num_groups))
        drawn += np.arange(size)[:, None] * num_groups
        counts = np.bincount(drawn.ravel(), minlength=size * num_groups)
        yield counts.reshape(size, num_groups)


class _Moments:
    """Sums over each group, of which every metric but Spearman's is a function."""

    def __init__(self, x: np.ndarray, y: np.ndarray, group: np.ndarray, num_groups: int):
        self.x_mean, self.y_mean = x.mean(), y.mean()
        error, x, y = np.square(x - y), x - self.x_mean, y - self.y_mean
        columns = (np.ones(len(x)), x, y, x * x, y * y, x * y, error)
        self.sums = np.stack(
            [np.bincount(group, weights=column, minlength=num_groups) for column in columns], axis=1
        )

    def scores(self, counts: Int[np.ndarray, "draws G"]) -> dict[str, np.ndarray]:
        """The metrics of each draw; NaN where undefined."""
        n, x, y, xx, yy, xy, error = (counts @ self.sums).T
        x, y = x / n, y / n
        var_x, var_y = _variance(xx / n, x), _variance(yy / n, y)
        covariance = xy / n - x * y
        correlation = np.clip(covariance / np.sqrt(var_x * var_y), -1.0, 1.0)
        slope = covariance / var_y
        return {
            "pearson": correlation,
            "pearson_squared": correlation**2,
            "mse": error / n,
            "explained": 1.0 - error / n / var_x,
            "calibration_slope": slope,
            "calibration_intercept": x + self.x_mean - slope * (y + self.y_mean),
        }


def _variance(second_moment: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Second moment minus squared mean; NaN where that is the round-off of a constant."""
    variance = second_moment - mean**2
    return np.where(variance > _CONSTANT * second_moment, variance, np.nan)


class _Ranks:
    """Exact Spearman correlation of resampled rows: ranked anew each draw, ties at their mean."""

    def __init__(self, x: np.ndarray, y: np.ndarray, group: np.ndarray):
        by_x = np.argsort(x, kind="stable")  # rows stand in the order of x from here on
        self.group = group[by_x]
        self.tie_x = _Ties(x[by_x])
        self.by_y = np.argsort(y[by_x], kind="stable")
        self.tie_y = _Ties(y[by_x][self.by_y])
        self.place_in_y = np.argsort(self.by_y)

    def correlation(self, counts: Int[np.ndarray, "draws G"]) -> Float[np.ndarray, " draws"]:
        """One correlation a draw; NaN where all ranks of a side are equal."""
        weights = counts[:, self.group].astype(np.float64)
        x = self.tie_x.centred_ranks(weights)
        y = self.tie_y.centred_ranks(weights[:, self.by_y])[:, self.place_in_y]
        weighted_x = weights * x
        var_x = np.einsum("dn,dn->d", weighted_x, x)
        covariance = np.einsum("dn,dn->d", weighted_x, y)
        var_y = np.einsum("dn,dn->d", weights * y, y)
        product = var_x * var_y
        product = np.where(product > 0, product, np.nan)
        return np.clip(covariance / np.sqrt(product), -1.0, 1.0)


class _Ties:
    """Where runs of equal values begin and end in a sorted vector."""

    def __init__(self, values: np.ndarray):
        is_first = np.r_[True, values[1:] != values[:-1]]
        first = np.flatnonzero(is_first)
        run = np.cumsum(is_first) - 1
        self.before = first[run]
        self.through = np.r_[first[1:], len(values)][run]
        self.is_free_of_ties = len(first) == len(values)

    def centred_ranks(self, weights: Float[np.ndarray, "draws N"]) -> np.ndarray:
        """Twice each row's mean rank among the weighted rows, minus the mean of that; integers."""
        total = np.zeros((len(weights), weights.shape[1] + 1))
        np.cumsum(weights, axis=1, out=total[:, 1:])
        count = total[:, -1:]
        if self.is_free_of_ties:
            return total[:, :-1] + total[:, 1:] - count
        return total[:, self.before] + total[:, self.through] - count


def _percentiles(samples: np.ndarray) -> tuple[float, float]:
    defined = samples[np.isfinite(samples)]
    if 2 * len(defined) <= len(samples):
        return float("nan"), float("nan")
    tail = (1.0 - CONFIDENCE) / 2
    low, high = np.quantile(defined, [tail, 1.0 - tail])
    return float(low), float(high)


def _two_sided(samples: np.ndarray) -> float:
    defined = samples[np.isfinite(samples)]
    smaller = min((defined <= 0).sum(), (defined >= 0).sum())
    return float(min(1.0, 2.0 * (smaller + 1) / (len(defined) + 1)))
