"""`python -m data_prep simulate`: a genome in the file formats of real data, and its answers.

What is planted, and written down in truth/CELL/truth.json:

    Elements are housekeeping or developmental enhancers, silencers, or insulated decoys.
    Each summit of an element carries 1-4 motif sites: an enhancer's are of its class; silencers and
    insulated elements carry 1 or 2 silencer or insulator sites and fill up with enhancer sites.
    Every site raises the element's true activity, whatever its kind: ln(activity) = base + sum of
    weight x strength of the sites + a chromatin term that no sequence shows.
    An element is open or closed in each cell type; closed elements have no activity and no effect.
    Promoters are housekeeping or developmental: 1-4 enhancer motif sites of that class within
    100 bp of the TSS say which, and 0-3 strength sites raise expression.
    All of them raise promoter activity, together with a chromatin term; promoters with more
    strength sites have fewer class sites, so that activity hardly tells the strength.
    log10 RPKM = intercept + class offset + weight x ln(true promoter activity) + weight x summed
    strength of the strength sites + limit x tanh(sum of effects / limit) + linear terms of mRNA
    features + noise.
    The effect of an element within the distance limit = weight x compatibility(promoter class,
    element class) x true activity x contact; contact = (max(|distance|, 5 kb) / 5 kb) ^ -1.024.
    Compatibility is 1 for an enhancer of the promoter's class, 0.1 for the other class, negative
    for a silencer, and 0 for an element with insulator sites, whatever else it carries.
    Genes whose expression falls below the floor have RPKM 0.
    Measured activities come from negative-binomial read counts, contacts from Poisson counts with
    a bias of each bin.

So scalars (activity, contact, distance) see neither class, sign, insulation nor strength: these
are in the sequence alone. The two cell types share genome, genes, sites and rule; open elements,
chromatin, weights of the enhancer motifs, reads, contacts and noise are their own. Outside planted
sites the genome holds no motif. The same seed gives the same bytes.

Made in DIR:

    genome.fa (.fai), chrom.sizes, genes.bed, blacklist.bed, expression.tsv (RPKM),
    mrna_features.tsv, folds.tsv (two folds, half of the chromosomes each), samples.tsv
    CELL/dnase.bam, h3k27ac.bam (.bai), dnase.bw, h3k27ac.bw (reads covering each base),
    CELL/peaks.narrowPeak (distal; one record a summit; summit +-100 bp, merged, without the
    blacklisted ones, are the elements), promoter_peaks.narrowPeak, contacts.mcool
    prepared/CELL/genes.tsv, elements.tsv, links.tsv, windows.tsv: by the published rules
    (genes.json, windows.json: how their labels were made)
    truth/motifs.jaspar, truth/CELL/truth.tsv, motifs.tsv, promoters.tsv, truth.json
    manifest.json: settings, and size and SHA-256 of every file
"""

import argparse
import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data_prep.outputs import write_json
from data_prep.simulation import annotation, contacts, mrna, prepared, reads, sequence, truth
from data_prep.simulation.layout import Layout, lay_out
from data_prep.simulation.motifs import jaspar_text
from data_prep.simulation.rule import plant_truth
from data_prep.simulation.settings import ASSAYS, CELLS, Rule, Settings
from epinformer_jax.data.atomic import MARKER, atomic_directory

DESCRIPTION = """\
Makes up a genome with genes, elements, reads and contacts for two cell types, in real file formats
(FASTA, BED, narrowPeak, BAM, bigWig, mcool), the tables a preparation would make of them, and the
answer key. The same seed gives the same bytes."""

