"""Laying out batches: nothing is lost, every batch fits a layout, and shapes stay few."""

import itertools
import json

import numpy as np
import pytest
import tiny_inputs
from hypothesis import given
from hypothesis import strategies as st

from epinformer_jax.data import batches, sequence
from epinformer_jax.data import layouts as layouts_lib
from epinformer_jax.data.batches import Sequences
from epinformer_jax.data.layouts import Geometry, Plan

STRIDE, MARGIN, REACH = 4, 7, 3


def geometry_of(window) -> Geometry:
    return Geometry(window_bp=window, stride=STRIDE, margin_bp=MARGIN, gap_bp=8, reach=REACH)


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


def plan_of(window, genes, batch_size, layouts=3, by="blocks") -> Plan:
    return layouts_lib.make_plan(
        [gene.lengths for gene in genes],
        geometry=geometry_of(window),
        batch_size=batch_size,
        slots=8,
        layouts=layouts,
        by=by,
    )


def pack(plan, genes, rng):
    """The batch, and what was packed into it."""
    links = [rng.normal(size=(len(gene.codes), 2)).astype(np.float32) for gene in genes]
    features = rng.normal(size=(len(genes), 3)).astype(np.float32)
    labels = rng.normal(size=len(genes)).astype(np.float32)
    return batches.pack_genes(plan, genes, links, features, labels), links, features, labels


def unpacked(batch):
    """All sequences of a batch: codes, where they begin in the model's window, their window there,
    and weight. Gaps and margins hold nothing.
    """
    nibbles, placed = batch["tracks"]["nibbles"], batch["placed"]
    tracks = np.stack([sequence.unpack(own, 2 * nibbles.shape[1]) for own in nibbles])
    seen = np.zeros(tracks.shape, int)
    for track, begin, length, low, high, start, weight in zip(
        *(placed[n] for n in ("track", "begin", "length", "low", "high", "start", "weight")),
        strict=True,
    ):
        if weight:
            assert low <= begin and begin + length <= high
            seen[track, low:high] += 1
            own = tracks[track, low:high].copy()
            own[begin - low : begin - low + length] = 0
            assert not own.any()
            yield (
                tracks[track, begin : begin + length],
                int(start + begin - low),
                (int(start), int(start + high - low)),
                float(weight),
            )
    assert seen.max() == 1, "windows overlap"
    assert not tracks[seen == 0].any()


@given(gene_sets(), st.integers(0, 2**31))
def test_every_sequence_is_found_back_in_its_slot(drawn, seed):
    window, genes, batch_size = drawn
    rng = np.random.default_rng(seed)
    chosen = [genes[i] for i in rng.permutation(len(genes))[:batch_size]]
    batch, links, features, labels = pack(plan_of(window, genes, batch_size), chosen, rng)
    rows = list(unpacked(batch))
    used = []
    for gene, codes_of_gene in enumerate(chosen):
        count = len(codes_of_gene.codes)
        assert batch["mask"][gene].tolist() == [slot < count for slot in range(8)]
        np.testing.assert_array_equal(batch["link_features"][gene, :count], links[gene])
        assert not batch["link_features"][gene, count:].any()
        for slot, codes in enumerate(codes_of_gene.codes):
            row = batch["row_of_slot"][gene, slot]
            found, first, (low, high), weight = rows[row]
            np.testing.assert_array_equal(found, codes)
            assert weight == 1
            assert first == window // 2 - len(codes) // 2, "not where it was in the window"
            is_whole = (low, high) == (0, window)
            assert is_whole or first - low >= MARGIN <= high - first - len(codes)
            used.append(row)
    assert len(set(used)) == len(used), "two slots share a row"
    assert len(rows) == len(used)
    np.testing.assert_array_equal(batch["gene_features"][: len(chosen)], features)
    np.testing.assert_array_equal(batch["labels"][: len(chosen)], labels)
    assert batch["weight"].tolist() == [1.0] * len(chosen) + [0.0] * (batch_size - len(chosen))
    assert batch["mask"][:, 0].all(), "a filler gene must have something to attend to"
    assert batch["empty_rows"] == 8 * len(chosen) - len(used)


@given(gene_sets())
def test_windows_are_centred_and_far_from_the_ends_or_whole(drawn):
    window, genes, _ = drawn
    geometry = geometry_of(window)
    for gene in genes:
        widths = geometry.widths(gene.lengths) * STRIDE
        for length, width in zip(gene.lengths, widths, strict=True):
            assert (window - width) % (2 * STRIDE) == 0
            if width < window:
                assert length + 2 * MARGIN + 1 <= width < length + 2 * MARGIN + 1 + 2 * STRIDE
                assert (window - width) // 2 >= MARGIN + STRIDE, "near a row's end"


