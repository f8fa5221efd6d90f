"""`python -m data_prep build` on bad input: one clear line, exit code 2, nothing left behind."""

import re

import pytest
from tiny_builds import RULE, RULE_FLAGS, hashes, run
from tiny_inputs import (
    GENE_HEADER,
    LINK_HEADER,
    gene_rows,
    link_rows,
    write_fasta,
    write_tables,
    write_tsv,
)

from data_prep import __main__ as command
from data_prep.builder import build
from data_prep.check import check
from epinformer_jax.data import records

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def inputs(tmp_path):
    return write_tables(tmp_path)


def spoil_genes(**values):
    def spoil(folder):
        row = gene_rows()[1]
        for name, value in values.items():
            row[GENE_HEADER.index(name)] = value
        write_tsv(folder / "genes.tsv", GENE_HEADER, [gene_rows()[0], row, *gene_rows()[2:]])

    return spoil


def spoil_links(*row):
    return lambda folder: write_tsv(folder / "links.tsv", LINK_HEADER, [*link_rows(), row])


def without_column(folder):
    write_tsv(folder / "genes.tsv", GENE_HEADER[1:], [row[1:] for row in gene_rows()])


def without_contig(folder):
    write_fasta(folder / "tiny.fa", {"chr1": 9000, "chr_2": 7000, "chr10": 5000, "chrX": 4001})


def test_contigs_follow_the_names_of_the_fasta_and_that_is_said(tmp_path, inputs, capsys):
    write_fasta(tmp_path / "ensembl.fa", {"1": 9000, "2": 7000, "10": 5000, "X": 4001})
    splits = write_tsv(tmp_path / "splits.tsv", ["chrom", "split"], [["chr10", "small"]])
    build(
        tmp_path / "out",
        **inputs | {"fasta": tmp_path / "ensembl.fa"},
        rule=RULE,
        promoter_bp=1000,
        contigs=splits,
    )
    said = capsys.readouterr().out
    assert "genes.tsv: contigs by the genome's names: chr2 -> 2" in said
    assert "links.tsv: contigs by the genome's names: chr1 -> 1" in said
    manifest, genes = records.read_dataset(tmp_path / "out" / "genes")
    assert set(manifest.splits) == {"1", "2", "small", "X"}
    assert {gene.gene_id: gene.chrom for gene in genes}["G2"] == "2"
    check(tmp_path / "out", fasta=tmp_path / "ensembl.fa")


