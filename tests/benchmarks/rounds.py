"""Times taken in turn, and what is said of them: mean, median, spread, paired ratio.

In a round each contender has a turn of about the same length, a single run or hundreds of them:
the first runs after another process are slow, on either side, while memory comes back to this one.
Contenders alternate, so that whatever else the machine does falls on all of them. Ratios are
paired: round by round.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

MIN_ROUNDS, MAX_ROUNDS = 2, 8
TURN_S = 1.0  # the least length of a turn
WARM_UP_AT_MOST_S = 5.0  # a longer first run is kept: warming up would cost more than it brings


class Disagreement(ValueError):
    """Two contenders that must give the same numbers do not; their times mean nothing."""


class Times(NamedTuple):
    """Seconds of each run, in rounds, and the units of work in a run (genes, steps, jobs)."""

    rounds: list[list[float]]
    work: float


class Summary(NamedTuple):
    """Seconds a unit: mean of all runs; median, least and most of the rounds' means."""

    mean: float
    median: float
    low: float
    high: float
    runs: int
    rounds: int


class Ratio(NamedTuple):
    """How many times faster: ratio of all means; median, least and most of the rounds' ratios; and
    the reference's fastest run against our mean.
    """

    value: float
    median: float
    low: float
    high: float
    to_fastest: float


def check(numbers: Mapping[str, Sequence[float]], *, tolerance: float, where: str) -> float:
    """Largest difference between the first contender's numbers and each other's.

    Differences are relative to the largest number, where that is above 1.

    Raises:
      Disagreement: one is above `tolerance`, not finite, or of another length.
    """
    (first, expected), *others = numbers.items()
    scale = np.max([1.0, *np.abs(expected)])
    worst = 0.0
    for name, values in others:
        if len(values) != len(expected):
            raise Disagreement(
                f"{where}: {name} gives {len(values)} numbers, {first} {len(expected)}"
            )
        # NumPy's maximum keeps a NaN, Python's does not
        away = float(np.max([0.0, *np.abs(np.subtract(values, expected))]) / scale)
        if not away <= tolerance:
            raise Disagreement(
                f"{where}: {name} is {away:.2g} away from {first}, at most {tolerance:g} is allowed"
            )
        worst = max(worst, away)
    return worst


def interleave(
    runs: Mapping[str, Callable[[float], list[float]]],
    *,
    seconds: float,
    turn_s: float = TURN_S,
    least_runs: Mapping[str, int] | None = None,
    warm_up: Mapping[str, float] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, list[list[float]]]:
    """Seconds of each run, by contender and round: A B C, A B C, ...

    `runs[name](length)` makes runs until `length` seconds are over, one at least, and returns the
    seconds of each. A turn lasts `turn_s`, or as long as the first contender's of the round. There
    are as many rounds as fit into `seconds`, at least MIN_ROUNDS and as many as `least_runs` need,
    at most MAX_ROUNDS. `warm_up` holds the seconds of a first run that was made before; it counts,
    as part of the first round, where it was longer than WARM_UP_AT_MOST_S.
    """
    kept = {n: [s] for n, s in (warm_up or {}).items() if s > WARM_UP_AT_MOST_S}
    rounds: dict[str, list[list[float]]] = {name: [] for name in runs}
    first, started = next(iter(runs)), clock()
    for number in range(MAX_ROUNDS):
        before, length = clock(), turn_s
        for name, run in runs.items():
            spared = kept.get(name, []) if number == 0 else []
            left = length - sum(spared)
            rounds[name].append(spared + (run(left) if left > 0 or not spared else []))
            length = max(turn_s, sum(rounds[first][-1]))
        made = {name: sum(map(len, turns)) for name, turns in rounds.items()}
        enough = all(made[name] >= least for name, least in (least_runs or {}).items())
        spent, last = clock() - started, clock() - before
        if number + 1 >= MIN_ROUNDS and enough and spent + last > seconds:
            break
    return rounds


def summary(times: Times) -> Summary:
    """Seconds a unit of work."""
    means = [statistics.fmean(round_) / times.work for round_ in times.rounds]
    every = [value / times.work for round_ in times.rounds for value in round_]
    return Summary(
        statistics.fmean(every),
        statistics.median(means),
        min(means),
        max(means),
        len(every),
        len(means),
    )


def ratio(reference: Times, ours: Times) -> Ratio:
    """How many times less time a unit takes `ours` than `reference`.

    Raises:
      ValueError: they do not have the same number of rounds.
    """
    if len(reference.rounds) != len(ours.rounds):
        raise ValueError(
            f"{len(reference.rounds)} rounds against {len(ours.rounds)}; ratios are paired"
        )
    slow, fast = (
        [statistics.fmean(round_) / times.work for round_ in times.rounds]
        for times in (reference, ours)
    )
    paired = [a / b for a, b in zip(slow, fast, strict=True)]
    mean = summary(ours).mean
    value = summary(reference).mean / mean
    fastest = min(min(round_) for round_ in reference.rounds) / reference.work
    return Ratio(value, statistics.median(paired), min(paired), max(paired), fastest / mean)
