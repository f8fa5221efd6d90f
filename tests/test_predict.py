"""Predicting genes and sequences from tables, data sets and ensembles; tiny models, made-up DNA."""

import argparse
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import tiny_inputs

from data_prep import builder, plans
from epinformer_jax.analysis import activity, ensembles, inputs, predict, scales
from epinformer_jax.data import elements, features, sequence, tables
from epinformer_jax.data.elements import ElementRule
from epinformer_jax.data.genome import Genome
from epinformer_jax.model import functional
from epinformer_jax.model.architecture import ActivityConfig, EncoderConfig, ExpressionConfig
from epinformer_jax.train import checkpoint
from epinformer_jax.train.checkpoint import ModelInfo

ENCODER = EncoderConfig(stem_channels=4, channels=(4, 3, 4))
RULE = ElementRule(min_distance_bp=900, max_distance_bp=8000, max_elements=3, window_bp=400)
EXPRESSION = ExpressionConfig(
    encoder=ENCODER,
    window_bp=400,
    slots=4,
    summary_channels=4,
    summary_dilations=(1, 2),
    summary_outputs=4,
    embedding=8,
    heads=2,
    layers=2,
    hidden=4,
)
ACTIVITY = ActivityConfig(encoder=ENCODER, window_bp=64, hidden=4)
PARTS = {
    "fold_1": {"train": ["chr2"], "valid": ["chr10"], "test": ["chr1"]},
    "fold_2": {"train": ["chr1"], "valid": ["chr10"], "test": ["chr2", "chrX"]},
}


def info_of(config, fold="fold_1", **fields):
    described = {
        "label": "rna",
        "label_transform": {"name": "z_log10", "offset": 0.1, "mean": 0.2, "sd": 1.1},
        "schema": features.schema("published", "PE-Activity-HiC").to_dict(),
        "element_rule": RULE.to_dict(),
        "promoter_bp": 400,
    }
    if config.kind == "activity":
        described = {"label": "log2_activity", "label_transform": {"name": "log2", "offset": 0.1}}
    chromosomes = PARTS.get(fold, {"train": [], "valid": [], "test": []})
    return ModelInfo(config, fold=fold, chromosomes=chromosomes, **(described | fields))


@functools.cache
def weights(config, seed):
    """Random weights with running statistics that are not trivial."""
    variables = jax.device_get(functional.init(config, seed=seed))
    rng = np.random.default_rng(seed)

    def draw(leaf):
        return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)

    return functional.Variables(variables.params, jax.tree.map(draw, variables.stats))


def model(config=EXPRESSION, fold="fold_1", seed=1, **fields):
    return ensembles.Model(fold, weights(config, seed), info_of(config, fold, **fields))


@pytest.fixture
def paths(tmp_path):
    return tiny_inputs.write_tables(tmp_path)


@pytest.fixture
def genes(paths, tmp_path):
    with Genome(paths["fasta"], tmp_path / "cache") as genome:
        yield inputs.from_tables(paths["genes"], paths["links"], genome, rule=RULE, promoter_bp=400)


def options(module, *arguments):
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return parser.parse_args([str(argument) for argument in arguments])


# --- inputs


def test_examples_are_those_that_a_built_data_set_holds(paths, genes, tmp_path):
    with Genome(paths["fasta"], tmp_path / "cache") as genome:
        frame = tables.read_genes(paths["genes"], labels=())
        links = tables.read_links(paths["links"], frame)
        plan, _, dropped = plans.plan_genes(frame, links, genome, {}, RULE, 400)
        built = {e.gene_id: e for split in plan.splits for e in plan.examples(split, genome)}
    assert [example.gene_id for example in genes.examples] == list(frame["gene_id"])
    for example in genes.examples:
        assert example == built[example.gene_id]
    assert sum(len(example.distance_bp) for example in genes.examples) > 3
    assert len(genes.dropped) == len(dropped) > 0
    assert set(genes.dropped["reason"]) <= set(elements.REASONS)


def test_genes_without_links_have_promoters_alone(paths, tmp_path):
    with Genome(paths["fasta"], tmp_path / "cache") as genome:
        alone = inputs.from_tables(paths["genes"], None, genome, rule=RULE, promoter_bp=400)
    table = predict.predict_expression([model()], alone).predictions
    assert list(table["n_elements"]) == [0] * 4 and table["prediction"].notna().all()


