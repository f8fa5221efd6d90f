"""DeepLIFT's rescale rule for the activity model (Shrikumar et al. 2017, arXiv 1704.02685).

A nonlinearity's multiplier is the change of its output over the change of its input, between a
sequence and its reference; linear layers keep their weights. Multipliers chain like gradients, so
the contributions multiplier x (input - reference) add up to f(input) - f(reference) exactly.

The network runs on pairs, inputs stacked on references along the first axis, and only the backward
pass of its nonlinearities is another one. A pool of two gives the change of its maximum to the
position that holds the larger of the two maxima (in the input or in the reference), which keeps
multipliers between 0 and 1. Attention and LayerNorm have no such rule.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from epinformer_jax.model import functional, layers
from epinformer_jax.model.architecture import ActivityConfig
from epinformer_jax.model.epinformer import Activity
from epinformer_jax.model.functional import Variables

SMALLEST_CHANGE = 1e-6  # below it a nonlinearity's slope at the input stands for the quotient


class Rescaled(NamedTuple):
    """Predictions of inputs and references, and the multiplier of every base."""

    value: Float[Array, "N"]
    reference_value: Float[Array, "N"]
    multipliers: Float[Array, "N L A"]


def rescale(
    config: ActivityConfig,
    variables: Variables,
    bases: Float[Array, "N L A"],
    reference: Float[Array, "N L A"],
) -> Rescaled:
    """Multipliers of `bases` against `reference`, row by row; padding is all-zero in both.

    The sum of multipliers * (bases - reference) over a row is value - reference_value, up to
    rounding.
    """
    model = functional.bind(config, variables)

    def predict(inputs):
        prediction = _one_strand(model, jnp.concatenate([inputs, reference]))
        if config.strands == "both":
            turned = jnp.concatenate([inputs[:, ::-1, ::-1], reference[:, ::-1, ::-1]])
            prediction = (prediction + _one_strand(model, turned)) / 2
        value, reference_value = jnp.split(prediction, 2)
        return value.sum(), (value, reference_value)

    multipliers, (value, reference_value) = jax.grad(predict, has_aux=True)(bases)
    return Rescaled(value, reference_value, multipliers)


def _one_strand(model: Activity, x: Float[Array, "M L A"]) -> Float[Array, "M"]:
    """The activity model with its layers, in evaluation mode; pairs instead of rows."""
    config = model.config
    dtype = config.compute_dtype
    x = _elu(model.encoder.stem(x, same=True, dtype=dtype))
    for block in model.encoder.blocks:
        x = layers.affine(block.conv(x, same=True, dtype=dtype), *block.norm.fixed())
        x = _elu(_max_pool(x))
        x = x + _elu(block.residual(x, dtype))
    for index in range(len(config.mixer_channels)):
        conv, norm = (getattr(model.mixer, f"{name}_{index}") for name in ("conv", "norm"))
        x = _elu(layers.affine(conv(x, same=True, dtype=dtype), *norm.fixed()))
    x = jnp.mean(x, axis=1) if config.pool == "mean" else x.reshape(x.shape[0], -1)
    for index in range(model.head.count):
        dense, norm = (getattr(model.head, f"{name}_{index}") for name in ("dense", "norm"))
        x = _relu(layers.affine(dense(x, dtype), *norm.fixed()))
    return model.head.output(x)[:, 0]


def _on_pairs(function: Callable, slope: Callable) -> Callable:
    """An elementwise function whose backward pass is the rescale rule."""
    apply = jax.custom_vjp(function)

    def forward(pair):
        output = function(pair)
        return output, (pair, output)

    def backward(saved, cotangent):
        (inputs, references), (outputs, reference_outputs) = (jnp.split(s, 2) for s in saved)
        change = inputs - references
        is_small = jnp.abs(change) < SMALLEST_CHANGE
        quotient = (outputs - reference_outputs) / jnp.where(is_small, 1, change)
        multiplier = jnp.where(is_small, slope(inputs), quotient)
        return (_for_inputs(jnp.split(cotangent, 2)[0] * multiplier),)

    apply.defvjp(forward, backward)
    return apply


_elu = _on_pairs(layers.elu, lambda x: jnp.where(x > 0, 1.0, jnp.exp(jnp.minimum(x, 0))))
_relu = _on_pairs(jax.nn.relu, lambda x: jnp.where(x > 0, 1.0, 0.0))


@jax.custom_vjp
def _max_pool(pair: Float[Array, "M L C"]) -> Float[Array, "M K C"]:
    return layers.max_pool(pair)


def _pool_forward(pair):
    return layers.max_pool(pair), pair


def _pool_backward(pair, cotangent):
    length = pair.shape[1]
    even, odd = pair[:, 0 : length // 2 * 2 : 2], pair[:, 1::2]
    (even, even_reference), (odd, odd_reference) = jnp.split(even, 2), jnp.split(odd, 2)
    output, reference_output = jnp.maximum(even, odd), jnp.maximum(even_reference, odd_reference)
    to_even = jnp.where(output >= reference_output, even >= odd, even_reference >= odd_reference)
    change = jnp.where(to_even, even - even_reference, odd - odd_reference)
    is_small = jnp.abs(change) < SMALLEST_CHANGE
    quotient = (output - reference_output) / jnp.where(is_small, 1, change)
    passed = jnp.split(cotangent, 2)[0] * jnp.where(is_small, 1, quotient)
    parts = jnp.stack([jnp.where(to_even, passed, 0), jnp.where(to_even, 0, passed)], axis=2)
    spread = parts.reshape(parts.shape[0], -1, parts.shape[-1])
    spread = jnp.pad(spread, ((0, 0), (0, length - spread.shape[1]), (0, 0)))
    return (_for_inputs(spread),)


_max_pool.defvjp(_pool_forward, _pool_backward)


def _for_inputs(multipliers):
    """The cotangent of a pair: references pass nothing on."""
    return jnp.concatenate([multipliers, jnp.zeros_like(multipliers)])
