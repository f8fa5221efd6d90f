"""Candidate elements from peaks: strongest summits, extended, merged, blacklist taken out.

    python -m data_prep candidates --peaks K562.narrowPeak.gz --contigs hg38.chrom.sizes \\
        --blacklist hg38.blacklist.bed --genes genes.bed --out elements.tsv.gz
"""

import argparse
from collections.abc import Mapping

import numpy as np
import pandas as pd

from data_prep.annotation import TSS_RULES, add_gene_key_argument, read_annotation
from data_prep.contig_ends import beyond_ends, within_ends
from data_prep.contig_names import read_aliases, read_contig_lengths, rename_contigs
from data_prep.element_class import classify, element_names, tss_windows
from data_prep.intervals import (
    clip_intervals,
    merge_intervals,
    overlaps_any,
    read_bed,
    subtract_intervals,
)
from data_prep.outputs import (
    report_dropped,
    settings_of,
    sibling,
    versions,
    write_dropped,
    write_frame,
    write_json,
)
from data_prep.peaks import (
    ASSAYS,
    PEAK_FORMATS,
    peak_caller_command,
    read_peaks,
    strongest_summits,
)

DESCRIPTION = (
    "candidate elements from peaks: strongest summits, extended, merged, blacklist taken out"
)


def candidate_elements(
    peaks: pd.DataFrame,
    contigs: Mapping[str, int],
    *,
    peaks_kept: int | None = 150_000,
    extend_bp: int = 250,
    blacklist: pd.DataFrame | None = None,
    blacklist_rule: str = "subtract",
    promoters: pd.DataFrame | None = None,
    min_length_bp: int = 1,
    source: str = "peaks",
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Makes candidate elements: summit +- extend_bp, clipped to contigs, merged where they touch.

    The blacklist is cut out (`subtract`, as published) or takes away whole elements (`drop`, as the
    ABC pipeline does). `promoters` (chrom, start, end) are added before merging. Peaks whose summit
    lies past the end of its contig are left out, and so are such promoters.

    Returns:
      (chrom, start, end, n_summits, sorted), and what was left out with a `reason`.

    Raises:
      ValueError: an unknown rule, a length below 1, most peaks past the ends of their contigs, or
        no element left.
    """
    if blacklist_rule not in ("subtract", "drop"):
        raise ValueError(f"blacklist rule {blacklist_rule!r} is unknown; expected subtract or drop")
    if extend_bp < 1 or min_length_bp < 1:
        raise ValueError(
            f"extension {extend_bp} bp and shortest element {min_length_bp} bp must be at least 1"
        )
    placed, left_out = _on_genome(peaks, contigs, "summit", "peak", source)
    summits, weak = strongest_summits(placed, number=peaks_kept, source=source)
    left_out.append(weak)
    summit = summits["summit"].to_numpy(np.int64)
    windows = pd.DataFrame(
        {"chrom": summits["chrom"], "start": summit - extend_bp, "end": summit + extend_bp}
    )
    n_windows = len(windows)
    if promoters is not None:
        on_contig, elsewhere = _on_genome(promoters, contigs, "start", "promoter", "promoters")
        left_out += elsewhere
        windows = pd.concat([windows, on_contig[["chrom", "start", "end"]]], ignore_index=True)
    if windows.empty:
        raise ValueError(
            f"{source}: none of {len(peaks):,} peaks lies on a contig of the genome; see --aliases"
        )
    merged = merge_intervals(clip_intervals(windows, contigs))
    elements = merged.drop(columns="n_intervals")
    if blacklist is not None:
        elements, removed = _without_blacklist(elements, blacklist, rule=blacklist_rule)
        left_out.append(removed)
    is_short = (elements["end"] - elements["start"]).to_numpy() < min_length_bp
    left_out.append(elements[is_short].assign(reason=f"element is shorter than {min_length_bp} bp"))
    elements = elements[~is_short].reset_index(drop=True)
    if elements.empty:
        raise ValueError(
            f"{source}: no element is left of {n_windows:,} summits; check blacklist and contigs"
        )
    dropped = pd.concat([frame for frame in left_out if len(frame)] or [weak], ignore_index=True)
    return elements, dropped.drop(columns="line", errors="ignore")


def _on_genome(
    frame: pd.DataFrame, contigs: Mapping[str, int], position: str, what: str, source: str
) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
    """The rows whose place the genome has, and those it lacks, by reason."""
    is_known = frame["chrom"].isin(list(contigs)).to_numpy()
    unknown = frame[~is_known].assign(reason=f"{what} lies on a contig that the genome lacks")
    kept, beyond = within_ends(
        frame[is_known], contigs, position=position, what=what, source=source
    )
    return kept, [unknown, beyond]


def _without_blacklist(
    elements: pd.DataFrame, blacklist: pd.DataFrame, *, rule: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    touched = overlaps_any(elements, blacklist)
    if rule == "drop":
        reason = "element overlaps the blacklist"
        return elements[~touched].reset_index(drop=True), elements[touched].assign(reason=reason)
    rest = subtract_intervals(elements, blacklist)
    gone = touched & ~overlaps_any(elements, rest)
    return rest, elements[gone].assign(reason="element lies wholly in the blacklist")


def with_classes(
    elements: pd.DataFrame, genes: pd.DataFrame, *, slop_bp: int = 500
) -> pd.DataFrame:
    """Adds `class` (promoter, genic, intergenic) and the ABC tables' `name` to elements."""
    labelled = elements.assign(**{"class": classify(elements, genes, slop_bp=slop_bp)})
    return labelled.assign(name=element_names(labelled))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `python -m data_prep candidates`."""
    add = parser.add_argument
    add("--peaks", help="narrowPeak, broadPeak or BED file, plain or gzip")
    add(
        "--peak-format",
        choices=PEAK_FORMATS,
        default="auto",
        help="how to read --peaks (default: %(default)s)",
    )
    add("--contigs", help="contig lengths: chrom.sizes or .fai")
    add(
        "--aliases",
        help="table found<TAB>expected of contig names, where they do not match by themselves",
    )
    add(
        "--peaks-kept",
        type=int,
        default=150_000,
        help="strongest peaks by signalValue that are kept; 0 keeps all (default: %(default)s)",
    )
    add(
        "--extend", type=int, default=250, help="bp on each side of a summit (default: %(default)s)"
    )
    add("--blacklist", help="BED file of places to leave out")
    add(
        "--blacklist-rule",
        choices=("subtract", "drop"),
        default="subtract",
        help="cut the places out, or leave out every element that meets one (default: %(default)s)",
    )
    add("--genes", help="gene BED, GTF or genes.tsv: gives each element its class")
    add(
        "--tss-rule",
        choices=TSS_RULES,
        default="end-1",
        help="TSS of minus-strand genes (default: %(default)s)",
    )
    add_gene_key_argument(parser)
    add(
        "--tss-slop",
        type=int,
        default=500,
        help="bp around a TSS that make a promoter (default: %(default)s)",
    )
    add(
        "--include-promoters",
        action="store_true",
        help="add each gene's TSS +- slop as an element before merging (needs --genes)",
    )
    add(
        "--min-length", type=int, default=1, help="shortest element kept, bp (default: %(default)s)"
    )
    add("--out", help="elements.tsv or .tsv.gz: chrom, start, end, class, name")
    add(
        "--print-peak-caller",
        metavar="READS",
        help="only print the MACS command that makes --peaks from a BAM or tagAlign file",
    )
    add(
        "--assay",
        choices=ASSAYS,
        default="DNase",
        help="for --print-peak-caller (default: %(default)s)",
    )
    add(
        "--genome-size",
        default="hs",
        help="MACS -g: hs, mm or a number of bp (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns 0.

    Raises:
      ValueError: an input is missing or malformed.
    """
    if args.print_peak_caller:
        print(
            peak_caller_command(
                args.print_peak_caller, assay=args.assay, genome_size=args.genome_size
            )
        )
        return 0
    for option, value in (
        ("--peaks", args.peaks),
        ("--contigs", args.contigs),
        ("--out", args.out),
    ):
        if not value:
            raise ValueError(
                f"{option} is missing; it is needed unless --print-peak-caller is given"
            )
    if args.include_promoters and not args.genes:
        raise ValueError("--include-promoters needs --genes")
    contigs = read_contig_lengths(args.contigs)
    aliases = read_aliases(args.aliases) if args.aliases else None
    peaks = rename_contigs(
        read_peaks(args.peaks, peak_format=args.peak_format),
        contigs,
        source=args.peaks,
        aliases=aliases,
    )
    blacklist = read_blacklist(args.blacklist, contigs, aliases) if args.blacklist else None
    genes = None
    if args.genes:
        genes = read_annotation(args.genes, tss_rule=args.tss_rule, gene_key=args.gene_key).genes
        genes = rename_contigs(genes, contigs, source=args.genes, aliases=aliases)
        beyond_ends(genes, contigs, position="tss", what="gene", source=args.genes)
    elements, dropped = candidate_elements(
        peaks,
        contigs,
        peaks_kept=args.peaks_kept or None,
        extend_bp=args.extend,
        blacklist=blacklist,
        blacklist_rule=args.blacklist_rule,
        promoters=tss_windows(genes, slop_bp=args.tss_slop) if args.include_promoters else None,
        min_length_bp=args.min_length,
        source=args.peaks,
    )
    if genes is not None:
        elements = with_classes(elements, genes, slop_bp=args.tss_slop)
    _write(elements, dropped, args, n_peaks=len(peaks))
    return 0


def read_blacklist(
    path: str, contigs: Mapping[str, int], aliases: Mapping[str, str] | None
) -> pd.DataFrame:
    """Reads places to leave out; warns where they seem to be of another assembly.

    Raises:
      ValueError: no BED file, no contig in common, or most places past the ends of their contigs.
    """
    places = rename_contigs(read_bed(path), contigs, source=path, aliases=aliases)
    beyond_ends(places, contigs, position="start", what="blacklist", source=path)
    return places


def _write(
    elements: pd.DataFrame, dropped: pd.DataFrame, args: argparse.Namespace, *, n_peaks: int
) -> None:
    write_frame(elements, args.out)
    reasons = write_dropped([dropped], args.out)
    lengths = elements["end"] - elements["start"]
    summary = {
        "settings": settings_of(args),
        "peaks": n_peaks,
        "elements": len(elements),
        "mean_length_bp": round(float(lengths.mean()), 1),
        "longer_than_2000_bp": int((lengths > 2000).sum()),
        "classes": elements["class"].value_counts().to_dict() if "class" in elements else None,
        "left_out": reasons,
        "versions": versions("bioframe", "pandas", "numpy"),
    }
    write_json(summary, sibling(args.out, ".json"))
    print(f"{len(elements):,} elements from {n_peaks:,} peaks, mean length {lengths.mean():.0f} bp")
    report_dropped(reasons, args.out)
    print(f"wrote {args.out}")
