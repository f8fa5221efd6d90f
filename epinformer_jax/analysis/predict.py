"""Expression from tables or a data set: `epinformer predict`.

Each gene is predicted by the fold that tests its chromosome, where one of the models does; an
ensemble has to be asked for, and says which genes its members were trained on.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from absl import logging
from jaxtyping import Float
from tqdm import tqdm

from epinformer_jax.analysis import distinct, ensembles, inputs, kmer_tables, scales
from epinformer_jax.analysis.ensembles import Ensemble, Model
from epinformer_jax.analysis.inputs import GeneInputs
from epinformer_jax.analysis.kmer_tables import KmerTable
from epinformer_jax.data import features, sequence, tables
from epinformer_jax.data.elements import ElementRule
from epinformer_jax.data.genome import Genome
from epinformer_jax.data.loader import GeneSet

BATCH_SIZE = 16
# A gene's sequences that are encoded at once, and genes that attention runs on at once, in units of
# the batch size: about as much memory.
BASES_PER_GENE = 8192
GENES_PER_GENE = 16
DESCRIPTION = """\
Predict expression of genes from a trained or converted model.

Each gene is predicted by the model that tests its chromosome; genes that none tests by the mean of
all. Links are chosen by the model's own rule; what it leaves out is listed beside OUT, in
NAME.dropped.tsv."""


class Expression(NamedTuple):
    """Predictions and attention as tables.

    Attributes:
      predictions: gene_id, gene_name, chrom, tss, prediction, (sd and a column for each model,
        where several speak), fold, in_training, n_elements, n_dropped, label, units, and what else
        the genes table has (as input_NAME where the name is taken).
      attention: gene_id, chrom, start, end, distance, activity, contact, attention: the promoter's
        attention to each element, mean of heads, layers and models; what it pays itself left out.
    """

    predictions: pd.DataFrame
    attention: pd.DataFrame


def predict_expression(
    models: Sequence[Model],
    genes: GeneInputs,
    *,
    ensemble: Ensemble = "auto",
    force: bool = False,
    average_strands: bool = False,
    batch_size: int = BATCH_SIZE,
    kmer_table: KmerTable = "auto",
    show_progress: bool = False,
) -> Expression:
    """Predicts every gene once, in the order given; see `ensembles.speakers` for who predicts it.

    Each distinct sequence is encoded once for each model (and strand). `average_strands` takes the
    mean over all sequences as they are and all reverse-complemented. `batch_size` bounds memory,
    not time. `kmer_table` says what answers for a model's first block (`kmer_tables.choose`): `on`
    a table (3.2 GB for the published network, and seconds to make), `small` its taps (180 MB),
    `off` the layers; `auto` what is fastest.

    Raises:
      ValueError: a signal is missing, signals are on another scale than in training (unless
        `force`), or held-out predictions are impossible.
    """
    if not genes.examples:
        raise ValueError("there is no gene to predict")
    info = models[0].info
    ids = [example.gene_id for example in genes.examples]
    speaking = ensembles.speakers(models, genes.splits, ids, ensemble)
    scales.check(models, genes, force=force)
    schema, elements = features.from_dict(info.schema), info.model.slots - 1
    data = inputs.on_scale_of(genes, schema, elements)
    own = distinct.distinct(data.sequences)
    used = [own.of_genes(np.flatnonzero(mine)) for mine in speaking]
    values = np.where(speaking, 0.0, np.nan)
    attention = np.zeros((len(ids), info.model.slots))
    strands = [own.codes]
    if average_strands:
        strands.append([sequence.reverse_complement(codes) for codes in own.codes])
    total = len(strands) * sum(len(chosen) for chosen in used)
    with tqdm(total=total, unit="sequence", disable=None if show_progress else True) as bar:
        for row, (model, mine) in enumerate(zip(models, speaking, strict=True)):
            embedded = _embed(model, strands, used[row], kmer_table, batch_size, bar)
            for embeddings in embedded:
                for found in distinct.interact(
                    model,
                    embeddings,
                    own.of_slot,
                    data.link_features,
                    data.gene_features,
                    np.flatnonzero(mine),
                    at_once=batch_size * GENES_PER_GENE,
                ):
                    slots = found.attention.shape[1]
                    values[row, found.genes] += found.predictions / len(strands)
                    attention[found.genes, :slots] += found.attention / len(strands)
    attention /= speaking.sum(axis=0)[:, None]
    return Expression(
        _prediction_table(models, genes, data, values, speaking),
        _attention_table(genes, data, attention),
    )


def rule_of(model: Model) -> ElementRule:
    """The element rule that a model was trained with."""
    return ElementRule.from_dict(model.info.element_rule)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `epinformer predict`."""
    add_input_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, help="predictions, .tsv or .tsv.gz")
    parser.add_argument("--attention", type=Path, help="attention to each element, likewise")
    parser.add_argument(
        "--average-strands",
        action="store_true",
        help="mean of all sequences and their other strand",
    )
    kmer_tables.add_argument(parser)


