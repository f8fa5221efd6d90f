"""Which positions of each layer a substituted base can reach: whole numbers only, at trace time.

A base reaches `stem_width` positions of the stem, and after each convolution and pool a few (up to
8, 6, 5, 4, 4 in the published tower). Which ones depends on its place between two multiples of the
tower's stride; so positions are counted from such a multiple, the *origin*, and everything here is
static. Positions are those of the layer: of 1, 2, 4, ... bases.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int

NONE = -1


class Places(NamedTuple):
    """What changes in a layer, in ascending order: position `position` by the substituted base
    `residue` (0 is the first base of a run).
    """

    residue: Int[np.ndarray, "R"]
    position: Int[np.ndarray, "R"]

    def rows(self) -> dict[tuple[int, int], int]:
        """The row of each (residue, position)."""
        pairs = zip(self.residue.tolist(), self.position.tolist(), strict=True)
        return {pair: row for row, pair in enumerate(pairs)}

    def by_residue(self) -> Int[np.ndarray, "Q W"]:
        """Rows of each residue, filled up with NONE."""
        return filled([np.flatnonzero(self.residue == one) for one in range(self.residue[-1] + 1)])


class Step(NamedTuple):
    """A convolution, and a maximum over pairs or none.

    Attributes:
      places: what changes behind it.
      at: the convolution's positions of each; two of them where there is a maximum.
      read: the changed inputs that each of these positions' taps sees, as rows; NONE: unchanged.
    """

    places: Places
    at: Int[np.ndarray, "R H"]
    read: Int[np.ndarray, "R H K"]


def seen(bases: int, phase: int, *, width: int, stride: int, lead: int) -> Places:
    """Where positions see `width` bases, from base position * stride - lead on, of which one of the
    `bases` that follow each other, `phase` behind the origin, is substituted.
    """
    at = phase + np.arange(bases)
    pairs = [
        (residue, position)
        for residue, base in enumerate(at)
        for position in range((base + lead - width) // stride + 1, (base + lead) // stride + 1)
    ]
    return _places(pairs)


def step(inputs: Places, taps: int, *, dilation: int = 1, same: bool = True, pool: int = 1) -> Step:
    """A convolution over these inputs; `same` as in layers.Conv, `pool` positions to a maximum."""
    reach = (taps - 1) * dilation
    offsets = np.arange(taps) * dilation - (reach // 2 if same else 0)
    row_of = inputs.rows()
    outputs = {
        (residue, (position - offset) // pool)
        for residue, position in row_of
        for offset in offsets.tolist()
    }
    places = _places(sorted(outputs))
    at = places.position[:, None] * pool + np.arange(pool)[None]
    read = [
        [
            [row_of.get((residue, position + offset), NONE) for offset in offsets.tolist()]
            for position in own
        ]
        for residue, own in zip(places.residue.tolist(), at.tolist(), strict=True)
    ]
    return Step(places, at, np.array(read))


def filled(rows: list[Int[np.ndarray, "_"]]) -> Int[np.ndarray, "M W"]:
    """Lists of rows under each other, filled up with NONE."""
    found = np.full((len(rows), max(map(len, rows))), NONE)
    for place, own in enumerate(rows):
        found[place, : len(own)] = own
    return found


def _places(pairs: list[tuple[int, int]]) -> Places:
    residue, position = np.array(pairs).T
    return Places(residue, position)
