"""Places that activity windows are made around: summits outside the blacklist, and TSSs."""

import os
from collections.abc import Mapping

import numpy as np
import pandas as pd

from data_prep.contig_ends import within_ends
from data_prep.contig_names import rename_contigs
from data_prep.intervals import overlaps_any, sort_intervals
from data_prep.peaks import read_peaks

_SUMMIT_FLANK_BP = 75


def placed_peaks(
    peaks: pd.DataFrame,
    contigs: Mapping[str, int],
    *,
    source: str,
    aliases: Mapping[str, str] | None = None,
) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
    """Peaks by the genome's contig names, and those left out, with a `reason`.

    Left out are peaks on contigs that the genome lacks, and summits past the end of theirs.

    Raises:
      ValueError: no contig in common, or most summits lie past the ends.
    """
    peaks = rename_contigs(peaks, contigs, source=source, aliases=aliases)
    is_known = peaks["chrom"].isin(list(contigs)).to_numpy()
    unknown = peaks[~is_known].assign(reason="peak lies on a contig that the genome lacks")
    kept, beyond = within_ends(
        peaks[is_known], contigs, position="summit", what="peak", source=source
    )
    return kept, [unknown, beyond]


def window_peaks(
    path: str | os.PathLike,
    contigs: Mapping[str, int],
    *,
    aliases: Mapping[str, str],
    blacklist: pd.DataFrame | None,
    genes: pd.DataFrame | None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Peaks as narrowPeak rows, those with a blacklisted summit left out, and a peak at each TSS.

    A TSS gets the largest signal there is, so that it stays under any limit.

    Returns:
      ten columns, sorted by place, and what was left out with a `reason`.
    """
    peaks, dropped = placed_peaks(
        read_peaks(path), contigs, source=os.fspath(path), aliases=aliases
    )
    if blacklist is not None:
        at = peaks.assign(start=peaks["summit"], end=peaks["summit"] + 1)
        is_bad = overlaps_any(at, blacklist)
        dropped.append(peaks[is_bad].assign(reason="summit lies in the blacklist"))
        peaks = peaks[~is_bad]
    if genes is not None:
        tss = genes["tss"].to_numpy(np.int64)
        top = peaks["signal"].max() if peaks["signal"].notna().any() else 1.0
        around = pd.DataFrame(
            {
                "chrom": genes["chrom"],
                "start": np.maximum(tss - _SUMMIT_FLANK_BP, 0),
                "end": tss + _SUMMIT_FLANK_BP,
                "summit": tss,
                "signal": top,
            }
        )
        peaks = pd.concat([peaks, around], ignore_index=True)
    peaks = sort_intervals(peaks, by=("start", "summit"))
    table = peaks[["chrom", "start", "end"]].assign(
        name=[f"summit_{number}" for number in range(1, len(peaks) + 1)],
        score=0,
        strand=".",
        signal=peaks["signal"].fillna(0.0),
        p_value=-1,
        q_value=-1,
        peak=peaks["summit"] - peaks["start"],
    )
    return table, pd.concat(dropped, ignore_index=True).drop(columns="line")
