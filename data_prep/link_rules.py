"""Which links a gene keeps: distances, self-promoter, and at most so many in a chosen order.

The published order, nearest first, is `epinformer_jax.data.elements.select`; other orders rank what
passes the distances by score. Distances are floor middle minus TSS.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from epinformer_jax.data.elements import (
    BEYOND_MAX_DISTANCE,
    BEYOND_MAX_ELEMENTS,
    ElementRule,
    select,
)

ORDERS = ("nearest", "abc", "activity", "activity_contact")
_NO_LIMIT = 2**31 - 1


@dataclass(frozen=True)
class LinkRule:
    """min_distance_bp < |distance| <= max_distance_bp, then the first max_elements by `order`.

    min_distance_bp = -1 keeps distance 0; max_elements = None keeps all. `self_promoter="first"`
    puts the nearest self-promoter in front of all others, see ElementRule.
    """

    min_distance_bp: int = -1
    max_distance_bp: int = 100_000
    max_elements: int | None = None
    self_promoter: str = "exclude"
    order: str = "nearest"

    def __post_init__(self):
        if self.order not in ORDERS:
            raise ValueError(
                f"order {self.order!r} is unknown; expected one of {', '.join(ORDERS)}"
            )
        self.element_rule()

    def element_rule(self, max_elements: int | None = None) -> ElementRule:
        """The same rule for `elements.select`; raises ValueError where a number is out of range."""
        limit = max_elements if max_elements is not None else self.max_elements
        return ElementRule(
            min_distance_bp=self.min_distance_bp,
            max_distance_bp=self.max_distance_bp,
            max_elements=_NO_LIMIT if limit is None else limit,
            self_promoter=self.self_promoter,
        )

    def __str__(self) -> str:
        limit = "all" if self.max_elements is None else f"first {self.max_elements} by {self.order}"
        return (
            f"{self.min_distance_bp} < |distance| <= {self.max_distance_bp} bp, {limit}, "
            f"self-promoters: {self.self_promoter}"
        )


LINK_RULES = {
    "all": LinkRule(),
    "published": LinkRule(min_distance_bp=1000, max_elements=60),
    "pipeline2026": LinkRule(min_distance_bp=0, max_elements=60, self_promoter="first"),
}


def select_links(links: pd.DataFrame, rule: LinkRule) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Applies a rule to the links of any number of genes: (kept, dropped with a `reason`).

    Orders other than nearest put the largest value first, ties by distance, start and end. Pairs
    beyond the largest distance are no candidates and are not listed.
    """
    by_score = rule.order != "nearest" and rule.max_elements is not None
    kept, dropped = select(links, rule.element_rule(_NO_LIMIT if by_score else None))
    dropped = dropped[dropped["reason"] != BEYOND_MAX_DISTANCE]
    if not by_score:
        return kept, dropped
    is_kept = _ranks(kept, rule) < rule.max_elements
    beyond = kept[~is_kept].assign(reason=BEYOND_MAX_ELEMENTS)
    return kept[is_kept], pd.concat([dropped, beyond])


def _ranks(eligible: pd.DataFrame, rule: LinkRule) -> np.ndarray:
    """The place of each link among those of its gene, 0 first."""
    value = {
        "abc": lambda frame: frame["abc_score"],
        "activity": lambda frame: frame["activity"],
        "activity_contact": lambda frame: frame["activity"] * frame["contact"],
    }[rule.order](eligible).to_numpy(np.float64)
    gene = pd.factorize(eligible["gene_id"])[0]
    place = np.arange(len(eligible))  # select returns each gene's links nearest first
    if rule.self_promoter == "first":
        first = np.append(True, gene[1:] != gene[:-1]) & eligible["is_self_promoter"].to_numpy(bool)
        value = np.where(first, np.inf, value)
    order = np.lexsort((place, -value, gene))
    rank = np.empty(len(eligible), np.int64)
    sorted_gene = gene[order]
    rank[order] = np.arange(len(order)) - np.searchsorted(sorted_gene, sorted_gene)
    return rank
