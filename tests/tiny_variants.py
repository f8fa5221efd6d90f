"""A small genome with genes and links, and VCF files about it."""

import gzip

import numpy as np
import tiny_inputs

from epinformer_jax.data import sequence, tables

HEAD = "##fileformat=VCFv4.2\n##source=made up\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
# gene G1 (tss 600, promoter [400, 800)) has elements 4000-5001 (cropped), 2000-2301, 8800-9000
CONTIGS = {"chr1": 9000, "chr2": 7000, "chr10": 5000, "chrX": 4000}


def write_vcf(path, rows):
    """Rows of chrom, pos, ref, alt, (info)."""
    lines = [
        "\t".join([str(c), str(p), f"v{i}", r, a, ".", "PASS", *(rest or ["."])])
        for i, (c, p, r, a, *rest) in enumerate(rows)
    ]
    text = HEAD + "".join(line + "\n" for line in lines)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def write_genome(path, contigs):
    path.write_text("".join(f">{n}\n{sequence.decode(c)}\n" for n, c in contigs.items()))
    return path


def write_world(folder):
    """Writes FASTA and tables: contigs, frames of genes and links, folder."""
    rng = np.random.default_rng(5)
    contigs = {n: tiny_inputs.random_codes(rng, length, 0.01) for n, length in CONTIGS.items()}
    write_genome(folder / "genome.fa", contigs)
    links = tiny_inputs.link_rows()
    links[0][3] = 2300  # even lengths: their middle does not move on the other strand
    links[2][3], links[4][3], links[6][3] = 5000, 400, 332
    links.append(["G1", "chr1", 2200, 2400, 1.0, 0.5])
    tiny_inputs.write_tsv(folder / "genes.tsv", tiny_inputs.GENE_HEADER, tiny_inputs.gene_rows())
    tiny_inputs.write_tsv(folder / "links.tsv", tiny_inputs.LINK_HEADER, links)
    genes = tables.read_genes(folder / "genes.tsv", labels=())
    return contigs, genes, tables.read_links(folder / "links.tsv", genes), folder


def text_of(world, chrom, pos, length):
    """Letters of the contig at a 1-based position; N where unknown."""
    return sequence.decode(world[0][chrom][pos - 1 : pos - 1 + length])


def known(world, chrom, pos, length=1):
    """The first place from `pos` on without unknown bases: its position and letters."""
    while "N" in text_of(world, chrom, pos, length):
        pos += 1
    return pos, text_of(world, chrom, pos, length)


def other_base(letter):
    return "ACGT"[("ACGT".index(letter) + 1) % 4]
