"""Every substitution of every position, recomputing only what a substitution can reach.

A base reaches few positions of each layer (local_places.py says which). The unchanged sequence is
computed once (local_reference.py); for each substitution the *differences* are carried from layer
to layer, as rows (local_rows.py): one matrix product over all rows, and one pass that adds up taps
by numbers of rows that are known at trace time. Equal to mutating and computing anew; positions
outside a sequence stay the zeros that padding is. All sums are in the parameters' dtype, whatever
`compute_dtype` says.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from epinformer_jax.model import functional, kmers, layers, local_kmers, local_places
from epinformer_jax.model.architecture import ActivityConfig, ExpressionConfig
from epinformer_jax.model.functional import Variables
from epinformer_jax.model.kmers import Table, Taps
from epinformer_jax.model.local_kmers import Lookup
from epinformer_jax.model.local_places import NONE, Places, Step
from epinformer_jax.model.local_reference import (
    DTYPE,
    Reference,
    first_map,
    rest_of_head,
    stages,
)
from epinformer_jax.model.local_rows import (
    PRECISION,
    Change,
    Runs,
    Tiles,
    by_position,
    convolve,
    reference_at,
    runs_of,
    select,
)


def embedding_changes(
    config: ExpressionConfig,
    variables: Variables,
    reference: Reference,
    tiles: Tiles,
    table: Table | Taps | None = None,
    *,
    phase: int,
) -> Float[Array, "N V Q D"]:
    """Embeddings of the sequences with each substitution, as functional.encode gives them.

    `phase` is the start modulo the tower's stride.
    """
    model = functional.bind(config, variables)
    runs = runs_of(config, reference, tiles, phase)
    change = _through_layers(model, reference, tiles, runs, table)
    kernel = model.summary.pool.kernel[...]
    index = runs.index(change.places.position, change.bases)
    taps = kernel.at[jnp.clip(index, 0, kernel.shape[0] - 1)].get(mode="promise_in_bounds")
    own = _is_own(change.places)[..., None, None].astype(taps.dtype) * taps[None]
    added = jnp.einsum("qrjp,rjnvf->qjnvfp", own, change.x, precision=PRECISION)
    pooled = layers.elu(reference.last[None, None, :, None] + added)
    return by_position(pooled.reshape(*pooled.shape[:4], -1))


def activity_changes(
    config: ActivityConfig,
    variables: Variables,
    reference: Reference,
    tiles: Tiles,
    table: Table | Taps | None = None,
    *,
    phase: int,
) -> Float[Array, "N V Q"]:
    """log activity of the sequences with each substitution, as functional.activity gives it for
    this strand.

    `phase` is the start modulo the tower's stride.
    """
    model = functional.bind(config, variables)
    runs = runs_of(config, reference, tiles, phase)
    change = _through_layers(model, reference, tiles, runs, table)
    linear = first_map(model.head)
    if config.pool == "mean":
        own = _is_own(change.places).astype(change.x.dtype) / reference.outputs[-1].shape[1]
        added = jnp.einsum("qr,rjnvc->qjnvc", own, change.x, precision=PRECISION)
        added = jnp.matmul(added, linear.kernel[...][None, None, None], precision=PRECISION)
    else:
        kernel = linear.kernel[...].reshape(-1, change.x.shape[-1], linear.kernel.shape[1])
        added = _through_flat_map(kernel, change, runs)
    x = added + reference.last[None, None, :, None]
    found = rest_of_head(model.head, x.reshape(-1, x.shape[-1])).reshape(x.shape[:4])
    return by_position(found)


def _through_layers(
    model: Any, reference: Reference, tiles: Tiles, runs: Runs, table: Table | Taps | None
) -> Change:
    blocks, done = model.encoder.blocks, isinstance(table, Table)
    if table is None:
        change = _through_stem(model.encoder, reference, runs)
        taps = change._replace(x=convolve(blocks[0].conv, change.x))
    else:
        taps = local_kmers.lookup(model.encoder, reference, tiles, runs, table)
    change = _finish_block(blocks[done], done, reference, runs, taps)
    for index, block in enumerate(blocks[done + 1 :], start=done + 1):
        taps = change._replace(x=convolve(block.conv, change.x))
        change = _finish_block(block, index, reference, runs, taps)
    for index, stage in enumerate(stages(model), start=len(blocks)):
        taps = change._replace(x=convolve(stage.conv, change.x))
        change = _finish_stage(stage, index, reference, runs, taps)
    return change


def _through_stem(encoder: Any, reference: Reference, runs: Runs) -> Change:
    frame, kernel = kmers.stem_frame(encoder.config), encoder.stem.kernel[...]
    places = local_places.seen(len(runs.change), runs.phase, **frame._asdict())
    offset = runs.phase + places.residue - places.position + frame.lead
    old, inside = reference_at(reference.stem, runs, places.position, 1)
    swapped = select(runs.change, places.residue)
    taps = kernel[offset][:, None, None, None]
    added = sum(swapped[..., a, None] * taps[..., a, :] for a in range(kernel.shape[1]))
    change = layers.elu(old + added) - layers.elu(old)
    return Change(jnp.where(inside, change, 0), places, 1)


def _finish_block(
    block, index: int, reference: Reference, runs: Runs, taps: Change | Lookup
) -> Change:
    """BatchNorm, pool, ELU and residual; `taps` are the block's convolution's."""
    step = local_places.step(taps.places, 3, pool=2)
    scaling = block.norm.fixed()
    first, second = (
        layers.affine(_summed(taps, step, half, reference, index, runs), *scaling)
        for half in range(2)
    )
    new = block.with_residual(layers.elu(jnp.maximum(first, second)), DTYPE)
    return _less(new, reference.outputs[index + 1], runs, step, 2 * taps.bases)


def _finish_stage(stage, index: int, reference: Reference, runs: Runs, taps: Change) -> Change:
    kernel = stage.conv.kernel
    step = local_places.step(
        taps.places, kernel.shape[0], dilation=stage.conv.dilation, same=stage.same
    )
    new = stage.finish(_summed(taps, step, 0, reference, index, runs))
    return _less(new, reference.outputs[index + 1], runs, step, taps.bases)


def _summed(
    taps: Change | Lookup, step: Step, half: int, reference: Reference, index: int, runs: Runs
) -> Float[Array, "R J N V O"]:
    """The new output of convolution `index`: the old one, and the taps of what has changed."""
    if isinstance(taps, Lookup):
        return taps.summed(step, half, runs)
    convolved = reference.convolved[index]
    total, _ = reference_at(convolved, runs, step.at[:, half], taps.bases)
    channels = convolved.shape[2]
    for tap, rows in enumerate(step.read[:, half].T):
        own = taps.x[..., tap * channels : (tap + 1) * channels]
        total = total + select(own, rows)
    return total


def _less(new, outputs: Float[Array, "N L C"], runs: Runs, step: Step, bases: int) -> Change:
    """New minus old output."""
    old, inside = reference_at(outputs, runs, step.places.position, bases)
    return Change(jnp.where(inside, new - old, 0), step.places, bases)


def _is_own(places: Places) -> Bool[np.ndarray, "Q R"]:
    """The rows of each base of a run."""
    return np.arange(places.residue[-1] + 1)[:, None] == places.residue[None]


def _through_flat_map(
    kernel: Float[Array, "L C O"], change: Change, runs: Runs
) -> Float[Array, "Q J N V O"]:
    """A linear map over all positions and channels, of differences: a product for each position of
    the window that they may stand at, over the rows that may stand there.
    """
    position, count = change.places.position, runs.change.shape[1]
    lowest, length = position.min(), kernel.shape[0]
    size = count + position.max() - lowest
    first = runs.origin // change.bases + lowest
    is_whole = size >= length
    if is_whole:  # any run may reach any position
        own = np.broadcast_to(np.arange(len(position))[None], (length, len(position)))
        begin = jnp.zeros_like(first)
    else:
        run = np.arange(size)[:, None] - (position - lowest)[None]
        own = local_places.filled([np.flatnonzero((one >= 0) & (one < count)) for one in run])
        begin = first
        kernel = kernel[jnp.clip(first + jnp.arange(size), 0, length - 1)]
    at = begin + jnp.arange(len(own))[:, None] - first - (position[own] - lowest)
    is_there = (own != NONE) & (at >= 0) & (at < count)
    x = change.x.at[np.maximum(own, 0), jnp.clip(at, 0, count - 1)].get(mode="promise_in_bounds")
    x = jnp.where(is_there[:, :, None, None, None], x, 0)
    y = jnp.matmul(x.reshape(len(own), -1, x.shape[-1]), kernel, precision=PRECISION)
    y = y.reshape(*x.shape[:-1], -1)
    slot_of = np.zeros((len(own), len(position)), int)
    places, slots = np.nonzero(own != NONE)
    slot_of[places, own[places, slots]] = slots
    total = 0
    for rows in change.places.by_residue().T:
        index = runs.index(position[rows], change.bases) - begin
        inside = (rows != NONE)[:, None] & (index >= 0) & (index < len(own))
        index = jnp.clip(index, 0, len(own) - 1)
        slots = jnp.asarray(slot_of)[index, np.maximum(rows, 0)[:, None]]
        found = y.at[index, slots].get(mode="promise_in_bounds")
        total = total + jnp.where(inside[:, :, None, None, None], found, 0)
    return total
