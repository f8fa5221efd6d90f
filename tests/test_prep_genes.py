"""genes.tsv: annotation and TSS, mRNA features, expression labels, promoter signals."""

import argparse
import json

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest

from data_prep import genes
from data_prep.annotation import read_annotation, strip_version
from data_prep.expression import Transform, fit_transform, read_expression
from data_prep.genes import LabelRequest, add_labels
from data_prep.mrna_features import (
    INTRONLESS_BP,
    LENGTH_CONSTANTS,
    MISSING_FLAG,
    PUBLISHED_MEANS,
    features_from_gtf,
    length_zscore,
    read_features,
)
from epinformer_jax.data.genome import Genome
from epinformer_jax.data.tables import MRNA_FEATURES, read_genes


def run_command(*arguments):
    """Parses and runs `genes` in this process."""
    parser = argparse.ArgumentParser()
    genes.add_arguments(parser)
    return genes.run(parser.parse_args([str(argument) for argument in arguments]))


def published_genes(shared_data):
    features = pd.read_csv(shared_data / "k562" / "mrna_halflife_features.csv.gz")
    return features[["gene_id", "chrom", "TSS"]]


def rpkm(shared_data):
    return shared_data / "expression" / "57epigenomes.RPKM.pc.gz"


def test_the_published_rna_label_is_rebuilt_for_all_genes(shared_data):
    request = LabelRequest("rna", str(rpkm(shared_data)), "E123", "z-log10")
    labelled = add_labels(published_genes(shared_data), [request])
    published = pd.read_csv(
        shared_data / "k562" / "rna_labels_and_published_predictions.csv.gz", index_col="gene_id"
    )["rna_label_log10rpkm_zscore"]
    assert len(labelled.genes) == 18_377 and labelled.dropped.empty
    wanted = published.loc[labelled.genes["gene_id"]]
    np.testing.assert_allclose(labelled.genes["rna"], wanted, atol=1e-6)
    transform = labelled.transforms["rna"]
    assert (transform.mean, transform.sd) == pytest.approx((0.2433325, 1.0622200), abs=1e-7)
    assert transform.n == 18_377


def test_two_cell_types_give_two_labels_with_their_own_statistics(shared_data):
    path = str(rpkm(shared_data))
    requests = [
        LabelRequest("k562", path, "E123", "z-log10"),
        LabelRequest("gm", path, "E116", "z-log10"),
    ]
    labelled = add_labels(published_genes(shared_data), requests)
    derived = pd.read_csv(
        shared_data / "expression" / "derived_18377_K562_GM12878_RNA_RAMPAGE.tsv.gz",
        sep="\t",
        index_col="gene_id",
    ).loc[labelled.genes["gene_id"]]
    np.testing.assert_allclose(labelled.genes["k562"], derived["RNA_z_K562"], atol=1e-9)
    np.testing.assert_allclose(labelled.genes["gm"], derived["RNA_z_GM12878"], atol=1e-9)
    assert labelled.transforms["gm"].mean == pytest.approx(0.2574199, abs=1e-7)


def test_a_stray_tab_at_the_end_of_rows_does_not_shift_columns(shared_data):
    values = read_expression(rpkm(shared_data), "E128")
    assert values["ENSG00000000003"] == 15.818
    assert read_expression(rpkm(shared_data), "E000")["ENSG00000000003"] == 23.265


@hypothesis.given(st.lists(st.floats(0, 1e5), min_size=3, max_size=20))
def test_transforms_can_be_undone(values):
    measured = np.array(values)
    for name in ("z-log10", "log10p1", "none"):
        if name == "z-log10" and np.log10(measured + 0.1).std() == 0:
            continue
        transform = fit_transform(name, measured)
        again = Transform(**transform.to_dict())
        np.testing.assert_allclose(
            again.invert(transform.apply(measured)), measured, rtol=1e-6, atol=1e-6
        )


