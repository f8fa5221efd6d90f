"""The stages of one cell type: which command each runs, on which files, with which options.

Every stage is a command of `python -m data_prep`, so that each can be repeated by hand.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
from ml_collections import ConfigDict

from data_prep import builder, candidates, contact, genes, links, signals, windows
from data_prep.annotation import read_annotation
from data_prep.contact_export import export_text
from data_prep.contig_names import match_contigs, read_aliases, read_contig_lengths
from data_prep.intervals import overlaps_any, read_bed, sort_intervals
from data_prep.outputs import write_dropped, write_frame
from data_prep.peaks import read_peaks
from data_prep.reads import alignment_contigs
from data_prep.samples import Sample
from data_prep.signal_files import detect_format
from data_prep.stages import Stage, call, options
from data_prep.tracks import bigwig_contigs
from epinformer_jax.data.genome import Genome
from epinformer_jax.data.tables import MRNA_FEATURES

WITH_CONTACT, WITHOUT_CONTACT = "PE-Activity-HiC", "PE-Activity"
_PATH_FIELDS = {
    "": ("samples",),
    "genome": ("fasta", "contigs", "splits", "aliases", "blacklist"),
    "genes": ("annotation", "mrna_features", "mrna_gtf", "only"),
    "signals": ("barcodes",),
    "contact": ("average",),
}
_SUMMIT_FLANK_BP = 75


@dataclass(frozen=True)
class Possible:
    """What the inputs of a cell type allow: the feature preset, the label ("" for none), notes."""

    preset: str
    label: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Command:
    """A command of data_prep as a stage: options that are files, other options, other words.

    `words` may name files of `files` as "{name}".
    """

    module: ModuleType
    output: str
    files: Mapping[str, str | os.PathLike | Sequence[str] | None]
    values: Mapping[str, Any]
    words: tuple[str, ...] = ()
    hidden: Mapping[str, str] = field(default_factory=dict)

    def stage(self, name: str) -> Stage:
        """The stage that runs it; the content of the files counts, not where they lie."""
        files = {key: _as_list(value) for key, value in self.files.items() if value}
        joined = {key: ",".join(paths) for key, paths in files.items()}

        def work(folder: Path) -> None:
            out = str(folder / self.output) if self.output else str(folder)
            words = [word.format(**self.hidden) for word in self.words]
            call(self.module, [*options(**joined, **self.values, out=out), *words])

        inputs = {
            f"{key}.{number}": path.partition("::")[0]
            for key, paths in files.items()
            for number, path in enumerate(paths)
        }
        groups = [path.partition("::")[2] for paths in files.values() for path in paths]
        values = {key: value for key, value in self.values.items() if value not in (None, "")}
        parameters = {
            "command": self.module.__name__,
            "values": values,
            "words": self.words,
            "groups": groups,
            "files": {key: len(paths) for key, paths in files.items()},
        }
        return Stage(name, work, parameters, inputs | dict(self.hidden))


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
      ValueError: lengths differ (another assembly), no name fits, or a gene lies on a contig that
        the genome lacks.
    """
    contigs = read_contig_lengths(config.genome.contigs)
    aliases = read_aliases(config.genome.aliases) if config.genome.aliases else {}
    with Genome(config.genome.fasta) as genome:
        for name, length in contigs.items():
            if genome.contigs.get(name) != length:
                raise ValueError(
                    f"{config.genome.contigs}: {name} has {length:,} bp, in {config.genome.fasta} "
                    f"{genome.contigs.get(name, 0):,}; take the lengths from the FASTA's index"
                )
    chroms = read_annotation(config.genes.annotation).genes["chrom"].unique()
    unknown = [name for name in chroms if name not in contigs]
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
            file = contact.open_contacts(
                sample.contact, resolution_bp=config.contact.resolution_bp
            )
            match_contigs(file.contigs(), contigs, source=sample.contact, aliases=aliases)


def cell_stages(sample: Sample, config: ConfigDict, place: Path) -> list[Stage]:
    """The stages of one cell type in order; their inputs lie in `place` once they have run."""
    elements = place / "signals" / "elements.tsv.gz"
    gene_table = place / "genes" / "genes.tsv"
    link_table = place / "links" / "links.tsv.gz"
    window_table = place / "windows" / "windows.tsv.gz" if config.windows.make else None
    measured = _signal_files(sample, config), _signal_values(sample, config)
    stages = [
        _candidates(sample, config),
        _signals(place / "candidates" / "elements.tsv.gz", *measured),
        _genes(sample, config, *measured),
    ]
    contacts = sample.contact or config.contact.average
    if contacts and _is_whole_text(contacts):
        stages.append(_cut_contacts(contacts, config))
        contacts = str(place / "contact" / "by_chromosome")
    stages.append(_links(sample, config, elements, gene_table, contacts))
    if config.windows.make:
        stages.append(_summits(sample, config, gene_table))
        peaks = place / "summits" / "peaks.narrowPeak"
        stages.append(_windows(config, peaks, *measured))
    stages.append(_records(sample, config, gene_table, link_table, window_table))
    return stages


