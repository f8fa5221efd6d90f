"""Genes and their TSS from a gene BED, a GTF, a genes.tsv or the ABC pipeline's GeneList.

GTF is 1-based with closed ends; it is turned into 0-based half-open here. A minus-strand gene's TSS
is end - 1 (`end-1`) or, as in the original's tables, end (`bed-end`).
"""

import argparse
import os
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from data_prep.intervals import read_bed
from data_prep.text_input import Table, numbered_lines, parse_integers, read_table, split_fields

TSS_RULES = ("end-1", "bed-end")
GENE_KEYS = ("id", "symbol")
GENE_COLUMNS = ["gene_id", "gene_name", "chrom", "tss", "strand", "start", "end", "gene_type"]
# What the columns of a table with a header are called: ours, and those of the ABC pipeline.
_TABLE_NAMES = {
    "gene_id": ("gene_id", "Ensembl_ID"),
    "gene_name": ("gene_name", "symbol"),
    "chrom": ("chrom", "chr"),
}
_ENSEMBL_VERSION = re.compile(r"^(ENS\w*?\d+)\.\d+")
_PAR_Y = re.compile(r"_PAR_Y$|^ENSGR\d")
_ATTRIBUTE = re.compile(r'(\w+) "([^"]*)"|(\w+) ([^";]+)')


class Annotation(NamedTuple):
    """Genes (GENE_COLUMNS; start, end, gene_type where the file has them) and those left out."""

    genes: pd.DataFrame
    dropped: pd.DataFrame


class GtfRow(NamedTuple):
    """A line of a GTF, 0-based half-open."""

    line: int
    chrom: str
    feature: str
    start: int
    end: int
    strand: str
    attributes: dict[str, str]
    tags: frozenset[str]


def strip_version(gene_id: str) -> str:
    """ENSG00000000003.15 -> ENSG00000000003; names of other kinds stay as they are."""
    return _ENSEMBL_VERSION.sub(r"\1", gene_id.strip())


def read_annotation(
    path: str | os.PathLike, *, tss_rule: str = "end-1", gene_key: str = "id"
) -> Annotation:
    """Reads genes from a GTF, from a table with gene_id, chrom and tss, or from a gene BED.

    A gene BED has 6 columns (name is the gene's id) or 7 and more (column 4 symbol, 7 id, 8 gene
    type). A table may also be the ABC pipeline's GeneList (Ensembl_ID, symbol, chr, tss). Versions
    are taken off Ensembl ids; copies of pseudo-autosomal genes on Y are left out and listed.
    `gene_key="symbol"` takes symbols for gene ids, where ids stand twice, say.

    Raises:
      ValueError: an unknown rule or key, no gene, a strand other than + and -, or a gene twice.
    """
    if gene_key not in GENE_KEYS:
        raise ValueError(f"gene key {gene_key!r} is unknown; expected {' or '.join(GENE_KEYS)}")
    if tss_rule not in TSS_RULES:
        raise ValueError(
            f"TSS rule {tss_rule!r} is unknown; expected one of {', '.join(TSS_RULES)}"
        )
    kind = _kind(path)
    if kind == "table":
        genes = _from_table(path, gene_key)
    else:
        genes = _from_gtf(path) if kind == "gtf" else _from_bed(path)
        genes["tss"] = tss_of(genes, rule=tss_rule)
    if gene_key == "symbol":
        genes["gene_id"] = genes["gene_name"]
    _check_rows(genes, path)
    return _without_copies(genes, path, gene_key)


def tss_of(genes: pd.DataFrame, *, rule: str) -> np.ndarray:
    """The TSS of gene bodies: start on +; on -, end - 1 (`end-1`) or end (`bed-end`)."""
    last = genes["end"].to_numpy(np.int64) - (1 if rule == "end-1" else 0)
    return np.where(genes["strand"].to_numpy() == "+", genes["start"].to_numpy(np.int64), last)


