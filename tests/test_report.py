"""The report of made-up runs: what it holds, what it says when parts are missing."""

import base64
import html.parser
import json
import re
import xml.etree.ElementTree

import numpy as np
import pandas as pd
import pytest
from made_up_runs import (
    gene_predictions,
    write_activity_run,
    write_expression_run,
    write_json,
    write_tsv,
)

from epinformer_jax.analysis import report, report_run


class Page(html.parser.HTMLParser):
    """Text, images and tables of a page; fails on tags that do not close."""

    VOID = ("meta", "img", "br")

    def __init__(self, text):
        super().__init__()
        self.open, self.images, self.rows, self.text = [], [], [], ""
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "img":
            self.images.append(dict(attrs))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "style":
            return
        self.text += data
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data

    def row(self, first):
        """The table row whose first cell is this."""
        return next(row for row in self.rows if row[:1] == [first])


def read(directory) -> Page:
    """Writes and parses a report."""
    return Page(report.write_report(directory).read_text("utf-8"))


@pytest.fixture(scope="module")
def expression_run(tmp_path_factory):
    return write_expression_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def expression_page(expression_run):
    return read(expression_run)


def test_a_cross_validation_is_reported_whole(expression_page):
    text = " ".join(expression_page.text.split())
    for words in (
        "K562 demo",
        "z of log10(RPKM + 0.1)",
        "data set of genes abcdefabcdef",
        "Noise ceiling",
        "log_signals",
        "train.learning_rate = 0.0005",
        "tested by fold_",
    ):
        assert words in text, words
    titles = ("Model and baselines", "Predicted and measured", "Fold by fold", "Training")
    for title in (*titles, "One gene and its elements", "Provenance"):
        assert title in text, title
    assert len(expression_page.images) == 6
    assert expression_page.row("jax") == ["jax", "0.10.2"]


def test_every_predictor_stands_with_n_values_and_intervals(expression_run, expression_page):
    stored = json.loads((expression_run / "metrics.json").read_text())
    for name, scores in stored["pooled"].items():
        row = expression_page.row(report._predictor(name))
        assert row[1] == "240"
        for cell, metric in zip(row[2:], report._SCORE_COLUMNS, strict=True):
            interval = [scores[metric][key] for key in ("value", "low", "high")]
            shown = [float(x) for x in re.findall(r"[\d.e-]+", cell.replace("\N{MINUS SIGN}", "-"))]
            np.testing.assert_allclose(shown, interval, atol=6e-4, err_msg=f"{name} {metric}")
    order = [row[0] for row in expression_page.rows[1:7]]
    assert order[:2] == ["Model", "MLP on scalars"]
    assert order[-1] == "Control: scrambled sequence"


def test_folds_are_listed_in_natural_order_with_their_chromosomes(expression_page):
    folds = [row for row in expression_page.rows if row[0].isdecimal()]
    assert [row[0] for row in folds] == ["2", "10"]
    assert folds[0][2] == "chr1, chr3, chr10"
    assert "single rows resampled, for 3 chromosomes" in expression_page.text


def test_images_are_inside_the_page_and_described(expression_page):
    for image in expression_page.images:
        assert image["alt"]
        kind, data = re.fullmatch(r"data:image/(svg\+xml|png);base64,(.*)", image["src"]).groups()
        content = base64.b64decode(data, validate=True)
        if kind == "png":
            assert content.startswith(b"\x89PNG")
        else:
            assert xml.etree.ElementTree.fromstring(content).tag.endswith("svg")


def test_the_page_asks_for_nothing_from_outside(expression_run, expression_page):
    text = (expression_run / "report.html").read_text()
    assert not re.findall(r"<(?:script|link|iframe)\b|url\(|@import|src=\"(?!data:)", text)


def test_the_same_run_gives_the_same_page(expression_run, expression_page):
    first = (expression_run / "report.html").read_bytes()
    assert report.write_report(expression_run).read_bytes() == first
    assert not list(expression_run.glob(".*"))


@pytest.mark.parametrize(
    ("noise", "words"),
    [
        (0.1, "It is better than that baseline"),
        (2.0, "It is worse than that baseline"),
        (0.56, "It is not distinguishable from that baseline"),
    ],
)
def test_the_headline_says_what_the_interval_of_the_gain_says(tmp_path, noise, words):
    run = report_run.load_run(
        write_expression_run(tmp_path / "run", table=gene_predictions(model_noise=noise))
    )
    line = report.headline(run)
    assert words in line
    assert line.startswith("Gain over the best scalar baseline (MLP on scalars, r 0.8")
    gain = run.gain["value"]
    sign = "+" if gain > 0 else "\N{MINUS SIGN}"
    assert f"{sign}{abs(gain):.3f} [" in line


def test_names_cannot_break_the_page(tmp_path):
    evil = '<script>alert("x")</script> & <b>'
    table = gene_predictions().rename(columns={"baseline_promoter_activity": "baseline_<i>x</i>"})
    table["gene_name"] = evil
    run = write_expression_run(tmp_path / "run", table=table, name=evil, label=evil)
    write_tsv(run / "dropped.tsv", pd.DataFrame({"gene_id": ["G", "H"], "reason": [evil, evil]}))
    write_json(run / "versions.json", {evil: evil})
    page = read(run)
    assert evil in page.text
    text = (run / "report.html").read_text()
    assert "<script" not in text and "<b>" not in text and "<i>" not in text
    assert page.row(evil)[1] in ("2", evil)


