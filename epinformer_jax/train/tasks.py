"""What is minimised: losses of both tasks and the pure functions the loop compiles (spec 3.4, 4).

An `Objective` is everything static about a step; with it, `loss` and `predict` are pure functions
of parameter trees and a packed batch.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from epinformer_jax.data.batches import Batch
from epinformer_jax.model import functional, packing
from epinformer_jax.model.architecture import ExpressionConfig, ModelConfig
from epinformer_jax.model.functional import Tree, Variables

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
    """

    model: ModelConfig
    loss: str
    encoder: EncoderMode = "tuned"
    unknown_base: float = 0.25
    shift_bp: int = 0
    flip: bool = False


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
            packing.express(
                model,
                packed,
                train=False,
                unknown=objective.unknown_base,
                other_strand=other,
            )
            for other in ((False, True) if objective.flip else (False,))
        ]
        prediction = sum(values for values, _ in strands) / len(strands)
        attention = sum(jnp.mean(weights, axis=1) for _, weights in strands) / len(strands)
        return prediction, attention
    prediction = packing.activate(model, packed, train=False, unknown=objective.unknown_base)
    return prediction, jnp.zeros((prediction.shape[0], 0), prediction.dtype)


def packed_batch(batch: Batch) -> packing.PackedGenes | packing.PackedWindows:
    """The device form of a host batch."""
    if isinstance(batch["rows"], dict):
        return packing.PackedWindows(packing.PackedRows(**batch["rows"]), batch["labels"])
    rows = tuple(packing.PackedRows(**group) for group in batch["rows"])
    return packing.PackedGenes(**{**batch, "rows": rows})


def _weight(packed) -> Values:
    return packed.weight if isinstance(packed, packing.PackedGenes) else packed.rows.weight


def _mean(values, weight):
    return jnp.sum(values * weight) / jnp.maximum(jnp.sum(weight), 1)
