"""The scores of a run as a few lines of text: what stands on the screen at the end."""

from collections.abc import Mapping
from typing import Any

BASELINE = "baseline_"


def result_table(metrics: Mapping[str, Any]) -> str:
    """Model and baselines of metrics.json, best baseline first, then gain and ceiling.

    Each score stands with its 95 % interval (bootstrap over chromosomes, or over single rows where
    there are few); "undefined" where there is none.
    """
    scores = metrics["pooled"]
    baselines = [name for name in scores if name != "model"]
    baselines.sort(key=lambda name: -_number(scores[name]["pearson"]["value"], missing=-9.0))
    order = (["model"] if "model" in scores else []) + baselines
    rows = [("held-out score", "n", "Pearson r [95 %]", "MSE [95 %]")]
    for name in order:
        score = scores[name]
        cells = (interval_text(score[metric]) for metric in ("pearson", "mse"))
        rows.append((readable(name), f"{score['n']:,}", *cells))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)) for row in rows]
    lines = [line.rstrip() for line in lines]
    if metrics.get("best_baseline") and metrics.get("gain"):
        best = readable(metrics["best_baseline"])
        gain = interval_text(metrics["gain"]["pearson"], signed=True)
        lines.append(f"gain in r over the best baseline ({best}): {gain}")
    if metrics.get("ceiling") is not None:
        lines.append(f"noise ceiling of the labels: r {metrics['ceiling']:.3f}")
    if metrics.get("control", "none") != "none":
        lines.append(f"control run, no result of the method: {metrics['control']}")
    return "\n".join(lines)


def readable(name: str) -> str:
    """`baseline_boosted_trees` -> "boosted trees"."""
    return name.removeprefix(BASELINE).replace("_", " ")


def interval_text(interval: Mapping[str, Any], *, signed: bool = False) -> str:
    """value [low, high] with four decimals; "undefined" where there is no value."""
    value, low, high = (interval[key] for key in ("value", "low", "high"))
    if not _is_number(value):
        return "undefined"
    sign = "+" if signed else ""
    text = f"{value:{sign}.4f}"
    if _is_number(low) and _is_number(high):
        text += f" [{low:{sign}.4f}, {high:{sign}.4f}]"
    return text


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and value == value


def _number(value: Any, *, missing: float) -> float:
    return value if _is_number(value) else missing
