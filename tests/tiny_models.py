"""Narrow networks and random batches: dense arrays and packed ones made of the same genes."""

import contextlib
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tiny_inputs

from epinformer_jax.data import batches, sequence
from epinformer_jax.data import layouts as layouts_lib
from epinformer_jax.model import functional
from epinformer_jax.model.architecture import ActivityConfig, EncoderConfig, ExpressionConfig
from epinformer_jax.model.tracks import Placed, Tracks

ENCODER = EncoderConfig(stem_channels=4, channels=(3, 4))
ACTIVITY = ActivityConfig(encoder=ENCODER, window_bp=32, hidden=8, dropout=0.1)
EXPRESSION = ExpressionConfig(
    encoder=ENCODER,
    window_bp=64,
    slots=5,
    summary_channels=3,
    summary_dilations=(1, 2),
    summary_outputs=2,
    embedding=4,
    heads=2,
    layers=2,
    hidden=6,
    link_features=2,
    gene_features=3,
)


class Genes(NamedTuple):
    """Genes as the packer takes them: sequences, link features of each, scalars, labels."""

    sequences: list[batches.Sequences]
    link_features: list[np.ndarray]
    gene_features: np.ndarray
    labels: np.ndarray


class Dense(NamedTuple):
    """The same genes with every slot and base written out, float64."""

    bases: np.ndarray
    valid: np.ndarray
    link_features: np.ndarray
    gene_features: np.ndarray
    labels: np.ndarray


def random_genes(rng: np.random.Generator, config: ExpressionConfig, counts) -> Genes:
    """A gene with each of these numbers of sequences: a full promoter, then short and long
    elements.
    """
    sequences, links = [], []
    for count in counts:
        lengths = [config.window_bp, *rng.integers(1, config.window_bp // 2, count - 1)]
        if count > 2:
            lengths[-1] = config.window_bp - 1
        codes = [tiny_inputs.random_codes(rng, int(length)) for length in lengths]
        sequences.append(batches.Sequences(codes))
        links.append(rng.normal(size=(count, config.link_features)).astype(np.float32))
    features = rng.normal(size=(len(counts), config.gene_features)).astype(np.float32)
    return Genes(sequences, links, features, (2 * rng.normal(size=len(counts))).astype(np.float32))


def geometry_of(config: ExpressionConfig, shift_bp: int = 0) -> layouts_lib.Geometry:
    """What laying out has to know of a network."""
    return layouts_lib.Geometry(**config.geometry(shift_bp))


def plan_for(
    genes: Genes,
    config: ExpressionConfig,
    *,
    batch_size: int,
    layouts: int = 1,
    shift_bp: int = 0,
):
    """Batch layouts for these genes."""
    return layouts_lib.make_plan(
        [gene.lengths for gene in genes.sequences],
        geometry=geometry_of(config, shift_bp),
        batch_size=batch_size,
        slots=config.slots,
        layouts=layouts,
    )


def one_layout(plan: layouts_lib.Plan) -> layouts_lib.Plan:
    """The plan with the layout that fits every batch: one compilation."""
    return dataclasses.replace(plan, layouts=plan.layouts[-1:])


def on_tracks(codes, geometry, *, tracks=1):
    """Sequences on tracks, as model.tracks takes them."""
    lengths = np.array([len(own) for own in codes])
    (own,) = layouts_lib.track_batches(lengths, geometry=geometry, positions=10_000, tracks=tracks)
    assert own.members.tolist() == list(range(len(codes)))
    packed = batches.pack_tracks(geometry, codes, own.layout, own.dealt)
    packed = jax.tree.map(jnp.asarray, packed)
    return Tracks(**packed["tracks"]), Placed(**packed["placed"])


def dense(genes: Genes, config: ExpressionConfig, *, unknown: float = 0.25) -> Dense:
    """Elements in the middle of their windows, empty slots at the end."""
    count, window = len(genes.sequences), config.window_bp
    bases = np.zeros((count, config.slots, window, 4))
    valid = np.zeros((count, config.slots, window), bool)
    links = np.zeros((count, config.slots, config.link_features))
    for gene, (codes_of_gene, features) in enumerate(
        zip(genes.sequences, genes.link_features, strict=True)
    ):
        links[gene, : len(features)] = features
        for slot, codes in enumerate(codes_of_gene.codes):
            first = window // 2 - len(codes) // 2
            inside = slice(first, first + len(codes))
            bases[gene, slot, inside] = sequence.one_hot(codes, unknown=unknown)
            valid[gene, slot, inside] = True
    features = genes.gene_features.astype(np.float64)
    return Dense(bases, valid, links, features, genes.labels.astype(np.float64))


def random_variables(config, *, seed: int, dtype=jnp.float32) -> functional.Variables:
    """Fresh weights, then scales, biases and running statistics moved away from 0 and 1.

    Means move down and variances up, so that few units behind a ReLU are silent.
    """
    fresh = functional.init(config, seed=seed)
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda x: x + 0.2 * rng.normal(size=x.shape), fresh.params)

    def moved(x):
        by = rng.uniform(0.1, 0.5, size=x.shape)
        return np.where(x == 0, -by, x + by)

    stats = jax.tree.map(moved, fresh.stats)
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), functional.Variables(params, stats))


@contextlib.contextmanager
def quick_compilation():
    """XLA compiles at its lowest optimisation level: twice as fast, same numbers up to rounding."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def assert_trees_close(got, expected, *, atol: float) -> None:
    """Same structure, and every leaf equal within `atol`; a difference names its leaf."""
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(
            x, y, rtol=0, atol=atol, err_msg=jax.tree_util.keystr(path), strict=False
        )
