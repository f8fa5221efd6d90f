"""Contacts: .hic and cooler files, balancing, diagonal, scaling, fallback to the power law."""

import json

import cooler
import hictkpy
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from prep_commands import run_command

from data_prep import contact
from data_prep.contact import ContactSource, contact_columns, open_contacts
from data_prep.contact_map import ContactCollector, ContactMap, pixel_keys, repair_diagonal
from data_prep.contact_matrices import CoolFile, HicFile
from data_prep.contact_text import TextContacts, contact_chunks
from data_prep.power_law import OBSERVED, REFERENCE, PowerLaw

FAR = 10**9


def dense(contacts, n_bins):
    """The symmetric matrix of a ContactMap, undivided."""
    matrix = np.zeros((n_bins, n_bins))
    bins1, bins2, values = contacts.pixels()
    matrix[bins1, bins2] = matrix[bins2, bins1] = values * contacts.mean_row_sum
    return matrix


def expected(matrix):
    """A matrix with NaN as 0 and the diagonal repaired, and its mean row sum before the repair."""
    clean = np.nan_to_num(matrix)
    sums = clean.sum(axis=0)
    above = np.diagonal(clean, 1)
    repaired = clean.copy()
    padded = np.concatenate([[0], above, [0]])
    np.fill_diagonal(repaired, np.maximum(padded[1:], padded[:-1]))
    return repaired, sums[sums > 0].mean()


def hic_path(shared_data):
    return shared_data / "readers" / "straw_test.hic"


def test_the_real_hic_file_is_the_one_described(shared_data):
    file = hictkpy.File(str(hic_path(shared_data)), 2_500_000)
    pixels = file.fetch().to_df()
    assert (len(pixels), pixels["count"].sum()) == (386_625, 2_353_230)
    reader = HicFile(hic_path(shared_data), resolution_bp=2_500_000, normalisations=["NONE"])
    assert reader.contigs()["1"] == 249_250_621
    raw = reader.read("1", chrom="chr1", max_distance_bp=FAR)
    matrix = dense(raw, 100)
    # The first 2 x 2 is 872 122 / 122 1088; the diagonal is the larger neighbour.
    first = file.fetch("1").to_numpy()
    assert first[:2, :2].tolist() == [[872, 122], [122, 1088]]
    assert matrix[0, 1] == pytest.approx(122) and matrix[0, 0] == pytest.approx(122)
    wanted, mean = expected(first.astype(float))
    np.testing.assert_allclose(matrix, wanted, rtol=1e-12)
    assert raw.mean_row_sum == pytest.approx(mean, rel=1e-12)


