"""Tab-separated files: read with every line accounted for, values checked, written whole.

Every check names file and line. A frame of `read_text` knows its `path` and `header_line` in
`attrs`.
"""

import csv
import gzip
import io
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from epinformer_jax.data import atomic, chromosomes

_GZIP_MAGIC = b"\x1f\x8b"
_MISSING = frozenset({"", "na", "n/a", "nan", "none", "null", "."})
_FLAGS = {"true": True, "1": True, "false": False, "0": False}
_SORT_COLUMNS = ("chrom", "start", "tss", "end", "gene_id", "name", "fold")


def where(frame: pd.DataFrame, row: int | np.integer) -> str:
    """file:line of a row, given by its position in a frame as it was read."""
    path, header_line = frame.attrs.get("path"), frame.attrs.get("header_line")
    return f"row {row + 1}" if path is None else f"{path}:{header_line + 1 + int(row)}"


def read_text(path: str | os.PathLike, *, allow_empty: bool = False) -> pd.DataFrame:
    """Reads a table, every value as text without outer blanks; CRLF and a byte-order mark are fine.

    Raises:
      ValueError: no header, no rows (unless `allow_empty`), a column twice, a line with another
        number of fields, an empty line between others, not UTF-8 text, or no such file.
      OSError: the file cannot be read.
    """
    text = _content(Path(path))
    lines = text.split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    comments = 0
    while comments < len(lines) and lines[comments].startswith(("# ", "##")):
        comments += 1
    if comments == len(lines):
        raise ValueError(f"{path}: is empty; expected a header line of tab-separated column names")
    names = [name.strip() for name in lines[comments].lstrip("#").split("\t")]
    for name in names:
        if not name:
            raise ValueError(f"{path}:{comments + 1}: a column has no name (a stray tab?)")
        if names.count(name) > 1:
            raise ValueError(f"{path}:{comments + 1}: column {name!r} stands twice in the header")
    for number, line in enumerate(lines[comments + 1 :], comments + 2):
        if line.count("\t") != len(names) - 1:
            found = line.count("\t") + 1 if line.strip() else 0
            raise ValueError(
                f"{path}:{number}: {found} tab-separated fields, the header has {len(names)}"
            )
    if comments + 1 == len(lines) and not allow_empty:
        raise ValueError(f"{path}: has a header but no rows")
    frame = _parse("\n".join(lines[comments + 1 :]), names)
    frame.attrs.update(path=str(path), header_line=comments + 1)
    return frame


def _parse(body: str, names: list[str]) -> pd.DataFrame:
    if not body:
        return pd.DataFrame({name: pd.Series(dtype=str) for name in names})
    frame = pd.read_csv(
        io.StringIO(body),
        sep="\t",
        header=None,
        names=names,
        dtype=str,
        keep_default_na=False,
        quoting=csv.QUOTE_NONE,
        skip_blank_lines=False,
    )
    return frame.apply(lambda column: column.str.strip())


def require(raw: pd.DataFrame, names: Sequence[str]) -> None:
    """Raises ValueError when one of these columns is not there."""
    for name in names:
        if name not in raw:
            found = ", ".join(raw.columns)
            path = raw.attrs.get("path", "the table")
            raise ValueError(f"{path}: column {name!r} is missing; found: {found}")


def as_text(raw: pd.DataFrame, name: str) -> pd.Series:
    """Any text, also none."""
    return raw[name].astype(str)


def as_name(raw: pd.DataFrame, name: str) -> pd.Series:
    """Text that must be there."""
    _refuse(raw, name, raw[name] == "", "is empty", "expected a name")
    return raw[name].astype(str)


def as_number(raw: pd.DataFrame, name: str) -> pd.Series:
    """A finite number that must be there, float64."""
    values = as_number_or_missing(raw, name)
    _refuse(raw, name, values.isna(), "is missing", "expected a number")
    return values


def as_number_or_missing(raw: pd.DataFrame, name: str) -> pd.Series:
    """A finite number, or NaN where the field is empty, NA, NaN or a dot."""
    values, is_missing = _numbers(raw[name])
    _refuse(raw, name, values.isna() & ~is_missing, "is not a number", "expected a number")
    _refuse(raw, name, np.isinf(values), "is infinite", "expected a finite number")
    return values


def as_amount(raw: pd.DataFrame, name: str) -> pd.Series:
    """A number that is there and not negative."""
    return _not_negative(raw, name, as_number(raw, name))


def as_amount_or_missing(raw: pd.DataFrame, name: str) -> pd.Series:
    """A number that is not negative, or NaN."""
    return _not_negative(raw, name, as_number_or_missing(raw, name))


