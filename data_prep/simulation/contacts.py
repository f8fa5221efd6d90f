"""Simulated Hi-C: a balanced .mcool file with fixed bytes, and the contact of a pair read from it.

Counts are Poisson around (power law of distance) x (a bias of each bin); balancing removes the
biases again.
"""

from pathlib import Path

import cooler
import h5py
import numpy as np
import pandas as pd

from data_prep.simulation.layout import Layout
from data_prep.simulation.rule import power_law
from data_prep.simulation.sequence import unknown_intervals
from data_prep.simulation.settings import CHROMOSOMES, Rule, Settings, stream

BIN_BP = 5_000
_COARSER = (2, 5)
# Coarser resolutions are left out where a chromosome would have fewer bins: too few to balance.
_FEWEST_BINS = 20
_FARTHEST_BINS = 60
_COUNTS_AT_FLOOR = 150.0
_BIAS_SD = 0.2
# Bins with less known sequence than this get no weight, as after any real balancing.
_LEAST_MAPPABLE = 0.3
_BALANCE_ROUNDS, _BALANCE_TOLERANCE = 500, 1e-4
_CREATED = "2000-01-01T00:00:00"


def write_contacts(path: Path, settings: Settings, rule: Rule, layout: Layout, cell: str) -> None:
    """Writes an .mcool with resolutions 5, 10 and 25 kb, each balanced (`weight` multiplies).

    Small genomes get fewer resolutions. Pairs up to 300 kb on the same chromosome; the time of
    creation is a constant.
    """
    rng = stream(settings.seed, "contacts", cell)
    mappable = np.concatenate([_mappable(layout, index) for index in range(len(CHROMOSOMES))])
    pixels = _draw_pixels(rng, rule, layout, mappable)
    shortest = int(layout.length.min()) // BIN_BP
    work = path.with_suffix(".work")
    for factor in (1, *(coarser for coarser in _COARSER if shortest // coarser >= _FEWEST_BINS)):
        target = _coarse_bin(layout, factor)
        usable = np.bincount(target, weights=mappable) / factor >= _LEAST_MAPPABLE
        coarse = pixels if factor == 1 else _coarsen(pixels, target)
        bins = _bins(layout, BIN_BP * factor)
        bins["weight"] = _balance(coarse, usable)
        uri = f"{work}::resolutions/{BIN_BP * factor}"
        cooler.create_cooler(uri, bins, coarse, ordered=True, mode="a", assembly="simulated")
    _copy_undated(work, path)
    work.unlink()


def _copy_undated(source: Path, target: Path) -> None:
    """Copies the resolutions into a new .mcool; the time of creation becomes a constant.

    In the same file the old time would stay behind as unused bytes.
    """
    with h5py.File(source, "r+") as old, h5py.File(target, "w") as new:
        new.attrs["format"] = "HDF5::MCOOL"
        new.attrs["format-version"] = 2
        for resolution in old["resolutions"].values():
            resolution.attrs["creation-date"] = _CREATED
        old.copy("resolutions", new)


def _mappable(layout: Layout, index: int) -> np.ndarray:
    """Known bases of each fine bin of a chromosome, as a share of a whole bin."""
    start = np.arange(0, int(layout.length[index]), BIN_BP)
    end = np.minimum(start + BIN_BP, layout.length[index])
    known = (end - start).astype(float)
    for first, last in unknown_intervals(layout, index):
        known -= np.clip(np.minimum(end, last) - np.maximum(start, first), 0, None)
    return known / BIN_BP


def _balance(pixels: pd.DataFrame, usable: np.ndarray) -> np.ndarray:
    """Weights that give every usable bin the sum 1 off the diagonal; NaN for the other bins.

    Dividing by the square root of the sums converges in a few rounds on a banded matrix, where the
    usual full division swings for hundreds.
    """
    first, second = pixels["bin1_id"].to_numpy(), pixels["bin2_id"].to_numpy()
    inside = (first != second) & usable[first] & usable[second]
    first, second = first[inside], second[inside]
    count = pixels["count"].to_numpy()[inside]
    weight = usable.astype(float)
    for _ in range(_BALANCE_ROUNDS):
        value = count * weight[first] * weight[second]
        sums = np.bincount(first, value, len(usable)) + np.bincount(second, value, len(usable))
        weight = np.where(sums > 0, weight / np.sqrt(np.where(sums > 0, sums, 1.0)), 0.0)
        if np.abs(sums[sums > 0] - 1).max(initial=0.0) < _BALANCE_TOLERANCE:
            break
    return np.where(weight > 0, weight, np.nan)


def _draw_pixels(
    rng: np.random.Generator, rule: Rule, layout: Layout, mappable: np.ndarray
) -> pd.DataFrame:
    """Upper-triangle counts at the finest resolution, sorted, zeros left out."""
    away = np.arange(_FARTHEST_BINS + 1)
    # Contacts within a bin are twice as many as with the next one.
    decay = power_law(away * BIN_BP, rule)
    decay[0] = 2.0
    rows, first = [], 0
    for length in layout.length:
        count = -(-int(length) // BIN_BP)
        bias = np.exp(_BIAS_SD * rng.standard_normal(count)) * mappable[first : first + count]
        left = np.arange(count)[:, None]
        right = left + away
        partner = np.where(right < count, bias[np.minimum(right, count - 1)], 0.0)
        drawn = rng.poisson(_COUNTS_AT_FLOOR * bias[left] * partner * decay)
        row, column = np.nonzero(drawn)
        rows.append(np.stack([first + row, first + row + column, drawn[row, column]]))
        first += count
    bin1, bin2, counts = np.concatenate(rows, axis=1)
    return pd.DataFrame({"bin1_id": bin1, "bin2_id": bin2, "count": counts.astype(np.int32)})


def _bins(layout: Layout, size: int) -> pd.DataFrame:
    parts = []
    for name, length in zip(CHROMOSOMES, layout.length, strict=True):
        start = np.arange(0, int(length), size)
        parts.append(
            pd.DataFrame(
                {"chrom": name, "start": start, "end": np.minimum(start + size, int(length))}
            )
        )
    return pd.concat(parts, ignore_index=True)


def _coarse_bin(layout: Layout, factor: int) -> np.ndarray:
    """The bin of a `factor` times coarser resolution that each fine bin belongs to."""
    fine = -(-layout.length // BIN_BP)
    coarse = -(-layout.length // (BIN_BP * factor))
    within = np.concatenate([np.arange(count) // factor for count in fine])
    return within + np.repeat(np.cumsum(coarse) - coarse, fine)


def _coarsen(pixels: pd.DataFrame, target: np.ndarray) -> pd.DataFrame:
    """Sums the pixels into coarser bins."""
    summed = pd.DataFrame(
        {
            "bin1_id": target[pixels["bin1_id"]],
            "bin2_id": target[pixels["bin2_id"]],
            "count": pixels["count"],
        }
    )
    return summed.groupby(["bin1_id", "bin2_id"], as_index=False, sort=True)["count"].sum()


def contact_of_pairs(
    path: Path, chrom: np.ndarray, position_a: np.ndarray, position_b: np.ndarray
) -> np.ndarray:
    """Contact of position pairs, read from the file at 5 kb as the published features are.

    Balanced counts (weights multiply); each diagonal entry becomes the larger of its two
    neighbours; the matrix of a chromosome is divided by its mean row sum as it was read, before
    that (rows without contacts left out); a missing or unweighted pair is 0.
    """
    source = cooler.Cooler(f"{path}::resolutions/{BIN_BP}")
    contact = np.zeros(len(chrom))
    for index, name in enumerate(CHROMOSOMES):
        here = np.flatnonzero(chrom == index)
        if not len(here):
            continue
        band = _normalised_band(source, name)
        bin_a, bin_b = position_a[here] // BIN_BP, position_b[here] // BIN_BP
        away = np.abs(bin_a - bin_b)
        found = band[np.minimum(bin_a, bin_b), np.minimum(away, band.shape[1] - 1)]
        contact[here] = np.where(away < band.shape[1], found, 0.0)
    return contact


def _normalised_band(source: cooler.Cooler, name: str) -> np.ndarray:
    """Normalised balanced contact of one chromosome as [bin, bins away]."""
    first, last = source.extent(name)
    weight = source.bins()[first:last]["weight"].to_numpy()
    pixels = source.matrix(balance=False, as_pixels=True).fetch(name)
    row = pixels["bin1_id"].to_numpy() - first
    away = pixels["bin2_id"].to_numpy() - first - row
    value = np.nan_to_num(pixels["count"].to_numpy() * weight[row] * weight[row + away])
    band = np.zeros((last - first, max(2, int(away.max(initial=0)) + 1)))
    band[row, away] = value
    sums = band.sum(axis=1)
    for step in range(1, band.shape[1]):
        sums[step:] += band[: len(band) - step, step]
    mean = sums[sums > 0].mean() if (sums > 0).any() else 1.0
    beside = band[:, 1]
    band[:, 0] = np.where(
        np.isnan(weight), 0.0, np.maximum(beside, np.concatenate([[0.0], beside[:-1]]))
    )
    return band / mean
