"""`python -m data_prep check`: a whole dataset passes; damage or another genome does not."""

import json
import shutil

import pytest
from tiny_builds import RULE, run
from tiny_inputs import write_tables, write_tsv

from data_prep.builder import build
from data_prep.check import check

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def inputs(tmp_path):
    return write_tables(tmp_path)


@pytest.fixture
def built(tmp_path, inputs):
    rows = [["chr1", 10, 60, 1.0], ["chrX", 3990, 4010, -2.0], ["chr1", 5, 15, 0.5]]
    write_tsv(tmp_path / "windows.tsv", ["chrom", "start", "end", "y"], rows)
    return build(
        tmp_path / "out", **inputs, windows=tmp_path / "windows.tsv", rule=RULE, promoter_bp=1000
    )


def test_check_counts_what_is_there(built, inputs, capsys):
    code, out, err = run("check", built.directory, f"--fasta={inputs['fasta']}", capsys=capsys)
    assert (code, err) == (0, "")
    tables_of_splits = check(built.directory)
    genes = tables_of_splits["genes"]
    assert genes["split"].tolist() == ["chr1", "chr2", "chr10", "chrX"]
    assert genes["elements"].tolist() == [2, 2, 0, 1]
    assert genes["bases"].tolist() == [1701, 1401, 1000, 1333]
    assert int(genes["bytes"].sum()) == sum(
        path.stat().st_size for path in (built.directory / "genes").glob("*.tfrecord*")
    )
    assert tables_of_splits["windows"]["windows"].tolist() == [2, 1]
    for word in ("bytes_per_gene", "chrX", "total", "all records intact"):
        assert word in out
    assert check(built.directory / "windows").keys() == {"windows"}


def test_check_finds_every_file_that_is_damaged_or_missing(built, tmp_path, capsys):
    for path in sorted(built.directory.rglob("*")):
        if path.is_dir() or path.name in ("dropped.tsv", "features.json"):
            continue
        for damage in ("flip", "cut", "remove"):
            copy = tmp_path / "copy"
            shutil.copytree(built.directory, copy)
            victim = copy / path.relative_to(built.directory)
            content = bytearray(victim.read_bytes())
            if damage == "flip":
                middle = len(content) // 2
                content[middle] ^= 0x02
                victim.write_bytes(content)
            elif damage == "cut":
                victim.write_bytes(content[: len(content) // 2])
            else:
                victim.unlink()
            code, _, err = run("check", copy, capsys=capsys)
            assert code == 2 and err.count("\n") == 1, (path, damage, err)
            if "tfrecord" in path.name:
                assert path.name in err
            shutil.rmtree(copy)


def test_check_names_the_record_that_differs_from_the_genome(built, inputs, tmp_path, capsys):
    text = (tmp_path / "tiny.fa").read_text()
    header = ">chr2 made up\n"
    at = text.index(header) + len(header) + 6050 + 6050 // 61  # inside G2's element 6000-6100
    other = "A" if text[at].upper() != "A" else "C"
    (tmp_path / "other.fa").write_text(text[:at] + other + text[at + 1 :])
    code, _, err = run("check", built.directory, "--fasta", tmp_path / "other.fa", capsys=capsys)
    assert code == 2
    assert "split chr2, record 0 (G2): element 1 at chr2:6001-6100 differs" in err
    assert "in 1 bases, first at chr2:6051" in err


def test_check_finds_a_stranger_and_a_swapped_dataset(built, tmp_path, inputs, capsys):
    (built.directory / "genes" / "genes-chr5.tfrecord-00000-of-00001").write_bytes(b"")
    assert "not listed in manifest.json" in run("check", built.directory, capsys=capsys)[2]
    other = build(tmp_path / "other", **inputs)
    shutil.rmtree(built.directory / "genes")
    shutil.copytree(other.directory / "genes", built.directory / "genes")
    assert "not those in this directory" in run("check", built.directory, capsys=capsys)[2]


def test_check_finds_counts_that_do_not_hold(built, capsys):
    path = built.directory / "genes" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["counts"]["elements"] += 1
    path.write_text(json.dumps(manifest))
    assert (
        "counts 6 elements, but the records hold 5" in run("check", path.parent, capsys=capsys)[2]
    )


def test_check_of_something_else_says_so(tmp_path, capsys):
    code, _, err = run("check", tmp_path, capsys=capsys)
    assert code == 2 and "no manifest.json" in err
