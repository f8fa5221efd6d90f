"""The manifest.json of a dataset directory: what its records mean, and a hash of every shard."""

import dataclasses
import hashlib
import json
import os

from etils import epath

from epinformer_jax.data import chromosomes
from epinformer_jax.data.records_examples import GeneExample, WindowExample

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
KINDS = ("genes", "windows")
COMPRESSIONS = (None, "zlib")


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a dataset directory holds; `write_dataset` fills in splits, fingerprint and compression.

    `window_bp`: longest element (genes) or longest window (windows). `splits`: split -> list of
    shards, each {file, bytes, sha256, records}. `fingerprint`: sha256 over the shard hashes, in
    natural order of splits. `genome`: {name, contigs, fingerprint}. `inputs`: table -> {file,
    sha256}. `counts`: name -> number. `label_transforms`: label -> {name, offset, mean, sd}, of
    labels whose making is known (`data.label_scale`).
    """

    kind: str
    link_signal_names: tuple[str, ...] = ()
    gene_signal_names: tuple[str, ...] = ()
    label_names: tuple[str, ...] = ()
    label_transforms: dict = dataclasses.field(default_factory=dict)
    window_bp: int = 2000
    promoter_bp: int = 2000
    element_rule: dict = dataclasses.field(default_factory=dict)
    genome: dict = dataclasses.field(default_factory=dict)
    splits: dict = dataclasses.field(default_factory=dict)
    fingerprint: str = ""
    inputs: dict = dataclasses.field(default_factory=dict)
    counts: dict = dataclasses.field(default_factory=dict)
    compression: str | None = None
    format_version: int = FORMAT_VERSION

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"kind={self.kind!r} of a dataset; expected one of {', '.join(KINDS)}")
        if self.compression not in COMPRESSIONS:
            raise ValueError(
                f"compression={self.compression!r} of a dataset; expected None or 'zlib'"
            )

    @property
    def example_type(self) -> type[GeneExample] | type[WindowExample]:
        """The dataclass of this dataset's records."""
        return GeneExample if self.kind == "genes" else WindowExample

    def num_records(self, split: str) -> int:
        """Records of one split, over all its shards."""
        return sum(shard["records"] for shard in self.splits[split])

    def to_json(self) -> str:
        """The text of manifest.json; the same manifest gives the same bytes."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str = MANIFEST_FILE) -> "Manifest":
        """Reads the text of a manifest.json; `where` names it in errors.

        Raises:
          ValueError: not JSON, a field is unknown or missing, or written by a newer version.
        """
        try:
            values = json.loads(text)
            version = values["format_version"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{where}: not a dataset manifest ({error}); build the dataset again"
            ) from None
        if version != FORMAT_VERSION:
            raise ValueError(
                f"{where}: format {version}, this version reads {FORMAT_VERSION}; build it again"
            )
        names = {field.name for field in dataclasses.fields(cls)}
        if set(values) != names:
            raise ValueError(
                f"{where}: fields {sorted(set(values) ^ names)} are unknown or missing; build the "
                "dataset again"
            )
        if not _are_splits(values["splits"]):
            raise ValueError(
                f"{where}: its splits are not lists of shards; build the dataset again"
            )
        for name in ("link_signal_names", "gene_signal_names", "label_names"):
            values[name] = tuple(values[name])
        return cls(**values)


def fingerprint_of(splits: dict) -> str:
    """sha256 over the shard hashes, splits in natural order, shards in theirs."""
    digest = hashlib.sha256()
    for split in chromosomes.natural_order(splits):
        for shard in splits[split]:
            digest.update(f"{split}\t{shard['sha256']}\n".encode())
    return digest.hexdigest()


def read_manifest(directory: str | os.PathLike) -> Manifest:
    """Reads the manifest.json of a dataset directory (a local path or gs://...).

    Raises:
      ValueError: it is missing or not a manifest.
    """
    folder = epath.Path(directory)
    path = folder / MANIFEST_FILE
    inside = [kind for kind in KINDS if (folder / kind / MANIFEST_FILE).exists()]
    if inside:
        paths = " or ".join(str(folder / kind) for kind in inside)
        raise ValueError(f"{folder}: holds datasets, is none itself; use {paths}")
    if not path.exists():
        raise ValueError(
            f"{folder}: no {MANIFEST_FILE}; expected a dataset made by `python -m data_prep build`"
        )
    return Manifest.from_json(path.read_text(), str(path))


def manifest_sha256(directory: str | os.PathLike) -> str:
    """sha256 of a dataset's manifest.json: what the summary of a build knows it by."""
    return hashlib.sha256((epath.Path(directory) / MANIFEST_FILE).read_bytes()).hexdigest()


def _are_splits(splits: object) -> bool:
    """Whether this has the form of `Manifest.splits`."""
    keys = {"file": str, "bytes": int, "sha256": str, "records": int}
    return isinstance(splits, dict) and all(
        isinstance(shards, list)
        and all(
            isinstance(shard, dict)
            and shard.keys() == keys.keys()
            and all(isinstance(shard[key], form) for key, form in keys.items())
            for shard in shards
        )
        for shards in splits.values()
    )
