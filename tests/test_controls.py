"""Long controls on the simulated genome (`make soak`): what the demo's score is made of.

Scrambled sequences must leave no more than the scalars give, permuted labels nothing at all.
"""

import json
import subprocess
import sys

import pytest

from configs import demo
from epinformer_jax.train import crossval

pytestmark = pytest.mark.soak


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("controls")
    data, records = folder / "data", folder / "records"
    tables = data / "prepared" / "alpha"
    commands = (
        ["simulate", "--out", data, "--seed", "1"],
        ["build", "--fasta", data / "genome.fa", "--genes", tables / "genes.tsv"]
        + ["--links", tables / "links.tsv", "--windows", tables / "windows.tsv"]
        + ["--window-bp", "256", "--promoter-bp", "256", "--max-elements", "40", "--out", records],
    )
    for command in commands:
        subprocess.run([sys.executable, "-m", "data_prep", *map(str, command)], check=True)
    return data, records


def _scores(simulated, workdir, control):
    data, records = simulated
    config = demo.get_config()
    config.data.genes, config.data.windows = str(records / "genes"), str(records / "windows")
    config.data.folds = str(data / "folds.tsv")
    config.data.fold_names = ("fold_1",)
    config.data.control = control
    crossval.run(config, workdir)
    metrics = json.loads((workdir / "metrics.json").read_text())
    pearson = {name: score["pearson"]["value"] for name, score in metrics["pooled"].items()}
    return pearson["model"], pearson[metrics["best_baseline"]]


def test_scrambled_sequence_falls_to_the_scalar_baseline(simulated, tmp_path):
    model, baseline = _scores(simulated, tmp_path / "run", "scrambled_sequence")
    assert abs(model - baseline) < 0.06


def test_permuted_labels_leave_nothing_to_predict(simulated, tmp_path):
    model, _ = _scores(simulated, tmp_path / "run", "permuted_labels")
    assert abs(model) < 0.08


def test_the_intact_data_give_much_more_than_the_scalars(simulated, tmp_path):
    model, baseline = _scores(simulated, tmp_path / "run", "none")
    assert model > baseline + 0.1
