"""Activity of elements, TSS windows and 256 bp windows from reads, tracks or ready counts.

RPM = 1e6 x count / everything in the file that passes the same filter; activity is the geometric
mean of accessibility and H3K27ac RPM, not quantile-normalised (accessibility alone without
H3K27ac).

    python -m data_prep signals --regions elements.tsv.gz --accessibility dnase.bam \\
        --h3k27ac rep1.bam,rep2.bam --out elements_signals.tsv.gz

Several tables (--regions, --genes, --windows) are measured together, each file read once.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64

from data_prep.contig_ends import beyond_ends
from data_prep.element_class import PROMOTER, tss_windows
from data_prep.intervals import read_regions, sort_intervals
from data_prep.outputs import sibling, versions, write_frame, write_json
from data_prep.quantile import (
    FORMS,
    QuantileReference,
    by_position,
    by_rank,
    read_quantile_reference,
)
from data_prep.signal_files import CountingOptions, Measurement, measure_tables
from data_prep.signal_options import (
    add_signal_arguments,
    counting_options,
    requested_signals,
)
from data_prep.text_input import read_table

DESCRIPTION = "counts, RPM and activity of regions from BAM, CRAM, tagAlign, fragments or tracks"
POOLING = ("mean", "sum")
COLUMN_PREFIX = "column:"
ACTIVITY_OFFSET = 0.1
# Option -> its table in the output folder, where several are measured together.
TABLES = {"regions": "elements.tsv.gz", "genes": "promoters.tsv.gz", "windows": "windows.tsv.gz"}


@dataclass(frozen=True)
class Signal:
    """A track to measure: its name in the tables, its replicates, and totals where they are given.

    `sources` are paths, or `column:NAME` for counts that the region table itself holds.
    """

    name: str
    sources: tuple[str, ...]
    totals: tuple[float, ...] | None = None

    def __post_init__(self):
        if not self.sources:
            raise ValueError(f"signal {self.name}: no file given")
        if self.totals is not None and len(self.totals) != len(self.sources):
            raise ValueError(
                f"signal {self.name}: {len(self.totals)} totals for {len(self.sources)} files; "
                "give one for each, in order"
            )
        if self.totals is not None and min(self.totals) <= 0:
            raise ValueError(f"signal {self.name}: total {min(self.totals):g} is not positive")


@dataclass(frozen=True)
class Measured:
    """Signals over regions: a frame of NAME_count and NAME_rpm columns, and how it was made."""

    columns: pd.DataFrame
    details: dict[str, Any]


def measure_signals(
    regions: pd.DataFrame,
    signals: Sequence[Signal],
    options: CountingOptions,
    *,
    pool: str = "mean",
) -> Measured:
    """Measures every signal over one table of regions: `measure_together` of it alone."""
    return measure_together([regions], signals, options, pool=pool)[0]


def measure_together(
    tables: Sequence[pd.DataFrame],
    signals: Sequence[Signal],
    options: CountingOptions,
    *,
    pool: str = "mean",
) -> list[Measured]:
    """Measures every signal over the regions (chrom, start, end) of all tables, one pass a file.

    `pool="mean"` averages the RPM of replicates, each by its own depth; `"sum"` adds counts and
    totals first. NAME_count is the sum over replicates (for coverage tracks in bases, for
    fold-change NaN). Each table gets what it gets when measured alone.

    Raises:
      ValueError: an unknown way to pool, a missing count column, counts without a total, or what
        `signal_files.measure_tables` raises.
    """
    if pool not in POOLING:
        raise ValueError(f"pooling {pool!r} is unknown; expected one of {', '.join(POOLING)}")
    made = [Measured(pd.DataFrame(index=regions.index), {}) for regions in tables]
    for signal in signals:
        files = [_measure(signal, index, tables, options) for index in range(len(signal.sources))]
        for number, one in enumerate(made):
            _add_signal(one, signal, [measured[number] for measured in files], pool)
    return made


def _add_signal(made: Measured, signal: Signal, measured: Sequence[Measurement], pool: str) -> None:
    units = {one.unit for one in measured}
    if len(units) > 1:
        raise ValueError(
            f"signal {signal.name}: replicates come in {' and '.join(sorted(units))}; pool "
            "files of one kind"
        )
    unit = measured[0].unit
    count = pd.Series(np.sum([one.values for one in measured], axis=0), made.columns.index)
    if unit == "fold-change":
        count[:] = np.nan
    elif unit != "bases of coverage" and (count % 1 == 0).all():
        count = count.astype(np.int64)
    made.columns[f"{signal.name}_count"] = count
    made.columns[f"{signal.name}_rpm"] = pool_rpm(measured, how=pool)
    made.details[signal.name] = {
        "files": list(signal.sources),
        "totals": [one.total for one in measured],
        "unit": unit,
        "pooled_by": pool,
        "counted_in_regions": [float(one.values.sum()) for one in measured],
        "regions_on_contigs_the_file_lacks": [one.unmatched for one in measured],
    }


def pool_rpm(measured: Sequence[Measurement], *, how: str) -> Float64[np.ndarray, " n"]:
    """RPM over replicates: the mean of each one's RPM, or the RPM of all reads together."""
    if how == "mean" or measured[0].unit == "fold-change":
        return np.mean([one.rpm() for one in measured], axis=0)
    total = sum(one.total for one in measured)
    return np.sum([one.values for one in measured], axis=0) * 1e6 / total


