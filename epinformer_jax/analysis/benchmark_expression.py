"""Expression: the scalar baselines over the folds, and held-out predictions beside them.

A network has to beat what promoter activity, mRNA features and sums over elements give without a
base of DNA; this measures those on any gene table, genome-wide in minutes, without a FASTA.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from tqdm import tqdm

from epinformer_jax.analysis import summary
from epinformer_jax.data import delimited, elements, folds, tables
from epinformer_jax.data.elements import ElementRule
from epinformer_jax.data.folds import Fold
from epinformer_jax.data.records import GeneExample, read_dataset
from epinformer_jax.train import baselines, metrics, rundir

BASELINE = summary.BASELINE
IN_SAMPLE = ("yes", "validation")  # of the column in_training that `epinformer predict` writes
DESCRIPTION = """\
Measure scalar baselines on a gene table by cross-validation, and predictions beside them.

Each gene is predicted by the fold that tests its chromosome, from scalars alone: training mean,
promoter activity, ridge, boosted trees, MLP. Predictions (gene_id, prediction) made elsewhere are
measured on the same genes. Elements are the 60 nearest within 1-100 kb. Writes predictions.tsv and
metrics.json."""


class Genes(NamedTuple):
    """Genes as the baselines take them: records (sequence is not looked at) and signal names."""

    examples: list[GeneExample]
    link_signal_names: tuple[str, ...]
    gene_signal_names: tuple[str, ...]
    labels: Float[np.ndarray, " N"]


def compare(
    genes: Genes,
    fold_table: Mapping[str, Fold],
    others: Mapping[str, pd.Series],
    *,
    show_progress: bool = False,
) -> pd.DataFrame:
    """One row a tested gene: gene_id, chrom, split, fold, measured, baseline_*, a column an other.

    `others` are predictions by gene_id. Genes on splits that no fold tests, and genes that one of
    `others` lacks, are left out: `attrs["left_out"]` counts them.

    Raises:
      ValueError: two folds test a gene, a fold has no training gene, or nothing is left.
    """
    frame = baselines.scalar_table(genes.examples, genes.link_signal_names, genes.gene_signal_names)
    split = np.array([example.split for example in genes.examples])
    known = np.ones(len(frame), bool)
    for predicted in others.values():
        known &= frame.index.isin(predicted.index)
    parts = []
    for fold in tqdm(fold_table.values(), unit="fold", disable=None if show_progress else True):
        train, test = (np.isin(split, getattr(fold, role)) for role in ("train", "test"))
        if not test.any():
            continue
        found = baselines.fit_predict(frame[train], genes.labels[train], frame[test])
        part = {
            "gene_id": frame.index[test],
            "chrom": [genes.examples[i].chrom for i in np.flatnonzero(test)],
            "split": split[test],
            "fold": fold.name,
            "measured": genes.labels[test],
            **{f"{BASELINE}{name}": values for name, values in found.items()},
        }
        parts.append(pd.DataFrame(part)[known[test]])
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"gene_id": []})
    if not len(table):
        raise ValueError("no gene is tested by a fold and predicted by all; compare gene names")
    twice = table["gene_id"][table["gene_id"].duplicated()]
    if len(twice):
        raise ValueError(f"gene {twice.iloc[0]} is tested by two of the folds {list(fold_table)}")
    for name, predicted in others.items():
        table[name] = predicted.loc[table["gene_id"]].to_numpy(np.float64)
    table.attrs["left_out"] = len(frame) - len(table)
    return table


def score(table: pd.DataFrame) -> dict[str, Any]:
    """Scores of every predictor of `compare`, and how the others differ from the best baseline.

    {"n", "left_out", "pooled": {name: scores}, "best_baseline", "gains": {other: {"pearson":
    difference}}}; intervals over chromosomes.
    """
    measured, groups = table["measured"].to_numpy(), table["split"].to_numpy()
    place = ("gene_id", "chrom", "split", "fold", "measured")
    names = [name for name in table if name not in place]
    pooled = {name: metrics.evaluate(measured, table[name].to_numpy(), groups) for name in names}
    rivals = [n for n in names if n.startswith(BASELINE) and n != f"{BASELINE}training_mean"]
    best = max(rivals, key=lambda name: np.nan_to_num(pooled[name]["pearson"]["value"], nan=-9))
    gains = {
        name: metrics.paired_bootstrap(
            measured, table[name].to_numpy(), table[best].to_numpy(), groups
        )
        for name in names
        if not name.startswith(BASELINE)
    }
    return {
        "task": "expression",
        "n": len(table),
        "left_out": table.attrs.get("left_out", 0),
        "pooled": pooled,
        "best_baseline": best,
        "gains": {name: {"pearson": gain} for name, gain in gains.items()},
    }


def from_tables(
    genes_path: Path,
    links_path: Path,
    *,
    label: str,
    rule: ElementRule,
    contigs_path: Path | None = None,
) -> Genes:
    """Reads genes.tsv and links.tsv; elements are chosen by `rule`, sequence is left empty.

    Raises:
      ValueError: a table is wrong; names file and line.
    """
    frame = tables.read_genes(genes_path, labels=(label,))
    kept, _ = elements.select(tables.read_links(links_path, frame), rule)
    split_of = {}
    if contigs_path is not None:
        contigs = tables.read_contigs(contigs_path)
        split_of = dict(zip(contigs["chrom"], contigs["split"], strict=True))
    optional = [name for name in tables.OPTIONAL_LINK_SIGNALS if name in kept]
    link_names = (*tables.LINK_SIGNALS, *optional)
    optional = [name for name in tables.OPTIONAL_GENE_SIGNALS if name in frame]
    gene_names = (*tables.GENE_SIGNALS, *optional)
    rows_of_gene = kept.groupby("gene_id", sort=False).indices
    places = kept[["start", "end", "distance"]].to_numpy(np.int64)
    signals = kept[list(link_names)].to_numpy(np.float32)
    nothing = np.empty(0, np.int64)
    examples = [
        _example(gene, split_of, places[rows], signals[rows], gene_names)
        for gene in frame.to_dict("records")
        for rows in [rows_of_gene.get(gene["gene_id"], nothing)]
    ]
    return Genes(examples, link_names, gene_names, frame[label].to_numpy(np.float64))


def from_dataset(directory: Path, *, label: str) -> Genes:
    """Reads a genes data set that `python -m data_prep build` wrote.

    Raises:
      ValueError: it holds windows, has no such label, or a gene has no value for it.
    """
    manifest, examples = read_dataset(directory)
    if manifest.kind != "genes" or label not in manifest.label_names:
        known = ", ".join(manifest.label_names) or "none"
        raise ValueError(
            f"{directory} holds {manifest.kind} with the labels {known}, expected genes with "
            f"{label!r}"
        )
    position = list(manifest.label_names).index(label)
    labels = np.array([example.labels[position] for example in examples], np.float64)
    if not np.isfinite(labels).all():
        gene = examples[int(np.argmin(np.isfinite(labels)))].gene_id
        raise ValueError(f"{directory}: gene {gene} has no value for label {label!r}")
    return Genes(examples, manifest.link_signal_names, manifest.gene_signal_names, labels)


def read_predictions(path: Path) -> pd.Series:
    """Predictions by gene_id from a table with the columns gene_id and prediction.

    Raises:
      ValueError: a column is missing, a gene stands twice, a number is none, or a row is in-sample
        (its in_training is yes or validation, as `epinformer predict` says).
    """
    raw = delimited.read_text(path)
    for name in ("gene_id", "prediction"):
        if name not in raw:
            raise ValueError(f"{path}:1: no column {name!r}, found {', '.join(raw)}")
    delimited.refuse_duplicates(raw, ["gene_id"], "gene")
    if "in_training" in raw and raw["in_training"].isin(IN_SAMPLE).any():
        row = int(np.argmax(raw["in_training"].isin(IN_SAMPLE)))
        raise ValueError(
            f"{tables.where(raw, row)}: gene {raw['gene_id'].iloc[row]} was seen in training "
            f"(in_training {raw['in_training'].iloc[row]}); measure held-out predictions: "
            "epinformer predict --held-out"
        )
    values = delimited.as_number(raw, "prediction")
    return pd.Series(values.to_numpy(np.float64), index=raw["gene_id"].to_numpy())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `epinformer benchmark expression`."""
    parser.add_argument("--genes", type=Path, help="gene_id, chrom, tss, strand, features, label")
    parser.add_argument("--links", type=Path, help="gene_id, chrom, start, end, activity, contact")
    parser.add_argument("--contigs", type=Path, help="chrom, split: chromosome of each contig")
    parser.add_argument("--dataset", type=Path, help="a built genes data set, instead of tables")
    parser.add_argument("--label", default="rna", help="measured column (default: %(default)s)")
    parser.add_argument(
        "--folds",
        default="published",
        help="split, fold, role; or `published` (default: %(default)s)",
    )
    parser.add_argument(
        "--predictions",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="held-out predictions, gene_id and prediction; named after the file",
    )
    parser.add_argument("--out", type=Path, required=True, help="directory for the tables")


