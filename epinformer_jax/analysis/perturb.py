"""What single elements do to a gene's predicted expression: `epinformer perturb`.

Each element in turn is removed, gets another activity or contact, or another sequence. What a
removal leaves: the gene's other elements, its promoter's sequence, and all gene features, promoter
activity included, even where the element overlaps the promoter (class self_promoter).
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from absl import logging

from epinformer_jax.analysis import activity, changes, ensembles, kmer_tables, predict, scales
from epinformer_jax.analysis.changes import SCALED, Change, Codes, Effects
from epinformer_jax.analysis.element_table import (
    add_gene_argument,
    element_columns,
    element_counts,
    read_chosen,
)
from epinformer_jax.analysis.ensembles import Ensemble, Model
from epinformer_jax.analysis.inputs import GeneInputs
from epinformer_jax.analysis.kmer_tables import KmerTable
from epinformer_jax.data import features, label_scale, tables
from epinformer_jax.data.features import FeatureSchema
from epinformer_jax.model.kmers import Table, Taps

DESCRIPTION = """\
Predict what each element of a gene does to its expression, by changing one element at a time:
  remove         the element is gone: nothing attends to it or to its signals
  activity       its activity (DNase and H3K27ac with it) times a dose (--scale-activity)
  contact        its contact times a dose (--scale-contact)
  swap_sequence  another sequence in its place; distance, activity and contact stay (--swap);
                 a shorter one leaves padding where the element had bases
  swap_element   sequence and activity of another element of the gene (--swap-elements)

A removal is not CRISPRi. CRISPRi silences an element whose DNA stays; here its slot is empty, and
attention shares out among the others what it had. Closest to CRISPRi is --scale-activity 0: the
sequence stays and its activity is 0. Neither changes the promoter or its activity.

