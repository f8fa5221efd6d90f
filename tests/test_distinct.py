"""Every distinct sequence is encoded once, and genes get the numbers of the dense definition."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_inputs
import tiny_models

from epinformer_jax.analysis import distinct, ensembles, kmer_tables
from epinformer_jax.data import sequence
from epinformer_jax.data.batches import Sequences
from epinformer_jax.model import functional
from epinformer_jax.train.checkpoint import ModelInfo

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIG = dataclasses.replace(
    tiny_models.EXPRESSION, encoder=dataclasses.replace(tiny_models.ENCODER, stem_width=3), slots=10
)
ATOL = 1e-6


@pytest.fixture(scope="module")
def model():
    variables = jax.device_get(tiny_models.random_variables(CONFIG, seed=1))
    return ensembles.Model("one", variables, ModelInfo(CONFIG, label="rna"))


@pytest.fixture(scope="module")
def genes():
    """Genes of 1 to 10 sequences that share elements, some with unknown bases."""
    rng = np.random.default_rng(0)
    pool = [
        tiny_inputs.random_codes(rng, int(n), 0.1 * (i % 3 == 0))
        for i, n in enumerate(rng.integers(1, 65, 25))
    ]
    counts = rng.integers(0, 10, 30)
    return [
        Sequences([tiny_inputs.random_codes(rng, 64, 0.0)] + [pool[e] for e in rng.choice(25, n)])
        for n in counts
    ]


def dense_embeddings(codes):
    bases, valid = np.zeros((len(codes), 64, 4), np.float32), np.zeros((len(codes), 64), bool)
    for row, own in enumerate(codes):
        inside = slice(32 - len(own) // 2, 32 - len(own) // 2 + len(own))
        bases[row, inside] = sequence.one_hot(own)
        valid[row, inside] = True
    return bases, valid


def test_each_sequence_stands_once_and_every_slot_finds_its_own(genes):
    own = distinct.distinct(genes)
    assert len({codes.tobytes() for codes in own.codes}) == len(own.codes)
    assert len(own.codes) < sum(len(gene.codes) for gene in genes)
    for gene, slots in zip(genes, own.of_slot, strict=True):
        for codes, slot in zip(gene.codes, slots, strict=True):
            np.testing.assert_array_equal(own.codes[slot], codes)
    some = own.of_genes(np.array([3, 5]))
    assert len(own.of_genes(np.empty(0, np.int64))) == 0
    assert set(some) == {*own.of_slot[3], *own.of_slot[5]} and (np.diff(some) > 0).all()


@pytest.mark.parametrize("kmer_table", ["off", "on", "small"])
def test_embeddings_equal_the_dense_encoder(model, genes, kmer_table):
    codes = distinct.distinct(genes).codes
    assert any((own == 0).any() for own in codes)
    table = kmer_tables.choose(model, 0, kmer_table)
    got = distinct.embed(model, codes, table=table, positions=600)
    encode = jax.jit(functional.encode, static_argnums=0)
    expected = encode(CONFIG, model.variables, *map(jnp.asarray, dense_embeddings(codes)))
    np.testing.assert_allclose(got, expected, rtol=0, atol=ATOL)
    some = np.array([7, 2, 11])
    few = distinct.embed(model, codes, table=table, positions=600, chosen=some)
    np.testing.assert_allclose(few[some], expected[some], rtol=0, atol=ATOL)
    assert not np.delete(few, some, axis=0).any()


def test_genes_of_any_number_of_slots_get_the_numbers_of_the_definition(model, genes):
    rng = np.random.default_rng(1)
    embeddings = rng.normal(size=(40, CONFIG.embedding)).astype(np.float32)
    counts = np.array([1, 10, 8, 9, 3, 2, 10, 1, 5])
    of_slot = [rng.integers(0, 40, count) for count in counts]
    links = [rng.normal(size=(count, 2)).astype(np.float32) for count in counts]
    features = rng.normal(size=(9, 3)).astype(np.float32)
    chosen = np.array([0, 1, 2, 3, 5, 6, 7, 8])
    found = {}
    for answers in distinct.interact(
        model, embeddings, of_slot, links, features, chosen, at_once=3
    ):
        for gene, *values in zip(*answers, strict=True):
            found[int(gene)] = values
    assert sorted(found) == list(chosen)
    mask, x, link = np.zeros((9, 10), bool), np.zeros((9, 10, 4)), np.zeros((9, 10, 2))
    for gene, count in enumerate(counts):
        mask[gene, :count] = True
        x[gene, :count], link[gene, :count] = embeddings[of_slot[gene]], links[gene]
    arrays = [jnp.asarray(a, jnp.float32) for a in (x, link, features)]
    expected, attention = jax.jit(functional.interact, static_argnums=0)(
        CONFIG, model.variables, arrays[0], jnp.asarray(mask), *arrays[1:]
    )
    for gene, (prediction, weights) in found.items():
        np.testing.assert_allclose(prediction, expected[gene], rtol=0, atol=ATOL)
        mean = np.asarray(attention[gene]).mean(axis=0)
        assert len(weights) >= counts[gene] and not mean[len(weights) :].any()
        np.testing.assert_allclose(weights, mean[: len(weights)], rtol=0, atol=ATOL)
