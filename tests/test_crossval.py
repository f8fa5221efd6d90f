"""Whole runs on tiny data: every test gene once, by the fold that tests it; no leak; nothing
trained twice.
"""

import json
import shutil
import time

import jax
import numpy as np
import pandas as pd
import pytest
import tiny_datasets
import tiny_models
import tiny_runs

from epinformer_jax.data import records
from epinformer_jax.data.folds import Fold
from epinformer_jax.train import (
    crossval,
    devices,
    distributed,
    evaluation,
    label_transforms,
    rundir,
    side_by_side,
)
from epinformer_jax.train.checkpoint import ModelInfo, load_model

pytestmark = pytest.mark.usefixtures("quick_compilation")

FOLDS = {"fold_1": ("chr4", ["chr1", "chr2"]), "fold_2": ("chr1", ["chr2", "chr3"])}
BASELINES = ["training_mean", "promoter_activity", "ridge", "boosted_trees", "mlp"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_runs.write_data(tmp_path_factory.mktemp("crossval"))


@pytest.fixture(scope="module")
def first_fold(data, tmp_path_factory):
    """A finished run of fold 1 alone."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    return crossval.run(tiny_runs.config_for(data, data__fold_names=("fold_1",)), folder)


@pytest.fixture(scope="module")
def run(data, first_fold, tmp_path_factory):
    """The same directory after a second call, for both folds; fold 1 as it was is beside it."""
    shutil.copytree(first_fold / "fold_1", first_fold.parent / "fold_1_before")
    return crossval.run(tiny_runs.config_for(data), first_fold)


def table(path):
    return pd.read_csv(path, sep="\t")


def read_json(path):
    return json.loads(path.read_text())


def test_every_test_gene_stands_once_in_the_pooled_table(run):
    pooled = table(run / "predictions.tsv")
    expected = [f"{FOLDS[fold][0]}_gene{n}" for fold in FOLDS for n in range(7)]
    assert sorted(pooled["gene_id"]) == sorted(expected)
    for fold, rows in pooled.groupby("fold"):
        assert set(rows["split"]) == {FOLDS[fold][0]}
    assert np.isfinite(pooled["prediction"]).all()


def test_measured_values_and_element_numbers_are_those_of_the_data(run):
    genes = {g.gene_id: g for split in tiny_datasets.genes_of().values() for g in split}
    for row in table(run / "predictions.tsv").itertuples():
        gene = genes[row.gene_id]
        assert row.measured == pytest.approx(float(gene.labels[0]), rel=1e-6)
        assert row.n_elements == len(gene.element_length)
        assert (row.chrom, row.tss, row.gene_name) == (gene.chrom, gene.tss, gene.gene_name)


def test_pooled_rows_are_the_folds_rows_with_baselines_beside_them(run):
    pooled = table(run / "predictions.tsv")
    assert [c for c in pooled.columns if c.startswith("baseline_")] == [
        f"baseline_{name}" for name in BASELINES
    ]
    for fold in FOLDS:
        own = table(run / fold / "predictions.tsv").set_index("gene_id").sort_index()
        rows = pooled[pooled["fold"] == fold].set_index("gene_id").sort_index()
        pd.testing.assert_frame_equal(rows[own.columns], own)
        labels = [g.labels[0] for split in FOLDS[fold][1] for g in tiny_datasets.genes_of()[split]]
        np.testing.assert_allclose(rows["baseline_training_mean"], np.mean(labels), rtol=1e-5)


def test_metrics_are_those_of_the_pooled_table(run):
    pooled, metrics = table(run / "predictions.tsv"), read_json(run / "metrics.json")
    assert metrics["n"] == len(pooled) == 14 and metrics["label"] == "rna"
    for name, column in [("model", "prediction"), ("baseline_ridge", "baseline_ridge")]:
        score = metrics["pooled"][name]
        expected = np.corrcoef(pooled["measured"], pooled[column])[0, 1]
        assert score["pearson"]["value"] == pytest.approx(expected, abs=1e-5)
        mse = ((pooled["measured"] - pooled[column]) ** 2).mean()
        assert score["mse"]["value"] == pytest.approx(mse, rel=1e-5)
        assert score["pearson"]["low"] <= score["pearson"]["value"] <= score["pearson"]["high"]
    best = metrics["best_baseline"]
    values = {k: v["pearson"]["value"] for k, v in metrics["pooled"].items() if k != "model"}
    assert values[best] == max(v for v in values.values() if v is not None)
    gain = metrics["gain"]["pearson"]
    assert gain["value"] == pytest.approx(
        metrics["pooled"]["model"]["pearson"]["value"] - values[best], abs=1e-6
    )
    assert set(metrics["folds"]) == set(FOLDS)


def test_attention_names_each_element_of_the_test_genes(run):
    genes = tiny_datasets.genes_of()
    for fold, (test, _) in FOLDS.items():
        attention = table(run / fold / "attention.tsv")
        assert len(attention) == sum(len(g.element_length) for g in genes[test])
        assert ((attention["attention"] > 0) & (attention["attention"] < 1)).all()
        for gene in genes[test]:
            rows = attention[attention["gene_id"] == gene.gene_id].sort_values("start")
            order = np.argsort(gene.element_start, kind="stable")
            assert rows["start"].tolist() == gene.element_start[order].tolist()
            assert rows["distance"].tolist() == gene.distance_bp[order].tolist()
            expected = gene.link_signals[order]
            np.testing.assert_allclose(rows[["activity", "contact"]], expected, rtol=1e-5)
            assert rows["attention"].sum() < 1, "the promoter has a share"


def test_every_json_file_is_strict_json(run):
    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    files = sorted(run.rglob("*.json"))
    assert len(files) > 8
    for path in files:
        json.loads(path.read_text(), parse_constant=refuse)


def test_each_model_says_what_it_was_trained_on(run, data):
    for fold, (test, train) in FOLDS.items():
        for folder, kind in ((run / fold, "expression"), (run / fold / "encoder", "activity")):
            variables, info = load_model(folder)
            assert info.model.kind == kind and info.fold == fold and info.genome == "made up"
            assert info.chromosomes["train"] == train and info.chromosomes["test"] == [test]
            assert not info.both_strands  # the run's config does not flip
            assert info.to_dict() == ModelInfo.from_dict(read_json(folder / "model.json")).to_dict()
        quantiles = info_quantiles(run / fold)
        activity = [g.gene_signals[-1] for split in train for g in tiny_datasets.genes_of()[split]]
        expected = np.quantile(activity, crossval.QUANTILES)
        np.testing.assert_allclose(quantiles["promoter_activity"], expected, rtol=1e-5)


def info_quantiles(folder):
    return load_model(folder)[1].feature_quantiles


def test_a_fold_that_is_done_is_not_trained_again(run):
    before, after = run.parent / "fold_1_before", run / "fold_1"
    for name in ("history.tsv", "encoder/history.tsv", "predictions.tsv", "attention.tsv"):
        assert (before / name).read_bytes() == (after / name).read_bytes(), name  # times included
    steps = [
        sorted(p.name for p in (folder / "checkpoints").iterdir()) for folder in (before, after)
    ]
    assert steps[0] == steps[1]


SIDE_BY_SIDE = """
import pathlib, sys, threading
import tiny_runs
from epinformer_jax.train import crossval, devices
seen = {}
original = crossval.loop.fit
def fit(*arguments, mesh, name, **options):
    seen[name] = threading.get_ident(), [device.id for device in mesh.devices.flat]
    return original(*arguments, mesh=mesh, name=name, **options)
crossval.loop.fit = fit
data, run = map(pathlib.Path, sys.argv[1:])
config = tiny_runs.config_for(data, task="activity", encoder__source="none")
crossval.run(config, run)
assert len(devices.places(2)) == 2 and len(devices.places(2, parallel=1)) == 1
threads, places = zip(*seen.values())
assert len(seen) == 2 and len(set(threads)) == 2 and sorted(places) == [[0], [1]], seen
"""


def test_folds_side_by_side_equal_those_one_after_another(data, run_python, tmp_path):
    """Two folds on two devices of one process; each is computed as on a device of its own."""
    config = tiny_runs.config_for(data, task="activity", encoder__source="none")
    alone = crossval.run(config, tmp_path / "alone")
    environment = {"PYTHONPATH": "tests", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    run = tmp_path / "run"
    done = run_python("-c", SIDE_BY_SIDE, data, run, devices=2, env=environment)
    assert done.returncode == 0, done.stderr
    for name in ("predictions.tsv", "fold_1/predictions.tsv", "fold_2/predictions.tsv"):
        pd.testing.assert_frame_equal(table(run / name), table(alone / name), rtol=0, atol=1e-6)
    for fold in FOLDS:
        variables = [load_model(folder / fold)[0] for folder in (run, alone)]
        tiny_models.assert_trees_close(*variables, atol=1e-6)


def test_folds_that_share_a_cpu_equal_those_one_after_another(data, tmp_path):
    config = tiny_runs.config_for(data, task="activity", encoder__source="none")
    for at_once in (1, 2):
        with config.unlocked():
            config.train.folds_in_parallel = at_once
        crossval.run(config, tmp_path / str(at_once))
    one, two = tmp_path / "1", tmp_path / "2"
    for name in ("predictions.tsv", "fold_1/predictions.tsv", "fold_2/predictions.tsv"):
        pd.testing.assert_frame_equal(table(one / name), table(two / name), rtol=0, atol=1e-6)
    for fold in FOLDS:
        variables = [load_model(folder / fold)[0] for folder in (one, two)]
        tiny_models.assert_trees_close(*variables, atol=1e-6)


def test_when_a_fold_fails_the_others_save_and_its_error_is_raised():
    seen = []

    def work(job, mesh):
        seen.append(job)
        if job == "fails":
            raise ValueError("the loss at step 3 is nan")
        while not distributed.must_stop():
            time.sleep(0.01)
        raise distributed.Preempted("asked to end")

    with distributed.stops_on_sigterm(), pytest.raises(ValueError, match="step 3 is nan"):
        mesh = devices.mesh_of(jax.devices()[:1])
        side_by_side.run(work, ["goes on", "fails", "never starts"], [mesh, mesh])
    assert sorted(seen) == ["fails", "goes on"]


def test_a_frozen_encoder_is_cached_while_folds_train_and_changes_nothing(run, data, tmp_path):
    """The same run without and with stored outputs; no file is left."""
    settings = {
        "data__fold_names": ("fold_1",),
        "encoder__source": "directory",
        "encoder__directory": str(run),
        "encoder__mode": "frozen",
    }
    folders = []
    for setting in ("off", "on"):
        config = tiny_runs.config_for(data, train__encoder_cache=setting, **settings)
        folders.append(crossval.run(config, tmp_path / setting))
    plain, cached = (table(folder / "predictions.tsv") for folder in folders)
    pd.testing.assert_frame_equal(plain, cached, rtol=0, atol=1e-5)
    history, cached_history = (table(f / "fold_1" / "history.tsv") for f in folders)
    np.testing.assert_allclose(history["train_loss"], cached_history["train_loss"], atol=1e-6)
    assert not list(tmp_path.rglob("encoder_cache"))


def test_the_model_says_how_its_label_was_made(data):
    stated = "z_log10,offset=0.1,mean=0.2,sd=1.1"
    config = tiny_runs.config_for(data, data__label_transform=stated, data__label_unit="z")
    expected = {"unit": "z", "name": "z_log10", "offset": 0.1, "mean": 0.2, "sd": 1.1}
    manifest = records.Manifest("genes", label_transforms={"rna": {"name": "log10", "offset": 1.0}})
    assert label_transforms.of_expression(config, manifest) == expected
    config.data.label_transform = ""
    said_by_data = {"unit": "z", "name": "log10", "offset": 1.0}
    assert label_transforms.of_expression(config, manifest) == said_by_data


def test_an_encoder_says_how_its_label_was_made(data):
    config = tiny_runs.config_for(data)
    stated = {"name": "log2", "offset": 0.1}
    manifest = records.Manifest("windows", label_transforms={"log2_activity": stated})
    assert label_transforms.of_activity(config, manifest) == stated
    unsaid = records.Manifest("windows")
    assert label_transforms.of_activity(config, unsaid) == {"name": "log2"}
    config.data.activity_label = "DNASE:HepG2"
    assert label_transforms.of_activity(config, unsaid) == {}


def test_trained_encoders_can_scale_activity(run):
    """What `--activity-model` asks for."""
    _, info = load_model(run / "fold_1" / "encoder")
    assert info.label == "log2_activity" and info.label_transform["name"] == "log2"


def test_an_unknown_label_transform_is_refused_before_any_training(data, tmp_path):
    config = tiny_runs.config_for(data, data__label_transform="sqrt")
    with pytest.raises(ValueError, match="config.data.label_transform: .*'sqrt' is not known"):
        crossval.run(config, tmp_path / "run")
    assert not list(tmp_path.rglob("checkpoints"))


def test_another_configuration_is_refused_in_the_same_directory(run, data):
    other = tiny_runs.config_for(data, train__epochs=9)
    with pytest.raises(ValueError, match=r"holds a run with config.train.epochs=2, this one has 9"):
        crossval.run(other, run)


def test_other_data_are_refused_in_the_same_directory(run, data, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "genes")
    tiny_datasets.write_genes(tmp_path / "data" / "genes", tiny_datasets.genes_of(seed=9))
    shutil.copytree(run, tmp_path / "run")
    stored = read_json(tmp_path / "run" / "config.json")
    other = tiny_runs.config_for(tmp_path / "data")
    stored["config"] = json.loads(json.dumps(other.to_dict()))
    (tmp_path / "run" / "config.json").write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=r"holds a run with data.genes='\w+', this one has '\w+'"):
        crossval.run(other, tmp_path / "run")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"task": "expression"}', "null"])
def test_a_directory_whose_configuration_cannot_be_read_is_refused(data, tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config.json: not the configuration of a run"):
        crossval.run(tiny_runs.config_for(data), tmp_path)
    assert (tmp_path / "config.json").read_text() == content


def test_the_directory_of_a_fold_is_no_run_directory(run, data):
    with pytest.raises(ValueError, match="a fold's directory is not a --workdir"):
        crossval.run(tiny_runs.config_for(data), run / "fold_1")


def test_an_activity_run_predicts_windows(data, tmp_path):
    config = tiny_runs.config_for(
        data, task="activity", encoder__source="none", data__fold_names=("fold_2",)
    )
    folder = crossval.run(config, tmp_path / "run")
    pooled, metrics = table(folder / "predictions.tsv"), read_json(folder / "metrics.json")
    assert sorted(pooled["name"]) == sorted(f"chr1_window{n}" for n in range(16))
    assert {"baseline_training_mean", "baseline_kmer_ridge"} <= set(pooled.columns)
    assert metrics["label"] == "log2_activity" and metrics["best_baseline"] == "baseline_kmer_ridge"
    assert (folder / "fold_2" / "history.tsv").is_file()


def test_an_encoder_comes_from_the_fold_of_the_same_name(run, data, tmp_path, monkeypatch):
    config = tiny_runs.config_for(
        data, encoder__source="directory", encoder__directory=str(run), encoder__mode="frozen"
    )
    for name in FOLDS:
        fold = crossval.folds_of(config, [crossval.read_genes(config)])[list(FOLDS).index(name)]
        variables = crossval._encoder_weights(config, fold, None, crossval.Place(tmp_path, "x"))
        expected, _ = load_model(run / name / "encoder")
        tiny_models.assert_trees_close(variables, expected, atol=0)


def test_an_encoder_that_saw_test_chromosomes_is_refused_before_any_training(run, data, tmp_path):
    """Fold 1's encoder was trained on chr1, which fold 2 tests."""
    config = tiny_runs.config_for(
        data,
        encoder__source="directory",
        encoder__directory=str(run / "fold_1" / "encoder"),
        encoder__mode="frozen",
    )
    with pytest.raises(ValueError, match="was trained on chr1, which fold_2 tests"):
        crossval.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


FOLD = Fold("fold_3", ("chr1", "chr2"), ("chr10",), ("chr3", "chr4"))


def info_with(train):
    return ModelInfo(tiny_models.ACTIVITY, chromosomes={"train": train})


def test_leakage_is_refused_warned_of_or_said_to_be_unknown(caplog):
    def check(train):
        caplog.clear()
        with caplog.at_level("WARNING", logger="absl"):
            crossval.check_leakage(info_with(train), FOLD, "runs/x")
        return " ".join(record.message for record in caplog.records)

    with pytest.raises(ValueError, match="encoder runs/x was trained on chr3, chr4, which fold_3"):
        check(["chr1", "chr4", "chr3"])
    assert "trained on chr10, validation chromosomes of fold_3" in check(["chr1", "chr10"])
    assert "does not say which chromosomes" in check([])
    assert not check(["chr1", "chr2"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__heads": 3}, "embedding=4 must be a multiple"),
        ({"model__window_bp": 65}, "window_bp=65 is not a multiple of the encoder's stride 2"),
        ({"model__activity_window_bp": 33}, "activity window_bp=33 is not a multiple"),
        ({"model__summary_dilations": (2, 4, 60)}, "widen the window"),
        ({"model__window_bp": 32}, "was built with window_bp=64, wider than"),
        ({"model__activity_window_bp": 16}, "more than the model's 16"),
        ({"data__label": "rnaa"}, "has no label 'rnaa'; its labels are: rna, cage"),
        ({"data__activity_label": "x"}, "has no label 'x'"),
        ({"data__genes": "nowhere"}, "nowhere: no manifest.json"),
        ({"data__fold_names": ("fold_9",)}, "unknown fold 'fold_9'; known: fold_1, fold_2"),
        ({"data__fold_names": ("fold_1", "fold_1")}, "'chr4' is tested by fold_1 and by fold_1"),
        ({"data__ceiling": "nowhere.json"}, "nowhere.json"),
        ({"features__schema": "log_signals"}, "needs the column 'dnase' of the links table"),
        (
            {"encoder__source": "directory", "encoder__directory": "nowhere"},
            "nowhere holds no model",
        ),
        ({"data__folds": "published"}, "the dataset has none of its"),
    ],
)
def test_what_does_not_fit_is_found_before_anything_is_written(data, tmp_path, changes, message):
    with pytest.raises((ValueError, OSError), match=message) as raised:
        crossval.run(tiny_runs.config_for(data, **changes), tmp_path / "run")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_fold_names_may_be_one_text_with_commas(data):
    """What --config.data.fold_names=fold_2,fold_1 gives."""
    config = tiny_runs.config_for(data, data__fold_names=("fold_2,fold_1",))
    folds = crossval.folds_of(config, [crossval.read_genes(config)])
    assert [fold.name for fold in folds] == ["fold_2", "fold_1"]


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"noise_ceiling_pearson": "high"}'])
def test_a_ceiling_file_must_hold_a_number(tmp_path, content):
    path = tmp_path / "truth.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="truth.json: expected JSON with a number noise_ceiling"):
        evaluation.read_ceiling(str(path))
    path.write_text('{"noise_ceiling_pearson": 0.875}')
    assert evaluation.read_ceiling(str(path)) == 0.875
    assert evaluation.read_ceiling("") is None


def test_a_run_id_follows_what_is_run_not_which_folds(tmp_path):
    config = {"name": "a", "data": {"fold_names": ["fold_1"], "label": "rna"}, "seed": 1}
    first = rundir.open_run(tmp_path / "a", config, {"genes": "x"})
    wider = {**config, "name": "b", "data": {**config["data"], "fold_names": []}}
    assert rundir.open_run(tmp_path / "a", wider, {"genes": "x"}) == first
    assert rundir.open_run(tmp_path / "b", {**config, "seed": 2}, {"genes": "x"}) != first
    assert rundir.open_run(tmp_path / "c", config, {"genes": "y"}) != first
    assert set(read_json(tmp_path / "a" / "versions.json")) >= {"jax", "numpy", "python"}
