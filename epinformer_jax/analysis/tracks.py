"""Results as files that genome browsers open: bigWig, bedGraph, BEDPE, interact, longrange.

Signals are one value a base (`Signal`). Links join an element to its gene's TSS: a frame with
chrom, start, end, tss, gene_id, gene_name and the column that is drawn as the score. All
coordinates are 0-based half-open, as in the files. IGV reads BEDPE; the UCSC browser reads interact
(as a custom track) and longrange; the WashU browser reads longrange. Files appear whole or not at
all.
"""

import gzip
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from epinformer_jax.data import atomic, chromosomes

LINK_COLUMNS = ("chrom", "start", "end", "tss", "gene_id", "gene_name")
BEDPE_HEADER = "chrom1\tstart1\tend1\tchrom2\tstart2\tend2\tname\tscore\tstrand1\tstrand2"
INTERACT_HEADER = (
    "chrom\tchromStart\tchromEnd\tname\tscore\tvalue\texp\tcolor\t"
    "sourceChrom\tsourceStart\tsourceEnd\tsourceName\tsourceStrand\t"
    "targetChrom\ttargetStart\ttargetEnd\ttargetName\ttargetStrand"
)
_BROWSER_SCORE = 1000  # the largest score of a UCSC track


class Signal(NamedTuple):
    """Values of the bases from `start` (0-based) on; NaN where there is none."""

    chrom: str
    start: int
    values: Float[np.ndarray, "_"]


def write_bigwig(
    path: str | os.PathLike, signals: Sequence[Signal], contigs: Mapping[str, int]
) -> None:
    """Writes signals, in any order, as bigWig (float32); bases that are NaN are left out.

    `contigs` gives the length of every contig of the genome, as `data.genome.Genome.contigs` does.

    Raises:
      ValueError: an unknown contig, a signal beyond its end, two signals on one base, or no value.
    """
    import pyBigWig

    ordered = _checked(signals, contigs)
    stretches = [part for signal in ordered for part in _without_gaps(signal)]
    if not stretches:
        raise ValueError(f"{path}: there is no value to write; a bigWig cannot be empty")
    header = [(name, contigs[name]) for name in chromosomes.natural_order(contigs)]
    with (
        atomic.atomic_file(path) as temporary,
        pyBigWig.open(os.fspath(temporary), "w") as file,
    ):
        file.addHeader(header)
        for chrom, start, values in stretches:
            file.addEntries(chrom, start, values=values.tolist(), span=1, step=1)


def write_bedgraph(
    path: str | os.PathLike,
    signals: Sequence[Signal],
    contigs: Mapping[str, int] | None = None,
    *,
    name: str = "",
) -> None:
    """Writes signals as bedGraph, gzip when the name ends in .gz; runs of one value are one line.

    Values have seven significant digits, NaN is left out. With `name` a track line stands first: a
    browser shows it, bedGraphToBigWig refuses it.

    Raises:
      ValueError: two signals on one base, or (with `contigs`) as for `write_bigwig`.
    """
    lines = [f'track type=bedGraph name="{name}"'] if name else []
    for signal in _checked(signals, contigs):
        for chrom, start, values in _without_gaps(signal):
            texts = [f"{value:.7g}" for value in values]
            first = 0
            for place in range(1, len(texts) + 1):
                if place == len(texts) or texts[place] != texts[first]:
                    lines.append(f"{chrom}\t{start + first}\t{start + place}\t{texts[first]}")
                    first = place
    _write_text(path, lines)


def write_bedpe(path: str | os.PathLike, links: pd.DataFrame, *, score: str) -> None:
    """Writes links as BEDPE: the element, its gene's TSS, GENE|chrom:start-end, the score, . and .

    Gzip when the name ends in .gz. Rows are in natural order; names of positions are 1-based.

    Raises:
      ValueError: a column is missing, or a score is not a finite number.
    """
    ordered = _ordered(links, score)
    lines = [f"#{BEDPE_HEADER}"]
    for row in ordered.itertuples():
        element = f"{row.chrom}\t{row.start}\t{row.end}"
        promoter = f"{row.chrom}\t{row.tss}\t{row.tss + 1}"
        lines.append(f"{element}\t{promoter}\t{_name(row)}\t{row.score:.6g}\t.\t.")
    _write_text(path, lines)


