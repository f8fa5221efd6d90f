"""How the cost of a prediction grows: with genes, elements, bases, and (hardly) with slots.

    python -m tests.benchmarks.sweep SETTING      (run by the benchmark)

Each point is the median of a few runs of a shape that fits it exactly. Prints one line of JSON:
for each curve its points (x, real bases a gene, milliseconds a gene), and the straight line through
time a gene against real bases a gene of all points.
"""

import dataclasses
import json
import statistics
import sys
import time

import jax
import numpy as np

from epinformer_jax.data.layouts import Geometry
from epinformer_jax.data.loader import GeneSet
from epinformer_jax.train import loop
from epinformer_jax.train.devices import put_batch, put_replicated
from tests.benchmarks import expression
from tests.benchmarks.inputs import gene_with
from tests.benchmarks.setting import SLOTS, Setting

GENES = (1, 4, 16, 32)
ELEMENTS = (0, 5, 15, 30, 60)
LENGTHS_BP = (500, 1000, 1500, 2000)
SLOT_COUNTS = (16, 61, 121)
LENGTH_ELEMENTS, SLOT_ELEMENTS = 20, 15
RUNS = 5

Point = dict[str, float]


def point(setting: Setting, data: GeneSet, x: float, *, slots: int = SLOTS) -> Point:
    """Milliseconds a gene for all genes of a set as one batch, in a shape that fits them."""
    goal = expression.objective(setting)
    goal = dataclasses.replace(goal, model=dataclasses.replace(goal.model, slots=slots))
    model, count = goal.model, len(data)
    plan = data.plan(
        geometry=Geometry(**model.geometry()),
        batch_size=count,
        slots=slots,
        layouts=1,
    )
    batch = put_batch(data.batch(np.arange(count), plan))
    step = loop.predict_step(goal)
    weights = put_replicated(expression.variables(setting))
    jax.block_until_ready(step(weights, batch))
    seconds = []
    for _ in range(RUNS):
        started = time.perf_counter()
        jax.block_until_ready(step(weights, batch))
        seconds.append(time.perf_counter() - started)
    bases = sum(gene.lengths.sum() for gene in data.sequences) / count
    ms = 1000 * statistics.median(seconds) / count
    return {"x": x, "bases_per_gene": float(bases), "ms_per_gene": ms}


def curves(setting: Setting) -> dict[str, list[Point]]:
    """Every curve. Genes come from the stream; lengths are made the same for all elements."""
    order = setting.order(max(GENES)).indices(0)
    fifteen = chosen(setting.data, [gene_with(setting, SLOT_ELEMENTS)])
    one = {n: chosen(setting.data, [gene_with(setting, n)]) for n in ELEMENTS}
    base = gene_with(setting, LENGTH_ELEMENTS)
    return {
        "genes": [point(setting, chosen(setting.data, order[:n]), n) for n in GENES],
        "elements": [point(setting, own, n) for n, own in one.items()],
        "bases": [
            point(setting, of_length(chosen(setting.data, [base]), length), length)
            for length in LENGTHS_BP
        ],
        "slots": [point(setting, fifteen, slots, slots=slots) for slots in SLOT_COUNTS],
    }


def chosen(data: GeneSet, indices) -> GeneSet:
    """Some genes of a set."""
    return GeneSet(
        [data.examples[i] for i in indices],
        [data.sequences[i] for i in indices],
        [data.link_features[i] for i in indices],
        data.gene_features[list(indices)],
        data.labels[list(indices)],
    )


def of_length(data: GeneSet, length: int) -> GeneSet:
    """The same genes with elements of `length` bases, repeated or cut from what they have."""
    sequences = [
        gene._replace(codes=[gene.codes[0], *(np.resize(own, length) for own in gene.codes[1:])])
        for gene in data.sequences
    ]
    return dataclasses.replace(data, sequences=sequences)


def straight_line(points: list[Point]) -> dict[str, float]:
    """Least squares of milliseconds against real bases a gene, and the share it explains."""
    x = np.array([p["bases_per_gene"] for p in points])
    y = np.array([p["ms_per_gene"] for p in points])
    slope, intercept = np.polyfit(x, y, 1)
    left = y - (slope * x + intercept)
    explained = 1 - left.var() / y.var()
    return {
        "ms_per_kb": float(1000 * slope),
        "ms_at_0": float(intercept),
        "r_squared": float(explained),
    }


def main() -> None:
    """Measures and prints."""
    found = curves(Setting.from_text(sys.argv[1]))
    line = straight_line([p for name in ("elements", "bases") for p in found[name]])
    print(json.dumps({"curves": found, "line": line}))


if __name__ == "__main__":
    main()
