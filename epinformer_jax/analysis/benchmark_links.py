"""Links: scores of genes and elements against pairs that are known, such as CRISPR or a simulation.

The scores that need no model (distance, activity, contact, ABC) stand in every table beside the
model's; a claim is a paired difference with its interval. Average precision is the area under the
precision-recall curve as a step function, tied scores taken together.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped

from epinformer_jax.analysis import plots_benchmark, summary
from epinformer_jax.data import delimited, tables
from epinformer_jax.train import rundir

DRAWS = 1000
IN_SAMPLE = ("yes", "validation")  # of the column in_training that `epinformer links` writes
MIN_GROUPS = 5
DISTANCE_BINS_KB = (0, 10, 25, 60, 100, 2000)
_BLOCK_VALUES = 2_000_000
DESCRIPTION = """\
Measure how well scores of genes and elements find the pairs that are known to be linked.

--truth has a row for each tested pair: gene_id, chrom, start, end, is_driver (true or false);
--columns names other columns, as gene_id=measuredGeneEnsemblId,start=chromStart,end=chromEnd,
is_driver=Regulated for CRISPR tables. --scores is what `epinformer links` wrote. A tested element
takes the best score of the gene's elements that overlap it; without any it ranks last, and the
coverage says how many do so. Scores of genes that a model was trained on are refused.

