"""What mutagenesis writes: edits on either strand, files, tracks, figures."""

import dataclasses

import numpy as np
import pytest
import tiny_inputs

from epinformer_jax.analysis import (
    attribution_file,
    edits,
    mutagenesis_output,
    plots_logo,
    saturation,
)
from epinformer_jax.data import sequence


def test_edits_of_the_other_strand_are_the_same_edits():
    codes = tiny_inputs.random_codes(np.random.default_rng(0), 9)
    for one in edits.series(9, (1, 4), ("2", "AC")):
        for edit in one.edits:
            turned = sequence.reverse_complement(edits.apply(codes, edit))
            mirrored = edits.mirrored(edit, 9)
            there = edits.apply(sequence.reverse_complement(codes), mirrored)
            np.testing.assert_array_equal(turned, there)
    assert [len(one.edits) for one in edits.series(9, (1, 4, 9), ("N",))] == [9, 6, 0, 9]
    for wrong in ("0", "AX", ""):
        with pytest.raises(ValueError, match="expected a number"):
            edits.series(9, (), (wrong,))


def made_scan(start, length, seed):
    rng = np.random.default_rng(seed)
    codes = tiny_inputs.random_codes(rng, length)
    effects = rng.normal(size=(4, length))
    effects[saturation.digits(saturation.centred(codes, length)), np.arange(length)] = 0
    return mutagenesis_output.Scan(
        f"scan {seed}", "chr1", start, codes, np.zeros(length), effects, label="rna"
    )


def test_files_hold_what_their_readers_expect(tmp_path):
    scans = [made_scan(10, 30, 1), made_scan(200, 20, 2)]
    paths = mutagenesis_output.save(tmp_path / "ism.npz", scans)
    read = attribution_file.read(paths[0])
    for row, scan in enumerate(scans):
        length = len(scan.codes)
        np.testing.assert_array_equal(read.one_hot[row, :, :length], scan.one_hot)
        known = scan.codes != sequence.UNKNOWN
        np.testing.assert_allclose(
            read.hypothetical[row, :, :length][:, known], scan.hypothetical[:, known], atol=1e-6
        )
    assert list(read.start) == [10, 200] and not read.one_hot[1, :, 20:].any()
    one_hot, scores = (np.load(path)["arr_0"] for path in paths[1:])
    assert one_hot.shape == scores.shape == (2, 4, 30)
    np.testing.assert_allclose((scores * one_hot)[0].sum(axis=0), scans[0].contribution, atol=1e-6)


def test_tracks_take_the_mean_where_scans_overlap():
    scans = [made_scan(100, 20, 1), made_scan(110, 20, 2), made_scan(200, 5, 3)]
    first, last = mutagenesis_output.signals(scans)
    assert (first.start, len(first.values), last.start) == (100, 30, 200)
    both = (scans[0].contribution[10:] + scans[1].contribution[:10]) / 2
    np.testing.assert_allclose(first.values[10:20], both)
    with pytest.raises(ValueError, match="no place"):
        mutagenesis_output.signals([dataclasses.replace(scans[0], start=-1)])


@pytest.mark.parametrize("length", [1, 250, 450])
def test_figures_are_drawn_for_short_and_long_scans(length, tmp_path):
    scan = made_scan(100, length, 4)
    figure = plots_logo.scan_figure(
        scan.contribution, scan.effects, scan.one_hot, title="here", unit="rna", start=100
    )
    rows = {1: 1, 250: 3, 450: 1}[length]
    assert len(figure.axes) == 2 * rows + 1 + (length > 400)
    plots_logo.save(figure, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
