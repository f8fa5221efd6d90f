"""Linking gives the published numbers: ABC's chr22 tables, its thresholds, the elements of K562."""

import numpy as np
import pandas as pd
import pytest
from prep_commands import run_command

from data_prep import abc_scores, links, signals
from data_prep.contact import ContactSource
from data_prep.link_rules import LINK_RULES, LinkRule
from data_prep.quantile import by_rank, read_quantile_reference
from data_prep.signals import activity

# Published tables are rounded to six decimals.
ROUNDING = 1e-6


def abc_reference(shared_data):
    return read_quantile_reference(shared_data / "abc_chr22" / "EnhancersQNormRef.K562.txt")


@pytest.fixture(scope="module")
def atac(shared_data):
    """The ATAC case: elements with classes and read counts, genes, published pairs."""
    folder = shared_data / "abc_chr22"
    published = pd.read_csv(folder / "tagAlign_EnhancerList.txt.gz", sep="\t")
    elements = published.rename(columns={"chr": "chrom"})[["chrom", "start", "end", "class"]]
    rpm = published["ATAC.chr22.sorted.tagAlign.gz.readCount"].to_numpy() * 1e6 / 2_590_038
    is_promoter = (elements["class"] == "promoter").to_numpy()
    normalised = by_rank(rpm, is_promoter, abc_reference(shared_data), name="dnase")
    elements = elements.assign(
        dnase_rpm=rpm, activity=rpm, activity_quantile=activity(normalised, None)
    )
    genes = pd.read_csv(folder / "tagAlign_GeneList.txt.gz", sep="\t")
    # By symbol: an Ensembl id stands twice in the list, under two symbols.
    genes = genes.rename(columns={"chr": "chrom", "symbol": "gene_id"})[["gene_id", "chrom", "tss"]]
    pairs = pd.read_csv(
        folder / "tagAlign_EnhancerPredictionsFull_threshold0.013_self_promoter.tsv.gz", sep="\t"
    )
    return elements, published, genes, pairs


def test_all_published_atac_activities_come_out(atac):
    elements, published, _, _ = atac
    assert len(elements) == 15_010
    np.testing.assert_allclose(elements["dnase_rpm"], published["ATAC.RPM"], atol=ROUNDING)
    np.testing.assert_allclose(
        elements["activity_quantile"], published["activity_base"], atol=ROUNDING
    )


def test_all_published_atac_pairs_come_out_with_score_and_flag(atac):
    elements, _, genes, published = atac
    result = links.link(
        elements,
        genes,
        ContactSource(),
        rule=LINK_RULES["all"],
        scores=abc_scores.ABC_PIPELINE,
        score_activity="activity_quantile",
        min_score=abc_scores.threshold("ATAC", has_h3k27ac=False, contact_kind="powerlaw"),
    )
    ours = result.predicted
    assert len(ours) == len(published) == 3793
    both = ours.merge(published, on=["start", "end", "TargetGene"], suffixes=("", "_published"))
    assert len(both) == 3793
    for column in ("ABC.Score", "powerlaw.Score", "ABC.Score.Numerator", "powerlaw_contact"):
        np.testing.assert_allclose(both[column], both[f"{column}_published"], atol=ROUNDING)
    np.testing.assert_allclose(both["distance"], both["distance_published"], atol=ROUNDING)
    assert (both["isSelfPromoter"] == both["isSelfPromoter_published"]).all()
    assert both["isSelfPromoter"].sum() > 400


