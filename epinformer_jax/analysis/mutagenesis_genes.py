"""Mutagenesis of a gene's promoter and elements inside the expression model.

Only the slot that changes is computed anew, and only where it changes; all other slots are embedded
once. Mode `sequence` keeps measured signals as they are. In mode `sequence+activity` the slot's
activity (with its DNase and H3K27ac) follows the sequence, times 2^(change of log2 activity that
activity models predict in their window nearest to the base, cut from the slot's own sequence).
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from epinformer_jax.analysis import (
    edits,
    ensembles,
    inputs,
    mutagenesis_activity,
    predict,
    saturation,
    scales,
    slots,
)
from epinformer_jax.analysis.edits import Series
from epinformer_jax.analysis.ensembles import Ensemble, Model
from epinformer_jax.analysis.inputs import GeneInputs
from epinformer_jax.analysis.kmer_tables import KmerTable
from epinformer_jax.analysis.mutagenesis_output import Scan
from epinformer_jax.data import elements, features
from epinformer_jax.data.batches import Sequences
from epinformer_jax.data.features import TRANSFORMS, FeatureSchema
from epinformer_jax.data.loader import GeneSet
from epinformer_jax.data.records import GeneExample
from epinformer_jax.model import local_genes, local_kmers, local_reference
from epinformer_jax.model.architecture import ExpressionConfig
from epinformer_jax.model.kmers import Table, Taps
from epinformer_jax.model.local_genes import Gene, Scalars, Slots

FOLLOWING = ("activity", "dnase", "h3k27ac")  # activity is sqrt(DNase x H3K27ac): all three scale
OTHERS_STEP = 4  # numbers of other elements are rounded up to this, to compile few shapes
SEQUENCES_AT_ONCE = 256  # edited ones
_BASES = {"log2": 2.0, "log10": 10.0, "ln": float(np.e)}


class Site(NamedTuple):
    """A slot to mutate: position of its gene among the inputs, and slot (0 is the promoter)."""

    gene: int
    slot: int


@dataclasses.dataclass(frozen=True)
class _Task:
    """What one model does with one site on one strand.

    `factors` scale activity, [4, L] in this strand's orientation; None without activity models.
    """

    model: Model
    inputs: GeneInputs
    data: GeneSet
    schema: FeatureSchema
    site: Site
    series: list[Series]
    factors: Float[np.ndarray, "4 L"] | None
    table: Table | Taps | None = None

    def turned(self) -> "_Task":
        """The task with edits and factors as the other strand has them."""
        length = len(self.data.sequences[self.site.gene].codes[self.site.slot])
        series = [
            one._replace(edits=[edits.mirrored(edit, length) for edit in one.edits])
            for one in self.series
        ]
        factors = None if self.factors is None else self.factors[::-1, ::-1]
        return dataclasses.replace(self, series=series, factors=factors)


def mutate_genes(
    models: Sequence[Model],
    genes: GeneInputs,
    sites: Sequence[Site],
    *,
    activity_models: Sequence[Model] = (),
    deletions: Sequence[int] = (),
    insertions: Sequence[str] = (),
    ensemble: Ensemble = "auto",
    force: bool = False,
    average_strands: bool = False,
    kmer_table: KmerTable = "auto",
    tables: Mapping[str, Table | Taps] | None = None,
    batch_size: int = predict.BATCH_SIZE,
    show_progress: bool = False,
) -> list[Scan]:
    """Every substitution of the sequences in these slots, by the models that speak of their gene.

    A sequence that a deletion or insertion has made shorter or longer is put in the middle of its
    window anew, and cropped around its middle where it does not fit; the activity keeps its value.
    `average_strands` takes the mean of all sequences as they are and all reverse-complemented.
    `kmer_table` says what answers for a model's first layers (`kmer_tables.choose`); `tables` are
    there already, by model name. `batch_size` genes are encoded at once.

    Raises:
      ValueError: no site, a slot that a gene does not have, activity models of another kind of
        label than a logarithm, or as `predict.predict_expression`.
    """
    if not sites:
        raise ValueError("there is nothing to mutate; name a promoter or an element")
    _check(models, genes, sites, activity_models)
    scales.check(models, genes, force=force)
    ids = [genes.examples[site.gene].gene_id for site in sites]
    splits = [genes.splits[site.gene] for site in sites]
    speaking = ensembles.speakers(models, splits, ids, ensemble)
    folds, seen = ensembles.fold_and_training(models, splits, speaking)
    info = models[0].info
    schema = features.from_dict(info.schema)
    strands = [genes, inputs.other_strand(genes)][: 1 + average_strands]
    strands = [(own, inputs.on_scale_of(own, schema, info.model.slots - 1)) for own in strands]
    codes = [strands[0][1].sequences[site.gene].codes[site.slot] for site in sites]
    factors = _factors(activity_models, codes, splits, ensemble, average_strands, kmer_table)
    series = [edits.series(len(own), deletions, insertions) for own in codes]
    by_model = [[] for _ in sites]
    total = int(speaking.sum()) * len(strands)
    with tqdm(total=total, unit="sequence", disable=None if show_progress else True) as bar:
        for model, speaks in zip(models, speaking, strict=True):
            columns = np.flatnonzero(speaks).tolist()
            used = sorted({sites[column].gene for column in columns})
            table = (tables or {}).get(model.name)
            if table is None:
                positions = len(strands) * sum(len(codes[column]) for column in columns)
                data = strands[0][1].sequences
                encoded = len(strands) * sum(int(data[gene].lengths.sum()) for gene in used)
                table = saturation.kmer_table(model, positions, kmer_table, encoded=encoded)
            embedded = [_embeddings(model, own, used, table, batch_size) for _, own in strands]
            for column in columns:
                parts, site = [], sites[column]
                for strand, (own, data) in enumerate(strands):
                    given = site, series[column], factors[column], table
                    task = _Task(model, own, data, schema, *given)
                    task = task.turned() if strand else task
                    found = _one_strand(task, embedded[strand][site.gene])
                    parts.append(_turned(found) if strand else found)
                    bar.update(1)
                mean = [np.mean(found, axis=0) for found in zip(*parts, strict=True)]
                by_model[column].append(mean)
            del table  # 3 GB: not two at once
    return [
        dataclasses.replace(
            _scan(genes.examples[site.gene], site, own, found, one, info),
            fold=fold,
            in_training=in_training,
        )
        for site, own, found, one, fold, in_training in zip(
            sites, codes, by_model, series, folds, seen, strict=True
        )
    ]


def sites_of(
    genes: GeneInputs,
    models: Sequence[Model],
    *,
    promoter: bool,
    element: tuple[str, int, int] | None = None,
    all_elements: bool = False,
) -> list[Site]:
    """The slots that are asked for; `element` is a place (0-based half-open) that overlaps them.

    Raises:
      ValueError: no element of the genes overlaps the place; names the nearest.
    """
    most = models[0].info.model.slots - 1
    most = most if features.from_dict(models[0].info.schema).use_elements else 0
    sites = []
    for row, example in enumerate(genes.examples):
        sites += [Site(row, 0)] if promoter else []
        count = min(len(example.element_length), most)
        for place in range(count):
            start, end = int(example.element_start[place]), int(example.element_end[place])
            is_it = element is not None and (
                example.chrom == element[0] and start < element[2] and end > element[1]
            )
            if all_elements or is_it:
                sites.append(Site(row, place + 1))
    if element is not None and not any(site.slot for site in sites):
        raise ValueError(
            f"no element of {', '.join(e.gene_id for e in genes.examples[:3])} overlaps "
            f"{place_name(*element)}; {_known_elements(genes.examples, most)}"
        )
    return sites


def place_name(chrom: str, start: int, end: int) -> str:
    """A place as people read it: 1-based, both ends included."""
    return f"{chrom}:{start + 1}-{end}"


def _embeddings(
    model: Model, data: GeneSet, genes: Sequence[int], table: Table | Taps | None, batch_size: int
) -> dict[int, Float[np.ndarray, "S D"]]:
    """Every slot of some genes."""
    sequences = [data.sequences[gene] for gene in genes]
    found = slots.embed_all(model, sequences, batch_size=batch_size, table=table)
    return dict(zip(genes, (own.embeddings for own in found), strict=True))


def _one_strand(task: _Task, embeddings: Float[np.ndarray, "S D"]) -> list[np.ndarray]:
    """Predictions of one site: as it is [1], substituted [K, 4, L], and of each edit series."""
    info, site = task.model.info, task.site
    config = info.model
    variables = task.model.variables
    codes = task.data.sequences[site.gene].codes[site.slot]
    window = saturation.centred(codes, config.window_bp)
    refer = saturation.compiled(local_reference.reference, config)
    table = task.table if window.is_known else None
    taps = None if table is None else local_kmers.taps_of(table)
    reference = refer(variables, *saturation.arrays([window], info.unknown_base), taps)
    gene, as_is = _context(task, embeddings)
    change, respond = _compiled(config, site.slot == 0)
    standing = float(respond(variables, gene, reference.answer[:, None], as_is)[0])
    first = int(np.argmax(window.valid))
    values = np.full((1 + (task.factors is not None), 1, 4, config.window_bp), np.nan)

    def call(batch: saturation.Batch):
        scalars = (as_is,)
        if task.factors is not None:
            places = batch.start - first + np.arange(batch.alleles.shape[2])
            places = np.clip(places, 0, len(codes) - 1)
            factors = task.factors[batch.alleles[0], places[None]].reshape(-1)
            scalars = (as_is, _scaled(task, factors))
        given = reference, batch.tiles(), gene, scalars, batch.table
        return change(variables, *given, phase=batch.phase)

    slots_of_gene = 2 + gene.others.x.shape[1]
    saturation.fill(values, [window], config, table, call, slots=slots_of_gene)
    saturation.put_standing(values[:, 0], window, standing)
    found = [np.array([standing]), values[:, 0, :, first : first + len(codes)]]
    for one in task.series:
        made = [_cropped(edits.apply(codes, edit), config.window_bp) for edit in one.edits]
        embedded = _embedded(task.model, made)
        answers = [
            np.asarray(respond(variables, gene, part[:, None], as_is))[:count]
            for part, count in embedded
        ]
        found.append(np.concatenate([np.empty(0), *answers]))
    return found


def _embedded(model: Model, codes: Sequence[edits.Codes]):
    """Yields embeddings of sequences, SEQUENCES_AT_ONCE a time, and how many of them are real."""
    sequences = [Sequences([own]) for own in codes]
    found = slots.embed_all(model, sequences, batch_size=predict.BATCH_SIZE)
    rows = [own.embeddings[0] for own in found]
    for first in range(0, len(rows), SEQUENCES_AT_ONCE):
        chosen = rows[first : first + SEQUENCES_AT_ONCE]
        filler = [chosen[0]] * (SEQUENCES_AT_ONCE - len(chosen))
        yield np.stack([*chosen, *filler]), len(chosen)


def _context(task: _Task, embeddings: Float[np.ndarray, "S D"]) -> tuple[Gene, Scalars]:
    """The gene without the slot that changes, and the scalars as they are."""
    site, links = task.site, task.data.link_features[task.site.gene]
    others = np.delete(np.arange(1, len(embeddings)), site.slot - 1 if site.slot else [])
    size = max(-(-len(others) // OTHERS_STEP), 1) * OTHERS_STEP

    def padded(rows: np.ndarray) -> np.ndarray:
        return np.pad(rows[others], ((0, size - len(others)), (0, 0)))[None]

    promoter = Slots(embeddings[None, :1], links[None, :1], np.ones(1, bool))
    rest = Slots(padded(embeddings), padded(links), np.arange(size) < len(others))
    scalars = Scalars(links[None, site.slot], task.data.gene_features[None, site.gene])
    return Gene(promoter, rest), scalars


def _scaled(task: _Task, factors: Float[np.ndarray, "M"]) -> Scalars:
    """The scalars with the slot's activity times each factor."""
    site, schema = task.site, task.schema
    example = task.inputs.examples[site.gene]
    names, gene_names = task.inputs.link_signal_names, task.inputs.gene_signal_names
    count = len(factors)
    genes = np.repeat(task.data.gene_features[None, site.gene], count, axis=0)
    if site.slot:
        signals = np.repeat(example.link_signals[site.slot - 1][None], count, axis=0)
        columns = [column for column, name in enumerate(names) if name in FOLLOWING]
        signals[:, columns] *= factors[:, None].astype(np.float32)
        per_element = ("element_start", "element_end", "element_length", "distance_bp")
        same = {n: np.repeat(getattr(example, n)[site.slot - 1], count) for n in per_element}
        copies = dataclasses.replace(example, link_signals=signals, **same)
        return Scalars(features.link_array(schema, copies, names, gene_names)[1:], genes)
    links = np.repeat(task.data.link_features[site.gene][None, 0], count, axis=0)
    signal_of = dict(zip(gene_names, example.gene_signals.astype(np.float64), strict=True))
    following = {f"promoter_{name}" for name in FOLLOWING}
    for column, feature in enumerate(schema.link_features):
        if feature.promoter_source in following:
            transform = TRANSFORMS[feature.promoter_transform]
            links[:, column] = transform(signal_of[feature.promoter_source] * factors)
    for column, feature in enumerate(schema.gene_features):
        if feature.source in following and feature.transform != "zero":
            genes[:, column] = TRANSFORMS[feature.transform](signal_of[feature.source] * factors)
    return Scalars(links, genes)


