"""Tracks for genome browsers, read back by other readers or parsed by hand."""

import gzip

import numpy as np
import pandas as pd
import pyBigWig
import pysam
import pytest

from epinformer_jax.analysis import tracks
from epinformer_jax.analysis.tracks import Signal

CONTIGS = {"chr10": 2000, "chr2": 1000, "chr1": 500}
NAN = float("nan")


def signals():
    values = np.array([1.5, 1.5, NAN, -2.25, 0.0])
    return [
        Signal("chr10", 1995, values),
        Signal("chr2", 0, np.array([3.0])),
        Signal("chr2", 10, values),
        Signal("chr1", 7, np.full(3, NAN)),
    ]


def test_a_bigwig_holds_every_value_and_nothing_else(tmp_path):
    path = tmp_path / "a.bw"
    tracks.write_bigwig(path, signals(), CONTIGS)
    with pyBigWig.open(str(path)) as file:
        assert file.chroms() == CONTIGS
        for signal in signals()[:3]:
            end = signal.start + len(signal.values)
            found = file.values(signal.chrom, signal.start, end)
            np.testing.assert_array_equal(found, signal.values.astype(np.float32))
        assert file.intervals("chr1") is None
        assert np.isfinite(file.values("chr2", 0, 1000)).sum() == 1 + 4
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.bw"]


def test_a_bigwig_is_read_in_equal_parts(tmp_path):
    path = tmp_path / "a.bw"
    tracks.write_bigwig(path, [Signal("chr1", 10, np.arange(1.0, 9.0))], CONTIGS)
    found = tracks.read_bigwig(path, "chr1", 8, 20, bins=3)
    np.testing.assert_allclose(found, [(1 + 2) / 4, (3 + 4 + 5 + 6) / 4, (7 + 8) / 4])
    beyond = tracks.read_bigwig(path, "chr1", -10, 600, bins=10_000)
    assert len(beyond) == 610 and beyond.sum() == 36
    with pytest.raises(ValueError, match=r"a\.bw: no contig '1'; did you mean 'chr1'"):
        tracks.read_bigwig(path, "1", 0, 10, bins=2)
    for wrong, told in (("none.bw", "no such bigWig"), ("text.bw", "cannot be read as bigWig")):
        (tmp_path / "text.bw").write_text("chr1 1 2 3\n")
        with pytest.raises(ValueError, match=told):
            tracks.read_bigwig(tmp_path / wrong, "chr1", 0, 10, bins=2)


def test_a_bedgraph_joins_runs_of_equal_values(tmp_path):
    path = tmp_path / "a.bedgraph.gz"
    tracks.write_bedgraph(path, signals(), CONTIGS, name="my track")
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    assert lines == [
        'track type=bedGraph name="my track"',
        "chr2\t0\t1\t3",
        "chr2\t10\t12\t1.5",
        "chr2\t13\t14\t-2.25",
        "chr2\t14\t15\t0",
        "chr10\t1995\t1997\t1.5",
        "chr10\t1998\t1999\t-2.25",
        "chr10\t1999\t2000\t0",
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([Signal("chr3", 0, np.ones(1))], "unknown contig 'chr3'"),
        ([Signal("chr1", 499, np.ones(2))], r"covers \[499, 501\), outside the contig's \[0, 500"),
        ([Signal("chr1", -1, np.ones(2))], "outside"),
        (
            [Signal("chr1", 5, np.ones(2)), Signal("chr1", 0, np.ones(6))],
            "two signals cover chr1:6",
        ),
        ([Signal("chr1", 5, np.array([NAN]))], "no value to write"),
        ([], "no value to write"),
    ],
)
def test_a_wrong_signal_is_refused_and_leaves_no_file(given, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        tracks.write_bigwig(tmp_path / "a.bw", given, CONTIGS)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def links():
    rows = [
        ["chr10", 900, 1200, 5000, "G1", "one gene", 0.25],
        ["chr2", 700, 901, 300, "G2", "", 1.0],
        ["chr2", 90, 95, 300, "G2", "", 0.0625],
    ]
    return pd.DataFrame(rows, columns=[*tracks.LINK_COLUMNS, "abc"])


def table_of(text):
    return [line.split("\t") for line in text.splitlines() if line[0] not in "#t"]


def test_bedpe_names_both_ends_in_natural_order(links, tmp_path):
    tracks.write_bedpe(tmp_path / "a.bedpe", links, score="abc")
    rows = table_of((tmp_path / "a.bedpe").read_text())
    assert [len(row) for row in rows] == [10] * 3
    assert rows[0] == [
        "chr2",
        "90",
        "95",
        "chr2",
        "300",
        "301",
        "G2|chr2:91-95",
        "0.0625",
        ".",
        ".",
    ]
    assert rows[2][:6] == ["chr10", "900", "1200", "chr10", "5000", "5001"]
    assert rows[2][6] == "one_gene|chr10:901-1200"


def test_interact_follows_the_definition_of_the_format(links, tmp_path):
    tracks.write_interact(tmp_path / "a.interact", links, score="abc")
    text = (tmp_path / "a.interact").read_text()
    assert text.startswith("track type=interact ")
    for row in table_of(text):
        assert len(row) == 18
        chrom, first, last, _, shade, value = row[:6]
        source, target = row[8:11], row[13:16]
        assert chrom == source[0] == target[0]
        ends = [int(x) for x in (*source[1:], *target[1:])]
        assert (int(first), int(last)) == (min(ends), max(ends))
        assert int(shade) == round(1000 * float(value)) and 0 <= int(shade) <= 1000


def longrange(lines):
    for line in lines:
        chrom, start, end, other, number, strand = line.split("\t")
        place, score = other.rsplit(",", 1)
        to, span = place.split(":")
        assert strand == "." and to == chrom
        first, last = map(int, span.split("-"))
        yield chrom, int(start), int(end), first, last, float(score), int(number)


def ends_of(rows):
    for chrom, start, end, first, last, score, _ in rows:
        yield chrom, start, end, (first, last), score


@pytest.mark.parametrize("name", ["a.longrange", "a.longrange.gz"])
def test_longrange_holds_each_link_from_both_ends(name, links, tmp_path):
    path = tmp_path / name
    tracks.write_longrange(path, links, score="abc")
    if name.endswith("gz"):
        with pysam.TabixFile(str(path)) as file:
            assert list(file.contigs) == ["chr2", "chr10"]
            assert len(list(file.fetch("chr2", 295, 305))) == 2  # the TSS's side of both links
            rows = list(longrange(line for chrom in file.contigs for line in file.fetch(chrom)))
        assert {entry.name for entry in tmp_path.iterdir()} == {name, f"{name}.tbi"}
    else:
        rows = list(longrange(path.read_text().splitlines()))
    assert [row[-1] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows == sorted(rows, key=lambda row: (len(row[0]), row[1]))
    mirrored = {
        (c, first, last, start, end, score) for c, start, end, first, last, score, _ in rows
    }
    assert mirrored == {row[:6] for row in rows}


def test_tracks_refuse_scores_that_are_not_finite(links, tmp_path):
    links.loc[1, "abc"] = NAN
    with pytest.raises(ValueError, match="abc of G2 and chr2:701-901 is nan"):
        tracks.write_bedpe(tmp_path / "a.bedpe", links, score="abc")
    with pytest.raises(ValueError, match="no column 'tss'"):
        tracks.write_longrange(tmp_path / "a.longrange", links.drop(columns="tss"), score="abc")
