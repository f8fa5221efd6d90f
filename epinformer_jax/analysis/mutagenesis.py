"""Every substitution of a stretch of DNA: `epinformer mutagenesis`.

Of the activity model over regions of a genome or sequences; of the expression model in a gene's
promoter and elements. Only what a substitution can reach is computed anew (model.local).
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import logging

from epinformer_jax.analysis import (
    activity,
    element_table,
    ensembles,
    kmer_tables,
    mutagenesis_output,
    predict,
    tracks,
)
from epinformer_jax.analysis.ensembles import Model
from epinformer_jax.analysis.inputs import GeneInputs
from epinformer_jax.analysis.mutagenesis_activity import Stretch, flank_bp, mutate_stretches
from epinformer_jax.analysis.mutagenesis_genes import mutate_genes, place_name, sites_of
from epinformer_jax.analysis.mutagenesis_output import Scan
from epinformer_jax.data import tables
from epinformer_jax.data.genome import Genome

__all__ = [
    "Scan",
    "Stretch",
    "mutate_genes",
    "mutate_stretches",
    "of_genes",
    "of_regions",
    "of_sequences",
    "parse_place",
    "read_regions",
    "sites_of",
]

DESCRIPTION = """\
Predict what every substitution of every base does.

With an activity model: of regions of a genome (--region, --windows), else of the sequences in
--fasta. Each position of a region is scored in the window whose middle is nearest; windows stand
--step apart, counted from the region's first base, and on the other strand from its last: so the
reverse complement of a region gives the mirror image. With --step 1 each base has its own window.
With an expression model and --genes: of promoters, of one element or of all elements, in two modes:
`sequence` (measured signals stay) and, where --activity-model is given, `sequence+activity`
(the activity of the mutated slot follows, times 2^(predicted change)).

Effects are differences of what the model predicts: of log2 activity (not of activity), or of the
expression label. OUT.npz holds one_hot and ism [scans, 4, bases], both in the order A, C, G, T
(documented in epinformer_jax/analysis/mutagenesis_output.py); beside it stand the two files that
modisco-lite takes. Tracks show what the base that stands there contributes: minus the mean effect
of the four, 0 for itself. Places are 1-based, both ends included: chr:start-end."""


def parse_place(text: str) -> tuple[str, int, int]:
    """chrom, start, end (0-based half-open) of a place as people write it.

    Raises:
      ValueError: it is not chr:start-end, or ends before it starts.
    """
    chrom, _, span = text.rpartition(":")
    first, _, last = span.replace(",", "").partition("-")
    if not (chrom and first.isdigit() and last.isdigit() and 1 <= int(first) <= int(last)):
        raise ValueError(
            f"{text!r} is no place; expected chr:start-end, 1-based, as chr1:1001-1200"
        )
    return chrom, int(first) - 1, int(last)


def read_regions(
    places: Sequence[tuple[str, int, int, str]],
    genome: Genome,
    *,
    window_bp: int,
    deletions: Sequence[int] = (),
    split_of: Mapping[str, str] | None = None,
) -> list[Stretch]:
    """Stretches of a genome (chrom, start, end, name; 0-based half-open) with the flanks that
    their windows see.

    Raises:
      ValueError: an unknown contig, or a place that does not lie on it.
    """
    flank = flank_bp(window_bp, deletions)
    stretches = []
    for chrom, start, end, name in places:
        length = genome.require(chrom)
        if not 0 <= start < end <= length:
            place = place_name(chrom, start, end)
            raise ValueError(f"{place} does not lie on {chrom}, which has {length} bp")
        codes = genome.fetch(chrom, int(start) - flank, int(end) + flank)
        split = (split_of or {}).get(chrom, chrom)
        stretches.append(Stretch(str(name), codes, flank, chrom, int(start), split))
    return stretches


def of_regions(
    models: Sequence[Model],
    fasta: Genome | str | os.PathLike,
    regions: Sequence[str],
    *,
    split_of: Mapping[str, str] | None = None,
    **options,
) -> list[Scan]:
    """Scans of places of a genome, chr:start-end (1-based); options are `mutate_stretches`'s."""
    places = [(*parse_place(text), text) for text in regions]
    given = {"window_bp": models[0].info.model.window_bp, "split_of": split_of}
    given["deletions"] = options.get("deletions", ())
    if isinstance(fasta, Genome):
        return mutate_stretches(models, read_regions(places, fasta, **given), **options)
    with Genome(fasta) as genome:
        stretches = read_regions(places, genome, **given)
    return mutate_stretches(models, stretches, **options)


