"""The first block from a table of k-mers equals the encoder on the same bases."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_inputs
import tiny_models
from tiny_models import on_tracks

from epinformer_jax.data import batches, sequence
from epinformer_jax.model import functional, kmer_tracks, kmers, packing
from epinformer_jax.model import tracks as tracks_lib
from epinformer_jax.model.encoder import full_rows
from epinformer_jax.train import tasks

pytestmark = pytest.mark.usefixtures("quick_compilation")

STEM_WIDTHS = (2, 3, 4)  # k-mers of 5, 6, 7 bases: both parities of width and lead


def config_with(stem_width, model=tiny_models.EXPRESSION):
    encoder = dataclasses.replace(tiny_models.ENCODER, stem_width=stem_width)
    return dataclasses.replace(model, encoder=encoder)


@functools.cache
def weights(stem_width, model=tiny_models.EXPRESSION):
    with jax.enable_x64(True):
        return tiny_models.random_variables(
            config_with(stem_width, model), seed=stem_width, dtype=jnp.float64
        )


@functools.cache
def table_of(stem_width, build=kmers.build):
    with jax.enable_x64(True):
        return build(config_with(stem_width), weights(stem_width))


def towers(stem_width, codes, *, build=kmers.build, tracks=1):
    """What leaves the encoder over tracks of these sequences, by the table and by the layers; and
    where it counts.
    """
    config = config_with(stem_width)
    laid, placed = on_tracks(codes, tiny_models.geometry_of(config), tracks=tracks)

    @jax.jit
    def both(variables, table, laid, placed):
        model = functional.bind(config, variables)
        hard = tracks_lib.expand(laid, placed, unknown=0.0, dtype=jnp.float64)
        empty = jnp.zeros(())
        by_table = kmer_tracks.from_table(
            model.encoder,
            table,
            hard,
            tracks_lib.track_of(hard),
            tracks_lib.background_of(hard, empty, 64),
            dtype="float32",
        )
        by_layers = packing.tower(model, hard, empty, unknown=0.0)
        return (by_table[0].x, by_table[1].x), (by_layers[0], by_layers[1].x)

    found = both(weights(stem_width), table_of(stem_width, build), laid, placed)
    return *found, np.asarray(laid.row_of_block) < len(placed.weight)


def assert_alike(got, expected, is_window):
    for a, b in ((got[0][is_window], expected[0][is_window]), (got[1], expected[1])):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)
    assert np.ptp(np.asarray(got[0][is_window]), axis=0).max() > 0.1


@pytest.mark.parametrize("stem_width", STEM_WIDTHS)
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("build", [kmers.build, kmers.build_taps])
def test_a_tower_by_table_equals_the_layers_for_every_length_and_place(build, stem_width, count):
    """Both parities of start and end, whole windows, elements shorter than a k-mer."""
    rng = np.random.default_rng(stem_width)
    codes = [tiny_inputs.random_codes(rng, n, 0.0) for n in range(1, 65)]
    with jax.enable_x64(True):
        assert_alike(*towers(stem_width, codes, build=build, tracks=count))


@pytest.mark.parametrize("width", [1, 2, 4])
def test_every_part_of_a_k_mer_has_a_number_of_its_own_behind_all_k_mers(width):
    digits = np.concatenate([np.asarray(own) for own in kmers._digits_of_parts(width)])
    known = digits >= 0
    read = (np.maximum(digits, 0) * 4 ** np.arange(width - 1, -1, -1)).sum(axis=1)
    first = np.where(known.any(axis=1), known.argmax(axis=1), 0)
    ends = first, first + known.sum(axis=1)
    got = kmers.part_numbers(*map(jnp.asarray, (read, *ends)), width)
    np.testing.assert_array_equal(got, np.arange(len(digits)))
    assert (digits[: 4**width] >= 0).all()
    assert len(np.unique(digits, axis=0)) == len(digits) == kmers.outside(width)


@pytest.mark.parametrize("width", [1, 11, 12, 13, 15])
def test_numbers_are_exact_for_every_width_that_has_them(width):
    rng = np.random.default_rng(width)
    digits = rng.integers(0, 4, (2, 40))
    digits[0] = 3  # the largest number
    bases = np.eye(4, dtype=np.float32)[digits]
    bases[1, 20] = 0
    count = 41 - width
    got, known = kmers.numbers_of(jnp.asarray(bases), kmers.Frame(width, 1, 0), count)
    read = np.where(bases.any(axis=-1), digits, 0)
    for row in range(2):
        for first in range(count):
            own = "".join(map(str, read[row, first : first + width]))
            assert int(got[row, first]) == int(own, 4)
            assert bool(known[row, first]) == (row == 0 or not first <= 20 < first + width)


@pytest.mark.parametrize("stem_width", STEM_WIDTHS)
def test_rows_are_the_taps_of_the_second_convolution(stem_width):
    """Of positions far from ends, against the layers."""
    config = config_with(stem_width)
    rng = np.random.default_rng(3)
    bases = sequence.one_hot(tiny_inputs.random_codes(rng, 64, 0.0)).astype(np.float64)[None]

    @jax.jit
    def expected(variables, x):
        encoder = functional.bind(config, variables).encoder
        rows, _ = encoder.first_convolution(full_rows(x), None, dtype="float32")
        block = encoder.blocks[0]
        found = block.finish(rows.x, *block.norm.fixed(), "float32")
        return jnp.einsum("nlc,tco->nlto", found, encoder.block_1.conv.kernel[...])

    with jax.enable_x64(True):
        numbers, known = kmers.numbers_of(jnp.asarray(bases), kmers.block_frame(config.encoder), 32)
        got = kmers.take(table_of(stem_width).values, numbers).reshape(1, 32, 3, -1)
        expected = expected(weights(stem_width), bases)
    assert known[0, 3:-4].all()
    np.testing.assert_allclose(got[0, 3:-4], expected[0, 3:-4], rtol=0, atol=1e-12)


# --- training


COUNTS = (1, 3, 5, 4, 2, 5, 5, 5)


@pytest.fixture(scope="module")
def genes():
    return tiny_models.random_genes(np.random.default_rng(0), tiny_models.EXPRESSION, COUNTS)


@pytest.fixture(scope="module")
def batch(genes):
    plan = tiny_models.plan_for(genes, tiny_models.EXPRESSION, batch_size=9)
    return batches.pack_genes(plan, *genes)


def trained(config, batch, variables, unknown_kmers, **options):
    """Loss, statistics and gradients of one step."""
    objective = tasks.Objective(config, "smooth_l1", unknown_kmers=unknown_kmers, **options)

    @jax.jit
    def step(variables, batch, key):
        def loss(params):
            return tasks.loss(objective, params, variables.stats, batch, key)

        return jax.value_and_grad(loss, has_aux=True)(variables.params)

    with jax.enable_x64(True):
        return step(variables, batch, jax.random.key(3))


@pytest.mark.parametrize(
    ("stem_width", "statistics", "options"),
    [(4, "padded", {"unknown_base": 0.0}), (3, "real", {"encoder": "frozen_as_published"})],
)
def test_a_training_step_by_tables_equals_the_direct_one(
    stem_width, statistics, options, genes, batch
):
    config = dataclasses.replace(config_with(stem_width), statistics=statistics)
    limit = batches.most_unknown_kmers(genes.sequences, batch_size=9, width=stem_width)
    assert limit > 100
    direct, tables = (
        trained(config, batch, weights(stem_width), chosen, **options) for chosen in (None, limit)
    )
    tiny_models.assert_trees_close(tables, direct, atol=1e-12)
    assert np.abs(direct[1]["head"]["output"]["kernel"]).max() > 0


def test_tables_follow_flips_and_shifts_drawn_on_the_device(genes):
    config = config_with(2)
    plan = tiny_models.plan_for(genes, config, batch_size=8, shift_bp=3)
    batch = batches.pack_genes(plan, *genes)
    limit = batches.most_unknown_kmers(genes.sequences, batch_size=8, width=2)
    direct, tables = (
        trained(config, batch, weights(2), chosen, flip=True, shift_bp=3)
        for chosen in (None, limit)
    )
    tiny_models.assert_trees_close(tables, direct, atol=1e-12)


def test_the_largest_number_of_unknown_windows_is_that_of_the_worst_genes():
    def gene(*texts):
        return batches.Sequences([sequence.encode(text) for text in texts])

    genes = [gene("ACGTNACGT", "ANNC"), gene("NACGT"), gene("ACGT", "AC"), gene("NNNN")]
    # windows of 3 within a sequence: 3 + 2, 1, 0, 2
    for size, most in ((1, 5), (2, 7), (3, 8), (9, 8)):
        assert batches.most_unknown_kmers(genes, batch_size=size, width=3) == most
