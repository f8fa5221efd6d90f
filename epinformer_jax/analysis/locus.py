"""One gene on one axis: `epinformer locus`.

Its elements with contact, activity, attention and the predicted effect of removing each, signal
tracks, and effects measured by CRISPR, in one figure.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from absl import logging
from jaxtyping import Float

from epinformer_jax.analysis import ensembles, links, predict, tracks
from epinformer_jax.analysis.element_table import promoters_of, read_chosen
from epinformer_jax.analysis.ensembles import Ensemble, Model
from epinformer_jax.analysis.inputs import GeneInputs
from epinformer_jax.analysis.perturb import add_label_argument
from epinformer_jax.data import delimited, label_scale, tables

SIGNAL_BINS = 1200
MARGIN = 0.04  # of the range that is shown, on either side
MIN_RANGE_BP = 10_000
PERCENT = "Predicted\nchange (%)"
DESCRIPTION = """\
Draw a gene with its elements, contacts, signals, attention and effects on one axis.

The predicted change is that of removing an element, as a percentage of (measured + offset) where
the model says how its label was made (or --label-transform does), else in the label's units.
--effects has chrom, start, end, effect and optionally significant (true or false) and gene_id, in
the coordinates of the links; effect is a fraction: -0.3 is 30 % less. Measured and predicted
effects are not the same quantity: a removal is not CRISPRi."""


class Locus(NamedTuple):
    """What the figure shows.

    Attributes:
      gene_id, gene_name, chrom, tss, strand: the gene.
      start, end: the range that is shown.
      elements: rows of `links.score_links` in it, with `predicted`.
      predicted_unit: what `predicted` is, as an axis label.
      others: promoters of other genes in it: gene_name, tss, strand.
      signals: name -> means in equal parts of the range.
      effects: start, end, effect, significant; None where nothing was measured.
      held_out: how the gene was predicted, in words.
    """

    gene_id: str
    gene_name: str
    chrom: str
    tss: int
    strand: str
    start: int
    end: int
    elements: pd.DataFrame
    predicted_unit: str
    others: pd.DataFrame
    signals: dict[str, Float[np.ndarray, "_"]]
    effects: pd.DataFrame | None
    held_out: str


def gather(
    models: Sequence[Model],
    genes: GeneInputs,
    *,
    promoters: pd.DataFrame | None = None,
    signals: Mapping[str, str | os.PathLike] | None = None,
    effects: pd.DataFrame | None = None,
    flank_kb: float | None = None,
    label_transform: Mapping[str, object] | None = None,
    ensemble: Ensemble = "auto",
    force: bool = False,
    average_strands: bool = False,
) -> Locus:
    """What there is to draw about one gene; `genes` holds it alone.

    Args:
      promoters: of all genes (`element_table.PROMOTER_COLUMNS`), for names and classes.
      signals: bigWig files by name.
      effects: as `read_effects` returns them; those outside the range are left out.
      flank_kb: how far from the TSS to look; as far as its elements without it.

    Raises:
      ValueError: not exactly one gene, a wrong bigWig, or as `links.score_links`.
    """
    if len(genes.examples) != 1:
        raise ValueError(f"{len(genes.examples)} genes are given; name one of them")
    gene = genes.examples[0]
    promoters = promoters_of(genes) if promoters is None else promoters
    how = {"ensemble": ensemble, "force": force, "average_strands": average_strands}
    table = links.score_links(models, genes, promoters=promoters, **how)
    transform = dict(label_transform or models[0].info.label_transform)
    per_unit = label_scale.log2_per_unit(transform)
    if np.isfinite(per_unit):
        predicted, unit = 100 * (2 ** (table["removal_delta"] * per_unit) - 1), PERCENT
    else:
        predicted, unit = table["removal_delta"], f"Predicted\nchange\n({models[0].info.label})"
    start, end = _range(table, gene.tss, flank_kb)
    shown = table.assign(predicted=predicted)
    shown = shown[(shown["end"] > start) & (shown["start"] < end)]
    near = promoters[
        (promoters["chrom"] == gene.chrom)
        & promoters["tss"].between(start, end)
        & (promoters["gene_id"] != gene.gene_id)
    ]
    if effects is not None:
        effects = _effects_of(effects, gene, start, end)
    read = {
        name: tracks.read_bigwig(path, gene.chrom, start, end, bins=SIGNAL_BINS)
        for name, path in (signals or {}).items()
    }
    fold, seen = table["fold"].iloc[0], table["in_training"].iloc[0]
    told = {"no": "held out", "yes": "seen in training", "validation": "used for validation"}
    return Locus(
        gene_id=gene.gene_id,
        gene_name=gene.gene_name or gene.gene_id,
        chrom=gene.chrom,
        tss=gene.tss,
        strand=gene.strand,
        start=start,
        end=end,
        elements=shown,
        predicted_unit=unit,
        others=near[["gene_name", "tss", "strand"]],
        signals=read,
        effects=effects,
        held_out=f"{fold}, {told.get(seen, 'not known whether held out')}",
    )


def read_effects(path: str | os.PathLike) -> pd.DataFrame:
    """chrom, start, end, effect, significant (True without the column), gene_id ("" without).

    Raises:
      ValueError: a column is missing or holds something else; names file and line.
    """
    raw = delimited.read_text(path)
    delimited.require(raw, ["chrom", "start", "end", "effect"])
    frame = pd.DataFrame(
        {
            "chrom": delimited.as_name(raw, "chrom"),
            "start": delimited.as_position(raw, "start"),
            "end": delimited.as_position(raw, "end"),
            "effect": delimited.as_number(raw, "effect"),
            "significant": True,
            "gene_id": "",
        }
    )
    below = np.flatnonzero(frame["effect"] < -1)
    if below.size:
        raise ValueError(
            f"{tables.where(raw, below[0])}: effect {frame['effect'].iloc[below[0]]:g} takes away "
            "more than all; effects are fractions (-0.3 for 30 % less)"
        )
    wrong = np.flatnonzero(frame["end"] <= frame["start"])
    if wrong.size:
        raise ValueError(f"{tables.where(raw, wrong[0])}: end is not after start; 0-based")
    if "significant" in raw:
        frame["significant"] = delimited.as_flag(raw, "significant")
    if "gene_id" in raw:
        frame["gene_id"] = delimited.as_text(raw, "gene_id")
    return frame


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `epinformer locus`."""
    predict.add_input_arguments(parser)
    parser.add_argument(
        "--gene", nargs=1, required=True, metavar="GENE_ID", help="id or name of the gene"
    )
    parser.add_argument("--out", type=Path, required=True, help="figure, .png or .svg")
    parser.add_argument(
        "--signal",
        type=_named_file,
        nargs="+",
        default=[],
        metavar="NAME=FILE.bw",
        help="signal tracks, each in a row of its own",
    )
    parser.add_argument(
        "--effects",
        type=Path,
        help="chrom, start, end, effect (a fraction: -0.3 is 30 %% less), significant",
    )
    parser.add_argument(
        "--flank-kb", type=float, help="how far from the TSS to show (default: all elements)"
    )
    parser.add_argument(
        "--average-strands",
        action="store_true",
        help="mean of all sequences and their other strand",
    )
    add_label_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Draws the figure; returns the exit code."""
    from epinformer_jax.analysis import plots_locus

    if args.out.suffix not in (".png", ".svg"):
        raise ValueError(f"--out {args.out}: expected a name that ends in .png or .svg")
    if args.flank_kb is not None and not args.flank_kb > 0:
        raise ValueError(f"--flank-kb {args.flank_kb}: expected a number above 0")
    models = ensembles.load_models(args.model, kind="expression")
    ensembles.mention_strands(models, args.average_strands)
    genes, promoters = read_chosen(args, models)
    shown = gather(
        models,
        genes,
        promoters=promoters,
        signals=dict(args.signal),
        effects=None if args.effects is None else read_effects(args.effects),
        flank_kb=args.flank_kb,
        label_transform=args.label_transform,
        ensemble=args.ensemble,
        force=args.force,
        average_strands=args.average_strands,
    )
    if shown.effects is not None and not len(shown.effects):
        logging.warning("%s has no effect in the range that is shown", args.effects)
    plots_locus.write_figure(plots_locus.locus_figure(shown._asdict()), args.out)
    print(args.out)
    return 0


def _range(table: pd.DataFrame, tss: int, flank_kb: float | None) -> tuple[int, int]:
    if flank_kb is not None:
        return int(tss - 1000 * flank_kb), int(tss + 1000 * flank_kb)
    first, last = min(table["start"].min(), tss), max(table["end"].max(), tss)
    lacking = max(MIN_RANGE_BP - (last - first), 0) // 2
    margin = lacking + int(MARGIN * (last - first))
    return int(first - margin), int(last + margin)


def _effects_of(effects: pd.DataFrame, gene, start: int, end: int) -> pd.DataFrame:
    inside = (effects["chrom"] == gene.chrom) & (effects["end"] > start) & (effects["start"] < end)
    return effects[inside & effects["gene_id"].isin(["", gene.gene_id, gene.gene_name])]


def _named_file(text: str) -> tuple[str, str]:
    name, _, path = text.partition("=")
    if not name or not path:
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=FILE.bw")
    return name, path
