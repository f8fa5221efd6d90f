"""What we run for the expression model: production's jitted steps on production's packed batches.

Batches are those of the first steps of training, packed beforehand (training packs ahead in a
thread; the time it takes stands beside). Compiling counts as one-off. Where a batch takes
milliseconds a run is a stretch of the stream, by production's loops, which copy, compute and fetch
neighbouring batches side by side.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from epinformer_jax.analysis.kmer_tables import KmerTable
from epinformer_jax.data import layouts
from epinformer_jax.data.batches import Batch
from epinformer_jax.data.layouts import Plan
from epinformer_jax.model import functional, kmers, packing
from epinformer_jax.model.calls import fetched
from epinformer_jax.model.functional import Variables
from epinformer_jax.train import encoder_cache, loop, side_by_side, tasks
from epinformer_jax.train.devices import all_devices, prefetched, put_batch, put_replicated
from tests.benchmarks import models, networks, occupancy
from tests.benchmarks.setting import SLOTS, Prepared, Setting

STREAM_BATCHES, QUICK_BATCHES = 48, 8  # of the real stream, taken in turn
STRETCH = 16  # batches of a run, where it has several


def objective(setting: Setting, encoder: str = "tuned", *, tables: bool = False) -> tasks.Objective:
    """What training minimises, at the published widths, with padded statistics; `tables`: the first
    convolution from k-mer tables made in each step.
    """
    model = networks.read(setting.weights_file, "expression").config
    unknown = occupancy.schema().unknown_base
    goal = tasks.Objective(model, setting.config.train.loss, encoder, unknown)
    return dataclasses.replace(goal, unknown_kmers=0) if tables else goal


def optimizer(setting: Setting) -> loop.OptimizerSpec:
    """AdamW as in the published recipe."""
    settings = setting.config.train
    return loop.OptimizerSpec(settings.learning_rate, settings.weight_decay)


def variables(setting: Setting):
    """The benchmark's weights."""
    return networks.read(setting.weights_file, "expression").variables()


def plan_of(setting: Setting, batch: int) -> Plan:
    """Production's layouts for this data set."""
    model = objective(setting).model
    return setting.data.plan(
        geometry=layouts.Geometry(**model.geometry()),
        batch_size=batch,
        slots=SLOTS,
        layouts=setting.config.train.layouts,
    )


def stream(setting: Setting, batch: int, count: int | None = None) -> tuple[list[Batch], float]:
    """The first batches of training, and the seconds that packing one takes."""
    count = count or (QUICK_BATCHES if setting.quick else STREAM_BATCHES)
    plan, order = plan_of(setting, batch), setting.order(batch)
    started = time.perf_counter()
    packed = [setting.data.batch(order.indices(step), plan) for step in range(count)]
    return packed, (time.perf_counter() - started) / count


def layout_of(batch: Batch) -> tuple[tuple[int, ...], ...]:
    """Shapes of a batch: those of one layout share a program."""
    return tuple(leaf.shape for leaf in jax.tree.leaves(batch))


def compiled(call: Callable[[Batch], object], batches: Iterable[Batch]) -> float:
    """Seconds that `call` takes to meet each layout of the batches once."""
    spent, seen = 0.0, set()
    for batch in batches:
        if layout_of(batch) not in seen:
            seen.add(layout_of(batch))
            started = time.perf_counter()
            jax.block_until_ready(call(batch))
            spent += time.perf_counter() - started
    return spent


def forward(setting: Setting, *, batch: int, kmer_table: KmerTable = "off") -> Prepared:
    """Predictions of a batch of genes; the encoder's first block by convolutions or, for these
    weights, from k-mers.
    """
    batches, packing_s = stream(setting, batch)
    goal, weights = objective(setting), put_replicated(variables(setting))
    one_off = {}
    if kmer_table != "off":
        started = time.perf_counter()
        table = models.kmer_table(setting.weights_file, "expression", kmer_table)
        one_off = {"table_s": time.perf_counter() - started, "table_bytes": table.values.nbytes}
        by_table = jax.jit(functools.partial(predict_by_table, goal))

        predict = functools.partial(by_table, weights, table)
    else:
        predict = functools.partial(loop.predict_step(goal), weights)
    one_off |= {
        "compile_s": compiled(lambda packed: predict(put_batch(packed)), batches),
        "packing_of_a_batch_s": packing_s,
    }

    def run(index: int) -> list[float]:
        chosen = prefetched(_stretch(batches, index))
        calls = ((n, functools.partial(predict, packed)) for n, packed in enumerate(chosen))
        found = [predictions for _, (predictions, _) in fetched(calls)]
        return found[0].tolist()

    return Prepared(run, work=batch * STRETCH, one_off=one_off)


def _stretch(batches: Sequence[Any], index: int, length: int = STRETCH) -> Iterator[Any]:
    """The batches of run number `index`."""
    return (batches[n % len(batches)] for n in range(index * length, (index + 1) * length))


