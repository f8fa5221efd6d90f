"""Genes as embedded slots, and what the model says when single slots change.

The encoder runs once a sequence: removing an element is masking its slot, other signals are other
link features, another sequence is another embedding. Only attention and head are repeated, all
slots of several genes in one call. Arrays are padded to few numbers of slots, each compiled once.

Dimension letters as in model.architecture; E = S - 1 elements.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from epinformer_jax.analysis import distinct, kmer_tables
from epinformer_jax.analysis.ensembles import Model
from epinformer_jax.data import batches, layouts
from epinformer_jax.data.batches import Sequences
from epinformer_jax.data.layouts import Geometry
from epinformer_jax.data.loader import GeneSet
from epinformer_jax.model import functional, packing, tracks
from epinformer_jax.model.architecture import ExpressionConfig
from epinformer_jax.model.functional import Variables
from epinformer_jax.model.kmers import Table, Taps
from epinformer_jax.model.tracks import Placed, Tracks

BUCKETS = (8, 16, 32, 64, 128)  # elements; the last one used is the model's own number
TOKENS_AT_ONCE = 1 << 15  # slots in all copies of all genes of one call: bounds memory
BASES_PER_GENE = 8192  # encoded at once, in units of the batch size


class Slots(NamedTuple):
    """Embedded genes; slot 0 is the promoter and is always in the mask."""

    embeddings: Float[Array, "B S D"]
    mask: Bool[Array, "B S"]
    link_features: Float[Array, "B S P"]
    gene_features: Float[Array, "B G"]


class Edit(NamedTuple):
    """What each slot becomes when its turn comes; None: it stays as it is there."""

    embeddings: Float[Array, "B S D"] | None = None
    mask: Bool[Array, "B S"] | None = None
    link_features: Float[Array, "B S P"] | None = None


class Embedded(NamedTuple):
    """A gene's embeddings, and how they move when its bases are scaled: the derivative of
    encode((1 + t) bases) at t = 0 (zeros where it was not asked for).
    """

    embeddings: Float[np.ndarray, "S D"]
    tangents: Float[np.ndarray, "S D"]


def reference(
    config: ExpressionConfig, variables: Variables, slots: Slots
) -> tuple[Float[Array, "B"], Float[Array, "B K S"]]:
    """Expression and promoter attention of the genes as they are."""
    return functional.interact(config, variables, *slots)


def single_edits(
    config: ExpressionConfig, variables: Variables, slots: Slots, edit: Edit
) -> Float[Array, "B E"]:
    """Expression when one slot at a time becomes what `edit` says; column j is element j (slot
    j + 1). What the edit leaves alone is computed once for all columns.
    """
    module = functional.bind(config, variables)
    places = jnp.arange(slots.mask.shape[1])

    def with_one(slot):
        def now(before, after):
            if after is None:
                return before
            is_it = (places == slot).reshape(1, -1, *[1] * (before.ndim - 2))
            return jnp.where(is_it, after, before)

        return module.interact(
            now(slots.embeddings, edit.embeddings),
            now(slots.mask, edit.mask),
            now(slots.link_features, edit.link_features),
            slots.gene_features,
        )[0]

    return jax.vmap(with_one, out_axes=1)(places[1:])


def removals(config: ExpressionConfig, variables: Variables, slots: Slots) -> Float[Array, "B E"]:
    """Expression without each element in turn: its slot is masked, so nothing of it is left, link
    features included. An empty slot's column equals the unperturbed prediction.
    """
    return single_edits(config, variables, slots, Edit(mask=jnp.zeros_like(slots.mask)))


def gradient_times_input(
    config: ExpressionConfig,
    variables: Variables,
    slots: Slots,
    tangents: Float[Array, "B S D"],
) -> tuple[Float[Array, "B S"], Float[Array, "B S P"]]:
    """Gradient x input of each slot's sequence (summed over its bases) and of each link feature.

    The sum over bases of base x d expression / d base is the derivative along the bases themselves,
    so the encoder's part of it is a tangent (see `Embedded`) that no gene changes.
    """

    def total(embeddings, link_features):
        own = slots._replace(embeddings=embeddings, link_features=link_features)
        return jnp.sum(reference(config, variables, own)[0])

    by_embedding, by_feature = jax.grad(total, argnums=(0, 1))(
        slots.embeddings, slots.link_features
    )
    return jnp.sum(by_embedding * tangents, axis=-1), by_feature * slots.link_features


@functools.lru_cache(maxsize=32)
def compiled(function, config: ExpressionConfig):
    """One of the functions above, jitted for a network: (variables, slots, ...)."""
    return jax.jit(functools.partial(function, config))


def embed_with_tangents(
    config: ExpressionConfig, variables: Variables, unknown: float, laid: Tracks, placed: Placed
) -> tuple[Float[Array, "M D"], Float[Array, "M D"]]:
    """Embeddings of sequences on tracks, and their tangents (see `Embedded`)."""
    module = functional.bind(config, variables)
    dtype = module.head.output.kernel.dtype
    bases = tracks.expand(laid, placed, unknown=unknown, dtype=dtype)

    def scaled(factor):
        own = bases._replace(x=bases.x * factor)
        return packing.embed_bases(module, own, laid, unknown=unknown)

    one = jnp.ones((), dtype)
    return jax.jvp(scaled, (one,), (one,))


def embed_all(
    model: Model,
    sequences: Sequence[Sequences],
    *,
    batch_size: int,
    table: Table | Taps | Literal["auto"] | None = "auto",
    with_tangents: bool = False,
) -> list[Embedded]:
    """Embeds the sequences of genes, each distinct one once; `batch_size` bounds memory.

    `table` is the model's k-mer table (model.kmers), made here where it pays with "auto"; tangents
    need the layers themselves.
    """
    own = distinct.distinct(sequences)
    positions = batch_size * BASES_PER_GENE
    if with_tangents:
        embeddings, tangents = _with_tangents(model, own.codes, positions)
    else:
        if isinstance(table, str):
            bases = sum(len(codes) for codes in own.codes)
            table = kmer_tables.choose(model, bases, table) if own.codes else None
        embeddings = distinct.embed(model, own.codes, table=table, positions=positions)
        tangents = np.zeros_like(embeddings)
    return [Embedded(embeddings[rows], tangents[rows]) for rows in own.of_slot]


def batches_of(
    elements: Int[np.ndarray, "M"], config: ExpressionConfig
) -> Iterator[tuple[int, int, Int[np.ndarray, "_"]]]:
    """Slots, genes at once, and which genes: those of about the same number of elements together.

    Genes without elements are left out.
    """
    lower = 0
    for bucket in sorted({*(b for b in BUCKETS if b < config.slots - 1), config.slots - 1}):
        inside = np.flatnonzero((elements > lower) & (elements <= bucket))
        lower, slots = bucket, bucket + 1
        at_once = max(1, min(len(inside), TOKENS_AT_ONCE // (slots * bucket)))
        for first in range(0, len(inside), at_once):
            yield slots, at_once, inside[first : first + at_once]


def stacked(rows: Sequence[Float[np.ndarray, "_ X"]], size: int, slots: int) -> np.ndarray:
    """Arrays of one row a slot, padded with zeros to [size, slots, X]."""
    full = np.zeros((size, slots, rows[0].shape[1]), rows[0].dtype)
    for place, own in enumerate(rows):
        full[place, : len(own)] = own
    return full


def slots_of(
    data: GeneSet,
    genes: Int[np.ndarray, "_"],
    embedded: Sequence[Embedded],
    size: int,
    slots: int,
) -> Slots:
    """Genes of a data set, with their embeddings, as one batch of `size` genes; filler is empty."""
    counts = np.array([len(own.embeddings) for own in embedded])
    mask = np.zeros((size, slots), bool)
    mask[: len(counts)] = np.arange(slots)[None] < counts[:, None]
    mask[:, 0] = True
    features = np.zeros((size, data.gene_features.shape[1]), np.float32)
    features[: len(genes)] = data.gene_features[genes]
    return Slots(
        stacked([own.embeddings for own in embedded], size, slots),
        mask,
        stacked([data.link_features[i] for i in genes], size, slots),
        features,
    )


def _with_tangents(model: Model, codes, positions: int) -> tuple[np.ndarray, np.ndarray]:
    config = model.info.model
    variables = model.variables
    step = _tangent_step(config, model.info.unknown_base)
    found = np.zeros((2, len(codes), config.embedding), np.float32)
    geometry = Geometry(**config.geometry())
    lengths = np.array([len(one) for one in codes], np.int64)
    for batch in layouts.track_batches(lengths, geometry=geometry, positions=positions):
        chosen = [codes[i] for i in batch.members]
        answers = step(variables, batches.pack_tracks(geometry, chosen, batch.layout, batch.dealt))
        for into, answer in zip(found, jax.device_get(answers), strict=True):
            into[batch.members] = answer[: len(chosen)]
    return found[0], found[1]


@functools.lru_cache(maxsize=8)
def _tangent_step(config: ExpressionConfig, unknown: float):
    def step(variables, packed):
        laid, placed = Tracks(**packed["tracks"]), Placed(**packed["placed"])
        return embed_with_tangents(config, variables, unknown, laid, placed)

    return jax.jit(step)
