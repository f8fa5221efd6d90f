"""Rows of what a substitution changes: how local.py lays out its values and finds its neighbours.

Letters: V substitutions of a position, Q positions that are substituted, of which each run has as
many as the tower's stride (or all, if they are fewer): J runs; R rows, one for each base of a run
and position that it reaches. What rows are told apart by lies outermost: [R, J, N, V, C].
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num

from epinformer_jax.model import layers
from epinformer_jax.model.architecture import ModelConfig
from epinformer_jax.model.local_places import NONE, Places
from epinformer_jax.model.local_reference import DTYPE, Reference

PRECISION = layers.precision_of(DTYPE)


class Tiles(NamedTuple):
    """Neighbouring positions of the reference's sequences and what stands there instead.

    Attributes:
      start: the first position, counted from the window's start; may be negative, and the last one
        may lie behind the window: answers to positions outside say nothing.
      bases: the substitutes, soft one-hot; a substitute equal to the base changes nothing. Q is a
        multiple of the tower's stride, or at most the stride.
      ends: what a table has no k-mers for of these positions (local_kmers.end_positions); a
        sequence N is filler.
    """

    start: Int[Array, ""]
    bases: Float[Array, "N V Q A"]
    ends: Int[Array, "E 2"]


class Runs(NamedTuple):
    """Tiles as runs of positions that lie alike between two multiples of the stride.

    Attributes:
      stride: bases from a run to the next.
      phase: a run's first base, counted from its origin, the multiple of the stride before it.
      origin: that of the first run.
      change: substitutes minus what stands there, R bases of a run.
    """

    stride: int
    phase: int
    origin: Int[Array, ""]
    change: Float[Array, "R J N V A"]

    def index(self, positions: Int[np.ndarray, "R"], bases: int) -> Int[Array, "R J"]:
        """Positions of `bases` bases, from those counted from a run's origin to the window's."""
        runs = np.arange(self.change.shape[1]) * (self.stride // bases)
        return self.origin // bases + (positions[:, None] + runs[None])


class Change(NamedTuple):
    """New minus old output of a layer whose positions hold `bases` bases; 0 outside the window."""

    x: Float[Array, "R J N V C"]
    places: Places
    bases: int


def runs_of(config: ModelConfig, reference: Reference, tiles: Tiles, phase: int) -> Runs:
    """The tiles by runs."""
    rows, variants, positions, letters = tiles.bases.shape
    stride = config.encoder.stride
    size = min(stride, positions)
    standing = take(reference.bases, tiles.start + jnp.arange(positions))
    change = tiles.bases - jnp.moveaxis(standing, 0, 1)[:, None]
    change = change.reshape(rows, variants, -1, size, letters)
    return Runs(stride, phase, tiles.start - phase, jnp.transpose(change, (3, 2, 0, 1, 4)))


def by_position(x: Float[Array, "R J N V *C"]) -> Float[Array, "N V Q *C"]:
    """Answers to each base of runs, in the order of the tiles' positions."""
    residues, count, rows, variants, *rest = x.shape
    x = jnp.transpose(x, (2, 3, 1, 0, *range(4, x.ndim)))
    return x.reshape(rows, variants, count * residues, *rest)


def take(x: Num[Array, "N L *C"], index: Int[Array, "*R"]) -> Num[Array, "..."]:
    """The values of all sequences at these positions, [*R N *C], or the nearest in the window."""
    inside = jnp.clip(index, 0, x.shape[1] - 1)
    return jnp.moveaxis(x, 1, 0).at[inside].get(mode="promise_in_bounds")


def reference_at(
    x: Float[Array, "N L C"], runs: Runs, positions: Int[np.ndarray, "R"], bases: int
) -> tuple[Float[Array, "R J N V C"], Bool[Array, "R J 1 1 1"]]:
    """The values at positions counted from runs' origins, and which lie in the window.

    They are read anew for each substitution: a compiler makes one loop of that and of what follows.
    """
    rows, length = x.shape[:2]
    index = runs.index(positions, bases)
    inside = (index >= 0) & (index < length)
    row = jnp.clip(index, 0, length - 1)[..., None] + length * np.arange(rows)[None, None]
    row = jnp.broadcast_to(row[..., None], (*row.shape, runs.change.shape[3]))
    values = x.reshape(rows * length, -1).at[row].get(mode="promise_in_bounds")
    return values, inside[:, :, None, None, None]


def select(x: Num[Array, "R *C"], rows: Int[np.ndarray, "M"]) -> Num[Array, "M *C"]:
    """Rows by their numbers, zeros where there is NONE."""
    if np.array_equal(rows, np.arange(len(x))):
        return x
    found = x.at[np.maximum(rows, 0)].get(mode="promise_in_bounds")
    if (rows != NONE).all():
        return found
    return jnp.where((rows != NONE).reshape(-1, *[1] * (x.ndim - 1)), found, 0)


def convolve(conv: layers.Conv, x: Float[Array, "*M C"]) -> Float[Array, "*M KO"]:
    """Each tap's answer to each position, side by side."""
    kernel = conv.kernel[...]
    joined = jnp.swapaxes(kernel, 0, 1).reshape(kernel.shape[1], -1)
    flat = jnp.matmul(x.reshape(-1, len(joined)), joined, precision=PRECISION)
    return flat.reshape(*x.shape[:-1], -1)
