"""Tables that a user would bring: genes, peaks, blacklist, expression, folds and samples."""

from pathlib import Path

import numpy as np
import pandas as pd

from data_prep.simulation.layout import Layout
from data_prep.simulation.prepared import gene_ids, gene_names, names
from data_prep.simulation.reads import Reads
from data_prep.simulation.settings import CELLS, CHROMOSOMES

_PEAK_FLANK_BP = 75
# Fold 1 tests the first half of the chromosomes, fold 2 the second; each validates on one of the
# other half.
_VALID = {"fold_1": "chr10", "fold_2": "chr4"}


def write_tsv(
    path: Path, frame: pd.DataFrame, *, header: bool = True, number: str = "%.6g"
) -> None:
    """Tab-separated text, floats with six significant digits unless told otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(
        path, sep="\t", index=False, header=header, float_format=number, lineterminator="\n"
    )


def write_annotation(
    directory: Path, layout: Layout, mrna: dict[str, np.ndarray], rpkm: dict[str, np.ndarray]
) -> None:
    """Writes what is no signal: sizes, genes, blacklist, expression, mRNA, folds, samples."""
    sizes = pd.DataFrame({"chrom": CHROMOSOMES, "length": layout.length})
    write_tsv(directory / "chrom.sizes", sizes, header=False)
    write_tsv(directory / "genes.bed", genes_bed(layout), header=False)
    blacklist = pd.DataFrame(
        {
            "chrom": names(layout.blacklist[:, 0]),
            "start": layout.blacklist[:, 1],
            "end": layout.blacklist[:, 2],
            "reason": "High Signal Region",
        }
    )
    write_tsv(directory / "blacklist.bed", blacklist, header=False)
    identity = {"gene_id": gene_ids(layout)}
    write_tsv(directory / "expression.tsv", pd.DataFrame({**identity, **rpkm}))
    write_tsv(directory / "mrna_features.tsv", pd.DataFrame({**identity, **mrna}), number="%.9g")
    write_tsv(directory / "folds.tsv", folds_table())
    write_tsv(directory / "samples.tsv", samples_table())


def genes_bed(layout: Layout) -> pd.DataFrame:
    """BED6 + gene_id + gene_type; the TSS is `start` on +, the last base (`end` - 1) on -."""
    genes = layout.genes
    table = pd.DataFrame(
        {
            "chrom": names(genes.chrom),
            "start": genes.body_start,
            "end": genes.body_end,
            "symbol": gene_names(layout),
            "score": 0,
            "strand": np.where(genes.minus, "-", "+"),
            "gene_id": gene_ids(layout),
            "gene_type": "protein_coding",
        }
    )
    return table.iloc[np.lexsort((genes.body_end, genes.body_start, genes.chrom))]


def peaks_table(layout: Layout, reads: Reads, cell: str) -> pd.DataFrame:
    """narrowPeak records of one cell type, one a summit; artefacts in blacklisted regions included.

    signalValue is the DNase fold over the genome's mean coverage; column 10 is the summit, counted
    from the start.
    """
    elements = layout.elements
    active = elements.active[CELLS.index(cell)][elements.summit_element]
    artefact = layout.blacklist[:, 1:].sum(axis=1) // 2
    chrom = np.concatenate(
        [elements.chrom[elements.summit_element][active], layout.blacklist[:, 0]]
    )
    summit = np.concatenate([elements.summit[active], artefact])
    order = np.lexsort((summit, chrom))
    chrom, summit = chrom[order], summit[order]
    start, end = summit - _PEAK_FLANK_BP, summit + _PEAK_FLANK_BP
    expected = reads.total * 2 * _PEAK_FLANK_BP / layout.length.sum()
    return pd.DataFrame(
        {
            "chrom": names(chrom),
            "start": start,
            "end": end,
            "name": [f"{cell}_peak_{number}" for number in range(1, len(summit) + 1)],
            "score": 0,
            "strand": ".",
            "signal": reads.count(chrom, start, end) / expected,
            "p_value": -1,
            "q_value": -1,
            "peak": _PEAK_FLANK_BP,
        }
    )


def promoter_peaks_table(layout: Layout, reads: Reads, cell: str) -> pd.DataFrame:
    """narrowPeak records at the TSSs, kept apart from the distal ones; the summit is the TSS."""
    genes = layout.genes
    start = np.maximum(0, genes.tss - _PEAK_FLANK_BP)
    end = genes.tss + _PEAK_FLANK_BP
    expected = reads.total * 2 * _PEAK_FLANK_BP / layout.length.sum()
    return pd.DataFrame(
        {
            "chrom": names(genes.chrom),
            "start": start,
            "end": end,
            "name": [f"{cell}_promoter_{number}" for number in range(1, len(start) + 1)],
            "score": 0,
            "strand": ".",
            "signal": reads.count(genes.chrom, start, end) / expected,
            "p_value": -1,
            "q_value": -1,
            "peak": genes.tss - start,
        }
    )


def folds_table() -> pd.DataFrame:
    """split, fold, role: two folds that test half of the chromosomes each."""
    half = len(CHROMOSOMES) // 2
    tests = {"fold_1": CHROMOSOMES[:half], "fold_2": CHROMOSOMES[half:]}
    rows = []
    for fold, test in tests.items():
        for split in CHROMOSOMES:
            role = "test" if split in test else "valid" if split == _VALID[fold] else "train"
            rows.append((split, fold, role))
    return pd.DataFrame(rows, columns=["split", "fold", "role"])


def samples_table() -> pd.DataFrame:
    """One row a cell type; paths are relative to the table."""
    return pd.DataFrame(
        {
            "cell_type": cell,
            "accessibility": f"{cell}/dnase.bam",
            "assay": "DNase",
            "h3k27ac": f"{cell}/h3k27ac.bam",
            "peaks": f"{cell}/peaks.narrowPeak",
            "contact": f"{cell}/contacts.mcool",
            "expression": "expression.tsv",
            "expression_column": cell,
        }
        for cell in CELLS
    )
