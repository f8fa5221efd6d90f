"""Contacts from text: one file a chromosome (x1, x2, contact), or bedpe of the whole genome.

x1 and x2 are positions in bp at the start of their bins. Average Hi-C (ENCFF134PUN) comes as bedpe
and is normalised already.
"""

import gzip
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from data_prep.contact_map import ContactCollector, ContactMap, pixel_keys
from data_prep.text_input import numbered_lines, open_text, parse_integers, split_fields

_ENDINGS = (".tsv", ".bed", ".txt", ".avg", ".RAWobserved", ".KRnorm", "")
_CHUNK_ROWS = 2_000_000
_MAX_FILE_BYTES = 1_000_000_000
# Columns of chrom, x1, x2 and contact by the number of columns; chrom2 must equal chrom.
_LAYOUTS = {
    3: (None, 0, 1, 2, None),
    4: (0, 1, 2, 3, None),
    7: (0, 1, 4, 6, 3),
    8: (0, 1, 4, 7, 3),
}
MANIFEST = "manifest.json"


class TextContacts:
    """A folder with one text file a chromosome, or one file for several chromosomes."""

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        resolution_bp: int,
        divide_by_row_sum: bool = False,
        files: Mapping[str, str] | None = None,
    ):
        """Looks at a folder, or at `files` (chrom -> file of x1, x2, contact).

        A folder made by `python -m data_prep contact` says its own resolution, which must agree.

        Raises:
          ValueError: nothing there, another resolution, or one file of more than 1 GB.
        """
        self.path = os.fspath(path)
        self.resolution_bp = resolution_bp
        self.divides = divide_by_row_sum
        self._files = dict(files) if files else {}
        if files:
            return
        place = Path(path)
        if not place.exists():
            raise ValueError(f"{path}: no such file or folder of contacts")
        if place.is_file() and place.stat().st_size > _MAX_FILE_BYTES:
            raise ValueError(
                f"{path}: has {place.stat().st_size / 1e9:.1f} GB and would be read once for every "
                "chromosome; cut it up first: python -m data_prep contact --contact FILE --out DIR"
            )
        if place.is_dir() and (place / MANIFEST).is_file():
            self._check_manifest(place / MANIFEST)

    def contigs(self) -> dict[str, None]:
        """Names of the chromosomes where files are given by name; else none are known."""
        return dict.fromkeys(self._files)

    def read(
        self,
        contig: str,
        *,
        chrom: str,
        max_distance_bp: int,
        tss_contribution_percent: float = 100.0,
    ) -> ContactMap | None:
        """Reads one chromosome; None where there is no file or no contact for it.

        Raises:
          ValueError: a malformed line, or positions that are no multiples of the resolution.
        """
        source = self._files.get(contig) or find_chromosome_file(self.path, contig)
        if source is None:
            return None
        names = {contig, contig.removeprefix("chr"), f"chr{contig}"}
        pixels = [
            chunk[chunk["chrom"].isin(names)] if "chrom" in chunk else chunk
            for chunk in contact_chunks(source)
        ]
        table = pd.concat(pixels, ignore_index=True)
        if table.empty:
            return None
        bins1, bins2, values = self._pixels(table, source)
        collector = ContactCollector(
            resolution_bp=self.resolution_bp, max_distance_bp=max_distance_bp
        )
        collector.add(bins1, bins2, values)
        return collector.finish(
            chrom,
            normalisation="as given",
            divide_by_row_sum=self.divides,
            tss_contribution_percent=tss_contribution_percent,
        )

    def _pixels(
        self, table: pd.DataFrame, source: str | os.PathLike
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Upper triangle, one value a pixel: of doubles the largest."""
        ends = table[["x1", "x2"]].to_numpy(np.int64)
        for row in np.flatnonzero((ends % self.resolution_bp).any(axis=1))[:1]:
            raise ValueError(
                f"{source}: contact {row + 1} lies at {ends[row, 0]} and {ends[row, 1]}, no "
                f"multiples of the {self.resolution_bp} bp resolution; give --contact-resolution"
            )
        bins = np.sort(ends // self.resolution_bp, axis=1)
        keys = pixel_keys(bins[:, 0], bins[:, 1])
        values = table["contact"].to_numpy(np.float64)
        order = np.lexsort((values, keys))
        is_last = np.append(keys[order][1:] != keys[order][:-1], True)
        kept = order[is_last]
        return bins[kept, 0], bins[kept, 1], values[kept]

    def _check_manifest(self, path: Path) -> None:
        stated = json.loads(path.read_text(encoding="utf-8")).get("resolution_bp")
        if stated is not None and stated != self.resolution_bp:
            raise ValueError(
                f"{path}: the contacts were written at {stated} bp, not {self.resolution_bp}; give "
                f"--contact-resolution {stated}"
            )


def find_chromosome_file(place: str | os.PathLike, contig: str) -> Path | None:
    """The file of a chromosome in a folder or its subfolder, or `place` itself if it is a file.

    Tried with and without `chr`, plain and gzip: chr1.tsv, .bed, .txt, .avg, .RAWobserved, .KRnorm.
    """
    place = Path(place)
    if place.is_file():
        return place
    bare = contig.removeprefix("chr")
    for name in dict.fromkeys((contig, f"chr{bare}", bare)):
        for folder in (place, place / name):
            for ending in _ENDINGS:
                for packed in (".gz", ""):
                    candidate = folder / f"{name}{ending}{packed}"
                    if candidate.is_file():
                        return candidate
    return None


def contact_chunks(
    path: str | os.PathLike, *, chunk_rows: int = _CHUNK_ROWS
) -> Iterator[pd.DataFrame]:
    """Streams a contact file as frames of x1, x2, contact (and chrom, where the file has it).

    Layouts: x1 x2 contact; chrom x1 x2 contact; bedpe with the score in column 7 or 8. Contacts
      between
    chromosomes are passed over. A header line is allowed.

    Raises:
      ValueError: another number of columns, or a malformed line; names file and line.
    """
    number, first = next(numbered_lines(path), (0, ""))
    fields = split_fields(first)
    if len(fields) not in _LAYOUTS:
        raise ValueError(
            f"{path}:{number}: {len(fields)} columns; expected 3 (x1 x2 contact), 4 (chrom x1 x2 "
            "contact) or bedpe with 7 or 8"
        )
    layout = _LAYOUTS[len(fields)]
    has_header = not fields[layout[1]].strip().lstrip("-").isdecimal()
    names = {layout[0]: "chrom", layout[4]: "chrom2"}
    columns = {index: name for index, name in names.items() if index is not None}
    columns |= {layout[1]: "x1", layout[2]: "x2", layout[3]: "contact"}
    kinds = {"chrom": str, "chrom2": str, "x1": np.int64, "x2": np.int64, "contact": np.float64}
    with open_text(path) as handle:
        try:
            reader = pd.read_csv(
                handle,
                sep="\t" if "\t" in first else r"\s+",
                header=None,
                skiprows=number if has_header else number - 1,
                usecols=sorted(columns),
                dtype={index: kinds[name] for index, name in columns.items()},
                chunksize=chunk_rows,
            )
            for raw in reader:
                chunk = raw.rename(columns=columns)
                if (chunk[["x1", "x2"]] < 0).any(axis=None) or (chunk["contact"] < 0).any():
                    raise ValueError("negative")
                if "chrom2" in chunk:
                    chunk = chunk[chunk["chrom"] == chunk["chrom2"]].drop(columns="chrom2")
                yield chunk
        except (ValueError, OverflowError, EOFError, gzip.BadGzipFile) as error:
            raise _first_bad_line(path, layout, len(fields), has_header, error) from error


def _first_bad_line(
    path: str | os.PathLike, layout: tuple, width: int, has_header: bool, cause: Exception
) -> ValueError:
    try:
        for index, (number, line) in enumerate(numbered_lines(path)):
            fields = split_fields(line)
            if index == 0 and has_header:
                continue
            if len(fields) != width:
                return ValueError(
                    f"{path}:{number}: {len(fields)} columns; expected {width} as above"
                )
            places = [fields[layout[1]], fields[layout[2]]]
            ends = parse_integers(places, [number] * 2, path=path, name="position")
            try:
                contact = float(fields[layout[3]])
            except ValueError:
                return ValueError(
                    f"{path}:{number}: contact is {fields[layout[3]]!r}; expected a number"
                )
            if (ends < 0).any() or contact < 0:
                return ValueError(f"{path}:{number}: {line.strip()!r} holds a negative number")
    except ValueError as error:
        return error
    return ValueError(f"{path}: cannot be read as contacts ({cause})")
