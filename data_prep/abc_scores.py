"""ABC scores: activity x contact of an element over the sum of it for all elements of the gene."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float64

from data_prep.contact import ContactSource, contact_columns
from data_prep.contact_map import ContactMap
from data_prep.element_class import PROMOTER
from data_prep.pairs import Pairs, doubled_middle, is_self_promoter, join_within, sum_by_gene

SELF_PROMOTER_SCORES = ("one", "computed")
ACCESSIBILITY = ("DNase", "ATAC")
CONTACT_KINDS = ("hic", "average", "powerlaw")

# Scores at which links reach 70 % recall in K562 CRISPR data, by what went in: accessibility,
# whether there is H3K27ac, and the kind of contact (abc_thresholds of the ABC pipeline).
THRESHOLDS = {
    ("DNase", True, "hic"): 0.027,
    ("DNase", False, "hic"): 0.024,
    ("DNase", True, "average"): 0.016,
    ("DNase", False, "average"): 0.016,
    ("DNase", True, "powerlaw"): 0.017,
    ("DNase", False, "powerlaw"): 0.016,
    ("ATAC", True, "hic"): 0.025,
    ("ATAC", False, "hic"): 0.021,
    ("ATAC", True, "average"): 0.016,
    ("ATAC", False, "average"): 0.012,
    ("ATAC", True, "powerlaw"): 0.016,
    ("ATAC", False, "powerlaw"): 0.013,
}


@dataclass(frozen=True)
class ScoreRule:
    """How pairs are scored.

    Attributes:
      max_distance_bp: elements within this of the TSS share the score.
      inclusive: whether an element at that very distance counts.
      midpoint: "floor" or "exact", see `pairs.join_within`.
      tss_slop_bp: an element that meets the gene's own TSS +- this is a self-promoter.
      self_promoter_score: "one" sets its scores to 1, as the ABC pipeline does, "computed" leaves
        them.
    """

    max_distance_bp: int = 5_000_000
    inclusive: bool = True
    midpoint: str = "floor"
    tss_slop_bp: int = 500
    self_promoter_score: str = "one"

    def __post_init__(self):
        if self.self_promoter_score not in SELF_PROMOTER_SCORES:
            raise ValueError(
                f"self-promoter score {self.self_promoter_score!r} is unknown; expected one or "
                "computed"
            )


# What the ABC pipeline does, to the last digit.
ABC_PIPELINE = ScoreRule(max_distance_bp=5_000_000, inclusive=False, midpoint="exact")
SCORE_RULES = {"floor": ScoreRule(), "abc": ABC_PIPELINE}


def threshold(accessibility: str, *, has_h3k27ac: bool, contact_kind: str) -> float:
    """The score from which on a pair counts as a link, by the inputs.

    Raises:
      ValueError: an unknown assay or kind of contact.
    """
    key = (accessibility, has_h3k27ac, contact_kind)
    if key not in THRESHOLDS:
        raise ValueError(
            f"no ABC threshold for {accessibility!r} with contact {contact_kind!r}; expected "
            f"{' or '.join(ACCESSIBILITY)} and one of {', '.join(CONTACT_KINDS)}"
        )
    return THRESHOLDS[key]


def score_chromosome(
    elements: pd.DataFrame,
    genes: pd.DataFrame,
    *,
    source: ContactSource,
    contacts: ContactMap | None,
    rule: ScoreRule,
) -> pd.DataFrame:
    """Scores all pairs of one chromosome.

    `elements` needs start, end and score_activity; `genes` needs tss. The result has one row a
    pair, by gene and place: gene and element (row numbers), middle (float, by the rule), distance
    (signed), is_self_promoter, the contact columns of `contact.contact_columns`, abc_numerator,
    abc_score, powerlaw_numerator and powerlaw_score. Self-promoters are part of the sums.
    """
    starts = elements["start"].to_numpy(np.int64)
    ends = elements["end"].to_numpy(np.int64)
    tss = genes["tss"].to_numpy(np.int64)
    pairs = join_within(
        tss,
        starts,
        ends,
        max_distance_bp=rule.max_distance_bp,
        inclusive=rule.inclusive,
        midpoint=rule.midpoint,
    )
    pair_tss = tss[pairs.gene]
    middle = doubled_middle(starts, ends, midpoint=rule.midpoint)[pairs.element] / 2
    frame = contact_columns(source, contacts, middle_bp=middle, tss=pair_tss)
    frame.insert(0, "gene", pairs.gene)
    frame.insert(1, "element", pairs.element)
    frame.insert(2, "distance", middle - pair_tss)
    frame["is_self_promoter"] = is_self_promoter(
        pair_tss, starts[pairs.element], ends[pairs.element], slop_bp=rule.tss_slop_bp
    )
    activity = elements["score_activity"].to_numpy(np.float64)[pairs.element]
    for name, contact in (("abc", "abc_contact"), ("powerlaw", "powerlaw_contact")):
        numerator = activity * frame[contact].to_numpy(np.float64)
        frame[f"{name}_numerator"] = numerator
        frame[f"{name}_score"] = _shares(numerator, pairs, frame["is_self_promoter"], rule)
    return frame


def _shares(
    numerator: Float64[np.ndarray, " pairs"], pairs: Pairs, is_self: pd.Series, rule: ScoreRule
) -> Float64[np.ndarray, " pairs"]:
    total = sum_by_gene(numerator, pairs.gene)
    share = np.divide(numerator, total, out=np.zeros(len(numerator)), where=total > 0)
    if rule.self_promoter_score == "one":
        share[is_self.to_numpy()] = 1.0
    return share


def is_predicted_link(
    scores: Float64[np.ndarray, " pairs"],
    element_class: np.ndarray,
    is_self: np.ndarray,
    *,
    threshold: float,
) -> np.ndarray:
    """The ABC pipeline's links: non-promoters at or above the threshold, and self-promoters."""
    return ((element_class != PROMOTER) & (scores >= threshold)) | is_self


def expression_quantile(activity: Float64[np.ndarray, " genes"]) -> Float64[np.ndarray, " genes"]:
    """Average rank of promoter activity among the genes, divided by their number (0 to 1]."""
    return pd.Series(activity).rank(method="average").to_numpy() / max(len(activity), 1)