def test_positions_of_another_assembly_are_refused(tmp_path):
    rows = tiny_inputs.gene_rows()
    rows[1][2] = 9500
    paths = tiny_inputs.write_tables(tmp_path, genes=rows, links=[])
    (tmp_path / "links.tsv").unlink()
    with Genome(paths["fasta"], tmp_path / "cache") as genome:
        with pytest.raises(ValueError, match=r"genes\.tsv:3: tss 9500 is beyond the end of chr1"):
            inputs.from_tables(paths["genes"], None, genome, rule=RULE)
        rows[1][1:3] = ["1", 600]
        tiny_inputs.write_tsv(tmp_path / "genes.tsv", tiny_inputs.GENE_HEADER, rows)
        with pytest.raises(ValueError, match=r"genes\.tsv:3: .*no contig '1'; did you mean 'chr1'"):
            inputs.from_tables(paths["genes"], None, genome, rule=RULE)


# --- who predicts


def test_roles_do_not_depend_on_the_prefix():
    info = info_of(EXPRESSION, "fold_1")
    for split, role in {"chr1": "test", "1": "test", "chr2": "train", "10": "valid"}.items():
        assert ensembles.role_of(info, split) == role
    assert ensembles.role_of(info, "chr7") == "none"
    assert ensembles.role_of(info_of(EXPRESSION, "fold_9"), "chr1") == "unknown"


def test_each_gene_is_predicted_by_the_fold_that_tests_it(genes):
    models = [model(fold="fold_1", seed=1), model(fold="fold_2", seed=2)]
    both = predict.predict_expression(models, genes, ensemble="all").predictions
    auto = predict.predict_expression(models, genes).predictions.set_index("gene_id")
    alone = [predict.predict_expression([m], genes).predictions["prediction"] for m in models]
    np.testing.assert_array_equal(both["fold_1"], alone[0])
    np.testing.assert_allclose(both["prediction"], np.mean(alone, axis=0))
    np.testing.assert_allclose(both["sd"], np.std(alone, axis=0))
    assert set(both["fold"]) == {"mean of 2"}
    table = both.set_index("gene_id")
    for gene, fold in {"G1": "fold_1", "G2": "fold_2", "G3": "fold_2"}.items():
        assert auto.loc[gene, "fold"] == fold and auto.loc[gene, "in_training"] == "no"
        assert auto.loc[gene, "prediction"] == table.loc[gene, fold]
    # chr10 is tested by neither
    assert auto.loc["G4", "fold"] == "mean of 2" and auto.loc["G4", "in_training"] == "validation"
    seen = {"G1": "yes", "G2": "yes", "G3": "no", "G4": "validation"}
    assert table["in_training"].to_dict() == seen


def test_a_model_that_speaks_about_no_gene_is_left_out(genes):
    on_chr1 = [example for example in genes.examples if example.chrom == "chr1"]
    few = dataclasses.replace(genes, examples=on_chr1)
    models = [model(fold="fold_1", seed=1), model(fold="fold_2", seed=2)]
    table = predict.predict_expression(models, few).predictions
    alone = predict.predict_expression(models[:1], few).predictions
    assert list(table["fold"]) == ["fold_1"]
    np.testing.assert_array_equal(table["prediction"], alone["prediction"])


def test_held_out_refuses_a_gene_that_no_fold_tests(genes):
    models = [model(fold="fold_1"), model(fold="fold_2")]
    with pytest.raises(
        ValueError, match="not tested by exactly one of the 2 models, the first is G4 on chr10"
    ):
        predict.predict_expression(models, genes, ensemble="held-out")


