"""Deletions and insertions in a sequence, and the same on its other strand."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from epinformer_jax.data import sequence

Codes = UInt8[np.ndarray, "_"]


class Edit(NamedTuple):
    """`removed` bases from `start` on (0-based) give way to `inserted`."""

    start: int
    removed: int
    inserted: Codes


class Series(NamedTuple):
    """One edit at every position where it fits.

    Attributes:
      name: deletion_LENGTH, insertion_LENGTH (that many unknown bases) or insertion_LETTERS.
      edits: in the order of `starts`.
    """

    name: str
    edits: list[Edit]

    @property
    def starts(self) -> np.ndarray:
        """Where the edits begin."""
        return np.array([edit.start for edit in self.edits], np.int64)


def series(length: int, deletions: Sequence[int], insertions: Sequence[str]) -> list[Series]:
    """Every deletion of these lengths, every insertion of these letters (a number: so many unknown
    bases), in a sequence of `length` bases, of which some are left. An insertion stands before the
    position it is named by.

    Raises:
      ValueError: a length below 1, or something that is neither a number nor DNA.
    """
    nothing = np.empty(0, np.uint8)
    found = []
    for size in deletions:
        if size < 1:
            raise ValueError(f"deletion of {size} bases: expected 1 or more")
        places = range(length - size + 1 if size < length else 0)
        found.append(Series(f"deletion_{size}", [Edit(at, size, nothing) for at in places]))
    for text in insertions:
        inserted = _inserted(text)
        edits = [Edit(at, 0, inserted) for at in range(length)]
        found.append(Series(f"insertion_{text.upper()}", edits))
    return found


def apply(codes: Codes, edit: Edit) -> Codes:
    """The edited sequence, longer or shorter than before."""
    end = edit.start + edit.removed
    return np.concatenate([codes[: edit.start], edit.inserted, codes[end:]])


def mirrored(edit: Edit, length: int) -> Edit:
    """The same edit of the reverse complement of a sequence of `length` bases."""
    inserted = sequence.reverse_complement(edit.inserted)
    return Edit(length - edit.start - edit.removed, edit.removed, inserted)


def _inserted(text: str) -> Codes:
    if text.isdigit() and int(text) > 0:
        return np.zeros(int(text), np.uint8)
    if text and set(text.upper()) <= set("ACGTN"):
        return sequence.encode(text)
    raise ValueError(f"insertion {text!r}: expected a number of bases above 0, or A, C, G, T, N")
