"""One signal file counted over regions: which format it has, its contigs, its total.

The counters see each file once, whatever the number of regions. The total (the denominator of RPM)
holds everything in the file that passes the same filter, on whichever contig it lies.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64
from tqdm import tqdm

from data_prep import reads, tracks
from data_prep.contig_ends import beyond_ends
from data_prep.contig_names import NoCommonContig, match_contigs
from data_prep.counting import ReadCounter, TrackSummer
from data_prep.text_input import check_file, numbered_lines, split_fields

FORMATS = ("bam", "cram", "tagalign", "fragments", "bigwig", "bedgraph")
_TRACKS = ("bigwig", "bedgraph")
_ENDINGS = {
    ".bam": "bam",
    ".cram": "cram",
    ".bw": "bigwig",
    ".bigwig": "bigwig",
    ".bedgraph": "bedgraph",
    ".bg": "bedgraph",
    ".tagalign": "tagalign",
    ".fragments.tsv": "fragments",
    "fragments.tsv": "fragments",
}


@dataclass(frozen=True)
class CountingOptions:
    """How signal files are counted; the same for numerator and denominator.

    Attributes:
      read_filter: which alignments count.
      track_units: what a bigWig's or bedGraph's values are; None where no such file is given.
      file_format: a format for all files, or None to tell by name and content.
      barcodes: for fragment files, the cells that count; None counts all.
      contigs: the genome's contigs and lengths (None: not known), which region tables use.
      aliases: names in the files -> names in the genome.
      excluded_contigs: contigs (either name) left out of counts and totals, chrM say.
      reference: the FASTA that CRAM files need.
    """

    read_filter: reads.ReadFilter = reads.READ_FILTERS["published"]
    track_units: str | None = None
    file_format: str | None = None
    barcodes: frozenset[str] | None = None
    contigs: Mapping[str, int | None] | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)
    excluded_contigs: frozenset[str] = frozenset()
    reference: str | None = None

    def __post_init__(self):
        if self.track_units is not None and self.track_units not in tracks.TRACK_UNITS:
            raise ValueError(
                f"track units {self.track_units!r} are unknown; expected one of "
                f"{', '.join(tracks.TRACK_UNITS)}"
            )
        if self.file_format is not None and self.file_format not in FORMATS:
            raise ValueError(
                f"file format {self.file_format!r} is unknown; expected one of {', '.join(FORMATS)}"
            )


@dataclass(frozen=True)
class Measurement:
    """One file over regions: values in `unit`, and the total in the same unit.

    For fold-change tracks `values` are means over the region and `total` is NaN. `unmatched` is the
    number of regions on contigs that the file does not have, whose values are 0.
    """

    source: str
    values: Float64[np.ndarray, " n"]
    total: float
    unit: str
    unmatched: int = 0

    def rpm(self) -> Float64[np.ndarray, " n"]:
        """Values per million of the total; fold-change stays as it is."""
        if self.unit == "fold-change":
            return self.values
        return self.values * 1e6 / self.total


def detect_format(path: str | os.PathLike) -> str:
    """Tells a signal file's format by its name, and a text file's by its first line.

    Raises:
      ValueError: neither tells.
    """
    check_file(path)
    name = Path(path).name.lower()
    for ending in (".gz", ".bgz", ".bgzf"):
        name = name.removesuffix(ending)
    for ending, known in _ENDINGS.items():
        if name.endswith(ending):
            return known
    _, first = next(numbered_lines(path), (0, ""))
    fields = split_fields(first)
    if len(fields) >= 6 and fields[5] in ("+", "-"):
        return "tagalign"
    if len(fields) == 4 and _is_number(fields[3]):
        return "bedgraph"
    if len(fields) == 5 and fields[4].isdecimal() and not _is_number(fields[3]):
        return "fragments"
    raise ValueError(
        f"{path}: its format cannot be told from name or content; give --format "
        f"({', '.join(FORMATS)})"
    )


def measure(
    path: str | os.PathLike, regions: pd.DataFrame, options: CountingOptions
) -> Measurement:
    """Counts one file over all regions (chrom, start, end): `measure_tables` of one table."""
    return measure_tables(path, [regions], options)[0]


def measure_tables(
    path: str | os.PathLike, tables: Sequence[pd.DataFrame], options: CountingOptions
) -> list[Measurement]:
    """Counts one file over the regions (chrom, start, end) of several tables, in a single pass.

    Reads count once for every region they overlap; a track gives value x bp (units cuts, coverage)
    or the mean value (fold-change). Each table's values are those it has when counted alone.

    Raises:
      ValueError: the file is malformed, from another assembly, has no read that passes, or is a
        track whose units are not declared; most regions lie past the ends of their contigs.
    """
    file_format = options.file_format or detect_format(path)
    rename = _Renamer(os.fspath(path), tables, options)
    if file_format in _TRACKS:
        return _measure_track(path, tables, rename, options, file_format)
    counters = [ReadCounter(regions) for regions in tables]
    if file_format in ("bam", "cram"):
        rename.learn(reads.alignment_contigs(path, reference=options.reference))
    total = 0
    with tqdm(desc=Path(path).name, unit=" reads", unit_scale=True, disable=None) as progress:
        for batch in _read_batches(path, file_format, options):
            progress.update(len(batch.starts))
            name = rename(batch.contig)
            if {name, batch.contig} & options.excluded_contigs:
                continue
            total += len(batch.starts)
            for counter in counters:
                counter.add(name, batch.starts, batch.ends)
    if not total:
        raise ValueError(
            f"{path}: no read passes the filter ({_describe(options.read_filter)}); is it empty?"
        )
    rename.check_any()
    unit = "cut ends" if file_format == "fragments" else options.read_filter.unit
    return [
        Measurement(
            os.fspath(path),
            counter.counts().astype(np.float64),
            float(total),
            unit,
            rename.unmatched(regions),
        )
        for counter, regions in zip(counters, tables, strict=True)
    ]


def _read_batches(
    path: str | os.PathLike, file_format: str, options: CountingOptions
) -> Iterator[reads.Batch]:
    if file_format == "tagalign":
        return reads.tag_batches(path, options.read_filter)
    if file_format == "fragments":
        return reads.fragment_batches(path, barcodes=options.barcodes)
    return reads.alignment_batches(path, options.read_filter, reference=options.reference)


def _measure_track(
    path: str | os.PathLike,
    tables: Sequence[pd.DataFrame],
    rename: "_Renamer",
    options: CountingOptions,
    file_format: str,
) -> list[Measurement]:
    if options.track_units is None:
        raise ValueError(
            f"{path}: a {file_format} does not say what its values are; declare --track-units "
            f"{'|'.join(tracks.TRACK_UNITS)}, or give counts of each region as a column of the "
            "regions' table, column:NAME"
        )
    summers = [TrackSummer(regions) for regions in tables]
    if file_format == "bigwig":
        rename.learn(tracks.bigwig_contigs(path))
        batches = tracks.bigwig_batches(path)
    else:
        batches = tracks.bedgraph_batches(path)
    total = 0.0
    with tqdm(desc=Path(path).name, unit=" intervals", unit_scale=True, disable=None) as progress:
        for batch in batches:
            progress.update(len(batch.starts))
            name = rename(batch.contig)
            if {name, batch.contig} & options.excluded_contigs:
                continue
            _refuse_negative(path, batch)
            total += float((batch.values * (batch.ends - batch.starts)).sum())
            for summer in summers:
                summer.add(name, batch.starts, batch.ends, batch.values)
    if total <= 0:
        raise ValueError(f"{path}: holds no signal above 0; is it the right track?")
    rename.check_any()
    is_ratio = options.track_units == "fold-change"
    unit = {"cuts": "cuts", "fold-change": "fold-change"}.get(
        options.track_units, "bases of coverage"
    )
    measured = []
    for summer, regions in zip(summers, tables, strict=True):
        values = summer.sums()
        if is_ratio:
            values = values / (regions["end"] - regions["start"]).to_numpy()
        whole = float("nan") if is_ratio else total
        unmatched = rename.unmatched(regions)
        measured.append(Measurement(os.fspath(path), values, whole, unit, unmatched))
    return measured


def _refuse_negative(path: str | os.PathLike, batch: tracks.TrackBatch) -> None:
    for row in np.flatnonzero(batch.values < 0)[:1]:
        raise ValueError(
            f"{path}: value {batch.values[row]:g} at {batch.contig}:{batch.starts[row] + 1} is "
            "negative; expected counts, coverage or fold change, not a log scale"
        )


class _Renamer:
    """Names of a file's contigs in the genome's terms; names without a partner map to ""."""

    def __init__(self, source: str, tables: Sequence[pd.DataFrame], options: CountingOptions):
        self._source = source
        self._aliases = options.aliases
        known = options.contigs
        if known is None:
            known = dict.fromkeys(name for table in tables for name in table["chrom"].unique())
        self._tables = tables
        self._expected = known
        self._mapping: dict[str, str] | None = None
        self._seen: dict[str, None] = {}
        self._partners: dict[str, str] = {}

    def learn(self, found: Mapping[str, int]) -> None:
        """Takes the names and lengths of a header; regions past the ends are said or refused."""
        self._mapping = match_contigs(
            found, self._expected, source=self._source, aliases=self._aliases
        )
        lengths = {ours: found[theirs] for theirs, ours in self._mapping.items()}
        for table in self._tables:
            beyond_ends(table, lengths, position="start", what="region", source=self._source)

    def unmatched(self, regions: pd.DataFrame) -> int:
        """The number of regions on contigs that the file does not have."""
        partners = self._partners if self._mapping is None else self._mapping
        return int((~regions["chrom"].isin(list(partners.values()))).sum())

    def __call__(self, contig: str) -> str:
        if self._mapping is not None:
            return self._mapping.get(contig, "")
        if contig in self._seen:
            return self._partners.get(contig, "")
        self._seen[contig] = None
        self._partners = self._match()
        return self._partners.get(contig, "")

    def check_any(self) -> None:
        """Raises ValueError when no contig of a file without a header fits the regions."""
        if self._mapping is None:
            match_contigs(self._seen, self._expected, source=self._source, aliases=self._aliases)

    def _match(self) -> dict[str, str]:
        try:
            return match_contigs(
                self._seen, self._expected, source=self._source, aliases=self._aliases
            )
        except NoCommonContig:  # so far; check_any looks at all of them
            return {}


def _describe(read_filter: reads.ReadFilter) -> str:
    settings: dict[str, Any] = read_filter.to_dict()
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
