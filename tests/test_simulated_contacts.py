"""Contacts of a simulated genome: balanced, falling with distance, alike at two resolutions."""

import cooler
import hictkpy
import numpy as np
import pytest
from scipy import sparse

from data_prep.simulate import simulate
from data_prep.simulation.contacts import BIN_BP


@pytest.fixture(scope="module")
def wider(tmp_path_factory):
    """A simulated genome whose chromosomes are long enough for two resolutions of contacts."""
    sizes = {
        "genes_per_chromosome": 20,
        "gene_spacing_bp": 25_000,
        "remote_elements_per_chromosome": 0,
        "background_reads_per_kb": 1.0,
    }
    return simulate(tmp_path_factory.mktemp("simulated") / "wider", seed=0, **sizes)


def test_contacts_are_balanced_and_fall_with_distance(wider):
    source = cooler.Cooler(f"{wider}/beta/contacts.mcool::resolutions/{BIN_BP}")
    assert source.info["creation-date"] == "2000-01-01T00:00:00"
    matrix = source.matrix(balance=True).fetch("chr1")
    assert np.isnan(matrix).any()  # unknown bases get no weight
    np.fill_diagonal(matrix, 0.0)
    sums = np.nansum(matrix, axis=1)
    np.testing.assert_allclose(sums[sums > 0], 1.0, rtol=1e-3)  # the balancing tolerance
    near, far = (np.nanmedian(np.diagonal(matrix, step)) for step in (1, 10))
    assert near / far == pytest.approx(10**1.024, rel=0.15)  # Poisson noise of some 100 bins


def test_coarser_contacts_sum_the_finer_ones(wider):
    path = str(wider / "alpha" / "contacts.mcool")
    assert set(cooler.fileops.list_coolers(path)) == {"/resolutions/5000", "/resolutions/10000"}
    fine, coarse = (cooler.Cooler(f"{path}::resolutions/{size}") for size in (5_000, 10_000))
    small = fine.matrix(balance=False).fetch("chr2").astype(np.int64)
    size = -(-len(small) // 2)
    join = sparse.csr_matrix(
        (np.ones(len(small), np.int64), (np.arange(len(small)) // 2, np.arange(len(small))))
    ).toarray()
    # Both triangles are in the dense matrix: a pixel between two bins that become one counts once.
    expected = join @ np.triu(small) @ join.T
    assert expected.shape == (size, size)
    large = coarse.matrix(balance=False).fetch("chr2")
    np.testing.assert_array_equal(np.triu(large), expected)


def test_contacts_are_readable_by_hictk(wider):
    path = wider / "alpha" / "contacts.mcool"
    matrix = cooler.Cooler(f"{path}::resolutions/5000").matrix(balance=False).fetch("chr5")
    read = hictkpy.File(path, 5_000).fetch("chr5").to_numpy()
    np.testing.assert_array_equal(read, matrix)