def test_a_z_score_has_mean_0_and_sd_1_and_cage_is_log10_of_one_more():
    values = np.array([0.0, 1.0, 10.0, 99.0])
    label = fit_transform("z-log10", values).apply(values)
    assert label.mean() == pytest.approx(0) and label.std() == pytest.approx(1)
    np.testing.assert_allclose(fit_transform("log10p1", values).apply(values)[[0, 3]], [0, 2])
    assert fit_transform("none", values).apply(values).tolist() == values.tolist()


def write_expression(folder, rows):
    path = folder / "expression.tsv"
    path.write_text(
        "gene_id\ttpm\tcage\n" + "".join("\t".join(map(str, row)) + "\n" for row in rows)
    )
    return str(path)


def test_genes_without_a_value_are_listed_and_do_not_enter_the_statistics(tmp_path):
    path = write_expression(tmp_path, [("A", 1, 3), ("B", "NA", 4), ("C", 9, 5), ("X", 1000, 0)])
    table = pd.DataFrame({"gene_id": ["A", "B", "C", "D"], "chrom": "chr1"})
    labelled = add_labels(table, [LabelRequest("rna", path, "tpm", "z-log10")])
    assert labelled.genes["gene_id"].tolist() == ["A", "C"]
    assert labelled.genes["rna"].tolist() == pytest.approx([-1, 1])
    assert labelled.dropped["gene_id"].tolist() == ["B", "D"]
    assert set(labelled.dropped["reason"]) == {"gene has no value in the expression table"}
    kept = add_labels(table, [LabelRequest("rna", path, "tpm", "z-log10")], keep_unlabelled=True)
    assert kept.genes["rna"].isna().tolist() == [False, True, False, True]
    assert kept.transforms["rna"].n == 2


def test_versions_are_taken_off_ensembl_ids_only():
    assert strip_version("ENSG00000000003.15") == "ENSG00000000003"
    assert strip_version("ENSMUSG00000000001.4") == "ENSMUSG00000000001"
    assert strip_version("ENSG00000002586.20_PAR_Y") == "ENSG00000002586_PAR_Y"
    assert strip_version("LOC100.2") == "LOC100.2"


def test_expression_ids_lose_versions_and_copies_on_y(tmp_path):
    path = write_expression(
        tmp_path, [("ENSG00000000001.3", 5, 0), ("ENSG00000000001.3_PAR_Y", 0, 0)]
    )
    assert read_expression(path, "tpm").to_dict() == {"ENSG00000000001": 5.0}


GENE_BED = (
    "chr1\t1000\t3000\tAA\t0\t+\tENSG00000000001.2\tprotein_coding\n"
    "chr1\t5000\t9000\tBB\t0\t-\tENSG00000000002\tprotein_coding\n"
    "chrX\t100\t900\tCC\t0\t+\tENSG00000000003.1\tprotein_coding\n"
    "chrY\t100\t900\tCC\t0\t+\tENSG00000000003.1_PAR_Y\tprotein_coding\n"
)


@pytest.mark.parametrize(("rule", "minus_tss"), [("end-1", 8999), ("bed-end", 9000)])
def test_the_tss_of_a_minus_strand_gene_follows_the_rule(tmp_path, rule, minus_tss):
    (tmp_path / "genes.bed").write_text(GENE_BED)
    annotation = read_annotation(tmp_path / "genes.bed", tss_rule=rule)
    assert annotation.genes["tss"].tolist() == [1000, minus_tss, 100]
    assert annotation.genes["gene_id"].tolist() == [f"ENSG0000000000{i}" for i in (1, 2, 3)]
    assert annotation.genes["gene_name"].tolist() == ["AA", "BB", "CC"]
    assert annotation.dropped["reason"].tolist() == ["pseudo-autosomal copy on Y"]


def test_the_original_tss_positions_come_out_by_the_bed_end_rule(shared_data, tmp_path):
    tss = pd.read_csv(shared_data / "abc_chr22" / "K562chr22_GeneList.txt.gz", sep="\t")
    bed = tss[["chr", "start", "end", "symbol", "score", "strand"]]
    bed.to_csv(tmp_path / "genes.bed", sep="\t", header=False, index=False)
    ours = read_annotation(tmp_path / "genes.bed", tss_rule="bed-end").genes
    assert ours["tss"].tolist() == tss["tss"].tolist()


