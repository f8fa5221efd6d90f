"""How sequences and tables may be given in Python: text, arrays, frames, paths, records."""

import functools
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from epinformer_jax.analysis import activity
from epinformer_jax.analysis.activity import Codes
from epinformer_jax.data import sequence, tables
from epinformer_jax.data.genome import Genome
from epinformer_jax.data.records import WindowExample

PathLike = str | os.PathLike
Table = PathLike | pd.DataFrame
Sequences = (
    str
    | os.PathLike
    | np.ndarray
    | pd.DataFrame
    | Mapping[str, str | np.ndarray]
    | Sequence[str | np.ndarray | WindowExample]
)


def named_codes(
    sequences: Sequences | None, fasta: PathLike | None, split_of: Mapping[str, str] | None
) -> tuple[list[str], list[Codes], list[str] | None]:
    """Names, codes, and splits where they are known."""
    if sequences is None:
        if fasta is None:
            raise ValueError("there is nothing to predict; give sequences or fasta=")
        return (*activity.read_fasta(fasta), None)
    if isinstance(sequences, pd.DataFrame | os.PathLike) or fasta is not None:
        return _of_windows(sequences, fasta, split_of or {})
    if isinstance(sequences, Mapping):
        return list(sequences), [_codes(own) for own in sequences.values()], None
    if isinstance(sequences, str) or (
        isinstance(sequences, np.ndarray) and sequences.dtype == np.uint8 and sequences.ndim == 1
    ):
        sequences = [sequences]
    listed = list(sequences)
    if listed and isinstance(listed[0], WindowExample):
        splits = [example.split for example in listed]
        return [example.name for example in listed], [e.sequence for e in listed], splits
    return [str(row) for row in range(len(listed))], [_codes(own) for own in listed], None


def _of_windows(windows, fasta, split_of):
    frame = read_table(windows, "windows", functools.partial(tables.read_windows, labels=()))
    names = [str(name) for name in frame["name"]]
    if "sequence" in frame:
        return names, [_codes(own) for own in frame["sequence"]], list(frame["split"])
    if fasta is None:
        raise ValueError("windows are given by chrom, start and end; pass the genome as fasta=")
    with Genome(fasta) as genome:
        places = zip(frame["chrom"], frame["start"], frame["end"], strict=True)
        codes = [genome.fetch(chrom, int(start), int(end)) for chrom, start, end in places]
    splits = frame["split"] if "split" in frame else frame["chrom"]
    return names, codes, [split_of.get(split, split) for split in splits]


def _codes(own: str | np.ndarray) -> Codes:
    return sequence.encode(own) if isinstance(own, str | bytes) else np.asarray(own, np.uint8)


def read_table(table: Table, what: str, reader: Callable[[PathLike], pd.DataFrame]) -> pd.DataFrame:
    """A frame goes through the same checks as a file; errors name its line as that of `what`."""
    if not isinstance(table, pd.DataFrame):
        return reader(table)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{what}.tsv"
        table.to_csv(path, sep="\t", index=False)
        try:
            frame = reader(path)
        except ValueError as error:
            raise ValueError(str(error).replace(str(path), f"the frame of {what}")) from None
    return frame
