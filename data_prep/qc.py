"""The QC page of a run: one HTML file, self-contained, drawn from the stages' own outputs."""

import html
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_prep import svg
from data_prep.power_law import OBSERVED
from data_prep.stages import RECORD
from epinformer_jax.data.atomic import atomic_file
from epinformer_jax.data.chromosomes import natural_order

PAGE = "qc.html"
DATASET_FILE = "dataset.json"
_OFFSET = 0.1
_CONTACT_OFFSET = 1e-4
_BINS = 20
_STAGES = (
    *("candidates", "tss", "summits", "windows", "signals"),
    *("genes", "contact", "links", "records"),
)
_TAIL = 0.01  # of a histogram's values may be cut off, which it then says
_STYLE = """
body{font:15px/1.45 sans-serif;margin:24px 32px;color:#222}
table{border-collapse:collapse;margin:8px 0 16px}th,td{border:1px solid #ccc;padding:3px 9px}
th,td{text-align:left}th.number,td.number{text-align:right;font-variant-numeric:tabular-nums}
.tables{display:flex;flex-wrap:wrap;gap:0 48px;align-items:flex-start}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(350px,1fr));gap:14px}
.charts svg{width:100%;height:auto}.note{color:#9c4221}
"""


def write_page(folder: str | os.PathLike, title: str, *, order: Sequence[str] = ()) -> Path:
    """Writes qc.html over all cell types of a run directory; returns its path.

    Cell types come in the order given (that of samples.tsv), others after them.

    Raises:
      ValueError: no cell type there has been prepared.
    """
    folder = Path(folder)
    there = natural_order(path.parent.name for path in folder.glob(f"*/{DATASET_FILE}"))
    if not there:
        raise ValueError(f"{folder}: no cell type has been prepared there")
    cells = [name for name in order if name in there]
    cells += [name for name in there if name not in cells]
    parts = [f"<h1>{html.escape(title)}: preparation</h1>", _overview(folder, cells)]
    parts += [_section(folder / cell) for cell in cells]
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}'
        f"</title><style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )
    with atomic_file(folder / PAGE) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return folder / PAGE


def _overview(folder: Path, cells: list[str]) -> str:
    """One row a cell type, its name a link to its section."""
    rows = []
    for cell in cells:
        dataset = _json(folder / cell / DATASET_FILE)
        made = _json(folder / cell / "records" / "genes" / "manifest.json")["counts"]
        linked = _json(folder / cell / "links" / "links.json")
        rows.append(
            {
                "cell type": cell,
                "preset": dataset["preset"],
                "label": dataset["label"] or "none",
                "genes": made["genes"],
                "links": linked["links"],
                "links a gene": linked["elements_per_gene"],
                "elements in records": made["elements"],
                "genes without elements": made["genes_without_elements"],
            }
        )
    return _table(pd.DataFrame(rows), linked="cell type")


def _section(place: Path) -> str:
    dataset = _json(place / DATASET_FILE)
    elements = pd.read_csv(place / "signals" / "elements.tsv.gz", sep="\t")
    links = pd.read_csv(place / "links" / "links.tsv.gz", sep="\t")
    genes = pd.read_csv(place / "genes" / "genes.tsv", sep="\t")
    charts = _charts(dataset, elements, links, genes)
    notes = "".join(f'<li class="note">{html.escape(note)}</li>' for note in dataset["notes"])
    lines = [_filter(place), *_json(place / "links" / "links.json")["contact"]]
    said = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    columns = [
        {"Reads": _reads(place), "Stages": _stages(place)},
        {"Counts": _counts(place, elements, links)},
        {"Left out": left_out(place)},
    ]
    shown = ""
    for column in columns:
        parts = (f"<h3>{name}</h3>{_table(table)}" for name, table in column.items())
        shown += f"<div>{''.join(parts)}</div>"
    name = html.escape(dataset["cell_type"], quote=True)
    return (
        f'<h2 id="{name}">{name}</h2><ul>{notes}{said}</ul>'
        f'<div class="tables">{shown}</div><div class="charts">{"".join(charts)}</div>'
    )


