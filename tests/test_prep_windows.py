"""Windows around summits: their places, negatives, what is left out, activity."""

import argparse
import json

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest

from data_prep import signals, windows
from data_prep.windows import LAYOUTS, WindowLayout, negative_summits, summit_windows, too_unknown
from epinformer_jax.data.genome import Genome
from epinformer_jax.data.tables import read_windows

CONTIGS = {"chr1": 60_000, "chr2": 30_000}


def run_command(*arguments):
    """Parses and runs `windows` in this process."""
    parser = argparse.ArgumentParser()
    windows.add_arguments(parser)
    return windows.run(parser.parse_args([str(argument) for argument in arguments]))


def summits(*positions, chrom="chr1"):
    """Summits on one chromosome."""
    return pd.DataFrame({"chrom": chrom, "summit": positions})


@pytest.mark.parametrize(
    ("layout", "offsets"),
    [
        ("published", [-468, -312, -156, 0, 156, 312, 468]),
        ("published5", [-312, -156, 0, 156, 312]),
        ("new", [-384, -192, 0, 192, 384]),
    ],
)
def test_windows_lie_at_the_offsets_of_their_layout(layout, offsets):
    table, dropped = summit_windows(summits(5000), CONTIGS, LAYOUTS[layout])
    assert table["offset"].tolist() == offsets
    assert (table["start"] == 5000 + table["offset"] - 128).all()
    assert (table["end"] - table["start"] == 256).all()
    assert dropped.empty


