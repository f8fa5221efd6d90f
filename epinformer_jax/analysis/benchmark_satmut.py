"""Satmut: predicted effects of single-base changes against saturation mutagenesis reporter assays.

An element is rebuilt from the Ref column. Each change stands in the middle of the model's
window, with nothing outside the element, as on the assay's plasmid. Most folds of a
cross-validation have seen the element's chromosome; only the fold that tests it is evidence, and
the mean of all stands beside it, marked as in-sample.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, UInt8
from tqdm import tqdm

from epinformer_jax.analysis import ensembles, saturation, summary
from epinformer_jax.analysis.ensembles import Model
from epinformer_jax.analysis.saturation import Window
from epinformer_jax.data import delimited, sequence, tables
from epinformer_jax.train import metrics, rundir

MIN_BARCODES = 10
RELEASE = "GRCh38"
FILE = "elements.tsv.gz"
MEAN, HELD_OUT = "mean_of_all", "held_out"
PREDICTORS = (MEAN, HELD_OUT, f"{MEAN}_both_strands", f"{HELD_OUT}_both_strands")
BASELINE = "baseline_substitution"
DESCRIPTION = """\
Measure predicted effects of single-base changes against saturation mutagenesis reporter assays.

--satmut is elements.tsv.gz of the assays, or its folder: Chrom, Pos, Ref, Alt, Barcodes,
Coefficient, Element, Release. Changes of one base with enough barcodes are compared (Pearson r with
its 95 % interval, resampling positions), element by element: by the mean of all models (in-sample
for most of them), by the fold that tests the element's chromosome, and both with strands averaged.
Beside them stands the mean effect of the same substitution (A to C, ...) in the other elements.