def test_a_run_directory_stands_for_its_folds(tmp_path):
    for name in ("fold_10", "fold_2"):
        checkpoint.save_model(tmp_path / "run" / name, *model(fold=name)[1:])
        encoder = model(ACTIVITY, fold=name)[1:]
        checkpoint.save_model(tmp_path / "run" / name / "encoder", *encoder)
    loaded = ensembles.load_models([tmp_path / "run"], kind="expression")
    assert [m.name for m in loaded] == ["fold_2", "fold_10"]
    loaded = ensembles.load_models([tmp_path / "run"], kind="activity")
    assert [m.name for m in loaded] == ["fold_2", "fold_10"]
    assert {m.info.model for m in loaded} == {ACTIVITY}
    with pytest.raises(ValueError, match="holds an activity model, expected an expression model"):
        ensembles.load_models([tmp_path / "run" / "fold_2" / "encoder"], kind="expression")
    with pytest.raises(ValueError, match="no such directory"):
        ensembles.load_models([tmp_path / "nothing"], kind="expression")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no model and no folds"):
        ensembles.load_models([tmp_path / "empty"], kind="expression")
    checkpoint.save_model(tmp_path / "cage", *model(label="cage")[1:])
    with pytest.raises(ValueError, match=r"models fold_2 and cage differ in label \('rna' and"):
        ensembles.load_models([tmp_path / "run" / "fold_2", tmp_path / "cage"], kind="expression")


# --- numbers


def test_predictions_equal_the_dense_definition(genes):
    one = model(seed=3)
    result = predict.predict_expression([one], genes, batch_size=3)
    schema = features.from_dict(one.info.schema)
    data = inputs.on_scale_of(genes, schema, max_elements=3)
    bases = np.zeros((4, 4, 400, 4), np.float32)
    valid = np.zeros((4, 4, 400), bool)
    links = np.zeros((4, 4, 3), np.float32)
    for gene, (own, signals) in enumerate(zip(data.sequences, data.link_features, strict=True)):
        for slot, codes in enumerate(own.codes):
            offset = elements.offset_in_window(len(codes), 400)
            inside = slice(offset, offset + len(codes))
            bases[gene, slot, inside] = sequence.one_hot(codes)
            valid[gene, slot, inside] = True
        links[gene, : len(signals)] = signals
    arrays = map(jnp.asarray, (bases, valid, links, data.gene_features))
    variables = jax.device_put(one.variables)
    dense = jax.jit(functional.predict, static_argnums=0)
    expected, attention = dense(one.info.model, variables, *arrays)
    np.testing.assert_allclose(result.predictions["prediction"], expected, rtol=0, atol=1e-5)
    mean = np.asarray(attention).mean(axis=1)
    flat = [
        mean[i, 1 + j] for i, own in enumerate(data.sequences) for j in range(len(own.codes) - 1)
    ]
    np.testing.assert_allclose(result.attention["attention"], flat, rtol=0, atol=1e-5)


def test_batches_do_not_change_predictions(genes):
    one = model(seed=4)
    alone = predict.predict_expression([one], genes, batch_size=1).predictions
    together = predict.predict_expression([one], genes, batch_size=16).predictions
    np.testing.assert_allclose(alone["prediction"], together["prediction"], rtol=0, atol=1e-6)


def test_a_table_of_kmers_changes_no_prediction(genes):
    encoder = dataclasses.replace(ENCODER, stem_width=3)
    one = model(dataclasses.replace(EXPRESSION, encoder=encoder), seed=5)
    results = [
        predict.predict_expression([one], genes, average_strands=True, kmer_table=choice)
        for choice in ("off", "on", "small")
    ]
    for name, column in (("predictions", "prediction"), ("attention", "attention")):
        expected, *others = (getattr(result, name)[column] for result in results)
        for got in others:
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)


def test_columns_of_the_genes_table_are_carried_through(paths, tmp_path):
    header = [*tiny_inputs.GENE_HEADER, "note", "fold"]
    rows = [[*row, f"n{i}", i] for i, row in enumerate(tiny_inputs.gene_rows())]
    tiny_inputs.write_tsv(tmp_path / "genes.tsv", header, rows)
    with Genome(paths["fasta"], tmp_path / "cache") as genome:
        own = inputs.from_tables(paths["genes"], None, genome, rule=RULE, promoter_bp=400)
    table = predict.predict_expression([model()], own).predictions
    assert list(table["note"]) == ["n0", "n1", "n2", "n3"]
    assert list(table["input_fold"]) == [0, 1, 2, 3] and set(table["fold"]) == {"fold_1"}


