"""What each base contributes to a prediction: `epinformer attribution`."""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import logging
from jaxtyping import Bool, Float, Int
from tqdm import tqdm

from epinformer_jax.analysis import (
    activity,
    attribution_methods,
    element_table,
    ensembles,
    inputs,
    predict,
    scales,
    slots,
)
from epinformer_jax.analysis.attribution_file import Attributions
from epinformer_jax.analysis.attribution_methods import (
    METHODS,
    REFERENCES,
    Codes,
    Found,
    Genes,
    Job,
    Method,
    Place,
    Reference,
)
from epinformer_jax.analysis.ensembles import Ensemble, Model
from epinformer_jax.analysis.inputs import GeneInputs
from epinformer_jax.data import elements, features, records, sequence, tables
from epinformer_jax.data.genome import Genome

STEPS, SHUFFLES = 64, 20
COMPLETE_WITHIN = 1e-2
FINER, REFINEMENTS = 4, 3  # steps grow so much, so often, while sequences are not complete
ROLES = ("promoter", "element")
DESCRIPTION = """\
Attribute predictions to bases; the file goes to `epinformer motifs`.

  integrated  integrated gradients along the line from a reference to the sequence (both models)
  gradient    gradient at the sequence x (base - reference) (both models)
  rescale     DeepLIFT's rescale rule (activity models; attention and LayerNorm have no such rule)

The reference is the mean over dinucleotide-shuffled sequences (shuffled), 0.25 in each channel
(uniform) or nothing (zeros). An activity model takes sequences (--fasta), windows of a genome
(--windows with --fasta) or a built data set of windows. An expression model takes genes as
`epinformer predict` does; each promoter and element is attributed on its own, everything else about
the gene as it is. Unknown bases and padding contribute 0.

Integrated gradients of sequences whose completeness error is above 1 % are computed again with 4,
and where need be 16 and 64 times the steps.

With several models each sequence is attributed by the one that tests its chromosome. The
completeness error is how far contributions are from adding up to prediction - reference, as a share
of it."""


@dataclasses.dataclass(frozen=True)
class Region:
    """A sequence to attribute; start -1 and chrom "" where it has no place."""

    name: str
    codes: Codes
    chrom: str = ""
    start: int = -1
    split: str = ""
    gene_id: str = ""
    role: str = "sequence"
    place: Place = Place()


def attribute(
    models: Sequence[Model],
    regions: Sequence[Region],
    *,
    genes: GeneInputs | None = None,
    method: Method = "integrated",
    reference: Reference | None = None,
    shuffles: int = SHUFFLES,
    steps: int = STEPS,
    average_strands: bool = False,
    ensemble: Ensemble = "auto",
    force: bool = False,
    seed: int = 0,
    batch_size: int = predict.BATCH_SIZE,
    show_progress: bool = False,
) -> Attributions:
    """Attributions of each region, mean of the models that speak about it.

    `regions` of an expression model come from `gene_regions` with the same `genes`. `reference` is
    shuffled without that, uniform for the method gradient. `average_strands` takes the mean with
    the attributions of the reverse complements (of all sequences of a gene), turned back.
    `batch_size` genes are embedded at once.

    Raises:
      ValueError: nothing to attribute, a sequence longer than the window, a method that the model
        has not, numbers below 1, held-out attributions are impossible, or signals are on another
        scale than in training (unless `force`).
    """
    _check(models, regions, genes, method, shuffles, steps)
    reference = reference or ("uniform" if method == "gradient" else "shuffled")
    job = Job(method, reference, shuffles, steps, seed)
    names = [region.name for region in regions]
    splits = [region.split for region in regions]
    speaking = ensembles.speakers(models, splits, names, ensemble)
    if genes is not None:
        scales.check(models, genes, force=force)
    references = attribution_methods.reference_codes([region.codes for region in regions], job)
    task = _Task(models, regions, references, genes, speaking, average_strands, batch_size)
    total = _rows(task, np.arange(len(regions)))
    with tqdm(total=total, unit="reference", disable=None if show_progress else True) as bar:
        found = _means(task, np.arange(len(regions)), job, bar)
        for _ in range(REFINEMENTS if method == "integrated" else 0):
            rough = np.flatnonzero(_completeness_error(regions, found) > COMPLETE_WITHIN)
            if not rough.size:
                break
            job = job._replace(steps=FINER * job.steps)
            bar.total += _rows(task, rough)
            again = _means(task, rough, job, bar)
            for name in Found._fields:
                for i, own in zip(rough, getattr(again, name), strict=True):
                    getattr(found, name)[i] = own
    return _attributions(task, found, method)


