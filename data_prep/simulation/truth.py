"""The answer key of one cell type: pairs with their effects, motif sites, expression terms."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_prep.simulation.annotation import write_tsv
from data_prep.simulation.layout import Layout
from data_prep.simulation.motifs import CORE_BP, KINDS, MOTIFS, SITE_BP
from data_prep.simulation.prepared import gene_ids, names
from data_prep.simulation.rule import Truth
from data_prep.simulation.settings import (
    CELLS,
    ELEMENT_CLASSES,
    PROMOTER_CLASSES,
    Rule,
    Settings,
)

_PRECISE = "%.10g"


def write_truth(
    directory: Path,
    settings: Settings,
    rule: Rule,
    layout: Layout,
    truth: Truth,
    *,
    cell: str,
    label: np.ndarray,
    words: str,
) -> None:
    """Writes truth.tsv, motifs.tsv, promoters.tsv and truth.json of one cell type.

    `words` is the rule in words, one paragraph.
    """
    write_tsv(directory / "truth.tsv", pairs_table(layout, truth, rule), number=_PRECISE)
    write_tsv(directory / "motifs.tsv", motifs_table(layout, rule, cell))
    write_tsv(directory / "promoters.tsv", promoters_table(layout, truth, label), number=_PRECISE)
    summary = {
        "cell_type": cell,
        "seed": settings.seed,
        "rule": [line.strip() for line in words.strip().splitlines() if line.strip()],
        **summary_numbers(truth, label),
        "motifs": [
            {
                "kind": motif.kind,
                "core": motif.core,
                "first_base": motif.ends[0],
                "last_base": motif.ends[1],
            }
            for motif in MOTIFS
        ],
        "settings": dataclasses.asdict(settings),
        "constants": dataclasses.asdict(rule),
    }
    text = json.dumps(summary, indent=2, default=_plain) + "\n"
    (directory / "truth.json").write_text(text, encoding="utf-8")


def pairs_table(layout: Layout, truth: Truth, rule: Rule) -> pd.DataFrame:
    """Every gene x active element within the distance limit, ordered by gene, then position."""
    pairs, elements = truth.pairs, layout.elements
    element = pairs.element
    return pd.DataFrame(
        {
            "gene_id": gene_ids(layout)[pairs.gene],
            "chrom": names(elements.chrom[element]),
            "start": elements.start[element],
            "end": elements.end[element],
            "distance": pairs.distance,
            "class": np.array(ELEMENT_CLASSES)[elements.kind[element]],
            "motifs": np.array(_motif_words(layout))[element],
            "true_activity": truth.element_activity[element],
            "true_contact": pairs.contact,
            "compatibility": pairs.compatibility,
            "effect": pairs.effect,
            "removal_change": pairs.removal_change,
            "is_driver": np.abs(pairs.removal_change) >= rule.driver_min_change,
        }
    )


def _motif_words(layout: Layout) -> list[str]:
    """Motif kinds of each element with their numbers: `housekeeping_1:2,silencer:1`."""
    here = layout.site_summit >= 0
    element = layout.elements.summit_element[layout.site_summit[here]]
    counts = np.zeros((len(layout.elements.kind), len(KINDS)), np.int64)
    np.add.at(counts, (element, layout.sites.kind[here]), 1)
    return [
        ",".join(f"{KINDS[kind]}:{row[kind]}" for kind in np.flatnonzero(row).tolist())
        for row in counts
    ]


def motifs_table(layout: Layout, rule: Rule, cell: str) -> pd.DataFrame:
    """Every planted site of the genome, sorted by position.

    `weight` is what a full-strength site of this kind adds to the natural log of activity in this
    cell type; `is_active` is false in elements that are closed in this cell type.
    """
    sites, elements = layout.sites, layout.elements
    weights = rule.weights_of(cell)
    element = elements.summit_element[np.maximum(layout.site_summit, 0)]
    in_promoter = layout.site_gene >= 0
    element_names = [
        f"{chrom}:{start}-{end}"
        for chrom, start, end in zip(
            names(elements.chrom), elements.start.tolist(), elements.end.tolist(), strict=True
        )
    ]
    owner = np.where(
        in_promoter,
        gene_ids(layout)[np.maximum(layout.site_gene, 0)],
        np.array(element_names)[element],
    )
    active = in_promoter | elements.active[CELLS.index(cell)][element]
    table = pd.DataFrame(
        {
            "chrom": names(sites.chrom),
            "start": sites.start,
            "end": sites.start + SITE_BP,
            "strand": np.where(sites.minus, "-", "+"),
            "kind": np.array(KINDS)[sites.kind],
            "strength": sites.strength,
            "weight": np.array([weights[kind] for kind in KINDS])[sites.kind],
            "place": np.where(in_promoter, "promoter", "element"),
            "owner": owner,
            "is_active": active,
        }
    )
    return table.iloc[np.lexsort((sites.start, sites.chrom))]


def promoters_table(layout: Layout, truth: Truth, label: np.ndarray) -> pd.DataFrame:
    """Terms of each gene's planted expression (log10 RPKM): their sum is `planted`."""
    genes = layout.genes
    effect_sum = np.bincount(truth.pairs.gene, weights=truth.pairs.effect, minlength=len(genes.tss))
    return pd.DataFrame(
        {
            "gene_id": gene_ids(layout),
            "chrom": names(genes.chrom),
            "tss": genes.tss,
            "class": np.where(genes.housekeeping, *PROMOTER_CLASSES),
            "true_promoter_activity": truth.promoter_activity,
            "effect_sum": effect_sum,
            **{f"term_{name}": values for name, values in truth.terms.items()},
            "planted": truth.planted,
            "noise": truth.noise,
            "rpkm": truth.rpkm,
            "label": label,
        }
    )


def summary_numbers(truth: Truth, label: np.ndarray) -> dict[str, Any]:
    """Noise ceiling, variance shares and counts that belong into truth.json."""
    latent = truth.planted + truth.noise
    varying = {name: values for name, values in truth.terms.items() if name != "intercept"} | {
        "noise": truth.noise
    }
    shares = {
        name: round(float(values.var() / latent.var()), 6) for name, values in varying.items()
    }
    shares["covariances"] = round(1.0 - sum(shares.values()), 6)
    return {
        "noise_ceiling_pearson": round(float(np.corrcoef(truth.planted, label)[0, 1]), 6),
        "floor_share": round(float((truth.rpkm == 0).mean()), 6),
        "variance_shares": shares,
        "intercept": float(truth.terms["intercept"][0]),
        "genes": len(label),
        "pairs": len(truth.pairs.gene),
        "genes_without_element": int(len(label) - len(np.unique(truth.pairs.gene))),
        "motif_core_bp": CORE_BP,
    }


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
