"""Packed, cropped batches give the dense computation's numbers: in evaluation, and in training
every gradient.

The dense side is tests/naive_network.py, which shares no layer with the package; float64
throughout, so agreement is to rounding.
"""

import dataclasses

import jax
import jax.numpy as jnp
import naive_network
import numpy as np
import pytest
import tiny_inputs
import tiny_models

from epinformer_jax.data import batches, sequence
from epinformer_jax.model import functional, packing
from epinformer_jax.model.encoder import Background, groups_of
from epinformer_jax.train import tasks

COUNTS = (1, 3, 5, 4, 2, 5, 5, 5)  # sequences of each gene; 5 slots, so ten slots are empty
BATCH_SIZE = 9  # one more than there are genes: a filler gene
STATISTICS = ("padded", "real")


@pytest.fixture(autouse=True, scope="module")
def quick():
    with tiny_models.quick_compilation():
        yield


@pytest.fixture(scope="module")
def genes():
    return tiny_models.random_genes(np.random.default_rng(0), tiny_models.EXPRESSION, COUNTS)


@pytest.fixture(scope="module")
def batch(genes):
    plan = tiny_models.plan_for(genes, tiny_models.EXPRESSION, batch_size=BATCH_SIZE)
    packed = batches.pack_genes(plan, *genes)
    widths = [2 * rows["nibbles"].shape[1] for rows in packed["rows"]]
    fillers = [int((rows["weight"] == 0).sum()) for rows in packed["rows"]]
    assert len(widths) >= 3 and sum(fillers) > 0, (widths, fillers)
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

    rows = []
    for group in batch["rows"]:
        noise = rng.integers(0, 256, group["nibbles"].shape).astype(np.uint8)
        real = group["weight"] > 0
        rows.append(
            {
                **group,
                "nibbles": np.where(real[:, None], group["nibbles"], noise),
                "length": np.where(real, group["length"], 9).astype(np.int32),
            }
        )
    changed = {
        **batch,
        "rows": tuple(rows),
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


def test_a_wider_layout_changes_no_prediction(genes, batch, variables):
    """Rows that overflow into a wider place, as when a batch takes another layout."""
    config = tiny_models.EXPRESSION
    plan = tiny_models.plan_for(genes, config, batch_size=BATCH_SIZE)
    roomy = dataclasses.replace(plan, layouts=((*[0] * (len(plan.widths) - 1), 40),))
    objective = tasks.Objective(config, "smooth_l1")
    with jax.enable_x64(True):
        predict = jax.jit(tasks.predict, static_argnums=0)
        expected = predict(objective, variables, batch)
        got = predict(objective, variables, batches.pack_genes(roomy, *genes))
    for x, y in zip(got, expected, strict=True):
        np.testing.assert_allclose(x[: len(COUNTS)], y[: len(COUNTS)], rtol=0, atol=1e-12)


@pytest.mark.parametrize("unknown", [0.25, 0.0])
def test_nibbles_become_the_hosts_one_hot_with_zero_padding(unknown):
    rng = np.random.default_rng(3)
    codes = [tiny_inputs.random_codes(rng, length, 0.3) for length in (1, 7, 32, 31, 20)]
    packed = batches.pack_windows(codes, np.zeros(5), window_bp=32, batch_size=6)["rows"]
    got = packing.one_hot(packing.PackedRows(**packed), unknown=unknown)
    expected = np.zeros((6, 32, 4))
    for row, sequence_codes in enumerate(codes):
        first = 16 - len(sequence_codes) // 2
        expected[row, first : first + len(sequence_codes)] = sequence.one_hot(
            sequence_codes, unknown=unknown
        )
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("by", [-40, -5, 0, 3, 31])
def test_shifted_rows_lose_what_leaves_the_window(by):
    rng = np.random.default_rng(4)
    codes = [tiny_inputs.random_codes(rng, length) for length in (9, 32)]
    packed = batches.pack_windows(codes, np.zeros(2), window_bp=32, batch_size=2)["rows"]
    rows = packing.expand(packing.PackedRows(**packed), unknown=0.25)
    got = packing.shifted(rows, jnp.array([by, by]))
    x = np.asarray(rows.x)
    for row in range(2):
        expected = np.zeros((32, 4))
        for position in range(32):
            if 0 <= position - by < 32:
                expected[position] = x[row, position - by]
        np.testing.assert_array_equal(got.x[row], expected)
        first, length = int(got.offset[row]), int(got.length[row])
        outside = np.delete(expected, np.arange(first, first + length), axis=0)
        assert not outside.any() and expected.any(axis=1).sum() == length


def test_flipped_rows_are_reverse_complements_that_stay_in_the_middle():
    rng = np.random.default_rng(6)
    codes = [tiny_inputs.random_codes(rng, length) for length in (9, 10, 32)]
    turned = [sequence.reverse_complement(c) for c in codes]
    both = [
        packing.expand(
            packing.PackedRows(
                **batches.pack_windows(c, np.zeros(3), window_bp=32, batch_size=3)["rows"]
            ),
            unknown=0.25,
        )
        for c in (codes, turned)
    ]
    got = packing.flipped(both[0], jnp.array([True, True, False]))
    for row, length in enumerate((9, 10, 32)):
        expected = both[1] if row < 2 else both[0]
        first, there = int(got.offset[row]), int(expected.offset[row])
        np.testing.assert_array_equal(
            got.x[row, first : first + length], expected.x[row, there : there + length]
        )
        assert abs(first - there) <= length % 2 and got.length[row] == length
        assert got.x[row].sum() == pytest.approx(length)


def test_moved_and_turned_elements_embed_alike_in_narrow_and_full_windows(variables):
    """With the shift added to the margin, what leaves a cropped window is background there too."""
    config = tiny_models.EXPRESSION
    rng = np.random.default_rng(7)
    codes = [tiny_inputs.random_codes(rng, length) for length in (1, 8, 15)]
    width = 48  # 15 + 1 + 2 * (7 + 3) = 36, rounded up to the rule
    assert (64 - width) % (2 * config.encoder.stride) == 0

    @jax.jit
    def embedded(packed, by):
        rows = packing.expand(packing.PackedRows(**packed), unknown=0.25, dtype=jnp.float64)
        rows = packing.shifted(packing.flipped(rows, jnp.ones(8, bool)), by)

        def call(model):
            background = Background(jnp.zeros((1, 64, 4)), jnp.zeros(()))
            return model.embed(groups_of([rows], 64), background, train=False)[0]

        return functional.run(config, variables, call)[0][:3]

    with jax.enable_x64(True):
        narrow, full = (batches.pack_rows(codes, 64, w, 8) for w in (width, 64))
        for by in (-3, 3):
            shift = jnp.full(8, by)
            np.testing.assert_allclose(
                embedded(narrow, shift), embedded(full, shift), rtol=0, atol=1e-12
            )


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
