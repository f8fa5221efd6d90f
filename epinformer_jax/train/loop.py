"""The training loop of both tasks: epochs, validation, early stopping, checkpoints, resume.

Order, layouts and dropout depend on (seed, step) alone, and everything that decides is stored with
each checkpoint, so a run that was killed and started again ends with the same weights as one that
was not.
"""

import dataclasses
import functools
import math
import time
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Float, Int
from tqdm import tqdm

from epinformer_jax.data.batches import Batch
from epinformer_jax.data.loader import Stream
from epinformer_jax.model.functional import Tree, Variables
from epinformer_jax.train import metrics, tasks
from epinformer_jax.train.checkpoint import Checkpoints, ModelInfo, Restored

CHECK_EVERY_STEPS = 50  # how often losses are fetched and tested for NaN

Row = dict[str, int | float]  # one epoch of the history, by column


@dataclasses.dataclass(frozen=True)
class OptimizerSpec:
    """AdamW as published: decoupled decay on every parameter, betas 0.9 and 0.999, epsilon 1e-8."""

    learning_rate: float
    weight_decay: float = 1e-6
    schedule: str = "constant"
    warmup_steps: int = 0
    total_steps: int = 0


@dataclasses.dataclass(frozen=True)
class FitSpec:
    """When to stop, and what counts as better on validation.

    `score` is a name in SCORES; epochs without improvement beyond `patience_epochs` end the run (0:
    never).
    """

    epochs: int
    patience_epochs: int
    score: str = "pearson"
    seed: int = 0


@runtime_checkable
class Examples(Protocol):
    """What the loop needs of a data set."""

    labels: Float[np.ndarray, "N"]

    def stream(self, indices: Int[np.ndarray, "N"], *, shuffle: bool) -> Stream:
        """Batches over these examples."""


class State(NamedTuple):
    """Everything a step changes."""

    params: Tree
    stats: Tree
    optimizer: Any


class Fit(NamedTuple):
    """A finished training: the weights with the best validation score, and one row an epoch."""

    variables: Variables
    history: list[Row]
    best_epoch: int


SCORES = {
    "pearson": lambda row: row["valid_pearson"],
    "pearson_squared": lambda row: row["valid_pearson"] ** 2,
    "loss": lambda row: -row["valid_loss"],
}


def fit(
    objective: tasks.Objective,
    optimizer: OptimizerSpec,
    spec: FitSpec,
    start: Variables,
    examples: Examples,
    train: Int[np.ndarray, "N"],
    valid: Int[np.ndarray, "M"],
    directory: Path,
    info: ModelInfo,
    *,
    name: str,
    run_id: str,
) -> Fit:
    """Trains from `start`, or goes on from the last checkpoint in `directory`.

    `run_id` is a fingerprint of configuration and data; a directory that holds another run's is
    refused. Writes checkpoints/, tensorboard/ and, through the returned history, what history.tsv
    holds.

    Raises:
      ValueError: the directory belongs to another run, or a loss is not finite (the step is named).
    """
    step_fn = train_step(objective, optimizer)
    batches = examples.stream(train, shuffle=True)
    checkpoints = Checkpoints(directory)
    try:
        state, progress = _resume(checkpoints, start, objective, optimizer, run_id)
        with tqdm(
            total=spec.epochs * batches.steps_per_epoch,
            initial=progress["step"],
            desc=name,
            unit="step",
            mininterval=1.0,
            dynamic_ncols=True,
        ) as bar:
            while not progress["finished"]:
                state, row = _epoch(state, step_fn, batches, progress, spec, optimizer, bar)
                row |= _validate(objective, Variables(state.params, state.stats), examples, valid)
                row["seconds"] = round(time.monotonic() - row.pop("started"), 2)
                _advance(progress, row, spec)
                _tensorboard(directory, row)
                bar.set_postfix(loss=f"{row['train_loss']:.4f}", r=f"{row['valid_pearson']:.3f}")
                checkpoints.save(
                    progress["step"],
                    _as_tree(state),
                    info=info,
                    progress=progress,
                    score=SCORES[spec.score](row),
                )
        checkpoints.wait()
        best = checkpoints.restore(checkpoints.best_step())
    finally:
        checkpoints.close()
    history = progress["history"]
    variables = Variables(best.tree["params"], best.tree["stats"])
    return Fit(variables, history, progress["best_epoch"])