def gtf_line(feature, start, end, strand="+", gene="G1", transcript="T1", extra="", chrom="chr1"):
    names = f'gene_id "{gene}"; transcript_id "{transcript}"; gene_name "{gene.lower()}"; {extra}'
    return f"{chrom}\tx\t{feature}\t{start}\t{end}\t.\t{strand}\t.\t{names}\n"


def write_gtf(folder):
    """G1 (+): exons 101-160, 201-300, 401-460; CDS 141-160, 201-300, 401-429, stop 430-432.

    G2 (-): one exon 701-800, CDS 731-780, stop 728-730. G3 has no coding sequence.
    """
    lines = [gtf_line("gene", 101, 460), gtf_line("transcript", 101, 460)]
    lines += [gtf_line("exon", *part) for part in ((101, 160), (201, 300), (401, 460))]
    lines += [gtf_line("CDS", *part) for part in ((141, 160), (201, 300), (401, 429))]
    lines += [gtf_line("stop_codon", 430, 432)]
    lines += [
        gtf_line("exon", 101, 500, transcript="T9"),
        gtf_line("CDS", 102, 140, transcript="T9"),
    ]
    for name, extra in (("T2", 'tag "basic"; tag "Ensembl_canonical";'), ("T3", "")):
        part = {"strand": "-", "gene": "G2", "transcript": name, "extra": extra}
        shift = 0 if name == "T2" else 20
        lines += [gtf_line("gene", 701, 800, strand="-", gene="G2")] if name == "T2" else []
        lines += [gtf_line("exon", 701, 800 + shift, **part)]
        lines += [gtf_line("CDS", 731 - shift, 780, **part)]
        lines += [gtf_line("stop_codon", 728 - shift, 730 - shift, **part)]
    lines += [
        gtf_line("gene", 900, 950, gene="G3"),
        gtf_line("exon", 900, 950, gene="G3", transcript="T4"),
    ]
    path = folder / "genes.gtf"
    path.write_text("#!genome-build x\n" + "".join(lines))
    return path


def test_mrna_features_are_counted_on_the_transcript(tmp_path):
    rng = np.random.default_rng(3)
    sequence = "".join(rng.choice(list("ACGT"), 1000))
    (tmp_path / "genome.fa").write_text(f">chr1\n{sequence}\n")
    path = write_gtf(tmp_path)
    ids = read_annotation(path).genes["gene_id"].tolist()
    assert ids == ["G1", "G2", "G3"]
    with Genome(tmp_path / "genome.fa", cache_dir=tmp_path) as genome:
        table = features_from_gtf(path, genome, ids, {"chr1": "chr1"})
    assert tuple(table.columns) == (*MRNA_FEATURES, MISSING_FLAG)

    def gc(*parts):
        bases = "".join(sequence[first - 1 : last] for first, last in parts)
        return sum(base in "GC" for base in bases) / len(bases)

    lengths = {
        "G1": {"UTR5": 40, "CDS": 20 + 100 + 32, "INTRON": 40 + 100, "UTR3": 28},
        "G2": {"UTR5": 20, "CDS": 53, "INTRON": INTRONLESS_BP, "UTR3": 27},
    }
    for row, gene in enumerate(("G1", "G2")):
        for part, length in lengths[gene].items():
            name = f"{part}LEN_log10zscore"
            mean, sd = LENGTH_CONSTANTS[name]
            assert table[name][row] == pytest.approx((np.log10(length + 0.1) - mean) / sd)
    assert table["UTR5GC"].tolist()[:2] == pytest.approx([gc((101, 140)), gc((781, 800))])
    assert table["CDSGC"][0] == pytest.approx(gc((141, 160), (201, 300), (401, 432)))
    assert table["UTR3GC"].tolist()[:2] == pytest.approx([gc((433, 460)), gc((701, 727))])
    assert table["ORFEXONDENSITY"].tolist()[:2] == pytest.approx([3 / 0.152, 1 / 0.053])
    assert table.loc[2, list(MRNA_FEATURES)].to_dict() == PUBLISHED_MEANS
    assert table[MISSING_FLAG].tolist() == [0, 0, 1]


