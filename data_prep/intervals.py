"""Intervals on chromosomes: BED files, sorting, merging, subtracting, overlaps.

Frames hold chrom (str), start and end (int64, 0-based half-open). Set operations are bioframe's.
"""

import contextlib
import os
import warnings
from collections.abc import Iterator, Mapping

import bioframe
import numpy as np
import pandas as pd
from jaxtyping import Bool

from data_prep.text_input import numbered_lines, parse_integers, read_table, split_fields
from epinformer_jax.data.chromosomes import natural_order

BED_NAMES = ("chrom", "start", "end", "name", "score", "strand")
INTERVAL = ["chrom", "start", "end"]


def read_bed(path: str | os.PathLike, *, minimum_columns: int = 3) -> pd.DataFrame:
    """Reads a BED-like file without a header: chrom, start, end, then the other fields as text.

    The first six columns get BED's names, later ones are `column7`, `column8`, ...; `line` holds
    the line number. Rows shorter than the longest one are filled with "". A first row that names
    its columns (chrom, start, end) is passed over.

    Raises:
      ValueError: a row has too few fields, a coordinate is no whole number or negative, or end <=
        start.
    """
    rows: list[list[str]] = []
    lines: list[int] = []
    for number, line in numbered_lines(path):
        fields = split_fields(line)
        if len(fields) < minimum_columns:
            raise ValueError(
                f"{path}:{number}: {len(fields)} fields; expected at least {minimum_columns}, "
                "separated by tabs"
            )
        if not rows and fields[1].lower() in ("start", "chromstart"):
            continue
        rows.append(fields)
        lines.append(number)
    if not rows:
        raise ValueError(f"{path}: holds no intervals")
    width = max(len(fields) for fields in rows)
    columns = list(zip(*(fields + [""] * (width - len(fields)) for fields in rows), strict=True))
    starts = parse_integers(list(columns[1]), lines, path=path, name="start")
    ends = parse_integers(list(columns[2]), lines, path=path, name="end")
    check_coordinates(starts, ends, lines, path=path)
    frame = pd.DataFrame({"line": np.array(lines, np.int64), "chrom": list(columns[0])})
    frame["start"], frame["end"] = starts, ends
    for index in range(3, width):
        name = BED_NAMES[index] if index < len(BED_NAMES) else f"column{index + 1}"
        frame[name] = list(columns[index])
    return frame


def read_regions(path: str | os.PathLike) -> pd.DataFrame:
    """Reads intervals from a table with a header (chrom or chr, start, end) or from a BED file.

    A table keeps its other columns, as numbers where every value is one; a BED file its name only.

    Raises:
      ValueError: no interval, or a bad coordinate; names file and line.
    """
    _, first = next(numbered_lines(path), (0, ""))
    if not {"start", "end"} <= set(split_fields(first)):
        frame = read_bed(path)
        return frame[[*INTERVAL, *(["name"] if "name" in frame else [])]]
    table = read_table(path, required=["start", "end"])
    chrom = "chr" if table.has("chr") and not table.has("chrom") else "chrom"
    starts, ends = table.integers("start"), table.integers("end")
    check_coordinates(starts, ends, table.lines, path=path)
    if not len(table):
        raise ValueError(f"{path}: holds no intervals")
    frame = pd.DataFrame({"chrom": table.text(chrom), "start": starts, "end": ends})
    for column in table.frame.columns.difference([chrom, "start", "end"], sort=False):
        values = table.frame[column]
        numeric = pd.to_numeric(values.mask(values.str.strip() == ""), errors="coerce")
        is_number = (numeric.notna() | (values.str.strip() == "")).all() and numeric.notna().any()
        frame[column] = numeric if is_number else values
    return frame


def check_coordinates(
    starts: np.ndarray, ends: np.ndarray, lines: np.ndarray | list[int], *, path: str | os.PathLike
) -> None:
    """Refuses negative starts and empty or reversed intervals.

    Raises:
      ValueError: names file and line of the first bad row.
    """
    for row in np.flatnonzero(starts < 0)[:1]:
        raise ValueError(
            f"{path}:{lines[row]}: start {starts[row]} is negative; BED is 0-based, half-open"
        )
    for row in np.flatnonzero(ends <= starts)[:1]:
        raise ValueError(
            f"{path}:{lines[row]}: end {ends[row]} is not after start {starts[row]}; BED is "
            "0-based, half-open"
        )


def sort_intervals(frame: pd.DataFrame, *, by: tuple[str, ...] = ("start", "end")) -> pd.DataFrame:
    """Sorts by chromosome in natural order, then by the columns in `by`; ties keep their order."""
    rank = {name: index for index, name in enumerate(natural_order(frame["chrom"].unique()))}
    ordered = frame.assign(_rank=frame["chrom"].map(rank).astype(np.int64))
    ordered = ordered.sort_values(["_rank", *by], kind="stable").drop(columns="_rank")
    return ordered.reset_index(drop=True)


def merge_intervals(frame: pd.DataFrame) -> pd.DataFrame:
    """Joins intervals that overlap or touch; sorted, with `n_intervals`, the number joined."""
    if frame.empty:
        return frame[INTERVAL].assign(n_intervals=np.zeros(0, np.int64))
    with _bioframe_is_quiet():
        merged = bioframe.merge(frame[INTERVAL].reset_index(drop=True), min_dist=0)
    merged["n_intervals"] = merged["n_intervals"].astype(np.int64)
    return sort_intervals(_as_intervals(merged))


def subtract_intervals(frame: pd.DataFrame, removed: pd.DataFrame) -> pd.DataFrame:
    """Cuts `removed` out of `frame`; an interval may be split or vanish. Other columns are kept."""
    if frame.empty or removed.empty:
        return frame.copy()
    with _bioframe_is_quiet():
        rest = bioframe.subtract(
            frame.reset_index(drop=True), removed[INTERVAL].reset_index(drop=True)
        )
    return sort_intervals(_as_intervals(rest.drop(columns="sub_index", errors="ignore")))


def clip_intervals(frame: pd.DataFrame, contigs: Mapping[str, int]) -> pd.DataFrame:
    """Cuts intervals off at 0 and at the ends of their contigs; those outside are left out."""
    lengths = frame["chrom"].map(contigs).astype(np.int64)
    clipped = frame.assign(
        start=frame["start"].clip(lower=0), end=np.minimum(frame["end"], lengths)
    )
    return clipped[clipped["end"] > clipped["start"]].reset_index(drop=True)


def overlaps_any(frame: pd.DataFrame, others: pd.DataFrame) -> Bool[np.ndarray, " n"]:
    """True for each interval of `frame` that shares a base with an interval of `others`."""
    if frame.empty or others.empty:
        return np.zeros(len(frame), bool)
    with _bioframe_is_quiet():
        counted = bioframe.count_overlaps(
            frame[INTERVAL].reset_index(drop=True), others[INTERVAL].reset_index(drop=True)
        )
    return counted["count"].to_numpy() > 0


def _as_intervals(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(start=frame["start"].astype(np.int64), end=frame["end"].astype(np.int64))


@contextlib.contextmanager
def _bioframe_is_quiet() -> Iterator[None]:
    # bioframe 0.8 uses calls of pandas (reset_index in place, groupby by a list of one) that pandas
    # >= 3.1 announces as changing in 4; its results are covered by the tests of this module.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield
