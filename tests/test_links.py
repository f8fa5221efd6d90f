"""Linking: pairs, ABC scores, the rules a gene's elements follow, and the published chr22
tables.
"""

import argparse
import json

import cooler
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest

from data_prep import abc_scores, abc_table, linking, links, signals
from data_prep.annotation import read_annotation
from data_prep.contact import ContactSource
from data_prep.intervals import read_regions
from data_prep.link_rules import LINK_RULES, LinkRule, select_links
from data_prep.pairs import is_self_promoter, join_within
from data_prep.power_law import OBSERVED
from data_prep.quantile import by_rank, read_quantile_reference
from data_prep.signals import activity
from epinformer_jax.data.elements import ElementRule, select
from epinformer_jax.data.tables import read_links

# Published tables are rounded to six decimals.
ROUNDING = 1e-6


def run_command(module, *arguments):
    """Parses and runs a command of data_prep in this process."""
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return module.run(parser.parse_args([str(argument) for argument in arguments]))


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


def test_the_pipelines_rule_scores_nothing_beyond_its_distance(tmp_path):
    inputs = write_inputs(tmp_path)
    options = ["--score-rule", "abc", "--score-distance", 50_000, "--out", tmp_path / "l.tsv"]
    with pytest.raises(ValueError, match="--max-distance 100000 lies beyond --score-distance"):
        run_command(links, *inputs, *options)


def test_a_list_with_an_id_twice_is_read_by_symbol(tmp_path):
    rows = ["ENSG1\tA\tchr1\t+\t10", "ENSG1\tB\tchr1\t-\t20"]
    path = tmp_path / "GeneList.txt"
    path.write_text("\n".join(["Ensembl_ID\tsymbol\tchr\tstrand\ttss", *rows, ""]))
    with pytest.raises(ValueError, match=r"GeneList.txt:3: .* or name genes by --gene-key symbol"):
        links.read_link_genes(path)
    genes = links.read_link_genes(path, gene_key="symbol")
    assert genes["gene_id"].tolist() == ["A", "B"] and genes["tss"].tolist() == [10, 20]


def test_what_lies_past_a_contigs_end_is_left_out_and_listed(tmp_path, capsys):
    inputs = write_inputs(tmp_path)
    sizes = tmp_path / "sizes"
    sizes.write_text("chr1\t150000\nchr2\t60000\nchr3\t100\n")
    run_command(links, *inputs, "--contigs", sizes, "--out", tmp_path / "links.tsv")
    dropped = pd.read_csv(tmp_path / "links.dropped.tsv", sep="\t")
    reason = "element lies past the end of its contig"
    assert dropped.loc[dropped["reason"] == reason, "start"].tolist() == [200_000]
    said = capsys.readouterr().out
    assert f"left out 1: {reason}" in said and "WARNING" in said


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


@hypothesis.given(st.data())
def test_the_join_finds_the_pairs_that_a_full_comparison_finds(data):
    positions = st.integers(0, 60)
    tss = np.array(data.draw(st.lists(positions, max_size=8)), np.int64)
    starts = np.array(data.draw(st.lists(positions, max_size=12)), np.int64)
    widths = data.draw(st.lists(st.integers(1, 9), min_size=len(starts), max_size=len(starts)))
    ends = starts + np.array(widths, np.int64)
    reach = data.draw(st.integers(0, 30))
    inclusive = data.draw(st.booleans())
    midpoint = data.draw(st.sampled_from(["floor", "exact"]))
    pairs = join_within(
        tss, starts, ends, max_distance_bp=reach, inclusive=inclusive, midpoint=midpoint
    )
    middle = (starts + ends) / 2 if midpoint == "exact" else (starts + ends) // 2
    distance = np.abs(middle[None, :] - tss[:, None])
    wanted = np.argwhere(distance <= reach if inclusive else distance < reach)
    found = sorted(zip(pairs.gene.tolist(), pairs.element.tolist(), strict=True))
    assert found == sorted(map(tuple, wanted.tolist()))
    assert (np.diff(pairs.gene) >= 0).all()


def test_a_self_promoter_is_an_element_that_meets_tss_and_500():
    # Width 100 reaches from middle -50 to +50: the last that meets [tss - 500, tss + 500) has its
    # middle 549 away.
    tss = np.full(3, 10_000)
    starts = np.array([10_499, 10_500, 9_400])
    found = is_self_promoter(tss, starts, starts + 100, slop_bp=500)
    assert found.tolist() == [True, False, False]


def tiny_tables():
    """One gene at 10,000 on chr1, one on chr2, one on a contig without elements."""
    genes = pd.DataFrame(
        {
            "gene_id": ["A", "B", "C"],
            "gene_name": ["a", "b", "c"],
            "chrom": ["chr1", "chr2", "chr3"],
            "tss": [10_000, 50_000, 1],
            "strand": ["+", "-", "+"],
        }
    )
    elements = pd.DataFrame(
        {
            "chrom": ["chr1"] * 4 + ["chr2"],
            "start": [9_800, 20_000, 60_000, 200_000, 49_000],
            "end": [10_200, 20_500, 60_500, 200_500, 49_100],
            "class": ["promoter", "genic", "intergenic", "intergenic", "genic"],
            "dnase_rpm": [4.0, 9.0, 1.0, 25.0, 16.0],
            "h3k27ac_rpm": [1.0, 4.0, 4.0, 1.0, 1.0],
        }
    )
    return elements, genes


