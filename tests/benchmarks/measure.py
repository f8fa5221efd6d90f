"""Measures one line: prepares its contenders, compares their numbers, then takes times in turn."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from tests.benchmarks import rounds
from tests.benchmarks.children import Worker
from tests.benchmarks.rounds import Times
from tests.benchmarks.table import Line

Say = Callable[[str], None]


def line(
    line: Line,
    workers: Mapping[str, Worker],
    allocator: str,
    *,
    seconds: float,
    quick: bool,
    say: Say,
) -> dict[str, Any]:
    """One line under one allocator, as it goes into the JSON.

    Raises:
      rounds.Disagreement: contenders that must give the same numbers do not; nothing was timed.
      RuntimeError: a worker failed.
    """
    ready: dict[str, dict[str, Any]] = {}
    warm_up: dict[str, float] = {}
    numbers: dict[str, list[float]] = {}
    try:
        for contender in line.contenders:
            say(f"{line.name}: prepare {contender.name}")
            ask = workers[contender.side].ask
            request = {"contender": contender.name, "job": contender.job}
            ready[contender.name] = ask("prepare", **request, options=contender.options)
            if contender.agrees:
                checked = ask("check", contender=contender.name)
                numbers[contender.name] = checked["numbers"]
                if checked["seconds"] is not None:
                    warm_up[contender.name] = checked["seconds"]
        agreement = compare(line, numbers)
        say(f"{line.name}: numbers agree to {agreement:.1g}; measure")
        times, others = _timed(line, workers, ready, warm_up, seconds=seconds, quick=quick)
    finally:
        for contender in line.contenders:
            with contextlib.suppress(RuntimeError):  # of a process that is gone
                workers[contender.side].ask("drop", contender=contender.name)
    return result(line, allocator, times, agreement, ready, others)


def compare(line: Line, numbers: Mapping[str, list[float]]) -> float:
    """Largest difference within any group of contenders that must agree.

    Raises:
      rounds.Disagreement: it is above the line's tolerance.
    """
    groups: dict[str, dict[str, list[float]]] = {}
    for contender in line.contenders:
        if contender.agrees:
            groups.setdefault(contender.agrees, {})[contender.name] = numbers[contender.name]
    return max(
        rounds.check(group, tolerance=line.tolerance, where=line.name) for group in groups.values()
    )


def result(
    line: Line,
    allocator: str,
    times: Mapping[str, Times],
    agreement: float,
    ready: Mapping[str, Mapping[str, Any]],
    others: Mapping[str, float],
) -> dict[str, Any]:
    """Times, ratios of each of ours to each reference, and whether targets were reached."""
    sides = {contender.name: contender.side for contender in line.contenders}
    summaries = {name: rounds.summary(own)._asdict() for name, own in times.items()}
    ratios = {
        name: {
            other: rounds.ratio(times[other], times[name])._asdict()
            for other in times
            if sides[other] == "reference"
        }
        for name in times
        if sides[name] == "ours"
    }
    targets = [
        {
            "ours": target.ours,
            "against": target.against,
            "at_least": target.at_least,
            "found": ratios[target.ours][target.against]["value"],
            "stretch": target.stretch,
            "passed": ratios[target.ours][target.against]["value"] >= target.at_least,
        }
        for target in line.targets
        if target.allocator == allocator
    ]
    return {
        "line": line.name,
        "title": line.title,
        "unit": line.unit,
        "note": line.note,
        "allocator": allocator,
        "agreement": agreement,
        "tolerance": line.tolerance,
        "contenders": {
            name: {
                "side": sides[name],
                "one_off": dict(ready[name]["one_off"]),
                "other_processes_cpus": others[name],
                "seconds_per_unit": summaries[name],
                "rounds": times[name].rounds,
                "work": times[name].work,
            }
            for name in times
        },
        "ratios": ratios,
        "targets": targets,
    }


def _timed(line, workers, ready, warm_up, *, seconds, quick):
    timed = [contender for contender in line.contenders if contender.is_timed]
    others = {contender.name: 0.0 for contender in timed}

    def runner(contender) -> Callable[[float], list[float]]:
        def run(length: float) -> list[float]:
            ask = workers[contender.side].ask
            reply = ask("run", contender=contender.name, length=length)
            others[contender.name] = max(others[contender.name], reply["others"])
            return reply["seconds"]

        return run

    taken = rounds.interleave(
        {contender.name: runner(contender) for contender in timed},
        seconds=seconds,
        turn_s=rounds.TURN_S / 4 if quick else rounds.TURN_S,
        least_runs={} if quick else {c.name: c.least for c in timed},
        warm_up=warm_up,
    )
    return {name: Times(own, ready[name]["work"]) for name, own in taken.items()}, others
