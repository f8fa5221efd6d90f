"""windows.tsv: 256 bp windows around peak summits with their activity, to train the encoder on.

`published`: 7 windows a summit (K562; `published5`: 5, GM12878), 156 bp apart, no negatives. `new`:
5 windows 192 bp apart, and negatives, 5 % of the number of peaks, far from any peak.

    python -m data_prep windows --peaks h3k27ac.narrowPeak.gz --contigs hg38.chrom.sizes \\
        --accessibility dnase.bam --h3k27ac rep1.bam,rep2.bam --out windows.tsv.gz

Without signal files the table says where the windows lie, and `signals --windows` measures them in
the same pass as elements and promoters.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from data_prep.contig_names import read_aliases, read_contig_lengths, rename_contigs
from data_prep.intervals import merge_intervals, sort_intervals
from data_prep.outputs import (
    report_dropped,
    settings_of,
    sibling,
    versions,
    write_dropped,
    write_frame,
    write_json,
)
from data_prep.peaks import PEAK_FORMATS, read_peaks, strongest_summits
from data_prep.signal_options import add_signal_arguments, counting_options, requested_signals
from data_prep.signals import (
    WINDOW_LABELS,
    Signal,
    measure_signals,
    signal_summary,
    with_target,
)
from data_prep.window_peaks import placed_peaks
from epinformer_jax.data.chromosomes import natural_order
from epinformer_jax.data.genome import Genome
from epinformer_jax.data.sequence import UNKNOWN

DESCRIPTION = "256 bp windows around summits, with activity, for the activity encoder"
_OVERSAMPLING = 3
_ROUNDS = 200


@dataclass(frozen=True)
class WindowLayout:
    """Windows around one summit: `count` (odd), `stride_bp` apart, the middle one centred."""

    count: int
    stride_bp: int
    length_bp: int = 256

    def __post_init__(self):
        if self.count < 1 or self.count % 2 == 0:
            raise ValueError(f"{self.count} windows a summit; expected an odd number")
        if self.stride_bp < 1 or self.length_bp < 2 or self.length_bp % 2:
            raise ValueError(
                f"windows of {self.length_bp} bp, {self.stride_bp} bp apart; expected an even "
                "length and a stride of at least 1"
            )

    def offsets(self) -> np.ndarray:
        """Offsets of the windows' middles from the summit, in bp, from left to right."""
        half = self.count // 2
        return np.arange(-half, half + 1, dtype=np.int64) * self.stride_bp

    @property
    def reach_bp(self) -> int:
        """How far the outermost window reaches from the summit."""
        return (self.count // 2) * self.stride_bp + self.length_bp // 2


LAYOUTS = {
    "published": WindowLayout(7, 156),
    "published5": WindowLayout(5, 156),
    "new": WindowLayout(5, 192),
}
NEGATIVE_FRACTIONS = {"published": 0.0, "published5": 0.0, "new": 0.05}


def summit_windows(
    summits: pd.DataFrame, contigs: Mapping[str, int], layout: WindowLayout, *, kind: str = "peak"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Windows around summits (chrom, summit): chrom, start, end, name, kind, summit, offset.

    The window at offset o is [summit + o - length/2, summit + o + length/2). Returns the windows,
    sorted, and those left out with a `reason`: past a contig's end, or the same window around
    another summit.
    """
    offsets = layout.offsets()
    summit = np.repeat(summits["summit"].to_numpy(np.int64), len(offsets))
    offset = np.tile(offsets, len(summits))
    start = summit + offset - layout.length_bp // 2
    windows = pd.DataFrame(
        {
            "chrom": np.repeat(summits["chrom"].to_numpy(), len(offsets)),
            "start": start,
            "end": start + layout.length_bp,
            "kind": kind,
            "summit": summit,
            "offset": offset,
        }
    )
    lengths = windows["chrom"].map(contigs).to_numpy(np.int64)
    outside = (windows["start"].to_numpy() < 0) | (windows["end"].to_numpy() > lengths)
    dropped = [windows[outside].assign(reason="window reaches past the end of its contig")]
    # Of equal windows the one nearest to its summit stays.
    windows = windows[~outside].assign(_near=np.abs(offset[~outside]))
    windows = sort_intervals(windows, by=("start", "_near")).drop(columns="_near")
    repeated = windows.duplicated(["chrom", "start"])
    dropped.append(windows[repeated].assign(reason="same window around another summit"))
    windows = windows[~repeated].reset_index(drop=True)
    place = windows["start"].astype(str) + "-" + windows["end"].astype(str)
    windows.insert(3, "name", windows["kind"] + "|" + windows["chrom"] + ":" + place)
    return windows, pd.concat(dropped, ignore_index=True)


def negative_summits(
    peaks: pd.DataFrame,
    contigs: Mapping[str, int],
    *,
    number: int,
    seed: int,
    reach_bp: int,
    clearance_bp: int = 1000,
) -> pd.DataFrame:
    """Draws places whose whole footprint [p - reach, p + reach) lies clearance_bp from every peak.

    Contigs are chosen by length; the same seed, peaks and contigs give the same places, whatever
    the order of the tables. Footprints of negatives may overlap each other.

    Raises:
      ValueError: no contig is long enough, or places are so rare that they were not found.
    """
    names = [name for name in natural_order(contigs) if contigs[name] > 2 * reach_bp]
    if number and not names:
        raise ValueError(
            f"no contig is longer than {2 * reach_bp} bp; negatives have no place there"
        )
    room = np.array([contigs[name] - 2 * reach_bp for name in names], np.float64)
    edges = _merged_edges(peaks, reach_bp + clearance_bp)
    rng = np.random.default_rng(seed)
    chosen: list[tuple[str, int]] = []
    for _ in range(_ROUNDS):
        if len(chosen) >= number:
            break
        size = max(_OVERSAMPLING * (number - len(chosen)), 16)
        contig = rng.choice(len(names), size=size, p=room / room.sum())
        place = reach_bp + (rng.random(size) * room[contig]).astype(np.int64)
        for index, position in zip(contig.tolist(), place.tolist(), strict=True):
            if _is_free(edges.get(names[index]), position):
                chosen.append((names[index], position))
    if len(chosen) < number:
        raise ValueError(
            f"found {len(chosen):,} of {number:,} negatives at least {clearance_bp} bp from every "
            "peak; the peaks cover nearly everything: lower --negative-fraction or --clearance"
        )
    return pd.DataFrame(chosen[:number], columns=["chrom", "summit"])


def _merged_edges(peaks: pd.DataFrame, margin_bp: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Starts and ends of the places too near to a peak, by contig, sorted and disjoint."""
    widened = peaks[["chrom", "start", "end"]].assign(
        start=peaks["start"] - margin_bp, end=peaks["end"] + margin_bp
    )
    merged = merge_intervals(widened)
    return {
        str(chrom): (rows["start"].to_numpy(np.int64), rows["end"].to_numpy(np.int64))
        for chrom, rows in merged.groupby("chrom", sort=False)
    }


def _is_free(edges: tuple[np.ndarray, np.ndarray] | None, position: int) -> bool:
    if edges is None:
        return True
    index = int(np.searchsorted(edges[0], position, side="right")) - 1
    return index < 0 or position >= int(edges[1][index])


def too_unknown(windows: pd.DataFrame, genome: Genome, *, max_share: float) -> np.ndarray:
    """True where more than max_share of a window's bases are unknown (N)."""
    is_bad = np.zeros(len(windows), bool)
    places = zip(windows["chrom"], windows["start"], windows["end"], strict=True)
    for row, (chrom, start, end) in enumerate(places):
        codes = genome.fetch(chrom, int(start), int(end))
        is_bad[row] = (codes == UNKNOWN).mean() > max_share
    return is_bad


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `python -m data_prep windows`."""
    add = parser.add_argument
    add("--peaks", required=True, help="H3K27ac narrowPeak (or DNase peaks; BED works too)")
    add("--peak-format", choices=PEAK_FORMATS, default="auto", help="(default: %(default)s)")
    add(
        "--layout",
        choices=tuple(LAYOUTS),
        default="new",
        help="published: 7 x 156 bp; published5: 5 x 156 bp; new: 5 x 192 bp and negatives "
        "(default: %(default)s)",
    )
    add("--windows-per-summit", type=int, help="overrides the layout; odd")
    add("--stride", type=int, help="bp between windows; overrides the layout")
    add(
        "--peaks-kept",
        type=int,
        default=100_000,
        help="strongest peaks by signalValue; 0 keeps all (default: %(default)s)",
    )
    add(
        "--negative-fraction",
        type=float,
        help="negatives as a share of peaks; overrides the layout",
    )
    add(
        "--clearance",
        type=int,
        default=1000,
        help="bp between negatives and peaks (default: %(default)s)",
    )
    add("--seed", type=int, default=42, help="for negatives (default: %(default)s)")
    add(
        "--max-unknown",
        type=float,
        default=0.5,
        help="with --fasta: largest share of N in a window (default: %(default)s)",
    )
    add_signal_arguments(parser)
    add("--out", required=True, help="windows.tsv or .tsv.gz")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns 0.

    Raises:
      ValueError: an input is missing or malformed.
    """
    if not args.contigs:
        raise ValueError("--contigs is missing; windows must know where contigs end")
    layout = _layout(args)
    contigs = read_contig_lengths(args.contigs)
    aliases = read_aliases(args.aliases) if args.aliases else None
    is_measured = bool(args.accessibility or args.h3k27ac or args.signal)
    if is_measured:  # a wrong option is found before the work
        signals = [Signal(name, *given) for name, given in requested_signals(args).items()]
        options = counting_options(args)
    table, dropped, n_negatives = _make_windows(args, layout, contigs, aliases)
    summary: dict[str, Any] = {
        "settings": settings_of(args),
        "layout": {"windows_per_summit": layout.count, "stride_bp": layout.stride_bp},
        "windows": len(table),
        "negatives": n_negatives,
        "versions": versions("numpy", "pandas", "bioframe"),
    }
    if is_measured:
        measured = measure_signals(table, signals, options, pool=args.pool)
        table = pd.concat([table, with_target(measured.columns)], axis=1)
        counted = signal_summary(args.assay, options, measured.details)
        summary |= counted | {"versions": summary["versions"] | counted["versions"]}
        summary["labels"] = WINDOW_LABELS
    write_frame(table, args.out, float_format="%.9g")
    reasons = write_dropped(dropped, args.out)
    write_json(summary | {"left_out": reasons}, sibling(args.out, ".json"))
    print(f"{len(table):,} windows, {n_negatives:,} negative places")
    if not is_measured:
        print("without activity so far; `python -m data_prep signals --windows` adds it")
    report_dropped(reasons, args.out)
    print(f"wrote {args.out}")
    return 0


def _layout(args: argparse.Namespace) -> WindowLayout:
    layout = LAYOUTS[args.layout]
    if args.windows_per_summit is not None:
        layout = replace(layout, count=args.windows_per_summit)
    return replace(layout, stride_bp=args.stride) if args.stride is not None else layout


def _make_windows(
    args: argparse.Namespace,
    layout: WindowLayout,
    contigs: Mapping[str, int],
    aliases: Mapping[str, str] | None,
) -> tuple[pd.DataFrame, list[pd.DataFrame], int]:
    peaks = read_peaks(args.peaks, peak_format=args.peak_format)
    peaks, dropped = placed_peaks(peaks, contigs, source=args.peaks, aliases=aliases)
    kept, weak = strongest_summits(peaks, number=args.peaks_kept or None, source=args.peaks)
    windows, outside = summit_windows(kept, contigs, layout)
    fraction = args.negative_fraction
    fraction = NEGATIVE_FRACTIONS[args.layout] if fraction is None else fraction
    if not 0 <= fraction <= 1:
        raise ValueError(f"--negative-fraction {fraction} is not between 0 and 1")
    n_negatives = round(fraction * len(kept))
    dropped += [weak, outside]
    if n_negatives:
        places = negative_summits(
            peaks,
            contigs,
            number=n_negatives,
            seed=args.seed,
            reach_bp=layout.reach_bp,
            clearance_bp=args.clearance,
        )
        negatives, beyond = summit_windows(places, contigs, layout, kind="negative")
        windows = sort_intervals(pd.concat([windows, negatives], ignore_index=True))
        dropped.append(beyond)
    if args.fasta:
        with Genome(args.fasta) as genome:
            names = rename_contigs(windows, genome.contigs, source=args.fasta, aliases=aliases)
            is_bad = too_unknown(names, genome, max_share=args.max_unknown)
        reason = f"more than {args.max_unknown:g} of the window is unknown sequence"
        dropped.append(windows[is_bad].assign(reason=reason))
        windows = windows[~is_bad].reset_index(drop=True)
    if windows.empty:
        raise ValueError(f"{args.peaks}: no window is left; check --contigs and --max-unknown")
    return windows, [frame.drop(columns="line", errors="ignore") for frame in dropped], n_negatives