_HELP = {
    "seed": "the only source of randomness (default %(default)s)",
    "genes_per_chromosome": "mean over the 12 chromosomes (default %(default)s)",
    "gene_spacing_bp": "mean distance between neighbouring TSSs, bp (default %(default)s)",
    "elements_per_gene": "mean elements of a cell type near a TSS (default %(default)s)",
    "remote_elements_per_chromosome": "elements far from every gene (default %(default)s)",
    "max_distance_bp": "farthest element that acts on a TSS, bp (default %(default)s)",
    "reads_per_element": "mean reads per assay on a typical summit (default %(default)s)",
    "background_reads_per_kb": "reads per assay that fall anywhere, per kb (default %(default)s)",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of the command."""
    parser.add_argument("--out", required=True, metavar="DIR", help="directory to make")
    for field in dataclasses.fields(Settings):
        option = "--" + field.name.replace("_", "-")
        parser.add_argument(
            option, type=type(field.default), default=field.default, help=_HELP[field.name]
        )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an earlier simulation in DIR"
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    sizes = {field.name: getattr(args, field.name) for field in dataclasses.fields(Settings)}
    directory = simulate(args.out, overwrite=args.overwrite, report=print, **sizes)
    print(f"simulated genome: {directory}")
    return 0


def simulate(
    out_dir: str | os.PathLike,
    *,
    seed: int = 0,
    overwrite: bool = False,
    report: Callable[[str], None] | None = None,
    **sizes: float,
) -> Path:
    """Writes a simulated genome into `out_dir` and returns its path.

    The directory appears whole or not at all.

    `sizes` are fields of `Settings` (genes_per_chromosome, gene_spacing_bp, elements_per_gene,
    max_distance_bp, reads_per_element, background_reads_per_kb). `report` is called with a line of
    text for each step done.

    Raises:
      ValueError: a size is out of range, or `out_dir` holds something (with `overwrite`: something
        else than an earlier simulation).
      TypeError: an unknown size.
    """
    settings, rule = Settings(seed=seed, **sizes), Rule()
    say = report or (lambda line: None)
    with atomic_directory(out_dir, overwrite=overwrite) as directory:
        layout = lay_out(settings, rule)
        bases = sequence.draw_bases(layout, seed)
        sequence.write_fasta(directory / "genome.fa", layout, bases, seed)
        genes = len(layout.genes.tss)
        size_mb = layout.length.sum() / 1e6
        say(f"genome.fa: {len(layout.length)} chromosomes, {size_mb:.1f} Mb, {genes:,} genes")
        features = mrna.draw_mrna_features(genes, seed)
        rpkm = {}
        for cell in CELLS:
            rpkm[cell] = _write_cell(
                directory, settings, rule, layout, features, cell=cell, say=say
            )
        annotation.write_annotation(directory, layout, features, rpkm)
        (directory / "truth" / "motifs.jaspar").write_text(jaspar_text(), encoding="ascii")
        _write_manifest(directory, settings)
    return Path(out_dir)


def _write_cell(
    directory: Path,
    settings: Settings,
    rule: Rule,
    layout: Layout,
    features: dict[str, np.ndarray],
    *,
    cell: str,
    say: Callable[[str], None],
) -> np.ndarray:
    """Writes signals, prepared tables and truth of one cell type; returns its RPKM."""
    for part in (cell, f"prepared/{cell}", f"truth/{cell}"):
        (directory / part).mkdir(parents=True)
    planted = plant_truth(settings, rule, layout, features, cell)
    signals = {
        assay: reads.draw_reads(settings, rule, layout, planted, cell, assay) for assay in ASSAYS
    }
    for assay in ASSAYS:
        reads.write_bam(directory / cell / f"{assay}.bam", signals[assay], layout)
        reads.write_coverage(directory / cell / f"{assay}.bw", signals[assay], layout)
    contact_file = directory / cell / "contacts.mcool"
    contacts.write_contacts(contact_file, settings, rule, layout, cell)
    for name, table in (
        ("peaks.narrowPeak", annotation.peaks_table),
        ("promoter_peaks.narrowPeak", annotation.promoter_peaks_table),
    ):
        annotation.write_tsv(
            directory / cell / name, table(layout, signals["dnase"], cell), header=False
        )

    tables = directory / "prepared" / cell
    gene_table = prepared.genes_table(layout, features, signals, planted.rpkm)
    element_table = prepared.elements_table(layout, signals, cell)
    link_table = prepared.links_table(
        layout,
        settings,
        element_table,
        lambda *positions: contacts.contact_of_pairs(contact_file, *positions),
    )
    window_table = prepared.windows_table(layout, settings, signals, cell)
    annotation.write_tsv(tables / "genes.tsv", gene_table, number="%.9g")
    labels = {"rna": prepared.label_transform(planted.rpkm).to_dict()}
    write_json({"labels": labels}, tables / "genes.json")
    annotation.write_tsv(tables / "elements.tsv", element_table, number="%.9g")
    annotation.write_tsv(tables / "links.tsv", link_table, number="%.9g")
    annotation.write_tsv(tables / "windows.tsv", window_table, number="%.9g")
    write_json({"labels": prepared.WINDOW_LABELS}, tables / "windows.json")
    truth.write_truth(
        directory / "truth" / cell,
        settings,
        rule,
        layout,
        planted,
        cell=cell,
        label=gene_table["rna"].to_numpy(),
        words=_rule_in_words(),
    )
    say(
        f"{cell}: {signals['dnase'].total:,} DNase and {signals['h3k27ac'].total:,} H3K27ac reads,"
        f" {len(element_table):,} elements, {len(link_table):,} links,"
        f" {len(window_table):,} windows"
    )
    return planted.rpkm


def _rule_in_words() -> str:
    """The first indented part of this module's docstring."""
    return re.search(r"(?:^    \S.*\n)+", __doc__, re.MULTILINE).group()


def _write_manifest(directory: Path, settings: Settings) -> None:
    """manifest.json: settings, and size and SHA-256 of every file."""
    files = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            files[path.relative_to(directory).as_posix()] = {
                "bytes": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
            }
    values = {"kind": "simulation", "settings": dataclasses.asdict(settings), "files": files}
    (directory / MARKER).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
