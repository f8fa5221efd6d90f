"""How fast training steps are, and what they wait for: a table and a trace.

Steps run as in training (same data, layouts, prefetch, devices) from fresh weights. Each is waited
for, so times are those of single steps.
"""

import dataclasses
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
import pandas as pd
from absl import logging

from epinformer_jax.data.batches import Batch
from epinformer_jax.data.loader import GeneSet
from epinformer_jax.model import functional
from epinformer_jax.model.functional import Variables
from epinformer_jax.train import (
    crossval,
    devices,
    distributed,
    encoder_cache,
    flops,
    loop,
    networks,
    rundir,
    tasks,
)
from epinformer_jax.train.examples import read_genes, read_windows

TRACED_STEPS = 3
TABLE = "profile.tsv"


class Timed(NamedTuple):
    """Seconds of each step, and before it the wait for its batch; the examples it held; its batch's
    bytes from host to device; its operations.
    """

    step: list[float]
    wait: list[float]
    examples: list[int]
    bytes_in: list[int]
    flops: list[float]


def run(config: ml_collections.ConfigDict, directory: str | os.PathLike, *, steps: int = 20) -> str:
    """Measures `steps` training steps of a configuration's first fold; writes profile.tsv and a
    trace (for TensorBoard or Perfetto) into `directory`, returns the table as text.

    Raises:
      ValueError: data and configuration do not fit.
    """
    networks.check(config)
    directory = Path(directory)
    scratch = Path(tempfile.mkdtemp(prefix="epinformer_jax_profile_"))
    try:
        objective, examples, count, start = _setting(config, steps, scratch)
        table = measure(objective, examples, count, start, directory, steps=steps, config=config)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    rundir.make(directory)
    rundir.write_tsv(directory / TABLE, table)
    logging.info(
        "trace: tensorboard --logdir %s, or open its .trace.json.gz in Perfetto", directory
    )
    return f"{table.to_string(index=False)}\ntable: {directory / TABLE}\ntrace: {directory}"


def measure(
    objective: tasks.Objective,
    examples: loop.Examples,
    count: int,
    start: Variables,
    directory: Path,
    *,
    steps: int,
    config: ml_collections.ConfigDict,
) -> pd.DataFrame:
    """The table: quantity, value, unit, how it was found."""
    settings = config.train if config.task == "expression" else config.pretrain
    optimizer = loop.OptimizerSpec(settings.learning_rate, settings.weight_decay)
    mesh = devices.all_devices()
    step_fn = loop.train_step(objective, optimizer, mesh if mesh.size > 1 else None)
    inner = loop.make_optimizer(objective, optimizer).init(start.params)
    parts = (start.params, start.stats, inner)
    state = loop.State(*(devices.put_replicated(part, mesh) for part in parts))
    stream = examples.stream(np.arange(count), shuffle=True)
    key = jax.random.key(config.seed)
    began = time.perf_counter()
    layouts: dict[Any, Batch] = {}
    for batch in stream.batches(0, steps):
        layouts.setdefault(_layout(batch), batch)
    for batch in layouts.values():
        state, loss = step_fn(state, devices.put_batch(batch, mesh), key)
    jax.block_until_ready(loss)
    warm = time.perf_counter() - began
    state, timed = _timed(step_fn, state, stream, steps, key, objective, mesh)
    if distributed.is_lead():
        rundir.make(directory)
    with jax.profiler.trace(str(directory)):
        for batch in devices.prefetched(stream.batches(0, min(TRACED_STEPS, steps)), mesh):
            state, loss = step_fn(state, batch, key)
            jax.block_until_ready(loss)
    cost = _compiled_cost(step_fn, state, next(iter(layouts.values())), key, mesh)
    rows = [*_rows(timed, mesh, objective, cost), ("compile and warm up", warm, "s", "once")]
    rows.append(("batch layouts met", len(layouts), "", "each is compiled"))
    if objective.encoder == "frozen":
        is_cached = isinstance(examples, encoder_cache.CachedExamples)
        how = "read from a cache" if is_cached else "computed in each step"
        rows.append(("frozen encoder runs", 0 if is_cached else 1, "1/step", f"outputs {how}"))
    if config.task == "expression":
        dense = flops.dense(objective.model, settings.batch_size) / 1e9
        rows.append(("dense step", dense, "GFLOP", "every slot at full width"))
    return pd.DataFrame(rows, columns=["quantity", "value", "unit", "how"])


