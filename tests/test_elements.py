"""The element rule, against a loop that says it in words, and the published counts."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epinformer_jax.data import elements, tables
from epinformer_jax.data.elements import ElementRule

TSS = 5000
SPANS = st.tuples(st.integers(0, 60), st.integers(1, 12), st.booleans())
RULES = st.builds(
    ElementRule,
    min_distance_bp=st.sampled_from([-1, 0, 3]),
    max_distance_bp=st.sampled_from([10, 25]),
    max_elements=st.integers(1, 5),
    self_promoter=st.sampled_from(elements.SELF_PROMOTER_RULES),
)


def links_frame(spans, gene="g", tss=30):
    frame = pd.DataFrame(spans, columns=["start", "length", "is_self_promoter"])
    frame["end"] = frame["start"] + frame.pop("length")
    frame["distance"] = (frame["start"] + frame["end"]) // 2 - tss
    frame.insert(0, "gene_id", gene)
    return frame.astype({"is_self_promoter": bool, "start": np.int64, "end": np.int64})


def naive(links, rule):
    """One gene: rows kept in order, and the reason of each other row."""
    rows = list(links.reset_index().itertuples(index=False))
    rows.sort(key=lambda row: (abs(row.distance), row.start, row.end, row.index))
    first = []
    if rule.self_promoter == "first":
        near = [r for r in rows if r.is_self_promoter and abs(r.distance) <= rule.max_distance_bp]
        first = near[:1]
    kept, reasons = list(first), {}
    for row in rows:
        if row in first:
            continue
        if abs(row.distance) > rule.max_distance_bp:
            reasons[row.index] = "beyond max distance"
        elif abs(row.distance) <= rule.min_distance_bp:
            reasons[row.index] = "within min distance"
        elif len(kept) == rule.max_elements:
            reasons[row.index] = "beyond max elements"
        else:
            kept.append(row)
    return [row.index for row in kept], reasons


@given(st.lists(SPANS, max_size=12, unique=True), RULES)
@settings(max_examples=150)
def test_one_gene_keeps_what_the_loop_keeps(spans, rule):
    links = links_frame(spans)
    kept, dropped = elements.select(links, rule)
    expected, reasons = naive(links, rule)
    assert kept.index.tolist() == expected
    assert dict(zip(dropped.index, dropped["reason"], strict=True)) == reasons
    assert dropped.index.is_monotonic_increasing


@given(st.lists(st.lists(SPANS, max_size=6, unique=True), max_size=4), RULES, st.randoms())
@settings(max_examples=60)
def test_many_genes_are_each_treated_alone(genes, rule, random):
    frames = [links_frame(spans, gene=f"g{n}") for n, spans in enumerate(genes)]
    links = pd.concat([links_frame([]), *frames], ignore_index=True)
    order = list(range(len(links)))
    random.shuffle(order)
    links = links.iloc[order].reset_index(drop=True)
    kept, dropped = elements.select(links, rule)
    assert sorted([*kept.index, *dropped.index]) == list(range(len(links)))
    for gene, alone in links.groupby("gene_id"):
        expected, reasons = naive(alone, rule)
        assert kept.index[kept["gene_id"] == gene].tolist() == expected
        assert set(dropped.index[dropped["gene_id"] == gene]) == set(reasons)


def test_selecting_does_not_change_its_argument():
    links = links_frame([(0, 5, False), (40, 4, True)])
    before = links.copy()
    elements.select(links, ElementRule(max_distance_bp=2000))
    pd.testing.assert_frame_equal(links, before)


def test_the_minimum_is_left_out_and_the_maximum_kept():
    links = links_frame([(0, 2, False)] * 4)
    links["distance"] = [-1000, 1001, 100_000, -100_001]
    kept, _ = elements.select(links, ElementRule())
    assert kept["distance"].tolist() == [1001, 100_000]


def test_without_a_column_a_self_promoter_is_what_overlaps_the_promoter():
    links = links_frame([(0, 100, False)] * 3).drop(columns="is_self_promoter")
    links["end"] = links["start"] + [100, 100, 2000]
    links["distance"] = [549, 550, 1499]
    assert elements.is_self_promoter(links).tolist() == [True, False, True]


def test_a_missing_column_is_named():
    with pytest.raises(ValueError, match="no column 'distance'"):
        elements.select(links_frame([(0, 5, False)]).drop(columns="distance"), ElementRule())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"min_distance_bp": 200_000}, "minimum < maximum"),
        ({"min_distance_bp": -2}, "minimum < maximum"),
        ({"max_elements": 0}, "max_elements=0"),
        ({"window_bp": 0}, "window_bp=0"),
        ({"window_bp": 1999}, "window_bp=1999; expected an even number"),
        ({"self_promoter": "last"}, "self_promoter='last'; expected exclude or first"),
    ],
)
def test_a_rule_out_of_range_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(ElementRule(), **change)


def test_a_rule_survives_json():
    rule = ElementRule(max_elements=7, self_promoter="first")
    assert ElementRule.from_dict(rule.to_dict()) == rule
    assert ElementRule.from_dict({}) == ElementRule()
    with pytest.raises(ValueError, match="unknown field 'max_element'; known: .*max_elements"):
        ElementRule.from_dict({"max_element": 7})


@given(st.integers(0, 5000), st.integers(1, 5000), st.sampled_from([2, 400, 2000]))
def test_cropping_keeps_the_middle_and_centring_stays_inside(start, length, window_bp):
    first, last = elements.crop(start, start + length, window_bp)
    assert start <= first < last <= start + length
    assert last - first == min(length, window_bp)
    if length > window_bp:
        assert (first + last) // 2 == (2 * start + length) // 2
    offset = elements.offset_in_window(last - first, window_bp)
    assert offset >= 0 and offset + (last - first) <= window_bp


def test_offsets_are_the_published_ones():
    lengths = (1, 2, 3, 500, 501, 1999, 2000)
    assert [elements.offset_in_window(length, 2000) for length in lengths] == [
        1000, 999, 999, 750, 750, 1, 0,
    ]  # fmt: skip


def test_real_links_give_the_published_element_counts(shared_data):
    folder = shared_data / "k562_slices"
    genes = tables.read_genes(folder / "genes.tsv")
    links = tables.read_links(folder / "links.tsv", genes)
    kept, dropped = elements.select(links, ElementRule())
    golden = pd.read_csv(
        shared_data / "golden" / "k562_slices_PE_Activity_HiC_RNA.tsv",
        sep="\t",
        index_col="gene_id",
    )
    counts = kept.groupby("gene_id").size().reindex(golden.index, fill_value=0)
    assert counts.tolist() == golden["n_elements"].tolist()
    assert dropped["reason"].value_counts().to_dict() == {
        "beyond max elements": 175,
        "within min distance": 81,
    }