def write_interact(
    path: str | os.PathLike, links: pd.DataFrame, *, score: str, name: str = "links"
) -> None:
    """Writes links as a UCSC interact track: `value` is the score, `score` 0-1000 its shade.

    The shade is relative to the largest score. The source is the element, the target the TSS.

    Raises:
      ValueError: as `write_bedpe`.
    """
    ordered = _ordered(links, score)
    lines = [f'track type=interact name="{name}" interactDirectional=true visibility=full']
    lines.append(f"#{INTERACT_HEADER}")
    largest = max(float(ordered["score"].abs().max()), 1e-30) if len(ordered) else 1.0
    for row in ordered.itertuples():
        shade = round(_BROWSER_SCORE * abs(row.score) / largest)
        first, last = min(row.start, row.tss), max(row.end, row.tss + 1)
        fields = [row.chrom, first, last, _name(row), shade, f"{row.score:.6g}", ".", 0]
        fields += [row.chrom, row.start, row.end, _place(row), "."]
        fields += [row.chrom, row.tss, row.tss + 1, _gene(row), "."]
        lines.append("\t".join(map(str, fields)))
    _write_text(path, lines)


def write_longrange(path: str | os.PathLike, links: pd.DataFrame, *, score: str) -> None:
    """Writes links in the longrange text format: each link twice, once from either end.

    Columns: chrom, start, end, chrom:start-end,score of the other end (0-based), a number, a dot.
    When the name ends in .gz the file is BGZF with a tabix index (.tbi) beside it, as browsers
    fetch it from a web server.

    Raises:
      ValueError: as `write_bedpe`.
    """
    rows = []
    for row in _ordered(links, score).itertuples():
        ends = (row.start, row.end), (row.tss, row.tss + 1)
        for (start, end), (to_start, to_end) in (ends, ends[::-1]):
            rows.append((row.chrom, start, end, f"{row.chrom}:{to_start}-{to_end},{row.score:.6g}"))
    ranks = {name: i for i, name in enumerate(chromosomes.natural_order(r[0] for r in rows))}
    rows.sort(key=lambda r: (ranks[r[0]], *r[1:3]))
    lines = ["\t".join(map(str, (*row, number, "."))) for number, row in enumerate(rows, 1)]
    if not str(path).endswith(".gz"):
        _write_text(path, lines)
        return
    import pysam

    with atomic.atomic_file(path) as temporary:
        with pysam.BGZFile(os.fspath(temporary), "w") as file:
            file.write("".join(f"{line}\n" for line in lines).encode())
        index = Path(f"{path}.tbi")
        with atomic.atomic_file(index) as new_index:
            pysam.tabix_index(
                os.fspath(temporary),
                preset="bed",
                index=os.fspath(new_index),
                keep_original=True,
                force=True,
            )


def read_bigwig(
    path: str | os.PathLike, chrom: str, start: int, end: int, *, bins: int
) -> Float[np.ndarray, "_"]:
    """The mean of a bigWig in equal parts of [start, end), at most one a base; without data it is
    0, and so beyond the contig's ends.

    Raises:
      ValueError: not a bigWig, an unknown contig, or an empty range.
    """
    import pyBigWig

    if end <= start:
        raise ValueError(f"{path}: end {end} is not after start {start}; 0-based, half-open")
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such bigWig")
    try:
        file = pyBigWig.open(os.fspath(path))
    except RuntimeError as error:
        raise ValueError(f"{path}: cannot be read as bigWig ({error})") from None
    with file:
        if not file.isBigWig():
            raise ValueError(f"{path}: is a bigBed, not a bigWig; give a signal track")
        contigs = file.chroms()
        if chrom not in contigs:
            raise ValueError(f"{path}: no contig {chrom!r}; {chromosomes.suggest(chrom, contigs)}")
        values = np.zeros(end - start)
        first, last = max(start, 0), min(end, contigs[chrom])
        if first < last:
            known = np.asarray(file.values(chrom, first, last), np.float64)
            values[first - start : last - start] = np.nan_to_num(known)
    edges = np.linspace(0, len(values), min(bins, len(values)) + 1).astype(int)
    return np.add.reduceat(values, edges[:-1]) / np.diff(edges)


