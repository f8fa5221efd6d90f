"""Local recomputation gives what mutating and computing anew gives; float64, tiny widths."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models

from epinformer_jax.model import functional, kmers, local, local_genes, local_kmers
from epinformer_jax.model.architecture import EncoderConfig
from epinformer_jax.model.local_reference import reference
from epinformer_jax.model.local_rows import Tiles

pytestmark = pytest.mark.usefixtures("quick_compilation")

ATOL = 1e-10
ODD_STEM = EncoderConfig(stem_channels=4, stem_width=5, channels=(3, 4, 2))
ACTIVITIES = {
    "published": {},
    "one map over means": {"hidden": 0, "pool": "mean"},
    "mixer": {
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


NO_ENDS = np.zeros((0, 2), np.int32)


def changes_by_position(function, config, variables, base, size, first=0, table=None, ends=NO_ENDS):
    """[row, base, position, ...] of every position from tiles of `size`, the first at `first`."""
    rows, length = base.bases.shape[:2]
    change = jax.jit(function, static_argnums=0, static_argnames="phase")
    bases = jnp.broadcast_to(jnp.eye(4)[None, :, None], (rows, 4, size, 4))
    starts = range(first, length, size)
    phases = [start % config.encoder.stride for start in starts]
    parts = [
        change(config, variables, base, Tiles(start, bases, ends), table, phase=phase)
        for start, phase in zip(starts, phases, strict=True)
    ]
    return np.concatenate(parts, axis=2)[:, :, -first : length - first]


def compare(found, expected, at):
    assert found.shape == expected.shape
    at = np.broadcast_to(at[:, None], expected.shape[:3])
    np.testing.assert_allclose(found[at], expected[at], rtol=0, atol=ATOL)
    assert expected[at].std() > 1e-4


@pytest.mark.parametrize("changes", ACTIVITIES.values(), ids=ACTIVITIES)
def test_activity_of_every_substitution_equals_the_naive_one(changes):
    config = dataclasses.replace(tiny_models.ACTIVITY, **changes)
    variables = tiny_models.random_variables(config, seed=1, dtype=jnp.float64)
    bases, valid = sequences(config.window_bp)
    expected = naive(functional.activity, config, variables, bases, valid)
    base = jax.jit(reference, static_argnums=0)(config, variables, bases, valid)
    stride = config.encoder.stride
    whole = -(-config.window_bp // stride) * stride
    for size, first in ((2 * stride, -3), (3, -2), (whole, 0), (stride, -1))[
        : 1 + 3 * (not changes)
    ]:
        found = changes_by_position(local.activity_changes, config, variables, base, size, first)
        compare(found, expected, valid)


@pytest.mark.parametrize("changes", EXPRESSIONS.values(), ids=EXPRESSIONS)
def test_embedding_of_every_substitution_equals_the_naive_one(changes):
    config = dataclasses.replace(tiny_models.EXPRESSION, **changes)
    variables = tiny_models.random_variables(config, seed=1, dtype=jnp.float64)
    bases, valid = sequences(config.window_bp)
    expected = naive(functional.encode, config, variables, bases, valid)
    base = jax.jit(reference, static_argnums=0)(config, variables, bases, valid)
    plain = functional.encode(config, variables, jnp.asarray(bases), jnp.asarray(valid))
    np.testing.assert_allclose(base.answer, plain, rtol=0, atol=ATOL)
    size = config.encoder.stride
    found = changes_by_position(local.embedding_changes, config, variables, base, 2 * size, -2)
    compare(found, expected, valid)


TABLES = [(kmers.build_taps, 1, 2), (kmers.build_taps, 4, 1)]  # no table: of one base, one block
TABLES += itertools.product([kmers.build, kmers.build_taps], [4, 5], [2, 3])


@pytest.mark.parametrize(("build", "stem_width", "blocks"), TABLES)
def test_a_table_answers_every_substitution(build, stem_width, blocks):
    """Both ends, of the window too, a sequence of a single base, and filler."""
    encoder = EncoderConfig(stem_channels=4, stem_width=stem_width, channels=(3, 4, 2)[:blocks])
    config = dataclasses.replace(tiny_models.ACTIVITY, encoder=encoder, window_bp=48)
    variables = tiny_models.random_variables(config, seed=2, dtype=jnp.float64)
    rng = np.random.default_rng(5)
    begin, end = np.array([[0, 0, 7, 12], [48, 21, 46, 13]])[..., None]
    valid = (begin <= np.arange(48)) & (np.arange(48) < end)
    bases = np.eye(4)[rng.integers(4, size=valid.shape)] * valid[..., None]
    expected = naive(functional.activity, config, variables, bases, valid)
    table = build(config, variables)
    given = config, variables, jnp.asarray(bases), jnp.asarray(valid)
    base, by_layers = reference(*given, local_kmers.taps_of(table)), reference(*given)
    for found, wanted in zip(base.convolved, by_layers.convolved, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=ATOL)
    np.testing.assert_allclose(base.answer, by_layers.answer, rtol=0, atol=ATOL)
    ends = NO_ENDS
    if isinstance(table, kmers.Table):
        ends = local_kmers.end_positions(kmers.block_frame(encoder), valid, valid)
        assert set(ends[:, 0].tolist()) == {0, 1, 2, 3}
        ends = np.concatenate([ends, [[4, 0], [4, 5]]])
    for size, first in ((16, 0), (8, -3)):
        given = config, variables, base, size, first, table, ends
        compare(changes_by_position(local.activity_changes, *given), expected, valid)


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
