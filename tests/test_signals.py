"""Signals of regions: one pass for all tables, replicates, quantiles, activity, the command."""

import argparse
import json

import numpy as np
import pandas as pd
import pyBigWig
import pytest
from random_reads import CONTIGS, random_regions, write_bam

from data_prep import candidates, contact, genes, links, signals, windows
from data_prep.quantile import by_position, by_rank, read_quantile_reference
from data_prep.signal_files import CountingOptions, measure, measure_tables
from data_prep.signals import Signal, measure_signals


def run_command(*arguments):
    """Parses and runs `signals` in this process."""
    parser = argparse.ArgumentParser()
    signals.add_arguments(parser)
    return signals.run(parser.parse_args([str(argument) for argument in arguments]))


def test_replicates_are_pooled_by_mean_of_rpm_or_by_sum(tmp_path):
    regions = pd.DataFrame({"chrom": "chr1", "start": [0], "end": [10], "a": [10], "b": [30]})
    signal = Signal("dnase", ("column:a", "column:b"), (1e6, 2e6))
    mean = measure_signals(regions, [signal], CountingOptions(), pool="mean").columns
    total = measure_signals(regions, [signal], CountingOptions(), pool="sum").columns
    assert mean["dnase_rpm"].tolist() == [12.5]
    np.testing.assert_allclose(total["dnase_rpm"], [40 / 3])
    assert mean["dnase_count"].tolist() == total["dnase_count"].tolist() == [40]


def test_the_total_given_replaces_the_files_own(tmp_path):
    bam = write_bam(tmp_path / "reads.bam")
    regions = random_regions()
    ours = measure_signals(regions, [Signal("x", (str(bam),), (4e6,))], CountingOptions()).columns
    np.testing.assert_allclose(ours["x_rpm"], ours["x_count"] / 4)


def test_quantiles_by_rank_look_up_the_reference_and_extend_it(shared_data):
    reference = read_quantile_reference(shared_data / "abc_chr22" / "EnhancersQNormRef.K562.txt")
    signal = np.random.default_rng(0).random(500) * 10
    is_promoter = np.arange(500) < 100
    ours = by_rank(signal, is_promoter, reference, name="dnase")
    assert (ours >= 0).all()
    for chosen in (is_promoter, ~is_promoter):
        order = np.argsort(signal[chosen])
        assert (np.diff(ours[chosen][order]) >= 0).all()
    assert by_rank(np.zeros(0), np.zeros(0, bool), reference, name="dnase").size == 0


def test_quantiles_by_position_give_the_reference_back_to_itself(shared_data):
    reference = read_quantile_reference(shared_data / "abc_chr22" / "EnhancersQNormRef.K562.txt")
    values = reference.column("any", "h3k27ac")
    np.testing.assert_allclose(
        by_position(values, reference, name="h3k27ac"), np.sort(values)[::-1]
    )
    ordered = np.sort(values)
    # Ties share their average rank; n values are spread evenly over the reference.
    found = by_position(np.array([1.0, 5.0, 5.0, 9.0]), reference, name="h3k27ac")
    wanted = np.interp([0, 58, 116], np.arange(117), ordered)
    np.testing.assert_allclose(found, [wanted[0], wanted[1], wanted[1], wanted[2]])
    single = by_position(np.array([3.0]), reference, name="h3k27ac")
    np.testing.assert_allclose(single, [ordered[58]])


