"""Predictions for every substitution of many windows, in batches of a few fixed shapes.

The host side of model.local: it lays tiles (runs of neighbouring positions) over the positions that
are wanted, and puts answers back in their places. Positions that a k-mer table can answer go
through it where there is one; the rest, at sequence ends and unknown bases, is computed.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from epinformer_jax.analysis import kmer_tables
from epinformer_jax.analysis.ensembles import Model
from epinformer_jax.analysis.kmer_tables import KmerTable
from epinformer_jax.data import sequence
from epinformer_jax.model import local
from epinformer_jax.model.architecture import ModelConfig
from epinformer_jax.model.kmers import Table, Taps
from epinformer_jax.model.local import Tiles

Codes = UInt8[np.ndarray, "_"]
# Positions of one call, by kind of model: a CPU likes what fits its cache.
POSITIONS_ON_CPU = {"activity": 256, "expression": 64}
POSITIONS_ON_DEVICE = 8192
WINDOWS_AT_ONCE = {"cpu": 16}  # unchanged ones of one call
WINDOWS_ON_DEVICE = 512
MUTATED_BASES = 10  # so many encoded bases gain by k-mers what a substituted position gains
TILES = {"activity": 64, "expression": 32}  # positions of a tile


class Window(NamedTuple):
    """A sequence in the model's window.

    Attributes:
      codes: one base a position, 0 where it is unknown or padding.
      valid: where the sequence is; elsewhere is padding.
      wanted: the positions to substitute, all of them valid.
    """

    codes: UInt8[np.ndarray, "L"]
    valid: Bool[np.ndarray, "L"]
    wanted: Bool[np.ndarray, "L"]


class Batch(NamedTuple):
    """Tiles of one call; those from `count` on are filler."""

    count: int
    rows: Int[np.ndarray, "T"]
    starts: Int[np.ndarray, "T"]
    alleles: Int[np.ndarray, "T V Q"]
    positions: Int[np.ndarray, "T Q"]

    def tiles(self) -> Tiles:
        """What model.local takes."""
        bases = np.eye(4, dtype=np.float32)[self.alleles]
        return Tiles(self.rows.astype(np.int32), self.starts.astype(np.int32), bases)


class Predicted(NamedTuple):
    """Predictions of windows: as they are, and with each substitution.

    `changed` equals `reference` at the base that stands there, and is NaN where nothing was wanted.
    """

    reference: Float[np.ndarray, "N"]
    changed: Float[np.ndarray, "N 4 L"]


def centred(codes: Codes, window_bp: int) -> Window:
    """A sequence no longer than the window, in its middle, to be substituted everywhere."""
    first = window_bp // 2 - len(codes) // 2
    laid = np.zeros(window_bp, np.uint8)
    laid[first : first + len(codes)] = codes
    inside = np.zeros(window_bp, bool)
    inside[first : first + len(codes)] = True
    return Window(laid, inside, inside)


def predict_activity(
    model: Model,
    windows: Sequence[Window],
    *,
    table: Table | Taps | None = None,
    update: Callable[[int], object] = lambda windows: None,
) -> Predicted:
    """log activity of windows and of all their substitutions, in float64.

    `table` is `kmer_table`'s of this very model; `update` hears of windows done.
    """
    config, unknown = model.info.model, model.info.unknown_base
    variables = jax.device_put(model.variables)
    refer, change = compiled(local.reference, config), compiled(local.activity_changes, config)
    changed = np.full((len(windows), 4, config.window_bp), np.nan)
    reference = np.zeros(len(windows))
    most = max((int(window.wanted.sum()) for window in windows), default=1)
    windows_at_once = WINDOWS_AT_ONCE.get(jax.default_backend(), WINDOWS_ON_DEVICE)
    fitting = min(positions_at_once(config) // max(most, 1), windows_at_once)
    at_once = max(1, min(fitting, len(windows)))
    for first in range(0, len(windows), at_once):
        chosen = list(windows[first : first + at_once])
        filled = [*chosen, *[chosen[0]] * (at_once - len(chosen))]
        own = refer(variables, *arrays(filled, unknown))

        def call(batch: Batch, table: Table | Taps | None, own=own):
            return change(variables, own, batch.tiles(), table)

        part = changed[None, first : first + len(chosen)]
        fill(part, chosen, config, table, call)
        reference[first : first + len(chosen)] = np.asarray(own.answer)[: len(chosen)]
        update(len(chosen))
    for row, window in enumerate(windows):
        put_standing(changed[row], window, reference[row])
    return Predicted(reference, changed)


def kmer_table(
    model: Model, positions: int, wanted: KmerTable, *, encoded: int = 0
) -> Table | Taps | None:
    """What answers for the first block where so many positions are substituted, and so many bases
    encoded beside them: kmer_tables.choose's, in the weights' own dtype as model.local is.
    """
    config = dataclasses.replace(model.info.model, compute_dtype="float32")
    exact = model._replace(info=dataclasses.replace(model.info, model=config))
    return kmer_tables.choose(exact, MUTATED_BASES * positions + encoded, wanted)


def fill(
    values: Float[np.ndarray, "K N 4 L"],
    windows: Sequence[Window],
    config: ModelConfig,
    table: Table | Taps | None,
    call: Callable[[Batch, Table | Taps | None], object],
) -> None:
    """Puts the answers of `call`, [K, T, V, Q] (or [T, V, Q] for K = 1), into the wanted places of
    `values`, base by base, except those of the base that stands there.
    """
    tile, stride = TILES[config.kind], config.encoder.stride
    if table is None:
        plans = [(None, [window.wanted for window in windows], tile)]
    else:
        known = [window.valid & (window.codes != sequence.UNKNOWN) for window in windows]
        plain = [local.is_plain(config.encoder, own) for own in known]
        pairs = list(zip(windows, plain, strict=True))
        plans = [
            (table, [window.wanted & own for window, own in pairs], tile),
            (None, [window.wanted & ~own for window, own in pairs], stride),
        ]
    waiting = None
    for own_table, wanted, size in plans:
        for batch in batches(windows, wanted, config, tile=size):
            found = call(batch, own_table)
            if waiting is not None:  # the next batch is computed while this one is fetched
                _store(values, *waiting)
            waiting = wanted, batch, found
    if waiting is not None:
        _store(values, *waiting)


def _store(values, wanted, batch: Batch, found) -> None:
    found = np.asarray(found, np.float64).reshape(len(values), *batch.alleles.shape)
    for place in range(batch.count):
        row, positions = batch.rows[place], batch.positions[place]
        is_wanted = wanted[row][positions] & (
            positions == batch.starts[place] + np.arange(len(positions))
        )
        alleles = batch.alleles[place][:, is_wanted]
        answers = found[:, place][:, :, is_wanted]
        values[:, row, alleles, positions[None, is_wanted]] = answers


def batches(
    windows: Sequence[Window],
    wanted: Sequence[Bool[np.ndarray, "L"]],
    config: ModelConfig,
    *,
    tile: int,
) -> Iterator[Batch]:
    """Lays tiles over the wanted positions of windows and yields them, as many a call as fit."""
    most = max((int(own.sum()) for own in wanted), default=0)
    if not most:
        return
    stride = config.encoder.stride
    size = most if most <= stride else min(-(-most // stride), max(tile // stride, 1)) * stride
    laid = [(row, start) for row, own in enumerate(wanted) for start in _cover(own, size)]
    at_once = min(max(1, positions_at_once(config) // size), _power_of_two(len(laid)))
    standing = np.stack([digits(window) for window in windows])
    unknown = any(
        (window.codes[own] == sequence.UNKNOWN).any()
        for window, own in zip(windows, wanted, strict=True)
    )
    for first in range(0, len(laid), at_once):
        chosen = laid[first : first + at_once]
        rows, starts = np.array([*chosen, *[chosen[0]] * (at_once - len(chosen))]).T
        positions = np.minimum(starts[:, None] + np.arange(size), standing.shape[1] - 1)
        if unknown:
            alleles = np.broadcast_to(np.arange(4)[None, :, None], (at_once, 4, size))
        else:
            own = standing[rows[:, None], positions]
            alleles = (own[:, None] + np.arange(1, 4)[None, :, None]) % 4
        yield Batch(len(chosen), rows, starts, alleles, positions)


def arrays(windows: Sequence[Window], unknown: float):
    """Soft one-hot bases and validity of windows, for model.functional and model.local."""
    codes = np.stack([window.codes for window in windows])
    return sequence.one_hot(codes, unknown=unknown), np.stack([window.valid for window in windows])


def digits(window: Window) -> Int[np.ndarray, "L"]:
    """Channel of each base; 0 where it is unknown."""
    return np.argmax(window.codes[:, None] >> np.arange(4) & 1, axis=1)


def positions_at_once(config: ModelConfig) -> int:
    """Positions of one call, by what computes."""
    is_cpu = jax.default_backend() == "cpu"
    return POSITIONS_ON_CPU[config.kind] if is_cpu else POSITIONS_ON_DEVICE


@functools.lru_cache(maxsize=32)
def compiled(function, config: ModelConfig):
    """A pure function of (config, ...), jitted for a network."""
    return jax.jit(functools.partial(function, config))


def put_standing(values: Float[np.ndarray, "*K 4 L"], window: Window, reference: float) -> None:
    """Puts the prediction as it is where the substitute is the base itself."""
    known = np.flatnonzero(window.wanted & (window.codes != sequence.UNKNOWN))
    values[..., digits(window)[known], known] = reference


def _cover(wanted: Bool[np.ndarray, "L"], size: int) -> list[int]:
    """First positions of the fewest tiles that hold all wanted positions."""
    left, starts = np.flatnonzero(wanted), []
    while left.size:
        starts.append(int(left[0]))
        left = left[left >= left[0] + size]
    return starts


def _power_of_two(count: int) -> int:
    return 1 << max(count - 1, 0).bit_length()
