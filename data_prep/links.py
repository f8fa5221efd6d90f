"""Links of genes and candidate elements: distance, activity, contact and ABC score of each pair.

    python -m data_prep links --elements elements_signals.tsv.gz --genes genes.tsv \\
        --contact K562.hic --contigs hg38.chrom.sizes --out links.tsv.gz
"""

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from data_prep import abc_scores, abc_table
from data_prep.annotation import TSS_RULES, read_annotation
from data_prep.contact import ContactSource, add_contact_arguments, contact_source
from data_prep.contact_text import TextContacts
from data_prep.intervals import read_regions, sort_intervals
from data_prep.link_rules import (
    LINK_RULES,
    ORDERS,
    LinkRule,
    select_links,
)
from data_prep.outputs import (
    report_dropped,
    settings_of,
    sibling,
    versions,
    write_dropped,
    write_frame,
    write_json,
)
from data_prep.signals import with_activity
from data_prep.text_input import read_table
from epinformer_jax.data.chromosomes import natural_order

DESCRIPTION = "gene-element links: distance, activity, contact, ABC score"
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


def _place(elements: pd.DataFrame, row: int) -> str:
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


def read_link_genes(
    path: str | os.PathLike, *, tss_rule: str = "end-1", expression_column: str | None = None
) -> pd.DataFrame:
    """Reads gene_id, chrom, tss, strand and, where the table has them, gene_name, promoter_activity
    and expression (`expression_column`).

    Raises:
      ValueError: as `annotation.read_annotation`; the expression column is not there.
    """
    genes = read_annotation(path, tss_rule=tss_rule).genes
    wanted = {"promoter_activity": "promoter_activity"}
    if expression_column:
        wanted[expression_column] = "expression"
    with_header = _has_header(path)
    if expression_column and not with_header:
        raise ValueError(
            f"{path}: has no header, so no column {expression_column!r}; give genes.tsv"
        )
    if with_header:
        table = read_table(path)
        values = {"gene_id": table.text("gene_id")}
        for column, name in wanted.items():
            if column == expression_column or table.has(column):
                values[name] = table.numbers(column, minimum=0, allow_missing=True)
        known = pd.DataFrame(values)
        genes = genes.merge(known, on="gene_id", how="left", validate="one_to_one")
    return genes


