"""Links of genes and candidate elements: distance, activity, contact and ABC score of each pair.

    python -m data_prep links --elements elements_signals.tsv.gz --genes genes.tsv \\
        --contact K562.hic --contigs hg38.chrom.sizes --out links.tsv.gz

How a table was made stands in the JSON beside it; the tables themselves have no comment lines.
"""

import argparse
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import pandas as pd

from data_prep import abc_scores
from data_prep.annotation import (
    TSS_RULES,
    add_gene_key_argument,
    column_of,
    read_annotation,
    strip_version,
)
from data_prep.contact import ContactSource, add_contact_arguments, contact_source
from data_prep.contact_text import TextContacts
from data_prep.contig_ends import within_ends
from data_prep.contig_names import rename_contigs
from data_prep.intervals import read_regions
from data_prep.link_rules import LINK_RULES, ORDERS, LinkRule
from data_prep.linking import Links, link
from data_prep.outputs import (
    report_dropped,
    settings_of,
    sibling,
    versions,
    write_dropped,
    write_frame,
    write_json,
)
from data_prep.text_input import Table, read_table

DESCRIPTION = "gene-element links: distance, activity, contact, ABC score"


# Columns of a gene table -> what linking calls them; the second is of the ABC pipeline's GeneList,
# whose quantiles rank genes as the activities behind them do.
_GENE_VALUES = {
    "promoter_activity": "promoter_activity",
    "PromoterActivityQuantile": "promoter_activity",
}


def read_link_genes(
    path: str | os.PathLike,
    *,
    tss_rule: str = "end-1",
    expression_column: str | None = None,
    gene_key: str = "id",
) -> pd.DataFrame:
    """Reads gene_id, chrom, tss, strand, and gene_name, promoter_activity, expression if there.

    Raises:
      ValueError: as `annotation.read_annotation`; the expression column is not there.
    """
    genes = read_annotation(path, tss_rule=tss_rule, gene_key=gene_key).genes
    wanted = dict(_GENE_VALUES)
    if expression_column:
        wanted[expression_column] = "expression"
    table = _table_with_header(path)
    if table is None:
        if expression_column:
            raise ValueError(
                f"{path}: has no header, so no column {expression_column!r}; give genes.tsv"
            )
        return genes
    name = column_of(table, "gene_name" if gene_key == "symbol" else "gene_id")
    values: dict[str, Any] = {"gene_id": table.text(name).map(strip_version)}
    for column, meaning in wanted.items():
        if column == expression_column or table.has(column):
            values[meaning] = table.numbers(column, minimum=0, allow_missing=True)
    known = pd.DataFrame(values).drop_duplicates("gene_id")
    return genes.merge(known, on="gene_id", how="left", validate="one_to_one")


