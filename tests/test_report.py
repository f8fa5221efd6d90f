"""The report of made-up runs: what it holds, what it says when parts are missing, its figures."""

import base64
import html.parser
import json
import pathlib
import re
import xml.etree.ElementTree

import numpy as np
import pandas as pd
import pytest

from epinformer_jax.analysis import plots, report, report_run
from epinformer_jax.train import metrics

CHROMOSOMES = ("chr1", "chr2", "chr3", "chr8", "chr10", "chrX")
BASELINES = {"training_mean": 0.0, "promoter_activity": 0.75, "ridge": 0.8, "mlp": 0.86}


def gene_predictions(n=240, model_noise=0.4, seed=0):
    """Two folds of genes with predictions of the model and of baselines."""
    rng = np.random.default_rng(seed)
    measured = rng.normal(size=n)
    chrom = np.array(CHROMOSOMES)[np.arange(n) % len(CHROMOSOMES)]
    table = pd.DataFrame(
        {
            "gene_id": [f"ENSG{number:05d}" for number in range(n)],
            "gene_name": [f"GENE{number}" for number in range(n)],
            "chrom": chrom,
            "split": chrom,
            "tss": rng.integers(200_000, 90_000_000, n),
            "fold": np.where(np.arange(n) % 2, "fold_10", "fold_2"),
            "measured": measured,
            "prediction": 0.9 * measured + model_noise * rng.normal(size=n),
            "n_elements": rng.integers(0, 25, n),
        }
    )
    for name, r in BASELINES.items():
        noise = np.sqrt(1 - r**2) * rng.normal(size=n) if r else 0.01 * (table["fold"] == "fold_2")
        table[f"baseline_{name}"] = r * measured + noise
    return table


def attention(genes, seed=0):
    """Elements of each gene, with attention that sums to less than 1."""
    rng = np.random.default_rng(seed)
    rows = []
    for gene in genes.to_dict("records"):
        shares = rng.dirichlet(np.full(gene["n_elements"] + 1, 0.4))
        for share in shares[1:]:
            distance = int(rng.integers(1_001, 100_000) * rng.choice([-1, 1]))
            start = gene["tss"] + distance - 300
            rows.append(
                {
                    "gene_id": gene["gene_id"],
                    "chrom": gene["chrom"],
                    "start": start,
                    "end": start + 600,
                    "distance": distance,
                    "activity": rng.gamma(1.0, 3.0),
                    "contact": 300 * abs(distance) ** -0.9,
                    "attention": share,
                }
            )
    return pd.DataFrame(rows)


def history(epochs=12, seed=0):
    """Losses that fall and a correlation that rises, then sinks."""
    epoch = np.arange(1, epochs + 1)
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "epoch": epoch,
            "step": 100 * epoch,
            "train_loss": 0.5 * np.exp(-epoch / 3) + 0.1,
            "valid_loss": 0.5 * np.exp(-epoch / 3) + 0.15 + 0.004 * epoch,
            "valid_pearson": 0.85
            - 0.4 * np.exp(-epoch / 2)
            - 0.001 * epoch
            + 0.005 * rng.normal(size=epochs),
            "valid_spearman": 0.8 - 0.4 * np.exp(-epoch / 2),
            "learning_rate": 5e-4,
            "seconds": 3.0,
        }
    )


def evaluated(table, column, draws=100):
    """Scores of one column."""
    arrays = (table[name].to_numpy() for name in ("measured", column, "split"))
    return metrics.evaluate(*arrays, draws=draws)


def write_tsv(path, table):
    """A table as training writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, sep="\t", index=False, float_format="%.7g")


def write_json(path, content):
    """JSON as training writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_expression_run(directory: pathlib.Path, *, table=None, name="K562 demo", **extra):
    """A cross-validation of two folds with everything that a run can hold."""
    table = gene_predictions() if table is None else table
    columns = ["prediction", *(name for name in table if name.startswith("baseline_"))]
    names = {c: "model" if c == "prediction" else c for c in columns}
    for fold, rows in table.groupby("fold"):
        folder = directory / fold
        write_tsv(folder / "predictions.tsv", rows[[c for c in rows if "baseline" not in c]])
        write_tsv(folder / "history.tsv", history(seed=len(rows)))
        write_tsv(folder / "attention.tsv", attention(rows))
        model = evaluated(rows, "prediction")
        write_json(folder / "metrics.json", {"fold": fold, "best_epoch": 7, "model": model})
        write_tsv(folder / "encoder" / "history.tsv", history(seed=1))
        write_json(folder / "encoder" / "metrics.json", {"best_epoch": 5, "model": model})
    write_tsv(directory / "predictions.tsv", table)
    arrays = (table[c].to_numpy() for c in ("measured", "prediction", "baseline_mlp", "split"))
    content = {
        "task": "expression",
        "name": name,
        "label": "rna",
        "control": "none",
        "n": len(table),
        "pooled": {names[c]: evaluated(table, c) for c in columns},
        "folds": {
            fold: {names[c]: evaluated(rows, c) for c in columns}
            for fold, rows in table.groupby("fold")
        },
        "best_baseline": "baseline_mlp",
        "gain": {"pearson": metrics.paired_bootstrap(*arrays)},
        "controls": {"scrambled_sequence": evaluated(table, "baseline_ridge")},
        "ceiling": 0.93,
    }
    write_json(directory / "metrics.json", {**content, **extra})
    config = {
        "task": "expression",
        "name": name,
        "seed": 66,
        "data": {"label": "rna", "label_unit": "z of log10(RPKM + 0.1)", "folds": "published"},
        "features": {"preset": "PE-Activity-HiC", "schema": "log_signals"},
        "model": {"layers": 3, "max_elements": 60},
        "train": {"learning_rate": 0.0005, "batch_size": 16, "epochs": 100},
    }
    write_json(directory / "config.json", {"config": config, "data": {"genes": "abcdef" * 10}})
    write_json(directory / "versions.json", {"epinformer_jax": "0.1.0", "jax": "0.10.2"})
    return directory


