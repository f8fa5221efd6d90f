"""Lays batches out on the host: which window width each sequence goes to, and how many rows of each
width a batch has.

Shapes must be few and fixed, or every batch would compile anew. A `Plan` is made once from the
lengths of all sequences: window widths that waste few positions, and a short ladder of layouts (row
capacities), of which a batch takes the first that fits. The last one fits any batch, so nothing is
ever left out. Widths W are congruent to the full window modulo twice the encoder's stride, which
puts a centred window's start on a multiple of the stride (model/encoder.py relies on it).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

CAPACITY_STEP = (
    8  # capacities are multiples of this, so that rows divide evenly over up to 8 devices
)
# Share of batches that each layout but the last should fit, by the number of layouts: more waste
# less, but each is compiled.
LADDERS = {
    1: (0.998,),
    2: (0.8, 0.998),
    3: (0.5, 0.85, 0.998),
    4: (0.4, 0.7, 0.9, 0.998),
    5: (0.3, 0.6, 0.8, 0.95, 0.998),
    8: (0.15, 0.3, 0.45, 0.6, 0.75, 0.87, 0.95, 0.998),
}
MAX_WIDTHS = 5  # of one batch of genes
MAX_ROW_WIDTHS = 12  # of rows that are encoded without their genes, each width on its own

Batch = dict[str, Any]


class Sequences(NamedTuple):
    """The sequences of one gene: promoter first, then elements; each no longer than the window."""

    codes: list[UInt8[np.ndarray, "_"]]

    @property
    def lengths(self) -> Int[np.ndarray, "N"]:
        """Bases of each sequence."""
        return np.array([len(codes) for codes in self.codes], np.int64)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Window widths, ascending, and the ladder of layouts: rows of each width."""

    window_bp: int
    batch_size: int
    slots: int
    margin_bp: int
    widths: tuple[int, ...]
    layouts: tuple[tuple[int, ...], ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `Plan.from_dict` is the inverse."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Plan":
        """The plan written by `to_dict`."""
        fields = dict(fields)
        fields["widths"] = tuple(fields["widths"])
        fields["layouts"] = tuple(tuple(layout) for layout in fields["layouts"])
        return cls(**fields)

    def width_of(self, lengths: Int[np.ndarray, "N"]) -> Int[np.ndarray, "N"]:
        """Index of the narrowest width that holds each sequence and its margin."""
        return np.searchsorted(self.widths, _needed(lengths, self.margin_bp, self.window_bp))

    def layout_for(self, counts: Int[np.ndarray, "K"]) -> tuple[int, ...]:
        """The first layout that holds `counts` rows of each width; narrow rows may take wider
        places.

        Raises:
          ValueError: none does: the batch is not one the plan was made for.
        """
        demand = _suffix_sums(np.asarray(counts))
        for layout in self.layouts:
            if (demand <= _suffix_sums(np.array(layout))).all():
                return layout
        raise ValueError(
            f"a batch with {list(counts)} rows of widths {list(self.widths)} exceeds every layout "
            f"{self.layouts}; "
            f"make the plan from this data set"
        )


def make_plan(
    lengths: Sequence[Int[np.ndarray, "_"]],
    *,
    batch_size: int,
    window_bp: int,
    slots: int,
    stride: int,
    margin_bp: int,
    layouts: int = 3,
    most_widths: int = MAX_WIDTHS,
    seed: int = 0,
) -> Plan:
    """Chooses widths and layouts from the sequence lengths of every gene (promoter included).

    The widths minimise the positions computed; capacities are quantiles over simulated batches,
    rounded up. To `layouts` of them (a key of LADDERS) comes one that fits the largest genes
    together; it is compiled only when such a batch is met.

    Raises:
      ValueError: no genes, or a sequence longer than the window.
    """
    if not lengths:
        raise ValueError("there is no gene to plan batches for")
    everything = np.concatenate(lengths)
    if everything.max() > window_bp:
        raise ValueError(
            f"a sequence of {everything.max()} bases does not fit window_bp={window_bp}"
        )
    needed = _needed(everything, margin_bp, window_bp)
    widths = _choose_widths(needed, window_bp, 2 * stride, most=most_widths)
    index = [np.searchsorted(widths, _needed(gene, margin_bp, window_bp)) for gene in lengths]
    counts = np.stack([np.bincount(gene, minlength=len(widths)) for gene in index])
    demand = _suffix_sums(counts)
    largest = np.sort(demand, axis=0)[::-1][:batch_size].sum(axis=0)
    rng = np.random.default_rng(seed)
    draws = 64 if len(lengths) > batch_size else 1
    sums = []
    for _ in range(draws):
        order = rng.permutation(len(lengths))
        starts = np.arange(0, max(len(order) - batch_size + 1, 1), batch_size)
        whole = order[: len(starts) * batch_size]
        sums.append(np.add.reduceat(demand[whole], starts, axis=0))
    sums = np.concatenate(sums)[:4096]
    ladder = [_capacities(np.quantile(sums, share, axis=0)) for share in LADDERS[layouts]]
    ladder.append(_capacities(largest))
    distinct = sorted(set(ladder), key=lambda layout: float(np.dot(layout, widths)))
    last = distinct.index(_capacities(largest))
    return Plan(window_bp, batch_size, slots, margin_bp, tuple(widths), tuple(distinct[: last + 1]))


def pack_genes(
    plan: Plan,
    sequences: Sequence[Sequences],
    link_features: Sequence[Float[np.ndarray, "_ P"]],
    gene_features: Float[np.ndarray, "N G"],
    labels: Float[np.ndarray, "N"],
) -> Batch:
    """One batch as plain arrays (fields of model.packing.PackedGenes); short batches are filled
    with weight 0.

    `link_features` has a row for each sequence of a gene. A gene with more sequences than the plan
    has slots is an error.
    """
    size, slots = plan.batch_size, plan.slots
    counts = np.array([len(gene.codes) for gene in sequences])
    if len(sequences) > size or (counts > slots).any():
        raise ValueError(
            f"{len(sequences)} genes of up to {counts.max()} sequences do not fit a batch of "
            f"{size} genes, {slots} slots"
        )
    flat = [codes for gene in sequences for codes in gene.codes]
    layout, row = deal_rows(plan, np.array([len(codes) for codes in flat]))
    order, first = np.argsort(row), np.concatenate([[0], np.cumsum(layout)])
    groups = np.split(order, np.searchsorted(row[order], first[1:-1]))
    rows = [
        pack_rows([flat[i] for i in members], plan.window_bp, width, capacity)
        for width, capacity, members in zip(plan.widths, layout, groups, strict=True)
    ]
    row_of_slot = np.zeros((size, slots), np.int32)
    mask = np.zeros((size, slots), bool)
    mask[:, 0] = True
    link = np.zeros((size, slots, link_features[0].shape[1]), np.float32)
    gene = np.repeat(np.arange(len(sequences)), counts)
    slot = np.concatenate([np.arange(count) for count in counts])
    row_of_slot[gene, slot] = row
    mask[gene, slot] = True
    link[gene, slot] = np.concatenate(link_features)
    return {
        "rows": tuple(row for row in rows if len(row["weight"])),
        "row_of_slot": row_of_slot,
        "mask": mask,
        "empty_rows": np.float32(len(sequences) * slots - len(flat)),
        "link_features": link,
        "gene_features": _fill(np.asarray(gene_features, np.float32), size),
        "labels": _fill(np.asarray(labels, np.float32), size),
        "weight": _fill(np.ones(len(sequences), np.float32), size),
    }


def deal_rows(
    plan: Plan, lengths: Int[np.ndarray, "N"]
) -> tuple[tuple[int, ...], Int[np.ndarray, "N"]]:
    """The layout of a batch of such sequences, and each one's row among all rows of all widths: of
    its own width while there is room, else of the next wider one.
    """
    width = plan.width_of(lengths)
    layout = plan.layout_for(np.bincount(width, minlength=len(plan.widths)))
    row = np.empty(len(width), np.int64)
    waiting, first = np.empty(0, np.int64), 0
    for k, capacity in enumerate(layout):
        candidates = np.concatenate([waiting, np.flatnonzero(width == k)])
        taken, waiting = candidates[:capacity], candidates[capacity:]
        row[taken] = first + np.arange(len(taken))
        first += capacity
    return layout, row


def most_unknown_kmers(genes: Sequence[Sequences], *, batch_size: int, width: int) -> int:
    """Most windows of `width` bases, within their sequence, that hold an unknown base, in any batch
    of these genes.
    """
    counts = np.zeros(len(genes), np.int64)
    for row, gene in enumerate(genes):
        for codes in gene.codes:
            if len(codes) >= width and not codes.all():
                unknown = np.concatenate([[0], np.cumsum(codes == 0)])
                counts[row] += np.count_nonzero(unknown[width:] > unknown[:-width])
    return int(np.sort(counts)[::-1][:batch_size].sum())


class RowBatch(NamedTuple):
    """Sequences that are encoded together, without their genes.

    Attributes:
      members: which they are.
      width: their window, bases.
      capacity: rows of the batch; as many for all batches of a width.
    """

    members: Int[np.ndarray, "N"]
    width: int
    capacity: int


def row_batches(
    lengths: Int[np.ndarray, "N"],
    *,
    window_bp: int,
    stride: int,
    margin_bp: int,
    positions: int,
    compile_cost: int,
    chosen: Int[np.ndarray, "M"] | None = None,
) -> list[RowBatch]:
    """Deals sequences to batches of few shapes, of about `positions` bases each with their padding.

    Each width is compiled once, which is taken to cost as much as computing `compile_cost`
    positions. With `chosen` only these sequences are dealt; widths suit all, and capacities are
    rounded, so that other choices of about as many meet the same shapes.

    Raises:
      ValueError: a sequence is longer than the window.
    """
    if not len(lengths):
        return []
    if max(lengths) > window_bp:
        raise ValueError(f"a sequence of {max(lengths)} bases does not fit window_bp={window_bp}")
    needed = _needed(lengths, margin_bp, window_bp)
    widths = _choose_widths(needed, window_bp, 2 * stride, most=MAX_ROW_WIDTHS, each=compile_cost)
    dealt = np.arange(len(lengths)) if chosen is None else chosen
    width_of = np.searchsorted(widths, needed[dealt])
    found = []
    for k, width in enumerate(widths):
        members = dealt[width_of == k]
        if len(members):
            count = -(-len(members) // max(1, positions // width))
            rows = -(-len(members) // count)
            step = max(CAPACITY_STEP, 2 ** (rows.bit_length() - 3))
            capacity = -(-rows // step) * step
            starts = np.arange(capacity, len(members), capacity)
            found += [RowBatch(part, width, capacity) for part in np.split(members, starts)]
    return found


def pack_windows(
    codes: Sequence[UInt8[np.ndarray, "_"]],
    labels: Float[np.ndarray, "N"],
    *,
    window_bp: int,
    batch_size: int,
) -> Batch:
    """One batch for the activity model (fields of model.packing.PackedWindows); sequences are
    centred in the window.
    """
    rows = pack_rows(list(codes), window_bp, window_bp, batch_size)
    return {"rows": rows, "labels": _fill(np.asarray(labels, np.float32), batch_size)}


def pack_rows(
    codes: Sequence[UInt8[np.ndarray, "_"]], window_bp: int, width: int, capacity: int
) -> Batch:
    """Sequences in the middle of windows of one width (fields of model.packing.PackedRows), filled
    up to `capacity` rows with weight 0.
    """
    bases = np.zeros((capacity, width), np.uint8)
    offset = np.zeros(capacity, np.int32)
    length = np.zeros(capacity, np.int32)
    start = (window_bp - width) // 2
    for row, sequence in enumerate(codes):
        offset[row] = window_bp // 2 - len(sequence) // 2 - start
        length[row] = len(sequence)
        bases[row, offset[row] : offset[row] + len(sequence)] = sequence
    return {
        "nibbles": bases[:, 0::2] | (bases[:, 1::2] << 4),
        "offset": offset,
        "length": length,
        "weight": _fill(np.ones(len(codes), np.float32), capacity),
    }


def _needed(lengths, margin_bp: int, window_bp: int):
    # one more than both margins: an odd length is centred half a base to the left
    return np.minimum(np.asarray(lengths) + 2 * margin_bp + 1, window_bp)


def _choose_widths(needed, window_bp: int, step: int, *, most: int, each: int = 0) -> list[int]:
    """At most `most` widths from window_bp down in `step`s, the full one always, minimising total
    positions, where a width more counts as `each`.
    """
    candidates = np.arange(window_bp, max(needed.min() - step, 0), -step)[::-1]
    counts = np.bincount(np.searchsorted(candidates, needed), minlength=len(candidates))
    below = np.concatenate([[0], np.cumsum(counts)])
    n = len(candidates)
    # cost[k][j]: fewest positions for all rows up to candidate j, with j chosen and k widths in all
    cost = np.full((most + 1, n), np.inf)
    previous = np.full((most + 1, n), -1)
    cost[1] = below[1:] * candidates
    for k in range(2, most + 1):
        for j in range(k - 1, n):
            options = cost[k - 1, :j] + (below[j + 1] - below[1 : j + 1]) * candidates[j]
            best = int(np.argmin(options))
            cost[k, j], previous[k, j] = options[best], best
    k = int(np.argmin(cost[:, n - 1] + each * np.arange(len(cost))))
    chosen, j = [], n - 1
    while j >= 0:
        chosen.append(int(candidates[j]))
        j, k = int(previous[k, j]), k - 1
    return chosen[::-1]


def _suffix_sums(counts):
    """Rows that need this width or a wider one: what a layout must hold, width by width."""
    return np.cumsum(counts[..., ::-1], axis=-1)[..., ::-1]


def _capacities(demand) -> tuple[int, ...]:
    total = _round_up(np.asarray(demand))
    total = np.maximum.accumulate(total[::-1])[::-1]
    return tuple(int(c) for c in total - np.append(total[1:], 0))


def _round_up(count):
    return np.ceil(count / CAPACITY_STEP).astype(int) * CAPACITY_STEP


def _fill(values, size: int):
    padding = [(0, size - len(values))] + [(0, 0)] * (values.ndim - 1)
    return np.pad(values, padding)
