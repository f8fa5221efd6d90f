"""One page about a training run: RUN/report.html, whole in itself, opened from disk or printed.

The headline is the gain over the best baseline, negative or not; every number stands with its n and
its interval. Works for a cross-validation, a single fold, and runs of windows, in which some parts
are missing; what is not there is left out or said to be missing, never made up.
"""

import argparse
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from epinformer_jax.analysis import plots
from epinformer_jax.analysis.report_html import (
    CSS,
    escape,
    html_figure,
    html_table,
    number_text,
    score_cell,
    with_interval,
)
from epinformer_jax.analysis.report_run import BASELINE, TRAINING_MEAN, Run, load_run, number
from epinformer_jax.data import atomic
from epinformer_jax.data.chromosomes import natural_order

REPORT_FILE = "report.html"
DESCRIPTION = """\
Write one page about a training run: scores beside baselines, folds, curves, one gene's elements.

It needs nothing but the run directory, and is whole in itself: one HTML file without links."""

_PREDICTOR_NAMES = {
    "model": "Model",
    "training_mean": "Training mean",
    "promoter_activity": "Promoter activity",
    "ridge": "Ridge on scalars",
    "boosted_trees": "Boosted trees on scalars",
    "mlp": "MLP on scalars",
    "kmer_ridge": "Ridge on k-mers",
}
_SCORE_COLUMNS = {
    "pearson": "Pearson r",
    "spearman": "Spearman ρ",
    "mse": "MSE",
    "pearson_squared": "r²",
    "explained": "1 − SSE/SST",
}
_SETTINGS = {
    "Inputs": "features.preset",
    "Feature schema": "features.schema",
    "Encoder": "encoder.source",
    "Encoder in training": "encoder.mode",
    "Attention layers": "model.layers",
    "Most elements a gene": "model.max_elements",
    "Loss": "train.loss",
    "Learning rate": "train.learning_rate",
    "Batch size": "train.batch_size",
    "Epochs, at most": "train.epochs",
    "Folds table": "data.folds",
    "Seed": "seed",
}
_ACTIVITY_SETTINGS = {
    "Window (bp)": "model.activity_window_bp",
    "Strands in training": "data.strands",
    "Loss": "pretrain.loss",
    "Learning rate": "pretrain.learning_rate",
    "Batch size": "pretrain.batch_size",
    "Epochs, at most": "pretrain.epochs",
    "Folds table": "data.folds",
    "Seed": "seed",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `epinformer report`."""
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="the --workdir of training")
    parser.add_argument("--out", type=Path, help=f"page (default: RUN_DIR/{REPORT_FILE})")


def run(args: argparse.Namespace) -> int:
    """Writes the page, prints its path and returns the exit code."""
    print(write_report(args.run_dir, args.out))
    return 0


def write_report(run_dir: str | os.PathLike, out: str | os.PathLike | None = None) -> Path:
    """Writes RUN/report.html (or `out`) from what the run has left on disk and returns its path.

    Raises:
      ValueError: not a run directory, no predictions in it, or a damaged file; names it.
    """
    loaded = load_run(run_dir)
    target = loaded.directory / REPORT_FILE if out is None else Path(out)
    with atomic.atomic_file(target) as temporary:
        temporary.write_text(render(loaded), encoding="utf-8")
    return target


def render(run: Run) -> str:
    """The whole page as HTML text; the same run gives the same text."""
    sections = [
        _header(run),
        _predictors(run),
        _agreement(run),
        _folds(run),
        _training(run),
        _locus(run),
        _dropped(run),
        _provenance(run),
    ]
    body = "\n".join(section for section in sections if section)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(run.name)}: report</title>\n<style>{CSS}</style>\n</head>\n<body>\n"
        f"{body}\n</body>\n</html>\n"
    )


def headline(run: Run) -> str:
    """The gain over the best baseline in one or two sentences of plain text."""
    kind = "scalar baseline" if run.task == "expression" else "baseline"
    score = run.scores["model"]
    reached = (
        f"On {score['n']:,} held-out {run.things} the model reaches Pearson r "
        f"{with_interval(score['pearson'])}."
    )
    if run.best_baseline is None or run.gain is None:
        return f"{reached} No {kind} stands beside it, so this says little about the network."
    rival = _predictor(run.best_baseline)
    rival_r = with_interval(run.scores[run.best_baseline]["pearson"])
    low, high = number(run.gain["low"]), number(run.gain["high"])
    if low > 0:
        verdict = "better than"
    elif high < 0:
        verdict = "worse than"
    else:
        verdict = "not distinguishable from"
    p_value = number(run.gain.get("p_value", run.gain.get("p")))
    evidence = f", p = {p_value:.2g}" if np.isfinite(p_value) else ""
    gained = with_interval(run.gain, signed=True)
    if not np.isfinite(number(run.gain["value"])):
        return f"{reached} Its gain over the best {kind}, {rival}, is undefined."
    return (
        f"Gain over the best {kind} ({rival}, r {rival_r}): {gained} in Pearson r{evidence}. "
        f"{reached} It is {verdict} that baseline."
    )


def _header(run: Run) -> str:
    facts = [
        f"{run.task.capitalize()} model",
        (f"label {run.label}" if run.label else "label not recorded")
        + (f" ({run.unit})" if run.unit else ""),
        f"{run.scores['model']['n']:,} {run.things}",
        _plural(len(run.fold_scores), "fold"),
        *(f"data set of {kind} {value[:12]}" for kind, value in sorted(run.fingerprints.items())),
    ]
    parts = [f"<h1>{escape(run.name)}</h1>", f'<p class="facts">{escape(" · ".join(facts))}</p>']
    if not run.fingerprints:
        parts.append('<p class="facts">The fingerprint of the data is not recorded.</p>')
    if run.control:
        what = escape(run.control.replace("_", " "))
        parts.append(
            f'<p class="warning"><strong>Control run: {what}.</strong> One thing was destroyed on '
            "purpose; this is no result of the method.</p>"
        )
    missing = run.scores["model"].get("not_finite", 0)
    if missing:
        parts.append(
            f'<p class="warning">{missing:,} predictions or labels are not finite, so no score of '
            "the model is defined.</p>"
        )
    parts.append(f'<p class="headline">{escape(headline(run))}</p>')
    settings = _ACTIVITY_SETTINGS if run.task == "activity" else _SETTINGS
    flat = dict(_flat(run.config))
    shown = [(name, flat[path]) for name, path in settings.items() if path in flat]
    if shown:
        rows = "".join(f"<div><dt>{escape(n)}</dt><dd>{escape(v)}</dd></div>" for n, v in shown)
        parts.append(f"<dl>{rows}</dl>")
    return "\n".join(parts)


def _predictors(run: Run) -> str:
    scores = {**run.scores, **{f"control:{name}": s for name, s in run.controls.items()}}
    baselines = [name for name in scores if name.startswith(BASELINE)]
    baselines.sort(key=lambda name: -np.nan_to_num(_value(scores[name], "pearson"), nan=-9))
    controls = [name for name in scores if name.startswith("control:")]
    order = ["model", *baselines, *controls]
    rows = []
    for name in order:
        cells = [escape(_predictor(name)), f"{scores[name]['n']:,}"]
        cells += [score_cell(scores[name].get(metric)) for metric in _SCORE_COLUMNS]
        rows.append(("model" if name == "model" else "", cells))
    bars = [_score(scores[name], name, _kind(run, name)) for name in order]
    ceiling = number(run.ceiling)
    notes = [f"Brackets: 95 % intervals, {_resampling(run.scores['model'])}."]
    if np.isfinite(ceiling):
        notes.append(
            f"Noise ceiling: the labels let no predictor expect more than r {ceiling:.3f}."
        )
    if TRAINING_MEAN in scores and len(run.fold_scores) > 1:
        notes.append(
            "The training mean differs only from fold to fold, so its correlation means nothing; "
            "its MSE does."
        )
    notes.append("1 − SSE/SST counts errors of scale and offset, r² does not.")
    return "\n".join(
        [
            "<h2>Model and baselines</h2>",
            html_table(["Predictor", "n", *_SCORE_COLUMNS.values()], rows),
            f'<p class="note">{escape(" ".join(notes))}</p>',
            html_figure(
                plots.svg_data_uri(
                    plots.comparison_bars(bars, ceiling=None if np.isnan(ceiling) else ceiling)
                ),
                "Pearson r of the model and of every baseline",
                "Pearson r of all predictors with 95 % intervals, on the same held-out "
                f"{run.things}. Orange: the best baseline.",
            ),
        ]
    )


def _agreement(run: Run) -> str:
    rows = run.predictions
    figure = plots.predicted_vs_measured(
        rows["measured"].to_numpy(), rows["prediction"].to_numpy(), unit=run.unit or run.label
    )
    slope, offset = (
        run.scores["model"].get(f"calibration_{name}") for name in ("slope", "intercept")
    )
    caption = f"Each of the held-out {run.things} once, predicted by the fold that tests it."
    if slope and offset:
        caption += (
            f" Measured = {with_interval(offset)} + {with_interval(slope)} × predicted; "
            "0 and 1 would be right."
        )
    image = html_figure(
        plots.png_data_uri(figure), "Measured values over predicted values", caption, width=620
    )
    return f"<h2>Predicted and measured</h2>\n{image}"


def _folds(run: Run) -> str:
    names = natural_order(run.fold_scores)
    if not names:
        return ""
    best = run.best_baseline
    has_encoder = any(fold.encoder_score for fold in run.folds.values())
    header = ["Fold", "n", "Chromosomes", "Model r", "Best baseline r", "Difference", "MSE"]
    header += ["Slope", "Intercept"] + (["Encoder r"] if has_encoder else [])
    rows, pairs = [], {}
    for name in names:
        scores = run.fold_scores[name]
        model, rival = scores["model"], scores.get(best)
        difference = _value(model, "pearson") - (_value(rival, "pearson") if rival else np.nan)
        splits = run.predictions.loc[run.predictions["fold"] == name, "split"]
        cells = [
            escape(name.removeprefix("fold_")),
            f"{model['n']:,}",
            escape(", ".join(natural_order(splits)) or "–"),
        ]
        cells += [score_cell(model["pearson"]), score_cell(rival["pearson"]) if rival else "–"]
        cells += [escape(number_text(difference, signed=True)), score_cell(model["mse"])]
        for part in ("slope", "intercept"):
            interval = model.get(f"calibration_{part}")
            cells.append(number_text(number(interval["value"])) if interval else "–")
        if has_encoder:
            encoder = run.folds[name].encoder_score if name in run.folds else None
            cells.append(number_text(_value(encoder, "pearson")) if encoder else "–")
        rows.append(("", cells))
        rival_score = _score(rival, best, "best") if rival else None
        pairs[name] = (_score(model, "model", "model"), rival_score)
    resampling = sorted({_resampling(run.fold_scores[name]["model"]) for name in names})
    note = (
        f"Brackets: 95 % intervals, {'; or '.join(resampling)}. Slope and intercept are those of "
        "measured on predicted."
    )
    parts = ["<h2>Fold by fold</h2>", html_table(header, rows, text_columns=(0, 2))]
    parts.append(f'<p class="note">{escape(note)}</p>')
    if len(names) > 1:
        caption = "Pearson r in each fold's test chromosomes, with 95 % intervals."
        uri = plots.svg_data_uri(plots.fold_points(pairs))
        parts.append(html_figure(uri, "Pearson r of model and best baseline in each fold", caption))
    return "\n".join(parts)


def _training(run: Run) -> str:
    parts = []
    for what, history, best in (
        ("Expression model" if run.task == "expression" else "Model", "history", "best_epoch"),
        ("Encoder, pre-trained on activity", "encoder_history", "encoder_best_epoch"),
    ):
        histories = {
            name: getattr(fold, history)
            for name, fold in run.folds.items()
            if getattr(fold, history) is not None
        }
        if not histories:
            continue
        kept = {name: getattr(run.folds[name], best) for name in histories}
        curves = plots.training_curves(histories, {n: e for n, e in kept.items() if e is not None})
        lines = "" if len(histories) == 1 else f", one line for each of {len(histories)} folds"
        caption = f"{what}: loss and validation Pearson r by epoch{lines}."
        parts.append(html_figure(plots.svg_data_uri(curves), f"Training curves: {what}", caption))
    if not parts:
        return ""
    return "<h2>Training</h2>\n" + "\n".join(parts)


def _locus(run: Run) -> str:
    if run.task != "expression":
        return ""
    if run.locus is None:
        why = "No gene with enough elements and a table of attention is in this run."
        return f'<h2>One gene and its elements</h2>\n<p class="note">{escape(why)}</p>'
    gene, elements = run.locus.gene, run.locus.elements
    names = (gene.get("gene_name"), gene.get("gene_id"))
    title = next(str(name) for name in names if name)
    figure = plots.locus(
        elements, tss=int(gene["tss"]), title=title, strand=str(gene.get("strand", ""))
    )
    caption = (
        f"{title} ({gene['gene_id']}), {len(elements)} elements, tested by {gene['fold']}: "
        f"measured {number_text(number(gene['measured']))}, "
        f"predicted {number_text(number(gene['prediction']))}. "
        "Arcs: attention of the promoter to each element, mean of heads and layers. "
        f"{run.locus.choice}"
    )
    image = html_figure(
        plots.svg_data_uri(figure), f"Elements and attention around {title}", caption
    )
    return f"<h2>One gene and its elements</h2>\n{image}"


def _dropped(run: Run) -> str:
    if run.dropped is None:
        return ""
    total = f"<p>{_plural(len(run.dropped), 'row')} left out, listed in dropped.tsv.</p>"
    parts = ["<h2>What was left out</h2>", total]
    if len(run.dropped) and "reason" in run.dropped:
        counts = run.dropped["reason"].value_counts()
        rows = [("", [escape(reason), f"{count:,}"]) for reason, count in counts.items()]
        parts.append(html_table(["Reason", "Rows"], rows))
    return "\n".join(parts)


def _provenance(run: Run) -> str:
    rows = [("", [escape(name), escape(value)]) for name, value in run.versions.items()]
    rows += [
        ("", [escape(f"data set of {kind}"), escape(value)])
        for kind, value in sorted(run.fingerprints.items())
    ]
    parts = ["<h2>Provenance</h2>"]
    if rows:
        parts.append(html_table(["What", "Version or fingerprint"], rows, text_columns=(0, 1)))
    fields = "".join(f"<li>{escape(f'{path} = {value}')}</li>" for path, value in _flat(run.config))
    if fields:
        parts.append(f'<p>Configuration (config.json):</p>\n<ul class="fields">{fields}</ul>')
    if len(parts) == 1:
        parts.append('<p class="note">Neither versions.json nor config.json is in this run.</p>')
    return "\n".join(parts)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _plural(count: int, word: str) -> str:
    return f"{count:,} {word}" + ("" if count == 1 else "s")


def _predictor(name: str) -> str:
    """Readable name of "model", a baseline_* column or control:*, not yet escaped."""
    if name.startswith("control:"):
        return f"Control: {name.removeprefix('control:').replace('_', ' ')}"
    bare = name.removeprefix(BASELINE)
    return _PREDICTOR_NAMES.get(bare, bare.replace("_", " ").capitalize())


def _kind(run: Run, name: str) -> str:
    if name == run.best_baseline:
        return "best"
    return "model" if name == "model" else "control" if ":" in name else "baseline"


def _score(scores: Mapping[str, Any], name: str, kind: str) -> plots.Score:
    interval = scores["pearson"]
    ends = (number(interval[key]) for key in ("value", "low", "high"))
    return plots.Score(_predictor(name), *ends, kind=kind)


def _value(scores: Mapping[str, Any], metric: str) -> float:
    return number(scores[metric]["value"])


def _resampling(scores: Mapping[str, Any]) -> str:
    """How the intervals of an evaluation were made."""
    if scores.get("resampled") == "rows":
        groups = _plural(int(scores.get("num_groups", 1)), "chromosome")
        return f"single rows resampled, for {groups} cannot show the spread between chromosomes"
    return "bootstrap over chromosomes"