def predict_all(
    objective: tasks.Objective, variables: Variables, stream: Stream, count: int
) -> tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N S"]]:
    """Predictions and attention for every example of an unshuffled stream, in its order, once."""
    step = predict_step(objective)
    variables = put_replicated(variables)
    predictions, attention = [], []
    for number, batch in enumerate(stream.batches(0, stream.steps_per_epoch)):
        real = len(stream.indices(number))
        values, weights = jax.device_get(step(variables, put_batch(batch)))
        predictions.append(values[:real])
        attention.append(weights[:real])
    predictions, attention = np.concatenate(predictions), np.concatenate(attention)
    if len(predictions) != count:
        raise ValueError(f"predicted {len(predictions)} of {count} examples")
    return predictions.astype(np.float64), attention


@functools.lru_cache(maxsize=8)
def train_step(objective: tasks.Objective, optimizer: OptimizerSpec):
    """The jitted step (state, batch, key) -> (state, loss); one compilation for each batch layout,
    shared by all folds.
    """
    transform = make_optimizer(objective, optimizer)

    def step(state: State, batch: Batch, key):
        def loss(params):
            return tasks.loss(objective, params, state.stats, batch, key)

        (value, stats), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
        updates, inner = transform.update(gradient, state.optimizer, state.params)
        return State(optax.apply_updates(state.params, updates), stats, inner), value

    return jax.jit(step, donate_argnums=0)


@functools.lru_cache(maxsize=8)
def predict_step(objective: tasks.Objective):
    """The jitted prediction (variables, batch) -> (predictions, attention)."""
    return jax.jit(functools.partial(tasks.predict, objective))


def make_optimizer(objective: tasks.Objective, spec: OptimizerSpec) -> optax.GradientTransformation:
    """AdamW on all parameters, or on all but the encoder when that is frozen."""
    adamw = optax.adamw(learning_rate_of(spec), weight_decay=spec.weight_decay)
    if objective.encoder == "tuned":
        return adamw

    def labels(params):
        return {
            key: jax.tree.map(lambda _, kind=key: "fixed" if kind == "encoder" else "trained", tree)
            for key, tree in params.items()
        }

    return optax.multi_transform({"trained": adamw, "fixed": optax.set_to_zero()}, labels)


def learning_rate_of(spec: OptimizerSpec) -> optax.Schedule:
    """Learning rate by step: constant or cosine to zero, after a linear warm-up."""
    if spec.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(
            0.0 if spec.warmup_steps else spec.learning_rate,
            spec.learning_rate,
            spec.warmup_steps,
            max(spec.total_steps, spec.warmup_steps + 1),
        )
    constant = optax.constant_schedule(spec.learning_rate)
    if not spec.warmup_steps:
        return constant
    warmup = optax.linear_schedule(0.0, spec.learning_rate, spec.warmup_steps)
    return optax.join_schedules([warmup, constant], [spec.warmup_steps])


@functools.lru_cache(maxsize=1)
def mesh() -> jax.sharding.Mesh:
    """All devices along one axis."""
    devices = jax.devices()
    return jax.make_mesh((len(devices),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))


def put_replicated(tree):
    """Copies a tree to every device. Copies, since a donated alias would delete the original."""
    sharding = NamedSharding(mesh(), PartitionSpec())
    return jax.tree.map(lambda leaf: jax.device_put(jnp.array(leaf), sharding), tree)


def put_batch(batch: Batch) -> Batch:
    """Deals rows evenly over the devices; what belongs to genes is on every device."""
    devices = mesh().size
    whole = NamedSharding(mesh(), PartitionSpec())
    dealt = NamedSharding(mesh(), PartitionSpec("data"))

    def shard_rows(leaf):
        return jax.device_put(leaf, dealt if leaf.shape[0] % devices == 0 else whole)

    return {
        key: jax.tree.map(shard_rows, value) if key == "rows" else jax.device_put(value, whole)
        for key, value in batch.items()
    }


