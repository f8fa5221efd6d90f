"""`python -m data_prep build`: what it writes."""

import gzip
import hashlib
import itertools
import json
import pickle

import numpy as np
import pandas as pd
import pytest
from tiny_builds import RULE, RULE_FLAGS, hashes, run
from tiny_inputs import (
    CONTIGS,
    FILES,
    GENE_HEADER,
    LINK_HEADER,
    gene_row,
    gene_rows,
    link_rows,
    write_fasta,
    write_tables,
    write_tsv,
)

from data_prep import plans, signals
from data_prep.builder import build
from data_prep.check import check
from epinformer_jax.data import elements, records, sequence, tables
from epinformer_jax.data.elements import ElementRule
from epinformer_jax.data.genome import Genome

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


# ---- what a build holds ----


def test_genes_hold_what_tables_and_genome_say(built, tmp_path):
    manifest, genes = records.read_dataset(built.directory / "genes")
    assert [gene.gene_id for gene in genes] == ["G1", "G2", "G4", "G3"]
    assert [gene.split for gene in genes] == ["chr1", "chr2", "chr10", "chrX"]
    codes = write_fasta(tmp_path / "again.fa")
    table = tables.read_genes(tmp_path / "genes.tsv").set_index("gene_id")
    links = tables.read_links(tmp_path / "links.tsv", table.reset_index()).set_index("gene_id")
    for gene in genes:
        row = table.loc[gene.gene_id]
        padded = np.concatenate(
            [np.zeros(500, np.uint8), codes[gene.chrom], np.zeros(500, np.uint8)]
        )
        np.testing.assert_array_equal(gene.promoter, padded[row["tss"] : row["tss"] + 1000])
        assert (gene.tss, gene.strand, gene.chrom) == (row["tss"], row["strand"], row["chrom"])
        assert gene.labels.tolist() == [row["rna"]]
        assert gene.gene_signals.tolist() == row[list(manifest.gene_signal_names)].tolist()
        pieces = np.split(gene.element_sequence, np.cumsum(gene.element_length))[:-1]
        for number, piece in enumerate(pieces):
            start, end = int(gene.element_start[number]), int(gene.element_end[number])
            first, last = elements.crop(start, end, 400)
            np.testing.assert_array_equal(piece, codes[gene.chrom][first:last])
            mine = links.loc[[gene.gene_id]]
            (link,) = mine[(mine["start"] == start) & (mine["end"] == end)].to_dict("records")
            assert gene.distance_bp[number] == (start + end) // 2 - gene.tss
            assert gene.link_signals[number].tolist() == [link["activity"], link["contact"]]


def test_elements_follow_the_rule_and_the_rest_is_listed(built):
    _, genes = records.read_dataset(built.directory / "genes")
    starts = {gene.gene_id: gene.element_start.tolist() for gene in genes}
    assert starts == {"G1": [2000, 4000], "G2": [100, 6000], "G3": [0], "G4": []}
    dropped = pd.read_csv(built.directory / "dropped.tsv", sep="\t")
    assert dropped.to_numpy().tolist() == [
        ["links", "G1 chr1:501-800", "within min distance"],
        ["links", "G1 chr1:8801-9000", "beyond max distance"],
    ]
    counts = built.genes.counts
    assert counts["links"] == counts["links_kept"] + len(dropped) == 7
    assert counts["elements"] == counts["links_kept"] == 5
    assert counts["genes_without_elements"] == 1
    assert counts["promoters_past_contig_end"] == 1


def test_windows_hold_their_sequence_with_n_past_the_end(built, tmp_path):
    _, windows = records.read_dataset(built.directory / "windows")
    codes = write_fasta(tmp_path / "again.fa")
    assert [window.name for window in windows] == ["chr1:6-15", "chr1:11-60", "chrX:3991-4010"]
    np.testing.assert_array_equal(windows[1].sequence, codes["chr1"][10:60])
    np.testing.assert_array_equal(windows[2].sequence[:11], codes["chrX"][3990:])
    assert windows[2].sequence[11:].tolist() == [0] * 9
    assert [window.labels.tolist() for window in windows] == [[0.5], [1.0], [-2.0]]
    assert built.windows.window_bp == 50


def test_the_manifest_tells_what_was_built_from_what(built, tmp_path):
    manifest = records.read_manifest(built.directory / "genes")
    assert manifest == built.genes
    assert manifest.element_rule == RULE.to_dict()
    assert manifest.genome["contigs"] == len(CONTIGS)
    digest = hashlib.sha256((tmp_path / "links.tsv").read_bytes()).hexdigest()
    assert manifest.inputs["links"] == {"file": "links.tsv", "sha256": digest}
    assert str(tmp_path) not in (built.directory / "genes" / "manifest.json").read_text()