Writes pairs.tsv, metrics.json and precision_recall.svg."""


class Score(NamedTuple):
    """How a column of the links table becomes a score: larger is more likely a link."""

    column: str
    of: Callable[[np.ndarray], np.ndarray]
    is_model: bool


def _as_is(values):
    return values


SCORES: dict[str, Score] = {
    "removal": Score("removal_delta", np.abs, True),
    "removal_down": Score("removal_delta", np.negative, True),
    "gradient": Score("gradient", np.abs, True),
    "attention": Score("attention_mean", _as_is, True),
    "attention_abc": Score("attention_abc", _as_is, True),
    "abc": Score("abc", _as_is, False),
    "activity_contact": Score("activity_contact", _as_is, False),
    "activity": Score("activity", _as_is, False),
    "contact": Score("contact", _as_is, False),
    "distance": Score("distance", lambda bp: -np.abs(bp), False),
}
TRUTH_COLUMNS = ("gene_id", "chrom", "start", "end", "is_driver")


def read_truth(path: Path, renamed: Mapping[str, str]) -> pd.DataFrame:
    """gene_id, chrom, start, end, is_driver of the tested pairs; `renamed` gives their columns.

    Raises:
      ValueError: a column is missing or holds something else; names file and line.
    """
    raw = delimited.read_text(path)
    names = {column: renamed.get(column, column) for column in TRUTH_COLUMNS}
    delimited.require(raw, list(names.values()))
    readers = [delimited.as_name] * 2 + [delimited.as_position] * 2 + [delimited.as_flag]
    values = {
        column: read(raw, names[column])
        for column, read in zip(TRUTH_COLUMNS, readers, strict=True)
    }
    frame = pd.DataFrame(values)
    wrong = np.flatnonzero(frame["end"] <= frame["start"])
    if wrong.size:
        raise ValueError(f"{tables.where(raw, wrong[0])}: end is not after start; 0-based")
    return frame


def read_scores(path: Path, extra: Sequence[str] = ()) -> pd.DataFrame:
    """The links table with its numbers, and activity x contact; `extra` columns are read too.

    Raises:
      ValueError: a column is missing, a number is none, or a row is in-sample; names the line.
    """
    raw = delimited.read_text(path)
    delimited.require(raw, ["gene_id", "chrom", "start", "end", "activity", "contact", *extra])
    if "in_training" in raw and raw["in_training"].isin(IN_SAMPLE).any():
        row = int(np.argmax(raw["in_training"].isin(IN_SAMPLE)))
        raise ValueError(
            f"{tables.where(raw, row)}: gene {raw['gene_id'].iloc[row]} was seen in training "
            f"(in_training {raw['in_training'].iloc[row]}); score links with --held-out"
        )
    frame = pd.DataFrame({name: delimited.as_name(raw, name) for name in ("gene_id", "chrom")})
    for name in ("start", "end"):
        frame[name] = delimited.as_position(raw, name)
    wanted = [*(score.column for score in SCORES.values()), *extra]
    for name in dict.fromkeys(wanted):
        if name in raw:
            frame[name] = delimited.as_number(raw, name)
    frame["activity_contact"] = frame["activity"] * frame["contact"]
    return frame


def match(
    truth: pd.DataFrame, links: pd.DataFrame, extra: Sequence[str] = ()
) -> tuple[pd.DataFrame, list[str]]:
    """Each tested pair with its scores, and the names of the scores.

    A pair takes the largest score of its gene's elements that overlap it; without one its scores
    are NaN and `scored` is False.
    """
    known = {name: own for name, own in SCORES.items() if own.column in links}
    known |= {name: Score(name, _as_is, True) for name in extra}
    scored = links[["gene_id", "chrom", "start", "end"]].assign(
        **{f"{name}_": own.of(links[own.column].to_numpy()) for name, own in known.items()}
    )
    pairs = truth.reset_index(drop=True).rename_axis("pair").reset_index()
    both = pairs.merge(scored, on=["gene_id", "chrom"], suffixes=("", "_scored"))
    both = both[(both["start"] < both["end_scored"]) & (both["start_scored"] < both["end"])]
    best = both.groupby("pair")[[f"{name}_" for name in known]].max()
    best.columns = list(known)
    table = pairs.join(best, on="pair").drop(columns="pair")
    table.insert(len(truth.columns), "scored", table[list(known)[0]].notna())
    return table, list(known)


def average_precision(
    is_positive: Bool[np.ndarray, "N"],
    score: Float[np.ndarray, "N"],
    weights: Float[np.ndarray, "D N"] | None = None,
) -> Float[np.ndarray, "D"]:
    """Area under the step precision-recall curve, for each row of weights (one of ones without).

    Ties are taken together; NaN where no positive has weight.
    """
    if weights is None:
        weights = np.ones((1, len(score)))
    order = np.argsort(-score, kind="stable")
    ranked = score[order]
    last = np.flatnonzero(np.r_[ranked[1:] != ranked[:-1], True]) if len(ranked) else []
    seen = np.cumsum(weights[:, order], axis=1)[:, last]
    found = np.cumsum(weights[:, order] * is_positive[order], axis=1)[:, last]
    gained = np.diff(found, axis=1, prepend=0.0)
    precision = np.divide(found, seen, out=np.zeros_like(found), where=seen > 0)
    total = np.where(found[:, -1] > 0, found[:, -1], np.nan) if len(ranked) else np.nan
    return (gained * precision).sum(axis=1) / total


def evaluate(
    table: pd.DataFrame,
    names: Sequence[str],
    groups: Shaped[np.ndarray, "N"],
    *,
    reference: str,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Any]:
    """Average precision of each score with a 95 % bootstrap interval over groups, and how much the
    reference score is above each other one, on the same resamples.

    {"n", "positives", "base_rate", "num_groups", "auprc": {name: interval}, "gains": {name:
    difference}}. With fewer than 5 groups single pairs are resampled ("resampled" says so).
    """
    positive = table["is_driver"].to_numpy(bool)
    labels, group = np.unique(groups, return_inverse=True)
    rows = len(labels) < MIN_GROUPS
    if rows:
        group = np.arange(len(table))
    values = {name: table[name].to_numpy(np.float64) for name in names}
    samples = _resampled(positive, values, group, draws, seed)
    auprc, gains = {}, {}
    whole = {name: float(average_precision(positive, own)[0]) for name, own in values.items()}
    for name in names:
        auprc[name] = {"value": whole[name], **_interval(samples[name])}
        if name != reference:
            gain = samples[reference] - samples[name]
            smaller = min((gain <= 0).sum(), (gain >= 0).sum())
            gains[name] = {
                "value": whole[reference] - whole[name],
                **_interval(gain),
                "p_value": float(min(1.0, 2.0 * (smaller + 1) / (len(gain) + 1))),
            }
    return {
        "n": len(table),
        "positives": int(positive.sum()),
        "base_rate": float(positive.mean()),
        "resampled": "pairs" if rows else "groups",
        "num_groups": len(labels),
        "auprc": auprc,
        "gains": gains,
    }


def report(
    table: pd.DataFrame,
    names: Sequence[str],
    out: Path,
    *,
    reference: str,
    resample: str,
    draws: int = DRAWS,
) -> dict[str, Any]:
    """Writes pairs.tsv, metrics.json and precision_recall.svg; returns what metrics.json holds.

    Raises:
      ValueError: no pair is scored, or there are only positives or only negatives.
    """
    scored = table[table["scored"]]
    if not len(scored):
        raise ValueError("no tested pair overlaps a scored one; compare gene ids and coordinates")
    for part, what in ((table, "tested"), (scored, "scored")):
        if part["is_driver"].nunique() < 2:
            raise ValueError(f"the {len(part)} {what} pairs are all of one kind; nothing to rank")
    column = {"gene": "gene_id", "chrom": "chrom"}[resample]
    how = {"reference": reference, "draws": draws}
    baselines = [name for name in names if name in SCORES and not SCORES[name].is_model]
    lowest = table.fillna({name: scored[name].min() - 1.0 for name in names})
    full = evaluate(lowest, names, table[column].to_numpy(str), **how)
    best = max(baselines, key=lambda name: full["auprc"][name]["value"])
    content = {
        "task": "links",
        "coverage": {
            "pairs": len(table),
            "scored": len(scored),
            "positives": int(table["is_driver"].sum()),
            "positives_scored": int(scored["is_driver"].sum()),
        },
        "reference": reference,
        "best_baseline": best,
        "resampled_over": resample,
        "all": full,
        "scored": evaluate(scored, names, scored[column].to_numpy(str), **how),
        "by_distance_kb": _by_distance(scored, names),
    }
    out.mkdir(parents=True, exist_ok=True)
    rundir.write_tsv(out / "pairs.tsv", table)
    rundir.write_json(out / "metrics.json", content)
    figure = plots_benchmark.precision_recall(
        scored["is_driver"].to_numpy(bool),
        {name: scored[name].to_numpy(np.float64) for name in names},
        {name: content["scored"]["auprc"][name]["value"] for name in names},
        baselines=baselines,
    )
    plots_benchmark.write_svg(figure, out / "precision_recall.svg")
    return content


def describe(content: Mapping[str, Any]) -> str:
    """Scores and differences as lines of text, best first."""
    coverage, part = content["coverage"], content["scored"]
    lines = [
        f"{coverage['scored']:,} of {coverage['pairs']:,} pairs scored, "
        f"{coverage['positives_scored']:,} of {coverage['positives']:,} positives; base rate "
        f"{part['base_rate']:.3f}; intervals over {part['num_groups']} {part['resampled']}",
        f"{'score':<18}{'AUPRC [95 %]':<28}{content['reference']} minus it [95 %]",
    ]
    for name in sorted(part["auprc"], key=lambda name: -part["auprc"][name]["value"]):
        gain = part["gains"].get(name)
        told = summary.interval_text(gain, signed=True) if gain else ""
        marked = name + (" *" if name == content["best_baseline"] else "")
        lines.append(f"{marked:<18}{summary.interval_text(part['auprc'][name]):<28}{told}".rstrip())
    return "\n".join([*lines, "* best score that needs no model"])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `epinformer benchmark links`."""
    parser.add_argument("--truth", type=Path, required=True, help="tested pairs, is_driver or not")
    parser.add_argument("--scores", type=Path, required=True, help="table of `epinformer links`")
    parser.add_argument(
        "--columns",
        type=_renamed,
        default={},
        metavar="NAME=COLUMN,...",
        help="where the truth has gene_id, chrom, start, end, is_driver under other names",
    )
    parser.add_argument(
        "--extra-score",
        nargs="+",
        default=[],
        metavar="COLUMN",
        help="more columns of the scores, larger meaning linked",
    )
    parser.add_argument(
        "--reference",
        default="removal",
        help="the score that the others are compared with (default: %(default)s)",
    )
    parser.add_argument(
        "--resample",
        choices=("gene", "chrom"),
        default="gene",
        help="what is drawn for intervals (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, required=True, help="directory to write")


def run(args: argparse.Namespace) -> int:
    """Measures, writes the files, prints the scores; returns the exit code."""
    truth = read_truth(args.truth, args.columns)
    table, names = match(truth, read_scores(args.scores, args.extra_score), args.extra_score)
    if args.reference not in names:
        raise ValueError(
            f"--reference {args.reference} is not among the scores: {', '.join(names)}"
        )
    content = report(table, names, args.out, reference=args.reference, resample=args.resample)
    print(describe(content))
    print(args.out / "metrics.json")
    return 0


def _resampled(positive, values, group: Int[np.ndarray, "N"], draws: int, seed: int):
    """Average precision of every score in every draw; the draws are the same for all."""
    generator = np.random.default_rng(seed)
    count = int(group.max()) + 1
    found: dict[str, list[np.ndarray]] = {name: [] for name in values}
    block = max(1, _BLOCK_VALUES // max(len(group), 1))
    for first in range(0, draws, block):
        size = min(block, draws - first)
        drawn = generator.integers(count, size=(size, count))
        times = np.stack([np.bincount(row, minlength=count) for row in drawn]).astype(float)
        for name, own in values.items():
            found[name].append(average_precision(positive, own, times[:, group]))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _interval(samples: np.ndarray) -> dict[str, float]:
    defined = samples[np.isfinite(samples)]
    if 2 * len(defined) <= len(samples):
        return {"low": float("nan"), "high": float("nan")}
    low, high = np.quantile(defined, [0.025, 0.975])
    return {"low": float(low), "high": float(high)}


def _by_distance(table: pd.DataFrame, names: Sequence[str]) -> list[dict[str, Any]]:
    """Average precision within bins of the distance, where there is one and both kinds occur."""
    if "distance" not in names:
        return []
    kb = -table["distance"].to_numpy() / 1000
    rows = []
    for low, high in zip(DISTANCE_BINS_KB, DISTANCE_BINS_KB[1:], strict=False):
        part = table[(kb > low) & (kb <= high)]
        if part["is_driver"].nunique() == 2:
            positive = part["is_driver"].to_numpy(bool)
            scores = {name: part[name].to_numpy(np.float64) for name in names}
            row = {"from": low, "to": high, "n": len(part), "positives": int(positive.sum())}
            row["auprc"] = {
                name: float(average_precision(positive, own)[0]) for name, own in scores.items()
            }
            rows.append(row)
    return rows


def _renamed(text: str) -> dict[str, str]:
    pairs = dict(part.partition("=")[::2] for part in text.split(","))
    unknown = [name for name in pairs if name not in TRUTH_COLUMNS or not pairs[name]]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"{text!r}: {unknown[0]!r} is none of {', '.join(TRUTH_COLUMNS)}, or has no column"
        )
    return pairs