BAD_INPUTS = {
    "missing file": (lambda folder: (folder / "links.tsv").unlink(), r"links\.tsv"),
    "missing FASTA": (lambda folder: (folder / "tiny.fa").unlink(), r"tiny\.fa: no such FASTA"),
    "FASTA without the contig": (
        without_contig,
        r"genes\.tsv:2: .*tiny\.fa: no contig 'chr2'; did you mean 'chr_2'\?",
    ),
    "table without a column": (without_column, r"genes\.tsv: column 'gene_id' is missing"),
    "text in a number": (spoil_genes(tss="x"), r"genes\.tsv:3: tss 'x' is not a number"),
    "end before start": (
        spoil_links("G1", "chr1", 900, 800, 1, 1),
        r"links\.tsv:9: end 800 is not after start 900",
    ),
    "duplicate gene": (spoil_genes(gene_id="G2"), r"genes\.tsv:3: gene G2 stood before"),
    "duplicate link": (spoil_links(*link_rows()[0]), r"links\.tsv:9: gene and element G1 chr1"),
    "unknown gene": (spoil_links("G9", "chr1", 1, 2, 1, 1), r"links\.tsv:9: gene 'G9' is not in"),
    "NaN label": (spoil_genes(rna="nan"), r"genes\.tsv:3: label 'rna' is missing"),
    "empty table": (
        lambda folder: write_tsv(folder / "genes.tsv", GENE_HEADER, []),
        r"genes\.tsv: has a header but no rows",
    ),
    "empty file": (lambda folder: (folder / "genes.tsv").write_text(""), r"genes\.tsv: is empty"),
    "TSS past the end": (
        spoil_genes(tss=9000),
        r"genes\.tsv:3: tss 9000 is beyond the end of chr1 \(9000 bp",
    ),
    "element past the end": (
        spoil_links("G1", "chr1", 9000, 9100, 1, 1),
        r"links\.tsv:9: start 9000 is beyond the end of chr1",
    ),
    "not FASTA": (
        lambda folder: (folder / "tiny.fa").write_text("chr1\t9000\n"),
        r"tiny\.fa: cannot be indexed as FASTA",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_a_bad_input_gives_one_line_and_leaves_nothing(tmp_path, inputs, capsys, case):
    spoil, message = BAD_INPUTS[case]
    spoil(tmp_path)
    options = [f"--{name}={path}" for name, path in inputs.items()]
    before = sorted(path.name for path in tmp_path.iterdir())
    code, out, err = run("build", *options, *RULE_FLAGS, "--out", tmp_path / "out", capsys=capsys)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1
    assert "Traceback" not in err
    assert re.search(message, err), err
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "nothing to build"),
        (["--links=l.tsv", "--windows=w.tsv"], "--links belongs to --genes"),
        (["--genes=g.tsv"], "--genes needs --fasta"),
        (["--windows={w}"], "need --fasta"),
        (["--windows={w}", "--max-elements=0"], "max_elements=0"),
        (["--windows={w}", "--promoter-bp=3"], "promoter_bp=3; expected an even"),
        (["--windows={w}", "--shard-size=0"], "shard_bytes=0"),
        (["--windows={w}", "--window-labels=z"], "no label column 'z'"),
        (["--windows={bad}"], r"bad.tsv:3: sequence: character '-' at position 1"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, capsys, options, message):
    write_fasta(tmp_path / "tiny.fa")
    windows = write_tsv(tmp_path / "w.tsv", ["chrom", "start", "end", "y"], [["chr1", 1, 9, 1]])
    bad = write_tsv(tmp_path / "bad.tsv", ["sequence", "split"], [["ACG", "a"], ["A-G", "a"]])
    if "--shard-size=0" in options:
        options = [*options, f"--fasta={tmp_path / 'tiny.fa'}"]
    options = [option.format(w=windows, bad=bad) for option in options]
    code, _, err = run("build", "--out", tmp_path / "out", *options, capsys=capsys)
    assert code == 2 and message in err and err.count("\n") == 1, err
    assert not (tmp_path / "out").exists()


def test_an_existing_output_is_refused_unless_overwritten(tmp_path, inputs, capsys):
    options = [f"--{name}={path}" for name, path in inputs.items()]
    options += [*RULE_FLAGS, f"--out={tmp_path / 'out'}"]
    assert run("build", *options, capsys=capsys)[0] == 0
    before = hashes(tmp_path / "out")
    code, _, err = run("build", *options, capsys=capsys)
    assert code == 2 and "already exists" in err and "--overwrite" in err
    assert run("build", *options, "--overwrite", "--compression=zlib", capsys=capsys)[0] == 0
    assert hashes(tmp_path / "out") != before


@pytest.mark.parametrize("arguments", [["biuld"], []])
def test_an_unknown_command_is_refused(capsys, arguments):
    code, out, err = run(*arguments, capsys=capsys)
    assert code == 2 and "build" in out + err


@pytest.mark.parametrize("name", ["build", "check"])
def test_help_tells_options_and_defaults(capsys, name):
    with pytest.raises(SystemExit) as stop:
        command.main([name, "--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0 and f"python -m data_prep {name}" in text
    if name == "build":
        for phrase in ("default: 100000", "default: 60", "base pairs", "megabytes"):
            assert phrase in " ".join(text.split())
