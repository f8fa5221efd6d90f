"""Sequences on tracks, device side: nibbles become bases there, turn around and move.

The host side, which lays tracks out, is data/batches.py; nothing is imported from there.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from epinformer_jax.model.architecture import ExpressionConfig
from epinformer_jax.model.encoder import BACKGROUND, NOTHING, WINDOW, Background, Track
from epinformer_jax.model.epinformer import Behind


class Tracks(NamedTuple):
    """Tracks of sequences, M in all, two bases a byte (low nibble first; A=1 C=2 G=4 T=8, 0 unknown
    or none), and their places behind the encoder.

    Attributes:
      nibbles: the bases.
      row_of_block: whose window a block belongs to; M in a gap of all-zero DNA, M + 1 in one of
        nothing, as past the ends of the model's window.
      block: of each place, the block of its track that it takes; the number of blocks where that is
        the background.
      row, position: of each place, whose it is (M: nobody's) and for which of the row's positions
        it stands.
    """

    nibbles: UInt8[Array, "N H"]
    row_of_block: Int[Array, "N Q"]
    block: Int[Array, "N P"]
    row: Int[Array, "N P"]
    position: Int[Array, "N P"]


class Placed(NamedTuple):
    """Where sequences stand, bases counted from the beginning of their track.

    Attributes:
      track: which one.
      begin, length: the sequence itself.
      low, high: its window.
      start: first base of the window in the model's.
      first, last: first position behind the encoder that has a place, and one behind the last.
      weight: 1 for a sequence, 0 for filler.
    """

    track: Int[Array, "M"]
    begin: Int[Array, "M"]
    length: Int[Array, "M"]
    low: Int[Array, "M"]
    high: Int[Array, "M"]
    start: Int[Array, "M"]
    first: Int[Array, "M"]
    last: Int[Array, "M"]
    weight: Float[Array, "M"]


class Bases(NamedTuple):
    """Tracks as soft one-hot, zero wherever there is no known base."""

    x: Float[Array, "N L A"]
    row_of_block: Int[Array, "N Q"]
    placed: Placed

    @property
    def stride(self) -> int:
        """Bases of a block."""
        return self.x.shape[1] // self.row_of_block.shape[1]

    def end_to_end(self) -> "Bases":
        """The same as a single track."""
        ahead = self.placed.track * self.x.shape[1]
        places = {name: getattr(self.placed, name) + ahead for name in ("begin", "low", "high")}
        placed = self.placed._replace(track=jnp.zeros_like(ahead), **places)
        x = self.x.reshape(1, -1, self.x.shape[2])
        return Bases(x, self.row_of_block.reshape(1, -1), placed)

    def of_row(self, values: Int[Array, "M"], gap: int = 0) -> Int[Array, "N L"]:
        """What is said of sequences, said of each base of their windows; `gap` elsewhere."""
        extended = jnp.concatenate([values, jnp.full(2, gap, values.dtype)])
        by_block = extended[self.row_of_block]
        return jnp.repeat(by_block, self.stride, axis=1)

    @property
    def held(self) -> Bool[Array, "N L"]:
        """Bases that belong to a sequence, unknown ones too."""
        begin = self.of_row(self.placed.begin)
        end = begin + self.of_row(self.placed.length)
        place = jnp.arange(self.x.shape[1])[None]
        return (place >= begin) & (place < end)


def expand(tracks: Tracks, placed: Placed, *, unknown: float, dtype=jnp.float32) -> Bases:
    """Bases from nibbles; an unknown base of a sequence gets `unknown` in each channel."""
    codes = unpacked(tracks.nibbles)
    bases = Bases(bits(codes, dtype), tracks.row_of_block, placed)
    if not unknown:
        return bases
    is_unknown = bases.held & (codes == 0)
    added = jnp.where(is_unknown, jnp.asarray(unknown, dtype), 0)[..., None]
    return bases._replace(x=bases.x + added)


def unpacked(nibbles: UInt8[Array, "N H"]) -> UInt8[Array, "N L"]:
    """One code a base."""
    codes = jnp.stack([nibbles & 15, nibbles >> 4], axis=-1)
    return codes.reshape(nibbles.shape[0], -1)


def bits(codes: UInt8[Array, "N L"], dtype) -> Float[Array, "N L A"]:
    """One-hot, all-zero where a code is 0."""
    return ((codes[..., None] >> jnp.arange(4, dtype=jnp.uint8)[None, None]) & 1).astype(dtype)


def moved(bases: Bases, flip: Bool[Array, "M"], by: Int[Array, "M"]) -> Bases:
    """Each sequence as its reverse complement where `flip` is true, then `by` bases to the right.

    What leaves its window is lost, padding enters on the other side; windows must have been laid
    out with that much more margin.
    """
    placed = bases.placed
    low, high = bases.of_row(placed.low), bases.of_row(placed.high)
    turned = bases.of_row(flip.astype(jnp.int32)) > 0
    source = jnp.arange(bases.x.shape[1])[None] - bases.of_row(by)
    inside = (source >= low) & (source < high)
    source = jnp.where(turned, low + high - 1 - source, source)
    x = jnp.take_along_axis(bases.x, jnp.where(inside, source, 0)[..., None], axis=1)
    x = jnp.where(turned[..., None], x[..., ::-1], x)
    begin = jnp.where(flip, placed.low + placed.high - placed.begin - placed.length, placed.begin)
    first = jnp.clip(begin + by, placed.low, placed.high)
    end = jnp.clip(begin + by + placed.length, placed.low, placed.high)
    placed = placed._replace(begin=first, length=end - first)
    return bases._replace(x=jnp.where(inside[..., None], x, 0), placed=placed)


def other_strand(bases: Bases) -> Bases:
    """The reverse complement of every sequence."""
    flip = jnp.ones(bases.placed.low.shape, bool)
    return moved(bases, flip, jnp.zeros_like(bases.placed.low))


def augmented(bases: Bases, key, *, flip: bool, shift_bp: int) -> Bases:
    """Sequences on random strands and at random places, as far as asked for."""
    if not flip and not shift_bp:
        return bases
    shape = bases.placed.low.shape
    turned, by = jnp.zeros(shape, bool), jnp.zeros(shape, jnp.int32)
    if flip:
        turned = drawn_strands(key, *shape)
    if shift_bp:
        shift_key = jax.random.fold_in(key, 1)
        by = jax.random.randint(shift_key, shape, -shift_bp, shift_bp + 1)
    return moved(bases, turned, by)


def drawn_strands(key, count: int) -> Bool[Array, "M"]:
    """Which sequences are turned around; the same in every kind of step."""
    return jax.random.bernoulli(jax.random.fold_in(key, 0), shape=(count,))


def track_of(bases: Bases) -> Track:
    """What the encoder takes."""
    weight = bases.placed.weight.astype(bases.x.dtype)
    gap = bases.row_of_block - weight.shape[0]
    kind = jnp.where(gap < 0, WINDOW, jnp.where(gap == 0, BACKGROUND, NOTHING))
    weight = jnp.append(weight, jnp.zeros(2, weight.dtype))[bases.row_of_block]
    return Track(bases.x, bases.held, weight, kind)


def background_of(bases: Bases, empty_rows: Float[Array, ""], window_bp: int) -> Background:
    """The all-zero row beside these tracks: it stands for empty rows, and for each sequence
    wherever its window is not.
    """
    placed, dtype = bases.placed, bases.x.dtype
    block = jnp.arange(window_bp // bases.stride)[None] * bases.stride
    end = placed.start + placed.high - placed.low
    outside = (block < placed.start[:, None]) | (block >= end[:, None])
    flanks = jnp.einsum("m,mq->q", placed.weight.astype(dtype), outside.astype(dtype))
    return Background(jnp.zeros((1, window_bp, 4), dtype), flanks + empty_rows.astype(dtype))


def behind(x: Float[Array, "N Q C"], background: Background, tracks: Tracks, placed: Placed):
    """The tower's output in its places."""
    is_own = (tracks.block < x.shape[1])[..., None]
    own = jnp.take_along_axis(x, jnp.minimum(tracks.block, x.shape[1] - 1)[..., None], axis=1)
    x = jnp.where(is_own, own, background.x[0][tracks.position])
    return Behind(
        x, placed.weight.astype(x.dtype), tracks.row, tracks.position, placed.first, placed.last
    )


def alone(config: ExpressionConfig, x: Float[Array, "N W A"]) -> tuple[Bases, Tracks]:
    """Sequences of one window width, each on a track of its own; narrower than the model's window,
    a multiple of twice the encoder's stride away from it.

    Raises:
      ValueError: the window is too wide to be cropped.
    """
    shape = config.geometry()
    count, width = x.shape[:2]
    stride, reach, length = shape["stride"], shape["reach"], config.tower_length
    own, start = width // stride, (config.window_bp - width) // 2
    first, edge = start // stride, config.encoder.edge_bp // stride
    if first < edge:
        raise ValueError(f"a window of {width} bases is too wide to stand on a track")
    is_inner = first >= reach + edge
    position = np.arange(first - reach, first + own + reach) if is_inner else np.arange(length)
    block = np.where((position >= first) & (position < first + own), position - first + 1, own + 2)
    is_places = position < first + own if is_inner else np.ones(length, bool)
    rows = jnp.arange(count)[:, None]

    def of_each(value):
        return jnp.full(count, value, jnp.int32)

    def on_each(values):
        return jnp.broadcast_to(jnp.asarray(values)[None], (count, len(values)))

    laid = Tracks(
        jnp.zeros((count, 0), jnp.uint8),
        jnp.where(on_each(np.pad(np.ones(own, bool), 1)), rows, count),
        on_each(block),
        jnp.where(on_each(is_places), rows, count),
        on_each(position),
    )
    placed = Placed(
        track=jnp.arange(count),
        begin=of_each(stride),
        length=of_each(width),
        low=of_each(stride),
        high=of_each(stride + width),
        start=of_each(start),
        first=of_each(position[0]),
        last=of_each(first + own if is_inner else length),
        weight=jnp.ones(count, x.dtype),
    )
    return Bases(jnp.pad(x, ((0, 0), (stride, stride), (0, 0))), laid.row_of_block, placed), laid
