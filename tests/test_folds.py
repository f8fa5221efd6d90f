"""Folds: the published ones, the user's own, and what is refused."""

import collections

import pandas as pd
import pytest
from tiny_inputs import write_tsv

from epinformer_jax.data import folds
from epinformer_jax.data.folds import Fold

CHROMOSOMES = [f"chr{name}" for name in [*range(1, 23), "X"]]
HEADER = ["split", "fold", "role"]


def test_published_folds_test_each_chromosome_once():
    published = folds.published_folds()
    assert list(published) == [f"fold_{number}" for number in range(1, 13)]
    tested = collections.Counter(split for fold in published.values() for split in fold.test)
    assert tested == collections.Counter(CHROMOSOMES)
    for fold in published.values():
        assert sorted(fold.splits) == sorted(CHROMOSOMES)


def test_published_validation_is_the_test_of_the_fold_before():
    published = list(folds.published_folds().values())
    for before, fold in zip(published[:9], published[1:10], strict=True):
        assert set(fold.valid) == set(before.test)
    assert published[10].valid == ("chr3", "chr21")
    assert published[11].valid == ("chr2", "chr22")
    assert published[0].valid == ("chr1", "chr11")


def test_published_folds_are_those_of_the_publication(shared_data):
    table = pd.read_csv(shared_data / "k562" / "cv_split_18377genes.csv.gz", dtype=str)
    for name, fold in folds.published_folds().items():
        for role in folds.ROLES:
            chroms = "chr" + table.loc[table[name] == role, "chrom"]
            assert set(chroms) == set(getattr(fold, role)), (name, role)


def test_the_fold_that_tests_a_split_is_found():
    published = folds.published_folds()
    assert folds.fold_testing(published, "chrX").name == "fold_11"
    with pytest.raises(ValueError, match="'chrY' is tested by none"):
        folds.fold_testing(published, "chrY")


def test_an_unknown_fold_lists_the_known_ones():
    with pytest.raises(
        ValueError, match="unknown fold 'fold_13'; known: fold_1, fold_2, .*fold_12"
    ):
        folds.get_fold(folds.published_folds(), "fold_13")


def test_a_table_of_folds_is_read_in_natural_order(tmp_path):
    rows = [
        ["chr10", "a", "train"],
        ["chr2", "a", "train"],
        ["c", "a", "valid"],
        ["d", "a", "test"],
    ]
    found = folds.read_folds(write_tsv(tmp_path / "f.tsv", HEADER, rows))
    assert found == {"a": Fold("a", ("chr2", "chr10"), ("c",), ("d",))}


COMPLETE = [["a", "f", "train"], ["b", "f", "valid"], ["c", "f", "test"]]


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        (
            HEADER,
            [*COMPLETE, ["a", "f", "test"]],
            r"f\.tsv:5: split 'a' is already in train of fold",
        ),
        (HEADER, [*COMPLETE, ["d", "f", "tset"]], r"f\.tsv:5: role 'tset'; expected train, valid"),
        (HEADER, COMPLETE[:2], r"f\.tsv: fold 'f': its test part is empty"),
        (HEADER[:2], [row[:2] for row in COMPLETE], r"column 'role' is missing"),
    ],
)
def test_a_wrong_table_of_folds_gives_one_line(tmp_path, header, rows, message):
    with pytest.raises(ValueError, match=message):
        folds.read_folds(write_tsv(tmp_path / "f.tsv", header, rows))


def test_a_split_in_two_roles_is_refused():
    with pytest.raises(ValueError, match="split 'a' is in train and in test"):
        Fold("f", ("a",), ("b",), ("a",))


def test_restricting_drops_absent_splits_and_refuses_an_empty_part():
    fold = Fold("f", ("a", "b"), ("c",), ("d", "e"))
    assert fold.restrict(["e", "c", "b", "z"]) == Fold("f", ("b",), ("c",), ("e",))
    with pytest.raises(ValueError, match=r"none of its test splits \(d, e\); it has a, c"):
        fold.restrict(["a", "c"])
