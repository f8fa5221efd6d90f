"""A run directory as the report reads it: what is there is loaded, what is missing is left empty.

A run is a cross-validation (RUN/fold_1, RUN/fold_2, ...), one fold of it, or a single fold's own
directory; of genes (expression) or of windows (activity). Only files are read, none is written.
"""

import csv
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from epinformer_jax.data.chromosomes import natural_order
from epinformer_jax.train import metrics as metrics_lib

BASELINE = "baseline_"
TRAINING_MEAN = "baseline_training_mean"
LEAST_ELEMENTS = 5
HIGH_QUANTILE = 0.75
_TEXT_COLUMNS = ("gene_id", "gene_name", "name", "chrom", "split", "fold", "reason")


@dataclasses.dataclass(frozen=True)
class FoldFiles:
    """One fold's history, the epoch whose weights were kept, and the score of its encoder."""

    directory: Path
    history: pd.DataFrame | None
    best_epoch: int | None
    encoder_history: pd.DataFrame | None
    encoder_best_epoch: int | None
    encoder_score: Mapping[str, Any] | None


@dataclasses.dataclass(frozen=True)
class Locus:
    """The gene shown with its attention, and the words that say how it was chosen."""

    gene: Mapping[str, Any]
    elements: pd.DataFrame
    choice: str


@dataclasses.dataclass(frozen=True)
class Run:
    """All that the report shows. `scores` maps "model" and baseline_* to evaluated metrics."""

    directory: Path
    name: str
    task: str
    label: str
    unit: str
    control: str
    predictions: pd.DataFrame
    scores: Mapping[str, Mapping[str, Any]]
    fold_scores: Mapping[str, Mapping[str, Mapping[str, Any]]]
    controls: Mapping[str, Mapping[str, Any]]
    best_baseline: str | None
    gain: Mapping[str, Any] | None
    ceiling: float | None
    folds: Mapping[str, FoldFiles]
    locus: Locus | None
    dropped: pd.DataFrame | None
    config: Mapping[str, Any]
    fingerprints: Mapping[str, str]
    versions: Mapping[str, str]

    @property
    def things(self) -> str:
        """What is predicted: genes or windows."""
        return "genes" if self.task == "expression" else "windows"


def load_run(run_dir: str | os.PathLike) -> Run:
    """Reads a run directory; scores that metrics.json does not hold are computed from predictions.

    Raises:
      ValueError: no directory, no predictions in it or its folds, or a table that is not as stated.
    """
    directory = Path(run_dir)
    if not directory.is_dir():
        raise ValueError(f"{directory}: no such directory; give the --workdir of a training run")
    folds = dict(_folds(directory))
    predictions = _predictions(directory, folds)
    stored = _json(directory / "config.json")
    config = stored.get("config", stored)
    data = config.get("data", {}) if isinstance(config.get("data"), dict) else {}
    known = _json(directory / "metrics.json")
    is_genes = "gene_id" in predictions
    task = str(
        known.get("task") or config.get("task") or ("expression" if is_genes else "activity")
    )
    label_key = "label" if task == "expression" else "activity_label"
    scores = known.get("pooled") or _scores(predictions)
    best = known.get("best_baseline") or _best_baseline(scores)
    if best is not None and best not in scores:
        best = f"{BASELINE}{best}"
    return Run(
        directory=directory,
        name=str(known.get("name") or config.get("name") or directory.resolve().name),
        task=task,
        label=str(known.get("label") or data.get(label_key) or ""),
        unit=str(data.get("label_unit") or "") if task == "expression" else "",
        control=_control(known, data),
        predictions=predictions,
        scores=scores,
        fold_scores=known.get("folds") or _scores_by_fold(predictions),
        controls=known.get("controls") or {},
        best_baseline=best if best in scores else None,
        gain=_gain(known, predictions, best),
        ceiling=known.get("ceiling"),
        folds=folds,
        locus=_choose_locus(predictions, folds) if is_genes else None,
        dropped=_table(directory / "dropped.tsv"),
        config=config,
        fingerprints=_fingerprints(stored, known),
        versions=_json(directory / "versions.json"),
    )


