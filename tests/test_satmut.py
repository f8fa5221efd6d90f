"""Saturation mutagenesis assays: elements rebuilt, changes mid-window, scores."""

import gzip
import json

import jax
import numpy as np
import pandas as pd
import pytest
import tiny_models

from epinformer_jax import cli, convert
from epinformer_jax.analysis import benchmark_satmut, ensembles
from epinformer_jax.data import sequence
from epinformer_jax.model import functional
from epinformer_jax.train import checkpoint
from epinformer_jax.train.checkpoint import ModelInfo

pytestmark = pytest.mark.usefixtures("quick_compilation")

HEADER = ["Chrom", "Pos", "Ref", "Alt", "Barcodes", "DNA", "RNA", "Coefficient", "pValue"]
HEADER += ["Element", "Release"]
TEXT = "ACGTTGCAAGCTTAGCCATGACCGTATTGCA"
START = 1000  # 1-based place of the first base


def rows_of(name, chrom, text, seed):
    """Every substitution and one deletion of each base; some with few barcodes."""
    rng = np.random.default_rng(seed)
    rows = []
    for place, ref in enumerate(text):
        for alt in "ACGT-":
            if alt == ref:
                continue
            barcodes = 5 if (place, alt) == (3, "A") else 30
            effect = float(rng.normal())
            rows.append([chrom, START + place, ref, alt, barcodes, 9, 9, effect, 0.5, name])
    return rows


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    rows = rows_of("one", "1", TEXT, 1)
    gap = [row for row in rows_of("two", "2", TEXT[::-1], 2) if row[1] != START + 10]
    lost = ["NA", "NA", "NA", "NA", 50, 9, 9, 0.1, 0.5, "one"]
    rows = [[*row, "GRCh38"] for row in [*rows, *gap, lost]]
    rows.append(["1", 5, "A", "C", 99, 9, 9, 1.0, 0.5, "one", "GRCh37"])
    path = tmp_path_factory.mktemp("satmut") / "elements.tsv.gz"
    with gzip.open(path, "wt") as file:
        file.write("\n".join("\t".join(map(str, row)) for row in [HEADER, *rows]) + "\n")
    return path


def models():
    found = []
    for number, test in ((1, "chr1"), (2, "chrX")):
        variables = jax.device_get(tiny_models.random_variables(tiny_models.ACTIVITY, seed=number))
        chromosomes = {"train": ["chr2"], "valid": [], "test": [test]}
        info = ModelInfo(
            tiny_models.ACTIVITY,
            label="log2_activity",
            label_transform={"name": "log2", "offset": 0.1},
            fold=f"fold_{number}",
            chromosomes=chromosomes,
        )
        found.append(ensembles.Model(f"fold_{number}", variables, info))
    return found


def test_elements_are_rebuilt_and_rows_left_out_are_listed(table):
    (one, two), dropped = benchmark_satmut.read_elements(table)
    assert (one.name, one.chrom, one.start) == ("one", "chr1", START - 1)
    assert sequence.decode(one.codes) == TEXT
    assert sequence.decode(two.codes) == TEXT[::-1][:10] + "N" + TEXT[::-1][11:]
    assert len(one.variants) == 3 * len(TEXT) - 1 and len(two.variants) == 3 * (len(TEXT) - 1) - 1
    reasons = dropped["reason"].value_counts()
    assert reasons["not a change of one base"] == 2 * len(TEXT) - 1
    assert reasons["no position"] == 1 and reasons["below 10 barcodes"] == 2
    with pytest.raises(ValueError, match="no row of release GRCh36"):
        benchmark_satmut.read_elements(table, release="GRCh36")


