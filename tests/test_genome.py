"""Fetching from FASTA: compressed or not, past the ends, with indexes that fit or do not."""

import gzip
import os
import pickle

import numpy as np
import pysam
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_inputs import CONTIGS, write_fasta

from epinformer_jax.data import sequence
from epinformer_jax.data.genome import Genome


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("genome")
    codes = write_fasta(folder / "tiny.fa")
    with Genome(folder / "tiny.fa", folder / "cache") as genome:
        yield genome, codes


@given(st.sampled_from(list(CONTIGS)), st.integers(-300, 9500), st.integers(0, 900))
@settings(max_examples=200)
def test_a_stretch_is_that_of_the_contig_with_n_past_its_ends(tiny, chrom, start, length):
    genome, codes = tiny
    padded = np.concatenate([np.zeros(300, np.uint8), codes[chrom], np.zeros(10_000, np.uint8)])
    expected = padded[300 + start : 300 + start + length]
    np.testing.assert_array_equal(genome.fetch(chrom, start, start + length), expected)


def test_contigs_keep_the_order_of_the_file(tiny):
    genome, _ = tiny
    assert list(genome.contigs.items()) == list(CONTIGS.items())
    assert genome.name == "tiny"


def compress(source, target, form):
    if form == "bgzf":
        pysam.tabix_compress(str(source), str(target))
    else:
        target.write_bytes(gzip.compress(source.read_bytes()))


@pytest.mark.parametrize("form", ["bgzf", "gzip"])
def test_compressed_fasta_is_unpacked_once_and_gives_the_same(tmp_path, form):
    codes = write_fasta(tmp_path / "g.fa")
    compress(tmp_path / "g.fa", tmp_path / "packed.fa.gz", form)
    cache = tmp_path / "cache"
    for _ in range(2):
        with Genome(tmp_path / "packed.fa.gz", cache) as genome:
            np.testing.assert_array_equal(genome.fetch("chr2", -5, 7010)[5:-10], codes["chr2"])
            assert genome.name == "packed"
    (unpacked,) = cache.glob("*.fa")
    assert unpacked.read_bytes() == (tmp_path / "g.fa").read_bytes()
    inode = unpacked.stat().st_ino
    (tmp_path / "packed.fa.gz").rename(tmp_path / "moved.fa.gz")
    Genome(tmp_path / "moved.fa.gz", cache).close()
    assert [path.stat().st_ino for path in cache.glob("*.fa")] == [inode]


