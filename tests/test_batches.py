"""Laying out batches: nothing is lost, every batch fits a layout, and shapes stay few."""

import json

import numpy as np
import pytest
import tiny_inputs
from hypothesis import given
from hypothesis import strategies as st

from epinformer_jax.data import batches, sequence
from epinformer_jax.data.batches import Plan, Sequences

STRIDE, MARGIN = 4, 7


@st.composite
def gene_sets(draw):
    """Genes of 1 to 7 sequences of 1 to 64 bases, and a batch size."""
    window = draw(st.sampled_from([32, 64]))
    seed = draw(st.integers(0, 2**31))
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 8, size=draw(st.integers(1, 30)))
    # some sets are short, some long, some mixed
    most = draw(st.sampled_from([3, window // 2, window]))
    codes = [
        Sequences([tiny_inputs.random_codes(rng, n) for n in rng.integers(1, most + 1, count)])
        for count in counts
    ]
    return window, codes, draw(st.sampled_from([1, 2, 5, 16]))


def plan_of(window, genes, batch_size, layouts=3) -> Plan:
    return batches.make_plan(
        [gene.lengths for gene in genes],
        batch_size=batch_size,
        window_bp=window,
        slots=8,
        stride=STRIDE,
        margin_bp=MARGIN,
        layouts=layouts,
    )


def pack(plan, genes, rng):
    """The batch, and what was packed into it."""
    links = [rng.normal(size=(len(gene.codes), 2)).astype(np.float32) for gene in genes]
    features = rng.normal(size=(len(genes), 3)).astype(np.float32)
    labels = rng.normal(size=len(genes)).astype(np.float32)
    return batches.pack_genes(plan, genes, links, features, labels), links, features, labels


def unpacked(rows):
    """All rows of a batch, group after group: codes of the element, and where its window begins."""
    for group in rows:
        width = 2 * group["nibbles"].shape[1]
        for nibbles, offset, length, weight in zip(
            group["nibbles"], group["offset"], group["length"], group["weight"], strict=True
        ):
            codes = sequence.unpack(nibbles, width)
            assert not codes[:offset].any() and not codes[offset + length :].any()
            yield codes[offset : offset + length], int(offset), width, float(weight)


@given(gene_sets(), st.integers(0, 2**31))
def test_every_sequence_is_found_back_in_its_slot(drawn, seed):
    window, genes, batch_size = drawn
    rng = np.random.default_rng(seed)
    chosen = [genes[i] for i in rng.permutation(len(genes))[:batch_size]]
    batch, links, features, labels = pack(plan_of(window, genes, batch_size), chosen, rng)
    rows = list(unpacked(batch["rows"]))
    used = []
    for gene, codes_of_gene in enumerate(chosen):
        count = len(codes_of_gene.codes)
        assert batch["mask"][gene].tolist() == [slot < count for slot in range(8)]
        np.testing.assert_array_equal(batch["link_features"][gene, :count], links[gene])
        assert not batch["link_features"][gene, count:].any()
        for slot, codes in enumerate(codes_of_gene.codes):
            row = batch["row_of_slot"][gene, slot]
            found, offset, width, weight = rows[row]
            np.testing.assert_array_equal(found, codes)
            assert weight == 1
            start = (window - width) // 2
            assert start + offset == window // 2 - len(codes) // 2, "not where it was in the window"
            is_whole = width == window
            assert is_whole or offset >= MARGIN <= width - offset - len(codes)
            used.append(row)
    assert len(set(used)) == len(used), "two slots share a row"
    assert sum(weight for *_, weight in rows) == len(used)
    np.testing.assert_array_equal(batch["gene_features"][: len(chosen)], features)
    np.testing.assert_array_equal(batch["labels"][: len(chosen)], labels)
    assert batch["weight"].tolist() == [1.0] * len(chosen) + [0.0] * (batch_size - len(chosen))
    assert batch["mask"][:, 0].all(), "a filler gene must have something to attend to"
    assert batch["empty_rows"] == 8 * len(chosen) - len(used)


@given(gene_sets(), st.sampled_from([1, 2, 3, 4, 5]))
def test_every_batch_fits_a_layout_even_the_largest_genes_together(drawn, layouts):
    window, genes, batch_size = drawn
    plan = plan_of(window, genes, batch_size, layouts)
    rng = np.random.default_rng(0)
    most = sorted(range(len(genes)), key=lambda i: -len(genes[i].codes))
    longest = sorted(range(len(genes)), key=lambda i: -genes[i].lengths.sum())
    orders = [most, longest, *(rng.permutation(len(genes)) for _ in range(5))]
    for order in orders:
        lengths = np.concatenate([genes[i].lengths for i in order[:batch_size]])
        counts = np.bincount(plan.width_of(lengths), minlength=len(plan.widths))
        layout = plan.layout_for(counts)
        assert sum(layout) >= len(lengths)
        pack(plan, [genes[i] for i in order[:batch_size]], rng)


@given(gene_sets(), st.sampled_from([1, 3, 5]))
def test_layouts_are_few_and_rows_divide_over_eight_devices(drawn, layouts):
    window, genes, batch_size = drawn
    plan = plan_of(window, genes, batch_size, layouts)
    assert 1 <= len(plan.layouts) <= layouts + 1
    assert len(set(plan.layouts)) == len(plan.layouts)
    for layout in plan.layouts:
        assert len(layout) == len(plan.widths)
        assert all(capacity % 8 == 0 and capacity >= 0 for capacity in layout)
    cost = [np.dot(layout, plan.widths) for layout in plan.layouts]
    assert cost == sorted(cost)


@given(gene_sets())
def test_windows_are_centred_on_multiples_of_the_stride(drawn):
    window, genes, batch_size = drawn
    plan = plan_of(window, genes, batch_size)
    assert plan.widths[-1] == window and list(plan.widths) == sorted(set(plan.widths))
    assert len(plan.widths) <= batches.MAX_WIDTHS
    for width in plan.widths:
        assert 0 < width <= window
        assert (window - width) % (2 * STRIDE) == 0
        assert (window - width) // 2 % STRIDE == 0


def cost_of(widths, needed):
    """Positions computed when each row takes the narrowest width that holds it."""
    return sum(min(width for width in widths if width >= need) for need in needed)


@given(st.lists(st.integers(1, 64), min_size=1, max_size=40), st.integers(0, 99))
def test_no_other_choice_of_widths_computes_fewer_positions(lengths, seed):
    plan = plan_of(64, [Sequences([np.ones(n, np.uint8)]) for n in lengths], 4)
    needed = [min(n + 2 * MARGIN + 1, 64) for n in lengths]
    best = cost_of(plan.widths, needed)
    rng = np.random.default_rng(seed)
    steps = np.arange(64 - 8, 0, -8)
    for _ in range(20):
        others = rng.choice(steps, size=batches.MAX_WIDTHS - 1, replace=False)
        assert best <= cost_of([64, *others], needed)


def test_a_layout_is_planned_for_batches_of_the_stated_size_only():
    """Genes left over after the last whole batch must not blow up a simulated one."""
    genes = [Sequences([np.ones(64, np.uint8)] * 4) for _ in range(46)]
    genes.append(Sequences([np.ones(64, np.uint8)] * 5))
    plan = plan_of(64, genes, 16)
    assert plan.layouts[0] == (64,), "16 genes of 4 sequences need 64 rows"
    assert plan.layouts[-1] == (72,)


def test_the_same_lengths_give_the_same_plan_and_it_survives_json():
    rng = np.random.default_rng(0)
    genes = [
        Sequences([np.ones(n, np.uint8) for n in rng.integers(1, 64, rng.integers(1, 8))])
        for _ in range(50)
    ]
    plan, again = plan_of(64, genes, 8), plan_of(64, genes, 8)
    assert plan == again
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_a_sequence_longer_than_the_window_is_refused():
    with pytest.raises(ValueError, match="a sequence of 65 bases does not fit window_bp=64"):
        plan_of(64, [Sequences([np.ones(65, np.uint8)])], 4)


def test_a_plan_needs_genes():
    with pytest.raises(ValueError, match="no gene to plan batches for"):
        plan_of(64, [], 4)


def test_a_batch_that_the_plan_was_not_made_for_is_refused():
    small = [Sequences([np.ones(64, np.uint8)] * 2)] * 4
    plan = plan_of(64, small, 4)
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="exceeds every layout"):
        pack(plan, [Sequences([np.ones(64, np.uint8)] * 7)] * 4, rng)
    with pytest.raises(ValueError, match="5 genes of up to 2 sequences do not fit"):
        pack(plan, [small[0]] * 5, rng)
    with pytest.raises(
        ValueError, match="up to 9 sequences do not fit a batch of 4 genes, 8 slots"
    ):
        pack(plan, [Sequences([np.ones(3, np.uint8)] * 9)], rng)


@pytest.mark.parametrize("lengths", [(32, 31, 1), (2, 17, 30)])
def test_windows_are_centred_and_filled_up(lengths):
    rng = np.random.default_rng(1)
    codes = [tiny_inputs.random_codes(rng, n) for n in lengths]
    batch = batches.pack_windows(codes, np.arange(3.0), window_bp=32, batch_size=5)
    rows = list(unpacked([batch["rows"]]))
    for (found, offset, _, weight), expected in zip(rows, codes, strict=False):
        np.testing.assert_array_equal(found, expected)
        assert offset == 16 - len(expected) // 2 and weight == 1
    assert [weight for *_, weight in rows] == [1, 1, 1, 0, 0]
    assert batch["labels"].tolist() == [0, 1, 2, 0, 0]