def _measure(
    signal: Signal, index: int, tables: Sequence[pd.DataFrame], options: CountingOptions
) -> list[Measurement]:
    """One source of a signal over each table."""
    source = signal.sources[index]
    total = signal.totals[index] if signal.totals is not None else None
    if source.startswith(COLUMN_PREFIX):
        return [_counts_in(regions, signal, source, total, options) for regions in tables]
    measured = measure_tables(source, tables, options)
    return measured if total is None else [replace(one, total=total) for one in measured]


def _counts_in(
    regions: pd.DataFrame,
    signal: Signal,
    source: str,
    total: float | None,
    options: CountingOptions,
) -> Measurement:
    column = source.removeprefix(COLUMN_PREFIX)
    if column not in regions:
        raise ValueError(
            f"signal {signal.name}: the region table has no column {column!r}; it has "
            f"{', '.join(map(str, regions.columns))}"
        )
    if total is None:
        raise ValueError(
            f"signal {signal.name}: counts of column {column!r} need the reads behind them; give "
            f"--total {signal.name}=NUMBER"
        )
    values = pd.to_numeric(regions[column], errors="coerce").to_numpy(np.float64)
    for row in np.flatnonzero(~(values >= 0))[:1]:
        raise ValueError(
            f"signal {signal.name}: row {row + 1} of column {column!r} is "
            f"{regions[column].iloc[row]}; expected a count of at least 0"
        )
    return Measurement(source, values, float(total), options.read_filter.unit)


def activity(
    accessibility_rpm: Float64[np.ndarray, " n"], h3k27ac_rpm: Float64[np.ndarray, " n"] | None
) -> Float64[np.ndarray, " n"]:
    """sqrt(accessibility x H3K27ac), or accessibility alone where there is no H3K27ac."""
    if h3k27ac_rpm is None:
        return accessibility_rpm.copy()
    return np.sqrt(accessibility_rpm * h3k27ac_rpm)


# How the target of windows is made, as the JSON beside their table says it.
WINDOW_LABELS = {"log2_activity": {"name": "log2", "offset": ACTIVITY_OFFSET}}