def test_dnase_and_h3k27ac_counts_give_the_published_activity_and_power_law_score(shared_data):
    folder = shared_data / "abc_chr22"
    counts = {
        name: pd.read_csv(
            folder / f"K562chr22_Enhancers.{mark}.chr22.sorted.se.bam.CountReads.bedgraph.gz",
            sep="\t",
            names=["chrom", "start", "end", name],
        )
        for name, mark in (("dnase", "DHS.ENCFF860XAE"), ("h3k27ac", "H3K27ac.ENCFF790GFL"))
    }
    named = pd.read_csv(
        folder / "K562chr22_EnhancerList.bed.gz", sep="\t", names=["chrom", "start", "end", "name"]
    )
    elements = named.assign(**{"class": named["name"].str.split("|").str[0]})
    is_promoter = (elements["class"] == "promoter").to_numpy()
    reference = abc_reference(shared_data)
    normalised = {
        name: by_rank(frame[name].to_numpy(), is_promoter, reference, name=name)
        for name, frame in counts.items()
    }
    elements["activity"] = activity(normalised["dnase"], normalised["h3k27ac"])
    genes = pd.read_csv(folder / "K562chr22_GeneList.txt.gz", sep="\t")
    published = pd.read_csv(
        folder / "K562chr22_EnhancerPredictionsFull_threshold0.027_self_promoter.tsv.gz", sep="\t"
    )
    assert len(published) == 1353
    pairs = abc_scores.score_chromosome(
        elements.assign(score_activity=elements["activity"]),
        genes,
        source=ContactSource(),
        contacts=None,
        rule=abc_scores.ABC_PIPELINE,
    )
    element = pd.Index(elements["start"]).get_indexer(published["start"])
    gene = pd.Index(genes["symbol"]).get_indexer(published["TargetGene"])
    place = pd.Index(pairs["gene"] * len(elements) + pairs["element"])
    ours = pairs.iloc[place.get_indexer(gene * len(elements) + element)]
    for name, values in {
        "normalized_dhs": normalised["dnase"][element],
        "activity_base": elements["activity"].to_numpy()[element],
        "powerlaw.Score": ours["powerlaw_score"],
        "powerlaw_contact": ours["powerlaw_contact"],
        "powerlaw_contact_reference": ours["powerlaw_contact_reference"],
    }.items():
        np.testing.assert_allclose(values, published[name], atol=ROUNDING, err_msg=name)
    assert (ours["is_self_promoter"].to_numpy() == published["isSelfPromoter"]).all()


def run_published(folder, tmp_path, elements, *options):
    """`signals` as a user runs it, over the ABC pipeline's own list of elements."""
    reference = ["--quantile-reference", folder / "EnhancersQNormRef.K562.txt"]
    given = ["--regions", elements, "--out", tmp_path / "signals.tsv.gz", *reference]
    run_command(signals, *given, *options)
    return ["--elements", tmp_path / "signals.tsv.gz", "--out", tmp_path / "links.tsv.gz"] + [
        *("--gene-key", "symbol", "--score-rule", "abc")
    ]


def compared(ours, published, names):
    """Merges by pair and compares columns; returns the merged table."""
    key = ["chr", "start", "end", "TargetGene"]
    both = published.merge(ours, on=key, suffixes=("_published", ""), validate="one_to_one")
    assert len(both) == len(published)
    for name in names:
        theirs = f"{name}_published" if f"{name}_published" in both else f"published_{name}"
        np.testing.assert_allclose(both[name], both[theirs], atol=ROUNDING, err_msg=name)
    assert (both["isSelfPromoter"] == both["isSelfPromoter_published"]).all()
    return both


def test_the_commands_give_the_published_atac_scores(shared_data, tmp_path):
    folder = shared_data / "abc_chr22"
    inputs = run_published(
        folder,
        tmp_path,
        folder / "tagAlign_EnhancerList.txt.gz",
        *("--accessibility", "column:ATAC.chr22.sorted.tagAlign.gz.readCount"),
        *("--total", "dnase=2590038", "--assay", "ATAC"),
    )
    genes = ["--genes", folder / "tagAlign_GeneList.txt.gz"]
    out = tmp_path / "predicted.tsv"
    run_command(links, *inputs, *genes, "--assay", "ATAC", "--predicted-out", out)
    published = pd.read_csv(
        folder / "tagAlign_EnhancerPredictionsFull_threshold0.013_self_promoter.tsv.gz", sep="\t"
    ).rename(columns={"normalized_atac": "published_normalized_dhs"})
    names = ["ABC.Score", "powerlaw.Score", "ABC.Score.Numerator", "powerlaw_contact", "distance"]
    names += ["activity_base", "normalized_dhs", "TargetGenePromoterActivityQuantile"]
    predicted = pd.read_csv(out, sep="\t")
    assert len(predicted) == len(published) == 3793
    compared(predicted, published, names)


