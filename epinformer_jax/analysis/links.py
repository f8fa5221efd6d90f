"""Scores of every gene and element: `epinformer links`.

All scores of one gene are computed over the elements that the model's rule keeps for it. A share is
a value divided by its sum over these elements: shares of a gene sum to 1, and a lone element scores
1, however weak it is. Where all values are 0, so are the shares. What a share cannot say is whether
a gene depends on any element; removal_delta and attention_raw can.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from tqdm import tqdm

from epinformer_jax.analysis import (
    ensembles,
    inputs,
    perturb,
    predict,
    scales,
    slots,
    tracks,
)
from epinformer_jax.analysis.element_table import (
    add_gene_argument,
    element_columns,
    element_counts,
    read_chosen,
)
from epinformer_jax.analysis.ensembles import Ensemble, Model
from epinformer_jax.analysis.inputs import GeneInputs
from epinformer_jax.data import features, tables
from epinformer_jax.data.features import FeatureSchema
from epinformer_jax.data.loader import GeneSet

ATTENTION_FLOOR = 1e-5  # added to each layer's attention before shares are taken (spec 5.3)
AMOUNTS = ("activity", "contact", "dnase", "h3k27ac")
DESCRIPTION = """\
Score every gene and candidate element that a model takes.

  abc              activity x contact, as a share of the gene's elements
  attention_mean   the promoter's attention (+ 1e-5), mean of heads and layers, likewise a share
  attention_L1..   of each layer, likewise
  attention_raw    the mean as it is: the promoter's attention to itself is what lacks to 1
  attention_abc    attention x activity x contact, likewise a share
  gradient         gradient x input: how the prediction moves, to first order, with the element's
                   bases (gradient_sequence) and with its signals (gradient_signals: activity,
                   contact, DNase, H3K27ac as the model takes them; distance is left out)
  removal_delta    prediction without the element minus prediction with it; an enhancer is below 0

A share of a gene with one element is 1. gradient and removal_delta are in the label's units.
With --out NAME.bedpe, .interact or .longrange (or each with .gz) a track for a genome browser is
written instead of the table, of the score that --track-score names."""
TRACKS = {
    ".bedpe": tracks.write_bedpe,
    ".interact": tracks.write_interact,
    ".longrange": tracks.write_longrange,
}


class Scores(NamedTuple):
    """Raw scores of all genes' elements one after another, mean of models and strands."""

    attention: Float[np.ndarray, "K E"]
    sequence: Float[np.ndarray, "E"]
    signals: Float[np.ndarray, "E"]
    removal_delta: Float[np.ndarray, "E"]


def score_links(
    models: Sequence[Model],
    genes: GeneInputs,
    *,
    promoters: pd.DataFrame | None = None,
    ensemble: Ensemble = "auto",
    force: bool = False,
    average_strands: bool = False,
    batch_size: int = predict.BATCH_SIZE,
    show_progress: bool = False,
) -> pd.DataFrame:
    """One row a gene and element, nearest first within each gene; see DESCRIPTION for the scores.

    Columns: gene_id, gene_name, chrom, start, end, tss, class, distance, activity, contact, abc,
    attention_mean, attention_L1.. (one a layer), attention_raw, attention_abc, gradient,
    gradient_sequence, gradient_signals, removal_delta, fold, in_training, and abc_score where the
    inputs have it. `promoters` are chrom and tss of all genes, for the class. Genes without
    elements have no row; `attrs["without_elements"]` names them.

    Raises:
      ValueError: no gene has an element, or as `predict.predict_expression`.
    """
    schema = features.from_dict(models[0].info.schema)
    counts = element_counts(models, genes)
    ids = [example.gene_id for example in genes.examples]
    speaking = ensembles.speakers(models, genes.splits, ids, ensemble)
    scales.check(models, genes, force=force)
    scores = _scores(
        models, genes, schema, counts, speaking, average_strands, batch_size, show_progress
    )
    columns = element_columns(models, genes, counts, speaking, promoters)
    gene = np.repeat(np.arange(len(counts)), counts)
    abc = (columns["activity"] * columns["contact"]).astype(np.float64)
    raw = scores.attention.mean(axis=0)
    by_layer = scores.attention + ATTENTION_FLOOR
    mean = by_layer.mean(axis=0)
    last = {name: columns.pop(name) for name in ("fold", "in_training")}
    columns |= {
        "abc": shares(abc, gene),
        "attention_mean": shares(mean, gene),
        **{f"attention_L{k}": shares(own, gene) for k, own in enumerate(by_layer, 1)},
        "attention_raw": raw,
        "attention_abc": shares(mean * abc, gene),
        "gradient": scores.sequence + scores.signals,
        "gradient_sequence": scores.sequence,
        "gradient_signals": scores.signals,
        "removal_delta": scores.removal_delta,
        **last,
    }
    names = list(genes.link_signal_names)
    if "abc_score" in names:
        column = names.index("abc_score")
        parts = zip(genes.examples, counts, strict=True)
        columns["abc_score"] = np.concatenate([e.link_signals[:n, column] for e, n in parts])
    table = pd.DataFrame(columns)
    table.attrs["without_elements"] = [i for i, n in zip(ids, counts, strict=True) if not n]
    return table


