"""Signal tracks as batches of valued intervals: bigWig and bedGraph, each streamed once.

A track declares its units, since RPM means something else for each: `cuts` (a value is the number
of cut sites or reads at that base), `coverage` (the number of reads over that base) or
`fold-change` (over a control; no counts).
"""

import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyBigWig
from jaxtyping import Float64, Int64

from data_prep.text_input import check_file, numbered_lines, parse_integers, split_fields

TRACK_UNITS = ("cuts", "coverage", "fold-change")
_BLOCK_BP = 4_000_000
_BATCH_ROWS = 200_000
_DENSE_BP = 30  # an interval on average every so many bp makes a block dense


class TrackBatch(NamedTuple):
    """Sorted, disjoint intervals of one contig with a value each."""

    contig: str
    starts: Int64[np.ndarray, " n"]
    ends: Int64[np.ndarray, " n"]
    values: Float64[np.ndarray, " n"]


def bigwig_contigs(path: str | os.PathLike) -> dict[str, int]:
    """Contig names and lengths of a bigWig.

    Raises:
      ValueError: the file cannot be read as bigWig.
    """
    handle = _open_bigwig(path)
    try:
        return dict(handle.chroms())
    finally:
        handle.close()


def bigwig_batches(path: str | os.PathLike, *, block_bp: int = _BLOCK_BP) -> Iterator[TrackBatch]:
    """Streams a bigWig contig by contig in blocks of `block_bp`; places without data are left out.

    Where a block holds few intervals they are read as such, where it holds many base by base: the
    one is faster for cut sites and wide steps, the other for fine-grained coverage. An interval
    ends at a block's end.

    Raises:
      ValueError: the file cannot be read as bigWig, or is damaged or cut off.
    """
    handle = _open_bigwig(path)
    is_dense = False
    try:
        for contig, length in handle.chroms().items():
            for start in range(0, length, block_bp):
                end = min(start + block_bp, length)
                if is_dense:
                    batch = _runs(contig, start, handle.values(contig, start, end, numpy=True))
                else:
                    batch = _clipped(contig, start, end, handle.intervals(contig, start, end))
                is_dense = len(batch.starts) > (end - start) / _DENSE_BP
                if len(batch.starts):
                    yield batch
    except RuntimeError as error:
        raise ValueError(f"{path}: damaged or cut off ({error}); copy the file again") from error
    finally:
        handle.close()


def _open_bigwig(path: str | os.PathLike):
    check_file(path)
    try:
        handle = pyBigWig.open(os.fspath(path))
    except RuntimeError as error:
        raise ValueError(f"{path}: cannot be read as bigWig ({error}); is it complete?") from error
    if not handle.isBigWig():
        handle.close()
        raise ValueError(f"{path}: is a bigBed, not a bigWig; give a signal track")
    return handle


def _clipped(contig: str, start: int, end: int, intervals: tuple | None) -> TrackBatch:
    """The intervals of a block, cut off at its ends, without those that are NaN or 0."""
    rows = np.array(intervals or (), np.float64).reshape(-1, 3)
    values = np.nan_to_num(rows[:, 2])
    starts = np.maximum(rows[:, 0].astype(np.int64), start)
    ends = np.minimum(rows[:, 1].astype(np.int64), end)
    kept = values != 0
    return TrackBatch(contig, starts[kept], ends[kept], values[kept])


def _runs(contig: str, offset: int, values: np.ndarray) -> TrackBatch:
    """Turns one value a base into runs of equal values, without those that are NaN or 0."""
    values = np.nan_to_num(np.asarray(values, np.float64))
    changes = np.flatnonzero(values[1:] != values[:-1]) + 1
    starts = np.concatenate([np.zeros(1, np.int64), changes])
    ends = np.concatenate([changes, np.array([len(values)], np.int64)])
    level = values[starts]
    kept = level != 0
    return TrackBatch(contig, starts[kept] + offset, ends[kept] + offset, level[kept])


def bedgraph_batches(
    path: str | os.PathLike, *, batch_rows: int = _BATCH_ROWS
) -> Iterator[TrackBatch]:
    """Streams a bedGraph: chrom, start, end, value, sorted within each contig, no overlaps.

    Raises:
      ValueError: a bad line, an interval that overlaps the one before or stands out of order, a
        contig in two places; names file and line.
    """
    reader = _BedGraphReader(path)
    for number, line in numbered_lines(path):
        batch = reader.take(number, line, batch_rows)
        if batch is not None:
            yield batch
    batch = reader.flush()
    if batch is not None:
        yield batch


class _BedGraphReader:
    """Collects the lines of a bedGraph into batches of one contig and checks their order."""

    def __init__(self, path: str | os.PathLike):
        self._path = path
        self._contig = ""
        self._closed: set[str] = set()
        self._last_end = 0
        self._rows: list[list[str]] = []
        self._lines: list[int] = []

    def take(self, number: int, line: str, batch_rows: int) -> TrackBatch | None:
        fields = split_fields(line)
        if len(fields) < 4:
            raise ValueError(
                f"{self._path}:{number}: {len(fields)} fields; a bedGraph line has chrom, start, "
                "end and value"
            )
        if fields[0] == self._contig and len(self._rows) < batch_rows:
            self._rows.append(fields)
            self._lines.append(number)
            return None
        batch = self.flush()
        if fields[0] != self._contig:
            if fields[0] in self._closed:
                raise ValueError(
                    f"{self._path}:{number}: {fields[0]} appears again after another contig; sort "
                    "by contig and start"
                )
            self._closed.add(fields[0])
            self._contig, self._last_end = fields[0], 0
        self._rows, self._lines = [fields], [number]
        return batch

    def flush(self) -> TrackBatch | None:
        if not self._rows:
            return None
        lines, path = self._lines, self._path
        starts = parse_integers([row[1] for row in self._rows], lines, path=path, name="start")
        ends = parse_integers([row[2] for row in self._rows], lines, path=path, name="end")
        values = pd.to_numeric(pd.Series([row[3] for row in self._rows]), errors="coerce").to_numpy(
            np.float64
        )
        before = np.concatenate([[self._last_end], ends[:-1]])
        for row in np.flatnonzero(ends <= starts)[:1]:
            raise ValueError(
                f"{path}:{lines[row]}: end {ends[row]} is not after start {starts[row]}"
            )
        for row in np.flatnonzero(starts < before)[:1]:
            raise ValueError(
                f"{path}:{lines[row]}: start {starts[row]} lies before {before[row]}, where the "
                "interval above ends; sort by contig and start, without overlaps"
            )
        for row in np.flatnonzero(~np.isfinite(values))[:1]:
            raise ValueError(
                f"{path}:{lines[row]}: value is {self._rows[row][3]!r}; expected a number"
            )
        self._last_end = int(ends[-1])
        self._rows, self._lines = [], []
        return TrackBatch(self._contig, starts, ends, values)
