"""The profile command's table, and the arithmetic it counts."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import tiny_models
import tiny_runs

from epinformer_jax.model import functional
from epinformer_jax.model.architecture import ActivityConfig, ExpressionConfig
from epinformer_jax.train import flops, profile, tasks

pytestmark = pytest.mark.usefixtures("quick_compilation")

PUBLISHED = ExpressionConfig()


def test_an_element_of_the_published_network_costs_277_million_products():
    products = (flops.encoder(PUBLISHED.encoder, 2000) + flops.summary(PUBLISHED, 2000)) / 2
    assert products == 277_176_640


def test_behind_the_encoder_a_window_costs_what_sees_it():
    seen = (39, 47, 59)  # of 121, 113 and 101 positions, 35 from the encoder
    layers = [n * 3 * inputs * 64 for n, inputs in zip(seen, (128, 64, 64), strict=True)]
    assert flops.summary(PUBLISHED, 560) / 2 == sum(layers) + seen[-1] * (64 * 32 + 64)


def cost_of(function, *shapes):
    return jax.jit(function).lower(*shapes).cost_analysis()["flops"]


def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


def test_counted_arithmetic_is_what_the_compiler_counts():
    """Nothing is computed. The compiler also counts additions, exponentials and the like."""
    genes, slots, window = 2, PUBLISHED.slots, PUBLISHED.window_bp
    counted = flops.dense(PUBLISHED, genes) / 3
    variables = functional.shapes(PUBLISHED)
    found = cost_of(
        lambda *inputs: functional.predict(PUBLISHED, *inputs),
        variables,
        shape(genes, slots, window, 4),
        shape(genes, slots, window, dtype=bool),
        shape(genes, slots, PUBLISHED.link_features),
        shape(genes, PUBLISHED.gene_features),
    )
    assert counted == pytest.approx(found, rel=0.05)


def test_the_heads_are_counted_too():
    genes, slots, width = 4, PUBLISHED.slots, PUBLISHED.embedding
    found = cost_of(
        lambda *inputs: functional.interact(PUBLISHED, *inputs),
        functional.shapes(PUBLISHED),
        shape(genes, slots, width),
        shape(genes, slots, dtype=bool),
        shape(genes, slots, PUBLISHED.link_features),
        shape(genes, PUBLISHED.gene_features),
    )
    assert flops.interaction(PUBLISHED, float(genes), float(genes * slots)) == pytest.approx(
        found, rel=0.1
    )
    model = ActivityConfig()
    rows = 8
    counted = rows * (flops.encoder(model.encoder, model.window_bp) + flops.activity_head(model))
    found = cost_of(
        lambda *inputs: functional.activity(model, *inputs),
        functional.shapes(model),
        shape(rows, model.window_bp, 4),
        shape(rows, model.window_bp, dtype=bool),
    )
    assert counted == pytest.approx(found, rel=0.05)


def test_a_frozen_encoder_costs_no_backward_pass_and_a_cached_one_nothing():
    config = tiny_models.EXPRESSION
    genes = tiny_models.random_genes(np.random.default_rng(0), config, [1, 3])
    plan = tiny_models.plan_for(genes, config, batch_size=2)
    from epinformer_jax.data import batches

    parts = (genes.sequences, genes.link_features, genes.gene_features, genes.labels)
    batch = batches.pack_genes(plan, *parts)
    tuned = tasks.Objective(config, "mse")
    frozen = dataclasses.replace(tuned, encoder="frozen")
    placed = batch["placed"]
    widths = (placed["high"] - placed["low"])[placed["weight"] > 0].tolist()
    assert len(widths) == 4
    forward = sum(flops.encoder(config.encoder, width) for width in widths)
    difference = flops.of_step(tuned, batch) - flops.of_step(frozen, batch)
    assert difference == pytest.approx(2 * forward)
    ready = {name: batch[name] for name in ("weight", "mask")}
    ready |= {"start": placed["start"], "row_weight": placed["weight"]}
    cached = flops.of_step(frozen, ready)
    assert flops.of_step(frozen, batch) - cached == pytest.approx(forward)
    summaries = sum(flops.summary(config, width) for width in widths)
    assert cached == pytest.approx(3 * (summaries + flops.interaction(config, 2.0, 4.0)))


def test_peaks_are_those_of_the_device():
    def device(kind, platform="gpu"):
        return dataclasses.make_dataclass("Device", ["device_kind", "platform"])(kind, platform)

    def peak(kind, dtype):
        found = flops.peak.__wrapped__ if hasattr(flops.peak, "__wrapped__") else flops.peak
        return found(device(kind), dtype).flops

    assert peak("NVIDIA H100 80GB HBM3", "bfloat16") == 989.4e12
    assert peak("NVIDIA H100 PCIe", "float32") == 51e12
    assert peak("TPU v5 lite", "bfloat16") == 197e12 and peak("TPU v5", "bfloat16") == 459e12
    found = flops.peak.__wrapped__ if hasattr(flops.peak, "__wrapped__") else flops.peak
    assert found(device("Something new"), "float32") is None


@pytest.mark.parametrize("mode", ["tuned", "frozen"])
def test_a_profile_has_a_table_and_a_trace(mode, tmp_path):
    config = tiny_runs.config_for(tiny_runs.write_data(tmp_path), encoder__mode=mode)
    out = tmp_path / "profile"
    text = profile.run(config, out, steps=3)
    table = pd.read_csv(out / "profile.tsv", sep="\t").set_index("quantity")
    assert list(out.rglob("*.trace.json.gz")), "no trace"
    for name in ("step time", "examples", "model arithmetic", "speed", "peak of a device"):
        assert table.loc[name, "value"] > 0 and name in text
    assert "here" in table.loc["peak of a device", "how"], "a CPU's peak is measured, and says so"
    assert 0 <= table.loc["share of time waiting", "value"] <= 100
    assert table.loc["batch layouts met", "value"] >= 1
    assert table["value"].get("frozen encoder runs", 1) == (0 if mode == "frozen" else 1)
    assert not list(out.rglob("encoder_cache"))
    json.dumps(table["value"].tolist(), allow_nan=False)


def test_an_activity_model_has_a_profile(tmp_path):
    config = tiny_runs.config_for(
        tiny_runs.write_data(tmp_path), task="activity", encoder__source="none"
    )
    profile.run(config, tmp_path / "profile", steps=2)
    table = pd.read_csv(tmp_path / "profile" / "profile.tsv", sep="\t").set_index("quantity")
    assert table.loc["model arithmetic", "value"] > 0
