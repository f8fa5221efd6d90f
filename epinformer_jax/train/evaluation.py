"""What a fold and a cross-validation leave for people: tables of predictions, metrics with
intervals, baselines beside them.

Every test example stands once in the pooled table, predicted by the fold that tests it; baselines
are fitted on the same fold's training examples.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from absl import logging
from jaxtyping import Float, Int, UInt8

from epinformer_jax.data import sequence
from epinformer_jax.data.folds import Fold
from epinformer_jax.data.loader import GeneSet, WindowSet
from epinformer_jax.train import baselines, metrics, rundir
from epinformer_jax.train.checkpoint import ModelInfo

BASELINE = "baseline_"
KMER_TRAINING_LIMIT = 20_000  # windows the k-mer ridge is fitted on, at most


def gene_table(
    data: GeneSet, indices: Int[np.ndarray, "N"], fold: str, prediction: Float[np.ndarray, "N"]
) -> pd.DataFrame:
    """One row a gene: place, measured and predicted value, number of elements used."""
    examples = [data.examples[i] for i in indices]
    return pd.DataFrame(
        {
            "gene_id": [e.gene_id for e in examples],
            "gene_name": [e.gene_name for e in examples],
            "chrom": [e.chrom for e in examples],
            "split": [e.split for e in examples],
            "tss": [e.tss for e in examples],
            "fold": fold,
            "measured": data.labels[indices].astype(np.float64),
            "prediction": prediction,
            "n_elements": [len(data.sequences[i].codes) - 1 for i in indices],
        }
    )


def window_table(
    data: WindowSet, indices: Int[np.ndarray, "N"], fold: str, prediction: Float[np.ndarray, "N"]
) -> pd.DataFrame:
    """One row a window: place, measured and predicted activity."""
    examples = [data.examples[i] for i in indices]
    return pd.DataFrame(
        {
            "name": [e.name for e in examples],
            "chrom": [e.chrom for e in examples],
            "split": [e.split for e in examples],
            "twins": [twins_of(e.sequence) for e in examples],
            "fold": fold,
            "measured": data.labels[indices].astype(np.float64),
            "prediction": prediction,
        }
    )


def twins_of(codes: UInt8[np.ndarray, " L"]) -> str:
    """A name that a sequence shares with its reverse complement alone."""
    canonical = min(codes.tobytes(), sequence.reverse_complement(codes).tobytes())
    return hashlib.sha256(canonical).hexdigest()[:12]


def attention_table(
    data: GeneSet,
    link_signal_names: Sequence[str],
    indices: Int[np.ndarray, "N"],
    attention: Float[np.ndarray, "N S"],
) -> pd.DataFrame:
    """One row a gene and element: mean attention of heads and layers, promoter row, promoter column
    left out.
    """
    names = list(link_signal_names)
    parts = []
    for i, weights in zip(indices, attention, strict=True):
        example = data.examples[i]
        count = len(data.sequences[i].codes) - 1
        parts.append(
            pd.DataFrame(
                {
                    "gene_id": example.gene_id,
                    "chrom": example.chrom,
                    "start": example.element_start[:count],
                    "end": example.element_end[:count],
                    "distance": example.distance_bp[:count],
                    "activity": example.link_signals[:count, names.index("activity")],
                    "contact": example.link_signals[:count, names.index("contact")],
                    "attention": weights[1 : 1 + count],
                }
            )
        )
    table = pd.concat(parts, ignore_index=True)
    return table.sort_values(["gene_id", "start"], kind="stable", ignore_index=True)


def write_fold(
    directory: os.PathLike, config, result, table: pd.DataFrame, info: ModelInfo
) -> None:
    """Configuration, model description, history, test predictions and metrics of one fold."""
    rundir.write_json(directory / "config.json", config.to_dict())
    rundir.write_json(directory / "model.json", info.to_dict())
    rundir.write_tsv(directory / "history.tsv", pd.DataFrame(result.history))
    rundir.write_tsv(directory / "predictions.tsv", table)
    summary = _evaluate(table, "prediction")
    rundir.write_json(
        directory / "metrics.json",
        {"fold": info.fold, "best_epoch": result.best_epoch, "model": summary},
    )
    r = summary["pearson"]["value"]
    logging.info("%s: test Pearson %.4f over %d examples", directory, r, len(table))


def pool(
    config,
    workdir: os.PathLike,
    folds: Sequence[Fold],
    tables: Sequence[pd.DataFrame],
    genes: Any,
    windows: Any,
) -> None:
    """Joins the folds' test predictions, adds baselines, writes predictions.tsv and metrics.json.

    Raises:
      ValueError: an example was tested by two folds.
    """
    key = "gene_id" if config.task == "expression" else "name"
    add = _expression_baselines if config.task == "expression" else _activity_baselines
    part = genes if config.task == "expression" else windows
    pooled = pd.concat(
        [add(part, fold, table) for fold, table in zip(folds, tables, strict=True)],
        ignore_index=True,
    )
    twice = pooled[key][pooled[key].duplicated()]
    if len(twice):
        raise ValueError(f"{twice.iloc[0]} is tested by two of the folds {[f.name for f in folds]}")
    rundir.write_tsv(workdir / "predictions.tsv", pooled)
    rundir.write_json(workdir / "metrics.json", summarise(config, pooled))


def summarise(config, pooled: pd.DataFrame) -> dict[str, Any]:
    """The content of metrics.json for a pooled table with prediction and baseline_* columns."""
    columns = ["prediction", *(c for c in pooled.columns if c.startswith(BASELINE))]
    names = {c: "model" if c == "prediction" else c for c in columns}
    scores = {names[c]: _evaluate(pooled, c) for c in columns}
    rivals = [name for name in scores if name != "model" and name != f"{BASELINE}training_mean"]
    best = max(rivals, key=lambda name: _r(scores[name]))
    gain = metrics.paired_bootstrap(
        pooled["measured"].to_numpy(),
        pooled["prediction"].to_numpy(),
        pooled[best].to_numpy(),
        _groups(pooled),
    )
    per_fold = {
        fold: {names[c]: _evaluate(rows, c) for c in columns}
        for fold, rows in pooled.groupby("fold", sort=False)
    }
    content = {
        "task": config.task,
        "name": config.name,
        "label": config.data.label if config.task == "expression" else config.data.activity_label,
        "control": config.data.control,
        "n": len(pooled),
        "pooled": scores,
        "folds": per_fold,
        "best_baseline": best,
        "gain": {"pearson": gain},
    }
    ceiling = read_ceiling(config.data.ceiling)
    return content if ceiling is None else {**content, "ceiling": ceiling}


def read_ceiling(path: str) -> float | None:
    """The noise ceiling of simulated data, from its JSON file; None without a path.

    Raises:
      ValueError: the file is not JSON, or holds no number noise_ceiling_pearson.
      OSError: it cannot be read.
    """
    if not path:
        return None
    try:
        return float(json.loads(rundir.folder(path).read_text())["noise_ceiling_pearson"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: expected JSON with a number noise_ceiling_pearson ({error!r})"
        ) from None


def _expression_baselines(genes, fold: Fold, table: pd.DataFrame) -> pd.DataFrame:
    data, manifest = genes.data, genes.manifest
    frame = baselines.scalar_table(
        data.examples, manifest.link_signal_names, manifest.gene_signal_names
    )
    train, test = data.where(fold.train), data.where(fold.test)
    predicted = baselines.fit_predict(frame.iloc[train], data.labels[train], frame.iloc[test])
    return table.assign(**{f"{BASELINE}{name}": values for name, values in predicted.items()})


def _activity_baselines(windows, fold: Fold, table: pd.DataFrame) -> pd.DataFrame:
    data = windows.data
    train, test = data.where(fold.train), data.where(fold.test)
    train = np.random.default_rng(0).permutation(train)[:KMER_TRAINING_LIMIT]
    ridge = baselines.kmer_ridge(
        [data.codes[i] for i in train], data.labels[train], [data.codes[i] for i in test]
    )
    mean = np.full(len(test), data.labels[train].mean())
    return table.assign(baseline_training_mean=mean, baseline_kmer_ridge=ridge)


def _evaluate(table: pd.DataFrame, column: str) -> dict[str, Any]:
    return metrics.evaluate(table["measured"].to_numpy(), table[column].to_numpy(), _groups(table))


def _groups(table: pd.DataFrame) -> np.ndarray:
    """What is resampled together: chromosomes; where there are few, a sequence and its twin."""
    few = table["split"].nunique() < metrics.MIN_GROUPS
    return table["twins" if few and "twins" in table else "split"].to_numpy()


def _r(score: dict[str, Any]) -> float:
    value = score["pearson"]["value"]
    return value if value is not None and np.isfinite(value) else -1.0
