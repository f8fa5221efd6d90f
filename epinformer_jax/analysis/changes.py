"""Changes of single elements, run on every gene: what `perturb` and `links` are made of.

The encoder runs once a sequence; only attention and head are repeated (analysis.slots).
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from tqdm import tqdm

from epinformer_jax.analysis import inputs, kmer_tables, slots
from epinformer_jax.analysis.ensembles import Model
from epinformer_jax.analysis.inputs import GeneInputs
from epinformer_jax.analysis.kmer_tables import KmerTable
from epinformer_jax.analysis.slots import Edit, Embedded
from epinformer_jax.data import features, sequence
from epinformer_jax.data.batches import Sequences
from epinformer_jax.data.features import FeatureSchema
from epinformer_jax.data.loader import GeneSet
from epinformer_jax.model.kmers import Table, Taps

Codes = UInt8[np.ndarray, "_"]
# What a dose multiplies: activity is sqrt(DNase x H3K27ac), so both scale as it does.
SCALED = {"activity": ("activity", "dnase", "h3k27ac"), "contact": ("contact",)}


@dataclasses.dataclass(frozen=True)
class Change:
    """One way to change an element.

    Attributes:
      kind: remove, activity, contact, swap_sequence or swap_element.
      dose: factor of the signal; NaN for other kinds.
      name: of the sequence put in; "" where it is another element of the gene.
      turn: for swaps with the gene's own elements: the element that many places further, around.
    """

    kind: str
    dose: float = math.nan
    name: str = ""
    turn: int = 0


REMOVE = Change("remove")


class Effects(NamedTuple):
    """Predictions by change and element, the genes' elements one after another; NaN where a change
    is not defined (a gene with too few elements for the swap).

    Attributes:
      before: without change, mean of models and strands; NaN for genes without elements.
      after: with it, likewise.
      sd: of the difference, over the models that speak about the gene.
    """

    before: Float[np.ndarray, "N"]
    after: Float[np.ndarray, "C E"]
    sd: Float[np.ndarray, "C E"]


@dataclasses.dataclass(frozen=True)
class Run:
    """What is run.

    Attributes:
      genes: on no model's scale yet.
      schema: of the models.
      changes: all of them on all elements.
      swaps: sequences that changes name.
      batch_size: genes encoded at once.
      kmer_table: what answers for the first block, see `kmer_tables.choose`.
      tables: tables that are there already, by model name.
    """

    genes: GeneInputs
    schema: FeatureSchema
    changes: Sequence[Change]
    swaps: Mapping[str, Codes]
    batch_size: int
    kmer_table: KmerTable = "auto"
    tables: Mapping[str, Table | Taps] = dataclasses.field(default_factory=dict)


def run_changes(
    run: Run,
    models: Sequence[Model],
    counts: Int[np.ndarray, "N"],
    speaking: Bool[np.ndarray, "M N"],
    *,
    average_strands: bool,
    show_progress: bool,
) -> Effects:
    """Every change on each of the `counts` elements of every gene, by the models that speak of it;
    `average_strands` as in `predict.predict_expression`.
    """
    strands = [run.genes, inputs.other_strand(run.genes)][: 1 + average_strands]
    most = models[0].info.model.slots - 1
    strands = [inputs.on_scale_of(strand, run.schema, most) for strand in strands]
    first = np.cumsum(counts) - counts
    befores, afters = [], []
    total = int(speaking[:, counts > 0].sum()) * len(strands)
    with tqdm(total=total, unit="gene", disable=None if show_progress else True) as bar:
        for model, mine in zip(models, speaking, strict=True):
            chosen = np.flatnonzero(mine & (counts > 0))
            before = np.full(len(counts), np.nan)
            after = np.full((len(run.changes), int(counts.sum())), np.nan)
            table = run.tables.get(model.name) or _table(run, model, strands, chosen)
            for turned, data in enumerate(strands):
                found = _one_strand(run, model, table, data, chosen, bool(turned))
                for gene, reference, values in found:
                    inside = slice(first[gene], first[gene] + counts[gene])
                    sofar = (before[gene], after[:, inside]) if turned else (0.0, 0.0)
                    before[gene] = sofar[0] + reference / len(strands)
                    after[:, inside] = sofar[1] + values / len(strands)
                    bar.update(1)
            del table  # 3 GB: not two at once
            befores.append(before)
            afters.append(after)
    return _over_models(np.stack(befores), np.stack(afters), counts, speaking)


def _table(run: Run, model: Model, strands: Sequence[GeneSet], chosen) -> Table | Taps | None:
    """A k-mer table, where it is wanted for the genes' distinct sequences."""
    codes = {own.tobytes() for i in chosen for own in strands[0].sequences[i].codes}
    bases = len(strands) * sum(map(len, codes))
    return kmer_tables.choose(model, bases, run.kmer_table) if bases else None


