"""Peaks: narrowPeak, broadPeak or BED, their summits, and the command that calls them.

The strongest summits by signalValue become candidate elements. Calling peaks is left to
MACS; `peak_caller_command` gives the line to run.
"""

import os
import shlex

import numpy as np
import pandas as pd

from data_prep.intervals import read_bed, sort_intervals
from data_prep.text_input import parse_integers

PEAK_FORMATS = ("auto", "narrowPeak", "broadPeak", "bed")
ASSAYS = ("DNase", "ATAC")
_SHIFT_AND_EXTENSION_BP = {"DNase": (-75, 150), "ATAC": (-100, 200)}


def read_peaks(path: str | os.PathLike, *, peak_format: str = "auto") -> pd.DataFrame:
    """Reads peaks as line, chrom, start, end, summit (a position) and signal (their rank).

    narrowPeak: column 7 is the signal, column 10 the summit's offset from the start. broadPeak:
      column 7, and
    the middle. BED: column 5 where it is a number (else NaN), and the middle. A summit of -1 is the
    middle. `auto` takes 10 columns for narrowPeak, 9 for broadPeak and anything else for BED.

    Raises:
      ValueError: too few columns for the format, a signal that is no number, a summit outside its
        peak.
    """
    if peak_format not in PEAK_FORMATS:
        raise ValueError(
            f"unknown peak format {peak_format!r}; expected one of {', '.join(PEAK_FORMATS)}"
        )
    bed = read_bed(path)
    width = bed.shape[1] - 1
    if peak_format == "auto":
        peak_format = {10: "narrowPeak", 9: "broadPeak"}.get(width, "bed")
    needed = {"narrowPeak": 10, "broadPeak": 9, "bed": 3}[peak_format]
    if width < needed:
        raise ValueError(
            f"{path}:{bed['line'].iloc[0]}: {width} columns; {peak_format} has {needed} (give "
            "--peak-format bed for peaks without summits)"
        )
    peaks = bed[["line", "chrom", "start", "end"]].copy()
    peaks["summit"] = (peaks["start"] + peaks["end"]) // 2
    if peak_format == "bed":
        peaks["signal"] = pd.to_numeric(
            bed.get("score", pd.Series(np.nan, bed.index)), errors="coerce"
        )
        return peaks
    peaks["signal"] = _signal(bed, path)
    if peak_format == "narrowPeak":
        peaks["summit"] = _summit(bed, path)
    return peaks


def _signal(bed: pd.DataFrame, path: str | os.PathLike) -> np.ndarray:
    signal = pd.to_numeric(bed["column7"], errors="coerce").to_numpy(np.float64)
    for row in np.flatnonzero(~np.isfinite(signal))[:1]:
        raise ValueError(
            f"{path}:{bed['line'].iloc[row]}: signalValue (column 7) is "
            f"{bed['column7'].iloc[row]!r}; expected a number"
        )
    return signal


def _summit(bed: pd.DataFrame, path: str | os.PathLike) -> np.ndarray:
    offsets = parse_integers(
        bed["column10"].tolist(), bed["line"], path=path, name="summit offset (column 10)"
    )
    starts, ends = bed["start"].to_numpy(), bed["end"].to_numpy()
    for row in np.flatnonzero((offsets < -1) | (starts + offsets >= ends))[:1]:
        raise ValueError(
            f"{path}:{bed['line'].iloc[row]}: summit offset {offsets[row]} lies outside the peak "
            f"of {ends[row] - starts[row]} bp; expected 0 to {ends[row] - starts[row] - 1}, or -1 "
            "for none"
        )
    return np.where(offsets == -1, (starts + ends) // 2, starts + offsets)


def strongest_summits(
    peaks: pd.DataFrame, *, number: int | None, source: str = "peaks"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Keeps the `number` peaks with the largest signal (None: all); ties are settled by place.

    Returns:
      (kept, left out), both sorted by place; those left out carry a `reason`.

    Raises:
      ValueError: `number` is not positive, or peaks must be ranked and one has no signal.
    """
    if number is not None and number < 1:
        raise ValueError(f"number of peaks is {number}; expected at least 1")
    ordered = sort_intervals(peaks, by=("start", "summit"))
    if number is None or len(ordered) <= number:
        return ordered, ordered.iloc[:0].assign(reason="")
    if ordered["signal"].isna().any():
        line = peaks["line"][peaks["signal"].isna()].iloc[0]
        raise ValueError(
            f"{source}:{line}: has no number to rank peaks by, and {number:,} of {len(peaks):,} "
            "should be kept; give a narrowPeak file or BED scores, or keep all with --peaks-kept 0"
        )
    rank = np.argsort(-ordered["signal"].to_numpy(), kind="stable")
    is_kept = np.zeros(len(ordered), bool)
    is_kept[rank[:number]] = True
    kept = ordered[is_kept].reset_index(drop=True)
    reason = f"peak is not among the {number:,} strongest"
    return kept, ordered[~is_kept].reset_index(drop=True).assign(reason=reason)


def peak_caller_command(
    reads: str, *, assay: str, genome_size: str = "hs", name: str = "peaks", directory: str = "macs"
) -> str:
    """The MACS line (2 or 3) that makes the narrowPeak file this stage starts from.

    Raises:
      ValueError: the assay is neither DNase nor ATAC.
    """
    if assay not in _SHIFT_AND_EXTENSION_BP:
        raise ValueError(f"unknown assay {assay!r}; expected DNase or ATAC")
    shift, extension = _SHIFT_AND_EXTENSION_BP[assay]
    read_format = (
        "BED" if reads.lower().endswith((".tagalign", ".tagalign.gz", ".bed", ".bed.gz")) else "BAM"
    )
    words = ["macs3", "callpeak", "-t", reads, "-f", read_format, "-g", genome_size, "-n", name]
    words += [
        "--outdir",
        directory,
        "--nomodel",
        "--shift",
        str(shift),
        "--extsize",
        str(extension),
    ]
    words += ["--keep-dup", "all", "--call-summits", "-p", "0.1"]
    return shlex.join(words)
