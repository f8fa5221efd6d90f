"""Published PyTorch files to models of ours: `epinformer convert`.

What a file holds is recognised by the names and shapes of its tensors (torch_names.py), read
without PyTorch (torch_zip.py). What the file cannot say, such as the chromosomes it was trained on,
comes from the table of published files, found by sha256, or from the caller.
"""

import argparse
import csv
import dataclasses
import functools
import hashlib
import re
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging

from epinformer_jax import torch_names, torch_zip
from epinformer_jax.data import features, folds
from epinformer_jax.data.elements import ElementRule
from epinformer_jax.model.functional import Variables
from epinformer_jax.train import checkpoint
from epinformer_jax.train.checkpoint import ModelInfo

SCHEMAS = ("published", "pipeline2026")
LABELS = ("rna", "cage", "log2_activity", "log10_activity")
GENOME = "hg38"
DESCRIPTION = """\
Convert a PyTorch checkpoint of the original project to a model directory.

What the network is, is read off its tensors. Published files are known by their sha256; for any
other, say the fold it was trained on, or none of its predictions counts as held out."""
# mean and standard deviation of log10(RPKM + 0.1) over the 18,377 genes (spec 2.6)
RNA_SCALE = {"K562": (0.2433325, 1.0622200), "GM12878": (0.2574199, 1.0412163)}
CELLS = tuple(RNA_SCALE)
# Quantiles 0.05, 0.25, 0.5, 0.75, 0.95 over the links and genes of the published element rule, in
# RPM. All 12 folds state the same. Contact is left out: it hardly moves published predictions.
FEATURE_QUANTILES = {
    "K562": {
        "activity": [0.4840, 0.7965, 1.3327, 3.1664, 15.6653],
        "promoter_activity": [0.3031, 0.7290, 4.5809, 11.3412, 18.9834],
    }
}
ELEMENT_RULES = {
    "published": ElementRule(),
    "pipeline2026": ElementRule(min_distance_bp=0, self_promoter="first"),
}


class Known(NamedTuple):
    """What is known of a published file. `preset` is "-" for an encoder."""

    kind: str
    cell: str
    assay: str
    preset: str
    fold: str


class Origin(NamedTuple):
    """Where a model comes from: cell type, label (one of LABELS) and fold; "" when unknown."""

    cell: str
    label: str
    fold: str


_LABEL_OF_ASSAY = {"RNA": "rna", "CAGE": "cage", "log2 activity": "log2_activity"}


def convert(
    weights: str | Path,
    out: str | Path,
    *,
    preset: str = "published",
    fold: str | None = None,
    cell: str | None = None,
    label: str | None = None,
    mixer_dilations: tuple[int, ...] | None = None,
) -> Path:
    """Writes the model directory `out` from one PyTorch file; `checkpoint.load_model` reads it.

    Args:
      weights: a .pt file of the original project.
      out: directory to make; must not exist.
      preset: feature scales the file was trained on: `published` for all weights of the paper.
      fold: published fold whose chromosomes the file was trained on, where it is not a known file;
        without it the model cannot tell held-out genes.
      cell: cell type, where neither the table of known files nor the run name says it.
      label: one of LABELS, in the same case.
      mixer_dilations: of the convolutions between encoder and head that one encoder variant has;
        its files do not say, 1 is assumed.

    Raises:
      ValueError: `weights` is no checkpoint or is damaged, holds other tensors than one of these
        networks, or contradicts an argument; `out` exists.
    """
    variables, info = read(
        weights,
        preset=preset,
        fold=fold,
        cell=cell,
        label=label,
        mixer_dilations=mixer_dilations,
    )
    return checkpoint.save_model(out, variables, info)


def read(
    weights: str | Path,
    *,
    preset: str = "published",
    fold: str | None = None,
    cell: str | None = None,
    label: str | None = None,
    mixer_dilations: tuple[int, ...] | None = None,
) -> tuple[Variables, ModelInfo]:
    """What `convert` would save, without saving it; arguments and errors are the same."""
    weights = Path(weights)
    if preset not in SCHEMAS:
        raise ValueError(f"preset {preset!r} is unknown; known are {', '.join(SCHEMAS)}")
    file = torch_zip.read_torch_file(weights)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    try:
        config = torch_names.recognise(
            file.tensors, run_name=file.run_name, mixer_dilations=mixer_dilations
        )
        variables = torch_names.variables_of(file.tensors, config)
        stated = Origin(cell or "", label or "", fold or "")
        origin = _origin(config.kind, known_files().get(digest), _named(file.run_name), stated)
    except ValueError as error:
        raise ValueError(f"{weights}: {error}") from None
    if not origin.fold:
        logging.warning(
            "%s: is not a file known here, so the chromosomes it was trained on are unknown and no "
            "prediction of it counts as held out; pass --fold to state them (its run is named %s)",
            weights,
            file.run_name,
        )
    if config.kind == "activity" and config.mixer_channels and not mixer_dilations:
        logging.warning(
            "%s: the file does not say the dilations of the convolutions behind its encoder, 1 is "
            "assumed; compare with known predictions, and pass --mixer-dilations if they differ",
            weights,
        )
    info = _info(config, origin, preset)
    source = (
        f"{origin.cell or 'unknown cell'}; {file.run_name}; sha256 {digest}; epoch {file.epoch}, "
        f"loss {file.loss:.6g}"
    )
    return variables, dataclasses.replace(info, source=source)


