"""The scale that published models were trained on, as converted models state it."""

import numpy as np
import pytest
from benchmarks import scalar_baselines_k562

from epinformer_jax import convert
from epinformer_jax.analysis import scales


def test_the_median_of_few_values_is_rarely_further_off_than_chance_allows():
    rng = np.random.default_rng(0)
    for count in (10, 40, 160):
        off = np.abs(np.median(rng.normal(size=(4000, count)), axis=1))
        share = np.mean(off > np.log(scales._chance(count)))
        assert 0.02 < share < 0.08, "two standard errors: about 5 %"


def test_stated_quantiles_are_those_of_the_real_k562_tables(shared_data):
    genes, _ = scalar_baselines_k562.gene_examples(shared_data / "k562")
    activity = scalar_baselines_k562.LINK_SIGNALS.index("activity")
    promoter = scalar_baselines_k562.GENE_SIGNALS.index("promoter_activity")
    measured = {
        "activity": np.concatenate([gene.link_signals[:, activity] for gene in genes]),
        "promoter_activity": np.array([gene.gene_signals[promoter] for gene in genes]),
    }
    stated = convert.FEATURE_QUANTILES["K562"]
    assert set(stated) == set(measured)
    for name, values in measured.items():
        expected = np.quantile(values, scales.QUANTILES)
        assert stated[name] == pytest.approx(expected, abs=1e-4), name
