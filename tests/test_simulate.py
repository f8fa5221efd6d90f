"""The simulated genome: same bytes for a seed, readable files, tables and answers that agree."""

import argparse
import json
import time

import cooler
import numpy as np
import pandas as pd
import pyBigWig
import pysam
import pytest

from data_prep import simulate as command
from data_prep.simulate import simulate
from data_prep.simulation import motifs
from data_prep.simulation.contacts import BIN_BP
from data_prep.simulation.settings import CELLS, CHROMOSOMES
from epinformer_jax.data import elements, folds, sequence, tables
from epinformer_jax.data.genome import Genome

TINY = {"genes_per_chromosome": 3}
# Table values are written with nine significant digits, truth with ten.
RELATIVE = 1e-7


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A simulated genome of 36 genes."""
    return simulate(tmp_path_factory.mktemp("simulated") / "tiny", seed=0, **TINY)


@pytest.fixture(scope="module", params=CELLS)
def cell(request):
    """Each cell type in turn."""
    return request.param


def table(path, **options):
    """A tab-separated table with a header."""
    return pd.read_csv(path, sep="\t", **options)


def bed(path, *names):
    """A tab-separated table without a header."""
    return pd.read_csv(path, sep="\t", header=None, names=names)


def count_with_pysam(path, intervals):
    """Reads overlapping each (chrom, start, end), nothing filtered, and all mapped reads."""
    with pysam.AlignmentFile(path) as bam:
        return np.array([bam.count(*interval) for interval in intervals]), bam.mapped


def activity_from_bams(directory, cell, intervals):
    """sqrt(DNase RPM x H3K27ac RPM) recounted read by read."""
    rpm = []
    for assay in ("dnase", "h3k27ac"):
        count, mapped = count_with_pysam(directory / cell / f"{assay}.bam", intervals)
        rpm.append(1e6 * count / mapped)
    return np.sqrt(rpm[0] * rpm[1])


def rows(frame, *columns):
    """Tuples of the given columns with plain Python values."""
    return list(zip(*(frame[column].tolist() for column in columns), strict=True))


# Determinism and the output directory.


def test_same_seed_gives_same_bytes_and_another_seed_other_bytes(tiny, tmp_path):
    time.sleep(1.1)  # time stamps of one second would show
    again = simulate(tmp_path / "again", seed=0, **TINY)
    other = simulate(tmp_path / "other", seed=1, **TINY)
    names = sorted(path.relative_to(tiny).as_posix() for path in tiny.rglob("*") if path.is_file())
    assert names == sorted(p.relative_to(again).as_posix() for p in again.rglob("*") if p.is_file())
    different = [
        name for name in names if (tiny / name).read_bytes() != (again / name).read_bytes()
    ]
    assert different == []
    for name in ("genome.fa", "genes.bed", "alpha/dnase.bam", "beta/contacts.mcool"):
        assert (tiny / name).read_bytes() != (other / name).read_bytes()


def test_manifest_lists_every_file(tiny):
    manifest = json.loads((tiny / "manifest.json").read_text())
    names = {path.relative_to(tiny).as_posix() for path in tiny.rglob("*") if path.is_file()}
    assert set(manifest["files"]) == names - {"manifest.json"}
    expected = {
        "genome.fa",
        "genome.fa.fai",
        "chrom.sizes",
        "genes.bed",
        "blacklist.bed",
        "expression.tsv",
        "mrna_features.tsv",
        "folds.tsv",
        "samples.tsv",
        "truth/motifs.jaspar",
    }
    for cell in CELLS:
        expected |= {
            f"{cell}/{name}"
            for name in (
                "dnase.bam",
                "dnase.bam.bai",
                "h3k27ac.bam",
                "h3k27ac.bam.bai",
                "dnase.bw",
                "h3k27ac.bw",
                "peaks.narrowPeak",
                "promoter_peaks.narrowPeak",
                "contacts.mcool",
            )
        }
        expected |= {f"prepared/{cell}/{n}.tsv" for n in ("genes", "elements", "links", "windows")}
        expected |= {f"prepared/{cell}/{n}.json" for n in ("genes", "windows")}
        expected |= {f"truth/{cell}/{n}.tsv" for n in ("truth", "motifs", "promoters")}
        expected.add(f"truth/{cell}/truth.json")
    assert names == expected | {"manifest.json"}


def test_an_existing_directory_is_kept_unless_asked(tiny, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("keep")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=str(mine)):
            simulate(mine, seed=0, overwrite=overwrite, **TINY)
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "notes.txt"]


def test_a_failed_run_leaves_nothing(tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(command.contacts, "write_contacts", fail)
    with pytest.raises(OSError, match="disk full"):
        simulate(tmp_path / "out", seed=0, **TINY)
    assert list(tmp_path.iterdir()) == []


def test_the_command_makes_what_its_options_say(tmp_path, capsys):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    arguments = ["--out", str(tmp_path / "out"), "--genes-per-chromosome", "2", "--seed", "5"]
    assert command.run(parser.parse_args(arguments)) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(str(tmp_path / "out"))
    settings = json.loads((tmp_path / "out" / "manifest.json").read_text())["settings"]
    assert (settings["genes_per_chromosome"], settings["seed"]) == (2, 5)
    assert len(table(tmp_path / "out" / "expression.tsv")) == 24


@pytest.mark.parametrize(
    "sizes", [{"genes_per_chromosome": 1}, {"gene_spacing_bp": 100}, {"seed": -1}]
)
def test_sizes_out_of_range_are_named(tmp_path, sizes):
    with pytest.raises(ValueError, match=next(iter(sizes))):
        simulate(tmp_path / "out", **sizes)


# Formats.


def test_genome_is_readable_and_agrees_with_sizes(tiny):
    sizes = dict(rows(bed(tiny / "chrom.sizes", "chrom", "length"), "chrom", "length"))
    assert tuple(sizes) == CHROMOSOMES
    with Genome(tiny / "genome.fa") as genome, pysam.FastaFile(str(tiny / "genome.fa")) as fasta:
        assert dict(genome.contigs) == sizes
        assert dict(zip(fasta.references, fasta.lengths, strict=True)) == sizes
        text = fasta.fetch("chr3")
        assert set(text) == set("ACGTNacgt")
        assert sequence.decode(genome.fetch("chr3", 30_000, 30_200)) == text[30_000:30_200].upper()


def test_bams_have_sorted_reads_duplicates_and_unmapped_reads(tiny, cell):
    with pysam.AlignmentFile(str(tiny / cell / "dnase.bam")) as bam:
        assert bam.check_index()
        reads = list(bam.fetch(until_eof=True))
    mapped = [read for read in reads if not read.is_unmapped]
    places = [(read.reference_id, read.reference_start) for read in mapped]
    assert places == sorted(places)
    assert {read.query_length or read.infer_query_length() for read in mapped} == {36}
    assert 0 < sum(read.is_duplicate for read in mapped) < 0.1 * len(mapped)
    assert 0 < sum(read.mapping_quality == 0 for read in mapped) < 0.1 * len(mapped)
    assert len(mapped) < len(reads)


def test_bigwig_holds_the_coverage_of_the_bam(tiny, cell):
    expected = np.zeros(30_000, int)
    with pysam.AlignmentFile(str(tiny / cell / "h3k27ac.bam")) as bam:
        for read in bam.fetch("chr2", 0, len(expected)):
            expected[read.reference_start : read.reference_end] += 1
    with pyBigWig.open(str(tiny / cell / "h3k27ac.bw")) as bigwig:
        assert bigwig.chroms() == dict(
            rows(bed(tiny / "chrom.sizes", "chrom", "length"), "chrom", "length")
        )
        covered = bigwig.values("chr2", 0, len(expected), numpy=True)
    np.testing.assert_array_equal(np.nan_to_num(covered), expected)
    assert expected.max() > 1


def test_gene_annotation_states_the_tss_of_the_prepared_genes(tiny, cell):
    names = ("chrom", "start", "end", "symbol", "score", "strand", "gene_id", "gene_type")
    annotation = bed(tiny / "genes.bed", *names)
    genes = tables.read_genes(tiny / "prepared" / cell / "genes.tsv")
    tss = np.where(annotation.strand == "+", annotation.start, annotation.end - 1)
    stated = dict(zip(annotation.gene_id, zip(annotation.chrom, tss, strict=True), strict=True))
    assert stated == {
        gene: (chrom, tss) for gene, chrom, tss in rows(genes, "gene_id", "chrom", "tss")
    }
    assert set(annotation.strand) == {"+", "-"}
    assert (genes.tss < 1_000).any()  # one promoter window begins before its chromosome


def test_samples_point_at_files_and_folds_test_every_chromosome_once(tiny):
    samples = table(tiny / "samples.tsv")
    assert samples.cell_type.tolist() == list(CELLS)
    for column in ("accessibility", "h3k27ac", "peaks", "contact", "expression"):
        assert all((tiny / name).is_file() for name in samples[column])
    assert set(samples.expression_column) <= set(table(tiny / "expression.tsv").columns)
    read = folds.read_folds(tiny / "folds.tsv")
    tested = [chrom for fold in read.values() for chrom in fold.test]
    assert sorted(tested) == sorted(CHROMOSOMES)
    assert read["fold_1"].test == tuple(CHROMOSOMES[:6])
    for fold in read.values():
        assert sorted((*fold.train, *fold.valid, *fold.test)) == sorted(CHROMOSOMES)


# Prepared tables follow from the files by the published rules.


def test_elements_are_the_merged_summits_outside_the_blacklist(tiny, cell):
    peaks = bed(tiny / cell / "peaks.narrowPeak", "chrom", "start", *"efghijk", "peak")
    blacklist = rows(
        bed(tiny / "blacklist.bed", "chrom", "start", "end", "why"), "chrom", "start", "end"
    )
    spans = sorted(
        (CHROMOSOMES.index(chrom), start + peak - 100, start + peak + 100)
        for chrom, start, peak in rows(peaks, "chrom", "start", "peak")
    )
    merged = []
    for chrom, start, end in spans:
        if merged and merged[-1][0] == chrom and start < merged[-1][2]:
            merged[-1] = (chrom, merged[-1][1], max(end, merged[-1][2]))
        else:
            merged.append((chrom, start, end))
    kept = [
        (CHROMOSOMES[chrom], start, end)
        for chrom, start, end in merged
        if not any(
            name == CHROMOSOMES[chrom] and low < end and start < high
            for name, low, high in blacklist
        )
    ]
    assert 0 < len(merged) - len(kept) == len(blacklist)
    stated = table(tiny / "prepared" / cell / "elements.tsv")
    assert kept == rows(stated, "chrom", "start", "end")


def test_element_counts_and_activity_are_those_of_the_bams(tiny, cell):
    stated = table(tiny / "prepared" / cell / "elements.tsv")
    intervals = rows(stated, "chrom", "start", "end")
    for assay in ("dnase", "h3k27ac"):
        count, mapped = count_with_pysam(tiny / cell / f"{assay}.bam", intervals)
        np.testing.assert_array_equal(stated[f"{assay}_count"], count)
        np.testing.assert_allclose(stated[assay], 1e6 * count / mapped, rtol=RELATIVE)
    recounted = activity_from_bams(tiny, cell, intervals)
    np.testing.assert_allclose(stated["activity"], recounted, rtol=RELATIVE)


def test_promoter_activity_is_counted_within_500_bp(tiny, cell):
    genes = tables.read_genes(tiny / "prepared" / cell / "genes.tsv")
    intervals = [(c, max(0, tss - 500), tss + 500) for c, tss in rows(genes, "chrom", "tss")]
    recounted = activity_from_bams(tiny, cell, intervals)
    np.testing.assert_allclose(genes["promoter_activity"], recounted, rtol=RELATIVE)


def test_window_labels_are_counted_in_that_very_window(tiny, cell):
    windows = tables.read_windows(tiny / "prepared" / cell / "windows.tsv")
    assert set(windows.end - windows.start) == {256}
    recounted = activity_from_bams(tiny, cell, rows(windows, "chrom", "start", "end"))
    stated = windows["log2_activity"]
    np.testing.assert_allclose(stated, np.log2(0.1 + recounted), rtol=1e-7, atol=1e-8)
    kinds = windows.name.str.split("_").str[0].value_counts()
    assert set(kinds.index) == {"element", "promoter", "negative"}
    assert kinds["promoter"] == 3 * 36
    with Genome(tiny / "genome.fa") as genome:
        known = [
            (genome.fetch(*window) > 0).all() for window in rows(windows, "chrom", "start", "end")
        ]
    assert all(known)


def test_links_hold_every_element_within_the_limit_at_its_distance(tiny, cell):
    prepared = tiny / "prepared" / cell
    genes = tables.read_genes(prepared / "genes.tsv")
    links = tables.read_links(prepared / "links.tsv", genes)  # checks the distances
    stated = table(prepared / "elements.tsv")
    expected = {
        (gene, start): (start + end) // 2 - tss
        for gene, chrom, tss in rows(genes, "gene_id", "chrom", "tss")
        for name, start, end in rows(stated, "chrom", "start", "end")
        if name == chrom and abs((start + end) // 2 - tss) <= 100_000
    }
    found = {(gene, start): d for gene, start, d in rows(links, "gene_id", "start", "distance")}
    assert found == expected
    activity = dict(zip(rows(stated, "chrom", "start"), stated["activity"], strict=True))
    assert [activity[place] for place in rows(links, "chrom", "start")] == links[
        "activity"
    ].tolist()
    sums = links.groupby("gene_id")["abc_score"].sum()
    np.testing.assert_allclose(sums, 1.0, rtol=1e-6)


def test_link_contacts_are_those_of_the_dense_normalised_matrix(tiny, cell):
    genes = tables.read_genes(tiny / "prepared" / cell / "genes.tsv")
    links = tables.read_links(tiny / "prepared" / cell / "links.tsv", genes)
    source = cooler.Cooler(f"{tiny / cell / 'contacts.mcool'}::resolutions/{BIN_BP}")
    tss = dict(zip(genes.gene_id, genes.tss, strict=True))
    for chrom, here in links.groupby("chrom"):
        matrix = np.nan_to_num(source.matrix(balance=True).fetch(chrom))
        sums = matrix.sum(axis=1)  # as read, before the diagonal is repaired
        last = len(matrix) - 1
        for index in range(len(matrix)):
            beside = [
                matrix[index, other] for other in (index - 1, index + 1) if 0 <= other <= last
            ]
            has_weight = matrix[index].any()
            matrix[index, index] = max(beside) if has_weight else 0.0
        matrix /= sums[sums > 0].mean()
        middle = (here.start + here.end) // 2
        expected = matrix[middle // BIN_BP, here.gene_id.map(tss) // BIN_BP]
        np.testing.assert_allclose(here["contact"], expected, rtol=1e-6)
        assert (expected > 0).all()


def test_labels_are_standardised_over_all_genes_and_follow_from_rpkm(tiny, cell):
    genes = tables.read_genes(tiny / "prepared" / cell / "genes.tsv")
    rpkm = table(tiny / "expression.tsv").set_index("gene_id").loc[genes.gene_id, cell]
    value = np.log10(rpkm.to_numpy() + 0.1)
    np.testing.assert_allclose(genes["rna"], (value - value.mean()) / value.std(), atol=1e-8)
    assert genes["rna"].mean() == pytest.approx(0, abs=1e-8)
    assert genes["rna"].std(ddof=0) == pytest.approx(1, abs=1e-8)
    assert (rpkm == 0).mean() == pytest.approx(0.17, abs=1 / 36)


def test_mrna_features_follow_from_whole_lengths(tiny):
    features = table(tiny / "mrna_features.tsv").set_index("gene_id")
    assert tuple(features.columns) == tables.MRNA_FEATURES
    coding = 10 ** (features["CDSLEN_log10zscore"] * 0.320230 + 3.122174) - 0.1
    exons = features["ORFEXONDENSITY"] * coding / 1000
    np.testing.assert_allclose(coding, coding.round(), atol=0.02)
    np.testing.assert_allclose(exons, exons.round(), atol=1e-3)
    assert (exons.round() >= 1).all()
    genes = tables.read_genes(tiny / "prepared" / "alpha" / "genes.tsv").set_index("gene_id")
    pd.testing.assert_frame_equal(genes[list(tables.MRNA_FEATURES)], features.loc[genes.index])


def test_published_rule_keeps_links_of_prepared_genes(tiny, cell):
    genes = tables.read_genes(tiny / "prepared" / cell / "genes.tsv")
    links = tables.read_links(tiny / "prepared" / cell / "links.tsv", genes)
    kept = sum(
        len(elements.select(links[links.gene_id == gene], elements.ElementRule())[0])
        for gene in genes.gene_id
    )
    assert kept == len(links)
    assert set(genes.gene_id) - set(links.gene_id)  # the desert's genes


# Truth.


def test_truth_effects_add_up_to_the_noise_free_expression(tiny, cell):
    truth = table(tiny / "truth" / cell / "truth.tsv")
    promoters = table(tiny / "truth" / cell / "promoters.tsv").set_index("gene_id")
    constants = json.loads((tiny / "truth" / cell / "truth.json").read_text())["constants"]
    total = truth.groupby("gene_id")["effect"].sum().reindex(promoters.index, fill_value=0.0)
    limit = constants["element_limit"]
    np.testing.assert_allclose(
        promoters["term_elements"], limit * np.tanh(total / limit), atol=1e-8
    )
    terms = promoters[[name for name in promoters if name.startswith("term_")]]
    np.testing.assert_allclose(terms.sum(axis=1), promoters["planted"], atol=1e-8)
    without = limit * np.tanh((truth.gene_id.map(total) - truth.effect) / limit)
    change = without - truth.gene_id.map(promoters["term_elements"])
    np.testing.assert_allclose(truth["removal_change"], change, atol=1e-8)
    assert (truth["is_driver"] == (change.abs() >= constants["driver_min_change"])).all()
    latent = promoters["planted"] + promoters["noise"]
    expected = np.where(latent <= -1, 0.0, 10**latent)
    np.testing.assert_allclose(promoters["rpkm"], expected, rtol=1e-5)


def test_truth_lists_the_prepared_links_with_effects_by_rule(tiny, cell):
    truth = table(tiny / "truth" / cell / "truth.tsv")
    links = table(tiny / "prepared" / cell / "links.tsv")
    key = ["gene_id", "chrom", "start", "end", "distance"]
    assert set(rows(truth, *key)) == set(rows(links, *key))
    promoters = table(tiny / "truth" / cell / "promoters.tsv").set_index("gene_id")
    constants = json.loads((tiny / "truth" / cell / "truth.json").read_text())["constants"]
    classes = ("housekeeping", "developmental", "silencer", "insulated")
    for gene, distance, kind, activity, effect in rows(
        truth, "gene_id", "distance", "class", "true_activity", "effect"
    ):
        row = classes.index(promoters.loc[gene, "class"])
        compatible = constants["compatibility"][row][classes.index(kind)]
        contact = (max(abs(distance), 5_000) / 5_000) ** -1.024238616787792
        expected = constants["element_weight"] * compatible * activity * contact
        assert effect == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert (truth.loc[truth["class"] == "insulated", "effect"] == 0).all()


def test_motif_table_lists_exactly_what_the_genome_holds(tiny, cell):
    stated = table(tiny / "truth" / cell / "motifs.tsv")
    lines = (tiny / "truth" / "motifs.jaspar").read_text().splitlines()
    assert [line.split("\t")[1] for line in lines if line.startswith(">")] == list(motifs.KINDS)
    found = set()
    with pysam.FastaFile(str(tiny / "genome.fa")) as fasta:
        for chrom in CHROMOSOMES:
            text = fasta.fetch(chrom).upper()
            for motif in motifs.MOTIFS:
                for strand, core in (
                    ("+", motif.core),
                    ("-", motif.core[::-1].translate(COMPLEMENT)),
                ):
                    at = text.find(core)
                    while at >= 0:
                        found.add((chrom, at - 1, strand, motif.kind))
                        at = text.find(core, at + 1)
            for start, end, strand, kind, strength in rows(
                stated[stated.chrom == chrom], "start", "end", "strand", "kind", "strength"
            ):
                site = (
                    text[start:end]
                    if strand == "+"
                    else text[start:end][::-1].translate(COMPLEMENT)
                )
                ends = next(motif.ends for motif in motifs.MOTIFS if motif.kind == kind)
                weak = (site[0] == ends[0][1]) + (site[-1] == ends[1][1])
                assert strength == pytest.approx(1 - 0.2 * weak)
    assert found == set(rows(stated, "chrom", "start", "strand", "kind"))


COMPLEMENT = str.maketrans("ACGT", "TGCA")


def test_summary_states_ceiling_floor_and_variance_shares(tiny, cell):
    summary = json.loads((tiny / "truth" / cell / "truth.json").read_text())
    promoters = table(tiny / "truth" / cell / "promoters.tsv")
    ceiling = np.corrcoef(promoters["planted"], promoters["label"])[0, 1]
    assert summary["noise_ceiling_pearson"] == pytest.approx(ceiling, abs=1e-5)
    assert summary["seed"] == 0
    assert sum(summary["variance_shares"].values()) == pytest.approx(1, abs=1e-5)
    assert "compatibility" in " ".join(summary["rule"])
