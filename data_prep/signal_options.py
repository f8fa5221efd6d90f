"""The command-line options for signal files, shared by the commands that count reads."""

import argparse

import numpy as np

from data_prep.contig_names import read_aliases, read_contig_lengths
from data_prep.reads import READ_ENDS, READ_FILTERS, STRANDS, ReadFilter, read_barcodes
from data_prep.signal_files import FORMATS, CountingOptions
from data_prep.tracks import TRACK_UNITS

RESERVED_NAMES = ("dnase", "h3k27ac")


def add_signal_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say which files are counted, and how."""
    group = parser.add_argument_group("signal files")
    add = group.add_argument
    add(
        "--accessibility",
        metavar="FILES",
        help="DNase or ATAC, replicates comma-separated: .bam .cram .tagAlign fragments.tsv.gz "
        "bigWig bedGraph, or column:NAME of the region table; becomes dnase_count and dnase_rpm",
    )
    add(
        "--h3k27ac",
        metavar="FILES",
        help="the same for H3K27ac; becomes h3k27ac_count, h3k27ac_rpm",
    )
    add(
        "--signal",
        metavar="NAME=FILES",
        action="append",
        default=[],
        help="another signal to count, not part of the activity; may be repeated",
    )
    add(
        "--total",
        metavar="NAME=NUMBERS",
        action="append",
        default=[],
        help="reads behind a signal (dnase, h3k27ac or a NAME), one for each file, where the file "
        "does not hold them all; may be repeated",
    )
    add("--assay", choices=("DNase", "ATAC"), default="DNase", help="(default: %(default)s)")
    add(
        "--reads",
        choices=tuple(READ_FILTERS),
        default="published",
        help="published: MAPQ 0, duplicates kept; recommended: MAPQ 30, no duplicates; always "
        "primary, mapped, not QC-fail (default: %(default)s)",
    )
    add("--min-mapq", type=int, help="overrides the mapping quality of --reads (0 to 255)")
    add("--duplicates", choices=("keep", "drop"), help="overrides --reads")
    add("--strand", choices=STRANDS, default="both", help="(default: %(default)s)")
    add(
        "--paired",
        choices=READ_ENDS,
        default="reads",
        help="count each read of a pair, or each properly paired fragment once; the same in the "
        "total (default: %(default)s)",
    )
    add(
        "--pool",
        choices=("mean", "sum"),
        default="mean",
        help="replicates: mean of RPM, or sum of counts and totals (default: %(default)s)",
    )
    add(
        "--track-units",
        choices=TRACK_UNITS,
        help="what the values of bigWig and bedGraph files are",
    )
    add(
        "--accept-fold-change",
        action="store_true",
        help="let fold-change tracks through: fine for training of your own, wrong for the "
        "published weights",
    )
    add("--format", choices=FORMATS, help="format of all signal files, where it cannot be told")
    add("--barcodes", help="barcode<TAB>cluster table; only its cells count (fragment files)")
    add("--cluster", help="only the cells of this cluster")
    add("--contigs", help="contig lengths of the genome: chrom.sizes or .fai")
    add("--aliases", help="table found<TAB>expected of contig names")
    add("--exclude-contigs", default="", help="comma-separated contigs left out, also of the total")
    add("--fasta", help="the genome, which CRAM files need")


def counting_options(args: argparse.Namespace) -> CountingOptions:
    """Turns parsed options into CountingOptions.

    Raises:
      ValueError: options that contradict each other, or a fold-change track that is not accepted.
    """
    preset = READ_FILTERS[args.reads]
    read_filter = ReadFilter(
        min_mapq=preset.min_mapq if args.min_mapq is None else args.min_mapq,
        keep_duplicates=(
            preset.keep_duplicates if args.duplicates is None else args.duplicates == "keep"
        ),
        strand=args.strand,
        unit=args.paired,
    )
    if args.track_units == "fold-change" and not args.accept_fold_change:
        raise ValueError(
            "--track-units fold-change: a ratio over a control is no read depth, and the published "
            "weights cannot use it; give reads or cut counts, or pass --accept-fold-change"
        )
    if args.cluster and not args.barcodes:
        raise ValueError("--cluster needs --barcodes")
    return CountingOptions(
        read_filter=read_filter,
        track_units=args.track_units,
        file_format=args.format,
        barcodes=read_barcodes(args.barcodes, cluster=args.cluster) if args.barcodes else None,
        contigs=read_contig_lengths(args.contigs) if args.contigs else None,
        aliases=read_aliases(args.aliases) if args.aliases else {},
        excluded_contigs=frozenset(filter(None, args.exclude_contigs.split(","))),
        reference=args.fasta,
    )


def requested_signals(
    args: argparse.Namespace,
) -> dict[str, tuple[tuple[str, ...], tuple[float, ...] | None]]:
    """The signals asked for: name -> (files, totals or None); accessibility is called dnase.

    Raises:
      ValueError: none is asked for, a name twice or reserved, or a total of an unknown signal.
    """
    files: dict[str, tuple[str, ...]] = {}
    if args.accessibility:
        files["dnase"] = _split(args.accessibility)
    if args.h3k27ac:
        files["h3k27ac"] = _split(args.h3k27ac)
    for text in args.signal:
        name, value = _named(text, "--signal", "NAME=FILES")
        if name in files or name in RESERVED_NAMES:
            raise ValueError(f"--signal {text}: the name {name} is taken; choose another")
        files[name] = _split(value)
    if not files:
        raise ValueError("no signal file; give --accessibility, and --h3k27ac where there is one")
    totals: dict[str, tuple[float, ...]] = {}
    for text in args.total:
        name, value = _named(text, "--total", "NAME=NUMBERS")
        if name not in files:
            raise ValueError(f"--total {text}: no signal {name}; signals: {', '.join(files)}")
        totals[name] = tuple(_number(part, text) for part in _split(value))
    return {name: (paths, totals.get(name)) for name, paths in files.items()}


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _named(text: str, option: str, form: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise ValueError(f"{option} {text}: expected {form}")
    return name, value


def _number(text: str, whole: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value) or value <= 0:
        raise ValueError(f"--total {whole}: {text!r} is not a positive number")
    return value
