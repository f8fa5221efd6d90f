"""The stages of one cell type: which command each runs, on which files, with which options.

Every stage is a command of `python -m data_prep`, so that each can be repeated by hand.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from data_prep import builder, candidates, contact, genes, links, signals, windows
from data_prep.annotation import read_annotation
from data_prep.contact_export import export_text
from data_prep.contig_names import read_aliases, read_contig_lengths
from data_prep.intervals import read_bed
from data_prep.outputs import write_dropped, write_frame
from data_prep.samples import Sample
from data_prep.stages import Stage, call, options
from data_prep.window_peaks import window_peaks
from epinformer_jax.data.tables import MRNA_FEATURES

_EXPRESSION = "<expression table>"


@dataclass(frozen=True)
class Command:
    """A command of data_prep as a stage: options that are files, other options, other words.

    A word that is a key of `hidden` stands for that file.
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
            words = [self.hidden.get(word, word) for word in self.words]
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
            _EXPRESSION,
            sample.expression_column,
            config.labels.transform,
        )
        hidden = {_EXPRESSION: sample.expression}
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


def _is_whole_text(place: str) -> bool:
    return os.path.isfile(place) and not contact.is_matrix(place)


def _as_list(value: str | os.PathLike | Sequence[str]) -> list[str]:
    return [os.fspath(value)] if isinstance(value, str | os.PathLike) else list(value)
