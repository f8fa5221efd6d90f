"""Writes contacts as one text file a chromosome (x1, x2, contact), which `links` reads quickly.

The average Hi-C file (58 GB) is cut up line by line, without holding it; .hic and .cool files are
written as normalised maps.
"""

import contextlib
import gzip
import io
import os
from typing import TYPE_CHECKING

import pandas as pd
from tqdm import tqdm

from data_prep.contact_text import MANIFEST, contact_chunks
from data_prep.outputs import versions, write_frame, write_json
from epinformer_jax.data.atomic import atomic_directory
from epinformer_jax.data.chromosomes import natural_order

if TYPE_CHECKING:
    from data_prep.contact import ContactSource


def export_text(
    path: str | os.PathLike,
    out: str | os.PathLike,
    *,
    resolution_bp: int,
    overwrite: bool = False,
) -> dict[str, int]:
    """Cuts a bedpe or four-column file into chromosomes, values as they are; returns rows written.

    Raises:
      ValueError: the file names no chromosomes, a malformed line, or `out` may not be written.
    """
    counts: dict[str, int] = {}
    with atomic_directory(out, overwrite=overwrite) as folder, contextlib.ExitStack() as stack:
        files: dict[str, io.TextIOBase] = {}
        for chunk in tqdm(contact_chunks(path), desc="contacts", unit=" blocks", disable=None):
            if "chrom" not in chunk:
                raise ValueError(
                    f"{path}: has no chromosome column; it is one chromosome's file already"
                )
            for chrom, rows in chunk.groupby("chrom", sort=False):
                name = str(chrom)
                if name not in files:
                    files[name] = stack.enter_context(
                        gzip.open(folder / f"{name}.tsv.gz", "wt", compresslevel=4)
                    )
                rows[["x1", "x2", "contact"]].to_csv(
                    files[name], sep="\t", header=False, index=False, lineterminator="\n"
                )
                counts[name] = counts.get(name, 0) + len(rows)
        if not counts:
            raise ValueError(f"{path}: holds no contact within a chromosome")
        counts = {chrom: counts[chrom] for chrom in natural_order(counts)}
        _write_manifest(folder, resolution_bp, counts, {"normalisation": "as given"})
    return counts


def export_maps(
    source: "ContactSource",
    out: str | os.PathLike,
    *,
    max_distance_bp: int,
    overwrite: bool = False,
) -> dict[str, int]:
    """Writes normalised contacts within a distance, chromosome by chromosome; returns rows written.

    Raises:
      ValueError: no chromosome has contacts, or `out` may not be written.
    """
    resolution = source.file.resolution_bp
    chromosomes = source.contigs if source.contigs is not None else source.file.contigs()
    counts: dict[str, int] = {}
    with atomic_directory(out, overwrite=overwrite) as folder:
        for chrom in tqdm(natural_order(chromosomes), desc="contacts", disable=None):
            contacts = source.load(chrom, max_distance_bp=max_distance_bp)
            if contacts is None:
                continue
            bins1, bins2, values = contacts.pixels()
            frame = pd.DataFrame(
                {"x1": bins1 * resolution, "x2": bins2 * resolution, "contact": values}
            )
            write_frame(frame, folder / f"{chrom}.tsv.gz", header=False)
            counts[chrom] = len(frame)
        if not counts:
            raise ValueError(f"{source.file.path}: no chromosome has contacts")
        _write_manifest(folder, resolution, counts, {"normalisation": source.describe()})
    return counts


def _write_manifest(folder, resolution_bp: int, counts: dict[str, int], extra: dict) -> None:
    values = {"kind": "contacts", "resolution_bp": resolution_bp, "contacts": counts} | extra
    write_json(values | {"versions": versions("cooler", "hictkpy", "pandas")}, folder / MANIFEST)