def test_the_published_windows_of_a_real_summit_come_out(shared_data):
    published = pd.read_csv(shared_data / "k562_slices" / "windows_256bp.tsv", sep="\t")
    published = published[published["chrom"] == published["chrom"].iloc[0]]
    starts = np.sort(published["start"].to_numpy())
    chain = starts[: int(np.argmax(np.diff(starts) != 156)) + 1]
    middle = int(chain[len(chain) // 2]) + 128
    table, _ = summit_windows(
        summits(middle, chrom=published["chrom"].iloc[0]),
        {published["chrom"].iloc[0]: 10**7},
        WindowLayout(len(chain) - 1 + len(chain) % 2, 156),
    )
    assert len(chain) >= 3
    assert set(table["start"]) <= set(starts.tolist())


def test_windows_past_an_end_and_repeated_windows_are_listed():
    table, dropped = summit_windows(summits(200, 1000, 1192, 59_900), CONTIGS, WindowLayout(3, 192))
    reasons = dropped["reason"].value_counts().to_dict()
    assert reasons == {
        "window reaches past the end of its contig": 3,
        "same window around another summit": 2,
    }
    # Two windows of the summits 1000 and 1192 coincide; each stays with the nearer summit.
    kept = table.set_index("start")
    assert kept.loc[1000 - 128, "summit"] == 1000
    assert kept.loc[1192 - 128, "summit"] == 1192
    assert not table.duplicated(["chrom", "start"]).any()
    assert len(table) + len(dropped) == 12


@hypothesis.given(st.integers(0, 10**6))
def test_no_negative_reaches_near_a_peak_or_past_an_end(seed):
    rng = np.random.default_rng(seed)
    peaks = pd.DataFrame(
        {"chrom": rng.choice(list(CONTIGS), 4), "start": rng.integers(0, 29_000, 4)}
    )
    peaks["end"] = peaks["start"] + rng.integers(1, 900, 4)
    found = negative_summits(peaks, CONTIGS, number=15, seed=seed, reach_bp=512)
    assert len(found) == 15
    for chrom, place in found.itertuples(index=False):
        assert 512 <= place <= CONTIGS[chrom] - 512
        for row in peaks[peaks["chrom"] == chrom].itertuples():
            assert place + 512 + 1000 <= row.start or place - 512 - 1000 >= row.end
    again = negative_summits(
        peaks.iloc[::-1], dict(reversed(CONTIGS.items())), number=15, seed=seed, reach_bp=512
    )
    pd.testing.assert_frame_equal(found, again)


def test_negatives_follow_contig_length():
    found = negative_summits(
        pd.DataFrame({"chrom": ["chr1"], "start": [0], "end": [1]}),
        {"chr1": 3_000_000, "chr2": 1_000_000},
        number=2000,
        seed=1,
        reach_bp=500,
    )
    assert (found["chrom"] == "chr1").mean() == pytest.approx(0.75, abs=0.04)


def test_negatives_that_have_no_room_are_an_error():
    peaks = pd.DataFrame({"chrom": ["chr1"], "start": [0], "end": [60_000]})
    with pytest.raises(ValueError, match="found 0 of 3 negatives"):
        negative_summits(peaks, {"chr1": 60_000}, number=3, seed=0, reach_bp=500)


def test_windows_of_unknown_sequence_are_told(tmp_path):
    fasta = tmp_path / "genome.fa"
    fasta.write_text(">chr1\n" + "A" * 300 + "N" * 300 + "C" * 200 + "\n")
    table = pd.DataFrame({"chrom": "chr1", "start": [0, 150, 300], "end": [256, 406, 556]})
    with Genome(fasta, cache_dir=tmp_path) as genome:
        assert too_unknown(table, genome, max_share=0.5).tolist() == [False, False, True]
        assert too_unknown(table, genome, max_share=0.1).tolist() == [False, True, True]


def test_the_target_is_log2_of_a_tenth_and_activity():
    found = signals.log2_activity(np.array([0.0, 0.9, 1.9]))
    np.testing.assert_allclose(found, [np.log2(0.1), 0, 1])


def write_inputs(folder):
    """Twenty peaks and evenly spread reads on chr1."""
    (folder / "sizes").write_text("".join(f"{name}\t{size}\n" for name, size in CONTIGS.items()))
    rows = [
        f"chr1\t{start}\t{start + 200}\tp\t0\t.\t{start}\t1\t1\t100\n"
        for start in range(1000, 41_000, 2000)
    ]
    (folder / "peaks.narrowPeak").write_text("".join(rows))
    reads = "".join(f"chr1\t{at}\t{at + 50}\tN\t0\t+\n" for at in range(900, 42_000, 37))
    (folder / "reads.tagAlign").write_text(reads)
    return [
        "--peaks", folder / "peaks.narrowPeak", "--contigs", folder / "sizes",
        "--accessibility", folder / "reads.tagAlign", "--h3k27ac", folder / "reads.tagAlign",
    ]  # fmt: skip


def test_the_command_writes_windows_that_the_data_room_reads(tmp_path, capsys):
    inputs = write_inputs(tmp_path)
    assert run_command(*inputs, "--peaks-kept", 10, "--out", tmp_path / "windows.tsv.gz") == 0
    table = read_windows(tmp_path / "windows.tsv.gz", labels=["log2_activity"])
    raw = pd.read_csv(tmp_path / "windows.tsv.gz", sep="\t")
    # 5 % of 10 peaks round to 0 negatives; the ten strongest are the last ten.
    assert len(table) == 50 and raw["summit"].min() == 21_100
    np.testing.assert_allclose(raw["log2_activity"], np.log2(0.1 + raw["activity"]), rtol=1e-7)
    np.testing.assert_allclose(raw["activity"], raw["dnase_rpm"], rtol=1e-7)
    assert run_command(*inputs, "--negative-fraction", 0.2, "--out", tmp_path / "more.tsv") == 0
    more = pd.read_csv(tmp_path / "more.tsv", sep="\t")
    negatives = more[more["kind"] == "negative"]
    assert len(negatives) == 4 * 5
    assert negatives["dnase_count"].max() == 0
    how = json.loads((tmp_path / "more.json").read_text())
    assert how["negatives"] == 4
    assert how["layout"] == {"windows_per_summit": 5, "stride_bp": 192}
    assert "4 negative places" in capsys.readouterr().out


def test_without_signal_files_only_the_places_are_written_and_signals_adds_the_rest(
    tmp_path, capsys
):
    inputs = write_inputs(tmp_path)
    places, files = inputs[:4], inputs[4:]
    run_command(*places, "--out", tmp_path / "places.tsv")
    assert "signals --windows` adds it" in capsys.readouterr().out
    assert "activity" not in pd.read_csv(tmp_path / "places.tsv", sep="\t")
    parser = argparse.ArgumentParser()
    signals.add_arguments(parser)
    measured = ["--windows", tmp_path / "places.tsv", *files, "--out", tmp_path / "later.tsv"]
    signals.run(parser.parse_args([str(word) for word in measured]))
    run_command(*inputs, "--out", tmp_path / "at_once.tsv")
    assert (tmp_path / "later.tsv").read_bytes() == (tmp_path / "at_once.tsv").read_bytes()


def test_peaks_past_a_contigs_end_are_listed(tmp_path, capsys):
    inputs = write_inputs(tmp_path)
    with open(tmp_path / "peaks.narrowPeak", "a") as handle:
        handle.write("chr2\t90000\t90100\tp\t0\t.\t9\t-1\t-1\t50\n")
    run_command(*inputs, "--out", tmp_path / "windows.tsv")
    reason = "peak lies past the end of its contig"
    assert f"left out 1: {reason}" in capsys.readouterr().out
    dropped = pd.read_csv(tmp_path / "windows.dropped.tsv", sep="\t")
    assert (dropped["reason"] == reason).sum() == 1


def test_the_same_seed_gives_the_same_windows(tmp_path):
    (tmp_path / "sizes").write_text("chr1\t60000\n")
    (tmp_path / "peaks.bed").write_text("chr1\t5000\t5200\n")
    (tmp_path / "reads.tagAlign").write_text("chr1\t5000\t5050\tN\t0\t+\n")
    written = []
    for name in ("one.tsv", "two.tsv"):
        run_command(
            "--peaks", tmp_path / "peaks.bed", "--contigs", tmp_path / "sizes",
            "--accessibility", tmp_path / "reads.tagAlign", "--negative-fraction", 1,
            "--out", tmp_path / name,
        )  # fmt: skip
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]
    assert written[0].count(b"\tnegative\t") == 5
