"""Alignments as batches of intervals: BAM, CRAM, tagAlign and 10x fragments, streamed once.

A batch is (contig name in the file, starts, ends), 0-based half-open. Only reads that pass the
filter come out, so the number of intervals over all batches is the denominator of RPM.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pysam
from jaxtyping import Int64

from data_prep.intervals import check_coordinates
from data_prep.text_input import check_file, numbered_lines, open_text, parse_integers, split_fields

READ_ENDS = ("reads", "fragments")
STRANDS = ("+", "-", "both")
_BATCH = 500_000
_PAIRED, _PROPER, _UNMAPPED, _REVERSE = 0x1, 0x2, 0x4, 0x10
_SECONDARY, _QC_FAIL, _DUPLICATE, _SUPPLEMENTARY = 0x100, 0x200, 0x400, 0x800


@dataclass(frozen=True)
class ReadFilter:
    """Which alignments count: always primary, mapped and not QC-fail; beyond that as said here.

    Attributes:
      min_mapq: smallest mapping quality.
      keep_duplicates: count alignments marked as duplicates.
      strand: "+", "-" or "both".
      unit: "reads" counts each alignment; "fragments" counts each properly paired template once,
        over its whole length, by the mapping quality and strand of its leftmost mate.
    """

    min_mapq: int = 0
    keep_duplicates: bool = True
    strand: str = "both"
    unit: str = "reads"

    def __post_init__(self):
        if not 0 <= self.min_mapq <= 255:
            raise ValueError(f"min_mapq is {self.min_mapq}; expected 0 to 255")
        if self.strand not in STRANDS:
            raise ValueError(f"strand is {self.strand!r}; expected one of {', '.join(STRANDS)}")
        if self.unit not in READ_ENDS:
            raise ValueError(f"unit is {self.unit!r}; expected one of {', '.join(READ_ENDS)}")

    def to_dict(self) -> dict[str, Any]:
        """The filter as plain values, with what always holds spelled out."""
        return {"always": "primary, mapped, not QC-fail", **asdict(self)}


READ_FILTERS = {
    "published": ReadFilter(min_mapq=0, keep_duplicates=True),
    "recommended": ReadFilter(min_mapq=30, keep_duplicates=False),
}


class Batch(NamedTuple):
    """Intervals of one contig, in any order."""

    contig: str
    starts: Int64[np.ndarray, " n"]
    ends: Int64[np.ndarray, " n"]


def alignment_contigs(
    path: str | os.PathLike, *, reference: str | os.PathLike | None = None
) -> dict[str, int]:
    """Contig names and lengths of a BAM or CRAM header.

    Raises:
      ValueError: the file cannot be read as BAM or CRAM.
    """
    with _alignments(path, reference) as handle:
        return dict(zip(handle.references, handle.lengths, strict=True))


def alignment_batches(
    path: str | os.PathLike,
    read_filter: ReadFilter,
    *,
    reference: str | os.PathLike | None = None,
    batch_size: int = _BATCH,
) -> Iterator[Batch]:
    """Streams a BAM or CRAM once; needs neither an index nor sorting.

    A read without CIGAR is 1 bp long; gaps inside a read (deletions, introns) belong to it, as for
    pysam.

    Raises:
      ValueError: the file is damaged or cut off, or fragments are asked for and no template is
        properly paired.
    """
    accept = _accept_fragment if read_filter.unit == "fragments" else _accept_read
    refused, wanted = _flag_masks(read_filter)
    n_seen = n_accepted = 0
    with _alignments(path, reference) as handle:
        names = handle.references
        contigs: list[int] = []
        starts: list[int] = []
        ends: list[int] = []
        try:
            for read in handle.fetch(until_eof=True):
                n_seen += 1
                flag = read.flag
                if (
                    flag & refused
                    or flag & wanted != wanted
                    or read.mapping_quality < read_filter.min_mapq
                ):
                    continue
                interval = accept(read, read_filter.strand)
                if interval is None:
                    continue
                contigs.append(read.reference_id)
                starts.append(interval[0])
                ends.append(interval[1])
                if len(starts) >= batch_size:
                    n_accepted += len(starts)
                    yield from _by_contig(contigs, starts, ends, names)
                    contigs, starts, ends = [], [], []
        except OSError as error:
            raise ValueError(
                f"{path}: damaged or cut off after {n_seen:,} alignments ({error}); copy the file "
                "again"
            ) from error
        n_accepted += len(starts)
        yield from _by_contig(contigs, starts, ends, names)
    if not n_accepted and read_filter.unit == "fragments":
        raise ValueError(
            f"{path}: none of {n_seen:,} alignments is a properly paired mate that passes the "
            "filter; count a single-end library with --paired reads"
        )


@contextlib.contextmanager
def _alignments(
    path: str | os.PathLike, reference: str | os.PathLike | None
) -> Iterator[pysam.AlignmentFile]:
    """An open BAM or CRAM; htslib prints nothing meanwhile, since errors are raised."""
    check_file(path)
    if str(path).lower().endswith(".cram") and reference is None:
        raise ValueError(f"{path}: a CRAM file is read with its genome; give --fasta")
    options = {"reference_filename": os.fspath(reference)} if reference is not None else {}
    previous = pysam.set_verbosity(0)
    try:
        try:
            handle = pysam.AlignmentFile(os.fspath(path), "r", threads=2, **options)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{path}: cannot be read as BAM or CRAM ({error}); is it complete?"
            ) from error
        try:
            if not handle.references:
                raise ValueError(
                    f"{path}: holds unaligned reads only (no contig in its header); align them "
                    "first"
                )
            yield handle
        finally:
            with contextlib.suppress(OSError):  # closing a damaged file fails once more
                handle.close()
    finally:
        pysam.set_verbosity(previous)


def _flag_masks(read_filter: ReadFilter) -> tuple[int, int]:
    refused = _UNMAPPED | _SECONDARY | _SUPPLEMENTARY | _QC_FAIL
    if not read_filter.keep_duplicates:
        refused |= _DUPLICATE
    wanted = _PAIRED | _PROPER if read_filter.unit == "fragments" else 0
    return refused, wanted


def _accept_read(read: pysam.AlignedSegment, strand: str) -> tuple[int, int] | None:
    if strand != "both" and bool(read.flag & _REVERSE) != (strand == "-"):
        return None
    start = read.reference_start
    return start, read.reference_end or start + 1


def _accept_fragment(read: pysam.AlignedSegment, strand: str) -> tuple[int, int] | None:
    if read.template_length <= 0:
        return None
    if strand != "both" and bool(read.flag & _REVERSE) != (strand == "-"):
        return None
    return read.reference_start, read.reference_start + read.template_length


def _by_contig(
    contigs: list[int], starts: list[int], ends: list[int], names: tuple[str, ...]
) -> Iterator[Batch]:
    contig = np.array(contigs, np.int64)
    begin, finish = np.array(starts, np.int64), np.array(ends, np.int64)
    for index in np.unique(contig):
        chosen = contig == index
        yield Batch(names[index], begin[chosen], finish[chosen])


def tag_batches(
    path: str | os.PathLike, read_filter: ReadFilter, *, chunk_rows: int = 1_000_000
) -> Iterator[Batch]:
    """Streams a tagAlign (BED6) file: a read a line, as shifted and filtered by whoever made it.

    The strand filter applies; mapping quality and duplicate marks are not in the format.

    Raises:
      ValueError: a bad line; names file and line. Fragments are asked for.
    """
    if read_filter.unit == "fragments":
        raise ValueError(f"{path}: tagAlign holds single reads, not fragments; use --paired reads")
    needs_strand = read_filter.strand != "both"
    for chunk in _chunks(path, 6 if needs_strand else 3, chunk_rows):
        if needs_strand:
            chunk = chunk[chunk["strand"] == read_filter.strand]
        yield from _grouped(chunk)


def fragment_batches(
    path: str | os.PathLike,
    *,
    barcodes: frozenset[str] | None = None,
    chunk_rows: int = 1_000_000,
) -> Iterator[Batch]:
    """Streams a 10x fragments file: chrom, start, end, barcode, number of duplicates.

    Each line is one fragment and gives two cut ends of 1 bp, at start and at end - 1: the file is
    shifted for Tn5 already, and column 5 is not used. With `barcodes` only those cells count.

    Raises:
      ValueError: a bad line, or no line carries one of the barcodes.
    """
    n_rows = n_kept = 0
    for chunk in _chunks(path, 4, chunk_rows):
        n_rows += len(chunk)
        if barcodes is not None:
            chunk = chunk[chunk["name"].isin(barcodes)]
        n_kept += len(chunk)
        for batch in _grouped(chunk):
            cuts = np.concatenate([batch.starts, batch.ends - 1])
            yield Batch(batch.contig, cuts, cuts + 1)
    if n_rows and not n_kept:
        raise ValueError(
            f"{path}: none of {n_rows:,} fragments carries one of the {len(barcodes or ())} "
            "barcodes; compare their spelling (a suffix -1, say)"
        )


def read_barcodes(path: str | os.PathLike, *, cluster: str | None = None) -> frozenset[str]:
    """Reads barcode<TAB>cluster lines (or barcodes alone); the barcodes of one cluster, or all.

    Raises:
      ValueError: a barcode twice, a cluster asked for where the table has none, or an unknown
        cluster.
    """
    cluster_of: dict[str, str] = {}
    for number, line in numbered_lines(path):
        fields = split_fields(line)
        if fields[0] in cluster_of:
            raise ValueError(
                f"{path}:{number}: barcode {fields[0]} stands twice; a cell has one cluster"
            )
        cluster_of[fields[0]] = fields[1] if len(fields) > 1 else ""
    if cluster is None:
        return frozenset(cluster_of)
    chosen = frozenset(barcode for barcode, name in cluster_of.items() if name == cluster)
    if not chosen:
        known = ", ".join(sorted(set(cluster_of.values()) - {""})) or "none"
        raise ValueError(
            f"{path}: no barcode belongs to cluster {cluster!r}; clusters there: {known}"
        )
    return chosen


def _chunks(path: str | os.PathLike, n_columns: int, chunk_rows: int) -> Iterator[pd.DataFrame]:
    names = ["chrom", "start", "end", "name", "score", "strand"][:n_columns]
    types: Mapping[str, Any] = dict.fromkeys(names, str) | {"start": np.int64, "end": np.int64}
    with open_text(path) as handle:
        try:
            reader = pd.read_csv(
                handle, sep="\t", header=None, usecols=range(n_columns), names=names, dtype=types,
                comment="#", chunksize=chunk_rows, keep_default_na=False, na_filter=False,
            )  # fmt: skip
            for chunk in reader:
                if (chunk["start"] < 0).any() or (chunk["end"] <= chunk["start"]).any():
                    raise ValueError("coordinates")
                if "strand" in chunk and not chunk["strand"].isin(["+", "-"]).all():
                    raise ValueError("strand")
                yield chunk
        except (ValueError, OverflowError, EOFError, OSError) as error:
            raise _first_bad_line(path, n_columns, error) from error


def _first_bad_line(path: str | os.PathLike, n_columns: int, cause: Exception) -> ValueError:
    """Reads again, slowly, to name the line that stopped the fast reader."""
    try:
        for number, line in numbered_lines(path):
            fields = line.split("\t")
            if len(fields) < n_columns:
                return ValueError(
                    f"{path}:{number}: {len(fields)} fields; expected at least {n_columns}, "
                    "separated by tabs"
                )
            starts = parse_integers([fields[1]], [number], path=path, name="start")
            ends = parse_integers([fields[2]], [number], path=path, name="end")
            check_coordinates(starts, ends, [number], path=path)
            if n_columns == 6 and fields[5] not in ("+", "-"):
                return ValueError(f"{path}:{number}: strand is {fields[5]!r}; expected + or -")
    except ValueError as error:
        return error
    return ValueError(f"{path}: cannot be read as a table of intervals ({cause})")


def _grouped(chunk: pd.DataFrame) -> Iterator[Batch]:
    starts, ends = chunk["start"].to_numpy(np.int64), chunk["end"].to_numpy(np.int64)
    for chrom, rows in chunk.groupby("chrom", sort=False).indices.items():
        yield Batch(str(chrom), starts[rows], ends[rows])
