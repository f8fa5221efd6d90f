"""genes.tsv: TSS, mRNA features, promoter activity and expression labels of each gene.

    python -m data_prep genes --annotation genes.bed --mrna-features mrna.csv \\
        --label rna 57epigenomes.RPKM.pc.gz E123 z-log10 \\
        --accessibility dnase.bam --h3k27ac h3k27ac.bam --out genes.tsv
"""

import argparse
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from data_prep.annotation import TSS_RULES, add_gene_key_argument, read_annotation
from data_prep.contig_ends import within_ends
from data_prep.contig_names import (
    match_contigs,
    read_aliases,
    read_contig_lengths,
    rename_contigs,
)
from data_prep.element_class import tss_windows
from data_prep.expression import (
    TRANSFORMS,
    Transform,
    fit_transform,
    labels_for,
    read_expression,
)
from data_prep.mrna_features import (
    MISSING_FLAG,
    features_from_gtf,
    mean_features,
    read_features,
)
from data_prep.outputs import (
    report_dropped,
    settings_of,
    sibling,
    versions,
    write_dropped,
    write_json,
)
from data_prep.signal_options import add_signal_arguments, counting_options, requested_signals
from data_prep.signals import Signal, measure_signals, signal_summary, with_activity
from data_prep.text_input import read_table
from epinformer_jax.data.genome import Genome
from epinformer_jax.data.tables import write_table

DESCRIPTION = (
    "genes.tsv from a gene BED or GTF: mRNA features, promoter activity, expression labels"
)
NO_LABEL = "gene has no value in the expression table"
_SIGNALS = {
    "activity": "promoter_activity",
    "dnase_rpm": "promoter_dnase",
    "h3k27ac_rpm": "promoter_h3k27ac",
}


@dataclass(frozen=True)
class LabelRequest:
    """A label to make: its name, the expression table and column, and the transform."""

    name: str
    path: str
    column: str
    transform: str

    def __post_init__(self):
        if self.transform not in TRANSFORMS:
            raise ValueError(
                f"label {self.name}: transform {self.transform!r} is unknown; expected one of "
                f"{', '.join(TRANSFORMS)}"
            )
        if not self.name.isidentifier():
            raise ValueError(
                f"label {self.name!r}: a label's name is a word of letters, digits and _, as a "
                "column"
            )


class LabelledGenes(NamedTuple):
    """Genes with label columns, the genes left out (with a `reason`), and the fitted transforms."""

    genes: pd.DataFrame
    dropped: pd.DataFrame
    transforms: dict[str, Transform]


def add_labels(
    genes: pd.DataFrame, requests: Sequence[LabelRequest], *, keep_unlabelled: bool = False
) -> LabelledGenes:
    """Adds expression labels to genes (gene_id in a column).

    Genes without a value in one of the tables are left out and listed, unless keep_unlabelled
    leaves their label empty. The statistics of each transform are those of the genes that are kept.

    Raises:
      ValueError: a label name twice, no gene left, or what read_expression and fit_transform raise.
    """
    names = [request.name for request in requests]
    for name in names:
        if names.count(name) > 1 or name in genes:
            raise ValueError(f"label {name!r} stands twice or is a column already; rename it")
    measured: dict[str, np.ndarray] = {}
    is_missing = np.zeros(len(genes), bool)
    for request in requests:
        values, absent = labels_for(genes["gene_id"], read_expression(request.path, request.column))
        if absent.all():
            raise ValueError(
                f"{request.path}: none of {len(genes):,} genes has a value in column "
                f"{request.column!r}; are the gene ids alike (genes: {genes['gene_id'].iloc[0]})?"
            )
        measured[request.name] = values
        is_missing |= absent
    kept = np.ones(len(genes), bool) if keep_unlabelled else ~is_missing
    if not kept.any():
        raise ValueError("no gene has all labels; give fewer labels or --keep-unlabelled")
    labelled = genes[kept].reset_index(drop=True)
    transforms = {}
    for request in requests:
        values = measured[request.name][kept]
        there = np.isfinite(values)
        try:
            transform = fit_transform(request.transform, values[there])
        except ValueError as error:
            raise ValueError(f"{request.path}: column {request.column!r}: {error}") from error
        labels = np.full(len(values), np.nan)
        labels[there] = transform.apply(values[there])
        labelled[request.name] = labels
        transforms[request.name] = transform
    dropped = genes[~kept].assign(reason=NO_LABEL).reset_index(drop=True)
    return LabelledGenes(labelled, dropped, transforms)


