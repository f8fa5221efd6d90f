"""Whether signals are on the scale a model was trained on; correlation alone would never tell.

Checkpoints hold quantiles of the training genes' raw signals. The ratio of the new median to theirs
says how far off a signal is: counts instead of RPM, another normalisation, another assay.
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from absl import logging

from epinformer_jax.analysis.ensembles import Model
from epinformer_jax.analysis.inputs import GeneInputs
from epinformer_jax.data import features
from epinformer_jax.data.features import FeatureSchema

WARN_BEYOND, REFUSE_BEYOND = 1.5, 4.0
MIN_VALUES = 10  # fewer values than this say nothing about a scale
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_LEVELS = (2, 3, 4)  # the median, or the next higher quantile that is above 0 on both sides
_AMOUNTS = ("activity", "contact", "dnase", "h3k27ac")


def compare(model: Model, genes: GeneInputs) -> pd.DataFrame:
    """One row a signal the model uses: its quantile here and in training, and their ratio.

    Columns: signal, quantile, here, training, ratio, values (their number). Only amounts
    (activity, contact and the like) have a scale to compare; signals with fewer than 10 values, or
    without stored quantiles, are left out.
    """
    rows = []
    for name in _amounts(features.from_dict(model.info.schema)):
        values, stored = _values(genes, name), model.info.feature_quantiles.get(name)
        if stored is None or len(values) < MIN_VALUES:
            continue
        here = np.quantile(values, QUANTILES)
        level = next((i for i in _LEVELS if here[i] > 0 and stored[i] > 0), None)
        if level is not None:
            ratio = here[level] / stored[level]
            rows.append((name, QUANTILES[level], here[level], stored[level], ratio, len(values)))
    columns = ["signal", "quantile", "here", "training", "ratio", "values"]
    return pd.DataFrame(rows, columns=columns)


def check(models: Sequence[Model], genes: GeneInputs, *, force: bool) -> None:
    """Warns of signals off by more than 1.5 times, refuses those off by more than 4 times; few
    values, as those of a single gene, may be further off (`_chance`).

    Raises:
      ValueError: a signal is so much larger or smaller than in training, without `force`.
    """
    if not any(model.info.feature_quantiles for model in models):
        logging.warning(
            "%s holds no quantiles of its training data, so scales cannot be compared; activity "
            "must be sqrt(DNase RPM x H3K27ac RPM)",
            models[0].name,
        )
        return
    for row in compare(models[0], genes).itertuples():
        off = max(row.ratio, 1 / row.ratio)
        told = (
            f"{row.signal}: quantile {row.quantile:g} is {row.here:.4g} here and "
            f"{row.training:.4g} in training, {row.ratio:.3g} times"
        )
        if off > REFUSE_BEYOND * _chance(row.values) and not force:
            raise ValueError(
                f"{told}; the model would read it wrongly: bring it to the training scale, or pass "
                "--force to predict all the same"
            )
        if off > WARN_BEYOND * _chance(row.values):
            logging.warning("%s; predictions will be shifted", told)


def _chance(values: int) -> float:
    """How far off a median of so many values may be: two standard errors, where logarithms of
    signals scatter by about 1.
    """
    return math.exp(2 * 1.25 / math.sqrt(values))


def _amounts(schema: FeatureSchema) -> list[str]:
    """Names of the signals in use that are amounts, promoter's ones included."""
    used = [*schema.link_features, *schema.gene_features]
    names = [f.source for f in used if f.transform != "zero"]
    names += [f.promoter_source for f in used if f.promoter_source]
    is_amount = {name: name.removeprefix("promoter_") in _AMOUNTS for name in names}
    return [name for name, amount in is_amount.items() if amount]


def _values(genes: GeneInputs, name: str) -> np.ndarray:
    if name in genes.link_signal_names:
        column = genes.link_signal_names.index(name)
        return np.concatenate([example.link_signals[:, column] for example in genes.examples])
    if name in genes.gene_signal_names:
        column = genes.gene_signal_names.index(name)
        return np.array([example.gene_signals[column] for example in genes.examples])
    return np.empty(0)