def test_what_was_dropped_is_counted_by_reason(tmp_path):
    run = write_activity_run(tmp_path / "run")
    reasons = ["too far"] * 3 + ["no sequence"]
    write_tsv(run / "dropped.tsv", pd.DataFrame({"name": list("abcd"), "reason": reasons}))
    page = read(run)
    assert page.row("too far") == ["too far", "3"]
    assert "4 rows left out" in page.text


def test_an_activity_run_with_missing_parts_is_reported(tmp_path):
    page = read(write_activity_run(tmp_path / "my_windows"))
    text = " ".join(page.text.split())
    assert "my_windows" in text and "Activity model" in text
    assert "120 windows" in text and "fingerprint of the data is not recorded" in text
    assert "Gain over the best baseline (Ridge on k-mers" in text
    assert "One gene" not in text and "scalar baseline" not in text
    assert len(page.row("Model")) == 7


def test_a_single_folds_own_directory_is_reported(tmp_path):
    fold = write_expression_run(tmp_path / "run") / "fold_10"
    page = read(fold)
    assert page.row("10")[1] == "120"
    assert "No scalar baseline stands beside it" in page.text
    assert "GENE" in page.text and len(page.images) == 5


def test_folds_without_a_pooled_table_are_pooled(tmp_path):
    run = write_expression_run(tmp_path / "run")
    for name in ("predictions.tsv", "metrics.json", "config.json", "versions.json"):
        (run / name).unlink()
    page = read(run)
    assert page.row("Model")[1] == "240"
    assert "Neither versions.json nor config.json" in page.text


def test_scores_that_are_missing_are_computed_from_predictions(tmp_path):
    run = write_expression_run(tmp_path / "run")
    stored = report_run.load_run(run)
    (run / "metrics.json").unlink()
    computed = report_run.load_run(run)
    assert computed.best_baseline == stored.best_baseline == "baseline_mlp"
    for name, scores in stored.scores.items():
        value = computed.scores[name]["pearson"]["value"]
        assert value == pytest.approx(scores["pearson"]["value"], abs=1e-6)
    assert computed.gain["value"] == pytest.approx(stored.gain["value"], abs=1e-6)


def test_undefined_scores_are_called_so(tmp_path):
    table = gene_predictions().assign(prediction=1.0)
    page = read(write_expression_run(tmp_path / "constant", table=table))
    assert page.row("Model")[2] == "undefined"
    assert "is undefined" in page.text
    table.loc[3, "prediction"] = np.nan
    page = read(write_expression_run(tmp_path / "diverged", table=table))
    assert "1 predictions or labels are not finite" in page.text


def test_nulls_of_strict_json_read_as_undefined(tmp_path):
    nothing = {"value": None, "low": None, "high": None}
    run = write_expression_run(tmp_path / "run", gain={"pearson": nothing})
    stored = json.loads((run / "metrics.json").read_text())
    stored["pooled"]["baseline_training_mean"]["pearson"] = nothing
    write_json(run / "metrics.json", stored)
    page = read(run)
    assert page.row("Training mean")[2] == "undefined"
    assert "is undefined" in page.text


def test_a_control_run_says_so_first(tmp_path):
    page = read(write_expression_run(tmp_path / "run", control="permuted_labels"))
    assert "Control run: permuted labels." in page.text


def test_the_locus_is_a_well_predicted_highly_expressed_gene(expression_run):
    run = report_run.load_run(expression_run)
    table = gene_predictions()
    eligible = table[table["n_elements"] >= 5]
    high = eligible[eligible["measured"] >= eligible["measured"].quantile(0.75)]
    error = (high["measured"] - high["prediction"]).abs()
    assert run.locus.gene["gene_id"] == high.loc[error.idxmin(), "gene_id"]
    assert len(run.locus.elements) == run.locus.gene["n_elements"]
    assert f"{len(high)} have a measured value in the top quarter" in run.locus.choice


def test_a_run_that_saw_no_elements_has_a_page_without_a_locus(tmp_path):
    """As the promoter preset leaves it: tables of attention with a header alone."""
    write_expression_run(tmp_path)
    for path in tmp_path.glob("fold_*/attention.tsv"):
        path.write_text(path.read_text().splitlines()[0] + "\n")
    assert report_run.load_run(tmp_path).locus is None
    assert report.write_report(tmp_path).is_file()


def test_no_gene_with_elements_leaves_the_locus_out(tmp_path):
    table = gene_predictions().assign(n_elements=2)
    page = read(write_expression_run(tmp_path / "run", table=table))
    assert "No gene with enough elements" in page.text


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (None, None, "no such directory"),
        ("other.txt", "", "no predictions.tsv in it or in its folds"),
        (
            "predictions.tsv",
            "gene_id\tmeasured\nG\t1\n",
            "predictions.tsv:1: no column 'prediction'",
        ),
        ("predictions.tsv", "measured\tprediction\n1\tx\n", "'prediction' holds text"),
        ("predictions.tsv", "", "expected a tab-separated table"),
    ],
)
def test_what_is_no_run_is_refused(tmp_path, file, content, message):
    run = tmp_path / "run"
    if file:
        run.mkdir()
        (run / file).write_text(content)
    with pytest.raises(ValueError, match=message):
        report.write_report(run)


def test_damaged_metrics_are_named_and_an_older_report_stays(tmp_path):
    run = write_activity_run(tmp_path / "run")
    before = report.write_report(run).read_text()
    (run / "metrics.json").write_text('{"n": 1,\n')
    with pytest.raises(ValueError, match=r"metrics.json:\d: .* the file is damaged"):
        report.write_report(run)
    assert (run / "report.html").read_text() == before
