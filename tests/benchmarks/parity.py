"""What the published K562 RNA weights give on the real slices: parity and precision, not accuracy.

    python -m tests.benchmarks.parity [--data ../shared/data]

Converts the 12 published folds and predicts each of the 92 genes by the fold that tests it, in
float32, with bfloat16 convolutions and attention, and some genes in float64. Controls stand beside
the score: on these genes it is no better than promoter activity alone. Prints a Markdown table.
"""

import argparse
import dataclasses
import pathlib
import tempfile
from collections.abc import Iterator

import jax
import numpy as np
import pandas as pd
from absl import logging

from epinformer_jax import convert
from epinformer_jax.analysis import ensembles, inputs, predict
from epinformer_jax.analysis.ensembles import Model
from epinformer_jax.analysis.inputs import GeneInputs
from epinformer_jax.data import tables
from epinformer_jax.data.genome import Genome
from epinformer_jax.train import metrics

DATA = pathlib.Path(__file__).resolve().parents[2].parent / "shared" / "data"
WEIGHTS, SLICES = "expression_K562_PE_Activity_HiC_RNA", "k562_slices"
GOLDEN = "k562_slices_PE_Activity_HiC_RNA.tsv"
BATCH_SIZE = 8
SHUFFLE_SEED = 0


def published_models(data: pathlib.Path) -> list[Model]:
    """The folds, converted, saved and loaded again."""
    with tempfile.TemporaryDirectory() as folder:
        for path in sorted((data / "weights" / WEIGHTS).glob("fold_*.pt")):
            convert.convert(path, pathlib.Path(folder) / path.stem)
        return ensembles.load_models([folder], kind="expression")


def slice_genes(data: pathlib.Path, models: list[Model]) -> tuple[GeneInputs, pd.DataFrame]:
    """The genes, and their table with the label."""
    contigs = tables.read_contigs(data / SLICES / "contigs.tsv")
    frame = tables.read_genes(data / SLICES / "genes.tsv")
    with (
        tempfile.TemporaryDirectory() as cache,
        Genome(data / SLICES / "genome.fa.gz", cache) as genome,
    ):
        genes = inputs.from_tables(
            data / SLICES / "genes.tsv",
            data / SLICES / "links.tsv",
            genome,
            rule=predict.rule_of(models[0]),
            split_of=dict(zip(contigs["chrom"], contigs["split"], strict=True)),
        )
    return genes, frame


def predicted(models: list[Model], genes: GeneInputs, batch_size: int = BATCH_SIZE) -> np.ndarray:
    """Held-out predictions in the order of `genes`."""
    table = predict.predict_expression(models, genes, ensemble="held-out", batch_size=batch_size)
    return table.predictions["prediction"].to_numpy(np.float64)


def in_float64(models: list[Model], genes: GeneInputs) -> np.ndarray:
    """The same, one gene at a time, with weights and everything made of them in float64."""
    jax.config.update("jax_enable_x64", True)
    try:
        wide = [
            model._replace(variables=jax.tree.map(np.float64, model.variables)) for model in models
        ]
        return predicted(wide, genes, batch_size=1)
    finally:
        jax.config.update("jax_enable_x64", False)


def in_bfloat16(models: list[Model]) -> list[Model]:
    """Convolutions, matrix products and attention in bfloat16; the rest stays float32."""
    narrow = []
    for model in models:
        config = dataclasses.replace(model.info.model, compute_dtype="bfloat16")
        narrow.append(model._replace(info=dataclasses.replace(model.info, model=config)))
    return narrow


def without_elements(genes: GeneInputs) -> GeneInputs:
    """Promoters alone."""
    examples = [
        dataclasses.replace(
            example,
            element_start=example.element_start[:0],
            element_end=example.element_end[:0],
            element_length=example.element_length[:0],
            element_sequence=example.element_sequence[:0],
            distance_bp=example.distance_bp[:0],
            link_signals=example.link_signals[:0],
        )
        for example in genes.examples
    ]
    return dataclasses.replace(genes, examples=examples)


def shuffled_elements(genes: GeneInputs) -> GeneInputs:
    """Bases of each element in random order; signals, distances and promoters stay."""
    rng = np.random.default_rng(SHUFFLE_SEED)

    def shuffled(example):
        parts = [rng.permutation(own) for own in inputs.element_codes(example)]
        codes = np.concatenate([np.empty(0, np.uint8), *parts])
        return dataclasses.replace(example, element_sequence=codes)

    return dataclasses.replace(genes, examples=[shuffled(e) for e in genes.examples])


def lines(data: pathlib.Path, float64_every: int) -> Iterator[str]:
    """Everything as the lines of a Markdown table, the slow ones last."""
    models = published_models(data)
    genes, frame = slice_genes(data, models)
    label, groups = frame["rna"].to_numpy(np.float64), np.array(genes.splits)
    golden = pd.read_csv(data / "golden" / GOLDEN, sep="\t").set_index("gene_id")
    golden = golden.loc[frame["gene_id"], "prediction"].to_numpy()

    def row(name: str, values: np.ndarray, *others: np.ndarray) -> str:
        r = metrics.bootstrap("pearson", label, values, groups).intervals["pearson"]
        away = [f"{np.abs(values - other).max():.2g}" for other in others] or ["–", "–"]
        score = f"{r.value:.4f} [{r.low:.2f}, {r.high:.2f}]"
        return f"| {name} | {len(values)} | {score} | {' | '.join(away)} |"

    yield f"Published K562 RNA weights, {len(label)} genes, each by the fold that tests it"
    yield ""
    yield "| predictor | n | Pearson r with the label [95 %] | max diff. to float32 | to PyTorch |"
    yield "|---|---|---|---|---|"
    single = predicted(models, genes)
    yield row("float32", single, single, golden)
    yield row("PyTorch (golden file)", golden, single, golden)
    yield row("control: ln(1 + promoter activity)", np.log1p(frame["promoter_activity"].to_numpy()))
    bare = predicted(models, without_elements(genes))
    yield row("control: no elements", bare, single, golden)
    shuffled = predicted(models, shuffled_elements(genes))
    yield row("control: element sequences shuffled", shuffled, single, golden)
    narrow = predicted(in_bfloat16(models), genes)
    yield row("bfloat16 convolutions and attention", narrow, single, golden)
    chosen = slice(0, None, float64_every)
    some = dataclasses.replace(genes, examples=genes.examples[chosen])
    wide = in_float64(models, some)
    away = [f"{np.abs(wide - other[chosen]).max():.2g}" for other in (single, golden)]
    yield f"| float64 | {len(wide)} | – | {away[0]} | {away[1]} |"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=pathlib.Path, default=DATA, help="folder of real data")
    parser.add_argument(
        "--float64-every",
        type=int,
        default=8,
        metavar="N",
        help="float64 for each Nth gene (default: %(default)s); all take many minutes on a CPU",
    )
    arguments = parser.parse_args()
    logging.set_verbosity(logging.ERROR)  # converted models hold no quantiles to compare
    for line in lines(arguments.data, arguments.float64_every):
        print(line, flush=True)


if __name__ == "__main__":
    main()