def _timed(step_fn, state, stream, steps: int, key, objective, mesh):
    timed = Timed([], [], [], [], [])
    host = iter(stream.batches(0, steps))
    sizes: list[tuple[int, int, float]] = []

    def noted():
        for number, batch in enumerate(host):
            bytes_in = sum(leaf.nbytes for leaf in jax.tree.leaves(batch))
            real = len(stream.indices(number))
            sizes.append((real, bytes_in, flops.of_step(objective, batch)))
            yield batch

    ready = devices.prefetched(noted(), mesh)
    for number in range(steps):
        asked = time.perf_counter()
        batch = jax.block_until_ready(next(ready))
        got = time.perf_counter()
        state, loss = step_fn(state, batch, jax.random.fold_in(key, number))
        jax.block_until_ready(loss)
        timed.wait.append(got - asked)
        timed.step.append(time.perf_counter() - got)
    for values, column in zip(zip(*sizes, strict=True), timed[2:], strict=True):
        column.extend(values)
    return state, timed


def _rows(timed: Timed, mesh, objective, cost: dict[str, float]):
    step, wait = np.array(timed.step), np.array(timed.wait)
    total = float(np.sum(step) + np.sum(wait))
    model = float(np.sum(timed.flops))
    device = mesh.devices.flat[0]
    dtype = objective.model.compute_dtype
    best = flops.peak(device, dtype)
    spread = (
        f"median of {len(step)} steps, mean {1e3 * step.mean():.1f}; 10 % to 90 %: {_span(step)} ms"
    )
    yield "step time", 1e3 * float(np.median(step)), "ms", spread
    yield "waiting for data", 1e3 * float(np.median(wait)), "ms", "median, before a step"
    yield "share of time waiting", 100 * float(np.sum(wait)) / total, "%", "of all steps"
    yield "examples", sum(timed.examples) / total, "1/s", f"{mesh.size} {device.device_kind}"
    yield "model arithmetic", model / len(step) / 1e9, "GFLOP/step", "real rows, counted by shape"
    yield "compiled arithmetic", cost.get("flops", np.nan) / 1e9, "GFLOP/step", "XLA, first layout"
    yield "speed", model / float(np.sum(step)) / 1e9, "GFLOP/s", "model arithmetic / mean step time"
    if best:
        share = 100 * model / float(np.sum(step)) / (best.flops * mesh.size)
        yield "peak of a device", best.flops / 1e9, "GFLOP/s", best.source
        yield "model FLOP utilisation", share, "%", "speed / peak of all devices"
    else:
        yield "model FLOP utilisation", np.nan, "%", f"peak of {device.device_kind} not known"
    moved = cost.get("bytes accessed", np.nan) / 1e6
    yield "memory traffic", moved, "MB/step", "XLA's estimate, first layout"
    yield "host to device", float(np.mean(timed.bytes_in)) / 1e6, "MB/step", "mean of batches"


def _span(seconds: np.ndarray) -> str:
    low, high = 1e3 * np.quantile(seconds, [0.1, 0.9])
    return f"{low:.1f} to {high:.1f}"


def _compiled_cost(step_fn, state, batch: Batch, key, mesh) -> dict[str, float]:
    """XLA's own count for one layout; empty where the backend has none."""
    compiled = step_fn.lower(state, devices.put_batch(batch, mesh), key).compile()
    found = compiled.cost_analysis()
    found = found[0] if isinstance(found, list) else found
    return {name: float(value) for name, value in (found or {}).items()}


def _layout(batch: Batch):
    return tuple(leaf.shape for leaf in jax.tree.leaves(batch))


def _setting(config, steps: int, scratch: Path):
    """Objective, examples, their number and fresh weights; genes of the first fold's training."""
    if config.task == "activity":
        windows = read_windows(config)
        objective = crossval.activity_objective(config)
        start = functional.init(objective.model, seed=config.seed)
        return objective, windows, len(windows.data), start
    genes = read_genes(config)
    fold = crossval.folds_of(config, [genes])[0]
    train = np.random.default_rng(config.seed).permutation(genes.data.where(fold.train))
    subset = _subset(genes.data, train[: config.train.batch_size * steps])
    genes = dataclasses.replace(genes, data=subset)
    objective = crossval.expression_objective(config, genes)
    start = functional.init(objective.model, seed=config.seed)
    count = len(subset)
    if config.train.encoder_cache == "off" or objective.encoder != "frozen":
        return objective, genes, count, start
    folder = scratch / "encoder_cache"
    dtype = config.train.encoder_cache_dtype
    cache = encoder_cache.EncoderCache(
        objective, start, subset.sequences, genes.layout, folder, dtype=dtype
    )
    if encoder_cache.obstacle(config.train.encoder_cache, objective, cache):
        return objective, genes, count, start
    return objective, encoder_cache.CachedExamples(genes, cache), count, start


def _subset(data: GeneSet, chosen: np.ndarray) -> GeneSet:
    return GeneSet(
        [data.examples[i] for i in chosen],
        [data.sequences[i] for i in chosen],
        [data.link_features[i] for i in chosen],
        data.gene_features[chosen],
        data.labels[chosen],
    )
