"""The real slices of hg38 give what the published weights gave: every gene and window once.

Tables and FASTA are read, elements chosen and cut, features made, batches packed and predicted as
the commands do it. Golden values were computed with PyTorch, each by the fold that tests its
chromosome. On these 92 genes the model is no better than promoter activity: parity, not accuracy.
"""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from epinformer_jax import convert
from epinformer_jax.analysis import activity, ensembles, inputs, predict
from epinformer_jax.data import tables
from epinformer_jax.data.genome import Genome

PREDICTION_TOLERANCE, ATTENTION_TOLERANCE, WINDOW_TOLERANCE = 1e-4, 1e-5, 1e-3
RNA, CAGE = "expression_K562_PE_Activity_HiC_RNA", "expression_K562_PE_Activity_CAGE"


def published(shared_data, folder):
    models = []
    for path in sorted((shared_data / "weights" / folder).glob("fold_*.pt")):
        models.append(ensembles.Model(path.stem, *convert.read(path)))
    return models


@pytest.fixture(scope="module")
def split_of(shared_data):
    contigs = tables.read_contigs(shared_data / "k562_slices" / "contigs.tsv")
    return dict(zip(contigs["chrom"], contigs["split"], strict=True))


@pytest.fixture(scope="module")
def genome(shared_data, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    with Genome(shared_data / "k562_slices" / "genome.fa.gz", cache) as opened:
        yield opened


@pytest.fixture(scope="module")
def rna_models(shared_data):
    return published(shared_data, RNA)


@pytest.fixture(scope="module")
def genes(shared_data, genome, split_of, rna_models):
    folder = shared_data / "k562_slices"
    return inputs.from_tables(
        folder / "genes.tsv",
        folder / "links.tsv",
        genome,
        rule=predict.rule_of(rna_models[0]),
        split_of=split_of,
    )


@pytest.fixture(scope="module")
def by_the_testing_fold(rna_models, genes):
    return predict.predict_expression(rna_models, genes, ensemble="held-out", batch_size=8)


def golden(shared_data, name):
    return pd.read_csv(shared_data / "golden" / f"k562_slices_{name}.tsv", sep="\t")


def check_predictions(table, expected):
    assert len(expected) == 92
    expected = expected.set_index("gene_id").loc[table["gene_id"]]
    np.testing.assert_allclose(
        table["prediction"], expected["prediction"], rtol=0, atol=PREDICTION_TOLERANCE
    )
    np.testing.assert_array_equal(table["n_elements"], expected["n_elements"])
    assert list(table["fold"]) == [f"fold_{fold}" for fold in expected["model_fold"]]


def test_each_gene_is_predicted_as_published_by_the_fold_that_tests_it(
    shared_data, by_the_testing_fold
):
    table = by_the_testing_fold.predictions
    assert len(table) == 92
    check_predictions(table, golden(shared_data, "PE_Activity_HiC_RNA"))
    assert set(table["in_training"]) == {"no"}
    assert set(table["units"]) == {"z of log10(x + 0.1)"} and "rna" in table
    assert list(table["fold"]) == [f"fold_{fold:.0f}" for fold in table["test_fold"]]


def test_attention_to_each_element_is_the_published_one(shared_data, by_the_testing_fold):
    key = ["gene_id", "chrom", "start", "end"]
    expected = golden(shared_data, "PE_Activity_HiC_RNA_attention")
    both = expected.merge(by_the_testing_fold.attention, on=key, how="outer", indicator=True)
    assert (both["_merge"] == "both").all() and len(both) == len(expected)
    np.testing.assert_allclose(
        both["attention_y"], both["attention_x"], rtol=0, atol=ATTENTION_TOLERANCE
    )


def test_links_left_out_are_counted_with_the_reason(genes, by_the_testing_fold):
    table = by_the_testing_fold.predictions
    links = table["n_elements"] + table["n_dropped"]
    assert links.sum() == 1800 and len(genes.dropped) == table["n_dropped"].sum()
    assert not genes.dropped["reason"].isna().any()


def test_a_single_cage_model_predicts_as_published(shared_data, genes):
    models = published(shared_data, CAGE)
    every_third = dataclasses.replace(genes, examples=genes.examples[::3])  # time
    table = predict.predict_expression(models, every_third, batch_size=8).predictions
    check_predictions(table, golden(shared_data, "PE_Activity_CAGE_fold1"))
    held_out = table["chrom"].str.startswith(("chr2_", "chr12_"))
    assert list(table["in_training"] == "no") == list(held_out)
    assert held_out.any() and not held_out.all() and set(table["units"]) == {"log10(x + 1)"}


def test_windows_are_predicted_as_published_by_the_fold_that_tests_them(
    shared_data, genome, split_of
):
    windows = pd.read_csv(shared_data / "k562_slices" / "windows_256bp.tsv", sep="\t")
    windows = windows[windows["sequence_is_grch38"]].reset_index(drop=True)
    places = zip(windows["chrom"], windows["start"], windows["end"], strict=True)
    codes = [genome.fetch(chrom, start, end) for chrom, start, end in places]
    table = activity.predict_activity(
        published(shared_data, "encoder_K562"),
        [str(row) for row in windows.index],
        codes,
        splits=[split_of[chrom] for chrom in windows["chrom"]],
        ensemble="held-out",
        batch_size=64,
    )
    np.testing.assert_allclose(
        table["log2_activity"], windows["published_prediction"], rtol=0, atol=WINDOW_TOLERANCE
    )
    assert list(table["fold"]) == [f"fold_{fold}" for fold in windows["test_fold"]]
    positive = 2 ** table["log2_activity"] - 0.1
    np.testing.assert_allclose(table["activity"], positive.clip(lower=0), rtol=1e-12)
