"""Layers against NumPy written out: convolution, pooling, weighted BatchNorm, dropout,
initialisation.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from epinformer_jax.model import layers
from epinformer_jax.model.architecture import ExpressionConfig
from epinformer_jax.model.epinformer import StarLayer


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def as_float64(module):
    """The layer with all arrays in float64, drawn anew so that no bias is zero."""
    rng = np.random.default_rng(0)
    graph, state = nnx.split(module)
    state = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), state)
    return nnx.merge(graph, state)


def naive_conv(x, kernel, bias, *, dilation, same):
    """Cross-correlation, every output a sum over taps and input channels."""
    width = len(kernel)
    reach = dilation * (width - 1)
    if same:
        x = np.pad(x, ((0, 0), (reach // 2, reach - reach // 2), (0, 0)))
    y = np.zeros((x.shape[0], x.shape[1] - reach, kernel.shape[2]))
    for position in range(y.shape[1]):
        for tap in range(width):
            y[:, position] += x[:, position + tap * dilation] @ kernel[tap]
    return y + bias


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize(("width", "dilation"), [(1, 1), (3, 1), (8, 1), (3, 4)])
def test_convolution_equals_its_sum_over_taps(width, dilation, same):
    conv = as_float64(layers.Conv(3, 2, width, rngs=nnx.Rngs(0), dilation=dilation, use_bias=True))
    x = np.random.default_rng(1).normal(size=(2, 17, 3))
    got = conv(jnp.asarray(x), same=same)
    kernel, bias = np.asarray(conv.kernel[...]), np.asarray(conv.bias[...])
    expected = naive_conv(x, kernel, bias, dilation=dilation, same=same)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)
    assert not same or got.shape[1] == 17


def test_linear_layer_acts_on_the_last_axis_of_any_rank():
    linear = as_float64(layers.Linear(4, 3, rngs=nnx.Rngs(0)))
    x = np.random.default_rng(1).normal(size=(2, 5, 4))
    expected = x @ np.asarray(linear.kernel[...]) + np.asarray(linear.bias[...])
    np.testing.assert_allclose(linear(jnp.asarray(x)), expected, rtol=0, atol=1e-13)
    np.testing.assert_allclose(linear(jnp.asarray(x[0])), expected[0], rtol=0, atol=1e-13)


def test_elu_is_exact_and_its_gradient_is_finite_far_from_zero():
    x = jnp.array([-800.0, -30.0, -1.0, -1e-6, 0.0, 1e-6, 2.0, 800.0])
    expected = np.where(x > 0, x, np.expm1(np.minimum(x, 0)))
    np.testing.assert_allclose(layers.elu(x), expected, rtol=0, atol=1e-15)
    slope = jax.vmap(jax.grad(layers.elu))(x)
    np.testing.assert_allclose(slope, np.where(x > 0, 1.0, np.exp(np.minimum(x, 0))), atol=1e-15)


def test_max_pool_drops_an_odd_last_position():
    x = np.random.default_rng(0).normal(size=(2, 7, 3))
    expected = x[:, :6].reshape(2, 3, 2, 3).max(axis=2)
    np.testing.assert_array_equal(layers.max_pool(jnp.asarray(x)), expected)


def test_max_pool_tie_sends_its_gradient_to_the_first_position():
    x = jnp.array([[[1.0], [1.0], [2.0], [3.0], [5.0], [4.0]]])
    gradient = jax.grad(lambda x: layers.max_pool(x).sum())(x)
    np.testing.assert_array_equal(gradient[0, :, 0], [1, 0, 0, 1, 1, 0])


@st.composite
def weighted_data(draw):
    """Parts of rows and positions, and for each how often it counts, 0 included."""
    seed = draw(st.integers(0, 2**31))
    shapes = draw(st.sampled_from([[(1, 1)], [(3, 4)], [(2, 3), (1, 5)]]))
    rng = np.random.default_rng(seed)
    x = [10 + rng.normal(size=(*shape, 2)) for shape in shapes]
    counts = [rng.integers(0, 4, size=shape) for shape in shapes]
    counts[0].flat[0] = 3
    return x, counts


@given(weighted_data())
def test_weighted_batch_norm_equals_plain_statistics_of_repeated_data(data):
    with jax.enable_x64(True):
        x, counts = data
        repeated = np.concatenate(
            [
                np.repeat(part.reshape(-1, 2), c.reshape(-1), axis=0)
                for part, c in zip(*data, strict=True)
            ]
        )
        norm = as_float64(layers.BatchNorm(2))
        scale, bias = np.asarray(norm.scale[...]), np.asarray(norm.bias[...])
        mean, var = np.asarray(norm.mean[...]), np.asarray(norm.var[...])
        parts = [(jnp.asarray(p), jnp.asarray(c, float)) for p, c in zip(x, counts, strict=True)]
        factor, shift = norm.fit(parts)
        centred = (x[0] - repeated.mean(0)) / np.sqrt(repeated.var(0) + 1e-5)
        got = layers.affine(jnp.asarray(x[0]), factor, shift)
        np.testing.assert_allclose(got, centred * scale + bias, rtol=0, atol=1e-8)
        new_mean = 0.9 * mean + 0.1 * repeated.mean(0)
        new_var = 0.9 * var + 0.1 * repeated.var(0, ddof=1)
        np.testing.assert_allclose(norm.mean[...], new_mean, rtol=0, atol=1e-12)
        np.testing.assert_allclose(norm.var[...], new_var, rtol=0, atol=1e-12)


def test_batch_norm_weight_may_be_one_number_a_row():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, 2)))
    one_a_row, one_each = (as_float64(layers.BatchNorm(2)) for _ in range(2))
    a = one_a_row.fit([(x, jnp.array([[2.0], [0.0], [1.0]]))])
    b = one_each.fit([(x, jnp.repeat(jnp.array([[2.0], [0.0], [1.0]]), 5, axis=1))])
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(one_a_row.var[...], one_each.var[...])


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_batch_norm_of_one_value_or_none_stays_finite(weight):
    norm = as_float64(layers.BatchNorm(2))
    norm.var[...] = jnp.ones(2)
    factor, shift = norm.fit([(jnp.full((1, 1, 2), 7.0), jnp.full((1, 1), weight))])
    assert np.isfinite([factor, shift]).all()
    assert np.isfinite(norm.mean[...]).all() and np.isfinite(norm.var[...]).all()


def test_batch_norm_in_evaluation_uses_its_running_statistics_and_keeps_them():
    norm = as_float64(layers.BatchNorm(3))
    norm.var[...] = jnp.abs(norm.var[...])
    before = [np.asarray(v[...]) for v in (norm.mean, norm.var, norm.scale, norm.bias)]
    mean, var, scale, bias = before
    x = np.random.default_rng(1).normal(size=(2, 4, 3))
    got = layers.affine(jnp.asarray(x), *norm.fixed())
    np.testing.assert_allclose(got, (x - mean) / np.sqrt(var + 1e-5) * scale + bias, atol=1e-12)
    np.testing.assert_array_equal(norm.mean[...], mean)


def test_no_gradient_flows_through_running_statistics():
    def running_mean(x):
        norm = as_float64(layers.BatchNorm(1))
        norm.fit([(x, jnp.ones((2, 3)))])
        return norm.mean[...].sum()

    assert not jax.grad(running_mean)(jnp.ones((2, 3, 1))).any()


def test_layer_norm_equals_numpy():
    norm = as_float64(layers.LayerNorm(6))
    x = np.random.default_rng(1).normal(size=(2, 3, 6))
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    expected = expected * np.asarray(norm.scale[...]) + np.asarray(norm.bias[...])
    np.testing.assert_allclose(norm(jnp.asarray(x)), expected, rtol=0, atol=1e-12)


def test_dropout_without_key_or_rate_changes_nothing():
    x = jnp.arange(6.0).reshape(2, 3)
    assert layers.dropout(x, 0.5, None) is x
    assert layers.dropout(x, 0.0, jax.random.key(0)) is x


def test_dropout_zeroes_its_share_and_scales_up_the_rest():
    x = jnp.ones((100, 100))
    kept = np.asarray(layers.dropout(x, 0.25, jax.random.key(0)))
    assert set(np.unique(kept)) == {0.0, 1 / 0.75}
    # 10,000 draws: five standard deviations are 0.022
    assert abs((kept == 0).mean() - 0.25) < 0.022
    other = layers.dropout(x, 0.25, jax.random.key(1))
    assert (other != kept).any()


def test_weights_start_uniform_within_the_published_bounds():
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)), so the standard deviation is the bound over sqrt(3)."""
    conv = layers.Conv(20, 30, 5, rngs=nnx.Rngs(0), use_bias=True)
    linear = layers.Linear(64, 64, rngs=nnx.Rngs(0))
    for value, fan_in in (
        (conv.kernel, 100),
        (conv.bias, 100),
        (linear.kernel, 64),
        (linear.bias, 64),
    ):
        value, bound = np.asarray(value[...]), fan_in**-0.5
        assert np.abs(value).max() <= bound
        tolerance = 4 / np.sqrt(value.size)
        assert abs(value.std() * np.sqrt(3) / bound - 1) < tolerance