def _table_with_header(path: str | os.PathLike) -> Table | None:
    try:
        table = read_table(path)
    except ValueError:
        return None
    return table if table.has(column_of(table, "gene_id")) and table.has("tss") else None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `python -m data_prep links`."""
    add = parser.add_argument
    add("--elements", required=True, help="table from `signals`: chrom, start, end, activity, ...")
    add("--genes", required=True, help="genes.tsv, gene BED, GTF or the ABC pipeline's GeneList")
    add(
        "--tss-rule",
        choices=TSS_RULES,
        default="end-1",
        help="for BED and GTF (default: %(default)s)",
    )
    add_gene_key_argument(parser)
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
    _add_score_arguments(parser.add_argument_group("ABC scores"))
    parser.add_argument("--out", required=True, help="links.tsv or .tsv.gz")


def _add_score_arguments(group) -> None:
    add = group.add_argument
    add(
        "--score-rule",
        choices=tuple(abc_scores.SCORE_RULES),
        default="floor",
        help="floor: middles rounded down, as in links.tsv, elements up to --score-distance; abc: "
        "to the last digit as the ABC pipeline, with exact middles and elements nearer than "
        "--score-distance (default: %(default)s)",
    )
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
        help="EnhancerPredictionsAllPutative table of all pairs within --max-distance; its "
        "normalized_* are the *_quantile columns of the elements, as in the ABC pipeline, or "
        "without them RPM over the sum of RPM, as in the original project",
    )
    add(
        "--predicted-out",
        help="the same table, of pairs that reach the ABC threshold (needs class)",
    )


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
    rule = link_rule(args)
    scores = score_rule(args, rule)
    elements = read_regions(args.elements)
    genes = read_link_genes(
        args.genes,
        tss_rule=args.tss_rule,
        expression_column=args.expression_column,
        gene_key=args.gene_key,
    )
    source = contact_source(args)
    elements, genes, beyond = _on_genome(elements, genes, source, args)
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
        scores=scores,
        score_activity=column,
        cell_type=args.cell_type,
        putative_distance_bp=rule.max_distance_bp if args.putative_out else None,
        min_score=minimum if args.predicted_out else None,
    )
    write_frame(result.links, args.out, float_format="%.9g")
    for path, table in (
        (args.putative_out, result.putative),
        (args.predicted_out, result.predicted),
    ):
        if path and table is not None:
            write_frame(table, path, float_format="%.9g")
    said = {"rule": str(rule), "score_rule": asdict(scores), "score_activity": column}
    _report(result, args, source, said | {"abc_threshold": minimum}, genes, beyond)
    return 0


def score_rule(args: argparse.Namespace, rule: LinkRule) -> abc_scores.ScoreRule:
    """How the parsed options score pairs.

    Raises:
      ValueError: the ABC pipeline's rule, and links farther away than it scores any.
    """
    chosen = replace(
        abc_scores.SCORE_RULES[args.score_rule],
        max_distance_bp=args.score_distance,
        self_promoter_score=args.self_promoter_score,
    )
    if chosen.inclusive:
        return replace(chosen, max_distance_bp=max(args.score_distance, rule.max_distance_bp + 1))
    if rule.max_distance_bp > args.score_distance:
        raise ValueError(
            f"--max-distance {rule.max_distance_bp} lies beyond --score-distance "
            f"{args.score_distance}, where --score-rule {args.score_rule} scores nothing; raise "
            "--score-distance"
        )
    return chosen


def _on_genome(
    elements: pd.DataFrame, genes: pd.DataFrame, source: ContactSource, args: argparse.Namespace
) -> tuple[pd.DataFrame, pd.DataFrame, list[pd.DataFrame]]:
    """With --contigs: names as the genome has them, nothing past its ends; what is left out."""
    if source.contigs is None:
        return elements, genes, []
    contigs, aliases = source.contigs, source.aliases
    elements = rename_contigs(elements, contigs, source=args.elements, aliases=aliases)
    genes = rename_contigs(genes, contigs, source=args.genes, aliases=aliases)
    elements, past = within_ends(
        elements, contigs, position="start", what="element", source=args.elements
    )
    genes, lost = within_ends(genes, contigs, position="tss", what="gene", source=args.genes)
    columns = ["chrom", "start", "end", "reason"], ["gene_id", "chrom", "tss", "reason"]
    return elements, genes, [past[columns[0]], lost[columns[1]]]


def _threshold(args: argparse.Namespace, elements: pd.DataFrame) -> float:
    kind = "powerlaw" if not args.contact else "average" if args.average_contact else "hic"
    has_h3k27ac = "h3k27ac_rpm" in elements
    return abc_scores.threshold(args.assay, has_h3k27ac=has_h3k27ac, contact_kind=kind)


def _report(
    result: Links,
    args: argparse.Namespace,
    source: ContactSource,
    said: Mapping[str, Any],
    genes: pd.DataFrame,
    beyond: list[pd.DataFrame],
) -> None:
    reasons = write_dropped([*beyond, result.unlinked, result.dropped], args.out)
    n_genes, n_links = len(genes), len(result.links)
    summary = {
        "settings": settings_of(args),
        "genes": n_genes,
        "genes_without_links": len(result.unlinked),
        "links": n_links,
        "elements_per_gene": round(n_links / n_genes, 3) if n_genes else None,
        "contact": source.describe(),
        "contact_is_text": isinstance(source.file, TextContacts),
        "power_law": source.observed.to_dict(),
        "reference_power_law": source.reference.to_dict(),
        **said,
        "left_out": reasons,
        "versions": versions("numpy", "pandas", "cooler", "hictkpy"),
    }
    write_json(summary, sibling(args.out, ".json"))
    print(
        f"{n_links:,} links of {n_genes:,} genes, {n_links / max(n_genes, 1):.1f} a gene; "
        f"{len(result.unlinked):,} genes have none"
    )
    for line in source.describe():
        print(line)
    report_dropped(reasons, args.out)
    print(f"wrote {args.out}")
