"""Baselines: what the scalar table holds, that training alone decides, that each can learn."""

import dataclasses

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge
from threadpoolctl import threadpool_info

from epinformer_jax.data import sequence
from epinformer_jax.data.records import GeneExample
from epinformer_jax.train import baselines

LINKS = ("activity", "contact", "dnase", "h3k27ac")
GENES = ("UTR5LEN_log10zscore", "ORFEXONDENSITY", "promoter_activity", "promoter_dnase")


def gene(name="G1", distance_bp=(), links=(), genes=(0.5, 6.0, 2.0, 3.0), label=0.0):
    """A gene with the given elements; its sequence is empty, for no baseline reads it."""
    count = len(distance_bp)
    distance = np.array(distance_bp, np.int64)
    return GeneExample(
        gene_id=name,
        gene_name=name,
        chrom="chr1",
        split="chr1",
        tss=1_000_000,
        strand="+",
        promoter=np.zeros(4, np.uint8),
        element_start=1_000_000 + distance - 10,
        element_end=1_000_000 + distance + 10,
        element_length=np.zeros(count, np.int32),
        element_sequence=np.zeros(0, np.uint8),
        distance_bp=distance,
        link_signals=np.array(links, np.float32).reshape(count, len(LINKS)),
        gene_signals=np.array(genes, np.float32),
        labels=np.array([label], np.float32),
    )


def random_genes(n=240, seed=0):
    """Genes whose label follows promoter activity (offset 0.3), elements and one mRNA feature."""
    rng = np.random.default_rng(seed)
    examples = []
    for number in range(n):
        count = rng.integers(0, 8)
        links = rng.gamma(1.0, 2.0, (count, 4)) * (1, 0.01, 1, 1)
        distance = rng.integers(1001, 100_000, count) * rng.choice([-1, 1], count)
        promoter = rng.gamma(0.5, 4.0)
        genes = (rng.normal(), rng.normal(), promoter, promoter * rng.gamma(5, 0.2))
        label = np.log(0.3 + promoter) + 0.3 * np.log1p(links[:, 0].sum()) + 0.3 * genes[0]
        label += 0.2 * rng.normal()
        examples.append(gene(f"G{number}", distance, links, genes, label))
    labels = np.array([example.labels[0] for example in examples], np.float64)
    return baselines.scalar_table(examples, LINKS, GENES), labels


def test_scalar_table_holds_the_stated_numbers():
    links = [[4.0, 0.02, 1.0, 16.0], [1.0, 0.01, 0.5, 2.0]]
    table = baselines.scalar_table(
        [gene("far", (-20_000, 60_000), links), gene("alone")], LINKS, GENES
    )
    assert list(table.index) == ["far", "alone"]
    assert table.index.name == "gene_id"
    far, alone = table.loc["far"], table.loc["alone"]
    expected = {
        "promoter_activity": 2.0,
        "log_promoter_activity": np.log(3.0),
        "log_weak_promoter_activity": np.log(2.05),
        "log_promoter_dnase": np.log(4.0),
        "UTR5LEN_log10zscore": 0.5,
        "ORFEXONDENSITY": 6.0,
        "number_of_elements": 2,
        "elements_within_10_kb": 0,
        "elements_within_25_kb": 1,
        "elements_within_50_kb": 1,
        "elements_within_100_kb": 2,
        "log_nearest_distance_kb": np.log(20.0),
        "log_sum_activity": np.log(1 + 5.0),
        "log_max_activity": np.log(1 + 4.0),
        "log_mean_activity": np.log(1 + 2.5),
        "log_sum_contact": np.log(1e-3 + 0.03),
        "log_max_activity_x_contact": np.log(1e-3 + 0.08),
        "log_sum_activity_per_kb": np.log(1 + 4 / 20 + 1 / 60),
        "log_sum_dnase": np.log(1 + 1.5),
        "log_sum_h3k27ac_per_kb": np.log(1 + 16 / 20 + 2 / 60),
    }
    for name, value in expected.items():
        assert far[name] == pytest.approx(value, rel=1e-6), name
    assert alone["number_of_elements"] == 0
    assert alone["log_sum_activity"] == 0
    assert alone["log_nearest_distance_kb"] == pytest.approx(np.log(1000))
    assert np.isfinite(table.to_numpy()).all()


@hypothesis.given(st.permutations(range(5)), st.integers(0, 100))
def test_the_order_of_elements_and_the_other_genes_do_not_matter(order, seed):
    rng = np.random.default_rng(seed)
    distance, links = rng.integers(-90_000, 90_000, 5), rng.gamma(1.0, 1.0, (5, 4))
    order = list(order)
    one = baselines.scalar_table([gene("a", distance, links)], LINKS, GENES)
    two = baselines.scalar_table(
        [gene("b"), gene("a", distance[order], links[order])], LINKS, GENES
    )
    np.testing.assert_allclose(one.loc["a"], two.loc["a"], rtol=1e-6)