def test_gtf_coordinates_become_0_based_half_open(tmp_path):
    found = read_annotation(write_gtf(tmp_path)).genes.set_index("gene_id")
    assert found.loc["G1", ["start", "end", "tss"]].tolist() == [100, 460, 100]
    assert found.loc["G2", ["start", "end", "tss"]].tolist() == [700, 800, 799]
    ends = read_annotation(tmp_path / "genes.gtf", tss_rule="bed-end").genes
    assert ends["tss"].tolist()[1] == 800


def test_the_length_constants_are_those_of_the_published_table(shared_data):
    features = pd.read_csv(shared_data / "k562" / "mrna_halflife_features.csv.gz")
    for name, (mean, sd) in LENGTH_CONSTANTS.items():
        lengths = 10 ** (features[name] * sd + mean) - 0.1
        whole = np.rint(lengths).to_numpy()
        # Undone by the constants (six decimals), lengths are whole numbers of bp; then done again.
        assert (np.abs(lengths - whole) < 0.05)[lengths < 5000].mean() > 0.98
        np.testing.assert_allclose(
            length_zscore(name, np.maximum(whole, 0)), features[name], atol=2e-3
        )
    for name, mean in PUBLISHED_MEANS.items():
        assert features[name].mean() == pytest.approx(mean, abs=1e-8)
    introns = np.rint(10 ** (features["INTRONLEN_log10zscore"] * 1.044710 + 4.128012) - 0.1)
    assert introns.value_counts().index[0] == INTRONLESS_BP


def test_features_are_read_by_gene_and_missing_genes_are_flagged(shared_data):
    path = shared_data / "k562" / "mrna_halflife_features.csv.gz"
    table = read_features(path, ["ENSG00000000005", "ENSG_unknown", "ENSG00000000003"])
    assert table["ORFEXONDENSITY"].tolist() == [7.42, PUBLISHED_MEANS["ORFEXONDENSITY"], 9.62]
    assert table[MISSING_FLAG].tolist() == [0, 1, 0]
    complete = read_features(path, ["ENSG00000000005"])
    assert MISSING_FLAG not in complete


def write_inputs(folder):
    (folder / "genes.bed").write_text(GENE_BED)
    rows = [f"ENSG0000000000{i},{','.join(str(i) for _ in MRNA_FEATURES)}\n" for i in (1, 2, 3)]
    (folder / "mrna.csv").write_text("gene_id," + ",".join(MRNA_FEATURES) + "\n" + "".join(rows))
    reads = "chr1\t1100\t1150\tN\t0\t+\nchr1\t9400\t9450\tN\t0\t-\nchr1\t20000\t20050\tN\t0\t-\n"
    (folder / "reads.tagAlign").write_text(reads)
    expression = write_expression(
        folder, [("ENSG00000000001", 0, 9), ("ENSG00000000002", 7, 99), ("ENSG00000000003", 3, 0)]
    )
    return [
        "--annotation", folder / "genes.bed", "--mrna-features", folder / "mrna.csv",
        "--label", "rna", expression, "tpm", "z-log10",
        "--label", "cage", expression, "cage", "log10p1",
    ]  # fmt: skip


def test_the_command_writes_genes_that_the_data_room_reads(tmp_path, capsys):
    inputs = write_inputs(tmp_path)
    reads = tmp_path / "reads.tagAlign"
    out = tmp_path / "genes.tsv"
    assert run_command(*inputs, "--accessibility", reads, "--h3k27ac", reads, "--out", out) == 0
    table = read_genes(out)
    assert list(table.attrs["labels"]) == ["rna", "cage"]
    assert table["gene_id"].tolist() == [f"ENSG0000000000{i}" for i in (1, 2, 3)]
    assert table["tss"].tolist() == [1000, 8999, 100]
    # One of three reads lies in each of the first two windows.
    np.testing.assert_allclose(table["promoter_activity"], [1e6 / 3, 1e6 / 3, 0], rtol=1e-8)
    np.testing.assert_allclose(table["promoter_dnase"], table["promoter_h3k27ac"])
    np.testing.assert_allclose(table["cage"], np.log10([10, 100, 1]), atol=1e-8)
    how = json.loads((tmp_path / "genes.json").read_text())
    logs = np.log10(np.array([0, 7, 3]) + 0.1)
    assert how["labels"]["rna"]["mean"] == pytest.approx(logs.mean())
    assert how["labels"]["rna"]["sd"] == pytest.approx(logs.std())
    assert (
        how["labels"]["cage"]["transform" if "transform" in how["labels"]["cage"] else "name"]
        == "log10p1"
    )
    assert how["left_out"] == {"pseudo-autosomal copy on Y": 1}
    assert "label rna: z-log10" in capsys.readouterr().out


