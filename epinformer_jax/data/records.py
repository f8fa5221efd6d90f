"""Datasets on disk: TFRECORD shards, read by TensorFlow Datasets, and here without TensorFlow.

A dataset directory holds the shards (one split per chromosome), the two JSON files of TFDS and a
manifest.json. It is written whole or not at all; on reading, every checksum is verified.
"""

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from etils import epath

from epinformer_jax.data import atomic, chromosomes, records_codec, tfrecord
from epinformer_jax.data.records_examples import Example, GeneExample, WindowExample, by_split
from epinformer_jax.data.records_manifest import (
    MANIFEST_FILE,
    Manifest,
    fingerprint_of,
    read_manifest,
)

__all__ = [
    "DEFAULT_SHARD_BYTES",
    "MANIFEST_FILE",
    "Example",
    "GeneExample",
    "Manifest",
    "WindowExample",
    "WrittenSplit",
    "by_split",
    "finish_dataset",
    "iter_split",
    "read_dataset",
    "read_manifest",
    "write_dataset",
    "write_split",
]

DEFAULT_SHARD_BYTES = 128_000_000
_TFDS_VERSION = "1.0.0"


def read_dataset(
    directory: str | os.PathLike, splits: Sequence[str] | None = None
) -> tuple[Manifest, list[GeneExample] | list[WindowExample]]:
    """Reads whole splits into memory: all in natural order, or those named, in the order given.

    `directory` may be local or gs://...

    Raises:
      ValueError: not a dataset, an unknown or repeated split, or damage (see `iter_split`).
    """
    manifest = read_manifest(directory)
    known = chromosomes.natural_order(manifest.splits)
    wanted = known if splits is None else list(splits)
    for split in wanted:
        if split not in manifest.splits:
            raise ValueError(
                f"{directory}: no split {split!r}; {chromosomes.suggest(split, known)}"
            )
        if wanted.count(split) > 1:
            raise ValueError(f"{directory}: split {split!r} was asked for more than once")
    return manifest, [
        example for split in wanted for example in iter_split(directory, manifest, split)
    ]


def iter_split(directory: str | os.PathLike, manifest: Manifest, split: str) -> Iterator[Example]:
    """Yields the examples of one split, in file order; shards are read whole, one at a time.

    Raises:
      ValueError: a shard is missing, shortened, exchanged or damaged; names file, record and byte
        offset.
    """
    for shard in manifest.splits[split]:
        path = epath.Path(directory) / shard["file"]
        if not path.exists():
            raise ValueError(
                f"{path}: missing, but listed in {MANIFEST_FILE}; copy or build the dataset again"
            )
        content = path.read_bytes()
        count = 0
        for number, offset, data in tfrecord.split_records(content, str(path)):
            place = f"{path}: record {number} at byte {offset}"
            example = records_codec.decode(data, manifest, place)
            if example.split != split:
                raise ValueError(f"{place}: belongs to split {example.split!r}, not {split!r}")
            count += 1
            yield example
        if count != shard["records"]:
            raise ValueError(
                f"{path}: {count} records, the manifest says {shard['records']}; copy it again"
            )
        if hashlib.sha256(content).hexdigest() != shard["sha256"]:
            raise ValueError(
                f"{path}: sha256 differs from the manifest's: not the file that was built"
            )


def write_dataset(
    directory: str | os.PathLike,
    name: str,
    manifest: Manifest,
    examples: Mapping[str, Iterable[Example]],
    *,
    compression: str | None = None,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    overwrite: bool = False,
) -> Manifest:
    """Writes a dataset directory and returns its full manifest.

    `name` begins the file names (a TFDS dataset name: small letters, digits, _). Of `manifest`, the
    fields splits, fingerprint and compression are filled in here, and counts gains the number of
    examples (and elements). `examples` maps each split to an iterable, read once, one example at a
    time; empty splits are left out. A shard is closed when it reaches `shard_bytes`. The same
    examples give the same bytes.

    Raises:
      ValueError: nothing to write, an example twice, in the wrong split or of the wrong form, a
        split name that TFDS cannot use, a remote directory, or an existing one without `overwrite`.
    """
    if "://" in str(directory):
        raise ValueError(
            f"{directory}: datasets are written to a local directory; copy it to the bucket then"
        )
    with atomic.atomic_directory(directory, overwrite=overwrite) as folder:
        manifest = dataclasses.replace(manifest, compression=compression)
        written = [
            write_split(folder, name, manifest, split, examples[split], shard_bytes=shard_bytes)
            for split in chromosomes.natural_order(examples)
        ]
        return finish_dataset(folder, name, manifest, written)


@dataclasses.dataclass(frozen=True)
class WrittenSplit:
    """A split whose shards are on disk: what the manifest says of them, and its examples' keys."""

    split: str
    shards: tuple[dict, ...]
    keys: tuple[str, ...]
    elements: int


