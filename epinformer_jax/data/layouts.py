"""How much room a batch has, and which track each of its sequences stands on.

The encoder runs over *tracks*: long rows on which the windows of many sequences stand one behind
another, each as wide as its sequence needs, with a small gap between two. So hardly a position is
computed that no sequence needs, whatever lengths come together. Shapes must be few and fixed, or
every batch would compile anew: a `Plan` is made once from the lengths of all sequences, a short
ladder of layouts of which a batch takes the first that fits. The last one fits any batch, so
nothing is ever left out.

Lengths on a track are counted in *blocks* of `stride` bases: one position behind the encoder. A
window lies in the middle of the model's, begins with a block of it, and holds the sequence with a
margin; or it is the whole of it. Behind the encoder each sequence has *places* on a second track:
its window's blocks, behind as many of all-zero DNA as the summary's convolutions reach, or all
blocks of the model's window where those would leave it.
"""

import dataclasses
import heapq
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Int

TRACKS = 8  # of a batch of genes at most: a power of two, to divide evenly over as many devices
ROOM_STEP = 8
SIMULATED = 512  # batches from which a ladder is made; one in 500 is larger than its last but one
RARE = 0.002
SIZES_AN_OCTAVE = 8  # of a track of sequences without their genes


@dataclasses.dataclass(frozen=True)
class Geometry:
    """What laying out has to know of a network (`model.architecture.ExpressionConfig.geometry`).

    Attributes:
      window_bp: the model's window.
      stride: bases of a block, a position behind the encoder.
      margin_bp: bases beyond a sequence's ends that it can change, and those it may move by.
      gap_bp: bases between two windows, a multiple of the stride.
      reach: blocks that the convolutions behind the encoder reach, in all.
    """

    window_bp: int
    stride: int
    margin_bp: int
    gap_bp: int
    reach: int

    @property
    def blocks(self) -> int:
        """Blocks of the model's window."""
        return self.window_bp // self.stride

    @property
    def gap(self) -> int:
        """Blocks of a gap."""
        return self.gap_bp // self.stride

    @property
    def edge(self) -> int:
        """Blocks at either end of the model's window where all-zero DNA answers otherwise than in
        the middle, or is next to one that does.
        """
        return -(-(self.margin_bp + self.stride) // self.stride)

    def widths(self, lengths: Int[np.ndarray, "N"]) -> Int[np.ndarray, "N"]:
        """Blocks of each sequence's window."""
        # one base more than both margins: an odd length is centred half a base to the left
        needed = -(-(np.asarray(lengths) + 2 * self.margin_bp + 1) // self.stride)
        needed += (self.blocks - needed) % 2
        return np.where(needed + 2 * self.edge > self.blocks, self.blocks, needed)

    def places(self, widths: Int[np.ndarray, "N"]) -> Int[np.ndarray, "N"]:
        """Places of each sequence behind the encoder; those of a window that is not near the ends
        are its own and `reach` before it.
        """
        is_inner = widths + 2 * (self.reach + self.edge) <= self.blocks
        return np.where(is_inner, widths + self.reach, self.blocks)


class Layout(NamedTuple):
    """Room of a batch: blocks and places of each track, sequences in all."""

    blocks: int
    places: int
    rows: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """The ladder of layouts for batches of `batch_size` genes with up to `slots` sequences each."""

    geometry: Geometry
    batch_size: int
    slots: int
    tracks: int
    layouts: tuple[Layout, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `Plan.from_dict` is the inverse."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Plan":
        """The plan written by `to_dict`."""
        fields = dict(fields)
        fields["geometry"] = Geometry(**fields["geometry"])
        fields["layouts"] = tuple(Layout(*layout) for layout in fields["layouts"])
        return cls(**fields)

    def deal(
        self, lengths: Int[np.ndarray, "N"], *, by: Literal["blocks", "places"] = "blocks"
    ) -> tuple[Layout, list[list[int]]]:
        """The layout of a batch of such sequences, and which of them stand on each track, in order.

        Raises:
          ValueError: no layout holds them: the batch is not one the plan was made for.
        """
        members, needed = _dealt(self.geometry, lengths, self.tracks, by)
        for layout in self.layouts:
            if all(room >= need for room, need in zip(layout, needed, strict=True)):
                return layout, members
        raise ValueError(
            f"a batch that needs {needed} exceeds every layout {self.layouts}; make the plan from "
            "this data set"
        )


def make_plan(
    lengths: Sequence[Int[np.ndarray, "_"]],
    *,
    geometry: Geometry,
    batch_size: int,
    slots: int,
    layouts: int = 8,
    by: Literal["blocks", "places"] = "blocks",
    seed: int = 0,
) -> Plan:
    """Chooses layouts from the sequence lengths of every gene (promoter included).

    `layouts` of them waste the least over simulated batches: more waste less, but each is compiled.
    To these comes one that fits any batch; it is compiled only when such a batch is met. Tracks are
    filled evenly `by` blocks, or by places where only those are computed.

    Raises:
      ValueError: no genes, or a sequence longer than the window.
    """
    if not lengths:
        raise ValueError("there is no gene to plan batches for")
    longest = max(int(own.max()) for own in lengths)
    if longest > geometry.window_bp:
        raise ValueError(
            f"a sequence of {longest} bases does not fit window_bp={geometry.window_bp}"
        )
    tracks = _tracks(lengths, geometry, batch_size)
    rng = np.random.default_rng(seed)
    needed = []
    while len(needed) < (SIMULATED if len(lengths) > batch_size else 1):
        order = rng.permutation(len(lengths))
        for first in range(0, max(len(order) - batch_size + 1, 1), batch_size):
            chosen = np.concatenate([lengths[i] for i in order[first : first + batch_size]])
            needed.append(_dealt(geometry, chosen, tracks, by)[1])
    needed = np.array(needed[:SIMULATED])
    primary = needed[:, Layout._fields.index(by)]
    usual = primary <= np.quantile(primary, 1 - RARE, method="higher")
    ladder, below = [], -1
    for most in _levels(primary[usual], layouts):
        step = needed[(primary > below) & (primary <= most)]
        ladder.append(Layout(*map(int, step.max(axis=0))))
        below = most
    ladder.append(_any_batch(lengths, geometry, batch_size, tracks, by))
    return Plan(geometry, batch_size, slots, tracks, _ascending(ladder))


class TrackBatch(NamedTuple):
    """Sequences that are encoded together, without their genes.

    Attributes:
      members: which they are.
      layout: the room of the batch.
      dealt: on each track, the places of its sequences in `members`.
    """

    members: Int[np.ndarray, "N"]
    layout: Layout
    dealt: list[list[int]]


def track_batches(
    lengths: Int[np.ndarray, "N"],
    *,
    geometry: Geometry,
    positions: int,
    chosen: Int[np.ndarray, "M"] | None = None,
    tracks: int = 1,
) -> Iterator[TrackBatch]:
    """Deals sequences to batches of few shapes, of `tracks` tracks of about `positions` bases each.

    With `chosen` only these sequences are dealt; sizes suit all, and are rounded, so that other
    choices meet the same shapes.

    Raises:
      ValueError: a sequence is longer than the window.
    """
    if not len(lengths):
        return
    if max(lengths) > geometry.window_bp:
        raise ValueError(
            f"a sequence of {max(lengths)} bases does not fit window_bp={geometry.window_bp}"
        )
    widths = geometry.widths(lengths)
    cost = np.stack([widths + geometry.gap, geometry.places(widths), np.ones_like(widths)], axis=1)
    ends = np.array([2 * geometry.gap, geometry.reach, 0])
    longest = cost.max(axis=0)
    most = max(positions // geometry.stride, longest[0] + ends[0])
    # room of a full track for what usually comes together, and a little more
    usual = cost.mean(axis=0) * (most / cost[:, 0].mean())
    room = np.ceil(np.maximum(1.1 * usual, longest)).astype(int) + ends
    room[0] = most
    # tracks are filled evenly but for one sequence
    fitting = tracks * (room - ends) - (tracks - 1) * longest
    left = np.arange(len(lengths)) if chosen is None else np.asarray(chosen)
    total = cost[left].sum(axis=0)
    calls = int(np.ceil(np.max(total / fitting)))
    if calls > 1:  # of about the same size, none of them nearly empty
        even = total / calls / tracks + longest + ends
        room = np.minimum(_rounded(np.ceil(even).astype(int)), room)
        fitting = tracks * (room - ends) - (tracks - 1) * longest
    while len(left):
        used = np.cumsum(cost[left], axis=0)
        count = max(int(np.argmin(np.append((used <= fitting).all(axis=1), False))), 1)
        own, left = left[:count], left[count:]
        dealt, needed = _dealt(geometry, lengths[own], tracks, "blocks")
        if calls == 1:
            room = np.minimum(_rounded(np.array(needed)), room * (1, 1, tracks))
            yield TrackBatch(own, Layout(*map(int, room)), dealt)
        else:
            yield TrackBatch(own, Layout(int(room[0]), int(room[1]), int(room[2]) * tracks), dealt)


def _dealt(geometry: Geometry, lengths, tracks: int, by: str) -> tuple[list[list[int]], Layout]:
    """Sequences on tracks, the longest first and each on the track with most room, and the room
    they need.
    """
    widths = geometry.widths(lengths)
    places = geometry.places(widths)
    cost = widths if by == "blocks" else places
    loads = [(0, 0, number) for number in range(tracks)]
    members: list[list[int]] = [[] for _ in range(tracks)]
    used = np.zeros((tracks, 2), np.int64)
    # whole windows come first on every track, as `pack_tracks` wants them
    for row in np.lexsort((-places, -widths)).tolist():
        load, _, number = heapq.heappop(loads)
        members[number].append(row)
        used[number] += widths[row] + geometry.gap, places[row]
        heapq.heappush(loads, (load + int(cost[row]) + geometry.gap, len(members[number]), number))
    blocks, count = used.max(axis=0).tolist()
    return members, Layout(blocks + 2 * geometry.gap, count + geometry.reach, len(lengths))


def _levels(needed: Int[np.ndarray, "N"], count: int) -> list[int]:
    """At most `count` sizes, ascending, of which each need takes the next one, with the least waste
    in all.
    """
    sizes, times = np.unique(needed, return_counts=True)
    below = np.concatenate([[0], np.cumsum(times)])
    # cost[j]: room of all needs up to sizes[j], which is chosen; one level more in each turn
    cost, before = below[1:] * sizes, []
    for _ in range(min(count, len(sizes)) - 1):
        options = np.full((len(sizes), len(sizes)), np.inf)
        for j in range(1, len(sizes)):
            options[j, :j] = cost[:j] + (below[j + 1] - below[1 : j + 1]) * sizes[j]
        before.append(np.argmin(options, axis=1))
        cost = np.minimum(options.min(axis=1), below[1:] * sizes)
    chosen, place = [int(sizes[-1])], len(sizes) - 1
    for step in reversed(before):
        place = int(step[place])
        chosen.append(int(sizes[place]))
    return sorted(set(chosen))


def _tracks(lengths, geometry: Geometry, batch_size: int) -> int:
    """As many tracks as a usual batch fills with a whole window each: fewer longer ones are filled
    more evenly.
    """
    usual = batch_size * np.mean([geometry.widths(own).sum() for own in lengths])
    return int(np.clip(2 ** np.floor(np.log2(usual / geometry.blocks)), 1, TRACKS))


def _any_batch(lengths, geometry: Geometry, batch_size: int, tracks: int, by: str) -> Layout:
    """Room for any genes together: an even share of the largest ones' and one sequence more on each
    track.
    """
    widths = [geometry.widths(own) for own in lengths]
    needed = [(w.sum() + geometry.gap * len(w), geometry.places(w).sum(), len(w)) for w in widths]
    blocks, places, rows = np.sort(needed, axis=0)[::-1][:batch_size].sum(axis=0).tolist()
    every = np.unique(np.concatenate(widths))
    cost = np.stack([every + geometry.gap, geometry.places(every)])
    if by == "blocks":
        blocks = min(blocks, blocks // tracks + cost[0].max())
        places = min(places, np.ceil(blocks * (cost[1] / cost[0]).max()))
    else:
        even = (places + geometry.gap * rows) // tracks  # each sequence is dealt with its gap
        places = min(places, even + cost[1].max() + geometry.gap)
        blocks = min(blocks, np.ceil(places * (cost[0] / cost[1]).max()))
    return Layout(int(blocks) + 2 * geometry.gap, int(places) + geometry.reach, rows)


def _ascending(ladder: list[Layout]) -> tuple[Layout, ...]:
    """Layouts of which each has room for what the one before holds, without repeats; rounded up, so
    that nearly equal ones are the same.
    """
    grown = -(-np.maximum.accumulate(np.array(ladder), axis=0) // ROOM_STEP) * ROOM_STEP
    return tuple(Layout(*own) for own in dict.fromkeys(map(tuple, grown.tolist())))


def _rounded(needed: Int[np.ndarray, "_"]) -> Int[np.ndarray, "_"]:
    """The next of few sizes: SIZES_AN_OCTAVE between a number and its double."""
    octave = np.exp2(np.floor(np.log2(np.maximum(needed, 1))))
    step = np.maximum(octave // SIZES_AN_OCTAVE, 1)
    return (np.ceil(needed / step) * step).astype(np.int64)
