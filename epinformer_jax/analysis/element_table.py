"""Genes with their elements as rows: what tables of links and of perturbations begin with."""

import argparse
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from epinformer_jax.analysis import ensembles, inputs, predict
from epinformer_jax.analysis.ensembles import Model
from epinformer_jax.analysis.inputs import GeneInputs
from epinformer_jax.data import chromosomes, elements, features, tables

PROMOTER_HALF_BP = 500
PROMOTER_COLUMNS = ("gene_id", "gene_name", "chrom", "tss", "strand")
CLASSES = ("self_promoter", "promoter", "distal")

Columns = Mapping[str, np.ndarray] | pd.DataFrame


def element_counts(models: Sequence[Model], genes: GeneInputs) -> Int[np.ndarray, "N"]:
    """Elements of each gene that the models take.

    Raises:
      ValueError: there is no gene, the models take no elements, or no gene has any.
    """
    info = models[0].info
    if not genes.examples:
        raise ValueError("there is no gene to look at")
    if not features.from_dict(info.schema).use_elements or not info.model.use_elements:
        raise ValueError(
            f"model {models[0].name} sees promoters alone, so its elements have no effect; take a "
            "model with another preset"
        )
    most = info.model.slots - 1
    counts = np.array([min(len(e.element_length), most) for e in genes.examples], np.int64)
    if not counts.any():
        raise ValueError(
            f"none of the {len(counts)} genes has an element by the model's rule "
            f"({predict.rule_of(models[0])}); see what was dropped, or give more links"
        )
    return counts


def element_columns(
    models: Sequence[Model],
    genes: GeneInputs,
    counts: Int[np.ndarray, "N"],
    speaking: Bool[np.ndarray, "M N"],
    promoters: pd.DataFrame | None = None,
) -> dict[str, np.ndarray]:
    """Columns of a table with one row an element of a gene, nearest first within each gene.

    Columns: gene_id, gene_name, chrom, start, end, tss, class, distance, activity, contact, fold,
    in_training. The class is self_promoter within 500 bp of the gene's own TSS, promoter within
    500 bp of another one of `promoters` (chrom, tss; the genes themselves without that), else
    distal. Not a table yet: callers add columns, which is slow one by one.
    """
    folds, seen = ensembles.fold_and_training(models, genes.splits, speaking)
    names = list(genes.link_signal_names)
    examples = genes.examples

    def of_gene(values, dtype=object) -> np.ndarray:
        return np.repeat(np.array(values, dtype), counts)

    def of_element(values) -> np.ndarray:
        parts = [own[:count] for own, count in zip(values, counts, strict=True)]
        return np.concatenate(parts)

    columns = {
        "gene_id": of_gene([example.gene_id for example in examples]),
        "gene_name": of_gene([example.gene_name for example in examples]),
        "chrom": of_gene([example.chrom for example in examples]),
        "start": of_element([example.element_start for example in examples]),
        "end": of_element([example.element_end for example in examples]),
        "tss": of_gene([example.tss for example in examples], np.int64),
        "class": np.empty(0, object),  # its place; known once the others are
        "distance": of_element([example.distance_bp for example in examples]),
        **{
            name: of_element([e.link_signals[:, names.index(name)] for e in examples])
            for name in ("activity", "contact")
        },
        "fold": of_gene(folds),
        "in_training": of_gene(seen),
    }
    if promoters is None:
        promoters = promoters_of(genes)
    columns["class"] = classes_of(columns, promoters)
    return columns


def promoters_of(genes: GeneInputs) -> pd.DataFrame:
    """gene_id, gene_name, chrom, tss and strand of each gene."""
    rows = [[getattr(e, name) for name in PROMOTER_COLUMNS] for e in genes.examples]
    return pd.DataFrame(rows, columns=list(PROMOTER_COLUMNS))


def classes_of(elements_of: Columns, promoters: pd.DataFrame) -> np.ndarray:
    """The class of each element; see `element_columns`."""
    chrom, start, end = (np.asarray(elements_of[name]) for name in ("chrom", "start", "end"))
    is_promoter = np.zeros(len(chrom), bool)
    of_promoter, all_tss = (promoters[name].to_numpy() for name in ("chrom", "tss"))
    for name in dict.fromkeys(chrom.tolist()):
        rows = np.flatnonzero(chrom == name)
        tss = np.sort(all_tss[of_promoter == name].astype(np.int64))
        first = np.searchsorted(tss, start[rows] - PROMOTER_HALF_BP, side="right")
        nearest = np.append(tss, np.iinfo(np.int64).max // 2)[first]
        is_promoter[rows] = nearest < end[rows] + PROMOTER_HALF_BP
    own = elements.is_self_promoter(elements_of)
    return np.where(own, CLASSES[0], np.where(is_promoter, CLASSES[1], CLASSES[2]))


def add_gene_argument(parser: argparse.ArgumentParser) -> None:
    """The option that names genes; see `read_chosen`."""
    parser.add_argument(
        "--gene",
        nargs="+",
        default=[],
        metavar="GENE_ID",
        help="ids or names of the genes to look at (default: all)",
    )


def read_chosen(
    args: argparse.Namespace, models: Sequence[Model]
) -> tuple[GeneInputs, pd.DataFrame]:
    """The genes of `predict.add_input_arguments` that --gene names, and the promoters of all.

    Of tables only the sequences of the genes that are named are read.

    Raises:
      ValueError: a gene that is not there, a name of several genes, or as `predict.read_inputs`.
    """
    if args.dataset is not None or args.genes is None:
        genes = predict.read_inputs(args, models)
        return select(genes, args.gene), promoters_of(genes)
    frame = tables.read_genes(args.genes, labels=())
    promoters = frame[list(PROMOTER_COLUMNS)].copy()
    given = {**vars(args), "genes": frame}
    if args.links is not None:
        given["links"] = tables.read_links(args.links, frame)
    if args.gene:
        ids = _ids(args.gene, list(frame["gene_id"]), list(frame["gene_name"]))
        for name in ("genes", "links"):
            if isinstance(given[name], pd.DataFrame):
                given[name] = given[name][given[name]["gene_id"].isin(ids)]
                given[name].attrs = {}  # rows no longer stand at their file's lines
    return predict.read_inputs(argparse.Namespace(**given), models), promoters


def select(genes: GeneInputs, wanted: Sequence[str]) -> GeneInputs:
    """The genes with these ids or names, in the order of the inputs; all where none is named.

    Raises:
      ValueError: a gene that is not there, or a name of several genes.
    """
    if not wanted:
        return genes
    examples = genes.examples
    ids = _ids(wanted, [e.gene_id for e in examples], [e.gene_name for e in examples])
    return inputs.GeneInputs(
        [example for example in examples if example.gene_id in ids],
        genes.link_signal_names,
        genes.gene_signal_names,
        genes.dropped[genes.dropped["gene_id"].isin(ids)],
        genes.carried,
    )


def _ids(wanted: Sequence[str], ids: Sequence[str], names: Sequence[str]) -> set[str]:
    known, by_name = set(ids), {}
    for own, name in zip(ids, names, strict=True):
        by_name.setdefault(name, []).append(own)
    found = set()
    for gene in wanted:
        if gene in known:
            found.add(gene)
            continue
        called = by_name.get(gene, []) if gene else []
        if len(called) != 1:
            hint = chromosomes.suggest(gene, [*ids, *filter(None, by_name)])
            reason = f"names {', '.join(called)}; give an id" if called else f"is unknown; {hint}"
            raise ValueError(f"gene {gene} {reason}")
        found.add(called[0])
    return found
