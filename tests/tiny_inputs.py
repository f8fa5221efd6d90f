"""Small made-up inputs for tests: a FASTA, tables, and examples with every array filled."""

import pathlib

import numpy as np

from epinformer_jax.data import sequence, tables
from epinformer_jax.data.records import GeneExample, Manifest, WindowExample

CONTIGS = {"chr1": 9000, "chr2": 7000, "chr10": 5000, "chrX": 4001}


def random_codes(rng: np.random.Generator, length: int, unknown_share: float = 0.05) -> np.ndarray:
    """Random bases, some of them unknown."""
    codes = (1 << rng.integers(0, 4, length)).astype(np.uint8)
    codes[rng.random(length) < unknown_share] = sequence.UNKNOWN
    return codes


def write_fasta(path: pathlib.Path, contigs=None, *, line_bases: int = 61, seed: int = 0) -> dict:
    """Writes random contigs, in mixed case, wrapped at `line_bases`; name -> codes."""
    rng = np.random.default_rng(seed)
    codes = {name: random_codes(rng, length) for name, length in (contigs or CONTIGS).items()}
    with path.open("w") as file:
        for name, contig in codes.items():
            text = sequence.decode(contig)
            text = text[:500] + text[500:900].lower() + text[900:]
            lines = (text[at : at + line_bases] for at in range(0, len(text), line_bases))
            file.write(f">{name} made up\n" + "\n".join(lines) + "\n")
    return codes


def write_tsv(path: pathlib.Path, header, rows) -> pathlib.Path:
    """Writes rows as they are, without any check."""
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in [header, *rows]))
    return path


GENE_HEADER = [*tables.GENE_COLUMNS, "rna"]
LINK_HEADER = ["gene_id", "chrom", "start", "end", "activity", "contact"]


def gene_row(gene_id: str, chrom: str, tss: int, strand: str = "+", rna: object = 0.5) -> list:
    """A row for GENE_HEADER."""
    return [gene_id, chrom, tss, strand, *[0.25] * len(tables.MRNA_FEATURES), 2.5, rna]


def gene_rows() -> list[list]:
    """Four genes: one close to the start of its contig, one to the end, one without links."""
    return [
        gene_row("G2", "chr2", 3000, "-", -0.5),
        gene_row("G1", "chr1", 600, "+", 1.25),
        gene_row("G3", "chrX", 3900, "+", 0.0),
        gene_row("G4", "chr10", 2500, "-", 2.0),
    ]


def link_rows() -> list[list]:
    """Elements of odd and even lengths; some too near, some cropped by a 400 bp window."""
    return [
        ["G1", "chr1", 2000, 2301, 1.5, 0.25],
        ["G1", "chr1", 500, 800, 3.0, 0.75],
        ["G1", "chr1", 4000, 5001, 2.0, 0.125],
        ["G1", "chr1", 8800, 9000, 0.0, 0.0],
        ["G2", "chr2", 100, 401, 4.0, 0.5],
        ["G2", "chr2", 6000, 6100, 0.5, 0.0625],
        ["G3", "chrX", 0, 333, 1.0, 0.5],
    ]


def write_tables(folder: pathlib.Path, genes=None, links=None) -> dict[str, str]:
    """FASTA, genes and links in a folder, as options of build."""
    write_fasta(folder / "tiny.fa")
    write_tsv(folder / "genes.tsv", GENE_HEADER, gene_rows() if genes is None else genes)
    write_tsv(folder / "links.tsv", LINK_HEADER, link_rows() if links is None else links)
    return {name: str(folder / file) for name, file in FILES.items()}


FILES = {"fasta": "tiny.fa", "genes": "genes.tsv", "links": "links.tsv"}


def gene_example(rng, gene_id: str, split: str, lengths, *, signals: int = 2, labels: int = 1):
    """A gene with elements of these lengths, everything random but consistent."""
    lengths = np.asarray(lengths, np.int32)
    start = np.sort(rng.integers(0, 80_000, lengths.size))
    tss = int(rng.integers(0, 100_000))
    return GeneExample(
        gene_id=gene_id,
        gene_name=f"name of {gene_id}",
        chrom=f"{split}_7",
        split=split,
        tss=tss,
        strand=rng.choice(["+", "-"]).item(),
        promoter=random_codes(rng, 50),
        element_start=start,
        element_end=start + lengths,
        element_length=lengths,
        element_sequence=random_codes(rng, int(lengths.sum())),
        distance_bp=(2 * start + lengths) // 2 - tss,
        link_signals=rng.normal(size=(lengths.size, signals)).astype(np.float32),
        gene_signals=rng.normal(size=3).astype(np.float32),
        labels=rng.normal(size=labels).astype(np.float32),
    )


def window_example(rng, name: str, split: str, length: int, *, labels: int = 2):
    """A window given by coordinates."""
    start = int(rng.integers(0, 1000))
    return WindowExample(
        name=name,
        chrom=split,
        split=split,
        start=start,
        end=start + length,
        sequence=random_codes(rng, length),
        labels=rng.normal(size=labels).astype(np.float32),
    )


def gene_manifest(*, signals: int = 2, labels: int = 1) -> Manifest:
    """Fits `gene_example`."""
    return Manifest(
        kind="genes",
        link_signal_names=("activity", "contact", "dnase")[:signals],
        gene_signal_names=("a", "b", "c"),
        label_names=("rna", "cage")[:labels],
        window_bp=40,
        promoter_bp=50,
        counts={"links": 3},
    )


def window_manifest(*, labels: int = 2) -> Manifest:
    """Fits `window_example`."""
    return Manifest(kind="windows", label_names=("x", "y")[:labels], window_bp=40, promoter_bp=0)
