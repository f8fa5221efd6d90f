"""Packed, cropped batches give the dense computation's numbers: in evaluation, and in training
every gradient.

The dense side is tests/naive_network.py, which shares no layer with the package; float64
throughout, so agreement is to rounding.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import naive_network
import numpy as np
import pytest
import tiny_inputs
import tiny_models
from tiny_models import on_tracks

from epinformer_jax.data import batches, layouts, sequence
from epinformer_jax.model import functional, packing, tracks
from epinformer_jax.model.encoder import full_rows
from epinformer_jax.train import tasks

pytestmark = pytest.mark.usefixtures("quick_compilation")

COUNTS = (1, 3, 5, 4, 2, 5, 5, 5)  # sequences of each gene; 5 slots, so ten slots are empty
BATCH_SIZE = 9  # one more than there are genes: a filler gene
STATISTICS = ("padded", "real")


@pytest.fixture(scope="module")
def genes():
    return tiny_models.random_genes(np.random.default_rng(0), tiny_models.EXPRESSION, COUNTS)


@pytest.fixture(scope="module")
def batch(genes):
    plan = tiny_models.plan_for(genes, tiny_models.EXPRESSION, batch_size=BATCH_SIZE)
    packed = batches.pack_genes(plan, *genes)
    placed = packed["placed"]
    widths = {int(w) for w in (placed["high"] - placed["low"])[placed["weight"] > 0]}
    assert len(widths) >= 3 and 0 in placed["weight"], widths
    inner = (packed["tracks"]["block"] == packed["tracks"]["row_of_block"].shape[1]) & (
        packed["tracks"]["row"] < len(placed["weight"])
    )
    assert inner.any(), "no place is background"
    assert packed["weight"].sum() == len(COUNTS) < BATCH_SIZE
    assert packed["empty_rows"] == 5 * len(COUNTS) - sum(COUNTS)
    return packed


@pytest.fixture(scope="module")
def variables():
    with jax.enable_x64(True):
        return tiny_models.random_variables(tiny_models.EXPRESSION, seed=1, dtype=jnp.float64)


def config_with(statistics):
    return dataclasses.replace(tiny_models.EXPRESSION, statistics=statistics)


@pytest.fixture(scope="module")
def trained(variables):
    """Loss, new statistics and gradients of a packed batch, by statistics; each compiled once."""
    functions = {}
    for statistics in STATISTICS:
        objective = tasks.Objective(config_with(statistics), "smooth_l1")

        def loss(params, batch, objective=objective):
            return tasks.loss(objective, params, variables.stats, batch, None)

        functions[statistics] = jax.jit(jax.value_and_grad(loss, has_aux=True))

    def train(statistics, batch):
        with jax.enable_x64(True):
            return functions[statistics](variables.params, batch)

    return train


def naive_training(config, variables, genes):
    """The same of the plain network over every slot of every gene."""
    dense = tiny_models.dense(genes, config)

    def loss(params):
        prediction, _, stats = naive_network.express(
            config, params, variables.stats, dense, train=True
        )
        size = jnp.abs(prediction - jnp.asarray(dense.labels))
        return jnp.where(size < 1, 0.5 * size**2, size - 0.5).mean(), stats

    with jax.enable_x64(True):
        return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables.params)


@pytest.mark.parametrize("statistics", STATISTICS)
def test_packed_training_equals_the_dense_network(statistics, genes, batch, variables, trained):
    (loss, stats), gradient = trained(statistics, batch)
    (dense_loss, dense_stats), dense_gradient = naive_training(
        config_with(statistics), variables, genes
    )
    np.testing.assert_allclose(loss, dense_loss, rtol=0, atol=1e-12)
    tiny_models.assert_trees_close(stats, dense_stats, atol=1e-12)
    tiny_models.assert_trees_close(gradient, dense_gradient, atol=1e-11)
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), stats, variables.stats)
    assert min(jax.tree.leaves(moved)) > 1e-6, "some statistics did not move"
    assert min(float(np.abs(g).max()) for g in jax.tree.leaves(gradient)) > 0


def test_padded_and_real_statistics_differ(batch, trained):
    padded, real = (trained(statistics, batch)[0][1] for statistics in STATISTICS)
    mean = [stats["encoder"]["block_0"]["norm"]["mean"] for stats in (padded, real)]
    assert np.abs(mean[0] - mean[1]).max() > 1e-4


@pytest.mark.parametrize("statistics", STATISTICS)
def test_what_stands_in_fillers_has_no_effect_in_training(statistics, batch, trained):
    rng = np.random.default_rng(2)
    is_filler = batch["weight"] == 0

    def garbled(values):
        noise = rng.normal(size=values.shape).astype(np.float32)
        return np.where(is_filler.reshape(-1, *[1] * (values.ndim - 1)), noise, values)

    placed = dict(batch["placed"])
    is_filler_row = placed["weight"] == 0
    for name, most in (("begin", 40), ("length", 9), ("start", 30), ("last", 9)):
        noise = rng.integers(0, most, len(is_filler_row)).astype(np.int32)
        placed[name] = np.where(is_filler_row, noise, placed[name])
    changed = {
        **batch,
        "placed": placed,
        **{name: garbled(batch[name]) for name in ("link_features", "gene_features", "labels")},
    }
    before, after = trained(statistics, batch), trained(statistics, changed)
    tiny_models.assert_trees_close(after, before, atol=1e-12)


def test_empty_slots_count_in_padded_statistics_and_not_in_real_ones(batch, trained):
    more = {**batch, "empty_rows": np.float32(batch["empty_rows"] + 7)}
    for statistics, counts in (("padded", True), ("real", False)):
        before, after = trained(statistics, batch)[0][1], trained(statistics, more)[0][1]
        same = [
            np.array_equal(a, b)
            for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
        ]
        assert not any(same) if counts else all(same)


def test_frozen_encoder_keeps_its_statistics_while_the_rest_follows_the_batch(
    genes, batch, variables
):
    config = tiny_models.EXPRESSION
    objective = tasks.Objective(config, "mse", "frozen")
    dense = tiny_models.dense(genes, config)
    with jax.enable_x64(True):
        loss, stats = jax.jit(lambda b: tasks.loss(objective, *variables, b, None))(batch)
        prediction, _, dense_stats = jax.jit(
            lambda v: naive_network.express(config, *v, dense, train=True, train_encoder=False)
        )(variables)
    dense_loss = np.square(np.asarray(prediction) - dense.labels).mean()
    np.testing.assert_allclose(loss, dense_loss, rtol=0, atol=1e-12)
    tiny_models.assert_trees_close(stats, dense_stats, atol=1e-12)
    tiny_models.assert_trees_close(stats["encoder"], variables.stats["encoder"], atol=0)


@pytest.mark.parametrize(
    ("unknown", "dtype", "atol"),
    [(0.25, "float64", 1e-9), (0.0, "float64", 1e-9), (0.25, "float32", 1e-5)],
)
def test_packed_prediction_equals_the_dense_one(unknown, dtype, atol, genes, batch, variables):
    config = tiny_models.EXPRESSION
    count = len(COUNTS)
    with jax.enable_x64(dtype == "float64"):
        weights = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), dtype), variables)
        d = tiny_models.dense(genes, config, unknown=unknown)
        arrays = [jnp.asarray(a, dtype) for a in (d.bases, d.link_features, d.gene_features)]
        dense = jax.jit(functional.predict, static_argnums=0)(
            config, weights, arrays[0], jnp.asarray(d.valid), arrays[1], arrays[2]
        )
        objective = tasks.Objective(config, "smooth_l1", unknown_base=unknown)
        prediction, attention = jax.jit(tasks.predict, static_argnums=0)(objective, weights, batch)
    np.testing.assert_allclose(prediction[:count], dense[0], rtol=0, atol=atol)
    np.testing.assert_allclose(
        attention[:count], np.asarray(dense[1]).mean(axis=1), rtol=0, atol=atol
    )


def test_a_larger_layout_changes_no_prediction(genes, batch, variables):
    config = tiny_models.EXPRESSION
    plan = tiny_models.plan_for(genes, config, batch_size=BATCH_SIZE)
    blocks, places, rows = plan.layouts[-1]
    roomy = layouts.Layout(blocks + 9, places + 5, rows + 3)
    plan = dataclasses.replace(plan, layouts=(roomy,))
    objective = tasks.Objective(config, "smooth_l1")
    with jax.enable_x64(True):
        predict = jax.jit(tasks.predict, static_argnums=0)
        expected = predict(objective, variables, batch)
        got = predict(objective, variables, batches.pack_genes(plan, *genes))
    for x, y in zip(got, expected, strict=True):
        np.testing.assert_allclose(x[: len(COUNTS)], y[: len(COUNTS)], rtol=0, atol=1e-12)


@pytest.mark.parametrize("unknown", [0.25, 0.0])
def test_nibbles_become_the_hosts_one_hot_with_zero_padding(unknown):
    rng = np.random.default_rng(3)
    codes = [tiny_inputs.random_codes(rng, length, 0.3) for length in (1, 7, 32, 31, 20)]
    packed = batches.pack_windows(codes, np.zeros(5), window_bp=32, batch_size=6)["rows"]
    rows = packing.PackedRows(**jax.tree.map(jnp.asarray, packed))
    got = packing.expand(rows, unknown=unknown)
    expected = np.zeros((6, 32, 4))
    held = np.zeros((6, 32), bool)
    for row, sequence_codes in enumerate(codes):
        first = 16 - len(sequence_codes) // 2
        inside = slice(first, first + len(sequence_codes))
        expected[row, inside] = sequence.one_hot(sequence_codes, unknown=unknown)
        held[row, inside] = True
    np.testing.assert_array_equal(got.x, expected)
    np.testing.assert_array_equal(got.held, held)
    assert got.weight[:, 0].tolist() == [1] * 5 + [0]


@pytest.mark.parametrize("by", [-40, -5, 0, 3, 31])
def test_shifted_rows_lose_what_leaves_the_window(by):
    rng = np.random.default_rng(4)
    codes = [tiny_inputs.random_codes(rng, length) for length in (9, 32)]
    rows = on_rows(codes, 32)
    got = packing.shifted(rows, jnp.array([by, by]))
    x = np.asarray(rows.x)
    for row in range(2):
        expected = np.zeros((32, 4))
        for position in range(32):
            if 0 <= position - by < 32:
                expected[position] = x[row, position - by]
        np.testing.assert_array_equal(got.x[row], expected)
        np.testing.assert_array_equal(got.held[row], expected.any(axis=1))


def test_flipped_rows_are_reverse_complements_that_stay_in_the_middle():
    rng = np.random.default_rng(6)
    codes = [tiny_inputs.random_codes(rng, length) for length in (9, 10, 32)]
    rows = on_rows(codes, 32)
    got = packing.flipped(rows, jnp.array([True, True, False]))
    for row, own in enumerate(codes):
        expected = sequence.reverse_complement(own) if row < 2 else own
        (there,) = np.nonzero(got.held[row])
        assert len(there) == there[-1] - there[0] + 1 == len(own)
        np.testing.assert_array_equal(got.x[row, there], sequence.one_hot(expected))
        assert abs(int(there[0]) - (16 - len(own) // 2)) <= len(own) % 2


# --- tracks


def on_rows(codes, window_bp, **options):
    """Sequences in rows of full width, expanded."""
    count = len(codes)
    packed = batches.pack_windows(codes, np.zeros(count), window_bp=window_bp, batch_size=count)
    rows = packing.PackedRows(**jax.tree.map(jnp.asarray, packed["rows"]))
    return packing.expand(rows, unknown=0.25, **options)


def of_rows(bases, codes, window_bp):
    """Each sequence's window laid into a full row, and where it is held."""
    x, held = np.zeros((2, len(codes), window_bp, 4))[0], np.zeros((len(codes), window_bp), bool)
    placed = bases.placed
    for row in range(len(codes)):
        track, low, high = (int(placed[i][row]) for i in (0, 3, 4))
        start = int(placed.start[row])
        x[row, start : start + high - low] = bases.x[track, low:high]
        held[row, start : start + high - low] = np.asarray(bases.held)[track, low:high]
    return x, held


