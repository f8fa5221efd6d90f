"""From a simulated genome to the report by the commands people type; the same run started again."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import tiny_runs

from data_prep import __main__ as data_prep
from epinformer_jax.train.checkpoint import load_model

CELL = "alpha"
FOLDS = ("fold_1", "fold_2")
SIMULATION = {
    "--genes-per-chromosome": "5",
    "--gene-spacing-bp": "6000",
    "--elements-per-gene": "3",
    "--max-distance-bp": "20000",
    "--seed": "3",
}


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("end_to_end") / "data"
    options = [part for option in SIMULATION.items() for part in option]
    assert data_prep.main(["simulate", "--out", str(folder), *options]) == 0
    return folder


@pytest.fixture(scope="module")
def records(simulated):
    tables = simulated / "prepared" / CELL
    windows = pd.read_csv(tables / "windows.tsv", sep="\t")
    small = windows.groupby("chrom", sort=False).head(24)  # of some 500 a chromosome
    small.to_csv(simulated / "windows.tsv", sep="\t", index=False)
    out = simulated.parent / "records"
    arguments = {
        "--fasta": simulated / "genome.fa",
        "--genes": tables / "genes.tsv",
        "--links": tables / "links.tsv",
        "--windows": simulated / "windows.tsv",
        "--out": out,
        "--window-bp": 256,
        "--promoter-bp": 256,
        "--max-elements": 6,
    }
    given = [str(part) for option in arguments.items() for part in option]
    assert data_prep.main(["build", *given]) == 0
    return out


@pytest.fixture(scope="module")
def settings(simulated, records):
    """The configuration as a file, and the environment of the processes that train."""
    config = tiny_runs.config_for(
        records,
        data__folds=str(simulated / "folds.tsv"),
        data__ceiling=str(simulated / "truth" / CELL / "truth.json"),
        data__genome="simulated",
        features__schema="log_signals",
        features__preset="PE-Activity-HiC",
        model__window_bp=256,
        model__activity_window_bp=256,
        model__max_elements=6,
        pretrain__epochs=1,
        pretrain__batch_size=32,
        train__epochs=2,
        train__batch_size=64,  # one layout
    )
    path = simulated.parent / "tiny.py"
    path.write_text(tiny_runs.as_python(config))
    cache = simulated.parent / "compiled"
    environment = {
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return path, environment


@pytest.fixture(scope="module")
def trained(settings, simulated, run_python):
    """The finished run, and what the command said."""
    path, environment = settings
    run = simulated.parent / "run"
    arguments = ("-m", "epinformer_jax.main", "--config", path, "--workdir", run)
    done = run_python(*arguments, env=environment)
    assert done.returncode == 0, done.stderr
    return run, done


def table(path):
    return pd.read_csv(path, sep="\t")


def test_the_built_data_sets_are_proved_whole(records, simulated, capsys):
    assert data_prep.main(["check", str(records), "--fasta", str(simulated / "genome.fa")]) == 0
    counts = json.loads((records / "genes" / "manifest.json").read_text())["counts"]
    assert counts["genes"] == len(table(simulated / "prepared" / CELL / "genes.tsv"))


def test_the_command_ends_with_the_paths_of_what_it_made(trained):
    run, done = trained
    last = done.stdout.splitlines()[-2:]
    assert last == [f"metrics: {run / 'metrics.json'}", f"report:  {run / 'report.html'}"]
    assert "Traceback" not in done.stderr


def test_every_test_gene_is_predicted_once_by_the_fold_that_tests_it(trained, simulated):
    run, _ = trained
    folds = table(simulated / "folds.tsv")
    tested = folds[folds["role"] == "test"]
    fold_of = dict(zip(tested["split"], tested["fold"], strict=True))
    genes = table(simulated / "prepared" / CELL / "genes.tsv").set_index("gene_id")
    pooled = table(run / "predictions.tsv").set_index("gene_id")
    assert pooled.index.is_unique and set(pooled.index) == set(genes.index)
    assert (pooled["fold"] == genes.loc[pooled.index, "chrom"].map(fold_of)).all()
    np.testing.assert_allclose(
        pooled["measured"], genes.loc[pooled.index, "rna"], rtol=1e-5, atol=1e-6
    )
    assert np.isfinite(pooled["prediction"]).all()


def test_every_file_of_a_run_is_there(trained):
    run, _ = trained
    names = ["config.json", "versions.json", "metrics.json", "predictions.tsv", "report.html"]
    per_fold = ["config.json", "history.tsv", "predictions.tsv", "metrics.json", "attention.tsv"]
    for fold in FOLDS:
        names += [f"{fold}/{name}" for name in per_fold]
        names += [f"{fold}/encoder/{name}" for name in per_fold[:-1]]
    missing = [name for name in names if not (run / name).is_file()]
    assert not missing
    assert not list(run.rglob("*.partial")), "a temporary file was left"


def test_metrics_agree_with_the_predictions(trained):
    run, _ = trained
    metrics, pooled = json.loads((run / "metrics.json").read_text()), table(run / "predictions.tsv")
    assert metrics["n"] == len(pooled) and set(metrics["folds"]) == set(FOLDS)
    r = np.corrcoef(pooled["measured"], pooled["prediction"])[0, 1]
    assert metrics["pooled"]["model"]["pearson"]["value"] == pytest.approx(r, abs=1e-5)
    assert 0 < metrics["ceiling"] <= 1
    for fold, scores in metrics["folds"].items():
        assert scores["model"]["n"] == (pooled["fold"] == fold).sum()


def test_the_report_shows_the_scores(trained):
    run, _ = trained
    page = (run / "report.html").read_text("utf-8")
    metrics = json.loads((run / "metrics.json").read_text())
    assert f"{metrics['pooled']['model']['pearson']['value']:.3f}" in page
    assert "<html" in page and "Fold by fold" in page


def test_each_fold_holds_a_model_that_knows_its_chromosomes(trained, simulated):
    folds = table(simulated / "folds.tsv")
    for fold in FOLDS:
        for folder, kind in (("", "expression"), ("encoder", "activity")):
            _, info = load_model(trained[0] / fold / folder)
            assert info.model.kind == kind
            for role in ("train", "valid", "test"):
                rows = folds[(folds["fold"] == fold) & (folds["role"] == role)]
                assert sorted(info.chromosomes[role]) == sorted(rows["split"])


def test_a_second_start_trains_nothing_and_predicts_the_same(
    trained, settings, simulated, run_python
):
    """Also after the pooled tables are gone: they are made again from the checkpoints."""
    run, _ = trained
    path, environment = settings
    again = simulated.parent / "again"
    shutil.copytree(run, again)
    for name in ("predictions.tsv", "metrics.json", "report.html"):
        (again / name).unlink()
    arguments = ("-m", "epinformer_jax.main", "--config", path, "--workdir", again)
    done = run_python(*arguments, env=environment)
    assert done.returncode == 0, done.stderr
    for name in ("predictions.tsv", "metrics.json"):
        assert (again / name).read_bytes() == (run / name).read_bytes()
    for fold in FOLDS:
        for folder in (fold, f"{fold}/encoder"):
            for name in ("history.tsv", "predictions.tsv"):
                before, after = run / folder / name, again / folder / name
                assert after.read_bytes() == before.read_bytes(), f"{folder}/{name}"
    assert (again / "report.html").is_file()