def _charts(
    dataset: Mapping[str, Any], elements: pd.DataFrame, links: pd.DataFrame, genes: pd.DataFrame
) -> list[str]:
    activity = {
        "activity of elements": elements["activity"],
        "activity of promoters": genes["promoter_activity"],
    }
    charts = [
        svg.histogram(np.log10(_OFFSET + values), title=title, x="log10(0.1 + RPM)")
        for title, values in activity.items()
    ]
    lengths, numbers = elements["end"] - elements["start"], links_per_gene(links, genes)
    charts += [
        svg.histogram(lengths, title="length of elements", x="base pairs", clip_share=_TAIL),
        svg.histogram(numbers, title="links of a gene", x="links", clip_share=_TAIL),
        _distance_chart(links),
        _contact_chart(links),
    ]
    if dataset["label"]:
        values = genes[dataset["label"]]
        charts.append(svg.histogram(values, title="label", x=dataset["label"], clip_share=_TAIL))
    return charts


def links_per_gene(links: pd.DataFrame, genes: pd.DataFrame) -> np.ndarray:
    """Number of links of every gene, 0 included, in the order of the genes."""
    count = links["gene_id"].value_counts()
    return genes["gene_id"].map(count).fillna(0).to_numpy(np.int64)


def contact_by_distance(links: pd.DataFrame) -> pd.DataFrame:
    """Links in bins of log10 distance: distance_bp (geometric middle), n, median and mean contact.

    Bins without a link are left out, and so are links nearer than 1 kb.
    """
    distance = links["distance"].abs().to_numpy(np.float64)
    far = distance >= 1000
    if not far.any():
        return pd.DataFrame({name: [] for name in ("distance_bp", "n", "median", "mean")})
    logs = np.log10(distance[far])
    edges = np.linspace(3.0, max(logs.max(), 3.0) + 1e-9, _BINS + 1)
    number = np.clip(np.digitize(logs, edges) - 1, 0, _BINS - 1)
    grouped = links["contact"][far].groupby(number)
    middle = 10 ** ((edges[:-1] + edges[1:]) / 2)
    table = grouped.agg(["size", "median", "mean"]).rename(columns={"size": "n"})
    table.insert(0, "distance_bp", middle[table.index])
    return table.reset_index(drop=True)


def left_out(place: str | os.PathLike) -> pd.DataFrame:
    """What every stage of a cell type left out: stage, reason, rows."""
    rows = []
    for path in sorted(Path(place).glob("*/*dropped.tsv")):
        table = pd.read_csv(path, sep="\t", usecols=["reason"])
        for reason, count in table["reason"].value_counts(sort=False).items():
            rows.append({"stage": path.parent.name, "reason": reason, "rows": int(count)})
    return pd.DataFrame(rows, columns=["stage", "reason", "rows"])


def _distance_chart(links: pd.DataFrame) -> str:
    distance = links["distance"].abs().to_numpy(np.float64) / 1000
    return svg.histogram(distance, title="distance of links", x="kb")


def _contact_chart(links: pd.DataFrame) -> str:
    table = contact_by_distance(links)
    away = table["distance_bp"].to_numpy(np.float64)
    lines = {
        name: (np.log10(away), np.log10(_CONTACT_OFFSET + table[name].to_numpy(np.float64)))
        for name in ("median", "mean")
    }
    law = OBSERVED.contact(away)
    lines["power law"] = (np.log10(away), np.log10(_CONTACT_OFFSET + law))
    return svg.curves(
        lines, title="contact by distance", x="log10 distance, bp", y="log10(contact + 0.0001)"
    )