@given(gene_sets(), st.integers(0, 2**31))
def test_gaps_lie_between_windows_of_their_kind(drawn, seed):
    """Nothing on both sides of a whole window, all-zero DNA on both sides of any other."""
    window, genes, batch_size = drawn
    rng = np.random.default_rng(seed)
    chosen = [genes[i] for i in rng.permutation(len(genes))[:batch_size]]
    batch, *_ = pack(plan_of(window, genes, batch_size), chosen, rng)
    count = len(batch["placed"]["weight"])
    for row in range(sum(len(gene.codes) for gene in chosen)):
        track, low, high = (batch["placed"][n][row] for n in ("track", "low", "high"))
        blocks = batch["tracks"]["row_of_block"][track]
        low, high = low // STRIDE, high // STRIDE
        kind = batches.NOTHING if high - low == window // STRIDE else batches.BACKGROUND
        gap = geometry_of(window).gap
        assert low >= gap and high + gap <= len(blocks)
        assert (blocks[low:high] == row).all()
        assert (blocks[low - gap : low] == count + kind).all()
        assert (blocks[high : high + gap] == count + kind).all()


@given(gene_sets(), st.integers(0, 2**31))
def test_places_hold_each_window_and_what_the_summary_sees_beside_it(drawn, seed):
    window, genes, batch_size = drawn
    rng = np.random.default_rng(seed)
    chosen = [genes[i] for i in rng.permutation(len(genes))[:batch_size]]
    batch, *_ = pack(plan_of(window, genes, batch_size), chosen, rng)
    laid, placed = batch["tracks"], batch["placed"]
    blocks, count = laid["row_of_block"].shape[1], len(placed["weight"])
    length = window // STRIDE
    for row in range(sum(len(gene.codes) for gene in chosen)):
        track, low, high, start = (placed[n][row] for n in ("track", "low", "high", "start"))
        (there,) = np.nonzero(laid["row"][track] == row)
        assert (laid["row"] == row).sum() == len(there) == there[-1] - there[0] + 1
        position = laid["position"][track, there]
        first, last = placed["first"][row], placed["last"][row]
        np.testing.assert_array_equal(position, np.arange(first, last))
        own = np.where(
            (position >= start // STRIDE) & (position < (start + high - low) // STRIDE),
            position - start // STRIDE + low // STRIDE,
            blocks,
        )
        np.testing.assert_array_equal(laid["block"][track, there], own)
        if last - first < length:
            assert first == start // STRIDE - REACH >= 0, "what it reaches before its window"
            after = np.arange(there[-1] + 1, there[-1] + 1 + REACH)
            beyond = laid["block"][track, after]
            assert (beyond == blocks).all(), "another window lies within reach"
            position = laid["position"][track, after]
            edge = geometry_of(window).edge
            assert (position >= edge - 1).all() and (position < length - edge + 1).all()
    assert (laid["block"][laid["row"] == count] == blocks).all()


@given(gene_sets(), st.sampled_from([1, 2, 3, 4, 5]), st.sampled_from(["blocks", "places"]))
def test_every_batch_fits_a_layout_even_the_largest_genes_together(drawn, layouts, by):
    window, genes, batch_size = drawn
    plan = plan_of(window, genes, batch_size, layouts, by)
    rng = np.random.default_rng(0)
    most = sorted(range(len(genes)), key=lambda i: -len(genes[i].codes))
    longest = sorted(range(len(genes)), key=lambda i: -genes[i].lengths.sum())
    orders = [most, longest, *(rng.permutation(len(genes)) for _ in range(5))]
    for order in orders:
        lengths = np.concatenate([genes[i].lengths for i in order[:batch_size]])
        layout, members = plan.deal(lengths, by=by)
        assert layout.rows >= len(lengths)
        assert sorted(sum(members, [])) == list(range(len(lengths)))
        if by == "blocks":
            pack(plan, [genes[i] for i in order[:batch_size]], rng)


@given(gene_sets(), st.sampled_from([1, 3, 5]), st.sampled_from(["blocks", "places"]))
def test_layouts_are_few_and_each_holds_what_the_one_before_does(drawn, layouts, by):
    window, genes, batch_size = drawn
    plan = plan_of(window, genes, batch_size, layouts, by)
    assert 1 <= len(plan.layouts) <= layouts + 1
    assert len(set(plan.layouts)) == len(plan.layouts)
    assert (np.diff(np.array(plan.layouts), axis=0) >= 0).all()
    order = np.argsort([-gene.lengths.sum() for gene in genes])[:batch_size]
    plan.deal(np.concatenate([genes[i].lengths for i in order]), by=by)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.integers(1, 4))
