"""What the published K562 RNA weights give on the real slices: parity and precision, not accuracy.

    python -m tests.benchmarks.parity [--data ../shared/data]

Converts the 12 published folds and predicts each of the 92 genes by the fold that tests it, in
float32, float64 and with bfloat16 convolutions and attention. Controls stand beside the score: on
these genes it is no better than promoter activity alone. Prints a Markdown table. About 3 minutes
on two cores.
"""

import argparse
import dataclasses
import pathlib
import tempfile

import jax
import numpy as np
import pandas as pd

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


def predicted(models: list[Model], genes: GeneInputs) -> np.ndarray:
    """Held-out predictions in the order of `genes`, float64."""
    table = predict.predict_expression(models, genes, ensemble="held-out", batch_size=BATCH_SIZE)
    return table.predictions["prediction"].to_numpy(np.float64)


def in_float64(models: list[Model], genes: GeneInputs) -> np.ndarray:
    """The same with weights and everything computed from them in float64."""
    jax.config.update("jax_enable_x64", True)
    try:
        wide = [
            model._replace(variables=jax.tree.map(np.float64, model.variables)) for model in models
        ]
        return predicted(wide, genes)
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


def measure(data: pathlib.Path) -> str:
    """Everything as a Markdown table."""
    models = published_models(data)
    genes, frame = slice_genes(data, models)
    label = frame["rna"].to_numpy(np.float64)
    groups = np.array(genes.splits)
    golden = pd.read_csv(data / "golden" / GOLDEN, sep="\t").set_index("gene_id")
    golden = golden.loc[frame["gene_id"], "prediction"].to_numpy()
    single = predicted(models, genes)
    rows = {
        "float32": single,
        "float64": in_float64(models, genes),
        "bfloat16": predicted(in_bfloat16(models), genes),
        "control: no elements": predicted(models, without_elements(genes)),
        "control: element sequences shuffled": predicted(models, shuffled_elements(genes)),
        "control: ln(1 + promoter activity) alone": np.log1p(frame["promoter_activity"].to_numpy()),
        "PyTorch (golden file)": golden,
    }
    lines = [
        f"Published K562 RNA weights, {len(label)} genes, each by the fold that tests it",
        "",
        "| predictor | Pearson r with the label [95 %] | largest difference from float32 | "
        "from PyTorch |",
        "|---|---|---|---|",
    ]
    for name, values in rows.items():
        r = metrics.bootstrap("pearson", label, values, groups).intervals["pearson"]
        away = [f"{np.abs(values - other).max():.2g}" for other in (single, golden)]
        if "alone" in name:
            away = ["–", "–"]
        lines.append(
            f"| {name} | {r.value:.4f} [{r.low:.2f}, {r.high:.2f}] | {away[0]} | {away[1]} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=pathlib.Path, default=DATA, help="folder of real data")
    print(measure(parser.parse_args().data))


if __name__ == "__main__":
    main()
