"""Candidate elements: summits, merging, blacklist, promoters, classes, the peak caller's line."""

import argparse
import json
import shlex

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest

from data_prep import candidates
from data_prep.candidates import candidate_elements, with_classes
from data_prep.intervals import (
    clip_intervals,
    merge_intervals,
    overlaps_any,
    read_bed,
    sort_intervals,
    subtract_intervals,
)
from data_prep.peaks import peak_caller_command, read_peaks, strongest_summits

CONTIGS = {"chr1": 10_000, "chr2": 5_000, "chr10": 5_000}


def run_command(*arguments):
    """Parses and runs `candidates` in this process."""
    parser = argparse.ArgumentParser()
    candidates.add_arguments(parser)
    return candidates.run(parser.parse_args([str(argument) for argument in arguments]))


def intervals(*rows):
    """A frame of (chrom, start, end) rows."""
    return pd.DataFrame(rows, columns=["chrom", "start", "end"])


def places(frame):
    """The rows of a frame as (chrom, start, end)."""
    return list(frame[["chrom", "start", "end"]].itertuples(index=False, name=None))


def peaks_at(*summits, chrom="chr1", signal=None):
    """Peaks of 100 bp around summits."""
    frame = pd.DataFrame({"chrom": chrom, "summit": summits})
    frame["start"], frame["end"] = frame["summit"] - 50, frame["summit"] + 50
    frame["signal"] = np.arange(len(frame), 0, -1.0) if signal is None else signal
    return frame.assign(line=np.arange(1, len(frame) + 1))


def test_summits_are_extended_merged_where_they_touch_and_sorted():
    peaks = pd.concat(
        [peaks_at(3000, 3500, 4001), peaks_at(1000, chrom="chr10"), peaks_at(900, chrom="chr2")]
    )
    elements, dropped = candidate_elements(peaks, CONTIGS, extend_bp=250)
    assert places(elements) == [
        ("chr1", 2750, 3750),
        ("chr1", 3751, 4251),
        ("chr2", 650, 1150),
        ("chr10", 750, 1250),
    ]
    assert dropped.empty


def test_elements_end_where_their_contig_ends():
    elements, _ = candidate_elements(peaks_at(100, 9_900), CONTIGS)
    assert places(elements) == [("chr1", 0, 350), ("chr1", 9650, 10_000)]


def test_the_strongest_peaks_stay_and_the_others_are_listed():
    peaks = peaks_at(1000, 3000, 5000, 7000, signal=[1.0, 9.0, 2.0, 9.0])
    elements, dropped = candidate_elements(peaks, CONTIGS, peaks_kept=3)
    assert elements["start"].tolist() == [2750, 4750, 6750]
    assert dropped["summit"].tolist() == [1000]
    assert dropped["reason"].tolist() == ["peak is not among the 3 strongest"]


def test_equal_signals_are_settled_by_place():
    kept, left_out = strongest_summits(peaks_at(5000, 1000, 3000, signal=[2.0, 2.0, 2.0]), number=2)
    assert kept["summit"].tolist() == [1000, 3000]
    assert left_out["summit"].tolist() == [5000]


def test_the_blacklist_is_cut_out_or_takes_whole_elements():
    peaks = peaks_at(1000, 3000, 6000)
    blacklist = intervals(("chr1", 900, 950), ("chr1", 5000, 7000), ("chr2", 0, 5000))
    cut, lost = candidate_elements(peaks, CONTIGS, blacklist=blacklist)
    assert places(cut) == [("chr1", 750, 900), ("chr1", 950, 1250), ("chr1", 2750, 3250)]
    assert places(lost) == [("chr1", 5750, 6250)]
    assert lost["reason"].tolist() == ["element lies wholly in the blacklist"]
    whole, lost = candidate_elements(peaks, CONTIGS, blacklist=blacklist, blacklist_rule="drop")
    assert places(whole) == [("chr1", 2750, 3250)]
    assert len(lost) == 2