def _reads(place: Path) -> pd.DataFrame:
    """Every signal file: what it is, its total, and the share of it that lies in elements."""
    summary = _json(place / "signals" / "elements.json")
    rows = []
    for name, detail in summary["signals"].items():
        shown = {"dnase": summary["assay"], "h3k27ac": "H3K27ac"}.get(name, name)
        counted = zip(detail["files"], detail["totals"], detail["counted_in_regions"], strict=True)
        for file, total, inside in counted:
            is_share = total is not None and np.isfinite(total)
            rows.append(
                {
                    "signal": shown,
                    "file": Path(file).name,
                    "total": total if not is_share else round(total),
                    "unit": detail["unit"],
                    "in elements, %": round(100 * inside / total, 1) if is_share else None,
                }
            )
    return pd.DataFrame(rows)


def _filter(place: Path) -> str:
    """Which alignments were counted, in words."""
    used = _json(place / "signals" / "elements.json")["read_filter"]
    strand = "both strands" if used["strand"] == "both" else f"{used['strand']} strand only"
    return (
        f"reads counted: {used['always']}; MAPQ at least {used['min_mapq']}; duplicates "
        f"{'kept' if used['keep_duplicates'] else 'left out'}; {strand}; each "
        f"{'read' if used['unit'] == 'reads' else 'properly paired fragment'} once"
    )


def _counts(place: Path, elements: pd.DataFrame, links: pd.DataFrame) -> pd.DataFrame:
    chosen = _json(place / "candidates" / "elements.json")
    linked = _json(place / "links" / "links.json")
    rows = [
        ("peaks", chosen["peaks"]),
        ("elements", len(elements)),
        *((f"elements, {name}", n) for name, n in (chosen["classes"] or {}).items()),
        ("elements longer than 2,000 bp", chosen["longer_than_2000_bp"]),
        ("elements without activity", int((elements["activity"] == 0).sum())),
        ("genes", linked["genes"]),
        ("genes without links", linked["genes_without_links"]),
        ("links", len(links)),
        ("links without contact", int((links["contact"] == 0).sum())),
    ]
    if (place / "windows" / "windows.json").is_file():
        made = _json(place / "windows" / "windows.json")
        rows += [("windows", made["windows"]), ("places of negatives", made["negatives"])]
    return pd.DataFrame(rows, columns=["what", "number"])


def _stages(place: Path) -> pd.DataFrame:
    """How long each stage took, in the order in which they run."""
    found = {path.parent.name: _json(path) for path in place.glob(f"*/{RECORD}")}
    names = sorted(found, key=lambda name: (_STAGES.index(name) if name in _STAGES else 99, name))
    rows = [{"stage": name, "seconds": round(found[name]["seconds"], 1)} for name in names]
    return pd.DataFrame(rows)


def _table(frame: pd.DataFrame, *, linked: str = "") -> str:
    """Numbers to the right, text to the left; the column `linked` leads to sections of the page."""
    if frame.empty:
        return "<p>none</p>"
    sides = [
        ' class="number"' if pd.api.types.is_numeric_dtype(frame[name]) else "" for name in frame
    ]
    names = zip(frame.columns, sides, strict=True)
    head = "".join(f"<th{side}>{html.escape(str(name))}</th>" for name, side in names)
    body = ""
    for row in frame.itertuples(index=False):
        cells = []
        for name, value, side in zip(frame.columns, row, sides, strict=True):
            text = html.escape(_shown(value), quote=True)
            text = f'<a href="#{text}">{text}</a>' if name == linked else text
            cells.append(f"<td{side}>{text}</td>")
        body += f"<tr>{''.join(cells)}</tr>"
    return f"<table><tr>{head}</tr>{body}</table>"


def _shown(value: Any) -> str:
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    if isinstance(value, float | np.floating):
        return f"{value:,.6g}" if np.isfinite(value) else ""
    return "" if value is None else str(value)


def _json(path: Path) -> Mapping[str, Any]:
    return json.loads(path.read_text())