def test_attention_starts_xavier_uniform_over_the_stacked_matrix_with_zero_biases():
    layer = StarLayer(ExpressionConfig(embedding=64, heads=4), rngs=nnx.Rngs(0))
    bound = np.sqrt(6 / (64 + 3 * 64))
    for name in ("query", "key", "value"):
        kernel = np.asarray(getattr(layer, name).kernel[...])
        assert 0.99 * bound < np.abs(kernel).max() <= bound
        assert not np.any(getattr(layer, name).bias[...])
    assert not np.any(layer.out.bias[...])
    assert np.abs(np.asarray(layer.out.kernel[...])).max() <= 64**-0.5


def test_bfloat16_is_used_inside_and_never_leaves():
    with jax.enable_x64(False):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 9, 16)), jnp.float32)
        conv = layers.Conv(16, 4, 3, rngs=nnx.Rngs(0), use_bias=True)
        linear = layers.Linear(16, 4, rngs=nnx.Rngs(0))
        pairs = [
            (conv(x, same=True, dtype=dtype), linear(x, dtype)) for dtype in ("float32", "bfloat16")
        ]
    for full, half in zip(*pairs, strict=True):
        assert full.dtype == half.dtype == jnp.float32
        # bfloat16 has 8 bits of mantissa: 48 products of size one are off by some hundredths
        np.testing.assert_allclose(half, full, rtol=0, atol=0.05)
        assert np.abs(np.asarray(half) - np.asarray(full)).max() > 0
