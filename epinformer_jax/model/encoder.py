"""The shared convolutional encoder (spec 1.1), over one or several groups of rows at once.

A `Rows` group holds sequences that share one window width. A window narrower than the model's is
the middle of a longer row whose flanks are all-zero DNA; what the network answers there is the
answer to an all-zero row, the *background*. So the
flanks are never computed: the background is computed once, its values stand in at a window's edges,
and it is counted in batch statistics as often as the dense computation would meet it. The dense
computation is one group of full width without
background: the same code.
"""

from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from epinformer_jax.model import layers
from epinformer_jax.model.architecture import EncoderConfig


class Rows(NamedTuple):
    """Sequences of one window width.

    Attributes:
      x: bases as soft one-hot; all-zero outside the element.
      weight: how often a row counts in batch statistics (0 for filler).
      offset: first base of the element inside the window; only read for `real` statistics.
      length: bases of the element; only read for `real` statistics.
    """

    x: Float[Array, "N W A"]
    weight: Float[Array, "N"]
    offset: Int[Array, "N"]
    length: Int[Array, "N"]


class Group(NamedTuple):
    """Rows inside the network: [start, start + W) of rows of full length, in positions that hold
    `bases` bases each.

    `row_weight`, `offset` and `length` are those of `Rows`: offset and length stay in bases,
    counted from the window.
    """

    x: Float[Array, "N W C"]
    start: int
    bases: int
    row_weight: Float[Array, "N"]
    offset: Int[Array, "N"]
    length: Int[Array, "N"]


class Background(NamedTuple):
    """The answer to one all-zero row of full length, and how many empty rows it stands for."""

    x: Float[Array, "1 L C"]
    count: Float[Array, ""]


class Block(nnx.Module):
    """conv 3, BatchNorm, ELU, pool 2, then + ELU(1x1 conv). The pool stands before ELU: same value,
    half the work.
    """

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        self.conv = layers.Conv(inputs, outputs, 3, rngs=rngs, use_bias=False)
        self.norm = layers.BatchNorm(outputs)
        self.residual = layers.Linear(outputs, outputs, rngs=rngs)

    def finish(self, x, factor, shift, dtype: str):
        """From the convolution's output to the block's output."""
        return self.with_residual(
            layers.elu(layers.max_pool(layers.affine(x, factor, shift))), dtype
        )

    def with_residual(
        self, pooled: Float[Array, "*leading C"], dtype: str
    ) -> Float[Array, "*leading C"]:
        """The last step of `finish`."""
        return pooled + layers.elu(self.residual(pooled, dtype))