Writes variants.tsv, elements.tsv, metrics.json and dropped.tsv."""


class Element(NamedTuple):
    """One assay.

    Attributes:
      name: as in the table.
      chrom: with the prefix chr.
      start: 0-based place of its first base.
      codes: its sequence; unknown where the table has no row.
      variants: position (0-based), ref, alt, coefficient, barcodes; single bases only.
    """

    name: str
    chrom: str
    start: int
    codes: UInt8[np.ndarray, "L"]
    variants: pd.DataFrame


def read_elements(
    path: Path, *, min_barcodes: int = MIN_BARCODES, release: str = RELEASE
) -> tuple[list[Element], pd.DataFrame]:
    """The assays, and the rows left out: Element, Pos, Ref, Alt, Barcodes, reason.

    Raises:
      ValueError: a column is missing, a number is none, or two rows name other bases for one place.
    """
    path = path / FILE if path.is_dir() else path
    raw = delimited.read_text(path)
    needed = ("Chrom", "Pos", "Ref", "Alt", "Barcodes", "Coefficient", "Element", "Release")
    delimited.require(raw, needed)
    raw = raw[raw["Release"] == release]
    if not len(raw):
        raise ValueError(f"{path}: no row of release {release}")
    single = set(sequence.ALPHABET)
    is_placed = raw["Ref"].isin(single) & raw["Pos"].str.isdigit()
    reason = pd.Series("", index=raw.index)
    reason[raw["Barcodes"].astype(np.int64) < min_barcodes] = f"below {min_barcodes} barcodes"
    reason[~raw["Alt"].isin(single)] = "not a change of one base"
    reason[~is_placed] = "no position"
    placed = raw[is_placed]
    elements = []
    for name in dict.fromkeys(raw["Element"]):
        rows = placed[placed["Element"] == name]
        if not len(rows):
            continue
        kept = rows[reason[rows.index] == ""]
        elements.append(_element(path, name, rows, kept))
    columns = ["Element", "Pos", "Ref", "Alt", "Barcodes"]
    dropped = raw.loc[reason != "", columns].assign(reason=reason[reason != ""])
    return elements, dropped.reset_index(drop=True)


def predict_element(
    models: Sequence[Model],
    element: Element,
    *,
    progress=None,
) -> Float[np.ndarray, "M 2 V"]:
    """Effects of the element's variants (alt - ref) by each model, on either strand."""
    window_bp = models[0].info.model.window_bp
    at = element.variants["position"].to_numpy() - element.start
    places, row = np.unique(at, return_inverse=True)
    windows = [_window(element.codes, int(place), window_bp) for place in places]
    turned = [_turned(window) for window in windows]
    alleles = _channel(element.variants["alt"])
    effects = np.empty((len(models), 2, len(at)))
    for number, model in enumerate(models):
        for strand, (own, middle) in enumerate(
            ((windows, window_bp // 2), (turned, window_bp - 1 - window_bp // 2))
        ):
            found = saturation.predict_activity(model, own, update=progress or (lambda _: None))
            channel = alleles if strand == 0 else 3 - alleles
            effects[number, strand] = found.changed[row, channel, middle] - found.reference[row]
    return effects


def compare(
    models: Sequence[Model], elements: Sequence[Element], *, show_progress: bool = False
) -> pd.DataFrame:
    """One row a variant: element, chrom, pos (1-based), ref, alt, barcodes, measured, the four
    PREDICTORS, the baseline, and the fold that tests the chromosome.

    Held-out columns are NaN where not exactly one model tests the chromosome.

    Raises:
      ValueError: there is no element with a variant.
    """
    elements = [element for element in elements if len(element.variants)]
    if not elements:
        raise ValueError("no element has a change to compare; see dropped.tsv")
    parts = []
    windows = sum(element.variants["position"].nunique() for element in elements)
    total = 2 * len(models) * windows
    with tqdm(total=total, unit="window", disable=None if show_progress else True) as bar:
        for element in elements:
            effects = predict_element(models, element, progress=bar.update)
            (tester,) = ensembles.testing_model(models, [element.chrom])
            nothing = np.full(effects.shape[1:], np.nan)
            held_out = effects[tester] if tester >= 0 else nothing
            mean = effects.mean(axis=0)
            own = element.variants
            fold = (models[tester].info.fold or models[tester].name) if tester >= 0 else ""
            columns = {
                "element": element.name,
                "chrom": element.chrom,
                "pos": own["position"].to_numpy() + 1,
                **{name: own[name].to_numpy() for name in ("ref", "alt", "barcodes")},
                "measured": own["coefficient"].to_numpy(),
            }
            values = (mean[0], held_out[0], mean.mean(axis=0), held_out.mean(axis=0))
            columns |= dict(zip(PREDICTORS, values, strict=True)) | {"fold": fold}
            parts.append(pd.DataFrame(columns))
    table = pd.concat(parts, ignore_index=True)
    table[BASELINE] = _by_substitution(table)
    return table


def score(table: pd.DataFrame) -> dict[str, Any]:
    """Pearson r of every predictor in every element, with n and a 95 % interval over positions.

    {"task", "elements": {element: {"n", "fold", "pearson": {predictor: {"value", "low", "high"}}}}}
    """
    elements = {}
    for name, rows in table.groupby("element", sort=False):
        measured, groups = rows["measured"].to_numpy(), rows["pos"].to_numpy()
        pearson = {}
        for predictor in (*PREDICTORS, BASELINE):
            values = rows[predictor].to_numpy(np.float64)
            found = metrics.bootstrap("pearson", measured, values, groups)
            pearson[predictor] = _interval(found)
        elements[name] = {"n": len(rows), "fold": rows["fold"].iloc[0], "pearson": pearson}
    return {"task": "satmut", "in_sample": [PREDICTORS[0], PREDICTORS[2]], "elements": elements}


def element_table(content: dict[str, Any]) -> pd.DataFrame:
    """The scores as a table: element, n, fold, and value, low and high of each predictor."""
    rows = []
    for name, own in content["elements"].items():
        row = {"element": name, "n": own["n"], "fold": own["fold"]}
        for predictor, found in own["pearson"].items():
            row[f"{predictor}_r"] = found["value"]
            row |= {f"{predictor}_{end}": found[end] for end in ("low", "high")}
        rows.append(row)
    return pd.DataFrame(rows)


def describe(content: dict[str, Any]) -> str:
    """The scores as lines of text."""
    heads = ("mean of all*", "held-out", "mean, both strands*", "held-out, both strands")
    lines = [
        f"{'Pearson r':14} {'n':>5} {'fold':>8}  "
        + "  ".join(f"{head:>24}" for head in (*heads, "substitution mean"))
    ]
    for name, own in content["elements"].items():
        cells = [f"{summary.interval_text(found):>24}" for found in own["pearson"].values()]
        lines.append(f"{name:14} {own['n']:5} {own['fold']:>8}  " + "  ".join(cells))
    lines.append("* in-sample for most of the models; only held-out columns are evidence")
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `epinformer benchmark satmut`."""
    parser.add_argument(
        "--model", type=Path, nargs="+", required=True, help="activity models, all folds"
    )
    parser.add_argument("--satmut", type=Path, required=True, help=f"{FILE}, or its folder")
    parser.add_argument("--elements", nargs="+", metavar="NAME", help="only these elements")
    parser.add_argument(
        "--min-barcodes",
        type=int,
        default=MIN_BARCODES,
        help="of a variant (default: %(default)s)",
    )
    parser.add_argument(
        "--release", default=RELEASE, help="rows of this assembly (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, required=True, help="directory for the tables")


def run(args: argparse.Namespace) -> int:
    """Predicts, measures, writes the tables and prints the scores; the exit code."""
    models = ensembles.load_models(args.model, kind="activity")
    elements, dropped = read_elements(
        args.satmut, min_barcodes=args.min_barcodes, release=args.release
    )
    if args.elements:
        known = {element.name: element for element in elements}
        for name in args.elements:
            if name not in known:
                raise ValueError(f"--elements {name}: unknown; there are {', '.join(known)}")
        elements = [known[name] for name in args.elements]
        dropped = dropped[dropped["Element"].isin(args.elements)]
    table = compare(models, elements, show_progress=True)
    content = score(table)
    args.out.mkdir(parents=True, exist_ok=True)
    tables.write_table(table, args.out / "variants.tsv", float_format="%.7g")
    tables.write_table(element_table(content), args.out / "elements.tsv", float_format="%.5g")
    tables.write_table(dropped, args.out / "dropped.tsv")
    rundir.write_json(args.out / "metrics.json", content)
    reasons = dropped["reason"].value_counts()
    print(describe(content))
    print("left out: " + (", ".join(f"{reason} {n}" for reason, n in reasons.items()) or "none"))
    print(args.out / "elements.tsv")
    return 0


def _element(path: Path, name: str, rows: pd.DataFrame, kept: pd.DataFrame) -> Element:
    position = rows["Pos"].astype(np.int64).to_numpy() - 1
    start = int(position.min())
    codes = np.zeros(int(position.max()) + 1 - start, np.uint8)
    letters = np.array([1 << sequence.ALPHABET.index(base) for base in rows["Ref"]], np.uint8)
    codes[position - start] = letters
    wrong = codes[position - start] != letters
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(f"{path}: {name} has two bases at position {position[row] + 1}")
    chroms = rows["Chrom"].unique()
    if len(chroms) > 1:
        raise ValueError(f"{path}: {name} lies on {' and '.join(chroms)}")
    variants = pd.DataFrame(
        {
            "position": kept["Pos"].astype(np.int64).to_numpy() - 1,
            "ref": kept["Ref"].to_numpy(),
            "alt": kept["Alt"].to_numpy(),
            "coefficient": kept["Coefficient"].astype(np.float64).to_numpy(),
            "barcodes": kept["Barcodes"].astype(np.int64).to_numpy(),
        }
    )
    return Element(name, f"chr{chroms[0].removeprefix('chr')}", start, codes, variants)


def _window(codes: UInt8[np.ndarray, "L"], place: int, window_bp: int) -> Window:
    """The window with this base in its middle."""
    at = place - window_bp // 2 + np.arange(window_bp)
    inside = (at >= 0) & (at < len(codes))
    laid = np.where(inside, codes[np.clip(at, 0, len(codes) - 1)], 0).astype(np.uint8)
    return Window(laid, inside, np.arange(window_bp) == window_bp // 2)


def _turned(window: Window) -> Window:
    codes = sequence.reverse_complement(window.codes)
    return Window(codes, window.valid[::-1], window.wanted[::-1])


def _channel(bases: pd.Series) -> np.ndarray:
    return np.array([sequence.ALPHABET.index(base) for base in bases], np.int64)


def _by_substitution(table: pd.DataFrame) -> pd.Series:
    """Mean measured effect of the same substitution in all other elements; NaN without any."""
    keys = ["ref", "alt"]
    total = table.groupby(keys)["measured"].transform("sum")
    count = table.groupby(keys)["measured"].transform("count")
    own_total = table.groupby(["element", *keys])["measured"].transform("sum")
    own_count = table.groupby(["element", *keys])["measured"].transform("count")
    others = (count - own_count).astype(np.float64)
    return (total - own_total) / others.where(others > 0)


def _interval(found: metrics.Bootstrap) -> dict[str, float]:
    own = found.intervals["pearson"]
    return {"value": own.value, "low": own.low, "high": own.high}
