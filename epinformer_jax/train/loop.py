"""The training loop of both tasks: epochs, validation, early stopping, checkpoints, resume.

Order, layouts and dropout depend on (seed, step) alone, and everything that decides is stored with
each checkpoint, so a run that was killed and started again ends with the same weights as one that
was not. A run that is asked to end (SIGTERM) saves within its epoch and goes on from there.
"""

import dataclasses
import functools
import math
import os
import time
from typing import Any, NamedTuple, NoReturn, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging
from jax.sharding import Mesh
from jaxtyping import Float, Int

from epinformer_jax.data.batches import Batch
from epinformer_jax.data.loader import Stream
from epinformer_jax.model.calls import AT_ONCE, fetched
from epinformer_jax.model.functional import Tree, Variables
from epinformer_jax.train import distributed, metrics, tasks
from epinformer_jax.train.checkpoint import Checkpoints, ModelInfo, Restored
from epinformer_jax.train.devices import (
    all_devices,
    prefetched,
    put_replicated,
    replicated,
    waits_each_step,
)
from epinformer_jax.train.progress_bar import progress_bar

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
    directory: os.PathLike,
    info: ModelInfo,
    *,
    name: str,
    run_id: str,
    mesh: Mesh | None = None,
) -> Fit:
    """Trains from `start`, or goes on from the last checkpoint in `directory`, on the devices of
    `mesh` (default: all).

    `run_id` is a fingerprint of configuration and data; a directory that holds another run's is
    refused. Writes checkpoints/, tensorboard/ and, through the returned history, what history.tsv
    holds.

    Raises:
      ValueError: the directory belongs to another run, or a loss is not finite (the step is named).
      Preempted: the process was asked to end; a checkpoint says where it stood.
    """
    mesh = mesh or all_devices()
    step_fn = train_step(objective, optimizer, _spread(mesh))
    batches = examples.stream(train, shuffle=True)
    checkpoints = Checkpoints(directory, repair=True)
    try:
        state, progress = _resume(checkpoints, start, objective, optimizer, run_id, mesh)
        total = spec.epochs * batches.steps_per_epoch
        with progress_bar(name, total, "step", done=progress["step"]) as bar:
            while not progress["finished"]:
                state, row = _epoch(state, step_fn, batches, progress, spec, optimizer, bar, mesh)
                if row is None:
                    _save_and_stop(checkpoints, state, info, progress)
                variables = Variables(state.params, state.stats)
                row |= _validate(objective, variables, examples, valid, mesh)
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
    variables = Variables(best.tree["params"], best.tree["stats"])
    return Fit(variables, progress["history"], progress["best_epoch"])


def predict_all(
    objective: tasks.Objective,
    variables: Variables,
    stream: Stream,
    count: int,
    *,
    mesh: Mesh | None = None,
) -> tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N S"]]:
    """Predictions and attention for every example of an unshuffled stream, in its order, once; all
    of them on every process.
    """
    mesh = mesh or all_devices()
    step = predict_step(objective, _spread(mesh))
    variables = put_replicated(variables, mesh)
    predictions, attention = [], []
    batches = prefetched(stream.batches(0, stream.steps_per_epoch), mesh)
    calls = ((n, functools.partial(step, variables, own)) for n, own in enumerate(batches))
    for number, (values, weights) in fetched(calls, at_once=AT_ONCE if mesh.size == 1 else 1):
        real = len(stream.indices(number))
        predictions.append(values[:real])
        attention.append(weights[:real])
    predictions, attention = np.concatenate(predictions), np.concatenate(attention)
    if len(predictions) != count:
        raise ValueError(f"predicted {len(predictions)} of {count} examples")
    return predictions.astype(np.float64), attention


@functools.lru_cache(maxsize=32)
def train_step(objective: tasks.Objective, optimizer: OptimizerSpec, mesh: Mesh | None = None):
    """The jitted step (state, batch, key) -> (state, loss); one compilation for each batch layout,
    shared by all folds. The old state's memory becomes the new one's.

    With `mesh`, for several devices, state and loss end up on each of them.
    """
    transform = make_optimizer(objective, optimizer)

    def step(state: State, batch: Batch, key):
        def loss(params):
            return tasks.loss(objective, params, state.stats, batch, key)

        (value, stats), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
        updates, inner = transform.update(gradient, state.optimizer, state.params)
        return State(optax.apply_updates(state.params, updates), stats, inner), value

    return jax.jit(step, donate_argnums=0, **_everywhere(mesh))


@functools.lru_cache(maxsize=32)
def predict_step(objective: tasks.Objective, mesh: Mesh | None = None):
    """The jitted prediction (variables, batch) -> (predictions, attention); `mesh` as for
    `train_step`.
    """
    return jax.jit(functools.partial(tasks.predict, objective), **_everywhere(mesh))


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