@pytest.mark.parametrize("strand", [0, 1])
def test_a_change_stands_in_the_middle_with_nothing_outside_the_element(table, strand):
    (element, _), _ = benchmark_satmut.read_elements(table)
    model = models()[0]
    found = benchmark_satmut.predict_element([model], element)[0, strand]
    pairs, valid = [], []
    for variant in element.variants.itertuples():
        place = variant.position - element.start
        for base in (variant.ref, variant.alt):
            text = TEXT[:place] + base + TEXT[place + 1 :]
            row = np.zeros((32, 4), np.float32)
            for at in range(32):
                from_element = place - 16 + at
                if 0 <= from_element < len(text):
                    row[at, "ACGT".index(text[from_element])] = 1
            pairs.append(row[::-1, ::-1] if strand else row)
            valid.append(pairs[-1].any(axis=1))
    naive = jax.jit(functional.activity, static_argnums=0)(
        tiny_models.ACTIVITY,
        jax.device_put(model.variables),
        jax.numpy.asarray(np.stack(pairs)),
        jax.numpy.asarray(np.stack(valid)),
    )
    expected = np.asarray(naive).reshape(-1, 2)
    expected = expected[:, 1] - expected[:, 0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert np.abs(expected).max() > 1e-3


def test_held_out_columns_are_those_of_the_fold_that_tests_the_chromosome(table):
    elements, _ = benchmark_satmut.read_elements(table)
    both = models()
    found = benchmark_satmut.compare(both, elements)
    one, two = (found[found["element"] == name] for name in ("one", "two"))
    assert set(one["fold"]) == {"fold_1"} and set(two["fold"]) == {""}
    effects = benchmark_satmut.predict_element(both, elements[0])
    np.testing.assert_allclose(one["held_out"], effects[0, 0], atol=1e-7)
    np.testing.assert_allclose(one["mean_of_all_both_strands"], effects.mean((0, 1)), atol=1e-7)
    assert two["held_out"].isna().all() and two["mean_of_all"].notna().all()
    same = two[(two["ref"] == "A") & (two["alt"] == "C")]["measured"].mean()
    chosen = one[(one["ref"] == "A") & (one["alt"] == "C")]
    np.testing.assert_allclose(chosen["baseline_substitution"], same)
    content = benchmark_satmut.score(found)
    scores = content["elements"]["one"]["pearson"]
    expected = np.corrcoef(one["measured"], one["held_out"])[0, 1]
    assert scores["held_out"]["value"] == pytest.approx(expected)
    assert scores["held_out"]["low"] < expected < scores["held_out"]["high"]
    assert np.isnan(content["elements"]["two"]["pearson"]["held_out"]["value"])


def test_the_command_writes_its_tables(table, tmp_path, capsys):
    for model in models():
        checkpoint.save_model(tmp_path / "run" / model.name, model.variables, model.info)
    given = ["benchmark", "satmut", "--model", str(tmp_path / "run"), "--satmut", str(table)]
    assert cli.main([*given, "--elements", "one", "--out", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert "held-out, both strands" in text and "in-sample for most" in text
    assert len(pd.read_csv(tmp_path / "out" / "elements.tsv", sep="\t")) == 1
    assert len(pd.read_csv(tmp_path / "out" / "variants.tsv", sep="\t")) == 3 * len(TEXT) - 1
    content = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert content["elements"]["one"]["n"] == 3 * len(TEXT) - 1
    assert cli.main([*given, "--elements", "three", "--out", str(tmp_path / "out")]) == 2
    assert "--elements three: unknown; there are one, two" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "count"), [("PKLR-24h", 1369), ("PKLR-48h", 1379)])
def test_held_out_fold_explains_measured_effects_in_k562(shared_data, name, count):
    """Both strands of the published encoder whose test chromosomes hold the element."""
    elements, _ = benchmark_satmut.read_elements(shared_data / "satmut")
    (element,) = [element for element in elements if element.name == name]
    assert len(element.variants) == count
    variables, info = convert.read(shared_data / "weights" / "encoder_K562" / "fold_12.pt")
    assert ensembles.role_of(info, element.chrom) == "test"
    model = ensembles.Model("fold_12", variables, info)
    effects = benchmark_satmut.predict_element([model], element)[0].mean(axis=0)
    assert np.corrcoef(element.variants["coefficient"], effects)[0, 1] >= 0.50