class Encoder(nnx.Module):
    """Stem and blocks; [N, L, 4] -> [N, L / stride, channels]."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.stem = layers.Conv(
            4, config.stem_channels, config.stem_width, rngs=rngs, use_bias=True
        )
        inputs = config.stem_channels
        for index, outputs in enumerate(config.channels):
            setattr(self, f"block_{index}", Block(inputs, outputs, rngs=rngs))
            inputs = outputs

    @property
    def blocks(self) -> list[Block]:
        """The blocks, in order."""
        return [getattr(self, f"block_{index}") for index in range(len(self.config.channels))]

    def __call__(
        self,
        groups: list[Group],
        background: Background | None,
        *,
        train: bool,
        statistics: str = "padded",
        dtype: str = "float32",
    ) -> tuple[list[Group], Background | None]:
        """Runs all groups through all blocks; with `train` BatchNorm uses and updates batch
        statistics.
        """
        groups, background = self.first_convolution(groups, background, dtype=dtype)
        return self.from_first_convolution(
            groups, background, train=train, statistics=statistics, dtype=dtype
        )

    def first_convolution(
        self, groups: list[Group], background: Background | None, *, dtype: str
    ) -> tuple[list[Group], Background | None]:
        """From bases to the first block's convolution (model/kmer_training.py has the same by
        tables).
        """
        groups = [g._replace(x=layers.elu(self.stem(g.x, same=True, dtype=dtype))) for g in groups]
        if background is not None:
            background = background._replace(
                x=layers.elu(self.stem(background.x, same=True, dtype=dtype))
            )
        return _convolved(self.blocks[0].conv, groups, background, dtype)

    def from_first_convolution(
        self,
        groups: list[Group],
        background: Background | None,
        *,
        train: bool,
        statistics: str = "padded",
        dtype: str = "float32",
    ) -> tuple[list[Group], Background | None]:
        """The rest of the encoder behind `first_convolution`."""
        groups, background = _finished(
            self.blocks[0], groups, background, train=train, statistics=statistics, dtype=dtype
        )
        return self.from_first_block(
            groups, background, train=train, statistics=statistics, dtype=dtype
        )

    def from_first_block(
        self,
        groups: list[Group],
        background: Background | None,
        *,
        train: bool,
        statistics: str = "padded",
        dtype: str = "float32",
    ) -> tuple[list[Group], Background | None]:
        """The rest of the encoder behind its first block (model/kmers.py has that as a table)."""
        for block in self.blocks[1:]:
            groups, background = _convolved(block.conv, groups, background, dtype)
            groups, background = _finished(
                block, groups, background, train=train, statistics=statistics, dtype=dtype
            )
        return groups, background


def groups_of(rows: list[Rows], window_bp: int) -> list[Group]:
    """Places each group's window in the middle of a row of `window_bp` bases."""
    return [
        Group(r.x, (window_bp - r.x.shape[1]) // 2, 1, r.weight, r.offset, r.length) for r in rows
    ]


def other_strand(group: Group) -> Group:
    """The reverse complements of rows of bases at full width (channels are A, C, G, T, so both axes
    turn around).
    """
    width = group.x.shape[1]
    return group._replace(x=group.x[:, ::-1, ::-1], offset=width - group.offset - group.length)


def weighted_parts(groups, background, statistics: str) -> list[layers.WeightedPart]:
    """What BatchNorm counts at one layer.

    `padded`: every position of every row, each window's flanks and the empty rows as copies of the
    background.
    `real`: only positions that see at least one base of an element.
    """
    if statistics == "real":
        return [(g.x, _real_positions(g)) for g in groups]
    parts = [(g.x, g.row_weight[:, None]) for g in groups]
    if background is not None:
        length = background.x.shape[1]
        copies = jnp.full((length,), background.count)
        for g in groups:
            inside = (jnp.arange(length) >= g.start) & (jnp.arange(length) < g.start + g.x.shape[1])
            copies = copies + jnp.sum(g.row_weight) * jnp.where(inside, 0.0, 1.0)
        parts.append((background.x, copies[None]))
    return parts


def _real_positions(group: Group) -> Float[Array, "N W"]:
    first = jnp.arange(group.x.shape[1])[None] * group.bases
    end = (group.offset + group.length)[:, None]
    holds_base = (first < end) & (first + group.bases > group.offset[:, None])
    return group.row_weight[:, None] * holds_base


def _convolved(conv, groups, background: Background | None, dtype: str):
    """One convolution of all groups and of the background."""
    groups = [_convolve(conv, g, background, dtype) for g in groups]
    if background is not None:
        background = background._replace(x=conv(background.x, same=True, dtype=dtype))
    return groups, background


def _finished(block: Block, groups, background, *, train: bool, statistics: str, dtype: str):
    """From a block's convolution to its output, with batch statistics of all parts in training."""
    if train:
        factor, shift = block.norm.fit(weighted_parts(groups, background, statistics))
    else:
        factor, shift = block.norm.fixed()
    groups = [
        g._replace(x=block.finish(g.x, factor, shift, dtype), start=g.start // 2, bases=g.bases * 2)
        for g in groups
    ]
    if background is not None:
        background = background._replace(x=block.finish(background.x, factor, shift, dtype))
    return groups, background


def _convolve(conv, group: Group, background: Background | None, dtype: str) -> Group:
    y = conv(group.x, same=True, dtype=dtype)
    if background is not None and group.x.shape[1] < background.x.shape[1]:
        # "same" saw zeros beyond the window; the true neighbours are the background's values there.
        kernel = layers.cast(conv.kernel[...], dtype)
        around = layers.cast(background.x[0], dtype)
        precision = layers.precision_of(dtype)
        left = jnp.matmul(around[group.start - 1], kernel[0], precision=precision)
        right = jnp.matmul(around[group.start + group.x.shape[1]], kernel[2], precision=precision)
        y = y.at[:, 0].add(left[None].astype(y.dtype)).at[:, -1].add(right[None].astype(y.dtype))
    return group._replace(x=y)