def as_integer(raw: pd.DataFrame, name: str) -> pd.Series:
    """A whole number, int64."""
    values = as_number(raw, name)
    _refuse(
        raw,
        name,
        (values % 1 != 0) | (values.abs() > 2**53),
        "is not a whole number",
        "expected one",
    )
    return values.astype(np.int64)


def as_position(raw: pd.DataFrame, name: str) -> pd.Series:
    """A 0-based coordinate."""
    values = as_integer(raw, name)
    _refuse(raw, name, values < 0, "is negative", "expected a 0-based coordinate")
    return values


def as_flag(raw: pd.DataFrame, name: str) -> pd.Series:
    """True, False, 1 or 0, in any case."""
    values = raw[name].str.lower().map(_FLAGS)
    _refuse(raw, name, values.isna(), "is neither true nor false", "expected True, False, 1 or 0")
    return values.astype(bool)


def as_number_or_text(raw: pd.DataFrame, name: str) -> pd.Series:
    """Numbers when every value that is there is one and at least one is; else the text."""
    values, is_missing = _numbers(raw[name])
    is_numeric = (values.notna() | is_missing).all() and values.notna().any()
    return values if is_numeric else raw[name].astype(str)


def refuse_stray_text(raw: pd.DataFrame, name: str) -> None:
    """Refuses a column that is mostly numbers but not all: an error rather than a text column.

    Raises:
      ValueError: names file, line and value.
    """
    values, is_missing = _numbers(raw[name])
    stray = values.isna() & ~is_missing
    numbers = int(values.notna().sum())
    if 0 < stray.sum() < numbers:
        hint = f"{numbers} other rows hold numbers; correct it, or name the labels (--labels)"
        _refuse(raw, name, stray, "is not a number", hint)


def refuse_duplicates(frame: pd.DataFrame, columns: Sequence[str], what: str) -> None:
    """Refuses rows that agree in all these columns.

    Raises:
      ValueError: names both lines.
    """
    repeated = np.flatnonzero(frame.duplicated(list(columns)))
    if not repeated.size:
        return
    key = frame[list(columns)].iloc[repeated[0]]
    first = np.flatnonzero((frame[list(columns)] == key).all(axis=1))[0]
    shown = " ".join(str(value) for value in key)
    raise ValueError(
        f"{where(frame, repeated[0])}: {what} {shown} stood before, at {where(frame, first)}"
    )


def write_table(
    frame: pd.DataFrame,
    path: str | os.PathLike,
    *,
    float_format: str | None = None,
    keep_order: bool = False,
) -> None:
    """Writes a tab-separated table, whole or not at all, gzip when the name ends in .gz.

    Rows are sorted by contig in natural order, position, and gene or name, as far as there are such
    columns (not with `keep_order`); ties keep their order. The same frame gives the same bytes.

    Raises:
      OSError: the folder does not exist or cannot be written.
    """
    keys = pd.DataFrame({name: frame[name] for name in _SORT_COLUMNS if name in frame})
    if "chrom" in keys:
        ranks = {
            chrom: rank
            for rank, chrom in enumerate(chromosomes.natural_order(frame["chrom"].astype(str)))
        }
        keys["chrom"] = frame["chrom"].astype(str).map(ranks)
    if len(keys.columns) and not keep_order:
        order = keys.reset_index(drop=True).sort_values(list(keys.columns), kind="stable").index
        frame = frame.iloc[order]
    text = frame.to_csv(sep="\t", index=False, lineterminator="\n", float_format=float_format)
    content = text.encode()
    if str(path).endswith(".gz"):
        content = gzip.compress(content, mtime=0)
    with atomic.atomic_file(path) as temporary:
        temporary.write_bytes(content)


def _content(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    try:
        if raw.startswith(_GZIP_MAGIC):
            raw = gzip.decompress(raw)
        text = raw.decode("utf-8-sig")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ValueError(
            f"{path}: not a readable table ({error}); expected UTF-8 text, plain or gzip"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _numbers(texts: pd.Series) -> tuple[pd.Series, pd.Series]:
    is_missing = texts.str.lower().isin(_MISSING)
    values = pd.to_numeric(texts.mask(is_missing), errors="coerce").astype(np.float64)
    return values, is_missing


def _not_negative(raw: pd.DataFrame, name: str, values: pd.Series) -> pd.Series:
    _refuse(raw, name, values < 0, "is negative", "expected 0 or more, not on a log scale")
    return values


def _refuse(raw: pd.DataFrame, name: str, is_wrong: pd.Series, finding: str, expected: str) -> None:
    rows = np.flatnonzero(is_wrong)
    if rows.size:
        value = raw[name].iloc[rows[0]]
        raise ValueError(f"{where(raw, rows[0])}: {name} {value!r} {finding}; {expected}")
