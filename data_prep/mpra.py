"""The `mpra` command: a table of tested sequences becomes a windows table whose parts share no
sequence and no twin.

Reporter libraries hold each element in both orientations, and both are measured. A random split of
rows leaks: the twin of a test row, its reverse complement, stands in the training set. Here a row's
part is a function of min(sequence, reverse complement), so twins always fall together.
"""

import argparse
import hashlib
from pathlib import Path

import numpy as np
import pandas as pd

from epinformer_jax.data import delimited, sequence
from epinformer_jax.data.sequence import decode

DESCRIPTION = """\
Turn a table of reporter-assay sequences into windows.tsv and folds.tsv.

Adapters are cut from both ends. A sequence and its reverse complement always get the same part,
so no twin of a test sequence is trained on. Fold k tests part k and validates on part k + 1."""


def split_twins(
    table: pd.DataFrame,
    *,
    adapter_bp: int,
    parts: int,
    sequence_column: str,
    value_column: str,
    name_column: str,
) -> pd.DataFrame:
    """name, sequence (adapters cut), split (part_1 ...) and `activity` for each row of `table`.

    Parts are drawn by a hash of min(sequence, reverse complement): the same sequence is in the same
    part in every table.

    Raises:
      ValueError: a sequence is no longer than its adapters, or holds something else than letters.
    """
    rows = []
    for index, (name, text, value) in enumerate(
        zip(table[name_column], table[sequence_column], table[value_column], strict=True)
    ):
        if len(text) <= 2 * adapter_bp:
            raise ValueError(
                f"{delimited.where(table, index)}: sequence {name} has {len(text)} bases, no more "
                f"than two adapters of {adapter_bp}"
            )
        core = text[adapter_bp : len(text) - adapter_bp].upper()
        try:
            sequence.encode(core)
        except ValueError as error:
            place = delimited.where(table, index)
            raise ValueError(f"{place}: sequence {name}, adapters cut: {error}") from None
        rows.append((name, core, f"part_{_part(core, parts)}", value))
    return pd.DataFrame(rows, columns=["name", "sequence", "split", "activity"])


def folds_of(parts: int) -> pd.DataFrame:
    """One fold a part: fold k tests part k, validates on the next, trains on the others."""
    names = [f"part_{k + 1}" for k in range(parts)]
    rows = []
    for k in range(parts):
        for j, split in enumerate(names):
            role = "test" if j == k else "valid" if j == (k + 1) % parts else "train"
            rows.append((split, f"fold_{k + 1}", role))
    return pd.DataFrame(rows, columns=["split", "fold", "role"])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "--table",
        required=True,
        help="table with a sequence and a value in each row (.tsv, .tsv.gz)",
    )
    parser.add_argument("--out", required=True, help="directory for windows.tsv and folds.tsv")
    parser.add_argument(
        "--adapter-bp", type=int, default=15, help="bases to cut from each end (default: 15)"
    )
    parser.add_argument("--parts", type=int, default=10, help="parts, and so folds (default: 10)")
    parser.add_argument("--sequence-column", default="seq", help="default: seq")
    parser.add_argument("--value-column", default="mean_value", help="default: mean_value")
    parser.add_argument("--name-column", default="seq_id", help="default: seq_id")


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    if args.parts < 3:
        raise ValueError(
            f"--parts {args.parts}: at least 3 are needed, one each to train, validate and test"
        )
    if args.adapter_bp < 0:
        raise ValueError(f"--adapter-bp {args.adapter_bp}: expected 0 or more bases")
    raw = delimited.read_text(args.table)
    delimited.require(raw, [args.name_column, args.sequence_column, args.value_column])
    table = raw.assign(
        **{
            args.name_column: delimited.as_name(raw, args.name_column),
            args.sequence_column: delimited.as_text(raw, args.sequence_column),
            args.value_column: delimited.as_number(raw, args.value_column),
        }
    )
    table.attrs = raw.attrs
    windows = split_twins(
        table,
        adapter_bp=args.adapter_bp,
        parts=args.parts,
        sequence_column=args.sequence_column,
        value_column=args.value_column,
        name_column=args.name_column,
    )
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    delimited.write_table(windows, out / "windows.tsv")
    delimited.write_table(folds_of(args.parts), out / "folds.tsv")
    distinct = len({_canonical(text) for text in windows["sequence"]})
    print(
        f"{len(windows)} rows, {distinct} distinct sequences (either strand) in {args.parts} parts"
    )
    print(f"windows: {out / 'windows.tsv'}")
    print(f"folds:   {out / 'folds.tsv'}")
    return 0


def _canonical(text: str) -> str:
    """The same text for a sequence and its twin; unknown bases of any kind are N, as they are in a
    data set.
    """
    codes = sequence.encode(text)
    return min(decode(codes), decode(sequence.reverse_complement(codes)))


def _part(text: str, parts: int) -> int:
    digest = hashlib.sha256(_canonical(text).encode()).digest()
    return 1 + int(np.frombuffer(digest[:8], "<u8")[0] % parts)