def test_a_missing_signal_is_named(genes):
    schema = features.schema("log_signals", "PE-Activity").to_dict()
    config = dataclasses.replace(EXPRESSION, link_features=4, gene_features=11)
    with pytest.raises(ValueError, match="needs the column 'dnase' of the links table"):
        predict.predict_expression([model(config, schema=schema)], genes)


# --- scales


def with_quantiles(factor):
    quantiles = {"promoter_activity": [2.5 * factor] * 5, "activity": [2.0 * factor] * 5}
    return model(feature_quantiles=quantiles)


def test_a_signal_on_another_scale_is_warned_of_or_refused(genes, caplog, monkeypatch):
    monkeypatch.setattr(scales, "MIN_VALUES", 1)
    monkeypatch.setattr(scales, "_chance", lambda values: 1.0)
    predict.predict_expression([with_quantiles(1.1)], genes)
    assert not caplog.text
    predict.predict_expression([with_quantiles(2.0)], genes)
    assert "promoter_activity: quantile 0.5 is 2.5 here and 5 in training" in caplog.text
    for factor in (0.1, 10.0):
        with pytest.raises(ValueError, match="pass --force"):
            predict.predict_expression([with_quantiles(factor)], genes)
        predict.predict_expression([with_quantiles(factor)], genes, force=True)


def test_scales_of_few_values_or_unknown_ones_are_not_judged(genes, caplog):
    assert scales.compare(with_quantiles(100.0), genes).empty
    predict.predict_expression([model()], genes)
    assert "holds no quantiles" in caplog.text


# --- commands


@pytest.fixture
def run_directory(tmp_path):
    for seed, name in enumerate(PARTS):
        checkpoint.save_model(tmp_path / "run" / name, *model(fold=name, seed=seed)[1:])
    return tmp_path / "run"


def test_the_command_writes_predictions_attention_and_what_it_dropped(
    paths, run_directory, tmp_path, capsys
):
    out, attention = tmp_path / "out.tsv", tmp_path / "attention.tsv.gz"
    files = [item for name, path in paths.items() for item in (f"--{name}", path)]
    files += ["--cache-dir", tmp_path / "cache", "--model", run_directory, "--out", out]
    assert predict.run(options(predict, *files, "--attention", attention)) == 0
    table = pd.read_csv(out, sep="\t")
    assert list(table["chrom"]) == ["chr1", "chr2", "chr10", "chrX"]  # natural order
    expected = ["gene_id", "gene_name", "chrom", "tss", "prediction", "sd", "fold_1", "fold_2"]
    expected += ["fold", "in_training", "n_elements", "n_dropped", "label", "units", "rna"]
    assert list(table) == expected
    links = pd.read_csv(attention, sep="\t")
    assert links.groupby("gene_id")["attention"].sum().lt(1).all()
    assert len(links) == table["n_elements"].sum()
    dropped = pd.read_csv(tmp_path / "out.dropped.tsv", sep="\t")
    assert len(dropped) == table["n_dropped"].sum() > 0
    printed = capsys.readouterr().out
    assert "links left out: " in printed and printed.endswith(f"{out}\n")


@pytest.mark.parametrize(
    ("trained_on_both", "averaged", "said"),
    [(True, False, True), (True, True, False), (False, False, False)],
)
def test_one_strand_of_models_trained_on_both_is_mentioned(trained_on_both, averaged, said, caplog):
    one = model()
    info = dataclasses.replace(one.info, both_strands=trained_on_both)
    caplog.set_level("INFO")
    ensembles.mention_strands([one._replace(info=info)], averaged)
    assert ("--average-strands" in caplog.text) == said


def test_a_built_data_set_gives_the_same_predictions(paths, run_directory, genes, tmp_path):
    files = {key: paths[key] for key in ("genes", "links", "fasta")}
    built = tmp_path / "built"
    builder.build(built, **files, rule=RULE, promoter_bp=400, cache_dir=tmp_path / "cache")
    common = ["--model", run_directory, "--out", tmp_path / "out.tsv"]
    predict.run(options(predict, *common, "--dataset", built / "genes"))
    table = pd.read_csv(tmp_path / "out.tsv", sep="\t").set_index("gene_id")
    models = ensembles.load_models([run_directory], kind="expression")
    expected = predict.predict_expression(models, genes).predictions.set_index("gene_id")
    expected = expected.loc[table.index, "prediction"]
    np.testing.assert_allclose(table["prediction"], expected, rtol=1e-5, atol=1e-6)
    for wrong in (["--dataset", built / "genes", "--genes", paths["genes"]], []):
        with pytest.raises(ValueError, match="--dataset"):
            predict.run(options(predict, *common, *wrong))
    with pytest.raises(ValueError, match="was built with ElementRule"):
        inputs.from_dataset(built / "genes", rule=ElementRule())


