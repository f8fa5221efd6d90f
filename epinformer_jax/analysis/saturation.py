"""Predictions for every substitution of many windows, in batches of a few fixed shapes.

The host side of model.local: it lays tiles (stretches of neighbouring positions) over the positions
that are wanted, and puts answers back in their places. Windows whose wanted positions lie alike
share a call.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from epinformer_jax.analysis import kmer_tables
from epinformer_jax.analysis.ensembles import Model
from epinformer_jax.analysis.kmer_tables import KmerTable
from epinformer_jax.data import sequence
from epinformer_jax.model import local, local_kmers, local_reference
from epinformer_jax.model.architecture import ActivityConfig, ModelConfig
from epinformer_jax.model.calls import fetched
from epinformer_jax.model.functional import Variables
from epinformer_jax.model.kmers import Frame, Table, Taps
from epinformer_jax.model.local_rows import Tiles

Codes = UInt8[np.ndarray, "_"]
# Positions of one call: a CPU likes what fits its cache, with many slots half as many.
POSITIONS_ON_CPU, MANY_SLOTS = 256, 24
POSITIONS_ON_DEVICE = 8192
MUTATED_BASES = 10  # so many encoded bases gain by k-mers what a substituted position gains


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

    @property
    def is_known(self) -> bool:
        """Whether none of the sequence's bases is unknown."""
        return not (self.valid & (self.codes == sequence.UNKNOWN)).any()

    def turned(self) -> "Window":
        """As the other strand has it."""
        return Window(sequence.reverse_complement(self.codes), self.valid[::-1], self.wanted[::-1])


class Batch(NamedTuple):
    """One call: positions start .. start + Q - 1 of some windows, those from `count` on filler.

    Attributes:
      rows: the windows.
      phase: start modulo the tower's stride.
      alleles: the substitutes, as channels.
      ends: what a table has no k-mers for, as model.local_rows.Tiles has it.
      table: what answers for the first layers; None where a base of a sequence is unknown.
    """

    count: int
    rows: Int[np.ndarray, "N"]
    start: int
    phase: int
    alleles: Int[np.ndarray, "N V Q"]
    ends: Int[np.ndarray, "E 2"]
    table: Table | Taps | None

    def tiles(self) -> Tiles:
        """What model.local takes."""
        bases = np.eye(4, dtype=np.float32)[self.alleles]
        return Tiles(np.int32(self.start), bases, self.ends.astype(np.int32))


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
    found = _one_strand(model, windows, table, update)
    if model.info.model.strands == "forward":
        return found
    other = _one_strand(model, [window.turned() for window in windows], table)
    changed = (found.changed + other.changed[:, ::-1, ::-1]) / 2
    return Predicted((found.reference + other.reference) / 2, changed)


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
    call: Callable[[Batch], object],
    *,
    slots: int = 1,
) -> None:
    """Puts the answers of `call`, [K, N, V, Q] (or [N, V, Q] for K = 1), into the wanted places of
    `values`, base by base, except those of the base that stands there. `slots` are those that it
    computes for each substitution.
    """
    laid = batches(windows, config, table, positions_at_once(slots))
    calls = ((batch, functools.partial(call, batch)) for batch in laid)
    for batch, found in fetched(calls):
        _store(values, windows, batch, found)


def _store(values, windows: Sequence[Window], batch: Batch, found: np.ndarray) -> None:
    found = found.reshape(len(values), *batch.alleles.shape)
    positions = batch.start + np.arange(batch.alleles.shape[2])
    for place, row in enumerate(batch.rows[: batch.count].tolist()):
        own = np.flatnonzero(
            windows[row].wanted.take(positions, mode="clip")
            & (positions >= 0)
            & (positions < values.shape[3])
        )
        values[:, row, batch.alleles[place][:, own], positions[own]] = found[:, place][:, :, own]


