"""Counting one file: equal to pysam read by read, filters, fragments, tracks, formats."""

import gzip

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pyBigWig
import pysam
import pytest
from random_reads import CONTIGS, random_regions, write_bam

from data_prep.counting import ReadCounter, TrackSummer
from data_prep.reads import READ_FILTERS, ReadFilter, alignment_batches, fragment_batches
from data_prep.signal_files import CountingOptions, detect_format, measure
from data_prep.tracks import bigwig_batches

_SKIPPED = 0x4 | 0x100 | 0x200 | 0x800


def pysam_counts(bam, regions, read_filter):
    """What pysam counts region by region."""
    with pysam.AlignmentFile(bam) as handle:
        return [
            handle.count(*region, read_callback=lambda read: passes(read, read_filter))
            for region in regions.itertuples(index=False)
        ]


def passes(read, read_filter):
    """The filter in plain words, for pysam's callback."""
    return not (
        read.flag & _SKIPPED
        or read.mapping_quality < read_filter.min_mapq
        or (not read_filter.keep_duplicates and read.is_duplicate)
        or (read_filter.strand != "both" and read.is_reverse != (read_filter.strand == "-"))
    )


@pytest.mark.parametrize(
    "read_filter",
    [*READ_FILTERS.values(), ReadFilter(strand="+"), ReadFilter(min_mapq=10, strand="-")],
    ids=["published", "recommended", "plus", "minus"],
)
def test_counts_and_total_equal_those_of_pysam(tmp_path, read_filter):
    bam = write_bam(tmp_path / "reads.bam")
    regions = random_regions()
    ours = measure(bam, regions, CountingOptions(read_filter=read_filter))
    wanted = pysam_counts(bam, regions, read_filter)
    with pysam.AlignmentFile(bam) as handle:
        total = sum(passes(read, read_filter) for read in handle.fetch(until_eof=True))
    assert ours.values.tolist() == wanted
    assert ours.total == total
    assert sum(wanted) > 50


def test_the_published_and_recommended_filters_are_what_they_say():
    assert READ_FILTERS["published"].to_dict() == {
        "always": "primary, mapped, not QC-fail",
        "min_mapq": 0,
        "keep_duplicates": True,
        "strand": "both",
        "unit": "reads",
    }
    recommended = READ_FILTERS["recommended"]
    assert (recommended.min_mapq, recommended.keep_duplicates) == (30, False)


def test_a_real_bam_counts_as_pysam_counts_it(shared_data, tmp_path):
    bam = tmp_path / "real.bam"
    bam.write_bytes((shared_data / "readers" / "vg_NA12878.chr22.tiny.bam").read_bytes())
    pysam.index(str(bam))
    regions = random_regions(contigs={"q": 12_356})
    for read_filter in READ_FILTERS.values():
        ours = measure(bam, regions, CountingOptions(read_filter=read_filter))
        assert ours.values.tolist() == pysam_counts(bam, regions, read_filter)
    with pysam.AlignmentFile(bam) as handle:
        assert sum(1 for _ in handle.fetch(until_eof=True)) == 3333
        assert dict(zip(handle.references, handle.lengths, strict=True)) == {"q": 12_356}


def test_fragments_are_counted_once_over_their_whole_length(shared_data):
    bam = shared_data / "readers" / "vg_NA12878.chr22.tiny.bam"
    fragments = ReadFilter(min_mapq=30, keep_duplicates=False, unit="fragments")
    batches = list(alignment_batches(bam, fragments, batch_size=100))
    assert {batch.contig for batch in batches} == {"q"}
    starts = np.concatenate([batch.starts for batch in batches])
    ends = np.concatenate([batch.ends for batch in batches])
    with pysam.AlignmentFile(bam) as handle:
        wanted = sorted(
            (read.reference_start, read.reference_start + read.template_length)
            for read in handle.fetch(until_eof=True)
            if passes(read, fragments) and read.is_proper_pair and read.template_length > 0
        )
    assert sorted(zip(starts.tolist(), ends.tolist(), strict=True)) == wanted
    everything = pd.DataFrame({"chrom": ["q"], "start": [0], "end": [12_356]})
    measured = measure(bam, everything, CountingOptions(read_filter=fragments))
    assert measured.values[0] == measured.total == len(wanted)
    assert measured.unit == "fragments"


def test_a_cram_file_counts_as_the_bam_it_came_from(tmp_path):
    fasta = tmp_path / "genome.fa"
    fasta.write_text("".join(f">{name}\n{'A' * size}\n" for name, size in CONTIGS.items()))
    pysam.faidx(str(fasta))
    bam = write_bam(tmp_path / "reads.bam")
    cram = write_bam(tmp_path / "reads.cram", mode="wc", reference_filename=str(fasta))
    regions = random_regions()
    one = measure(bam, regions, CountingOptions())
    two = measure(cram, regions, CountingOptions(reference=str(fasta)))
    assert one.values.tolist() == two.values.tolist()
    assert one.total == two.total


