"""Arithmetic a training step needs, counted from the network's shape; peaks of known devices.

Counted are multiplications with additions of convolutions and matrix products (2 operations each)
over real rows at the width of their window. Filler rows, normalisation and the optimiser are not:
what a step computes beyond the model's need lowers its share of the peak.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from epinformer_jax.data.batches import Batch
from epinformer_jax.model.architecture import ActivityConfig, EncoderConfig, ExpressionConfig
from epinformer_jax.train import tasks

BACKWARD = 2  # a gradient costs twice the forward pass
TPU_FLOAT32_PASSES = 6  # bfloat16 products in one of float32 at highest precision


class Peak(NamedTuple):
    """Most operations a second of one device, and where the number is from."""

    flops: float
    source: str


# Part of jax's device_kind -> 1e12 operations a second in bfloat16 (or float16) and in float32
# without TF32, from the vendors' data sheets, dense; the first match counts. TPU v2 and v3 show
# each core as a device.
PEAKS = (
    ("H200", 989.4, 66.9),
    ("H100 PCIe", 756.0, 51.0),
    ("H100", 989.4, 66.9),
    ("A100", 312.0, 19.5),
    ("L40S", 362.0, 91.6),
    ("L4", 121.0, 30.3),
    ("V100", 125.0, 15.7),
    ("T4", 65.0, 8.1),
    ("TPU v6", 918.0, 918.0 / TPU_FLOAT32_PASSES),
    ("TPU v5 lite", 197.0, 197.0 / TPU_FLOAT32_PASSES),
    ("TPU v5e", 197.0, 197.0 / TPU_FLOAT32_PASSES),
    ("TPU v5", 459.0, 459.0 / TPU_FLOAT32_PASSES),
    ("TPU v4", 275.0, 275.0 / TPU_FLOAT32_PASSES),
    ("TPU v3", 61.5, 61.5 / TPU_FLOAT32_PASSES),
    ("TPU v2", 22.5, 22.5 / TPU_FLOAT32_PASSES),
)


def of_step(objective: tasks.Objective, batch: Batch) -> float:
    """Operations of one training step on this batch: forward and backward, or what is left of them
    with a frozen or cached encoder.
    """
    model = objective.model
    weights = 1 if objective.encoder == "tuned" else 0
    train = 1 + BACKWARD
    if isinstance(model, ActivityConfig):
        rows = float(np.sum(batch["rows"]["weight"]))
        row = encoder(model.encoder, model.window_bp) * (1 + BACKWARD * weights)
        return rows * (row + activity_head(model) * train)
    total = 0.0
    for width, count in _windows(model, batch):
        if "tracks" in batch:
            total += count * encoder(model.encoder, width) * (1 + BACKWARD * weights)
        total += count * summary(model, width) * train
    genes = float(np.sum(batch["weight"]))
    slots = float(np.sum(batch["mask"][np.asarray(batch["weight"]) > 0]))
    return total + interaction(model, genes, slots) * train


def _windows(model: ExpressionConfig, batch: Batch) -> list[tuple[int, int]]:
    """Widths of the sequences' windows, bases, and how many have each."""
    placed = batch.get("placed", batch)
    weight = placed["weight"] if "placed" in batch else batch["row_weight"]
    widths = model.window_bp - 2 * placed["start"][weight > 0].astype(int)
    counted = zip(*np.unique_counts(widths), strict=True)
    return [(int(width), int(count)) for width, count in counted]


def dense(model: ExpressionConfig, genes: int) -> float:
    """Operations of a training step that computes every slot at full width."""
    slots = genes * model.slots
    row = encoder(model.encoder, model.window_bp) + summary(model, model.window_bp)
    return (1 + BACKWARD) * (slots * row + interaction(model, float(genes), float(slots)))


def encoder(config: EncoderConfig, bases: int) -> float:
    """Forward operations of the encoder on one row of so many bases."""
    products = bases * 4 * config.stem_width * config.stem_channels
    inputs, length = config.stem_channels, bases
    for outputs in config.channels:
        products += length * 3 * inputs * outputs
        length //= 2
        products += length * outputs * outputs
        inputs = outputs
    return 2.0 * products


def summary(config: ExpressionConfig, bases: int) -> float:
    """Forward operations from the encoder's output, over a window of so many bases, to a row's
    embedding. Each convolution answers where it sees the window.
    """
    products, inputs, length = 0, config.encoder.channels[-1], config.tower_length
    first = (length - bases // config.encoder.stride) // 2
    end = length - first
    for dilation in config.summary_dilations:
        length -= 2 * dilation
        first, end = max(first - 2 * dilation, 0), min(end, length)
        products += (end - first) * 3 * inputs * config.summary_channels
        inputs = config.summary_channels
    products += (end - first) * (inputs * config.summary_outputs + config.embedding)
    return 2.0 * products


def interaction(config: ExpressionConfig, genes: float, slots: float) -> float:
    """Forward operations from embeddings to predictions: `slots` real ones of `genes` genes."""
    width = config.embedding
    products = 0.0
    if config.link_features:
        products += slots * (width + config.link_features + width) * width
    for layer in range(config.layers):
        last = layer == config.layers - 1  # there only the promoter goes on
        full = genes if last else slots
        products += slots * 2 * width**2 + full * (2 * width**2 + 8 * width**2)
        products += slots * 2 * width + (0 if last else slots * 4 * width)
    head = (width + config.gene_features) * config.hidden + config.hidden**2 + config.hidden
    return 2.0 * (products + genes * head)


def activity_head(config: ActivityConfig) -> float:
    """Forward operations from the encoder's output to one activity."""
    positions = config.window_bp // config.encoder.stride
    products, inputs = 0, config.encoder.channels[-1]
    plan = zip(config.mixer_channels, config.mixer_widths, strict=True)
    for outputs, width in plan:
        products += positions * width * inputs * outputs
        inputs = outputs
    inputs *= positions if config.pool == "flatten" else 1
    if config.hidden:
        products += inputs * config.hidden + config.hidden**2
        inputs = config.hidden
    return 2.0 * (products + inputs)


def peak(device: jax.Device, dtype: str) -> Peak | None:
    """The device's peak in `dtype` (float32 or bfloat16): from PEAKS, measured on a CPU, None for
    an unknown accelerator.
    """
    if device.platform == "cpu":
        return Peak(_measured_matmul(device), "best of 5 float32 matrix products of 1536, here")
    for part, bfloat16, float32 in PEAKS:
        if part in device.device_kind:
            value = bfloat16 if dtype == "bfloat16" else float32
            return Peak(value * 1e12, f"data sheet of {part}, {dtype}")
    return None


def _measured_matmul(device: jax.Device, size: int = 1536) -> float:
    import time

    product = jax.jit(lambda x: jnp.matmul(x, x, precision=jax.lax.Precision.HIGHEST))
    x = jax.device_put(np.ones((size, size), np.float32), device)
    jax.block_until_ready(product(x))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(product(x))
        times.append(time.perf_counter() - start)
    return 2.0 * size**3 / min(times)
