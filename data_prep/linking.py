"""Joins genes with elements and scores the pairs, chromosome by chromosome."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from data_prep import abc_scores, abc_table
from data_prep.contact import ContactSource
from data_prep.intervals import sort_intervals
from data_prep.link_rules import LinkRule, select_links
from data_prep.signals import with_activity
from epinformer_jax.data.chromosomes import natural_order

LINK_COLUMNS = (
    "gene_id",
    "chrom",
    "start",
    "end",
    "distance",
    "activity",
    "contact",
    "dnase",
    "h3k27ac",
    "abc_score",
    "is_self_promoter",
)


@dataclass(frozen=True)
class Links:
    """What linking gives.

    Attributes:
      links: LINK_COLUMNS (dnase and h3k27ac where the elements have them), sorted by place and
        gene.
      dropped: pairs that the rule left out, with a `reason`.
      unlinked: genes without any link, with a `reason`.
      putative: all pairs within the rule's largest distance, the 27-column table; None unless asked
        for.
      predicted: the rows of the putative table that reach the ABC threshold, and the
        self-promoters.
    """

    links: pd.DataFrame
    dropped: pd.DataFrame
    unlinked: pd.DataFrame
    putative: pd.DataFrame | None = None
    predicted: pd.DataFrame | None = None


def link(
    elements: pd.DataFrame,
    genes: pd.DataFrame,
    source: ContactSource,
    *,
    rule: LinkRule,
    scores: abc_scores.ScoreRule = abc_scores.ScoreRule(),  # noqa: B008 (frozen)
    score_activity: str = "activity",
    cell_type: str = "",
    putative_distance_bp: int | None = None,
    min_score: float | None = None,
) -> Links:
    """Links genes (gene_id, chrom, tss) with elements (chrom, start, end, activity).

    ABC scores are shares within `scores.max_distance_bp`, whatever the rule keeps afterwards. With
    `putative_distance_bp` the putative table holds all pairs within that distance; with `min_score`
    also `predicted`, over all scored pairs.

    Raises:
      ValueError: no activity column, a negative or missing activity, a gene or element twice.
    """
    elements = _scorable(elements, score_activity)
    _check_genes(genes)
    element_table, gene_table = abc_table.element_columns(elements), abc_table.gene_columns(genes)
    parts: dict[str, list[pd.DataFrame]] = {
        "links": [],
        "dropped": [],
        "putative": [],
        "predicted": [],
    }
    rows_of_element = elements.groupby("chrom", sort=False).indices
    rows_of_gene = genes.groupby("chrom", sort=False).indices
    for chrom in tqdm(
        natural_order(rows_of_gene), desc="linking", unit=" chromosomes", disable=None
    ):
        if chrom not in rows_of_element:
            continue
        element_rows, gene_rows = np.sort(rows_of_element[chrom]), np.sort(rows_of_gene[chrom])
        pairs = abc_scores.score_chromosome(
            elements.iloc[element_rows],
            genes.iloc[gene_rows],
            source=source,
            contacts=source.load(chrom, max_distance_bp=scores.max_distance_bp),
            rule=scores,
        )
        pairs["element"] = element_rows[pairs["element"].to_numpy()]
        pairs["gene"] = gene_rows[pairs["gene"].to_numpy()]
        near = pairs[pairs["distance"].abs() <= rule.max_distance_bp + 1]
        kept, dropped = select_links(_as_links(near, elements, genes), rule)
        parts["links"].append(kept)
        parts["dropped"].append(dropped)
        tables = (element_table, gene_table)
        if putative_distance_bp is not None:
            within = pairs[pairs["distance"].abs() <= putative_distance_bp]
            parts["putative"].append(abc_table.putative_table(within, *tables, cell_type=cell_type))
        if min_score is not None:
            reached = pairs[_is_predicted(pairs, element_table, min_score)]
            parts["predicted"].append(
                abc_table.putative_table(reached, *tables, cell_type=cell_type)
            )
    return _joined(parts, elements, genes)


def _scorable(elements: pd.DataFrame, score_activity: str) -> pd.DataFrame:
    if "activity" not in elements and "dnase_rpm" in elements:
        elements = with_activity(elements)
    for column in ("activity", score_activity):
        if column not in elements:
            raise ValueError(
                f"the element table has no column {column!r}; run `python -m data_prep signals` "
                "on it first"
            )
        values = pd.to_numeric(elements[column], errors="coerce").to_numpy(np.float64)
        for row in np.flatnonzero(~(np.isfinite(values) & (values >= 0)))[:1]:
            raise ValueError(
                f"element {_place(elements, row)}: {column} is {elements[column].iloc[row]}; "
                "expected a number of at least 0"
            )
    repeated = elements.duplicated(["chrom", "start", "end"]).to_numpy()
    for row in np.flatnonzero(repeated)[:1]:
        raise ValueError(f"element {_place(elements, row)} stands twice in the table; keep one row")
    elements = sort_intervals(elements)
    return elements.assign(score_activity=elements[score_activity].astype(np.float64))


def _place(elements: pd.DataFrame, row: int | np.integer) -> str:
    one = elements.iloc[row]
    return f"{one['chrom']}:{one['start'] + 1}-{one['end']}"


def _check_genes(genes: pd.DataFrame) -> None:
    for row in np.flatnonzero(genes["gene_id"].duplicated().to_numpy())[:1]:
        raise ValueError(
            f"gene {genes['gene_id'].iloc[row]} stands twice in the table; keep one row"
        )


def _is_predicted(pairs: pd.DataFrame, elements: pd.DataFrame, min_score: float) -> np.ndarray:
    return abc_scores.is_predicted_link(
        pairs["abc_score"].to_numpy(),
        elements["class"].to_numpy()[pairs["element"].to_numpy()],
        pairs["is_self_promoter"].to_numpy(),
        threshold=min_score,
    )


def _as_links(pairs: pd.DataFrame, elements: pd.DataFrame, genes: pd.DataFrame) -> pd.DataFrame:
    chosen = elements.iloc[pairs["element"].to_numpy()]
    owner = genes.iloc[pairs["gene"].to_numpy()]
    middle = (chosen["start"].to_numpy(np.int64) + chosen["end"].to_numpy(np.int64)) // 2
    columns: dict[str, Any] = {
        "gene_id": owner["gene_id"].to_numpy(),
        "chrom": chosen["chrom"].to_numpy(),
        "start": chosen["start"].to_numpy(np.int64),
        "end": chosen["end"].to_numpy(np.int64),
        "distance": middle - owner["tss"].to_numpy(np.int64),
        "activity": chosen["activity"].to_numpy(np.float64),
        "contact": pairs["contact"].to_numpy(np.float64),
    }
    for name in ("dnase", "h3k27ac"):
        if f"{name}_rpm" in chosen:
            columns[name] = chosen[f"{name}_rpm"].to_numpy(np.float64)
    columns["abc_score"] = pairs["abc_score"].to_numpy(np.float64)
    columns["is_self_promoter"] = pairs["is_self_promoter"].to_numpy()
    return pd.DataFrame(columns)


def _joined(
    parts: Mapping[str, list[pd.DataFrame]], elements: pd.DataFrame, genes: pd.DataFrame
) -> Links:
    def together(name: str) -> pd.DataFrame | None:
        return pd.concat(parts[name], ignore_index=True) if parts[name] else None

    links = together("links")
    dropped = together("dropped")
    if links is None or dropped is None:
        raise ValueError(
            f"no gene lies on a chromosome with elements: genes on {_names(genes)}, elements on "
            f"{_names(elements)}; bring the contig names together first"
        )
    links = sort_intervals(links, by=("start", "end", "gene_id"))
    linked, chroms = set(links["gene_id"].unique()), set(elements["chrom"].unique())
    is_linked = np.array([name in linked for name in genes["gene_id"]], bool)
    has_elements = np.array([name in chroms for name in genes["chrom"]], bool)
    reason = np.where(
        has_elements, "gene has no element that the rule keeps", "gene's contig has no elements"
    )
    unlinked = genes[["gene_id", "chrom", "tss"]].assign(reason=reason)[~is_linked]
    return Links(
        links, dropped, unlinked.reset_index(drop=True), together("putative"), together("predicted")
    )


def _names(frame: pd.DataFrame) -> str:
    names = natural_order(frame["chrom"].unique())
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
