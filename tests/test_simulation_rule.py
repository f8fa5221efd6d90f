"""The simulator's rule without files: a genome of the usual size, its parts, motifs and pairs."""

import numpy as np
import pytest

from data_prep.simulation import motifs
from data_prep.simulation.layout import lay_out
from data_prep.simulation.rule import pairs_within, plant_truth
from data_prep.simulation.sequence import draw_bases
from data_prep.simulation.settings import CELLS, Rule, Settings
from epinformer_jax.data import tables

COMPLEMENT = str.maketrans("ACGT", "TGCA")


def test_true_activity_is_site_weights_and_chromatin_alike_for_all_classes():
    settings, rule = Settings(genes_per_chromosome=40), Rule()
    layout = lay_out(settings, rule)
    mrna = {name: np.zeros(len(layout.genes.tss)) for name in tables.MRNA_FEATURES}
    truth = plant_truth(settings, rule, layout, mrna, "alpha")
    one_summit = np.bincount(layout.elements.summit_element) == 1
    open_ = truth.element_activity > 0
    np.testing.assert_array_equal(open_, layout.elements.active[0])
    activity = np.log(truth.element_activity[open_ & one_summit])
    kind = layout.elements.kind[open_ & one_summit]
    means = np.array([activity[kind == index].mean() for index in range(4)])
    # Standard errors are about 0.09; the classes may differ by chance only.
    assert np.ptp(means) < 0.45
    weights = np.array([rule.weights_of("alpha")[kind] for kind in motifs.KINDS])
    here = layout.site_summit >= 0
    sites = np.bincount(
        layout.site_summit[here],
        (weights[layout.sites.kind] * layout.sites.strength)[here],
        len(layout.elements.summit),
    )
    rest = np.log(truth.summit_activity[truth.summit_activity > 0])
    rest -= sites[truth.summit_activity > 0] + rule.element_log_base
    expected = np.hypot(rule.element_chromatin_sd_shared, rule.element_chromatin_sd_cell)
    assert rest.std() == pytest.approx(expected, rel=0.15)


# A genome of the usual size.


@pytest.fixture(scope="module")
def usual():
    """Layout and truth of both cell types at the default size."""
    settings, rule = Settings(), Rule()
    layout = lay_out(settings, rule)
    rng = np.random.default_rng(0)
    mrna = {name: rng.standard_normal(len(layout.genes.tss)) for name in tables.MRNA_FEATURES}
    mrna["ORFEXONDENSITY"] = 6 + 3 * mrna["ORFEXONDENSITY"]
    mrna["UTR5GC"] = 0.6 + 0.1 * mrna["UTR5GC"]
    return layout, {cell: plant_truth(settings, rule, layout, mrna, cell) for cell in CELLS}


def test_usual_size_has_promised_counts_and_genes_without_elements(usual):
    layout, truth = usual
    genes = len(layout.genes.tss)
    assert 4_500 <= genes <= 5_500
    counts = np.bincount(layout.genes.chrom)
    assert 350 <= counts.min() <= counts.max() <= 490
    assert 50e6 < layout.length.sum() <= 70e6
    length = layout.elements.end - layout.elements.start
    assert length.min() == 200
    assert 400 < length.max() <= 450
    for planted in truth.values():
        count = np.bincount(planted.pairs.gene, minlength=genes)
        assert 4 <= count.mean() <= 6.5
        assert 60 < count.max() <= 90
        assert 0.02 * genes < (count == 0).sum() < 0.25 * genes
        assert (planted.rpkm == 0).mean() == pytest.approx(0.17, abs=0.002)
        assert np.abs(planted.pairs.distance).min() > 1_000


def test_usual_size_has_a_noise_ceiling_between_085_and_090(usual):
    for planted in usual[1].values():
        label = np.log10(planted.rpkm + 0.1)
        assert 0.85 < np.corrcoef(planted.planted, label)[0, 1] < 0.90


def test_cell_types_share_the_map_but_not_the_open_elements(usual):
    layout, truth = usual
    alpha, beta = layout.elements.active
    assert alpha.any() and beta.any() and (alpha | beta).all() and (alpha != beta).mean() > 0.2
    planted = [truth[cell].planted for cell in CELLS]
    assert 0.5 < np.corrcoef(*planted)[0, 1] < 0.97


# Parts.


def test_pairs_within_equals_the_double_loop():
    settings = Settings(genes_per_chromosome=6)
    layout = lay_out(settings, Rule())
    chosen = np.flatnonzero(layout.elements.active[1])
    gene, element = pairs_within(layout, chosen, 40_000)
    middle = (layout.elements.start + layout.elements.end) // 2
    expected = [
        (g, e)
        for g in range(len(layout.genes.tss))
        for e in chosen.tolist()
        if layout.genes.chrom[g] == layout.elements.chrom[e]
        and abs(middle[e] - layout.genes.tss[g]) <= 40_000
    ]
    assert list(zip(gene.tolist(), element.tolist(), strict=True)) == expected


def test_motif_cores_are_unlike_each_other_on_either_strand():
    cores = [motif.core for motif in motifs.MOTIFS]
    both = cores + [core[::-1].translate(COMPLEMENT) for core in cores]
    for first in range(len(both)):
        for second in range(first):
            assert sum(a != b for a, b in zip(both[first], both[second], strict=True)) >= 4


def test_chance_cores_are_broken_and_planted_sites_stay():
    settings, rule = Settings(genes_per_chromosome=2), Rule()
    layout = lay_out(settings, rule)
    for index, bases in enumerate(draw_bases(layout, seed=0)):
        sites = motifs.Sites(*(values[layout.sites.chrom == index] for values in layout.sites))
        starts, labels = motifs.find_cores(bases)
        order = np.argsort(sites.start)
        np.testing.assert_array_equal(starts - 1, sites.start[order])
        np.testing.assert_array_equal(labels, (2 * sites.kind + sites.minus)[order])