def test_nothing_is_written_beside_the_fasta(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    write_fasta(folder / "g.fa")
    Genome(folder / "g.fa", tmp_path / "cache").close()
    assert os.listdir(folder) == ["g.fa"]
    assert list((tmp_path / "cache").glob("*.fai"))


def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("EPINFORMER_CACHE_DIR", str(tmp_path / "elsewhere"))
    write_fasta(tmp_path / "g.fa")
    Genome(tmp_path / "g.fa").close()
    assert list((tmp_path / "elsewhere").iterdir())


def test_a_fitting_index_beside_the_fasta_is_used(tmp_path):
    write_fasta(tmp_path / "g.fa")
    pysam.faidx(str(tmp_path / "g.fa"))
    Genome(tmp_path / "g.fa", tmp_path / "cache").close()
    assert not (tmp_path / "cache").exists()


def cut_last_contig(text):
    return "".join(text.splitlines(keepends=True)[:-1])


@pytest.mark.parametrize(
    "spoil",
    [
        cut_last_contig,
        lambda text: text.replace("chr2", "chr3"),
        lambda text: text[:40],
        lambda _: "",
    ],
    ids=["contig lost", "other name", "cut off", "empty"],
)
def test_an_index_that_does_not_fit_is_not_trusted(tmp_path, spoil):
    codes = write_fasta(tmp_path / "g.fa")
    pysam.faidx(str(tmp_path / "g.fa"))
    index = tmp_path / "g.fa.fai"
    index.write_text(spoil(index.read_text()))
    with Genome(tmp_path / "g.fa", tmp_path / "cache") as genome:
        for chrom, expected in codes.items():
            np.testing.assert_array_equal(genome.fetch(chrom, 0, expected.size), expected)


def test_a_changed_fasta_gets_a_new_index(tmp_path):
    write_fasta(tmp_path / "g.fa")
    Genome(tmp_path / "g.fa", tmp_path / "cache").close()
    codes = write_fasta(tmp_path / "g.fa", {"chr1": 900, "chrM": 77}, line_bases=50, seed=5)
    with Genome(tmp_path / "g.fa", tmp_path / "cache") as genome:
        np.testing.assert_array_equal(genome.fetch("chrM", 0, 77), codes["chrM"])
        assert set(genome.contigs) == {"chr1", "chrM"}


@pytest.mark.parametrize(
    "text",
    [
        b">a x\r\nACGT\r\nAC\r\n>b\r\nGGNN\r\n",
        b">a x\nACGT\nAC\n\n>b\nGGNN\n\n",
        b">a\nACGTAC\n>b\nGGNN",
    ],
    ids=["CRLF", "blank lines", "no last newline"],
)
def test_other_line_ends_do_no_harm(tmp_path, text):
    (tmp_path / "g.fa").write_bytes(text)
    with Genome(tmp_path / "g.fa", tmp_path / "cache") as genome:
        assert sequence.decode(genome.fetch("a", 0, 6)) == "ACGTAC"
        assert sequence.decode(genome.fetch("b", 1, 6)) == "GNNNN"


@pytest.mark.parametrize(
    ("asked", "hint"), [("1", "'chr1'"), ("chr01", "'chr1'"), ("chrx", "'chrX'"), ("zzz", "chr10")]
)
def test_an_unknown_contig_brings_the_nearest_name(tiny, asked, hint):
    genome, _ = tiny
    with pytest.raises(ValueError, match=f"no contig '{asked}'.*{hint}"):
        genome.fetch(asked, 0, 1)


def test_end_before_start_is_refused(tiny):
    with pytest.raises(ValueError, match="end 3 is before start 5"):
        tiny[0].fetch("chr1", 5, 3)


def test_gaps_in_the_sequence_are_named_with_their_place(tmp_path):
    (tmp_path / "g.fa").write_text(">a\nACGT\nAC-T\n")
    with (
        Genome(tmp_path / "g.fa", tmp_path / "cache") as genome,
        pytest.raises(ValueError, match=r"g\.fa: a:7 \(1-based\) holds '-'"),
    ):
        genome.fetch("a", 5, 8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "FASTA"),
        (b"chr1\t100\n", "FASTA"),
        (b">a\nACGT\nAC\nACGT\n", "inconsistent|not consistent"),
        (b">a\nACGT\n>a b\nAC\n", r"g\.fa:3: the name 'a' stands in line 1 already"),
        (b"\x00\xff\xfe binary", "FASTA"),
    ],
    ids=["empty", "a table", "uneven lines", "a name twice", "binary"],
)
def test_what_is_not_fasta_is_refused_with_its_name(tmp_path, content, message):
    (tmp_path / "g.fa").write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        Genome(tmp_path / "g.fa", tmp_path / "cache")
    assert "g.fa" in str(error.value)


def test_a_cut_off_gzip_file_is_refused_and_leaves_no_cache(tmp_path):
    write_fasta(tmp_path / "g.fa")
    packed = gzip.compress((tmp_path / "g.fa").read_bytes())
    (tmp_path / "g.fa.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(ValueError, match=r"g\.fa\.gz: damaged gzip"):
        Genome(tmp_path / "g.fa.gz", tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.fa"):
        Genome(tmp_path / "none.fa", tmp_path / "cache")


def test_the_fingerprint_knows_contigs_not_their_order(tmp_path):
    def fingerprint(contigs):
        write_fasta(tmp_path / "g.fa", contigs)
        with Genome(tmp_path / "g.fa", tmp_path / "cache") as genome:
            return genome.fingerprint

    one = fingerprint({"a": 100, "b": 200})
    assert fingerprint({"b": 200, "a": 100}) == one
    assert fingerprint({"a": 100, "b": 201}) != one


def test_a_genome_can_be_sent_to_another_process(tiny):
    genome, codes = tiny
    with pickle.loads(pickle.dumps(genome)) as copy:
        np.testing.assert_array_equal(copy.fetch("chr10", 0, 5000), codes["chr10"])


def test_real_contigs_have_their_stated_lengths(shared_data, tmp_path):
    with Genome(shared_data / "k562_slices" / "genome.fa.gz", tmp_path) as genome:
        assert len(genome.contigs) == 137
        assert sum(genome.contigs.values()) == pytest.approx(11.6e6, rel=0.01)
        np.testing.assert_array_equal(genome.fetch("chr1_0", 0, 10_000), 0)
