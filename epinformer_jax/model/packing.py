"""Exact packing, device side: only real sequences, on tracks, go through the encoder.

A packed batch carries nibbles (two bases a byte); they become one-hot inside jit. Empty slots are
never encoded: their share in batch statistics is that of the background (model/encoder.py), so
losses, gradients and running statistics equal the dense computation.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from epinformer_jax.model import kmer_tracks, kmer_training, kmers, tracks
from epinformer_jax.model.encoder import Track, full_rows
from epinformer_jax.model.epinformer import Activity, Expression
from epinformer_jax.model.tracks import Bases, Placed, Tracks


class PackedRows(NamedTuple):
    """Sequences in rows of full width, two bases a byte (low nibble first; A=1 C=2 G=4 T=8, 0
    unknown or outside).

    Attributes:
      nibbles: bases of the window.
      offset: first base of the sequence inside the window.
      length: bases of the sequence; what lies outside [offset, offset + length) is padding.
      weight: 1 for a real row, 0 for filler.
    """

    nibbles: UInt8[Array, "N H"]
    offset: Int[Array, "N"]
    length: Int[Array, "N"]
    weight: Float[Array, "N"]


class PackedGenes(NamedTuple):
    """One batch of genes.

    Attributes:
      tracks, placed: the sequences.
      row_of_slot: which sequence each slot holds.
      mask: slots that hold a promoter or an element.
      empty_rows: slots of real genes that hold nothing (they count in padded batch statistics).
      link_features, gene_features, labels: model inputs and the target.
      weight: 1 for a real gene, 0 for filler.
    """

    tracks: Tracks
    placed: Placed
    row_of_slot: Int[Array, "B S"]
    mask: Bool[Array, "B S"]
    empty_rows: Float[Array, ""]
    link_features: Float[Array, "B S P"]
    gene_features: Float[Array, "B G"]
    labels: Float[Array, "B"]
    weight: Float[Array, "B"]


class PackedWindows(NamedTuple):
    """One batch of sequences for the activity model, with their target."""

    rows: PackedRows
    labels: Float[Array, "N"]


def expand(rows: PackedRows, *, unknown: float, dtype=jnp.float32) -> Track:
    """The rows the encoder takes; an unknown base inside the sequence gets `unknown` in each
    channel, padding gets 0.
    """
    codes = tracks.unpacked(rows.nibbles)
    position = jnp.arange(codes.shape[1])[None]
    held = (position >= rows.offset[:, None]) & (position < (rows.offset + rows.length)[:, None])
    bases = tracks.bits(codes, dtype)
    is_unknown = held & (codes == 0)
    bases = bases + jnp.where(is_unknown, jnp.asarray(unknown, dtype), 0)[..., None]
    return full_rows(bases, held=held, weight=rows.weight.astype(dtype))


def shifted(rows: Track, by: Int[Array, "N"]) -> Track:
    """Rows moved `by` bases to the right; bases that leave the window are lost, padding enters on
    the other side.
    """
    width = rows.x.shape[1]
    source = jnp.arange(width)[None] - by[:, None]
    inside = (source >= 0) & (source < width)
    source = jnp.clip(source, 0, width - 1)
    x = jnp.take_along_axis(rows.x, source[..., None], axis=1) * inside[..., None]
    held = jnp.take_along_axis(rows.held, source, axis=1) & inside
    return rows._replace(x=x, held=held)


def flipped(rows: Track, flip: Bool[Array, "N"]) -> Track:
    """The reverse complement of the rows where `flip` is true; the window stays centred."""
    x = jnp.where(flip[:, None, None], rows.x[:, ::-1, ::-1], rows.x)
    return rows._replace(x=x, held=jnp.where(flip[:, None], rows.held[:, ::-1], rows.held))


def embed_tracks(
    model: Expression,
    laid: Tracks,
    placed: Placed,
    *,
    unknown: float,
    empty_rows: Float[Array, ""] | float = 0.0,
    train: bool = False,
    train_encoder: bool = True,
    key=None,
    flip: bool = False,
    shift_bp: int = 0,
    other_strand: bool = False,
    unknown_kmers: int | None = None,
    table: kmers.Table | kmers.Taps | None = None,
) -> Float[Array, "M D"]:
    """Embeddings of sequences on tracks; those of filler mean nothing.

    With `key`, for training: `flip` puts every sequence on a strand drawn anew, `shift_bp` moves it
    by up to so many bases; windows must have been laid out with that much more margin.
    `other_strand` embeds the reverse complement of every sequence. `empty_rows` all-zero rows count
    in padded batch statistics; `train_encoder` False keeps the encoder's on the running ones.

    Two ways around the first layers, equal in value: with `unknown_kmers` the first convolution is
    summed from tables made here (model/kmer_training.py); in evaluation, a `table` of these weights
    (model/kmers.py) answers for the first block, if every base of every sequence is known.
    """
    dtype = model.head.output.kernel.dtype
    hard = unknown_kmers is not None or table is not None
    bases = tracks.expand(laid, placed, unknown=0.0 if hard else unknown, dtype=dtype)
    if other_strand:
        bases = tracks.other_strand(bases)
    if key is not None:
        bases = tracks.augmented(bases, key, flip=flip, shift_bp=shift_bp)
    return embed_bases(
        model,
        bases,
        laid,
        empty_rows=jnp.asarray(empty_rows, dtype),
        unknown=unknown,
        train=train,
        train_encoder=train_encoder,
        unknown_kmers=unknown_kmers,
        table=table,
    )


def embed_bases(
    model: Expression,
    bases: Bases,
    laid: Tracks,
    *,
    unknown: float,
    empty_rows: Float[Array, ""] | float = 0.0,
    train: bool = False,
    train_encoder: bool = True,
    **how,
) -> Float[Array, "M D"]:
    """`embed_tracks` from bases, which may be soft; of `laid` only the places are read."""
    empty_rows = jnp.asarray(empty_rows, bases.x.dtype)
    x, background = tower(
        model, bases, empty_rows, unknown=unknown, train=train and train_encoder, **how
    )
    behind = tracks.behind(x, background, laid, bases.placed)
    return model.summarise(behind, background.x, empty_rows, train=train)


def tower(
    model: Expression,
    bases: Bases,
    empty_rows: Float[Array, ""],
    *,
    unknown: float,
    train: bool = False,
    unknown_kmers: int | None = None,
    table: kmers.Table | kmers.Taps | None = None,
):
    """What leaves the encoder over tracks [N, Q, C], and its background; see `embed_tracks`."""
    config, encoder = model.config, model.encoder
    track = tracks.track_of(bases)
    background = tracks.background_of(bases, empty_rows, config.window_bp)
    how = {
        "train": train,
        "statistics": config.statistics,
        "dtype": config.compute_dtype,
    }
    if table is not None:
        track, background = kmer_tracks.from_table(
            encoder, table, bases, track, background, dtype=config.compute_dtype
        )
    elif unknown_kmers is not None:
        track, background = kmer_training.first_convolution(
            encoder,
            bases,
            track,
            background,
            unknown=unknown,
            unknown_kmers=unknown_kmers,
            dtype=config.compute_dtype,
        )
        track, background = encoder.from_convolution(0, track, background, **how)
    else:
        track, background = encoder(track, background, **how)
    return track.x, background


def express(
    model: Expression,
    batch: PackedGenes,
    *,
    train: bool,
    unknown: float,
    **options,
) -> tuple[Float[Array, "B"], Float[Array, "B K S"]]:
    """Expression and attention of a packed batch; equal to the dense model on the same genes.

    `options` are those of `embed_tracks`. Empty slots repeat some row and are masked.
    """
    embeddings = embed_tracks(
        model,
        batch.tracks,
        batch.placed,
        empty_rows=batch.empty_rows,
        train=train,
        unknown=unknown,
        **options,
    )[batch.row_of_slot]
    dtype = embeddings.dtype
    return model.interact(
        embeddings,
        batch.mask,
        batch.link_features.astype(dtype),
        batch.gene_features.astype(dtype),
    )


def activate(
    model: Activity,
    batch: PackedWindows,
    *,
    train: bool,
    key=None,
    unknown: float,
    shift_bp: int = 0,
    flip: bool = False,
) -> Float[Array, "N"]:
    """log activity of a packed batch of windows.

    With `key`, rows first stand on a strand drawn for each (`flip`), then move by up to `shift_bp`
    bases either way.
    """
    rows = expand(batch.rows, unknown=unknown, dtype=model.head.output.kernel.dtype)
    if key is not None and flip:
        flip_key, key = jax.random.split(key)
        rows = flipped(rows, jax.random.bernoulli(flip_key, shape=rows.x.shape[:1]))
    if key is not None and shift_bp:
        shift_key, key = jax.random.split(key)
        by = jax.random.randint(shift_key, rows.x.shape[:1], -shift_bp, shift_bp + 1)
        rows = shifted(rows, by)
    return model(rows, train=train, key=key)