def test_promoter_signals_may_come_from_a_table_in_any_order(tmp_path, capsys):
    inputs = write_inputs(tmp_path)
    run_command(*inputs, "--out", tmp_path / "bare.tsv")
    assert "no promoter_activity yet" in capsys.readouterr().out
    (tmp_path / "signals.tsv").write_text(
        "gene_id\tactivity\tdnase_rpm\n"
        "ENSG00000000003\t3\t30\nENSG00000000002\t2\t20\nENSG00000000001\t1\t10\n"
    )
    run_command(
        *inputs, "--promoter-signals", tmp_path / "signals.tsv", "--out", tmp_path / "genes.tsv"
    )
    table = read_genes(tmp_path / "genes.tsv")
    assert table["promoter_activity"].tolist() == [1, 2, 3]
    assert table["promoter_dnase"].tolist() == [10, 20, 30]


def test_only_the_genes_of_a_list_are_kept(tmp_path):
    inputs = write_inputs(tmp_path)
    (tmp_path / "list.tsv").write_text("gene_id\tx\nENSG00000000002\t1\nENSG00000000001\t1\n")
    run_command(*inputs, "--only-genes", tmp_path / "list.tsv", "--out", tmp_path / "genes.tsv")
    table = pd.read_csv(tmp_path / "genes.tsv", sep="\t")
    assert table["gene_id"].tolist() == ["ENSG00000000001", "ENSG00000000002"]
    dropped = pd.read_csv(tmp_path / "genes.dropped.tsv", sep="\t")
    assert dropped["reason"].tolist() == [
        "pseudo-autosomal copy on Y",
        "gene is not in the list of --only-genes",
    ]


def test_without_features_every_gene_has_the_published_means_flagged(tmp_path, capsys):
    inputs = write_inputs(tmp_path)
    bare = [*inputs[:2], *inputs[4:]]
    run_command(*bare, "--out", tmp_path / "genes.tsv")
    table = pd.read_csv(tmp_path / "genes.tsv", sep="\t")
    assert (table[MISSING_FLAG] == 1).all() and len(table) == 3
    for name, mean in PUBLISHED_MEANS.items():
        np.testing.assert_allclose(table[name], mean)
    assert "3 genes have no mRNA features: published means, flagged" in capsys.readouterr().out
    with pytest.raises(ValueError, match="not both"):
        run_command(*inputs, "--mrna-from-gtf", "x.gtf", "--out", tmp_path / "genes.tsv")


def test_with_the_genomes_contigs_names_follow_it_and_genes_past_the_ends_are_listed(
    tmp_path, capsys
):
    inputs = write_inputs(tmp_path)
    (tmp_path / "sizes").write_text("1\t5000\n2\t1000\nY\t9000\n")
    run_command(*inputs, "--contigs", tmp_path / "sizes", "--out", tmp_path / "genes.tsv")
    table = pd.read_csv(tmp_path / "genes.tsv", sep="\t", dtype={"chrom": str})
    assert table["chrom"].tolist() == ["1", "chrX"]  # a name without a partner stays
    dropped = pd.read_csv(tmp_path / "genes.dropped.tsv", sep="\t").set_index("gene_id")
    past = "gene lies past the end of its contig"
    assert dropped.loc["ENSG00000000002", "reason"] == past
    said = capsys.readouterr().out
    assert "contigs by the genome's names: chr1 -> 1" in said and f"left out 1: {past}" in said