def test_the_manifest_says_how_labels_were_made_if_the_table_came_with_that(tmp_path, inputs):
    rna = {"name": "z-log10", "offset": 0.1, "mean": 0.2, "sd": 1.1, "n": 5, "table": "x.tsv"}
    beside = tmp_path / "genes.json"
    beside.write_text(json.dumps({"labels": {"rna": rna, "not_built": {}}}))
    made = build(tmp_path / "out", **inputs, rule=RULE)
    expected = {"rna": {"name": "z_log10", "offset": 0.1, "mean": 0.2, "sd": 1.1}}
    assert made.genes.label_transforms == expected
    assert records.read_manifest(tmp_path / "out" / "genes").label_transforms == expected
    windows = tmp_path / "w.tsv"
    windows.write_text("chrom\tstart\tend\tlog2_activity\nchr1\t10\t60\t1.5\n")
    (tmp_path / "w.json").write_text(json.dumps({"labels": signals.WINDOW_LABELS}))
    made = build(tmp_path / "w", windows=windows, fasta=inputs["fasta"])
    assert made.windows.label_transforms == {"log2_activity": {"name": "log2", "offset": 0.1}}
    beside.write_text(json.dumps({"labels": {"rna": {"name": "sqrt"}}}))
    with pytest.raises(ValueError, match=r"genes\.json: does not say how labels were made"):
        build(tmp_path / "again", **inputs, rule=RULE)
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_two_runs_give_the_same_bytes(tmp_path, inputs, compression):
    options = {"rule": RULE, "compression": compression, "shard_bytes": 1000}
    for name in ("a", "b"):
        build(tmp_path / name, **inputs, **options)
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")


def test_the_order_of_the_tables_does_not_matter_for_the_records(tmp_path, inputs):
    first = build(tmp_path / "a", **inputs, rule=RULE)
    write_tsv(tmp_path / "genes.tsv", GENE_HEADER, gene_rows()[::-1])
    write_tsv(tmp_path / "links.tsv", LINK_HEADER, link_rows()[::-1])
    assert build(tmp_path / "b", **inputs, rule=RULE).genes.splits == first.genes.splits


def test_compressed_inputs_give_the_same_records(tmp_path, inputs):
    first = build(tmp_path / "a", **inputs, rule=RULE)
    packed = {}
    for name, path in inputs.items():
        packed[name] = f"{path}.gz"
        with open(path, "rb") as plain:
            (tmp_path / f"{FILES[name]}.gz").write_bytes(gzip.compress(plain.read()))
    assert build(tmp_path / "b", **packed, rule=RULE).genes.splits == first.genes.splits


def test_contigs_say_which_split_a_gene_is_in(tmp_path, inputs):
    contigs = write_tsv(
        tmp_path / "c.tsv", ["chrom", "split"], [["chr10", "chr2"], ["absent", "chr9"]]
    )
    result = build(tmp_path / "out", **inputs, contigs=contigs, rule=RULE)
    assert {split: result.genes.num_records(split) for split in result.genes.splits} == {
        "chr1": 1, "chr2": 2, "chrX": 1,
    }  # fmt: skip


def test_optional_signals_are_stored_when_the_tables_have_them(tmp_path, inputs):
    write_tsv(
        tmp_path / "links.tsv",
        [*LINK_HEADER, "abc_score", "dnase", "note"],
        [[*row, 0.5, number, "x"] for number, row in enumerate(link_rows())],
    )
    write_tsv(
        tmp_path / "genes.tsv",
        [*GENE_HEADER, "promoter_dnase"],
        [[*row, number] for number, row in enumerate(gene_rows())],
    )
    result = build(tmp_path / "out", **inputs, rule=RULE)
    assert result.genes.link_signal_names == ("activity", "contact", "dnase", "abc_score")
    assert result.genes.gene_signal_names[-2:] == ("promoter_activity", "promoter_dnase")
    _, genes = records.read_dataset(tmp_path / "out" / "genes", ["chr1"])
    assert genes[0].link_signals.tolist() == [[1.5, 0.25, 0, 0.5], [2.0, 0.125, 2, 0.5]]
    assert genes[0].gene_signals[-1] == 1


def test_genes_without_links_have_promoters_alone(tmp_path, inputs):
    del inputs["links"]
    result = build(tmp_path / "out", **inputs)
    _, genes = records.read_dataset(tmp_path / "out" / "genes")
    assert [gene.distance_bp.size for gene in genes] == [0] * 4
    assert genes[0].link_signals.shape == (0, 2)
    assert result.genes.counts["genes_without_elements"] == 4


