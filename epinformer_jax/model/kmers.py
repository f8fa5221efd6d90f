"""The encoder's first block read from tables of k-mers, for fixed weights.

Stem, first convolution, BatchNorm, pooling and the first residual, 83 % of the published network's
work, see `stem_width + 3` bases for each position they give (11 published), and all they give goes
into the second convolution. So one table turns them and that convolution into a lookup: a row for
each k-mer with the answers of the three taps (4^11 x 3 x 64 float32: 3.2 GB). What is no plain
k-mer is computed as ever: windows that reach past an element's end, a fixed number a row, or that
hold an unknown base. Positions that see no element at all have one answer, made once with the
table.

    table = kmers.build(config, variables)
    numbers, known = kmers.numbers_of(bases, kmers.block_frame(config.encoder), positions)
    taps = kmers.take(table.values, numbers)    # where all bases are known

Where that table is too large or too slow to make, `Taps` are the first convolution's three taps
for each k-mer that the stem sees (3 x 4^8 x 128: 100 MB, made in a tenth of a second): the
convolution is a sum of three rows, and what is left of the first block is 6 % of the network.

A k-mer's number reads its bases as digits, A=0 C=1 G=2 T=3, the first one the highest.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from epinformer_jax.model import functional, layers
from epinformer_jax.model.architecture import EncoderConfig, ModelConfig
from epinformer_jax.model.encoder import Background, Encoder, Track, full_rows, with_gaps
from epinformer_jax.model.functional import Variables
from epinformer_jax.model.tracks import Bases

DIGITS = 4
TAPS = 3  # of the first convolution
EXACT_DIGITS = 12  # of a number that float32 holds


class Taps(NamedTuple):
    """The first convolution's taps for one model's weights.

    Attributes:
      values: tap t's answer to the stem's k-mer of number i, as row TAPS * i + t.
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
      nothing: the first block's answer to an all-zero row of the model's window.
    """

    values: Float[Array, "R O3"]
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


class Reading(NamedTuple):
    """How the positions of rows are answered.

    Attributes:
      index: a k-mer's number where all bases are known; 4^width + i for the odd window i; the last
        index, 4^width + M, where no base belongs to the element.
      windows: bases of the odd windows, those of element ends first; some belong to no position.
      row, position: where each odd window stands; a position may lie outside the row.
    """

    index: Int[Array, "N P"]
    windows: Float[Array, "M K A"]
    row: Int[Array, "M"]
    position: Int[Array, "M"]


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
    return rows * (TAPS * second + first // 2) * itemsize


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
    return Table(values, nothing.astype(dtype))


@functools.partial(jax.jit, static_argnums=0)
def build_taps(config: ModelConfig, variables: Variables) -> Taps:
    """Computes the taps of a model."""
    encoder = functional.bind(config, variables).encoder
    dtype = config.compute_dtype
    kernel = encoder.blocks[0].conv.kernel[...]
    answers = jnp.matmul(
        layers.cast(layers.elu(stem_of_all(encoder.stem)), dtype),
        layers.cast(jnp.swapaxes(kernel, 0, 1).reshape(kernel.shape[1], -1), dtype),
        precision=layers.precision_of(dtype),
        preferred_element_type=kernel.dtype,
    )
    return Taps(answers.reshape(-1, kernel.shape[2]), _nothing(config, encoder))


def from_table(
    encoder: Encoder,
    table: Table | Taps,
    bases: Bases,
    track: Track,
    background: Background,
    *,
    unknown: float,
    dtype: str,
    unknown_kmers: int = 0,
) -> tuple[Track, Background]:
    """What leaves the encoder in evaluation mode, its first layers read from the table.

    `bases.x` must be zero at unknown bases (`tracks.expand` with unknown=0). At most
    `unknown_kmers` positions may see an unknown base away from their sequence's ends; the caller
    has to know.
    """
    block, kind = int(isinstance(table, Table)), track.kind
    answers = _answers(encoder, table, bases, unknown, unknown_kmers, dtype)
    answers = answers.astype(bases.x.dtype).reshape(*bases.x.shape[:1], -1, answers.shape[-1])
    background = background._replace(x=table.nothing[None].astype(bases.x.dtype))
    if block:
        conv = encoder.blocks[1].conv
        nothing = _second_taps(encoder, background.x, dtype)
        taps = with_gaps(answers, kind, background._replace(x=nothing))
        track = track._replace(x=sum_of_neighbours(taps, conv.kernel.shape[0]))
        x = conv(background.x, same=True, dtype=dtype)
        background = background._replace(x=x)
        return encoder.from_convolution(1, track, background, train=False, dtype=dtype)
    track = track._replace(x=answers)
    return encoder.from_block(1, track, background, train=False, dtype=dtype)


def _answers(
    encoder: Encoder, table: Table | Taps, bases: Bases, unknown: float, unknown_kmers: int, dtype
) -> Float[Array, "one P C"]:
    """What a table has for every second base, all tracks end to end; anything in gaps."""
    one = bases.end_to_end()
    frame, placed = block_frame(encoder.config), one.placed
    count, size = one.x.shape[1] // frame.stride, DIGITS**frame.width
    reading = read(one, frame, count, unknown=unknown, unknown_kmers=unknown_kmers)
    nowhere = reading.index == size + len(reading.windows)

    def lift(x):
        return _second_taps(encoder, x, dtype) if isinstance(table, Table) else x

    if isinstance(table, Taps):
        # where a base is unknown, anything
        stem = stem_frame(encoder.config)
        stem = stem._replace(lead=stem.lead + 1)
        numbers, _ = numbers_of(one.x, stem, one.x.shape[1] + TAPS - 1)
        x = block_by_taps(encoder, table, numbers, dtype)
    else:
        x = take(table.values, jnp.minimum(reading.index, size - 1))
    middle = lift(table.nothing[table.nothing.shape[0] // 2])
    x = jnp.where(nowhere[..., None], middle[None, None].astype(x.dtype), x)
    # near the ends of the model's window all-zero DNA has answers of its own
    edge = -(-encoder.config.reach_bp // frame.stride)
    length = table.nothing.shape[0]
    ends = jnp.concatenate([jnp.arange(edge), length - 1 - jnp.arange(edge)])
    position = placed.low[:, None] // frame.stride + ends[None]
    is_whole = (placed.start == 0) & (placed.high - placed.low == length * frame.stride)
    is_bare = nowhere[0, jnp.minimum(position, count - 1)] & is_whole[:, None]
    x = _put(x, jnp.where(is_bare, position, count), lift(table.nothing[ends])[None])
    odd = lift(_odd_windows(encoder, reading, one, length * frame.stride, dtype))
    is_used = (placed.weight[reading.row] > 0) & (reading.position >= 0)
    return _put(x, jnp.where(is_used, reading.position, count), odd)


def _put(x: Float[Array, "one P C"], position: Int[Array, "..."], values: Float[Array, "... C"]):
    """Values at positions; those of positions that do not exist are dropped."""
    values = jnp.broadcast_to(values, (*position.shape, x.shape[-1])).astype(x.dtype)
    return x.at[0, position].set(values, mode="drop")


def _second_taps(encoder: Encoder, x: Float[Array, "*N C"], dtype: str) -> Float[Array, "*N D"]:
    """The taps of the second block's convolution, one after another, for the first one's answer."""
    kernel = encoder.blocks[1].conv.kernel[...]
    joined = jnp.swapaxes(kernel, 0, 1).reshape(kernel.shape[1], -1)
    return jnp.matmul(
        layers.cast(x, dtype),
        layers.cast(joined, dtype),
        precision=layers.precision_of(dtype),
        preferred_element_type=kernel.dtype,
    )


def sum_of_neighbours(taps: Float[Array, "N P K"], count: int) -> Float[Array, "N P O"]:
    """A convolution of `count` taps, odd, from each position's tap answers, one after another;
    nothing lies before and behind.
    """
    outputs, reach = taps.shape[2] // count, count // 2
    padded = jnp.pad(taps, ((0, 0), (reach, reach), (0, 0)))
    length = taps.shape[1]
    return sum(
        padded[:, tap : tap + length, tap * outputs : (tap + 1) * outputs] for tap in range(count)
    )


def read(
    bases: Bases, frame: Frame, count: int, *, first: int = 0, unknown: float, unknown_kmers: int
) -> Reading:
    """Finds the k-mer, or the odd window, of positions first .. first + count - 1 of a single
    track. In gaps, positions hold no base.

    At most `unknown_kmers` of them may hold an unknown base and lie within their sequence; what is
    answered beyond that number is wrong.
    """
    placed, rows = bases.placed, bases.placed.begin.shape[0]
    begin, end = placed.begin, placed.begin + placed.length
    per_end = frame.end_positions
    # the first position that sees a base at, and one before, either end
    left, right = ((at + frame.lead - frame.width) // frame.stride + 1 for at in (begin, end))
    at_ends = jnp.stack([side[:, None] + jnp.arange(per_end)[None] for side in (left, right)], 1)
    place = first + jnp.arange(count)
    first_base = place * frame.stride - frame.lead
    blocks = bases.row_of_block.shape[1]
    row_of = bases.row_of_block[0, jnp.clip(place * frame.stride // bases.stride, 0, blocks - 1)]
    nowhere = -(2**30)  # of a gap's ends

    def here(values, gap=nowhere):
        return jnp.append(values, jnp.full(2, gap, values.dtype))[row_of]

    holds_base = (first_base + frame.width > here(begin)) & (first_base < here(end))
    shifted = frame._replace(lead=frame.lead - first * frame.stride)
    numbers, is_known = (found[0] for found in numbers_of(bases.x, shifted, count))
    from_left, from_right = place - here(left), place - here(right)
    is_left = (from_left >= 0) & (from_left < per_end)
    is_right = (from_right >= 0) & (from_right < per_end)
    own = jnp.where(is_left, from_left, jnp.where(is_right, from_right + per_end, 0))
    slot = row_of * (2 * per_end) + own
    row = jnp.repeat(jnp.arange(rows), 2 * per_end)
    position = at_ends.reshape(-1)
    if unknown_kmers:
        is_inner = holds_base & ~is_known & ~is_left & ~is_right
        rank = jnp.cumsum(is_inner) - 1
        slot = jnp.where(is_inner, len(row) + jnp.minimum(rank, unknown_kmers - 1), slot)
        (inner,) = jnp.nonzero(is_inner, size=unknown_kmers, fill_value=-1)
        row = jnp.concatenate([row, jnp.where(inner < 0, 0, row_of[inner])])
        position = jnp.concatenate([position, jnp.where(inner < 0, -1, first + inner)])
    size = DIGITS**frame.width
    index = jnp.where(is_known, numbers, size + slot)
    index = jnp.where(holds_base, index, size + len(row))
    windows = _windows(bases, frame, row, position, unknown)
    return Reading(index[None], windows, row, position)


def numbers_of(
    bases: Float[Array, "N L A"], frame: Frame, count: int
) -> tuple[Int[Array, "N P"], Bool[Array, "N P"]]:
    """Number of each position's k-mer (its unknown bases read as A), and whether all are known.

    A convolution whose floats are exact: the first bases have a sum of their own.
    """
    digit = jnp.matmul(bases, jnp.arange(DIGITS, dtype=bases.dtype))
    known = jnp.any(bases > 0, axis=-1)
    after = (count - 1) * frame.stride + frame.width - frame.lead - bases.shape[1]
    last = min(frame.width, EXACT_DIGITS)
    kernel = np.zeros((frame.width, 2, 3), np.float32)
    kernel[-last:, 0, 0] = DIGITS ** np.arange(last - 1, -1, -1)
    kernel[:-last, 0, 1] = DIGITS ** np.arange(frame.width - last - 1, -1, -1)
    kernel[:, 1, 2] = 1
    found = jax.lax.conv_general_dilated(
        jnp.stack([digit, known], axis=-1).astype(jnp.float32),
        kernel,
        (frame.stride,),
        [(frame.lead, after)],
        dimension_numbers=("NWC", "WIO", "NWC"),
        precision=jax.lax.Precision.HIGHEST,
    )
    number = found[..., :2].astype(jnp.int32)
    return number[..., 0] + number[..., 1] * DIGITS**last, found[..., 2] == frame.width


def _windows(bases: Bases, frame: Frame, row, position, unknown: float) -> Float[Array, "M K A"]:
    """Bases that a position of a sequence sees: 0 outside of it, `unknown` where unknown."""
    base = position[:, None] * frame.stride - frame.lead + jnp.arange(frame.width)[None]
    begin, length = bases.placed.begin[row][:, None], bases.placed.length[row][:, None]
    inside = (base >= begin) & (base < begin + length)
    found = bases.x[0, jnp.clip(base, 0, bases.x.shape[1] - 1)]
    is_unknown = ~jnp.any(found > 0, axis=-1)
    found = jnp.where(is_unknown[..., None], jnp.asarray(unknown, found.dtype), found)
    return jnp.where(inside[..., None], found, 0)


def block_by_taps(
    encoder: Encoder, taps: Taps, numbers: Int[Array, "N K"], dtype: str
) -> Float[Array, "N P C"]:
    """The first block from the k-mers of consecutive stem positions, one more on either side than
    positions that are answered: P = (K - 2) / 2.
    """
    count = numbers.shape[1] - TAPS + 1
    y = sum(take(taps.values, TAPS * numbers[:, tap : tap + count] + tap) for tap in range(TAPS))
    block = encoder.blocks[0]
    return block.finish(y, *block.norm.fixed(), dtype)


def _odd_windows(
    encoder: Encoder, reading: Reading, bases: Bases, window_bp: int, dtype: str
) -> Float[Array, "M C"]:
    block, placed = encoder.blocks[0], bases.placed
    x = layers.elu(encoder.stem(reading.windows, same=False, dtype=dtype))
    # a position sees the stem at 2 q - 1 .. 2 q + 2; past the model's window that is zero
    ahead = (placed.start - placed.low)[reading.row]
    place = (ahead + 2 * reading.position - 1)[:, None] + jnp.arange(x.shape[1])[None]
    x = jnp.where(((place >= 0) & (place < window_bp))[..., None], x, 0)
    x = block.conv(x, same=False, dtype=dtype)
    return block.finish(x, *block.norm.fixed(), dtype)[:, 0]


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
    kernel = stem.kernel[...]
    width, channels = kernel.shape[0], kernel.shape[2]
    place = DIGITS ** jnp.arange(width - 1, -1, -1)
    digits = jnp.arange(DIGITS**width)[:, None] // place[None] % DIGITS
    bases = jax.nn.one_hot(digits, DIGITS, dtype=kernel.dtype).reshape(len(digits), -1)
    # a product, though it is a sum of few rows: its gradient is one too, and fast
    total = jnp.matmul(bases, kernel.reshape(-1, channels), precision=jax.lax.Precision.HIGHEST)
    return total + stem.bias[...][None]


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
    kernel = encoder.blocks[1].conv.kernel[...]
    taps = jnp.matmul(
        layers.cast(answer, dtype),
        layers.cast(jnp.swapaxes(kernel, 0, 1).reshape(channels, -1), dtype),
        precision=layers.precision_of(dtype),
        preferred_element_type=kernel.dtype,
    )
    return jax.lax.dynamic_update_slice(values, taps.astype(values.dtype), (part * size, 0))


def take(values: Float[Array, "R C"], numbers: Int[Array, "*N"]) -> Float[Array, "*N C"]:
    """Rows of a table; all numbers must be rows."""
    return values.at[numbers].get(mode="promise_in_bounds")
