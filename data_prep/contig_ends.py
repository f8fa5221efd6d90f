"""Places past the ends of their contigs: another assembly, most likely; never dropped in silence.

A few are listed with what else is left out. A share above WARNING_SHARE is warned of, and when most
places lie there the file is refused: it is of another assembly than the genome.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Bool

WARNING_SHARE = 0.01
REFUSED_SHARE = 0.5


def within_ends(
    frame: pd.DataFrame,
    contigs: Mapping[str, int | None],
    *,
    position: str,
    what: str,
    source: str,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Parts rows by whether `position` (0-based) lies on their contig: (kept, left out).

    Rows on contigs that are not known, or whose length is not, are kept. Those left out have a
    `reason`.

    Raises:
      ValueError: as `beyond_ends`.
    """
    is_beyond = beyond_ends(frame, contigs, position=position, what=what, source=source)
    reason = f"{what} lies past the end of its contig"
    return frame[~is_beyond].reset_index(drop=True), frame[is_beyond].assign(reason=reason)


def beyond_ends(
    frame: pd.DataFrame,
    contigs: Mapping[str, int | None],
    *,
    position: str,
    what: str,
    source: str,
) -> Bool[np.ndarray, " n"]:
    """True where `position` (0-based) is not on a row's contig; a large share is said on screen.

    Raises:
      ValueError: more than half of the rows lie there.
    """
    lengths = pd.to_numeric(frame["chrom"].map(dict(contigs)), errors="coerce")
    is_beyond = frame[position].to_numpy(np.float64) >= lengths.to_numpy(np.float64)
    number = int(is_beyond.sum())
    if number <= WARNING_SHARE * len(frame):
        return is_beyond
    first = frame.iloc[int(np.argmax(is_beyond))]
    said = (
        f"{source}: {number:,} of {len(frame):,} places ({what}: {position}) lie past the ends of "
        f"their contigs, the first at {first['chrom']}:{first[position] + 1:,} of "
        f"{contigs[first['chrom']]:,} bp"
    )
    if number > REFUSED_SHARE * len(frame):
        raise ValueError(f"{said}; this is another assembly: use files of one assembly")
    print(f"WARNING: {said}; is it of another assembly?")
    return is_beyond
