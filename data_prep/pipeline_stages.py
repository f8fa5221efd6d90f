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
from data_prep.outputs import write_dropped, write_frame
from data_prep.samples import Sample
from data_prep.stages import Stage, call, options
from data_prep.window_peaks import window_peaks

_EXPRESSION = "<expression table>"


@dataclass(frozen=True)
class Command:
    """A command of data_prep as a stage: options that are files, other options, other words.

    A word that is a key of `hidden` stands for that file. `aside` are words on which the outputs do
    not depend: how many processes write them, say.
    """

    module: ModuleType
    output: str
    files: Mapping[str, str | os.PathLike | Sequence[str] | None]
    values: Mapping[str, Any]
    words: tuple[str, ...] = ()
    hidden: Mapping[str, str] = field(default_factory=dict)
    aside: tuple[str, ...] = ()

    def stage(self, name: str) -> Stage:
        """The stage that runs it; the content of the files counts, not where they lie."""
        files = {key: _as_list(value) for key, value in self.files.items() if value}
        joined = {key: ",".join(paths) for key, paths in files.items()}

        def work(folder: Path) -> None:
            out = str(folder / self.output) if self.output else str(folder)
            words = [self.hidden.get(word, word) for word in self.words]
            given = options(**joined, **self.values, out=out)
            call(self.module, [*given, *words, *self.aside])

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


def cell_stages(
    sample: Sample, config: ConfigDict, place: Path, *, writing: tuple[str, ...] = ()
) -> list[Stage]:
    """The stages of one cell type in order; their inputs lie in `place` once they have run.

    All regions are known before any signal file is read, so that each is read once. `writing` are
    options of `build` that say who writes the records (--workers, --beam).
    """
    tss = place / "tss" / "tss.tsv"
    gene_table = place / "genes" / "genes.tsv"
    regions = {"regions": place / "candidates" / "elements.tsv.gz", "genes": tss}
    stages = [_candidates(sample, config), _tss(config)]
    if config.windows.make:
        stages.append(_summits(sample, config, tss))
        stages.append(_windows(config, place / "summits" / "peaks.narrowPeak"))
        regions["windows"] = place / "windows" / "windows.tsv.gz"
    stages.append(_signals(sample, config, regions))
    stages.append(_genes(sample, config, place / "signals" / signals.TABLES["genes"]))
    contacts = sample.contact or config.contact.average
    if contacts and _is_whole_text(contacts):
        stages.append(_cut_contacts(contacts, config))
        contacts = str(place / "contact" / "by_chromosome")
    elements = place / "signals" / signals.TABLES["regions"]
    stages.append(_links(sample, config, elements, gene_table, contacts))
    tables = {"genes": gene_table, "links": place / "links" / "links.tsv.gz"}
    if config.windows.make:
        tables["windows"] = place / "signals" / signals.TABLES["windows"]
    stages.append(_records(sample, config, tables, writing))
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
        "min_length": choice.min_length_bp,
        "tss_rule": config.genes.tss_rule,
        "gene_key": config.genes.key,
        "tss_slop": config.genes.tss_flank_bp,
    }
    return Command(candidates, "elements.tsv.gz", files, values).stage("candidates")


def _tss(config: ConfigDict) -> Stage:
    """The TSSs that signals are counted around, with or without a label; `genes` lists who left."""
    choice, genome = config.genes, config.genome

    def work(folder: Path) -> None:
        found, _ = genes.chosen_genes(
            choice.annotation,
            tss_rule=choice.tss_rule,
            gene_key=choice.key,
            only=choice.only,
            contigs=read_contig_lengths(genome.contigs),
            aliases=read_aliases(genome.aliases) if genome.aliases else {},
        )
        write_frame(found[["gene_id", "chrom", "tss", "strand"]], folder / "tss.tsv")
        print(f"{len(found):,} genes")

    inputs = {"annotation": choice.annotation, "contigs": genome.contigs}
    optional = {"only": choice.only, "aliases": genome.aliases}
    inputs |= {name: path for name, path in optional.items() if path}
    return Stage("tss", work, {"tss_rule": choice.tss_rule, "key": choice.key}, inputs)


def _signals(sample: Sample, config: ConfigDict, regions: Mapping[str, Path]) -> Stage:
    """Elements, TSS windows and 256 bp windows, each signal file read once for all of them."""
    choice = config.signals
    files: dict[str, Any] = {
        **regions,
        "accessibility": sample.accessibility,
        "h3k27ac": sample.h3k27ac,
        "contigs": config.genome.contigs,
        "aliases": config.genome.aliases,
        "barcodes": choice.barcodes,
        "quantile_reference": choice.quantile_reference,
    }
    if any(path.endswith(".cram") for path in (*sample.accessibility, *sample.h3k27ac)):
        files["fasta"] = config.genome.fasta
    same = ("reads", "duplicates", "strand", "paired", "pool", "track_units")
    same += ("accept_fold_change", "exclude_contigs", "cluster", "quantile_form")
    values = {name: choice[name] for name in same} | {
        "assay": sample.assay,
        "min_mapq": None if choice.min_mapq < 0 else choice.min_mapq,
        "tss_slop": config.genes.tss_flank_bp,
    }
    return Command(signals, "", files, values).stage("signals")