def run(args: argparse.Namespace) -> int:
    """Measures, writes predictions.tsv and metrics.json, prints the scores; the exit code."""
    if args.dataset is not None:
        if args.genes is not None or args.links is not None:
            raise ValueError("--dataset holds genes and links; leave --genes and --links out")
        genes = from_dataset(args.dataset, label=args.label)
    elif args.genes is None or args.links is None:
        raise ValueError("give --genes with --links, or --dataset")
    else:
        genes = from_tables(
            args.genes,
            args.links,
            label=args.label,
            rule=ElementRule(),
            contigs_path=args.contigs,
        )
    published = args.folds == "published"
    fold_table = folds.published_folds() if published else folds.read_folds(args.folds)
    others = _named(args.predictions)
    table = compare(genes, fold_table, others, show_progress=True)
    report(table, args.out)
    return 0


def report(table: pd.DataFrame, out: Path) -> None:
    """Writes predictions.tsv and metrics.json and prints the scores."""
    content = score(table)
    out.mkdir(parents=True, exist_ok=True)
    rundir.write_tsv(out / "predictions.tsv", table)
    rundir.write_json(out / "metrics.json", content)
    print(describe(json.loads((out / "metrics.json").read_text())))
    print(out / "metrics.json")


def describe(content: Mapping[str, Any]) -> str:
    """The scores as lines of text, best first."""
    lines = [summary.result_table(content)]
    best = summary.readable(content["best_baseline"])
    for name, gain in content["gains"].items():
        lines.append(f"{name} - {best}: r {summary.interval_text(gain['pearson'], signed=True)}")
    lines.append(
        f"genes left out (tested by no fold, or not predicted by all): {content['left_out']}"
    )
    return "\n".join(lines)


def _named(paths: Sequence[Path]) -> dict[str, pd.Series]:
    named = {path.name.removesuffix(".gz").rpartition(".")[0] or path.name: path for path in paths}
    reserved = [name for name in named if name.startswith(BASELINE) or name in ("fold", "measured")]
    if len(named) < len(paths) or reserved:
        raise ValueError(
            f"--predictions {' '.join(map(str, paths))}: two files of one name, or a name that is "
            "taken; rename them"
        )
    return {name: read_predictions(path) for name, path in named.items()}


def _example(gene, split_of, places, signals, gene_names) -> GeneExample:
    return GeneExample(
        gene_id=gene["gene_id"],
        gene_name=gene["gene_name"],
        chrom=gene["chrom"],
        split=split_of.get(gene["chrom"], gene["chrom"]),
        tss=int(gene["tss"]),
        strand=gene["strand"],
        promoter=np.empty(0, np.uint8),
        element_start=places[:, 0],
        element_end=places[:, 1],
        element_length=np.zeros(len(places), np.int32),
        element_sequence=np.empty(0, np.uint8),
        distance_bp=places[:, 2],
        link_signals=signals,
        gene_signals=np.array([gene[name] for name in gene_names], np.float32),
        labels=np.empty(0, np.float32),
    )
