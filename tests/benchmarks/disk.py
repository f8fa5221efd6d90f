"""Bytes a gene on disk: the records that `build` would write, beside dense float32 one-hot."""

import pathlib
import tempfile

import numpy as np

from epinformer_jax.data import records
from tests.benchmarks import occupancy
from tests.benchmarks.occupancy import Genes
from tests.benchmarks.setting import SLOTS

TARGETS_KB = {"plain": 8.5, "zlib": 6.0}
DENSE_BYTES = SLOTS * occupancy.WINDOW_BP * 4 * 4


def bytes_per_gene(genes: Genes, compression: str | None) -> float:
    """Size of all record files, by gene; 1 KB is 1,000 bytes."""
    examples = records.by_split(occupancy.examples(genes, *occupancy.codes_of(genes)))
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder) / "genes"
        records.write_dataset(
            place, "genes", occupancy.manifest(), examples, compression=compression
        )
        return sum(path.stat().st_size for path in place.glob("*.tfrecord*")) / len(genes)


def measure(genes: Genes, *, most_genes: int) -> dict:
    """Plain and zlib, over evenly chosen genes when there are more than `most_genes`.

    Bases are random here, which zlib shrinks less than real DNA, with its repeats.
    """
    if len(genes) > most_genes:
        genes = genes.subset(np.linspace(0, len(genes) - 1, most_genes).round().astype(int))
    found = {"plain": bytes_per_gene(genes, None), "zlib": bytes_per_gene(genes, "zlib")}
    return {
        "genes": len(genes),
        "dense_float32": DENSE_BYTES,
        **found,
        "targets": [
            {
                "ours": name,
                "at_most": limit * 1000,
                "found": found[name],
                "passed": found[name] <= limit * 1000,
            }
            for name, limit in TARGETS_KB.items()
        ],
    }
