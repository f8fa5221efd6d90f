"""Counting over many regions in one pass: reads that overlap, and sums of a track.

Both counters take batches in any number and hold O(regions) memory: a batch only adds to difference
arrays, and the counts come out of one cumulative sum at the end. Regions may overlap each other and
stand in any order.
"""

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int, Int64, Real


class ReadCounter:
    """Counts, for each region, the reads [start, end) that share at least one base with it.

    A read overlaps [a, b) when start < b and end > a: the count is the number of reads that start
    before b less the number that end at or before a (each of these also starts before b). This is
    what `pysam.AlignmentFile.count` gives region by region.
    """

    def __init__(self, regions: pd.DataFrame):
        self._n_regions = len(regions)
        self._chromosomes = {
            str(chrom): _ReadTally(
                np.asarray(rows, np.int64),
                regions["start"].to_numpy(np.int64)[rows],
                regions["end"].to_numpy(np.int64)[rows],
            )
            for chrom, rows in regions.groupby("chrom", sort=False).indices.items()
        }

    def add(
        self, chrom: str, starts: Int[np.ndarray, " reads"], ends: Int[np.ndarray, " reads"]
    ) -> None:
        """Adds reads of one chromosome, 0-based half-open and at least 1 bp long, in any order."""
        tally = self._chromosomes.get(chrom)
        if tally is not None and len(starts):
            tally.add(starts, ends)

    def counts(self) -> Int64[np.ndarray, " regions"]:
        """The number of overlapping reads of each region, in the order of `regions`."""
        result = np.zeros(self._n_regions, np.int64)
        for tally in self._chromosomes.values():
            result[tally.rows] = tally.counts()
        return result


class _ReadTally:
    """The regions of one chromosome and what has been counted for them."""

    def __init__(self, rows: np.ndarray, starts: np.ndarray, ends: np.ndarray):
        self.rows = rows
        self._start_order = np.argsort(starts, kind="stable")
        self._end_order = np.argsort(ends, kind="stable")
        self._starts = starts[self._start_order]
        self._ends = ends[self._end_order]
        self._begun = np.zeros(len(rows) + 1, np.int64)
        self._finished = np.zeros(len(rows) + 1, np.int64)

    def add(self, starts: np.ndarray, ends: np.ndarray) -> None:
        size = len(self._begun)
        first_open = np.searchsorted(self._ends, starts, side="right")
        first_after = np.searchsorted(self._starts, ends, side="left")
        self._begun += np.bincount(first_open, minlength=size)
        self._finished += np.bincount(first_after, minlength=size)

    def counts(self) -> np.ndarray:
        result = np.zeros(len(self.rows), np.int64)
        result[self._end_order] = np.cumsum(self._begun)[:-1]
        result[self._start_order] -= np.cumsum(self._finished)[:-1]
        return result


class TrackSummer:
    """Sums, for each region, value x overlapping bp of a track given as sorted, disjoint intervals.

    For every region boundary x it keeps F(x), the integral of the track from 0 to x; a region's sum
    is F(end) - F(start).
    """

    def __init__(self, regions: pd.DataFrame):
        self._regions = regions.reset_index(drop=True)
        self._boundaries: dict[str, np.ndarray] = {}
        self._inside: dict[str, np.ndarray] = {}
        self._after: dict[str, np.ndarray] = {}
        for chrom, rows in self._regions.groupby("chrom", sort=False).indices.items():
            edges = self._regions.iloc[rows][["start", "end"]].to_numpy(np.int64)
            boundaries = np.unique(edges)
            self._boundaries[str(chrom)] = boundaries
            self._inside[str(chrom)] = np.zeros(len(boundaries))
            self._after[str(chrom)] = np.zeros(len(boundaries) + 1)

    def chromosomes(self) -> list[str]:
        """The chromosomes that have regions."""
        return list(self._boundaries)

    def add(
        self,
        chrom: str,
        starts: Int[np.ndarray, " n"],
        ends: Int[np.ndarray, " n"],
        values: Real[np.ndarray, " n"],
    ) -> None:
        """Adds intervals of one chromosome, sorted and disjoint in this batch; NaN counts as 0."""
        if chrom not in self._boundaries or not len(starts):
            return
        values = np.nan_to_num(np.asarray(values, np.float64))
        whole = np.concatenate([[0.0], np.cumsum(values * (ends - starts))])
        boundaries = self._boundaries[chrom]
        low, high = np.searchsorted(boundaries, [starts[0], ends[-1]], side="right")
        here = boundaries[low:high]
        index = np.searchsorted(starts, here, side="right") - 1
        part = values[index] * (np.minimum(here, ends[index]) - starts[index])
        self._inside[chrom][low:high] += whole[index] + part
        self._after[chrom][high] += whole[-1]

    def sums(self) -> Float64[np.ndarray, " regions"]:
        """Value x bp over each region, in the order of `regions`."""
        result = np.zeros(len(self._regions))
        for chrom, rows in self._regions.groupby("chrom", sort=False).indices.items():
            name = str(chrom)
            integral = self._inside[name] + np.cumsum(self._after[name])[:-1]
            edges = self._regions.iloc[rows][["start", "end"]].to_numpy(np.int64)
            at = np.searchsorted(self._boundaries[name], edges)
            result[rows] = integral[at[:, 1]] - integral[at[:, 0]]
        return result
