"""Scores of links: what each column is, by the dense model and by hand; the benchmark of links."""

import argparse
import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import tiny_folds
import tiny_inputs
from sklearn.metrics import average_precision_score

from epinformer_jax.analysis import api, benchmark_links, inputs, links, perturb, predict

pytestmark = pytest.mark.usefixtures("quick_compilation")

MODELS = tiny_folds.models()


@pytest.fixture(scope="module")
def genes(tmp_path_factory):
    return tiny_folds.genes(tmp_path_factory.mktemp("genes"))


@pytest.fixture(scope="module")
def table(genes):
    return links.score_links(MODELS, genes)


def by_gene(table):
    return table.groupby("gene_id", sort=False)


def test_shares_sum_to_one_and_a_lone_element_has_all(table):
    for column in ("abc", "attention_mean", "attention_abc", "attention_L1", "attention_L2"):
        np.testing.assert_allclose(by_gene(table)[column].sum(), 1.0, rtol=1e-12)
        assert table.set_index("gene_id").loc["G3", column] == 1.0
    assert table.attrs["without_elements"] == ["G4"]


def test_shares_of_nothing_are_zero():
    found = links.shares(np.array([1.0, 3.0, 0.0, 0.0]), np.array([0, 0, 2, 2]))
    np.testing.assert_array_equal(found, [0.25, 0.75, 0.0, 0.0])


def test_scores_are_what_their_names_say(genes, table):
    attention = predict.predict_expression(MODELS, genes).attention
    key = ["gene_id", "start"]
    raw = table.set_index(key)["attention_raw"]
    expected = attention.set_index(key)["attention"]
    np.testing.assert_allclose(raw[expected.index], expected, rtol=0, atol=1e-6)
    product = table["activity"] * table["contact"]
    np.testing.assert_allclose(
        table["abc"], product / product.groupby(table["gene_id"]).transform("sum"), rtol=1e-6
    )
    layers = table[["attention_L1", "attention_L2"]].mean(axis=1)
    floored = table["attention_raw"] + links.ATTENTION_FLOOR
    share = floored / floored.groupby(table["gene_id"]).transform("sum")
    np.testing.assert_allclose(table["attention_mean"], share, rtol=1e-6)
    assert not np.allclose(layers, share, rtol=1e-6)  # a share of means is no mean of shares
    mixed = share * product
    mixed = mixed / mixed.groupby(table["gene_id"]).transform("sum")
    np.testing.assert_allclose(table["attention_abc"], mixed, rtol=1e-5)
    removed = perturb.perturb_elements(MODELS, genes)
    np.testing.assert_allclose(table["removal_delta"], removed["delta"], rtol=0, atol=1e-6)
    total = table["gradient_sequence"] + table["gradient_signals"]
    np.testing.assert_allclose(table["gradient"], total)
    assert table["gradient_sequence"].abs().max() > 1e-5


def test_the_signals_part_of_the_gradient_is_the_slope_of_scaling_them(genes, table):
    """Of the published schema activity is linear, contact is log10(1 + contact)."""
    names, step = list(genes.link_signal_names), 1e-2
    first, example, *others = genes.examples
    ends = []
    for sign in (-1, 1):
        signals = example.link_signals.astype(np.float64)
        scale = 1 + sign * step
        activity, contact = names.index("activity"), names.index("contact")
        signals[0, activity] *= scale
        signals[0, contact] = 10 ** (scale * np.log10(1 + signals[0, contact])) - 1
        edited = dataclasses.replace(example, link_signals=signals.astype(np.float32))
        own = dataclasses.replace(genes, examples=[first, edited, *others])
        ends.append(predict.predict_expression(MODELS, own).predictions["prediction"].iloc[1])
    slope = (ends[1] - ends[0]) / (2 * step)
    row = table[(table["gene_id"] == example.gene_id)].iloc[0]
    assert row["start"] == example.element_start[0]
    np.testing.assert_allclose(row["gradient_signals"], slope, rtol=0.02, atol=2e-5)


