"""The figure of one gene: what it gathers, what it draws, what it refuses."""

import argparse
import math

import numpy as np
import pandas as pd
import pytest
import tiny_folds
import tiny_inputs
import tiny_models

from epinformer_jax.analysis import element_table, links, locus, plots_locus, tracks
from epinformer_jax.data.genome import Genome

MODELS = tiny_folds.models()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with tiny_models.quick_compilation():
        yield tmp_path_factory.mktemp("locus")


@pytest.fixture(scope="module")
def genes(folder):
    return tiny_folds.genes(folder)


@pytest.fixture(scope="module")
def inputs_of_command(folder, genes):
    """Options of the command: tables, two folds, a bigWig, effects."""
    with Genome(folder / "tiny.fa", folder / "cache") as genome:
        contigs = dict(genome.contigs)
    values = np.sin(np.arange(4000) / 90.0) ** 2
    tracks.write_bigwig(folder / "s.bw", [tracks.Signal("chr1", 500, values)], contigs)
    header = ["chrom", "start", "end", "effect", "significant", "gene_id"]
    rows = [
        ["chr1", 2000, 2300, -0.4, "TRUE", "G1"],
        ["chr1", 4400, 4900, 0.1, "FALSE", "G1"],
        ["chr1", 4400, 4900, 0.9, "TRUE", "G2"],
        ["chr2", 100, 400, -0.9, "TRUE", "G2"],
    ]
    tiny_inputs.write_tsv(folder / "effects.tsv", header, rows)
    given = [i for k, file in tiny_inputs.FILES.items() for i in (f"--{k}", folder / file)]
    given += ["--model", tiny_folds.save(folder / "run"), "--cache-dir", folder / "cache"]
    return [*given, "--signal", f"DNase={folder / 's.bw'}", "--effects", folder / "effects.tsv"]


@pytest.fixture(scope="module")
def shown(folder, genes, inputs_of_command):
    return locus.gather(
        MODELS,
        element_table.select(genes, ["G1"]),
        promoters=element_table.promoters_of(genes),
        signals={"DNase": folder / "s.bw"},
        effects=locus.read_effects(folder / "effects.tsv"),
    )


def test_a_locus_holds_what_is_known_of_its_gene(genes, shown):
    assert (shown.gene_id, shown.chrom, shown.tss, shown.strand) == ("G1", "chr1", 600, "+")
    assert shown.start <= 600 and shown.end >= 5001 and shown.held_out == "fold_1, held out"
    assert shown.end - shown.start >= locus.MIN_RANGE_BP
    table = links.score_links(MODELS, genes)
    delta = table.loc[table["gene_id"] == "G1", "removal_delta"]
    fold = 10 ** (1.1 * delta)  # z_log10 with sd 1.1
    np.testing.assert_allclose(shown.elements["predicted"], 100 * (fold - 1), atol=1e-3)
    assert list(shown.effects["effect"]) == [-0.4, 0.1]  # its own, on its contig, in range
    assert shown.predicted_unit == locus.PERCENT
    width = (shown.end - shown.start) / len(shown.signals["DNase"])
    total = shown.signals["DNase"].sum() * width
    np.testing.assert_allclose(total, (np.sin(np.arange(4000) / 90.0) ** 2).sum(), rtol=0.01)


def test_without_a_known_label_the_change_is_in_its_units(genes):
    models = [tiny_folds.model(label_transform={"unit": "z"})]
    own = element_table.select(genes, ["G1"])
    plain = locus.gather(models, own, flank_kb=2.0)
    assert (plain.start, plain.end) == (600 - 2000, 600 + 2000)
    assert list(plain.elements["start"]) == [2000] and "(rna)" in plain.predicted_unit
    stated = locus.gather(models, own, label_transform={"name": "log2"})
    delta = links.score_links(models, own)["removal_delta"]
    np.testing.assert_allclose(stated.elements["predicted"], 100 * (2**delta - 1), atol=1e-4)
    with pytest.raises(ValueError, match="4 genes are given; name one"):
        locus.gather(models, genes)