def shares(values: Float[np.ndarray, "E"], gene: Int[np.ndarray, "E"]) -> Float[np.ndarray, "E"]:
    """Each value divided by its gene's sum; 0 where that is 0."""
    total = np.bincount(gene, weights=values)[gene] if len(gene) else np.zeros(0)
    return np.divide(values, total, out=np.zeros(len(values)), where=total > 0)


def write_links(table: pd.DataFrame, path: Path, *, score: str) -> None:
    """Writes the table, or the track that the name's ending asks for, with `score` as its value.

    Raises:
      ValueError: the table has no such column (tracks only), or it is not finite.
    """
    ending = path.name.removesuffix(".gz")
    for suffix, write in TRACKS.items():
        if ending.endswith(suffix):
            write(path, table, score=score)
            return
    tables.write_table(table.drop(columns="tss"), path, float_format="%.7g")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `epinformer links`."""
    predict.add_input_arguments(parser)
    add_gene_argument(parser)
    parser.add_argument(
        "--out",
        type=Path,
        nargs="+",
        required=True,
        help=".tsv, .bedpe, .interact or .longrange, each also with .gz; several at once",
    )
    parser.add_argument(
        "--track-score",
        default="attention_abc",
        metavar="COLUMN",
        help="the score of a track (default: %(default)s)",
    )
    parser.add_argument(
        "--average-strands",
        action="store_true",
        help="mean of all sequences and their other strand",
    )


def run(args: argparse.Namespace) -> int:
    """Scores, writes the table and tracks, says what was left out; returns the exit code."""
    models = ensembles.load_models(args.model, kind="expression")
    ensembles.mention_strands(models, args.average_strands)
    genes, promoters = read_chosen(args, models)
    table = score_links(
        models,
        genes,
        promoters=promoters,
        ensemble=args.ensemble,
        force=args.force,
        average_strands=args.average_strands,
        batch_size=args.batch_size,
        show_progress=True,
    )
    if args.track_score not in table:
        raise ValueError(
            f"--track-score {args.track_score}: no such column, expected one of {', '.join(table)}"
        )
    for path in args.out:
        write_links(table, path, score=args.track_score)
    predict.report_dropped(genes, args.out[0])
    perturb.report_genes(table)
    print(*args.out, sep="\n")
    return 0


def _scores(
    models: Sequence[Model],
    genes: GeneInputs,
    schema: FeatureSchema,
    counts: Int[np.ndarray, "N"],
    speaking: Bool[np.ndarray, "M N"],
    average_strands: bool,
    batch_size: int,
    show_progress: bool,
) -> Scores:
    strands = [genes, inputs.other_strand(genes)][: 1 + average_strands]
    most, total = models[0].info.model.slots - 1, int(counts.sum())
    strands = [inputs.on_scale_of(strand, schema, most) for strand in strands]
    layers = models[0].info.model.layers
    sums = Scores(np.zeros((layers, total)), *(np.zeros(total) for _ in range(3)))
    weight = 1.0 / (speaking.sum(axis=0) * len(strands))
    first = np.cumsum(counts) - counts
    genes_in_all = int(speaking[:, counts > 0].sum()) * len(strands)
    with tqdm(total=genes_in_all, unit="gene", disable=None if show_progress else True) as bar:
        for model, mine in zip(models, speaking, strict=True):
            chosen = np.flatnonzero(mine & (counts > 0))
            for data in strands:
                for gene, own in _one_strand(model, data, schema, chosen, batch_size):
                    inside = slice(first[gene], first[gene] + counts[gene])
                    for into, values in zip(sums, own, strict=True):
                        into[..., inside] += weight[gene] * values
                    bar.update(1)
    return sums


def _one_strand(model: Model, data: GeneSet, schema: FeatureSchema, chosen, batch_size: int):
    """Yields a gene and the scores of its elements; the model's weights are on the device."""
    config, variables = model.info.model, model.variables
    is_amount = np.array([feature.source in AMOUNTS for feature in schema.link_features], bool)
    sequences = [data.sequences[i] for i in chosen]
    embedded = slots.embed_all(model, sequences, batch_size=batch_size, with_tangents=True)
    counts = np.array([len(own.embeddings) - 1 for own in embedded], np.int64)
    reference = slots.compiled(slots.reference, config)
    removals = slots.compiled(slots.removals, config)
    gradients = slots.compiled(slots.gradient_times_input, config)
    for size, at_once, places in slots.batches_of(counts, config):
        genes, here = chosen[places], [embedded[place] for place in places]
        batch = slots.slots_of(data, genes, here, at_once, size)
        tangents = slots.stacked([own.tangents for own in here], at_once, size)
        prediction, attention = jax.device_get(reference(variables, batch))
        without = jax.device_get(removals(variables, batch))
        sequence, signals = jax.device_get(gradients(variables, batch, tangents))
        for row, (gene, count) in enumerate(zip(genes, counts[places], strict=True)):
            inside = slice(1, 1 + count)
            yield (
                int(gene),
                Scores(
                    attention[row, :, inside].astype(np.float64),
                    sequence[row, inside].astype(np.float64),
                    signals[row, inside][:, is_amount].sum(axis=1, dtype=np.float64),
                    without[row, :count].astype(np.float64) - float(prediction[row]),
                ),
            )
