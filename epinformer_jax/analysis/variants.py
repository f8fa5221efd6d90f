"""Effects of variants from a VCF on elements and genes: `epinformer variants`."""

import argparse
import hashlib
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pandas as pd
from jaxtyping import Float
from tqdm import tqdm

from epinformer_jax.analysis import ensembles, predict, scales, variant_effects, vcf
from epinformer_jax.analysis.ensembles import Ensemble, Model
from epinformer_jax.analysis.inputs import GeneInputs
from epinformer_jax.analysis.vcf import Variant
from epinformer_jax.data import atomic, tables
from epinformer_jax.data.chromosomes import chromosome_key
from epinformer_jax.data.genome import Genome

INFO_FIELD = "EPINFORMER"
NOT_IN_ANY = "in no promoter and no element of a gene"
SCORES = ("delta_activity", "delta_expression_sequence", "delta_expression_sequence_activity")
_BASES = {"log2": 2.0, "log10": 10.0, "ln": float(np.e)}
DESCRIPTION = """\
Predict what variants do to the activity of the elements and promoters they lie in, and to the
expression of the genes these are linked to.

  activity_ref, expression_ref        predictions for the reference, what changes are added to
  delta_activity                      the variant in the middle of a window, each allele in the
                                      middle of its own (--activity-model)
  delta_expression_sequence           sequences change, measured signals stay
  delta_expression_sequence_activity  activity of the element or promoter also changes, by as much
                                      as the activity model says (--activity-model)

Changes are alternative less reference, in the labels' units. The first mode mutes effects, because
the measured activity stays. One row a variant, gene and promoter or element; where a variant lies
in several of a gene, its expression change is that of all together. Tables are lifted to the
contig with the variant: a promoter keeps its length, an element grows or shrinks with an indel;
distances and measured signals stay those of the tables (a prediction on an edited genome, its links
lifted and without the distance column, is the same to about 1e-4).

Genes are predicted by the fold that tests their chromosome. What is left out is listed
beside OUT, in NAME.dropped.tsv: with its line, and what the FASTA has where it contradicts the
reference. A background (--make-background) holds the scores of its variants; percentiles
against it (--background) are of absolute changes, and need the very models and options it was made
with."""


class Scores(NamedTuple):
    """Rows of effects, and the variants left out with the reason."""

    table: pd.DataFrame
    dropped: pd.DataFrame


def score_variants(
    models: Sequence[Model],
    genes: GeneInputs,
    variants: Sequence[Variant],
    genome: Genome,
    *,
    activity_models: Sequence[Model] = (),
    average_strands: bool = False,
    ensemble: Ensemble = "auto",
    force: bool = False,
    batch_size: int = 256,
    show_progress: bool = False,
) -> Scores:
    """Scores variants; see DESCRIPTION for the columns and `variant_effects` for the rule.

    `average_strands` takes the mean with the same procedure on the reverse complement of the
    contigs.

    Raises:
      ValueError: no gene, signals on another scale than in training (unless `force`), held-out
        predictions are impossible, or an activity model's label is no logarithm.
    """
    if not genes.examples:
        raise ValueError("there is no gene to look at")
    ids = [example.gene_id for example in genes.examples]
    speaking = ensembles.speakers(models, genes.splits, ids, ensemble)
    scales.check(models, genes, force=force)
    hits = variant_effects.hits_of(variants, genes, genome, models[0])
    used = sorted({hit.variant for hit in hits})
    outside = sorted(set(range(len(variants))) - set(used))
    dropped = pd.DataFrame(
        [(*variants[i][1:6], NOT_IN_ANY, variants[i].line, "") for i in outside],
        columns=vcf.DROPPED_COLUMNS,
    )
    split_of = {example.chrom: example.split for example in genes.examples}
    columns, factors = _activity_columns(
        activity_models, variants, used, split_of, genome, average_strands, ensemble, batch_size
    )
    total = sum(int(speaking[:, gene].sum()) for _, gene in {hit[:2] for hit in hits})
    with tqdm(total=total, unit="gene", disable=None if show_progress else True) as bar:
        pairs, effects = variant_effects.expression_changes(
            models,
            speaking,
            genes,
            variants,
            hits,
            genome,
            factors,
            average_strands=average_strands,
            bar=bar,
        )
    pair = variant_effects.pair_index(pairs, hits)
    table = _places(genes, variants, hits)
    for name, values in columns.items():
        table[name] = values[[hit.variant for hit in hits]]
    table["expression_ref"] = _mean(effects.before)[pair]
    is_several = (speaking.sum(axis=0) > 1).any()
    for mode, deltas in zip(variant_effects.MODES, effects.deltas, strict=True):
        if mode == "sequence" or activity_models:
            table[f"delta_expression_{mode}"] = _mean(deltas)[pair]
            if is_several:
                table[f"delta_expression_{mode}_sd"] = _sd(deltas)[pair]
    folds, seen = ensembles.fold_and_training(models, genes.splits, speaking)
    table["fold"] = [folds[hit.gene] for hit in hits]
    table["in_training"] = [seen[hit.gene] for hit in hits]
    return Scores(table.iloc[_order(table)].reset_index(drop=True), dropped)