def write_split(
    folder: str | os.PathLike,
    name: str,
    manifest: Manifest,
    split: str,
    examples: Iterable[Example],
    *,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
) -> WrittenSplit:
    """Writes the shards of one split into a folder that `finish_dataset` makes a dataset.

    Splits do not depend on each other: several processes may write those of one dataset.
    `manifest` states the compression. The arguments are otherwise those of `write_dataset`.

    Raises:
      ValueError: an example twice, in the wrong split or of the wrong form, or a split name that
        TFDS cannot use.
    """
    if shard_bytes <= 0:
        raise ValueError(f"shard_bytes={shard_bytes}; expected a positive number of bytes")
    chromosomes.check_split_name(split)
    keys: dict[str, None] = {}
    elements = 0
    writer = _ShardWriter(Path(folder), f"{name}-{split}", shard_bytes)
    with contextlib.closing(writer) as shards:
        for example in examples:
            if example.split != split:
                raise ValueError(f"{example.key}: its split is {example.split!r}, not {split!r}")
            _refuse_known(example.key, keys)
            keys[example.key] = None
            elements += example.distance_bp.size if isinstance(example, GeneExample) else 0
            shards.add(records_codec.encode(example, manifest))
    return WrittenSplit(split, tuple(writer.finish()), tuple(keys), elements)


def finish_dataset(
    folder: str | os.PathLike, name: str, manifest: Manifest, written: Iterable[WrittenSplit]
) -> Manifest:
    """Makes a dataset of written splits, in whatever order they come; returns its full manifest.

    Raises:
      ValueError: an example stands in two splits, or every split is empty.
    """
    filled = {part.split: part for part in written if part.shards}
    if not filled:
        raise ValueError(f"{folder}: no example to write; every split is empty")
    order = chromosomes.natural_order(filled)
    seen: dict[str, None] = {}
    for split in order:
        for key in filled[split].keys:
            _refuse_known(key, seen)
            seen[key] = None
    counts = {manifest.kind: len(seen)}
    if manifest.kind == "genes":
        counts["elements"] = sum(part.elements for part in filled.values())
    splits = {split: list(filled[split].shards) for split in order}
    manifest = dataclasses.replace(
        manifest,
        splits=splits,
        fingerprint=fingerprint_of(splits),
        counts={**manifest.counts, **counts},
    )
    _write_tfds_metadata(Path(folder), name, manifest)
    (Path(folder) / MANIFEST_FILE).write_text(manifest.to_json())
    return manifest


def _refuse_known(key: str, known: Mapping[str, None]) -> None:
    if key in known:
        raise ValueError(f"{key}: stands twice in the dataset; names must be unique")


def _write_tfds_metadata(folder: Path, name: str, manifest: Manifest) -> None:
    import tensorflow_datasets as tfds

    template = tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name=name, filetype_suffix="tfrecord"
    )
    split_infos = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[shard["records"] for shard in shards],
            num_bytes=sum(shard["bytes"] for shard in shards),
            filename_template=template,
        )
        for split, shards in manifest.splits.items()
    ]
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=records_codec.features(manifest),
        split_infos=split_infos,
        version=_TFDS_VERSION,
        check_data=False,  # would read with TensorFlow
        description=f"{manifest.kind.capitalize()} for epinformer_jax; see {MANIFEST_FILE}.",
    )


class _ShardWriter:
    """Writes records into files of about `shard_bytes`; names them when their number is known."""

    def __init__(self, folder: Path, prefix: str, shard_bytes: int):
        self._folder, self._prefix, self._shard_bytes = folder, prefix, shard_bytes
        self._shards: list[dict] = []
        self._file = None

    def add(self, data: bytes) -> None:
        """Appends a record, to a new file when the last one is full."""
        if self._file is None:
            path = self._folder / f"{self._prefix}.{len(self._shards)}.unfinished"
            self._file = path.open("wb")
            self._digest = hashlib.sha256()
            self._shards.append({"file": path.name, "bytes": 0, "sha256": "", "records": 0})
        framed = tfrecord.frame(data)
        self._file.write(framed)
        self._digest.update(framed)
        shard = self._shards[-1]
        shard["bytes"] += len(framed)
        shard["records"] += 1
        if shard["bytes"] >= self._shard_bytes:
            self.close()

    def close(self) -> None:
        """Closes the file that is being written, if any."""
        if self._file is not None:
            self._file.close()
            self._file = None
            self._shards[-1]["sha256"] = self._digest.hexdigest()

    def finish(self) -> list[dict]:
        """Gives the files their final names and returns what the manifest says of them."""
        for number, shard in enumerate(self._shards):
            final = f"{self._prefix}.tfrecord-{number:05d}-of-{len(self._shards):05d}"
            (self._folder / shard["file"]).rename(self._folder / final)
            shard["file"] = final
        return self._shards