def _candidates(sample: Sample, config: ConfigDict) -> Stage:
    genome, choice = config.genome, config.candidates
    files = {
        "peaks": sample.peaks,
        "contigs": genome.contigs,
        "aliases": genome.aliases,
        "blacklist": genome.blacklist,
        "genes": config.genes.annotation,
    }
    values = {
        "peaks_kept": choice.peaks_kept,
        "extend": choice.extend_bp,
        "blacklist_rule": choice.blacklist_rule,
        "include_promoters": choice.include_promoters,
        "tss_rule": config.genes.tss_rule,
        "tss_slop": config.genes.tss_flank_bp,
    }
    return Command(candidates, "elements.tsv.gz", files, values).stage("candidates")


def _signals(elements: Path, files: Mapping[str, Any], values: Mapping[str, Any]) -> Stage:
    files = {"regions": elements, **files}
    return Command(signals, "elements.tsv.gz", files, values).stage("signals")


def _genes(
    sample: Sample, config: ConfigDict, files: Mapping[str, Any], values: Mapping[str, Any]
) -> Stage:
    choice = config.genes
    files = {"annotation": choice.annotation, "only_genes": choice.only, **files}
    values = {
        "tss_rule": choice.tss_rule,
        "tss_slop": choice.tss_flank_bp,
        "keep_unlabelled": config.labels.keep_unlabelled,
        **values,
    }
    words, hidden = (), {}
    if sample.expression:
        words = (
            "--label",
            config.labels.name,
            "{expression}",
            sample.expression_column,
            config.labels.transform,
        )
        hidden = {"expression": sample.expression}
    if choice.mrna_features:
        files["mrna_features"] = choice.mrna_features
    elif choice.mrna_gtf:
        files |= {"mrna_from_gtf": choice.mrna_gtf, "fasta": config.genome.fasta}
    stage = Command(genes, "genes.tsv", files, values, words, hidden).stage("genes")
    if choice.mrna_features or choice.mrna_gtf:
        return stage
    return _without_features(genes, files, values, words, hidden, stage)


def _without_features(module, files, values, words, hidden, stage: Stage) -> Stage:
    """Genes without a table of features: one without rows, so that every gene gets the means."""

    def work(folder: Path) -> None:
        empty = folder / "no_mrna_features.tsv"
        empty.write_text("\t".join(["gene_id", *MRNA_FEATURES]) + "\n")
        command = Command(
            module, "genes.tsv", {**files, "mrna_features": empty}, values, words, hidden
        )
        command.stage("genes").work(folder)

    return Stage(stage.name, work, stage.parameters, stage.inputs)


def _cut_contacts(contacts: str, config: ConfigDict) -> Stage:
    resolution = config.contact.resolution_bp

    def work(folder: Path) -> None:
        counts = export_text(contacts, folder / "by_chromosome", resolution_bp=resolution)
        print(f"{sum(counts.values()):,} contacts on {len(counts)} chromosomes")

    return Stage("contact", work, {"resolution_bp": resolution}, {"contact": contacts})


def _links(
    sample: Sample, config: ConfigDict, elements: Path, gene_table: Path, contacts: str
) -> Stage:
    files = {
        "elements": elements,
        "genes": gene_table,
        "contact": contacts,
        "contigs": config.genome.contigs,
        "aliases": config.genome.aliases,
    }
    values = {
        "contact_resolution": config.contact.resolution_bp,
        "contact_normalisation": config.contact.normalisation,
        "divide_by_row_sum": config.contact.divide_by_row_sum,
        "average_contact": bool(contacts) and not sample.contact,
        "rule": config.links.rule,
        "max_distance": config.links.max_distance_bp,
        "score_distance": config.links.score_distance_bp,
        "assay": sample.assay,
        "cell_type": sample.cell_type,
    }
    return Command(links, "links.tsv.gz", files, values).stage("links")


def _summits(sample: Sample, config: ConfigDict, gene_table: Path) -> Stage:
    """Peaks that windows are made around: outside the blacklist, and every TSS where asked for."""
    peaks = sample.window_peaks or sample.peaks
    around_tss, blacklist = config.windows.around_tss, config.genome.blacklist

    def work(folder: Path) -> None:
        table, dropped = window_peaks(
            peaks,
            read_contig_lengths(config.genome.contigs),
            aliases=read_aliases(config.genome.aliases) if config.genome.aliases else {},
            blacklist=read_bed(blacklist) if blacklist else None,
            genes=read_annotation(gene_table).genes if around_tss else None,
        )
        write_frame(table, folder / "peaks.narrowPeak", header=False, float_format="%.9g")
        write_dropped([dropped], folder / "peaks.tsv")
        print(f"{len(table):,} summits, {len(dropped):,} left out")

    inputs = {"peaks": peaks, "contigs": config.genome.contigs}
    inputs |= {"blacklist": blacklist} if blacklist else {}
    inputs |= {"aliases": config.genome.aliases} if config.genome.aliases else {}
    inputs |= {"genes": gene_table} if around_tss else {}
    return Stage("summits", work, {"around_tss": around_tss}, inputs)


