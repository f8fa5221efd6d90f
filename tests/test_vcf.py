"""Reading VCF: which alleles are kept, what is refused and why, edited sequences."""

import gzip

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from tiny_variants import HEAD, known, other_base, write_vcf, write_world

from epinformer_jax.analysis import vcf
from epinformer_jax.data import sequence
from epinformer_jax.data.genome import Genome


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Contigs, frames of genes and links, folder."""
    return write_world(tmp_path_factory.mktemp("variants"))


def test_alleles_are_split_trimmed_and_refused_with_a_reason(world, tmp_path):
    folder = world[3]
    pos, ref = known(world, "chr1", 100, 4)
    snv, other = other_base(ref[0]), other_base(other_base(ref[0]))
    rows = [
        ("chr1", pos, ref[0], f"{snv},{other},{snv}"),
        ("chr1", pos, ref, ref[0] + ref[-1]),
        ("chr1", pos, ref[:2], ref[0]),
        ("chr1", pos, ref[0].lower(), ref[0] + "acg"),
        ("chr1", pos, ref[0], "<DEL>"),
        ("chr1", pos, ref[0], "*,."),
        ("chr1", pos, ref[0], f"{ref[0]}[chr2:5["),
        ("chr1", pos, other_base(ref[0]), ref[0]),
        ("chr1", pos, ref[0], "A" * 1001),
        ("chr1", pos, ref[0], "R"),
        ("chr1", pos, ref[0], ref[0]),
        ("chr7", pos, ref[0], snv),
        ("chr1", 9001, "A", "C"),
        ("chr1", 9000, "AC", "C"),
    ]
    for name in ("v.vcf", "v.vcf.gz"):
        with Genome(folder / "genome.fa", folder / "cache") as genome:
            kept, dropped = vcf.read(write_vcf(tmp_path / name, rows), genome)
        assert [(v.start, v.end, sequence.decode(v.inserted)) for v in kept][:2] == [
            (pos - 1, pos, snv),
            (pos - 1, pos, other),
        ]
        assert kept[2].end - kept[2].start == 2 and not len(kept[2].inserted)
        assert [v.growth_bp for v in kept] == [0, 0, -2, -1, 3]
        reasons = list(dropped["reason"])
        assert reasons == [
            "repeated",
            "symbolic allele or breakend",
            "no alternative sequence",
            "no alternative sequence",
            "symbolic allele or breakend",
            vcf.REFERENCE_MISMATCH,
            "allele longer than 1000 bp",
            "letters other than A, C, G, T, N",
            "equal to the reference",
            "contig not in the FASTA",
            "beyond the end of its contig",
            "beyond the end of its contig",
        ]
        contradicted = dropped[dropped["reason"] == vcf.REFERENCE_MISMATCH].iloc[0]
        line = (tmp_path / "v.vcf").read_text().splitlines()[contradicted["line"] - 1].split("\t")
        assert line[:2] == [contradicted["chrom"], str(contradicted["pos"])]
        assert contradicted["in_fasta"] not in ("", contradicted["ref"])
        assert (dropped["in_fasta"] == "").sum() == len(dropped) - 1


def test_unreadable_files_are_named_with_their_line(world, tmp_path):
    folder = world[3]
    pos, ref = known(world, "chr1", 100)
    wrong = write_vcf(tmp_path / "wrong.vcf", [("chr1", pos, other_base(ref), ref)])
    short = tmp_path / "short.vcf"
    short.write_text(HEAD + "chr1\t5\n")
    no_number = tmp_path / "number.vcf"
    no_number.write_text(HEAD + "chr1\tx\t.\tA\tC\t.\t.\t.\n")
    table = tmp_path / "table.vcf"
    table.write_text("chrom\tpos\n")
    cut = tmp_path / "cut.vcf.gz"
    cut.write_bytes(gzip.compress(HEAD.encode() * 50)[:-20])
    (tmp_path / "empty.vcf").write_text("")
    expected = {
        wrong: "no reference allele agrees.*another assembly",
        short: r"short\.vcf:4: 2 tab-separated fields",
        no_number: r"number\.vcf:4: position 'x'",
        table: r"table\.vcf:1: .*expected ##fileformat",
        cut: "damaged after line",
        tmp_path / "empty.vcf": "is empty",
        tmp_path / "gone.vcf": "no such VCF",
    }
    with Genome(folder / "genome.fa", folder / "cache") as genome:
        for path, message in expected.items():
            with pytest.raises(ValueError, match=message):
                vcf.read(path, genome)


@hypothesis.given(
    st.integers(0, 59),
    st.integers(0, 9),
    st.text("ACGT", max_size=6),
    st.integers(-9, 70),
    st.integers(0, 40),
)
def test_edited_sequence_is_that_of_the_edited_contig(start, removed, inserted, first, length):
    class Contig(Genome):
        path = "made up"
        contigs = {"c": 60}
        text = sequence.encode("ACGTTGCAAC" * 6)

        def __init__(self):
            pass

        def fetch(self, chrom, start, end):
            padded = np.concatenate([np.zeros(100, np.uint8), self.text, np.zeros(100, np.uint8)])
            return padded[start + 100 : end + 100]

    end = min(start + removed, 60)
    codes = sequence.encode(inserted)
    variant = vcf.Variant(1, "c", 1, ".", "", "", start, end, codes)
    edited = np.concatenate([Contig.text[:start], codes, Contig.text[end:]])
    expected = np.concatenate([np.zeros(100, np.uint8), edited, np.zeros(150, np.uint8)])
    found = vcf.fetch_edited(Contig(), variant, first, first + length)
    np.testing.assert_array_equal(found, expected[first + 100 : first + 100 + length])
