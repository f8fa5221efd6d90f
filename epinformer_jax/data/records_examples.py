"""The examples: a gene with its elements, a window, and how they are compared and grouped.

This is the one form that the writer, the loader and prediction share. Coordinates are 0-based
half-open. Letters in shapes: n elements of the gene, P link signals, G gene signals, Y labels, L
bases.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float32, Int32, Int64, UInt8

from epinformer_jax.data import chromosomes


class _EqualByValue:
    """Equality of dataclasses that hold arrays; NaN equals NaN."""

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        pairs = ((getattr(self, f.name), getattr(other, f.name)) for f in dataclasses.fields(self))
        return all(_same(mine, theirs) for mine, theirs in pairs)

    __hash__ = None


@dataclasses.dataclass(frozen=True, eq=False)
class GeneExample(_EqualByValue):
    """A gene: its promoter and its elements, nearest first, with everything measured about them.

    `tss` p stands for the promoter window [p - promoter_bp/2, p + promoter_bp/2), on the plus
    strand. `element_start` and `element_end` are those of the table; `element_sequence` holds the
    elements cropped to the window, one after the other. `distance_bp` is signed: floor midpoint
    minus `tss`, not strand-aware.
    """

    gene_id: str
    gene_name: str
    chrom: str
    split: str
    tss: int
    strand: str
    promoter: UInt8[np.ndarray, " promoter_bp"]
    element_start: Int64[np.ndarray, " n"]
    element_end: Int64[np.ndarray, " n"]
    element_length: Int32[np.ndarray, " n"]
    element_sequence: UInt8[np.ndarray, " bases"]
    distance_bp: Int64[np.ndarray, " n"]
    link_signals: Float32[np.ndarray, "n P"]
    gene_signals: Float32[np.ndarray, " G"]
    labels: Float32[np.ndarray, " Y"]

    @property
    def key(self) -> str:
        """What names this record: unique in a dataset."""
        return self.gene_id


@dataclasses.dataclass(frozen=True, eq=False)
class WindowExample(_EqualByValue):
    """A window of DNA and its labels; chrom "" and -1, -1 when it was given as text."""

    name: str
    chrom: str
    split: str
    start: int
    end: int
    sequence: UInt8[np.ndarray, " L"]
    labels: Float32[np.ndarray, " Y"]

    @property
    def key(self) -> str:
        """What names this record: unique in a dataset."""
        return self.name


Example = GeneExample | WindowExample


def by_split(examples: Iterable[Example]) -> dict[str, list[Example]]:
    """Groups examples by split, in natural order: the form that `records.write_dataset` takes."""
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.split, []).append(example)
    return {split: groups[split] for split in chromosomes.natural_order(groups)}


def _same(mine: object, theirs: object) -> bool:
    if not isinstance(mine, np.ndarray):
        return mine == theirs
    same_form = mine.shape == theirs.shape and mine.dtype == theirs.dtype
    return same_form and np.array_equal(mine, theirs, equal_nan=mine.dtype.kind == "f")
