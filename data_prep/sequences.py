"""The `sequences` command: a table of sequences with measured signals becomes windows.tsv.

Signals stay as they are or go on a log scale. The part of a row is its chromosome, or any column
that says which rows belong together; a `split` column that cuts through chromosomes is not read.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from epinformer_jax.data import delimited

DESCRIPTION = """\
Turn a table of sequences with measured signals into windows.tsv.

Each value column becomes a label of the same name, as log2(offset + value) with --log2-offset.
Rows that share --split-column (the chromosome, by default) stay together in every fold."""


def labelled_windows(
    table: pd.DataFrame,
    *,
    sequence_column: str,
    split_column: str,
    value_columns: Sequence[str],
    log2_offset: float | None,
) -> pd.DataFrame:
    """name, sequence, split and one label a value column, in the order of `table`.

    Names are SPLIT_ROW, with rows counted from 1.

    Raises:
      ValueError: a column is missing, a value is no number, or offset + value is not above 0.
    """
    delimited.require(table, [sequence_column, split_column, *value_columns])
    splits = delimited.as_name(table, split_column)
    rows = np.arange(1, len(table) + 1).astype(str)
    windows = pd.DataFrame(
        {
            "name": [f"{split}_{row}" for split, row in zip(splits, rows, strict=True)],
            "sequence": [text.upper() for text in delimited.as_text(table, sequence_column)],
            "split": splits,
        }
    )
    for column in value_columns:
        values = np.asarray(delimited.as_number(table, column), np.float64)
        windows[column] = (
            values if log2_offset is None else _log2(table, column, values, log2_offset)
        )
    return windows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "--table", required=True, help="a sequence and its values in each row (.tsv, .tsv.gz)"
    )
    parser.add_argument(
        "--value-columns", required=True, help="columns to predict, comma-separated"
    )
    parser.add_argument(
        "--log2-offset",
        type=float,
        help="labels are log2(this + value); without it the values themselves",
    )
    parser.add_argument("--sequence-column", default="sequence", help="default: sequence")
    parser.add_argument(
        "--split-column", default="chrom", help="what keeps rows together (default: chrom)"
    )
    parser.add_argument("--out", required=True, help="windows.tsv or windows.tsv.gz")


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    windows = labelled_windows(
        delimited.read_text(args.table),
        sequence_column=args.sequence_column,
        split_column=args.split_column,
        value_columns=args.value_columns.split(","),
        log2_offset=args.log2_offset,
    )
    out = Path(args.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    delimited.write_table(windows, out)
    print(f"{len(windows)} windows in {windows['split'].nunique()} splits: {out}")
    return 0


def _log2(table: pd.DataFrame, column: str, values: np.ndarray, offset: float) -> np.ndarray:
    wrong = np.flatnonzero(values + offset <= 0)
    if len(wrong):
        raise ValueError(
            f"{delimited.where(table, wrong[0])}: {column}={values[wrong[0]]:g} has no log2 with "
            f"offset {offset:g}; raise --log2-offset"
        )
    return np.log2(offset + values)