@hypothesis.given(st.integers(0, 10**6))
def test_the_counter_finds_what_a_full_comparison_finds(seed):
    rng = np.random.default_rng(seed)
    regions = pd.DataFrame({"chrom": rng.choice(["a", "b"], 12), "start": rng.integers(0, 50, 12)})
    regions["end"] = regions["start"] + rng.integers(1, 20, 12)
    counter = ReadCounter(regions)
    wanted = np.zeros(12, np.int64)
    for _ in range(3):
        chrom = str(rng.choice(["a", "b", "c"]))
        starts = rng.integers(0, 60, 15)
        ends = starts + rng.integers(1, 12, 15)
        counter.add(chrom, starts, ends)
        meets = (starts[None] < regions["end"].to_numpy()[:, None]) & (
            ends[None] > regions["start"].to_numpy()[:, None]
        )
        wanted += meets.sum(axis=1) * (regions["chrom"] == chrom).to_numpy()
    assert counter.counts().tolist() == wanted.tolist()


@hypothesis.given(st.integers(0, 10**6))
def test_the_summer_gives_the_integral_of_the_track(seed):
    rng = np.random.default_rng(seed)
    track = np.where(rng.random(100) < 0.3, 0, rng.integers(1, 5, 100)).astype(float)
    regions = pd.DataFrame({"chrom": "a", "start": rng.integers(0, 80, 10)})
    regions["end"] = regions["start"] + rng.integers(1, 30, 10)
    summer = TrackSummer(regions)
    for block in np.split(np.arange(100), [30, 61]):
        position = block[track[block] > 0]
        summer.add("a", position, position + 1, track[position])
    padded = np.concatenate([track, np.zeros(20)])
    wanted = [padded[start:end].sum() for start, end in regions[["start", "end"]].to_numpy()]
    np.testing.assert_allclose(summer.sums(), wanted)


def test_tag_align_lines_are_reads(tmp_path):
    path = tmp_path / "reads.tagAlign.gz"
    lines = "chr1\t10\t40\tN\t1000\t+\nchr1\t30\t60\tN\t1000\t-\nchr2\t0\t30\tN\t1000\t+\n"
    path.write_bytes(gzip.compress(lines.encode()))
    regions = pd.DataFrame({"chrom": "chr1", "start": [0, 39, 40], "end": [11, 40, 41]})
    both = measure(path, regions, CountingOptions())
    assert (both.values.tolist(), both.total) == ([1, 2, 1], 3)
    minus = measure(path, regions, CountingOptions(read_filter=ReadFilter(strand="-")))
    assert (minus.values.tolist(), minus.total) == ([0, 1, 1], 1)
    np.testing.assert_allclose(both.rpm(), np.array([1, 2, 1]) * 1e6 / 3)


def test_a_fragment_has_two_cut_ends_and_its_fifth_column_does_not_count(tmp_path):
    path = tmp_path / "fragments.tsv.gz"
    lines = "# made by a pipeline\nchr1\t100\t300\tAAA-1\t7\nchr1\t150\t200\tCCC-1\t1\n"
    path.write_bytes(gzip.compress(lines.encode()))
    # Cut ends lie at 100 and 299, 150 and 199.
    regions = pd.DataFrame(
        {"chrom": "chr1", "start": [100, 101, 299, 300, 0], "end": [101, 299, 300, 301, 999]}
    )
    every = measure(path, regions, CountingOptions())
    assert (every.values.tolist(), every.total) == ([1, 2, 1, 0, 4], 4)
    assert every.unit == "cut ends"
    cells = measure(path, regions, CountingOptions(barcodes=frozenset({"AAA-1"})))
    assert (cells.values.tolist(), cells.total) == ([1, 0, 1, 0, 2], 2)
    assert sum(len(batch.starts) for batch in fragment_batches(path, chunk_rows=1)) == 4


def test_a_track_gives_the_same_from_bigwig_and_bedgraph(tmp_path):
    bedgraph = tmp_path / "track.bedgraph"
    bedgraph.write_text("track type=bedGraph\nchr1\t10\t20\t2\nchr1\t30\t31\t5\nchr2\t0\t4\t1.5\n")
    bigwig = tmp_path / "track.bw"
    with pyBigWig.open(str(bigwig), "w") as handle:
        handle.addHeader(list(CONTIGS.items()))
        handle.addEntries(
            ["chr1", "chr1", "chr2"], [10, 30, 0], ends=[20, 31, 4], values=[2.0, 5.0, 1.5]
        )
    regions = pd.DataFrame(
        {"chrom": ["chr1", "chr1", "chr2"], "start": [15, 0, 0], "end": [31, 100, 2]}
    )
    for path in (bedgraph, bigwig):
        cuts = measure(path, regions, CountingOptions(track_units="cuts"))
        assert cuts.values.tolist() == [15, 25, 3]
        assert cuts.total == 31
        assert cuts.unit == "cuts"
        coverage = measure(path, regions, CountingOptions(track_units="coverage"))
        np.testing.assert_allclose(coverage.rpm(), np.array([15, 25, 3]) * 1e6 / 31)
        folds = measure(path, regions, CountingOptions(track_units="fold-change"))
        np.testing.assert_allclose(folds.rpm(), [15 / 16, 0.25, 1.5])