def fingerprint(
    models: Sequence[Model],
    activity_models: Sequence[Model],
    *,
    average_strands: bool,
    ensemble: Ensemble,
) -> str:
    """sha256 of everything a score depends on but the data: weights, networks, options."""
    digest = hashlib.sha256(json.dumps([average_strands, ensemble]).encode())
    for model in (*models, *activity_models):
        digest.update(json.dumps(model.info.to_dict(), sort_keys=True).encode())
        for path, leaf in jax.tree_util.tree_leaves_with_path(tuple(model.variables)):
            array = np.asarray(leaf)
            digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def save_background(path: Path, table: pd.DataFrame, models_fingerprint: str) -> None:
    """Writes the absolute scores of a set of variants, with the fingerprint of what made them.

    Raises:
      ValueError: there is no score.
    """
    if table.empty:
        raise ValueError("no variant was scored, so there is no background to write")
    arrays = {name: np.sort(table[name].abs().to_numpy()) for name in SCORES if name in table}
    with atomic.atomic_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, fingerprint=np.array(models_fingerprint), **arrays)


def with_percentiles(table: pd.DataFrame, path: Path, models_fingerprint: str) -> pd.DataFrame:
    """The table with a column NAME_percentile a score: the share of the background's absolute
    scores that is not larger, in percent.

    Raises:
      ValueError: no background, or one of other models or options.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile):
        raise ValueError(
            f"{path}: cannot be read as a background; make it with --make-background"
        ) from None
    if str(arrays.get("fingerprint", "")) != models_fingerprint:
        raise ValueError(
            f"{path}: made with other models or options, so its percentiles would mean nothing; "
            "make one with --make-background and the same --model, --activity-model, --ensemble "
            "and --average-strands"
        )
    table = table.copy()
    for name in SCORES:
        if name in table:
            rank = np.searchsorted(arrays[name], table[name].abs().to_numpy(), side="right")
            table[f"{name}_percentile"] = 100.0 * rank / len(arrays[name])
    return table


def info_entries(table: pd.DataFrame) -> dict[tuple[str, int, str, str], list[str]]:
    """INFO entries of each variant, as `vcf.annotate` takes them."""
    names = [name for name in SCORES if name in table]
    found: dict[tuple[str, int, str, str], list[str]] = {}
    for row in table.to_dict("records"):
        where = row["role"]
        if where == "element":
            where = f"element:{row['start'] + 1}-{row['end']}"
        parts = [row["alt"], row["gene_id"], where, *(f"{row[name]:.5g}" for name in names)]
        entry = "|".join(_plain(part) for part in parts)
        found.setdefault((row["chrom"], row["pos"], row["ref"], row["alt"]), []).append(entry)
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `epinformer variants`."""
    predict.add_input_arguments(parser)
    parser.add_argument("--vcf", type=Path, required=True, help="variants, plain, gzip or bgzip")
    parser.add_argument(
        "--activity-model",
        type=Path,
        nargs="+",
        default=[],
        help="activity models, or a run directory with pre-trained encoders",
    )
    parser.add_argument(
        "--average-strands",
        action="store_true",
        help="mean with the reverse complement of the contigs",
    )
    parser.add_argument(
        "--max-allele-bp",
        type=int,
        default=vcf.MAX_ALLELE_BP,
        help="longer alleles are left out (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, required=True, help="scores, .tsv or .tsv.gz")
    parser.add_argument(
        "--out-vcf", type=Path, help="the VCF with scores in INFO; .gz: bgzip with a tabix index"
    )
    parser.add_argument("--make-background", type=Path, help="write the scores as a background")
    parser.add_argument("--background", type=Path, help="add percentiles against this background")


def run(args: argparse.Namespace) -> int:
    """Scores, writes the tables, says what was left out; returns the exit code."""
    if args.fasta is None or args.genes is None or args.dataset is not None:
        raise ValueError("variants need --fasta, --genes and --links: sequences are cut anew")
    models = ensembles.load_models(args.model, kind="expression")
    activity_models = []
    if args.activity_model:
        activity_models = ensembles.load_models(args.activity_model, kind="activity")
    genes = predict.read_inputs(args, models)
    options = {"average_strands": args.average_strands, "ensemble": args.ensemble}
    with Genome(args.fasta, args.cache_dir) as genome:
        variants, refused = vcf.read(args.vcf, genome, max_allele_bp=args.max_allele_bp)
        table, outside = score_variants(
            models,
            genes,
            variants,
            genome,
            activity_models=activity_models,
            force=args.force,
            show_progress=True,
            **options,
        )
    mark = fingerprint(models, activity_models, **options)
    if args.background is not None:
        table = with_percentiles(table, args.background, mark)
    if args.make_background is not None:
        save_background(args.make_background, table, mark)
    tables.write_table(table, args.out, float_format="%.7g")
    if args.out_vcf is not None:
        names = "|".join(["allele", "gene", "place", *(name for name in SCORES if name in table)])
        told = f"Predicted effects by epinformer, one entry a gene and place: {names}"
        entries = info_entries(table)
        vcf.annotate(args.vcf, args.out_vcf, entries, field=INFO_FIELD, description=told)
    dropped = pd.concat([refused, outside], ignore_index=True)
    _report_dropped(dropped, args.out, len(table[["chrom", "pos", "ref", "alt"]].drop_duplicates()))
    predict.report_dropped(genes, args.out.with_name(_stem(args.out) + ".links.tsv"))
    print(args.out)
    return 0


def _activity_columns(
    models, variants, used, split_of, genome, average_strands, ensemble, batch_size
) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """Columns by variant (NaN where it is not used), and the factor of activity."""
    if not models:
        return {}, None
    transform = models[0].info.label_transform.get("name", "")
    if transform not in _BASES:
        raise ValueError(
            f"activity model {models[0].name} predicts {models[0].info.label!r} with the label "
            f"transform {transform!r}; its changes scale activity only where it is log2, log10 or "
            "ln"
        )
    values = np.full((3, len(variants)), np.nan)
    sd = np.full(len(variants), np.nan)
    chosen = [variants[i] for i in used]
    splits = [split_of[variant.chrom] for variant in chosen]
    names = [f"{variant.chrom}:{variant.pos}" for variant in chosen]
    speaking = ensembles.speakers(models, splits, names, ensemble)
    found = variant_effects.activity_changes(
        models,
        speaking,
        chosen,
        genome,
        average_strands=average_strands,
        batch_size=batch_size,
    )
    deltas = found[..., 1] - found[..., 0]
    values[:, used] = _mean(found[..., 0]), _mean(found[..., 1]), _mean(deltas)
    sd[used] = _sd(deltas)
    columns = {"activity_ref": values[0], "activity_alt": values[1], "delta_activity": values[2]}
    if (speaking.sum(axis=0) > 1).any():
        columns["delta_activity_sd"] = sd
    return columns, _BASES[transform] ** values[2]


def _places(genes: GeneInputs, variants: Sequence[Variant], hits) -> pd.DataFrame:
    """Who, where: the first columns of a row."""
    rows = []
    for number, gene, slot in hits:
        example, variant = genes.examples[gene], variants[number]
        place = ("promoter", -1, -1, 0)
        if slot:
            bounds = example.element_start[slot - 1], example.element_end[slot - 1]
            place = ("element", *map(int, bounds), int(example.distance_bp[slot - 1]))
        else:
            half = len(example.promoter) // 2
            place = ("promoter", example.tss - half, example.tss + half, 0)
        rows.append((*variant[1:6], example.gene_id, example.gene_name, *place))
    names = ["chrom", "pos", "id", "ref", "alt", "gene_id", "gene_name", "role", "start", "end"]
    return pd.DataFrame(rows, columns=[*names, "distance"])


def _order(table: pd.DataFrame) -> list[int]:
    """Rows by chromosome (natural order), position, alleles, gene and place."""
    names = ["pos", "ref", "alt", "gene_id", "role", "start"]
    keys = list(zip(map(chromosome_key, table["chrom"]), *(table[n] for n in names), strict=True))
    return sorted(range(len(table)), key=keys.__getitem__)


def _mean(values: Float[np.ndarray, "M N"]) -> Float[np.ndarray, "N"]:
    """Over the models that speak; NaN where none does."""
    speaks = np.isfinite(values)
    total = np.where(speaks, values, 0).sum(axis=0)
    return np.where(speaks.any(axis=0), total / np.maximum(speaks.sum(axis=0), 1), np.nan)


def _sd(values: Float[np.ndarray, "M N"]) -> Float[np.ndarray, "N"]:
    centre = _mean(values)
    return np.sqrt(_mean(np.square(values - centre[None])))


def _plain(value) -> str:
    """Text that may stand in INFO."""
    return str(value).translate(str.maketrans(" ,;=|", "_____"))


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").rpartition(".")[0] or path.name


def _report_dropped(dropped: pd.DataFrame, out: Path, scored: int) -> None:
    """Counts on screen what was left out, and lists it beside the scores."""
    path = out.with_name(f"{_stem(out)}.dropped.tsv")
    tables.write_table(dropped, path)
    counts = dropped["reason"].value_counts()
    told = ", ".join(f"{reason} {count}" for reason, count in counts.items()) or "none"
    print(f"variant alleles scored: {scored}; left out: {told}; listed in {path}")
