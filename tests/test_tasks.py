"""Losses against NumPy, fillers without weight, and what a frozen encoder means."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_inputs
import tiny_models
from hypothesis import given
from hypothesis import strategies as st

from epinformer_jax.data import batches
from epinformer_jax.data.batches import Sequences
from epinformer_jax.data.layouts import Geometry, Layout, Plan
from epinformer_jax.model import functional, packing
from epinformer_jax.model.architecture import EncoderConfig, ExpressionConfig
from epinformer_jax.train import tasks

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def naive_smooth_l1(prediction, target):
    size = np.abs(prediction - target)
    return np.where(size < 1, 0.5 * size**2, size - 0.5).mean()


def naive_mse(prediction, target):
    return ((prediction - target) ** 2).mean()


def naive_l1kl(prediction, target):
    """(L1 + KL / 2) / 1.5; KL between softmaxes over the batch, divided by its size once more."""
    log_p = prediction - np.log(np.exp(prediction).sum())
    log_q = target - np.log(np.exp(target).sum())
    divergence = (np.exp(log_q) * (log_q - log_p)).sum() / len(target)
    return (np.abs(prediction - target).mean() + 0.5 * divergence) / 1.5


NAIVE = {"smooth_l1": naive_smooth_l1, "mse": naive_mse, "l1kl": naive_l1kl}
VALUES = st.floats(-5, 5)


def test_every_loss_has_its_definition_here():
    assert set(NAIVE) == set(tasks.LOSSES)


@pytest.mark.parametrize("name", NAIVE)
@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=12))
def test_loss_is_its_formula_whatever_stands_in_fillers(name, pairs):
    prediction, target = np.array(pairs).T
    fillers = 12 - len(pairs)
    weight = np.concatenate([np.ones(len(pairs)), np.zeros(fillers)])
    padded = [
        np.concatenate([values, np.full(fillers, other)])
        for values, other in ((prediction, 77.0), (target, -99.0))
    ]
    with jax.enable_x64(True):
        got = tasks.LOSSES[name](*map(jnp.asarray, padded), jnp.asarray(weight))
    np.testing.assert_allclose(got, NAIVE[name](prediction, target), rtol=1e-10, atol=1e-12)


def test_smooth_l1_turns_linear_at_a_difference_of_one():
    prediction, one = jnp.array([0.5, 1.0, 3.0, -3.0]), jnp.ones(1)
    values = [float(tasks.smooth_l1(p[None], jnp.zeros(1), one)) for p in prediction]
    np.testing.assert_allclose(values, [0.125, 0.5, 2.5, 2.5])


@pytest.mark.parametrize("name", NAIVE)
def test_fillers_get_no_gradient_and_make_none_infinite(name):
    target = jnp.array([0.3, -1.0, 2.0, 5.0])
    weight = jnp.array([1.0, 1.0, 1.0, 0.0])
    prediction = jnp.array([1.0, 0.0, 4.0, -7.0])
    gradient = jax.grad(lambda p: tasks.LOSSES[name](p, target, weight))(prediction)
    assert np.isfinite(gradient).all() and gradient[3] == 0
    alone = jax.grad(lambda p: tasks.LOSSES[name](p, target[:3], weight[:3]))(prediction[:3])
    np.testing.assert_allclose(gradient[:3], alone, rtol=0, atol=1e-14)


def test_divergence_weighs_less_in_a_larger_batch_as_published():
    rng = np.random.default_rng(0)
    prediction, target = rng.normal(size=(2, 4))
    divergence = [
        1.5 * float(tasks.l1kl(jnp.asarray(p), jnp.asarray(t), jnp.ones(len(p))))
        - np.abs(p - t).mean()
        for p, t in ((prediction, target), (np.tile(prediction, 2), np.tile(target, 2)))
    ]
    np.testing.assert_allclose(divergence[1], divergence[0] / 2, rtol=1e-9)


@pytest.fixture(scope="module")
def windows():
    rng = np.random.default_rng(1)
    codes = [tiny_inputs.random_codes(rng, n) for n in (32, 20, 31, 9)]
    packed = batches.pack_windows(codes, rng.normal(size=4), window_bp=32, batch_size=6)
    return jax.tree.map(jnp.asarray, packed)


def test_loss_of_windows_is_the_loss_of_their_predictions_in_training_mode(windows):
    config = dataclasses.replace(tiny_models.ACTIVITY, dropout=0.0)
    variables = tiny_models.random_variables(config, seed=1, dtype=jnp.float64)
    objective = tasks.Objective(config, "mse")
    value, stats = jax.jit(lambda batch: tasks.loss(objective, *variables, batch, None))(windows)
    packed = tasks.packed_batch(windows)

    @jax.jit
    def forward(packed):
        def call(model):
            return packing.activate(model, packed, train=True, unknown=0.25)

        return functional.run(config, variables, call)

    prediction, expected = forward(packed)
    np.testing.assert_allclose(
        value, naive_mse(np.asarray(prediction)[:4], windows["labels"][:4]), rtol=1e-12
    )
    tiny_models.assert_trees_close(stats, expected, atol=1e-14)


def test_training_draws_dropout_and_shift_from_the_key(windows):
    config = dataclasses.replace(tiny_models.ACTIVITY, dropout=0.5)
    variables = tiny_models.random_variables(config, seed=1, dtype=jnp.float64)

    @jax.jit
    def losses(objective_key, shifted_key):
        plain = tasks.Objective(config, "mse")
        moved = tasks.Objective(dataclasses.replace(config, dropout=0.0), "mse", shift_bp=5)
        return (
            tasks.loss(plain, *variables, windows, objective_key)[0],
            tasks.loss(moved, *variables, windows, shifted_key)[0],
        )

    keys = [jax.random.key(seed) for seed in (0, 0, 1)]
    first, again, other = (losses(key, key) for key in keys)
    assert first == again
    assert first[0] != other[0] and first[1] != other[1]


def test_prediction_does_not_depend_on_what_training_draws(windows):
    variables = tiny_models.random_variables(tiny_models.ACTIVITY, seed=1, dtype=jnp.float64)
    plain = tasks.Objective(tiny_models.ACTIVITY, "mse")
    noisy = tasks.Objective(
        dataclasses.replace(tiny_models.ACTIVITY, dropout=0.9, encoder_dropout=0.9),
        "mse",
        shift_bp=9,
    )
    predict = jax.jit(tasks.predict, static_argnums=0)
    expected, attention = predict(plain, variables, windows)
    got, _ = predict(noisy, variables, windows)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-14)
    assert attention.shape == (6, 0)


# --- convolving or tables


GENES = [Sequences([np.ones(20, np.uint8)]), Sequences([np.array([1, 2, 0, 4, 8] * 4, np.uint8)])]


def plan_of(rows):
    geometry = Geometry(**ExpressionConfig().geometry())
    return Plan(geometry, 1, 61, 1, (Layout(rows * 160, rows * 160, rows),))


def test_tables_are_taken_on_cpu_where_they_are_less_work():
    model = ExpressionConfig()
    chosen = {rows: tasks.unknown_kmers("auto", model, GENES, plan_of(rows)) for rows in (8, 80)}
    assert chosen == {8: None, 80: 13}  # every window of 8 in the second gene
    assert tasks.unknown_kmers("table", model, GENES[:1], plan_of(8)) == 0
    assert tasks.unknown_kmers("direct", model, GENES, plan_of(80)) is None
    few_channels = dataclasses.replace(model, encoder=EncoderConfig(4, 8, (4, 4)))
    wide_stem = dataclasses.replace(model, encoder=EncoderConfig(stem_width=10))
    low = dataclasses.replace(model, compute_dtype="bfloat16")
    for other in (few_channels, wide_stem, low):
        assert tasks.unknown_kmers("auto", other, GENES, plan_of(80)) is None


def test_tables_are_not_taken_elsewhere(monkeypatch):
    def auto():
        return tasks.unknown_kmers("auto", ExpressionConfig(), GENES, plan_of(80))

    monkeypatch.setattr(jax, "device_count", lambda: 8)
    assert auto() is None
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert auto() is not None
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert auto() is None
