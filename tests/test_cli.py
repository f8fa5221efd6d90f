"""The `epinformer` command: overview, help, errors in one line, quiet logs, short score tables."""

import json
import logging as std_logging
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import tiny_inputs
from absl import logging

from epinformer_jax import cli, messages
from epinformer_jax.analysis import benchmark_expression, ensembles, summary
from epinformer_jax.analysis.benchmark_expression import Genes
from epinformer_jax.data import elements, tables
from epinformer_jax.data.folds import Fold
from epinformer_jax.train import baselines, devices, rundir

CHROMOSOMES = ("chr1", "chr2", "chr3", "chr4", "chr5", "chr6")


def test_overview_names_every_command(capsys):
    assert cli.main([]) == 2 and cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name}" in text for name in cli.COMMANDS)


@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_every_command_answers_help(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([command, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert f"epinformer {command}" in text and "--" in text.replace("--help", "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["report", "no/such/run"],
        ["convert", "--weights", "no/such.pt", "--out", "nowhere"],
        ["predict", "--model", "no/such/model", "--out", "nowhere.tsv"],
        ["activity", "--model", "no/such/model", "--fasta", "no.fa", "--out", "nowhere.tsv"],
        ["benchmark", "expression", "--genes", "no/such.tsv", "--out", "nowhere"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, capsys):
    assert cli.main(arguments) == 2
    streams = capsys.readouterr()
    assert streams.err.startswith("error: ") and streams.err.count("\n") == 1
    assert not streams.out


def test_a_missing_input_is_refused_before_any_model_is_loaded(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ensembles, "load_models", lambda *_, **__: pytest.fail("loaded"))
    given = ["--model", str(tmp_path), "--genes", "no.tsv", "--fasta", str(tmp_path)]
    assert cli.main(["predict", *given, "--out", "nowhere.tsv"]) == 2
    assert capsys.readouterr().err == "error: no.tsv: no such file or folder (--genes)\n"


def test_an_output_without_a_folder_is_refused_before_any_model_is_loaded(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(ensembles, "load_models", lambda *_, **__: pytest.fail("loaded"))
    given = ["--model", str(tmp_path), "--genes", str(tmp_path), "--fasta", str(tmp_path)]
    out = tmp_path / "nowhere" / "out.tsv"
    assert cli.main(["predict", *given, "--out", str(out)]) == 2
    expected = f"error: {out}: there is no folder {out.parent} to write to (--out)\n"
    assert capsys.readouterr().err == expected


def test_programs_are_kept_by_commands_that_take_a_model_and_by_no_other(tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(devices, "use_compilation_cache", lambda *a, **k: kept.append((a, k)))
    given = ["--model", str(tmp_path), "--fasta", str(tmp_path), "--out", str(tmp_path / "x.tsv")]
    assert cli.main(["activity", *given]) == 2 and not kept
    assert cli.main(["activity", *given], keep_programs=True) == 2
    assert kept == [(("auto",), {"least_seconds": cli.KEPT_FROM_S})]
    assert cli.main(["report", str(tmp_path)], keep_programs=True) == 2 and len(kept) == 1


def test_an_interrupted_import_is_one_line(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "predict", interrupted)
    assert cli.main(["predict"]) == 130
    assert capsys.readouterr().err == "error: interrupted\n"


def test_unknown_command_and_option_are_named(capsys):
    assert cli.main(["predicts"]) == 2
    assert "predicts" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        cli.main(["report", "run", "--colour", "red"])
    assert stopped.value.code == 2 and "--colour" in capsys.readouterr().err


def test_the_overview_and_the_package_need_no_jax():
    code = (
        "import sys, epinformer_jax; from epinformer_jax import cli; cli.main(['--help']); "
        "assert not {'jax', 'numpy', 'pandas', 'flax'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


SAYS = """
from types import SimpleNamespace as Any
from epinformer_jax import messages
with messages.on_stderr():
    from epinformer_jax.analysis import ensembles  # absl comes with it
    ensembles.mention_strands([Any(info=Any(both_strands=True))], False)
"""


def test_our_lines_are_shown_by_a_program_that_has_imported_nothing_yet(run_python):
    assert "--average-strands" in run_python("-c", SAYS).stderr


@pytest.mark.parametrize(
    ("option", "said"),
    [("--scale-activity=1,two", "--scale-activity"), ("--scale-activity", "is joined to it")],
)
def test_a_wrong_option_is_one_line(option, said, capsys):
    given = ["--model", ".", "--fasta", ".", "--out", "x.tsv", option, "-1,2"]
    with pytest.raises(SystemExit) as stopped:
        cli.main(["perturb", *given])
    told = capsys.readouterr().err
    assert stopped.value.code == 2 and told.startswith("error: ") and told.count("\n") == 1
    assert said in told


def test_others_lines_below_warning_stay_off_the_screen(capsys):
    def record(path, level):
        return std_logging.LogRecord("absl", level, path, 1, "said", (), None)

    here = messages.__file__
    assert messages.is_ours_or_warns(record(here, std_logging.INFO))
    assert not messages.is_ours_or_warns(record("/elsewhere/orbax.py", std_logging.INFO))
    assert messages.is_ours_or_warns(record("/elsewhere/orbax.py", std_logging.WARNING))
    handlers = list(std_logging.getLogger("absl").handlers)
    with messages.on_stderr():
        logging.warning("two\nlines")
        logging.info("a test is not ours")
    assert capsys.readouterr().err.endswith("warning: two lines\n")
    assert std_logging.getLogger("absl").handlers == handlers


# --- scores on the screen


def interval(value, low=None, high=None):
    return {"value": value, "low": low, "high": high}


def test_score_table_has_model_baselines_gain_and_ceiling():
    def scores(r):
        return {"n": 1234, "pearson": interval(r, 0.1, 0.9), "mse": interval(0.25, 0.2, 0.3)}

    text = summary.result_table(
        {
            "pooled": {
                "baseline_training_mean": scores(None),
                "baseline_ridge": scores(0.5),
                "model": scores(0.625),
                "baseline_mlp": scores(0.75),
            },
            "best_baseline": "baseline_mlp",
            "gain": {"pearson": interval(-0.125, -0.2, 0.05)},
            "ceiling": 0.9,
            "control": "permuted_labels",
        }
    )
    lines = text.splitlines()
    assert [line.split("  ")[0] for line in lines[1:5]] == [
        "model",
        "mlp",
        "ridge",
        "training mean",
    ]
    assert "0.6250 [0.1000, 0.9000]" in lines[1] and "1,234" in lines[1]
    assert "undefined" in lines[4]
    assert "(mlp): -0.1250 [-0.2000, +0.0500]" in text and "r 0.900" in text
    assert "permuted_labels" in text


def test_json_has_null_for_what_is_not_finite(tmp_path):
    content = {"a": [float("nan"), 1.5, {"b": np.float64("inf")}], "c": (None, "text", 3)}
    rundir.write_json(tmp_path / "x.json", content)

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    read = json.loads((tmp_path / "x.json").read_text(), parse_constant=refuse)
    assert read == {"a": [None, 1.5, {"b": None}], "c": [None, "text", 3]}


# --- benchmark expression


def write_inputs(folder, *, genes_each=12):
    """Genes whose label follows promoter activity and the sum over elements; folds; predictions."""
    rng = np.random.default_rng(0)
    genes, links = [], []
    for chrom in CHROMOSOMES:
        for number in range(genes_each):
            gene, tss = f"{chrom}_{number}", 100_000 * (number + 1)
            row = tiny_inputs.gene_row(gene, chrom, tss)
            row[-2] = float(rng.uniform(0, 20))
            amounts = rng.uniform(0, 5, rng.integers(1, 5))
            for place, amount in enumerate(amounts):
                start = tss + 5000 * (place + 1)
                links.append([gene, chrom, start, start + 400, round(amount, 4), 0.01])
            row[-1] = float(np.log1p(row[-2]) + 0.1 * amounts.sum() + 0.05 * rng.normal())
            genes.append(row)
    folds = [
        [chrom, f"fold_{1 + index // 3}", "test"] for index, chrom in enumerate(CHROMOSOMES)
    ] + [
        [chrom, f"fold_{2 - index // 3}", "valid" if index % 3 == 0 else "train"]
        for index, chrom in enumerate(CHROMOSOMES)
    ]
    tiny_inputs.write_tsv(folder / "genes.tsv", tiny_inputs.GENE_HEADER, genes)
    tiny_inputs.write_tsv(folder / "links.tsv", tiny_inputs.LINK_HEADER, links)
    tiny_inputs.write_tsv(folder / "folds.tsv", ["split", "fold", "role"], folds)
    answers = [[row[0], row[-1], "no"] for row in genes[1:]]
    header = ["gene_id", "prediction", "in_training"]
    tiny_inputs.write_tsv(folder / "oracle.tsv", header, answers)
    return folder


def arguments(folder, *more):
    options = {"genes": "genes.tsv", "links": "links.tsv", "folds": "folds.tsv", "out": "out"}
    given = [str(x) for name, file in options.items() for x in (f"--{name}", folder / file)]
    return ["benchmark", "expression", *given, *map(str, more)]


@pytest.fixture(autouse=True)
def quick_baselines(monkeypatch):
    """Two of the five, which is what most of the time goes to."""
    full = baselines.fit_predict

    def two(train, labels, test):
        monkeypatch.setattr(baselines, "_mlp", lambda train, labels, test, **_: test[:, 0])
        monkeypatch.setattr(baselines, "_boosted_trees", lambda train, labels, test: test[:, 0])
        return full(train, labels, test)

    monkeypatch.setattr(baselines, "fit_predict", two)


def test_benchmark_measures_baselines_and_predictions_on_the_same_genes(tmp_path, capsys):
    folder = write_inputs(tmp_path)
    assert cli.main(arguments(folder, "--predictions", folder / "oracle.tsv")) == 0
    content = json.loads((folder / "out" / "metrics.json").read_text())
    table = pd.read_csv(folder / "out" / "predictions.tsv", sep="\t")
    assert content["n"] == len(table) == 12 * 6 - 1 and content["left_out"] == 1
    assert set(table["gene_id"]) == set(pd.read_csv(folder / "oracle.tsv", sep="\t")["gene_id"])
    assert content["pooled"]["oracle"]["pearson"]["value"] == pytest.approx(1)
    assert content["best_baseline"] == "baseline_ridge"
    assert content["pooled"]["baseline_ridge"]["pearson"]["value"] > 0.8
    expected = 1 - content["pooled"]["baseline_ridge"]["pearson"]["value"]
    assert content["gains"]["oracle"]["pearson"]["value"] == pytest.approx(expected)
    text = capsys.readouterr().out
    assert "oracle - ridge: r +" in text and "left out" in text


def test_benchmark_refuses_what_was_seen_in_training(tmp_path, capsys):
    folder = write_inputs(tmp_path)
    text = (folder / "oracle.tsv").read_text().splitlines()
    text[3] = text[3].replace("\tno", "\tvalidation")
    (folder / "oracle.tsv").write_text("\n".join(text) + "\n")
    assert cli.main(arguments(folder, "--predictions", folder / "oracle.tsv")) == 2
    message = capsys.readouterr().err
    assert "oracle.tsv:4" in message and "held-out" in message
    assert not (folder / "out").exists()


def test_baselines_of_a_gene_come_from_the_training_genes_of_its_fold(tmp_path):
    folder = write_inputs(tmp_path)
    rule = elements.ElementRule()
    genes = benchmark_expression.from_tables(
        folder / "genes.tsv", folder / "links.tsv", label="rna", rule=rule
    )
    assert [e.gene_id for e in genes.examples] == list(
        tables.read_genes(folder / "genes.tsv")["gene_id"]
    )
    fold_table = {"a": Fold("a", ("chr1", "chr2"), ("chr3",), ("chr4",))}
    table = benchmark_expression.compare(genes, fold_table, {})
    split = np.array([example.split for example in genes.examples])
    train, test = np.isin(split, ["chr1", "chr2"]), split == "chr4"
    np.testing.assert_allclose(
        table["baseline_training_mean"], np.full(12, genes.labels[train].mean())
    )
    assert list(table["measured"]) == list(genes.labels[test]) and set(table["fold"]) == {"a"}
    assert table.attrs["left_out"] == 12 * 5


def test_a_gene_tested_twice_is_refused(tmp_path):
    folder = write_inputs(tmp_path)
    genes = benchmark_expression.from_tables(
        folder / "genes.tsv", folder / "links.tsv", label="rna", rule=elements.ElementRule()
    )
    fold = Fold("a", ("chr1",), ("chr2",), ("chr3",))
    with pytest.raises(ValueError, match="tested by two of the folds"):
        benchmark_expression.compare(genes, {"a": fold, "b": fold}, {})
    with pytest.raises(ValueError, match="no gene is tested"):
        none = Genes(
            genes.examples[:12], genes.link_signal_names, genes.gene_signal_names, genes.labels[:12]
        )
        benchmark_expression.compare(none, {"a": fold}, {})


def test_lines_of_libraries_stay_off_the_screen_and_ours_come_once(capsys):
    """A library may have given the root logger a handler of its own."""
    root, handler = std_logging.getLogger(), std_logging.StreamHandler(sys.stderr)
    root.addHandler(handler)
    try:
        with messages.on_stderr():
            logger = std_logging.getLogger("absl")
            logger.warning("told once")
            logger.handle(
                logger.makeRecord("absl", std_logging.INFO, "/lib/orbax.py", 1, "x", (), None)
            )
    finally:
        root.removeHandler(handler)
    assert capsys.readouterr().err == "warning: told once\n"
