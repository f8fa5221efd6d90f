"""A few epochs of a tiny expression model, as a process of its own: python tests/train_tiny.py
DIRECTORY EPOCHS [KILL_AT].

Prints JSON with the loss of each step and what validation found. With KILL_AT the process kills
itself (SIGKILL) when that many batches have been packed. Other tests import `examples` and `fit`.
"""

import dataclasses
import json
import os
import pathlib
import signal
import sys

import numpy as np
import tiny_datasets

from epinformer_jax.data import features
from epinformer_jax.data.batches import Sequences
from epinformer_jax.data.layouts import Geometry
from epinformer_jax.data.loader import GeneSet
from epinformer_jax.data.records import Manifest
from epinformer_jax.model import functional
from epinformer_jax.model.architecture import EncoderConfig, ExpressionConfig
from epinformer_jax.train import crossval, devices, loop, tasks
from epinformer_jax.train.checkpoint import ModelInfo

MODEL = ExpressionConfig(
    encoder=EncoderConfig(stem_channels=4, channels=(4,)),
    window_bp=tiny_datasets.WINDOW_BP,
    slots=1 + tiny_datasets.MAX_ELEMENTS,
    summary_channels=3,
    summary_dilations=(2,),
    summary_outputs=2,
    embedding=4,
    heads=2,
    layers=1,
    hidden=8,
    link_features=3,
    gene_features=9,
)
OBJECTIVE = tasks.Objective(MODEL, "smooth_l1")
OPTIMIZER = loop.OptimizerSpec(learning_rate=3e-3, weight_decay=1e-2)


def examples(*, per_split: int = 16, layouts: int = 1, batch_size: int = 4) -> crossval.Genes:
    """Genes in memory with a batch plan."""
    genes = tiny_datasets.genes_of(per_split=per_split)
    flat = [gene for split in genes.values() for gene in split]
    schema = features.schema("published", "PE-Activity-HiC")
    names = tiny_datasets.LINK_SIGNALS, tiny_datasets.GENE_SIGNALS
    sequences = []
    for gene in flat:
        cuts = np.cumsum(gene.element_length)[:-1]
        elements = np.split(gene.element_sequence, cuts) if len(gene.element_length) else []
        sequences.append(Sequences([gene.promoter, *elements]))
    data = GeneSet(
        flat,
        sequences,
        [features.link_array(schema, gene, *names) for gene in flat],
        np.stack([features.gene_array(schema, gene, names[1]) for gene in flat]),
        np.array([gene.labels[0] for gene in flat], np.float32),
    )
    plan = data.plan(
        geometry=Geometry(**MODEL.geometry()),
        batch_size=batch_size,
        slots=MODEL.slots,
        layouts=layouts,
    )
    manifest = Manifest(kind="genes")
    return crossval.Genes(manifest, data, plan, schema, seed=0)


def fit(data, directory, *, epochs: int, run_id: str = "tiny", **options) -> loop.Fit:
    """Trains on the first two splits, validates on the third; compiled for one layout."""
    return loop.fit(
        OBJECTIVE,
        OPTIMIZER,
        loop.FitSpec(epochs, **{"patience_epochs": 0, "score": "pearson", **options}),
        functional.init(MODEL, seed=0),
        data,
        data.data.where(tiny_datasets.SPLITS[:2]),
        data.data.where(tiny_datasets.SPLITS[2:3]),
        pathlib.Path(directory),
        ModelInfo(MODEL, label="rna"),
        name="tiny",
        run_id=run_id,
    )


def one_layout(data):
    """The same genes with the layout that fits every batch: one compilation."""
    plan = dataclasses.replace(data.layout, layouts=data.layout.layouts[-1:])
    return dataclasses.replace(data, layout=plan)


class _KilledAt(crossval.Genes):
    """Kills the process when the batch number `kill_at` of training is packed."""

    def stream(self, indices, *, shuffle):
        stream = super().stream(indices, shuffle=shuffle)
        if not shuffle:
            return stream
        packed = iter(range(10**9))

        def pack(chosen):
            if next(packed) == int(sys.argv[3]):
                os.kill(os.getpid(), signal.SIGKILL)
            return stream.pack(chosen)

        return dataclasses.replace(stream, pack=pack)


def trained(data, directory, *, epochs: int) -> dict:
    """What a training found: the loss of each step, the history, the best weights as text."""
    losses = []
    finite = loop._finite

    def recorded(pending):
        found = finite(pending)
        losses.extend(found)
        return found

    loop._finite = recorded
    try:
        result = fit(data, directory, epochs=epochs)
    finally:
        loop._finite = finite
    leaves = [np.asarray(x).ravel() for x in loop.jax.tree.leaves(tuple(result.variables))]
    return {
        "devices": loop.jax.device_count(),
        "losses": losses,
        "history": [{k: v for k, v in row.items() if k != "seconds"} for row in result.history],
        "best_epoch": result.best_epoch,
        "weights": np.concatenate(leaves).tobytes().hex(),
    }


def shares(data) -> dict[str, list[int]]:
    """Of each array of a batch: the rows in all, and on each device."""
    batch = devices.put_batch(data.data.batch(np.arange(4), data.layout))
    leaves = {f"tracks/{key}": leaf for key, leaf in batch["tracks"].items()}
    leaves["labels"] = batch["labels"]
    return {
        name: [leaf.shape[0], *(shard.data.shape[0] for shard in leaf.addressable_shards)]
        for name, leaf in leaves.items()
    }


def main(directory: str, epochs: str, kill_at: str = "") -> None:
    """Trains and prints."""
    data = one_layout(examples())
    if kill_at:
        data = _KilledAt(**{f.name: getattr(data, f.name) for f in dataclasses.fields(data)})
    found = trained(data, directory, epochs=int(epochs))
    print(json.dumps({**found, "shares": shares(data)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