def _factors(
    models: Sequence[Model],
    codes: Sequence[edits.Codes],
    splits: Sequence[str],
    ensemble: Ensemble,
    strands: bool,
    kmer_table: KmerTable,
) -> list[Float[np.ndarray, "4 L"] | None]:
    """How much activity changes with each substitution of sequences; None without models."""
    if not models:
        return [None] * len(codes)
    scans = mutagenesis_activity.mutate_stretches(
        models,
        [
            mutagenesis_activity.Stretch("the sequence of a slot", own, split=split)
            for own, split in zip(codes, splits, strict=True)
        ],
        ensemble=ensemble,
        average_strands=strands,
        kmer_table=kmer_table,
    )
    base = _BASES[models[0].info.label_transform["name"]]
    return [base**scan.effects for scan in scans]


def _scan(example: GeneExample, site: Site, codes, by_model, series, info) -> Scan:
    """The mean over models; each gives what `_one_strand` gives."""
    references = np.array([found[0][0] for found in by_model])
    effects = np.stack([found[1] - found[0][0] for found in by_model])
    indels = {one.name: np.full(len(codes), np.nan) for one in series}
    for place, one in enumerate(series, start=2):
        own = [found[place] - found[0][0] for found in by_model]
        indels[one.name][one.starts] = np.mean(own, axis=0)
    start = example.tss - len(codes) // 2
    if site.slot:
        place = site.slot - 1
        ends = int(example.element_start[place]), int(example.element_end[place])
        start = elements.crop(*ends, info.element_rule.get("window_bp", info.model.window_bp))[0]
    mean = effects.mean(axis=0)
    return Scan(
        name=f"{example.gene_id}|{place_name(example.chrom, start, start + len(codes))}",
        chrom=example.chrom,
        start=start,
        codes=codes,
        reference=np.full(len(codes), references.mean()),
        effects=mean[0],
        effects_with_activity=mean[1] if len(mean) > 1 else None,
        sd=effects[:, 0].std(axis=0) if len(by_model) > 1 else None,
        indels=indels,
        gene_id=example.gene_id,
        role="element" if site.slot else "promoter",
        label=info.label,
    )


