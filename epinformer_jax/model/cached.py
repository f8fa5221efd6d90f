"""Training behind a frozen encoder: what leaves the encoder comes ready with the batch.

A frozen encoder answers a sequence alike in every step, so its output (the *tower*) is computed
once for each distinct sequence, over the sequence's own window, and kept. The rest of the model
sees the same rows and background as in model/packing.py: same losses, gradients and statistics.
The host side is train/encoder_cache.py; nothing is imported from there.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from epinformer_jax.model.encoder import Background, Group, groups_of
from epinformer_jax.model.epinformer import Expression
from epinformer_jax.model.packing import PackedRows, expand, flipped


class CachedRows(NamedTuple):
    """Towers of one window width.

    Attributes:
      tower: the encoder's output over each row's window.
      other_strand: the same for the reverse complement; None where one strand is enough.
      weight: 1 for a real row, 0 for filler.
    """

    tower: Float[Array, "N W C"]
    other_strand: Float[Array, "N W C"] | None
    weight: Float[Array, "N"]


class CachedGenes(NamedTuple):
    """One batch of genes; the fields of packing.PackedGenes, with towers for bases.

    Attributes:
      background: the encoder's output for all-zero DNA, over the full window.
    """

    rows: tuple[CachedRows, ...]
    background: Float[Array, "L C"]
    row_of_slot: Int[Array, "B S"]
    mask: Bool[Array, "B S"]
    empty_rows: Float[Array, ""]
    link_features: Float[Array, "B S P"]
    gene_features: Float[Array, "B G"]
    labels: Float[Array, "B"]
    weight: Float[Array, "B"]


def towers(
    model: Expression, rows: PackedRows, *, unknown: float, other_strand: bool
) -> tuple[Float[Array, "N W C"], Float[Array, "L C"]]:
    """What leaves the encoder in evaluation mode over the rows' window, and for all-zero DNA."""
    dtype = model.head.output.kernel.dtype
    window = model.config.window_bp
    bases = expand(rows, unknown=unknown, dtype=dtype)
    if other_strand:
        bases = flipped(bases, jnp.ones(bases.offset.shape, bool))
    background = Background(jnp.zeros((1, window, 4), dtype), jnp.zeros((), dtype))
    (group,), background = model.encoder(
        groups_of([bases], window), background, train=False, dtype=model.config.compute_dtype
    )
    return group.x, background.x[0]


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

    With `key` and `flip` each row stands on a strand drawn for it.
    """
    dtype = model.head.output.kernel.dtype
    length = batch.background.shape[0]
    keys = [None] * len(batch.rows)
    if flip and key is not None:
        keys = jax.random.split(key, len(batch.rows))
    groups = []
    for rows, row_key in zip(batch.rows, keys, strict=True):
        x = _on_strand(rows, row_key, other_strand).astype(dtype)
        count, width = x.shape[:2]
        nothing = jnp.zeros(count, jnp.int32)  # offsets in bases, which the encoder alone reads
        start = (length - width) // 2
        weight = rows.weight.astype(dtype)
        groups.append(Group(x, start, model.config.encoder.stride, weight, nothing, nothing))
    background = Background(batch.background[None].astype(dtype), batch.empty_rows.astype(dtype))
    parts = model.summarise(groups, background, train=train)
    return model.interact(
        jnp.concatenate(parts)[batch.row_of_slot],
        batch.mask,
        batch.link_features.astype(dtype),
        batch.gene_features.astype(dtype),
    )


def _on_strand(rows: CachedRows, key, other_strand: bool) -> Float[Array, "N W C"]:
    if key is not None:
        flip = jax.random.bernoulli(key, shape=rows.weight.shape)
        return jnp.where(flip[:, None, None], rows.other_strand, rows.tower)
    return rows.other_strand if other_strand else rows.tower