def batches(
    windows: Sequence[Window], config: ModelConfig, table: Table | Taps | None, most: int
) -> Iterator[Batch]:
    """Lays tiles over the wanted positions of windows and yields them, `most` positions a call.
    Windows with an unknown base have calls of their own, without the table.
    """
    stride = config.encoder.stride
    alike = {}
    for row, window in enumerate(windows):
        if window.wanted.any():
            kind = int(np.argmax(window.wanted)), table is None or window.is_known
            alike.setdefault(kind, []).append(row)
    for (first, is_known), rows in alike.items():
        own = table if is_known else None
        end = 1 + max(int(np.flatnonzero(windows[row].wanted)[-1]) for row in rows)
        if end - first > stride:  # so that few functions are compiled
            first = first // stride * stride
        size = _size(end - first, stride, most)
        at_once = min(max(most // size, 1), _power_of_two(len(rows)))
        for place in range(0, len(rows), at_once):
            chosen = rows[place : place + at_once]
            for start in range(first, end, size):
                if any(windows[row].wanted[start : start + size].any() for row in chosen):
                    yield _batch(windows, chosen, at_once, start, size, config, own)


def _size(positions: int, stride: int, most: int) -> int:
    """Positions of a tile: all of them, or whole runs, of few counts and with few to spare."""
    if positions <= stride:
        return positions
    runs, limit = -(-positions // stride), max(most // stride, 1)
    fitting = _power_of_two(runs), limit, max(limit // 2, 1)
    return stride * min(
        (size for size in fitting if size <= limit), key=lambda size: -(-runs // size) * size
    )


def _batch(windows, chosen, at_once, start, size, config: ModelConfig, table) -> Batch:
    rows = np.array([*chosen, *[chosen[0]] * (at_once - len(chosen))])
    codes = np.stack([windows[row].codes for row in chosen])
    wanted = np.stack([windows[row].wanted for row in chosen])
    inside = slice(start, start + size)
    positions = np.clip(start + np.arange(size), 0, codes.shape[1] - 1)
    if (wanted[:, inside] & (codes[:, inside] == sequence.UNKNOWN)).any():
        alleles = np.broadcast_to(np.arange(4)[None, :, None], (at_once, 4, size))
    else:
        standing = np.stack([digits(windows[row])[positions] for row in rows])
        alleles = (standing[:, None] + np.arange(1, 4)[None, :, None]) % 4
    ends = np.zeros((0, 2), np.int64)
    if isinstance(table, Table):
        valid = np.stack([windows[row].valid for row in chosen])
        asked = np.zeros_like(wanted)
        asked[:, inside] = wanted[:, inside]
        frame = local_kmers.frame_of(config.encoder, table)
        ends = _room(local_kmers.end_positions(frame, valid, asked), frame, at_once)
    phase = start % config.encoder.stride
    return Batch(len(chosen), rows, start, phase, alleles, ends, table)


def _room(at: Int[np.ndarray, "M 2"], frame: Frame, filler: int) -> Int[np.ndarray, "_M 2"]:
    """Positions of windows with filler behind them: of few lengths, so that few functions are
    compiled.
    """
    if not len(at):
        return at
    room = frame.end_positions * _power_of_two(-(-len(at) // frame.end_positions))
    return np.pad(at, [(0, room - len(at)), (0, 0)], constant_values=filler)


def arrays(windows: Sequence[Window], unknown: float):
    """Soft one-hot bases and validity of windows, for model.functional and model.local."""
    codes = np.stack([window.codes for window in windows])
    return sequence.one_hot(codes, unknown=unknown), np.stack([window.valid for window in windows])


def digits(window: Window) -> Int[np.ndarray, "L"]:
    """Channel of each base; 0 where it is unknown."""
    return np.argmax(window.codes[:, None] >> np.arange(4) & 1, axis=1)


def positions_at_once(slots: int) -> int:
    """Positions of one call, by what computes and by the slots that each changes."""
    if jax.default_backend() != "cpu":
        return POSITIONS_ON_DEVICE
    return POSITIONS_ON_CPU if slots < MANY_SLOTS else POSITIONS_ON_CPU // 2


@functools.lru_cache(maxsize=32)
def compiled(function, config: ModelConfig, static: tuple[str, ...] = ()):
    """A pure function of (config, ...), jitted for a network."""
    return jax.jit(functools.partial(function, config), static_argnames=static)


def put_standing(values: Float[np.ndarray, "*K 4 L"], window: Window, reference: float) -> None:
    """Puts the prediction as it is where the substitute is the base itself."""
    known = np.flatnonzero(window.wanted & (window.codes != sequence.UNKNOWN))
    values[..., digits(window)[known], known] = reference


def _one_strand(
    model: Model,
    windows: Sequence[Window],
    table: Table | Taps | None,
    update: Callable[[int], object] = lambda windows: None,
) -> Predicted:
    config = model.info.model
    variables = model.variables
    scan = compiled(_scan, config, ("phase",))
    bases, valid = arrays(windows, model.info.unknown_base)
    answers = []

    def call(batch: Batch):
        given = bases[batch.rows], valid[batch.rows], batch.tiles(), batch.table
        answer, found = scan(variables, *given, phase=batch.phase)
        answers.append((batch.rows[: batch.count], answer))
        return found

    changed = np.full((1, len(windows), 4, config.window_bp), np.nan)
    fill(changed, windows, config, table, call)
    reference = np.zeros(len(windows))
    for rows, answer in answers:
        reference[rows] = np.asarray(answer)[: len(rows)]
    for row, window in enumerate(windows):
        put_standing(changed[0, row], window, reference[row])
    update(len(windows))
    return Predicted(reference, changed[0])


def _scan(
    config: ActivityConfig,
    variables: Variables,
    bases: Float[Array, "N L A"],
    valid: Bool[Array, "N L"],
    tiles: Tiles,
    table: Table | Taps | None,
    *,
    phase: int,
) -> tuple[Float[Array, "N"], Float[Array, "N V Q"]]:
    """log activity of windows as they are, and with each substitution: in one call, as the first
    takes a small share of the second's time.
    """
    taps = None if table is None else local_kmers.taps_of(table)
    own = local_reference.reference(config, variables, bases, valid, taps)
    found = local.activity_changes(config, variables, own, tiles, table, phase=phase)
    return own.answer, found


def _power_of_two(count: int) -> int:
    return 1 << max(count - 1, 0).bit_length()
