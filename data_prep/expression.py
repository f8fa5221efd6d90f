"""Expression tables and the transforms that turn them into labels.

A transform is stored with its statistics, so that a label can be undone and made again for another
table: `z-log10` is z(log10(x + 0.1)) with mean and sd (ddof 0) over the genes that are kept, as the
published RNA labels; `log10p1` is log10(x + 1), as the published CAGE labels.
"""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64

from data_prep.annotation import strip_version
from data_prep.outputs import sibling
from data_prep.text_input import read_table
from epinformer_jax.data.chromosomes import suggest

TRANSFORMS = ("z-log10", "log10p1", "none")
# As `epinformer_jax.data.label_scale` calls them.
_LABEL_SCALES = {"z-log10": "z_log10", "log10p1": "log10", "log2": "log2"}
_OFFSETS = {"z-log10": 0.1, "log10p1": 1.0}


@dataclass(frozen=True)
class Transform:
    """A label's transform with its statistics: (log10(x + offset) - mean) / sd, or x itself."""

    name: str
    offset: float = 0.0
    mean: float = 0.0
    sd: float = 1.0
    n: int = 0

    def apply(self, values: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """Labels of measured values."""
        if self.name == "none":
            return values.astype(np.float64)
        return (np.log10(values + self.offset) - self.mean) / self.sd

    def invert(self, labels: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """Measured values of labels; a label below the floor of the transform gives less than 0."""
        if self.name == "none":
            return labels.astype(np.float64)
        return 10 ** (labels * self.sd + self.mean) - self.offset

    def to_dict(self) -> dict[str, Any]:
        """The transform as plain values, for JSON."""
        return asdict(self)


def label_transforms(table: str | os.PathLike, labels: Sequence[str]) -> dict[str, dict[str, Any]]:
    """How the labels of a table of genes or windows were made, as the JSON file beside it says, in
    the words of `epinformer_jax.data.label_scale`; labels that it doesn't speak of are left out.

    Raises:
      ValueError: what the file says of labels is not what `genes`, `windows` and `signals` write.
    """
    path = sibling(table, ".json")
    if not path.is_file():
        return {}
    try:
        stated = json.loads(path.read_text(encoding="utf-8")).get("labels", {})
        chosen = {name: stated[name] for name in labels if name in stated}
        return {
            name: {"name": _LABEL_SCALES[own["name"]]}
            | {key: float(own[key]) for key in ("offset", "mean", "sd") if key in own}
            for name, own in chosen.items()
            if own["name"] != "none"
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: does not say how labels were made ({error!r}); it belongs to {table}: make "
            "both anew with data_prep, or move it away"
        ) from None


def fit_transform(name: str, values: Float64[np.ndarray, " n"]) -> Transform:
    """Fits a transform to the values of the genes that are kept.

    Raises:
      ValueError: an unknown name, no value, a negative or missing one, or (z-log10) all the same.
    """
    if name not in TRANSFORMS:
        raise ValueError(f"transform {name!r} is unknown; expected one of {', '.join(TRANSFORMS)}")
    if not len(values) or not np.isfinite(values).all():
        raise ValueError(
            f"transform {name}: {len(values)} values, some missing; drop those genes first"
        )
    if name == "none":
        return Transform(name, n=len(values))
    if values.min() < 0:
        raise ValueError(
            f"transform {name}: a value is {values.min():g}; expression before the logarithm is "
            "at least 0 (use transform none for values that are logarithms already)"
        )
    offset = _OFFSETS[name]
    if name == "log10p1":
        return Transform(name, offset=offset, n=len(values))
    logs = np.log10(values + offset)
    if logs.std() == 0:
        raise ValueError(
            f"transform {name}: all {len(values)} values are {values[0]:g}; no z-score"
        )
    return Transform(name, offset, float(logs.mean()), float(logs.std()), len(values))


def read_expression(
    path: str | os.PathLike, column: str, *, id_column: str | None = None
) -> pd.Series:
    """Reads one column of an expression table (RPKM, TPM, CAGE, RAMPAGE ...), by gene id.

    The id is taken from `id_column`, else gene_id, Gene stable ID, ENSID, ensid or gene, else the
    first column; Ensembl versions and copies of genes on the Y's pseudo-autosomal part are taken
    off. Missing values are NaN.

    Raises:
      ValueError: the column is not there or not a number, or a gene stands twice.
    """
    table = read_table(path)
    known = [
        name for name in (id_column, "gene_id", "Gene stable ID", "ENSID", "ensid", "gene") if name
    ]
    if id_column and not table.has(id_column):
        raise ValueError(
            f"{path}: no column {id_column!r}; {suggest(id_column, table.frame.columns)}"
        )
    ids = next((name for name in known if table.has(name)), str(table.frame.columns[0]))
    if ids == column:
        raise ValueError(f"{path}: column {column!r} holds the gene ids, not expression")
    names = table.text(ids).map(strip_version)
    rows = np.flatnonzero(~names.str.endswith("_PAR_Y").to_numpy())
    values = pd.Series(table.numbers(column, allow_missing=True), index=names, name=column)
    values = values.iloc[rows]
    for row in np.flatnonzero(values.index.duplicated())[:1]:
        raise ValueError(
            f"{table.where(rows[row])}: gene {values.index[row]} stands twice; keep one row a gene"
        )
    return values


def labels_for(
    genes: Iterable[str], expression: pd.Series
) -> tuple[Float64[np.ndarray, " genes"], np.ndarray]:
    """Values in the order of the genes (NaN where there is none), and where they are missing."""
    values = expression.reindex(list(genes)).to_numpy(np.float64)
    return values, ~np.isfinite(values)