def test_promoters_are_added_before_merging():
    promoters = intervals(("chr1", 3200, 4200), ("chr2", 100, 1100), ("chrUn", 0, 1000))
    elements, _ = candidate_elements(peaks_at(3000), CONTIGS, promoters=promoters)
    assert places(elements) == [("chr1", 2750, 4200), ("chr2", 100, 1100)]


def test_peaks_on_other_contigs_and_short_rests_are_listed():
    peaks = pd.concat([peaks_at(1000), peaks_at(500, chrom="chrUn")])
    blacklist = intervals(("chr1", 760, 1250))
    elements, dropped = candidate_elements(
        pd.concat([peaks, peaks_at(3000)]), CONTIGS, blacklist=blacklist, min_length_bp=50
    )
    assert places(elements) == [("chr1", 2750, 3250)]
    assert sorted(dropped["reason"]) == [
        "element is shorter than 50 bp",
        "peak lies on a contig that the genome lacks",
    ]


def test_peaks_past_a_contigs_end_are_listed_and_a_large_share_is_warned_of(capsys):
    peaks = pd.concat([peaks_at(1000, 9_999, 10_000), peaks_at(4_999, 5_200, chrom="chr2")])
    elements, dropped = candidate_elements(peaks, CONTIGS, source="a.bed")
    assert places(elements) == [("chr1", 750, 1250), ("chr1", 9749, 10_000), ("chr2", 4749, 5000)]
    assert dropped["summit"].tolist() == [10_000, 5_200]
    assert dropped["reason"].tolist() == ["peak lies past the end of its contig"] * 2
    said = capsys.readouterr().out
    assert said.startswith("WARNING: a.bed: 2 of 5 places (peak: summit) lie past the ends")
    assert "the first at chr1:10,001 of 10,000 bp; is it of another assembly?" in said
    few = pd.concat([peaks_at(*range(1000, 9000, 50)), peaks_at(10_000)])
    _, dropped = candidate_elements(few, CONTIGS)
    assert len(dropped) == 1 and capsys.readouterr().out == ""  # listed, not warned of


def test_peaks_of_another_assembly_are_refused():
    with pytest.raises(ValueError, match=r"a.bed: 3 of 4 places .* this is another assembly"):
        candidate_elements(peaks_at(1000, 12_000, 13_000, 14_000), CONTIGS, source="a.bed")


def test_promoters_that_the_genome_lacks_are_listed():
    promoters = intervals(("chr1", 3200, 4200), ("chrUn", 0, 1000))
    _, dropped = candidate_elements(peaks_at(3000), CONTIGS, promoters=promoters)
    assert dropped["reason"].tolist() == ["promoter lies on a contig that the genome lacks"]


def test_an_element_is_a_promoter_then_genic_then_intergenic():
    genes = pd.DataFrame(
        {"chrom": ["chr1", "chr2"], "start": [2000, 0], "end": [6000, 100], "tss": [2000, 99]}
    )
    elements = intervals(
        ("chr1", 1400, 1500), ("chr1", 1400, 1501), ("chr1", 2500, 2600), ("chr1", 6000, 6100)
    )
    labelled = with_classes(elements, genes)
    assert labelled["class"].tolist() == ["intergenic", "promoter", "genic", "intergenic"]
    assert labelled["name"].iloc[1] == "promoter|chr1:1400-1501"


def test_summits_of_each_peak_format(tmp_path):
    rows = {
        "narrowPeak": "chr1\t100\t300\tp\t5\t.\t7.5\t1\t1\t40\n"
        "chr1\t400\t500\tp\t5\t.\t2\t1\t1\t-1\n",
        "broadPeak": "chr1\t100\t300\tp\t5\t.\t7.5\t1\t1\nchr1\t400\t500\tp\t5\t.\t2\t1\t1\n",
        "bed": "track name=x\nchr1\t100\t300\tp\t7.5\r\nchr1\t400\t500\tq\t2\r\n",
    }
    wanted = {"narrowPeak": [140, 450], "broadPeak": [200, 450], "bed": [200, 450]}
    for kind, text in rows.items():
        path = tmp_path / f"peaks.{kind}"
        path.write_text(text)
        for peak_format in ("auto", kind):
            peaks = read_peaks(path, peak_format=peak_format)
            assert peaks["summit"].tolist() == wanted[kind]
            assert peaks["signal"].tolist() == [7.5, 2.0]


