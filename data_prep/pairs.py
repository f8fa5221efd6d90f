"""Pairs of genes and elements on one chromosome, joined by two binary searches a gene."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, Real

MIDPOINTS = ("floor", "exact")


class Pairs(NamedTuple):
    """Pairs as row numbers of the gene and element tables given, sorted by gene, then by place."""

    gene: Int64[np.ndarray, " pairs"]
    element: Int64[np.ndarray, " pairs"]


def join_within(
    tss: Int64[np.ndarray, " genes"],
    starts: Int64[np.ndarray, " elements"],
    ends: Int64[np.ndarray, " elements"],
    *,
    max_distance_bp: int,
    inclusive: bool = True,
    midpoint: str = "floor",
) -> Pairs:
    """Joins each TSS with the elements whose middle lies within max_distance_bp of it.

    The middle is (start + end) // 2 (`floor`) or (start + end) / 2 (`exact`). At the limit itself a
    pair counts when `inclusive`. Elements of one gene come sorted by middle.

    Raises:
      ValueError: an unknown kind of middle, or a negative distance.
    """
    if max_distance_bp < 0:
        raise ValueError(f"largest distance is {max_distance_bp} bp; expected at least 0")
    doubled = doubled_middle(starts, ends, midpoint=midpoint)
    order = np.argsort(doubled, kind="stable")
    middles = doubled[order]
    reach = 2 * max_distance_bp
    low_side, high_side = ("left", "right") if inclusive else ("right", "left")
    first = np.searchsorted(middles, 2 * tss - reach, side=low_side)
    last = np.maximum(np.searchsorted(middles, 2 * tss + reach, side=high_side), first)
    counts = last - first
    gene = np.repeat(np.arange(len(tss)), counts)
    before = np.cumsum(counts) - counts
    within = np.arange(len(gene)) - np.repeat(before, counts)
    return Pairs(gene, order[np.repeat(first, counts) + within])


def doubled_middle(
    starts: Int64[np.ndarray, " n"], ends: Int64[np.ndarray, " n"], *, midpoint: str
) -> Int64[np.ndarray, " n"]:
    """Twice the middle of intervals, a whole number also where the middle is not."""
    if midpoint not in MIDPOINTS:
        raise ValueError(f"midpoint {midpoint!r} is unknown; expected floor or exact")
    total = starts + ends
    return total - total % 2 if midpoint == "floor" else total


def is_self_promoter(
    tss: Int64[np.ndarray, " pairs"],
    starts: Int64[np.ndarray, " pairs"],
    ends: Int64[np.ndarray, " pairs"],
    *,
    slop_bp: int = 500,
) -> Bool[np.ndarray, " pairs"]:
    """True where |middle - TSS| < slop_bp + width / 2: the element meets its gene's promoter."""
    return np.abs(starts + ends - 2 * tss) < 2 * slop_bp + (ends - starts)


def sum_by_gene(
    values: Real[np.ndarray, " pairs"], gene: Int64[np.ndarray, " pairs"]
) -> Real[np.ndarray, " pairs"]:
    """Each pair's sum of `values` over all pairs of its gene."""
    totals = np.bincount(gene, values)
    return totals[gene]