def test_the_self_promoter_can_come_first(tmp_path, inputs):
    rule = ElementRule(**{**RULE.to_dict(), "self_promoter": "first"})
    build(tmp_path / "out", **inputs, rule=rule)
    _, genes = records.read_dataset(tmp_path / "out" / "genes", ["chr1"])
    assert genes[0].element_start.tolist() == [500, 2000, 4000]
    check(tmp_path / "out", fasta=inputs["fasta"])


def test_missing_labels_are_stored_when_allowed(tmp_path, inputs):
    write_tsv(tmp_path / "genes.tsv", GENE_HEADER, [gene_row("G1", "chr1", 600, rna="")])
    write_tsv(tmp_path / "links.tsv", LINK_HEADER, [])
    result = build(tmp_path / "out", **inputs, labels=["rna"], allow_missing_labels=True)
    assert result.genes.counts["missing_labels"] == 1
    assert np.isnan(records.read_dataset(tmp_path / "out" / "genes")[1][0].labels).all()


def test_windows_as_text_need_no_genome(tmp_path, capsys):
    rows = [["ACGTN", "chr3", 1.5], ["acg", "chr2", 2]]
    path = write_tsv(tmp_path / "w.tsv", ["sequence", "split", "y"], rows)
    code, out, _ = run("build", "--windows", path, "--out", tmp_path / "out", capsys=capsys)
    assert code == 0
    assert out.endswith(f"{tmp_path / 'out'}\n")
    _, windows = records.read_dataset(tmp_path / "out" / "windows")
    assert [sequence.decode(window.sequence) for window in windows] == ["ACG", "ACGTN"]
    assert (windows[0].chrom, windows[0].start, windows[0].end) == ("", -1, -1)


def test_one_split_can_be_made_alone_from_a_pickled_plan(tmp_path, inputs, built):
    genes = tables.read_genes(inputs["genes"])
    links = tables.read_links(inputs["links"], genes)
    with Genome(inputs["fasta"]) as genome:
        plan, _, _ = plans.plan_genes(genes, links, genome, {}, RULE, 1000)
        plan, genome_there = pickle.loads(pickle.dumps((plan, genome)))
        with genome_there:
            alone = list(plan.examples("chr2", genome_there))
            first = list(itertools.islice(plan.examples("chr1", genome_there), 1))
    assert alone == records.read_dataset(built.directory / "genes", ["chr2"])[1]
    assert first == records.read_dataset(built.directory / "genes", ["chr1"])[1]


def test_the_command_does_what_the_function_does(tmp_path, inputs, capsys):
    build(tmp_path / "a", **inputs, rule=ElementRule(100, 5000, 60, 400), promoter_bp=500)
    options = [f"--{name}={path}" for name, path in inputs.items()]
    options += [*RULE_FLAGS, "--promoter-bp=500", f"--out={tmp_path / 'b'}"]
    code, out, err = run("build", *options, capsys=capsys)
    assert (code, err) == (0, "")
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")
    assert "genes: 4 in 4 splits" in out and "labels: rna" in out
    assert "links within min distance: 1" in out
    assert out.splitlines()[-1] == str(tmp_path / "b")


# ---- real data ----


def test_real_tables_are_built_and_proved(shared_data, tmp_path):
    folder = shared_data / "k562_slices"
    fasta = folder / "genome.fa.gz"
    result = build(
        tmp_path / "k562",
        genes=folder / "genes.tsv",
        links=folder / "links.tsv",
        fasta=fasta,
        windows=folder / "windows_256bp.tsv",
        contigs=folder / "contigs.tsv",
        window_labels=["log2_activity"],
    )
    counts = result.genes.counts
    assert (counts["genes"], counts["links"], counts["elements"]) == (92, 1800, 1544)
    assert (counts["links_within_min_distance"], counts["links_beyond_max_elements"]) == (81, 175)
    assert len(result.dropped) == 256
    assert result.windows.counts["windows"] == 1796
    assert set(result.genes.splits) <= {f"chr{name}" for name in [*range(1, 23), "X"]}
    golden = pd.read_csv(
        shared_data / "golden" / "k562_slices_PE_Activity_HiC_RNA.tsv",
        sep="\t",
        index_col="gene_id",
    )
    _, genes = records.read_dataset(tmp_path / "k562" / "genes")
    assert {gene.gene_id: gene.distance_bp.size for gene in genes} == golden["n_elements"].to_dict()
    splits = check(tmp_path / "k562", fasta=fasta)
    assert int(splits["genes"]["genes"].sum()) == 92
    assert (splits["genes"]["bytes_per_gene"] < 40_000).all()
