"""Measures the baselines on real data: what a network has to beat.

    python -m tests.benchmarks.scalar_baselines_k562 [--data ../shared/data] [--only k562|lentimpra]

K562 RNA, 18,377 genes, the 12 published folds, each gene predicted by the fold that tests it, from
the genome-wide tables in k562/ (links within 1-100 kb, power-law contact); beside them the
published predictions. HepG2 lentiMPRA: 5-mer ridge on the 200 bp elements, ten parts, both
orientations of a sequence in the same part. About 2 and 1 minutes on two cores.
"""

import argparse
import pathlib

import numpy as np
import pandas as pd

from epinformer_jax.analysis import benchmark_expression
from epinformer_jax.data import sequence
from epinformer_jax.data.folds import published_folds
from epinformer_jax.data.records import GeneExample
from epinformer_jax.data.tables import MRNA_FEATURES
from epinformer_jax.train import baselines, metrics

DATA = pathlib.Path(__file__).resolve().parents[2].parent / "shared" / "data"
LINK_SIGNALS = ("activity", "contact", "dnase", "h3k27ac")
GENE_SIGNALS = (*MRNA_FEATURES, "promoter_activity", "promoter_dnase", "promoter_h3k27ac")
DNASE, H3K27AC = "DNase_ENCFF257HEE", "H3K27ac_ENCFF232RQF"
MILLION_READS = {DNASE: 100.0, H3K27AC: 70.7}
MIN_DISTANCE_BP, MAX_DISTANCE_BP, MAX_ELEMENTS = 1_000, 100_000, 60
POWER_LAW_GAMMA, POWER_LAW_SCALE = 1.024238616787792, 5.9594510043736655
ADAPTER_BP = 15


def gene_examples(folder: pathlib.Path) -> tuple[list[GeneExample], pd.DataFrame]:
    """Genes in the order of the mRNA table, without sequence; published answers in that order."""
    features = pd.read_csv(folder / "mrna_halflife_features.csv.gz").set_index("gene_id")
    windows = pd.read_csv(folder / "tss_window_counts.tsv.gz", sep="\t").set_index("gene_id")
    answers = pd.read_csv(folder / "rna_labels_and_published_predictions.csv.gz")
    answers = answers.set_index("gene_id").loc[features.index]
    elements = pd.read_csv(folder / "candidate_elements_counts.tsv.gz", sep="\t")
    elements["middle"] = (elements["start"] + elements["end"]) // 2
    by_chrom = {name: part.sort_values("middle") for name, part in elements.groupby("chrom")}
    genes = windows.loc[features.index].join(features[list(MRNA_FEATURES)])
    labels = answers["rna_label_log10rpkm_zscore"].to_numpy(np.float32)
    rows = zip(genes.reset_index().to_dict("records"), labels, strict=True)
    return [_example(gene, label, by_chrom[gene["chrom"]]) for gene, label in rows], answers