def test_optional_signals_leave_no_column_behind():
    full = [gene("a", (5_000,), [[1, 2, 3, 4]])]
    short = [
        dataclasses.replace(
            full[0], link_signals=full[0].link_signals[:, :2], gene_signals=full[0].gene_signals[:3]
        )
    ]
    table = baselines.scalar_table(short, LINKS[:2], GENES[:3])
    assert not [name for name in table if "dnase" in name or "h3k27ac" in name]


@pytest.mark.parametrize(
    ("links", "genes", "message"),
    [
        (LINKS[:1] + LINKS[2:], GENES, "link_signal_names is .* expected also .'contact'."),
        (
            LINKS,
            GENES[:2] + GENES[3:],
            "gene_signal_names is .* expected also .'promoter_activity'",
        ),
        (LINKS[:3], GENES, "gene a has link signals of shape .1, 4., expected .1, 3."),
        (LINKS, (*GENES, "extra"), "gene a has gene signals of shape .4,., expected .5,."),
    ],
)
def test_names_that_do_not_fit_are_refused(links, genes, message):
    with pytest.raises(ValueError, match=message):
        baselines.scalar_table([gene("a", (5_000,), [[1, 2, 3, 4]])], links, genes)


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_a_signal_that_cannot_be_logged_names_gene_and_signal(bad):
    examples = [gene("fine"), gene("bad", (5_000, 9_000), [[1, 2, 3, 4], [1, 2, bad, 4]])]
    with pytest.raises(ValueError, match="gene bad has dnase"):
        baselines.scalar_table(examples, LINKS, GENES)
    with pytest.raises(ValueError, match="gene bad has promoter_activity"):
        baselines.scalar_table([gene("bad", genes=(0, 0, bad, 1))], LINKS, GENES)


@pytest.fixture(scope="module")
def fitted():
    table, labels = random_genes()
    return table, labels, baselines.fit_predict(table[:160], labels[:160], table[160:])


def test_every_baseline_learns_what_is_planted(fitted):
    _, labels, predicted = fitted
    assert tuple(predicted) == baselines.BASELINES
    assert (predicted["training_mean"] == labels[:160].mean()).all()
    score = {
        name: np.corrcoef(values, labels[160:])[0, 1]
        for name, values in predicted.items()
        if name != "training_mean"
    }
    assert score["promoter_activity"] > 0.85
    assert score["ridge"] > score["promoter_activity"]
    assert min(score["mlp"], score["boosted_trees"]) > 0.85, score


def test_the_same_inputs_give_the_same_numbers(fitted):
    table, labels, predicted = fitted
    again = baselines.fit_predict(table[:160], labels[:160].astype(np.float32), table[160:])
    for name, values in predicted.items():
        assert values.dtype == np.float64
        np.testing.assert_allclose(again[name], values, rtol=0, atol=1e-4, err_msg=name)
    exact = baselines.fit_predict(table[:160], labels[:160], table[160:])
    for name, values in predicted.items():
        np.testing.assert_array_equal(exact[name], values, err_msg=name)


def test_a_test_gene_is_predicted_without_the_other_test_genes(fitted):
    table, labels, predicted = fitted
    alone = baselines.fit_predict(table[:160], labels[:160], table[200:201])
    for name, values in predicted.items():
        np.testing.assert_allclose(alone[name], values[40:41], rtol=1e-9, err_msg=name)


def test_trees_grow_in_one_thread(monkeypatch):
    """Several spin where they wait for each other: minutes on cores that others use too."""
    threads = []

    class Watched(HistGradientBoostingRegressor):
        def fit(self, *arguments):
            pools = threadpool_info()
            threads.extend(p["num_threads"] for p in pools if p["user_api"] == "openmp")
            return super().fit(*arguments)

    monkeypatch.setattr(baselines, "HistGradientBoostingRegressor", Watched)
    x = np.random.default_rng(0).normal(size=(40, 3))
    assert len(baselines._boosted_trees(x, x[:, 0], x)) == 40
    assert threads and set(threads) == {1}


def test_the_promoter_offset_is_the_one_that_was_planted():
    promoter = np.random.default_rng(0).gamma(0.5, 4.0, 500)
    predicted = baselines._promoter_line(promoter, 2 * np.log(0.3 + promoter) + 1, np.array([5.0]))
    np.testing.assert_allclose(predicted, 2 * np.log(5.3) + 1)


@pytest.mark.parametrize("n", [2, 3, 12])
def test_a_handful_of_genes_is_enough(n):
    table, labels = random_genes(n + 3)
    predicted = baselines.fit_predict(table[:n], labels[:n], table[n:])
    assert all(np.isfinite(values).all() for values in predicted.values())


def test_constant_labels_are_predicted():
    table, _ = random_genes(60)
    predicted = baselines.fit_predict(table[:55], np.full(55, 2.5), table[55:])
    for name, values in predicted.items():
        np.testing.assert_allclose(values, 2.5, atol=0.05, err_msg=name)


def test_no_test_gene_gives_empty_predictions():
    table, labels = random_genes(20)
    predicted = baselines.fit_predict(table, labels, table[:0])
    assert {name: len(values) for name, values in predicted.items()} == dict.fromkeys(
        baselines.BASELINES, 0
    )


