"""Contacts from text files: every layout, a file for each chromosome, files that are cut up."""

import gzip

import numpy as np
import pytest
from prep_commands import run_command

from data_prep import contact
from data_prep.contact import ContactSource, open_contacts
from data_prep.contact_text import TextContacts, find_chromosome_file

FAR = 10**9
LAYOUTS = {
    "three": "0\t5000\t2.5\n5000\t5000\t7\n0\t5000\t1\n",
    "four": "chr1\t0\t5000\t2.5\nchr1\t5000\t5000\t7\nchr1\t5000\t0\t1\nchr2\t0\t0\t9\n",
    "bedpe7": "chr1\t0\t5000\tchr1\t5000\t10000\t2.5\nchr1\t0\t5000\tchr2\t0\t5000\t8\n",
    "bedpe8": "chr1\t0\t5000\tchr1\t5000\t10000\t.\t2.5\n",
    "header": "x1\tx2\tcontact\n0\t5000\t2.5\n",
    "blanks": "0 5000 2.5\n",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_text_layout_gives_the_same_contact(tmp_path, layout):
    path = tmp_path / "contacts.txt.gz"
    path.write_bytes(gzip.compress(LAYOUTS[layout].encode()))
    found = TextContacts(path, resolution_bp=5000).read("chr1", chrom="chr1", max_distance_bp=FAR)
    # Of doubles the largest; the diagonal is its neighbour.
    assert (
        found.lookup(np.array([7000, 100, 9999]), np.array([10, 200, 5000])).tolist() == [2.5] * 3
    )
    assert found.mean_row_sum == 1.0


def test_raw_text_is_divided_by_its_mean_row_sum_on_demand(tmp_path):
    path = tmp_path / "chr1.txt"
    path.write_text("0 5000 2\n5000 10000 6\n")
    file = TextContacts(tmp_path, resolution_bp=5000, divide_by_row_sum=True)
    found = file.read("chr1", chrom="chr1", max_distance_bp=FAR)
    assert found.mean_row_sum == pytest.approx((2 + 8 + 6) / 3)
    assert found.lookup(np.array([0]), np.array([5000]))[0] == pytest.approx(2 / (16 / 3))


@pytest.mark.parametrize(
    "name",
    ["chr7.tsv.gz", "7.bed.gz", "chr7.avg.gz", "chr7/chr7.bed.gz", "7/7.KRnorm.gz", "chr7.gz"],
)
def test_files_of_a_chromosome_are_found_by_their_usual_names(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(gzip.compress(b"0\t0\t1\n"))
    assert find_chromosome_file(tmp_path, "chr7") == tmp_path / name
    assert find_chromosome_file(tmp_path, "chr8") is None


def test_a_bedpe_file_is_cut_into_chromosomes_that_read_back(tmp_path, capsys):
    source = tmp_path / "average.bedpe.gz"
    lines = LAYOUTS["bedpe8"] + "chr2\t0\t5000\tchr2\t10000\t15000\t.\t0.75\n"
    source.write_bytes(gzip.compress(lines.encode()))
    assert run_command(contact, "--contact", source, "--out", tmp_path / "out") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "chr1.tsv.gz",
        "chr2.tsv.gz",
        "manifest.json",
    ]
    file = TextContacts(tmp_path / "out", resolution_bp=5000)
    found = file.read("chr2", chrom="chr2", max_distance_bp=FAR)
    assert found.lookup(np.array([1]), np.array([12_000])).tolist() == [0.75]
    with pytest.raises(ValueError, match="written at 5000 bp, not 10000"):
        TextContacts(tmp_path / "out", resolution_bp=10_000)
    assert "chr2: 1 contacts" in capsys.readouterr().out


def test_a_large_bedpe_file_must_be_cut_up_first(tmp_path, monkeypatch):
    path = tmp_path / "average.bedpe"
    path.write_text(LAYOUTS["bedpe8"])
    monkeypatch.setattr("data_prep.contact_text._MAX_FILE_BYTES", 10)
    with pytest.raises(ValueError, match="cut it up first: python -m data_prep contact"):
        open_contacts(str(path), resolution_bp=5000)
    assert run_command(contact, "--contact", path, "--out", tmp_path / "out") == 0


@pytest.mark.parametrize(("divides", "scale"), [(True, "divided"), (False, "on the scale given")])
def test_text_contacts_are_said_to_be_on_one_scale(tmp_path, divides, scale):
    path = tmp_path / "chr1.tsv"
    path.write_text("0\t0\t4\n0\t5000\t2\n")
    source = ContactSource(
        file=open_contacts(str(path), resolution_bp=5000, divide_by_row_sum=divides)
    )
    source.load("chr1", max_distance_bp=10**6)
    first, second = source.describe()
    assert scale in first
    assert second == "contact balanced as the text file has it: chr1"