@functools.lru_cache(maxsize=16)
def _compiled(config: ExpressionConfig, is_promoter: bool):
    """slot_changes and changed of model.local_genes, jitted."""
    change, respond = (
        functools.partial(function, config, is_promoter=is_promoter)
        for function in (local_genes.slot_changes, local_genes.changed)
    )
    return jax.jit(change, static_argnames="phase"), jax.jit(respond)


def _cropped(codes: edits.Codes, window_bp: int) -> edits.Codes:
    start, end = elements.crop(0, len(codes), window_bp)
    return codes[start:end]


def _turned(found: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What `_one_strand` found, in the other strand's orientation."""
    return [found[0], found[1][:, ::-1, ::-1], *found[2:]]


def _check(models, genes: GeneInputs, sites: Sequence[Site], activity_models) -> None:
    most = models[0].info.model.slots - 1
    for site in sites:
        example = genes.examples[site.gene]
        if site.slot > min(len(example.element_length), most):
            raise ValueError(f"{example.gene_id} has no slot {site.slot} in this model")
    for model in activity_models:
        name = model.info.label_transform.get("name", "")
        if name not in _BASES:
            raise ValueError(
                f"activity model {model.name} predicts {model.info.label} (transform {name!r}), "
                "expected a logarithm of activity, such as log2"
            )


def _known_elements(examples: Sequence[GeneExample], most: int) -> str:
    places = [
        place_name(example.chrom, int(start), int(end))
        for example in examples
        for start, end in zip(example.element_start[:most], example.element_end[:most], strict=True)
    ]
    shown = ", ".join(places[:5]) + (", ..." if len(places) > 5 else "")
    return f"there are {shown}" if places else "they have no elements"
