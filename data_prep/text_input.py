"""Text inputs: plain, gzip or BGZF, any line end; errors name the file and the line (1-based).

`numbered_lines` feeds small readers line by line; `read_table` gives a table with a header as text
columns that are turned into numbers one by one, so that a bad field can be named.
"""

import csv
import gzip
import io
import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int64

from epinformer_jax.data.chromosomes import suggest

MISSING = frozenset({"", "NA", "N/A", "nan", "NaN", "None", "null", "."})
_NOT_DATA = ("#", "track ", "track\t", "browser ", "browser\t")


def open_text(path: str | os.PathLike) -> io.TextIOBase:
    """Opens a text file, unpacking gzip and BGZF by content, not by name.

    Raises:
      ValueError: the file does not exist, is a directory, or is empty.
    """
    path = Path(path)
    check_file(path)
    with open(path, "rb") as handle:
        is_gzip = handle.read(2) == b"\x1f\x8b"
    if is_gzip:
        return gzip.open(path, "rt", encoding="utf-8", errors="replace")
    return open(path, encoding="utf-8", errors="replace")


def check_file(path: str | os.PathLike) -> None:
    """Refuses what cannot be read.

    Raises:
      ValueError: `path` does not exist, is a directory, or has no bytes.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path}: is a directory; expected a file")
    if not path.exists():
        raise ValueError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: is empty; was a step before this one cut short?")


def numbered_lines(path: str | os.PathLike) -> Iterator[tuple[int, str]]:
    """Yields (line number, line) without blank, `#`, `track` and `browser` lines and line ends.

    Raises:
      ValueError: the file cannot be read, or its gzip stream is cut off or damaged.
    """
    number = 0
    with open_text(path) as handle:
        try:
            for number, raw in enumerate(handle, start=1):
                line = raw.rstrip("\r\n")
                if line.strip() and not line.startswith(_NOT_DATA):
                    yield number, line
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(
                f"{path}: the gzip stream is cut off or damaged after line {number} ({error}); "
                "copy the file again"
            ) from error


def split_fields(line: str) -> list[str]:
    """Cuts a line at tabs, or at blanks where it has no tab."""
    return line.split("\t") if "\t" in line else line.split()


@dataclass(frozen=True)
class Table:
    """A table with a header, as text: `frame` holds str columns, `lines` the line of each row."""

    path: str
    frame: pd.DataFrame
    lines: Int64[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.frame)

    def has(self, column: str) -> bool:
        """True where the header names `column`."""
        return column in self.frame.columns

    def where(self, row: int | np.integer) -> str:
        """The place of a row for an error message: file:line."""
        return f"{self.path}:{self.lines[row]}"

    def text(self, column: str, *, allow_missing: bool = False) -> pd.Series:
        """A column as text without blanks at its ends; missing values become "".

        Raises:
          ValueError: the column is not there, or a value is missing and may not be.
        """
        values = self._column(column).str.strip()
        missing = values.isin(MISSING)
        if missing.any() and not allow_missing:
            row = int(np.argmax(missing.to_numpy()))
            raise ValueError(
                f"{self.where(row)}: {column} is missing; expected a value in every row"
            )
        return values.mask(missing, "")

    def numbers(
        self, column: str, *, minimum: float | None = None, allow_missing: bool = False
    ) -> Float64[np.ndarray, " n"]:
        """A column as float64; missing values are NaN where they are allowed.

        Raises:
          ValueError: a value is no finite number, is missing, or lies below `minimum`; names file
            and line.
        """
        texts = self.text(column, allow_missing=allow_missing)
        values = pd.to_numeric(texts.mask(texts == "", "nan"), errors="coerce").to_numpy(np.float64)
        bad = ~np.isfinite(values) & (texts != "").to_numpy()
        if bad.any():
            row = int(np.argmax(bad))
            raise ValueError(
                f"{self.where(row)}: {column} is {texts.iloc[row]!r}; expected a number"
            )
        if minimum is not None and (values < minimum).any():
            row = int(np.argmax(values < minimum))
            raise ValueError(
                f"{self.where(row)}: {column} is {texts.iloc[row]}; expected a number of at least "
                f"{minimum:g}"
            )
        return values

    def integers(self, column: str, *, minimum: int | None = None) -> Int64[np.ndarray, " n"]:
        """A column as int64; `1e3` and `12.0` are refused as coordinates.

        Raises:
          ValueError: a value is missing, is no whole number, or lies below `minimum`.
        """
        texts = self.text(column)
        values = parse_integers(texts.tolist(), self.lines, path=self.path, name=column)
        if minimum is not None and (values < minimum).any():
            row = int(np.argmax(values < minimum))
            raise ValueError(
                f"{self.where(row)}: {column} is {values[row]}; expected a whole number of at "
                f"least {minimum}"
            )
        return values

    def _column(self, column: str) -> pd.Series:
        if column not in self.frame.columns:
            raise ValueError(
                f"{self.path}: no column {column!r} in the header; "
                f"{suggest(column, self.frame.columns)}"
            )
        return self.frame[column]


def parse_integers(
    texts: list[str], lines: Iterable, *, path: str | os.PathLike, name: str
) -> Int64[np.ndarray, " n"]:
    """Turns texts into int64.

    Raises:
      ValueError: a text is no whole number; names the file and the line it stands on.
    """
    try:
        return np.array([int(text) for text in texts], np.int64)
    except (ValueError, OverflowError):
        for text, line in zip(texts, lines, strict=True):
            digits = text.strip().removeprefix("-")
            if not digits.isdecimal() or len(digits) > 18:
                raise ValueError(
                    f"{path}:{line}: {name} is {text!r}; expected a whole number"
                ) from None
        raise


def read_table(path: str | os.PathLike, *, required: Iterable[str] = ()) -> Table:
    """Reads a table with a header, separated by tabs, or by commas where the header has no tab.

    A stray separator at the end of rows (Roadmap's expression tables) is taken off, and lines that
    start with `#` above the header are passed over; a header may itself start with `#`.

    Raises:
      ValueError: no header, a column twice, a required column missing, or a row with another number
        of fields.
    """
    rows: list[list[str]] = []
    lines: list[int] = []
    header, separator = _read_header(path)
    width = len(header)
    seen_header = False
    for number, line in numbered_lines(path):
        fields = _cut(line, separator)
        if not seen_header and _clean(fields) == header:
            seen_header = True
            continue
        if len(fields) == width + 1 and not fields[-1].strip():
            fields.pop()
        if len(fields) != width:
            raise ValueError(
                f"{path}:{number}: {len(fields)} fields; expected {width} as in the header"
            )
        rows.append(fields)
        lines.append(number)
    frame = pd.DataFrame(rows, columns=header, dtype=str)
    table = Table(str(path), frame, np.array(lines, np.int64))
    for column in required:
        table._column(column)
    return table


def _read_header(path: str | os.PathLike) -> tuple[list[str], str]:
    last_comment = None
    with open_text(path) as handle:
        for raw in handle:
            line = raw.rstrip("\r\n")
            if line.startswith("#"):
                last_comment = line[1:]
                continue
            if line.strip():
                break
        else:
            raise ValueError(f"{path}: holds no table; expected a header line and rows")
    separator = "\t" if "\t" in line else ","
    header = _clean(_cut(line, separator))
    if last_comment is not None and separator in last_comment:
        commented = _clean(last_comment.split(separator))
        if len(commented) == len(header) and not any(_is_number(name) for name in commented):
            header = commented
    while header and not header[-1]:
        header.pop()
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise ValueError(f"{path}: column {repeated[0]!r} stands twice in the header; rename one")
    if all(_is_number(name) for name in header):
        raise ValueError(f"{path}: has no header line; the first line should name the columns")
    return header, separator


def _clean(fields: list[str]) -> list[str]:
    stripped = [field.strip().strip('"') for field in fields]
    while stripped and not stripped[-1]:
        stripped.pop()
    return stripped


def _cut(line: str, separator: str) -> list[str]:
    if separator == "," and '"' in line:
        return next(csv.reader([line]))
    return line.split(separator)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
