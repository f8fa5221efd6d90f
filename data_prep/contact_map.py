"""Contacts of one chromosome: collected pixel by pixel, put on one scale, looked up by position.

Only pixels within a distance are kept, but row sums see all of them. Bins count from 0; a pixel
stands in the upper triangle (bin1 <= bin2).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64, Real

_SHIFT = np.int64(32)
_ROW_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class ContactMap:
    """Contacts of one chromosome within a distance.

    Attributes:
      chrom: the genome's name of the chromosome.
      resolution_bp: bin width.
      keys: bin1 * 2**32 + bin2, sorted.
      values: contact at each key; a pair that is not there has 0.
      normalisation: name of the balancing applied (SCALE, KR, VC, weight, NONE, or "as given").
      mean_row_sum: what the values were divided by (1 where they were not).
      n_missing: pixels left out because their balanced value is not a number (masked bins).
    """

    chrom: str
    resolution_bp: int
    keys: Int64[np.ndarray, " n"]
    values: Float64[np.ndarray, " n"]
    normalisation: str
    mean_row_sum: float = 1.0
    n_missing: int = 0

    def lookup(
        self, first_bp: Real[np.ndarray, " pairs"], second_bp: Real[np.ndarray, " pairs"]
    ) -> Float64[np.ndarray, " pairs"]:
        """Contact of the bins that hold two positions, in either order; 0 without a pixel."""
        bins1 = np.floor_divide(first_bp, self.resolution_bp).astype(np.int64)
        bins2 = np.floor_divide(second_bp, self.resolution_bp).astype(np.int64)
        wanted = pixel_keys(np.minimum(bins1, bins2), np.maximum(bins1, bins2))
        if not len(self.keys):
            return np.zeros(len(wanted))
        at = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return np.where(self.keys[at] == wanted, self.values[at], 0.0)

    def pixels(
        self,
    ) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
        """bin1, bin2 and contact of every pixel, sorted."""
        return self.keys >> _SHIFT, self.keys & np.int64(0xFFFFFFFF), self.values


def pixel_keys(bins1: Int64[np.ndarray, " n"], bins2: Int64[np.ndarray, " n"]) -> np.ndarray:
    """One sortable integer for each pixel of the upper triangle."""
    return (bins1 << _SHIFT) | bins2


class ContactCollector:
    """Takes the pixels of one chromosome in batches and makes a ContactMap of them."""

    def __init__(self, *, resolution_bp: int, max_distance_bp: int):
        if resolution_bp < 1:
            raise ValueError(f"resolution is {resolution_bp} bp; expected at least 1")
        self._resolution_bp = resolution_bp
        self._max_bins = max_distance_bp // resolution_bp + 1
        self._row_sums = np.zeros(0)
        self._keys: list[np.ndarray] = []
        self._values: list[np.ndarray] = []
        self._n_missing = 0

    def add(
        self,
        bins1: Int64[np.ndarray, " n"],
        bins2: Int64[np.ndarray, " n"],
        values: Float64[np.ndarray, " n"],
    ) -> None:
        """Adds pixels of the upper triangle, each pixel once over all batches; NaN is left out."""
        is_number = np.isfinite(values)
        self._n_missing += int((~is_number).sum())
        bins1, bins2, values = bins1[is_number], bins2[is_number], values[is_number]
        if not len(values):
            return
        n_bins = max(len(self._row_sums), int(bins2.max()) + 1)
        sums = np.zeros(n_bins)
        sums[: len(self._row_sums)] = self._row_sums
        sums += np.bincount(bins1, values, n_bins)
        is_off = bins1 != bins2
        sums += np.bincount(bins2[is_off], values[is_off], n_bins)
        self._row_sums = sums
        is_near = bins2 - bins1 <= self._max_bins
        self._keys.append(pixel_keys(bins1[is_near], bins2[is_near]))
        self._values.append(values[is_near])

    def finish(
        self,
        chrom: str,
        *,
        normalisation: str,
        divide_by_row_sum: bool,
        tss_contribution_percent: float = 100.0,
    ) -> ContactMap:
        """Repairs the diagonal and divides by the mean row sum.

        The diagonal of a bin becomes the larger of its two neighbours on the diagonal next to it,
        times tss_contribution_percent / 100: what a bin says about contact with itself is mostly
        unligated fragments. The mean runs over rows with a sum above 0 and is taken before the
        repair; a mean within 0.001 of 1 changes nothing.
        """
        keys = np.concatenate([np.zeros(0, np.int64), *self._keys])
        values = np.concatenate([np.zeros(0), *self._values])
        order = np.argsort(keys, kind="stable")
        keys, values = repair_diagonal(keys[order], values[order], percent=tss_contribution_percent)
        mean = 1.0
        filled = self._row_sums[self._row_sums > 0]
        if divide_by_row_sum and len(filled) and abs(filled.mean() - 1) > _ROW_SUM_TOLERANCE:
            mean = float(filled.mean())
            values = values / mean
        return ContactMap(
            chrom, self._resolution_bp, keys, values, normalisation, mean, self._n_missing
        )


def repair_diagonal(
    keys: Int64[np.ndarray, " n"], values: Float64[np.ndarray, " n"], *, percent: float
) -> tuple[np.ndarray, np.ndarray]:
    """Replaces the diagonal of sorted pixels: max(left, right neighbour) * percent / 100."""
    bins1, bins2 = keys >> _SHIFT, keys & np.int64(0xFFFFFFFF)
    is_next = bins2 == bins1 + 1
    n_bins = int(bins2.max()) + 1 if len(keys) else 0
    diagonal = np.zeros(n_bins)
    np.maximum.at(diagonal, bins1[is_next], values[is_next])
    np.maximum.at(diagonal, bins2[is_next], values[is_next])
    diagonal *= percent / 100
    filled = np.flatnonzero(diagonal)
    is_off = bins1 != bins2
    merged_keys = np.concatenate([keys[is_off], pixel_keys(filled, filled)])
    merged_values = np.concatenate([values[is_off], diagonal[filled]])
    order = np.argsort(merged_keys, kind="stable")
    return merged_keys[order], merged_values[order]
