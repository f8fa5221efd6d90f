"""Linking: pairs, ABC scores, the rules a gene's elements follow, the tables of the command."""

import json

import cooler
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from prep_commands import run_command

from data_prep import abc_scores, abc_table, linking, links
from data_prep.annotation import read_annotation
from data_prep.contact import ContactSource
from data_prep.intervals import read_regions
from data_prep.link_rules import LINK_RULES, LinkRule, select_links
from data_prep.pairs import is_self_promoter, join_within
from data_prep.power_law import OBSERVED
from epinformer_jax.data.elements import ElementRule, select
from epinformer_jax.data.tables import read_links


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
