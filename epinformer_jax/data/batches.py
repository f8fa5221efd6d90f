"""Packs sequences and genes into batches, plain NumPy arrays, as data/layouts.py lays them out."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from epinformer_jax.data.layouts import Geometry, Layout, Plan

BACKGROUND, NOTHING = 0, 1  # gaps: all-zero DNA, or what lies past the ends of the model's window

Batch = dict[str, Any]


class Sequences(NamedTuple):
    """The sequences of one gene: promoter first, then elements; each no longer than the window."""

    codes: list[UInt8[np.ndarray, "_"]]

    @property
    def lengths(self) -> Int[np.ndarray, "N"]:
        """Bases of each sequence."""
        return np.array([len(codes) for codes in self.codes], np.int64)


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
    layout, members = plan.deal(np.array([len(codes) for codes in flat]))
    row_of_slot = np.zeros((size, slots), np.int32)
    mask = np.zeros((size, slots), bool)
    mask[:, 0] = True
    link = np.zeros((size, slots, link_features[0].shape[1]), np.float32)
    gene = np.repeat(np.arange(len(sequences)), counts)
    slot = np.concatenate([np.arange(count) for count in counts])
    row_of_slot[gene, slot] = np.arange(len(flat))
    mask[gene, slot] = True
    link[gene, slot] = np.concatenate(link_features)
    return {
        **pack_tracks(plan.geometry, flat, layout, members),
        "row_of_slot": row_of_slot,
        "mask": mask,
        "empty_rows": np.float32(len(sequences) * slots - len(flat)),
        "link_features": link,
        "gene_features": _fill(np.asarray(gene_features, np.float32), size),
        "labels": _fill(np.asarray(labels, np.float32), size),
        "weight": _fill(np.ones(len(sequences), np.float32), size),
    }


def pack_tracks(
    geometry: Geometry,
    codes: Sequence[UInt8[np.ndarray, "_"]],
    layout: Layout,
    members: Sequence[Sequence[int]],
) -> Batch:
    """Sequences on tracks: fields of model.tracks.Tracks and model.tracks.Placed, as `tracks` and
    `placed`; `members` says which stand on each track.
    """
    lengths = np.array([len(own) for own in codes], np.int64)
    stride, widths = geometry.stride, geometry.widths(lengths)
    bases = np.zeros((len(members), layout.blocks * stride), np.uint8)
    row_of_block = np.full((len(members), layout.blocks), layout.rows + BACKGROUND, np.int32)
    low, track = np.zeros(len(codes), np.int64), np.zeros(len(codes), np.int64)
    for number, own in enumerate(members):
        whole = sum(widths[row] == geometry.blocks for row in own)  # they come first
        if whole:
            end = whole * (geometry.gap + geometry.blocks) + geometry.gap
            row_of_block[number, :end] = layout.rows + NOTHING
        at = 0
        for place, row in enumerate(own):
            at += geometry.gap * (2 if place == whole > 0 else 1)
            row_of_block[number, at : at + widths[row]] = row
            low[row], track[row] = at * stride, number
            at += widths[row]
    start = (geometry.blocks - widths) // 2 * stride
    begin = low + geometry.window_bp // 2 - lengths // 2 - start
    for row, own in enumerate(codes):
        bases[track[row], begin[row] : begin[row] + len(own)] = own
    placed = {
        "track": track,
        "begin": begin,
        "length": lengths,
        "low": low,
        "high": low + widths * stride,
        "start": start,
    }
    behind, slots = lay_places(geometry, widths, layout, members)
    block = np.where(
        (behind["row"] < layout.rows) & (behind["block"] >= 0),
        behind["block"] + _fill(low // stride, layout.rows + 1)[behind["row"]],
        layout.blocks,
    )
    return {
        "tracks": {
            "nibbles": bases[:, 0::2] | (bases[:, 1::2] << 4),
            "row_of_block": row_of_block,
            "block": block.astype(np.int32),
            "row": behind["row"],
            "position": behind["position"],
        },
        "placed": {
            name: _fill(values.astype(np.int32), layout.rows)
            for name, values in {**placed, **slots}.items()
        }
        | {"weight": _fill(np.ones(len(codes), np.float32), layout.rows)},
    }


def lay_places(
    geometry: Geometry,
    widths: Int[np.ndarray, "N"],
    layout: Layout,
    members: Sequence[Sequence[int]],
) -> tuple[Batch, Batch]:
    """Where sequences stand behind the encoder.

    Of each place: its `row` (layout.rows where there is none), the `position` in the model's window
    that it stands for, and which `block` of the row's window that is (-1: outside of it, all-zero
    DNA). Of each sequence: the `first` position it has a place for, and one behind the `last`.
    """
    count = geometry.places(widths)
    start = (geometry.blocks - widths) // 2
    first = np.where(count == geometry.blocks, 0, start - geometry.reach)
    shape = (len(members), layout.places)
    row = np.full(shape, layout.rows, np.int32)
    position = np.full(shape, geometry.blocks // 2, np.int32)
    block = np.full(shape, -1, np.int32)
    for number, own in enumerate(members):
        if not len(own):
            continue
        own = np.asarray(own)
        ends = np.cumsum(count[own])
        row[number, : ends[-1]] = np.repeat(own, count[own])
        at = np.arange(ends[-1]) - np.repeat(ends - count[own], count[own])
        position[number, : ends[-1]] = at + np.repeat(first[own], count[own])
        inside = position[number, : ends[-1]] - np.repeat(start[own], count[own])
        is_inside = (inside >= 0) & (inside < np.repeat(widths[own], count[own]))
        block[number, : ends[-1]] = np.where(is_inside, inside, -1)
    return {"row": row, "position": position, "block": block}, {
        "first": first,
        "last": first + count,
    }


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


def pack_windows(
    codes: Sequence[UInt8[np.ndarray, "_"]],
    labels: Float[np.ndarray, "N"],
    *,
    window_bp: int,
    batch_size: int,
) -> Batch:
    """One batch for the activity model (fields of model.packing.PackedWindows): sequences in the
    middle of rows of `window_bp` bases, filled up with rows of weight 0.
    """
    bases = np.zeros((batch_size, window_bp), np.uint8)
    offset = np.zeros(batch_size, np.int32)
    length = np.zeros(batch_size, np.int32)
    for row, sequence in enumerate(codes):
        offset[row] = window_bp // 2 - len(sequence) // 2
        length[row] = len(sequence)
        bases[row, offset[row] : offset[row] + len(sequence)] = sequence
    rows = {
        "nibbles": bases[:, 0::2] | (bases[:, 1::2] << 4),
        "offset": offset,
        "length": length,
        "weight": _fill(np.ones(len(codes), np.float32), batch_size),
    }
    return {"rows": rows, "labels": _fill(np.asarray(labels, np.float32), batch_size)}


def _fill(values, size: int):
    padding = [(0, size - len(values))] + [(0, 0)] * (values.ndim - 1)
    return np.pad(values, padding)