@pytest.mark.parametrize("by", [-3, 0, 2])
@pytest.mark.parametrize("turned", [True, False])
def test_sequences_on_tracks_turn_and_move_as_rows_do(by, turned):
    config = tiny_models.EXPRESSION
    geometry = tiny_models.geometry_of(config, shift_bp=3)
    rng = np.random.default_rng(7)
    codes = [tiny_inputs.random_codes(rng, n, 0.1) for n in (1, 64, 8, 63, 15, 30, 64)]
    rows = on_rows(codes, 64)
    flip = np.arange(7) % 2 == 0 if turned else np.zeros(7, bool)
    rows = packing.shifted(packing.flipped(rows, jnp.asarray(flip)), jnp.full(7, by))
    laid, placed = on_tracks(codes, geometry)
    room = len(placed.weight) - 7
    bases = tracks.moved(
        tracks.expand(laid, placed, unknown=0.25),
        jnp.asarray(np.pad(flip, (0, room))),
        jnp.full(7 + room, by),
    )
    x, held = of_rows(bases, codes, 64)
    np.testing.assert_array_equal(x, rows.x)
    np.testing.assert_array_equal(held, rows.held)
    is_gap = np.repeat(np.asarray(laid.row_of_block) >= len(placed.weight), geometry.stride, axis=1)
    assert is_gap.any() and not np.asarray(bases.x)[is_gap].any()