class _Task(NamedTuple):
    """What stays the same from one number of steps to the next."""

    models: Sequence[Model]
    regions: Sequence[Region]
    references: Sequence[np.ndarray]
    genes: GeneInputs | None
    speaking: Bool[np.ndarray, "M N"]
    average_strands: bool
    batch_size: int


def _rows(task: _Task, chosen: Int[np.ndarray, "_"]) -> int:
    """References that have to be computed for some regions."""
    draws = np.array([len(task.references[i]) for i in chosen])
    return int((task.speaking[:, chosen].sum(axis=0) * draws).sum()) * (1 + task.average_strands)


def _means(task: _Task, chosen: Int[np.ndarray, "_"], job: Job, bar: tqdm) -> Found:
    """Some regions' attributions, mean of models and strands."""
    voices = task.speaking[:, chosen].sum(axis=0) * (1 + task.average_strands)
    scores = [np.zeros((len(task.regions[i].codes), 4)) for i in chosen]
    prediction, ground = np.zeros(len(chosen)), np.zeros(len(chosen))
    for model, mine in zip(task.models, task.speaking[:, chosen], strict=True):
        places = np.flatnonzero(mine)
        for turned in (False, True)[: 1 + task.average_strands]:
            found = _one_strand(task, model, chosen[places], job, turned, bar)
            prediction[places] += found.prediction / voices[places]
            ground[places] += found.reference / voices[places]
            for place, own in zip(places, found.hypothetical, strict=True):
                scores[place] += (own[::-1, ::-1] if turned else own) / voices[place]
    return Found(scores, prediction, ground)


def _completeness_error(regions: Sequence[Region], found: Found) -> Float[np.ndarray, "N"]:
    """How far contributions are from adding up, relative to what they should add up to."""
    totals = [
        (sequence.one_hot(region.codes, unknown=0) * own).sum()
        for region, own in zip(regions, found.hypothetical, strict=True)
    ]
    change = found.prediction - found.reference
    return np.abs(totals - change) / np.maximum(np.abs(change), np.finfo(np.float32).tiny)


def _attributions(task: _Task, found: Found, method: str) -> Attributions:
    regions, models = task.regions, task.models
    longest = max(len(region.codes) for region in regions)
    scores = np.zeros((len(regions), longest, 4), np.float32)
    one_hot = np.zeros((len(regions), longest, 4), np.uint8)
    for i, (region, own) in enumerate(zip(regions, found.hypothetical, strict=True)):
        scores[i, : len(own)] = own
        one_hot[i, : len(own)] = sequence.one_hot(region.codes, unknown=0)
    splits = [region.split for region in regions]
    folds = ensembles.fold_and_training(models, splits, task.speaking)[0]
    return Attributions(
        one_hot=np.ascontiguousarray(one_hot.transpose(0, 2, 1)),
        hypothetical=np.ascontiguousarray(scores.transpose(0, 2, 1)),
        name=np.array([region.name for region in regions]),
        chrom=np.array([region.chrom for region in regions]),
        start=np.array([region.start for region in regions], np.int64),
        length=np.array([len(region.codes) for region in regions], np.int64),
        strand=np.full(len(regions), "+"),
        fold=np.array(folds),
        gene_id=np.array([region.gene_id for region in regions]),
        role=np.array([region.role for region in regions]),
        prediction=found.prediction,
        reference_prediction=found.reference,
        completeness_error=_completeness_error(regions, found),
        method=method,
    )


