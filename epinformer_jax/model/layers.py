"""Layers both models are made of, as NNX modules with the published initialisation (spec 1.1, 1.3).

Convolutions are one-dimensional, channels last. Parameters, statistics, normalisation and softmax
stay in the parameters' dtype (float32, or float64 in tests); only convolutions and matmuls take the
compute dtype.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

BATCH_NORM_EPSILON = 1e-5
LAYER_NORM_EPSILON = 1e-5
BATCH_NORM_MOMENTUM = 0.9  # share of the old running statistic that is kept (spec 1.1)

# A part of the data for statistics: values [..., C] and a weight for each leading position
# (broadcastable).
WeightedPart = tuple[Float[Array, "..."], Float[Array, "..."]]


def uniform_fan_in(key, shape, fan_in: int, dtype=jnp.float32) -> Float[Array, "..."]:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)), the published initialisation of convolutions and linear
    layers.
    """
    bound = fan_in**-0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def xavier_stacked(key, shape, dtype=jnp.float32) -> Float[Array, "..."]:
    """Xavier-uniform over the stacked (3d, d) query/key/value matrix, from which one (d, d) part is
    drawn (spec 1.1).
    """
    bound = (6.0 / (4 * shape[0])) ** 0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def precision_of(dtype: str) -> jax.lax.Precision:
    """Full precision unless bfloat16 was asked for: accelerators would otherwise use TF32 or
    bfloat16 for float32.
    """
    return jax.lax.Precision.DEFAULT if dtype == "bfloat16" else jax.lax.Precision.HIGHEST


def cast(x: Float[Array, "..."], dtype: str) -> Float[Array, "..."]:
    """To bfloat16 when that is the compute dtype; float32 and float64 stay what they are."""
    return x.astype(jnp.bfloat16) if dtype == "bfloat16" else x


@jax.custom_jvp
def elu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """ELU with alpha 1. exp(x) - 1 is as exact here as expm1 and cheaper."""
    return jnp.where(x > 0, x, jnp.exp(jnp.minimum(x, 0)) - 1)


@elu.defjvp
def _elu_jvp(primals, tangents):
    # The slope from the answer (1 at 0): what it needs is kept anyhow, for the layer that follows.
    (x,), (tangent,) = primals, tangents
    y = elu(x)
    return y, tangent * (jnp.minimum(y, 0) + 1)


def max_pool(x: Float[Array, "N L C"]) -> Float[Array, "N M C"]:
    """Maximum of each pair of positions; an odd last position is dropped and ties send their
    gradient to the first.
    """
    length = x.shape[1] // 2 * 2
    first, second = x[:, 0:length:2], x[:, 1:length:2]
    return jnp.where(first >= second, first, second)


class Linear(nnx.Module):
    """x @ kernel + bias over the last axis."""

    def __init__(
        self, inputs: int, outputs: int, *, rngs: nnx.Rngs, use_bias: bool = True, init=None
    ):
        if init is None:
            self.kernel = nnx.Param(uniform_fan_in(rngs.params(), (inputs, outputs), inputs))
        else:
            self.kernel = nnx.Param(init(rngs.params(), (inputs, outputs)))
        if use_bias:
            zero_bias = init is xavier_stacked
            bias = (
                jnp.zeros(outputs, jnp.float32)
                if zero_bias
                else uniform_fan_in(rngs.params(), (outputs,), inputs)
            )
            self.bias = nnx.Param(bias)
        self.use_bias = use_bias

    def __call__(
        self, x: Float[Array, "*leading I"], dtype: str = "float32"
    ) -> Float[Array, "*leading O"]:
        kernel = self.kernel[...]
        # one leading axis: with more, the kernel's gradient is a product of another, slow form
        y = jnp.matmul(
            cast(x, dtype).reshape(-1, x.shape[-1]),
            cast(kernel, dtype),
            precision=precision_of(dtype),
            preferred_element_type=kernel.dtype,
        ).reshape(*x.shape[:-1], -1)
        return y + _rank(self.bias[...], y) if self.use_bias else y


