"""Tracks read from tables of k-mers (model/kmers.py): in evaluation, for fixed weights, and where a
training step's tables are read (model/kmer_training.py).

What is no plain k-mer is computed as ever: positions that reach past a sequence's end, a fixed
number each, or that see an unknown base. Positions that see no sequence have the background's
answer.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from epinformer_jax.model import kmers, layers
from epinformer_jax.model.encoder import NOTHING, Background, Encoder, Track
from epinformer_jax.model.kmers import DIGITS, TAPS, Frame, Table, Taps
from epinformer_jax.model.tracks import Bases


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
    one, shape = bases.end_to_end(), (bases.x.shape[0], -1)
    index, others = _index(encoder, table, one, track, unknown, unknown_kmers, dtype)
    background = background._replace(x=table.nothing[None].astype(bases.x.dtype))
    if isinstance(table, Table):
        others = kmers.second_taps(encoder, others, dtype)
        x = _sum_of_taps(table.values, others, index, encoder.blocks[1].conv.kernel.shape[2])
        track = track._replace(x=x.astype(bases.x.dtype).reshape(*shape, x.shape[-1]))
        x = encoder.blocks[1].conv(background.x, same=True, dtype=dtype)
        background = background._replace(x=x)
        return encoder.from_convolution(1, track, background, train=False, dtype=dtype)
    # where a base is unknown, anything
    stem = kmers.stem_frame(encoder.config)
    stem = stem._replace(lead=stem.lead + 1)
    numbers, _ = kmers.numbers_of(one.x, stem, one.x.shape[1] + TAPS - 1)
    x = kmers.block_by_taps(encoder, table, numbers, dtype)[0]
    size = DIGITS ** kmers.block_frame(encoder.config).width
    other = kmers.take(others, jnp.maximum(index - size, 0))
    x = jnp.where((index < size)[:, None], x, other.astype(x.dtype))
    track = track._replace(x=x.astype(bases.x.dtype).reshape(*shape, x.shape[-1]))
    return encoder.from_block(1, track, background, train=False, dtype=dtype)


def _index(
    encoder: Encoder,
    table: Table | Taps,
    bases: Bases,
    track: Track,
    unknown: float,
    unknown_kmers: int,
    dtype: str,
) -> tuple[Int[Array, "P"], Float[Array, "M C"]]:
    """For every second base of a single track: its k-mer's number, or 4^width + the row of the
    other answers of the first block, which follow: to odd windows, to no base, zeros for what lies
    past the ends of the model's window, and to no base near them.
    """
    frame, placed = kmers.block_frame(encoder.config), bases.placed
    count, size = bases.x.shape[1] // frame.stride, DIGITS**frame.width
    reading = read(bases, frame, count, unknown=unknown, unknown_kmers=unknown_kmers)
    nowhere = size + len(reading.windows)
    kind = jnp.repeat(track.kind.reshape(-1), bases.stride // frame.stride)
    index = jnp.where(kind == NOTHING, nowhere + 1, reading.index[0])
    edge = -(-encoder.config.reach_bp // frame.stride)
    length = table.nothing.shape[0]
    ends = jnp.concatenate([jnp.arange(edge), length - 1 - jnp.arange(edge)])
    position = placed.low[:, None] // frame.stride + ends[None]
    is_whole = placed.high - placed.low == length * frame.stride
    is_bare = (index[jnp.minimum(position, count - 1)] == nowhere) & is_whole[:, None]
    near_ends = jnp.broadcast_to(nowhere + 2 + jnp.arange(len(ends))[None], position.shape)
    index = index.at[jnp.where(is_bare, position, count)].set(near_ends, mode="drop")
    odd = _odd_windows(encoder, reading, bases, length * frame.stride, dtype)
    nothing = table.nothing.astype(odd.dtype)
    middle = nothing[length // 2][None]
    return index, jnp.concatenate([odd, middle, jnp.zeros_like(middle), nothing[ends]])


def _sum_of_taps(
    values: Float[Array, "R K"], others: Float[Array, "M K"], index: Int[Array, "P"], outputs: int
) -> Float[Array, "P O"]:
    """A convolution from its taps' answers to each position, one after another in rows of the two
    tables; nothing lies before and behind.
    """
    size, count = len(values), values.shape[1] // outputs
    of_table, of_others = values.reshape(-1, outputs), others.reshape(-1, outputs)
    outside = size + len(others)
    of_others = jnp.concatenate([of_others, jnp.zeros((count, outputs), others.dtype)])
    padded = jnp.pad(index, count // 2, constant_values=outside)
    total = 0
    for tap in range(count):
        row = padded[tap : tap + len(index)]
        own = kmers.take(of_table, count * jnp.minimum(row, size - 1) + tap)
        other = kmers.take(of_others, count * jnp.maximum(row - size, 0) + tap)
        total = total + jnp.where((row < size)[:, None], own.astype(other.dtype), other)
    return total


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
    numbers, is_known = (found[0] for found in kmers.numbers_of(bases.x, shifted, count))
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


def _windows(bases: Bases, frame: Frame, row, position, unknown: float) -> Float[Array, "M K A"]:
    """Bases that a position of a sequence sees: 0 outside of it, `unknown` where unknown."""
    base = position[:, None] * frame.stride - frame.lead + jnp.arange(frame.width)[None]
    begin, length = bases.placed.begin[row][:, None], bases.placed.length[row][:, None]
    inside = (base >= begin) & (base < begin + length)
    found = bases.x[0, jnp.clip(base, 0, bases.x.shape[1] - 1)]
    is_unknown = ~jnp.any(found > 0, axis=-1)
    found = jnp.where(is_unknown[..., None], jnp.asarray(unknown, found.dtype), found)
    return jnp.where(inside[..., None], found, 0)


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