def bars(axes):
    return {round(bar.get_x() + bar.get_width() / 2, 4): bar for bar in axes.patches}


def test_bars_stand_at_their_elements_with_their_values(shown):
    figure = plots_locus.locus_figure(shown._asdict())
    by_label = {axes.get_ylabel().replace("\n", " "): axes for axes in figure.axes}
    assert list(by_label) == [
        *("Contact (darker: more)", "Elements", "DNase", "Activity", "Attention"),
        *("Predicted change (%)", "Measured change (%)"),
    ]
    for label, column in (("Activity", "activity"), ("Predicted change (%)", "predicted")):
        found = bars(by_label[label])
        for row in shown.elements.itertuples():
            middle = round(((row.start + row.end) / 2 - 600) / 1000, 4)
            np.testing.assert_allclose(found[middle].get_height(), getattr(row, column))
    measured = bars(by_label["Measured change (%)"])
    heights = {at: bar.get_height() for at, bar in measured.items()}
    assert heights == pytest.approx({1.55: -40.0, 4.05: 10.0})
    assert measured[1.55].get_facecolor() != measured[4.05].get_facecolor()
    low, high = figure.axes[0].get_xlim()
    assert math.isclose(high - low, (shown.end - shown.start) / 1000)


def test_names_do_not_stand_on_each_other(shown):
    many = pd.DataFrame({"gene_name": [f"GENE{i}" for i in range(40)], "strand": "-"})
    many["tss"] = np.linspace(shown.start, shown.end, 40).astype(int)
    crowded = shown._replace(others=many, signals={}, effects=None)
    figure = plots_locus.locus_figure(crowded._asdict())
    figure.draw_without_rendering()
    axes = figure.axes[1]
    names = [text for text in axes.texts if text.get_text()]
    assert any(text.get_text() == "G1" for text in names) and 3 < len(names) < 41
    boxes = [text.get_window_extent() for text in names]
    for i, box in enumerate(boxes):
        for other in boxes[:i]:
            shared_x = min(box.x1, other.x1) - max(box.x0, other.x0)
            shared_y = min(box.y1, other.y1) - max(box.y0, other.y0)
            assert shared_x <= 1 or shared_y <= 3


@pytest.mark.parametrize("name", ["a.png", "a.svg"])
def test_the_command_draws(name, inputs_of_command, tmp_path, capsys):
    parser = argparse.ArgumentParser()
    locus.add_arguments(parser)
    given = [*map(str, inputs_of_command), "--gene", "G1", "--out", str(tmp_path / name)]
    assert locus.run(parser.parse_args(given)) == 0
    start = (tmp_path / name).read_bytes()[:5]
    assert start == (b"\x89PNG\r" if name.endswith("png") else b"<?xml")
    assert capsys.readouterr().out.endswith(f"{tmp_path / name}\n")
    with pytest.raises(ValueError, match=r"ends in \.png or \.svg"):
        locus.run(parser.parse_args([*given, "--out", str(tmp_path / "a.pdf")]))


def test_effects_are_checked(tmp_path):
    path = tmp_path / "e.tsv"
    tiny_inputs.write_tsv(path, ["chrom", "start", "end", "effect"], [["c", 5, 9, "x"]])
    with pytest.raises(ValueError, match=r"e\.tsv:2: effect 'x' is not a number"):
        locus.read_effects(path)
    tiny_inputs.write_tsv(path, ["chrom", "start", "end", "effect"], [["c", 5, 5, 1]])
    with pytest.raises(ValueError, match="end is not after start"):
        locus.read_effects(path)
    tiny_inputs.write_tsv(path, ["chrom", "start", "end", "effect"], [["c", 5, 6, -30]])
    with pytest.raises(ValueError, match=r"e\.tsv:2: effect -30 takes away more than all"):
        locus.read_effects(path)
    tiny_inputs.write_tsv(path, ["chrom", "start", "end", "effect"], [["c", 5, 6, 1]])
    assert locus.read_effects(path)["significant"].all()