def _checked(signals: Sequence[Signal], contigs: Mapping[str, int] | None) -> list[Signal]:
    """In natural order; inside their contigs, and none on another."""
    ranks = {name: i for i, name in enumerate(chromosomes.natural_order(s.chrom for s in signals))}
    ordered = sorted(signals, key=lambda signal: (ranks[signal.chrom], signal.start))
    for signal, before in zip(ordered, [None, *ordered], strict=False):
        end = signal.start + len(signal.values)
        if contigs is not None and signal.chrom not in contigs:
            known = chromosomes.suggest(signal.chrom, contigs)
            raise ValueError(f"signal on unknown contig {signal.chrom!r}; {known}")
        length = end if contigs is None else contigs[signal.chrom]
        if signal.start < 0 or end > length:
            raise ValueError(
                f"signal on {signal.chrom} covers [{signal.start}, {end}), outside the contig's "
                f"[0, {length}); crop it first"
            )
        same_contig = before is not None and before.chrom == signal.chrom
        if same_contig and before.start + len(before.values) > signal.start:
            raise ValueError(
                f"two signals cover {signal.chrom}:{signal.start + 1}; merge them first"
            )
    return ordered


def _without_gaps(signal: Signal) -> list[Signal]:
    """The stretches of finite values."""
    values = np.asarray(signal.values, np.float64)
    finite = np.r_[False, np.isfinite(values), False]
    edges = np.flatnonzero(finite[1:] != finite[:-1])
    return [
        Signal(signal.chrom, int(signal.start + first), values[first:last])
        for first, last in zip(edges[::2], edges[1::2], strict=True)
    ]


def _ordered(links: pd.DataFrame, score: str) -> pd.DataFrame:
    for column in (*LINK_COLUMNS, score):
        if column not in links:
            raise ValueError(f"links have no column {column!r}; found: {', '.join(links)}")
    frame = links[list(LINK_COLUMNS)].assign(score=links[score].astype(float))
    wrong = np.flatnonzero(~np.isfinite(frame["score"]))
    if wrong.size:
        row = frame.iloc[wrong[0]]
        raise ValueError(
            f"{score} of {row['gene_id']} and {row['chrom']}:{row['start'] + 1}-{row['end']} is "
            f"{row['score']}; a track needs finite scores, choose another column"
        )
    ranks = {name: i for i, name in enumerate(chromosomes.natural_order(frame["chrom"]))}
    keys = frame.assign(chrom=frame["chrom"].map(ranks)).reset_index(drop=True)
    order = keys.sort_values(["chrom", "start", "end", "gene_id"], kind="stable").index
    return frame.iloc[order]


def _gene(row) -> str:
    return (row.gene_name or row.gene_id).replace(" ", "_")


def _place(row) -> str:
    return f"{row.chrom}:{row.start + 1}-{row.end}"


def _name(row) -> str:
    return f"{_gene(row)}|{_place(row)}"


def _write_text(path: str | os.PathLike, lines: Sequence[str]) -> None:
    content = "".join(f"{line}\n" for line in lines).encode()
    if str(path).endswith(".gz"):
        content = gzip.compress(content, mtime=0)
    with atomic.atomic_file(path) as temporary:
        temporary.write_bytes(content)
