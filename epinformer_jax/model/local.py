"""Every substitution of every position, recomputing only what a substitution can reach.

A base reaches `stem_width` positions of the stem, and after each convolution and pool a window that
hardly grows (8, 10, 6, 8, 5, 7, 4, 6, 4 positions in the published tower). The unchanged sequence
is computed once (`reference`); for each substitution the *difference* inside that window is carried
from layer to layer. Windows have static widths and move with the position, so that one compiled
function serves every position of every sequence. Equal to mutating and computing anew; positions
outside a sequence stay the zeros that padding is. All sums are in the parameters' dtype, whatever
`compute_dtype` says.

Letters beside those of architecture.py: T tiles (a run of consecutive positions of one sequence), V
substitutions of a position, Q positions of a tile, W positions of a window inside the network.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Num

from epinformer_jax.model import functional, kmers, layers
from epinformer_jax.model.architecture import (
    ActivityConfig,
    EncoderConfig,
    ExpressionConfig,
    ModelConfig,
)
from epinformer_jax.model.encoder import Encoder
from epinformer_jax.model.functional import Variables
from epinformer_jax.model.kmers import Frame, Table, Taps

DTYPE = "float32"  # of `layers`: no cast to bfloat16


class Reference(NamedTuple):
    """What the layers answer to the unchanged sequences.

    Attributes:
      bases: soft one-hot, all-zero where a sequence is padding.
      stem: the first convolution, before its ELU.
      convolved: each later convolution's output, before BatchNorm.
      outputs: what enters each of these convolutions, and what leaves the last one's layer.
      last: the linear map behind them, before its non-linearity: over the length of the summary
        [N, F, P] (expression), or the head's first map [N, O] (activity).
      answer: embeddings [N, D] (expression) or log activity [N] (activity).
    """

    bases: Float[Array, "N L A"]
    stem: Float[Array, "N L C"]
    convolved: tuple[Float[Array, "N _L _C"], ...]
    outputs: tuple[Float[Array, "N _L _C"], ...]
    last: Float[Array, "N ..."]
    answer: Float[Array, "N ..."]


class Tiles(NamedTuple):
    """Runs of consecutive positions and what stands there instead.

    Attributes:
      rows: the sequence of each tile, as its row in the reference.
      starts: the tile's first position, counted from the window's start; may be negative, and a
        tile may end behind the window: answers to positions outside say nothing.
      bases: the substitutes, soft one-hot; a substitute equal to the base changes nothing.
    """

    rows: Int[Array, "T"]
    starts: Int[Array, "T"]
    bases: Float[Array, "T V Q A"]


class _Change(NamedTuple):
    """New minus old output of a layer: `x` at positions first .. first + W - 1, 0 outside."""

    x: Float[Array, "T V Q W C"]
    first: Int[Array, "T Q"]


class _Stage(NamedTuple):
    """A convolution behind the tower, with BatchNorm (factor, shift) or none, then ELU."""

    conv: layers.Conv
    scaling: tuple | None
    same: bool

    def finish(self, x):
        return layers.elu(x if self.scaling is None else layers.affine(x, *self.scaling))


def reference(
    config: ModelConfig,
    variables: Variables,
    bases: Float[Array, "N L A"],
    valid: Bool[Array, "N L"],
) -> Reference:
    """The unchanged sequences, at the model's full window, once through the network.

    `bases` and `valid` are those of functional.encode and functional.activity; `answer` equals
    their result (for an activity model with `strands` both: that of the forward strand).
    """
    return _reference(functional.bind(config, variables), bases, valid)


def embedding_changes(
    config: ExpressionConfig,
    variables: Variables,
    reference: Reference,
    tiles: Tiles,
    table: Table | Taps | None = None,
) -> Float[Array, "T V Q D"]:
    """Embeddings of the sequences with each substitution, as functional.encode gives them.

    With a `table` (kmers.build) every position must be `is_plain`.
    """
    model = functional.bind(config, variables)
    change = _through_layers(model, reference, tiles, table)
    width = change.x.shape[3]
    kernel = model.summary.pool.kernel[...]
    index = change.first[..., None] + jnp.arange(width)[None, None]
    taps = kernel[jnp.clip(index, 0, kernel.shape[0] - 1)]
    added = jnp.einsum("tvqwf,tqwp->tvqfp", change.x, taps, precision=_PRECISION)
    pooled = layers.elu(reference.last[tiles.rows][:, None, None] + added)
    return pooled.reshape(*pooled.shape[:3], -1)


def activity_changes(
    config: ActivityConfig,
    variables: Variables,
    reference: Reference,
    tiles: Tiles,
    table: Table | Taps | None = None,
) -> Float[Array, "T V Q"]:
    """log activity of the sequences with each substitution, as functional.activity gives it.

    Q must be a multiple of the encoder's stride, or at most the stride. With a `table`
    (kmers.build) every position must be `is_plain`.
    """
    model = functional.bind(config, variables)
    forward = _activity_changes(model, reference, tiles, table)
    if config.strands == "forward":
        return forward
    length = reference.bases.shape[1]
    valid = jnp.ones(reference.bases.shape[:2], bool)
    other = _reference(model, reference.bases[:, ::-1, ::-1], valid)
    turned = Tiles(
        tiles.rows,
        length - tiles.starts - tiles.bases.shape[2],
        tiles.bases[:, :, ::-1, ::-1],
    )
    return (forward + _activity_changes(model, other, turned, table)[:, :, ::-1]) / 2


def is_plain(config: EncoderConfig, known: Bool[np.ndarray, "*N L"]) -> Bool[np.ndarray, "*N L"]:
    """Positions that a table can answer: all bases that share a k-mer with them are known bases of
    the sequence (`known` is False at unknown bases and at padding).
    """
    reach = kmers.block_frame(config).width - 1
    padded = np.pad(known, [(0, 0)] * (known.ndim - 1) + [(reach, reach)])
    around = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis=-1)
    return around.all(axis=-1)


_PRECISION = layers.precision_of(DTYPE)


def _reference(model: Any, bases, valid) -> Reference:
    bases = bases * valid[..., None].astype(bases.dtype)
    stem = model.encoder.stem(bases, same=True)
    outputs, convolved = [layers.elu(stem)], []
    for block in model.encoder.blocks:
        convolved.append(block.conv(outputs[-1], same=True))
        outputs.append(block.finish(convolved[-1], *block.norm.fixed(), DTYPE))
    for stage in _stages(model):
        convolved.append(stage.conv(outputs[-1], same=stage.same))
        outputs.append(stage.finish(convolved[-1]))
    x = outputs[-1]
    if model.config.kind == "expression":
        last = model.summary.pool(jnp.swapaxes(x, 1, 2))
        answer = layers.elu(last).reshape(x.shape[0], -1)
    else:
        flat = jnp.mean(x, axis=1) if model.config.pool == "mean" else x.reshape(x.shape[0], -1)
        last = _first_map(model.head)(flat)
        answer = _rest_of_head(model.head, last)
    return Reference(bases, stem, tuple(convolved), tuple(outputs), last, answer)


def _stages(model: nnx.Module) -> list[_Stage]:
    """The convolutions between tower and last linear map: the summary's, or the mixer's."""
    is_expression = model.config.kind == "expression"
    if not is_expression and not model.config.mixer_channels:
        return []
    part = model.summary if is_expression else model.mixer
    normalised = not is_expression or part.has_norm
    return [
        _Stage(
            getattr(part, f"conv_{index}"),
            getattr(part, f"norm_{index}").fixed() if normalised else None,
            not is_expression,
        )
        for index in range(part.count)
    ]


def _through_layers(
    model: Any, reference: Reference, tiles: Tiles, table: Table | Taps | None
) -> _Change:
    convolved, outputs = reference.convolved, reference.outputs[1:]
    block = model.encoder.blocks[0]
    if table is None:
        change = _convolve(block.conv, _through_stem(model.encoder.stem, reference, tiles))
        change = _finish_block(block, convolved[0], outputs[0], tiles.rows, change)
    else:
        change = _by_kmers(model.encoder, table, reference, tiles)
    for index, block in enumerate(model.encoder.blocks[1:], start=1):
        change = _convolve(block.conv, change)
        change = _finish_block(block, convolved[index], outputs[index], tiles.rows, change)
    for index, stage in enumerate(_stages(model), start=len(model.encoder.blocks)):
        change = _convolve(stage.conv, change, same=stage.same)
        change = _finish_stage(stage, convolved[index], outputs[index], tiles.rows, change)
    return change


def _through_stem(stem: layers.Conv, reference: Reference, tiles: Tiles) -> _Change:
    kernel = stem.kernel[...]
    width = kernel.shape[0]
    position = tiles.starts[:, None] + jnp.arange(tiles.bases.shape[2])[None]
    first = position - (width - 1 - (width - 1) // 2)
    old_bases, _ = _at(reference.bases, tiles.rows, position[..., None])
    swapped = tiles.bases - old_bases[:, None, :, 0]
    added = jnp.einsum("tvqa,wac->tvqwc", swapped, kernel[::-1], precision=_PRECISION)
    old, inside = _at(reference.stem, tiles.rows, _window(first, width))
    change = layers.elu(old[:, None] + added) - layers.elu(old)[:, None]
    return _Change(jnp.where(inside, change, 0), first)


def _by_kmers(encoder: Encoder, table: Table | Taps, reference: Reference, tiles: Tiles) -> _Change:
    """Stem and first block: a substitution changes one digit of the numbers of the k-mers it is
    in.
    """
    width = encoder.config.stem_width
    frame, outputs = kmers.block_frame(encoder.config), reference.outputs[1]
    position = tiles.starts[:, None] + jnp.arange(tiles.bases.shape[2])[None]
    first = (position - (width - 1 - (width - 1) // 2 + 1)) // frame.stride
    index = _window(first, (width + 4) // 2)
    if isinstance(table, Table):
        numbers = _changed_numbers(frame, reference, tiles, index)
        new = kmers.take(table.values, numbers)
    else:
        stem = kmers.stem_frame(encoder.config)
        around = _window(2 * first - 1, 2 * index.shape[2] + kmers.TAPS - 1)
        numbers = _changed_numbers(stem, reference, tiles, around)
        flat = numbers.reshape(-1, numbers.shape[3])
        new = kmers.block_by_taps(encoder, table, flat, DTYPE)
        new = new.reshape(*numbers.shape[:3], *new.shape[1:])
    before, inside = _at(outputs, tiles.rows, index)
    place = position[..., None] - (index * frame.stride - frame.lead)
    inside = inside & ((place >= 0) & (place < frame.width))[:, None, ..., None]
    return _Change(jnp.where(inside, new.astype(outputs.dtype) - before[:, None], 0), first)


def _changed_numbers(
    frame: Frame, reference: Reference, tiles: Tiles, index: Int[Array, "T Q W"]
) -> Int[Array, "T V Q W"]:
    """The k-mers that these positions see when the base is substituted."""
    count = reference.bases.shape[1] // frame.stride
    old, _ = _at(kmers.numbers_of(reference.bases, frame, count)[0][..., None], tiles.rows, index)
    position = tiles.starts[:, None] + jnp.arange(tiles.bases.shape[2])[None]
    old_bases, _ = _at(reference.bases, tiles.rows, position[..., None])
    digits = jnp.arange(kmers.DIGITS, dtype=reference.bases.dtype)
    swapped = jnp.matmul(tiles.bases - old_bases[:, None, :, 0], digits).astype(jnp.int32)
    place = position[..., None] - (index * frame.stride - frame.lead)
    is_in = (place >= 0) & (place < frame.width)
    worth = jnp.where(is_in, kmers.DIGITS ** jnp.where(is_in, frame.width - 1 - place, 0), 0)
    # A product, because its result is kept: what is merely added up, a compiler adds up again for
    # each channel of the rows that are looked up.
    parts = jnp.stack([jnp.ones_like(swapped), swapped], axis=-1)
    new = jnp.einsum("tvqk,tqkw->tvqw", parts, jnp.stack([old[..., 0], worth], axis=2))
    return jnp.clip(new, 0, kmers.DIGITS**frame.width - 1)


def _finish_block(block, convolved, outputs, rows, added: _Change) -> _Change:
    """BatchNorm, pool, ELU and residual over the window's differences.

    The convolution's window may begin at the second position of a pair, so it is laid into one that
    begins with a pair and has room for both cases.
    """
    added, start = added
    first = start // 2
    pairs = (added.shape[3] + 2) // 2
    room = 2 * pairs - added.shape[3]
    is_second = (start % 2 == 1)[:, None, :, None, None]
    added = jnp.where(is_second, _pad(added, 1, room - 1), _pad(added, 0, room))
    old, _ = _at(convolved, rows, _window(2 * first, 2 * pairs))
    flat = (old[:, None] + added).reshape(-1, 2 * pairs, added.shape[4])
    new = block.finish(flat, *block.norm.fixed(), DTYPE)
    new = new.reshape(*added.shape[:3], pairs, -1)
    before, inside = _at(outputs, rows, _window(first, pairs))
    return _Change(jnp.where(inside, new - before[:, None], 0), first)


def _finish_stage(stage, convolved, outputs, rows, added: _Change) -> _Change:
    index = _window(added.first, added.x.shape[3])
    old, inside = _at(convolved, rows, index)
    before, _ = _at(outputs, rows, index)
    new = stage.finish(old[:, None] + added.x)
    return _Change(jnp.where(inside, new - before[:, None], 0), added.first)


def _activity_changes(
    model: Any, reference: Reference, tiles: Tiles, table: Table | Taps | None
) -> Float[Array, "T V Q"]:
    """The head's first map meets the differences only; positions are taken by runs, of which each
    sees one window of that map.
    """
    x, first = _through_layers(model, reference, tiles, table)
    first_map = _first_map(model.head)
    if model.config.pool == "mean":
        added = jnp.sum(x, axis=3) / reference.outputs[-1].shape[1]
        added = jnp.matmul(added, first_map.kernel[...][None, None], precision=_PRECISION)
    else:
        added = _through_flat_map(x, first, first_map, model.config.encoder.stride)
    last = reference.last[tiles.rows][:, None, None] + added
    return _rest_of_head(model.head, last.reshape(-1, last.shape[3])).reshape(last.shape[:3])


def _through_flat_map(x, first, linear: layers.Linear, stride: int) -> Float[Array, "T V Q O"]:
    """A linear map over all positions and channels, of differences in windows.

    The windows of `stride` neighbours begin at one position or its successor, and those of the next
    neighbours one later: so a tile needs one stretch of the map, and a product for each position of
    a window serves all tiles.
    """
    tiles, variants, positions, _, channels = x.shape
    run = min(stride, positions)
    runs = positions // run
    if run > 1:
        start = jnp.repeat(first[:, ::run], run, axis=1)
        is_second = (first > start)[:, None, :, None, None]
        x = jnp.where(is_second, _pad(x, 1, 0), _pad(x, 0, 1))
    width = x.shape[3]
    kernel = linear.kernel[...].reshape(-1, channels, linear.kernel.shape[1])
    index = first[:, :1] + jnp.arange(runs + width - 1)[None]
    stretch = kernel[jnp.clip(index, 0, kernel.shape[0] - 1)]
    x = x.reshape(tiles, variants, runs, run, width, channels)
    x = jnp.moveaxis(x, 1, 2).reshape(tiles * runs, variants * run, width, channels)
    y = 0
    for place in range(width):
        part = stretch[:, place : place + runs].reshape(tiles * runs, *kernel.shape[1:])
        y = y + jnp.matmul(x[:, :, place], part, precision=_PRECISION)
    y = y.reshape(tiles, runs, variants, run, -1)
    return jnp.moveaxis(y, 2, 1).reshape(tiles, variants, positions, -1)


def _first_map(head) -> layers.Linear:
    return head.dense_0 if head.count else head.output


def _rest_of_head(head, x: Float[Array, "N O"]) -> Float[Array, "N"]:
    """What ActivityHead does behind its first map, in evaluation."""
    for index in range(head.count):
        x = x if index == 0 else getattr(head, f"dense_{index}")(x, DTYPE)
        x = jax.nn.relu(layers.affine(x, *getattr(head, f"norm_{index}").fixed()))
    return (head.output(x) if head.count else x)[:, 0]


def _convolve(conv: layers.Conv, change: _Change, *, same: bool = True) -> _Change:
    """What differences of a convolution's input add to its output, from the first output that the
    window's first position reaches to the last that its last one does.
    """
    kernel = conv.kernel[...]
    taps, inputs, outputs = kernel.shape
    joined = jnp.swapaxes(kernel, 0, 1).reshape(inputs, taps * outputs)
    y = jnp.matmul(change.x, joined.reshape(1, 1, 1, inputs, -1), precision=_PRECISION)
    y = y.reshape(*change.x.shape[:4], taps, outputs)
    reach = (taps - 1) * conv.dilation
    first = change.first - reach + (reach // 2 if same else 0)
    return _Change(_sum_of_taps(y, conv.dilation), first)


def _sum_of_taps(y: Float[Array, "T V Q W K O"], dilation: int) -> Float[Array, "T V Q M O"]:
    """Each tap's answer to each input, added up at the outputs they belong to."""
    taps = y.shape[4]
    reach = (taps - 1) * dilation
    parts = [_pad(y[..., k, :], reach - k * dilation, k * dilation) for k in range(taps)]
    return sum(parts)


def _window(first: Int[Array, "T Q"], width: int) -> Int[Array, "T Q W"]:
    return first[..., None] + jnp.arange(width)[None, None]


def _at(
    x: Num[Array, "N L C"], rows: Int[Array, "T"], index: Int[Array, "T Q W"]
) -> tuple[Num[Array, "T Q W C"], Bool[Array, "T 1 Q W 1"]]:
    """The values at these positions of these rows, and which of them lie inside a row."""
    length = x.shape[1]
    inside = (index >= 0) & (index < length)
    values = x[rows[:, None, None], jnp.clip(index, 0, length - 1)]
    return values, inside[:, None, ..., None]


def _pad(x: Float[Array, "T V Q W C"], before: int, after: int) -> Float[Array, "T V Q M C"]:
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (before, after), (0, 0)))
