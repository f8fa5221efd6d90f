"""`python -m data_prep folds`: whole chromosomes, each tested once, evenly, scaffolds grouped."""

import hypothesis
import pandas as pd
import pytest
from hypothesis import strategies as st
from tiny_inputs import CONTIGS, write_fasta, write_tables

from data_prep import __main__ as command
from data_prep.make_folds import group_scaffolds, make_folds
from epinformer_jax.data import folds, tables

HUMAN = {f"chr{number}": 1000 - 35 * number for number in range(1, 23)} | {"chrX": 600}


@hypothesis.given(
    weights=st.lists(st.integers(1, 5000), min_size=3, max_size=40), number=st.integers(3, 12)
)
def test_every_split_is_tested_once_and_no_part_is_too_heavy(weights, number):
    hypothesis.assume(len(weights) >= number)
    named = {f"c{index}": weight for index, weight in enumerate(weights)}
    made = make_folds(named, number=number, min_share=0.0)
    assert sorted(made.folds["split"][made.folds["role"] == "test"]) == sorted(named)
    tested = made.folds[made.folds["role"] == "test"]
    loads = tested["split"].map(made.weights).groupby(tested["fold"]).sum()
    assert loads.sum() == sum(weights) and len(loads) == number
    assert loads.max() <= sum(weights) / number + max(weights)
    for _, rows in made.folds.groupby("fold"):
        assert rows["split"].is_unique and set(rows["role"]) == {"train", "valid", "test"}


def test_the_order_of_the_contigs_does_not_matter():
    backwards = dict(reversed(HUMAN.items()))
    pd.testing.assert_frame_equal(
        make_folds(HUMAN, number=12).folds, make_folds(backwards, number=12).folds
    )


def test_a_fold_validates_on_what_another_one_tests():
    made = make_folds(HUMAN, number=12).folds
    parts = made.groupby(["fold", "role"])["split"].agg(frozenset).unstack()
    assert set(parts["valid"]) == set(parts["test"])
    assert all(parts["valid"] != parts["test"])


def test_scaffolds_go_with_their_chromosome_or_share_splits():
    scaffolds = {"chr1_KI270706v1_random": 3, "chr6_GL000250v2_alt": 400, "KI270728.1": 2}
    weights = HUMAN | scaffolds | {"chrUn_GL1": 1, "chrUn_GL2": 1}
    split_of = group_scaffolds(weights, number=2)
    assert split_of["chr1_KI270706v1_random"] == "chr1"
    assert split_of["chr6_GL000250v2_alt"] == "chr6"
    shared = {split_of[name] for name in ("KI270728.1", "chrUn_GL1", "chrUn_GL2")}
    assert shared == {"scaffolds_1", "scaffolds_2"}
    assert all(split_of[name] == name for name in HUMAN)


def test_a_draft_assembly_of_scaffolds_alone_can_be_folded():
    weights = {f"NW_{index:06d}.1": 1 + index % 7 for index in range(500)}
    made = make_folds(weights, number=5)
    loads = made.contigs["chrom"].map(weights).groupby(made.contigs["split"]).sum()
    assert len(loads) == 5 and loads.max() - loads.min() <= 7
    named = {f"contig{index}": 1 + index % 7 for index in range(500)}
    assert len(make_folds(named, number=5).weights) == 105


def test_two_folds_keep_something_to_train_and_validate_on():
    made = make_folds(HUMAN, number=2).folds
    for _, rows in made.groupby("fold"):
        count = rows["role"].value_counts()
        assert count["valid"] == 1 and count["train"] > 5
    assert folds.ROLES == ("train", "valid", "test")


def test_the_command_writes_tables_that_build_and_training_read(tmp_path, capsys):
    write_fasta(tmp_path / "g.fa", CONTIGS | {"chr1_random": 300, "un.1": 40})
    out = tmp_path / "made" / "folds.tsv"
    assert command.main(["folds", "--n=4", f"--fasta={tmp_path / 'g.fa'}", f"--out={out}"]) == 0
    known = folds.read_folds(out)
    assert list(known) == ["fold_1", "fold_2", "fold_3", "fold_4"]
    assert known["fold_1"].test == ("chr1",)
    contigs = tables.read_contigs(tmp_path / "made" / "contigs.tsv").set_index("chrom")["split"]
    assert contigs["chr1_random"] == "chr1" and contigs["un.1"] == "scaffolds"
    assert "2 scaffolds are grouped" in capsys.readouterr().out


def test_genes_are_balanced_by_number_and_contigs_can_stay_out(tmp_path, capsys):
    genes = write_tables(tmp_path)["genes"]
    out = tmp_path / "folds.tsv"
    code = command.main(["folds", "--n=3", f"--genes={genes}", "--exclude=chrX", f"--out={out}"])
    assert code == 0 and not (tmp_path / "contigs.tsv").exists()
    assert "test 1 genes" in capsys.readouterr().out
    assert "chrX" not in out.read_text()


@pytest.mark.parametrize(
    ("weights", "number", "message"),
    [
        (HUMAN, 1, "1 folds; expected at least 2"),
        (HUMAN, 24, "23 splits are too few for 24 folds"),
        ({"chr1": 5, "chr2": 5}, 2, "expected at least 3"),
        ({"chr1": 9, "chr2": 2, "chr3": 2}, 2, "leave chr1 alone"),
        ({}, 3, "no contig has any gene"),
        ({"chr1": 0}, 3, "no contig has any gene"),
    ],
)
def test_folds_that_cannot_be_made_are_refused(weights, number, message):
    with pytest.raises(ValueError, match=message):
        make_folds(weights, number=number)


def test_a_wrong_exclusion_is_named(tmp_path, capsys):
    genes = write_tables(tmp_path)["genes"]
    arguments = ["folds", f"--genes={genes}", "--exclude=X", f"--out={tmp_path / 'f.tsv'}"]
    assert command.main(arguments) == 2
    assert "--exclude X: did you mean 'chrX'?" in capsys.readouterr().err
