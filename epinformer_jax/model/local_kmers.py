"""The first layers of local.py read from tables: a substitution changes one digit of k-mers."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from epinformer_jax.model import kmers, layers, local_places
from epinformer_jax.model.architecture import EncoderConfig
from epinformer_jax.model.encoder import Encoder
from epinformer_jax.model.kmers import Frame, Table, Taps
from epinformer_jax.model.local_places import Places
from epinformer_jax.model.local_reference import DTYPE, Reference
from epinformer_jax.model.local_rows import Change, Runs, Tiles, convolve, select, take


def frame_of(config: EncoderConfig, table: Table | Taps) -> Frame:
    """Which bases the positions see that a table answers for."""
    is_table = isinstance(table, Table)
    return kmers.block_frame(config) if is_table else kmers.stem_frame(config)


def odd_positions(
    frame: Frame, known: Bool[np.ndarray, "N L"], wanted: Bool[np.ndarray, "N L"]
) -> Int[np.ndarray, "M 2"]:
    """Positions (sequence, position) that see a wanted base, and one that is unknown or padding
    (not `known`): no k-mers, and thus none of a table's.
    """
    length = known.shape[1]
    before, after = frame.lead, frame.width + frame.stride

    def seen(x):
        padded = np.pad(x, [(0, 0), (before, after)])
        windows = np.lib.stride_tricks.sliding_window_view(padded, frame.width, axis=1)
        return windows[:, : length : frame.stride]

    return np.argwhere(seen(wanted).any(axis=-1) & ~seen(known).all(axis=-1))


def first_taps(
    encoder: Encoder, reference: Reference, tiles: Tiles, runs: Runs, table: Table | Taps
) -> Change:
    """What the taps of a convolution add to its output, side by side: of the first one with `Taps`,
    of the second one with a `Table`.
    """
    frame = frame_of(encoder.config, table)
    places = local_places.seen(len(runs.change), runs.phase, **frame._asdict())
    channels = encoder.blocks[1 if isinstance(table, Table) else 0].conv.kernel.shape[2]
    values = table.values.reshape(-1, kmers.TAPS * channels)
    old, new = _numbers(frame, reference, runs, places)
    before, after = (kmers.take(values, own).astype(reference.stem.dtype) for own in (old, new))
    x = after - before
    x = x.reshape(len(places.residue), *runs.change.shape[1:4], -1)
    if len(tiles.odd):
        x = _with_odd(x, encoder, reference, tiles, runs, places, frame)
    return Change(x, places, frame.stride)


def _numbers(
    frame: Frame, reference: Reference, runs: Runs, places: Places
) -> tuple[Int[Array, "M"], Int[Array, "M"]]:
    """Numbers of the k-mers of all rows, [R, J, N, V] in one axis, before and after: equal outside
    of the window, and anything where there is no k-mer.
    """
    length = reference.bases.shape[1] // frame.stride
    index = runs.index(places.position, frame.stride)
    inside = (index >= 0) & (index < length)
    old = take(kmers.numbers_of(reference.bases, frame, length)[0], index)
    digits = jnp.arange(kmers.DIGITS, dtype=reference.bases.dtype)
    swapped = select(jnp.matmul(runs.change, digits).astype(jnp.int32), places.residue)
    place = runs.phase + places.residue - (places.position * frame.stride - frame.lead)
    worth = jnp.asarray(kmers.DIGITS ** (frame.width - 1 - place), jnp.int32)
    worth = jnp.where(inside, worth[:, None], 0)[..., None, None]
    old, worth = (jnp.broadcast_to(x, swapped.shape).reshape(-1) for x in (old[..., None], worth))
    # Products, because their results are kept: what is merely added up, a compiler adds up again
    # for each channel of the rows that are looked up.
    parts = jnp.stack([jnp.ones_like(old), swapped.reshape(-1)], axis=-1)
    before = jnp.stack([old, jnp.zeros_like(old)], axis=-1)
    after = jnp.stack([old, worth], axis=-1)
    found = jnp.einsum("mk,mko->mo", parts, jnp.stack([before, after], axis=-1))
    found = jnp.clip(found, 0, kmers.DIGITS**frame.width - 1)
    return found[:, 0], found[:, 1]


def _with_odd(
    x: Float[Array, "R J N V C"],
    encoder: Encoder,
    reference: Reference,
    tiles: Tiles,
    runs: Runs,
    places: Places,
    frame: Frame,
) -> Float[Array, "R J N V C"]:
    """The answers of odd positions by the layers, for each base that they see."""
    sequence, position = tiles.odd[:, 0], tiles.odd[:, 1]
    base = position[:, None] * frame.stride - frame.lead + jnp.arange(frame.width)[None]
    offset = base - tiles.start
    found = _odd_taps(encoder, reference, tiles, frame, base, offset)
    residues, count, rows = x.shape[:3]
    size = tiles.bases.shape[2] // count
    run = offset // size
    row_of = np.full((size, places.position.max() + 1 - places.position.min()), len(places.residue))
    row_of[places.residue, places.position - places.position.min()] = np.arange(residues)
    own = position[:, None] - (runs.origin + run * runs.stride) // frame.stride
    own = jnp.clip(own - places.position.min(), 0, row_of.shape[1] - 1)
    row = jnp.asarray(row_of)[offset - run * size, own]
    inside = (offset >= 0) & (offset < size * count) & (sequence < rows)[:, None]
    row = jnp.where(inside, row, residues)
    return x.at[row, run, sequence[:, None]].set(found, mode="drop")


def _odd_taps(encoder, reference, tiles, frame: Frame, base, offset) -> Float[Array, "M K V C"]:
    """Differences for substitutions of each of the bases [M, K] that some positions see."""
    length = reference.bases.shape[1]
    sequence, position = tiles.odd[:, 0], tiles.odd[:, 1]
    inside = (base >= 0) & (base < length)
    standing = reference.bases[sequence[:, None], jnp.clip(base, 0, length - 1)]
    standing = jnp.where(inside[..., None], standing, 0)
    last = tiles.bases.shape[2] - 1
    swapped = tiles.bases[sequence[:, None], :, jnp.clip(offset, 0, last)]
    is_it = jnp.eye(frame.width, dtype=bool)[None, :, None, :, None]
    windows = jnp.where(is_it, swapped[:, :, :, None], standing[:, None, None])
    flat = windows.reshape(-1, *windows.shape[3:])
    x = layers.elu(encoder.stem(flat, same=False))
    block = encoder.blocks[0]
    if frame.stride == 1:
        old, conv = reference.outputs[0], block.conv
    else:
        # the stem outside the window is zero
        first = base[:, 0] + (encoder.config.stem_width - 1) // 2
        place = first[:, None] + jnp.arange(x.shape[1])[None]
        is_in = (place >= 0) & (place < length)
        x = x.reshape(*windows.shape[:3], *x.shape[1:])
        x = jnp.where(is_in[:, None, None, :, None], x, 0).reshape(len(flat), *x.shape[3:])
        x = block.finish(block.conv(x, same=False), *block.norm.fixed(), DTYPE)
        old, conv = reference.outputs[1], encoder.blocks[1].conv
    x = x.reshape(*windows.shape[:3], -1) - old[sequence, position][:, None, None]
    return convolve(conv, x)