def log2_activity(activity: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """The encoder's target: log2(0.1 + activity)."""
    return np.log2(ACTIVITY_OFFSET + activity)


def with_activity(columns: pd.DataFrame) -> pd.DataFrame:
    """Adds `activity` from dnase_rpm and, where it is there, h3k27ac_rpm."""
    h3k27ac = columns["h3k27ac_rpm"].to_numpy(np.float64) if "h3k27ac_rpm" in columns else None
    return columns.assign(activity=activity(columns["dnase_rpm"].to_numpy(np.float64), h3k27ac))


def with_target(columns: pd.DataFrame) -> pd.DataFrame:
    """Adds activity and the encoder's target, log2_activity, where accessibility was measured."""
    if "dnase_rpm" not in columns:
        return columns
    columns = with_activity(columns)
    return columns.assign(log2_activity=log2_activity(columns["activity"].to_numpy(np.float64)))


def with_quantiles(
    columns: pd.DataFrame,
    reference: QuantileReference,
    *,
    form: str,
    is_promoter: np.ndarray | None = None,
) -> pd.DataFrame:
    """Adds dnase_quantile, h3k27ac_quantile (normalised RPM) and activity_quantile, their activity.

    `form="rank"` is the ABC pipeline's and needs `is_promoter`; `"position"` is the original
    project's.

    Raises:
      ValueError: an unknown form, or form "rank" without element classes.
    """
    if form not in FORMS:
        raise ValueError(f"quantile form {form!r} is unknown; expected one of {', '.join(FORMS)}")
    if form == "rank" and is_promoter is None:
        raise ValueError(
            "quantile form 'rank' treats promoters apart and needs a class column; make the "
            "elements with --genes, or use --quantile-form position"
        )
    result = columns.copy()
    normalised: dict[str, np.ndarray] = {}
    for name in ("dnase", "h3k27ac"):
        if f"{name}_rpm" not in columns:
            continue
        rpm = columns[f"{name}_rpm"].to_numpy(np.float64)
        if form == "rank":
            normalised[name] = by_rank(rpm, np.asarray(is_promoter, bool), reference, name=name)
        else:
            normalised[name] = by_position(rpm, reference, name=name)
        result[f"{name}_quantile"] = normalised[name]
    result["activity_quantile"] = activity(normalised["dnase"], normalised.get("h3k27ac"))
    return result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `python -m data_prep signals`."""
    add = parser.add_argument
    add("--regions", help="elements: table with chrom, start, end, or BED")
    add("--genes", help="genes.tsv: measure TSS +- slop, one row a gene")
    add("--windows", help="table of `windows`: adds log2_activity, the encoder's target")
    add("--tss-slop", type=int, default=500, help="bp on each side of a TSS (default: %(default)s)")
    add_signal_arguments(parser)
    add(
        "--quantile-reference", help="EnhancersQNormRef table; adds *_quantile columns to --regions"
    )
    add(
        "--quantile-form",
        choices=FORMS,
        default="rank",
        help="rank: as the ABC pipeline, promoters apart; position: as the original project "
        "(default: %(default)s)",
    )
    add(
        "--out",
        required=True,
        help="table of the regions with counts, RPM and activity; for several tables, measured in "
        f"one pass over the files, a folder that gets {', '.join(TABLES.values())}",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns 0.

    Raises:
      ValueError: an input is missing or malformed.
    """
    tables = {name: sort_intervals(_regions(name, args)) for name in TABLES if getattr(args, name)}
    if not tables:
        raise ValueError("nothing to measure; give --regions, --genes or --windows")
    requested = requested_signals(args)
    signals = [Signal(name, files, totals) for name, (files, totals) in requested.items()]
    options = counting_options(args)
    for name, regions in tables.items():
        check_ends(regions, options.contigs, source=getattr(args, name))
    measured = measure_together(list(tables.values()), signals, options, pool=args.pool)
    for (name, regions), one in zip(tables.items(), measured, strict=True):
        out = args.out if len(tables) == 1 else os.path.join(args.out, TABLES[name])
        columns = _with_derived(one.columns, regions, name, args)
        table = pd.concat([regions.drop(columns=columns.columns, errors="ignore"), columns], axis=1)
        write_frame(table, out, float_format="%.9g" if name == "windows" else None)
        summary = signal_summary(args.assay, options, one.details) | {"regions": len(table)}
        summary |= {"labels": WINDOW_LABELS} if name == "windows" else {}
        write_json(summary, sibling(out, ".json"))
    _report(measured)
    print(f"wrote {args.out}")
    return 0


def _with_derived(
    columns: pd.DataFrame, regions: pd.DataFrame, name: str, args: argparse.Namespace
) -> pd.DataFrame:
    """Adds activity, and what is made of it for this table."""
    if name == "windows":
        return with_target(columns)
    if "dnase_rpm" not in columns:
        return columns
    columns = with_activity(columns)
    if args.quantile_reference and (name == "regions" or not args.regions):
        reference = read_quantile_reference(args.quantile_reference)
        is_promoter = (regions["class"] == PROMOTER).to_numpy() if "class" in regions else None
        columns = with_quantiles(
            columns, reference, form=args.quantile_form, is_promoter=is_promoter
        )
    return columns


def check_ends(
    regions: pd.DataFrame, contigs: Mapping[str, int | None] | None, *, source: str
) -> None:
    """Says how many regions begin past the ends of their contigs: no read can lie there.

    Raises:
      ValueError: most do.
    """
    is_beyond = beyond_ends(regions, contigs or {}, position="start", what="region", source=source)
    if is_beyond.any():
        print(f"{source}: {is_beyond.sum():,} regions past the ends of their contigs, signal 0")


def _report(measured: Sequence[Measured]) -> None:
    number = sum(len(one.columns) for one in measured)
    for name, detail in measured[0].details.items():
        totals = ", ".join(f"{total:,.0f}" for total in detail["totals"])
        print(f"{name}: {totals} {detail['unit']} in all, over {number:,} regions")
        lacking = sum(
            max(one.details[name]["regions_on_contigs_the_file_lacks"]) for one in measured
        )
        if lacking:
            print(f"{name}: {lacking:,} regions lie on contigs that a file lacks, signal 0 there")


def signal_summary(
    assay: str, options: CountingOptions, details: Mapping[str, Any]
) -> dict[str, Any]:
    """How signals were counted, for the JSON beside a table."""
    return {
        "assay": assay,
        "read_filter": options.read_filter.to_dict(),
        "track_units": options.track_units,
        "cells": None if options.barcodes is None else len(options.barcodes),
        "excluded_contigs": sorted(options.excluded_contigs),
        "rpm": "1e6 x count / total, total under the same filter",
        "signals": dict(details),
        "versions": versions("numpy", "pandas", "pysam", "pyBigWig"),
    }


def _regions(name: str, args: argparse.Namespace) -> pd.DataFrame:
    if name != "genes":
        return read_regions(getattr(args, name))
    table = read_table(args.genes, required=["gene_id", "chrom", "tss"])
    genes = pd.DataFrame({"chrom": table.text("chrom"), "tss": table.integers("tss", minimum=0)})
    windows = tss_windows(genes, slop_bp=args.tss_slop)
    return windows.assign(gene_id=table.text("gene_id"), tss=genes["tss"])
