"""Quantile normalisation of RPM against a reference cell type (K562), in the two forms in use.

`by_rank` is the ABC pipeline's: within promoters and within the rest, the rank of an element is
looked up in the reference's table of ranks. `by_position` is the original project's: one class, the
place among n values is carried over to the sorted reference values. EPInformer's own features are
not normalised; ABC scores usually are.
"""

import os
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Real
from scipy.interpolate import interp1d
from scipy.stats import rankdata

from data_prep.text_input import read_table

CLASSES = ("any", "promoter", "nonpromoter")
FORMS = ("rank", "position")
REFERENCE_COLUMNS = {"dnase": "DHS.RPM", "h3k27ac": "H3K27ac.RPM"}


@dataclass(frozen=True)
class QuantileReference:
    """The reference table: for each class the ranks (1 = strongest) and the RPM at them."""

    ranks: dict[str, Float64[np.ndarray, " m"]]
    values: dict[tuple[str, str], Float64[np.ndarray, " m"]]

    def column(self, enhancer_class: str, signal: str) -> Float64[np.ndarray, " m"]:
        """The reference RPM of a class and a signal (dnase, which also serves ATAC, or h3k27ac)."""
        return self.values[enhancer_class, signal]


def read_quantile_reference(path: str | os.PathLike) -> QuantileReference:
    """Reads EnhancersQNormRef: enh_class, rank, DHS.RPM, H3K27ac.RPM.

    Raises:
      ValueError: a column or a class is missing, a class has fewer than two rows, or a rank stands
        twice.
    """
    table = read_table(path, required=["enh_class", "rank", *REFERENCE_COLUMNS.values()])
    classes = table.text("enh_class").to_numpy()
    rank = table.numbers("rank", minimum=0)
    signals = {name: table.numbers(column, minimum=0) for name, column in REFERENCE_COLUMNS.items()}
    ranks, values = {}, {}
    for enhancer_class in CLASSES:
        rows = np.flatnonzero(classes == enhancer_class)
        if len(rows) < 2:
            raise ValueError(
                f"{path}: {len(rows)} rows of class {enhancer_class!r}; expected at least 2 "
                f"(classes: {', '.join(CLASSES)})"
            )
        rows = rows[np.argsort(rank[rows], kind="stable")]
        for index in np.flatnonzero(np.diff(rank[rows]) == 0)[:1]:
            raise ValueError(
                f"{table.where(rows[index + 1])}: rank {rank[rows[index]]:g} of class "
                f"{enhancer_class} stands twice"
            )
        ranks[enhancer_class] = rank[rows]
        for name, signal in signals.items():
            values[enhancer_class, name] = signal[rows]
    return QuantileReference(ranks, values)


def by_rank(
    signal: Real[np.ndarray, " n"],
    is_promoter: Bool[np.ndarray, " n"],
    reference: QuantileReference,
    *,
    name: str,
) -> Float64[np.ndarray, " n"]:
    """The ABC pipeline's form: promoters and other elements apart.

    Within a class of n elements the quantile is average rank / n; the reference RPM is read off at
    rank (1 - quantile) * n, linearly between the table's ranks, extended beyond its ends, and not
    below 0.
    """
    result = np.zeros(len(signal))
    for enhancer_class, rows in (("promoter", is_promoter), ("nonpromoter", ~is_promoter)):
        n = int(rows.sum())
        if not n:
            continue
        quantile = rankdata(signal[rows], method="average") / n
        line = interp1d(
            reference.ranks[enhancer_class],
            reference.column(enhancer_class, name),
            fill_value="extrapolate",
        )
        result[rows] = np.maximum(line((1 - quantile) * n), 0)
    return result


def by_position(
    signal: Real[np.ndarray, " n"], reference: QuantileReference, *, name: str
) -> Float64[np.ndarray, " n"]:
    """The original project's form: all elements in one class.

    With 0-based average ranks r among n values, the result is the reference's m sorted values read
    off at r / (n - 1) * (m - 1), linearly; a single element gets their middle.
    """
    ordered = np.sort(reference.column("any", name))
    n, m = len(signal), len(ordered)
    if not n:
        return np.zeros(0)
    ranks = rankdata(signal, method="average") - 1
    position = ranks / (n - 1) * (m - 1) if n > 1 else np.array([(m - 1) / 2])
    return np.interp(position, np.arange(m), ordered)
