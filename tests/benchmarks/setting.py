"""What both sides measure on: the same genes in the same order, the same weights, dense batches.

Nothing here imports jax or torch, so that each side's process holds its own framework only.
"""

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int

from epinformer_jax import config as config_lib
from epinformer_jax.data import loader, sequence
from epinformer_jax.data.loader import GeneSet
from tests.benchmarks import occupancy
from tests.benchmarks.occupancy import Genes

SLOTS = 61


class Dense(NamedTuple):
    """Genes with every slot and base written out: what the reference computes on."""

    bases: Float32[np.ndarray, "B S L A"]
    mask: Bool[np.ndarray, "B S"]
    link_features: Float32[np.ndarray, "B S P"]
    gene_features: Float32[np.ndarray, "B G"]
    labels: Float32[np.ndarray, "B"]


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A contender, ready to be timed.

    Attributes:
      run: makes run number i and returns when it is done. What run 0 returns are the numbers that
        all contenders of a line must agree on, unless `numbers` gives them.
      work: units of work in one run: genes, steps, or the part of a job that is run.
      one_off: seconds (or bytes) of what is done once beforehand, by name.
      numbers: makes the numbers to agree on; not timed.
      close: removes what was written.
    """

    run: Callable[[int], list[float]]
    work: float
    one_off: dict[str, float] = dataclasses.field(default_factory=dict)
    numbers: Callable[[], list[float]] | None = None
    close: Callable[[], None] | None = None


@dataclasses.dataclass(frozen=True)
class Setting:
    """Where genes and weights lie, and a folder for what a contender writes.

    `quick` is 1 where fewer batches and genes are enough.
    """

    genes_file: pathlib.Path
    weights_file: pathlib.Path
    scratch: pathlib.Path
    threads: int = 2
    quick: int = 0

    @classmethod
    def from_text(cls, text: str) -> "Setting":
        """The setting that the benchmark gives its processes as JSON, which then keep to as many
        CPUs as it has threads. Call it before jax or torch count them.
        """
        fields = json.loads(text)
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: fields["threads"]])
        paths = {name: pathlib.Path(v) for name, v in fields.items() if isinstance(v, str)}
        return cls(**{**fields, **paths})

    @functools.cached_property
    def genes(self) -> Genes:
        """The genes."""
        return Genes.load(self.genes_file)

    @functools.cached_property
    def data(self) -> GeneSet:
        """The genes as the loader hands them to training."""
        return occupancy.gene_set(self.genes)

    @functools.cached_property
    def config(self):
        """The configuration of the published recipe: learning rate, decay, number of layouts."""
        return config_lib.default()

    def order(self, batch_size: int) -> loader.Stream:
        """The order of training; `order(4).indices(0)` are the genes of the first batch."""
        count = len(self.genes)
        return loader.stream(
            np.arange(count), list, batch_size=batch_size, seed=self.config.seed, shuffle=True
        )

    def dense(self, indices: Int[np.ndarray, "K"]) -> Dense:
        """Genes as dense arrays."""
        return dense(self.data, indices)


def dense(data: GeneSet, indices: Int[np.ndarray, "K"], *, slots: int = SLOTS) -> Dense:
    """Sequences in the middle of their windows, empty slots all-zero at the end."""
    count, window = len(indices), occupancy.WINDOW_BP
    bases = np.zeros((count, slots, window, 4), np.float32)
    mask = np.zeros((count, slots), bool)
    links = np.zeros((count, slots, data.link_features[0].shape[1]), np.float32)
    for row, gene in enumerate(indices):
        codes = data.sequences[gene].codes
        mask[row, : len(codes)] = True
        links[row, : len(codes)] = data.link_features[gene]
        for slot, own in enumerate(codes):
            first = window // 2 - len(own) // 2
            bases[row, slot, first : first + len(own)] = sequence.one_hot(own)
    return Dense(bases, mask, links, data.gene_features[indices], data.labels[indices])