def read_gtf(path: str | os.PathLike, features: frozenset[str]) -> Iterator[GtfRow]:
    """Yields the rows of a GTF whose feature is asked for; coordinates 0-based half-open.

    Raises:
      ValueError: not nine fields, bad coordinates, or attributes without gene_id (GFF3, say).
    """
    for number, line in numbered_lines(path):
        fields = line.split("\t")
        if len(fields) != 9:
            raise ValueError(
                f"{path}:{number}: {len(fields)} fields; a GTF line has 9, separated by tabs"
            )
        chrom, _, feature, first, last, _, strand, _, text = fields
        if feature not in features:
            continue
        start, end = parse_integers(
            [first, last], [number] * 2, path=path, name="coordinate"
        ).tolist()
        if not 1 <= start <= end:
            raise ValueError(
                f"{path}:{number}: {start}-{end} is no interval; GTF is 1-based with closed ends"
            )
        pairs = [(a or c, b or d.strip()) for a, b, c, d in _ATTRIBUTE.findall(text)]
        attributes = dict(pairs)
        if "gene_id" not in attributes:
            raise ValueError(
                f'{path}:{number}: no gene_id "..." among the attributes; expected GTF, not GFF3'
            )
        tags = frozenset(value for name, value in pairs if name == "tag")
        yield GtfRow(number, chrom, feature, start - 1, end, strand, attributes, tags)


def _kind(path: str | os.PathLike) -> str:
    _, first = next(numbered_lines(path), (0, ""))
    names = {field.strip() for field in split_fields(first)}
    if "tss" in names and names & set(_TABLE_NAMES["gene_id"] + _TABLE_NAMES["gene_name"]):
        return "table"
    if len(first.split("\t")) == 9 and ("gene_id" in first or "ID=" in first):
        return "gtf"
    return "bed"


def _from_bed(path: str | os.PathLike) -> pd.DataFrame:
    _check_gene_bed(path)
    bed = read_bed(path, minimum_columns=6)
    has_id = "column7" in bed and (bed["column7"].str.strip() != "").any()
    genes = bed[["line", "chrom", "start", "end", "strand"]].copy()
    genes["gene_id"] = bed["column7"] if has_id else bed["name"]
    genes["gene_name"] = bed["name"]
    if "column8" in bed:
        genes["gene_type"] = bed["column8"]
    return genes


def _check_gene_bed(path: str | os.PathLike) -> None:
    """Says what a file without six columns seems to be in place of genes."""
    number, first = next(numbered_lines(path), (0, ""))
    fields = split_fields(first)
    if not fields or len(fields) >= 6:
        return
    are_numbers = [field.strip().isdecimal() for field in fields]
    guess = "a table of columns " + ", ".join(fields)
    if first.startswith(">"):
        guess = "a FASTA"
    elif are_numbers[1:3] == [True, True]:
        guess = "a BED of places without strand (peaks or elements)"
    elif are_numbers[1:2] == [True]:
        guess = "contig lengths"
    raise ValueError(
        f"{path}:{number}: {len(fields)} fields, so this seems to be {guess}; genes come as a BED "
        "of 6 columns or more (chrom, start, end, name, score, strand), as a GTF, or as a table "
        "whose header has gene_id, chrom, tss and strand"
    )


def _from_gtf(path: str | os.PathLike) -> pd.DataFrame:
    records = [
        {
            "line": row.line,
            "chrom": row.chrom,
            "start": row.start,
            "end": row.end,
            "strand": row.strand,
            "gene_id": row.attributes["gene_id"],
            "gene_name": row.attributes.get("gene_name", row.attributes["gene_id"]),
            "gene_type": row.attributes.get("gene_type", row.attributes.get("gene_biotype", "")),
        }
        for row in read_gtf(path, frozenset({"gene"}))
    ]
    if not records:
        raise ValueError(
            f"{path}: has no line whose feature is gene; give a GTF of GENCODE or Ensembl, or a BED"
        )
    return pd.DataFrame(records)