def _example(gene: dict, label: np.float32, nearby: pd.DataFrame) -> GeneExample:
    tss = (gene["tss_window_start"] + gene["tss_window_end"]) // 2
    ends = np.searchsorted(nearby["middle"], [tss - MAX_DISTANCE_BP, tss + MAX_DISTANCE_BP + 1])
    chosen = nearby.iloc[slice(*ends)]
    chosen = chosen.assign(distance=chosen["middle"] - tss)
    chosen = chosen[chosen["distance"].abs() > MIN_DISTANCE_BP]
    order = np.lexsort((chosen["start"], chosen["distance"].abs()))[:MAX_ELEMENTS]
    chosen = chosen.iloc[order]
    dnase, h3k27ac = (chosen[name].to_numpy() / MILLION_READS[name] for name in MILLION_READS)
    distance = chosen["distance"].to_numpy(np.int64)
    far = np.maximum(np.abs(distance), 5_000) + 1
    contact = np.exp(POWER_LAW_SCALE - POWER_LAW_GAMMA * np.log(far))
    own_dnase, own_h3k27ac = (gene[name] / MILLION_READS[name] for name in MILLION_READS)
    promoter = (np.sqrt(own_dnase * own_h3k27ac), own_dnase, own_h3k27ac)
    links = np.stack([np.sqrt(dnase * h3k27ac), contact, dnase, h3k27ac], axis=1)
    return GeneExample(
        gene_id=gene["gene_id"],
        gene_name="",
        chrom=gene["chrom"],
        split=gene["chrom"],
        tss=int(tss),
        strand=gene["strand"],
        promoter=np.zeros(0, np.uint8),
        element_start=chosen["start"].to_numpy(np.int64),
        element_end=chosen["end"].to_numpy(np.int64),
        element_length=np.zeros(len(chosen), np.int32),
        element_sequence=np.zeros(0, np.uint8),
        distance_bp=distance,
        link_signals=links.astype(np.float32),
        gene_signals=np.array([*(gene[n] for n in MRNA_FEATURES), *promoter], np.float32),
        labels=np.array([label]),
    )


def measure_k562(folder: pathlib.Path) -> None:
    """Prints every scalar baseline and the published predictions over the 12 folds."""
    examples, answers = gene_examples(folder)
    labels = np.array([example.labels[0] for example in examples], np.float64)
    genes = benchmark_expression.Genes(examples, LINK_SIGNALS, GENE_SIGNALS, labels)
    others = {"published": answers["published_prediction"]}
    table = benchmark_expression.compare(genes, published_folds(), others, show_progress=True)
    print("K562 RNA, held out over 12 folds")
    print(benchmark_expression.describe(benchmark_expression.score(table)), flush=True)


def measure_lentimpra(folder: pathlib.Path) -> None:
    """Prints the k-mer ridge on rows, and on the mean of the two orientations."""
    rows = pd.read_csv(folder / "val_HepG2.tsv.gz", sep="\t")
    codes = [sequence.encode(text[ADAPTER_BP:-ADAPTER_BP]) for text in rows["seq"]]
    twins = [min(bytes(c), bytes(sequence.reverse_complement(c))) for c in codes]
    group = pd.factorize(pd.Series(twins))[0]
    labels = rows["mean_value"].to_numpy()
    part = (np.random.default_rng(0).permutation(group.max() + 1) % 10)[group]
    first = np.unique(group, return_index=True)[1]
    means = np.bincount(group, weights=labels) / np.bincount(group)
    for name, chosen, values in (
        ("rows", np.arange(len(labels)), labels),
        ("mean of both orientations", first, means),
    ):
        predicted = np.zeros(len(values))
        for held_out in range(10):
            test = np.flatnonzero(part[chosen] == held_out)
            train = np.flatnonzero(part[chosen] != held_out)
            predicted[test] = baselines.kmer_ridge(
                [codes[chosen[i]] for i in train], values[train], [codes[chosen[i]] for i in test]
            )
        scores = metrics.evaluate(values, predicted, group[chosen])
        show(f"HepG2 lentiMPRA 5-mer ridge, {name}", scores)


def show(name: str, scores: dict) -> None:
    """One line: n, Pearson with interval, MSE, share of variance explained."""
    print(
        f"{name}: n {scores['n']:,}, r {{value:.4f}} [{{low:.4f}}, {{high:.4f}}], ".format(
            **scores["pearson"]
        )
        + f"MSE {scores['mse']['value']:.4f}, explained {scores['explained']['value']:.4f}",
        flush=True,
    )


def main() -> None:
    """Runs what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=pathlib.Path, default=DATA, help="folder of real data")
    parser.add_argument("--only", choices=("k562", "lentimpra"), help="default: both")
    arguments = parser.parse_args()
    if arguments.only != "lentimpra":
        measure_k562(arguments.data / "k562")
    if arguments.only != "k562":
        measure_lentimpra(arguments.data / "lentimpra")


if __name__ == "__main__":
    main()