def _spread(mesh: Mesh) -> Mesh | None:
    """What a step must know of its devices: nothing when there is one, so folds share the step."""
    return mesh if mesh.size > 1 else None


def _everywhere(mesh: Mesh | None) -> dict[str, Any]:
    return {} if mesh is None else {"out_shardings": replicated(mesh)}


def _epoch(state, step_fn, batches, progress, spec, optimizer, bar, mesh):
    """To the end of the epoch, which may have begun before this start; the row is None when the
    process was asked to end.
    """
    started = time.monotonic() - progress["seconds"]
    first = progress["step"]
    last = (progress["epoch"] + 1) * batches.steps_per_epoch
    key = jax.random.key(spec.seed)
    pending: list[tuple[int, jax.Array]] = []
    losses = list(progress["losses"])
    ready = prefetched(batches.batches(first, last), mesh)
    for step, batch in enumerate(ready, start=first):
        if distributed.must_stop():
            seconds = time.monotonic() - started
            progress |= {"step": step, "losses": losses + _finite(pending), "seconds": seconds}
            return state, None
        state, loss = step_fn(state, batch, jax.random.fold_in(key, step))
        if waits_each_step(mesh):
            jax.block_until_ready(loss)
        pending.append((step, loss))
        if len(pending) == CHECK_EVERY_STEPS or step == last - 1:
            losses += _finite(pending)
            pending = []
        bar.update()
    progress |= {"losses": [], "seconds": 0.0}
    row = {
        "epoch": progress["epoch"] + 1,
        "step": last,
        "train_loss": float(np.mean(losses)),
        "learning_rate": float(learning_rate_of(optimizer)(last - 1)),
        "started": started,
    }
    return state, row


def _save_and_stop(checkpoints, state, info, progress) -> NoReturn:
    """A checkpoint within an epoch, which can never be the best; then the end."""
    checkpoints.wait()
    step = progress["step"]
    if step and step not in checkpoints.steps():
        worst = -math.inf
        checkpoints.save(step, _as_tree(state), info=info, progress=progress, score=worst)
        checkpoints.wait()
    raise distributed.Preempted(
        f"asked to end (SIGTERM) at step {step}; the same command goes on from there"
    )


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


def _validate(objective, variables, examples, valid, mesh) -> dict[str, float]:
    stream = examples.stream(valid, shuffle=False)
    prediction, _ = predict_all(objective, variables, stream, len(valid), mesh=mesh)
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


def _resume(checkpoints, start, objective, optimizer, run_id, mesh):
    transform = make_optimizer(objective, optimizer)
    restored: Restored | None = checkpoints.restore_latest()
    if restored is None:
        fresh = {
            "run_id": run_id,
            "epoch": 0,
            "step": 0,
            "losses": [],  # of the epoch that has begun, and the time it took so far
            "seconds": 0.0,
            "best_score": -1e30,
            "best_epoch": 0,
            "waited": 0,
            "finished": False,
            "history": [],
        }
        state = State(start.params, start.stats, transform.init(start.params))
        return State(*(put_replicated(part, mesh) for part in state)), fresh
    if restored.progress["run_id"] != run_id:
        raise ValueError(
            f"{checkpoints.directory} belongs to a run with another configuration or other data; "
            "choose another --workdir "
            f"or remove it"
        )
    logging.info(
        "%s: resuming after epoch %d, step %d",
        checkpoints.directory,
        restored.progress["epoch"],
        restored.step,
    )
    leaves, structure = jax.tree.flatten(transform.init(restored.tree["params"]))
    saved = restored.tree["optimizer"]
    inner = jax.tree.unflatten(structure, [saved[f"{i:04d}"] for i in range(len(leaves))])
    state = State(restored.tree["params"], restored.tree["stats"], inner)
    progress = {"losses": [], "seconds": 0.0, **restored.progress}
    return State(*(put_replicated(part, mesh) for part in state)), progress


def _as_tree(state: State) -> Tree:
    leaves = jax.tree.leaves(state.optimizer)
    numbered = {f"{i:04d}": leaf for i, leaf in enumerate(leaves)}
    return {"params": state.params, "stats": state.stats, "optimizer": numbered}


def _tensorboard(directory: os.PathLike, row: Row) -> None:
    """One point a curve; only in local run directories, since its writer appends to a file."""
    if "://" in str(directory) or not distributed.is_lead():
        return
    from tensorboardX import SummaryWriter

    with SummaryWriter(logdir=os.path.join(directory, "tensorboard"), write_to_disk=True) as writer:
        for key in ("train_loss", "valid_loss", "valid_pearson", "learning_rate"):
            writer.add_scalar(key, row[key], row["step"])
