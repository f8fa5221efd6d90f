"""Reads of the simulated assays: drawn, counted, written as BAM (with index) and bigWig.

All reads are 36 bp alignments without insertions, so that counting overlaps is two binary searches.
Duplicates (flagged) and reads of mapping quality 0 occur; unmapped reads stand at the end of each
BAM.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pyBigWig
import pysam
from jaxtyping import Float64, Int64

from data_prep.simulation.layout import Layout
from data_prep.simulation.rule import Truth
from data_prep.simulation.settings import CHROMOSOMES, Rule, Settings, stream

READ_BP = 36
# Standard deviation of read centres around a summit and around a TSS.
_SUMMIT_SPREAD_BP = {"dnase": 50.0, "h3k27ac": 75.0}
_PROMOTER_SPREAD_BP = {"dnase": 80.0, "h3k27ac": 190.0}
_PROMOTER_READS = 1.5
_ARTEFACT_READS = 12.0
_LOW_QUALITY_SHARE, _DUPLICATE_SHARE, _UNMAPPED_SHARE = 0.04, 0.03, 0.02


@dataclasses.dataclass(frozen=True)
class Reads:
    """The mapped reads of one BAM in file order; `position` counts along all chromosomes."""

    chrom: Int64[np.ndarray, " R"]
    start: Int64[np.ndarray, " R"]
    flag: Int64[np.ndarray, " R"]
    quality: Int64[np.ndarray, " R"]
    position: Int64[np.ndarray, " R"]
    offset: Int64[np.ndarray, " K"]
    unmapped: int

    @property
    def total(self) -> int:
        """Mapped reads, the denominator of RPM."""
        return len(self.start)

    def count(self, chrom: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Reads that overlap each interval by at least one base; none is filtered."""
        first = np.searchsorted(self.position, self.offset[chrom] + start - READ_BP, "right")
        last = np.searchsorted(self.position, self.offset[chrom] + end, "left")
        return last - first

    def rpm(self, count: np.ndarray) -> np.ndarray:
        """Reads per million mapped reads."""
        return 1e6 * count / self.total


def draw_reads(
    settings: Settings, rule: Rule, layout: Layout, truth: Truth, cell: str, assay: str
) -> Reads:
    """Draws the reads of one assay in one cell type: around summits and TSSs, and anywhere."""
    rng = stream(settings.seed, "reads", cell, assay)
    elements, genes = layout.elements, layout.genes
    unit = settings.reads_per_element
    element_factor = _overdispersion(rng, rule, len(elements.kind))[elements.summit_element]
    sources = [
        (
            elements.chrom[elements.summit_element],
            elements.summit,
            rng.poisson(unit * truth.summit_activity * element_factor),
            _SUMMIT_SPREAD_BP[assay],
        ),
        (
            genes.chrom,
            genes.tss,
            rng.poisson(
                unit
                * _PROMOTER_READS
                * truth.promoter_activity
                * _overdispersion(rng, rule, len(genes.tss))
            ),
            _PROMOTER_SPREAD_BP[assay],
        ),
        (
            layout.blacklist[:, 0],
            layout.blacklist[:, 1:].sum(axis=1) // 2,
            rng.poisson(unit * _ARTEFACT_READS, len(layout.blacklist)),
            60.0,
        ),
    ]
    background = rng.poisson(layout.length * settings.background_reads_per_kb / 1000)
    chrom = [np.repeat(np.arange(len(background)), background)]
    start = [np.floor(rng.random(len(chrom[0])) * layout.length[chrom[0]]).astype(np.int64)]
    for source_chrom, centre, reads, spread in sources:
        chrom.append(np.repeat(source_chrom, reads))
        around = np.repeat(centre, reads) + spread * rng.standard_normal(reads.sum())
        start.append(np.rint(around).astype(np.int64) - READ_BP // 2)
    return _file_order(rng, layout, np.concatenate(chrom), np.concatenate(start))


def _overdispersion(rng: np.random.Generator, rule: Rule, count: int) -> np.ndarray:
    """Gamma factors of mean 1: Poisson counts times these are negative binomial."""
    return rng.gamma(rule.overdispersion_shape, 1 / rule.overdispersion_shape, count)


def _file_order(rng, layout: Layout, chrom: np.ndarray, start: np.ndarray) -> Reads:
    room = layout.length + 10_000
    offset = np.cumsum(room) - room
    start = np.clip(start, 0, layout.length[chrom] - READ_BP)
    order = np.argsort(offset[chrom] + start, kind="stable")
    chrom, start = chrom[order], start[order]
    flag = np.where(rng.random(len(start)) < 0.5, 16, 0)
    flag += np.where(rng.random(len(start)) < _DUPLICATE_SHARE, 1024, 0)
    quality = np.where(rng.random(len(start)) < _LOW_QUALITY_SHARE, 0, 60)
    unmapped = round(_UNMAPPED_SHARE * len(start))
    return Reads(chrom, start, flag, quality, offset[chrom] + start, offset, unmapped)


def write_bam(path: Path, reads: Reads, layout: Layout) -> None:
    """Writes a coordinate-sorted BAM and its `.bai`; base letters are left out (`*`)."""
    header = ["@HD\tVN:1.6\tSO:coordinate"]
    header += [
        f"@SQ\tSN:{name}\tLN:{length}"
        for name, length in zip(CHROMOSOMES, layout.length, strict=True)
    ]
    columns = (reads.flag, reads.chrom, reads.start + 1, reads.quality)
    rows = [
        f"r{number}\t{flag}\t{CHROMOSOMES[chrom]}\t{start}\t{quality}\t{READ_BP}M\t*\t0\t0\t*\t*"
        for number, (flag, chrom, start, quality) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True)
        )
    ]
    rows += [f"u{number}\t4\t*\t0\t0\t*\t*\t0\t0\t*\t*" for number in range(reads.unmapped)]
    text = path.with_suffix(".sam")
    text.write_text("\n".join(header + rows) + "\n", encoding="ascii")
    pysam.samtools.view("-b", "--no-PG", "-o", str(path), str(text), catch_stdout=False)
    pysam.index(str(path))
    text.unlink()


def write_coverage(path: Path, reads: Reads, layout: Layout) -> None:
    """Writes how many reads cover each base as a bigWig; uncovered bases have no value."""
    edge = np.concatenate([reads.position, reads.position + READ_BP])
    step = np.concatenate([np.ones(reads.total, np.int64), -np.ones(reads.total, np.int64)])
    place, inverse = np.unique(edge, return_inverse=True)
    depth = np.cumsum(np.bincount(inverse, weights=step)).astype(np.int64)[:-1]
    begin, end = place[:-1], place[1:]
    chrom = np.searchsorted(reads.offset, begin, "right") - 1
    with pyBigWig.open(str(path), "w") as bigwig:
        bigwig.addHeader(list(zip(CHROMOSOMES, layout.length.tolist(), strict=True)))
        for index, name in enumerate(CHROMOSOMES):
            here = (chrom == index) & (depth > 0)
            if here.any():
                bigwig.addEntries(
                    [name] * int(here.sum()),
                    (begin[here] - reads.offset[index]).tolist(),
                    ends=(end[here] - reads.offset[index]).tolist(),
                    values=depth[here].astype(float).tolist(),
                )


def activity(
    dnase_rpm: Float64[np.ndarray, " n"], h3k27ac_rpm: Float64[np.ndarray, " n"]
) -> np.ndarray:
    """The published activity: geometric mean of the two RPM values."""
    return np.sqrt(dnase_rpm * h3k27ac_rpm)
