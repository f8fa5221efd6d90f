"""Small data sets on disk for loader and training tests: random DNA, labels that scalars and bases
predict.
"""

import dataclasses

import numpy as np
import tiny_inputs

from epinformer_jax.data import records
from epinformer_jax.data.records import GeneExample, Manifest, WindowExample
from epinformer_jax.data.tables import MRNA_FEATURES

SPLITS = ("chr1", "chr2", "chr3", "chr4")
LINK_SIGNALS = ("activity", "contact")
GENE_SIGNALS = (*MRNA_FEATURES, "promoter_activity")
WINDOW_BP = 64
ACTIVITY_BP = 32
MAX_ELEMENTS = 4


def gene(rng: np.random.Generator, gene_id: str, split: str, elements: int) -> GeneExample:
    """A gene with so many elements of 1 to 64 bases; its first label follows promoter activity."""
    lengths = rng.integers(1, WINDOW_BP + 1, elements)
    made = tiny_inputs.gene_example(rng, gene_id, split, lengths)
    activity = rng.gamma(2.0)
    label = np.log(activity) + 0.1 * rng.normal()
    return dataclasses.replace(
        made,
        promoter=tiny_inputs.random_codes(rng, WINDOW_BP),
        link_signals=rng.gamma(1.0, size=(elements, len(LINK_SIGNALS))).astype(np.float32),
        gene_signals=np.array([*rng.normal(size=len(MRNA_FEATURES)), activity], np.float32),
        labels=np.array([label, -label], np.float32),
    )


def window(rng: np.random.Generator, name: str, split: str, length: int) -> WindowExample:
    """A window whose label is its share of G, doubled and noisy."""
    made = tiny_inputs.window_example(rng, name, split, length, labels=1)
    share = (made.sequence == 4).mean()
    label = 2 * share + 0.1 * rng.normal()
    return dataclasses.replace(made, labels=np.array([label], np.float32))


def genes_of(*, per_split: int = 7, seed: int = 0) -> dict[str, list[GeneExample]]:
    """Genes by split, with 0 to MAX_ELEMENTS elements."""
    rng = np.random.default_rng(seed)
    return {
        split: [
            gene(rng, f"{split}_gene{number}", split, int(rng.integers(0, MAX_ELEMENTS + 1)))
            for number in range(per_split)
        ]
        for split in SPLITS
    }


def write_genes(
    directory, genes: dict[str, list[GeneExample]] | None = None, **changes
) -> Manifest:
    """A genes data set with labels rna and cage; `changes` go to its manifest."""
    genes = genes_of() if genes is None else genes
    manifest = Manifest(
        kind="genes",
        link_signal_names=LINK_SIGNALS,
        gene_signal_names=GENE_SIGNALS,
        label_names=("rna", "cage"),
        window_bp=WINDOW_BP,
        promoter_bp=WINDOW_BP,
    )
    manifest = dataclasses.replace(manifest, **changes)
    return records.write_dataset(directory, "genes", manifest, genes)


def write_windows(directory, *, per_split: int = 16, seed: int = 1) -> Manifest:
    """A windows data set with the label log2_activity."""
    rng = np.random.default_rng(seed)
    windows = {
        split: [
            window(rng, f"{split}_window{number}", split, int(rng.integers(20, ACTIVITY_BP + 1)))
            for number in range(per_split)
        ]
        for split in SPLITS
    }
    manifest = Manifest(
        kind="windows", label_names=("log2_activity",), window_bp=ACTIVITY_BP, promoter_bp=0
    )
    return records.write_dataset(directory, "windows", manifest, windows)


FOLDS = "\n".join(
    [
        "split\tfold\trole",
        *(
            f"{split}\tfold_{fold}\t{role}"
            for fold, roles in (
                (1, ("train", "train", "valid", "test")),
                (2, ("test", "train", "train", "valid")),
            )
            for split, role in zip(SPLITS, roles, strict=True)
        ),
        "",
    ]
)