@functools.cache
def known_files() -> dict[str, Known]:
    """Published files by sha256 (published_weights.tsv)."""
    text = (resources.files("epinformer_jax") / "published_weights.tsv").read_text("utf-8")
    rows = csv.DictReader(text.splitlines(), delimiter="\t")
    return {row.pop("sha256"): Known(**row) for row in rows}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `epinformer convert`."""
    parser.add_argument("--weights", type=Path, required=True, help="PyTorch checkpoint, .pt")
    parser.add_argument(
        "--preset", choices=SCHEMAS, default="published", help="feature scales of its training"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="model directory to make; not one that is there"
    )
    parser.add_argument(
        "--fold", help="published fold it was trained on (fold_1 ... fold_12), if not known"
    )
    parser.add_argument("--cell", help="cell type, if neither known nor in its run name")
    parser.add_argument("--label", choices=LABELS, help="what it predicts, likewise")
    parser.add_argument(
        "--mixer-dilations",
        type=int,
        nargs="+",
        metavar="BP",
        help="dilations of the convolutions behind the encoder, for the variant that has them "
        "(default: 1 each)",
    )


def run(args: argparse.Namespace) -> int:
    """Converts one file, says what it was, and returns the exit code."""
    out = convert(
        args.weights,
        args.out,
        preset=args.preset,
        fold=args.fold,
        cell=args.cell,
        label=args.label,
        mixer_dilations=tuple(args.mixer_dilations) if args.mixer_dilations else None,
    )
    _, info = checkpoint.load_model(out)
    tests = ", ".join(info.chromosomes["test"]) or "unknown chromosomes"
    print(f"{out}: {info.model.kind} model, {info.label}, {info.fold or 'no fold'}, tests {tests}")
    return 0


def _named(run_name: str) -> Origin:
    """What the original's long run name says."""
    cells = [cell for cell in CELLS if re.search(rf"[._]{cell}[._]", run_name)]
    labels = {
        r"\.RNA_checkpoint$": "rna",
        r"\.CAGE_checkpoint$": "cage",
        r"_seq2activityLog2": "log2_activity",
        r"_seq2activity_": "log10_activity",
    }
    label = next((label for part, label in labels.items() if re.search(part, run_name)), "")
    fold = re.match(r"fold_\d+(?=_)", run_name)
    return Origin(cells[0] if len(cells) == 1 else "", label, fold[0] if fold else "")


def _origin(kind: str, known: Known | None, named: Origin, stated: Origin) -> Origin:
    """The table of known files first; then what the caller states; cell and label from the name.

    A fold that only the run name gives is not believed: a copy of the fold's encoder, or a model of
    another table of folds, may carry it too.
    """
    if known is not None:
        truth = Origin(known.cell, _LABEL_OF_ASSAY[known.assay], known.fold)
        for field, given in stated._asdict().items():
            if given not in ("", getattr(truth, field)):
                raise ValueError(
                    f"{field} {given!r} was given, but the file is a published one with {field} "
                    f"{getattr(truth, field)!r}; leave --{field} out"
                )
        return truth
    if stated.fold:
        folds.get_fold(folds.published_folds(), stated.fold)
    if stated.fold and named.fold not in ("", stated.fold):
        logging.warning("fold %s was given, its run is named %s", stated.fold, named.fold)
    origin = Origin(stated.cell or named.cell, stated.label or named.label, stated.fold)
    possible = LABELS[:2] if kind == "expression" else LABELS[2:]
    if origin.label not in possible:
        raise ValueError(
            f"it is an {kind} model and its label is {origin.label or 'not known'}; pass --label "
            f"{' or '.join(possible)}"
        )
    return origin


def _info(config: Any, origin: Origin, preset: str) -> ModelInfo:
    """What a user of the model must know besides its weights."""
    parts = {"train": [], "valid": [], "test": []}
    if origin.fold:
        fold = folds.get_fold(folds.published_folds(), origin.fold)
        parts = {role: list(getattr(fold, role)) for role in parts}
    schema = None
    unknown_base = 0.0 if preset == "pipeline2026" else 0.25
    if config.kind == "expression":
        schema = _schema(config, preset).to_dict()
    return ModelInfo(
        model=config,
        schema=schema,
        label=origin.label,
        label_transform=_label_transform(origin),
        unknown_base=unknown_base,
        element_rule=ELEMENT_RULES[preset].to_dict() if schema else {},
        chromosomes=parts,
        fold=origin.fold,
        genome=GENOME,
        cell=origin.cell,
        promoter_bp=2000,
        feature_quantiles=FEATURE_QUANTILES.get(origin.cell, {}) if schema else {},
    )


def _schema(config: Any, preset: str) -> features.FeatureSchema:
    """The preset's features; a network without the ninth gene feature has no promoter signal."""
    schema = features.schema(preset, features.PRESETS[config.link_features])
    if config.gene_features == len(schema.gene_features):
        return schema
    silent = [dataclasses.replace(link, promoter_source="") for link in schema.link_features]
    return dataclasses.replace(
        schema,
        link_features=tuple(silent),
        gene_features=schema.gene_features[: config.gene_features],
    )


def _label_transform(origin: Origin) -> dict[str, Any]:
    """How the label was made of a measured value; {} where the constants are not known."""
    if origin.label == "cage":
        return {"name": "log10", "offset": 1.0}
    if origin.label == "rna":
        if origin.cell not in RNA_SCALE:
            return {}
        mean, sd = RNA_SCALE[origin.cell]
        return {"name": "z_log10", "offset": 0.1, "mean": mean, "sd": sd}
    return {"name": origin.label.removesuffix("_activity"), "offset": 0.1}
