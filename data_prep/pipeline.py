"""From raw files to TFRECORDs for every cell type of samples.tsv, driven by one config.

    python -m data_prep run --config configs/prep/simulated.py --out runs/prepared

Of each cell type: candidates, tss, summits, windows, signals, genes, contact, links, records (see
`stages`: done once, whole or not at all), then dataset.json, and qc.html over all of them.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from data_prep import builder, qc
from data_prep.outputs import versions, write_json
from data_prep.pipeline_config import describe, load
from data_prep.pipeline_inputs import check_genomes, complete_paths, what_is_possible
from data_prep.pipeline_stages import cell_stages
from data_prep.samples import Sample, read_samples
from data_prep.samples import describe as describe_samples
from data_prep.stages import Done, FileHashes, leave_only, run_stage
from epinformer_jax.data.atomic import atomic_file

DESCRIPTION = """\
Prepare every cell type of samples.tsv, from reads, peaks and Hi-C to TFRECORDs, by one config.

  OUT/CELL/candidates, tss, summits, windows   where elements, promoters and 256 bp windows lie
  OUT/CELL/signals       all of them with counts, RPM and activity: each signal file is read once
  OUT/CELL/genes, contact, links               tables of each stage
  OUT/CELL/records       genes and windows as TFDS directories, for training
  OUT/CELL/dataset.json  what the inputs allow: feature preset, label, notes
  OUT/qc.html            reads, peaks, activity, links, distance and contact, dropped rows
  OUT/config.json        every field of the config

Run it again after a change or a crash: stages whose inputs and parameters are unchanged are kept.
Missing inputs are no error where something can be made without them: no contact, no H3K27ac, no
expression, no mRNA features; what that means is said.

"""
DESCRIPTION += describe_samples()
CONFIG_FILE = "config.json"
DATASET_FILE = "dataset.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `python -m data_prep run`."""
    add = parser.add_argument
    add("--config", metavar="FILE", help="Python file with get_config(); see configs/prep/")
    add("--out", metavar="DIR", help="folder of the run; an earlier run there is continued")
    add(
        "--set",
        metavar="FIELD=VALUE",
        action="append",
        default=[],
        help="overrides a field of the config; may be repeated",
    )
    add("--cells", metavar="A,B", help="only these cell types of samples.tsv")
    builder.add_writing_arguments(parser)
    add("--dry-run", action="store_true", help="only say what would be made of the inputs")
    add("--list-fields", action="store_true", help="print every field of a config and exit")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns 0.

    Raises:
      ValueError: the config, a sample or an input is wrong; finished stages stay.
    """
    if args.list_fields:
        print(describe())
        return 0
    for option, value in (("--config", args.config), ("--out", args.out)):
        if not value:
            raise ValueError(f"{option} is missing")
    config = load(args.config, args.set)
    cells = tuple(name for name in (args.cells or "").split(",") if name)
    builder.writer_of(args)  # a wrong option, or Beam that is not there, is found before the work
    writing = (f"--workers={args.workers}",) if args.beam is None else (f"--beam={args.beam}",)
    prepare(config, args.out, cells=cells, dry_run=args.dry_run, writing=writing)
    return 0


def prepare(
    config: ConfigDict,
    out: str | os.PathLike,
    *,
    cells: tuple[str, ...] = (),
    dry_run: bool = False,
    writing: tuple[str, ...] = (),
) -> dict[str, list[Done]]:
    """Prepares the cell types (all of them, or those named); returns each one's stages.

    `writing` are options of `build` that say who writes the records: --workers=N or --beam=...

    Raises:
      ValueError: an input is missing or wrong, files are of several assemblies, or `out` holds
        something else than an earlier run.
    """
    config = complete_paths(config)
    listed = read_samples(config.samples)
    samples = _chosen(listed, cells, config.samples)
    for sample in samples:
        possible = what_is_possible(sample, config)
        label = possible.label or "no label, prediction only"
        print(f"{sample.cell_type}: preset {possible.preset}; {label}")
        for note in possible.notes:
            print(f"  {note}")
    check_genomes(config, samples)
    if dry_run:
        return {}
    folder = _claim(out)
    _write_config(config, folder)
    hashes = FileHashes(folder / "hashes.json")
    made: dict[str, list[Done]] = {}
    try:
        for sample in samples:
            made[sample.cell_type] = _prepare_cell(sample, config, folder, hashes, writing)
            hashes.save()
    finally:
        hashes.save()
    order = [sample.cell_type for sample in listed]
    page = qc.write_page(folder, config.name or Path(config.samples).stem, order=order)
    print(f"quality control: {page}")
    print(folder)
    return made


def _prepare_cell(
    sample: Sample,
    config: ConfigDict,
    folder: Path,
    hashes: FileHashes,
    writing: tuple[str, ...],
) -> list[Done]:
    place = folder / sample.cell_type
    place.mkdir(exist_ok=True)
    stages = cell_stages(sample, config, place, writing=writing)
    done = []
    for number, stage in enumerate(stages, start=1):
        title = f"{sample.cell_type} [{number}/{len(stages)}] {stage.name}"
        print(f"{title} ...", flush=True)
        result = run_stage(stage, place, hashes)
        if result.was_run:
            print(f"{title}: {result.seconds:.1f} s")
            for line in result.lines:
                print(f"  {line}")
        else:
            print(f"{title}: unchanged, kept")
        done.append(result)
    for name in leave_only(place, [stage.name for stage in stages]):
        print(f"{sample.cell_type}: {name} is no part of this run any more; removed")
    write_json(_dataset(sample, config, place), place / DATASET_FILE)
    return done


def _dataset(sample: Sample, config: ConfigDict, place: Path) -> dict[str, Any]:
    """What a training config needs to know; paths are relative to the cell type's folder."""
    possible = what_is_possible(sample, config)
    genes = json.loads((place / "genes" / "genes.json").read_text())
    return {
        "cell_type": sample.cell_type,
        "genome": config.genome.name,
        "preset": possible.preset,
        "label": possible.label or None,
        "label_transform": genes["labels"].get(possible.label),
        "notes": list(possible.notes),
        "genes": "records/genes",
        "windows": "records/windows" if config.windows.make else None,
        "activity_label": "log2_activity" if config.windows.make else None,
    }


def _chosen(samples: list[Sample], cells: tuple[str, ...], source: str) -> list[Sample]:
    known = [sample.cell_type for sample in samples]
    for name in cells:
        if name not in known:
            raise ValueError(f"{source}: no cell type {name!r}; it has {', '.join(known)}")
    return [sample for sample in samples if not cells or sample.cell_type in cells]


def _claim(out: str | os.PathLike) -> Path:
    folder = Path(out).absolute()
    if folder.is_file():
        raise ValueError(f"{folder}: is a file; the output must be a directory")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / CONFIG_FILE).is_file():
        raise ValueError(f"{folder}: holds something else than a run; choose another place")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _write_config(config: ConfigDict, folder: Path) -> None:
    values = {"config": config.to_dict(), "versions": versions("numpy", "pandas", "pysam")}
    with atomic_file(folder / CONFIG_FILE) as temporary:
        temporary.write_text(json.dumps(values, indent=1, sort_keys=True) + "\n")
