"""The encoder's first block read from tables of k-mers, for fixed weights.

Stem, first convolution, BatchNorm, pooling and the first residual, 83 % of the published network's
work, see `stem_width + 3` bases for each position they give (11 published), and all they give goes
into the second convolution. So one table turns them and that convolution into a lookup: a row for
each k-mer with the answers of the three taps (4^11 x 3 x 64 float32: 3.2 GB). Positions that see no
element at all have one answer, made once with the table.

    table = kmers.build(config, variables)
    numbers, known = kmers.numbers_of(bases, kmers.block_frame(config.encoder), positions)
    taps = kmers.take(table.values, numbers)    # where all bases are known

Where that table is too large or too slow to make, `Taps` are the first convolution's three taps
for each k-mer that the stem sees, and for each part of one that an element's end leaves (179 MB
for 4^8 k-mers and 50,961 parts of them, made in a quarter of a second): the convolution is a sum of
three rows, and what is left of the first block is 6 % of the network. They answer for the table's
few positions at ends, too.

A k-mer's number reads its bases as digits, A=0 C=1 G=2 T=3, the first one the highest. A part's
does the same with those that are left, behind all k-mers and shorter parts' numbers.
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from epinformer_jax.model import functional, layers
from epinformer_jax.model.architecture import EncoderConfig, ModelConfig
from epinformer_jax.model.encoder import Encoder, full_rows
from epinformer_jax.model.functional import Variables

DIGITS = 4
TAPS = 3  # of the first convolution
PRECISION = jax.lax.Precision.HIGHEST


class Taps(NamedTuple):
    """The first convolution's taps for one model's weights.

    Attributes:
      values: tap t's answer to the stem's k-mer or part of number i, as row TAPS * i + t; the last
        rows are zeros, for what lies outside the model's window.
      nothing: the first block's answer to an all-zero row of the model's window.
    """

    values: Float[Array, "R C"]
    nothing: Float[Array, "P C"]


class Table(NamedTuple):
    """The second convolution's taps for one model's weights: what goes into that convolution alone,
    the first block's answers, need not be kept.

    Attributes:
      values: a row for each k-mer that the first block sees, in the order of their numbers; tap t's
        answer, before BatchNorm, in columns t * O to (t + 1) * O.
      parts: those of `Taps`.
      nothing: the first block's answer to an all-zero row of the model's window.
    """

    values: Float[Array, "R O3"]
    parts: Float[Array, "S D"]
    nothing: Float[Array, "P C"]


class Frame(NamedTuple):
    """Which bases a position sees: `width` of them, from base position * stride - lead on."""

    width: int
    stride: int
    lead: int

    @property
    def end_positions(self) -> int:
        """Most positions whose bases lie on both sides of one end of an element."""
        return -(-(self.width - 1) // self.stride)


def block_frame(config: EncoderConfig) -> Frame:
    """What a position that leaves the first block sees."""
    return Frame(config.stem_width + 3, 2, (config.stem_width - 1) // 2 + 1)


def stem_frame(config: EncoderConfig) -> Frame:
    """What a position of the stem sees."""
    return Frame(config.stem_width, 1, (config.stem_width - 1) // 2)


def has_table(config: EncoderConfig) -> bool:
    """Whether `build` makes a table for such an encoder."""
    return config.stem_width > 1 and len(config.channels) > 1


def table_bytes(config: EncoderConfig, itemsize: int = 4) -> int:
    """Memory that `build` needs at its peak, for an encoder that `has_table`: the table, and the
    sums it is made of.
    """
    rows = DIGITS ** block_frame(config).width
    first, second = config.channels[:2]
    parts = (int(part_offsets(config.stem_width)[0, 0]) + 2) * TAPS * first
    return (rows * (TAPS * second + first // 2) + parts) * itemsize


def build(config: ModelConfig, variables: Variables, dtype: str | None = None) -> Table:
    """Computes the table of a model, whose first block is the same for every window.

    `dtype` bfloat16 halves it, at a relative error of 2^-9; otherwise it is the weights' own.

    Raises:
      ValueError: the stem is a single base wide, or there is no second block.
    """
    if not has_table(config.encoder):
        raise ValueError(
            f"stem_width={config.encoder.stem_width}, channels={config.encoder.channels}: k-mer "
            "tables need a stem of 2 bases or more and 2 blocks or more"
        )
    sums, nothing = _sums(config, variables)
    dtype = sums.dtype if dtype is None else dtype
    rows = sums.shape[0] * DIGITS
    values = jnp.zeros((rows, TAPS * config.encoder.channels[1]), dtype)
    for part in range(DIGITS**2):
        values = _fill(config, variables, values, sums, part)
    parts = build_taps(config, variables).values
    return Table(values, parts.astype(dtype), nothing.astype(dtype))


@functools.partial(jax.jit, static_argnums=0)
def build_taps(config: ModelConfig, variables: Variables) -> Taps:
    """Computes the taps of a model."""
    encoder = functional.bind(config, variables).encoder
    dtype = config.compute_dtype
    kernel = encoder.blocks[0].conv.kernel[...]
    stem = [_stem_of(encoder.stem, digits) for digits in _digits_of_parts(encoder.stem.width)]
    answers = jnp.matmul(
        layers.cast(layers.elu(jnp.concatenate(stem)), dtype),
        layers.cast(jnp.swapaxes(kernel, 0, 1).reshape(kernel.shape[1], -1), dtype),
        precision=layers.precision_of(dtype),
        preferred_element_type=kernel.dtype,
    )
    values = answers.reshape(-1, kernel.shape[2])
    return Taps(jnp.pad(values, ((0, TAPS), (0, 0))), _nothing(config, encoder))


def part_offsets(width: int) -> Int[np.ndarray, "W W"]:
    """The number of the first part that begins with a k-mer's base a and ends before its base b, as
    [a, b]; k-mers themselves come first, what holds no base last.
    """
    found, total = np.zeros((width + 1, width + 1), np.int32), 0
    for length in range(width, 0, -1):
        for first in range(width - length + 1):
            found[first, first + length] = total
            total += DIGITS**length
    first, end = np.indices(found.shape)
    return np.where(first < end, found, total).astype(np.int32)


def part_numbers(
    numbers: Int[Array, "*N"], first: Int[Array, "*N"], end: Int[Array, "*N"], width: int
) -> Int[Array, "*N"]:
    """Numbers of what a sequence leaves of k-mers: `numbers` read bases outside of it as A; the
    sequence begins with a k-mer's base `first` and ends before its base `end`.
    """
    first, end = jnp.clip(first, 0, width), jnp.clip(end, 0, width)
    offset = jnp.asarray(part_offsets(width).ravel())[first * (width + 1) + end]
    return kept_sum(offset, numbers >> (2 * (width - end)))


def kept_sum(first: Int[Array, "*N"], second: Int[Array, "*N"]) -> Int[Array, "*N"]:
    """A sum as a product, because its result is kept: what is merely added up, a compiler adds up
    again for each channel of the rows that are looked up.
    """
    both = jnp.stack([first, second], axis=-1)
    return jnp.matmul(both, jnp.ones(2, both.dtype))


def window_parts(
    config: EncoderConfig, bases: Float[Array, "N L A"]
) -> tuple[Int[Array, "N K"], Int[Array, "N K"]]:
    """What the stem sees of sequences in the model's window, all bases known and the rest zeros:
    numbers of k-mers or parts at each position and one more on either side (K = L + 2), and before
    which of a k-mer's bases the sequence ends there.
    """
    frame, length = stem_frame(config), bases.shape[1]
    wider = frame._replace(lead=frame.lead + 1)
    numbers, _ = numbers_of(bases, wider, length + 2)
    held = jnp.any(bases > 0, axis=-1)
    begin, behind = (jnp.argmax(side, axis=1)[:, None] for side in (held, held[:, ::-1]))
    first_base = jnp.arange(length + 2)[None] - wider.lead
    stop = jnp.where(held.any(axis=1)[:, None], length - behind, begin)
    end = jnp.clip(stop - first_base, 0, frame.width)
    found = part_numbers(numbers, begin - first_base, end, frame.width)
    is_in = (np.arange(length + 2) > 0) & (np.arange(length + 2) <= length)
    return jnp.where(is_in[None], found, outside(frame.width)), end


def outside(width: int) -> int:
    """The number, among those of parts, of a position outside the model's window."""
    return int(part_offsets(width)[0, 0]) + 1