def _over_models(befores, afters, counts, speaking) -> Effects:
    """Means over the models that speak; NaN where none does."""
    voices = speaking.sum(axis=0)
    of_element = np.repeat(voices, counts)[None]
    deltas = afters - np.repeat(befores, counts, axis=1)[:, None]
    speaks = np.repeat(speaking, counts, axis=1)[:, None]

    def mean(values, speaks, voices):
        return np.where(speaks, values, 0.0).sum(axis=0) / voices

    centre = mean(deltas, speaks, of_element)
    sd = np.sqrt(mean(np.square(deltas - centre[None]), speaks, of_element))
    return Effects(mean(befores, speaking, voices), mean(afters, speaks, of_element), sd)


def _one_strand(
    run: Run,
    model: Model,
    table: Table | Taps | None,
    data: GeneSet,
    chosen: Int[np.ndarray, "_"],
    turned: bool,
) -> Iterator[tuple[int, float, Float[np.ndarray, "C _"]]]:
    """Yields a gene, its prediction as it is, and its predictions [changes, elements]; the model's
    weights are on the device.
    """
    config, variables = model.info.model, model.variables
    sequences = [data.sequences[i] for i in chosen]
    swaps = [sequence.reverse_complement(c) if turned else c for c in run.swaps.values()]
    sequences += [Sequences([codes]) for codes in swaps]
    embedded = slots.embed_all(model, sequences, batch_size=run.batch_size, table=table)
    embedded, swaps = embedded[: len(chosen)], embedded[len(chosen) :]
    swapped = dict(zip(run.swaps, (own.embeddings[0] for own in swaps), strict=True))
    counts = np.array([len(own.embeddings) - 1 for own in embedded], np.int64)
    reference = slots.compiled(slots.reference, config)
    edited = slots.compiled(slots.single_edits, config)
    for size, at_once, places in slots.batches_of(counts, config):
        genes, here = chosen[places], [embedded[place] for place in places]
        batch = slots.slots_of(data, genes, here, at_once, size)
        found = [reference(variables, batch)[0]]  # all are under way before one is waited for
        for change in run.changes:
            edit = _edit(run, change, batch, genes, here, swapped)
            found.append(edited(variables, batch, edit))
        before, *after = jax.device_get(found)
        for row, (gene, count) in enumerate(zip(genes, counts[places], strict=True)):
            values = np.stack([own[row, :count] for own in after]).astype(np.float64)
            values[[change.turn >= count for change in run.changes]] = np.nan
            yield int(gene), float(before[row]), values


def _edit(
    run: Run,
    change: Change,
    batch: slots.Slots,
    genes: Int[np.ndarray, "_"],
    embedded: Sequence[Embedded],
    swapped: Mapping[str, Float[np.ndarray, "D"]],
) -> Edit:
    """What every slot of a batch becomes; the promoter's is never used."""
    size, slot_count = batch.mask.shape
    if change.kind == "remove":
        return Edit(mask=np.zeros_like(batch.mask))
    if change.name:
        own = swapped[change.name]
        return Edit(embeddings=np.broadcast_to(own, (size, slot_count, len(own))))
    embeddings, links = [], []
    for gene, own in zip(genes, embedded, strict=True):
        count = len(own.embeddings) - 1
        other = (np.arange(count) + change.turn) % count
        embeddings.append(own.embeddings[np.r_[0, 1 + other]])
        links.append(_changed_links(run, change, int(gene), other))
    edit = Edit()
    if change.turn:
        edit = edit._replace(embeddings=slots.stacked(embeddings, size, slot_count))
    if change.kind != "swap_sequence":
        edit = edit._replace(link_features=slots.stacked(links, size, slot_count))
    return edit


def _changed_links(
    run: Run, change: Change, gene: int, other: Int[np.ndarray, "_"]
) -> Float[np.ndarray, "S P"]:
    """Link features of a gene whose elements all have the dose, or the signals of `other` ones."""
    example, names = run.genes.examples[gene], run.genes.link_signal_names
    signals = example.link_signals.copy()
    kind = change.kind if change.kind in SCALED else "activity"
    columns = [column for column, name in enumerate(names) if name in SCALED[kind]]
    if change.turn:
        signals[: len(other), columns] = signals[other][:, columns]
    else:
        signals[:, columns] *= np.float32(change.dose)
    changed = dataclasses.replace(example, link_signals=signals)
    rows = features.link_array(run.schema, changed, names, run.genes.gene_signal_names)
    return rows[: 1 + len(other)]
