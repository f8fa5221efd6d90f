"""The original's encoded HDF5 files as records; sequences are read back from their one-hot form.

Three layouts, told apart by their data sets:

    legacy    pe_code (N, 61, 2000, 4), activity, distance, hic (N, 61), ensid; column 0 is the
              promoter; distances carry no sign
    200CREs   promoter_ohe (N, 1000, 4), enhancers_ohe (N, 200, 2000, 4), enhancers_feat (N, 200, 5)
              = signed distance, DNase RPM, H3K27ac RPM, activity, contact; ensid
    factored  promoter_seq (N, 2000, 4), gene_enh_idx (N, 60) into enhancer_seq (M, 2000, 4),
              activity, distance (signed), contact, dhs (N, 60); ensid, enhancer_name

An element has no place in the first two: element_start and element_end are -1. Its length is that
of the bases in its window, which lie around the middle.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pandas as pd
from jaxtyping import Real, UInt8

from data_prep.annotation import strip_version
from data_prep.outputs import write_dropped
from epinformer_jax.data import records, tables
from epinformer_jax.data.records import GeneExample, Manifest

_NIBBLES = np.array([1, 2, 4, 8], np.uint8)
_FEAT = ("distance", "dnase", "h3k27ac", "activity", "contact")
NOT_IN_TABLE = "gene is not in the table of genes"
NOT_IN_FILE = "gene is not in the HDF5 file"


class Encoded(NamedTuple):
    """A gene as the file has it: one-hot promoter, windows of its elements, signals, places."""

    promoter: np.ndarray
    windows: list[np.ndarray]
    signals: dict[str, np.ndarray]
    places: list[tuple[int, int]]


def codes_of(one_hot: Real[np.ndarray, "L 4"]) -> UInt8[np.ndarray, " L"]:
    """Nibble codes of one-hot rows; a row that is not 1 at one place is an unknown base."""
    one_hot = np.asarray(one_hot, np.float32)
    is_base = (one_hot.max(axis=-1) > 0.5) & (one_hot.sum(axis=-1) < 1.5)
    return np.where(is_base, _NIBBLES[one_hot.argmax(axis=-1)], 0).astype(np.uint8)


def element_codes(window: Real[np.ndarray, "W 4"]) -> UInt8[np.ndarray, " L"]:
    """The bases of an element in its window: what lies around the middle between rows of zeros.

    The length is the smallest whose centred placement (window // 2 - length // 2) covers every row
    that is not zero, so the records give back the same window. An empty window gives no base.
    """
    filled = np.flatnonzero(np.asarray(window).any(axis=-1))
    if not filled.size:
        return np.zeros(0, np.uint8)
    middle = len(window) // 2
    before, after = middle - int(filled[0]), int(filled[-1]) + 1 - middle
    half = max(before, after - 1, 0)
    length = 2 * half if after <= half else 2 * half + 1
    start = middle - length // 2
    return codes_of(window[start : start + length])


def import_hdf5(
    path: str | os.PathLike,
    genes: str | os.PathLike,
    out: str | os.PathLike,
    *,
    overwrite: bool = False,
) -> tuple[Manifest, dict[str, int]]:
    """Writes OUT/genes from an HDF5 file and a table of genes; the manifest, and what is left out.

    Genes that only one of the two has are left out and listed in OUT/import.dropped.tsv. Missing
    labels stay missing.

    Raises:
      ValueError: not such a file, a layout that is not known, a gene twice, arrays that do not fit
        each other, or no gene in common.
    """
    table = tables.read_genes(genes, allow_missing_labels=True)
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path}: cannot be read as HDF5 ({error}); is it unpacked?") from error
    with file:
        layout, read = _layout(file, path)
        ids = _gene_ids(file, path)
        names = _signal_names(file, layout)
        rows = table.assign(row=pd.Index(ids).get_indexer(table["gene_id"]))
        in_file = rows[rows["row"] >= 0]
        if in_file.empty:
            raise ValueError(f"{path}: none of its {len(ids):,} genes is in {genes}")
        example = read(file, 0)
        window_bp = max((len(window) for window in example.windows), default=2000)
        manifest = Manifest(
            kind="genes",
            link_signal_names=names,
            gene_signal_names=_gene_signals(table),
            label_names=table.attrs["labels"],
            window_bp=window_bp,
            promoter_bp=len(example.promoter),
            element_rule={},
            genome={"name": "sequences of " + Path(path).name, "contigs": 0, "fingerprint": ""},
            inputs={"h5": {"file": Path(path).name}, "genes": {"file": Path(genes).name}},
            counts={"layout_" + layout: 1},
        )

        def examples(split: str) -> Iterator[GeneExample]:
            for gene in in_file[in_file["chrom"] == split].itertuples(index=False):
                yield _example(gene, read(file, gene.row), manifest, str(path))

        splits = {split: examples(split) for split in dict.fromkeys(in_file["chrom"])}
        manifest = records.write_dataset(
            Path(out) / "genes", "genes", manifest, splits, overwrite=overwrite
        )
    absent = [name for name in ids if name not in set(table["gene_id"])]
    dropped = pd.concat(
        [
            pd.DataFrame({"gene_id": absent, "reason": NOT_IN_TABLE}),
            rows.loc[rows["row"] < 0, ["gene_id"]].assign(reason=NOT_IN_FILE),
        ]
    )
    return manifest, write_dropped([dropped], Path(out) / "import.tsv")


def _layout(
    file: h5py.File, path: str | os.PathLike
) -> tuple[str, Callable[[h5py.File, int], Encoded]]:
    known = {
        "legacy": ({"pe_code", "activity", "distance", "hic"}, _read_legacy),
        "factored": (
            {"promoter_seq", "gene_enh_idx", "enhancer_seq", "activity", "distance", "contact"},
            _read_factored,
        ),
        "200CREs": ({"promoter_ohe", "enhancers_ohe", "enhancers_feat"}, _read_200),
    }
    for name, (needed, read) in known.items():
        if needed <= set(file):
            return name, read
    raise ValueError(
        f"{path}: no known layout; it holds {', '.join(sorted(file)) or 'nothing'}; expected "
        + " or ".join("/".join(sorted(needed)) for needed, _ in known.values())
    )


def _gene_ids(file: h5py.File, path: str | os.PathLike) -> list[str]:
    if "ensid" not in file:
        raise ValueError(f"{path}: no data set ensid, the names of its genes")
    raw = [value.decode() if isinstance(value, bytes) else str(value) for value in file["ensid"][:]]
    ids = [strip_version(name) for name in raw]
    if len(set(ids)) != len(ids):
        repeated = next(name for name in ids if ids.count(name) > 1)
        raise ValueError(f"{path}: gene {repeated} stands twice")
    return ids


def _signal_names(file: h5py.File, layout: str) -> tuple[str, ...]:
    if layout == "200CREs":
        return ("activity", "contact", "dnase", "h3k27ac")
    has_dnase = layout == "factored" and "dhs" in file
    return ("activity", "contact", "dnase") if has_dnase else ("activity", "contact")


def _gene_signals(table: pd.DataFrame) -> tuple[str, ...]:
    optional = [name for name in tables.OPTIONAL_GENE_SIGNALS if name in table]
    return (*tables.GENE_SIGNALS, *optional)


def _read_legacy(file: h5py.File, row: int) -> Encoded:
    slots = file["pe_code"][row]
    real = [slot for slot in range(1, len(slots)) if slots[slot].any()]
    columns = {"activity": "activity", "contact": "hic", "distance": "distance"}
    signals = {name: file[key][row][real] for name, key in columns.items()}
    return Encoded(slots[0], [slots[slot] for slot in real], signals, [(-1, -1)] * len(real))


def _read_200(file: h5py.File, row: int) -> Encoded:
    slots, values = file["enhancers_ohe"][row], file["enhancers_feat"][row]
    real = [slot for slot in range(len(slots)) if slots[slot].any()]
    signals = {name: values[real, column] for column, name in enumerate(_FEAT)}
    promoter = file["promoter_ohe"][row]
    return Encoded(promoter, [slots[slot] for slot in real], signals, [(-1, -1)] * len(real))


def _read_factored(file: h5py.File, row: int) -> Encoded:
    chosen = file["gene_enh_idx"][row]
    real = np.flatnonzero(chosen >= 0)
    windows = [file["enhancer_seq"][int(index)] for index in chosen[real]]
    columns = {"activity": "activity", "contact": "contact", "distance": "distance"}
    columns |= {"dnase": "dhs"} if "dhs" in file else {}
    signals = {name: file[key][row][real] for name, key in columns.items()}
    places = [(-1, -1)] * len(real)
    if "enhancer_name" in file:
        places = [_place(file["enhancer_name"][int(index)]) for index in chosen[real]]
    return Encoded(file["promoter_seq"][row], windows, signals, places)


def _place(name: bytes | str) -> tuple[int, int]:
    """Start and end of class|chrom:start-end; -1 where a name says none."""
    text = name.decode() if isinstance(name, bytes) else str(name)
    start, dash, end = text.rpartition(":")[2].partition("-")
    return (int(start), int(end)) if dash and start.isdecimal() and end.isdecimal() else (-1, -1)


def _example(gene, encoded: Encoded, manifest: Manifest, path: str) -> GeneExample:
    parts = [element_codes(window) for window in encoded.windows]
    for slot, part in enumerate(parts):
        if not part.size:
            raise ValueError(f"{path}: gene {gene.gene_id}: element {slot + 1} has no base")
    signals = [encoded.signals[name] for name in manifest.link_signal_names]
    for name, values in encoded.signals.items():
        if not np.isfinite(values).all():
            raise ValueError(f"{path}: gene {gene.gene_id}: {name} holds a value that is no number")
    places = np.array(encoded.places, np.int64).reshape(-1, 2)
    width = len(manifest.link_signal_names)
    return GeneExample(
        gene_id=gene.gene_id,
        gene_name=gene.gene_name,
        chrom=gene.chrom,
        split=gene.chrom,
        tss=int(gene.tss),
        strand=gene.strand,
        promoter=codes_of(encoded.promoter),
        element_start=places[:, 0].copy(),
        element_end=places[:, 1].copy(),
        element_length=np.array([part.size for part in parts], np.int32),
        element_sequence=np.concatenate([np.zeros(0, np.uint8), *parts]),
        distance_bp=np.rint(encoded.signals["distance"]).astype(np.int64),
        link_signals=np.stack(signals, axis=-1).astype(np.float32).reshape(-1, width),
        gene_signals=np.array(
            [getattr(gene, name) for name in manifest.gene_signal_names], np.float32
        ),
        labels=np.array([getattr(gene, name) for name in manifest.label_names], np.float32),
    )
