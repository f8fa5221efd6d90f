"""One step of training: memory, precision, compilation, frozen encoders, the optimiser."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_models
import train_tiny

from epinformer_jax.data import batches, layouts
from epinformer_jax.model import functional
from epinformer_jax.train import devices, loop, tasks

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def data():
    return train_tiny.one_layout(train_tiny.examples())


def step_state(objective, seed=0):
    variables = functional.init(objective.model, seed=seed)
    optimizer = loop.make_optimizer(objective, train_tiny.OPTIMIZER)
    params = devices.put_replicated(variables.params)
    inner = devices.put_replicated(optimizer.init(params))
    return loop.State(params, devices.put_replicated(variables.stats), inner), variables


def test_a_step_reuses_the_memory_of_the_old_state_and_takes_nothing_from_the_host(data):
    step = loop.train_step(train_tiny.OBJECTIVE, train_tiny.OPTIMIZER)
    old, _ = step_state(train_tiny.OBJECTIVE)
    batch = devices.put_batch(data.data.batch(np.arange(4), data.layout))
    key = jax.random.key(0)
    with jax.transfer_guard("disallow"):
        new, _ = step(old, batch, key)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old))
    memory = step.lower(new, batch, key).compile().memory_analysis()
    kept = sum(leaf.nbytes for leaf in jax.tree.leaves(new))
    assert memory.alias_size_in_bytes >= kept


def test_batches_are_on_their_way_before_they_are_asked_for():
    packed = []

    def batches():
        for number in range(5):
            packed.append(number)
            yield {"labels": np.full(2, number)}

    ready = devices.prefetched(batches())
    first = next(ready)
    assert packed == [0, 1, 2] and isinstance(first["labels"], jax.Array)
    assert [int(batch["labels"][0]) for batch in ready] == [1, 2, 3, 4]


def test_bfloat16_computes_and_float32_is_kept(data, tmp_path):
    """Weights, statistics and the optimiser's moments stay float32 and near float32's."""
    model = dataclasses.replace(train_tiny.MODEL, compute_dtype="bfloat16")
    objective = dataclasses.replace(train_tiny.OBJECTIVE, model=model)
    states, losses = {}, {}
    for name, goal in (("bfloat16", objective), ("float32", train_tiny.OBJECTIVE)):
        step = loop.train_step(goal, train_tiny.OPTIMIZER)
        state, _ = step_state(goal)
        for number in range(3):
            batch = devices.put_batch(data.data.batch(np.arange(4) + number, data.layout))
            state, losses[name] = step(state, batch, jax.random.key(number))
        states[name] = state
    for path, leaf in jax.tree_util.tree_leaves_with_path(states["bfloat16"]):
        assert leaf.dtype in (jnp.float32, jnp.int32), jax.tree_util.keystr(path)
    assert losses["bfloat16"].dtype == jnp.float32
    assert losses["bfloat16"] == pytest.approx(float(losses["float32"]), rel=0.05)
    assert float(losses["bfloat16"]) != float(losses["float32"])
    stats = [states[name].stats for name in ("bfloat16", "float32")]
    tiny_models.assert_trees_close(*stats, atol=0.05)


def test_compilations_stop_growing_and_the_largest_layout_is_compiled_when_met():
    """Two epochs in the layout nearly all batches take, then the genes that need the last one."""
    data = train_tiny.examples()
    first, last = data.layout.layouts
    largest = np.argsort([-gene.lengths.sum() for gene in data.data.sequences])[:4]
    rare = data.data.batch(largest, data.layout)

    def layout_of(batch):
        return batch["tracks"]["nibbles"].shape[1] * 2 // data.layout.geometry.stride

    assert layout_of(rare) == last.blocks, "the largest genes fit another layout"
    step = loop.train_step(train_tiny.OBJECTIVE, train_tiny.OPTIMIZER)
    same = loop.train_step(tasks.Objective(train_tiny.MODEL, "smooth_l1"), train_tiny.OPTIMIZER)
    assert same is step, "compiled anew for each fold"
    state, _ = step_state(train_tiny.OBJECTIVE)
    key = jax.random.key(0)
    stream = data.stream(np.arange(len(data.data)), shuffle=True)
    compiled = []
    for number, batch in enumerate(stream.batches(0, 2 * stream.steps_per_epoch)):
        if layout_of(batch) == first.blocks:
            state, _ = step(state, devices.put_batch(batch), jax.random.fold_in(key, number))
            compiled.append(step._cache_size())
    assert len(compiled) > stream.steps_per_epoch and len(set(compiled)) == 1
    for number in range(2):
        state, loss = step(state, devices.put_batch(rare), jax.random.fold_in(key, 100 + number))
        assert np.isfinite(loss) and step._cache_size() == 2, "one for each layout"


@pytest.mark.parametrize(
    ("mode", "weights_move", "statistics_move"),
    [("tuned", True, True), ("frozen", False, False), ("frozen_as_published", False, True)],
)
def test_a_frozen_encoder_keeps_its_weights(mode, weights_move, statistics_move, data):
    objective = dataclasses.replace(train_tiny.OBJECTIVE, encoder=mode)
    step = loop.train_step(objective, train_tiny.OPTIMIZER)
    state, start = step_state(objective)
    for number in range(2):
        batch = devices.put_batch(data.data.batch(np.arange(4) + number, data.layout))
        state, _ = step(state, batch, jax.random.key(number))

    def moved(after, before):
        pairs = zip(jax.tree.leaves(after), jax.tree.leaves(before), strict=True)
        return [not np.array_equal(a, b) for a, b in pairs]

    encoder = moved(state.params["encoder"], start.params["encoder"])
    assert all(encoder) if weights_move else not any(encoder)
    statistics = moved(state.stats["encoder"], start.stats["encoder"])
    assert all(statistics) if statistics_move else not any(statistics)
    rest = [moved(state.params[k], start.params[k]) for k in state.params if k != "encoder"]
    assert all(map(any, rest))


def test_learning_rates_follow_their_schedule():
    constant = loop.learning_rate_of(loop.OptimizerSpec(0.1))
    assert [float(constant(step)) for step in (0, 7, 10**6)] == pytest.approx([0.1] * 3)
    warm = loop.learning_rate_of(loop.OptimizerSpec(0.1, warmup_steps=4))
    expected = [0, 0.025, 0.05, 0.075, 0.1, 0.1]
    assert [float(warm(step)) for step in range(6)] == pytest.approx(expected)
    cosine = loop.learning_rate_of(
        loop.OptimizerSpec(0.1, schedule="cosine", warmup_steps=2, total_steps=10)
    )
    expected = [0, 0.05, *(0.05 * (1 + math.cos(math.pi * n / 8)) for n in range(9)), 0]
    assert [float(cosine(step)) for step in range(12)] == pytest.approx(expected, abs=1e-8)
    plain = loop.learning_rate_of(loop.OptimizerSpec(0.1, schedule="cosine", total_steps=10))
    assert float(plain(0)) == pytest.approx(0.1) and float(plain(10)) == pytest.approx(0, abs=1e-8)


def test_the_optimizer_is_adamw_with_decay_on_every_parameter():
    """One step written out: decoupled decay, betas 0.9 and 0.999, epsilon 1e-8."""
    spec = loop.OptimizerSpec(learning_rate=0.01, weight_decay=0.1)
    transform = loop.make_optimizer(train_tiny.OBJECTIVE, spec)
    params = {"encoder": {"bias": jnp.array([2.0, -3.0])}, "head": {"scale": jnp.array([0.5])}}
    gradient = jax.tree.map(lambda x: 0.3 * x, params)
    updates, _ = transform.update(gradient, transform.init(params), params)
    got = optax.apply_updates(params, updates)
    for name, leaf in (("encoder", "bias"), ("head", "scale")):
        p, g = np.asarray(params[name][leaf], float), np.asarray(gradient[name][leaf], float)
        step = g / (np.abs(g) + 1e-8) + 0.1 * p  # after one step both moments are unbiased
        np.testing.assert_allclose(got[name][leaf], p - 0.01 * step, rtol=1e-5)


def test_an_untracked_batch_layout_is_refused_before_it_compiles(data):
    """A plan from other genes: the error names the room, nothing is left out."""
    small = dataclasses.replace(data.layout, layouts=(layouts.Layout(9, 9, 9),))
    with pytest.raises(ValueError, match="exceeds every layout"):
        batches.pack_genes(
            small,
            data.data.sequences[:4],
            data.data.link_features[:4],
            data.data.gene_features[:4],
            data.labels[:4],
        )