def test_dense_and_sparse_blocks_of_a_bigwig_read_alike(tmp_path):
    rng = np.random.default_rng(0)
    track = np.where(rng.random(5000) < 0.7, rng.integers(1, 4, 5000), 0).astype(float)
    track[1000:3000] = 0
    position = np.flatnonzero(track)
    path = tmp_path / "track.bw"
    with pyBigWig.open(str(path), "w") as handle:
        handle.addHeader([("chr1", 5000)])
        handle.addEntries(
            ["chr1"] * len(position),
            position.tolist(),
            ends=(position + 1).tolist(),
            values=track[position].tolist(),
        )
    rebuilt = np.zeros(5000)
    lengths = set()
    for batch in bigwig_batches(path, block_bp=500):
        for start, end, value in zip(batch.starts, batch.ends, batch.values, strict=True):
            rebuilt[start:end] += value
            lengths.add(int(end - start))
    np.testing.assert_array_equal(rebuilt, track)
    assert max(lengths) > 1, "no block was read base by base"


def test_a_real_bigwig_adds_up_to_the_sum_in_its_header(shared_data):
    path = shared_data / "readers" / "coolbox_bigwig_chr9_4000000_6000000.bw"
    with pyBigWig.open(str(path)) as handle:
        size = handle.chroms("chr9")
        wanted = handle.header()["sumData"]
        starts = np.arange(4_000_000, 6_000_000, 97_777)
        regions = pd.DataFrame({"chrom": "chr9", "start": starts, "end": starts + 50_001})
        sums = [
            np.nansum(handle.values("chr9", int(start), int(start) + 50_001, numpy=True))
            for start in starts
        ]
    measured = measure(path, regions, CountingOptions(track_units="cuts", contigs={"chr9": size}))
    assert measured.total == wanted == 26_328_000
    np.testing.assert_allclose(measured.values, sums, rtol=1e-6)


def test_excluded_contigs_leave_counts_and_total(tmp_path):
    bam = write_bam(tmp_path / "reads.bam")
    everywhere = pd.DataFrame({"chrom": list(CONTIGS), "start": 0, "end": list(CONTIGS.values())})
    whole = measure(bam, everywhere, CountingOptions())
    part = measure(bam, everywhere, CountingOptions(excluded_contigs=frozenset({"chr2"})))
    assert part.values.tolist() == [whole.values[0], 0]
    assert part.total == whole.values[0] == whole.total - whole.values[1]
    # A contig without regions counts in the total all the same, unless it is excluded.
    first = everywhere.iloc[:1]
    assert measure(bam, first, CountingOptions()).total == whole.total
    one = measure(bam, first, CountingOptions(excluded_contigs=frozenset({"chr2"})))
    assert one.total == part.total


@pytest.mark.parametrize("names", [("1", "2"), ("NC_1.11", "NC_2.12")], ids=["Ensembl", "RefSeq"])
def test_contigs_of_other_names_match_by_name_or_length(tmp_path, names):
    renamed = dict(zip(names, CONTIGS.values(), strict=True))
    bam = write_bam(tmp_path / "renamed.bam", contigs=renamed)
    same = write_bam(tmp_path / "same.bam")
    regions = random_regions()
    ours = measure(bam, regions, CountingOptions(contigs=CONTIGS))
    assert ours.values.tolist() == measure(same, regions, CountingOptions()).values.tolist()


@pytest.mark.parametrize(
    ("name", "line", "wanted"),
    [
        ("a.bam", "x", "bam"),
        ("a.bigWig", "x", "bigwig"),
        ("atac_fragments.tsv.gz", "x", "fragments"),
        ("x.bed.gz", "chr1\t1\t2\tN\t0\t+", "tagalign"),
        ("x.txt", "chr1\t1\t2\t0.5", "bedgraph"),
        ("x.txt", "chr1\t1\t2\tACGT-1\t3", "fragments"),
    ],
)
def test_formats_are_told_by_name_or_content(tmp_path, name, line, wanted):
    path = tmp_path / name
    path.write_text(line + "\n")
    assert detect_format(path) == wanted
