"""What is minimised: losses of both tasks and the pure functions the loop compiles (spec 3.4, 4).

An `Objective` is everything static about a step; with it, `loss` and `predict` are pure functions
of parameter trees and a packed batch.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from epinformer_jax.data.batches import Batch, Sequences, most_unknown_kmers
from epinformer_jax.data.layouts import Plan
from epinformer_jax.model import cached, functional, kmer_training, packing
from epinformer_jax.model.architecture import ExpressionConfig, ModelConfig
from epinformer_jax.model.functional import Tree, Variables
from epinformer_jax.model.tracks import Placed, Tracks

FirstConvolution = Literal["auto", "direct", "table"]
FIRST_CONVOLUTIONS = ("auto", "direct", "table")
EncoderMode = Literal["tuned", "frozen", "frozen_as_published"]

Values = Float[Array, "N"]


@dataclasses.dataclass(frozen=True)
class Objective:
    """The static part of training.

    Attributes:
      model: shape of the network.
      loss: a name in LOSSES.
      encoder: `tuned` trains it; `frozen` keeps its weights and its BatchNorm in evaluation mode;
        `frozen_as_published`
        keeps its weights only: BatchNorm goes on using and updating batch statistics, as the
          original does (spec 4.3).
      unknown_base: value of each channel at an unknown base.
      shift_bp: in training each sequence moves by up to so many bases, drawn anew each step.
      flip: in training each sequence stands on a strand drawn anew each step.
      unknown_kmers: None: convolutions. A number: the first convolution of genes is summed from
        tables of k-mers, and no batch has more windows of the stem with an unknown base within an
        element (see `unknown_kmers` and model/kmer_training.py).
    """

    model: ModelConfig
    loss: str
    encoder: EncoderMode = "tuned"
    unknown_base: float = 0.25
    shift_bp: int = 0
    flip: bool = False
    unknown_kmers: int | None = None


def unknown_kmers(
    choice: FirstConvolution, model: ExpressionConfig, genes: Sequence[Sequences], plan: Plan
) -> int | None:
    """`Objective.unknown_kmers` of a training set: whether its first convolution is summed from
    tables of k-mers, and how many windows with unknown bases its batches then need room for.

    `auto` takes tables on a single CPU device, in float32, where they are less work for a batch of
    the first layout. They are more work where batches are small, stems wide or channels few.

    Raises:
      ValueError: the choice is unknown.
    """
    if choice not in FIRST_CONVOLUTIONS:
        known = ", ".join(FIRST_CONVOLUTIONS)
        raise ValueError(f"first_convolution={choice!r} is unknown; known are {known}")
    if choice == "direct":
        return None
    width = model.encoder.stem_width
    room = most_unknown_kmers(genes, batch_size=plan.batch_size, width=width)
    if choice == "table":
        return room
    positions = plan.tracks * plan.layouts[0].blocks * plan.geometry.stride
    on_one_cpu = jax.default_backend() == "cpu" and jax.device_count() == 1
    is_less = kmer_training.work_by_table(model.encoder, positions, room) < 1
    return room if on_one_cpu and model.compute_dtype == "float32" and is_less else None


def smooth_l1(prediction: Values, target: Values, weight: Values) -> Float[Array, ""]:
    """Mean Huber loss with delta 1."""
    size = jnp.abs(prediction - target)
    return _mean(jnp.where(size < 1, 0.5 * size**2, size - 0.5), weight)


def mse(prediction: Values, target: Values, weight: Values) -> Float[Array, ""]:
    """Mean squared error."""
    return _mean(jnp.square(prediction - target), weight)


def l1kl(prediction: Values, target: Values, weight: Values) -> Float[Array, ""]:
    """(L1 + KL / 2) / 1.5, where KL compares the softmax of targets and predictions over the batch
    (spec 3.4).

    As published the divergence is divided by the batch size once more, so it weighs less in larger
    batches.
    """
    real = weight > 0
    log_p = jax.nn.log_softmax(jnp.where(real, prediction, -jnp.inf))
    log_q = jax.nn.log_softmax(jnp.where(real, target, -jnp.inf))
    difference = jnp.where(real, log_q, 0) - jnp.where(real, log_p, 0)
    divergence = jnp.sum(jnp.exp(log_q) * difference) / jnp.maximum(jnp.sum(weight), 1)
    return (_mean(jnp.abs(prediction - target), weight) + 0.5 * divergence) / 1.5


LOSSES: dict[str, Callable[[Values, Values, Values], Float[Array, ""]]] = {
    "smooth_l1": smooth_l1,
    "mse": mse,
    "l1kl": l1kl,
}


def loss(
    objective: Objective, params: Tree, stats: Tree, batch: Batch, key
) -> tuple[Float[Array, ""], Tree]:
    """The batch's loss in training mode, and the running statistics after it."""
    if objective.encoder != "tuned":
        params = {**params, "encoder": jax.lax.stop_gradient(params["encoder"])}
    variables = Variables(params, stats)
    packed = packed_batch(batch)

    def call(model):
        if isinstance(packed, cached.CachedGenes):
            return cached.express(model, packed, train=True, key=key, flip=objective.flip)[0]
        if isinstance(objective.model, ExpressionConfig):
            train_encoder = objective.encoder != "frozen"
            return packing.express(
                model,
                packed,
                train=True,
                train_encoder=train_encoder,
                unknown=objective.unknown_base,
                key=key if objective.flip or objective.shift_bp else None,
                flip=objective.flip,
                shift_bp=objective.shift_bp,
                unknown_kmers=objective.unknown_kmers,
            )[0]
        return packing.activate(
            model,
            packed,
            train=True,
            key=key,
            unknown=objective.unknown_base,
            shift_bp=objective.shift_bp,
            flip=objective.flip,
        )

    prediction, stats = functional.run(objective.model, variables, call)
    weight = _weight(packed).astype(prediction.dtype)
    labels = packed.labels.astype(prediction.dtype)
    return LOSSES[objective.loss](prediction, labels, weight), stats


