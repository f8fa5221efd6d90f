"""What a variant does to the sequences of a gene, and what the models say about it.

The rule: a variant is written into its contig, and the tables are lifted to the edited contig (see
`vcf.Variant.lifted`): promoter and elements are cut there as `predict` cuts them. So a promoter
keeps its length around the lifted TSS, an element grows or shrinks with an indel, and one that is
deleted is gone. Distances and measured signals stay those of the tables, as does the choice of
elements.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from tqdm import tqdm

from epinformer_jax.analysis import activity, distinct, inputs, predict
from epinformer_jax.analysis.changes import SCALED
from epinformer_jax.analysis.ensembles import Model
from epinformer_jax.analysis.inputs import GeneInputs
from epinformer_jax.analysis.vcf import Variant, fetch_edited
from epinformer_jax.data import elements, features, sequence
from epinformer_jax.data.genome import Genome
from epinformer_jax.data.records import GeneExample

PAIRS_AT_ONCE = 512  # variants x genes whose sequences are held at once
POSITIONS_AT_ONCE = 1 << 17
GENES_AT_ONCE = 256
MODES = ("sequence", "sequence_activity")


class Hit(NamedTuple):
    """A variant in one slot of one gene (numbers in their lists); slot 0 is the promoter."""

    variant: int
    gene: int
    slot: int


class Effects(NamedTuple):
    """By model and pair of variant and gene; NaN where a model does not speak.

    Attributes:
      before: prediction without the variant.
      deltas: change by mode; the second is NaN without an activity model.
    """

    before: Float[np.ndarray, "M P"]
    deltas: Float[np.ndarray, "two M P"]


def hits_of(
    variants: Sequence[Variant], genes: GeneInputs, genome: Genome, model: Model
) -> list[Hit]:
    """The slots whose sequence a variant changes, by variant, gene, slot."""
    window_bp, half = predict.rule_of(model).window_bp, model.info.promoter_bp // 2
    takes = features.from_dict(model.info.schema).use_elements and model.info.model.use_elements
    most = model.info.model.slots - 1 if takes else 0
    spans: dict[str, list[tuple[int, int, int, int]]] = {}
    for gene, example in enumerate(genes.examples):
        own = spans.setdefault(example.chrom, [])
        own.append((example.tss - half, example.tss + half, gene, 0))
        bounds = zip(example.element_start[:most], example.element_end[:most], strict=True)
        own += [(int(s), int(e), gene, slot) for slot, (s, e) in enumerate(bounds, 1)]
    tables = {chrom: np.array(sorted(own), np.int64) for chrom, own in spans.items()}
    longest = {chrom: int((own[:, 1] - own[:, 0]).max()) for chrom, own in tables.items()}
    hits = []
    for number, variant in enumerate(variants):
        if variant.chrom not in tables:
            continue
        own = tables[variant.chrom]
        first = np.searchsorted(own[:, 0], variant.start - longest[variant.chrom])
        near = own[first : np.searchsorted(own[:, 0], variant.end, side="right")]
        # strictly inside, for an insertion: one at the edge of an interval stays outside
        inside = (near[:, 0] < variant.end) & (near[:, 1] > variant.start)
        for _, _, gene, slot in near[inside].tolist():
            before = _slot_codes(genes.examples[gene], slot)
            after = edited_codes(genes.examples[gene], slot, variant, genome, window_bp, half)
            if not np.array_equal(before, after):
                hits.append(Hit(number, gene, slot))
    return sorted(hits)


def edited_codes(
    example: GeneExample, slot: int, variant: Variant, genome: Genome, window_bp: int, half: int
) -> np.ndarray:
    """The sequence of a slot with the variant; empty when the element is gone."""
    if slot == 0:
        tss = variant.lifted(example.tss)
        return fetch_edited(genome, variant, tss - half, tss + half)
    start = variant.lifted(int(example.element_start[slot - 1]), is_start=True)
    end = variant.lifted(int(example.element_end[slot - 1]))
    if end <= start:
        return np.empty(0, np.uint8)
    return fetch_edited(genome, variant, *elements.crop(start, end, window_bp))


def activity_changes(
    models: Sequence[Model],
    speaking: Bool[np.ndarray, "M V"],
    variants: Sequence[Variant],
    genome: Genome,
    *,
    average_strands: bool,
    batch_size: int,
) -> Float[np.ndarray, "M V two"]:
    """Predicted label without and with each variant, NaN where a model does not speak.

    Of each allele a window of the model's width is cut, the allele in its middle. The other strand
    is the same procedure on the reverse complement of the contig.
    """
    window_bp = models[0].info.model.window_bp
    strands = [
        [_windows(variant, genome, window_bp, turned) for variant in variants]
        for turned in (False, True)[: 1 + average_strands]
    ]
    values = np.full((len(models), len(variants), 2), np.nan)
    for row, (model, mine) in enumerate(zip(models, speaking, strict=True)):
        chosen = np.flatnonzero(mine)
        if not chosen.size:
            continue
        parts = []
        for windows in strands:
            codes = [own for i in chosen for own in windows[i]]
            names = [variants[i].id for i in chosen for _ in range(2)]
            table = activity.predict_activity([model], names, codes, batch_size=batch_size)
            parts.append(table[model.info.label].to_numpy())
        values[row, chosen] = np.mean(parts, axis=0).reshape(-1, 2)
    return values


def expression_changes(
    models: Sequence[Model],
    speaking: Bool[np.ndarray, "M N"],
    genes: GeneInputs,
    variants: Sequence[Variant],
    hits: Sequence[Hit],
    genome: Genome,
    factors: Float[np.ndarray, " V"] | None,
    *,
    average_strands: bool,
    bar: tqdm,
) -> tuple[list[tuple[int, int]], Effects]:
    """The pairs of variant and gene, and what each variant does to the gene's expression.

    All slots that a variant changes change together. `factors` of activity, by variant, are for the
    second mode. `bar` counts pairs and models.
    """
    pairs = sorted({hit[:2] for hit in hits})
    slots_of: dict[tuple[int, int], list[int]] = {}
    for hit in hits:
        slots_of.setdefault(hit[:2], []).append(hit.slot)
    before = np.full((len(models), len(pairs)), np.nan)
    deltas = np.full((2, len(models), len(pairs)), np.nan)
    for row, (model, mine) in enumerate(zip(models, speaking, strict=True)):
        chosen = np.array([p for p, (_, gene) in enumerate(pairs) if mine[gene]], np.int64)
        memory: dict[bytes, np.ndarray] = {}
        for first in range(0, len(chosen), PAIRS_AT_ONCE):
            part = chosen[first : first + PAIRS_AT_ONCE]
            here = sorted({pairs[p][1] for p in part})
            examples = [genes.examples[gene] for gene in here]
            for p in part:
                number, gene = pairs[p]
                edit = (genes.examples[gene], slots_of[pairs[p]], variants[number], genome)
                edited = _edited(*edit, model)
                examples.append(edited)
                if factors is not None:
                    changed = slots_of[pairs[p]]
                    examples.append(_scaled(genes, edited, gene, changed, factors[number]))
            given = dataclasses.replace(genes, examples=examples)
            values = _predict(model, given, len(here), memory, average_strands)
            base = dict(zip(here, values, strict=False))
            after = values[len(here) :].reshape(len(part), -1).T
            before[row, part] = [base[pairs[p][1]] for p in part]
            deltas[: len(after), row, part] = after - before[row, part]
            bar.update(len(part))
    return pairs, Effects(before, deltas)


def _predict(
    model: Model,
    genes: GeneInputs,
    remembered: int,
    memory: dict[bytes, np.ndarray],
    average_strands: bool,
) -> Float[np.ndarray, "N"]:
    """Predictions of genes; sequences of the first `remembered` ones are encoded once for all."""
    info = model.info
    schema, most = features.from_dict(info.schema), info.model.slots - 1
    values = np.zeros(len(genes.examples))
    strands = [genes, inputs.other_strand(genes)][: 1 + average_strands]
    for strand in strands:
        data = inputs.on_scale_of(strand, schema, most)
        shared = distinct.distinct(data.sequences)
        keys = [hashlib.blake2b(own.tobytes(), digest_size=16).digest() for own in shared.codes]
        missing = [i for i, key in enumerate(keys) if key not in memory]
        found = distinct.embed(
            model, [shared.codes[i] for i in missing], positions=POSITIONS_AT_ONCE
        )
        own = dict(zip((keys[i] for i in missing), found, strict=True))
        embeddings = np.stack([own[key] if key in own else memory[key] for key in keys])
        stays = shared.of_genes(np.arange(remembered))
        memory.update({keys[i]: embeddings[i] for i in stays})
        for answers in distinct.interact(
            model,
            embeddings,
            shared.of_slot,
            data.link_features,
            data.gene_features,
            np.arange(len(data)),
            at_once=GENES_AT_ONCE,
        ):
            values[answers.genes] += answers.predictions / len(strands)
    return values


def _edited(
    example: GeneExample, slots: Sequence[int], variant: Variant, genome: Genome, model: Model
) -> GeneExample:
    """The gene with the variant in some of its slots; deleted elements are left out."""
    window_bp, half = predict.rule_of(model).window_bp, model.info.promoter_bp // 2
    codes = [example.promoter, *inputs.element_codes(example)]
    for slot in slots:
        codes[slot] = edited_codes(example, slot, variant, genome, window_bp, half)
    kept = [i for i, own in enumerate(codes[1:]) if len(own)]
    own = [codes[1 + i] for i in kept]
    return dataclasses.replace(
        example,
        promoter=codes[0],
        element_start=example.element_start[kept],
        element_end=example.element_end[kept],
        element_length=np.array([len(part) for part in own], np.int32),
        element_sequence=np.concatenate([np.empty(0, np.uint8), *own]),
        distance_bp=example.distance_bp[kept],
        link_signals=example.link_signals[kept],
    )


def _scaled(
    genes: GeneInputs, edited: GeneExample, gene: int, slots: Sequence[int], factor: float
) -> GeneExample:
    """The edited gene with the activity (DNase and H3K27ac with it) of its changed slots scaled."""
    places = {(e, f) for e, f in _bounds(genes.examples[gene], slots)}
    rows = [
        row
        for row, bounds in enumerate(zip(edited.element_start, edited.element_end, strict=True))
        if tuple(map(int, bounds)) in places
    ]
    links = edited.link_signals.copy()
    columns = [i for i, name in enumerate(genes.link_signal_names) if name in SCALED["activity"]]
    links[np.ix_(rows, columns)] *= np.float32(factor)
    signals = edited.gene_signals.copy()
    if 0 in slots:
        names = {f"promoter_{name}" for name in SCALED["activity"]}
        own = [i for i, name in enumerate(genes.gene_signal_names) if name in names]
        signals[own] *= np.float32(factor)
    return dataclasses.replace(edited, link_signals=links, gene_signals=signals)


def _bounds(example: GeneExample, slots: Sequence[int]) -> Iterator[tuple[int, int]]:
    for slot in slots:
        if slot:
            yield int(example.element_start[slot - 1]), int(example.element_end[slot - 1])


def _slot_codes(example: GeneExample, slot: int) -> np.ndarray:
    return example.promoter if slot == 0 else inputs.element_codes(example)[slot - 1]


def _windows(
    variant: Variant, genome: Genome, window_bp: int, turned: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Both alleles in the middle of their window; `turned`: on the other strand.

    An indel in a repeat may be written at several places: the middle is that of all of them.
    """
    left, right = _slack(variant, genome, window_bp // 2)
    start, found = variant.start - left, []
    for length, fetch in (
        (variant.end - variant.start, genome.fetch),
        (len(variant.inserted), lambda _, s, e: fetch_edited(genome, variant, s, e)),
    ):
        length += left + right
        middle = start + (-(-length // 2) if turned else length // 2)
        own = fetch(variant.chrom, middle - window_bp // 2, middle + window_bp // 2)
        found.append(sequence.reverse_complement(own) if turned else own)
    return found[0], found[1]


def _slack(variant: Variant, genome: Genome, most: int) -> tuple[int, int]:
    """How far an indel can move to the left and right without another outcome."""
    chrom, start, end = variant.chrom, variant.start, variant.end
    if start < end and len(variant.inserted):
        return 0, 0
    unit = variant.inserted if start == end else genome.fetch(chrom, start, end)
    before = genome.fetch(chrom, start - most, start)[::-1]
    after = genome.fetch(chrom, end, end + most)
    counts = []
    for flank, own in ((before, unit[::-1]), (after, unit)):
        same = (flank == np.resize(own, most)) & (flank != sequence.UNKNOWN)
        counts.append(most if same.all() else int(np.argmin(same)))
    return counts[0], counts[1]


def pair_index(pairs: Sequence[tuple[int, int]], hits: Sequence[Hit]) -> Int[np.ndarray, "H"]:
    """For each hit the number of its pair."""
    number = {pair: i for i, pair in enumerate(pairs)}
    return np.array([number[hit[:2]] for hit in hits], np.int64)