Each gene is predicted by the fold that tests its chromosome. prediction_ref, prediction_alt and
delta (alt - ref) are in the label's units. log2fc is log2 of the ratio of (measured + offset); it
is empty where the model does not say how its label was made (see --label-transform)."""


def perturb_elements(
    models: Sequence[Model],
    genes: GeneInputs,
    *,
    remove: bool = True,
    activity_doses: Sequence[float] = (),
    contact_doses: Sequence[float] = (),
    swaps: Mapping[str, Codes] | None = None,
    swap_elements: bool = False,
    label_transform: Mapping[str, Any] | None = None,
    promoters: pd.DataFrame | None = None,
    ensemble: Ensemble = "auto",
    force: bool = False,
    average_strands: bool = False,
    batch_size: int = predict.BATCH_SIZE,
    kmer_table: KmerTable = "auto",
    tables: Mapping[str, Table | Taps] | None = None,
    show_progress: bool = False,
) -> pd.DataFrame:
    """One row a gene, element and change.

    Columns: gene_id, gene_name, chrom, start, end, class, distance, activity, contact, change,
    dose, swapped_in, prediction_ref, prediction_alt, delta, log2fc, (delta_sd where several models
    speak), fold, in_training. Genes without elements have no row; `attrs["without_elements"]`
    names them.

    Args:
      activity_doses, contact_doses: factors, 0 or more.
      swaps: sequences to put in each element's place, by name; no longer than the model's window.
      swap_elements: put each other element of the gene in an element's place, once its sequence
        alone and once with its activity.
      label_transform: how the label was made, instead of what the model says.
      promoters: chrom and tss of all genes, for the class; of the genes given without that.
      kmer_table: auto, on, small or off; see `analysis.predict.predict_expression`.
      tables: k-mer tables (kmer_tables.choose) that are there already, by model name.

    Raises:
      ValueError: nothing to change, no gene with an element, a dose that is negative or changes
        nothing the model takes, a sequence too long, or as `predict.predict_expression`.
    """
    info, swaps = models[0].info, dict(swaps or {})
    counts = element_counts(models, genes)
    schema = features.from_dict(info.schema)
    wanted = [changes.REMOVE] if remove else []
    wanted += _doses(schema, "activity", activity_doses) + _doses(schema, "contact", contact_doses)
    wanted += _swaps(swaps, info.model.window_bp)
    if swap_elements:
        kinds = ("swap_sequence", "swap_element")
        wanted += [Change(kind, turn=turn) for turn in range(1, max(counts)) for kind in kinds]
    if not wanted:
        raise ValueError("there is nothing to change; remove elements, or give doses or sequences")
    ids = [example.gene_id for example in genes.examples]
    speaking = ensembles.speakers(models, genes.splits, ids, ensemble)
    scales.check(models, genes, force=force)
    effects = changes.run_changes(
        changes.Run(genes, schema, wanted, swaps, batch_size, kmer_table, tables or {}),
        models,
        counts,
        speaking,
        average_strands=average_strands,
        show_progress=show_progress,
    )
    columns = element_columns(models, genes, counts, speaking, promoters)
    per_unit = label_scale.log2_per_unit(dict(label_transform or info.label_transform))
    table = _table(columns, counts, wanted, effects, per_unit)
    if (speaking.sum(axis=0) <= 1).all():
        del table["delta_sd"]
    table.attrs["without_elements"] = [i for i, n in zip(ids, counts, strict=True) if not n]
    return table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `epinformer perturb`."""
    predict.add_input_arguments(parser)
    add_gene_argument(parser)
    parser.add_argument("--out", type=Path, required=True, help="effects, .tsv or .tsv.gz")
    parser.add_argument(
        "--no-removal", action="store_true", help="do not remove elements, only what else is asked"
    )
    for kind in ("activity", "contact"):
        parser.add_argument(
            f"--scale-{kind}",
            type=doses,
            default=(),
            metavar="DOSES",
            help=f"factors for the {kind} of each element, such as 0,0.5,2",
        )
    parser.add_argument(
        "--swap", type=Path, metavar="FASTA", help="sequences to put in each element's place"
    )
    parser.add_argument(
        "--swap-elements",
        action="store_true",
        help="put each other element of the gene in its place",
    )
    parser.add_argument(
        "--average-strands",
        action="store_true",
        help="mean of all sequences and their other strand",
    )
    add_label_argument(parser)


def add_label_argument(parser: argparse.ArgumentParser) -> None:
    """The option that says how the label was made, for fold changes."""
    kmer_tables.add_argument(parser)
    parser.add_argument(
        "--label-transform",
        type=_transform,
        metavar="NAME,...",
        help="how the label was made, where the model does not say; needed for log2fc, such as "
        f"{label_scale.EXAMPLE}",
    )


def doses(text: str) -> tuple[float, ...]:
    """Factors separated by commas, as an argparse type."""
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = (math.nan,)
    if not all(0 <= dose < math.inf for dose in found):
        raise argparse.ArgumentTypeError(f"{text!r}: expected factors of 0 or more, as 0,0.5,2")
    return found


def run(args: argparse.Namespace) -> int:
    """Perturbs, writes the table, says what was left out; returns the exit code."""
    models = ensembles.load_models(args.model, kind="expression")
    ensembles.mention_strands(models, args.average_strands)
    swaps = {}
    if args.swap is not None:
        swaps = dict(zip(*activity.read_fasta(args.swap, args.cache_dir), strict=True))
    genes, promoters = read_chosen(args, models)
    table = perturb_elements(
        models,
        genes,
        remove=not args.no_removal,
        activity_doses=args.scale_activity,
        contact_doses=args.scale_contact,
        swaps=swaps,
        swap_elements=args.swap_elements,
        label_transform=args.label_transform,
        promoters=promoters,
        ensemble=args.ensemble,
        force=args.force,
        average_strands=args.average_strands,
        batch_size=args.batch_size,
        kmer_table=args.kmer_table,
        show_progress=True,
    )
    tables.write_table(table, args.out, float_format="%.7g")
    predict.report_dropped(genes, args.out)
    report_genes(table)
    if table["log2fc"].isna().all():
        logging.warning(
            "%s does not say how its label was made, so log2fc is empty; give --label-transform",
            models[0].name,
        )
    print(args.out)
    return 0