def predict(
    objective: Objective, variables: Variables, batch: Batch
) -> tuple[Values, Float[Array, "B S"]]:
    """Predictions in evaluation mode and, for genes, the promoter's attention (mean of heads and
    layers). A model of genes that trains on random strands predicts the mean of both.
    """
    packed = packed_batch(batch)
    model = functional.bind(objective.model, variables)
    if isinstance(objective.model, ExpressionConfig):
        strands = [
            _express_strand(objective, model, packed, other)
            for other in ((False, True) if objective.flip else (False,))
        ]
        prediction = sum(values for values, _ in strands) / len(strands)
        attention = sum(jnp.mean(weights, axis=1) for _, weights in strands) / len(strands)
        return prediction, attention
    prediction = packing.activate(model, packed, train=False, unknown=objective.unknown_base)
    return prediction, jnp.zeros((prediction.shape[0], 0), prediction.dtype)


def packed_batch(
    batch: Batch,
) -> packing.PackedGenes | packing.PackedWindows | cached.CachedGenes:
    """The device form of a host batch."""
    if "rows" in batch:
        return packing.PackedWindows(packing.PackedRows(**batch["rows"]), batch["labels"])
    if "towers" in batch:
        return cached.CachedGenes(**{**batch, "towers": cached.Towers(**batch["towers"])})
    laid, placed = Tracks(**batch["tracks"]), Placed(**batch["placed"])
    return packing.PackedGenes(**{**batch, "tracks": laid, "placed": placed})


def _express_strand(objective, model, packed, other_strand: bool):
    if isinstance(packed, cached.CachedGenes):
        return cached.express(model, packed, train=False, other_strand=other_strand)
    return packing.express(
        model,
        packed,
        train=False,
        unknown=objective.unknown_base,
        other_strand=other_strand,
        unknown_kmers=objective.unknown_kmers,
    )


def _weight(packed) -> Values:
    return packed.rows.weight if isinstance(packed, packing.PackedWindows) else packed.weight


def _mean(values, weight):
    return jnp.sum(values * weight) / jnp.maximum(jnp.sum(weight), 1)
