"""Which candidate elements a gene keeps, in which order, and how they lie in their window.

Distances are signed base pairs, floor midpoint of the element minus TSS; the rule looks at their
absolute value.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
import pandas as pd

SELF_PROMOTER_RULES = ("exclude", "first")
WITHIN_MIN_DISTANCE = "within min distance"
BEYOND_MAX_DISTANCE = "beyond max distance"
BEYOND_MAX_ELEMENTS = "beyond max elements"
REASONS = (WITHIN_MIN_DISTANCE, BEYOND_MAX_DISTANCE, BEYOND_MAX_ELEMENTS)
_PROMOTER_HALF_WIDTH_BP = 500


@dataclasses.dataclass(frozen=True)
class ElementRule:
    """Keeps min_distance_bp < |distance| <= max_distance_bp, nearest first, at most max_elements.

    Ties are broken by start, then end. The defaults are the published rule. `self_promoter="first"`
    puts the nearest self-promoter element in front of all others, whatever its distance within the
    maximum; it counts towards max_elements, and further self-promoters are treated like any
    element. "exclude" treats none of them specially: the minimum distance is what keeps them out.
    Elements longer than window_bp are cropped.

    Raises:
      ValueError: a value is out of range.
    """

    min_distance_bp: int = 1000
    max_distance_bp: int = 100_000
    max_elements: int = 60
    window_bp: int = 2000
    self_promoter: str = "exclude"

    def __post_init__(self):
        if not -1 <= self.min_distance_bp < self.max_distance_bp:
            raise ValueError(
                f"min_distance_bp={self.min_distance_bp}, max_distance_bp={self.max_distance_bp}: "
                "expected -1 <= minimum < maximum (the minimum is left out; -1 keeps distance 0)"
            )
        if self.max_elements < 1:
            raise ValueError(f"max_elements={self.max_elements}; expected at least 1")
        check_window_bp(self.window_bp, "window_bp")
        if self.self_promoter not in SELF_PROMOTER_RULES:
            raise ValueError(
                f"self_promoter={self.self_promoter!r}; expected {' or '.join(SELF_PROMOTER_RULES)}"
            )

    def to_dict(self) -> dict:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> "ElementRule":
        """Undoes `to_dict`; fields that are not there take their default.

        Raises:
          ValueError: an unknown field, or a value out of range.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(
                f"element rule: unknown field {unknown[0]!r}; known: {', '.join(known)}"
            )
        return cls(**values)


def check_window_bp(window_bp: int, name: str) -> None:
    """Raises ValueError unless the length is even and positive, so that it has a middle."""
    if window_bp <= 0 or window_bp % 2:
        raise ValueError(f"{name}={window_bp}; expected an even number of base pairs above 0")


def select(links: pd.DataFrame, rule: ElementRule) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Applies the rule to the links of one gene, or of many (told apart by `gene_id`).

    Needs columns start, end, distance; is_self_promoter is taken where it is there, else an element
    is a self-promoter when it overlaps TSS +-500 bp. Returns the kept links, of each gene nearest
    first (genes in order of their first link), and the dropped ones in the order given, with a
    column `reason`.

    Raises:
      ValueError: a column is missing.
    """
    for name in ("start", "end", "distance"):
        if name not in links:
            raise ValueError(f"links have no column {name!r}; read them together with their genes")
    distance = links["distance"].abs().to_numpy()
    too_near = distance <= rule.min_distance_bp
    too_far = distance > rule.max_distance_bp
    is_first = np.zeros(len(links), bool)
    gene = (
        pd.factorize(links["gene_id"])[0] if "gene_id" in links else np.zeros(len(links), np.int64)
    )
    order = np.lexsort((links["end"], links["start"], distance, gene))
    if rule.self_promoter == "first":
        candidates = order[(is_self_promoter(links) & ~too_far)[order]]
        is_first[candidates[np.unique(gene[candidates], return_index=True)[1]]] = True
    eligible = is_first | ~(too_near | too_far)
    order = np.lexsort((links["end"], links["start"], distance, ~is_first, gene))
    order = order[eligible[order]]
    rank = np.arange(order.size) - np.searchsorted(gene[order], gene[order])
    kept = order[rank < rule.max_elements]
    reason = np.where(
        too_far, BEYOND_MAX_DISTANCE, np.where(eligible, BEYOND_MAX_ELEMENTS, WITHIN_MIN_DISTANCE)
    )
    is_dropped = np.ones(len(links), bool)
    is_dropped[kept] = False
    return links.iloc[kept], links[is_dropped].assign(reason=reason[is_dropped])


def is_self_promoter(links: Mapping[str, np.ndarray] | pd.DataFrame) -> np.ndarray:
    """Boolean, one a link: the table's own column, or overlap of the element with TSS +-500 bp."""
    if "is_self_promoter" in links:
        return np.asarray(links["is_self_promoter"], bool)
    start, end, distance = (np.asarray(links[name]) for name in ("start", "end", "distance"))
    return np.abs(distance) < _PROMOTER_HALF_WIDTH_BP + (end - start) / 2


def crop(start: int, end: int, window_bp: int) -> tuple[int, int]:
    """What of an element enters its window: all of it, or window_bp around its floor midpoint."""
    if end - start <= window_bp:
        return start, end
    middle = (start + end) // 2
    return middle - window_bp // 2, middle + window_bp // 2


def offset_in_window(length: int, window_bp: int) -> int:
    """Where an element of this (cropped) length begins in its window: centred, as published."""
    return window_bp // 2 - length // 2