def _epoch(state, step_fn, batches, progress, spec, optimizer, bar):
    started = time.monotonic()
    first = progress["step"]
    last = first + batches.steps_per_epoch
    key = jax.random.key(spec.seed)
    wait_each = jax.default_backend() == "cpu" and mesh().size > 1
    pending: list[tuple[int, jax.Array]] = []
    losses: list[float] = []
    for step, batch in enumerate(batches.batches(first, last), start=first):
        state, loss = step_fn(state, put_batch(batch), jax.random.fold_in(key, step))
        if wait_each:  # many unawaited collective steps abort the process on CPU
            jax.block_until_ready(loss)
        pending.append((step, loss))
        if len(pending) == CHECK_EVERY_STEPS or step == last - 1:
            losses += _finite(pending)
            pending = []
        bar.update()
    row = {
        "epoch": progress["epoch"] + 1,
        "step": last,
        "train_loss": float(np.mean(losses)),
        "learning_rate": float(learning_rate_of(optimizer)(last - 1)),
        "started": started,
    }
    return state, row


def _finite(pending) -> list[float]:
    losses = [float(value) for value in jax.device_get([loss for _, loss in pending])]
    for (step, _), value in zip(pending, losses, strict=True):
        if not math.isfinite(value):
            raise ValueError(
                f"the loss at step {step} is {value}; lower the learning rate, or look for "
                "extreme features with "
                f"`python -m data_prep check`; checkpoints before this step are kept"
            )
    return losses


def _validate(objective, variables, examples, valid) -> dict[str, float]:
    stream = examples.stream(valid, shuffle=False)
    prediction, _ = predict_all(objective, variables, stream, len(valid))
    measured = examples.labels[valid].astype(np.float64)
    loss = tasks.LOSSES[objective.loss]
    value = loss(jnp.asarray(prediction), jnp.asarray(measured), jnp.ones(len(valid)))
    return {
        "valid_loss": float(value),
        "valid_pearson": float(metrics.pearson(measured, prediction)),
        "valid_spearman": float(metrics.spearman(measured, prediction)),
    }


def _advance(progress, row, spec) -> None:
    """Epoch count, best score and patience; a tie counts as an improvement, as published (spec
    4.3).
    """
    progress["epoch"], progress["step"] = row["epoch"], row["step"]
    progress["history"].append(row)
    score = SCORES[spec.score](row)
    if math.isfinite(score) and score >= progress["best_score"]:
        progress["best_score"], progress["best_epoch"] = score, row["epoch"]
        progress["waited"] = 0
    else:
        progress["waited"] += 1
    out_of_patience = spec.patience_epochs and progress["waited"] >= spec.patience_epochs
    progress["finished"] = bool(out_of_patience or progress["epoch"] >= spec.epochs)


def _resume(checkpoints, start, objective, optimizer, run_id):
    transform = make_optimizer(objective, optimizer)
    restored: Restored | None = checkpoints.restore_latest()
    if restored is None:
        fresh = {
            "run_id": run_id,
            "epoch": 0,
            "step": 0,
            "best_score": -1e30,
            "best_epoch": 0,
            "waited": 0,
            "finished": False,
            "history": [],
        }
        params = put_replicated(start.params)
        inner = put_replicated(transform.init(params))
        return State(params, put_replicated(start.stats), inner), fresh
    if restored.progress["run_id"] != run_id:
        raise ValueError(
            f"{checkpoints.directory} belongs to a run with another configuration or other data; "
            "choose another --workdir "
            f"or remove it"
        )
    logging.info("%s: resuming after epoch %d", checkpoints.directory, restored.progress["epoch"])
    leaves, structure = jax.tree.flatten(transform.init(restored.tree["params"]))
    saved = restored.tree["optimizer"]
    inner = jax.tree.unflatten(structure, [saved[f"{i:04d}"] for i in range(len(leaves))])
    state = State(restored.tree["params"], restored.tree["stats"], inner)
    return State(*(put_replicated(part) for part in state)), restored.progress


def _as_tree(state: State) -> Tree:
    leaves = jax.tree.leaves(state.optimizer)
    numbered = {f"{i:04d}": leaf for i, leaf in enumerate(leaves)}
    return {"params": state.params, "stats": state.stats, "optimizer": numbered}


def _tensorboard(directory: Path, row: Row) -> None:
    from tensorboardX import SummaryWriter

    with SummaryWriter(logdir=str(directory / "tensorboard"), write_to_disk=True) as writer:
        for key in ("train_loss", "valid_loss", "valid_pearson", "learning_rate"):
            writer.add_scalar(key, row[key], row["step"])
