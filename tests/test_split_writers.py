"""Writing splits in processes or by Apache Beam gives the bytes of writing them here."""

import argparse
import hashlib
import re
import shlex
import warnings

import pytest
from tiny_builds import RULE
from tiny_inputs import write_tables, write_tsv

from data_prep import __main__ as command
from data_prep import beam, builder
from data_prep.builder import build
from data_prep.check import check
from data_prep.split_writers import Storage, part_of, processes, split_tasks, write_task
from epinformer_jax.data import records

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def inputs(tmp_path):
    rows = [["chr1", 10, 60, 1.0], ["chrX", 3990, 4000, -2.0], ["chr1", 5, 15, 0.5]]
    windows = write_tsv(tmp_path / "windows.tsv", ["chrom", "start", "end", "y"], rows)
    options = {"windows": str(windows), "rule": RULE, "promoter_bp": 1000, "compression": "zlib"}
    return write_tables(tmp_path) | options


def hashes(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_processes_write_the_same_bytes(inputs, tmp_path):
    build(tmp_path / "here", **inputs, shard_bytes=700)
    build(tmp_path / "there", **inputs, shard_bytes=700, writer=processes(2))
    assert hashes(tmp_path / "here") == hashes(tmp_path / "there")
    check(tmp_path / "there", fasta=inputs["fasta"])


def test_splits_may_be_finished_in_any_order(inputs, tmp_path):
    def backwards(directory, plan, manifest, genome, storage, done):
        directory.mkdir(parents=True)
        tasks = split_tasks(directory, plan, manifest, genome, Storage())[::-1]
        return records.finish_dataset(
            directory, manifest.kind, manifest, [write_task(task) for task in tasks]
        )

    inputs["compression"] = None
    build(tmp_path / "here", **inputs)
    build(tmp_path / "there", **inputs, writer=backwards)
    assert hashes(tmp_path / "here") == hashes(tmp_path / "there")


def test_a_part_of_a_plan_holds_one_split_alone(inputs, tmp_path):
    seen = {}

    def look(directory, plan, manifest, genome, storage, done):
        parts = [part_of(plan, split) for split in plan.splits]
        seen[manifest.kind] = (len(plan), [len(part) for part in parts])
        assert [part.splits for part in parts] == [[split] for split in plan.splits]
        for part, split in zip(parts, plan.splits, strict=True):
            names = [example.key for example in part.examples(split, genome)]
            assert names == [example.key for example in plan.examples(split, genome)]
        directory.mkdir(parents=True)
        tasks = split_tasks(directory, plan, manifest, genome, Storage("zlib"))
        return records.finish_dataset(
            directory, manifest.kind, manifest, [write_task(task) for task in tasks]
        )

    inputs["compression"] = None
    build(tmp_path / "out", **inputs, writer=look)
    assert seen == {"genes": (4, [1, 1, 1, 1]), "windows": (3, [2, 1])}


def test_a_process_that_fails_leaves_nothing(inputs, tmp_path, monkeypatch):
    def lose(directory, plan, manifest, genome, storage, done):
        (tmp_path / "tiny.fa").unlink()
        return processes(1)(directory, plan, manifest, genome, storage, done)

    with pytest.raises(OSError, match="has ended by itself"):
        build(tmp_path / "out", **inputs, writer=lose)
    assert not (tmp_path / "out").exists()


def test_an_example_in_two_splits_is_found_when_they_come_together(inputs, tmp_path):
    written = [
        records.WrittenSplit(
            split, ({"file": split, "bytes": 1, "sha256": "", "records": 1},), ("a",), 0
        )
        for split in ("chr1", "chr2")
    ]
    manifest = records.Manifest(kind="windows")
    with pytest.raises(ValueError, match="a: stands twice in the dataset"):
        records.finish_dataset(tmp_path, "windows", manifest, written)


# ---- Beam ----


def test_a_staged_split_is_fetched_once_and_a_missing_one_is_named(inputs, tmp_path):
    def by_stage(directory, plan, manifest, genome, storage, done):
        directory.mkdir(parents=True)
        place = str(tmp_path / "staging")
        for task in split_tasks(directory, plan, manifest, genome, Storage()):
            beam.stage_split(task, place)
            beam.stage_split(task, place)  # a worker that is asked again
        written = beam.fetch_splits(plan.splits, place, directory)
        assert not list((tmp_path / "staging").iterdir())
        with pytest.raises(ValueError, match="split chr1 is missing"):
            beam.fetch_splits(plan.splits, place, directory)
        return records.finish_dataset(directory, manifest.kind, manifest, written)

    inputs["compression"] = None
    build(tmp_path / "here", **inputs)
    build(tmp_path / "there", **inputs, writer=by_stage)
    assert hashes(tmp_path / "here") == hashes(tmp_path / "there")


def test_beam_writes_the_same_bytes(inputs, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Beam's own imports
        pytest.importorskip("apache_beam", reason="the extra [beam] is not installed")
        writer = beam.beam_writer(["--runner=DirectRunner"])
        build(tmp_path / "here", **inputs, shard_bytes=700)
        build(tmp_path / "there", **inputs, shard_bytes=700, writer=writer)
    assert hashes(tmp_path / "here") == hashes(tmp_path / "there")


# ---- the command ----


def test_the_command_refuses_what_cannot_be(inputs, tmp_path, capsys):
    options = ["build", f"--windows={inputs['windows']}", f"--fasta={inputs['fasta']}"]
    options.append(f"--out={tmp_path / 'out'}")
    assert command.main([*options, "--workers=0"]) == 2
    assert "--workers 0; expected at least 1" in capsys.readouterr().err
    assert command.main([*options, "--workers=2", "--beam="]) == 2
    assert "either --workers or --beam" in capsys.readouterr().err
    assert command.main([*options, "--workers=2"]) == 0
    assert (tmp_path / "out" / "windows" / "manifest.json").is_file()


def test_a_value_that_begins_with_a_dash_is_explained(inputs, tmp_path, capsys):
    """`--beam '--runner=...'` is an option to argparse; the message says how to give it."""
    options = ["build", "--out", str(tmp_path / "out"), "--genes", str(inputs["genes"])]
    with pytest.raises(SystemExit):
        command.main([*options, "--beam", "--runner=DirectRunner"])
    said = capsys.readouterr().err
    assert "argument --beam: expected one argument; one that begins with -" in said
    assert "is joined to it: --beam='-...'" in said


def test_every_form_of_the_documentation_is_one_that_the_command_takes(repository):
    parser = argparse.ArgumentParser()
    builder.add_arguments(parser)
    text = (repository / "docs" / "beam.md").read_text()
    lines = re.findall(r"--beam[= ][^`\n]*", text)
    assert len(lines) >= 5
    for line in lines:
        parsed = parser.parse_args(["--out=x", *shlex.split(line)])
        assert parsed.beam == "" or parsed.beam.startswith("--runner=")