def test_frames_that_do_not_fit_are_refused():
    table, labels = random_genes(20)
    with pytest.raises(ValueError, match="columns differ in .'number_of_elements'."):
        baselines.fit_predict(table, labels, table.drop(columns="number_of_elements"))
    with pytest.raises(ValueError, match="20 training genes and 19 labels"):
        baselines.fit_predict(table, labels[1:], table)
    with pytest.raises(ValueError, match="a test scalar is NaN"):
        baselines.fit_predict(table, labels, table.assign(number_of_elements=np.nan))
    with pytest.raises(ValueError, match="a training label is NaN"):
        baselines.fit_predict(table, np.full(20, np.nan), table)


@pytest.mark.parametrize("shape", [(50, 4), (12, 30)])
def test_ridge_at_each_strength_agrees_with_scikit_learn(shape):
    rng = np.random.default_rng(0)
    train, labels, test = (
        rng.normal(size=shape),
        rng.normal(size=shape[0]) + 3,
        rng.normal(size=(7, shape[1])),
    )
    path = baselines._ridge_path(train, labels, test)
    for strength, predicted in zip(baselines.RIDGE_STRENGTHS, path, strict=True):
        expected = Ridge(alpha=strength).fit(train, labels).predict(test)
        np.testing.assert_allclose(predicted, expected, rtol=1e-8)


DNA = st.text("ACGTN", min_size=0, max_size=30)


@hypothesis.given(DNA, st.integers(1, 4))
def test_kmers_are_counted_on_both_strands_and_unknown_bases_left_out(text, k):
    counts = baselines.kmer_counts([sequence.encode(text)], k=k)[0]
    expected = {}
    for at in range(len(text) - k + 1):
        word = text[at : at + k]
        if "N" not in word:
            other = word[::-1].translate(str.maketrans("ACGT", "TGCA"))
            key = min(word, other)
            expected[key] = expected.get(key, 0) + 1
    assert sorted(counts[counts > 0]) == sorted(expected.values())
    palindromes = 4 ** (k // 2) if k % 2 == 0 else 0
    assert len(counts) == (4**k + palindromes) / 2
    other_strand = sequence.reverse_complement(sequence.encode(text))
    np.testing.assert_array_equal(baselines.kmer_counts([other_strand], k=k)[0], counts)


def planted_sequences(n=300, length=60, seed=0):
    """Sequences whose label is the number of GATAA on either strand, with noise."""
    rng = np.random.default_rng(seed)
    codes = [(1 << rng.integers(0, 4, length)).astype(np.uint8) for _ in range(n)]
    motif = sequence.encode("GATAA")
    labels = np.zeros(n)
    for row, code in enumerate(codes):
        for _ in range(rng.integers(0, 4)):
            at = rng.integers(0, length - 5)
            code[at : at + 5] = motif if rng.random() < 0.5 else sequence.reverse_complement(motif)
            labels[row] += 1
    return codes, labels + 0.1 * rng.normal(size=n)


def test_kmer_ridge_finds_a_planted_word_on_both_strands():
    codes, labels = planted_sequences()
    predicted = baselines.kmer_ridge(codes[:200], labels[:200], codes[200:])
    assert np.corrcoef(predicted, labels[200:])[0, 1] > 0.7
    other = baselines.kmer_ridge(
        codes[:200], labels[:200], [sequence.reverse_complement(code) for code in codes[200:]]
    )
    np.testing.assert_allclose(other, predicted, rtol=1e-9)


def test_the_other_strand_of_a_training_sequence_never_judges_the_ridge_strength():
    codes, _ = planted_sequences(n=80)
    noise = np.random.default_rng(1).normal(size=80)
    twins = [*codes, *(sequence.reverse_complement(code) for code in codes)]
    groups = baselines._twin_groups(twins)
    np.testing.assert_array_equal(groups[:80], groups[80:])
    assert len(np.unique(groups)) == 80
    # Pure noise, each label given twice: a split of rows would find the twin and trust it.
    predicted = baselines.kmer_ridge(twins, np.tile(noise, 2), codes)
    assert np.std(predicted) < 0.3 * np.std(noise)


def test_sequences_of_unequal_length_and_shorter_than_a_word_are_predicted():
    codes, labels = planted_sequences(n=20)
    mixed = [code[: 3 * row] for row, code in enumerate(codes)]
    assert np.isfinite(baselines.kmer_ridge(mixed, labels, mixed)).all()
    assert baselines.kmer_ridge(mixed, labels, []).shape == (0,)
    assert np.isfinite(baselines.kmer_ridge([codes[0]] * 4, labels[:4], codes)).all()


def test_kmer_ridge_refuses_what_does_not_fit():
    codes, labels = planted_sequences(n=4)
    with pytest.raises(ValueError, match="k=9, expected 1 to 8"):
        baselines.kmer_ridge(codes, labels, codes, k=9)
    with pytest.raises(ValueError, match="4 training sequences and 3 labels"):
        baselines.kmer_ridge(codes, labels[1:], codes)