def _genes(sample: Sample, config: ConfigDict, promoter_signals: Path) -> Stage:
    choice = config.genes
    files = {
        "annotation": choice.annotation,
        "only_genes": choice.only,
        "promoter_signals": promoter_signals,
        "contigs": config.genome.contigs,
        "aliases": config.genome.aliases,
    }
    values = {
        "tss_rule": choice.tss_rule,
        "gene_key": choice.key,
        "keep_unlabelled": config.labels.keep_unlabelled,
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
    return Command(genes, "genes.tsv", files, values, words, hidden).stage("genes")


def _cut_contacts(contacts: str, config: ConfigDict) -> Stage:
    resolution = config.contact.resolution_bp

    def work(folder: Path) -> None:
        counts = export_text(contacts, folder / "by_chromosome", resolution_bp=resolution)
        print(f"{sum(counts.values()):,} contacts on {len(counts)} chromosomes")

    return Stage("contact", work, {"resolution_bp": resolution}, {"contact": contacts})


def _links(
    sample: Sample, config: ConfigDict, elements: Path, gene_table: Path, contacts: str
) -> Stage:
    choice = config.links
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
        "gamma": config.contact.gamma,
        "scale": config.contact.scale,
        "reference_gamma": config.contact.reference_gamma,
        "reference_scale": config.contact.reference_scale,
        "pseudocount_distance": config.contact.pseudocount_distance_bp,
        "tss_contribution": config.contact.tss_contribution_percent,
        "rule": choice.rule,
        "min_distance": None if choice.min_distance_bp < -1 else choice.min_distance_bp,
        "max_distance": choice.max_distance_bp,
        "max_elements": choice.max_elements or None,
        "order": choice.order,
        "score_rule": choice.score_rule,
        "score_distance": choice.score_distance_bp,
        "score_activity": choice.score_activity,
        "self_promoter_score": choice.self_promoter_score,
        "assay": sample.assay,
        "cell_type": sample.cell_type,
    }
    return Command(links, "links.tsv.gz", files, values).stage("links")


def _summits(sample: Sample, config: ConfigDict, tss: Path) -> Stage:
    """Peaks that windows are made around: outside the blacklist, and every TSS where asked for."""
    peaks = sample.window_peaks or sample.peaks
    around_tss, blacklist = config.windows.around_tss, config.genome.blacklist

    def work(folder: Path) -> None:
        contigs = read_contig_lengths(config.genome.contigs)
        aliases = read_aliases(config.genome.aliases) if config.genome.aliases else {}
        table, dropped = window_peaks(
            peaks,
            contigs,
            aliases=aliases,
            blacklist=candidates.read_blacklist(blacklist, contigs, aliases) if blacklist else None,
            genes=read_annotation(tss).genes if around_tss else None,
        )
        write_frame(table, folder / "peaks.narrowPeak", header=False, float_format="%.9g")
        write_dropped([dropped], folder / "peaks.tsv")
        print(f"{len(table):,} summits, {len(dropped):,} left out")

    inputs = {"peaks": peaks, "contigs": config.genome.contigs}
    inputs |= {"blacklist": blacklist} if blacklist else {}
    inputs |= {"aliases": config.genome.aliases} if config.genome.aliases else {}
    inputs |= {"genes": tss} if around_tss else {}
    return Stage("summits", work, {"around_tss": around_tss}, inputs)


def _windows(config: ConfigDict, peaks: Path) -> Stage:
    """Where the 256 bp windows lie; `signals` adds their activity."""
    choice, genome = config.windows, config.genome
    files = {
        "peaks": peaks,
        "contigs": genome.contigs,
        "aliases": genome.aliases,
        "fasta": genome.fasta,
    }
    values = {
        "layout": choice.layout,
        "windows_per_summit": choice.per_summit or None,
        "stride": choice.stride_bp or None,
        "peaks_kept": choice.peaks_kept,
        "negative_fraction": None if choice.negative_fraction < 0 else choice.negative_fraction,
        "clearance": choice.clearance_bp,
        "seed": choice.seed,
        "max_unknown": choice.max_unknown,
    }
    return Command(windows, "windows.tsv.gz", files, values).stage("windows")


def _records(
    sample: Sample, config: ConfigDict, tables: Mapping[str, Path], writing: tuple[str, ...]
) -> Stage:
    choice = config.records
    files = {**tables, "fasta": config.genome.fasta, "contigs": config.genome.splits}
    values = {
        "min_distance_bp": choice.min_distance_bp,
        "max_distance_bp": choice.max_distance_bp,
        "max_elements": choice.max_elements,
        "window_bp": choice.window_bp,
        "promoter_bp": choice.promoter_bp,
        "self_promoter": choice.self_promoter,
        "compression": choice.compression,
        "allow_missing_labels": config.labels.keep_unlabelled,
        "window_labels": "log2_activity" if "windows" in tables else None,
    }
    label = config.labels.name if sample.expression else ""
    words = (f"--labels={label}",)
    return Command(builder, "", files, values, words, aside=writing).stage("records")


def _is_whole_text(place: str) -> bool:
    return os.path.isfile(place) and not contact.is_matrix(place)


def _as_list(value: str | os.PathLike | Sequence[str]) -> list[str]:
    return [os.fspath(value)] if isinstance(value, str | os.PathLike) else list(value)