def test_the_command_writes_activity_and_how_it_was_counted(tmp_path, capsys):
    bam = write_bam(tmp_path / "reads.bam")
    other = write_bam(tmp_path / "other.bam", seed=5)
    regions = random_regions().drop_duplicates()
    regions.to_csv(tmp_path / "regions.tsv", sep="\t", index=False)
    out = tmp_path / "out.tsv.gz"
    inputs = [
        "--regions",
        tmp_path / "regions.tsv",
        "--accessibility",
        bam,
        "--h3k27ac",
        f"{other},{bam}",
    ]
    assert run_command(*inputs, "--reads", "recommended", "--out", out) == 0
    table = pd.read_csv(out, sep="\t")
    assert len(table) == len(regions)
    np.testing.assert_allclose(
        table["activity"], np.sqrt(table["dnase_rpm"] * table["h3k27ac_rpm"])
    )
    assert table["dnase_count"].dtype == np.int64
    how = json.loads((tmp_path / "out.json").read_text())
    assert how["read_filter"]["min_mapq"] == 30
    assert not how["read_filter"]["keep_duplicates"]
    assert how["signals"]["h3k27ac"]["pooled_by"] == "mean"
    assert len(how["signals"]["h3k27ac"]["totals"]) == 2
    np.testing.assert_allclose(
        table["dnase_rpm"], table["dnase_count"] * 1e6 / how["signals"]["dnase"]["totals"][0]
    )
    assert "reads in all" in capsys.readouterr().out


def write_three_tables(folder):
    """Elements, TSSs and windows that overlap each other, and their options."""
    elements = random_regions().drop_duplicates()
    elements.to_csv(folder / "elements.tsv", sep="\t", index=False)
    (folder / "genes.tsv").write_text("gene_id\tchrom\ttss\nB\tchr2\t200\nA\tchr1\t2000\n")
    windows = elements.assign(end=elements["start"] + 100, name="w", kind="peak")
    windows.to_csv(folder / "windows.tsv", sep="\t", index=False)
    names = {"--regions": "elements", "--genes": "genes", "--windows": "windows"}
    return {option: folder / f"{name}.tsv" for option, name in names.items()}


@pytest.mark.parametrize("kind", ["bam", "bigwig", "bedgraph", "tagalign", "fragments"])
def test_tables_counted_together_get_what_each_gets_alone(tmp_path, kind):
    rng = np.random.default_rng(2)
    units = {"track_units": "coverage"} if kind in ("bigwig", "bedgraph") else {}
    if kind == "bam":
        path = write_bam(tmp_path / "a.bam")
    else:
        starts = np.arange(0, 3000, 7)
        rows = [("chr1", int(at), int(at) + 5, float(rng.random())) for at in starts]
        path = tmp_path / {"bigwig": "a.bw", "fragments": "fragments.tsv"}.get(kind, f"a.{kind}")
        if kind == "bigwig":
            with pyBigWig.open(str(path), "w") as handle:
                handle.addHeader(list(CONTIGS.items()))
                chroms, begin, end, value = map(list, zip(*rows, strict=True))
                handle.addEntries(chroms, begin, ends=end, values=value)
        else:
            rest = {"tagalign": "N\t0\t+", "fragments": "ACGT-1\t1"}
            lines = [f"{c}\t{a}\t{b}\t{rest.get(kind, v)}\n" for c, a, b, v in rows]
            path.write_text("".join(lines))
    first = random_regions()
    tables = [first, first.assign(start=first["start"] + 3, end=first["end"] + 9), first.iloc[:4]]
    options = CountingOptions(file_format=kind, **units)
    together = measure_tables(path, tables, options)
    for regions, ours in zip(tables, together, strict=True):
        alone = measure(path, regions, options)
        np.testing.assert_array_equal(ours.values, alone.values)
        assert (ours.total, ours.unit) == (alone.total, alone.unit)
    assert sum(together[0].values) > 0