def with_promoter_signals(genes: pd.DataFrame, signals: pd.DataFrame) -> pd.DataFrame:
    """Adds promoter_activity, promoter_dnase, promoter_h3k27ac from signals over TSS windows.

    `signals` has activity, dnase_rpm and, where there is H3K27ac, h3k27ac_rpm, row by row as
    `genes`.
    """
    columns = {new: signals[old].to_numpy() for old, new in _SIGNALS.items() if old in signals}
    return genes.assign(**columns)


def read_promoter_signals(path: str | os.PathLike, gene_ids: Iterable[str]) -> pd.DataFrame:
    """Reads a table of `signals --genes` in the order of the genes.

    Raises:
      ValueError: no activity column, or a gene is missing.
    """
    table = read_table(path, required=["gene_id", "activity"])
    values = pd.DataFrame(
        {name: table.numbers(name, minimum=0) for name in _SIGNALS if table.has(name)}
    )
    values.index = pd.Index(table.text("gene_id").to_numpy())
    for row in np.flatnonzero(values.index.duplicated())[:1]:
        raise ValueError(f"{table.where(row)}: gene {values.index[row]} stands twice; keep one row")
    gene_ids = list(gene_ids)
    missing = [gene for gene in gene_ids if gene not in values.index]
    if missing:
        raise ValueError(
            f"{path}: {len(missing):,} genes are not there (the first is {missing[0]}); measure "
            "all genes"
        )
    return values.loc[gene_ids].reset_index(drop=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `python -m data_prep genes`."""
    add = parser.add_argument
    add(
        "--annotation",
        required=True,
        help="gene BED (6 or 8 columns), GTF, or a table with gene_id, chrom, tss, strand",
    )
    add(
        "--tss-rule",
        choices=TSS_RULES,
        default="end-1",
        help="TSS of a minus-strand gene: end - 1, or end as in the original's tables "
        "(default: %(default)s)",
    )
    add_gene_key_argument(parser)
    add(
        "--mrna-features",
        help="table of the eight published features, keyed by gene_id; without it and without "
        "--mrna-from-gtf every gene gets the published means, flagged",
    )
    add("--mrna-from-gtf", help="GTF to compute them from; needs --fasta")
    add(
        "--label",
        nargs=4,
        action="append",
        default=[],
        metavar=("NAME", "TABLE", "COLUMN", "TRANSFORM"),
        help=f"an expression label; TRANSFORM is {', '.join(TRANSFORMS)}: z-log10 = z(log10(x + "
        "0.1)) (RPKM, TPM), log10p1 = log10(x + 1) (CAGE, RAMPAGE); may be repeated",
    )
    add(
        "--keep-unlabelled", action="store_true", help="keep genes without a label, the label empty"
    )
    add("--only-genes", help="table with a gene_id column: keep these genes only")
    add(
        "--tss-slop",
        type=int,
        default=500,
        help="bp around a TSS for promoter signals (default: %(default)s)",
    )
    add("--promoter-signals", help="table of `signals --genes`, instead of signal files")
    add_signal_arguments(parser)
    add("--out", required=True, help="genes.tsv or .tsv.gz")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns 0.

    Raises:
      ValueError: an input is missing or malformed.
    """
    requests = [LabelRequest(*label) for label in args.label]
    genes, dropped = chosen_genes(
        args.annotation,
        tss_rule=args.tss_rule,
        gene_key=args.gene_key,
        only=args.only_genes,
        contigs=read_contig_lengths(args.contigs) if args.contigs else None,
        aliases=read_aliases(args.aliases) if args.aliases else {},
    )
    labelled = add_labels(genes, requests, keep_unlabelled=args.keep_unlabelled)
    genes = labelled.genes
    dropped.append(labelled.dropped)
    labels = genes[[request.name for request in requests]]
    columns = ["gene_id", "gene_name", "chrom", "tss", "strand"]
    table = pd.concat([genes[columns], _features(genes, args)], axis=1)
    table, summary = _with_signals(table, args)
    table = pd.concat([table, labels], axis=1)
    write_table(table, args.out, float_format="%.9g")
    reasons = write_dropped(dropped, args.out)
    details = {
        "settings": settings_of(args),
        "genes": len(table),
        "labels": {
            request.name: {"table": request.path, "column": request.column}
            | labelled.transforms[request.name].to_dict()
            for request in requests
        },
        "promoter_signals": summary,
        "genes_without_mrna_features": int(table.get(MISSING_FLAG, pd.Series(dtype=int)).sum()),
        "left_out": reasons,
        "versions": versions("numpy", "pandas"),
    }
    write_json(details, sibling(args.out, ".json"))
    _report(table, labelled.transforms, reasons, args)
    return 0


def chosen_genes(
    annotation: str | os.PathLike,
    *,
    tss_rule: str = "end-1",
    gene_key: str = "id",
    only: str | os.PathLike | None = None,
    contigs: Mapping[str, int] | None = None,
    aliases: Mapping[str, str] | None = None,
) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
    """The genes of an annotation that are wanted, and those left out, each list with a `reason`.

    With `contigs` names are the genome's, and genes whose TSS lies past a contig's end are left
    out.

    Raises:
      ValueError: as `read_annotation`; no gene of `only` is there, or most lie past the ends.
    """
    found = read_annotation(annotation, tss_rule=tss_rule, gene_key=gene_key)
    genes, dropped = found.genes, [found.dropped]
    source = os.fspath(annotation)
    if contigs is not None:
        genes = rename_contigs(genes, contigs, source=source, aliases=aliases)
        genes, beyond = within_ends(genes, contigs, position="tss", what="gene", source=source)
        dropped.append(beyond)
    if only:
        genes, left_out = _only(genes, only)
        dropped.append(left_out)
    return genes, dropped


def _only(genes: pd.DataFrame, path: str | os.PathLike) -> tuple[pd.DataFrame, pd.DataFrame]:
    wanted = set(read_table(path, required=["gene_id"]).text("gene_id"))
    is_wanted = genes["gene_id"].isin(wanted)
    if not is_wanted.any():
        raise ValueError(f"{path}: none of its {len(wanted):,} genes is in the annotation")
    left_out = genes[~is_wanted].assign(reason="gene is not in the list of --only-genes")
    return genes[is_wanted].reset_index(drop=True), left_out


def _features(genes: pd.DataFrame, args: argparse.Namespace) -> pd.DataFrame:
    if args.mrna_features and args.mrna_from_gtf:
        raise ValueError("give either --mrna-features TABLE or --mrna-from-gtf GTF, not both")
    if args.mrna_features:
        return read_features(args.mrna_features, genes["gene_id"])
    if not args.mrna_from_gtf:
        return mean_features(genes["gene_id"])
    if not args.fasta:
        raise ValueError("--mrna-from-gtf needs --fasta")
    with Genome(args.fasta) as genome:
        names = match_contigs(
            dict.fromkeys(genes["chrom"].unique()), genome.contigs, source=args.mrna_from_gtf
        )
        return features_from_gtf(args.mrna_from_gtf, genome, genes["gene_id"], names)


def _with_signals(
    genes: pd.DataFrame, args: argparse.Namespace
) -> tuple[pd.DataFrame, Mapping[str, Any] | str | None]:
    """Promoter signals from a table or from signal files; without either the columns stay away."""
    if args.promoter_signals and args.accessibility:
        raise ValueError("give either --promoter-signals or --accessibility, not both")
    if args.promoter_signals:
        signals = read_promoter_signals(args.promoter_signals, genes["gene_id"])
        return with_promoter_signals(genes, signals), args.promoter_signals
    if not args.accessibility:
        return genes, None
    options = counting_options(args)
    wanted = requested_signals(args).items()
    signals = [Signal(name, files, totals) for name, (files, totals) in wanted]
    windows = tss_windows(genes, slop_bp=args.tss_slop)
    measured = measure_signals(windows, signals, options, pool=args.pool)
    summary = signal_summary(args.assay, options, measured.details)
    return with_promoter_signals(genes, with_activity(measured.columns)), summary


def _report(
    table: pd.DataFrame,
    transforms: Mapping[str, Transform],
    reasons: Mapping[str, int],
    args: argparse.Namespace,
) -> None:
    print(f"{len(table):,} genes on {table['chrom'].nunique()} contigs")
    for name, transform in transforms.items():
        print(f"label {name}: {transform.name}, mean {transform.mean:.6g}, sd {transform.sd:.6g}")
    if MISSING_FLAG in table:
        print(
            f"{table[MISSING_FLAG].sum():,} genes have no mRNA features: published means, flagged"
        )
    if "promoter_activity" not in table:
        print(
            "no promoter_activity yet: measure it with `python -m data_prep signals --genes "
            f"{args.out}`, then give --promoter-signals, or give --accessibility here"
        )
    report_dropped(reasons, args.out)
    print(f"wrote {args.out}")
