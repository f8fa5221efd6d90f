"""samples.tsv: which files each cell type has, and what can be made of them."""

import os
from dataclasses import dataclass
from pathlib import Path

from data_prep.peaks import ASSAYS
from data_prep.text_input import Table, read_table

# Column -> whether every cell type needs it, and what it holds.
COLUMNS = {
    "cell_type": (True, "its name: letters, digits, _, - and ."),
    "accessibility": (True, "BAM, CRAM, tagAlign, fragments, bigWig; replicates comma-separated"),
    "assay": (True, f"what they are: {' or '.join(ASSAYS)}"),
    "peaks": (True, "accessibility peaks, narrowPeak or BED: candidate elements"),
    "window_peaks": (False, "peaks of the 256 bp windows (H3K27ac, say); default: peaks"),
    "h3k27ac": (False, "H3K27ac files, replicates comma-separated"),
    "contact": (False, "Hi-C: .hic, .cool, .mcool, a folder or file of text"),
    "expression": (False, "table of expression by gene id"),
    "expression_column": (False, "its column; needed with expression"),
}
_NEEDED = tuple(name for name, (is_needed, _) in COLUMNS.items() if is_needed)


def describe() -> str:
    """The columns of samples.tsv, one a line, and what holds for all of them."""
    width = max(map(len, COLUMNS))
    lines = [
        f"  {name:{width}}  {'needed' if is_needed else 'may be empty'}; {meaning}"
        for name, (is_needed, meaning) in COLUMNS.items()
    ]
    return "\n".join(
        [
            "samples.tsv (field `samples`) has a header and one row a cell type, separated by tabs",
            "(or commas, with one file a field). Paths are relative to the table's own folder.",
            *lines,
        ]
    )


@dataclass(frozen=True)
class Sample:
    """One cell type; paths are complete, replicates in order, () or "" where there is no file.

    `window_peaks` are the peaks of the activity windows (H3K27ac peaks, say); default `peaks`.
    """

    cell_type: str
    accessibility: tuple[str, ...]
    assay: str
    peaks: str
    h3k27ac: tuple[str, ...] = ()
    contact: str = ""
    expression: str = ""
    expression_column: str = ""
    window_peaks: str = ""


def read_samples(path: str | os.PathLike) -> list[Sample]:
    """Reads samples.tsv: one row a cell type; relative paths start at the table's folder.

    The columns are COLUMNS; a missing file is an empty field or no column.

    Raises:
      ValueError: a needed column or value is missing, an unknown assay or column, a cell type
        twice, an expression table without its column, or a file that does not exist; names file
        and line.
    """
    try:
        table = read_table(path, required=_NEEDED)
    except ValueError as error:
        raise ValueError(f"{error} (`python -m data_prep run --help` lists the columns)") from None
    for name in table.frame.columns:
        if name not in COLUMNS:
            raise ValueError(f"{path}: unknown column {name!r}; known: {', '.join(COLUMNS)}")
    if not len(table):
        raise ValueError(f"{path}: has no cell type; expected one a row")
    folder = Path(path).absolute().parent
    samples = [_sample(table, row, folder) for row in range(len(table))]
    names = [sample.cell_type for sample in samples]
    for row, name in enumerate(names):
        if name in names[:row]:
            raise ValueError(f"{table.where(row)}: cell type {name} stands twice; pool replicates")
    return samples


def _sample(table: Table, row: int, folder: Path) -> Sample:
    def value(name: str) -> str:
        return table.text(name, allow_missing=True).iloc[row] if table.has(name) else ""

    for name in _NEEDED:
        if not value(name):
            raise ValueError(f"{table.where(row)}: {name} is missing; every cell type needs it")
    where = table.where(row)
    if value("assay") not in ASSAYS:
        raise ValueError(f"{where}: assay {value('assay')!r}; expected {' or '.join(ASSAYS)}")
    cell_type = value("cell_type")
    if not cell_type.replace("-", "_").replace(".", "_").isidentifier():
        raise ValueError(f"{where}: cell type {cell_type!r}; use letters, digits, _, - and .")
    if bool(value("expression")) != bool(value("expression_column")):
        raise ValueError(f"{where}: expression and expression_column belong together; give both")
    files = {
        name: tuple(
            _path(part.strip(), folder, f"{where}: {name}")
            for part in value(name).split(",")
            if part.strip()
        )
        for name in ("accessibility", "h3k27ac")
    }
    return Sample(
        cell_type=cell_type,
        assay=value("assay"),
        **files,
        expression_column=value("expression_column"),
        **{
            name: _path(value(name), folder, f"{where}: {name}") if value(name) else ""
            for name in ("peaks", "contact", "expression", "window_peaks")
        },
    )


def _path(text: str, folder: Path, place: str) -> str:
    """A complete path; a cooler URI (file::group) keeps its group."""
    file, colons, group = text.partition("::")
    path = Path(file) if os.path.isabs(file) else folder / file
    if not path.exists():
        raise ValueError(f"{place}: {path} does not exist; leave the field empty without a file")
    return f"{path}{colons}{group}"
