"""The first layers of local.py read from tables: a substitution changes one digit of k-mers.

All bases of the sequences must be known. Next to their ends the stem sees parts of k-mers: `Taps`
answer for those as for k-mers, and for the positions there that a `Table` has no k-mer for.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from epinformer_jax.model import kmers, local_places
from epinformer_jax.model.architecture import EncoderConfig
from epinformer_jax.model.encoder import Encoder
from epinformer_jax.model.kmers import DIGITS, TAPS, Frame, Table, Taps
from epinformer_jax.model.local_places import NONE, Places, Step
from epinformer_jax.model.local_reference import DTYPE, Reference
from epinformer_jax.model.local_rows import Runs, Tiles, select, take


class Lookup(NamedTuple):
    """Where a convolution's taps are read, of what a substitution changes and of what it does not.

    Attributes:
      values: tap t's answer to number i, in row TAPS * i + t.
      others: likewise, to numbers behind those of `values`; None: there are none.
      changed: the numbers of what changes.
      standing: those of the unchanged sequences, one position more on either side.
      places, bases: as Change has them.
    """

    values: Float[Array, "_S C"]
    others: Float[Array, "_T C"] | None
    changed: Int[Array, "R J N V"]
    standing: Int[Array, "N K"]
    places: Places
    bases: int

    def summed(self, step: Step, half: int, runs: Runs) -> Float[Array, "_R J N V C"]:
        """The convolution at the positions of a step."""
        at, read = step.at[:, half], step.read[:, half]
        return sum(self._tap(tap, at + tap - 1, read[:, tap], runs) for tap in range(TAPS))

    def _tap(self, tap: int, position: np.ndarray, rows: np.ndarray, runs: Runs):
        index = jnp.clip(runs.index(position, self.bases) + 1, 0, self.standing.shape[1] - 1)
        number = jnp.broadcast_to(
            take(self.standing, index)[..., None], (len(rows), *self.changed.shape[1:])
        )
        if (rows != NONE).any():
            is_changed = (rows != NONE)[:, None, None, None]
            number = jnp.where(is_changed, select(self.changed, rows), number)
        row = kmers.kept_sum(TAPS * number, jnp.full_like(number, tap))
        if self.others is None:
            return kmers.take(self.values, row)
        size = len(self.values)
        own = kmers.take(self.values, jnp.minimum(row, size - TAPS + tap))
        other = kmers.take(self.others, jnp.maximum(row - size, 0))
        return jnp.where((row < size)[..., None], own.astype(other.dtype), other)


def frame_of(config: EncoderConfig, table: Table | Taps) -> Frame:
    """Which bases the positions see that a table answers for."""
    is_table = isinstance(table, Table)
    return kmers.block_frame(config) if is_table else kmers.stem_frame(config)


def taps_of(table: Table | Taps) -> Float[Array, "R C"]:
    """The first convolution's taps for k-mers and parts of them."""
    return table.parts if isinstance(table, Table) else table.values


def end_positions(
    frame: Frame, valid: Bool[np.ndarray, "N L"], wanted: Bool[np.ndarray, "N L"]
) -> Int[np.ndarray, "E 2"]:
    """Positions (sequence, position) that see a wanted base, and padding."""
    length = valid.shape[1]

    def sees(bases, outside: bool):
        around = [(0, 0), (frame.lead, frame.width + frame.stride)]
        padded = np.pad(bases, around, constant_values=outside)
        windows = np.lib.stride_tricks.sliding_window_view(padded, frame.width, axis=1)
        return windows[:, : length : frame.stride].any(axis=-1)

    return np.argwhere(sees(wanted, False) & sees(~valid, True))


def lookup(
    encoder: Encoder, reference: Reference, tiles: Tiles, runs: Runs, table: Table | Taps
) -> Lookup:
    """Where to read the first convolution with `Taps`, the second one with a `Table`. The reference
    must be one by taps.
    """
    frame = frame_of(encoder.config, table)
    places = local_places.seen(len(runs.change), runs.phase, **frame._asdict())
    if isinstance(table, Taps):
        standing, end = kmers.window_parts(encoder.config, reference.bases)
        outside = kmers.outside(frame.width)
        numbers, end = standing[:, 1:-1], end[:, 1:-1]
        changed = _changed(frame, numbers, end, runs, places, most=outside, outside=outside)
        return Lookup(table.values, None, changed, standing, places, frame.stride)
    rows, length = reference.second_taps.shape[:2]
    size = len(table.values)
    numbers = kmers.numbers_of(reference.bases, frame, length)[0]
    end, outside = jnp.full_like(numbers, frame.width), size + rows * length
    changed = _changed(frame, numbers, end, runs, places, most=size - 1, outside=outside)
    outputs = table.values.shape[1] // TAPS
    others = [reference.second_taps.reshape(-1, outputs), jnp.zeros((TAPS, outputs))]
    if len(tiles.ends):
        found = _by_parts(encoder, reference, tiles, table.parts)
        count = found.shape[:3]
        others.append(found.reshape(-1, outputs))
        number = outside + 1 + jnp.arange(np.prod(count)).reshape(count)
        changed = _put(changed, number, tiles, runs, places, frame)
    standing = size + jnp.arange(rows * length).reshape(rows, length)
    standing = jnp.pad(standing, ((0, 0), (1, 1)), constant_values=outside)
    others = jnp.concatenate([x.astype(reference.bases.dtype) for x in others])
    return Lookup(
        table.values.reshape(-1, outputs), others, changed, standing, places, frame.stride
    )