def test_no_other_choice_of_levels_wastes_less(needed, count):
    def room(levels):
        return sum(min(level for level in levels if level >= need) for need in needed)

    found = layouts_lib._levels(np.array(needed), count)
    assert len(found) <= count and found[-1] == max(needed)
    others = sorted(set(needed) - {max(needed)})
    best = min(
        room([*chosen, max(needed)])
        for size in range(min(count, len(others) + 1))
        for chosen in itertools.combinations(others, size)
    )
    assert room(found) == best


def test_tracks_are_filled_evenly():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 64, 200)
    plan = plan_of(64, [Sequences([np.ones(n, np.uint8)]) for n in lengths], 200)
    layout, members = plan.deal(lengths)
    geometry = geometry_of(64)
    used = [(geometry.widths(lengths[own]) + geometry.gap).sum() for own in members]
    assert max(used) - min(used) <= geometry.blocks + geometry.gap
    assert layout.blocks <= max(used) + 2 * geometry.gap + layouts_lib.ROOM_STEP


def test_a_layout_is_planned_for_batches_of_the_stated_size_only():
    """Genes left over after the last whole batch must not blow up a simulated one."""
    genes = [Sequences([np.ones(64, np.uint8)] * 4) for _ in range(46)]
    genes.append(Sequences([np.ones(64, np.uint8)] * 5))
    plan = plan_of(64, genes, 16)
    assert plan.layouts[0].rows == 64, "16 genes of 4 sequences need 64 rows"
    assert plan.layouts[-1].rows == 72


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
    rows = batch["rows"]
    for row, own in enumerate(codes):
        found = sequence.unpack(rows["nibbles"][row], 32)
        first = 16 - len(own) // 2
        assert (rows["offset"][row], rows["length"][row]) == (first, len(own))
        np.testing.assert_array_equal(found[first : first + len(own)], own)
        assert np.count_nonzero(found) == np.count_nonzero(own)
    assert rows["weight"].tolist() == [1, 1, 1, 0, 0]
    assert batch["labels"].tolist() == [0, 1, 2, 0, 0]


@given(
    st.lists(st.integers(1, 64), min_size=1, max_size=60),
    st.integers(1, 600),
    st.sampled_from([1, 2]),
)
def test_sequences_without_genes_are_dealt_once_in_one_shape(lengths, positions, tracks):
    lengths, geometry = np.array(lengths), geometry_of(64)
    dealt = list(
        layouts_lib.track_batches(lengths, geometry=geometry, positions=positions, tracks=tracks)
    )
    assert np.concatenate([own.members for own in dealt]).tolist() == list(range(len(lengths)))
    assert len({own.layout for own in dealt}) == 1
    for own in dealt:
        codes = [np.ones(lengths[i], np.uint8) for i in own.members]
        packed = batches.pack_tracks(geometry, codes, own.layout, own.dealt)
        found = list(unpacked(packed))
        assert [len(codes) for codes, *_ in found] == lengths[own.members].tolist()
        assert packed["tracks"]["row_of_block"].shape == (tracks, own.layout.blocks)


def test_choices_of_about_the_same_size_have_shapes_in_common():
    rng = np.random.default_rng(0)
    lengths, geometry = rng.integers(1, 65, 400), geometry_of(64)
    shapes = set()
    for count in (200, 203, 206):
        chosen = np.sort(rng.choice(400, count, replace=False))
        dealt = list(
            layouts_lib.track_batches(lengths, geometry=geometry, positions=2000, chosen=chosen)
        )
        assert np.concatenate([own.members for own in dealt]).tolist() == chosen.tolist()
        shapes |= {own.layout for own in dealt}
    assert len(shapes) <= 2
    assert not list(layouts_lib.track_batches(lengths[:0], geometry=geometry, positions=9))
    with pytest.raises(ValueError, match="a sequence of 65 bases does not fit window_bp=64"):
        next(layouts_lib.track_batches(lengths[:2] * 0 + 65, geometry=geometry, positions=9))
