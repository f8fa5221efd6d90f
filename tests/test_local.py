"""Local recomputation gives what mutating and computing anew gives; float64, tiny widths."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models

from epinformer_jax.model import functional, kmers, local, local_genes
from epinformer_jax.model.architecture import EncoderConfig

ATOL = 1e-10
ODD_STEM = EncoderConfig(stem_channels=4, stem_width=5, channels=(3, 4, 2))
ACTIVITIES = {
    "published": {},
    "one map over means": {"hidden": 0, "pool": "mean"},
    "mixer, both strands": {
        "strands": "both",
        "mixer_channels": (3, 5),
        "mixer_widths": (3, 2),
        "mixer_dilations": (2, 1),
    },
    "odd stem, three blocks": {"encoder": ODD_STEM, "window_bp": 40},
}
EXPRESSIONS = {
    "published": {},
    "odd stem, no norm": {"encoder": ODD_STEM, "window_bp": 80, "summary_batch_norm": False},
}


@pytest.fixture(autouse=True, scope="module")
def quick():
    with tiny_models.quick_compilation():
        yield


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def sequences(window_bp: int):
    """A full window with unknown bases, and a short sequence of odd length in zero flanks."""
    rng = np.random.default_rng(0)
    bases = np.eye(4)[rng.integers(0, 4, (2, window_bp))]
    bases[0, [0, 9, window_bp - 1]] = 0.25
    valid = np.ones((2, window_bp), bool)
    valid[1, :8] = valid[1, window_bp - 11 :] = False
    bases[1, ~valid[1]] = 0
    return bases, valid


def naive(function, config, variables, bases, valid):
    """[row, base, position, ...]: every substitution, each computed from the start."""
    rows, length = valid.shape
    copies = np.repeat(bases[:, None, None], 4 * length, axis=1).reshape(rows, 4, length, length, 4)
    place = np.arange(length)
    for base in range(4):
        copies[:, base, place, place] = np.eye(4)[base]
    wide = np.repeat(valid[:, None], 4 * length, axis=1)
    found = jax.jit(function, static_argnums=0)(
        config,
        variables,
        jnp.asarray(copies.reshape(-1, length, 4)),
        jnp.asarray(wide.reshape(-1, length)),
    )
    return np.asarray(found).reshape(rows, 4, length, *found.shape[1:])


def tiles_over(valid, size: int, first: int = 0):
    """Tiles of `size` positions over both rows, from `first` on; all four bases."""
    rows, length = valid.shape
    starts = np.arange(first, length, size)
    row = np.repeat(np.arange(rows), len(starts))
    bases = np.broadcast_to(np.eye(4)[None, :, None], (len(row), 4, size, 4))
    return local.Tiles(row, np.tile(starts, rows), jnp.asarray(bases))


def by_position(found, tiles, shape):
    """[row, base, position, ...] from tiles; NaN where none lies."""
    found, length = np.asarray(found), shape[2]
    values = np.full((*shape, *found.shape[3:]), np.nan)
    for tile, (row, start) in enumerate(zip(tiles.rows, tiles.starts, strict=True)):
        inside = (start + np.arange(found.shape[2]) >= 0) & (
            start + np.arange(found.shape[2]) < length
        )
        values[row, :, start + np.flatnonzero(inside)] = np.moveaxis(found[tile][:, inside], 1, 0)
    return values


def compare(found, tiles, expected, valid):
    got = by_position(found, tiles, expected.shape[:3])
    at = np.broadcast_to(valid[:, None], expected.shape[:3])
    assert np.isfinite(got[at]).all()
    np.testing.assert_allclose(got[at], expected[at], rtol=0, atol=ATOL)
    assert expected[at].std() > 1e-4


@pytest.mark.parametrize("changes", ACTIVITIES.values(), ids=ACTIVITIES)
def test_activity_of_every_substitution_equals_the_naive_one(changes):
    config = dataclasses.replace(tiny_models.ACTIVITY, **changes)
    variables = tiny_models.random_variables(config, seed=1, dtype=jnp.float64)
    bases, valid = sequences(config.window_bp)
    expected = naive(functional.activity, config, variables, bases, valid)
    reference = jax.jit(local.reference, static_argnums=0)(config, variables, bases, valid)
    change = jax.jit(local.activity_changes, static_argnums=0)
    stride = config.encoder.stride
    for size, first in ((2 * stride, -3), (3, -2))[: 1 + (not changes)]:
        tiles = tiles_over(valid, size, first)
        compare(change(config, variables, reference, tiles), tiles, expected, valid)


@pytest.mark.parametrize("changes", EXPRESSIONS.values(), ids=EXPRESSIONS)
def test_embedding_of_every_substitution_equals_the_naive_one(changes):
    config = dataclasses.replace(tiny_models.EXPRESSION, **changes)
    variables = tiny_models.random_variables(config, seed=1, dtype=jnp.float64)
    bases, valid = sequences(config.window_bp)
    expected = naive(functional.encode, config, variables, bases, valid)
    reference = jax.jit(local.reference, static_argnums=0)(config, variables, bases, valid)
    plain = functional.encode(config, variables, jnp.asarray(bases), jnp.asarray(valid))
    np.testing.assert_allclose(reference.answer, plain, rtol=0, atol=ATOL)
    tiles = tiles_over(valid, 5, -2)
    found = jax.jit(local.embedding_changes, static_argnums=0)(config, variables, reference, tiles)
    compare(found, tiles, expected, valid)


@pytest.mark.parametrize("build", [kmers.build, kmers.build_taps])
@pytest.mark.parametrize("stem_width", [4, 5])
def test_positions_that_a_table_can_answer_are_read_exactly(stem_width, build):
    encoder = EncoderConfig(stem_channels=4, stem_width=stem_width, channels=(3, 4))
    config = dataclasses.replace(tiny_models.ACTIVITY, encoder=encoder, window_bp=48)
    variables = tiny_models.random_variables(config, seed=2, dtype=jnp.float64)
    bases, valid = sequences(48)
    expected = naive(functional.activity, config, variables, bases, valid)
    reference = local.reference(config, variables, jnp.asarray(bases), jnp.asarray(valid))
    plain = local.is_plain(encoder, valid & (bases.max(axis=-1) == 1))
    assert plain.any() and not plain[0, 9] and not plain[1, 9] and plain[0, 24]
    tiles = tiles_over(valid, 8)
    table = build(config, variables)
    found = jax.jit(local.activity_changes, static_argnums=0)(
        config, variables, reference, tiles, table
    )
    compare(found, tiles, expected, plain)


@pytest.mark.parametrize("is_promoter", [False, True])
@pytest.mark.parametrize("changes", [{}, {"layers": 3}, {"use_elements": False}])
def test_a_changed_slot_answers_as_the_whole_gene_does(is_promoter, changes):
    config = dataclasses.replace(tiny_models.EXPRESSION, **changes)
    variables = tiny_models.random_variables(config, seed=3, dtype=jnp.float64)
    rng = np.random.default_rng(4)
    count, slots = 6, 5
    own = 0 if is_promoter else 2
    whole, links = rng.normal(size=(slots, 4)), rng.normal(size=(slots, 2))
    new, features = rng.normal(size=(count, 1, 4)), rng.normal(size=(count, 2))
    genes = rng.normal(size=(1, 3))
    embeddings = np.repeat(whole[None], count, axis=0)
    embeddings[:, own] = new[:, 0]
    link_features = np.repeat(links[None], count, axis=0)
    link_features[:, own] = features
    mask = np.repeat([[True, True, True, True, False]], count, axis=0)
    genes = np.repeat(genes, count, axis=0)
    expected, _ = jax.jit(functional.interact, static_argnums=0)(
        config, variables, embeddings, mask, link_features, genes
    )
    others = [slot for slot in (1, 2, 3, 4) if slot != own]
    gene = local_genes.Gene(
        local_genes.Slots(whole[None, :1], links[None, :1], np.ones(1, bool)),
        local_genes.Slots(whole[None, others], links[None, others], mask[0, others]),
    )
    scalars = local_genes.Scalars(features, genes[:1])
    changed = functools.partial(local_genes.changed, config, is_promoter=is_promoter)
    found = jax.jit(changed)(variables, gene, new, scalars)
    np.testing.assert_allclose(found, expected, rtol=0, atol=ATOL)
    assert expected.std() > 1e-3 or not (is_promoter or config.use_elements)
