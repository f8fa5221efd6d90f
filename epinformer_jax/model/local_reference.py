"""What the layers answer to unchanged sequences: the ground that local recomputation stands on."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from epinformer_jax.model import functional, kmers, layers
from epinformer_jax.model.architecture import ModelConfig
from epinformer_jax.model.functional import Variables

DTYPE = "float32"  # of `layers`: no cast to bfloat16


class Reference(NamedTuple):
    """What the layers answer to the unchanged sequences.

    Attributes:
      bases: soft one-hot, all-zero where a sequence is padding.
      stem: the first convolution, before its ELU; None where taps have answered.
      convolved: each later convolution's output, before BatchNorm.
      outputs: what enters each of these convolutions (None for the first where taps have answered),
        and what leaves the last one's layer.
      last: the linear map behind them, before its non-linearity: over the length of the summary
        [N, F, P] (expression), or the head's first map [N, O] (activity).
      second_taps: the taps' answers whose sums are the second convolution; only where there is one
        and taps have answered.
      answer: embeddings [N, D] (expression) or log activity [N] (activity).
    """

    bases: Float[Array, "N L A"]
    stem: Float[Array, "N L C"] | None
    convolved: tuple[Float[Array, "N _L _C"], ...]
    outputs: tuple[Float[Array, "N _L _C"] | None, ...]
    last: Float[Array, "N ..."]
    second_taps: Float[Array, "N P _D"] | None
    answer: Float[Array, "N ..."]


class Stage(NamedTuple):
    """A convolution behind the tower, with BatchNorm (factor, shift) or none, then ELU."""

    conv: layers.Conv
    scaling: tuple | None
    same: bool

    def finish(self, x: Float[Array, "*leading O"]) -> Float[Array, "*leading O"]:
        """From the convolution's output to the layer's."""
        return layers.elu(x if self.scaling is None else layers.affine(x, *self.scaling))


def reference(
    config: ModelConfig,
    variables: Variables,
    bases: Float[Array, "N L A"],
    valid: Bool[Array, "N L"],
    taps: Float[Array, "R C"] | None = None,
) -> Reference:
    """The unchanged sequences, at the model's full window, once through the network.

    `bases` and `valid` are those of functional.encode and functional.activity; `answer` equals
    their result (for an activity model with `strands` both: that of the forward strand). Where all
    bases of sequences are known, `taps` (the values of kmers.Taps) may answer for the first layers.
    """
    model = functional.bind(config, variables)
    bases = bases * valid[..., None].astype(bases.dtype)
    if taps is None:
        stem = model.encoder.stem(bases, same=True)
        outputs = [layers.elu(stem)]
        convolved = [model.encoder.blocks[0].conv(outputs[0], same=True)]
    else:
        stem, outputs = None, [None]
        numbers, _ = kmers.window_parts(config.encoder, bases)
        convolved = [kmers.convolution_by_taps(taps, numbers).astype(bases.dtype)]
    for index, block in enumerate(model.encoder.blocks):
        if index:
            convolved.append(block.conv(outputs[-1], same=True))
        outputs.append(block.finish(convolved[-1], *block.norm.fixed(), DTYPE))
    for stage in stages(model):
        convolved.append(stage.conv(outputs[-1], same=stage.same))
        outputs.append(stage.finish(convolved[-1]))
    x = outputs[-1]
    if model.config.kind == "expression":
        last = model.summary.pool(jnp.swapaxes(x, 1, 2))
        answer = layers.elu(last).reshape(x.shape[0], -1)
    else:
        flat = jnp.mean(x, axis=1) if model.config.pool == "mean" else x.reshape(x.shape[0], -1)
        last = first_map(model.head)(flat)
        answer = rest_of_head(model.head, last)
    has_second = taps is not None and len(model.encoder.blocks) > 1
    second = kmers.second_taps(model.encoder, outputs[1], DTYPE) if has_second else None
    return Reference(bases, stem, tuple(convolved), tuple(outputs), last, second, answer)


def stages(model: nnx.Module) -> list[Stage]:
    """The convolutions between tower and last linear map: the summary's, or the mixer's."""
    is_expression = model.config.kind == "expression"
    if not is_expression and not model.config.mixer_channels:
        return []
    part = model.summary if is_expression else model.mixer
    normalised = not is_expression or part.has_norm
    return [
        Stage(
            getattr(part, f"conv_{index}"),
            getattr(part, f"norm_{index}").fixed() if normalised else None,
            not is_expression,
        )
        for index in range(part.count)
    ]


def first_map(head: nnx.Module) -> layers.Linear:
    """ActivityHead's linear map of what leaves the convolutions."""
    return head.dense_0 if head.count else head.output


def rest_of_head(head: nnx.Module, x: Float[Array, "N O"]) -> Float[Array, "N"]:
    """What ActivityHead does behind its first map, in evaluation."""
    for index in range(head.count):
        x = x if index == 0 else getattr(head, f"dense_{index}")(x, DTYPE)
        x = jax.nn.relu(layers.affine(x, *getattr(head, f"norm_{index}").fixed()))
    return (head.output(x) if head.count else x)[:, 0]