def number(value: Any) -> float:
    """A stored number; null and what is missing become NaN."""
    return float(value) if isinstance(value, int | float) else float("nan")


def _folds(directory: Path) -> Iterator[tuple[str, FoldFiles]]:
    """The fold directories in natural order; the run itself where it holds a history."""
    inside = [path.name for path in directory.iterdir() if path.is_dir()]
    for name in natural_order(inside):
        folder = directory / name
        if name.startswith("fold") and any(
            (folder / file).exists() for file in ("history.tsv", "predictions.tsv", "metrics.json")
        ):
            yield name, _fold(folder)
    if (directory / "history.tsv").exists():
        yield (
            _json(directory / "metrics.json").get("fold") or directory.resolve().name,
            _fold(directory),
        )


def _fold(folder: Path) -> FoldFiles:
    own, encoder = _json(folder / "metrics.json"), _json(folder / "encoder" / "metrics.json")
    return FoldFiles(
        directory=folder,
        history=_history(folder),
        best_epoch=own.get("best_epoch"),
        encoder_history=_history(folder / "encoder"),
        encoder_best_epoch=encoder.get("best_epoch"),
        encoder_score=encoder.get("model"),
    )


def _history(folder: Path) -> pd.DataFrame | None:
    table = _table(folder / "history.tsv", ("epoch", "valid_pearson"))
    return table if table is not None and len(table) else None


def _predictions(directory: Path, folds: Mapping[str, FoldFiles]) -> pd.DataFrame:
    needed = ("measured", "prediction")
    pooled = _table(directory / "predictions.tsv", needed)
    if pooled is None:
        parts = {
            name: _table(fold.directory / "predictions.tsv", needed) for name, fold in folds.items()
        }
        present = [part.assign(fold=name) for name, part in parts.items() if part is not None]
        if not present:
            raise ValueError(
                f"{directory}: no predictions.tsv in it or in its folds, so there is nothing to "
                "report; train first, or give the directory that training was given as --workdir"
            )
        pooled = pd.concat(present, ignore_index=True)
    if "fold" not in pooled:
        pooled = pooled.assign(fold="all")
    if "split" not in pooled:
        pooled = pooled.assign(split=pooled["chrom"] if "chrom" in pooled else pooled["fold"])
    return pooled


def _evaluated(table: pd.DataFrame, column: str) -> dict[str, Any]:
    return metrics_lib.evaluate(
        table["measured"].to_numpy(), table[column].to_numpy(), table["split"].to_numpy()
    )


def _scores(table: pd.DataFrame) -> dict[str, Any]:
    baselines = [name for name in table.columns if name.startswith(BASELINE)]
    return {
        "model": _evaluated(table, "prediction"),
        **{name: _evaluated(table, name) for name in baselines},
    }


def _scores_by_fold(table: pd.DataFrame) -> dict[str, Any]:
    return {str(fold): _scores(rows) for fold, rows in table.groupby("fold", sort=False)}


def _best_baseline(scores: Mapping[str, Any]) -> str | None:
    """The baseline of the highest pooled Pearson; the training mean only where it stands alone."""
    rivals = [name for name in scores if name.startswith(BASELINE)]
    rivals = [name for name in rivals if name != TRAINING_MEAN] or rivals
    return max(
        rivals,
        key=lambda name: np.nan_to_num(number(scores[name]["pearson"]["value"]), nan=-np.inf),
        default=None,
    )


def _gain(known: Mapping, predictions: pd.DataFrame, best: str | None) -> Mapping | None:
    if known.get("gain", {}).get("pearson"):
        return known["gain"]["pearson"]
    if best is None or best not in predictions:
        return None
    columns = (predictions[name].to_numpy() for name in ("measured", "prediction", best, "split"))
    return metrics_lib.paired_bootstrap(*columns)