def test_the_library_gives_the_same_tables(genes, table, tmp_path):
    paths = tiny_inputs.write_tables(tmp_path)
    model = api.load_model(tiny_folds.save(tmp_path / "run"))
    found = model.links(paths["genes"], paths["links"], fasta=paths["fasta"], gene_ids=["G2"])
    expected = table[table["gene_id"] == "G2"].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, expected, atol=1e-6)
    effects = model.perturb(genes, gene_ids=["G2"], activity_doses=[0.0])
    assert list(effects["change"]) == ["remove", "activity"] * 2
    removed = effects.loc[effects["change"] == "remove", "delta"]
    np.testing.assert_allclose(removed, expected["removal_delta"], rtol=0, atol=1e-6)


def test_both_strands_and_all_models_are_means(genes):
    both = links.score_links(MODELS, genes, ensemble="all", average_strands=True)
    ways = [
        links.score_links([model], own)
        for model in MODELS
        for own in (genes, inputs.other_strand(genes))
    ]
    for column in ("attention_raw", "gradient_sequence", "gradient_signals", "removal_delta"):
        mean = np.mean([way[column] for way in ways], axis=0)
        np.testing.assert_allclose(both[column], mean, rtol=0, atol=1e-6)


# --- the command


def options(module, *arguments):
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return parser.parse_args([str(argument) for argument in arguments])


def test_the_command_writes_table_and_tracks(table, tmp_path, capsys):
    paths = tiny_inputs.write_tables(tmp_path)
    given = [item for name, path in paths.items() for item in (f"--{name}", path)]
    given += ["--cache-dir", tmp_path / "cache", "--model", tiny_folds.save(tmp_path / "run")]
    outs = [tmp_path / name for name in ("l.tsv.gz", "l.bedpe.gz", "l.longrange.gz", "l.interact")]
    assert links.run(options(links, *given, "--out", *outs, "--track-score", "abc")) == 0
    written = pd.read_csv(outs[0], sep="\t")
    assert list(written) == [
        *("gene_id", "gene_name", "chrom", "start", "end", "class", "distance", "activity"),
        *("contact", "abc", "attention_mean", "attention_L1", "attention_L2", "attention_raw"),
        *("attention_abc", "gradient", "gradient_sequence", "gradient_signals", "removal_delta"),
        *("fold", "in_training"),
    ]
    expected = table.set_index(["gene_id", "start"]).loc[
        pd.MultiIndex.from_frame(written[["gene_id", "start"]])
    ]
    for column in ("abc", "attention_mean", "gradient", "removal_delta"):
        np.testing.assert_allclose(written[column], expected[column], rtol=1e-4, atol=1e-6)
    bedpe = pd.read_csv(outs[1], sep="\t", header=None, comment="#")
    np.testing.assert_allclose(bedpe[7], written["abc"], rtol=1e-5)
    assert (tmp_path / "l.longrange.gz.tbi").is_file()
    printed = capsys.readouterr().out
    assert "3 genes with elements, 5 rows; 1 without elements have no row: G4" in printed
    with pytest.raises(ValueError, match="--track-score x: no such column"):
        links.run(options(links, *given, "--out", outs[0], "--track-score", "x"))


# --- the benchmark


def test_average_precision_is_that_of_others_with_and_without_weights():
    rng = np.random.default_rng(0)
    positive = rng.random(200) < 0.2
    score = np.round(rng.normal(size=200) + positive, 1)  # with ties
    weights = rng.integers(0, 4, (5, 200)).astype(float)
    found = benchmark_links.average_precision(positive, score, weights)
    expected = [average_precision_score(positive, score, sample_weight=own) for own in weights]
    np.testing.assert_allclose(found, expected)
    plain = benchmark_links.average_precision(positive, score)
    np.testing.assert_allclose(plain, [average_precision_score(positive, score)])