def gene_regions(genes: GeneInputs, model: Model, roles: Sequence[str] = ROLES) -> list[Region]:
    """The promoter and the elements of each gene that the model takes, as regions."""
    info = model.info
    rule = predict.rule_of(model)
    takes = features.from_dict(info.schema).use_elements and info.model.use_elements
    most = info.model.slots - 1 if takes else 0
    regions = []
    for row, example in enumerate(genes.examples):
        given = {"chrom": example.chrom, "split": example.split, "gene_id": example.gene_id}
        if "promoter" in roles:
            start = example.tss - info.promoter_bp // 2
            name = f"{example.gene_id} promoter"
            own = Region(name, example.promoter, start=start, role="promoter", **given)
            regions.append(dataclasses.replace(own, place=Place(row, 0)))
        if "element" not in roles:
            continue
        for slot, codes in enumerate(inputs.element_codes(example)[:most], 1):
            start, end = int(example.element_start[slot - 1]), int(example.element_end[slot - 1])
            name = f"{example.gene_id} {example.chrom}:{start + 1}-{end}"
            first = elements.crop(start, end, rule.window_bp)[0]
            own = Region(name, codes, start=first, role="element", **given)
            regions.append(dataclasses.replace(own, place=Place(row, slot)))
    return regions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `epinformer attribution`."""
    predict.add_input_arguments(parser)
    element_table.add_gene_argument(parser)
    parser.add_argument("--windows", type=Path, help="chrom, start, end, optional name")
    parser.add_argument(
        "--roles",
        choices=ROLES,
        nargs="+",
        default=ROLES,
        help="of genes: promoters, elements or both (default: both)",
    )
    parser.add_argument(
        "--method", choices=METHODS, default="integrated", help="see above (default: %(default)s)"
    )
    parser.add_argument(
        "--reference",
        choices=REFERENCES,
        help="what sequences are compared with (default: shuffled; uniform for gradient)",
    )
    parser.add_argument(
        "--shuffles",
        type=int,
        default=SHUFFLES,
        help="shuffled references for each sequence (default: %(default)s)",
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=STEPS,
        help="points on each path of integrated gradients (default: %(default)s)",
    )
    parser.add_argument(
        "--average-strands", action="store_true", help="mean of both strands, turned back"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the shuffles (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, required=True, help="attributions, .npz")


def run(args: argparse.Namespace) -> int:
    """Attributes and writes the file; returns the exit code."""
    if args.out.suffix != ".npz":
        raise ValueError(f"--out {args.out}: expected a name that ends in .npz")
    is_set = args.dataset is not None
    of_genes = args.genes is not None
    if is_set:
        of_genes = records.read_manifest(args.dataset).kind == "genes"
    models = ensembles.load_models(args.model, kind="expression" if of_genes else "activity")
    genes = None
    if of_genes:
        genes, _ = element_table.read_chosen(args, models)
        regions = gene_regions(genes, models[0], args.roles)
    else:
        regions = _sequences(args)
    found = attribute(
        models,
        regions,
        genes=genes,
        method=args.method,
        reference=args.reference,
        shuffles=args.shuffles,
        steps=args.steps,
        average_strands=args.average_strands,
        ensemble=args.ensemble,
        force=args.force,
        seed=args.seed,
        batch_size=args.batch_size,
        show_progress=True,
    )
    found.save(args.out)
    _tell(found)
    print(args.out)
    return 0


def _tell(found: Attributions) -> None:
    """Logs how complete attributions are."""
    errors = found.completeness_error
    beyond = int((errors > COMPLETE_WITHIN).sum())
    logging.info(
        "%d sequences; completeness error: median %.2g, 95 %% below %.2g, %d above %g",
        len(found),
        np.median(errors),
        np.quantile(errors, 0.95),
        beyond,
        COMPLETE_WITHIN,
    )
    if beyond and found.method == "integrated":
        worst = int(np.argmax(errors))
        logging.warning(
            "completeness error above %g: %d of %d sequences, the worst %s with %.2g of a change "
            "of %.2g; take more --steps",
            COMPLETE_WITHIN,
            beyond,
            len(found),
            found.name[worst],
            errors[worst],
            found.prediction[worst] - found.reference_prediction[worst],
        )


def _check(models, regions, genes, method, shuffles, steps) -> None:
    config = models[0].info.model
    if not regions:
        raise ValueError("there is no sequence to attribute")
    if (config.kind == "expression") != (genes is not None):
        given = "genes" if genes is not None else "sequences without genes"
        raise ValueError(f"{models[0].name} is an {config.kind} model; it was given {given}")
    if method not in METHODS:
        raise ValueError(f"method {method!r} is unknown; known are {', '.join(METHODS)}")
    if method == "rescale" and config.kind == "expression":
        raise ValueError(
            "method rescale has no rule for attention and LayerNorm, so it is for activity models; "
            "take integrated for an expression model"
        )
    for name, number in (("shuffles", shuffles), ("steps", steps)):
        if number < 1:
            raise ValueError(f"{name} is {number}; expected 1 or more")
    for region in regions:
        if not 0 < len(region.codes) <= config.window_bp:
            raise ValueError(
                f"sequence {region.name} has {len(region.codes)} bases, expected 1 to "
                f"{config.window_bp}; cut it first"
            )


def _one_strand(
    task: _Task, model: Model, chosen: Int[np.ndarray, "_"], job: Job, turned: bool, bar: tqdm
) -> Found:
    """Attributions of some regions by one model, as they are or reverse-complemented."""

    def strand(codes):
        return sequence.reverse_complement(codes) if turned else codes

    embedded = None
    places = [task.regions[i].place for i in chosen]
    if task.genes is not None:
        embedded, places = _embedded(model, task.genes, places, turned, task.batch_size)
    return attribution_methods.attribute(
        model,
        [strand(task.regions[i].codes) for i in chosen],
        [strand(task.references[i]) for i in chosen],
        job,
        genes=embedded,
        places=places,
        bar=bar,
    )


def _embedded(model: Model, genes: GeneInputs, places: Sequence[Place], turned, batch_size):
    """The genes that are looked at, embedded, and the places among them."""
    rows = sorted({place.gene for place in places})
    chosen = dataclasses.replace(genes, examples=[genes.examples[row] for row in rows])
    chosen = inputs.other_strand(chosen) if turned else chosen
    info = model.info
    if not rows:
        return None, []
    data = inputs.on_scale_of(chosen, features.from_dict(info.schema), info.model.slots - 1)
    found = slots.embed_all(model, data.sequences, batch_size=batch_size)
    row_of = {row: position for position, row in enumerate(rows)}
    return Genes(data, found), [Place(row_of[p.gene], p.slot) for p in places]


def _sequences(args: argparse.Namespace) -> list[Region]:
    """The windows or sequences that the arguments name."""
    if args.dataset is not None:
        _, examples = records.read_dataset(args.dataset)
        return [Region(e.name, e.sequence, e.chrom, e.start, e.split) for e in examples]
    if args.fasta is None:
        raise ValueError("give --fasta (with --windows: the genome), --dataset, or --genes")
    if args.windows is None:
        named = zip(*activity.read_fasta(args.fasta, args.cache_dir), strict=True)
        return [Region(name, codes) for name, codes in named]
    windows = tables.read_windows(args.windows, labels=())
    if "sequence" in windows:
        columns = zip(windows["name"], windows["sequence"], windows["split"], strict=True)
        return [Region(n, sequence.encode(own), split=split) for n, own, split in columns]
    split_of = {}
    if args.contigs is not None:
        contigs = tables.read_contigs(args.contigs)
        split_of = dict(zip(contigs["chrom"], contigs["split"], strict=True))
    regions = []
    with Genome(args.fasta, args.cache_dir) as genome:
        columns = (windows[name] for name in ("name", "chrom", "start", "end"))
        for name, chrom, start, end in zip(*columns, strict=True):
            codes = genome.fetch(chrom, int(start), int(end))
            split = split_of.get(chrom, chrom)
            regions.append(Region(str(name), codes, chrom, int(start), split))
    return regions