def of_sequences(
    models: Sequence[Model],
    names: Sequence[str],
    codes: Sequence[np.ndarray],
    splits: Sequence[str] | None = None,
    **options,
) -> list[Scan]:
    """Scans of sequences; `splits` are their chromosomes, options are `mutate_stretches`'s."""
    splits = [""] * len(names) if splits is None else splits
    named = zip(names, codes, splits, strict=True)
    stretches = [Stretch(str(name), own, split=split) for name, own, split in named]
    return mutate_stretches(models, stretches, **options)


def of_genes(
    models: Sequence[Model],
    genes: GeneInputs,
    *,
    promoter: bool = True,
    element: str | None = None,
    all_elements: bool = False,
    **options,
) -> list[Scan]:
    """Scans of genes' promoters, of the elements that overlap a place (chr:start-end, 1-based), or
    of all elements; options are `mutate_genes`'s.
    """
    place = parse_place(element) if element else None
    sites = sites_of(genes, models, promoter=promoter, element=place, all_elements=all_elements)
    return mutate_genes(models, genes, sites, **options)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `epinformer mutagenesis`."""
    predict.add_input_arguments(parser)
    element_table.add_gene_argument(parser)
    where = parser.add_argument_group("what to mutate, of an activity model")
    where.add_argument("--region", nargs="+", default=[], metavar="PLACE", help="chr:start-end")
    where.add_argument("--windows", type=Path, help="chrom, start, end, optional name")
    where.add_argument(
        "--step",
        type=int,
        metavar="BP",
        help="distance of windows, counted from where the region begins; 1: each base in the "
        "middle of its own window, base window/2 counted from 0, whatever the region (default: "
        "window / 4)",
    )
    where = parser.add_argument_group("what to mutate, of an expression model")
    where.add_argument("--promoter", action="store_true", help="the default for genes")
    where.add_argument("--element", metavar="PLACE", help="elements that overlap chr:start-end")
    where.add_argument("--all-elements", action="store_true", help="each element of each gene")
    where.add_argument(
        "--activity-model", type=Path, nargs="+", help="for the mode sequence+activity"
    )
    parser.add_argument(
        "--deletions",
        type=_sizes,
        default=(),
        metavar="BP,...",
        help="lengths, as 1,5; in a region what is right of a deletion or insertion moves",
    )
    parser.add_argument(
        "--insertions",
        type=lambda text: tuple(text.split(",")),
        default=(),
        metavar="X,...",
        help="letters, or numbers of unknown bases, as 1,ACGT",
    )
    parser.add_argument(
        "--average-strands", action="store_true", help="mean of both strands, turned back"
    )
    kmer_tables.add_argument(parser)
    parser.add_argument("--out", type=Path, required=True, help="effects, .npz")
    parser.add_argument("--bigwig", type=Path, help="contributions as bigWig")
    parser.add_argument("--bedgraph", type=Path, help="the same as bedGraph, .gz or plain")
    parser.add_argument("--plot", type=Path, help="figure, .png or .svg; numbered for many scans")


def run(args: argparse.Namespace) -> int:
    """Mutates, writes the files; returns the exit code."""
    if args.out.suffix != ".npz":
        raise ValueError(f"--out {args.out}: expected a name that ends in .npz")
    if args.plot is not None and args.plot.suffix not in (".png", ".svg"):
        raise ValueError(f"--plot {args.plot}: expected a name that ends in .png or .svg")
    of_genes = args.genes is not None or args.dataset is not None
    if of_genes and (args.region or args.windows is not None):
        raise ValueError(
            "--region and --windows are for activity models; leave them or --genes out"
        )
    if args.fasta is None and (not of_genes or args.bigwig or args.bedgraph):
        raise ValueError("give --fasta: the genome, or without --region and --windows: sequences")
    scans = _run_genes(args) if of_genes else _run_regions(args)
    for path in mutagenesis_output.save(args.out, scans):
        print(path)
    if args.bigwig is not None or args.bedgraph is not None:
        signals = mutagenesis_output.signals(scans)
        with Genome(args.fasta, args.cache_dir) as genome:
            contigs = dict(genome.contigs)
        if args.bigwig is not None:
            tracks.write_bigwig(args.bigwig, signals, contigs)
            print(args.bigwig)
        if args.bedgraph is not None:
            tracks.write_bedgraph(args.bedgraph, signals, contigs)
            print(args.bedgraph)
    if args.plot is not None:
        _draw(scans, args.plot)
    who = dict.fromkeys(f"{scan.fold} (in training: {scan.in_training})" for scan in scans)
    logging.info("%d scans, predicted by %s", len(scans), ", ".join(who))
    return 0


def _run_regions(args: argparse.Namespace) -> list[Scan]:
    models = ensembles.load_models(args.model, kind="activity")
    places = [(*parse_place(text), text) for text in args.region]
    if args.windows is not None:
        frame = tables.read_windows(args.windows, labels=())
        columns = (frame[name] for name in ("chrom", "start", "end", "name"))
        places += list(zip(*columns, strict=True))
    if places:
        window_bp = models[0].info.model.window_bp
        given = {"window_bp": window_bp, "deletions": args.deletions, "split_of": _splits(args)}
        with Genome(args.fasta, args.cache_dir) as genome:
            stretches = read_regions(places, genome, **given)
    else:
        named = zip(*activity.read_fasta(args.fasta, args.cache_dir), strict=True)
        stretches = [Stretch(name, codes) for name, codes in named]
    return mutate_stretches(
        models,
        stretches,
        step_bp=args.step,
        deletions=args.deletions,
        insertions=args.insertions,
        ensemble=args.ensemble,
        average_strands=args.average_strands,
        kmer_table=args.kmer_table,
        show_progress=True,
    )


def _run_genes(args: argparse.Namespace) -> list[Scan]:
    models = ensembles.load_models(args.model, kind="expression")
    activity_models = []
    if args.activity_model:
        activity_models = ensembles.load_models(args.activity_model, kind="activity")
    else:
        print("mode sequence only: give --activity-model for the mode sequence+activity as well")
    genes, _ = element_table.read_chosen(args, models)
    scans = of_genes(
        models,
        genes,
        promoter=args.promoter or not (args.element or args.all_elements),
        element=args.element,
        all_elements=args.all_elements,
        activity_models=activity_models,
        deletions=args.deletions,
        insertions=args.insertions,
        ensemble=args.ensemble,
        force=args.force,
        average_strands=args.average_strands,
        kmer_table=args.kmer_table,
        batch_size=args.batch_size,
        show_progress=True,
    )
    predict.report_dropped(genes, args.out)
    return scans


def _draw(scans: Sequence[Scan], path: Path) -> None:
    from epinformer_jax.analysis import plots_logo

    for number, scan in enumerate(scans, start=1):
        named = path.with_name(f"{path.stem}_{number}{path.suffix}") if len(scans) > 1 else path
        figure = plots_logo.scan_figure(
            scan.contribution,
            np.asarray(scan.effects),
            scan.one_hot,
            title=f"{scan.name}, {scan.fold}" + (", mode sequence" if scan.gene_id else ""),
            unit=scan.label,
            start=scan.start,
        )
        plots_logo.save(figure, named)
        print(named)


def _splits(args: argparse.Namespace) -> dict[str, str]:
    if args.contigs is None:
        return {}
    contigs = tables.read_contigs(args.contigs)
    return dict(zip(contigs["chrom"], contigs["split"], strict=True))


def _sizes(text: str) -> tuple[int, ...]:
    """Lengths separated by commas, as an argparse type."""
    parts = text.split(",")
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r}: expected lengths of 1 or more, as 1,5")
    return tuple(map(int, parts))
