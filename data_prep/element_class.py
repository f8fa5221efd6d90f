"""What an element is: promoter, genic or intergenic."""

import numpy as np
import pandas as pd
from jaxtyping import Shaped

from data_prep.intervals import overlaps_any

PROMOTER, GENIC, INTERGENIC = "promoter", "genic", "intergenic"


def tss_windows(genes: pd.DataFrame, *, slop_bp: int = 500) -> pd.DataFrame:
    """The window [tss - slop_bp, tss + slop_bp) of each gene, not below 0, in the genes' order."""
    tss = genes["tss"].to_numpy(np.int64)
    return pd.DataFrame(
        {
            "chrom": genes["chrom"].to_numpy(),
            "start": np.maximum(tss - slop_bp, 0),
            "end": np.maximum(tss + slop_bp, 1),
        }
    )


def gene_bodies(genes: pd.DataFrame) -> pd.DataFrame:
    """The bodies of genes that have start and end, as chrom, start, end."""
    return genes[["chrom", "start", "end"]].reset_index(drop=True)


def classify(
    elements: pd.DataFrame, genes: pd.DataFrame, *, slop_bp: int = 500
) -> Shaped[np.ndarray, " n"]:
    """`promoter` where an element meets a TSS +- slop_bp, `genic` in a body, else `intergenic`.

    Genes without start and end columns make no element genic.
    """
    is_promoter = overlaps_any(elements, tss_windows(genes, slop_bp=slop_bp))
    is_genic = np.zeros(len(elements), bool)
    if {"start", "end"} <= set(genes.columns):
        is_genic = overlaps_any(elements, gene_bodies(genes))
    return np.where(is_promoter, PROMOTER, np.where(is_genic, GENIC, INTERGENIC)).astype(object)


def element_names(elements: pd.DataFrame) -> pd.Series:
    """Names as the ABC tables write them: class|chrom:start-end (0-based, half-open)."""
    place = (
        elements["chrom"] + ":" + elements["start"].astype(str) + "-" + elements["end"].astype(str)
    )
    return elements["class"].astype(str) + "|" + place if "class" in elements else place