def test_the_commands_give_the_published_dnase_and_h3k27ac_scores(shared_data, tmp_path):
    folder = shared_data / "abc_chr22"
    table = pd.read_csv(
        folder / "K562chr22_EnhancerList.bed.gz", sep="\t", names=["chrom", "start", "end", "name"]
    )
    table["class"] = table["name"].str.split("|").str[0]
    for name, mark in (("dnase", "DHS.ENCFF860XAE"), ("h3k27ac", "H3K27ac.ENCFF790GFL")):
        file = folder / f"K562chr22_Enhancers.{mark}.chr22.sorted.se.bam.CountReads.bedgraph.gz"
        table[name] = pd.read_csv(file, sep="\t", header=None)[3]
    table.to_csv(tmp_path / "elements.tsv", sep="\t", index=False)
    inputs = run_published(
        folder,
        tmp_path,
        tmp_path / "elements.tsv",
        *("--accessibility", "column:dnase", "--h3k27ac", "column:h3k27ac"),
        *("--total", "dnase=379428", "--total", "h3k27ac=113284"),
    )
    published = pd.read_csv(
        folder / "K562chr22_EnhancerPredictionsFull_threshold0.027_self_promoter.tsv.gz", sep="\t"
    )
    every = pd.read_csv(folder / "K562chr22_GeneList.txt.gz", sep="\t", dtype=str)
    names = ["powerlaw.Score", "powerlaw.Score.Numerator", "powerlaw_contact", "activity_base"]
    names += ["normalized_dhs", "powerlaw_contact_reference", "distance"]
    n_pairs = 0
    # Two pairs lie 1.5 Mb apart: their genes are scored on their own, to keep the tables small.
    is_far = published["distance"] > 250_000
    for pairs, reach in ((published[~is_far], 250_000), (published[is_far], 1_500_000)):
        chosen = every[every["symbol"].isin(pairs["TargetGene"])]
        chosen.to_csv(tmp_path / "GeneList.txt", sep="\t", index=False)
        options = ["--genes", tmp_path / "GeneList.txt", "--max-distance", reach]
        run_command(links, *inputs, *options, "--putative-out", tmp_path / "all.tsv")
        compared(pd.read_csv(tmp_path / "all.tsv", sep="\t"), pairs, names)
        n_pairs += len(pairs)
    assert n_pairs == 1353


def test_the_k562_elements_of_the_published_rule_are_as_many_as_published(shared_data):
    folder = shared_data / "k562"
    elements = pd.read_csv(folder / "candidate_elements_counts.tsv.gz", sep="\t")
    genes = pd.read_csv(folder / "tss_window_counts.tsv.gz", sep="\t")
    genes["tss"] = (genes["tss_window_start"] + genes["tss_window_end"]) // 2
    elements["activity"] = np.sqrt(elements["DNase_ENCFF257HEE"] * elements["H3K27ac_ENCFF232RQF"])
    # Before the limit of 60 an average gene has 16.6 elements (the limit makes it 16.5).
    unlimited = LinkRule(min_distance_bp=1000)
    result = links.link(
        elements,
        genes,
        ContactSource(),
        rule=unlimited,
        scores=abc_scores.ScoreRule(max_distance_bp=100_001),
    )
    per_gene = result.links["gene_id"].value_counts().reindex(genes["gene_id"]).fillna(0)
    assert len(genes) == 18_377
    assert round(per_gene.mean(), 1) == 16.6
    assert (per_gene.median(), per_gene.max(), (per_gene > 60).sum()) == (14, 120, 105)
    assert len(result.unlinked) == (per_gene == 0).sum() == 826
    assert len(result.links.drop_duplicates(["chrom", "start"])) == 94_690


def test_thresholds_are_those_of_the_abc_pipeline(shared_data):
    table = pd.read_csv(shared_data / "abc_chr22" / "abc_thresholds.tsv", sep="\t")
    assert len(table) == len(abc_scores.THRESHOLDS) == 12
    kinds = {"intact_hic": "hic", "avg": "average", "powerlaw": "powerlaw"}
    for row in table.itertuples():
        assay = {"DHS": "DNase", "ATAC": "ATAC"}[row.accessibility]
        found = abc_scores.threshold(
            assay, has_h3k27ac=bool(row.has_h3k27ac), contact_kind=kinds[row.hic_type]
        )
        assert found == row.threshold