def second_taps(encoder: Encoder, x: Float[Array, "*N C"], dtype: str) -> Float[Array, "*N D"]:
    """The taps of the second block's convolution, one after another, for the first one's answer."""
    kernel = encoder.blocks[1].conv.kernel[...]
    joined = jnp.swapaxes(kernel, 0, 1).reshape(kernel.shape[1], -1)
    return jnp.matmul(
        layers.cast(x, dtype),
        layers.cast(joined, dtype),
        precision=layers.precision_of(dtype),
        preferred_element_type=kernel.dtype,
    )


def numbers_of(
    bases: Float[Array, "N L A"], frame: Frame, count: int
) -> tuple[Int[Array, "N P"], Bool[Array, "N P"]]:
    """Number of each position's k-mer (its unknown bases read as A), and whether all are known."""
    digit = jnp.matmul(bases, jnp.arange(DIGITS, dtype=bases.dtype)).astype(jnp.int32)
    known = jnp.any(bases > 0, axis=-1)
    last = (count - 1) * frame.stride + 1
    after = last + frame.width - 1 - frame.lead - bases.shape[1]
    ends = [(0, 0, 0), (frame.lead, after, 0)]  # negative ones cut
    digit, known = (jax.lax.pad(x, jnp.zeros((), x.dtype), ends) for x in (digit, known))

    def seen(values, offset):
        return jax.lax.slice_in_dim(values, offset, offset + last, frame.stride, axis=1)

    number, is_known = seen(digit, 0), seen(known, 0)
    for offset in range(1, frame.width):
        number = number * DIGITS + seen(digit, offset)
        is_known &= seen(known, offset)
    return number, is_known


