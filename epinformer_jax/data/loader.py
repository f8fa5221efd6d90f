"""From a data set on disk to the stream of batches: held in memory, ordered by (seed, step),
prefetched by Grain.

A cell type is about 150 MB, so its shards are read whole, once. `stream(...)[step]` is a pure
function of the seed and the step, so a run resumes at any step with one integer.
"""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import grain
import numpy as np
from jaxtyping import Float, Int, UInt8

from epinformer_jax.data import features as features_lib
from epinformer_jax.data import sequence
from epinformer_jax.data.batches import Batch, Sequences, pack_genes, pack_windows
from epinformer_jax.data.layouts import Geometry, Plan, make_plan
from epinformer_jax.data.records import GeneExample, Manifest, WindowExample, read_dataset

Control = Literal["none", "scrambled_sequence", "permuted_labels"]


@dataclasses.dataclass(frozen=True)
class GeneSet:
    """Genes ready for a model: sequences, inputs in the schema's order and scale, labels.

    Attributes:
      examples: the records, in file order.
      sequences: promoter and elements of each gene.
      link_features: a row for each sequence of a gene.
      gene_features, labels: one row, one value a gene.
    """

    examples: list[GeneExample]
    sequences: list[Sequences]
    link_features: list[Float[np.ndarray, "_ P"]]
    gene_features: Float[np.ndarray, "N G"]
    labels: Float[np.ndarray, "N"]

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def splits(self) -> np.ndarray:
        """The split (chromosome) of each gene."""
        return np.array([example.split for example in self.examples])

    def where(self, chosen: Sequence[str]) -> Int[np.ndarray, "M"]:
        """Indices of the genes on these splits."""
        return np.flatnonzero(np.isin(self.splits, list(chosen)))

    def plan(
        self,
        *,
        geometry: Geometry,
        batch_size: int,
        slots: int,
        layouts: int,
    ) -> Plan:
        """Batch layouts for this set."""
        return make_plan(
            [gene.lengths for gene in self.sequences],
            geometry=geometry,
            batch_size=batch_size,
            slots=slots,
            layouts=layouts,
        )

    def batch(self, indices: Int[np.ndarray, "M"], plan: Plan) -> Batch:
        """The genes at `indices` as one packed batch."""
        return pack_genes(
            plan,
            [self.sequences[i] for i in indices],
            [self.link_features[i] for i in indices],
            self.gene_features[indices],
            self.labels[indices],
        )


@dataclasses.dataclass(frozen=True)
class WindowSet:
    """Sequences with a measured activity, for the activity model."""

    examples: list[WindowExample]
    codes: list[UInt8[np.ndarray, "_"]]
    labels: Float[np.ndarray, "N"]
    window_bp: int

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def splits(self) -> np.ndarray:
        """The split of each window."""
        return np.array([example.split for example in self.examples])

    def where(self, chosen: Sequence[str]) -> Int[np.ndarray, "M"]:
        """Indices of the windows on these splits."""
        return np.flatnonzero(np.isin(self.splits, list(chosen)))

    def batch(self, indices: Int[np.ndarray, "M"], batch_size: int) -> Batch:
        """The windows at `indices` as one batch; an index i + len(self) is window i on the other
        strand.
        """
        codes = []
        for i in indices:
            strand, row = divmod(int(i), len(self))
            codes.append(
                sequence.reverse_complement(self.codes[row]) if strand else self.codes[row]
            )
        labels = self.labels[indices % len(self)]
        return pack_windows(codes, labels, window_bp=self.window_bp, batch_size=batch_size)


def load_genes(
    directory: str | os.PathLike,
    *,
    schema: features_lib.FeatureSchema,
    label: str,
    max_elements: int,
    control: Control = "none",
    seed: int = 0,
) -> tuple[Manifest, GeneSet]:
    """Reads a genes data set and applies a feature schema.

    Genes keep their nearest `max_elements` elements (none in the promoter preset). `control`
    destroys one thing, for
    comparison: `scrambled_sequence` shuffles the bases of each sequence, `permuted_labels` deals
    labels to other genes.

    Raises:
      ValueError: not a genes data set, an unknown label, a missing signal, or a label that is not
        measured (NaN).
    """
    manifest, examples = _read(directory, "genes")
    position = _label_position(manifest, label, directory)
    keep = max_elements if schema.use_elements else 0
    sequences, links, genes, labels = [], [], [], []
    for example in examples:
        count = min(keep, len(example.element_length))
        names = manifest.link_signal_names, manifest.gene_signal_names
        sequences.append(Sequences(_codes(example, count)))
        links.append(features_lib.link_array(schema, example, *names)[: 1 + count])
        genes.append(features_lib.gene_array(schema, example, manifest.gene_signal_names))
        value = float(example.labels[position])
        if not np.isfinite(value):
            raise ValueError(
                f"{directory}: gene {example.gene_id} has no value for label {label!r}; build "
                "without such genes"
            )
        labels.append(value)
    labels = np.array(labels, np.float32)
    rng = np.random.default_rng([seed, 1])
    if control == "scrambled_sequence":
        sequences = [
            Sequences([rng.permutation(codes) for codes in gene.codes]) for gene in sequences
        ]
    elif control == "permuted_labels":
        labels = rng.permutation(labels)
    return manifest, GeneSet(examples, sequences, links, np.stack(genes), labels)