def test_scores_are_shares_of_activity_times_contact_with_the_self_promoter_in_the_sum():
    elements, genes = tiny_tables()
    computed = abc_scores.ScoreRule(self_promoter_score="computed")
    result = links.link(
        elements, genes, ContactSource(), rule=LinkRule(max_distance_bp=500_000), scores=computed
    )
    of_a = result.links[result.links["gene_id"] == "A"]
    law = ContactSource().observed
    contact = law.contact(np.array([0, 10_250, 50_250, 190_250]))
    strength = np.array([2.0, 6.0, 2.0, 5.0]) * contact
    np.testing.assert_allclose(of_a["abc_score"], strength / strength.sum(), rtol=1e-12)
    np.testing.assert_allclose(of_a["contact"], contact, rtol=1e-12)
    ones = links.link(
        elements,
        genes,
        ContactSource(),
        rule=LinkRule(max_distance_bp=500_000),
        scores=abc_scores.ScoreRule(),
    ).links
    first, *others = ones[ones["gene_id"] == "A"]["abc_score"]
    assert first == 1.0
    np.testing.assert_allclose(others, (strength / strength.sum())[1:], rtol=1e-12)


def test_scores_do_not_depend_on_what_the_rule_keeps():
    elements, genes = tiny_tables()
    wide = links.link(elements, genes, ContactSource(), rule=LinkRule(max_distance_bp=500_000))
    narrow = links.link(elements, genes, ContactSource(), rule=LINK_RULES["published"])
    both = narrow.links.merge(wide.links, on=["gene_id", "start"], suffixes=("", "_wide"))
    assert len(both) == len(narrow.links) == 2
    np.testing.assert_array_equal(both["abc_score"], both["abc_score_wide"])


def test_genes_without_links_are_listed_with_the_reason():
    elements, genes = tiny_tables()
    result = links.link(elements, genes, ContactSource(), rule=LINK_RULES["published"])
    reasons = dict(zip(result.unlinked["gene_id"], result.unlinked["reason"], strict=True))
    assert reasons == {
        "B": "gene has no element that the rule keeps",
        "C": "gene's contig has no elements",
    }
    assert result.dropped["reason"].tolist() == ["within min distance"] * 2


@hypothesis.given(st.integers(0, 10**6), st.integers(1, 6), st.sampled_from(["exclude", "first"]))
def test_nearest_first_is_the_rule_of_the_data_room(seed, limit, self_promoter):
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, 40, 30) * 100
    frame = pd.DataFrame(
        {
            "gene_id": rng.choice(["A", "B"], 30),
            "start": starts,
            "end": starts + rng.integers(1, 4, 30) * 100,
        }
    ).drop_duplicates()
    frame["distance"] = (frame["start"] + frame["end"]) // 2 - 2000
    frame["is_self_promoter"] = frame["distance"].abs() < 600
    rule = LinkRule(
        min_distance_bp=100, max_distance_bp=1500, max_elements=limit, self_promoter=self_promoter
    )
    kept, _ = select_links(frame, rule)
    wanted, _ = select(frame, ElementRule(100, 1500, limit, 2000, self_promoter))
    pd.testing.assert_frame_equal(kept, wanted)


@pytest.mark.parametrize(
    ("order", "kept"),
    [
        ("nearest", [100, 200]),
        ("abc", [300, 400]),
        ("activity", [100, 400]),
        ("activity_contact", [200, 300]),
    ],
)
def test_the_chosen_order_says_which_elements_stay(order, kept):
    frame = pd.DataFrame(
        {
            "gene_id": "A",
            "start": [100, 200, 300, 400],
            "end": [110, 210, 310, 410],
            "distance": [100, 200, 300, 400],
            "abc_score": [0.1, 0.2, 0.4, 0.3],
            "activity": [8.0, 5.0, 6.0, 7.0],
            "contact": [0.1, 1.0, 1.0, 0.1],
            "is_self_promoter": False,
        }
    )
    chosen, dropped = select_links(frame, LinkRule(max_elements=2, order=order))
    assert sorted(chosen["start"]) == kept
    assert dropped["reason"].tolist() == ["beyond max elements"] * 2


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


