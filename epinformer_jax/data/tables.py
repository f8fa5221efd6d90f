"""The project's tables, read and checked in one place: genes, links, windows, contigs.

Tables are tab-separated with a header, plain or gzip, 0-based half-open; lines that begin with "# "
or "##" before the header are comments. Every error names file and line. Columns that are not known
here are kept: as numbers when all their values are numbers, else as text. Frames keep the order of
the file and say in `attrs` where they came from, so that `where(frame, row)` gives the line of a
row.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from epinformer_jax.data import chromosomes, delimited
from epinformer_jax.data.chromosomes import chromosome_key
from epinformer_jax.data.delimited import where, write_table

__all__ = [
    "GENE_COLUMNS",
    "MRNA_FEATURES",
    "chromosome_key",
    "read_contigs",
    "read_genes",
    "read_links",
    "read_windows",
    "where",
    "write_table",
]

# In this order the published models take them (log10 z-scores, GC fractions, exons per kb).
MRNA_FEATURES = (
    "UTR5LEN_log10zscore",
    "CDSLEN_log10zscore",
    "INTRONLEN_log10zscore",
    "UTR3LEN_log10zscore",
    "UTR5GC",
    "CDSGC",
    "UTR3GC",
    "ORFEXONDENSITY",
)
OPTIONAL_GENE_SIGNALS = ("promoter_dnase", "promoter_h3k27ac")
GENE_SIGNALS = (*MRNA_FEATURES, "promoter_activity")
GENE_COLUMNS = ("gene_id", "chrom", "tss", "strand", *GENE_SIGNALS)
LINK_SIGNALS = ("activity", "contact")
OPTIONAL_LINK_SIGNALS = ("dnase", "h3k27ac", "abc_score")
_NEVER_LABELS = {
    *GENE_COLUMNS,
    "gene_name",
    "test_fold",
    "name",
    "start",
    "end",
    "split",
    "sequence",
}
_NEVER_LABEL_PREFIXES = ("hg38_", "promoter_")
_MAX_DISTANCE_ERROR_BP = 1


@dataclasses.dataclass(frozen=True)
class Column:
    """What the values of a known column must be; `read` turns its text into values or refuses."""

    name: str
    read: Callable[[pd.DataFrame, str], pd.Series]
    required: bool = True


def read_genes(
    path: str | os.PathLike,
    *,
    labels: Sequence[str] | None = None,
    allow_missing_labels: bool = False,
) -> pd.DataFrame:
    """Reads genes.tsv: one row a gene, `tss` p meaning the promoter [p - 1000, p + 1000).

    Alternative promoters of a gene are rows of their own, told apart by a column `promoter_id`;
    their `gene_id` becomes GENE@PROMOTER, here and in links, and they share chromosome and labels.
    `gene_name` is "" where the table has none. `attrs["labels"]` names the label columns: those
    given, or every numeric column that is not otherwise known (`labels=()` takes none). Missing
    labels are NaN.

    Raises:
      ValueError: a column is missing or holds something else than it should, a gene stands twice, a
        label is missing (unless `allow_missing_labels`), or the table is empty.
    """
    columns = [
        Column("gene_id", delimited.as_name),
        Column("promoter_id", delimited.as_name, required=False),
        Column("gene_name", delimited.as_text, required=False),
        Column("chrom", delimited.as_name),
        Column("tss", delimited.as_position),
        Column("strand", _as_strand),
        *(Column(name, delimited.as_number) for name in MRNA_FEATURES),
        Column("promoter_activity", delimited.as_amount),
        *(Column(name, delimited.as_amount, required=False) for name in OPTIONAL_GENE_SIGNALS),
    ]
    raw = delimited.read_text(path)
    frame = _typed(raw, columns)
    if "gene_name" not in frame:
        frame["gene_name"] = ""
    genes = frame["gene_id"]
    frame = _with_promoter(frame)
    delimited.refuse_duplicates(frame, ["gene_id"], "gene")
    frame = _with_labels(frame, raw, labels, allow_missing_labels)
    for name in ("chrom", *frame.attrs["labels"]):
        _refuse_unequal(frame, name, genes)
    return frame


def read_links(path: str | os.PathLike, genes: pd.DataFrame | None = None) -> pd.DataFrame:
    """Reads links.tsv: one row for each gene and candidate element (its `start` and `end`).

    With `genes` (from `read_genes`) every link must name one of them, on its contig, and `distance`
    is computed: floor midpoint minus TSS, signed, not strand-aware; a stated one must agree to 1
    bp. A missing contact becomes 0 and is counted in `attrs["missing_contact"]`. A table without
    rows is allowed. A column `promoter_id` says which promoter of the gene is meant.

    Raises:
      ValueError: a column is missing or holds something else than it should, an element ends before
        it starts, a gene has an element twice, or a link does not agree with `genes`.
    """
    columns = [
        Column("gene_id", delimited.as_name),
        Column("promoter_id", delimited.as_name, required=False),
        Column("chrom", delimited.as_name),
        Column("start", delimited.as_position),
        Column("end", delimited.as_position),
        Column("activity", delimited.as_amount),
        Column("contact", delimited.as_amount_or_missing),
        Column("distance", delimited.as_integer, required=False),
        *(Column(name, delimited.as_amount, required=False) for name in OPTIONAL_LINK_SIGNALS),
        Column("is_self_promoter", delimited.as_flag, required=False),
    ]
    raw = delimited.read_text(path, allow_empty=True)
    frame = _with_promoter(_typed(raw, columns))
    _refuse_reversed(frame)
    delimited.refuse_duplicates(frame, ["gene_id", "chrom", "start", "end"], "gene and element")
    missing = frame["contact"].isna()
    frame["contact"] = frame["contact"].fillna(0.0)
    frame.attrs["missing_contact"] = int(missing.sum())
    if genes is not None:
        frame["distance"] = _distances(frame, genes)
    return frame


def read_windows(
    path: str | os.PathLike,
    *,
    labels: Sequence[str] | None = None,
    allow_missing_labels: bool = False,
) -> pd.DataFrame:
    """Reads windows.tsv: chrom, start, end, or a `sequence` column with `split` (or chrom).

    With a `sequence` column chrom, start and end of the result are "", -1, -1, and `split` is the
    table's, or its chrom. Without one, `split` is only there when the table has it. `name` is the
    table's, or chr:start-end (1-based, as people read it), or window_1, window_2, ... Labels are as
    in `read_genes`.

    Raises:
      ValueError: as `read_genes`; neither coordinates nor sequences; a name or a window stands
        twice.
    """
    raw = delimited.read_text(path)
    has_sequence = "sequence" in raw
    columns = [
        Column("name", delimited.as_name, required=False),
        Column("split", delimited.as_name, required=False),
    ]
    if has_sequence:
        columns += [
            Column("sequence", delimited.as_name),
            Column("chrom", delimited.as_name, required=False),
        ]
        if "split" not in raw and "chrom" not in raw:
            raise ValueError(
                f"{raw.attrs['path']}: sequences need a column 'split': the part each belongs to"
            )
    else:
        if not {"chrom", "start", "end"} <= set(raw):
            raise ValueError(
                f"{raw.attrs['path']}: needs columns chrom, start, end, or sequence and split"
            )
        columns += [
            Column("chrom", delimited.as_name),
            Column("start", delimited.as_position),
            Column("end", delimited.as_position),
        ]
    frame = _typed(raw, columns)
    if has_sequence:
        if "split" not in frame:
            frame["split"] = frame["chrom"]
        frame["chrom"], frame["start"], frame["end"] = "", -1, -1
        default_names = [f"window_{row + 1}" for row in range(len(frame))]
    else:
        _refuse_reversed(frame)
        shown = zip(frame["chrom"], frame["start"] + 1, frame["end"], strict=True)
        default_names = [f"{chrom}:{first}-{last}" for chrom, first, last in shown]
    if "name" not in frame:
        frame["name"] = default_names
    delimited.refuse_duplicates(frame, ["name"], "window")
    return _with_labels(frame, raw, labels, allow_missing_labels)


def read_contigs(path: str | os.PathLike) -> pd.DataFrame:
    """Reads contigs.tsv: chrom and the `split` (chromosome) it counts as.

    Raises:
      ValueError: a column is missing, a contig stands twice, or a split cannot be named so.
    """
    columns = [Column("chrom", delimited.as_name), Column("split", delimited.as_name)]
    frame = _typed(delimited.read_text(path), columns)
    delimited.refuse_duplicates(frame, ["chrom"], "contig")
    for row, split in enumerate(frame["split"]):
        try:
            chromosomes.check_split_name(split)
        except ValueError as error:
            raise ValueError(f"{where(frame, row)}: {error}") from None
    return frame


def _typed(raw: pd.DataFrame, columns: Sequence[Column]) -> pd.DataFrame:
    """Known columns by their own reader, the others as numbers or text; order and attrs stay."""
    missing = [column.name for column in columns if column.required and column.name not in raw]
    if missing:
        found = ", ".join(raw.columns)
        raise ValueError(f"{raw.attrs['path']}: column {missing[0]!r} is missing; found: {found}")
    readers = {column.name: column.read for column in columns}
    values = {
        name: readers.get(name, delimited.as_number_or_text)(raw, name) for name in raw.columns
    }
    frame = pd.DataFrame(values, index=raw.index)
    frame.attrs = dict(raw.attrs)
    return frame


def _with_labels(
    frame: pd.DataFrame, raw: pd.DataFrame, labels: Sequence[str] | None, allow_missing: bool
) -> pd.DataFrame:
    candidates = [name for name in frame.columns if _may_be_label(name)]
    if labels is None:
        for name in candidates:
            delimited.refuse_stray_text(raw, name)
        labels = [name for name in candidates if pd.api.types.is_numeric_dtype(frame[name])]
    for name in labels:
        if name not in frame:
            hint = chromosomes.suggest(name, candidates)
            raise ValueError(f"{frame.attrs['path']}: no label column {name!r}; {hint}")
        frame[name] = delimited.as_number_or_missing(raw, name)
        empty = np.flatnonzero(frame[name].isna())
        if empty.size and not allow_missing:
            raise ValueError(
                f"{where(frame, empty[0])}: label {name!r} is missing ({empty.size} such rows); "
                "fill it, remove the rows, or pass --allow-missing-labels"
            )
    frame.attrs["labels"] = tuple(labels)
    return frame


def _with_promoter(frame: pd.DataFrame) -> pd.DataFrame:
    """Where there is a `promoter_id`, it becomes part of `gene_id`."""
    if "promoter_id" not in frame:
        return frame
    joined = frame.assign(gene_id=frame["gene_id"] + "@" + frame["promoter_id"])
    joined = joined.drop(columns="promoter_id")
    joined.attrs = dict(frame.attrs)
    return joined


def _refuse_unequal(frame: pd.DataFrame, name: str, genes: pd.Series) -> None:
    """Promoters of one gene must agree on a column; a missing value agrees with a missing one."""
    first = frame[name].groupby(genes.to_numpy()).transform("first")
    off = np.flatnonzero((frame[name] != first) & ~(frame[name].isna() & first.isna()))
    if off.size:
        row = off[0]
        raise ValueError(
            f"{where(frame, row)}: {name} {frame[name].iloc[row]} differs from {first.iloc[row]} "
            f"of another promoter of gene {genes.iloc[row]!r}; promoters of a gene share it"
        )


def _may_be_label(name: str) -> bool:
    return name not in _NEVER_LABELS and not name.startswith(_NEVER_LABEL_PREFIXES)


def _as_strand(raw: pd.DataFrame, name: str) -> pd.Series:
    values = delimited.as_name(raw, name)
    wrong = np.flatnonzero(~values.isin(["+", "-"]))
    if wrong.size:
        raise ValueError(
            f"{where(raw, wrong[0])}: strand {values.iloc[wrong[0]]!r}; expected + or -"
        )
    return values


def _refuse_reversed(frame: pd.DataFrame) -> None:
    wrong = np.flatnonzero(frame["end"] <= frame["start"])
    if wrong.size:
        start, end = frame["start"].iloc[wrong[0]], frame["end"].iloc[wrong[0]]
        raise ValueError(
            f"{where(frame, wrong[0])}: end {end} is not after start {start}; 0-based, half-open"
        )


def _distances(links: pd.DataFrame, genes: pd.DataFrame) -> pd.Series:
    row_of_gene = pd.Index(genes["gene_id"]).get_indexer(links["gene_id"])
    unknown = np.flatnonzero(row_of_gene < 0)
    if unknown.size:
        gene = links["gene_id"].iloc[unknown[0]]
        raise ValueError(
            f"{where(links, unknown[0])}: gene {gene!r} is not in "
            f"{genes.attrs.get('path', 'the genes')} ({unknown.size} such links); "
            "add the gene or remove its links, and name the promoter (promoter_id) in both tables "
            "or in neither"
        )
    chrom_of_gene = genes["chrom"].to_numpy()[row_of_gene]
    elsewhere = np.flatnonzero(links["chrom"].to_numpy() != chrom_of_gene)
    if elsewhere.size:
        row = elsewhere[0]
        raise ValueError(
            f"{where(links, row)}: element on {links['chrom'].iloc[row]!r}, but gene "
            f"{links['gene_id'].iloc[row]!r} is on {chrom_of_gene[row]!r}"
        )
    distance = (links["start"] + links["end"]) // 2 - genes["tss"].to_numpy()[row_of_gene]
    if "distance" in links:
        off = np.flatnonzero((links["distance"] - distance).abs() > _MAX_DISTANCE_ERROR_BP)
        if off.size:
            stated, computed = links["distance"].iloc[off[0]], distance.iloc[off[0]]
            raise ValueError(
                f"{where(links, off[0])}: distance {stated} bp, but midpoint minus TSS is "
                f"{computed} (signed); correct it or leave the column out"
            )
    return distance
