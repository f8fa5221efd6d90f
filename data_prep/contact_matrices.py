"""Contacts from .hic (hictkpy) and .cool, .mcool (cooler) files.

Balancing differs between the two worlds: the vectors of .hic (SCALE, KR, VC) divide a count by the
product of two weights, cooler's `weight` multiplies with it. Columns named KR, VC or SCALE in a
cooler come from .hic files and divide.
"""

import os
from collections.abc import Sequence

import cooler
import hictkpy
import numpy as np
import pandas as pd

from data_prep.contact_map import ContactCollector, ContactMap
from data_prep.text_input import check_file

HIC_NORMALISATIONS = ("SCALE", "KR", "VC", "NONE")
COOLER_NORMALISATIONS = ("weight", "SCALE", "KR", "VC", "NONE")
UNBALANCED = "NONE"
_BLOCK_BINS = 2000
_PIXELS = 2_000_000


class HicFile:
    """A .hic file at one resolution."""

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        resolution_bp: int,
        normalisations: Sequence[str] = HIC_NORMALISATIONS,
    ):
        """Opens the file.

        Raises:
          ValueError: it is not a .hic file, or lacks the resolution.
        """
        check_file(path)
        self.path = os.fspath(path)
        self.resolution_bp = resolution_bp
        self.normalisations = tuple(normalisations)
        try:
            resolutions = [int(value) for value in hictkpy.MultiResFile(self.path).resolutions()]
        except RuntimeError as error:
            raise ValueError(
                f"{path}: cannot be read as .hic ({error}); is it complete?"
            ) from error
        _check_resolution(path, resolution_bp, resolutions)
        self._file = hictkpy.File(self.path, resolution_bp)
        self._available = set(self._file.avail_normalizations()) | {UNBALANCED}

    def contigs(self) -> dict[str, int]:
        """Contig names and lengths, without the pseudo-contig ALL."""
        found = self._file.chromosomes()
        return {name: int(size) for name, size in found.items() if name.upper() != "ALL"}

    def read(
        self,
        contig: str,
        *,
        chrom: str,
        max_distance_bp: int,
        tss_contribution_percent: float = 100.0,
    ) -> ContactMap | None:
        """One chromosome by the first normalisation that has values there; None without contacts.

        Raises:
          ValueError: the file is damaged.
        """
        for name in self.normalisations:
            if name not in self._available or not self._has_weights(contig, name):
                continue
            collector = ContactCollector(
                resolution_bp=self.resolution_bp, max_distance_bp=max_distance_bp
            )
            n_pixels = self._collect(contig, name, collector)
            if n_pixels:
                return collector.finish(
                    chrom,
                    normalisation=name,
                    divide_by_row_sum=True,
                    tss_contribution_percent=tss_contribution_percent,
                )
        return None

    def _bins_of(self, contig: str) -> tuple[int, int]:
        """First and last + 1 bin of a contig; hictkpy numbers bins through the genome."""
        first = 0
        for other, size in self._file.chromosomes().items():
            last = first + -(-int(size) // self.resolution_bp)
            if other == contig:
                return first, last
            first = last
        raise ValueError(f"{self.path}: no contig {contig!r}")

    def _has_weights(self, contig: str, name: str) -> bool:
        if name == UNBALANCED:
            return True
        first, last = self._bins_of(contig)
        return bool(np.isfinite(np.asarray(self._file.weights(name))[first:last]).any())

    def _collect(self, contig: str, name: str, collector: ContactCollector) -> int:
        length = self.contigs()[contig]
        first, _ = self._bins_of(contig)
        step = _BLOCK_BINS * self.resolution_bp
        n_finite = 0
        for start in range(0, length, step):
            rows = f"{contig}:{start}-{min(start + step, length)}"
            columns = f"{contig}:{start}-{length}"
            try:
                pixels = self._file.fetch(rows, columns, normalization=name).to_df()
            except RuntimeError as error:
                raise ValueError(f"{self.path}: damaged at {rows} ({error})") from error
            values = pixels["count"].to_numpy(np.float64)
            n_finite += int(np.isfinite(values).sum())
            collector.add(
                pixels["bin1_id"].to_numpy(np.int64) - first,
                pixels["bin2_id"].to_numpy(np.int64) - first,
                values,
            )
        return n_finite


class CoolFile:
    """A .cool file, or one resolution of a .mcool."""

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        resolution_bp: int,
        normalisations: Sequence[str] = COOLER_NORMALISATIONS,
    ):
        """Opens the file; `path` may be a cooler URI (file.mcool::/resolutions/5000).

        Raises:
          ValueError: it is not a cooler, or lacks the resolution.
        """
        self.path = os.fspath(path)
        self.resolution_bp = resolution_bp
        self.normalisations = tuple(normalisations)
        file_name, _, group = self.path.partition("::")
        check_file(file_name)
        try:
            # Files of version 2 have no format attribute, so cooler lists none in them.
            groups = [group] if group else cooler.fileops.list_coolers(file_name) or ["/"]
            coolers = [cooler.Cooler(f"{file_name}::{name}") for name in groups]
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(
                f"{path}: cannot be read as cooler ({error}); is it complete?"
            ) from error
        by_resolution = {int(one.binsize): one for one in coolers if one.binsize}
        _check_resolution(path, resolution_bp, list(by_resolution))
        self._cooler = by_resolution[resolution_bp]
        self._columns = set(self._cooler.bins().columns)

    def contigs(self) -> dict[str, int]:
        """Contig names and lengths."""
        return {str(name): int(size) for name, size in self._cooler.chromsizes.items()}

    def read(
        self,
        contig: str,
        *,
        chrom: str,
        max_distance_bp: int,
        tss_contribution_percent: float = 100.0,
    ) -> ContactMap | None:
        """One chromosome by the first weights that have values there; None without contacts."""
        first, last = map(int, self._cooler.extent(contig))
        bins = self._cooler.bins()[first:last]
        for name in self.normalisations:
            factor = _factors(bins, name)
            if factor is None:
                continue
            collector = ContactCollector(
                resolution_bp=self.resolution_bp, max_distance_bp=max_distance_bp
            )
            if self._collect(first, last, factor, collector):
                return collector.finish(
                    chrom,
                    normalisation=name,
                    divide_by_row_sum=True,
                    tss_contribution_percent=tss_contribution_percent,
                )
        return None

    def _collect(
        self, first: int, last: int, factor: np.ndarray, collector: ContactCollector
    ) -> int:
        with self._cooler.open("r") as handle:
            low, high = (int(handle["indexes/bin1_offset"][edge]) for edge in (first, last))
        n_finite = 0
        for start in range(low, high, _PIXELS):
            pixels = self._cooler.pixels()[start : min(start + _PIXELS, high)]
            bins1 = pixels["bin1_id"].to_numpy(np.int64)
            bins2 = pixels["bin2_id"].to_numpy(np.int64)
            inside = (bins2 >= bins1) & (bins2 < last)
            bins1, bins2 = bins1[inside] - first, bins2[inside] - first
            values = pixels["count"].to_numpy(np.float64)[inside] * factor[bins1] * factor[bins2]
            n_finite += int(np.isfinite(values).sum())
            collector.add(bins1, bins2, values)
        return n_finite


def _factors(bins: pd.DataFrame, name: str) -> np.ndarray | None:
    """What counts are multiplied with, one factor a bin; None where the weights are not there."""
    if name == UNBALANCED:
        return np.ones(len(bins))
    if name not in bins:
        return None
    weights = bins[name].to_numpy(np.float64)
    if name != "weight":
        weights = np.divide(1.0, weights, out=np.full(len(weights), np.nan), where=weights != 0)
    return weights if np.isfinite(weights).any() else None


def _check_resolution(path: str | os.PathLike, wanted: int, found: list[int]) -> None:
    if wanted not in found:
        known = ", ".join(f"{value:,}" for value in sorted(found)) or "none"
        raise ValueError(
            f"{path}: has no resolution of {wanted:,} bp; choose --contact-resolution from {known}"
        )