def report_genes(table: pd.DataFrame) -> None:
    """Says how many genes and elements a table holds, and which genes have no row."""
    without = table.attrs["without_elements"]
    pairs = table.groupby("gene_id", sort=False)[["start", "end"]].nunique()
    listed = ", ".join(without[:5]) + (", ..." if len(without) > 5 else "")
    told = f"; {len(without)} without elements have no row: {listed}" if without else ""
    print(f"{len(pairs)} genes with elements, {len(table)} rows{told}")


def _doses(schema: FeatureSchema, kind: str, factors: Sequence[float]) -> list[Change]:
    taken = {feature.source for feature in schema.link_features if feature.transform != "zero"}
    if len(factors) and not taken & set(SCALED[kind]):
        raise ValueError(
            f"the model takes no {kind} of elements (it takes {', '.join(sorted(taken)) or 'none'}"
            f"), so scaling it changes nothing; leave the {kind} doses out"
        )
    for dose in factors:
        if not 0 <= dose < math.inf:
            raise ValueError(f"{kind} dose {dose}: expected a factor of 0 or more")
    return [Change(kind, dose=float(dose)) for dose in factors]


def _swaps(swaps: Mapping[str, Codes], window_bp: int) -> list[Change]:
    for name, codes in swaps.items():
        if not name or not 0 < len(codes) <= window_bp:
            raise ValueError(
                f"sequence {name!r} has {len(codes)} bases, expected a name and 1 to {window_bp} "
                "bases; cut it first"
            )
    return [Change("swap_sequence", name=name) for name in swaps]


def _table(
    columns: dict[str, np.ndarray],
    counts: np.ndarray,
    wanted: Sequence[Change],
    effects: Effects,
    log2_per_unit: float,
) -> pd.DataFrame:
    """All changes of an element one after another, without those that are not defined."""
    count, rows = len(wanted), len(columns["start"])
    place = np.arange(rows)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    own = np.repeat(counts, counts)
    swapped_in = np.full((count, rows), "", object)
    places = _places(columns) if any(change.turn for change in wanted) else None
    for row, change in enumerate(wanted):
        swapped_in[row] = change.name
        if change.turn:
            other = first + (place - first + change.turn) % own
            swapped_in[row] = places[other]
    before = np.repeat(effects.before, counts)
    delta = (effects.after - before[None]).T.ravel()
    is_defined = (np.array([change.turn for change in wanted])[None] < own[:, None]).ravel()
    of_element = {name: np.repeat(x, count) for name, x in columns.items() if name != "tss"}
    last = {name: of_element.pop(name) for name in ("fold", "in_training")}
    new = {
        "change": np.tile(np.array([change.kind for change in wanted], object), rows),
        "dose": np.tile([change.dose for change in wanted], rows),
        "swapped_in": swapped_in.T.ravel(),
        "prediction_ref": np.repeat(before, count),
        "prediction_alt": effects.after.T.ravel(),
        "delta": delta,
        "log2fc": delta * log2_per_unit,
        "delta_sd": effects.sd.T.ravel(),
    }
    found = of_element | new | last
    return pd.DataFrame({name: values[is_defined] for name, values in found.items()})


def _places(columns: dict[str, np.ndarray]) -> np.ndarray:
    """Elements as a genome browser names them."""
    spans = zip(columns["chrom"], columns["start"], columns["end"], strict=True)
    return np.array([f"{chrom}:{start + 1}-{end}" for chrom, start, end in spans], object)


def _transform(text: str) -> dict[str, Any]:
    try:
        return label_scale.read_transform(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
