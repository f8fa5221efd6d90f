"""What answers for a model's first block is chosen by what there is to compute, and by memory."""

import dataclasses

import jax
import pytest
import tiny_models

from epinformer_jax.analysis import ensembles, kmer_tables
from epinformer_jax.model import functional, kmers
from epinformer_jax.model.architecture import ExpressionConfig
from epinformer_jax.train.checkpoint import ModelInfo

CONFIG = dataclasses.replace(
    tiny_models.EXPRESSION, encoder=dataclasses.replace(tiny_models.ENCODER, stem_width=3)
)


@pytest.fixture(scope="module")
def model():
    variables = jax.device_get(tiny_models.random_variables(CONFIG, seed=1))
    return ensembles.Model("one", variables, ModelInfo(CONFIG, label="rna"))


def test_a_table_is_made_where_it_pays_and_memory_allows(model, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(kmer_tables, "_free_bytes", lambda: 1e12)
    many = 10**6  # the tiny tables cost far less than the published ones
    assert kmer_tables.choose(model, 0, "auto") is None
    assert kmer_tables.choose(model, many, "off") is None
    table = kmer_tables.choose(model, many, "auto")
    assert table.values.shape == (4**6, 3 * 4) and "k-mer table of 4096 rows" in caplog.text
    monkeypatch.setattr(kmer_tables, "_free_bytes", lambda: 1000.0)
    assert isinstance(kmer_tables.choose(model, many, "auto"), kmers.Taps)
    assert "no k-mer table" in caplog.text
    monkeypatch.setattr(kmer_tables.jax, "default_backend", lambda: "gpu")
    assert kmer_tables.choose(model, many, "auto") is None  # its convolutions are faster
    assert kmer_tables.choose(model, many, "on") is not None
    with pytest.raises(ValueError, match="known are auto, on, small, off"):
        kmer_tables.choose(model, many, "maybe")


def test_taps_are_made_once_for_a_model(model):
    first = kmer_tables.choose(model, 1, "small")
    assert kmer_tables.choose(model, 1, "small") is first
    other = model._replace(variables=jax.tree.map(lambda x: x + 1, model.variables))
    assert kmer_tables.choose(other, 1, "small") is not first


def test_a_stem_of_one_base_has_no_table():
    config = ExpressionConfig(encoder=dataclasses.replace(CONFIG.encoder, stem_width=1))
    one = ensembles.Model("one", functional.Variables({}, {}), ModelInfo(config, label="rna"))
    assert kmer_tables.choose(one, 10**12, "auto") is None
    with pytest.raises(ValueError, match="need a stem of 2 bases"):
        kmer_tables.choose(one, 1, "on")


def test_an_encoder_of_one_block_has_taps_but_no_table():
    encoder = dataclasses.replace(CONFIG.encoder, channels=(3,))
    config = dataclasses.replace(CONFIG, encoder=encoder)
    variables = jax.device_get(tiny_models.random_variables(config, seed=1))
    one = ensembles.Model("one", variables, ModelInfo(config, label="rna"))
    assert isinstance(kmer_tables.choose(one, 10**12, "auto"), kmers.Taps)
    with pytest.raises(ValueError, match="2 blocks or more"):
        kmer_tables.choose(one, 1, "on")
