"""Training behind a frozen encoder: what leaves the encoder comes ready with the batch.

A frozen encoder answers a sequence alike in every step, so its output (the *tower*) is computed
once for each distinct sequence, over the sequence's own window, and kept. The rest of the model
sees the same places and background as in model/packing.py: same losses, gradients and statistics.
The host side is train/encoder_cache.py; nothing is imported from there.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from epinformer_jax.model import packing, tracks
from epinformer_jax.model.epinformer import Behind, Expression
from epinformer_jax.model.tracks import Placed, Tracks


class Towers(NamedTuple):
    """The encoder's output in its places (see tracks.Tracks), background included.

    Attributes:
      tower: the output.
      other_strand: the same for the reverse complements; None where one strand is enough.
      row, position: of each place, whose it is and for which position of the row it stands.
    """

    tower: Float[Array, "N P C"]
    other_strand: Float[Array, "N P C"] | None
    row: Int[Array, "N P"]
    position: Int[Array, "N P"]


class CachedGenes(NamedTuple):
    """One batch of genes; the fields of packing.PackedGenes, with towers for bases.

    Attributes:
      background: the encoder's output for all-zero DNA, over the full window.
      first, last, start, row_weight: of each sequence (fields of tracks.Placed); `start` tells how
        wide its window was, and is not read here.
    """

    towers: Towers
    background: Float[Array, "L C"]
    first: Int[Array, "M"]
    last: Int[Array, "M"]
    start: Int[Array, "M"]
    row_weight: Float[Array, "M"]
    row_of_slot: Int[Array, "B S"]
    mask: Bool[Array, "B S"]
    empty_rows: Float[Array, ""]
    link_features: Float[Array, "B S P"]
    gene_features: Float[Array, "B G"]
    labels: Float[Array, "B"]
    weight: Float[Array, "B"]


def towers(
    model: Expression, laid: Tracks, placed: Placed, *, unknown: float, other_strand: bool
) -> tuple[Float[Array, "N Q C"], Float[Array, "L C"]]:
    """What leaves the encoder in evaluation mode over tracks, and for all-zero DNA."""
    dtype = model.head.output.kernel.dtype
    bases = tracks.expand(laid, placed, unknown=unknown, dtype=dtype)
    if other_strand:
        bases = tracks.other_strand(bases)
    x, background = packing.tower(model, bases, jnp.zeros((), dtype), unknown=unknown)
    return x, background.x[0]


def express(
    model: Expression,
    batch: CachedGenes,
    *,
    train: bool,
    key=None,
    flip: bool = False,
    other_strand: bool = False,
) -> tuple[Float[Array, "B"], Float[Array, "B K S"]]:
    """Expression and attention; equal to packing.express with a frozen encoder on the same genes.

    With `key` and `flip` each sequence stands on a strand drawn for it.
    """
    dtype = model.head.output.kernel.dtype
    given = batch.towers
    x = given.other_strand if other_strand else given.tower
    if flip and key is not None:
        turned = tracks.drawn_strands(key, batch.first.shape[0])
        turned = jnp.append(turned, False)[given.row]  # what is nobody's is all-zero DNA
        x = jnp.where(turned[..., None], given.other_strand, given.tower)
    background = batch.background[None].astype(dtype)
    behind = Behind(
        x.astype(dtype),
        batch.row_weight.astype(dtype),
        given.row,
        given.position,
        batch.first,
        batch.last,
    )
    embeddings = model.summarise(behind, background, batch.empty_rows.astype(dtype), train=train)[
        batch.row_of_slot
    ]
    return model.interact(
        embeddings,
        batch.mask,
        batch.link_features.astype(dtype),
        batch.gene_features.astype(dtype),
    )
