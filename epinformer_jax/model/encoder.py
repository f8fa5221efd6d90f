"""The shared convolutional encoder (spec 1.1), over rows or tracks of sequences.

In a dense computation a row is one sequence at the model's full window, its flanks all-zero DNA. On
a *track* windows of many sequences stand one behind another, each cropped to what its sequence can
change. What the network answers elsewhere is its answer to an all-zero row, the *background*: it is
computed once, its values stand in the gaps between windows, and it is counted in batch statistics
as often as the dense computation would meet it. So both give the same numbers, by the same code.
"""

from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from epinformer_jax.model import layers
from epinformer_jax.model.architecture import EncoderConfig

WINDOW, BACKGROUND, NOTHING = 0, 1, 2  # kinds of blocks


class Track(NamedTuple):
    """Rows or tracks inside the network; a block is one or more positions.

    Attributes:
      x: values; bases as soft one-hot before the first layer.
      held: bases that belong to a sequence; only read for `real` statistics.
      weight: how often the positions of a block count in batch statistics, 0 outside of windows.
      kind: of each block: part of a window, or a gap of all-zero DNA's answer (BACKGROUND), or of
        zeros, as past the ends of the model's window (NOTHING). None: rows without gaps.
    """

    x: Float[Array, "N W C"]
    held: Bool[Array, "N L"]
    weight: Float[Array, "N Q"]
    kind: Int[Array, "N Q"] | None = None


class Background(NamedTuple):
    """The answer to one all-zero row of full length.

    Attributes:
      x: values.
      copies: how often the positions of each block count in batch statistics: empty rows, and the
        flanks of windows.
    """

    x: Float[Array, "1 L C"]
    copies: Float[Array, "_"]


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
        track: Track,
        background: Background | None,
        *,
        train: bool,
        statistics: str = "padded",
        dtype: str = "float32",
    ) -> tuple[Track, Background | None]:
        """Runs all blocks; with `train` BatchNorm uses and updates batch statistics. A track with
        gaps needs its background.
        """
        track, background = self.first_convolution(track, background, dtype=dtype)
        return self.from_convolution(
            0, track, background, train=train, statistics=statistics, dtype=dtype
        )

    def first_convolution(
        self, track: Track, background: Background | None, *, dtype: str
    ) -> tuple[Track, Background | None]:
        """From bases to the first block's convolution (model/kmer_training.py has the same by
        tables).
        """
        x, conv = self.stem(track.x, same=True, dtype=dtype), self.blocks[0].conv
        if background is not None:
            background = background._replace(x=self.stem(background.x, same=True, dtype=dtype))
        # Gaps are filled before ELU, so that what the convolution reads is ELU's own answer: it is
        # the largest array of a step, and the only one of its size to be kept.
        x = layers.elu(with_gaps(x, track.kind, background))
        track = track._replace(x=conv(x, same=True, dtype=dtype))
        if background is not None:
            x = conv(layers.elu(background.x), same=True, dtype=dtype)
            background = background._replace(x=x)
        return track, background

    def from_convolution(
        self,
        index: int,
        track: Track,
        background: Background | None,
        *,
        train: bool,
        statistics: str = "padded",
        dtype: str = "float32",
    ) -> tuple[Track, Background | None]:
        """The rest of the encoder behind the convolution of block `index`."""
        how = {"train": train, "statistics": statistics, "dtype": dtype}
        track, background = _finished(self.blocks[index], track, background, **how)
        return self.from_block(index + 1, track, background, **how)

    def from_block(
        self,
        index: int,
        track: Track,
        background: Background | None,
        *,
        train: bool,
        statistics: str = "padded",
        dtype: str = "float32",
    ) -> tuple[Track, Background | None]:
        """The rest of the encoder from block `index` on."""
        for block in self.blocks[index:]:
            track, background = _convolved(block.conv, track, background, dtype)
            track, background = _finished(
                block, track, background, train=train, statistics=statistics, dtype=dtype
            )
        return track, background


def full_rows(
    x: Float[Array, "N L A"],
    *,
    held: Bool[Array, "N L"] | None = None,
    weight: Float[Array, "N"] | None = None,
) -> Track:
    """Rows of the model's full window; unless said, all bases are held and each row counts once."""
    count = x.shape[0]
    held = jnp.ones(x.shape[:2], bool) if held is None else held
    weight = jnp.ones(count, x.dtype) if weight is None else weight
    return Track(x, held, weight[:, None])


def weighted_parts(
    track: Track, background: Background | None, statistics: str
) -> list[layers.WeightedPart]:
    """What BatchNorm counts at one layer.

    `padded`: every position of every window, and of the background as often as it stands for one.
    `real`: only positions that see at least one base of a sequence.
    """
    width = track.x.shape[1]
    weight = _by_position(track.weight, width)
    if statistics == "real":
        held = track.held.reshape(track.held.shape[0], width, -1).any(axis=-1)
        return [(track.x, weight * held)]
    parts = [(track.x, weight)]
    if background is not None:
        copies = _by_position(background.copies[None], background.x.shape[1])
        parts.append((background.x, copies))
    return parts


def with_gaps(
    x: Float[Array, "N W C"], kind: Int[Array, "N Q"] | None, background: Background | None
) -> Float[Array, "N W C"]:
    """Values of a track with those of its gaps put in place.

    A gap is next to windows that begin and end where all-zero DNA answers alike everywhere, so the
    middle of the background speaks for all of them.
    """
    if kind is None:
        return x
    kind = _by_position(kind, x.shape[1])[..., None]
    middle = background.x[0, background.x.shape[1] // 2]
    return jnp.where(kind == WINDOW, x, jnp.where(kind == BACKGROUND, middle[None, None], 0))


def _convolved(conv, track: Track, background: Background | None, dtype: str):
    """One convolution of the track and of the background."""
    x = with_gaps(track.x, track.kind, background)
    track = track._replace(x=conv(x, same=True, dtype=dtype))
    if background is not None:
        background = background._replace(x=conv(background.x, same=True, dtype=dtype))
    return track, background


def _finished(
    block: Block,
    track: Track,
    background: Background | None,
    *,
    train: bool,
    statistics: str,
    dtype: str,
) -> tuple[Track, Background | None]:
    """From a block's convolution to its output, with batch statistics of all parts in training."""
    if train:
        factor, shift = block.norm.fit(weighted_parts(track, background, statistics))
    else:
        factor, shift = block.norm.fixed()
    track = track._replace(x=block.finish(track.x, factor, shift, dtype))
    if background is not None:
        background = background._replace(x=block.finish(background.x, factor, shift, dtype))
    return track, background


def _by_position(values: Float[Array, "N Q"] | Int[Array, "N Q"], count: int):
    """What is said of blocks, said of each of their positions."""
    return jnp.repeat(values, count // values.shape[1], axis=1)
