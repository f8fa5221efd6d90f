"""Every distinct sequence encoded once, then shared by all genes that it belongs to.

Elements of a genome serve several genes (3.2 on average in K562), and an embedding depends on its
sequence alone. So a model embeds each sequence once, in batches of few shapes, into a host array of
64 numbers a sequence; attention and head then run on many genes at once. Memory beside the inputs
grows by those numbers only.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8

from epinformer_jax.analysis.ensembles import Model
from epinformer_jax.data import batches, layouts
from epinformer_jax.data.batches import Sequences
from epinformer_jax.data.layouts import Geometry
from epinformer_jax.model import functional, kmers, packing
from epinformer_jax.model.architecture import ExpressionConfig
from epinformer_jax.model.calls import fetched
from epinformer_jax.model.tracks import Placed, Tracks

SLOT_STEPS = (8, 16, 32)  # slots of genes that are computed together, below the model's own number

Codes = UInt8[np.ndarray, "_"]


class Distinct(NamedTuple):
    """Sequences without repeats, and which of them each slot of each gene holds."""

    codes: list[Codes]
    of_slot: list[Int[np.ndarray, "_"]]

    def of_genes(self, genes: Int[np.ndarray, "M"]) -> Int[np.ndarray, "K"]:
        """The sequences that some of the genes hold, ascending."""
        held = [self.of_slot[gene] for gene in genes]
        return np.unique(np.concatenate([np.empty(0, np.int64), *held]))


class Answers(NamedTuple):
    """Some genes' predictions, and their attention by slot (mean of heads and layers)."""

    genes: Int[np.ndarray, "B"]
    predictions: Float[np.ndarray, "B"]
    attention: Float[np.ndarray, "B S"]


def distinct(sequences: Sequence[Sequences]) -> Distinct:
    """Finds equal sequences; their order is that of their first slot."""
    place: dict[bytes, int] = {}
    codes: list[Codes] = []
    of_slot = []
    for gene in sequences:
        slots = np.empty(len(gene.codes), np.int64)
        for slot, own in enumerate(gene.codes):
            slots[slot] = place.setdefault(own.tobytes(), len(codes))
            if slots[slot] == len(codes):
                codes.append(own)
        of_slot.append(slots)
    return Distinct(codes, of_slot)


def embed(
    model: Model,
    codes: Sequence[Codes],
    *,
    table: kmers.Table | kmers.Taps | None = None,
    positions: int,
    chosen: Int[np.ndarray, "K"] | None = None,
    bar: Any = None,
) -> Float[np.ndarray, "N D"]:
    """Embeds sequences, about `positions` bases at once; `bar` (tqdm) counts them.

    With `chosen` only these are embedded, and other rows are zero; batches of several choices have
    shapes in common.

    With a `table` (`kmer_tables.choose`) those without unknown bases take their first block from
    it.

    Raises:
      ValueError: a sequence is longer than the model's window.
    """
    config = model.info.model
    embeddings = np.zeros((len(codes), config.embedding), np.float32)
    variables = model.variables
    step = _embed_step(config, model.info.unknown_base)
    chosen = np.arange(len(codes)) if chosen is None else chosen

    def calls():
        for batch, used in _batches(config, codes, chosen, table, positions):
            own = [codes[i] for i in batch.members]
            packed = batches.pack_tracks(_geometry(config), own, batch.layout, batch.dealt)
            yield batch.members, functools.partial(step, variables, used, packed)

    for members, found in fetched(calls()):
        embeddings[members] = found[: len(members)]
        if bar is not None:
            bar.update(len(members))
    return embeddings


def interact(
    model: Model,
    embeddings: Float[np.ndarray, "N D"],
    of_slot: Sequence[Int[np.ndarray, "_"]],
    link_features: Sequence[Float[np.ndarray, "_ P"]],
    gene_features: Float[np.ndarray, "M G"],
    genes: Int[np.ndarray, "K"],
    *,
    at_once: int,
) -> Iterator[Answers]:
    """Predicts the genes numbered `genes`, those with about as many slots together.

    `of_slot` are rows of `embeddings`; it, link and gene features are those of all genes.
    """
    config = model.info.model
    step = _interact_step(config)
    variables = model.variables
    counts = np.array([len(of_slot[gene]) for gene in genes])

    def calls():
        for slots, members in _by_slots(counts, config.slots):
            size = min(at_once, -(-len(members) // 8) * 8)
            for first in range(0, len(members), size):
                chosen = genes[members[first : first + size]]
                mask = np.zeros((size, slots), bool)
                place = np.zeros((size, slots), np.int64)
                links = np.zeros((size, slots, config.link_features), np.float32)
                features = np.zeros((size, config.gene_features), np.float32)
                mask[:, 0] = True
                features[: len(chosen)] = gene_features[chosen]
                for row, gene in enumerate(chosen):
                    count = len(of_slot[gene])
                    mask[row, :count] = True
                    place[row, :count] = of_slot[gene]
                    links[row, :count] = link_features[gene]
                arrays = embeddings[place], mask, links, features
                yield chosen, functools.partial(step, variables, *arrays)

    for chosen, found in fetched(calls()):
        yield Answers(chosen, *(part[: len(chosen)] for part in found))


def _by_slots(
    counts: Int[np.ndarray, "K"], most: int
) -> Iterator[tuple[int, Int[np.ndarray, "_"]]]:
    lower = 0
    for slots in [*(step for step in SLOT_STEPS if step < most), most]:
        members = np.flatnonzero((counts > lower) & (counts <= slots))
        lower = slots
        if len(members):
            yield slots, members


def _batches(
    config: ExpressionConfig,
    codes: Sequence[Codes],
    chosen: Int[np.ndarray, "K"],
    table: kmers.Table | kmers.Taps | None,
    positions: int,
) -> Iterator[tuple[layouts.TrackBatch, kmers.Table | kmers.Taps | None]]:
    lengths = np.array([len(own) for own in codes], np.int64)
    by_table = np.zeros(len(chosen), bool)
    if table is not None:
        by_table = np.array([bool(codes[i].all()) for i in chosen], bool)
    for members, used in ((chosen[by_table], table), (chosen[~by_table], None)):
        for batch in layouts.track_batches(
            lengths, geometry=_geometry(config), positions=positions, chosen=members
        ):
            yield batch, used


def _geometry(config: ExpressionConfig) -> Geometry:
    return Geometry(**config.geometry())


@functools.lru_cache(maxsize=8)
def _embed_step(config: ExpressionConfig, unknown: float):
    """The jitted embedding (variables, table or None, tracks) -> [M, D]."""

    def step(variables, table, packed):
        module = functional.bind(config, variables)
        laid, placed = Tracks(**packed["tracks"]), Placed(**packed["placed"])
        return packing.embed_tracks(module, laid, placed, unknown=unknown, table=table)

    return jax.jit(step)


@functools.lru_cache(maxsize=8)
def _interact_step(config: ExpressionConfig):
    """The jitted (variables, embeddings, mask, links, genes) -> (predictions, attention)."""

    def step(variables, *arrays):
        prediction, attention = functional.interact(config, variables, *arrays)
        return prediction, attention.mean(axis=1)

    return jax.jit(step)
