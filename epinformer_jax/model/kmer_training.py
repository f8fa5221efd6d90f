"""Stem and first convolution from tables of k-mers, in training.

The stem sees `stem_width` bases (8 published), so it gives at most 4^8 different answers, and each
tap of the first convolution is a linear map of one of them. A step therefore computes all of them
once, from the weights of that step, and every position adds up three rows: on CPU that is less work
than convolving as soon as there are clearly more positions than k-mers. Gradients flow back by
adding each position's to its three rows. Windows that are no plain k-mer (element ends, unknown
bases) are further rows of the same table (model/kmers.py), as are all-zero DNA and what lies
outside the model's window. Equal to `Encoder.first_convolution` in value and gradient.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from epinformer_jax.model import kmer_tracks, kmers, layers
from epinformer_jax.model.architecture import EncoderConfig
from epinformer_jax.model.encoder import Background, Encoder, Track
from epinformer_jax.model.kmers import DIGITS, TAPS
from epinformer_jax.model.tracks import Bases

BACKWARD = 2  # gradients cost twice the forward pass
# Measured on two cores (AVX-512): multiplications a nanosecond, and what a position costs for each
# channel, to add up its rows and to add its gradient back.
MACS_PER_NS = 100.0
NS_PER_CHANNEL = 2.4


def first_convolution(
    encoder: Encoder,
    bases: Bases,
    track: Track,
    background: Background,
    *,
    unknown: float,
    unknown_kmers: int,
    dtype: str,
) -> tuple[Track, Background]:
    """What `Encoder.first_convolution` answers to these tracks and to all-zero DNA.

    `bases` have zeros at unknown bases (`tracks.expand` with unknown=0). At most `unknown_kmers`
    windows of the stem within a sequence may hold an unknown base.
    """
    frame, one = kmers.stem_frame(encoder.config), bases.end_to_end()
    length, rows = one.x.shape[1], one.placed.begin.shape[0]
    # one position more on either side, for the convolution's outer taps
    reading = kmer_tracks.read(
        one, frame, length + 2, first=-1, unknown=unknown, unknown_kmers=unknown_kmers
    )
    table = _table(encoder, reading.windows, rows + 1, dtype)
    plain = DIGITS**frame.width
    nothing = plain + len(reading.windows)
    row = jnp.pad(jnp.repeat(one.row_of_block[0], one.stride), 1, constant_values=rows + 1)
    own = jnp.where(row > rows, nothing + rows + 1, nothing + row)  # behind the ends it is outside
    index = jnp.where(reading.index[0] == nothing, own, reading.index[0])
    x = sum_of_taps(table, index).reshape(*bases.x.shape[:2], -1)
    nothing_at_all = background._replace(x=_background(encoder, background, dtype))
    return track._replace(x=x), nothing_at_all


def work_by_table(config: EncoderConfig, positions: int, unknown_kmers: int) -> float:
    """Time of stem and first convolution of a training step with tables, as a share of that of
    convolving, for so many positions; an estimate for CPU.
    """
    inputs, outputs = config.stem_channels, config.channels[0]
    stem, taps = DIGITS * config.stem_width * inputs, TAPS * inputs * outputs
    rows = DIGITS**config.stem_width + unknown_kmers
    convolving = positions * (stem + taps) * (1 + BACKWARD) / MACS_PER_NS
    summing = rows * taps * (1 + BACKWARD) / MACS_PER_NS + positions * outputs * NS_PER_CHANNEL
    return summing / convolving


def _table(
    encoder: Encoder, windows: Float[Array, "M K A"], copies: int, dtype: str
) -> Float[Array, "R O"]:
    """Each tap's answer, one after another, to every k-mer, to the windows, to all-zero DNA, and
    zeros for what lies outside.

    All-zero DNA has `copies`, one for each row that looks it up: the gradients of tens of thousands
    of positions, added up one by one, would lose four digits in float32.
    """
    stem, inputs = encoder.stem, encoder.config.stem_channels
    odd = jnp.matmul(
        windows.reshape(len(windows), -1),
        stem.kernel[...].reshape(-1, inputs),
        precision=jax.lax.Precision.HIGHEST,
    )
    bias = stem.bias[...][None]
    nothing = jnp.broadcast_to(bias, (copies, inputs))
    answers = [kmers.stem_of_all(stem), odd + bias, nothing, jnp.zeros_like(bias)]
    return _taps(encoder, jnp.concatenate(answers), dtype)


def _background(encoder: Encoder, background: Background, dtype: str) -> Float[Array, "1 L C"]:
    """The first convolution of an all-zero row; its first and last position lack a tap."""
    first, second, third = _taps(encoder, encoder.stem.bias[...][None], dtype).reshape(TAPS, 1, -1)
    inner = jnp.broadcast_to(first + second + third, (background.x.shape[1] - 2, first.shape[1]))
    return jnp.concatenate([second + third, inner, first + second])[None]


def _taps(encoder: Encoder, stem: Float[Array, "R C"], dtype: str) -> Float[Array, "R O"]:
    """Each tap's answer to the stem's, before ELU, one tap after another."""
    kernel = encoder.blocks[0].conv.kernel[...]
    taps = jnp.swapaxes(kernel, 0, 1).reshape(kernel.shape[1], -1)
    return jnp.matmul(
        layers.cast(layers.elu(stem), dtype),
        layers.cast(taps, dtype),
        precision=layers.precision_of(dtype),
        preferred_element_type=kernel.dtype,
    )


@jax.custom_vjp
def sum_of_taps(table: Float[Array, "R O"], index: Int[Array, "P"]) -> Float[Array, "Q C"]:
    """For each run of three indices the first one's first tap, the second's second, the third's
    third; of P indices come Q = P - 2 sums.
    """
    by_tap = table.reshape(table.shape[0] * TAPS, -1)
    return sum(by_tap.at[own].get(mode="promise_in_bounds") for own in _tap_rows(index))


def _forward(table, index):
    return sum_of_taps(table, index), (index, jnp.zeros_like(table))


def _backward(saved, gradient):
    # one buffer for all: what differentiating the lookups would give is one for each of them
    index, zeros = saved
    total = zeros.reshape(zeros.shape[0] * TAPS, -1)
    for own in _tap_rows(index):
        total = total.at[own].add(gradient, mode="promise_in_bounds")
    return total.reshape(zeros.shape), None


def _tap_rows(index):
    count = index.shape[0] - TAPS + 1
    return [TAPS * index[tap : tap + count] + tap for tap in range(TAPS)]


sum_of_taps.defvjp(_forward, _backward)