def with_schema(data: GeneSet, manifest: Manifest, schema: features_lib.FeatureSchema) -> GeneSet:
    """The same genes, sequences and labels with their inputs by another schema; slots stay as they
    are.

    Raises:
      ValueError: a signal is missing.
    """
    names = manifest.link_signal_names, manifest.gene_signal_names
    links = [
        features_lib.link_array(schema, example, *names)[: len(own.codes)]
        for example, own in zip(data.examples, data.sequences, strict=True)
    ]
    genes = [
        features_lib.gene_array(schema, example, manifest.gene_signal_names)
        for example in data.examples
    ]
    return dataclasses.replace(data, link_features=links, gene_features=np.stack(genes))


def load_windows(
    directory: str | os.PathLike, *, label: str, window_bp: int
) -> tuple[Manifest, WindowSet]:
    """Reads a windows data set.

    Raises:
      ValueError: not a windows data set, an unknown label, a label that is not measured, or a
        sequence longer than
        `window_bp`.
    """
    manifest, examples = _read(directory, "windows")
    position = _label_position(manifest, label, directory)
    labels = np.array([example.labels[position] for example in examples], np.float32)
    for example, value in zip(examples, labels, strict=True):
        if not np.isfinite(value):
            raise ValueError(f"{directory}: window {example.name} has no value for label {label!r}")
        if len(example.sequence) > window_bp:
            raise ValueError(
                f"{directory}: window {example.name} has {len(example.sequence)} bases, more than "
                f"the model's {window_bp}"
            )
    return manifest, WindowSet(examples, [e.sequence for e in examples], labels, window_bp)


@dataclasses.dataclass(frozen=True)
class Stream:
    """Batches by step number. Every epoch sees each index once, in an order drawn from (seed,
    epoch); the last batch is short.
    """

    order: grain.MapDataset
    pack: Callable[[np.ndarray], Batch]
    steps_per_epoch: int

    def __getitem__(self, step: int) -> Batch:
        return self.pack(self.order[step])

    def indices(self, step: int) -> Int[np.ndarray, "M"]:
        """What the batch of this step holds."""
        return self.order[step]

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """The batches of steps first .. last - 1; a thread packs ahead."""
        ahead = self.order[first:last].map(self.pack)
        iterator = iter(
            ahead.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2))
        )
        with contextlib.closing(iterator):
            yield from iterator


def stream(
    indices: Int[np.ndarray, "N"],
    pack: Callable[[np.ndarray], Batch],
    *,
    batch_size: int,
    seed: int,
    shuffle: bool,
) -> Stream:
    """A stream over `indices`; endless when shuffled, one pass in order when not.

    Raises:
      ValueError: there is nothing to stream.
    """
    if not len(indices):
        raise ValueError(
            "there are no examples to stream; check the fold's splits against the data set's"
        )
    indices = np.asarray(indices)
    order = grain.MapDataset.range(len(indices))
    if shuffle:
        order = order.shuffle(seed=seed)
    order = order.batch(batch_size, drop_remainder=False).map(lambda rows: indices[rows])
    steps = len(order)
    return Stream(order.repeat() if shuffle else order, pack, steps)


def _read(directory, kind):
    manifest, examples = read_dataset(directory)
    if manifest.kind != kind:
        raise ValueError(f"{directory} holds {manifest.kind}, expected {kind}")
    return manifest, examples


def _label_position(manifest: Manifest, label: str, directory) -> int:
    if label not in manifest.label_names:
        known = ", ".join(manifest.label_names) or "none"
        raise ValueError(f"{directory} has no label {label!r}; its labels are: {known}")
    return list(manifest.label_names).index(label)


def _codes(example: GeneExample, count: int) -> list[np.ndarray]:
    ends = np.cumsum(example.element_length[:count])
    elements = np.split(example.element_sequence[: ends[-1] if count else 0], ends[:-1])
    return [example.promoter, *(elements if count else [])]