def _has_header(path: str | os.PathLike) -> bool:
    try:
        return read_table(path).has("gene_id")
    except ValueError:
        return False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `python -m data_prep links`."""
    add = parser.add_argument
    add("--elements", required=True, help="table from `signals`: chrom, start, end, activity, ...")
    add("--genes", required=True, help="genes.tsv, gene BED or GTF")
    add(
        "--tss-rule",
        choices=TSS_RULES,
        default="end-1",
        help="for BED and GTF (default: %(default)s)",
    )
    add("--expression-column", help="column of genes.tsv for TargetGeneExpression")
    add_contact_arguments(parser)
    add("--contigs", help="contig lengths of the genome: chrom.sizes or .fai")
    add("--aliases", help="table found<TAB>expected of contig names")
    group = parser.add_argument_group("links")
    add = group.add_argument
    add(
        "--rule",
        choices=tuple(LINK_RULES),
        default="all",
        help="all: every pair within --max-distance (build and predict apply their rule later); "
        "published: 1,000 < |d| <= 100,000, nearest 60; pipeline2026: |d| <= 100,000, nearest 60, "
        "self-promoter first (default: %(default)s)",
    )
    add("--min-distance", type=int, help="bp, exclusive; overrides the rule")
    add("--max-distance", type=int, help="bp, inclusive; overrides the rule (all: 100,000)")
    add("--max-elements", type=int, help="elements a gene; overrides the rule (all: no limit)")
    add(
        "--order",
        choices=ORDERS,
        default="nearest",
        help="who stays under the limit: nearest first, "
        "or largest ABC score, activity or activity x contact (default: %(default)s)",
    )
    group = parser.add_argument_group("ABC scores")
    add = group.add_argument
    add(
        "--score-distance",
        type=int,
        default=5_000_000,
        help="elements within this share a gene's score, bp (default: %(default)s)",
    )
    add(
        "--score-activity",
        help="element column for ABC scores (default: activity_quantile where there "
        "is one, else activity)",
    )
    add(
        "--self-promoter-score",
        choices=abc_scores.SELF_PROMOTER_SCORES,
        default="one",
        help="one: as the ABC pipeline; computed: as any element (default: %(default)s)",
    )
    add(
        "--assay",
        choices=abc_scores.ACCESSIBILITY,
        default="DNase",
        help="picks the ABC threshold (default: %(default)s)",
    )
    add(
        "--average-contact",
        action="store_true",
        help="--contact is average Hi-C: picks the threshold",
    )
    add("--cell-type", default="", help="for the putative table")
    add(
        "--putative-out",
        help="EnhancerPredictionsAllPutative table of all pairs within --max-distance",
    )
    add(
        "--predicted-out",
        help="the same table, of pairs that reach the ABC threshold (needs class)",
    )
    add("--out", required=True, help="links.tsv or .tsv.gz")


def link_rule(args: argparse.Namespace) -> LinkRule:
    """The rule of the parsed options: a named one, with what overrides it."""
    rule = LINK_RULES[args.rule]
    given = {
        "min_distance_bp": args.min_distance,
        "max_distance_bp": args.max_distance,
        "max_elements": args.max_elements,
    }
    stated = {name: value for name, value in given.items() if value is not None}
    return replace(rule, order=args.order, **stated)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns 0.

    Raises:
      ValueError: an input is missing or malformed.
    """
    elements = read_regions(args.elements)
    genes = read_link_genes(
        args.genes, tss_rule=args.tss_rule, expression_column=args.expression_column
    )
    source = contact_source(args)
    rule = link_rule(args)
    column = args.score_activity
    if column is None:
        column = "activity_quantile" if "activity_quantile" in elements else "activity"
    minimum = _threshold(args, elements)
    if args.predicted_out and "class" not in elements:
        raise ValueError("--predicted-out needs element classes; run candidates with --genes")
    result = link(
        elements,
        genes,
        source,
        rule=rule,
        scores=abc_scores.ScoreRule(
            max_distance_bp=max(args.score_distance, rule.max_distance_bp + 1),
            self_promoter_score=args.self_promoter_score,
        ),
        score_activity=column,
        cell_type=args.cell_type,
        putative_distance_bp=rule.max_distance_bp if args.putative_out else None,
        min_score=minimum if args.predicted_out else None,
    )
    comments = [*source.describe(), f"links: {rule}", f"ABC score from {column}"]
    write_frame(result.links, args.out, comments=comments, float_format="%.9g")
    for path, table in (
        (args.putative_out, result.putative),
        (args.predicted_out, result.predicted),
    ):
        if path and table is not None:
            write_frame(table, path, float_format="%.9g")
    _report(result, args, source, minimum, n_genes=len(genes))
    return 0


def _threshold(args: argparse.Namespace, elements: pd.DataFrame) -> float:
    kind = "powerlaw" if not args.contact else "average" if args.average_contact else "hic"
    has_h3k27ac = "h3k27ac_rpm" in elements
    return abc_scores.threshold(args.assay, has_h3k27ac=has_h3k27ac, contact_kind=kind)


def _report(
    result: Links, args: argparse.Namespace, source: ContactSource, minimum: float, *, n_genes: int
) -> None:
    reasons = write_dropped([result.unlinked, result.dropped], args.out)
    is_text = isinstance(source.file, TextContacts)
    summary = {
        "settings": settings_of(args),
        "genes": n_genes,
        "genes_without_links": len(result.unlinked),
        "links": len(result.links),
        "elements_per_gene": round(len(result.links) / n_genes, 3) if n_genes else None,
        "contact": source.describe(),
        "contact_is_text": is_text,
        "power_law": source.observed.to_dict(),
        "reference_power_law": source.reference.to_dict(),
        "abc_threshold": minimum,
        "left_out": reasons,
        "versions": versions("numpy", "pandas", "cooler", "hictkpy"),
    }
    write_json(summary, sibling(args.out, ".json"))
    print(
        f"{len(result.links):,} links of {n_genes:,} genes, "
        f"{len(result.links) / max(n_genes, 1):.1f} a gene; {len(result.unlinked):,} genes have "
        "none"
    )
    for line in source.describe():
        print(line)
    report_dropped(reasons, args.out)
    print(f"wrote {args.out}")