def test_the_candidate_regions_of_the_abc_pipeline_come_out(shared_data):
    folder = shared_data / "abc_chr22"
    genes = pd.read_csv(folder / "K562chr22_GeneList.txt.gz", sep="\t")
    promoters = pd.DataFrame(
        {"chrom": genes["chr"], "start": genes["tss"] - 250, "end": genes["tss"] + 250}
    )
    elements, _ = candidate_elements(
        read_peaks(folder / "K562chr22_macs2_peaks.narrowPeak.sorted.gz"),
        {"chr22": 50_818_468},
        blacklist=read_bed(folder / "GRCh38_unified_blacklist.bed"),
        blacklist_rule="drop",
    )
    # The pipeline puts TSS windows in after the blacklist.
    published = read_bed(folder / "K562chr22_macs2_peaks.narrowPeak.sorted.candidateRegions.bed.gz")
    ours = merge_intervals(pd.concat([elements, promoters]))
    assert len(ours) == 17_732
    assert places(ours) == places(sort_intervals(published))


def test_the_peak_caller_line_shifts_by_assay():
    dnase = shlex.split(peak_caller_command("reads.bam", assay="DNase"))
    assert dnase[:6] == ["macs3", "callpeak", "-t", "reads.bam", "-f", "BAM"]
    assert dnase[dnase.index("--shift") + 1] == "-75"
    assert dnase[dnase.index("--extsize") + 1] == "150"
    assert dnase[-5:] == ["--keep-dup", "all", "--call-summits", "-p", "0.1"]
    atac = shlex.split(peak_caller_command("my reads.tagAlign.gz", assay="ATAC", genome_size="mm"))
    assert atac[3:8] == ["my reads.tagAlign.gz", "-f", "BED", "-g", "mm"]
    assert atac[atac.index("--shift") + 1] == "-100"
    assert atac[atac.index("--extsize") + 1] == "200"


@hypothesis.settings(max_examples=15)
@hypothesis.given(st.integers(0, 10**6))
def test_set_operations_agree_with_sets_of_bases(seed):
    rng = np.random.default_rng(seed)

    def draw(number, first=0):
        frame = pd.DataFrame({"chrom": rng.choice(["chr2", "chr10"], number)})
        frame["start"] = rng.integers(first, 60, number)
        frame["end"] = frame["start"] + rng.integers(1, 15, number)
        return frame

    def bases(frame):
        return {(row.chrom, at) for row in frame.itertuples() for at in range(row.start, row.end)}

    one, other = draw(8), draw(5)
    merged = merge_intervals(one)
    assert bases(merged) == bases(one)
    ends = merged.groupby("chrom")["end"].shift()
    assert (merged["start"] > ends)[ends.notna()].all()
    assert bases(subtract_intervals(merged, other)) == bases(one) - bases(other)
    inside = {(chrom, at) for chrom in ("chr2", "chr10") for at in range(50)}
    outside = draw(8, first=-5)
    assert bases(clip_intervals(outside, {"chr2": 50, "chr10": 50})) == bases(outside) & inside
    meets = [bool(bases(one.iloc[[row]]) & bases(other)) for row in range(len(one))]
    assert overlaps_any(one, other).tolist() == meets
    ordered = sort_intervals(one)
    assert sorted(set(ordered["chrom"]), key=["chr2", "chr10"].index) == list(
        dict.fromkeys(ordered["chrom"])
    )