def block_by_taps(
    encoder: Encoder, taps: Float[Array, "R C"], numbers: Int[Array, "N K"], dtype: str
) -> Float[Array, "N P C"]:
    """The first block from the k-mers, or parts, of consecutive stem positions, one more on either
    side than positions that are answered: P = (K - 2) / 2. `taps` are the values of `Taps`.
    """
    block = encoder.blocks[0]
    return block.finish(convolution_by_taps(taps, numbers), *block.norm.fixed(), dtype)


def convolution_by_taps(
    taps: Float[Array, "R C"], numbers: Int[Array, "N K"]
) -> Float[Array, "N _K C"]:
    """The first block's convolution, for all but the first and the last of K stem positions."""
    count = numbers.shape[1] - TAPS + 1
    return sum(take(taps, TAPS * numbers[:, tap : tap + count] + tap) for tap in range(TAPS))


@functools.partial(jax.jit, static_argnums=0)
def _sums(config: ModelConfig, variables: Variables):
    """The first convolution, normalised, of all (width - 1)-mers, and the answer to no base.

    A convolution's answer is the sum of its taps', and each tap sees a stem of its own.
    """
    encoder = functional.bind(config, variables).encoder
    block, dtype = encoder.blocks[0], config.compute_dtype
    scaling = block.norm.fixed()
    kernel = block.conv.kernel[...]
    stem = layers.elu(stem_of_all(encoder.stem))
    first, second, third = (
        jnp.matmul(
            layers.cast(stem, dtype),
            layers.cast(tap, dtype),
            precision=layers.precision_of(dtype),
            preferred_element_type=kernel.dtype,
        )
        for tap in kernel
    )
    channels = kernel.shape[2]
    middle = DIGITS ** (config.encoder.stem_width - 2)
    total = (
        first.reshape(DIGITS, DIGITS, middle, 1, 1, channels)
        + second.reshape(1, DIGITS, middle, DIGITS, 1, channels)
        + third.reshape(1, 1, middle, DIGITS, DIGITS, channels)
    )
    return layers.affine(total.reshape(-1, channels), *scaling), _nothing(config, encoder)


def _nothing(config: ModelConfig, encoder: Encoder) -> Float[Array, "P C"]:
    """The first block's answer to no base."""
    block, dtype = encoder.blocks[0], config.compute_dtype
    nothing = jnp.zeros((1, config.window_bp, 4), block.conv.kernel.dtype)
    rows, _ = encoder.first_convolution(full_rows(nothing), None, dtype=dtype)
    return block.finish(rows.x, *block.norm.fixed(), dtype)[0]


def stem_of_all(stem: layers.Conv) -> Float[Array, "R C"]:
    """The stem's answer, before ELU, to every k-mer of its width."""
    place = DIGITS ** jnp.arange(stem.width - 1, -1, -1)
    return _stem_of(stem, jnp.arange(DIGITS**stem.width)[:, None] // place[None] % DIGITS)


def _stem_of(stem: layers.Conv, digits: Int[Array, "R K"]) -> Float[Array, "R C"]:
    """The stem's answer to bases given as digits; a negative one is none."""
    kernel = stem.kernel[...]
    bases = jax.nn.one_hot(digits, DIGITS, dtype=kernel.dtype).reshape(len(digits), -1)
    # a product, though it is a sum of few rows: its gradient is one too, and fast
    total = jnp.matmul(bases, kernel.reshape(-1, kernel.shape[2]), precision=PRECISION)
    return total + stem.bias[...][None]


def _digits_of_parts(width: int) -> Iterator[Int[Array, "R K"]]:
    """The bases of all parts in the order of their numbers, -1 where there is none."""
    for length in range(width, -1, -1):
        place = DIGITS ** jnp.arange(length - 1, -1, -1)
        digits = jnp.arange(DIGITS**length)[:, None] // place[None] % DIGITS
        for first in range(width - length + 1 if length else 1):
            ends = (0, 0), (first, width - length - first)
            yield jnp.pad(digits, ends, constant_values=-1)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _fill(config: ModelConfig, variables: Variables, values, sums, part):
    """Rows of the table whose first two bases are `part`, from the sums of both pooled positions:
    the first lacks the k-mer's last base, the second its first.
    """
    encoder, dtype = functional.bind(config, variables).encoder, config.compute_dtype
    channels = sums.shape[1]
    size = values.shape[0] // DIGITS**2
    count = size // DIGITS
    first = jax.lax.dynamic_slice_in_dim(sums, part * count, count)[:, None]
    second = jax.lax.dynamic_slice_in_dim(sums, (part % DIGITS) * size, size)
    second = second.reshape(count, DIGITS, channels)
    pooled = layers.elu(jnp.where(first >= second, first, second)).reshape(-1, channels)
    answer = encoder.blocks[0].with_residual(pooled, dtype)
    taps = second_taps(encoder, answer, dtype)
    return jax.lax.dynamic_update_slice(values, taps.astype(values.dtype), (part * size, 0))


def take(values: Float[Array, "R C"], numbers: Int[Array, "*N"]) -> Float[Array, "*N C"]:
    """Rows of a table; all numbers must be rows."""
    return values.at[numbers].get(mode="promise_in_bounds")
