"""The `check` command: proves that a dataset is what was built, with the FASTA's sequences."""

import argparse
import contextlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from epinformer_jax.data import chromosomes, elements, records
from epinformer_jax.data.genome import Genome
from epinformer_jax.data.records import Example, GeneExample, Manifest, WindowExample
from epinformer_jax.data.records_manifest import KINDS, fingerprint_of, manifest_sha256

DESCRIPTION = """\
Prove that a dataset (or an output of build with several) is undamaged.

Every file's sha256, every record's checksums and every count are compared with the manifest and
with the TFDS metadata; with --fasta, every promoter, element and window with the genome. Prints a
table of splits. The first damaged file or record is named and the exit code is not 0."""

_TFDS_FILE = "dataset_info.json"


def check(
    directory: str | os.PathLike,
    *,
    fasta: str | os.PathLike | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> dict[str, pd.DataFrame]:
    """Checks a dataset directory, or an output of `build`: kind -> table of its splits.

    Columns of the tables: split, genes, elements, bases, bytes, bytes_per_gene (windows likewise).

    Raises:
      ValueError: something is missing, damaged or different; names file or record.
      OSError: a file cannot be read.
    """
    folder = Path(directory)
    inside = [folder / kind for kind in KINDS if (folder / kind).is_dir()]
    tables = {}
    with contextlib.ExitStack() as stack:
        genome = None if fasta is None else stack.enter_context(Genome(fasta, cache_dir))
        for dataset in inside or [folder]:
            manifest = records.read_manifest(dataset)
            if inside and manifest.kind != dataset.name:
                raise ValueError(f"{dataset}: holds {manifest.kind}, not {dataset.name}")
            tables[manifest.kind] = check_dataset(dataset, manifest, genome)
    if inside:
        _check_summary(folder, tables)
    return tables


def check_dataset(folder: Path, manifest: Manifest, genome: Genome | None) -> pd.DataFrame:
    """Checks one dataset directory; the table of its splits.

    Raises:
      ValueError: as `check`.
    """
    if fingerprint_of(manifest.splits) != manifest.fingerprint:
        raise ValueError(f"{folder / records.MANIFEST_FILE}: fingerprint does not fit its shards")
    _check_tfds_metadata(folder, manifest)
    _check_no_strangers(folder, manifest)
    rows = []
    seen: dict[str, str] = {}
    for split in chromosomes.natural_order(manifest.splits):
        size = sum(shard["bytes"] for shard in manifest.splits[split])
        bases = found_elements = 0
        for number, example in enumerate(records.iter_split(folder, manifest, split)):
            place = f"{folder}: split {split}, record {number} ({example.key})"
            if example.key in seen:
                raise ValueError(f"{place}: stands in split {seen[example.key]} too")
            seen[example.key] = split
            _check_example(example, manifest, place)
            if genome is not None:
                _check_sequences(example, manifest, genome, place)
            bases += _bases(example)
            found_elements += example.distance_bp.size if isinstance(example, GeneExample) else 0
        rows.append(_row(manifest, split, found_elements, bases, size))
    table = pd.DataFrame(rows)
    _check_counts(folder, manifest, table)
    return table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of the command."""
    parser.add_argument("directory", metavar="DIR", help="a dataset, or the --out of build")
    parser.add_argument("--fasta", metavar="FA", help="also compare all sequences with this genome")
    parser.add_argument(
        "--cache-dir", metavar="DIR", help="where gzip FASTA are unpacked (default: user cache)"
    )


def run(args: argparse.Namespace) -> int:
    """Checks and prints the tables of splits; returns the exit code."""
    tables = check(args.directory, fasta=args.fasta, cache_dir=args.cache_dir)
    for kind, table in tables.items():
        total = table.drop(columns="split").sum().to_dict() | {"split": "total"}
        total[f"bytes_per_{kind[:-1]}"] = total["bytes"] // total[kind]
        shown = pd.concat([table, pd.DataFrame([total])], ignore_index=True)
        print(f"{kind}\n{shown.to_string(index=False)}\n")
    compared = (
        "not compared with a genome" if args.fasta is None else f"sequences equal to {args.fasta}"
    )
    print(f"{args.directory}: all records intact; {compared}")
    return 0


def _check_tfds_metadata(folder: Path, manifest: Manifest) -> None:
    path = folder / _TFDS_FILE
    try:
        described = json.loads(path.read_text())["splits"]
        lengths = {split["name"]: [int(n) for n in split["shardLengths"]] for split in described}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: not readable as TFDS metadata ({error}); build the dataset again"
        ) from None
    expected = {split: [s["records"] for s in shards] for split, shards in manifest.splits.items()}
    if lengths != expected:
        raise ValueError(f"{path}: its splits differ from those of {records.MANIFEST_FILE}")
    if not (folder / "features.json").is_file():
        raise ValueError(f"{folder / 'features.json'}: missing; build the dataset again")


def _check_no_strangers(folder: Path, manifest: Manifest) -> None:
    known = {shard["file"] for shards in manifest.splits.values() for shard in shards}
    strangers = sorted(path.name for path in folder.glob("*.tfrecord*") if path.name not in known)
    if strangers:
        raise ValueError(
            f"{folder / strangers[0]}: not listed in {records.MANIFEST_FILE}; remove it"
        )


def _check_example(example: Example, manifest: Manifest, place: str) -> None:
    if isinstance(example, WindowExample):
        if example.chrom and example.end - example.start != example.sequence.size:
            raise ValueError(
                f"{place}: {example.sequence.size} bases for {example.start}-{example.end}"
            )
        return
    middle = (example.element_start + example.element_end) // 2
    if not np.array_equal(middle - example.tss, example.distance_bp):
        raise ValueError(f"{place}: distance_bp is not the elements' floor midpoint minus tss")
    lengths = np.minimum(example.element_end - example.element_start, manifest.window_bp)
    if not np.array_equal(lengths, example.element_length):
        raise ValueError(f"{place}: element_length does not fit element_start and element_end")
    if manifest.element_rule and lengths.size > manifest.element_rule["max_elements"]:
        raise ValueError(f"{place}: {lengths.size} elements, more than the rule's max_elements")


def _check_sequences(example: Example, manifest: Manifest, genome: Genome, place: str) -> None:
    if isinstance(example, WindowExample):
        if example.chrom:
            stretches = [("window", example.start, example.end, example.sequence)]
        else:
            return  # given as text, not a place on a genome
    else:
        half = manifest.promoter_bp // 2
        ends = np.cumsum(example.element_length)[:-1]
        pieces = np.split(example.element_sequence, ends) if example.element_length.size else []
        bounds = zip(example.element_start.tolist(), example.element_end.tolist(), strict=True)
        cropped = [elements.crop(start, end, manifest.window_bp) for start, end in bounds]
        stretches = [("promoter", example.tss - half, example.tss + half, example.promoter)]
        stretches += [
            (f"element {number}", start, end, piece)
            for number, ((start, end), piece) in enumerate(zip(cropped, pieces, strict=True))
        ]
    for what, start, end, codes in stretches:
        differs = np.flatnonzero(genome.fetch(example.chrom, start, end) != codes)
        if differs.size:
            raise ValueError(
                f"{place}: {what} at {example.chrom}:{start + 1}-{end} differs from {genome.path} "
                f"in {differs.size} bases, first at {example.chrom}:{start + int(differs[0]) + 1}"
            )


def _bases(example: Example) -> int:
    if isinstance(example, WindowExample):
        return example.sequence.size
    return example.promoter.size + example.element_sequence.size


def _row(manifest: Manifest, split: str, found_elements: int, bases: int, size: int) -> dict:
    count = manifest.num_records(split)
    row = {"split": split, manifest.kind: count}
    if manifest.kind == "genes":
        row["elements"] = found_elements
    return row | {"bases": bases, "bytes": size, f"bytes_per_{manifest.kind[:-1]}": size // count}


def _check_counts(folder: Path, manifest: Manifest, table: pd.DataFrame) -> None:
    for name in (manifest.kind, "elements"):
        if name in table and int(table[name].sum()) != manifest.counts.get(name):
            raise ValueError(
                f"{folder / records.MANIFEST_FILE}: counts {manifest.counts.get(name)} {name}, "
                f"but the records hold {int(table[name].sum())}"
            )


def _check_summary(folder: Path, kinds: Iterable[str]) -> None:
    path = folder / records.MANIFEST_FILE
    try:
        stated = json.loads(path.read_text())["datasets"]
        hashes = {kind: stated[kind]["manifest_sha256"] for kind in stated}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not the manifest of a build ({error}); build again") from None
    found = {kind: manifest_sha256(folder / kind) for kind in kinds}
    if hashes != found:
        raise ValueError(f"{path}: its datasets are not those in this directory")