def write_inputs(folder):
    (folder / "sizes").write_text("chr1\t10000\nchr2\t5000\n")
    (folder / "peaks.bed").write_text(
        "1\t950\t1050\ta\t3\n2\t2000\t2100\tb\t2\n1\t3000\t3100\tc\t1\n"
    )
    (folder / "genes.bed").write_text("1\t1200\t3060\tA\t0\t+\n")
    return [
        "--peaks", folder / "peaks.bed", "--contigs", folder / "sizes",
        "--genes", folder / "genes.bed", "--peaks-kept", 2,
    ]  # fmt: skip


def test_the_command_writes_elements_what_it_left_out_and_how(tmp_path, capsys):
    inputs = write_inputs(tmp_path)
    assert run_command(*inputs, "--out", tmp_path / "elements.tsv.gz") == 0
    table = pd.read_csv(tmp_path / "elements.tsv.gz", sep="\t")
    assert table.columns.tolist() == ["chrom", "start", "end", "class", "name"]
    assert table["class"].tolist() == ["promoter", "intergenic"]
    assert places(table) == [("chr1", 750, 1250), ("chr2", 1800, 2300)]
    summary = json.loads((tmp_path / "elements.json").read_text())
    assert summary["elements"] == 2
    assert summary["left_out"] == {"peak is not among the 2 strongest": 1}
    assert len(pd.read_csv(tmp_path / "elements.dropped.tsv", sep="\t")) == 1
    assert "left out 1: peak is not among the 2 strongest" in capsys.readouterr().out


def test_a_list_of_an_earlier_run_does_not_stay(tmp_path):
    inputs = write_inputs(tmp_path)
    run_command(*inputs, "--out", tmp_path / "elements.tsv")
    run_command(*inputs, "--peaks-kept", 0, "--out", tmp_path / "elements.tsv")
    assert not (tmp_path / "elements.dropped.tsv").exists()


def test_other_names_and_peaks_past_the_ends_are_said_and_counted(tmp_path, capsys):
    inputs = write_inputs(tmp_path)
    with open(tmp_path / "peaks.bed", "a") as handle:
        handle.write("2\t6000\t6100\td\t9\n")
    run_command(*inputs, "--out", tmp_path / "elements.tsv")
    reason = "peak lies past the end of its contig"
    assert json.loads((tmp_path / "elements.json").read_text())["left_out"][reason] == 1
    dropped = pd.read_csv(tmp_path / "elements.dropped.tsv", sep="\t")
    assert (dropped["reason"] == reason).sum() == 1
    said = capsys.readouterr().out
    assert f"left out 1: {reason}" in said and "WARNING" in said
    assert "peaks.bed: contigs by the genome's names: 1 -> chr1, 2 -> chr2" in said


def test_a_blacklist_of_another_assembly_is_refused(tmp_path):
    inputs = write_inputs(tmp_path)
    (tmp_path / "blacklist.bed").write_text("chr1\t20000\t21000\n")
    given = ["--blacklist", tmp_path / "blacklist.bed", "--out", tmp_path / "elements.tsv"]
    with pytest.raises(ValueError, match="blacklist.bed: 1 of 1 places"):
        run_command(*inputs, *given)


def test_promoters_enter_by_option(tmp_path):
    inputs = write_inputs(tmp_path)
    run_command(*inputs, "--include-promoters", "--out", tmp_path / "elements.tsv")
    table = pd.read_csv(tmp_path / "elements.tsv", sep="\t")
    assert places(table) == [("chr1", 700, 1700), ("chr2", 1800, 2300)]


def test_the_peak_caller_is_printed_without_any_input(capsys):
    assert run_command("--print-peak-caller", "a.bam", "--assay", "ATAC") == 0
    assert capsys.readouterr().out.startswith("macs3 callpeak -t a.bam")


def test_a_failed_run_leaves_no_output(tmp_path):
    inputs = write_inputs(tmp_path)
    (tmp_path / "peaks.bed").write_text("chr7\t1\t2\ta\t3\n")
    with pytest.raises(ValueError, match="no contig name in common"):
        run_command(*inputs, "--out", tmp_path / "elements.tsv")
    assert not list(tmp_path.glob("*elements*"))