def test_the_activity_command_predicts_a_fasta(tmp_path, capsys):
    checkpoint.save_model(tmp_path / "model", *model(ACTIVITY)[1:])
    codes = tiny_inputs.write_fasta(tmp_path / "w.fa", {"b": 64, "a": 64, "short": 33})
    out = tmp_path / "out.tsv"
    common = ["--model", tmp_path / "model", "--fasta", tmp_path / "w.fa", "--out", out]
    common += ["--cache-dir", tmp_path / "cache"]
    assert activity.run(options(activity, *common)) == 0
    forward = pd.read_csv(out, sep="\t").set_index("name")
    assert list(forward) == ["log2_activity", "activity"]
    assert list(forward.index) == ["b", "a", "short"]  # in the order of the file
    activity.run(options(activity, *common, "--average-strands"))
    both = pd.read_csv(out, sep="\t").set_index("name")
    other = [sequence.reverse_complement(code) for code in codes.values()]
    backward = activity.predict_activity([model(ACTIVITY)], list(codes), other).set_index("name")
    mean = (forward["log2_activity"] + backward["log2_activity"]) / 2
    np.testing.assert_allclose(both["log2_activity"], mean[both.index], rtol=0, atol=1e-6)
    expected = (2 ** both["log2_activity"] - 0.1).clip(lower=0)
    np.testing.assert_allclose(both["activity"], expected, rtol=0, atol=1e-6)
    assert capsys.readouterr().out == f"{out}\n{out}\n"


def test_windows_of_a_genome_are_predicted_by_the_fold_that_tests_them(tmp_path):
    for seed, name in enumerate(PARTS):
        checkpoint.save_model(tmp_path / "run" / name, *model(ACTIVITY, name, seed)[1:])
    tiny_inputs.write_fasta(tmp_path / "g.fa")
    rows = [["chr2", 0, 64, "x"], ["chrX", 3970, 4034, "y"], ["chr1", 100, 164, "z"]]
    windows = tiny_inputs.write_tsv(tmp_path / "w.tsv", ["chrom", "start", "end", "note"], rows)
    out = tmp_path / "out.tsv"
    common = ["--model", tmp_path / "run", "--fasta", tmp_path / "g.fa", "--out", out]
    activity.run(
        options(activity, *common, "--windows", windows, "--cache-dir", tmp_path / "cache")
    )
    table = pd.read_csv(out, sep="\t")
    assert list(table["fold"]) == ["fold_1", "fold_2", "fold_2"]
    assert list(table["in_training"]) == ["no"] * 3
    assert list(table["name"]) == ["chr1:101-164", "chr2:1-64", "chrX:3971-4034"]
    assert table[["chrom", "start", "note"]].values.tolist() == [
        ["chr1", 100, "z"],
        ["chr2", 0, "x"],
        ["chrX", 3970, "y"],
    ]


def test_nobody_knows_whether_a_sequence_without_a_place_was_in_training():
    models = [model(ACTIVITY, "fold_1")]
    speaking = np.ones((1, 2), bool)
    folds, seen = ensembles.fold_and_training(models, ["", "chr1"], speaking)
    assert folds == ["fold_1", "fold_1"] and seen == ["unknown", "no"]


def test_sequences_that_do_not_fit_the_window_are_named():
    for length in (65, 0):
        codes = np.ones(length, np.uint8)
        with pytest.raises(ValueError, match=f"sequence x has {length} bases, expected 1 to 64"):
            activity.predict_activity([model(ACTIVITY)], ["x"], [codes])
    with pytest.raises(ValueError, match="no sequence"):
        activity.predict_activity([model(ACTIVITY)], [], [])


def test_units_say_how_the_label_was_made():
    assert predict.units_of({"name": "log10", "offset": 1.0}) == "log10(x + 1)"
    assert predict.units_of({}) == ""