@pytest.mark.parametrize("count", [1, 3])
def test_embeddings_of_tracks_equal_those_of_full_rows(count, variables):
    """On the other strand too; sequences with and without unknown bases, of every length."""
    config = tiny_models.EXPRESSION
    rng = np.random.default_rng(8)
    codes = [tiny_inputs.random_codes(rng, n, 0.1 * (n % 2)) for n in range(1, 65)]
    laid, placed = on_tracks(codes, tiny_models.geometry_of(config), tracks=count)

    @functools.partial(jax.jit, static_argnums=2)
    def both(laid, placed, other_strand):
        model = functional.bind(config, variables)
        rows = on_rows(codes, 64, dtype=jnp.float64)
        if other_strand:
            rows = packing.flipped(rows, jnp.ones(64, bool))
        found = packing.embed_tracks(model, laid, placed, unknown=0.25, other_strand=other_strand)
        return found[:64], model.embed(rows)

    with jax.enable_x64(True):
        for other_strand in (False, True):
            got, expected = both(laid, placed, other_strand)
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("width", [16, 32, 40])
def test_a_window_alone_on_a_track_equals_the_full_row(width, variables):
    config = tiny_models.EXPRESSION
    with jax.enable_x64(True):
        start, reach = (64 - width) // 2, config.encoder.reach_bp
        soft = np.random.default_rng(9).dirichlet(np.ones(4), (5, 64))
        inside = np.arange(64)
        held = (inside >= start + reach) & (inside < 64 - start - reach - 1)
        full = soft * held[:, None]

        @jax.jit
        def both(full):
            model = functional.bind(config, variables)
            bases, laid = tracks.alone(config, full[:, start : 64 - start])
            return packing.embed_bases(model, bases, laid, unknown=0.0), model.embed(
                full_rows(full)
            )

        got, expected = both(jnp.asarray(full))
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)
        with pytest.raises(ValueError, match="too wide to stand on a track"):
            tracks.alone(config, jnp.zeros((1, 56, 4)))


def test_window_fillers_have_no_effect_on_activity_training():
    config = dataclasses.replace(tiny_models.ACTIVITY, dropout=0.0)
    rng = np.random.default_rng(5)
    codes = [tiny_inputs.random_codes(rng, length) for length in (32, 20, 31, 8)]
    labels = rng.normal(size=4).astype(np.float32)
    objective = tasks.Objective(config, "l1kl")
    with jax.enable_x64(True):
        variables = tiny_models.random_variables(config, seed=2, dtype=jnp.float64)

        @jax.jit
        def train(batch):
            def loss(params):
                return tasks.loss(objective, params, variables.stats, batch, None)

            return jax.value_and_grad(loss, has_aux=True)(variables.params)

        exact, filled = (
            train(batches.pack_windows(codes, labels, window_bp=32, batch_size=size))
            for size in (4, 7)
        )
    tiny_models.assert_trees_close(filled, exact, atol=1e-12)
