"""Bad inputs: one clear line that says where, what was found, what was expected, what to do.

One table, in three files: malformed_intervals.py, malformed_signals.py, malformed_tables.py.
"""

import gzip

import pandas as pd
import pytest
from malformed_intervals import BED, CONTIGS, PEAKS
from malformed_signals import CONTACTS, SIGNALS, counted
from malformed_tables import GENES, LINKS, TABLES

from data_prep.contact_matrices import CoolFile, HicFile
from data_prep.intervals import read_bed
from data_prep.signal_files import CountingOptions, measure

CASES = [*BED, *PEAKS, *CONTIGS, *SIGNALS, *CONTACTS, *GENES, *LINKS, *TABLES]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what.replace(" ", "_"))
def test_a_bad_input_gets_its_message(case, tmp_path):
    path = tmp_path / case.file
    content = case.content.encode() if isinstance(case.content, str) else case.content
    path.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        case.read(path)
    assert str(caught.value) == case.message.format(path=path)
    assert "\n" not in str(caught.value)


def test_the_table_is_long_and_says_each_thing_once():
    assert len(CASES) >= 40
    assert len({case.what for case in CASES}) == len(CASES)


# What a library says about a damaged file differs between versions: only our own words are fixed.
DAMAGED = [
    ("a.bam", b"BAM\x01 but not really", counted(), "cannot be read as BAM or CRAM"),
    ("a.bw", b"nothing of the kind", counted(track_units="cuts"), "cannot be read as bigWig"),
    (
        "a.hic",
        b"HIC but short",
        lambda path: HicFile(path, resolution_bp=5000),
        "cannot be read as .hic",
    ),
    (
        "a.cool",
        b"no HDF5 here",
        lambda path: CoolFile(path, resolution_bp=5000),
        "cannot be read as cooler",
    ),
]


@pytest.mark.parametrize(
    ("name", "content", "read", "words"), DAMAGED, ids=lambda value: str(value)[:8]
)
def test_a_damaged_binary_file_is_named(tmp_path, name, content, read, words):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: {words}")
    assert str(caught.value).endswith("is it complete?")


def test_a_cut_gzip_stream_is_damaged_not_short(tmp_path):
    path = tmp_path / "a.bed.gz"
    path.write_bytes(gzip.compress(b"chr1\t5\t9\n" * 5000)[:60])
    with pytest.raises(ValueError) as caught:
        read_bed(path)
    assert str(caught.value).startswith(
        f"{path}: the gzip stream is cut off or damaged after line "
    )
    assert str(caught.value).endswith("copy the file again")


def test_a_cut_bam_is_damaged_not_short(shared_data, tmp_path):
    whole = (shared_data / "readers" / "vg_NA12878.chr22.tiny.bam").read_bytes()
    path = tmp_path / "cut.bam"
    region = pd.DataFrame({"chrom": ["q"], "start": [0], "end": [12_356]})
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cannot be read as BAM or CRAM .*; is it complete"):
        measure(path, region, CountingOptions())
    end_marker = whole[-28:]
    path.write_bytes(whole[: len(whole) // 2] + end_marker)
    with pytest.raises(ValueError, match="damaged or cut off after .* alignments"):
        measure(path, region, CountingOptions())


@pytest.mark.parametrize(
    ("read", "name"), [(read_bed, "gone.bed"), (counted(), "gone.bam")], ids=["text", "binary"]
)
def test_a_file_that_is_not_there_is_named(tmp_path, read, name):
    with pytest.raises(ValueError) as caught:
        read(tmp_path / name)
    assert str(caught.value) == f"{tmp_path / name}: no such file"
    with pytest.raises(ValueError) as caught:
        read(tmp_path)
    assert str(caught.value) == f"{tmp_path}: is a directory; expected a file"