@pytest.mark.parametrize("name", ["SCALE", "KR", "VC"])
def test_hic_weights_divide(shared_data, name):
    reader = HicFile(hic_path(shared_data), resolution_bp=2_500_000, normalisations=[name])
    found = reader.read("Y", chrom="chrY", max_distance_bp=FAR)
    file = hictkpy.File(str(hic_path(shared_data)), 2_500_000)
    sizes = [-(-size // 2_500_000) for size in file.chromosomes().values()]
    first = sum(sizes[: list(file.chromosomes()).index("Y")])
    weights = np.asarray(file.weights(name))[first : first + 24]
    raw = file.fetch("Y").to_numpy().astype(float)
    with np.errstate(invalid="ignore"):
        wanted, mean = expected(raw / np.outer(weights, weights))
    assert found.normalisation == name
    # .hic stores balanced counts as float32.
    np.testing.assert_allclose(dense(found, 24), wanted, rtol=1e-5)
    assert found.mean_row_sum == pytest.approx(mean, rel=1e-5)


def test_the_first_normalisation_that_is_there_is_taken(shared_data):
    path = hic_path(shared_data)
    both = HicFile(path, resolution_bp=2_500_000).read("2", chrom="chr2", max_distance_bp=FAR)
    other = HicFile(path, resolution_bp=2_500_000, normalisations=["ICE", "VC", "NONE"])
    assert both.normalisation == "SCALE"
    assert other.read("2", chrom="chr2", max_distance_bp=FAR).normalisation == "VC"


def test_masked_bins_of_a_hic_file_are_counted(shared_data):
    reader = HicFile(hic_path(shared_data), resolution_bp=2_500_000, normalisations=["KR"])
    source = ContactSource(file=reader)
    source.load("Y", max_distance_bp=FAR)
    assert source.missing_pixels == 2
    assert any("2 pixels in masked bins" in line for line in source.describe())


def test_blocks_of_rows_give_each_pixel_once(shared_data, monkeypatch):
    whole = HicFile(hic_path(shared_data), resolution_bp=2_500_000)
    one = whole.read("3", chrom="chr3", max_distance_bp=FAR)
    monkeypatch.setattr("data_prep.contact_matrices._BLOCK_BINS", 7)
    monkeypatch.setattr("data_prep.contact_matrices._PIXELS", 13)
    two = whole.read("3", chrom="chr3", max_distance_bp=FAR)
    np.testing.assert_array_equal(one.keys, two.keys)
    np.testing.assert_allclose(one.values, two.values, rtol=1e-12)


def test_only_pixels_within_the_distance_are_kept_but_row_sums_see_all(shared_data):
    reader = HicFile(hic_path(shared_data), resolution_bp=2_500_000)
    near = reader.read("1", chrom="chr1", max_distance_bp=10_000_000)
    far = reader.read("1", chrom="chr1", max_distance_bp=FAR)
    assert near.mean_row_sum == far.mean_row_sum
    bins1, bins2, _ = near.pixels()
    assert (bins2 - bins1).max() == 5
    at = np.arange(0, 100_000_000, 2_500_000)
    np.testing.assert_array_equal(near.lookup(at, at + 7_500_000), far.lookup(at, at + 7_500_000))


def test_the_old_real_cool_file_reads(shared_data):
    path = shared_data / "readers" / "cooler_hg19.GM12878-MboI.matrix.2000kb.cool"
    source = cooler.Cooler(str(path))
    pixels = source.pixels()[:]
    assert (len(pixels), pixels["count"].sum()) == (38_156, 100_000)
    found = CoolFile(path, resolution_bp=2_000_000).read("chr5", chrom="chr5", max_distance_bp=FAR)
    raw = source.matrix(balance=False).fetch("chr5").astype(float)
    wanted, mean = expected(raw)
    assert found.normalisation == "NONE"
    np.testing.assert_allclose(dense(found, len(raw)), wanted, rtol=1e-12)
    assert found.mean_row_sum == pytest.approx(mean)


def test_a_real_mcool_gives_the_resolution_asked_for(shared_data):
    path = shared_data / "readers" / "cooler_toy.symm.upper.2.mcool"
    for resolution in (2, 16):
        found = CoolFile(path, resolution_bp=resolution)
        raw = cooler.Cooler(f"{path}::/resolutions/{resolution}").matrix(balance=False)
        matrix = raw.fetch("chr1").astype(float)
        ours = found.read("chr1", chrom="chr1", max_distance_bp=FAR)
        np.testing.assert_allclose(dense(ours, len(matrix)), expected(matrix)[0], rtol=1e-12)
    with pytest.raises(ValueError, match="no resolution of 5,000 bp; choose .* from 2, 4, 8, 16"):
        CoolFile(path, resolution_bp=5000)


def write_cool(path, columns):
    """A small matrix on two chromosomes with weight columns; returns the raw matrix of chr1."""
    bins = pd.DataFrame(
        {
            "chrom": ["chr1"] * 6 + ["chr2"] * 2,
            "start": [*range(0, 6000, 1000), 0, 1000],
            "end": [*range(1000, 7000, 1000), 1000, 2000],
        }
    )
    for name, values in columns.items():
        bins[name] = values
    rng = np.random.default_rng(0)
    matrix = np.triu(rng.integers(1, 20, (8, 8)))
    rows, cols = np.nonzero(matrix)
    pixels = pd.DataFrame({"bin1_id": rows, "bin2_id": cols, "count": matrix[rows, cols]})
    cooler.create_cooler(str(path), bins, pixels)
    return (matrix + np.triu(matrix, 1).T)[:6, :6].astype(float)


def test_cooler_weight_multiplies_and_hic_weights_in_a_cooler_divide(tmp_path):
    weight = np.array([0.5, 1.0, 2.0, 0.25, np.nan, 1.5, 1.0, 1.0])
    raw = write_cool(tmp_path / "a.cool", {"weight": weight, "KR": weight})
    factors = np.outer(weight[:6], weight[:6])
    for name, wanted in (("weight", raw * factors), ("KR", raw / factors)):
        file = CoolFile(tmp_path / "a.cool", resolution_bp=1000, normalisations=[name])
        found = file.read("chr1", chrom="chr1", max_distance_bp=FAR)
        matrix, mean = expected(wanted)
        np.testing.assert_allclose(dense(found, 6), matrix, rtol=1e-12)
        assert found.mean_row_sum == pytest.approx(mean)
        assert found.n_missing == 6


def test_weights_that_a_chromosome_lacks_are_passed_over_and_named(tmp_path):
    weight = np.array([1.0] * 6 + [np.nan] * 2)
    write_cool(tmp_path / "a.cool", {"weight": weight})
    source = ContactSource(file=CoolFile(tmp_path / "a.cool", resolution_bp=1000))
    for chrom in ("chr1", "chr2", "chr3"):
        source.load(chrom, max_distance_bp=FAR)
    assert source.used == {"chr1": "weight", "chr2": "NONE", "chr3": "power law"}
    text = "\n".join(source.describe())
    assert "weight (multiplied): chr1" in text
    assert "NOT BALANCED: no balancing weights in the file: chr2" in text
    assert "power law instead: chr3" in text


@hypothesis.given(st.integers(0, 10**6), st.sampled_from([100.0, 50.0]))
def test_the_diagonal_becomes_its_larger_neighbour(seed, percent):
    rng = np.random.default_rng(seed)
    matrix = np.triu(rng.integers(0, 4, (7, 7))).astype(float)
    rows, cols = np.nonzero(matrix)
    keys = pixel_keys(rows, cols)
    order = np.argsort(keys)
    keys, values = repair_diagonal(keys[order], matrix[rows, cols][order], percent=percent)
    above = np.concatenate([[0], np.diagonal(matrix, 1), [0]])
    wanted = np.triu(matrix, 1) + np.diag(np.maximum(above[1:], above[:-1]) * percent / 100)
    rebuilt = np.zeros((7, 7))
    rebuilt[keys >> 32, keys & 0xFFFFFFFF] = values
    np.testing.assert_allclose(rebuilt, wanted)
    assert (np.diff(keys) > 0).all()


def test_a_matrix_whose_rows_sum_to_one_is_left_as_it_is():
    collector = ContactCollector(resolution_bp=10, max_distance_bp=100)
    bins = np.arange(3)
    collector.add(bins, bins, np.full(3, 0.5))
    collector.add(np.array([0]), np.array([1]), np.array([0.5]))
    found = collector.finish("chr1", normalisation="KR", divide_by_row_sum=True)
    assert found.mean_row_sum == pytest.approx(5 / 6)
    even = ContactCollector(resolution_bp=10, max_distance_bp=100)
    even.add(np.array([0]), np.array([1]), np.array([1.0005]))
    assert even.finish("chr1", normalisation="KR", divide_by_row_sum=True).mean_row_sum == 1.0


def hic_pairs(shared_data):
    return pd.read_csv(shared_data / "abc_chr22" / "hic_pairs_test.tsv.gz", sep="\t")


def raw_contacts(shared_data):
    return shared_data / "abc_chr22" / "hg38_chr22.RAWobserved.gz"


def test_raw_contacts_of_chr22_read_whole_and_answer_every_published_pair(shared_data):
    chunks = list(contact_chunks(raw_contacts(shared_data)))
    assert sum(map(len, chunks)) == 1_063_677
    assert sum(chunk["contact"].sum() for chunk in chunks) == 6_499_134
    source = open_contacts(f"chr22={raw_contacts(shared_data)}", resolution_bp=5000)
    found = source.read("chr22", chrom="chr22", max_distance_bp=5_000_000)
    pairs = hic_pairs(shared_data)
    contacts = found.lookup(pairs["enh_midpoint"].to_numpy(), pairs["TargetGeneTSS"].to_numpy())
    # A pair within a bin may have no neighbours; every other published pair was seen.
    assert (contacts[pairs["bin1"] != pairs["bin2"]] > 0).all()
    assert len(pairs) == 5000
    rank = pd.Series(contacts).corr(pairs["hic_contact"], method="spearman")
    assert rank == pytest.approx(0.52, abs=0.01)


def test_the_published_table_of_pairs_comes_back_by_bins(shared_data, tmp_path):
    pairs = hic_pairs(shared_data)
    off = pairs[pairs["bin1"] != pairs["bin2"]]
    pixels = off.drop_duplicates(["bin1", "bin2"])
    table = pd.DataFrame(
        {"x1": pixels["bin1"] * 5000, "x2": pixels["bin2"] * 5000, "contact": pixels["hic_contact"]}
    )
    folder = tmp_path / "avg" / "chr22"
    folder.mkdir(parents=True)
    table.to_csv(folder / "chr22.bed.gz", sep="\t", header=False, index=False)
    source = ContactSource(file=open_contacts(str(tmp_path / "avg"), resolution_bp=5000))
    found = source.load("chr22", max_distance_bp=5_000_000)
    columns = contact_columns(
        source,
        found,
        middle_bp=off["enh_midpoint"].to_numpy(),
        tss=off["TargetGeneTSS"].to_numpy(),
    )
    np.testing.assert_allclose(columns["hic_contact"], off["hic_contact"], rtol=1e-12)
    np.testing.assert_allclose(columns["powerlaw_contact"], off["powerlaw_contact"], rtol=1e-12)
    np.testing.assert_allclose(
        columns["powerlaw_contact_reference"], off["powerlaw_contact_reference"], rtol=1e-12
    )
    np.testing.assert_array_equal(columns["contact"], columns["hic_contact"])


def test_scaling_and_pseudocount_are_those_of_the_published_table(shared_data):
    table = pd.read_csv(
        shared_data
        / "abc_chr22"
        / "K562chr22_EnhancerPredictionsFull_threshold0.027_self_promoter.tsv.gz",
        sep="\t",
    )

    class Published(ContactMap):
        """Answers with the published column, whatever is asked."""

        def lookup(self, first_bp, second_bp):
            return table["hic_contact"].to_numpy()

    middle = (table["start"] + table["end"]) / 2
    ours = contact_columns(
        ContactSource(),
        Published("chr22", 5000, np.zeros(0, np.int64), np.zeros(0), "SCALE"),
        middle_bp=middle.to_numpy(),
        tss=table["TargetGeneTSS"].to_numpy(),
    )
    # hic_contact itself is rounded to six decimals and is then scaled by up to five.
    for name in ("hic_contact_pl_scaled", "hic_pseudocount", "hic_contact_pl_scaled_adj"):
        np.testing.assert_allclose(ours[name], table[name], atol=5e-6, err_msg=name)
    np.testing.assert_allclose(
        ours["abc_contact"] * table["activity_base"], table["ABC.Score.Numerator"], atol=2e-4
    )


def test_the_power_law_is_flat_below_5_kb_and_has_the_published_constants():
    distances = np.array([0.0, -4999.0, 5000.0, 100_000.0])
    found = OBSERVED.contact(distances)
    assert found[0] == found[1] == found[2]
    assert found[3] == pytest.approx(
        np.exp(5.9594510043736655 - 1.024238616787792 * np.log(100_001))
    )
    assert REFERENCE.scale == pytest.approx(5.3181)
    assert REFERENCE.contact(distances)[3] > found[3]


def test_the_pseudocount_stops_growing_at_its_distance():
    empty = ContactMap("chr1", 5000, np.zeros(0, np.int64), np.zeros(0), "SCALE")
    source = ContactSource(pseudocount_distance_bp=50_000)
    middle = np.array([0.0, 50_000.0, 500_000.0])
    found = contact_columns(source, empty, middle_bp=middle, tss=np.zeros(3))
    limit = OBSERVED.contact(np.array([50_000]))[0]
    assert found["hic_pseudocount"].tolist()[:2] == [limit, limit]
    assert found["hic_pseudocount"].iloc[2] == OBSERVED.contact(np.array([500_000.0]))[0]
    assert found["contact"].tolist() == [0, 0, 0]


def test_without_contacts_the_power_law_stands_in_and_nothing_is_called_hic():
    found = contact_columns(
        ContactSource(observed=PowerLaw(1.0, 6.0)),
        None,
        middle_bp=np.array([20_000]),
        tss=np.array([0]),
    )
    assert found["hic_contact"].isna().all()
    assert found["contact"][0] == found["abc_contact"][0] == pytest.approx(np.exp(6) / 20_001)


def test_a_hic_file_written_out_gives_the_same_lookups(shared_data, tmp_path):
    sizes = tmp_path / "sizes.tsv"
    sizes.write_text("chr1\t249250621\nchrY\t59373566\n")
    options = ["--contact", hic_path(shared_data), "--contact-resolution", "2500000"]
    run_command(
        contact,
        *options,
        "--contigs",
        sizes,
        "--out",
        tmp_path / "out",
        "--max-distance",
        "20000000",
    )
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert "SCALE (divided): chr1, chrY" in "\n".join(manifest["normalisation"])
    straight = HicFile(hic_path(shared_data), resolution_bp=2_500_000)
    one = straight.read("1", chrom="chr1", max_distance_bp=20_000_000)
    again = TextContacts(tmp_path / "out", resolution_bp=2_500_000)
    two = again.read("chr1", chrom="chr1", max_distance_bp=20_000_000)
    at = np.random.default_rng(0).integers(0, 249_000_000, (2, 500))
    np.testing.assert_allclose(one.lookup(*at), two.lookup(*at), rtol=1e-12)


def test_contigs_of_a_contact_file_match_by_name_and_length(shared_data):
    reader = HicFile(hic_path(shared_data), resolution_bp=2_500_000)
    source = ContactSource(file=reader, contigs={"chr1": 249_250_621})
    assert source.load("chr1", max_distance_bp=FAR) is not None
    other = ContactSource(file=reader, contigs={"chr1": 248_956_422})
    with pytest.raises(ValueError, match="contig 1 has 249,250,621 bp.*another assembly"):
        other.load("chr1", max_distance_bp=FAR)


def test_contacts_asked_for_without_balancing_are_not_called_a_fault(shared_data):
    place = shared_data / "readers" / "straw_test.hic"
    said = {}
    for name, order in (("asked", ["NONE"]), ("fallen back", ["absent", "NONE"])):
        file = contact.open_contacts(str(place), resolution_bp=2_500_000, normalisations=order)
        source = ContactSource(file=file)
        source.load("1", max_distance_bp=10**7)
        said[name] = source.describe()[1]
    assert said["asked"] == "contact not balanced, as asked (NONE): 1"
    assert said["fallen back"] == "contact NOT BALANCED: no balancing weights in the file: 1"