def test_one_call_measures_three_tables_as_three_calls_do(tmp_path, capsys):
    bam = write_bam(tmp_path / "reads.bam")
    tables = write_three_tables(tmp_path)
    files = ["--accessibility", bam, "--h3k27ac", bam]
    every = [word for pair in tables.items() for word in pair]
    run_command(*every, *files, "--out", tmp_path / "all")
    assert "reads in all, over" in capsys.readouterr().out
    names = ("elements.tsv.gz", "promoters.tsv.gz", "windows.tsv.gz")
    for (option, path), name in zip(tables.items(), names, strict=True):
        run_command(option, path, *files, "--out", tmp_path / "alone" / name)
        alone = (tmp_path / "alone" / name).read_bytes()
        assert (tmp_path / "all" / name).read_bytes() == alone
    windows = pd.read_csv(tmp_path / "all" / "windows.tsv.gz", sep="\t")
    np.testing.assert_allclose(
        windows["log2_activity"], np.log2(0.1 + windows["activity"]), rtol=1e-7
    )
    how = json.loads((tmp_path / "all" / "elements.json").read_text())
    counts = pd.read_csv(tmp_path / "all" / "elements.tsv.gz", sep="\t")["dnase_count"]
    assert how["signals"]["dnase"]["counted_in_regions"] == [counts.sum()]
    with pytest.raises(ValueError, match="give --regions, --genes or --windows"):
        run_command(*files, "--out", tmp_path / "none.tsv")


def test_regions_where_no_read_can_lie_are_said(tmp_path, capsys):
    bam = write_bam(tmp_path / "reads.bam")
    regions = pd.concat([random_regions(), random_regions()]).drop_duplicates()
    beyond = pd.DataFrame({"chrom": ["chr1", "chr9"], "start": [10**6, 0], "end": [10**6 + 9, 9]})
    pd.concat([regions, beyond]).to_csv(tmp_path / "regions.tsv", sep="\t", index=False)
    run_command(
        *("--regions", tmp_path / "regions.tsv", "--accessibility", bam),
        *("--out", tmp_path / "out.tsv"),
    )
    said = capsys.readouterr().out
    assert f"reads.bam: 1 of {len(regions) + 2} places (region: start) lie past the ends" in said
    assert "dnase: 1 regions lie on contigs that a file lacks, signal 0 there" in said
    how = json.loads((tmp_path / "out.json").read_text())
    assert how["signals"]["dnase"]["regions_on_contigs_the_file_lacks"] == [1]


COMMANDS = [candidates, contact, genes, links, signals, windows]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda module: module.__name__)
def test_every_command_explains_its_options(command):
    parser = argparse.ArgumentParser(description=command.DESCRIPTION)
    command.add_arguments(parser)
    text = parser.format_help()
    assert "(default: " in text and "--out" in text
    for action in parser._actions:
        assert action.help, f"{action.option_strings} has no help"


def test_tss_windows_reach_500_to_both_sides(tmp_path):
    bam = write_bam(tmp_path / "reads.bam")
    genes = tmp_path / "genes.tsv"
    genes.write_text("gene_id\tchrom\ttss\nB\tchr2\t200\nA\tchr1\t2000\n")
    run_command("--genes", genes, "--accessibility", bam, "--out", tmp_path / "out.tsv")
    table = pd.read_csv(tmp_path / "out.tsv", sep="\t")
    assert table[["gene_id", "chrom", "start", "end"]].to_numpy().tolist() == [
        ["A", "chr1", 1500, 2500],
        ["B", "chr2", 0, 700],
    ]


def test_ready_counts_become_rpm_with_the_total_given(shared_data, tmp_path):
    run_command(
        "--regions", shared_data / "k562_slices" / "elements.tsv",
        "--accessibility", "column:dnase_count", "--total", "dnase=100e6",
        "--h3k27ac", "column:h3k27ac_count", "--total", "h3k27ac=70.7e6",
        "--out", tmp_path / "out.tsv",
    )  # fmt: skip
    ours = pd.read_csv(tmp_path / "out.tsv", sep="\t")
    keys = ["chrom", "start", "end"]
    published = pd.read_csv(shared_data / "k562_slices" / "elements.tsv", sep="\t")
    both = ours.merge(published, on=keys, suffixes=("", "_published"))
    assert len(both) == 798
    # The published columns have six significant digits.
    for column in ("dnase_rpm", "h3k27ac_rpm", "activity"):
        np.testing.assert_allclose(both[column], both[f"{column}_published"], rtol=1e-5)
