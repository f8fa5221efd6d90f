"""From a data set on disk to a stream of batches: nothing lost, order by seed and step alone."""

import dataclasses

import numpy as np
import pytest
import tiny_datasets
from hypothesis import given
from hypothesis import strategies as st

from epinformer_jax.data import features, loader, sequence
from epinformer_jax.data.layouts import Geometry
from epinformer_jax.train.crossval import Windows

PUBLISHED = features.schema("published", "PE-Activity-HiC")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A folder with a genes and a windows data set."""
    folder = tmp_path_factory.mktemp("data")
    tiny_datasets.write_genes(folder / "genes")
    tiny_datasets.write_windows(folder / "windows")
    return folder


def load(directory, **options):
    settings = {"schema": PUBLISHED, "label": "rna", "max_elements": 4, **options}
    return loader.load_genes(directory / "genes", **settings)[1]


@pytest.fixture(scope="module")
def genes(directory):
    return load(directory)


@pytest.fixture(scope="module")
def windows(directory):
    return loader.load_windows(directory / "windows", label="log2_activity", window_bp=32)


def plan_of(genes, batch_size=4):
    geometry = Geometry(window_bp=64, stride=4, margin_bp=7, gap_bp=8, reach=3)
    return genes.plan(geometry=geometry, batch_size=batch_size, slots=5, layouts=1)


def test_a_gene_is_its_promoter_then_its_elements(genes):
    assert len(genes) == 28
    for number, example in enumerate(genes.examples):
        codes = genes.sequences[number].codes
        np.testing.assert_array_equal(codes[0], example.promoter)
        assert [len(c) for c in codes[1:]] == example.element_length.tolist()
        together = np.concatenate([*codes[1:], np.zeros(0, np.uint8)])
        np.testing.assert_array_equal(together, example.element_sequence)
        assert len(genes.link_features[number]) == len(codes)
        expected = features.link_array(
            PUBLISHED, example, tiny_datasets.LINK_SIGNALS, tiny_datasets.GENE_SIGNALS
        )
        np.testing.assert_array_equal(genes.link_features[number], expected)
        assert genes.labels[number] == example.labels[0]


def test_the_nearest_elements_are_kept(directory, genes):
    fewer = load(directory, max_elements=2)
    for all_of, kept in zip(genes.sequences, fewer.sequences, strict=True):
        assert len(kept.codes) == min(len(all_of.codes), 3)
        for a, b in zip(all_of.codes, kept.codes, strict=False):
            np.testing.assert_array_equal(a, b)
    assert max(len(rows) for rows in fewer.link_features) == 3


def test_promoter_preset_leaves_all_elements_out(directory):
    bare = load(directory, schema=features.schema("published", "promoter"))
    assert {len(gene.codes) for gene in bare.sequences} == {1}
    assert {rows.shape for rows in bare.link_features} == {(1, 0)}
    batch = bare.batch(np.arange(3), plan_of(bare))
    assert batch["empty_rows"] == 3 * 4


def test_another_label_is_another_column(directory, genes):
    np.testing.assert_array_equal(load(directory, label="cage").labels, -genes.labels)


def test_splits_select_genes_by_chromosome(genes):
    chosen = genes.where(["chr3", "chr1"])
    assert set(genes.splits[chosen]) == {"chr1", "chr3"} and len(chosen) == 14
    assert len(genes.where([])) == 0


def test_scrambled_sequence_keeps_base_composition_and_everything_else(directory, genes):
    scrambled = load(directory, control="scrambled_sequence", seed=3)
    changed = 0
    for before, after in zip(genes.sequences, scrambled.sequences, strict=True):
        for a, b in zip(before.codes, after.codes, strict=True):
            np.testing.assert_array_equal(np.bincount(a, minlength=9), np.bincount(b, minlength=9))
            changed += not np.array_equal(a, b)
    assert changed > len(genes)
    np.testing.assert_array_equal(scrambled.labels, genes.labels)
    for a, b in zip(scrambled.link_features, genes.link_features, strict=True):
        np.testing.assert_array_equal(a, b)
    again = load(directory, control="scrambled_sequence", seed=3)
    other = load(directory, control="scrambled_sequence", seed=4)
    first = [data.sequences[0].codes[0] for data in (scrambled, again, other)]
    assert np.array_equal(first[0], first[1]) and not np.array_equal(first[0], first[2])


def test_permuted_labels_are_the_same_labels_dealt_to_other_genes(directory, genes):
    permuted = load(directory, control="permuted_labels", seed=3)
    assert not np.array_equal(permuted.labels, genes.labels)
    np.testing.assert_array_equal(np.sort(permuted.labels), np.sort(genes.labels))
    np.testing.assert_array_equal(permuted.gene_features, genes.gene_features)


def test_a_windows_data_set_is_no_genes_data_set(directory):
    with pytest.raises(ValueError, match="windows holds windows, expected genes"):
        loader.load_genes(directory / "windows", schema=PUBLISHED, label="rna", max_elements=4)
    with pytest.raises(ValueError, match="genes holds genes, expected windows"):
        loader.load_windows(directory / "genes", label="rna", window_bp=32)


def test_an_unknown_label_is_refused_with_the_known_ones(directory):
    with pytest.raises(ValueError, match="genes has no label 'rnaa'; its labels are: rna, cage"):
        load(directory, label="rnaa")


def test_a_gene_without_a_measured_label_is_named(tmp_path):
    genes = tiny_datasets.genes_of(per_split=2)
    broken = genes["chr2"][1]
    labels = np.array([np.nan, 1.0], np.float32)
    genes["chr2"][1] = dataclasses.replace(broken, labels=labels)
    tiny_datasets.write_genes(tmp_path / "genes", genes)
    with pytest.raises(ValueError, match="gene chr2_gene1 has no value for label 'rna'"):
        load(tmp_path)
    assert len(load(tmp_path, label="cage")) == 8


def test_a_window_wider_than_the_model_is_named(directory):
    with pytest.raises(ValueError, match=r"window chr1_window\d+ has \d\d bases, more than .* 24"):
        loader.load_windows(directory / "windows", label="log2_activity", window_bp=24)


def test_windows_read_from_the_other_strand_are_reverse_complements(windows):
    _, data = windows
    count = len(data)
    forward = data.batch(np.array([0, 5]), 4)
    reverse = data.batch(np.array([count, 5 + count]), 4)
    np.testing.assert_array_equal(reverse["labels"], forward["labels"])
    for row in range(2):
        strands = []
        for batch in (forward, reverse):
            rows = batch["rows"]
            first, length = rows["offset"][row], rows["length"][row]
            strands.append(sequence.unpack(rows["nibbles"][row], 32)[first : first + length])
        np.testing.assert_array_equal(sequence.reverse_complement(strands[0]), strands[1])


@pytest.mark.parametrize(("strands", "times"), [("forward", 1), ("both", 2)])
def test_training_sees_each_window_once_on_each_chosen_strand(windows, strands, times):
    manifest, data = windows
    examples = Windows(manifest, data, 8, strands, seed=0)
    chosen = data.where(["chr1", "chr2"])
    stream = examples.stream(chosen, shuffle=True)
    seen = np.concatenate([stream.indices(step) for step in range(stream.steps_per_epoch)])
    expected = np.concatenate([chosen + strand * len(data) for strand in range(times)])
    np.testing.assert_array_equal(np.sort(seen), expected)
    plain = examples.stream(chosen, shuffle=False)
    seen = np.concatenate([plain.indices(step) for step in range(plain.steps_per_epoch)])
    np.testing.assert_array_equal(seen, chosen)


def whole_epoch(stream, epoch):
    first = epoch * stream.steps_per_epoch
    steps = range(first, first + stream.steps_per_epoch)
    return np.concatenate([stream.indices(step) for step in steps])


def echo(indices):
    return {"indices": indices}


@given(st.integers(1, 40), st.integers(1, 16), st.integers(0, 1000))
def test_every_epoch_sees_every_example_once(count, batch_size, seed):
    indices = np.random.default_rng(seed).permutation(100)[:count]
    stream = loader.stream(indices, echo, batch_size=batch_size, seed=seed, shuffle=True)
    assert stream.steps_per_epoch == -(-count // batch_size)
    for epoch in range(3):
        np.testing.assert_array_equal(np.sort(whole_epoch(stream, epoch)), np.sort(indices))
    last = stream.indices(stream.steps_per_epoch - 1)
    assert len(last) == count - batch_size * (stream.steps_per_epoch - 1)


def test_order_is_a_function_of_seed_and_step_and_differs_between_epochs():
    def make(seed):
        return loader.stream(np.arange(50), echo, batch_size=8, seed=seed, shuffle=True)

    stream, again, other = make(0), make(0), make(1)
    for step in (20, 3, 0, 11):  # in any order of asking
        np.testing.assert_array_equal(stream.indices(step), again.indices(step))
        np.testing.assert_array_equal(stream[step]["indices"], stream.indices(step))
    assert not np.array_equal(whole_epoch(stream, 0), whole_epoch(other, 0))
    assert not np.array_equal(whole_epoch(stream, 0), whole_epoch(stream, 1))


def test_a_stream_resumed_anywhere_equals_the_unbroken_one():
    stream = loader.stream(np.arange(20), echo, batch_size=6, seed=2, shuffle=True)
    unbroken = [batch["indices"].tolist() for batch in stream.batches(0, 12)]
    assert len(unbroken) == 12
    assert unbroken == [stream.indices(step).tolist() for step in range(12)]
    for first in (0, 3, 4, 11):
        resumed = [batch["indices"].tolist() for batch in stream.batches(first, 12)]
        assert resumed == unbroken[first:]


def test_a_stream_left_early_can_be_read_again():
    stream = loader.stream(np.arange(20), echo, batch_size=6, seed=2, shuffle=True)
    for batch in stream.batches(0, 100):
        first = batch["indices"]
        break
    np.testing.assert_array_equal(next(stream.batches(0, 1))["indices"], first)


def test_without_shuffling_the_order_is_the_one_given():
    stream = loader.stream(np.array([7, 3, 9]), echo, batch_size=2, seed=0, shuffle=False)
    assert [b["indices"].tolist() for b in stream.batches(0, 2)] == [[7, 3], [9]]


def test_an_error_while_packing_reaches_the_reader():
    def fail(indices):
        raise ValueError("no such gene")

    stream = loader.stream(np.arange(4), fail, batch_size=2, seed=0, shuffle=False)
    with pytest.raises(ValueError, match="no such gene"):
        list(stream.batches(0, 2))


def test_there_must_be_something_to_stream():
    with pytest.raises(ValueError, match="no examples to stream"):
        loader.stream(np.arange(0), echo, batch_size=2, seed=0, shuffle=True)


def test_a_batch_of_genes_holds_their_labels_and_sequences(genes):
    plan = plan_of(genes)
    batch = genes.batch(np.array([5, 2, 9]), plan)
    np.testing.assert_array_equal(batch["labels"][:3], genes.labels[[5, 2, 9]])
    counts = [len(genes.sequences[i].codes) for i in (5, 2, 9)]
    assert batch["mask"].sum(axis=1).tolist() == [*counts, 1]