def _from_table(path: str | os.PathLike, gene_key: str) -> pd.DataFrame:
    table = read_table(path, required=["tss", "strand"])
    name_of = {ours: column_of(table, ours) for ours in _TABLE_NAMES}
    symbol = name_of["gene_name" if table.has(name_of["gene_name"]) else "gene_id"]
    genes = pd.DataFrame(
        {
            "line": table.lines,
            "gene_id": table.text(name_of["gene_id"], allow_missing=gene_key == "symbol"),
            "gene_name": table.text(symbol),
            "chrom": table.text(name_of["chrom"]),
            "tss": table.integers("tss", minimum=0),
            "strand": table.text("strand"),
        }
    )
    if table.has("start") and table.has("end"):
        genes["start"], genes["end"] = table.integers("start"), table.integers("end")
    if table.has("gene_type"):
        genes["gene_type"] = table.text("gene_type", allow_missing=True)
    return genes


def add_gene_key_argument(parser: argparse.ArgumentParser) -> None:
    """Adds the option that says what names a gene."""
    parser.add_argument(
        "--gene-key",
        choices=GENE_KEYS,
        default="id",
        help="what becomes gene_id; symbol suits lists where an id stands twice, such as the ABC "
        "pipeline's GeneList (default: %(default)s)",
    )


def column_of(table: Table, name: str) -> str:
    """What a table of genes calls its column `name` (gene_id, gene_name, chrom): ours, or ABC's."""
    ours, theirs = _TABLE_NAMES[name]
    return theirs if table.has(theirs) and not table.has(ours) else ours


def _check_rows(genes: pd.DataFrame, path: str | os.PathLike) -> None:
    bad = ~genes["strand"].isin(["+", "-"]).to_numpy()
    for row in np.flatnonzero(bad)[:1]:
        raise ValueError(
            f"{path}:{genes['line'].iloc[row]}: strand is {genes['strand'].iloc[row]!r}; expected "
            "+ or -"
        )
    missing = (genes["gene_id"].str.strip() == "").to_numpy()
    for row in np.flatnonzero(missing)[:1]:
        raise ValueError(
            f"{path}:{genes['line'].iloc[row]}: gene id is missing; expected one in every row"
        )


def _without_copies(genes: pd.DataFrame, path: str | os.PathLike, gene_key: str) -> Annotation:
    is_copy = genes["gene_id"].str.contains(_PAR_Y).to_numpy()
    dropped = genes[is_copy].assign(reason="pseudo-autosomal copy on Y")
    genes = genes[~is_copy].assign(gene_id=genes["gene_id"][~is_copy].map(strip_version))
    on_y = genes["chrom"].isin(["chrY", "Y"]).to_numpy()
    twin = on_y & genes["gene_id"].isin(set(genes["gene_id"][~on_y])).to_numpy()
    dropped = pd.concat([dropped, genes[twin].assign(reason="pseudo-autosomal copy on Y")])
    genes = genes[~twin]
    repeated = genes["gene_id"].duplicated().to_numpy()
    for row in np.flatnonzero(repeated)[:1]:
        name = genes["gene_id"].iloc[row]
        first = genes["line"][genes["gene_id"] == name].iloc[0]
        by_symbol = gene_key == "id" and not genes["gene_name"].duplicated().any()
        raise ValueError(
            f"{path}:{genes['line'].iloc[row]}: gene {name} stands twice (first in line {first}); "
            f"keep one row a gene{', or name genes by --gene-key symbol' if by_symbol else ''}"
        )
    if genes.empty:
        raise ValueError(
            f"{path}: no gene is left; {len(dropped)} were pseudo-autosomal copies on Y"
        )
    order = [column for column in GENE_COLUMNS if column in genes]
    return Annotation(
        genes[order].reset_index(drop=True), dropped[[*order, "reason"]].reset_index(drop=True)
    )