def test_the_putative_table_has_the_27_columns_and_shares_of_rpm():
    elements, genes = tiny_tables()
    genes = genes.assign(expression=[0.5, 0.6, np.nan], promoter_activity=[3.0, 1.0, 2.0])
    result = links.link(
        elements,
        genes,
        ContactSource(),
        rule=LinkRule(max_distance_bp=500_000),
        cell_type="K562",
        putative_distance_bp=500_000,
    )
    table = result.putative
    assert tuple(table.columns) == abc_table.PUTATIVE_COLUMNS
    assert len(table.columns) == 27 and len(table) == 5
    assert table["name"].iloc[0] == "promoter|chr1:9800-10200"
    shares = table.drop_duplicates(["chr", "start"])["normalized_dhs"]
    np.testing.assert_allclose(shares, np.array([4, 9, 1, 25, 16]) / 55)
    quantile = dict(
        zip(table["TargetGene"], table["TargetGenePromoterActivityQuantile"], strict=True)
    )
    assert quantile == {"A": 1.0, "B": pytest.approx(1 / 3)}
    expressed = dict(zip(table["TargetGene"], table["TargetGeneIsExpressed"], strict=True))
    assert expressed == {"A": False, "B": True}
    assert table["hic_contact"].isna().all()


def write_inputs(folder):
    elements, genes = tiny_tables()
    elements.assign(activity=np.sqrt(elements["dnase_rpm"] * elements["h3k27ac_rpm"])).to_csv(
        folder / "elements.tsv", sep="\t", index=False
    )
    genes.to_csv(folder / "genes.tsv", sep="\t", index=False)
    return ["--elements", folder / "elements.tsv", "--genes", folder / "genes.tsv"]


def test_the_command_writes_links_that_the_data_room_reads(tmp_path, capsys):
    inputs = write_inputs(tmp_path)
    out = tmp_path / "links.tsv.gz"
    tables = ["--putative-out", tmp_path / "all.tsv", "--predicted-out", tmp_path / "abc.tsv"]
    assert run_command(links, *inputs, "--out", out, *tables) == 0
    table = read_links(out)
    assert tuple(table.columns) == linking.LINK_COLUMNS
    assert len(table) == 4
    assert table["is_self_promoter"].tolist() == [True, False, False, False]
    summary = json.loads((tmp_path / "links.json").read_text())
    assert summary["genes_without_links"] == 1
    assert summary["abc_threshold"] == 0.017
    assert "power law alone" in summary["contact"][0]
    dropped = pd.read_csv(tmp_path / "links.dropped.tsv", sep="\t")
    assert dropped["gene_id"].tolist() == ["C"]
    assert dropped["tss"].tolist() == [1]
    assert len(pd.read_csv(tmp_path / "all.tsv", sep="\t")) == 4
    assert len(pd.read_csv(tmp_path / "abc.tsv", sep="\t")) >= 2
    assert "1 genes have none" in capsys.readouterr().out


def test_the_settings_name_contacts_that_are_not_balanced(tmp_path):
    inputs = write_inputs(tmp_path)
    starts = np.arange(0, 250_000, 5000)
    bins = pd.DataFrame({"chrom": "chr1", "start": starts, "end": starts + 5000})
    near = np.arange(len(starts) - 1)
    pixels = pd.DataFrame({"bin1_id": near, "bin2_id": near + 1, "count": 3})
    cooler.create_cooler(str(tmp_path / "raw.cool"), bins, pixels)
    run_command(links, *inputs, "--contact", tmp_path / "raw.cool", "--out", tmp_path / "links.tsv")
    said = json.loads((tmp_path / "links.json").read_text())["contact"]
    assert "contact NOT BALANCED: no balancing weights in the file: chr1" in said
    assert "contact no contacts there, power law instead: chr2" in said
    assert (tmp_path / "links.tsv").read_text().startswith("gene_id\t")  # no comment lines
    table = read_links(tmp_path / "links.tsv").set_index("start")
    # Rows sum to 3 at the ends and 6 inside; the diagonal is its neighbour, 3.
    mean = (3 * 2 + 6 * 48) / 50
    assert table.loc[9_800, "contact"] == pytest.approx(3 / mean, rel=1e-8)
    assert table.loc[20_000, "contact"] == 0
    assert table.loc[49_000, "contact"] == pytest.approx(OBSERVED.contact(np.array([950]))[0])


def test_the_same_inputs_give_the_same_bytes(tmp_path):
    inputs = write_inputs(tmp_path)
    written = []
    for name in ("one", "two"):
        run_command(links, *inputs, "--out", tmp_path / name / "links.tsv.gz")
        written.append((tmp_path / name / "links.tsv.gz").read_bytes())
    assert written[0] == written[1]


def test_genes_may_come_from_a_bed_file(tmp_path):
    elements, genes = tiny_tables()
    inputs = write_inputs(tmp_path)
    bed = tmp_path / "genes.bed"
    bed.write_text(
        "chr1\t10000\t12000\ta\t0\t+\tA\tprotein_coding\nchr2\t40000\t50001\tb\t0\t-\tB\tx\n"
    )
    assert read_annotation(bed).genes["tss"].tolist() == [10_000, 50_000]
    run_command(links, "--elements", inputs[1], "--genes", bed, "--out", tmp_path / "from_bed.tsv")
    run_command(links, *inputs, "--out", tmp_path / "from_table.tsv")
    pd.testing.assert_frame_equal(
        read_links(tmp_path / "from_bed.tsv"), read_links(tmp_path / "from_table.tsv")
    )
    assert read_regions(inputs[1])["chrom"].tolist() == elements["chrom"].tolist()
    assert len(genes) == 3
