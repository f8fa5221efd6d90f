"""The same on a GPU or TPU: genes a second and the share of the peak, float32 and bfloat16.

    python -m tests.benchmarks.accelerator SETTING      (run by the benchmark)

Where there is no accelerator it says so, with the roofline estimate. FLOPs are those of the model
on real rows at the width of their window (train/flops.py); a training step counts three forwards.
"""

import dataclasses
import json
import sys
import time
from typing import Any

import jax
import numpy as np

from epinformer_jax.train import flops, loop
from epinformer_jax.train.devices import put_batch, put_replicated
from tests.benchmarks import expression
from tests.benchmarks.setting import Setting

BATCHES = (16, 64)
RUNS = 32
TRAINING_FORWARDS = 1 + flops.BACKWARD
ASSUMED_MFU = 0.4
ESTIMATED = ("H100", "TPU v5 lite")


def measured(setting: Setting, *, batch: int, dtype: str, train: bool) -> dict[str, Any]:
    """Genes a second over a stream of batches, and the share of the card's peak."""
    goal = expression.objective(setting)
    goal = dataclasses.replace(goal, model=dataclasses.replace(goal.model, compute_dtype=dtype))
    batches, _ = expression.stream(setting, batch, RUNS)
    placed = [put_batch(one) for one in batches]
    if train:
        training = expression.Training(setting, goal)

        def call(one):  # unlike `advance`, does not wait
            training.state, loss = training.step(training.state, one, training.key)
            return loss
    else:
        step = loop.predict_step(goal)
        weights = put_replicated(expression.variables(setting))

        def call(one):
            return step(weights, one)[0]

    expression.compiled(call, placed)
    started = time.perf_counter()
    jax.block_until_ready([call(one) for one in placed])
    seconds = (time.perf_counter() - started) / RUNS
    operations = np.mean([flops.of_step(goal, one) for one in batches])
    operations /= 1 if train else TRAINING_FORWARDS
    peak = flops.peak(jax.devices()[0], dtype)
    share = operations / seconds / (peak.flops * jax.device_count()) if peak else float("nan")
    return {
        "job": "train" if train else "forward",
        "batch": batch,
        "dtype": dtype,
        "genes_per_second": batch / seconds,
        "flops_per_second": operations / seconds,
        "mfu": share,
    }


def torch_forward(setting: Setting, *, batch: int) -> float | None:
    """Genes a second of the PyTorch reference on the same card; None without PyTorch for it."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    from tests.benchmarks import reference

    model = reference.expression_model(setting, "channels_last").cuda()
    dense = setting.dense(setting.order(batch).indices(0))
    arrays = [torch.from_numpy(array).cuda() for array in dense[:4]]
    with torch.inference_mode(), torch.device("cuda"):
        for warm in (True, False):
            started = time.perf_counter()
            for _ in range(1 if warm else RUNS):
                model(*arrays)
            torch.cuda.synchronize()
    return batch * RUNS / (time.perf_counter() - started)


def roofline(setting: Setting) -> list[str]:
    """Genes a second that the FLOPs would allow at 40 % of each card's bfloat16 peak."""
    goal = expression.objective(setting)
    batches, _ = expression.stream(setting, BATCHES[0], 8)
    per_gene = np.mean([flops.of_step(goal, one) for one in batches]) / BATCHES[0]
    lines = []
    for name in ESTIMATED:
        peak = next(bfloat16 for part, bfloat16, _ in flops.PEAKS if part == name)
        training = ASSUMED_MFU * 1e12 * peak / per_gene
        lines.append(
            f"{name}, estimated at {100 * ASSUMED_MFU:.0f} % of its bfloat16 peak: "
            f"{training * TRAINING_FORWARDS:,.0f} genes/s forward, {training:,.0f} in training "
            f"({per_gene / 1e9:.2f} GFLOP a gene in training)"
        )
    return lines


def main() -> None:
    """Measures where there is an accelerator, and prints one line of JSON."""
    setting = Setting.from_text(sys.argv[1])
    device = jax.devices()[0]
    if device.platform == "cpu":
        text = ["no accelerator here, so none was measured; " + "; ".join(roofline(setting))]
        print(json.dumps({"device": None, "rows": [], "text": text}))
        return
    rows = [
        measured(setting, batch=batch, dtype=dtype, train=train)
        for batch in BATCHES
        for train in (False, True)
        for dtype in ("float32", "bfloat16")
    ]
    theirs = torch_forward(setting, batch=BATCHES[0])
    text = [
        f"{device.device_kind}: {row['job']}, batch {row['batch']}, {row['dtype']}: "
        f"{row['genes_per_second']:,.0f} genes/s, MFU {100 * row['mfu']:.1f} %"
        for row in rows
    ]
    beside = "not there for this card" if theirs is None else f"{theirs:,.0f} genes/s"
    text += [f"PyTorch, forward, batch {BATCHES[0]}, dense: {beside}", *roofline(setting)]
    print(json.dumps({"device": device.device_kind, "rows": rows, "torch": theirs, "text": text}))


if __name__ == "__main__":
    main()
