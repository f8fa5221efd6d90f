"""From checked tables of genes and links to records: the sequences and signals of each gene."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from epinformer_jax.data import elements, tables
from epinformer_jax.data.elements import ElementRule
from epinformer_jax.data.genome import Genome
from epinformer_jax.data.records import GeneExample


def of_tables(
    genes: pd.DataFrame,
    links: pd.DataFrame,
    genome: Genome,
    *,
    rule: ElementRule,
    promoter_bp: int,
    link_signal_names: Sequence[str],
    gene_signal_names: Sequence[str],
    label_names: Sequence[str] = (),
) -> Iterator[GeneExample]:
    """Yields genes in their order, each with its links in theirs.

    `genes` has a column `split`; `links` are those that `elements.select` kept. Sequence past a
    contig's end is unknown.
    """
    rows_of_gene = links.groupby("gene_id", sort=False).indices
    signals = links[list(link_signal_names)].to_numpy(np.float32)
    starts, ends, distances = (
        links[name].to_numpy(np.int64) for name in ("start", "end", "distance")
    )
    gene_signals = genes[list(gene_signal_names)].to_numpy(np.float32)
    labels = genes[list(label_names)].to_numpy(np.float32)
    half = promoter_bp // 2
    for number, gene in enumerate(genes.itertuples(index=False)):
        rows = rows_of_gene.get(gene.gene_id, np.empty(0, np.int64))
        bounds = [elements.crop(int(starts[row]), int(ends[row]), rule.window_bp) for row in rows]
        parts = [genome.fetch(gene.chrom, start, end) for start, end in bounds]
        yield GeneExample(
            gene_id=gene.gene_id,
            gene_name=gene.gene_name,
            chrom=gene.chrom,
            split=gene.split,
            tss=int(gene.tss),
            strand=gene.strand,
            promoter=genome.fetch(gene.chrom, int(gene.tss) - half, int(gene.tss) + half),
            element_start=starts[rows],
            element_end=ends[rows],
            element_length=np.array([part.size for part in parts], np.int32),
            element_sequence=np.concatenate([np.empty(0, np.uint8), *parts]),
            distance_bp=distances[rows],
            link_signals=signals[rows],
            gene_signals=gene_signals[number],
            labels=labels[number],
        )


def link_signals(links: pd.DataFrame) -> tuple[str, ...]:
    """The signals that a table of links holds, those that every table has first."""
    return (*tables.LINK_SIGNALS, *(n for n in tables.OPTIONAL_LINK_SIGNALS if n in links))


def gene_signals(genes: pd.DataFrame) -> tuple[str, ...]:
    """The signals that a table of genes holds, those that every table has first."""
    return (*tables.GENE_SIGNALS, *(n for n in tables.OPTIONAL_GENE_SIGNALS if n in genes))


def no_links() -> pd.DataFrame:
    """An empty table of links: genes by their promoters alone."""
    numbers = ("start", "end", "distance", *tables.LINK_SIGNALS)
    columns = {name: pd.Series(dtype=str) for name in ("gene_id", "chrom")}
    return pd.DataFrame(columns | {name: pd.Series(dtype=np.int64) for name in numbers})


def check_on_genome(frame: pd.DataFrame, genome: Genome, position: str) -> None:
    """Refuses a table whose contigs or positions are not of this genome.

    Raises:
      ValueError: a contig is unknown, or a position lies beyond its contig's end; names file and
        line.
    """
    lengths = frame["chrom"].map(genome.contigs).astype(np.float64)
    unknown = np.flatnonzero(lengths.isna())
    if unknown.size:
        try:
            genome.require(frame["chrom"].iloc[unknown[0]])
        except ValueError as error:
            raise ValueError(f"{tables.where(frame, unknown[0])}: {error}") from None
    beyond = np.flatnonzero(frame[position] >= lengths)
    if beyond.size:
        row = beyond[0]
        raise ValueError(
            f"{tables.where(frame, row)}: {position} {frame[position].iloc[row]} is beyond the "
            f"end of {frame['chrom'].iloc[row]} ({int(lengths.iloc[row])} bp in {genome.path}); "
            "is the FASTA of another assembly?"
        )
