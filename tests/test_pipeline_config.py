"""Configurations of `python -m data_prep run`: defaults, errors, K562's header."""

import argparse
import ast
import shlex

import pytest

from data_prep import __main__ as command
from data_prep import (
    candidates,
    download,
    links,
    pipeline_config,
    pipeline_inputs,
    signals,
    windows,
)
from data_prep.peaks import peak_caller_command
from data_prep.samples import COLUMNS as SHEET
from data_prep.samples import read_samples

CONFIG = "configs/prep/simulated.py"


def test_every_default_is_the_commands_own():
    """A stage run with all defaults has the settings of the command without options."""
    fields = dict(pipeline_config._walk(pipeline_config.FIELDS))
    named = {
        "contact": ["gamma", "scale", "reference_gamma", "reference_scale"],
        "links": ["rule", "order", "score_rule", "self_promoter_score"],
        "signals": ["reads", "strand", "paired", "pool", "quantile_form"],
    }
    modules = {"contact": links, "links": links, "signals": signals}
    others = {
        (links, "pseudocount_distance"): "contact.pseudocount_distance_bp",
        (links, "tss_contribution"): "contact.tss_contribution_percent",
        (links, "score_distance"): "links.score_distance_bp",
        (links, "contact_resolution"): "contact.resolution_bp",
        (links, "gene_key"): "genes.key",
        (links, "tss_rule"): "genes.tss_rule",
        (signals, "tss_slop"): "genes.tss_flank_bp",
        (candidates, "min_length"): "candidates.min_length_bp",
        (candidates, "extend"): "candidates.extend_bp",
        (windows, "max_unknown"): "windows.max_unknown",
        (windows, "clearance"): "windows.clearance_bp",
    }
    others |= {
        (modules[parent], name): f"{parent}.{name}"
        for parent, names in named.items()
        for name in names
    }
    for (module, option), field in others.items():
        parser = argparse.ArgumentParser()
        module.add_arguments(parser)
        assert fields[field].default == parser.get_default(option), field


def test_a_config_that_is_no_python_is_refused_in_one_line(tmp_path):
    path = tmp_path / "cell.yaml"
    path.write_text("root: runs/own\n")
    with pytest.raises(ValueError, match=r"cell\.yaml: cannot be run as Python \(NameError.*get_c"):
        pipeline_config.load(path)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("candidates.extend=3", "did you mean candidates.extend_bp"),
        ("candidates.extend_bp=0", "candidates.extend_bp=0; expected a whole number of at least 1"),
        ("candidates.extend_bp=x", "candidates.extend_bp='x'"),
        ("windows.make=1", "expected True or False"),
        ("records.max_distance_bp=200000", "links.max_distance_bp must reach"),
        ("genome.fasta=", "genome.fasta=''"),
        ("nonsense", "expected field=value"),
    ],
)
def test_a_wrong_field_is_named(override, message, repository):
    with pytest.raises(ValueError, match=message):
        pipeline_config.load(repository / CONFIG, [override])


def test_every_preparation_config_is_accepted(repository):
    paths = [p for p in (repository / "configs" / "prep").glob("*.py") if p.stem != "__init__"]
    assert len(paths) >= 2
    for path in paths:
        pipeline_config.load(path)


def test_the_header_of_the_k562_config_names_every_file_it_needs(repository, tmp_path, capsys):
    """Its commands, on empty files in place of the downloads: nothing is missing, nothing extra."""
    path = repository / "configs" / "prep" / "k562.py"
    header = ast.get_docstring(ast.parse(path.read_text())).replace("\\\n", "")
    (line,) = [line for line in header.splitlines() if " download " in line]
    words = shlex.split(line)
    chosen = {word: words[words.index(word) + 1].split(",") for word in ("--groups", "--names")}
    names = [
        source.name
        for source in download.choose(
            download.read_sources(), groups=chosen["--groups"], names=chosen["--names"]
        )
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    called = shlex.split(peak_caller_command("K562/dnase.bam", assay="DNase"))
    name, folder = (called[called.index(option) + 1] for option in ("-n", "--outdir"))
    (tmp_path / folder).mkdir()
    (tmp_path / folder / f"{name}_peaks.narrowPeak").write_text("")  # as MACS calls its output
    sheet = header.split("<<END\n")[1].split("END\n")[0]
    (tmp_path / "samples.csv").write_text(sheet)
    config = pipeline_config.load(path, [f"root={tmp_path}"])
    complete = pipeline_inputs.complete_paths(config)
    (sample,) = read_samples(complete.samples)
    used = [complete.genome[field] for field in ("fasta", "contigs", "blacklist")]
    used += [complete.genes.annotation, complete.genes.mrna_features]
    used += [*sample.accessibility, *sample.h3k27ac, sample.window_peaks, sample.contact]
    used += [sample.expression]
    assert sorted(used) == sorted(str(tmp_path / name) for name in names)
    possible = pipeline_inputs.what_is_possible(sample, complete)
    assert possible == pipeline_inputs.Possible("PE-Activity-HiC", "rna", ())


@pytest.mark.parametrize("shown", ["run", "error"])
def test_the_sheet_of_cell_types_is_explained(shown, tmp_path, capsys, repository):
    if shown == "run":
        with pytest.raises(SystemExit):
            command.main(["run", "--help"])
        said = capsys.readouterr().out
        for name in SHEET:
            assert f"\n  {name} " in said
        assert "relative to the table's own folder" in said and "needed" in said
    else:
        (tmp_path / "samples.tsv").write_text("cell_type\tpeaks\nK562\tx\n")
        with pytest.raises(ValueError, match=r"no column 'accessibility'.*run --help"):
            read_samples(tmp_path / "samples.tsv")
