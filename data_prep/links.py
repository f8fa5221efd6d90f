"""Links of genes and candidate elements: distance, activity, contact and ABC score of each pair.

    python -m data_prep links --elements elements_signals.tsv.gz --genes genes.tsv \\
        --contact K562.hic --contigs hg38.chrom.sizes --out links.tsv.gz
"""

import argparse
import os
from dataclasses import replace

import pandas as pd

from data_prep import abc_scores
from data_prep.annotation import TSS_RULES, read_annotation
from data_prep.contact import ContactSource, add_contact_arguments, contact_source
from data_prep.contact_text import TextContacts
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
from data_prep.text_input import read_table

DESCRIPTION = "gene-element links: distance, activity, contact, ABC score"


def read_link_genes(
    path: str | os.PathLike, *, tss_rule: str = "end-1", expression_column: str | None = None
) -> pd.DataFrame:
    """Reads gene_id, chrom, tss, strand, and gene_name, promoter_activity, expression if there.

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
