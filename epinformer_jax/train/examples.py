"""Data sets as the training loop wants them: examples with their batch plan and their order."""

import dataclasses

import numpy as np
from jaxtyping import Int

from epinformer_jax.data import features as features_lib
from epinformer_jax.data.layouts import Geometry, Plan
from epinformer_jax.data.loader import GeneSet, Stream, WindowSet, load_genes, load_windows, stream
from epinformer_jax.data.records import Manifest
from epinformer_jax.train import networks


@dataclasses.dataclass(frozen=True)
class Genes:
    """A gene set with its batch plan, as the loop wants it."""

    manifest: Manifest
    data: GeneSet
    layout: Plan
    schema: features_lib.FeatureSchema
    seed: int

    @property
    def labels(self) -> np.ndarray:
        """The measured value of each example."""
        return self.data.labels

    def stream(self, indices: Int[np.ndarray, "N"], *, shuffle: bool) -> Stream:
        """Batches of the genes at `indices`."""

        def pack(chosen):
            return self.data.batch(chosen, self.layout)

        size = self.layout.batch_size
        return stream(indices, pack, batch_size=size, seed=self.seed, shuffle=shuffle)


@dataclasses.dataclass(frozen=True)
class Windows:
    """A window set, as the loop wants it.

    With `strands` both, training has each window on either strand; `random` ones are drawn on the
    device, in model.packing.
    """

    manifest: Manifest
    data: WindowSet
    batch_size: int
    strands: str
    seed: int

    @property
    def labels(self) -> np.ndarray:
        """The measured value of each example."""
        return self.data.labels

    def stream(self, indices: Int[np.ndarray, "N"], *, shuffle: bool) -> Stream:
        """Batches of the windows at `indices`."""

        def pack(chosen):
            return self.data.batch(chosen, self.batch_size)

        if shuffle and self.strands == "both":
            indices = np.concatenate([indices, indices + len(self.data)])
        return stream(indices, pack, batch_size=self.batch_size, seed=self.seed, shuffle=shuffle)


def read_genes(config) -> Genes:
    """The gene set a configuration names, with its batch plan.

    Raises:
      ValueError: not such a data set, or wider than the model's window.
    """
    schema = features_lib.schema(config.features.schema, config.features.preset)
    manifest, data = load_genes(
        config.data.genes,
        schema=schema,
        label=config.data.label,
        max_elements=config.model.max_elements,
        control=config.data.control,
        seed=config.seed,
    )
    for name, built in (("window_bp", manifest.window_bp), ("promoter_bp", manifest.promoter_bp)):
        if built > config.model.window_bp:
            raise ValueError(
                f"{config.data.genes} was built with {name}={built}, wider than "
                "config.model.window_bp="
                f"{config.model.window_bp}; widen the model's window or build again"
            )
    model = networks.expression_config(config, schema)
    layout = data.plan(
        geometry=Geometry(**model.geometry(config.data.shift_bp)),
        batch_size=config.train.batch_size,
        slots=1 + config.model.max_elements,
        layouts=config.train.layouts,
    )
    return Genes(manifest, data, layout, schema, config.seed)


def read_windows(config) -> Windows:
    """The window set a configuration names.

    Raises:
      ValueError: not such a data set, or a sequence longer than the model's window.
    """
    manifest, data = load_windows(
        config.data.windows,
        label=config.data.activity_label,
        window_bp=config.model.activity_window_bp,
    )
    return Windows(manifest, data, config.pretrain.batch_size, config.data.strands, config.seed)