def _control(known: Mapping, data: Mapping) -> str:
    control = known.get("control") or data.get("control") or "none"
    return "" if control == "none" else str(control)


def _fingerprints(stored: Mapping, known: Mapping) -> dict[str, str]:
    """Fingerprints of the data sets by kind, wherever the run has put them."""
    if "config" in stored and isinstance(stored.get("data"), dict):
        return {str(kind): str(value) for kind, value in stored["data"].items()}
    for place in (stored, known):
        for key in ("data_fingerprint", "fingerprint"):
            if isinstance(place.get(key), str):
                return {"data": place[key]}
    return {}


def _choose_locus(predictions: pd.DataFrame, folds: Mapping[str, FoldFiles]) -> Locus | None:
    """The best-predicted gene among the highly expressed ones with enough elements."""
    if not {"tss", "chrom", "n_elements"} <= set(predictions.columns):
        return None
    tables = {}
    for name, fold in folds.items():
        needed = ("gene_id", "chrom", "start", "end", "activity", "contact", "attention")
        tables[name] = _table(fold.directory / "attention.tsv", needed)
    with_attention = [name for name, table in tables.items() if table is not None]
    genes = predictions[
        (predictions["n_elements"] >= LEAST_ELEMENTS) & predictions["fold"].isin(with_attention)
    ]
    genes = genes[np.isfinite(genes["prediction"]) & np.isfinite(genes["measured"])]
    if not len(genes):
        return None
    bound = genes["measured"].quantile(HIGH_QUANTILE)
    high = genes[genes["measured"] >= bound]
    error = (high["measured"] - high["prediction"]).abs()
    high = high.assign(error=error).sort_values(["error", "gene_id"])
    for gene in high.to_dict("records"):
        table = tables[gene["fold"]]
        elements = table[(table["gene_id"] == gene["gene_id"]) & np.isfinite(table["attention"])]
        if len(elements) >= LEAST_ELEMENTS:
            choice = (
                f"Of the {len(genes):,} genes with at least {LEAST_ELEMENTS} elements, "
                f"{len(high):,} have a measured value in the top quarter (at least {bound:.2f}); "
                "of these, the gene whose prediction is nearest to its measured value is shown. It "
                "is an illustration chosen for being well predicted, not evidence."
            )
            return Locus(gene, elements.reset_index(drop=True), choice)
    return None


def _json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is no file.

    Raises:
      ValueError: the file is no JSON object.
    """
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}:{error.lineno}: {error.msg}, expected JSON; the file is damaged, run again"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, expected a JSON object")
    return content


def _table(path: Path, columns: tuple[str, ...] = ()) -> pd.DataFrame | None:
    """A tab-separated table with at least these columns; None where there is no file.

    Raises:
      ValueError: a column is missing, or the file is no table.
    """
    if not path.exists():
        return None
    try:
        table = pd.read_csv(
            path,
            sep="\t",
            dtype=dict.fromkeys(_TEXT_COLUMNS, str),
            keep_default_na=False,
            na_values=["", "nan"],
            quoting=csv.QUOTE_NONE,
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"{path}: {error}; expected a tab-separated table, run again") from error
    missing = [name for name in columns if name not in table]
    if missing:
        raise ValueError(f"{path}:1: no column {missing[0]!r}, found {', '.join(table)}; run again")
    numbers = [name for name in columns if name not in _TEXT_COLUMNS]
    if not len(table):  # no row says what a column holds
        table = table.astype(dict.fromkeys(numbers, float))
    for name in numbers:
        if not pd.api.types.is_numeric_dtype(table[name]):
            raise ValueError(f"{path}: column {name!r} holds text, expected numbers; run again")
    present = [name for name in _TEXT_COLUMNS if name in table]
    return table.fillna(dict.fromkeys(present, ""))