def add_input_arguments(parser: argparse.ArgumentParser) -> None:
    """Models, genes and who predicts which: what all commands on genes share."""
    parser.add_argument(
        "--model", type=Path, nargs="+", required=True, help="model directories, or a run directory"
    )
    parser.add_argument("--fasta", type=Path, help="genome, plain or gzip")
    parser.add_argument("--genes", type=Path, help="gene_id, chrom, tss, strand, features")
    parser.add_argument("--links", type=Path, help="gene_id, chrom, start, end, activity, contact")
    parser.add_argument("--contigs", type=Path, help="chrom, split: chromosome of each contig")
    parser.add_argument("--dataset", type=Path, help="a built genes data set, instead of tables")
    who = parser.add_mutually_exclusive_group()
    who.add_argument(
        "--ensemble",
        choices=ensembles.ENSEMBLES,
        default="auto",
        help="auto: the fold that tests a gene, else the mean of all; all: mean of all, in-sample "
        "for most of them (default: auto)",
    )
    who.add_argument(
        "--held-out",
        dest="ensemble",
        action="store_const",
        const="held-out",
        help="refuse genes that no fold tests",
    )
    parser.add_argument(
        "--force", action="store_true", help="predict although signals are on another scale"
    )
    parser.add_argument(
        "--batch-size", type=int, default=BATCH_SIZE, help="genes at once (default: %(default)s)"
    )
    parser.add_argument("--cache-dir", type=Path, help="where gzip FASTA are unpacked")


def read_inputs(args: argparse.Namespace, models: Sequence[Model]) -> GeneInputs:
    """The genes that `add_input_arguments` names.

    Raises:
      ValueError: neither a data set nor genes with a FASTA were given, or both; a table is wrong.
    """
    rule = rule_of(models[0])
    if args.dataset is not None:
        if args.genes is not None or args.links is not None:
            raise ValueError("--dataset holds genes and links; leave --genes and --links out")
        return inputs.from_dataset(args.dataset, rule=rule)
    if args.genes is None or args.fasta is None:
        raise ValueError("give --genes with --fasta (and --links), or --dataset")
    split_of = None
    if args.contigs is not None:
        contigs = tables.read_contigs(args.contigs)
        split_of = dict(zip(contigs["chrom"], contigs["split"], strict=True))
    promoter_bp = models[0].info.promoter_bp
    with Genome(args.fasta, args.cache_dir) as genome:
        return inputs.from_tables(
            args.genes,
            args.links,
            genome,
            rule=rule,
            promoter_bp=promoter_bp,
            split_of=split_of,
        )


def run(args: argparse.Namespace) -> int:
    """Predicts, writes the tables, says what was left out; returns the exit code."""
    models = ensembles.load_models(args.model, kind="expression")
    ensembles.mention_strands(models, args.average_strands)
    genes = read_inputs(args, models)
    result = predict_expression(
        models,
        genes,
        ensemble=args.ensemble,
        force=args.force,
        average_strands=args.average_strands,
        batch_size=args.batch_size,
        kmer_table=args.kmer_table,
        show_progress=True,
    )
    tables.write_table(result.predictions, args.out, float_format="%.7g")
    if args.attention is not None:
        tables.write_table(result.attention, args.attention, float_format="%.7g")
    report_dropped(genes, args.out)
    used = result.predictions["fold"].value_counts(sort=False)
    logging.info("predicted by: %s", ", ".join(f"{fold} {n}" for fold, n in used.items()))
    print(args.out)
    return 0


