"""Exact packing, device side: only real sequences, cropped to a few window widths, go through the
encoder.

A packed batch carries nibbles (two bases a byte); they become one-hot here, inside jit. Empty slots
are never encoded: their share in batch statistics is that of the background (model/encoder.py), so
losses, gradients and running statistics equal the dense computation. The host side, which lays
batches out, is data/batches.py; nothing is imported from there.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from epinformer_jax.model import kmer_training, kmers
from epinformer_jax.model.encoder import Background, Rows, groups_of
from epinformer_jax.model.epinformer import Activity, Expression


class PackedRows(NamedTuple):
    """Sequences of one window width, two bases a byte (low nibble first; A=1 C=2 G=4 T=8, 0 unknown
    or outside).

    Attributes:
      nibbles: bases of the window.
      offset: first base of the element inside the window.
      length: bases of the element; what lies outside [offset, offset + length) is padding.
      weight: 1 for a real row, 0 for filler.
    """

    nibbles: UInt8[Array, "N H"]
    offset: Int[Array, "N"]
    length: Int[Array, "N"]
    weight: Float[Array, "N"]


class PackedGenes(NamedTuple):
    """One batch of genes.

    Attributes:
      rows: one group for each window width, narrowest first.
      row_of_slot: position of each slot's row when all groups' rows stand one after another.
      mask: slots that hold a promoter or an element.
      empty_rows: slots of real genes that hold nothing (they count in padded batch statistics).
      link_features, gene_features, labels: model inputs and the target.
      weight: 1 for a real gene, 0 for filler.
    """

    rows: tuple[PackedRows, ...]
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


def one_hot(rows: PackedRows, *, unknown: float, dtype=jnp.float32) -> Float[Array, "N W A"]:
    """Expands nibbles; an unknown base inside the element gets `unknown` in each channel, padding
    gets 0.
    """
    codes = jnp.stack([rows.nibbles & 15, rows.nibbles >> 4], axis=-1)
    codes = codes.reshape(rows.nibbles.shape[0], -1)
    bits = (codes[..., None] >> jnp.arange(4, dtype=jnp.uint8)[None, None]) & 1
    bases = bits.astype(dtype)
    if not unknown:
        return bases
    position = jnp.arange(codes.shape[1])[None]
    inside = (position >= rows.offset[:, None]) & (position < (rows.offset + rows.length)[:, None])
    is_unknown = inside & (codes == 0)
    return bases + jnp.where(is_unknown, jnp.asarray(unknown, dtype), 0)[..., None]


def expand(rows: PackedRows, *, unknown: float, dtype=jnp.float32) -> Rows:
    """The rows the encoder takes."""
    bases = one_hot(rows, unknown=unknown, dtype=dtype)
    return Rows(bases, rows.weight.astype(dtype), rows.offset, rows.length)


def shifted(rows: Rows, by: Int[Array, "N"]) -> Rows:
    """Rows moved `by` bases to the right; bases that leave the window are lost, padding enters on
    the other side.
    """
    width = rows.x.shape[1]
    source = jnp.arange(width)[None] - by[:, None]
    inside = (source >= 0) & (source < width)
    moved = jnp.take_along_axis(rows.x, jnp.clip(source, 0, width - 1)[..., None], axis=1)
    first = jnp.clip(rows.offset + by, 0, width)
    end = jnp.clip(rows.offset + by + rows.length, 0, width)
    return rows._replace(x=moved * inside[..., None], offset=first, length=end - first)


def flipped(rows: Rows, flip: Bool[Array, "N"]) -> Rows:
    """The reverse complement of the rows where `flip` is true; the window stays centred."""
    turned = jnp.where(flip[:, None, None], rows.x[:, ::-1, ::-1], rows.x)
    offset = jnp.where(flip, rows.x.shape[1] - rows.offset - rows.length, rows.offset)
    return rows._replace(x=turned, offset=offset)


def augmented(rows: Rows, key, flip: bool, shift_bp: int) -> Rows:
    """Rows on random strands and at random places, as far as asked for."""
    flip_key, shift_key = jax.random.split(key)
    if flip:
        rows = flipped(rows, jax.random.bernoulli(flip_key, shape=rows.offset.shape))
    if shift_bp:
        by = jax.random.randint(shift_key, rows.offset.shape, -shift_bp, shift_bp + 1)
        rows = shifted(rows, by)
    return rows


def embed_genes(
    model: Expression,
    batch: PackedGenes,
    *,
    train: bool,
    train_encoder: bool,
    unknown: float,
    key=None,
    flip: bool = False,
    shift_bp: int = 0,
    other_strand: bool = False,
    unknown_kmers: int | None = None,
    table: kmers.Table | kmers.Taps | None = None,
) -> Float[Array, "B S D"]:
    """Embeddings of all slots of a packed batch; empty slots repeat some row and must stay masked.

    With `key`, for training: `flip` puts every sequence on a strand drawn anew, `shift_bp` moves it
    by up to so many bases; windows must have been planned with that much more margin.
    `other_strand` embeds the reverse complement of every sequence.

    Two ways around the first layers, equal in value: with `unknown_kmers` the first convolution is
    summed from tables made here (model/kmer_training.py); in evaluation, a `table` of these weights
    (model/kmers.py) answers for the first block, if every base of every sequence is known.
    """
    config, dtype = model.config, model.head.output.kernel.dtype
    hard = unknown_kmers is not None or table is not None
    rows = [expand(r, unknown=0.0 if hard else unknown, dtype=dtype) for r in batch.rows]
    if other_strand:
        rows = [flipped(r, jnp.ones(r.offset.shape, bool)) for r in rows]
    if key is not None:
        keys = jax.random.split(key, len(rows))
        rows = [augmented(r, k, flip, shift_bp) for r, k in zip(rows, keys, strict=True)]
    empty_rows = batch.empty_rows.astype(dtype)
    if table is not None:
        groups, background = _tower_by_table(model, table, rows, empty_rows, unknown)
    elif unknown_kmers is not None:
        groups, background = kmer_training.first_convolution(
            model.encoder,
            rows,
            empty_rows,
            window_bp=config.window_bp,
            unknown=unknown,
            unknown_kmers=unknown_kmers,
            dtype=config.compute_dtype,
        )
        groups, background = model.encoder.from_first_convolution(
            groups,
            background,
            train=train and train_encoder,
            statistics=config.statistics,
            dtype=config.compute_dtype,
        )
    else:
        nothing = Background(jnp.zeros((1, config.window_bp, 4), dtype), empty_rows)
        parts = model.embed(
            groups_of(rows, config.window_bp), nothing, train=train, train_encoder=train_encoder
        )
        return jnp.concatenate(parts)[batch.row_of_slot]
    return jnp.concatenate(model.summarise(groups, background, train=train))[batch.row_of_slot]


def embed_rows(
    model: Expression,
    rows: PackedRows,
    *,
    unknown: float,
    table: kmers.Table | kmers.Taps | None = None,
) -> Float[Array, "N D"]:
    """Embeddings of rows of one width, in evaluation mode.

    With a `table` of the model's weights the first block is read from it; then every base inside
    the sequences must be known.
    """
    config, dtype = model.config, model.head.output.kernel.dtype
    bases = expand(rows, unknown=unknown if table is None else 0.0, dtype=dtype)
    no_rows = jnp.zeros((), dtype)
    if table is None:
        nothing = Background(jnp.zeros((1, config.window_bp, 4), dtype), no_rows)
        return model.embed(groups_of([bases], config.window_bp), nothing, train=False)[0]
    groups, background = _tower_by_table(model, table, [bases], no_rows, unknown)
    return model.summarise(groups, background, train=False)[0]


def _tower_by_table(model: Expression, table, rows: list[Rows], empty_rows, unknown: float):
    config = model.config
    groups = [
        kmers.first_block(
            model.encoder,
            table,
            r,
            window_bp=config.window_bp,
            unknown=unknown,
            dtype=config.compute_dtype,
        )
        for r in rows
    ]
    nothing = Background(table.nothing[None].astype(empty_rows.dtype), empty_rows)
    return model.encoder.from_first_block(groups, nothing, train=False, dtype=config.compute_dtype)


def express(
    model: Expression,
    batch: PackedGenes,
    *,
    train: bool,
    train_encoder: bool = True,
    unknown: float,
    key=None,
    flip: bool = False,
    shift_bp: int = 0,
    other_strand: bool = False,
    unknown_kmers: int | None = None,
    table: kmers.Table | kmers.Taps | None = None,
) -> tuple[Float[Array, "B"], Float[Array, "B K S"]]:
    """Expression and attention of a packed batch; equal to the dense model on the same genes."""
    embeddings = embed_genes(
        model,
        batch,
        train=train,
        train_encoder=train_encoder,
        unknown=unknown,
        key=key,
        flip=flip,
        shift_bp=shift_bp,
        other_strand=other_strand,
        unknown_kmers=unknown_kmers,
        table=table,
    )
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
        rows = flipped(rows, jax.random.bernoulli(flip_key, shape=rows.offset.shape))
    if key is not None and shift_bp:
        shift_key, key = jax.random.split(key)
        rows = shifted(
            rows, jax.random.randint(shift_key, rows.offset.shape, -shift_bp, shift_bp + 1)
        )
    (group,) = groups_of([rows], model.config.window_bp)
    return model(group, train=train, key=key)
