"""Agreement in float64, before anything is timed: loss, gradients, running statistics, outputs.

    python -m tests.benchmarks.exactness SETTING      (run by the benchmark; needs torch and jax)

In float32 this would prove nothing: PyTorch's own float32 gradients are 1e-3 away from its float64
ones. Two genes of K562 at the published widths, all 61 slots in the reference. Prints one line of
JSON; a disagreement is its message and exit status 3.
"""

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import torch

from epinformer_jax import torch_names
from epinformer_jax.data.batches import Batch
from epinformer_jax.model.functional import Variables
from epinformer_jax.train import encoder_cache, tasks
from tests import torch_reference
from tests.benchmarks import expression, networks
from tests.benchmarks.rounds import Disagreement
from tests.benchmarks.setting import Setting

LIMITS = {"loss": 1e-12, "gradients": 1e-9, "running statistics": 1e-9, "outputs": 1e-12}
GENES, MOST_ELEMENTS = 2, 6
SMALL_GRADIENT = 1e-6  # of the largest: a gradient that is zero but for rounding is no scale

Found = dict[str, Any]  # what one way gives, by the keys of LIMITS


def chosen_genes(setting: Setting) -> np.ndarray:
    """Two genes with few elements."""
    counts = setting.genes.counts
    return np.flatnonzero((counts >= 2) & (counts <= MOST_ELEMENTS))[:GENES]


def reference(setting: Setting, encoder: str = "tuned") -> Found:
    """What PyTorch gives for one training step, and in evaluation mode."""
    torch.set_num_threads(setting.threads)
    network = networks.read(setting.weights_file, "expression")
    model = torch_reference.Expression(network.config)
    model = torch_reference.load_state(model, network.tensors).eval()
    wide = [torch.tensor(array) for array in setting.dense(chosen_genes(setting))]
    bases, mask, *rest = [x.double() if x.is_floating_point() else x for x in wide]
    links, genes, labels = rest
    with torch.no_grad():
        outputs = model(bases, mask, links, genes)[0].numpy()
    model.train()
    if encoder == "frozen":
        model.seq_encoder.eval().requires_grad_(False)
    prediction = model(bases, mask, links, genes)[0]
    loss = torch_reference.LOSSES[setting.config.train.loss](prediction, labels)
    loss.backward()
    gradients = {
        name: np.zeros(p.shape) if p.grad is None else p.grad.numpy()
        for name, p in model.named_parameters()
    }
    state = torch_reference.state_of(model)
    return {
        "loss": loss.item(),
        "gradients": torch_names.variables_of(state | gradients, network.config).params,
        "running statistics": torch_names.variables_of(state, network.config).stats,
        "outputs": outputs,
    }


def packed(setting: Setting) -> Found:
    """The production step on a packed batch."""
    return _step(expression.objective(setting), _variables(setting), _batch(setting))


def kmer_training(setting: Setting) -> Found:
    """The step whose first convolution is summed from tables of 8-mers."""
    goal = expression.objective(setting, tables=True)
    return _step(goal, _variables(setting), _batch(setting))


def cached(setting: Setting) -> Found:
    """The step that reads the outputs of a frozen encoder."""
    goal, genes = expression.objective(setting, "frozen"), chosen_genes(setting)
    cache = encoder_cache.EncoderCache(
        goal,
        _variables(setting),
        [setting.data.sequences[gene] for gene in genes],
        expression.plan_of(setting, len(genes)),
        setting.scratch / "cache_exactness",
        dtype="float64",
    )
    cache.open()
    try:
        batch = cache.with_towers(_batch(setting), np.arange(len(genes)))
        return _step(goal, _variables(setting), batch)
    finally:
        cache.delete()


def _step(goal: tasks.Objective, variables: Variables, batch: Batch) -> Found:
    def loss(params, batch):
        return tasks.loss(goal, params, variables.stats, batch, None)

    both = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (value, stats), gradients = both(variables.params, batch)
    found = {"loss": float(value), "gradients": gradients, "running statistics": stats}
    if goal.encoder != "frozen":  # behind a cache there is no other prediction
        outputs, _ = jax.jit(tasks.predict, static_argnums=0)(goal, variables, batch)
        found["outputs"] = np.asarray(outputs)[:GENES]
    return found


def _variables(setting: Setting) -> Variables:
    network = networks.read(setting.weights_file, "expression")
    return jax.tree.map(jax.numpy.asarray, network.variables(np.float64))


def _batch(setting: Setting) -> Batch:
    genes = chosen_genes(setting)
    return setting.data.batch(genes, expression.plan_of(setting, len(genes)))


WAYS: dict[str, tuple[str, Callable[[Setting], Found]]] = {
    "packed": ("tuned", packed),
    "8-mer tables": ("tuned", kmer_training),
    "cached": ("frozen", cached),
}


def differences(found: Found, expected: Found) -> Iterator[tuple[str, float]]:
    """How far each quantity is off, relative to the largest of its array or to 1."""
    for name in found.keys() & expected.keys():
        mine, theirs = (jax.tree.leaves(part[name]) for part in (found, expected))
        floor = 1.0
        if name == "gradients":
            floor = SMALL_GRADIENT * max(np.abs(leaf).max() for leaf in theirs)
        away = [
            np.abs(a - b).max() / max(np.abs(b).max(), floor)
            for a, b in zip(mine, theirs, strict=True)
        ]
        yield name, float(np.max(away))


def compare(setting: Setting) -> dict[str, dict[str, float]]:
    """Largest difference of each way, by quantity.

    Raises:
      Disagreement: one is above its limit; the first is named.
    """
    expected: dict[str, Found] = {}
    table: dict[str, dict[str, float]] = {}
    for way, (encoder, run) in WAYS.items():
        if encoder not in expected:
            expected[encoder] = reference(setting, encoder)
        table[way] = dict(sorted(differences(run(setting), expected[encoder])))
        for name, away in table[way].items():
            if not away <= LIMITS[name]:
                raise Disagreement(
                    f"float64, {way}: {name} differ by {away:.2g} from PyTorch's, at most "
                    f"{LIMITS[name]:g} is allowed"
                )
    return table


def main() -> int:
    """Compares and prints."""
    jax.config.update("jax_enable_x64", True)
    try:
        table = compare(Setting.from_text(sys.argv[1]))
    except Disagreement as error:
        print(error)
        return 3
    print(json.dumps({"limits": LIMITS, "differences": table}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