def report_dropped(genes: GeneInputs, out: Path) -> None:
    """Counts the links left out on screen and lists them beside `out`, as NAME.dropped.tsv."""
    stem = out.name.removesuffix(".gz").rpartition(".")[0] or out.name
    path = out.with_name(f"{stem}.dropped.tsv")
    tables.write_table(genes.dropped, path)
    reasons = genes.dropped["reason"].value_counts()
    told = ", ".join(f"{reason} {count}" for reason, count in reasons.items())
    print(f"links left out: {told}; listed in {path}" if told else "links left out: none")


def units_of(label_transform: dict[str, Any]) -> str:
    """How a label relates to what was measured, in words; "" when unknown."""
    name, offset = label_transform.get("name", ""), label_transform.get("offset", 0)
    if name == "z_log10":
        return f"z of log10(x + {offset:g})"
    return f"{name}(x + {offset:g})" if name in ("log10", "log2", "ln") else name


def _embed(model: Model, strands, used, kmer_table: KmerTable, batch_size: int, bar):
    """For each strand the embeddings of all sequences; only rows `used` are filled."""
    if not len(used):
        return
    bases = len(strands) * sum(len(strands[0][i]) for i in used)
    table = kmer_tables.choose(model, bases, kmer_table)
    positions = batch_size * BASES_PER_GENE
    for codes in strands:
        yield distinct.embed(model, codes, table=table, positions=positions, chosen=used, bar=bar)


def _prediction_table(models, genes, data, values: Float[np.ndarray, "M N"], speaking):
    info = models[0].info
    folds, seen = ensembles.fold_and_training(models, genes.splits, speaking)
    examples = genes.examples
    dropped = genes.dropped["gene_id"].value_counts()
    columns = {
        "gene_id": [example.gene_id for example in examples],
        "gene_name": [example.gene_name for example in examples],
        "chrom": [example.chrom for example in examples],
        "tss": [example.tss for example in examples],
        "prediction": np.nanmean(values, axis=0),
    }
    if (speaking.sum(axis=0) > 1).any():
        columns["sd"] = np.nanstd(values, axis=0)
        columns |= {model.name: row for model, row in zip(models, values, strict=True)}
    columns |= {
        "fold": folds,
        "in_training": seen,
        "n_elements": [len(gene.codes) - 1 for gene in data.sequences],
        "n_dropped": [int(dropped.get(example.gene_id, 0)) for example in examples],
        "label": info.label,
        "units": units_of(info.label_transform),
    }
    table = pd.DataFrame(columns)
    carried = genes.carried.loc[table["gene_id"]].reset_index(drop=True)
    carried.columns = [f"input_{name}" if name in table else name for name in carried]
    return pd.concat([table, carried], axis=1)


def _attention_table(genes: GeneInputs, data: GeneSet, attention) -> pd.DataFrame:
    names = list(genes.link_signal_names)
    counts = np.array([len(own.codes) - 1 for own in data.sequences])
    pairs = list(zip(genes.examples, counts, strict=True))

    def of_links(field: str) -> np.ndarray:
        return np.concatenate([getattr(example, field)[:count] for example, count in pairs])

    signals = of_links("link_signals")
    has_element = np.arange(1, attention.shape[1])[None] <= counts[:, None]
    return pd.DataFrame(
        {
            "gene_id": np.repeat([example.gene_id for example in genes.examples], counts),
            "chrom": np.repeat([example.chrom for example in genes.examples], counts),
            "start": of_links("element_start"),
            "end": of_links("element_end"),
            "distance": of_links("distance_bp"),
            "activity": signals[:, names.index("activity")],
            "contact": signals[:, names.index("contact")],
            "attention": attention[:, 1:][has_element],
        }
    )
