"""Tracks read from tables of k-mers (model/kmers.py): in evaluation, for fixed weights, and where a
training step's tables are read (model/kmer_training.py).

In evaluation all bases of sequences are known. Positions that reach past a sequence's end, a fixed
number each, see parts of k-mers, which the stem's taps have answers for. In training such windows,
and those with an unknown base, are computed as ever. Positions that see no sequence have the
background's answer.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from epinformer_jax.model import kmers
from epinformer_jax.model.encoder import NOTHING, Background, Encoder, Track
from epinformer_jax.model.kmers import DIGITS, TAPS, Frame, Table, Taps
from epinformer_jax.model.tracks import Bases

NOWHERE = -(2**30)  # where the sequence of a gap begins and ends


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
    dtype: str,
) -> tuple[Track, Background]:
    """What leaves the encoder in evaluation mode, its first layers read from the table. All bases
    of sequences must be known.
    """
    one, shape = bases.end_to_end(), (bases.x.shape[0], -1)
    background = background._replace(x=table.nothing[None].astype(bases.x.dtype))
    if isinstance(table, Taps):
        numbers = _stem_numbers(encoder, one)[None]
        x = kmers.block_by_taps(encoder, table.values, numbers, dtype)[0]
        track = track._replace(x=x.astype(bases.x.dtype).reshape(*shape, x.shape[-1]))
        return encoder.from_block(1, track, background, train=False, dtype=dtype)
    index, others = _index(encoder, table, one, track, dtype)
    others = kmers.second_taps(encoder, others, dtype)
    x = _sum_of_taps(table.values, others, index, encoder.blocks[1].conv.kernel.shape[2])
    track = track._replace(x=x.astype(bases.x.dtype).reshape(*shape, x.shape[-1]))
    x = encoder.blocks[1].conv(background.x, same=True, dtype=dtype)
    background = background._replace(x=x)
    return encoder.from_convolution(1, track, background, train=False, dtype=dtype)


def _stem_numbers(encoder: Encoder, bases: Bases) -> Int[Array, "K"]:
    """Number of the k-mer, or part of one, of each stem position of a single track and of one more
    on either side.
    """
    frame, placed = kmers.stem_frame(encoder.config), bases.placed
    length, rows = bases.x.shape[1], placed.begin.shape[0]
    wider = frame._replace(lead=frame.lead + 1)
    numbers, _ = kmers.numbers_of(bases.x, wider, length + 2)
    row = jnp.pad(jnp.repeat(bases.row_of_block[0], bases.stride), 1, constant_values=rows + 1)
    first_base = jnp.arange(length + 2) - wider.lead
    begin, end = (
        jnp.append(at, jnp.full(2, NOWHERE, at.dtype))[row] - first_base
        for at in (placed.begin, placed.begin + placed.length)
    )
    found = kmers.part_numbers(numbers[0], begin, end, frame.width)
    return jnp.where(row > rows, kmers.outside(frame.width), found)


def _index(
    encoder: Encoder, table: Table, bases: Bases, track: Track, dtype: str
) -> tuple[Int[Array, "P"], Float[Array, "M C"]]:
    """For every second base of a single track: its k-mer's number, or 4^width + the row of the
    other answers of the first block, which follow: to windows at ends, to no base, zeros for what
    lies past the ends of the model's window, and to no base near them.
    """
    frame, placed = kmers.block_frame(encoder.config), bases.placed
    count, size = bases.x.shape[1] // frame.stride, DIGITS**frame.width
    reading = read(bases, frame, count, unknown=0.0, unknown_kmers=0)
    nowhere = size + len(reading.row)
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
    odd = _at_ends(encoder, table.parts, reading, bases, length * frame.stride, dtype)
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

    def here(values):
        return jnp.append(values, jnp.full(2, NOWHERE, values.dtype))[row_of]

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


def _at_ends(
    encoder: Encoder,
    parts: Float[Array, "R C"],
    reading: Reading,
    bases: Bases,
    window_bp: int,
    dtype: str,
) -> Float[Array, "M C"]:
    """The first block's answers to the windows of a reading, from what they leave of the stem's
    k-mers.
    """
    frame, placed = kmers.stem_frame(encoder.config), bases.placed
    # a position sees the stem at 2 q - 1 .. 2 q + 2; past the model's window that is zero
    place = 2 * reading.position[:, None] - 1 + jnp.arange(TAPS + 1)[None]
    ahead = (placed.start - placed.low)[reading.row][:, None]
    inside = (ahead + place >= 0) & (ahead + place < window_bp)
    first_base = place - frame.lead
    begin = placed.begin[reading.row][:, None]
    end = begin + placed.length[reading.row][:, None]
    base = first_base[..., None] + jnp.arange(frame.width)[None, None]
    digit = jnp.matmul(bases.x[0], jnp.arange(DIGITS, dtype=bases.x.dtype)).astype(jnp.int32)
    digit = digit[jnp.clip(base, 0, len(digit) - 1)]
    digit = jnp.where((base >= begin[..., None]) & (base < end[..., None]), digit, 0)
    numbers = jnp.sum(digit * DIGITS ** jnp.arange(frame.width - 1, -1, -1)[None, None], axis=-1)
    found = kmers.part_numbers(numbers, begin - first_base, end - first_base, frame.width)
    found = jnp.where(inside, found, kmers.outside(frame.width))
    return kmers.block_by_taps(encoder, parts, found, dtype)[:, 0].astype(bases.x.dtype)
