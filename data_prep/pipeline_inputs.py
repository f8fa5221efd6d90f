"""What a run is given: complete paths, what can be made of a cell type's files, one assembly."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ml_collections import ConfigDict

from data_prep import contact
from data_prep.contig_names import match_contigs, read_aliases, read_contig_lengths
from data_prep.genes import chosen_genes
from data_prep.reads import alignment_contigs
from data_prep.samples import Sample
from data_prep.signal_files import detect_format
from data_prep.text_input import numbered_lines, split_fields
from data_prep.tracks import bigwig_contigs
from epinformer_jax.data import chromosomes, tables
from epinformer_jax.data.genome import Genome

WITH_CONTACT, WITHOUT_CONTACT = "PE-Activity-HiC", "PE-Activity"
_PATH_FIELDS = {
    "": ("samples",),
    "genome": ("fasta", "contigs", "splits", "aliases", "blacklist"),
    "genes": ("annotation", "mrna_features", "mrna_gtf", "only"),
    "signals": ("barcodes", "quantile_reference"),
    "contact": ("average",),
}


@dataclass(frozen=True)
class Possible:
    """What the inputs of a cell type allow: the feature preset, the label ("" for none), notes."""

    preset: str
    label: str
    notes: tuple[str, ...]


def complete_paths(config: ConfigDict) -> ConfigDict:
    """The config with every path complete; relative ones start at `root`.

    Raises:
      ValueError: a file does not exist; names its field.
    """
    values = config.to_dict()
    root = Path(values["root"] or ".").absolute()
    for parent, names in _PATH_FIELDS.items():
        node = values[parent] if parent else values
        for name in names:
            if not node[name]:
                continue
            path = root / node[name]
            if not path.exists():
                place = f"{parent}.{name}" if parent else name
                raise ValueError(f"{place}: {path} does not exist; set it, or root")
            node[name] = str(path)
    return ConfigDict(values).lock()


def what_is_possible(sample: Sample, config: ConfigDict) -> Possible:
    """Which preset the inputs of a cell type allow, and what is missing for more."""
    notes = []
    has_contact = bool(sample.contact or config.contact.average)
    if not has_contact:
        notes.append("no contact: the power law of distance stands in, which says nothing new")
    elif not sample.contact:
        notes.append("contact is average Hi-C, not this cell type's")
    if not sample.h3k27ac:
        notes.append(
            f"no H3K27ac: activity is {sample.assay} alone, on another scale than the published "
            "weights know; train a model of your own"
        )
    if sample.assay == "ATAC":
        notes.append("ATAC in place of DNase: the published weights were trained on DNase")
    if not sample.expression:
        notes.append("no expression: no label, so for prediction only")
    if not config.genes.mrna_features and not config.genes.mrna_gtf:
        notes.append("no mRNA features: the published means for every gene, flagged")
    label = config.labels.name if sample.expression else ""
    return Possible(WITH_CONTACT if has_contact else WITHOUT_CONTACT, label, tuple(notes))


def check_genomes(config: ConfigDict, samples: Sequence[Sample]) -> None:
    """Compares the contigs of every file with the genome's before any work.

    Raises:
      ValueError: lengths differ (another assembly), no name fits, a gene lies on a contig that the
        genome lacks, most genes lie past the ends of theirs, or a contig with genes or peaks cannot
        be the name of a split.
    """
    contigs = read_contig_lengths(config.genome.contigs)
    aliases = read_aliases(config.genome.aliases) if config.genome.aliases else {}
    in_fasta = _check_fasta(config, contigs, aliases)
    genes = chosen_genes(
        config.genes.annotation,
        tss_rule=config.genes.tss_rule,
        gene_key=config.genes.key,
        only=config.genes.only,
        contigs=contigs,
        aliases=aliases,
    )[0]
    used = dict.fromkeys(genes["chrom"].unique(), config.genes.annotation)
    unknown = [name for name in used if name not in contigs]
    if unknown:
        raise ValueError(
            f"{config.genes.annotation}: {len(unknown)} contigs are not in the genome (the first "
            f"is {unknown[0]}); rename them or leave their genes out with genes.only"
        )
    for sample in samples:
        for path in (*sample.accessibility, *sample.h3k27ac):
            found = _signal_contigs(path, config.genome.fasta)
            if found is not None:
                match_contigs(found, contigs, source=path, aliases=aliases)
        if sample.contact and contact.is_matrix(sample.contact):
            file = contact.open_contacts(sample.contact, resolution_bp=config.contact.resolution_bp)
            match_contigs(file.contigs(), contigs, source=sample.contact, aliases=aliases)
        for path in {sample.peaks, sample.window_peaks or sample.peaks}:
            found = dict.fromkeys(split_fields(line)[0] for _, line in numbered_lines(path))
            names = match_contigs(found, contigs, source=path, aliases=aliases)
            used |= {name: path for name in names.values() if name not in used}
    _check_splits(used, in_fasta, config.genome.splits)


def _check_fasta(
    config: ConfigDict, contigs: Mapping[str, int], aliases: Mapping[str, str]
) -> dict[str, str]:
    """The FASTA's names of the contigs, all of which it must have, at the same length."""
    path = config.genome.contigs
    with Genome(config.genome.fasta) as genome:
        known = genome.contigs
    theirs = {name: name for name in contigs if name in known}
    if len(theirs) < len(contigs):
        theirs |= match_contigs(contigs, known, source=path, aliases=aliases)
    for name, length in contigs.items():
        found = known.get(theirs.get(name, name), 0)
        if found != length:
            raise ValueError(
                f"{path}: {name} has {length:,} bp, in {config.genome.fasta} {found:,}; take the "
                "lengths from the FASTA's index"
            )
    return theirs


def _check_splits(used: Mapping[str, str], in_fasta: Mapping[str, str], splits: str) -> None:
    """Every contig with genes or peaks must count as a chromosome whose name a split can have."""
    split_of = {}
    if splits:
        table = tables.read_contigs(splits)
        split_of = dict(zip(table["chrom"], table["split"], strict=True))
    for chrom, source in used.items():
        name = in_fasta.get(chrom, chrom)
        split = split_of.get(name, split_of.get(chrom, name))
        try:
            chromosomes.check_split_name(split)
        except ValueError as error:
            raise ValueError(
                f"{source}: contig {chrom}: {error}, and name that table in genome.splits"
            ) from None


def _signal_contigs(path: str, fasta: str) -> dict[str, int] | None:
    """Contigs of a signal file's header; None for text, which has none."""
    kind = detect_format(path)
    if kind in ("bam", "cram"):
        return alignment_contigs(path, reference=fasta)
    return bigwig_contigs(path) if kind == "bigwig" else None