def _changed(
    frame: Frame,
    numbers: Int[Array, "N L"],
    end: Int[Array, "N L"],
    runs: Runs,
    places: Places,
    *,
    most: int,
    outside: int,
) -> Int[Array, "R J N V"]:
    """Numbers of the k-mers of all rows with the substitutions, any up to `most` where there is
    none, `outside` the window another. A k-mer's bases from `end` on are none.
    """
    index = runs.index(places.position, frame.stride)
    inside = ((index >= 0) & (index < numbers.shape[1]))[:, :, None, None]
    old, end = take(numbers, index), take(end, index)
    digits = jnp.arange(DIGITS, dtype=runs.change.dtype)
    swapped = select(jnp.matmul(runs.change, digits).astype(jnp.int32), places.residue)
    place = runs.phase + places.residue - (places.position * frame.stride - frame.lead)
    found = old[..., None] + _worth(end, place[:, None, None])[..., None] * swapped
    return jnp.where(inside, jnp.clip(found, 0, most), outside)


def _worth(end: Int[Array, "..."], place: Int[np.ndarray, "..."]) -> Int[Array, "..."]:
    """What one more of the digit at a place adds to the number of a k-mer that ends before `end`;
    nothing where it does not hold the place.
    """
    after = end - 1 - place
    return jnp.where((place >= 0) & (after >= 0), 1 << (2 * jnp.maximum(after, 0)), 0)


def _put(
    changed: Int[Array, "R J N V"],
    found: Int[Array, "E K V"],
    tiles: Tiles,
    runs: Runs,
    places: Places,
    frame: Frame,
) -> Int[Array, "R J N V"]:
    """Rows with numbers for positions at ends put in place, for each base that they see."""
    sequence, position = tiles.ends[:, 0], tiles.ends[:, 1]
    base = position[:, None] * frame.stride - frame.lead + jnp.arange(frame.width)[None]
    offset = base - tiles.start
    residues, count, rows = changed.shape[:3]
    size = tiles.bases.shape[2] // count
    run = offset // size
    row_of = np.full((size, places.position.max() + 1 - places.position.min()), len(places.residue))
    row_of[places.residue, places.position - places.position.min()] = np.arange(residues)
    own = position[:, None] - (runs.origin + run * runs.stride) // frame.stride
    own = jnp.clip(own - places.position.min(), 0, row_of.shape[1] - 1)
    row = jnp.asarray(row_of)[offset - run * size, own]
    inside = (offset >= 0) & (offset < size * count) & (sequence < rows)[:, None]
    row = jnp.where(inside, row, residues)
    return changed.at[row, run, sequence[:, None]].set(found.astype(changed.dtype), mode="drop")


def _by_parts(
    encoder: Encoder, reference: Reference, tiles: Tiles, parts: Float[Array, "R C"]
) -> Float[Array, "E K V D"]:
    """The second convolution's taps at positions at ends, with substitutions of each base that
    these see.
    """
    frame, stem = kmers.block_frame(encoder.config), kmers.stem_frame(encoder.config)
    length = reference.bases.shape[1]
    sequence, position = tiles.ends[:, :1], tiles.ends[:, 1:]
    base = position * frame.stride - frame.lead + jnp.arange(frame.width)[None]
    standing = reference.bases[sequence, jnp.clip(base, 0, length - 1)]
    swapped = tiles.bases[sequence, :, jnp.clip(base - tiles.start, 0, tiles.bases.shape[2] - 1)]
    digits = jnp.arange(DIGITS, dtype=standing.dtype)
    change = jnp.matmul(swapped - standing[:, :, None], digits).astype(jnp.int32)
    # a position sees the stem at 2 q - 1 .. 2 q + 2, and thus at its bases from 0 .. 3 on
    place = 2 * position - 1 + jnp.arange(TAPS + 1)[None]
    found = kmers.window_parts(encoder.config, reference.bases)
    at = jnp.clip(place + 1, 0, length + 1)
    numbers, end = (x[sequence, at] for x in found)
    in_kmer = np.arange(frame.width)[:, None] - np.arange(TAPS + 1)[None]
    in_kmer = np.where(in_kmer < stem.width, in_kmer, NONE)
    is_in = (place >= 0) & (place < length)
    worth = jnp.where(is_in[:, None], _worth(end[:, None], in_kmer[None]), 0)
    changed = numbers[:, None, None] + change[..., None] * worth[:, :, None]
    changed = jnp.clip(changed, 0, kmers.outside(stem.width)).reshape(-1, TAPS + 1)
    changed = kmers.kept_sum(changed, jnp.zeros_like(changed))
    x = kmers.block_by_taps(encoder, parts, changed, DTYPE)
    return kmers.second_taps(encoder, x[:, 0], DTYPE).reshape(*change.shape, -1)