def benchmark_inputs(folder, *, genes=30, in_training="no"):
    """Drivers are what removal finds; distance says nothing; the last pair is not scored."""
    rng = np.random.default_rng(1)
    truth, scores = [], []
    for gene in range(genes):
        for element in range(4):
            start = 1000 * (4 * gene + element)
            is_driver = rng.random() < 0.3
            removal = -0.2 * is_driver + 0.05 * rng.normal()
            signals = rng.random(2).round(3)
            truth.append([f"G{gene}", f"chr{gene % 6}", start + 90, start + 150, is_driver])
            place = [f"G{gene}", f"chr{gene % 6}", start, start + 100]
            far = int(rng.integers(1000, 100_000))
            scores.append([*place, far, *signals, signals.prod(), removal, in_training])
    truth.append(["G0", "chr0", 900_000, 900_100, True])
    names = ["gene", "chrom", "start", "end", "hit"]
    tiny_inputs.write_tsv(folder / "truth.tsv", names, truth)
    names = ["gene_id", "chrom", "start", "end", "distance", "activity", "contact", "abc"]
    tiny_inputs.write_tsv(folder / "l.tsv", [*names, "removal_delta", "in_training"], scores)
    return ["--truth", folder / "truth.tsv", "--scores", folder / "l.tsv"]


def test_the_benchmark_finds_the_better_score_and_says_what_it_misses(tmp_path, capsys):
    given = benchmark_inputs(tmp_path)
    given += ["--columns", "gene_id=gene,is_driver=hit", "--out", tmp_path / "out"]
    benchmark_links.run(options(benchmark_links, *given, "--resample", "chrom"))
    content = json.loads((tmp_path / "out" / "metrics.json").read_text())
    pairs = pd.read_csv(tmp_path / "out" / "pairs.tsv", sep="\t")
    scored = pairs[pairs["scored"]]
    assert content["coverage"] | {"positives": 0, "positives_scored": 0} == {
        "pairs": 121,
        "scored": 120,
        "positives": 0,
        "positives_scored": 0,
    }
    assert content["coverage"]["positives"] == content["coverage"]["positives_scored"] + 1
    for name, values in content["scored"]["auprc"].items():
        expected = average_precision_score(scored["is_driver"], scored[name])
        np.testing.assert_allclose(values["value"], expected, rtol=1e-5)
        assert values["low"] <= values["value"] <= values["high"]
    assert content["scored"]["gains"]["abc"]["low"] > 0.2
    assert content["scored"]["gains"]["abc"]["p_value"] < 0.01
    assert content["scored"]["resampled"] == "groups" and content["scored"]["num_groups"] == 6
    assert (
        content["all"]["auprc"]["removal"]["value"] < content["scored"]["auprc"]["removal"]["value"]
    )
    assert sum(row["n"] for row in content["by_distance_kb"]) == 120
    assert (tmp_path / "out" / "precision_recall.svg").read_text().startswith("<?xml")
    printed = capsys.readouterr().out
    assert "120 of 121 pairs scored" in printed and "removal minus it" in printed


def test_the_benchmark_refuses_what_a_model_was_trained_on(tmp_path):
    given = benchmark_inputs(tmp_path, in_training="yes") + ["--out", tmp_path / "out"]
    given += ["--columns", "gene_id=gene,is_driver=hit"]
    with pytest.raises(ValueError, match=r"l\.tsv:2: gene G0 was seen in training"):
        benchmark_links.run(options(benchmark_links, *given))


def test_the_best_of_several_overlapping_elements_counts():
    truth = pd.DataFrame([["G", "c", 100, 300, True]], columns=benchmark_links.TRUTH_COLUMNS)
    rows = [["G", "c", 0, 101, 0.1], ["G", "c", 299, 400, 0.3], ["G", "c", 300, 400, 0.9]]
    rows += [["H", "c", 100, 300, 0.8]]
    scored = pd.DataFrame(rows, columns=["gene_id", "chrom", "start", "end", "abc"])
    table, names = benchmark_links.match(truth, scored)
    assert names == ["abc"] and table["abc"].tolist() == [0.3] and table["scored"].all()


def test_with_few_groups_single_pairs_are_drawn():
    table = pd.DataFrame({"is_driver": [True, False] * 20, "x": np.r_[np.ones(20), np.zeros(20)]})
    found = benchmark_links.evaluate(table, ["x"], np.repeat(["a", "b"], 20), reference="x")
    assert found["resampled"] == "pairs" and found["num_groups"] == 2
