"""The EnhancerPredictionsAllPutative table: 27 columns, one row a pair."""

import numpy as np
import pandas as pd
from jaxtyping import Float64

from data_prep.abc_scores import expression_quantile
from data_prep.element_class import element_names

PUTATIVE_COLUMNS = (
    "chr",
    "start",
    "end",
    "name",
    "class",
    "activity_base",
    "TargetGene",
    "TargetGeneSymbol",
    "TargetGeneTSS",
    "TargetGeneExpression",
    "TargetGenePromoterActivityQuantile",
    "TargetGeneIsExpressed",
    "distance",
    "isSelfPromoter",
    "powerlaw_contact",
    "powerlaw_contact_reference",
    "hic_contact",
    "hic_contact_pl_scaled",
    "hic_pseudocount",
    "hic_contact_pl_scaled_adj",
    "ABC.Score.Numerator",
    "ABC.Score",
    "powerlaw.Score.Numerator",
    "powerlaw.Score",
    "CellType",
    "normalized_h3K27ac",
    "normalized_dhs",
)
_EXPRESSED_ABOVE = 0.5
_SCORES = {
    "ABC.Score.Numerator": "abc_numerator",
    "ABC.Score": "abc_score",
    "powerlaw.Score.Numerator": "powerlaw_numerator",
    "powerlaw.Score": "powerlaw_score",
}
_SAME = (
    "powerlaw_contact",
    "powerlaw_contact_reference",
    "hic_contact",
    "hic_contact_pl_scaled",
    "hic_pseudocount",
    "hic_contact_pl_scaled_adj",
)


def gene_columns(genes: pd.DataFrame) -> pd.DataFrame:
    """What the table says of a gene: its names, TSS, expression and promoter activity quantile.

    Takes gene_id, tss and, where they are there, gene_name, expression and promoter_activity.
    """
    missing = np.full(len(genes), np.nan)
    expression = genes["expression"].to_numpy(np.float64) if "expression" in genes else missing
    quantile = missing
    if "promoter_activity" in genes:
        quantile = expression_quantile(genes["promoter_activity"].to_numpy(np.float64))
    is_expressed = pd.Series(expression > _EXPRESSED_ABOVE, dtype=object)
    is_expressed[np.isnan(expression)] = None
    return pd.DataFrame(
        {
            "TargetGene": genes["gene_id"].to_numpy(),
            "TargetGeneSymbol": genes.get("gene_name", genes["gene_id"]).to_numpy(),
            "TargetGeneTSS": genes["tss"].to_numpy(np.int64),
            "TargetGeneExpression": expression,
            "TargetGenePromoterActivityQuantile": quantile,
            "TargetGeneIsExpressed": is_expressed.to_numpy(),
        }
    )


def element_columns(elements: pd.DataFrame) -> pd.DataFrame:
    """What the table says of an element.

    Takes chrom, start, end, score_activity and, where they are there, class, dnase_rpm,
    h3k27ac_rpm. normalized_dhs and normalized_h3K27ac are what the scored activity is made of, as
    in the ABC pipeline, where elements have dnase_quantile (and h3k27ac_quantile): RPM normalised
    against the reference. Without a reference they are RPM over the sum of RPM, as in the original
    project's tables.
    """
    missing = np.full(len(elements), np.nan)
    columns = {
        "chr": elements["chrom"].to_numpy(),
        "start": elements["start"].to_numpy(np.int64),
        "end": elements["end"].to_numpy(np.int64),
        "name": element_names(elements).to_numpy(),
        "class": elements["class"].to_numpy() if "class" in elements else missing,
        "activity_base": elements["score_activity"].to_numpy(np.float64),
    }
    for name, signal in (("normalized_h3K27ac", "h3k27ac"), ("normalized_dhs", "dnase")):
        columns[name] = _normalised(elements, signal)
    return pd.DataFrame(columns)


def _normalised(elements: pd.DataFrame, signal: str) -> Float64[np.ndarray, " elements"]:
    if "dnase_quantile" in elements:
        column = f"{signal}_quantile"
        if column in elements:
            return elements[column].to_numpy(np.float64)
    elif f"{signal}_rpm" in elements:
        rpm = elements[f"{signal}_rpm"].to_numpy(np.float64)
        return rpm / np.nansum(rpm) if np.nansum(rpm) > 0 else rpm
    return np.full(len(elements), np.nan)


def putative_table(
    pairs: pd.DataFrame, elements: pd.DataFrame, genes: pd.DataFrame, *, cell_type: str
) -> pd.DataFrame:
    """The table for pairs from `abc_scores.score_chromosome`.

    `elements` and `genes` are the frames of `element_columns` and `gene_columns`, to which the
    pairs' row numbers refer. `distance` is without sign, as in the ABC pipeline.
    """
    table = pd.concat(
        [
            elements.iloc[pairs["element"].to_numpy()].reset_index(drop=True),
            genes.iloc[pairs["gene"].to_numpy()].reset_index(drop=True),
        ],
        axis=1,
    )
    distance = pairs["distance"].abs().to_numpy()
    table["distance"] = distance.astype(np.int64) if (distance % 1 == 0).all() else distance
    table["isSelfPromoter"] = pairs["is_self_promoter"].to_numpy()
    for name in _SAME:
        table[name] = pairs[name].to_numpy()
    for name, source in _SCORES.items():
        table[name] = pairs[source].to_numpy()
    table["CellType"] = cell_type
    return table[list(PUTATIVE_COLUMNS)]