def window_peaks(
    path: str | os.PathLike,
    contigs: Mapping[str, int],
    *,
    aliases: Mapping[str, str],
    blacklist: pd.DataFrame | None,
    genes: pd.DataFrame | None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Peaks as narrowPeak rows, those with a blacklisted summit left out, and a peak at each TSS.

    A TSS gets the largest signal there is, so that it stays under any limit.

    Returns:
      ten columns, sorted by place, and what was left out with a `reason`.
    """
    peaks = read_peaks(path)
    names = match_contigs(
        dict.fromkeys(peaks["chrom"].unique()), contigs, source=str(path), aliases=aliases
    )
    is_known = peaks["chrom"].isin(list(names))
    unknown = peaks[~is_known].assign(reason="peak lies on a contig that the genome lacks")
    peaks = peaks[is_known].assign(chrom=peaks["chrom"][is_known].map(names))
    dropped = [unknown]
    if blacklist is not None:
        at = peaks.assign(start=peaks["summit"], end=peaks["summit"] + 1)
        is_bad = overlaps_any(at, blacklist)
        dropped.append(peaks[is_bad].assign(reason="summit lies in the blacklist"))
        peaks = peaks[~is_bad]
    if genes is not None:
        tss = genes["tss"].to_numpy(np.int64)
        top = peaks["signal"].max() if peaks["signal"].notna().any() else 1.0
        around = pd.DataFrame(
            {
                "chrom": genes["chrom"],
                "start": np.maximum(tss - _SUMMIT_FLANK_BP, 0),
                "end": tss + _SUMMIT_FLANK_BP,
                "summit": tss,
                "signal": top,
            }
        )
        peaks = pd.concat([peaks, around], ignore_index=True)
    peaks = sort_intervals(peaks, by=("start", "summit"))
    table = peaks[["chrom", "start", "end"]].assign(
        name=[f"summit_{number}" for number in range(1, len(peaks) + 1)],
        score=0,
        strand=".",
        signal=peaks["signal"].fillna(0.0),
        p_value=-1,
        q_value=-1,
        peak=peaks["summit"] - peaks["start"],
    )
    return table, pd.concat(dropped, ignore_index=True).drop(columns="line")


def _windows(
    config: ConfigDict, peaks: Path, files: Mapping[str, Any], values: Mapping[str, Any]
) -> Stage:
    choice = config.windows
    files = {**files, "peaks": peaks, "fasta": config.genome.fasta}
    values = {
        **values,
        "layout": choice.layout,
        "windows_per_summit": choice.per_summit or None,
        "stride": choice.stride_bp or None,
        "peaks_kept": choice.peaks_kept,
        "negative_fraction": None if choice.negative_fraction < 0 else choice.negative_fraction,
        "clearance": choice.clearance_bp,
        "seed": choice.seed,
    }
    return Command(windows, "windows.tsv.gz", files, values).stage("windows")


def _records(
    sample: Sample, config: ConfigDict, gene_table: Path, link_table: Path, window_table
) -> Stage:
    choice = config.records
    files = {
        "genes": gene_table,
        "links": link_table,
        "windows": window_table,
        "fasta": config.genome.fasta,
        "contigs": config.genome.splits,
    }
    values = {
        "min_distance_bp": choice.min_distance_bp,
        "max_distance_bp": choice.max_distance_bp,
        "max_elements": choice.max_elements,
        "window_bp": choice.window_bp,
        "promoter_bp": choice.promoter_bp,
        "self_promoter": choice.self_promoter,
        "compression": choice.compression,
        "allow_missing_labels": config.labels.keep_unlabelled,
        "window_labels": "log2_activity" if window_table else None,
    }
    label = config.labels.name if sample.expression else ""
    command = Command(builder, "", files, values, (f"--labels={label}",))
    return command.stage("records")


def _signal_files(sample: Sample, config: ConfigDict) -> dict[str, Any]:
    files: dict[str, Any] = {
        "accessibility": sample.accessibility,
        "h3k27ac": sample.h3k27ac,
        "contigs": config.genome.contigs,
        "aliases": config.genome.aliases,
        "barcodes": config.signals.barcodes,
    }
    if any(path.endswith(".cram") for path in (*sample.accessibility, *sample.h3k27ac)):
        files["fasta"] = config.genome.fasta
    return files


def _signal_values(sample: Sample, config: ConfigDict) -> dict[str, Any]:
    names = ("reads", "paired", "pool", "track_units", "accept_fold_change")
    chosen = {name: config.signals[name] for name in (*names, "exclude_contigs", "cluster")}
    return {"assay": sample.assay, **chosen}


def _signal_contigs(path: str, fasta: str) -> dict[str, int] | None:
    """Contigs of a signal file's header; None for text, which has none."""
    kind = detect_format(path)
    if kind in ("bam", "cram"):
        return alignment_contigs(path, reference=fasta)
    return bigwig_contigs(path) if kind == "bigwig" else None


def _is_whole_text(place: str) -> bool:
    return os.path.isfile(place) and not contact.is_matrix(place)


def _as_list(value: str | os.PathLike | Sequence[str]) -> list[str]:
    return [os.fspath(value)] if isinstance(value, str | os.PathLike) else list(value)