def write_activity_run(directory: pathlib.Path):
    """Windows, one fold, and little else."""
    table = gene_predictions(120)[["chrom", "split", "fold", "measured", "prediction"]]
    table = table.assign(name=[f"window_{n}" for n in range(120)], fold="fold_1")
    table["baseline_kmer_ridge"] = table["measured"] + np.random.default_rng(5).normal(size=120)
    write_tsv(directory / "predictions.tsv", table)
    write_tsv(directory / "fold_1" / "history.tsv", history(epochs=1))
    write_json(directory / "config.json", {"config": {"task": "activity", "data": {}}, "data": {}})
    return directory


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


def test_a_figure_does_not_change_the_users_style():
    import matplotlib

    before = dict(matplotlib.rcParams)
    figure = plots.training_curves({"fold_1": history()})
    assert plots.to_svg(figure) == plots.to_svg(plots.training_curves({"fold_1": history()}))
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("n", [0, 1, 2, 50, plots.HEXBIN_FROM])
def test_any_number_of_points_can_be_drawn(n):
    rng = np.random.default_rng(0)
    x = rng.normal(size=n)
    figure = plots.predicted_vs_measured(x + rng.normal(size=n), x)
    assert f"n = {n:,}" in figure.axes[0].get_title(loc="left")
    assert plots.png_data_uri(figure, dpi=40).startswith("data:image/png;base64,")


def test_r_in_the_title_counts_finite_examples_only():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=50), rng.normal(size=50)
    r = np.corrcoef(x, y)[0, 1]
    figure = plots.predicted_vs_measured(np.append(x, np.nan), np.append(y, 1.0), title="T")
    assert figure.axes[0].get_title(loc="left") == f"T   r = {r:.3f}, n = 50, 1 not finite"


@pytest.mark.parametrize("history_rows", [1, 4])
def test_the_epoch_kept_is_marked(history_rows):
    table = history(history_rows)
    table["valid_pearson"] = [0.5, 0.7, 0.6, 0.65][:history_rows]
    axes = plots.training_curves({"fold_1": table}).axes[1]
    marks = [line for line in axes.lines if line.get_marker() == "o" and len(line.get_xdata())]
    assert [float(mark.get_xdata()[0]) for mark in marks] == [1.0 if history_rows == 1 else 2.0]
    stated = plots.training_curves({"fold_1": table}, {"fold_1": 1}).axes[1]
    assert any(len(x := line.get_xdata()) == 1 and x[0] == 1 for line in stated.lines)


def test_arcs_reach_from_each_element_to_the_tss():
    elements = pd.DataFrame(
        {
            "chrom": "chr1",
            "start": [40_000, 129_500],
            "end": [41_000, 130_500],
            "activity": [1.0, 2.0],
            "contact": [0.0, 0.0],
            "attention": [0.1, 0.4],
        }
    )
    figure = plots.locus(elements, tss=100_000, title="GENE1", strand="-")
    arcs = [patch for patch in figure.axes[0].patches if hasattr(patch, "theta1")]
    spans = sorted((arc.center[0] - arc.width / 2, arc.center[0] + arc.width / 2) for arc in arcs)
    np.testing.assert_allclose(spans, [(-59.5, 0), (0, 30.0)], atol=1e-9)
    weak, strong = sorted(arcs, key=lambda arc: arc.get_linewidth())
    assert strong.center[0] == pytest.approx(15.0) and weak.center[0] == pytest.approx(-29.75)
    assert "chr1:100,001" in figure.axes[3].get_xlabel()


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plots.locus(pd.DataFrame(), tss=1), "no element to draw"),
        (lambda: plots.comparison_bars([]), "no score"),
        (lambda: plots.fold_points({}), "no fold"),
        (lambda: plots.training_curves({}), "no history"),
    ],
)
def test_nothing_to_draw_is_refused(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
