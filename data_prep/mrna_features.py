"""The eight mRNA features of a gene: from a table, or from a GTF and its genome.

Lengths become z = (log10(length + 0.1) - mean) / sd with the constants of the published 18,377
human genes, for any genome: the published weights know no other scale. A missing UTR has length 0
and GC 0.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from jaxtyping import Float64, Real

from data_prep.annotation import GtfRow, read_gtf, strip_version
from data_prep.contig_names import match_contigs
from data_prep.text_input import read_table
from epinformer_jax.data.genome import Genome
from epinformer_jax.data.sequence import UNKNOWN
from epinformer_jax.data.tables import MRNA_FEATURES

# Mean and sd (ddof 1) of log10(length + 0.1) over the published genes.
LENGTH_CONSTANTS = {
    "UTR5LEN_log10zscore": (2.116473, 0.702312),
    "CDSLEN_log10zscore": (3.122174, 0.320230),
    "INTRONLEN_log10zscore": (4.128012, 1.044710),
    "UTR3LEN_log10zscore": (2.728381, 0.863857),
}
# Means over the published genes, for genes without a coding sequence.
PUBLISHED_MEANS = dict(
    zip(
        MRNA_FEATURES,
        (0.0, 0.0, 0.0, 0.0, 0.6030763454, 0.5295561299, 0.4335792023, 6.26982859),
        strict=True,
    )
)
MISSING_FLAG = "mrna_features_missing"
# The published table gives most genes without introns (771 of 953) a length of 5, never 0.
INTRONLESS_BP = 5
_FEATURES = frozenset({"exon", "CDS", "stop_codon"})
_G_OR_C = (2, 4)


@dataclass
class _Transcript:
    """Parts of a transcript, 0-based half-open."""

    gene_id: str
    chrom: str
    strand: str
    tags: frozenset[str] = frozenset()
    exons: list[tuple[int, int]] = field(default_factory=list)
    coding: list[tuple[int, int]] = field(default_factory=list)


def length_zscore(name: str, length_bp: Real[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """The published z-score of a length feature."""
    mean, sd = LENGTH_CONSTANTS[name]
    return (np.log10(np.asarray(length_bp, np.float64) + 0.1) - mean) / sd


def read_features(path: str | os.PathLike, gene_ids: Iterable[str]) -> pd.DataFrame:
    """Reads the eight features from a table keyed by gene_id, in the order of gene_ids.

    A gene that is not in the table gets the published means and mrna_features_missing = 1.

    Raises:
      ValueError: a column is missing, a value is no number, or a gene stands twice.
    """
    table = read_table(path, required=["gene_id", *MRNA_FEATURES])
    names = table.text("gene_id").map(strip_version)
    for row in np.flatnonzero(names.duplicated().to_numpy())[:1]:
        raise ValueError(
            f"{table.where(row)}: gene {names.iloc[row]} stands twice; keep one row a gene"
        )
    values = pd.DataFrame({name: table.numbers(name) for name in MRNA_FEATURES})
    values.index = pd.Index(names.to_numpy(), name="gene_id")
    return _complete(values, gene_ids)


def mean_features(gene_ids: Iterable[str]) -> pd.DataFrame:
    """The published means for every gene, each flagged: nothing is known of any."""
    return _complete(pd.DataFrame(columns=list(MRNA_FEATURES), dtype=np.float64), gene_ids)


def features_from_gtf(
    gtf: str | os.PathLike, genome: Genome, gene_ids: Iterable[str], names: Mapping[str, str]
) -> pd.DataFrame:
    """Computes the eight features of one transcript a gene.

    The transcript is the one tagged Ensembl_canonical, else MANE_Select, else the one with the
    longest coding sequence (then the longest of all, then the first name). The stop codon belongs
    to the coding sequence. INTRONLEN of a transcript without introns is INTRONLESS_BP;
    ORFEXONDENSITY is coding exons per kb of coding sequence. Genes without coding sequence get the
    published means and a flag. `names` maps contigs of the GTF to those of the genome.

    Raises:
      ValueError: the GTF has no coding exons, or lies on contigs that the genome lacks.
    """
    wanted = set(gene_ids)
    transcripts = _read_transcripts(gtf, wanted)
    if not any(transcript.coding for transcript in transcripts.values()):
        raise ValueError(
            f"{gtf}: no CDS line belongs to one of {len(wanted):,} genes; give a full GTF"
        )
    found = {one.chrom: None for one in transcripts.values() if one.coding}
    if any(name not in names for name in found):
        names = match_contigs(found, genome.contigs, source=os.fspath(gtf)) | dict(names)
    chosen: dict[str, tuple[tuple, _Transcript]] = {}
    for name, transcript in transcripts.items():
        if not transcript.coding:
            continue
        rank = _rank(name, transcript)
        if transcript.gene_id not in chosen or rank < chosen[transcript.gene_id][0]:
            chosen[transcript.gene_id] = rank, transcript
    rows = {
        gene_id: _features_of(transcript, genome, names, gtf)
        for gene_id, (_, transcript) in chosen.items()
    }
    values = pd.DataFrame.from_dict(rows, orient="index", columns=list(MRNA_FEATURES))
    return _complete(values, gene_ids)


def _read_transcripts(gtf: str | os.PathLike, wanted: set[str]) -> dict[str, _Transcript]:
    transcripts: dict[str, _Transcript] = {}
    for row in read_gtf(gtf, _FEATURES):
        gene_id = strip_version(row.attributes["gene_id"])
        name = row.attributes.get("transcript_id", "")
        if gene_id not in wanted or not name or "_PAR_Y" in name:
            continue
        if name not in transcripts:
            transcripts[name] = _Transcript(gene_id, row.chrom, row.strand, row.tags)
        _add(transcripts[name], row)
    return transcripts


def _add(transcript: _Transcript, row: GtfRow) -> None:
    parts = transcript.exons if row.feature == "exon" else transcript.coding
    parts.append((row.start, row.end))


def _rank(name: str, transcript: _Transcript) -> tuple:
    return (
        "Ensembl_canonical" not in transcript.tags,
        "MANE_Select" not in transcript.tags,
        -_total(_union(transcript.coding)),
        -_total(_union(transcript.exons)),
        name,
    )


def _features_of(
    transcript: _Transcript, genome: Genome, names: Mapping[str, str], gtf: str | os.PathLike
) -> list[float]:
    coding = _union(transcript.coding)
    exons = _union(transcript.exons + transcript.coding)
    first, last = coding[0][0], coding[-1][1]
    before = _clip(exons, exons[0][0], first)
    after = _clip(exons, last, exons[-1][1])
    utr5, utr3 = (before, after) if transcript.strand == "+" else (after, before)
    introns = exons[-1][1] - exons[0][0] - _total(exons)
    chrom = names.get(transcript.chrom, transcript.chrom)
    if chrom not in genome.contigs:
        raise ValueError(f"{gtf}: contig {transcript.chrom} is not in the genome; see --aliases")
    lengths = (_total(utr5), _total(coding), introns or INTRONLESS_BP, _total(utr3))
    scores = [
        float(length_zscore(name, np.array([length]))[0])
        for name, length in zip(LENGTH_CONSTANTS, lengths, strict=True)
    ]
    gc = [_gc(genome, chrom, parts) for parts in (utr5, coding, utr3)]
    coding_exons = sum(1 for part in exons if _clip([part], first, last))
    return [*scores, *gc, coding_exons / (_total(coding) / 1000)]


def _gc(genome: Genome, chrom: str, parts: list[tuple[int, int]]) -> float:
    """Share of G and C among the known bases; 0 where there are none."""
    codes = [genome.fetch(chrom, start, end) for start, end in parts]
    joined = np.concatenate([np.zeros(0, np.uint8), *codes])
    known = joined[joined != UNKNOWN]
    return float(np.isin(known, _G_OR_C).mean()) if len(known) else 0.0


def _union(parts: list[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for start, end in sorted(parts):
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((start, end))
    return joined


def _clip(parts: list[tuple[int, int]], start: int, end: int) -> list[tuple[int, int]]:
    cut = [(max(low, start), min(high, end)) for low, high in parts]
    return [(low, high) for low, high in cut if high > low]


def _total(parts: list[tuple[int, int]]) -> int:
    return sum(end - start for start, end in parts)


def _complete(values: pd.DataFrame, gene_ids: Iterable[str]) -> pd.DataFrame:
    """Rows for all genes, in their order; the published means and a flag where there is none."""
    ordered = values.reindex(list(gene_ids))
    is_missing = ordered.isna().any(axis=1)
    ordered = ordered.fillna(PUBLISHED_MEANS)
    if is_missing.any():
        ordered[MISSING_FLAG] = is_missing.astype(np.int64)
    return ordered.reset_index(drop=True)