def predict_by_table(
    goal: tasks.Objective,
    weights: Variables,
    table: kmers.Table | kmers.Taps,
    batch: Batch,
):
    """tasks.predict with the first block from its table; genes without unknown bases."""
    packed = tasks.packed_batch(batch)
    model = functional.bind(goal.model, weights)
    return packing.express(model, packed, train=False, unknown=goal.unknown_base, table=table)


def train(
    setting: Setting, *, batch: int, encoder: str = "tuned", tables: bool = False
) -> Prepared:
    """A step with AdamW."""
    batches, packing_s = stream(setting, batch)
    goal = objective(setting, encoder, tables=tables)
    return _steps(setting, goal, batches, {"packing_of_a_batch_s": packing_s})


def train_cached(setting: Setting, *, batch: int, folds: int = 1) -> Prepared:
    """A step behind a frozen encoder whose outputs are cached; reading them counts. `folds` train
    at once.
    """
    batches, _ = stream(setting, batch)
    goal = objective(setting, "frozen")
    order, plan = setting.order(batch), plan_of(setting, batch)
    genes = [order.indices(step) for step in range(len(batches))]
    used = np.unique(np.concatenate(genes))
    cache = encoder_cache.EncoderCache(
        goal,
        variables(setting),
        [setting.data.sequences[gene] for gene in used],
        plan,
        setting.scratch / f"cache_{batch}",
    )
    started = time.perf_counter()
    cache.open()
    spent = {"cache_s": time.perf_counter() - started, "cache_bytes": float(cache.size_bytes)}
    places = [np.searchsorted(used, own) for own in genes]

    def with_towers(index: int) -> Batch:
        return cache.with_towers(batches[index], places[index])

    steps = _steps(setting, goal, batches, spent, with_towers, stretch=STRETCH, folds=folds)
    return dataclasses.replace(steps, close=cache.delete)


def _steps(
    setting: Setting,
    goal: tasks.Objective,
    batches: list[Batch],
    one_off: dict[str, float],
    prepared: Callable[[int], Batch] | None = None,
    *,
    stretch: int = 1,
    folds: int = 1,
) -> Prepared:
    """Steps over the batches in turn, `stretch` of them a run; `prepared` makes each of another
    form when its turn comes. `folds` take them side by side.
    """
    take = prepared or batches.__getitem__
    trainings, order = [Training(setting, goal) for _ in range(folds)], range(len(batches))
    places = [all_devices()] * folds

    def meet(training: Training, mesh: Mesh) -> float:
        # as they are when their turn comes: cached rows have layouts of their own, and more of them
        spent = compiled(training.advance, map(take, order))
        training.start()
        return spent

    one_off = {"compile_s": max(side_by_side.run(meet, trainings, places)), **one_off}

    def run(index: int) -> list[float]:
        def steps(training: Training, mesh: Mesh) -> float:
            chosen = prefetched(map(take, _stretch(order, index, stretch)), mesh)
            losses = [training.step_on(packed) for packed in chosen]
            jax.block_until_ready(training.state)
            return float(losses[0])

        return side_by_side.run(steps, trainings, places)[:1]

    return Prepared(run, work=stretch * folds, one_off=one_off)


class Training:
    """Production's step and the state it moves on; `advance` gives the new state and the loss."""

    def __init__(self, setting: Setting, goal: tasks.Objective):
        self.setting, self.goal = setting, goal
        self.key = jax.random.key(setting.config.seed)
        self.step = loop.train_step(goal, optimizer(setting))
        self.start()

    def start(self) -> None:
        """Goes back to the benchmark's weights."""
        params, stats = map(put_replicated, variables(self.setting))
        transform = loop.make_optimizer(self.goal, optimizer(self.setting))
        self.state = loop.State(params, stats, put_replicated(transform.init(params)))

    def step_on(self, batch: Batch) -> jax.Array:
        """Begins a step on a batch that is on the device; its loss."""
        self.state, loss = self.step(self.state, batch, self.key)
        return loss

    def advance(self, batch: Batch) -> tuple[loop.State, jax.Array]:
        """One step; waits for it."""
        loss = self.step_on(put_batch(batch))
        return jax.block_until_ready((self.state, loss))


def compiled_steps(
    setting: Setting, *, batch: int, tables: bool
) -> dict[str, Callable[[], jax.Array]]:
    """Steps on the stream's batch of median size and on its largest, compiled and not run."""
    batches, _ = stream(setting, batch)
    by_size = sorted(batches, key=lambda b: b["tracks"]["nibbles"].size)
    training = Training(setting, objective(setting, tables=tables))

    def step_on(chosen: Batch) -> Callable[[], jax.Array]:
        packed = put_batch(chosen)
        program = training.step.lower(training.state, packed, training.key).compile()

        def step() -> jax.Array:
            training.state, loss = program(training.state, packed, training.key)
            return jax.block_until_ready(loss)

        return step

    return {"usual": step_on(by_size[len(by_size) // 2]), "largest": step_on(by_size[-1])}


JOBS = {"forward": forward, "train": train, "train_cached": train_cached}