class Conv(nnx.Module):
    """A one-dimensional convolution (cross-correlation), channels last; `kernel` is [width, in,
    out].
    """

    def __init__(
        self, inputs, outputs, width, *, rngs: nnx.Rngs, dilation: int = 1, use_bias: bool
    ):
        fan_in = inputs * width
        self.kernel = nnx.Param(uniform_fan_in(rngs.params(), (width, inputs, outputs), fan_in))
        if use_bias:
            self.bias = nnx.Param(uniform_fan_in(rngs.params(), (outputs,), fan_in))
        self.use_bias = use_bias
        self.width = width
        self.dilation = dilation

    def __call__(
        self, x: Float[Array, "N L I"], *, same: bool, dtype: str = "float32"
    ) -> Float[Array, "N M O"]:
        """`same` pads with zeros to the input's length, one more on the right for an even width;
        else no padding.
        """
        reach = self.dilation * (self.width - 1)
        padding = (reach // 2, reach - reach // 2) if same else (0, 0)
        kernel = self.kernel[...]
        y = jax.lax.conv_general_dilated(
            cast(x, dtype),
            cast(kernel, dtype),
            window_strides=(1,),
            padding=(padding,),
            rhs_dilation=(self.dilation,),
            dimension_numbers=("NWC", "WIO", "NWC"),
            precision=precision_of(dtype),
            preferred_element_type=None if dtype == "bfloat16" else kernel.dtype,
        ).astype(kernel.dtype)
        return y + _rank(self.bias[...], y) if self.use_bias else y


class BatchNorm(nnx.Module):
    """Batch normalisation over all leading axes, with a weight for every row and position.

    A weight is how often that position counts: 0 for filler rows, the number of copies for the
    all-zero background row. Running variances are the unbiased estimate; the update keeps 0.9 of
    the old value (spec 1.1).
    """

    def __init__(self, channels: int):
        self.scale = nnx.Param(jnp.ones(channels, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(channels, jnp.float32))
        self.mean = nnx.BatchStat(jnp.zeros(channels, jnp.float32))
        self.var = nnx.BatchStat(jnp.ones(channels, jnp.float32))

    def fit(self, parts: list[WeightedPart]) -> tuple[Float[Array, "C"], Float[Array, "C"]]:
        """Batch statistics as (factor, shift), so that y = x * factor + shift; running statistics
        are updated.

        Two passes: the variance is taken around the mean, which float32 needs when most rows are
          identical padding.
        """
        count = sum(jnp.sum(_weights(x, w)) for x, w in parts)
        count = jnp.maximum(count, 1.0)
        mean = sum(_weighted_sum(x, w) for x, w in parts) / count
        var = sum(_weighted_sum(jnp.square(x - _rank(mean, x)), w) for x, w in parts) / count
        unbiased = var * (count / jnp.maximum(count - 1.0, 1.0))
        keep = BATCH_NORM_MOMENTUM
        self.mean[...] = keep * self.mean[...] + (1 - keep) * jax.lax.stop_gradient(mean)
        self.var[...] = keep * self.var[...] + (1 - keep) * jax.lax.stop_gradient(unbiased)
        return self._affine(mean, var)

    def fixed(self) -> tuple[Float[Array, "C"], Float[Array, "C"]]:
        """The running statistics as (factor, shift)."""
        return self._affine(self.mean[...], self.var[...])

    def _affine(self, mean, var):
        factor = self.scale[...] * jax.lax.rsqrt(var + BATCH_NORM_EPSILON)
        return factor, self.bias[...] - mean * factor


def affine(
    x: Float[Array, "*leading C"], factor: Float[Array, "C"], shift: Float[Array, "C"]
) -> Float[Array, "*leading C"]:
    """x * factor + shift over the last axis."""
    return x * _rank(factor, x) + _rank(shift, x)


class LayerNorm(nnx.Module):
    """Layer normalisation over the last axis, epsilon 1e-5."""

    def __init__(self, channels: int):
        self.scale = nnx.Param(jnp.ones(channels, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(channels, jnp.float32))

    def __call__(self, x: Float[Array, "*leading C"]) -> Float[Array, "*leading C"]:
        mean = jnp.mean(x, axis=-1, keepdims=True)
        var = jnp.mean(jnp.square(x - mean), axis=-1, keepdims=True)
        normal = (x - mean) * jax.lax.rsqrt(var + LAYER_NORM_EPSILON)
        return affine(normal, self.scale[...], self.bias[...])


def dropout(x: Float[Array, "..."], rate: float, key) -> Float[Array, "..."]:
    """Zeroes a share `rate` of the entries and scales the rest up; `key` None means evaluation: x
    unchanged.
    """
    if key is None or rate == 0:
        return x
    kept = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(kept, x / (1 - rate), 0)


def _rank(vector, like):
    """A vector with the leading axes of `like`: explicit, so rank promotion can stay an error."""
    return vector.reshape((1,) * (like.ndim - 1) + vector.shape)


def _weights(x, weight):
    return jnp.broadcast_to(weight, x.shape[:-1])


def _weighted_sum(x, weight):
    weight = _weights(x, weight).reshape(-1)
    return jnp.matmul(weight, x.reshape(-1, x.shape[-1]), precision=jax.lax.Precision.HIGHEST)
